//! What decays and is learned: how often a model is asked, how fast models load, how much was loaded for little.

use std::time::{Duration, Instant};

/// Requests, each of which counts half after a half-life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    count: f64,
    at: Instant,
}

impl Demand {
    pub fn seeded(count: f64, now: Instant) -> Self {
        Self { count, at: now }
    }

    pub fn add(&mut self, count: f64, now: Instant, half_life: Duration) {
        self.count = self.at(now, half_life) + count;
        self.at = self.at.max(now);
    }

    pub fn at(&self, now: Instant, half_life: Duration) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.count * (-elapsed / half_life.as_secs_f64()).exp2()
    }
}

/// How long loads take, for models that were never loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speed {
    bytes_per_second: f64,
}

/// What a load takes whatever its size.
const FIXED: Duration = Duration::from_millis(50);

/// How much one load tells.
const STEP: f64 = 0.2;

impl Default for Speed {
    /// **Source:** plain files of 100 MB load in about half a second; `docs/residency.md`.
    fn default() -> Self {
        Self { bytes_per_second: 200e6 }
    }
}

impl Speed {
    pub fn learn(&mut self, bytes: u64, took: Duration) {
        let seconds = took.saturating_sub(FIXED).as_secs_f64();
        // A small model says nothing of how fast bytes are read.
        if bytes < 1 << 20 || seconds <= 0.0 {
            return;
        }
        let seen = bytes as f64 / seconds;
        self.bytes_per_second *= (seen / self.bytes_per_second).powf(STEP);
        self.bytes_per_second = self.bytes_per_second.clamp(1e6, 1e11);
    }

    pub fn foretell(self, bytes: u64) -> Duration {
        FIXED + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second)
    }
}

/// Time that may be spent on loads that are worth less than what leaves for them. The balance may go below nothing once,
/// so that a long load is not refused for ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct Churn {
    share: f64,
    burst: f64,
    seconds: f64,
    at: Instant,
}

impl Churn {
    pub fn new(share: f64, burst: Duration, now: Instant) -> Self {
        let burst = burst.as_secs_f64();
        Self { share, burst, seconds: burst, at: now }
    }

    /// Spends `time` if the balance is above nothing.
    ///
    /// # Errors
    /// How long it is until it will be.
    pub fn spend(&mut self, time: Duration, now: Instant) -> Result<(), Duration> {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.seconds = (self.seconds + elapsed * self.share).min(self.burst);
        self.at = self.at.max(now);
        if self.share >= 1.0 {
            return Ok(());
        }
        if self.seconds > 0.0 {
            self.seconds -= time.as_secs_f64();
            return Ok(());
        }
        if self.share <= 0.0 {
            return Err(Duration::MAX);
        }
        Err(Duration::try_from_secs_f64((-self.seconds + 1e-3) / self.share).unwrap_or(Duration::MAX))
    }
}
