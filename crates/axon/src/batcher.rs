//! Groups the waiting requests of one model into batches.
//!
//! A pure state machine: the caller passes in every moment, so the same calls always form the same batches.
//! `scheduler` drives it in production and `simulation` drives it under test. It knows neither what a request
//! holds nor how it is answered: `R` is handed back as it came.
//!
//! The rule: a batch is formed only when an instance is free, never before, and nothing waits on purpose. While
//! the instances are busy the queue batches itself. Requests whose rows differ in shape never share a batch, and
//! do not block each other: each shape has its own lane, and the lane whose head waited longest goes first.
//!
//! Invariants: a batch has at most `max_batch_rows` rows, or is one larger request alone; its requests share one
//! key and leave in arrival order; a batch is maximal, so the next request of its lane would not have fitted; no
//! request starts at or after its deadline; the queue's bounds hold; every accepted request leaves exactly once,
//! by `poll`, `cancel` or `close`.

#[cfg(test)]
pub(crate) mod planted;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::time::Instant;

/// Names an accepted request; later requests have greater ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u64);

impl RequestId {
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

/// A request as the batcher sees it.
#[derive(Clone, Debug)]
pub struct Waiting<K, R> {
    /// Requests with equal keys may share a batch.
    pub key: K,
    /// Its rows, at least 1.
    pub rows: usize,
    /// Its input bytes.
    pub bytes: usize,
    /// When its answer is no longer wanted.
    pub deadline: Instant,
    /// What the caller knows it by.
    pub request: R,
}

/// Why a request is refused at arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// `max_queue_size` requests wait already: try again later.
    QueueFull,
    /// `max_queue_bytes` of inputs wait already: try again later.
    QueueBytesFull,
    /// The deadline is not after `now`.
    Expired,
    /// The queue has been closed.
    Closed,
}

/// What an instance takes to run.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch<R> {
    /// The requests in arrival order; never empty.
    pub requests: Vec<R>,
    /// Their rows together.
    pub rows: usize,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub struct Action<R> {
    /// Requests whose deadline has passed, earliest deadline first: answer them, never run them.
    pub expired: Vec<R>,
    /// What the free instance runs; `None` when nothing waits or no instance is free.
    pub batch: Option<Batch<R>>,
}

#[derive(Debug)]
struct Entry<R> {
    id: RequestId,
    rows: usize,
    bytes: usize,
    deadline: Instant,
    request: R,
}

/// The waiting requests of one model. `K` orders lanes only where it must; any total order will do.
#[derive(Debug)]
pub struct Batcher<K, R> {
    limits: Limits,
    lanes: BTreeMap<K, VecDeque<Entry<R>>>,
    /// The lanes by their head's id, so that the longest wait is found first.
    heads: BTreeMap<RequestId, K>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    keys: BTreeMap<RequestId, K>,
    bytes: usize,
    next_id: u64,
    closed: bool,
    #[cfg(test)]
    plant: Option<planted::Plant<R>>,
}

