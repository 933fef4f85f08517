//! What the queue knows, for whoever chooses between models, plans, or explains.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::{Batcher, Demand, Estimator, Rules};

impl<K: Ord + Clone, R> Batcher<K, R> {
    /// What has been learned of the model's runs.
    #[must_use]
    pub fn estimator(&self) -> &Estimator {
        &self.estimator
    }

    /// How long what waits will keep the instances busy.
    #[must_use]
    pub fn backlog(&self) -> Duration {
        let seconds = self.queue.rows as f64 / self.capacity();
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// Rows that the instances run in a second at best, on the part of the device that is left to them.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        self.estimator.rate(self.rules.limits.max_batch_rows.get()) * self.usable_instances()
    }

    /// How `rows_per_second` rows that come in requests of `request_rows` are met.
    #[must_use]
    pub fn demand(&self, rows_per_second: f64, request_rows: f64) -> Demand {
        let max_batch_rows = self.rules.limits.max_batch_rows.get();
        Demand { rows_per_second, request_rows, instances: self.usable_instances(), max_batch_rows }
    }

    /// What has been learned of the runs of a shape.
    #[must_use]
    pub fn estimator_of(&self, key: &K) -> &Estimator {
        self.estimate(key)
    }

    /// Changes the most rows that are run together.
    pub fn set_max_batch_rows(&mut self, rows: NonZeroUsize) {
        self.rules.limits.max_batch_rows = rows;
    }

    /// The rules it was made with.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }
}
