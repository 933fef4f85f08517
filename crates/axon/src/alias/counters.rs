//! What is counted of an alias: its requests by target, and what comparing with its shadow has found.
//!
//! Counters go on over a flip for what stays in the alias, and are forgotten with what leaves it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::compare::Difference;
use crate::metrics::{DURATIONS, Histogram, HistogramSnapshot};

/// The most outputs of which differences are kept; those of a model that has more are counted and not listed.
const MAX_OUTPUTS: usize = 64;

/// Counts the requests that an alias has sent to one target.
#[derive(Debug)]
pub(super) struct TargetCounters {
    answered: AtomicU64,
    unanswered: AtomicU64,
    durations: Histogram,
}

impl Default for TargetCounters {
    fn default() -> Self {
        Self {
            answered: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            durations: Histogram::new(&DURATIONS),
        }
    }
}

/// What was counted of a target.
#[derive(Clone, Debug)]
pub struct TargetCounts {
    /// Requests with an answer.
    pub answered: u64,
    /// Requests that were refused, failed or given up by their caller.
    pub unanswered: u64,
    /// What those answered took, from their place in the queue on.
    pub durations: HistogramSnapshot,
}

impl TargetCounters {
    pub fn answer(&self, duration: Duration) {
        self.answered.fetch_add(1, Relaxed);
        self.durations.observe_duration(duration, None);
    }

    pub fn fail(&self) {
        self.unanswered.fetch_add(1, Relaxed);
    }

    pub fn read(&self) -> TargetCounts {
        TargetCounts {
            answered: self.answered.load(Relaxed),
            unanswered: self.unanswered.load(Relaxed),
            durations: self.durations.snapshot(),
        }
    }
}

/// Why a copy was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// As many copies are on their way as may be, or as many bytes.
    Full,
    /// Requests wait for the model that answered or for the shadow's: copies take only what is left over.
    Busy,
    /// The shadow's model is not ready.
    NotReady,
    /// The request itself was not answered, so that there is nothing to compare with.
    Unanswered,
}

impl Dropped {
    /// Every cause.
    pub const ALL: [Self; 4] = [Self::Full, Self::Busy, Self::NotReady, Self::Unanswered];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Busy => "busy",
            Self::NotReady => "not_ready",
            Self::Unanswered => "unanswered",
        }
    }
}

/// What comparing has found of one output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputDifference {
    /// How often it was not the same.
    pub different: u64,
    /// The largest |a - b|.
    pub absolute: f64,
    /// The largest |a - b| / max(|a|, |b|).
    pub relative: f64,
    /// What was last wrong with its type or shape.
    pub form: Option<String>,
}

/// What was counted of a shadow.
#[derive(Clone, Debug)]
pub struct ShadowCounts {
    /// Answers that were the same.
    pub equal: u64,
    /// Answers that were not.
    pub different: u64,
    /// Copies that the shadow refused or failed.
    pub failed: u64,
    /// Copies that were not sent, by [`Dropped::ALL`].
    pub dropped: [u64; 4],
    /// What the answers compared took where callers waited for them.
    pub primary: HistogramSnapshot,
    /// What they took in the shadow.
    pub shadow: HistogramSnapshot,
    /// The differences by output.
    pub outputs: BTreeMap<String, OutputDifference>,
    /// Why a copy failed last.
    pub last_failure: Option<String>,
}

/// Counts what becomes of the copies of an alias's requests.
#[derive(Debug)]
pub(super) struct ShadowCounters {
    equal: AtomicU64,
    different: AtomicU64,
    failed: AtomicU64,
    dropped: [AtomicU64; 4],
    primary: Histogram,
    shadow: Histogram,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    outputs: BTreeMap<String, OutputDifference>,
    last_failure: Option<String>,
}

impl Default for ShadowCounters {
    fn default() -> Self {
        Self {
            equal: AtomicU64::new(0),
            different: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: Default::default(),
            primary: Histogram::new(&DURATIONS),
            shadow: Histogram::new(&DURATIONS),
            found: Mutex::default(),
        }
    }
}

impl ShadowCounters {
    pub fn drop_one(&self, cause: Dropped) {
        if let Some(counter) = self.dropped.get(cause as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }

    pub fn fail(&self, why: &str) {
        self.failed.fetch_add(1, Relaxed);
        self.found.lock().unwrap_or_else(PoisonError::into_inner).last_failure = Some(why.to_owned());
    }

    /// Notes how two answers differ, and how long each took.
    pub fn compared(&self, differences: Vec<(String, Difference)>, primary: Duration, shadow: Duration) {
        self.primary.observe_duration(primary, None);
        self.shadow.observe_duration(shadow, None);
        let is_equal = differences.iter().all(|(_, difference)| *difference == Difference::None);
        {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            for (name, difference) in differences {
                note(&mut found.outputs, name, difference);
            }
        }
        // Last, so that who sees it counted finds what it is about.
        if is_equal { &self.equal } else { &self.different }.fetch_add(1, Relaxed);
    }

    pub fn read(&self) -> ShadowCounts {
        let (equal, different) = (self.equal.load(Relaxed), self.different.load(Relaxed));
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        ShadowCounts {
            equal,
            different,
            failed: self.failed.load(Relaxed),
            dropped: std::array::from_fn(|cause| {
                self.dropped.get(cause).map_or(0, |count| count.load(Relaxed))
            }),
            primary: self.primary.snapshot(),
            shadow: self.shadow.snapshot(),
            outputs: found.outputs.clone(),
            last_failure: found.last_failure.clone(),
        }
    }
}

fn note(outputs: &mut BTreeMap<String, OutputDifference>, name: String, difference: Difference) {
    if !outputs.contains_key(&name) && outputs.len() >= MAX_OUTPUTS {
        return;
    }
    let known = outputs.entry(name).or_default();
    match difference {
        Difference::None => return,
        // NaN, which stands for no size, is never the larger.
        Difference::Values { absolute, relative } => {
            known.absolute = known.absolute.max(absolute);
            known.relative = known.relative.max(relative);
        }
        Difference::Form(problem) => known.form = Some(problem),
    }
    known.different += 1;
}
