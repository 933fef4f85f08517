//! Says when learned run times no longer fit the plan that was made at load.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::Plan;

/// Fewer batches than this say nothing.
const LEAST_BATCHES: u64 = 200;

/// Plans are changed no more often than this.
const LEAST_AGE: Duration = Duration::from_secs(10);

/// A change of the rows, or of the run time, by less than this share is none.
const LEAST_SHIFT: f64 = 0.25;

/// A batch need not be larger when that gains less than this share per row. **Source:** the 5 % of the probe's knee.
const KNEE: f64 = 0.05;

/// Hysteresis: rows grow only where they would under the loose rule, and shrink only where they would under the tight
/// one, so that a curve that wavers about the rule changes nothing.
const LOOSE: f64 = 0.10;
const TIGHT: f64 = 0.02;

/// What was learned of a running model.
pub struct Observed<'a> {
    /// The time of a run by its rows, as learned.
    pub predict: &'a dyn Fn(usize) -> Duration,
    /// Batches that it was learned from, since the plan was made or last changed.
    pub batches: u64,
    /// How long ago that was.
    pub age: Duration,
}

/// What is better now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The most rows that are run together, from now on.
    pub max_batch_rows: NonZeroUsize,
    /// Whether a run of one row takes so much more, or less, than at load that instances and threads should be chosen
    /// again when the model is next loaded.
    pub is_split_stale: bool,
}

/// What of `plan` should change, by what was `observed`; `None` when nothing should. It never asks for the same twice:
/// once the rows are changed, the same curve asks for nothing, and a stale split alone is no change.
#[must_use]
pub fn reconsider(plan: &Plan, observed: &Observed<'_>) -> Option<Change> {
    if observed.batches < LEAST_BATCHES || observed.age < LEAST_AGE {
        return None;
    }
    let (rows, limit) = (plan.max_batch_rows.get() as f64, plan.row_limit.get());
    let knee = |share: f64| knee(observed.predict, limit, share);
    let grows = knee(LOOSE)?.get() as f64 > rows * (1.0 + LEAST_SHIFT);
    let shrinks = (knee(TIGHT)?.get() as f64) < rows * (1.0 - LEAST_SHIFT);
    if !grows && !shrinks {
        return None;
    }
    let single = (observed.predict)(1).as_secs_f64();
    let planned = plan.chosen().map_or(single, |candidate| candidate.single.as_secs_f64());
    let is_split_stale = (single - planned).abs() > planned * LEAST_SHIFT;
    Some(Change { max_batch_rows: knee(KNEE)?, is_split_stale })
}

/// The fewest rows, up to `limit`, whose time per row is within `share` of the best; `None` when run times are zero,
/// which is what an estimator says that has learned nothing.
fn knee(predict: &dyn Fn(usize) -> Duration, limit: usize, share: f64) -> Option<NonZeroUsize> {
    let per_row = |rows: usize| predict(rows).as_secs_f64() / rows as f64;
    let best = (1..=limit).map(per_row).fold(f64::INFINITY, f64::min);
    if best <= 0.0 {
        return None;
    }
    (1..=limit).find(|&rows| per_row(rows) * (1.0 - share) <= best).and_then(NonZeroUsize::new)
}
