//! What goes into a queue and what comes out of it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// How urgent a request is: 1 is served before 2.
pub type Class = u32;

/// Names an accepted request; later requests have greater ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    pub(super) number: u64,
    pub(super) deadline: Instant,
    pub(super) lingers: Duration,
    pub(super) class: Class,
    pub(super) place: usize,
}

impl RequestId {
    /// The id as a number, for logs and hashes.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.number
    }
}

/// Names a batch that an instance runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId(pub(super) u64);

impl BatchId {
    /// The id as a number, for logs and hashes.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// The bounds of one queue.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most rows that are run together; a request of more rows runs alone.
    pub max_batch_rows: NonZeroUsize,
    /// The most requests that wait. One more is refused.
    pub max_queue_size: NonZeroUsize,
    /// The most input bytes that wait. More is refused, unless nothing waits.
    pub max_queue_bytes: usize,
}

/// How a queue is served. [`Rules::new`] is right for a model whose owner says nothing.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The bounds.
    pub limits: Limits,
    /// Instances that pull batches, at least 1.
    pub instances: usize,
    /// The most requests of a class that wait; a class that is not named has `max_queue_size` alone.
    pub class_sizes: BTreeMap<Class, NonZeroUsize>,
    /// Batch sizes for which nothing waits, in rows, ascending. **Source:** Triton's `preferred_batch_size`.
    pub preferred_rows: Vec<usize>,
    /// How long a request may be kept waiting for others to share its batch, while an instance is free.
    /// **Source:** Triton's `max_queue_delay_microseconds`.
    pub max_delay: Duration,
    /// Whether answers leave in the order in which their requests were accepted; for whoever answers them, see
    /// [`Order`](super::Order). **Source:** Triton's `preserve_ordering`.
    pub preserve_order: bool,
    /// What runs took when the model was tried, by rows.
    pub curve: Vec<(usize, Duration)>,
}

impl Rules {
    /// Within `limits`, with one instance, nothing kept waiting on purpose, and nothing known of the model.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            instances: 1,
            class_sizes: BTreeMap::new(),
            preferred_rows: Vec::new(),
            max_delay: Duration::ZERO,
            preserve_order: false,
            curve: Vec::new(),
        }
    }
}

/// A request as the batcher sees it.
#[derive(Clone, Debug)]
pub struct Waiting<K, R> {
    /// Requests with equal keys may share a batch.
    pub key: K,
    /// How urgent it is.
    pub class: Class,
    /// Its rows, at least 1.
    pub rows: usize,
    /// Its input bytes.
    pub bytes: usize,
    /// When its answer is no longer wanted, or no longer before others.
    pub deadline: Instant,
    /// How much longer it may wait behind all others of its class when it cannot be answered by `deadline`; zero gives it up
    /// then. At most some hours. **Source:** Triton's timeout action `DELAY`.
    pub lingers: Duration,
    /// What the caller knows it by.
    pub request: R,
}

/// Why a request is refused at arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// `max_queue_size` requests wait already, or as many of its class as may: try again later.
    QueueFull,
    /// `max_queue_bytes` of inputs wait already: try again later.
    QueueBytesFull,
    /// It would be answered after its deadline: `wait` from now at the earliest.
    PredictedMiss {
        /// From now to its answer.
        wait: Duration,
    },
    /// Its run alone takes longer than there is time, whatever else waits: trying again later does not help.
    TooShort {
        /// What its run takes.
        run: Duration,
    },
    /// The deadline is not after `now`.
    Expired,
    /// The queue has been closed.
    Closed,
}

/// A request that is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused<R> {
    /// Why.
    pub reason: Rejected,
    /// The request as it came.
    pub request: R,
}

/// A request that waits.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted<R> {
    /// Its name.
    pub id: RequestId,
    /// Less urgent requests that had to leave the full queue for it: answer them, they never run.
    pub displaced: Vec<R>,
}

/// What an instance takes to run.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch<R> {
    /// Its name, for [`Batcher::finish`](super::Batcher::finish).
    pub id: BatchId,
    /// The requests in the order in which they were served; never empty.
    pub requests: Vec<R>,
    /// Their rows together.
    pub rows: usize,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub struct Action<R> {
    /// Requests whose deadline has passed, earliest deadline first: answer them, never run them.
    pub expired: Vec<R>,
    /// Requests that are foretold to miss their deadline: answer them, never run them.
    pub shed: Vec<R>,
    /// Requests that were put behind the others of their class, and still wait.
    pub delayed: Vec<RequestId>,
    /// What the free instance runs; `None` when nothing is to run or no instance is free.
    pub batch: Option<Batch<R>>,
}
