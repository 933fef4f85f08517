//! Sends spans: a queue with a bound, and the thread that empties it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axon::{Error, Result};
use prost::Message as _;
use tokio::sync::{Notify, oneshot, watch};

use super::client::{Client, Retry};
use super::context::SpanContext;
use super::destination::Destination;
use super::otlp::{self, Clock, Writer};
use super::span::{Answer, Finished};
use super::{Counters, SpanCounts, Tracer};
use crate::proto::otlp::Span;

/// The most requests whose spans wait; those that come while it is full are dropped and counted.
const MAX_WAITING: usize = 2048;
/// So many that wait are sent at once, whatever the delay.
const ENOUGH: usize = 256;
/// The most spans of one message.
const MAX_SENT: usize = 512;
/// How often a message is tried, and how long after the first time it is tried again; each time twice as long.
const TRIES: u32 = 3;
const BACKOFF: Duration = Duration::from_millis(250);
/// The longest that a collector may have us wait.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// How long the last spans may take at the end.
const LAST: Duration = Duration::from_secs(2);

/// Requests whose spans wait to be sent.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Vec<Finished>>,
    enough: Notify,
}

impl Queue {
    /// Takes a request, if there is room.
    pub fn push(&self, finished: Finished) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            return false;
        }
        waiting.push(finished);
        let is_enough = waiting.len() == ENOUGH;
        drop(waiting);
        if is_enough {
            self.enough.notify_one();
        }
        true
    }

    fn take(&self) -> Vec<Finished> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The thread that sends. It ends when this is closed or dropped.
pub(crate) struct Exporter {
    close: watch::Sender<bool>,
    ended: oneshot::Receiver<()>,
}

impl Exporter {
    pub(super) fn start(tracer: &Tracer, destination: Destination) -> Result<Self> {
        let (close, closing) = watch::channel(false);
        let (end, ended) = oneshot::channel();
        let delay = destination.delay;
        let mut sending = Sending {
            queue: Arc::clone(&tracer.queue),
            counters: Arc::clone(&tracer.counters),
            client: Client::new(destination),
            batches: Batches::default(),
            closing,
            is_failing: false,
            ends: None,
        };
        let run = move || {
            // Its own runtime: looking up a name must not keep a connection of a client waiting.
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => {
                    runtime.block_on(sending.run(delay));
                    // A name that is still being looked up is not waited for.
                    runtime.shutdown_background();
                }
                Err(error) => tracing::error!("traces are not sent: {error}"),
            }
            // Nobody waits for it when the server was dropped.
            let _ = end.send(());
        };
        std::thread::Builder::new().name("axon-traces".to_owned()).spawn(run).map_err(Error::internal)?;
        Ok(Self { close, ended })
    }

    /// Sends what waits, within a limit of time, and ends the thread.
    pub async fn close(self, tracer: &Tracer) {
        self.close.send_replace(true);
        // The thread gives up by itself a moment earlier.
        let _ = tokio::time::timeout(LAST + Duration::from_secs(1), self.ended).await;
        let SpanCounts { exported, dropped } = tracer.counts();
        if dropped > 0 {
            tracing::warn!(dropped, exported, "spans of traces were dropped");
        }
    }
}

struct Sending {
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    client: Client,
    batches: Batches,
    closing: watch::Receiver<bool>,
    is_failing: bool,
    /// When nothing is sent any more; `None` until the server ends.
    ends: Option<Instant>,
}

impl Sending {
    async fn run(&mut self, delay: Duration) {
        let mut closing = self.closing.clone();
        let mut is_closing = false;
        while !is_closing {
            is_closing = tokio::select! {
                () = tokio::time::sleep(delay) => false,
                () = self.queue.enough.notified() => false,
                // Closed or dropped: both end it.
                _ = closing.wait_for(|closing| *closing) => true,
            };
            let spans = self.spans(if is_closing { Duration::ZERO } else { delay });
            let mut left = spans.into_iter().peekable();
            while left.peek().is_some() {
                self.send(left.by_ref().take(MAX_SENT).collect()).await;
            }
        }
    }

    /// The spans of what waits, and of the batches that have waited for `delay`.
    fn spans(&mut self, delay: Duration) -> Vec<Span> {
        let writer = Writer { clock: Clock::now() };
        let mut spans = Vec::new();
        for finished in self.queue.take() {
            spans.extend(writer.request(&finished));
            self.batches.add(finished);
        }
        spans.extend(self.batches.ripe(delay, &writer));
        spans
    }

