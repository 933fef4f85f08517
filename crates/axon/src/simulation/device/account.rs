//! A second, simpler account of the lanes of a device, against which each decision of the arbiter is checked.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::batcher::{Class, Outlook};
use crate::lanes::RunId;
use crate::simulation::Invariant;
use crate::simulation::ledger::{Broken, Checked, ensure};

/// A limit counts for so long at least. **Source:** `lanes`.
const REMEMBERED: Duration = Duration::from_millis(500);
/// A run is overdue after so many times what was foretold, and not before a second.
const OVERDUE: u32 = 10;
/// How far ahead of its share a model may be.
const AHEAD: f64 = 0.1;

/// What is known of a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) weight: f64,
    pub(super) width: usize,
    /// Its instances could always use all lanes, and all of its requests are of one class.
    pub(super) is_comparable: bool,
}

#[derive(Debug)]
struct Run {
    model: usize,
    began: Instant,
    overdue: Instant,
}

/// A model that waits for a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) model: usize,
    pub(super) outlook: Outlook,
    pub(super) is_ahead: bool,
}

impl Wish {
    /// This one is called while `others` wait and are not.
    pub(super) fn called(&self, others: &[Self]) -> Checked {
        let sooner = others.iter().find(|other| other.order() < self.order());
        ensure(sooner.is_none(), Invariant::MostUrgentModel, || {
            format!("{self:?} is called while {sooner:?} waits")
        })
    }

    fn order(&self) -> (Class, bool, Instant) {
        (self.outlook.class, self.is_ahead, self.outlook.latest)
    }
}

pub(super) struct Account {
    lanes: usize,
    models: Vec<Facts>,
    runs: BTreeMap<RunId, Run>,
    /// Lane-seconds of runs that have ended, by model.
    had: Vec<f64>,
    /// The requests that each model accepted lately: when, of what class, and their limits.
    heard: Vec<VecDeque<(Instant, Class, Duration)>>,
    /// For each pair of models that have both had work since: the least and the greatest difference of what they have had.
    pairs: BTreeMap<(usize, usize), (f64, f64)>,
    /// The longest run so far.
    longest: f64,
    /// The greatest spread of a pair, against what it may be.
    pub(super) greatest_spread: f64,
}

impl Account {
    pub(super) fn new(lanes: usize, models: Vec<Facts>) -> Self {
        let count = models.len();
        Self {
            lanes,
            models,
            runs: BTreeMap::new(),
            had: vec![0.0; count],
            heard: vec![VecDeque::new(); count],
            pairs: BTreeMap::new(),
            longest: 0.0,
            greatest_spread: 0.0,
        }
    }

    pub(super) fn heard(&mut self, model: usize, class: Class, limit: Duration, now: Instant) {
        let heard = &mut self.heard[model];
        heard.push_back((now, class, limit));
        while heard.front().is_some_and(|(at, ..)| now.saturating_duration_since(*at) >= REMEMBERED) {
            heard.pop_front();
        }
    }

    /// A model has begun a run, of which it was foretold what it takes; `cap` is what it may take.
    pub(super) fn began(&mut self, id: RunId, wish: &Wish, cap: Option<Duration>, now: Instant) -> Checked {
        let Outlook { class, run, .. } = wish.outlook;
        let lately = |model: &VecDeque<(Instant, Class, Duration)>| {
            let heard = model
                .iter()
                .filter(|(at, of, _)| *of <= class && now.saturating_duration_since(*at) < REMEMBERED);
            heard.map(|(.., limit)| *limit).min()
        };
        let others = self.heard.iter().enumerate().filter(|(other, _)| *other != wish.model);
        let tightest = others.filter_map(|(_, model)| lately(model)).min();
        let is_bound = tightest.is_none_or(|limit| cap.is_some_and(|cap| cap <= limit / 2));
        ensure(is_bound, Invariant::BlockingCap, || {
            format!("{wish:?} may run for {cap:?} while another is to answer within {tightest:?}")
        })?;
        let overdue = now + (run * OVERDUE).max(Duration::from_secs(1));
        self.runs.insert(id, Run { model: wish.model, began: now, overdue });
        let held = self.held(now);
        ensure(held <= self.lanes, Invariant::LanesHeld, || {
            format!("{held} of {} lanes are held after {wish:?} has begun", self.lanes)
        })
    }

    pub(super) fn ended(&mut self, id: RunId, now: Instant) {
        let Some(run) = self.runs.remove(&id) else { return };
        let lasted = now.min(run.overdue).saturating_duration_since(run.began).as_secs_f64();
        self.longest = self.longest.max(lasted);
        self.had[run.model] += lasted * self.width(run.model) as f64;
    }

    fn width(&self, model: usize) -> usize {
        self.models[model].width.min(self.lanes)
    }

    fn held(&self, now: Instant) -> usize {
        let counted = self.runs.values().filter(|run| now < run.overdue);
        counted.map(|run| self.width(run.model)).sum()
    }

    /// After all have been called who may run: `wishes` wait, and `has_work` says of each model whether it could run more.
    pub(super) fn check(&mut self, wishes: &[Wish], has_work: &[bool], now: Instant) -> Checked {
        let free = self.lanes.saturating_sub(self.held(now));
        let widths = || wishes.iter().map(|wish| self.width(wish.model));
        // One that needs more lanes than are free has them kept for it.
        let is_reserved = widths().any(|width| width > free);
        let idle = free > 0 && !is_reserved && !wishes.is_empty();
        ensure(!idle, Invariant::IdleLane, || format!("{free} lanes are idle while {wishes:?} wait"))?;
        self.check_shares(has_work, now)
    }

    /// Lane-seconds of a model by its weight.
    fn time(&self, model: usize, now: Instant) -> f64 {
        let running = self.runs.values().filter(|run| run.model == model);
        let lasted = |run: &Run| now.min(run.overdue).saturating_duration_since(run.began).as_secs_f64();
        let running: f64 = running.map(lasted).sum::<f64>() * self.width(model) as f64;
        (self.had[model] + running) / self.models[model].weight
    }

    fn check_shares(&mut self, has_work: &[bool], now: Instant) -> Checked {
        let lightest = self.models.iter().map(|model| model.weight).fold(f64::INFINITY, f64::min);
        let running = self
            .runs
            .values()
            .map(|run| now.min(run.overdue).saturating_duration_since(run.began).as_secs_f64());
        self.longest = running.fold(self.longest, f64::max);
        // What each may be ahead, and the runs that both may have begun just then, on all lanes.
        let bound = 2.0 * AHEAD + 3.0 * self.longest * self.lanes as f64;
        for one in 0..self.models.len() {
            for other in one + 1..self.models.len() {
                let is_both = |holds: &dyn Fn(usize) -> bool| holds(one) && holds(other);
                if !is_both(&|model| has_work[model] && self.models[model].is_comparable) {
                    self.pairs.remove(&(one, other));
                    continue;
                }
                let difference = (self.time(one, now) - self.time(other, now)) * lightest;
                let seen = self.pairs.entry((one, other)).or_insert((difference, difference));
                *seen = (seen.0.min(difference), seen.1.max(difference));
                let spread = seen.1 - seen.0;
                self.greatest_spread = self.greatest_spread.max(spread / bound);
                if spread > bound {
                    let detail =
                        format!("models {one} and {other} have had {spread:.3} s apart, over {bound:.3} s");
                    return Err(Broken { invariant: Invariant::FairShare, detail });
                }
            }
        }
        Ok(())
    }
}
