//! What the queue knows, for whoever chooses between models, plans, or explains.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use super::{Batcher, Class, Estimator, Rules};

impl<K: Ord + Clone, R> Batcher<K, R> {
    /// No batch is formed that is foretold to run longer, so that other models on the device keep their limits.
    pub fn limit_runs(&mut self, longest: Option<Duration>) {
        self.longest = longest;
    }

    /// What has been learned of the model's runs.
    #[must_use]
    pub fn estimator(&self) -> &Estimator {
        &self.estimator
    }

    /// How long what waits will keep the instances busy.
    #[must_use]
    pub fn backlog(&self) -> Duration {
        let rows = self.queue.rows;
        let rate = self.estimator.rate(self.most_rows(&self.estimator)) * self.rules.instances as f64;
        Duration::try_from_secs_f64(rows as f64 / rate).unwrap_or(Duration::MAX)
    }

    /// Rows that the instances run in a second at best, of a shape.
    #[must_use]
    pub fn rate(&self, key: &K) -> f64 {
        let estimator = self.estimate(key);
        estimator.rate(self.most_rows(estimator)) * self.rules.instances as f64
    }

    /// Rows that the instances run in a second at best.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        self.estimator.rate(self.most_rows(&self.estimator)) * self.rules.instances as f64
    }

    /// What has been learned of the runs of a shape.
    #[must_use]
    pub fn estimator_of(&self, key: &K) -> &Estimator {
        self.estimate(key)
    }

    /// The rules it was made with.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Changes the most rows that are run together.
    pub fn set_max_batch_rows(&mut self, rows: NonZeroUsize) {
        self.rules.limits.max_batch_rows = rows;
    }

    /// When the request that is served next must start to be in time, and its class; for a choice between models.
    #[must_use]
    pub fn urgency(&self) -> Option<(Class, Instant)> {
        let &(class, (deadline, _), place) = self.queue.heads.first()?;
        let shape = self.queue.shape(place)?;
        let run = self.estimate(&shape.key).bound(1);
        Some((class, deadline.checked_sub(run).unwrap_or(deadline)))
    }
}
