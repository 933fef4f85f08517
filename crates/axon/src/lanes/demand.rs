//! What one model has been asked lately: the tightest limits, and how much of the device that takes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::batcher::Class;

/// A limit counts for so long after its request, and at most twice as long.
pub(super) const WINDOW: Duration = Duration::from_millis(500);
/// How soon the load forgets, in seconds.
const MEMORY: f64 = 0.25;
/// Less urgent classes than this are one.
const LAST_CLASS: Class = 32;

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    tightest: Duration,
    /// Of the window before.
    before: Option<Duration>,
}

/// What has been asked of a model.
#[derive(Debug, Default)]
pub(super) struct Demand {
    limits: BTreeMap<Class, Window>,
    seconds: f64,
    at: Option<Instant>,
}

impl Demand {
    /// A request to be answered within `limit` that takes `seconds` of lanes.
    pub(super) fn add(&mut self, class: Class, limit: Duration, seconds: f64, now: Instant) {
        if seconds.is_finite() {
            self.seconds = self.lanes(now) + seconds / MEMORY;
            self.at = Some(now);
        }
        let class = class.min(LAST_CLASS);
        let window = self.limits.entry(class).or_insert(Window { since: now, tightest: limit, before: None });
        let age = now.saturating_duration_since(window.since);
        if age < WINDOW {
            window.tightest = window.tightest.min(limit);
        } else {
            let before = (age < WINDOW * 2).then_some(window.tightest);
            *window = Window { since: now, tightest: limit, before };
        }
    }

    /// The tightest limit lately of `class` and more urgent ones.
    pub(super) fn tightest(&self, class: Class, now: Instant) -> Option<Duration> {
        let limits = self.limits.range(..=class.min(LAST_CLASS));
        limits
            .filter_map(|(_, window)| {
                let age = now.saturating_duration_since(window.since);
                if age < WINDOW {
                    Some(window.before.map_or(window.tightest, |before| before.min(window.tightest)))
                } else {
                    (age < WINDOW * 2).then_some(window.tightest)
                }
            })
            .min()
    }

    /// Lanes that it needs on average.
    pub(super) fn lanes(&self, now: Instant) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        let lanes = self.seconds * (-now.saturating_duration_since(at).as_secs_f64() / MEMORY).exp();
        // A model that was asked long ago needs nothing, not ever less.
        if lanes < 1e-6 { 0.0 } else { lanes }
    }
}

/// How much of the time in which a seat could have run it did, lately.
#[derive(Debug, Default)]
pub(super) struct Luck {
    ran: f64,
    wanted: f64,
    at: Option<Instant>,
}

impl Luck {
    /// `runs` ran and `waited` more wanted to, from the last call to `now`.
    pub(super) fn add(&mut self, runs: usize, waited: usize, now: Instant) {
        let Some(at) = self.at.replace(now) else { return };
        let seconds = now.saturating_duration_since(at).as_secs_f64();
        let kept = (-seconds / MEMORY).exp();
        self.ran = self.ran * kept + seconds * runs as f64;
        self.wanted = self.wanted * kept + seconds * (runs + waited) as f64;
    }

    /// From 0 to 1; 1 while nothing is known.
    pub(super) fn share(&self) -> f64 {
        if self.wanted > 0.0 { self.ran / self.wanted } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_tightest_limit_counts_for_a_while_and_for_less_urgent_classes() {
        let (start, mut demand) = (Instant::now(), Demand::default());
        demand.add(2, ms(10), 0.0, start);
        demand.add(2, ms(80), 0.0, start + ms(100));
        demand.add(5, ms(7), 0.0, start + ms(100));
        let tightest = |demand: &Demand, class, after| demand.tightest(class, start + ms(after));
        assert_eq!(tightest(&demand, 1, 100), None);
        assert_eq!(tightest(&demand, 2, 100), Some(ms(10)));
        assert_eq!(tightest(&demand, 9, 100), Some(ms(7)));
        demand.add(2, ms(80), 0.0, start + ms(600));
        assert_eq!(tightest(&demand, 2, 1050), Some(ms(10)));
        assert_eq!(tightest(&demand, 2, 1150), Some(ms(80)));
        assert_eq!(tightest(&demand, 9, 2000), None);
    }

    #[test]
    fn the_load_is_that_of_the_last_moments() {
        let (start, mut demand) = (Instant::now(), Demand::default());
        for request in 0..2000_u64 {
            demand.add(1, ms(10), 0.5e-3, start + ms(request));
        }
        let now = start + ms(2000);
        assert!((demand.lanes(now) - 0.5).abs() < 0.01, "{}", demand.lanes(now));
        assert!(demand.lanes(now + ms(10_000)) < f64::MIN_POSITIVE);
    }
}
