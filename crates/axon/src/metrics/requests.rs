//! The requests of one version of a model, or those whose model is unknown.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::histogram::{Histogram, HistogramSnapshot};
use super::outcome::{CODES, Code, Outcome, Protocol};
use super::scale::{BYTES, DURATIONS, ROWS};
use crate::request::Timing;

/// Where answers count as late of a model whose owner states no latency target.
pub const DEFAULT_TARGET: Duration = Duration::from_millis(10);

/// Counters by code; there are none until a request ends so.
type Codes = OnceLock<Box<[AtomicU64; CODES]>>;

/// The counters of one version. They outlive its loads: what was counted stays while the server knows the version.
#[derive(Debug, Default)]
pub struct ModelMetrics {
    received: [AtomicU64; Protocol::ALL.len()],
    ended: [[Codes; Outcome::ALL.len()]; Protocol::ALL.len()],
    /// Made by the first answer: a version that is only known costs no memory for them.
    observations: OnceLock<Box<Histograms>>,
    /// Nanoseconds; 0 is none.
    target: AtomicU64,
    late: AtomicU64,
    loads: AtomicU64,
    failed_loads: AtomicU64,
    /// Nanoseconds that the last load took that did not fail.
    load_duration: AtomicU64,
    unloads: AtomicU64,
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
}

#[derive(Debug)]
struct Histograms {
    queue: Histogram,
    compute: Histogram,
    total: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
    batch_rows: Histogram,
}

impl Histograms {
    fn new() -> Box<Self> {
        Box::new(Self {
            queue: Histogram::new(&DURATIONS),
            compute: Histogram::new(&DURATIONS),
            total: Histogram::new(&DURATIONS),
            request_bytes: Histogram::new(&BYTES),
            response_bytes: Histogram::new(&BYTES),
            batch_rows: Histogram::new(&ROWS),
        })
    }
}

/// What is observed of a request that was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub timing: Timing,
    /// From the whole request to the whole answer.
    pub total: Duration,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub trace: Option<u128>,
}

