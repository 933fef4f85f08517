//! Traces: the spans of requests, sampled here and sent to a collector over OpenTelemetry's protocol.
//!
//! A request has a `Span` from its first byte to its last, whichever protocol it came by. It becomes the spans `receive`,
//! `queue`, `compute` and `send` below one of the server's; each run of a batch has a span `batch` of its own, linked to
//! those of its requests. Spans are made and sent by a thread of their own, from a queue with a bound: a collector that is
//! slow or gone costs spans, which are counted, and no request its time. Without a collector nothing is noted at all.

mod client;
mod context;
mod destination;
mod export;
mod otlp;
mod sampling;
mod span;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use axon::{Error, Result};

pub use destination::Protocol;

pub(crate) use context::{Caller, SpanContext};
pub(crate) use sampling::{Level, Policies, Policy, Rate};
pub(crate) use span::{Entry, Sending, Span};

use destination::Destination;
use export::{Exporter, Queue};
use sampling::Tail;
use span::Finished;

/// Where traces go, and of which requests.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceOptions {
    /// The collector's URL, as `http://127.0.0.1:4318`; `None` for what the environment says, which may be none.
    pub endpoint: Option<String>,
    /// How it is spoken to; `None` for what the environment says, or else [`Protocol::Http`].
    pub protocol: Option<Protocol>,
    /// The share of requests that are traced where the caller does not say, 0 to 1.
    pub ratio: f64,
    /// Requests that take so long are kept, whatever the ratio; `None` for none.
    pub slow: Option<Duration>,
}

impl Default for TraceOptions {
    fn default() -> Self {
        Self { endpoint: None, protocol: None, ratio: 1.0, slow: None }
    }
}

impl TraceOptions {
    /// Checks what can be checked without asking the collector.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](axon::ErrorKind) for a URL, a protocol or a variable of the environment that is
    /// wrong.
    pub fn check(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.ratio) {
            let expected = format_args!("expected a number from 0 to 1, got {}", self.ratio);
            return Err(Error::invalid("--trace-ratio", expected));
        }
        Destination::find(self, variable).map(drop)
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// How many spans have left, and how many have not; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// Taken by the collector.
    pub exported: u64,
    /// Given up: the queue was full, the collector was gone or refused them, or too many requests failed at once.
    pub dropped: u64,
}

#[derive(Default)]
struct Counters {
    exported: AtomicU64,
    dropped: AtomicU64,
}

/// Decides which requests are traced, and has their spans sent.
pub(crate) struct Tracer {
    policies: Arc<Policies>,
    tail: Tail,
    queue: Arc<Queue>,
    counters: Arc<Counters>,
}

impl Tracer {
    /// Starts the thread that sends spans; `None` without a collector.
    ///
    /// # Errors
    /// As for [`TraceOptions::check`]; [`ErrorKind::Internal`](axon::ErrorKind) when the thread cannot be started.
    pub fn start(options: &TraceOptions) -> Result<Option<(Arc<Self>, Exporter)>> {
        let Some(destination) = Destination::find(options, variable)? else { return Ok(None) };
        let server = Policy {
            level: Level::Timestamps,
            rate: Rate::ratio(options.ratio),
            left: Arc::new(AtomicI64::new(-1)),
        };
        let tracer = Arc::new(Self {
            policies: Arc::new(Policies::new(server)),
            tail: Tail::new(options.slow),
            queue: Arc::default(),
            counters: Arc::default(),
        });
        let exporter = Exporter::start(&tracer, destination)?;
        Ok(Some((tracer, exporter)))
    }

    /// What decides about the requests of each model.
    pub fn policies(&self) -> Arc<Policies> {
        Arc::clone(&self.policies)
    }

    /// How many spans have been sent and given up.
    pub fn counts(&self) -> SpanCounts {
        let Counters { exported, dropped } = &*self.counters;
        SpanCounts { exported: exported.load(Relaxed), dropped: dropped.load(Relaxed) }
    }

    /// Queues a request's spans; counts them when there is no room, or when too many are kept for their end.
    fn keep(&self, finished: Finished, by_tail: bool) {
        let spans = finished.spans();
        if (by_tail && !self.tail.take(Instant::now())) || !self.queue.push(finished) {
            self.counters.dropped.fetch_add(spans, Relaxed);
        }
    }
}

/// The ids of this process.
static IDS: LazyLock<Ids> = LazyLock::new(Ids::default);

/// The id of a new trace.
pub(crate) fn new_trace() -> u128 {
    IDS.trace()
}

/// Makes ids that nobody can foretell: a keyed hash of a counter.
struct Ids {
    keys: RandomState,
    next: AtomicU64,
}

impl Default for Ids {
    fn default() -> Self {
        Self { keys: RandomState::new(), next: AtomicU64::new(0) }
    }
}

impl Ids {
    /// A new trace's.
    fn trace(&self) -> u128 {
        let number = self.next.fetch_add(1, Relaxed);
        self.wide(("trace", number))
    }

    /// A new span's.
    fn span(&self) -> u64 {
        // Zero is no id; it does not come up in the age of the universe, and would be none all the same.
        self.keys.hash_one(("span", self.next.fetch_add(1, Relaxed))).max(1)
    }

    /// The span of a run, the same for each of its requests.
    fn run(&self, run: u64) -> SpanContext {
        let span = self.keys.hash_one(("run", run)).max(1);
        SpanContext { trace: self.wide(("run", run)), span, flags: context::SAMPLED | context::RANDOM }
    }

    fn wide(&self, name: (&str, u64)) -> u128 {
        let (high, low) = (self.keys.hash_one((name, "high")), self.keys.hash_one((name, "low")));
        (u128::from(high) << 64 | u128::from(low)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_differ_but_for_those_of_one_run() {
        let ids = Ids::default();
        let traces: HashSet<u128> =
            (0..1000).map(|_| ids.trace()).chain((0..10).map(|run| ids.run(run).trace)).collect();
        let spans: HashSet<u64> =
            (0..1000).map(|_| ids.span()).chain((0..10).map(|run| ids.run(run).span)).collect();
        assert_eq!((traces.len(), spans.len()), (1010, 1010));
        assert_eq!(ids.run(7), ids.run(7));
        assert_ne!(Ids::default().trace(), Ids::default().trace());
    }

    #[test]
    fn a_ratio_is_a_share() {
        let check = |ratio: f64| TraceOptions { ratio, ..TraceOptions::default() }.check().is_ok();
        assert!(check(0.0) && check(0.5) && check(1.0));
        assert!(!check(-0.1) && !check(1.1) && !check(f64::NAN));
    }
}
