//! What is known of each version, and the one place where that changes.
//!
//! A request reads it for a lease; a load or unload writes it for a few lines, never while it loads or closes a model.

mod serving;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use super::scan::Found;
use super::{Entry, IndexEntry, Model, State};
use crate::error::{Echo, Error, ErrorKind, Result, echo_names};
use crate::reason::Reason;

/// The most models that a server knows of.
const MAX_MODELS: usize = 10_000;

/// The most versions of a model that are remembered, and serve nothing.
const MAX_PAST_VERSIONS: usize = 64;

/// A version that was loaded, among all that ever were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub name: String,
    pub version: u64,
    /// Another for each load, so that what has left is not taken for what has come since.
    pub generation: u64,
}

/// A version that was tried.
pub(super) struct Tried {
    pub version: u64,
    /// The model and the generation of its [`Place`].
    pub outcome: Result<(Model, u64)>,
}

struct Version {
    state: State,
    /// The server is ready only when this version is.
    wanted: bool,
    generation: u64,
    /// Why the last load changed nothing, while an earlier one goes on serving.
    trouble: Option<Arc<Error>>,
}

impl Version {
    fn new(state: State, wanted: bool) -> Self {
        Self { state, wanted, generation: 0, trouble: None }
    }

    fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// Is leased no more; returns what it was.
    fn retire(&mut self) -> Option<Arc<Model>> {
        self.wanted = false;
        self.trouble = None;
        let state = match self.state {
            State::Ready(_) | State::Unloading => State::Unloading,
            State::Loading | State::Failed(_) | State::Unloaded => State::Unloaded,
        };
        match std::mem::replace(&mut self.state, state) {
            State::Ready(model) => Some(model),
            _ => None,
        }
    }

    fn reason(&self) -> Option<String> {
        match (&self.state, &self.trouble) {
            (State::Ready(_), Some(trouble)) => {
                Some(format!("an earlier load goes on serving, the last one failed: {}", trouble.message()))
            }
            (state, _) => state.reason(),
        }
    }
}

type Versions = BTreeMap<u64, Version>;

type Listener = Box<dyn Fn(&Place) + Send + Sync>;

#[derive(Default)]
struct Rows {
    models: BTreeMap<String, Versions>,
    /// Models that are no longer in `models` and may still have leases.
    leaving: Vec<Weak<Model>>,
    closed: bool,
}

impl Rows {
    /// Remembers what has no place any more until its last lease is gone.
    fn leave(&mut self, leaving: &[Arc<Model>]) {
        self.leaving.retain(|model| model.strong_count() > 0);
        self.leaving.extend(leaving.iter().map(Arc::downgrade));
    }

    /// Makes room for another model: what was unloaded is forgotten when there are too many.
    fn make_room(&mut self, name: &str) -> Result<()> {
        if self.models.contains_key(name) || self.models.len() < MAX_MODELS {
            return Ok(());
        }
        let is_unloaded = |version: &Version| matches!(version.state, State::Unloaded);
        self.models.retain(|_, versions| !versions.values().all(is_unloaded));
        if self.models.len() < MAX_MODELS {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Overloaded,
            format!("model {}: the server holds {MAX_MODELS} models, which is the most", Echo(name)),
        ))
    }
}

/// All versions of all models.
#[derive(Default)]
pub(super) struct Table {
    rows: RwLock<Rows>,
    /// Told of each version that has been given back whole.
    departures: OnceLock<Listener>,
}