impl<K: Ord + Clone, R> Batcher<K, R> {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            lanes: BTreeMap::new(),
            heads: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            keys: BTreeMap::new(),
            bytes: 0,
            next_id: 0,
            closed: false,
            #[cfg(test)]
            plant: None,
        }
    }

    /// Queues a request that arrived at `now`.
    ///
    /// # Errors
    /// The reason, with the request, when it is not accepted.
    pub fn push(&mut self, waiting: Waiting<K, R>, now: Instant) -> Result<RequestId, (Rejected, R)> {
        let Waiting { key, rows, bytes, deadline, request } = waiting;
        if let Some(reason) = self.reason_to_reject(bytes, deadline, now) {
            return Err((reason, request));
        }
        let id = RequestId(self.next_id);
        self.next_id += 1;
        #[cfg(test)]
        self.plant_in_push();
        self.bytes += bytes;
        self.deadlines.insert((deadline, id));
        self.keys.insert(id, key.clone());
        let lane = self.lanes.entry(key.clone()).or_default();
        if lane.is_empty() {
            self.heads.insert(id, key);
        }
        lane.push_back(Entry { id, rows, bytes, deadline, request });
        Ok(id)
    }

    fn reason_to_reject(&self, bytes: usize, deadline: Instant, now: Instant) -> Option<Rejected> {
        #[cfg(test)]
        if self.plant_in_reason(deadline, now) {
            return None;
        }
        let too_many_bytes =
            self.bytes.checked_add(bytes).is_none_or(|bytes| bytes > self.limits.max_queue_bytes);
        if self.closed {
            Some(Rejected::Closed)
        } else if deadline <= now {
            Some(Rejected::Expired)
        } else if self.len() >= self.limits.max_queue_size.get() {
            Some(Rejected::QueueFull)
        } else if too_many_bytes && !self.is_empty() {
            // A lone request is let in whatever its size: the wire has its own limit, and refusing it for ever
            // with "try again later" would be a lie.
            Some(Rejected::QueueBytesFull)
        } else {
            None
        }
    }

    /// Takes out what has expired at `now` and, when an instance is free, the batch that it runs next.
    pub fn poll(&mut self, now: Instant, instance_free: bool) -> Action<R> {
        #[cfg(test)]
        if let Some(action) = self.plant_in_poll(now, instance_free) {
            return action;
        }
        let expired = self.expire(now);
        let batch = if instance_free { self.form() } else { None };
        Action { expired, batch }
    }

    /// The longest prefix that fits of the lane whose head waited longest.
    fn form(&mut self) -> Option<Batch<R>> {
        let (_, key) = self.heads.first_key_value()?;
        let key = key.clone();
        #[cfg(test)]
        let key = self.plant_in_choice(key)?;
        let mut batch = Batch { requests: Vec::new(), rows: 0 };
        while let Some(front) = self.lanes.get(&key).and_then(VecDeque::front) {
            let rows = batch.rows.saturating_add(front.rows);
            if rows > self.limits.max_batch_rows.get() && !batch.requests.is_empty() {
                break;
            }
            #[cfg(test)]
            if self.plant_in_growth(&batch) {
                break;
            }
            let entry = self.pop_front(&key)?;
            self.forget(&entry);
            batch.rows = rows;
            batch.requests.push(entry.request);
        }
        #[cfg(test)]
        self.plant_in_batch(&mut batch, &key);
        Some(batch)
    }

    fn pop_front(&mut self, key: &K) -> Option<Entry<R>> {
        let lane = self.lanes.get_mut(key)?;
        let entry = lane.pop_front()?;
        self.heads.remove(&entry.id);
        match lane.front() {
            Some(next) => {
                self.heads.insert(next.id, key.clone());
            }
            None => {
                self.lanes.remove(key);
            }
        }
        Some(entry)
    }

    /// Removes an accepted request that has left its lane from the accounts.
    fn forget(&mut self, entry: &Entry<R>) {
        self.bytes -= entry.bytes;
        self.deadlines.remove(&(entry.deadline, entry.id));
        self.keys.remove(&entry.id);
        #[cfg(test)]
        self.plant_in_accounts(entry);
    }

    /// Takes the requests whose deadline is at or before `now`; they are never run.
    fn expire(&mut self, now: Instant) -> Vec<R> {
        let mut expired = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            match self.take(id) {
                Some(request) => expired.push(request),
                // Unreachable while the accounts agree; removing the line keeps the loop finite all the same.
                None => {
                    self.deadlines.remove(&(deadline, id));
                }
            }
        }
        expired
    }

    /// Takes a request out of the queue because its caller has gone; `None` when it has left already.
    pub fn cancel(&mut self, id: RequestId) -> Option<R> {
        #[cfg(test)]
        if let std::ops::ControlFlow::Break(returned) = self.plant_in_cancel(id) {
            return returned;
        }
        self.take(id)
    }

    fn take(&mut self, id: RequestId) -> Option<R> {
        let key = self.keys.get(&id)?.clone();
        let lane = self.lanes.get_mut(&key)?;
        let position = lane.binary_search_by_key(&id, |entry| entry.id).ok()?;
        let entry = if position == 0 { self.pop_front(&key)? } else { lane.remove(position)? };
        self.forget(&entry);
        Some(entry.request)
    }

    /// Takes everything that waits; later pushes are refused with [`Rejected::Closed`].
    pub fn close(&mut self) -> Vec<R> {
        self.closed = true;
        self.heads.clear();
        self.deadlines.clear();
        self.keys.clear();
        self.bytes = 0;
        let lanes = std::mem::take(&mut self.lanes);
        let mut entries: Vec<_> = lanes.into_values().flatten().collect();
        entries.sort_by_key(|entry| entry.id);
        #[cfg(test)]
        self.plant_in_close(&mut entries);
        entries.into_iter().map(|entry| entry.request).collect()
    }

    /// Refuses later pushes; what waits is still run.
    pub fn refuse_new(&mut self) {
        self.closed = true;
    }

    /// The earliest deadline among the waiting requests.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// The waiting requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The input bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Queue {
        batcher: Batcher<u8, u32>,
        start: Instant,
    }

    impl Queue {
        fn new(max_batch_rows: usize, max_queue_size: usize) -> Self {
            let bound = |number| NonZeroUsize::new(number).unwrap();
            let limits = Limits {
                max_batch_rows: bound(max_batch_rows),
                max_queue_size: bound(max_queue_size),
                max_queue_bytes: 1000,
            };
            Self { batcher: Batcher::new(limits), start: Instant::now() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn push(
            &mut self,
            request: u32,
            key: u8,
            rows: usize,
            deadline_ms: u64,
        ) -> Result<RequestId, Rejected> {
            let waiting = Waiting { key, rows, bytes: 100, deadline: self.at(deadline_ms), request };
            self.batcher.push(waiting, self.start).map_err(|(reason, _)| reason)
        }

        fn batch(&mut self, ms: u64) -> Option<Vec<u32>> {
            self.batcher.poll(self.at(ms), true).batch.map(|batch| batch.requests)
        }
    }

    #[test]
    fn a_batch_is_the_longest_prefix_that_fits() {
        let mut queue = Queue::new(4, 10);
        for (request, rows) in [(0, 1), (1, 2), (2, 2), (3, 1), (4, 9), (5, 1)] {
            queue.push(request, 0, rows, 1000).unwrap();
        }
        assert_eq!(queue.batcher.poll(queue.start, false).batch, None);
        let batches: Vec<_> = std::iter::from_fn(|| queue.batch(1)).collect();
        assert_eq!(batches, [vec![0, 1], vec![2, 3], vec![4], vec![5]]);
        assert!(queue.batcher.is_empty());
        assert_eq!(queue.batcher.bytes(), 0);
    }

    #[test]
    fn shapes_do_not_mix_and_do_not_block_each_other() {
        let mut queue = Queue::new(4, 10);
        for (request, key) in [(0, 7), (1, 3), (2, 7), (3, 3), (4, 7)] {
            queue.push(request, key, 1, 1000).unwrap();
        }
        let batches: Vec<_> = std::iter::from_fn(|| queue.batch(1)).collect();
        assert_eq!(batches, [vec![0, 2, 4], vec![1, 3]]);
    }

    #[test]
    fn a_request_that_expired_is_never_run() {
        let mut queue = Queue::new(4, 10);
        queue.push(0, 0, 1, 50).unwrap();
        queue.push(1, 0, 1, 20).unwrap();
        queue.push(2, 0, 1, 21).unwrap();
        assert_eq!(queue.batcher.next_deadline(), Some(queue.at(20)));
        let action = queue.batcher.poll(queue.at(20), true);
        assert_eq!((action.expired, action.batch.map(|batch| batch.requests)), (vec![1], Some(vec![0, 2])));
        assert_eq!(queue.push(3, 0, 1, 0), Err(Rejected::Expired));
    }

    #[test]
    fn a_cancelled_request_leaves_at_once() {
        let mut queue = Queue::new(2, 10);
        let ids: Vec<_> = (0..4).map(|request| queue.push(request, 0, 1, 1000).unwrap()).collect();
        assert_eq!(queue.batcher.cancel(ids[0]), Some(0));
        assert_eq!(queue.batcher.cancel(ids[2]), Some(2));
        assert_eq!(queue.batcher.cancel(ids[2]), None);
        assert_eq!(queue.batch(1), Some(vec![1, 3]));
        assert_eq!(queue.batcher.cancel(ids[3]), None);
    }

    #[test]
    fn the_bounds_refuse_one_more() {
        let mut queue = Queue::new(2, 2);
        queue.push(0, 0, 1, 1000).unwrap();
        queue.push(1, 1, 1, 1000).unwrap();
        assert_eq!(queue.push(2, 0, 1, 1000), Err(Rejected::QueueFull));
        let mut queue = Queue::new(2, 100);
        for request in 0..10 {
            queue.push(request, 0, 1, 1000).unwrap();
        }
        assert_eq!(queue.push(10, 0, 1, 1000), Err(Rejected::QueueBytesFull));
        assert_eq!(queue.batcher.close(), (0..10).collect::<Vec<_>>());
        assert_eq!(queue.push(11, 0, 1, 1000), Err(Rejected::Closed));
    }
}
