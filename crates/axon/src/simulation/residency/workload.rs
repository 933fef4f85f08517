//! Seeded requests for more models than fit.

use std::time::Duration;

use super::super::random::Random;

/// A model as the simulation knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sized {
    /// What it takes when it is loaded.
    pub bytes: u64,
    /// What a load takes.
    pub reload: Duration,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Since the start.
    pub at: Duration,
    /// By index.
    pub model: usize,
}

/// Who asks for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// The model at rank k is asked in proportion to 1/k.
    Zipf,
    /// The same, and the ranks move: 24 of the models change places after each 1,000 requests.
    Drift,
    /// The same, and after each 500 requests all models are asked once in a row.
    Scans,
    /// All models in turn, over and over.
    Cyclic,
}

/// Models and requests from a seed.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The models.
    pub models: Vec<Sized>,
    /// What came, in order.
    pub requests: Vec<Request>,
}

/// How many models there are. **Source** of this and of what follows: `docs/residency.md`.
const MODELS: usize = 120;

/// The median of their sizes.
const MEDIAN_BYTES: f64 = 90e6;

/// How far sizes spread: so that two thirds are within this factor of the median, either way.
const SPREAD: f64 = std::f64::consts::E;

/// What is read in a second.
const BYTES_PER_SECOND: f64 = 2e9;

/// What a load takes whatever the size.
const FIXED: Duration = Duration::from_millis(30);

/// The share of the models that are compiled when they are loaded, and what that takes.
const COMPILED: (f64, Duration) = (0.15, Duration::from_secs(10));

/// Requests come so far apart.
const GAP: Duration = Duration::from_millis(500);

impl Workload {
    /// `requests` requests by a pattern.
    #[must_use]
    pub fn new(pattern: Pattern, requests: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let models = (0..MODELS).map(|_| model(&mut random)).collect();
        let mut at = Duration::ZERO;
        let mut ranks = Ranks::new(&mut random);
        let ask = |index| {
            at += random.around(GAP);
            let model = match pattern {
                Pattern::Cyclic => index % MODELS,
                Pattern::Zipf => ranks.draw(&mut random),
                Pattern::Drift => {
                    if index > 0 && index % 1_000 == 0 {
                        ranks.shuffle(&mut random, 12);
                    }
                    ranks.draw(&mut random)
                }
                Pattern::Scans => match index % (500 + MODELS) {
                    0..500 => ranks.draw(&mut random),
                    scanned => scanned - 500,
                },
            };
            Request { at, model }
        };
        Self { models, requests: (0..requests).map(ask).collect() }
    }

    /// The bytes of all models.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.models.iter().map(|model| model.bytes).sum()
    }
}

fn model(random: &mut Random) -> Sized {
    // The sum of twelve even shares is normal enough: within 6 standard deviations.
    let normal = (0..12).map(|_| random.share()).sum::<f64>() - 6.0;
    let bytes = MEDIAN_BYTES * SPREAD.powf(normal);
    let (share, time) = COMPILED;
    let compile = if random.chance(share) { time } else { Duration::ZERO };
    let read = Duration::from_secs_f64(bytes / BYTES_PER_SECOND);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 40 GB and positive")]
    Sized { bytes: bytes as u64, reload: FIXED + read + compile }
}

/// Which model has which rank, and how often ranks are asked.
struct Ranks {
    models: Vec<usize>,
    /// The share of what is asked up to each rank.
    up_to: Vec<f64>,
}

impl Ranks {
    fn new(random: &mut Random) -> Self {
        let weights = || (1..=MODELS).map(|rank| 1.0 / rank as f64);
        let whole: f64 = weights().sum();
        let mut sum = 0.0;
        let up_to = weights().map(|weight| {
            sum += weight / whole;
            sum
        });
        let mut ranks = Self { models: (0..MODELS).collect(), up_to: up_to.collect() };
        ranks.shuffle(random, 10 * MODELS);
        ranks
    }

    fn shuffle(&mut self, random: &mut Random, swaps: usize) {
        for _ in 0..swaps {
            let (one, other) = (random.between(0, MODELS - 1), random.between(0, MODELS - 1));
            self.models.swap(one, other);
        }
    }

    fn draw(&self, random: &mut Random) -> usize {
        let share = random.share();
        let rank = self.up_to.partition_point(|&up_to| up_to <= share).min(MODELS - 1);
        self.models[rank]
    }
}