impl Table {
    fn read(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rows> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters what was found of one model as loading, except where it serves already.
    ///
    /// # Errors
    /// [`ErrorKind::ShuttingDown`] once closed, [`ErrorKind::Overloaded`] when there are too many models.
    pub fn begin(&self, name: &str, found: &[Found]) -> Result<()> {
        let mut rows = self.write();
        if rows.closed {
            return Err(Error::shutting_down());
        }
        rows.make_room(name)?;
        let versions = rows.models.entry(name.to_owned()).or_default();
        let wanted = !versions.values().any(Version::is_ready);
        for one in found {
            let version = versions.entry(one.version).or_insert_with(|| Version::new(State::Loading, wanted));
            if version.is_ready() {
                continue;
            }
            version.wanted = wanted;
            version.state = match &one.path {
                Ok(_) => State::Loading,
                Err(error) => State::Failed(Arc::new(error.clone())),
            };
        }
        Ok(())
    }

    /// Publishes a load of one model at one moment and returns the versions that failed.
    ///
    /// While nothing of the model serves, each version is on its own. Where something serves, either every version
    /// that was tried loads, and takes the place of what there was, or nothing changes except what the index says.
    pub fn publish(&self, name: &str, tried: Vec<Tried>) -> Vec<(u64, Error)> {
        let failure = |one: &Tried| Some((one.version, one.outcome.as_ref().err()?.clone()));
        let failed: Vec<_> = tried.iter().filter_map(failure).collect();
        let mut rows = self.write();
        if rows.closed {
            drop(rows);
            return tried.iter().take(1).map(|one| (one.version, Error::shutting_down())).collect();
        }
        let versions = rows.models.entry(name.to_owned()).or_default();
        let is_kept = !failed.is_empty() && versions.values().any(Version::is_ready);
        let mut leaving = Vec::new();
        if is_kept {
            keep(versions, tried);
        } else {
            leaving = replace(versions, tried);
        }
        forget_past(versions);
        rows.leave(&leaving);
        drop(rows);
        // Without the lock: the last lease on a model may be among these.
        forget_answers(&leaving);
        drop(leaving);
        failed
    }

    /// True when a model serves, or was unloaded: what was found at start is not to be loaded any more.
    pub fn is_settled(&self, name: &str) -> bool {
        let rows = self.read();
        let Some(versions) = rows.models.get(name) else { return false };
        let is_past = |version: &Version| matches!(version.state, State::Unloading | State::Unloaded);
        versions.values().any(Version::is_ready) || versions.values().all(is_past)
    }

    /// Refuses new leases on a model; `None` when it was never loaded, else what was ready.
    pub fn retire(&self, name: &str) -> Option<Vec<Arc<Model>>> {
        let mut rows = self.write();
        let versions = rows.models.get_mut(name)?;
        let leaving: Vec<_> = versions.values_mut().filter_map(Version::retire).collect();
        rows.leave(&leaving);
        drop(rows);
        forget_answers(&leaving);
        Some(leaving)
    }

    /// A model has been given back whole.
    pub fn has_left(&self, place: &Place) {
        self.note_left(place);
        if let Some(listener) = self.departures.get() {
            listener(place);
        }
    }

    fn note_left(&self, place: &Place) {
        let mut rows = self.write();
        let versions = rows.models.get_mut(&place.name);
        let Some(version) = versions.and_then(|versions| versions.get_mut(&place.version)) else { return };
        if version.generation == place.generation && matches!(version.state, State::Unloading) {
            version.state = State::Unloaded;
        }
    }

    /// Publishes nothing more; returns every model that may still have leases.
    pub fn close(&self) -> Vec<Arc<Model>> {
        let mut rows = self.write();
        rows.closed = true;
        let ready =
            rows.models.values().flat_map(BTreeMap::values).filter_map(|version| match &version.state {
                State::Ready(model) => Some(Arc::clone(model)),
                _ => None,
            });
        ready.chain(rows.leaving.iter().filter_map(Weak::upgrade)).collect()
    }

    /// Every version, by name and number.
    pub fn entries(&self) -> Vec<Entry> {
        let rows = self.read();
        let mut entries = Vec::new();
        for (name, versions) in &rows.models {
            entries.extend(versions.iter().map(|(&version, known)| Entry {
                name: name.clone(),
                version,
                state: known.state.clone(),
            }));
        }
        entries
    }

    /// Every version as the protocol's index says it.
    pub fn index(&self) -> Vec<IndexEntry> {
        let rows = self.read();
        let mut index = Vec::new();
        for (name, versions) in &rows.models {
            index.extend(versions.iter().map(|(&version, known)| IndexEntry {
                name: name.clone(),
                version: Some(version),
                state: known.state.name(),
                reason: known.reason(),
            }));
        }
        index
    }

    /// The versions that should be ready and are not, with whether they are loading.
    pub fn unready(&self) -> Vec<(String, u64, bool)> {
        let rows = self.read();
        let mut unready = Vec::new();
        for (name, versions) in &rows.models {
            let missing = versions.iter().filter(|(_, version)| version.wanted && !version.is_ready());
            unready.extend(
                missing
                    .map(|(&version, known)| (name.clone(), version, matches!(known.state, State::Loading))),
            );
        }
        unready
    }

    /// As [`ModelRepository::lease`](super::ModelRepository::lease).
    pub fn lease(&self, name: &str, version: Option<u64>) -> Result<Arc<Model>> {
        let rows = self.read();
        let (name, versions) = find_model(&rows.models, name)?;
        let Some(version) = version else {
            let ready = versions.values().rev().find_map(|version| match &version.state {
                State::Ready(model) => Some(Arc::clone(model)),
                _ => None,
            });
            return match (ready, versions.last_key_value()) {
                (Some(model), _) => Ok(model),
                (None, Some((version, known))) => {
                    let reason = Reason::NoReadyVersion(name.to_owned());
                    Err(not_ready(name, *version, &known.state).because(reason))
                }
                (None, None) => Err(model_not_found(name, rows.models.keys())),
            };
        };
        match versions.get(&version).map(|version| &version.state) {
            Some(State::Ready(model)) => Ok(Arc::clone(model)),
            Some(state) => {
                let reason = Reason::VersionNotReady(name.to_owned(), version);
                Err(not_ready(name, version, state).because(reason))
            }
            None => Err(version_not_found(name, version, versions.keys())),
        }
    }

    /// The version that [`Table::lease`] would lease; `None` where it would fail.
    pub fn find(&self, name: &str, version: Option<u64>) -> Option<Arc<Model>> {
        let rows = self.read();
        let versions = match name {
            "" => find_model(&rows.models, name).ok()?.1,
            _ => rows.models.get(name)?,
        };
        let ready = |version: &Version| match &version.state {
            State::Ready(model) => Some(Arc::clone(model)),
            _ => None,
        };
        match version {
            Some(version) => versions.get(&version).and_then(ready),
            None => versions.values().rev().find_map(ready),
        }
    }

    /// Whether a version was ever to be loaded and is not forgotten.
    pub fn knows(&self, name: &str, version: u64) -> bool {
        self.read().models.get(name).is_some_and(|versions| versions.contains_key(&version))
    }

    /// How many versions are known.
    pub fn len(&self) -> usize {
        self.read().models.values().map(BTreeMap::len).sum()
    }

    /// The versions of a model that are ready, ascending.
    pub fn ready_versions(&self, name: &str) -> Vec<u64> {
        let rows = self.read();
        let Some(versions) = rows.models.get(name) else { return Vec::new() };
        versions.iter().filter(|(_, version)| version.is_ready()).map(|(version, _)| *version).collect()
    }

    /// That a model is not here, as [`Table::lease`] says it.
    pub fn not_found(&self, name: &str) -> Error {
        model_not_found(name, self.read().models.keys())
    }
}

/// Puts what was loaded in the place of what there was, which is returned.
fn replace(versions: &mut Versions, tried: Vec<Tried>) -> Vec<Arc<Model>> {
    let leaving: Vec<Arc<Model>> = versions.values_mut().filter_map(Version::retire).collect();
    for Tried { version, outcome } in tried {
        let known = versions.entry(version).or_insert_with(|| Version::new(State::Loading, true));
        known.wanted = true;
        known.state = match outcome {
            Ok((model, generation)) => {
                known.generation = generation;
                State::Ready(Arc::new(model))
            }
            Err(error) => State::Failed(Arc::new(error)),
        };
    }
    leaving
}

/// Drops the answers that are kept of models that are leased no more.
fn forget_answers(leaving: &[Arc<Model>]) {
    leaving.iter().filter_map(|model| model.answers()).for_each(|answers| answers.forget());
}

/// Notes what failed where an earlier load goes on serving.
fn keep(versions: &mut Versions, tried: Vec<Tried>) {
    for Tried { version, outcome } in tried {
        let Some(known) = versions.get_mut(&version) else { continue };
        match outcome {
            Err(error) if known.is_ready() => known.trouble = Some(Arc::new(error)),
            Err(error) => known.state = State::Failed(Arc::new(error)),
            // Loaded for nothing, since another version failed.
            Ok(_) if !known.is_ready() => known.state = State::Unloaded,
            Ok(_) => {}
        }
    }
}

/// Forgets the oldest versions that serve nothing when there are too many.
fn forget_past(versions: &mut Versions) {
    let is_past = |version: &Version| matches!(version.state, State::Unloaded);
    let past: Vec<u64> =
        versions.iter().filter(|(_, version)| is_past(version)).map(|(version, _)| *version).collect();
    for version in past.iter().take(past.len().saturating_sub(MAX_PAST_VERSIONS)) {
        versions.remove(version);
    }
}

fn find_model<'a>(models: &'a BTreeMap<String, Versions>, name: &'a str) -> Result<(&'a str, &'a Versions)> {
    if name.is_empty() {
        let is_past = |version: &Version| matches!(version.state, State::Unloading | State::Unloaded);
        let mut all = models.iter().filter(|(_, versions)| !versions.values().all(is_past));
        return match (all.next(), all.next()) {
            (Some((name, versions)), None) => Ok((name, versions)),
            (None, _) => Err(Error::new(ErrorKind::ModelNotFound, "the server has no models")),
            (Some(_), Some(_)) => Err(Error::invalid(
                "model_name",
                format_args!("expected one of {}, got none", echo_names(models.keys().map(String::as_str))),
            )),
        };
    }
    let versions = models.get(name).ok_or_else(|| model_not_found(name, models.keys()))?;
    Ok((name, versions))
}

