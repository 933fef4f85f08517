//! What other models on the device mean for one model's queue: when it may run, for how long, and what it may count on.
//!
//! Whoever chooses between models tells it, and asks what the queue would run next. A queue that is told nothing has
//! the device to itself.

use std::time::{Duration, Instant};

use super::cut::Moment;
use super::line::Rank;
use super::queue::Shape;
use super::{Action, Batcher, Class, Estimator, SHAPES_ASKED};

/// What a queue may count on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Surroundings {
    /// When the device is free for the model's next run; `None` when it is.
    pub free_at: Option<Instant>,
    /// The part of its instances that the device can run on average, more than 0 to 1.
    pub share: f64,
    /// As [`Cap::run`], for what arrives.
    pub cap: Option<Duration>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { free_at: None, share: 1.0, cap: None }
    }
}

/// How long the batch may take that is formed next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    /// The class that it is for; where another one's turn has come, nothing is formed.
    pub class: Class,
    /// What its run may take, but for rare ones; one request is run whatever it takes. `None` is any time.
    pub run: Option<Duration>,
}

/// What a free instance would run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Its class.
    pub class: Class,
    /// When it must start to be in time.
    pub latest: Instant,
    /// What its run takes, but for rare ones.
    pub run: Duration,
}

impl<K: Ord + Clone, R> Batcher<K, R> {
    /// Tells what the device leaves to this queue from now on.
    pub fn surround(&mut self, surroundings: Surroundings) {
        self.surroundings = surroundings;
    }

    /// What it was told last.
    #[must_use]
    pub fn surroundings(&self) -> Surroundings {
        self.surroundings
    }

    /// What a free instance would be given at `now`; `None` when nothing is to run.
    #[must_use]
    pub fn outlook(&self, now: Instant) -> Option<Outlook> {
        let (class, rank, place) = self.first_ripe(now)?;
        let shape = self.queue.shape(place)?;
        let estimator = self.estimate(&shape.key);
        let waiting = shape.lines.get(&class).map_or(1, |line| line.line.rows());
        let rows = self.most_rows(estimator, now).min(waiting);
        let run = estimator.bound(rows, now);
        Some(Outlook { class, latest: rank.0.checked_sub(run).unwrap_or(now), run })
    }

    /// As [`Batcher::poll`] for a free instance, with a batch whose run takes no longer than `cap` says.
    pub fn poll_within(&mut self, cap: Cap, now: Instant) -> Action<R> {
        self.cap = Some(cap);
        let action = self.poll(now, true);
        self.cap = None;
        action
    }

    /// The part of the device's time that a row takes when it runs with others, in seconds.
    #[must_use]
    pub fn work_of_row(&self) -> f64 {
        1.0 / self.estimator.rate(self.rules.limits.max_batch_rows.get())
    }

    /// What is served next.
    pub(super) fn first_ripe(&self, now: Instant) -> Option<(Class, Rank, usize)> {
        self.queue.heads.iter().copied().find(|head| self.is_ripe(*head, now))
    }

    /// The most rows of a batch that runs no longer than it may.
    pub(super) fn most_rows(&self, estimator: &Estimator, now: Instant) -> usize {
        let most = self.rules.limits.max_batch_rows.get();
        let cap = match self.cap {
            Some(cap) => cap.run,
            None => self.surroundings.cap,
        };
        #[cfg(test)]
        let cap = self.plant_in_cap(cap);
        cap.map_or(most, |cap| estimator.rows_within(cap, most, now).max(1))
    }

    pub(super) fn moment(&self, key: &K, now: Instant) -> Moment<'_> {
        let estimator = self.estimate(key);
        let most_rows = self.most_rows(estimator, now);
        Moment { now, estimator, most_rows, instances: self.usable_instances() }
    }

    /// How many instances the device can run on average.
    pub(super) fn usable_instances(&self) -> f64 {
        self.rules.instances.max(1) as f64 * self.surroundings.share
    }

    /// From `now` to the answer of a request that would arrive, when all goes well.
    pub(super) fn foretell(&self, key: &K, class: Class, rows: usize, rank: Rank, now: Instant) -> Duration {
        let ahead = self.work(key, self.rows_ahead(class, rank), now);
        let run = self.estimate(key).bound(rows, now);
        self.residual(now).saturating_add(ahead).saturating_add(run)
    }

    /// From `now` until an instance is free that may run.
    #[must_use]
    pub fn residual(&self, now: Instant) -> Duration {
        let busy = self.running.len() >= self.rules.instances;
        let first_free = if busy { self.running.iter().map(|running| running.ends).min() } else { None };
        let free = first_free.max(self.surroundings.free_at);
        free.map_or(Duration::ZERO, |free| free.saturating_duration_since(now))
    }

    /// How long the instances take for `rows` rows of a shape in full batches, but for rare runs.
    #[must_use]
    pub fn work(&self, key: &K, rows: usize, now: Instant) -> Duration {
        let estimator = self.estimate(key);
        let most = self.most_rows(estimator, now);
        let batches = rows as f64 / most as f64 / self.usable_instances();
        let seconds = estimator.bound(most, now).as_secs_f64() * batches;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// The rows that are served before `rank` of `class`.
    fn rows_ahead(&self, class: Class, rank: Rank) -> usize {
        let heads = self.queue.heads.iter().take_while(|head| (head.0, head.1) < (class, rank));
        let shapes = heads.take(SHAPES_ASKED).filter_map(|head| self.queue.shape(head.2));
        let ahead = |shape: &Shape<K, R>| -> usize {
            let lines = shape.lines.range(..=class);
            lines
                .map(|(&of, line)| if of < class { line.line.rows() } else { line.line.before(rank).1 })
                .sum()
        };
        shapes.map(ahead).sum()
    }
}
