//! Which requests are traced, by the settings of the server and of each model.
//!
//! A caller that is traced itself decides: its flag is followed. Else the ratio of the server decides by the trace's id,
//! as every other service with the same ratio would; or, where `trace_rate` is set, every n-th request is traced.
//! `trace_count` is how many more are begun here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::context::{SAMPLED, SpanContext};

/// The random bits of a trace's id.
const RANDOM_BITS: u32 = 56;

/// What is kept of a request that is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Nothing.
    Off,
    /// When what was done.
    Timestamps,
    /// The names, types and shapes of its tensors too; never their values.
    Tensors,
}

/// How many of the requests are traced whose callers do not say.
#[derive(Debug)]
pub(crate) enum Rate {
    /// Those whose trace's random bits are at least this: **Source:** OpenTelemetry, "Probability sampling", rejection
    /// threshold.
    Threshold(u64),
    /// One in so many.
    Every {
        /// At least 1.
        rate: u32,
        /// How many have come.
        seen: AtomicU64,
    },
}

impl Rate {
    /// A share of all, from 0 to 1.
    pub fn ratio(ratio: f64) -> Self {
        let all = (1_u64 << RANDOM_BITS) as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is 0 to 2^56")]
        Self::Threshold(((1.0 - ratio.clamp(0.0, 1.0)) * all) as u64)
    }

    /// Whether a request is traced whose trace would be this one.
    pub fn takes(&self, trace: u128) -> bool {
        match self {
            Self::Threshold(least) => {
                let mask = (1_u64 << RANDOM_BITS) - 1;
                // The mask leaves 56 of the low 64 bits.
                #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is meant")]
                let random = trace as u64 & mask;
                random >= *least
            }
            Self::Every { rate, seen } => seen.fetch_add(1, Relaxed) % u64::from((*rate).max(1)) == 0,
        }
    }
}

/// How the requests of one model are traced.
#[derive(Debug)]
pub(crate) struct Policy {
    pub level: Level,
    pub rate: Rate,
    /// How many more may be traced; less than 0 is any number. Shared by the models that have none of their own.
    pub left: Arc<AtomicI64>,
}

impl Policy {
    /// Whether a request is traced from its beginning; `trace` is its trace's id where the caller says nothing.
    pub fn samples(&self, caller: Option<SpanContext>, trace: u128) -> bool {
        match caller {
            _ if self.level == Level::Off => false,
            Some(caller) => caller.flags & SAMPLED != 0,
            None => self.rate.takes(trace) && self.take(),
        }
    }

