//! What is counted about each model. Counters only grow; reading them takes no lock but that of the batch sizes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How often, and for how long together.
#[derive(Debug, Default)]
pub struct DurationCounter {
    count: AtomicU64,
    nanoseconds: AtomicU64,
}

impl DurationCounter {
    /// Counts one more, which took `duration`.
    pub fn add(&self, duration: Duration) {
        self.count.fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(nanoseconds(duration), Relaxed);
    }

    /// The count and the nanoseconds.
    #[must_use]
    pub fn read(&self) -> (u64, u64) {
        (self.count.load(Relaxed), self.nanoseconds.load(Relaxed))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The counters of one model version, with the meanings of Triton's statistics.
#[derive(Debug, Default)]
pub struct ModelStatistics {
    /// Requests answered, from arrival to answer.
    pub success: DurationCounter,
    /// Requests refused or failed, from arrival to answer.
    pub fail: DurationCounter,
    /// Requests run, from arrival to the start of their batch.
    pub queue: DurationCounter,
    /// Requests run, the run of their batch.
    pub compute: DurationCounter,
    /// Rows answered: a request of 8 rows counts 8.
    pub inference_count: AtomicU64,
    /// Runs of the model.
    pub execution_count: AtomicU64,
    /// Panics caught at an instance.
    pub instance_restarts: AtomicU64,
    /// When the last request was run, in milliseconds since 1970; 0 for never.
    pub last_inference_ms: AtomicU64,
    /// Runs and nanoseconds by rows of the run.
    batches: Mutex<BTreeMap<usize, (u64, u64)>>,
}

/// The most batch sizes that are counted apart; larger ones are counted with the largest.
const MAX_BATCH_SIZES: usize = 256;

impl ModelStatistics {
    /// Counts one run of `rows` rows.
    pub fn add_execution(&self, rows: usize, compute: Duration) {
        self.execution_count.fetch_add(1, Relaxed);
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let milliseconds = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        self.last_inference_ms.store(milliseconds, Relaxed);
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, total) = batches.entry(rows.min(MAX_BATCH_SIZES)).or_default();
        *count += 1;
        *total += nanoseconds(compute);
    }

    /// Runs and their nanoseconds by rows of the run.
    #[must_use]
    pub fn batches(&self) -> BTreeMap<usize, (u64, u64)> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
