//! What the residents are told of the repository's files: what is there, what has changed, what is gone.

use std::time::Instant;

use super::refusal::not_loaded;
use super::{Desk, Residents, file_bytes, foretold, wishes};
use crate::error::Error;
use crate::repository::scan::Found;
use crate::repository::table::{model_not_found, version_not_found};
use crate::residency::{ModelId, Place};

impl Residents {
    /// A model that is not loaded has come or changed: what is foretold of it is foretold anew, and it may be tried at
    /// once. Does nothing when too many are known; it is looked up when it is asked for.
    pub fn changed(&self, found: &[Found]) {
        let now = Instant::now();
        let mut desk = self.lock();
        if let Some(id) = desk.enter(found, now) {
            desk.residency.changed(id, foretold(found.iter().map(file_bytes).sum()));
            desk.failures.remove(&id);
        }
        drop(desk);
        self.changed.notify_all();
    }

    /// A model is no longer in the repository, and was unloaded. One that is on its way again is forgotten when its load
    /// fails.
    pub fn gone(&self, name: &str) {
        let mut desk = self.lock();
        if let Some(&id) = desk.ids.get(name) {
            desk.residency.retire(id);
            desk.release();
            desk.forget(name, id);
        }
        drop(desk);
        self.changed.notify_all();
    }

    /// Whether a version of a model may be there; false for one that was not when the repository was last looked at.
    pub fn may_have(&self, name: &str, version: u64) -> bool {
        let desk = self.lock();
        let versions = desk.ids.get(name).and_then(|id| desk.versions.get(id));
        versions.is_none_or(|versions| versions.contains(&version))
    }

    /// Whether a model is being loaded, so that nobody knows which of its files are read.
    pub fn is_loading(&self, name: &str) -> bool {
        let desk = self.lock();
        let view = desk.ids.get(name).and_then(|&id| desk.residency.view(id, Instant::now()));
        view.is_some_and(|view| matches!(view.place, Place::Loading { .. }))
    }

    /// Why a model that was never loaded cannot be leased: it is loaded when it is asked for an answer, or is not here.
    pub fn not_loaded(&self, name: &str, version: Option<u64>) -> Error {
        let desk = self.lock();
        let Some(versions) = desk.ids.get(name).and_then(|id| desk.versions.get(id)) else {
            return model_not_found(name, desk.ids.keys());
        };
        match version.filter(|version| !versions.contains(version)) {
            Some(version) => version_not_found(name, version, versions.iter()),
            None => not_loaded(name),
        }
    }
}

impl Desk {
    /// Enters a model; `None` when there are too many.
    pub(super) fn enter(&mut self, versions: &[Found], now: Instant) -> Option<ModelId> {
        let first = versions.first()?;
        let id = self.number(&first.name)?;
        self.versions.insert(id, versions.iter().map(|found| found.version).collect());
        let hints = wishes(&first.configuration);
        if self.residency.view(id, now).is_none() {
            self.residency.add(id, foretold(versions.iter().map(file_bytes).sum()), hints, now);
        }
        self.wish(id, hints);
        Some(id)
    }

    /// Forgets a model that is not there; false when it is.
    pub(super) fn forget(&mut self, name: &str, id: ModelId) -> bool {
        let is_gone = self.residency.remove(id);
        if is_gone {
            self.ids.remove(name);
            self.names.remove(&id);
            self.failures.remove(&id);
            self.wishes.remove(&id);
            self.versions.remove(&id);
        }
        is_gone
    }
}
