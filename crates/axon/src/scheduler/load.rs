//! What a queue's load is, and what was refused for which reason; for whoever explains it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::batcher::{Demand, Estimator, Learned, predicted_p99};
use crate::lanes::Standing;

/// How soon the arrival rate forgets.
const MEMORY: f64 = 1.0;
/// A refusal is the present state of things for so long.
const PRESENT: Duration = Duration::from_secs(1);

/// Why a request was not run, or not in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue was full.
    QueueFull,
    /// The answer would have been late: refused at arrival, or given up in the queue.
    PredictedMiss,
    /// A more urgent request took its place.
    Displaced,
    /// Its deadline passed in the queue.
    Expired,
    /// Its caller went away.
    Cancelled,
    /// It was answered, after its deadline.
    Late,
}

impl Refusal {
    /// All, in the order in which they are counted.
    pub const ALL: [Self; 6] =
        [Self::QueueFull, Self::PredictedMiss, Self::Displaced, Self::Expired, Self::Cancelled, Self::Late];

    /// The name in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::PredictedMiss => "predicted_miss",
            Self::Displaced => "displaced",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Late => "late",
        }
    }
}

/// Counters by reason; they only grow.
#[derive(Debug, Default)]
pub(super) struct Refusals([AtomicU64; Refusal::ALL.len()]);

impl Refusals {
    pub(super) fn add(&self, refusal: Refusal) {
        self.0[refusal as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self) -> Vec<(Refusal, u64)> {
        Refusal::ALL.into_iter().map(|refusal| (refusal, self.0[refusal as usize].load(Relaxed))).collect()
    }
}

/// Arrivals per second, those of the last second mostly.
#[derive(Debug)]
pub(super) struct ArrivalRate {
    rows: f64,
    requests: f64,
    at: Instant,
    refused: Option<(Instant, Refusal)>,
}

impl ArrivalRate {
    pub(super) fn new(now: Instant) -> Self {
        Self { rows: 0.0, requests: 0.0, at: now, refused: None }
    }

    pub(super) fn add(&mut self, rows: usize, now: Instant) {
        let kept = self.kept(now);
        self.rows = self.rows * kept + rows as f64 / MEMORY;
        self.requests = self.requests * kept + 1.0 / MEMORY;
        self.at = now;
    }

    pub(super) fn refuse(&mut self, refusal: Refusal, now: Instant) {
        self.refused = Some((now, refusal));
    }

    pub(super) fn read(&self, now: Instant) -> f64 {
        self.rows * self.kept(now)
    }

    /// The rows of a request, on average.
    pub(super) fn request_rows(&self) -> f64 {
        if self.requests > 0.0 { self.rows / self.requests } else { 1.0 }
    }

    fn kept(&self, now: Instant) -> f64 {
        (-now.saturating_duration_since(self.at).as_secs_f64() / MEMORY).exp()
    }

    pub(super) fn refusing(&self, now: Instant) -> Option<Refusal> {
        self.refused
            .filter(|(at, _)| now.saturating_duration_since(*at) < PRESENT)
            .map(|(_, refusal)| refusal)
    }
}

/// What a scheduler knows of its load.
#[derive(Clone, Debug)]
pub struct Load {
    /// What was learned of the model's runs.
    pub learned: Learned,
    /// The time of a run of a full batch.
    pub full_batch: Duration,
    /// The most rows of a batch.
    pub max_batch_rows: usize,
    /// The time of a run by its rows: of 1 and its doubles up to the most, and of the most.
    pub curve: Vec<(usize, Duration)>,
    /// Instances.
    pub instances: usize,
    /// Those that run a batch.
    pub busy_instances: usize,
    /// Rows that arrive in a second.
    pub arrivals: f64,
    /// Rows that the instances run in a second at best.
    pub capacity: f64,
    /// Requests that wait.
    pub waiting: usize,
    /// Their input bytes.
    pub waiting_bytes: usize,
    /// Requests that run.
    pub running: usize,
    /// What the p99 is foretold from.
    pub(super) forecast: (Estimator, Demand),
    /// How it stands among the models on its device.
    pub standing: Standing,
    /// How many were refused, by reason.
    pub refusals: Vec<(Refusal, u64)>,
    /// The reason for which a request was refused in the last second.
    pub refusing: Option<Refusal>,
}

impl Load {
    /// What 99 of 100 requests take at this rate when none is refused; `None` beyond the capacity. The queue's rule is
    /// played in small for it, which takes about a tenth of a millisecond.
    #[must_use]
    pub fn predicted_p99(&self) -> Option<Duration> {
        let (estimator, demand) = &self.forecast;
        predicted_p99(estimator, *demand)
    }
}

/// 1 and its doubles below `most`, and `most`.
pub(super) fn curve_rows(most: usize) -> impl Iterator<Item = usize> {
    let doubles = std::iter::successors(Some(1_usize), |rows| rows.checked_mul(2));
    doubles.take_while(move |rows| *rows < most).chain(std::iter::once(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_what_comes_and_is_forgotten() {
        let start = Instant::now();
        let mut rate = ArrivalRate::new(start);
        for arrival in 0..5000_u64 {
            rate.add(1, start + Duration::from_millis(arrival));
        }
        let now = start + Duration::from_secs(5);
        assert!((rate.read(now) - 1000.0).abs() < 20.0, "{}", rate.read(now));
        assert!(rate.read(now + Duration::from_secs(10)) < 1.0);
        assert!((rate.request_rows() - 1.0).abs() < 1e-9);
        (0..5000).for_each(|_| rate.add(3, now));
        assert!((2.5..3.0).contains(&rate.request_rows()), "{}", rate.request_rows());
    }

    #[test]
    fn reasons_are_counted_apart() {
        let refusals = Refusals::default();
        for (count, refusal) in Refusal::ALL.into_iter().enumerate() {
            (0..=count).for_each(|_| refusals.add(refusal));
        }
        let read: Vec<u64> = refusals.read().into_iter().map(|(_, count)| count).collect();
        assert_eq!(read, [1, 2, 3, 4, 5, 6]);
    }
}
