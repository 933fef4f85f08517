//! The counters of every version that a server knows, and of the requests whose model it does not.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::requests::ModelMetrics;

/// The model and version under which requests are counted whose model is unknown. No model can be called so.
pub const UNKNOWN: &str = "-";

/// The counters of a version.
#[derive(Clone, Debug)]
pub struct Series {
    /// The model; `None` for requests whose model is unknown.
    pub model: Option<(String, u64)>,
    /// Its counters.
    pub metrics: Arc<ModelMetrics>,
}

type Models = BTreeMap<String, BTreeMap<u64, Arc<ModelMetrics>>>;

/// Counters by version. Only who loads models enters them, so that no client can.
#[derive(Debug)]
pub struct Registry {
    is_on: bool,
    models: RwLock<Models>,
    unknown: Arc<ModelMetrics>,
}

impl Registry {
    /// Empty; one that is not on counts nothing.
    #[must_use]
    pub fn new(is_on: bool) -> Self {
        Self { is_on, models: RwLock::default(), unknown: Arc::default() }
    }

    /// The counters of a version that is to be loaded; `None` when nothing is counted.
    pub(crate) fn enter(&self, name: &str, version: u64) -> Option<Arc<ModelMetrics>> {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let metrics = || Arc::clone(models.entry(name.to_owned()).or_default().entry(version).or_default());
        self.is_on.then(metrics)
    }

    /// Forgets versions that `is_known` does not know.
    pub(crate) fn retain(&self, is_known: impl Fn(&str, u64) -> bool) {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        for (name, versions) in models.iter_mut() {
            versions.retain(|&version, _| is_known(name, version));
        }
        models.retain(|_, versions| !versions.is_empty());
    }

    /// How many versions have counters.
    pub(crate) fn len(&self) -> usize {
        self.models.read().unwrap_or_else(PoisonError::into_inner).values().map(BTreeMap::len).sum()
    }

    /// The counters for a request to a version that is not ready: its own, the newest's for `None`, or those of requests
    /// whose model is unknown. `None` when nothing is counted.
    #[must_use]
    pub fn of(&self, name: Option<&str>, version: Option<u64>) -> Option<Arc<ModelMetrics>> {
        if !self.is_on {
            return None;
        }
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let versions = name.and_then(|name| models.get(name));
        let found = versions.and_then(|versions| match version {
            Some(version) => versions.get(&version),
            None => versions.values().next_back(),
        });
        Some(Arc::clone(found.unwrap_or(&self.unknown)))
    }

    /// Every version's counters, by name and number, those of unknown models last. Empty when nothing is counted.
    #[must_use]
    pub fn series(&self) -> Vec<Series> {
        if !self.is_on {
            return Vec::new();
        }
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let mut series = Vec::new();
        for (name, versions) in models.iter() {
            series.extend(versions.iter().map(|(&version, metrics)| Series {
                model: Some((name.clone(), version)),
                metrics: Arc::clone(metrics),
            }));
        }
        series.push(Series { model: None, metrics: Arc::clone(&self.unknown) });
        series
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Code, Observed, Outcome, Protocol};
    use super::*;

    #[test]
    fn requests_make_no_series() {
        let registry = Registry::new(true);
        registry.enter("m", 1).unwrap();
        registry.enter("m", 2).unwrap();
        for (name, version) in [("m", Some(3)), ("x", None), ("y", Some(1)), ("", None)] {
            Observed::begin(registry.of(Some(name), version), Protocol::Http).end(Code::http(404), 0);
        }
        Observed::begin(registry.of(None, None), Protocol::Http).end(Code::http(400), 0);
        Observed::begin(registry.of(Some("m"), None), Protocol::Http).end(Code::http(200), 0);
        let counted: Vec<_> = registry
            .series()
            .into_iter()
            .map(|series| (series.model, series.metrics.snapshot().count(Outcome::Answered)))
            .collect();
        assert_eq!(counted, [(Some(("m".to_owned(), 1)), 0), (Some(("m".to_owned(), 2)), 1), (None, 5)]);
    }

    #[test]
    fn counters_stay_while_their_version_is_known() {
        let registry = Registry::new(true);
        let first = registry.enter("m", 1).unwrap();
        assert!(Arc::ptr_eq(&first, &registry.enter("m", 1).unwrap()), "a reload goes on counting");
        registry.enter("gone", 7).unwrap();
        assert_eq!(registry.len(), 2);
        registry.retain(|name, _| name == "m");
        assert_eq!(registry.len(), 1);
        assert!(Arc::ptr_eq(&first, &registry.of(Some("m"), None).unwrap()));
    }

    #[test]
    fn what_is_off_counts_nothing() {
        let registry = Registry::new(false);
        assert!(registry.enter("m", 1).is_none());
        assert!(registry.of(Some("m"), None).is_none());
        assert!(registry.series().is_empty());
        assert!(!Observed::begin(None, Protocol::Http).is_counted());
    }
}