    /// Sends a message, some times if need be; counts its spans.
    async fn send(&mut self, spans: Vec<Span>) {
        let count = spans.len() as u64;
        let is_over = self.ends.is_some_and(|ends| Instant::now() >= ends);
        if is_over || (self.is_failing && *self.closing.borrow()) {
            self.counters.dropped.fetch_add(count, Relaxed);
            return;
        }
        let message = otlp::request(self.client.destination(), spans).encode_to_vec().into();
        let (mut closing, mut ends) = (self.closing.clone(), self.ends);
        let sent = tokio::select! {
            sent = deliver(&mut self.client, message) => sent,
            () = async {
                // Closed or dropped: both end it.
                let _ = closing.wait_for(|closing| *closing).await;
                let ends = *ends.get_or_insert_with(|| Instant::now() + LAST);
                tokio::time::sleep_until(ends.into()).await;
            } => Err("the server ends".to_owned()),
        };
        self.ends = ends;
        let sent = match sent {
            Ok(rejected) if rejected >= count => Err("the collector takes none of them".to_owned()),
            sent => sent,
        };
        let rejected = match &sent {
            Ok(rejected) => (*rejected).min(count),
            Err(_) => count,
        };
        self.counters.exported.fetch_add(count - rejected, Relaxed);
        self.counters.dropped.fetch_add(rejected, Relaxed);
        let is_failing = sent.is_err();
        // Told once when it begins and once when it is over, however many messages it takes.
        match sent {
            Err(problem) if !self.is_failing => {
                tracing::warn!("traces cannot be sent, their spans are dropped: {}", problem.escape_debug());
            }
            Ok(_) if self.is_failing => tracing::info!("traces are sent again"),
            _ => {}
        }
        self.is_failing = is_failing;
    }
}

async fn deliver(client: &mut Client, message: bytes::Bytes) -> Result<u64, String> {
    let mut tried = 0;
    loop {
        let failure = match client.send(message.clone()).await {
            Ok(rejected) => return Ok(rejected),
            Err(failure) => failure,
        };
        tried += 1;
        let wait = match failure.retry {
            Retry::Soon if tried < TRIES => BACKOFF * 2_u32.pow(tried - 1),
            Retry::After(wait) if tried < TRIES => wait.min(MAX_BACKOFF),
            _ => return Err(failure.problem),
        };
        tokio::time::sleep(wait).await;
    }
}

/// The most runs that are remembered because requests of theirs may still come.
const MAX_TOLD: usize = 4096;

/// The runs that are told of once all their requests have ended, or a while after the first has. Bounded by the requests
/// that came meanwhile, each of which was in the queue.
#[derive(Default)]
struct Batches {
    waiting: HashMap<u64, Waiting>,
    /// Those that have been told of before all their requests had ended.
    told: HashSet<u64>,
}

/// A run, and those of its requests that have ended.
struct Waiting {
    since: Instant,
    one: Finished,
    answer: Answer,
    requests: usize,
    links: Vec<SpanContext>,
}

impl Batches {
    fn add(&mut self, finished: Finished) {
        let Some(answer) = finished.notes.answer else { return };
        let Some(run) = answer.timing.run else { return };
        if self.told.contains(&run.id) {
            return;
        }
        let context = finished.context;
        let waiting = self.waiting.entry(run.id).or_insert_with(|| Waiting {
            since: Instant::now(),
            one: finished,
            answer,
            requests: run.requests,
            links: Vec::new(),
        });
        waiting.links.push(context);
    }

    /// Takes those whose requests have all ended, and those that have waited for `delay`.
    fn ripe(&mut self, delay: Duration, writer: &Writer) -> Vec<Span> {
        let now = Instant::now();
        let is_whole = |run: &Waiting| run.links.len() >= run.requests;
        let is_old = |run: &Waiting| now.saturating_duration_since(run.since) >= delay;
        let ripe: Vec<_> = self.waiting.extract_if(|_, run| is_whole(run) || is_old(run)).collect();
        if self.told.len() > MAX_TOLD {
            self.told.clear();
        }
        self.told.extend(ripe.iter().filter(|(_, run)| !is_whole(run)).map(|(id, _)| *id));
        ripe.iter().filter_map(|(_, run)| writer.batch(&run.one, &run.answer, &run.links)).collect()
    }
}
