//! Which counters a request counts in, and which versions have some.

use std::sync::Arc;

use super::residents::Residents;
use super::{Found, ModelRepository};
use crate::metrics::{ModelMetrics, Observed, Protocol, Series};

/// So many more versions may have counters than are known, before those of the others are forgotten.
const SLACK: usize = 64;

impl ModelRepository {
    /// Counts a request that has come by `protocol` for a model, and for a version of it unless it leaves that open;
    /// `None` where it does not say for which model.
    pub fn observe(&self, protocol: Protocol, name: Option<&str>, version: Option<u64>) -> Observed {
        let ready = name.and_then(|name| self.table.find(name, version));
        let metrics = match ready {
            Some(model) => model.metrics().map(Arc::clone),
            None => self.metrics.of(name, version),
        };
        Observed::begin(metrics, protocol)
    }

    /// Every version's counters, by name and number, those of requests for unknown models last.
    #[must_use]
    pub fn series(&self) -> Vec<Series> {
        self.metrics.series()
    }

    /// Counts for versions that were found and are loaded by their first requests, which count for them.
    pub(super) fn enter_found(&self, found: &[Found]) {
        for Found { name, version, .. } in found {
            let _ = self.metrics.enter(name, *version);
        }
    }

    /// The counters of a version that is to be loaded. It is in the table already, whose bounds hold for them too.
    pub(super) fn counters_of(&self, name: &str, version: u64) -> Option<Arc<ModelMetrics>> {
        let resident = |name: &str| self.residents().is_some_and(|residents| residents.knows(name));
        let known = self.table.len() + self.residents().map_or(0, Residents::count);
        if self.metrics.len() > known + SLACK {
            self.metrics.retain(|name, version| self.table.knows(name, version) || resident(name));
        }
        self.metrics.enter(name, version)
    }
}
