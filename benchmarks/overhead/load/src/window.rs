//! Windows of load: asked for on standard input as a line of JSON, answered with a report as a line of JSON.
//!
//! A window warms up for `warm_up_s`, is timed for `seconds`, and then waits for what is in flight. Latencies and the
//! rate count the answers that come while it is timed; `all_requests` counts every answer, for whoever divides the
//! processor time of the whole window by it.
//!
//! `benchmarks/overhead/callers.py` speaks the same protocol for Python.

use std::io::{self, BufRead as _, Write as _};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Buckets of the histogram for each doubling of the latency: 4.4 % wide.
const BUCKETS_PER_OCTAVE: f64 = 16.0;

/// What is asked for.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Window {
    /// Callers, each with one request in flight.
    pub callers: usize,
    /// Rows of each request.
    pub rows: usize,
    warm_up_s: f64,
    seconds: f64,
    /// Requests a second, at random moments, whether or not what was asked before has been answered.
    #[serde(default)]
    pub rate: Option<f64>,
    /// Of the random moments.
    #[serde(default)]
    pub seed: u64,
    /// Within which time an answer is good.
    #[serde(default)]
    pub limit_s: Option<f64>,
}

/// What a window gave.
pub trait Report {
    /// As it is printed.
    fn report(self) -> Value;
}

/// When answers are timed, and when callers stop.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    end: Instant,
}

impl Clock {
    /// Starts the warm-up now.
    pub fn start(window: &Window) -> Self {
        let start = Instant::now() + Duration::from_secs_f64(window.warm_up_s);
        Self { start, end: start + Duration::from_secs_f64(window.seconds) }
    }

    /// How long it is timed.
    pub fn length(&self) -> Duration {
        self.end - self.start
    }

    /// True for a moment while it is timed.
    pub fn counts(&self, moment: Instant) -> bool {
        moment >= self.start && !self.is_over(moment)
    }

    /// True when a caller that was answered at `now` asks no more.
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.end
    }
}

/// The answers to some callers.
#[derive(Debug)]
pub struct Recorder {
    clock: Clock,
    latencies: Vec<Duration>,
    all_requests: u64,
    failed: u64,
    first_failure: Option<String>,
}

impl Recorder {
    /// No answers yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, latencies: Vec::new(), all_requests: 0, failed: 0, first_failure: None }
    }

    /// Counts an answer.
    pub fn answered(&mut self, asked: Instant, answered: Instant) {
        self.all_requests += 1;
        if answered >= self.clock.start && !self.clock.is_over(answered) {
            self.latencies.push(answered - asked);
        }
    }

    /// Counts a refusal or an error; it is never timed.
    pub fn failed(&mut self, what: impl FnOnce() -> String) {
        self.all_requests += 1;
        self.failed += 1;
        self.first_failure.get_or_insert_with(what);
    }

    /// Adds another caller's answers.
    pub fn merge(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.all_requests += other.all_requests;
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }
}

impl Report for Recorder {
    fn report(mut self) -> Value {
        self.latencies.sort_unstable();
        let percentile = |share| percentile(&self.latencies, share);
        json!({
            "all_requests": self.all_requests,
            "requests": self.latencies.len(),
            "seconds": (self.clock.end - self.clock.start).as_secs_f64(),
            "p50_us": percentile(0.5),
            "p90_us": percentile(0.9),
            "p99_us": percentile(0.99),
            "max_us": percentile(1.0),
            "histogram": histogram(&self.latencies),
            "failed": self.failed,
            "first_failure": self.first_failure,
        })
    }
}

/// The microseconds that a share of the latencies, which are sorted, do not go beyond.
pub fn percentile(sorted: &[Duration], share: f64) -> Option<f64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index).or(sorted.last()).map(|latency| latency.as_secs_f64() * 1e6)
}

/// Pairs of a bucket and its count: bucket `b` holds latencies from `2^(b/16)` to `2^((b+1)/16)` nanoseconds.
fn histogram(sorted: &[Duration]) -> Vec<(u32, usize)> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 0 and below 1024")]
    let bucket = |latency: &Duration| ((latency.as_nanos().max(1) as f64).log2() * BUCKETS_PER_OCTAVE) as u32;
    let runs = sorted.chunk_by(|a, b| bucket(a) == bucket(b));
    runs.filter_map(|run| Some((bucket(run.first()?), run.len()))).collect()
}

/// Says that this process is ready, then measures each window that is asked for until standard input ends.
pub fn serve<R: Report>(mut measure: impl FnMut(&Window) -> Result<R>) -> Result<()> {
    print(&json!({ "ready": true }))?;
    for line in io::stdin().lock().lines() {
        let window = serde_json::from_str(&line?)?;
        print(&measure(&window)?.report())?;
    }
    Ok(())
}

fn print(value: &Value) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{value}")?;
    output.flush()
}
