//! Groups the waiting requests of one model into batches, and refuses those that could not be answered in time.
//!
//! A pure state machine: the caller passes in every moment, so the same calls always form the same batches.
//! `scheduler` drives it in production and `simulation` drives it under test. It knows neither what a request
//! holds nor how it is answered: `R` is handed back as it came.
//!
//! The rule: a batch is formed only when an instance is free, never before, and nothing waits on purpose unless the
//! model's owner says so. While the instances are busy the queue batches itself. Requests whose rows differ in shape
//! never share a batch, and do not block each other: each shape has its own queue. The most urgent class goes first,
//! then the earliest deadline, then the first to arrive. What a run will take is learned from every run; a request
//! that is foretold to miss its deadline is refused at arrival, or given up in the queue where a later one can be
//! saved by it.
//!
//! Invariants: a batch has at most `max_batch_rows` rows, or is one larger request alone; its requests share one
//! key and leave in order; no request starts at or after its deadline; the queue's bounds hold; every accepted request
//! leaves exactly once, by `push`, `poll`, `cancel` or `close`.

mod cut;
mod estimator;
mod insight;
mod line;
mod linger;
mod order;
#[cfg(test)]
pub(crate) mod planted;
mod prediction;
mod queue;
mod surroundings;
mod types;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use line::Rank;
use queue::{Entry, Queue};

pub use estimator::{Estimator, Learned};
#[cfg(test)]
pub(crate) use order::OrderBug;
pub use order::{Leaves, Order};
pub use prediction::{Demand, predicted_p99};
pub use surroundings::{Cap, Outlook, Surroundings};
pub use types::{
    Accepted, Action, Batch, BatchId, Class, Limits, Refused, Rejected, RequestId, Rules, Waiting,
};

/// The most shapes whose run times are learned apart; the others share what is learned of all.
const MAX_ESTIMATES: usize = 64;

/// The most other shapes that are asked how much of theirs comes first.
const SHAPES_ASKED: usize = 16;

/// What of its time a request must have to spare when it arrives: a hundredth, 2 ms at most. The answer has a way back,
/// and who has been let in should not have to leave because a run before theirs took a little longer.
pub(crate) fn time_to_spare(left: Duration) -> Duration {
    (left / 100).min(Duration::from_millis(2))
}

/// A batch that an instance runs.
#[derive(Debug)]
struct Running<K> {
    id: BatchId,
    key: K,
    rows: usize,
    ends: Instant,
}

/// The waiting requests of one model. `K` orders shapes only where it must; any total order will do.
#[derive(Debug)]
pub struct Batcher<K, R> {
    rules: Rules,
    /// What runs take, whatever their shape.
    estimator: Estimator,
    /// What they take by shape, of the first [`MAX_ESTIMATES`] shapes.
    estimates: BTreeMap<K, Estimator>,
    queue: Queue<K, R>,
    /// One for each busy instance.
    running: Vec<Running<K>>,
    surroundings: Surroundings,
    /// How long the batch may take that is formed.
    cap: Option<Cap>,
    /// Requests that were put behind the others since the last poll.
    delayed: Vec<RequestId>,
    next_number: u64,
    next_batch: u64,
    closed: bool,
    #[cfg(test)]
    plant: Option<planted::Plant<R>>,
}

