//! Policies that choose what runs next on one device.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use axon::batcher::{BatchId, Batcher, Limits, Rules, Waiting};

use crate::MOST_ROWS;

#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub arrived: f64,
    pub deadline: f64,
}

pub trait Policy {
    fn arrive(&mut self, request: Request, now: f64);
    /// What the free device runs.
    fn next(&mut self, now: f64) -> Option<Vec<Request>>;
    fn finished(&mut self, _rows: usize, _took: f64, _now: f64) {}
    /// When to ask again, while the device is free.
    fn wakes(&self) -> Option<f64> {
        None
    }
}

fn take(queue: &mut VecDeque<Request>, most: usize) -> Option<Vec<Request>> {
    let count = queue.len().min(most);
    (count > 0).then(|| queue.drain(..count).collect())
}

/// Whatever waits, at once.
#[derive(Default)]
pub struct Eager(VecDeque<Request>);

impl Policy for Eager {
    fn arrive(&mut self, request: Request, _: f64) {
        self.0.push_back(request);
    }

    fn next(&mut self, _: f64) -> Option<Vec<Request>> {
        take(&mut self.0, MOST_ROWS)
    }
}

/// The next batch is frozen when the present one starts, as Text Embeddings Inference does.
#[derive(Default)]
pub struct Prefetch {
    queue: VecDeque<Request>,
    frozen: Option<Vec<Request>>,
}

impl Policy for Prefetch {
    fn arrive(&mut self, request: Request, _: f64) {
        self.queue.push_back(request);
        if self.frozen.is_none() {
            self.frozen = take(&mut self.queue, MOST_ROWS);
        }
    }

    fn next(&mut self, _: f64) -> Option<Vec<Request>> {
        let batch = self.frozen.take().or_else(|| take(&mut self.queue, MOST_ROWS));
        self.frozen = take(&mut self.queue, MOST_ROWS);
        batch
    }
}

/// A full batch, or the oldest has waited long enough.
pub struct Delay {
    queue: VecDeque<Request>,
    delay: f64,
}

impl Delay {
    pub fn new(delay: f64) -> Self {
        Self { queue: VecDeque::new(), delay }
    }
}

impl Policy for Delay {
    fn arrive(&mut self, request: Request, _: f64) {
        self.queue.push_back(request);
    }

    fn next(&mut self, now: f64) -> Option<Vec<Request>> {
        let ripe = self.wakes().is_some_and(|at| at <= now + 1e-9);
        if ripe || self.queue.len() >= MOST_ROWS { take(&mut self.queue, MOST_ROWS) } else { None }
    }

    fn wakes(&self) -> Option<f64> {
        self.queue.front().map(|request| request.arrived + self.delay)
    }
}

/// The size grows by one after a run within the limit, and shrinks by a tenth after another; expired requests are
/// dropped. As Clipper's paper has it.
pub struct Aimd {
    queue: VecDeque<Request>,
    size: f64,
    limit: f64,
}

impl Aimd {
    pub fn new(limit: f64) -> Self {
        Self { queue: VecDeque::new(), size: 1.0, limit }
    }
}

impl Policy for Aimd {
    fn arrive(&mut self, request: Request, _: f64) {
        self.queue.push_back(request);
    }

    fn next(&mut self, now: f64) -> Option<Vec<Request>> {
        while self.queue.front().is_some_and(|request| request.deadline <= now) {
            self.queue.pop_front();
        }
        take(&mut self.queue, self.size as usize)
    }

    fn finished(&mut self, _: usize, took: f64, _: f64) {
        self.size = if took <= self.limit { self.size + 1.0 } else { self.size * 0.9 };
        self.size = self.size.clamp(1.0, MOST_ROWS as f64);
    }
}

/// Axon's batcher as it is shipped.
pub struct Axon {
    batcher: Batcher<(), Request>,
    start: Instant,
    running: Option<BatchId>,
}

pub fn rules(foretold: f64) -> Rules {
    let bound = |number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN);
    let limits =
        Limits { max_batch_rows: bound(MOST_ROWS), max_queue_size: bound(8192), max_queue_bytes: 1 << 30 };
    let point = |rows: usize| (rows, Duration::from_secs_f64(foretold * (1e-3 + 0.1e-3 * rows as f64)));
    Rules { curve: [1, 4, 16].map(point).into(), ..Rules::new(limits) }
}

impl Axon {
    pub fn new(foretold: f64) -> Self {
        Self { batcher: Batcher::new(rules(foretold)), start: Instant::now(), running: None }
    }

    fn at(&self, now: f64) -> Instant {
        self.start + Duration::from_secs_f64(now)
    }
}

impl Policy for Axon {
    fn arrive(&mut self, request: Request, now: f64) {
        let (deadline, now) = (self.at(request.deadline), self.at(now));
        // Who is refused has their answer: it counts as not in time.
        let _ = self.batcher.push(
            Waiting { key: (), class: 1, rows: 1, bytes: 0, deadline, lingers: Duration::ZERO, request },
            now,
        );
    }

    fn next(&mut self, now: f64) -> Option<Vec<Request>> {
        let batch = self.batcher.poll(self.at(now), true).batch?;
        self.running = Some(batch.id);
        Some(batch.requests)
    }

    fn finished(&mut self, _: usize, took: f64, now: f64) {
        if let Some(id) = self.running.take() {
            let now = self.at(now);
            self.batcher.finish(id, Some(Duration::from_secs_f64(took)), now);
        }
    }
}
