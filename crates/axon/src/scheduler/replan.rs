//! Asks now and then whether what was learned of a model asks for other batches than were chosen at load.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use super::State;
use crate::batcher::Estimator;

/// How often it is asked at most: the question takes some microseconds.
const INTERVAL: Duration = Duration::from_secs(1);

/// From what was learned, of how many runs and since when the plan stands: the most rows of a batch from now on, or
/// `None` to leave it.
pub type Replan = Box<dyn FnMut(&Estimator, u64, Duration) -> Option<NonZeroUsize> + Send>;

pub(super) struct Replanning {
    replan: Replan,
    asked: Instant,
    /// Runs that had been observed when the plan was made or last changed, and when that was.
    runs: u64,
    since: Instant,
}

impl Replanning {
    pub(super) fn new(replan: Replan, now: Instant) -> Self {
        Self { replan, asked: now, runs: 0, since: now }
    }
}

/// Changes the rows of batches when that is due and better.
pub(super) fn consider(state: &mut State, now: Instant) {
    let Some(replanning) = &mut state.replanning else { return };
    if now.saturating_duration_since(replanning.asked) < INTERVAL {
        return;
    }
    replanning.asked = now;
    let estimator = state.batcher.estimator();
    let runs = estimator.runs();
    let age = now.saturating_duration_since(replanning.since);
    let Some(rows) = (replanning.replan)(estimator, runs - replanning.runs, age) else { return };
    (replanning.runs, replanning.since) = (runs, now);
    state.batcher.set_max_batch_rows(rows);
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::batcher::{Batcher, Limits, Rules};
    use crate::scheduler::load::ArrivalRate;

    #[test]
    fn it_is_asked_once_a_second_with_the_runs_since_the_last_change() {
        let limits = Limits {
            max_batch_rows: NonZeroUsize::MIN,
            max_queue_size: NonZeroUsize::MIN,
            max_queue_bytes: 1,
        };
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let (asked, questions) = channel();
        let mut answers = [None, NonZeroUsize::new(8), None].into_iter();
        let replan: Replan = Box::new(move |_, runs, age| {
            asked.send((runs, age.as_secs())).unwrap();
            answers.next().flatten()
        });
        let mut state = State {
            batcher: Batcher::new(Rules::new(limits)),
            idle: 0,
            is_claiming: false,
            running: 0,
            armed: None,
            arrivals: ArrivalRate::new(start),
            replanning: Some(Replanning::new(replan, start)),
        };
        let rows = |state: &State| state.batcher.rules().limits.max_batch_rows.get();
        consider(&mut state, start + Duration::from_millis(999));
        consider(&mut state, at(1));
        consider(&mut state, at(1));
        assert_eq!(rows(&state), 1);
        consider(&mut state, at(12));
        assert_eq!(rows(&state), 8);
        consider(&mut state, at(15));
        assert_eq!(rows(&state), 8);
        assert_eq!(questions.try_iter().collect::<Vec<_>>(), [(0, 1), (0, 12), (0, 3)]);
    }
}