impl<K: Ord + Clone, R> Batcher<K, R> {
    /// An empty queue.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            estimator: Estimator::seeded(&rules.curve),
            rules,
            estimates: BTreeMap::new(),
            queue: Queue::new(RandomState::new().hash_one(())),
            running: Vec::new(),
            surroundings: Surroundings::default(),
            cap: None,
            delayed: Vec::new(),
            next_number: 0,
            next_batch: 0,
            closed: false,
            #[cfg(test)]
            plant: None,
        }
    }

    /// Queues a request that arrived at `now`.
    ///
    /// # Errors
    /// The reason, with the request, when it is not accepted.
    pub fn push(&mut self, waiting: Waiting<K, R>, now: Instant) -> Result<Accepted<R>, Refused<R>> {
        let Waiting { key, class, rows, bytes, deadline, lingers, request } = waiting;
        let rank = (deadline, self.next_number);
        let probe = match self.check(&key, (class, rows), rank, lingers, now) {
            Ok(probe) => probe,
            Err(reason) => return Err(Refused { reason, request }),
        };
        let displaced = match self.make_room(class, bytes) {
            Ok(displaced) => displaced,
            Err(reason) => return Err(Refused { reason, request }),
        };
        #[cfg(test)]
        self.plant_in_push();
        let rank = (deadline, self.next_number);
        self.next_number += 1;
        let entry = Entry { rank, rows, bytes, arrived: now, lingers, probe, request };
        let place = self.queue.insert(key, class, entry);
        Ok(Accepted { id: RequestId { number: rank.1, deadline, lingers, class, place }, displaced })
    }

    /// Whether the request may wait; `true` when it is let in to see whether what is foretold still holds.
    fn check(
        &self,
        key: &K,
        (class, rows): (Class, usize),
        rank: Rank,
        lingers: Duration,
        now: Instant,
    ) -> Result<bool, Rejected> {
        let deadline = rank.0;
        #[cfg(test)]
        if let Some(result) = self.plant_in_check(deadline, now) {
            return result;
        }
        if self.closed {
            return Err(Rejected::Closed);
        }
        if deadline <= now {
            return Err(Rejected::Expired);
        }
        if self.rules.class_sizes.get(&class).is_some_and(|most| self.queue.count_of(class) >= most.get()) {
            return Err(Rejected::QueueFull);
        }
        let (mut wait, mut left) = self.wait(key, (class, rows), rank, now);
        if wait > left && !lingers.is_zero() {
            (wait, left) = self.wait(key, (class, rows), (deadline + lingers, rank.1), now);
        }
        if wait <= left {
            return Ok(false);
        }
        let idle = self.queue.length == 0 && self.running.is_empty() && self.residual(now).is_zero();
        if idle && self.estimate(key).is_doubtful(left, now) {
            return Ok(true);
        }
        let run = self.estimate(key).bound(rows, now).saturating_add(time_to_spare(left));
        Err(if run > left { Rejected::TooShort { run } } else { Rejected::PredictedMiss { wait } })
    }

    /// What a request would wait from `now`, with what it must have to spare, and what it may.
    fn wait(&self, key: &K, (class, rows): (Class, usize), rank: Rank, now: Instant) -> (Duration, Duration) {
        let left = rank.0.saturating_duration_since(now);
        let wait = self.foretell(key, class, rows, rank, now).saturating_add(time_to_spare(left));
        #[cfg(test)]
        let wait = self.plant_in_foretold(wait);
        (wait, left)
    }

    /// Takes less urgent requests out of a full queue, when that makes room enough.
    fn make_room(&mut self, class: Class, bytes: usize) -> Result<Vec<R>, Rejected> {
        #[cfg(test)]
        let class = self.plant_in_displace(class);
        let mut displaced = Vec::new();
        let (staying, their_bytes) = self.queue.as_urgent_as(class);
        if let Some(reason) = self.is_full(staying, their_bytes, bytes) {
            return Err(reason);
        }
        while self.is_full(self.queue.length, self.queue.bytes, bytes).is_some() {
            displaced.push(self.displace(class).ok_or(Rejected::QueueFull)?);
        }
        Ok(displaced)
    }

    /// Why `bytes` more cannot wait beside so many requests of so many bytes.
    fn is_full(&self, length: usize, waiting: usize, bytes: usize) -> Option<Rejected> {
        #[cfg(test)]
        if self.plant_in_full(length) {
            return None;
        }
        let limits = &self.rules.limits;
        let too_many_bytes = waiting.checked_add(bytes).is_none_or(|bytes| bytes > limits.max_queue_bytes);
        if length >= limits.max_queue_size.get() {
            Some(Rejected::QueueFull)
        } else if too_many_bytes && length > 0 {
            // A lone request is let in whatever its size: the wire has its own limit, and refusing it for ever
            // with "try again later" would be a lie.
            Some(Rejected::QueueBytesFull)
        } else {
            None
        }
    }

    /// Takes the last of the least urgent class, if that is less urgent than `class`.
    fn displace(&mut self, class: Class) -> Option<R> {
        let (place, least, rank) = self.queue.least_urgent().filter(|&(_, least, _)| least > class)?;
        self.take(place, least, rank).map(|entry| entry.request)
    }

    /// Takes out what has expired at `now`, what cannot be in time any more, and, when an instance is free, the batch
    /// that it runs next.
    pub fn poll(&mut self, now: Instant, instance_free: bool) -> Action<R> {
        #[cfg(test)]
        if let Some(action) = self.plant_in_poll(now, instance_free) {
            return action;
        }
        let expired = self.expire(now);
        let mut shed = Vec::new();
        let batch = if instance_free { self.form(now, &mut shed) } else { None };
        Action { expired, shed, delayed: std::mem::take(&mut self.delayed), batch }
    }

    /// The batch that is served next.
    fn form(&mut self, now: Instant, shed: &mut Vec<R>) -> Option<Batch<R>> {
        loop {
            let (class, _, place) = self.first_ripe(now)?;
            if self.cap.is_some_and(|cap| cap.class != class) {
                return None;
            }
            #[cfg(test)]
            let (class, place) = self.plant_in_choice((class, place))?;
            if self.shed_hopeless(place, class, now, shed) {
                continue;
            }
            let key = self.queue.shape(place)?.key.clone();
            let cut = self.cut(place, class, now)?;
            let skipped = self.take_first(place, class, cut.shed);
            let mut entries = self.take_first(place, class, cut.take);
            self.fill(place, class, now, &mut entries);
            for entry in skipped {
                shed.extend(self.put_behind(&key, class, entry));
            }
            let batch = self.start(key, entries, now);
            #[cfg(test)]
            let batch = self.plant_in_batch(batch, place);
            return Some(batch);
        }
    }

    fn start(&mut self, key: K, entries: Vec<Entry<R>>, now: Instant) -> Batch<R> {
        let rows = entries.iter().fold(0_usize, |rows, entry| rows.saturating_add(entry.rows));
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        let ends = now + self.estimate(&key).predict(rows).min(Duration::from_secs(3600));
        self.running.push(Running { id, key, rows, ends });
        Batch { id, requests: entries.into_iter().map(|entry| entry.request).collect(), rows }
    }

    /// True unless the shape is kept waiting for more requests.
    fn is_ripe(&self, head: (Class, Rank, usize), now: Instant) -> bool {
        self.ripens(head, now).is_none_or(|at| at <= now)
    }

    /// When a shape is not kept waiting any more; `None` when it is not at all.
    fn ripens(&self, (class, rank, place): (Class, Rank, usize), now: Instant) -> Option<Instant> {
        if self.rules.max_delay.is_zero() {
            return None;
        }
        let shape = self.queue.shape(place)?;
        let rows: usize = shape.lines.values().map(|line| line.line.rows()).sum();
        let estimator = self.estimate(&shape.key);
        let preferred = self.rules.preferred_rows.first().copied();
        if self.closed || rows >= preferred.unwrap_or(usize::MAX).min(self.rules.limits.max_batch_rows.get())
        {
            return None;
        }
        let arrived = shape.lines.get(&class)?.line.get(rank)?.arrived;
        // Never so long that the first one misses its deadline by it.
        let latest = rank.0.checked_sub(estimator.bound(rows, now))?;
        Some((arrived + self.rules.max_delay).min(latest))
    }

    /// Gives up the first requests of a line that could not even be in time alone; true when there were any.
    fn shed_hopeless(&mut self, place: usize, class: Class, now: Instant, shed: &mut Vec<R>) -> bool {
        #[cfg(test)]
        if self.plant_in_shed() {
            return false;
        }
        let mut any = false;
        while let Some((key, entry)) = self.hopeless(place, class, now) {
            shed.extend(match key {
                Some(key) => self.put_behind(&key, class, entry),
                None => Some(entry.request),
            });
            any = true;
        }
        any
    }

    /// The first request of a line if it could not be in time alone, with its shape if it lingers.
    fn hopeless(&mut self, place: usize, class: Class, now: Instant) -> Option<(Option<K>, Entry<R>)> {
        let shape = self.queue.shape(place)?;
        let line = &shape.lines.get(&class)?.line;
        let rank = line.first()?;
        let entry = line.get(rank)?;
        let moment = self.moment(&shape.key, now);
        if entry.probe || moment.in_time(entry.rows, rank.0) {
            return None;
        }
        let key = (!entry.lingers.is_zero()).then(|| shape.key.clone());
        Some((key, self.take(place, class, rank)?))
    }

    fn cut(&self, place: usize, class: Class, now: Instant) -> Option<cut::Cut> {
        let shape = self.queue.shape(place)?;
        let line = &shape.lines.get(&class)?.line;
        let moment = self.moment(&shape.key, now);
        #[cfg(test)]
        if let Some(cut) = self.plant_in_cut(line, &moment) {
            return Some(cut);
        }
        if line.first().and_then(|rank| line.get(rank)).is_some_and(|entry| entry.probe) {
            return Some(cut::Cut { shed: 0, take: 1 });
        }
        let mut cut = moment.choose(line);
        // Of the sizes that the owner prefers, the largest that is there.
        let rows = line.rows_of_first(cut.shed + cut.take) - line.rows_of_first(cut.shed);
        if let Some(&size) = self.rules.preferred_rows.iter().rev().find(|&&size| size <= rows) {
            let until = line.count_within(line.rows_of_first(cut.shed).saturating_add(size));
            cut.take = until.saturating_sub(cut.shed).max(1);
        }
        Some(cut)
    }

    /// Adds less urgent requests of the same shape where the batch has room and all of it stays in time.
    fn fill(&mut self, place: usize, class: Class, now: Instant, entries: &mut Vec<Entry<R>>) {
        #[cfg(test)]
        if self.plant_in_fill(entries.len()) {
            return;
        }
        while let Some((class, rank)) = self.filler(place, class, now, entries) {
            match self.take(place, class, rank) {
                Some(entry) => entries.push(entry),
                None => break,
            }
        }
    }

    fn filler(
        &self,
        place: usize,
        class: Class,
        now: Instant,
        entries: &[Entry<R>],
    ) -> Option<(Class, Rank)> {
        let shape = self.queue.shape(place)?;
        // What is left of the class itself did not fit.
        if shape.lines.contains_key(&class)
            || !self.rules.preferred_rows.is_empty()
            || entries.iter().any(|entry| entry.probe)
        {
            return None;
        }
        let (&class, line) = shape.lines.first_key_value()?;
        let rank = line.line.first()?;
        let entry = line.line.get(rank)?;
        let rows = entries.iter().fold(entry.rows, |rows, entry| rows.saturating_add(entry.rows));
        let moment = self.moment(&shape.key, now);
        let earliest = entries.iter().map(|entry| entry.rank.0).min()?.min(rank.0);
        (rows <= moment.most_rows && moment.in_time(rows, earliest)).then_some((class, rank))
    }

    /// What runs of a shape take.
    fn estimate(&self, key: &K) -> &Estimator {
        self.estimates.get(key).unwrap_or(&self.estimator)
    }

    /// A batch has ended at `now`. `took` is what it ran; `None` when that says nothing of other runs, as after a
    /// failure.
    pub fn finish(&mut self, id: BatchId, took: Option<Duration>, now: Instant) {
        let Some(position) = self.running.iter().position(|running| running.id == id) else { return };
        let Running { key, rows, .. } = self.running.swap_remove(position);
        let Some(took) = took else { return };
        self.estimator.observe(rows, took, now);
        if let Some(estimate) = self.estimates.get_mut(&key) {
            estimate.observe(rows, took, now);
        } else if self.estimates.len() < MAX_ESTIMATES {
            self.estimates.insert(key, self.estimator.clone());
        }
    }

    fn take(&mut self, place: usize, class: Class, rank: Rank) -> Option<Entry<R>> {
        let entry = self.queue.take(place, class, rank)?;
        #[cfg(test)]
        self.plant_in_accounts(&entry);
        Some(entry)
    }

    fn take_first(&mut self, place: usize, class: Class, count: usize) -> Vec<Entry<R>> {
        let entries = self.queue.take_first(place, class, count);
        #[cfg(test)]
        for entry in &entries {
            self.plant_in_accounts(entry);
        }
        #[cfg(test)]
        self.plant_in_bytes(&entries);
        entries
    }

    /// Takes a request out of the queue because its caller has gone; `None` when it has left already.
    pub fn cancel(&mut self, id: RequestId) -> Option<R> {
        #[cfg(test)]
        if let std::ops::ControlFlow::Break(returned) = self.plant_in_cancel(id) {
            return returned;
        }
        let entry = self.take(id.place, id.class, (id.deadline, id.number));
        let is_behind = entry.is_none() && !id.lingers.is_zero();
        let behind = is_behind.then(|| (id.deadline + id.lingers, id.number));
        entry.or_else(|| self.take(id.place, id.class, behind?)).map(|entry| entry.request)
    }

    /// Takes everything that waits, in the order of arrival; later pushes are refused with [`Rejected::Closed`].
    pub fn close(&mut self) -> Vec<R> {
        self.closed = true;
        let entries = self.queue.clear();
        #[cfg(test)]
        let entries = self.plant_in_close(entries);
        entries.into_iter().map(|entry| entry.request).collect()
    }

    /// Refuses later pushes; what waits is still run.
    pub fn refuse_new(&mut self) {
        self.closed = true;
    }

    /// When to poll next if nothing else happens: at the earliest deadline, or when a shape that is kept waiting after
    /// `now` is not any more.
    #[must_use]
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        let deadline = self.queue.deadlines.first_key_value().map(|(rank, _)| rank.0);
        let ripens = self.queue.heads.iter().take(SHAPES_ASKED).filter_map(|&head| self.ripens(head, now));
        let ripens = ripens.filter(|&at| at > now).min();
        deadline.into_iter().chain(ripens).min()
    }

    /// True when a free instance would be given a batch at `now`.
    #[must_use]
    pub fn has_work(&self, now: Instant) -> bool {
        self.queue.heads.iter().any(|&head| self.is_ripe(head, now))
    }

    /// The waiting requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.length
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.length == 0
    }

    /// The input bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.queue.bytes
    }
}

#[cfg(test)]
mod tests;
