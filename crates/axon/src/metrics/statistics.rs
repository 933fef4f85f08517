//! What a load of a version has run. Counters only grow; reading them takes no lock but that of the batch sizes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use super::requests::ModelMetrics;
use super::slowest::Slowest;

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

    /// What was counted last took so much longer.
    pub fn lengthen(&self, duration: Duration) {
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
    /// Requests run, joining the inputs of their batch.
    pub compute_input: DurationCounter,
    /// Requests run, the run of their batch.
    pub compute_infer: DurationCounter,
    /// Requests run, splitting the outputs of their batch.
    pub compute_output: DurationCounter,
    /// Requests whose caller went away before they were answered; they count as failed too.
    pub cancel: DurationCounter,
    /// Requests answered without a run of their own, looking them up in the response cache.
    pub cache_hit: DurationCounter,
    /// Requests that were not in the response cache, looking them up and keeping their answers.
    pub cache_miss: DurationCounter,
    /// Rows that were run and answered: a request of 8 rows counts 8.
    pub inference_count: AtomicU64,
    /// Runs of the model.
    pub execution_count: AtomicU64,
    /// Panics caught at an instance.
    pub instance_restarts: AtomicU64,
    /// When the last request was run, in milliseconds since 1970; 0 for never.
    pub last_inference_ms: AtomicU64,
    /// The slowest requests of the last minutes.
    pub slowest: Slowest,
    /// Runs by their rows.
    batches: Mutex<BTreeMap<usize, BatchStatistics>>,
    /// What is counted of the version over all its loads, where it is.
    metrics: OnceLock<Arc<ModelMetrics>>,
}

/// What the parts of one run took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Joining the inputs of its requests.
    pub input: Duration,
    /// The run itself.
    pub infer: Duration,
    /// Splitting its outputs.
    pub output: Duration,
}

/// The runs of one number of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchStatistics {
    /// How many.
    pub count: u64,
    /// Nanoseconds that joining inputs took.
    pub input_ns: u64,
    /// Nanoseconds that the model took.
    pub infer_ns: u64,
    /// Nanoseconds that splitting outputs took.
    pub output_ns: u64,
}

/// The most batch sizes that are counted apart; larger ones are counted with the largest.
const MAX_BATCH_SIZES: usize = 256;

impl ModelStatistics {
    /// Has the version's counters count along. For whoever loads it, once.
    pub(crate) fn count_in(&self, metrics: Arc<ModelMetrics>) {
        // A second one would find its own load counted already.
        let _ = self.metrics.set(metrics);
    }

    /// The version's counters; `None` when metrics are off.
    #[must_use]
    pub fn metrics(&self) -> Option<&Arc<ModelMetrics>> {
        self.metrics.get()
    }

    /// Counts one run of `rows` rows.
    pub fn add_execution(&self, rows: usize, phases: Phases) {
        self.execution_count.fetch_add(1, Relaxed);
        if let Some(metrics) = self.metrics.get() {
            metrics.observe_batch(rows);
        }
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let milliseconds = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        self.last_inference_ms.store(milliseconds, Relaxed);
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = batches.entry(rows.min(MAX_BATCH_SIZES)).or_default();
        batch.count += 1;
        batch.input_ns += nanoseconds(phases.input);
        batch.infer_ns += nanoseconds(phases.infer);
        batch.output_ns += nanoseconds(phases.output);
    }

    /// Counts one request of `rows` rows that was answered: each is charged with what its whole run took.
    pub fn add_success(&self, rows: usize, queue: Duration, phases: Phases, total: Duration) {
        self.queue.add(queue);
        self.compute_input.add(phases.input);
        self.compute_infer.add(phases.infer);
        self.compute_output.add(phases.output);
        self.inference_count.fetch_add(rows as u64, Relaxed);
        self.success.add(total);
    }

    /// Counts a request that the response cache answers, which took `lookup` to find out.
    pub fn add_hit(&self, lookup: Duration) {
        self.cache_hit.add(lookup);
        if let Some(metrics) = self.metrics.get() {
            metrics.look_up(true);
        }
    }

    /// Counts a request that the response cache does not answer.
    pub fn add_miss(&self, lookup: Duration) {
        self.cache_miss.add(lookup);
        if let Some(metrics) = self.metrics.get() {
            metrics.look_up(false);
        }
    }

    /// The runs by their rows.
    #[must_use]
    pub fn batches(&self) -> BTreeMap<usize, BatchStatistics> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