impl ModelMetrics {
    /// A request has come.
    pub(super) fn receive(&self, protocol: Protocol) {
        self.received[protocol as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A request that had come has ended. What was counted before it is seen by whoever sees this.
    pub(super) fn end(&self, protocol: Protocol, outcome: Outcome, code: Code) {
        let codes = self.ended[protocol as usize][outcome as usize].get_or_init(Box::default);
        codes[code.index()].fetch_add(1, Ordering::Release);
    }

    /// A request has been answered.
    pub(super) fn observe(&self, answer: &Answer) {
        let Answer { timing, total, request_bytes, response_bytes, trace } = *answer;
        let target = self.latency_target();
        if total > target {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
        let histograms = self.histograms();
        histograms.queue.observe_duration(timing.queue, trace);
        histograms.compute.observe_duration(timing.compute, trace);
        histograms.total.observe_duration(total, trace);
        histograms.request_bytes.observe(request_bytes, None);
        histograms.response_bytes.observe(response_bytes, None);
    }

    /// The model was run for a batch of so many rows.
    pub(crate) fn observe_batch(&self, rows: usize) {
        self.histograms().batch_rows.observe(rows as u64, None);
    }

    fn histograms(&self) -> &Histograms {
        self.observations.get_or_init(Histograms::new)
    }

    /// A load has ended, well or not.
    pub(crate) fn loaded(&self, duration: Duration, is_well: bool) {
        let counter = if is_well { &self.loads } else { &self.failed_loads };
        counter.fetch_add(1, Ordering::Relaxed);
        if is_well {
            self.load_duration.store(nanoseconds(duration), Ordering::Relaxed);
        }
    }

    /// It takes nothing new any more, since it is unloaded.
    pub(crate) fn unloaded(&self) {
        self.unloads.fetch_add(1, Ordering::Relaxed);
    }

    /// A request was looked up in the response cache.
    pub(crate) fn look_up(&self, is_hit: bool) {
        let counter = if is_hit { &self.cache_hits } else { &self.cache_misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The time within which it is to answer; `None` counts what is later than [`DEFAULT_TARGET`].
    pub(crate) fn set_latency_target(&self, target: Option<Duration>) {
        self.target.store(target.map_or(0, nanoseconds), Ordering::Relaxed);
    }

    /// What is later counts as late.
    #[must_use]
    pub fn latency_target(&self) -> Duration {
        match self.target.load(Ordering::Relaxed) {
            0 => DEFAULT_TARGET,
            nanoseconds => Duration::from_nanos(nanoseconds),
        }
    }

    /// How long the requests that were answered took, from the whole request to the whole answer.
    #[must_use]
    pub fn latency(&self) -> HistogramSnapshot {
        self.observations
            .get()
            .map_or_else(|| HistogramSnapshot::empty(&DURATIONS), |histograms| histograms.total.snapshot())
    }

    /// What has been counted. Requests that end meanwhile may be missing; none is counted as ended and not as received.
    #[must_use]
    pub fn snapshot(&self) -> ModelSnapshot {
        // Before `received`: an end that is seen brings its beginning with it.
        let ended = self.ended();
        let received = self.received.each_ref().map(|count| count.load(Ordering::Relaxed));
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ModelSnapshot {
            received,
            ended,
            observations: self.observations(),
            latency_target: self.latency_target(),
            late: read(&self.late),
            loads: read(&self.loads),
            failed_loads: read(&self.failed_loads),
            load_duration: Duration::from_nanos(read(&self.load_duration)),
            unloads: read(&self.unloads),
            cache_hits: read(&self.cache_hits),
            cache_misses: read(&self.cache_misses),
        }
    }

    fn ended(&self) -> Vec<Ended> {
        let mut ended = Vec::new();
        for (protocol, outcomes) in Protocol::ALL.into_iter().zip(&self.ended) {
            for (outcome, codes) in Outcome::ALL.into_iter().zip(outcomes) {
                let Some(codes) = codes.get() else { continue };
                for (code, count) in Code::all().zip(codes.iter()) {
                    let count = count.load(Ordering::Acquire);
                    if count > 0 {
                        ended.push(Ended { protocol, outcome, code, count });
                    }
                }
            }
        }
        ended
    }

    fn observations(&self) -> Observations {
        let Some(histograms) = self.observations.get() else { return Observations::empty() };
        Observations {
            queue: histograms.queue.snapshot(),
            compute: histograms.compute.snapshot(),
            total: histograms.total.snapshot(),
            request_bytes: histograms.request_bytes.snapshot(),
            response_bytes: histograms.response_bytes.snapshot(),
            batch_rows: histograms.batch_rows.snapshot(),
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Requests that ended alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How they came.
    pub protocol: Protocol,
    /// How they ended.
    pub outcome: Outcome,
    /// What their callers were told.
    pub code: Code,
    /// How many.
    pub count: u64,
}

/// What was observed of answers. Each but the last has one value for each request answered.
#[derive(Clone, Debug)]
pub struct Observations {
    /// Seconds from arrival at the queue to the start of the batch.
    pub queue: HistogramSnapshot,
    /// Seconds that the batch ran.
    pub compute: HistogramSnapshot,
    /// Seconds from the whole request to the whole answer.
    pub total: HistogramSnapshot,
    /// Bytes of the request's body, message or tensors.
    pub request_bytes: HistogramSnapshot,
    /// Bytes of the answer's.
    pub response_bytes: HistogramSnapshot,
    /// Rows of a batch that was run, one value for each run.
    pub batch_rows: HistogramSnapshot,
}

impl Observations {
    /// Nothing.
    #[must_use]
    pub fn empty() -> Self {
        let durations = HistogramSnapshot::empty(&DURATIONS);
        let bytes = HistogramSnapshot::empty(&BYTES);
        Self {
            queue: durations.clone(),
            compute: durations.clone(),
            total: durations,
            request_bytes: bytes.clone(),
            response_bytes: bytes,
            batch_rows: HistogramSnapshot::empty(&ROWS),
        }
    }
}

/// What had been counted of a version at a moment.
#[derive(Clone, Debug)]
pub struct ModelSnapshot {
    /// Requests that came, in the order of [`Protocol::ALL`].
    pub received: [u64; Protocol::ALL.len()],
    /// Requests that ended, by how.
    pub ended: Vec<Ended>,
    /// What was observed of answers and runs.
    pub observations: Observations,
    /// What is later counts as late.
    pub latency_target: Duration,
    /// Answers that were late.
    pub late: u64,
    /// Loads that went well.
    pub loads: u64,
    /// Loads that failed.
    pub failed_loads: u64,
    /// What the last load took that did not fail; zero before it.
    pub load_duration: Duration,
    /// How often it was unloaded.
    pub unloads: u64,
    /// Requests that the response cache answered.
    pub cache_hits: u64,
    /// Requests that were looked up there and run.
    pub cache_misses: u64,
}

impl ModelSnapshot {
    /// The requests that came by `protocol` and have not ended.
    #[must_use]
    pub fn in_flight(&self, protocol: Protocol) -> u64 {
        let ended = self.ended.iter().filter(|ended| ended.protocol == protocol);
        let ended: u64 = ended.map(|ended| ended.count).sum();
        self.received[protocol as usize].saturating_sub(ended)
    }

    /// The requests that ended with `outcome`.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.ended.iter().filter(|ended| ended.outcome == outcome).map(|ended| ended.count).sum()
    }
}