    /// Takes one of those that are left.
    pub fn take(&self) -> bool {
        let next = |left: i64| match left {
            0 => None,
            1.. => Some(left - 1),
            _ => Some(left),
        };
        self.left.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

/// The policies in force.
#[derive(Debug)]
pub(crate) struct Policies(RwLock<Rules>);

#[derive(Debug)]
struct Rules {
    server: Arc<Policy>,
    models: HashMap<String, Arc<Policy>>,
}

impl Policies {
    /// One for the server, and those of the models that have their own.
    pub fn new(server: Policy) -> Self {
        Self(RwLock::new(Rules { server: Arc::new(server), models: HashMap::new() }))
    }

    /// The policy of a model.
    pub fn of(&self, model: &str) -> Arc<Policy> {
        let rules = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(rules.models.get(model).unwrap_or(&rules.server))
    }

    /// Puts others in force.
    pub fn replace(&self, server: Policy, models: HashMap<String, Policy>) {
        let models = models.into_iter().map(|(name, policy)| (name, Arc::new(policy))).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Rules { server: Arc::new(server), models };
    }
}

/// The most requests in a second that are kept because they were slow or failed.
const TAIL_PER_SECOND: u64 = 100;

/// Keeps requests at their end that were not chosen at their beginning: those that were slow, and those in which the
/// server failed. An overload that fails thousands must not drown the rest, so there is a limit to them.
#[derive(Debug)]
pub(crate) struct Tail {
    started: Instant,
    slow: Option<Duration>,
    /// The second, and how many were kept in it.
    second: AtomicU64,
    kept: AtomicU64,
}

impl Tail {
    /// Slow is what takes `slow` or longer; `None` is nothing.
    pub fn new(slow: Option<Duration>) -> Self {
        Self { started: Instant::now(), slow, second: AtomicU64::new(0), kept: AtomicU64::new(0) }
    }

    /// Whether a request is wanted that took `total`.
    pub fn wants(&self, total: Duration, failed: bool) -> bool {
        failed || self.slow.is_some_and(|slow| total >= slow)
    }

    /// Takes one of this second's; two threads that begin a second at once may take a few more.
    pub fn take(&self, now: Instant) -> bool {
        let second = now.saturating_duration_since(self.started).as_secs();
        if self.second.swap(second, Relaxed) != second {
            self.kept.store(0, Relaxed);
        }
        self.kept.fetch_add(1, Relaxed) < TAIL_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(level: Level, rate: Rate, left: i64) -> Policy {
        Policy { level, rate, left: Arc::new(AtomicI64::new(left)) }
    }

    fn caller(flags: u8) -> SpanContext {
        SpanContext { trace: 1, span: 1, flags }
    }

    /// Ids spread evenly over what can be random.
    fn ids() -> impl Iterator<Item = u128> {
        (0..1000_u128).map(|at| (7 << 64) + at * ((1 << RANDOM_BITS) / 1000))
    }

    #[test]
    fn a_ratio_takes_that_share_by_the_id() {
        let check = |ratio: f64, expected: std::ops::RangeInclusive<usize>| {
            let rate = Rate::ratio(ratio);
            let taken = ids().filter(|&id| rate.takes(id)).count();
            assert!(expected.contains(&taken), "{ratio}: {taken}");
        };
        check(1.0, 1000..=1000);
        check(0.0, 0..=0);
        check(0.25, 249..=251);
        check(0.01, 9..=11);
    }

    #[test]
    fn a_rate_takes_every_nth() {
        let policy = policy(Level::Timestamps, Rate::Every { rate: 4, seen: AtomicU64::new(0) }, -1);
        let taken: Vec<_> = ids().take(9).map(|id| policy.samples(None, id)).collect();
        assert_eq!(taken, [true, false, false, false, true, false, false, false, true]);
    }

    #[test]
    fn the_callers_decision_stands_and_costs_no_count() {
        for (ratio, flags, expected) in [(0.0, 1, true), (1.0, 0, false), (1.0, 2, false), (0.0, 3, true)] {
            let policy = policy(Level::Timestamps, Rate::ratio(ratio), 0);
            assert_eq!(policy.samples(Some(caller(flags)), 1), expected, "{ratio} {flags}");
        }
        assert!(!policy(Level::Off, Rate::ratio(1.0), -1).samples(Some(caller(1)), 1));
    }

    #[test]
    fn a_count_is_used_up() {
        let policy = policy(Level::Timestamps, Rate::ratio(1.0), 2);
        let taken: Vec<_> = (0..4).map(|_| policy.samples(None, 1)).collect();
        assert_eq!(taken, [true, true, false, false]);
        assert_eq!(policy.left.load(Relaxed), 0);
    }

    #[test]
    fn the_tail_keeps_what_is_slow_or_failed_within_its_limit() {
        let tail = Tail::new(Some(Duration::from_millis(50)));
        assert!(tail.wants(Duration::from_millis(50), false));
        assert!(!tail.wants(Duration::from_millis(49), false));
        assert!(tail.wants(Duration::ZERO, true));
        assert!(!Tail::new(None).wants(Duration::from_secs(9), false));
        let now = tail.started + Duration::from_millis(1500);
        let kept = (0..300).filter(|_| tail.take(now)).count();
        assert_eq!(kept as u64, TAIL_PER_SECOND);
        assert!(tail.take(now + Duration::from_secs(1)));
    }
}
