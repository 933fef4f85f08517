//! The slowest requests of the last minutes, and where their time went.
//!
//! Two generations of [`KEPT`] requests, each for half of [`WINDOW`]: what is read is never older than the window and
//! always covers half of it.
//!
//! Invariants: at most twice `KEPT` requests are held; one that is faster than all that are kept costs two loads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Phases;

/// The most requests that are told.
pub const KEPT: usize = 16;

/// How long a request is remembered at most.
pub const WINDOW: Duration = Duration::from_secs(600);

/// A request that was answered, and what each of its stages took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowRequest {
    /// When it was answered.
    pub ended: Instant,
    /// From arrival to answer.
    pub total: Duration,
    /// From arrival to the start of its batch.
    pub queue: Duration,
    /// The parts of its run.
    pub phases: Phases,
    /// Its rows.
    pub rows: usize,
    /// The rows of its run.
    pub batch_rows: usize,
}

/// The slowest requests of one model.
#[derive(Debug)]
pub struct Slowest {
    start: Instant,
    /// What a request must exceed to be kept, in nanoseconds.
    least: AtomicU64,
    /// When the present generation ends, in nanoseconds from `start`.
    end: AtomicU64,
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    present: Vec<SlowRequest>,
    past: Vec<SlowRequest>,
}

impl Default for Slowest {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            least: AtomicU64::new(0),
            end: AtomicU64::new(nanoseconds(WINDOW / 2)),
            generations: Mutex::default(),
        }
    }
}

impl Slowest {
    /// Keeps a request if it is among the slowest.
    pub fn offer(&self, request: SlowRequest) {
        let since = nanoseconds(request.ended.saturating_duration_since(self.start));
        if nanoseconds(request.total) <= self.least.load(Relaxed) && since < self.end.load(Relaxed) {
            return;
        }
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if since >= self.end.load(Relaxed) {
            generations.past = std::mem::take(&mut generations.present);
            self.end.store(since.saturating_add(nanoseconds(WINDOW / 2)), Relaxed);
        }
        let present = &mut generations.present;
        let place = present.partition_point(|kept| kept.total >= request.total);
        present.insert(place, request);
        present.truncate(KEPT);
        let least = if present.len() < KEPT { None } else { present.last() };
        self.least.store(least.map_or(0, |kept| nanoseconds(kept.total)), Relaxed);
    }

    /// The slowest requests of the [`WINDOW`] before `now`, slowest first; at most [`KEPT`].
    #[must_use]
    pub fn read(&self, now: Instant) -> Vec<SlowRequest> {
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = generations.present.iter().chain(&generations.past).copied().collect();
        drop(generations);
        all.retain(|request| now.saturating_duration_since(request.ended) < WINDOW);
        all.sort_by_key(|request| std::cmp::Reverse(request.total));
        all.truncate(KEPT);
        all
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(ended: Instant, milliseconds: u64) -> SlowRequest {
        SlowRequest {
            ended,
            total: Duration::from_millis(milliseconds),
            queue: Duration::ZERO,
            phases: Phases::default(),
            rows: 1,
            batch_rows: 1,
        }
    }

    fn totals(slowest: &Slowest, now: Instant) -> Vec<u64> {
        slowest
            .read(now)
            .iter()
            .map(|request| request.total.as_secs() * 1000 + u64::from(request.total.subsec_millis()))
            .collect()
    }

    #[test]
    fn the_slowest_are_kept_slowest_first() {
        let slowest = Slowest::default();
        let now = slowest.start;
        // 0, 7, 14 … modulo 101: every number below 101 once.
        for number in 0..101 {
            slowest.offer(request(now, number * 7 % 101));
        }
        let expected: Vec<u64> = (85..101).rev().collect();
        assert_eq!(totals(&slowest, now), expected);
        assert_eq!(slowest.least.load(Relaxed), 85_000_000);
    }

    #[test]
    fn what_is_old_is_forgotten_and_makes_room_for_faster_ones() {
        let slowest = Slowest::default();
        let start = slowest.start;
        (0..20).for_each(|_| slowest.offer(request(start, 500)));
        // Half a window later a faster one is kept beside them.
        let later = start + WINDOW / 2;
        slowest.offer(request(later, 3));
        assert_eq!(totals(&slowest, later).len(), KEPT);
        assert_eq!(slowest.generations.lock().unwrap().present.len(), 1);
        // A window after the slow ones only that one is left, though nothing came since.
        assert_eq!(totals(&slowest, start + WINDOW), [3]);
        let end = later + WINDOW / 2;
        slowest.offer(request(end, 1));
        assert_eq!(totals(&slowest, end), [3, 1]);
    }

    #[test]
    fn threads_that_offer_at_once_leave_the_slowest() {
        let slowest = Slowest::default();
        let now = slowest.start;
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let slowest = &slowest;
                scope.spawn(move || {
                    for number in 0..1000 {
                        slowest.offer(request(now, number * 4 + thread));
                    }
                });
            }
        });
        let expected: Vec<u64> = (3984..4000).rev().collect();
        assert_eq!(totals(&slowest, now), expected);
    }
}
