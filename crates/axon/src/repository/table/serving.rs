//! What residency reads of the table, and what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::{Model, State};
use super::{Place, Table};

impl Table {
    /// Has `listener` told of each version that has been given back; the first is the only one.
    pub fn tell_departures(&self, listener: impl Fn(&Place) + Send + Sync + 'static) {
        let _ = self.departures.set(Box::new(listener));
    }

    /// The versions of a model that are ready, with the generation of each.
    pub fn serving(&self, name: &str) -> Vec<(Arc<Model>, u64)> {
        let rows = self.read();
        let versions = rows.models.get(name).into_iter().flatten();
        versions
            .filter_map(|(_, version)| match &version.state {
                State::Ready(model) => Some((Arc::clone(model), version.generation)),
                _ => None,
            })
            .collect()
    }

    /// The requests that these generations of a model have answered or refused, as long as they are ready.
    pub fn asked(&self, name: &str, generations: &BTreeSet<u64>) -> u64 {
        let rows = self.read();
        let versions = rows.models.get(name).into_iter().flat_map(BTreeMap::values);
        let ready = versions.filter(|version| generations.contains(&version.generation));
        ready
            .filter_map(|version| match &version.state {
                State::Ready(model) => {
                    let counters = model.statistics();
                    Some(counters.success.read().0 + counters.fail.read().0)
                }
                _ => None,
            })
            .sum()
    }
}