/// That a model is not here, as [`Table::lease`] says it.
pub(super) fn model_not_found<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Error {
    let known = echo_names(known.map(String::as_str));
    Error::new(ErrorKind::ModelNotFound, format!("model {} is not here; expected one of {known}", Echo(name)))
        .with_field("model_name")
        .because(Reason::UnknownModel(name.to_owned()))
}

fn not_ready(name: &str, version: u64, state: &State) -> Error {
    let reason = state.reason().map(|reason| format!(": {reason}")).unwrap_or_default();
    let error = Error::new(
        ErrorKind::ModelNotReady,
        format!("model {} version {version} is not ready: state {}{reason}", Echo(name), state.name()),
    );
    match state {
        State::Loading => error.with_retry_after(Duration::from_secs(1)),
        _ => error,
    }
}

/// That a version is not here, as [`Table::lease`] says it.
pub(super) fn version_not_found<'a>(name: &str, version: u64, known: impl Iterator<Item = &'a u64>) -> Error {
    let known: Vec<String> = known.map(u64::to_string).collect();
    let known = echo_names(known.iter().map(String::as_str));
    Error::new(
        ErrorKind::ModelNotFound,
        format!("version {version} of model {} is not here; expected one of {known}", Echo(name)),
    )
    .with_field("model_version")
    .because(Reason::UnknownVersion(name.to_owned(), version))
}

#[cfg(test)]
mod tests;
