//! The models of a server: where they are found, what state each version is in, how that changes.
//!
//! A version's states: unknown → loading → ready → unloading → unloaded, or failed with its reason; an unloaded or
//! failed one is loaded again. A model that failed does not stop the others.
//!
//! An `Arc<Model>` is the lease that a request holds on its version while it is answered. A version that is unloaded
//! or replaced is leased no more at once, goes on answering whoever holds a lease, and is given back on a thread of its
//! own when the last lease is gone: memory, threads, descriptors.
//!
//! Invariants: one change of a model at a time; a load is published at one moment, and what served before serves until
//! then; a load that fails takes nothing away; what the index says has happened.

mod answers;
mod calm;
mod control;
mod counters;
mod events;
mod examine;
mod follow;
mod host_memory;
mod keeper;
mod model;
mod overrides;
mod packing;
mod reaper;
mod recall;
mod residents;
mod scan;
mod sequencer;
mod source;
mod table;
mod ticket;
mod turns;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::config::{ControlMode, Device, Metrics, ServerConfig, granted_cores};
use crate::error::{Error, ErrorKind, Result};
use crate::import::ModelCache;
use crate::lanes::Lanes;
use crate::metrics::Registry;
use crate::response_cache::CacheReport;
use crate::scheduler::{Host, Timer};
use answers::Responses;
use keeper::Keeping;
use reaper::Reaper;
use residents::Residents;
use source::Source;
use table::Table;
use turns::Turns;

pub(crate) use events::Events;
pub use examine::{Examined, examine};
pub(crate) use follow::{Look, Watcher};
pub(crate) use keeper::{keep, rest};
pub use model::Model;
pub use overrides::{LoadOverrides, MAX_CONFIG_BYTES, MAX_FILE_BYTES, MAX_FILES};
pub use residents::{ResidencyReport, Resident};
pub use scan::{Found, check_name, scan, scan_model, scan_model_with};
pub use ticket::{Ticket, Wake};

/// What is known of a version.
#[derive(Clone)]
pub enum State {
    /// It is being read, probed and warmed up.
    Loading,
    /// The next request succeeds.
    Ready(Arc<Model>),
    /// It takes nothing new and answers what it has taken.
    Unloading,
    /// It was unloaded, and what it held has been given back.
    Unloaded,
    /// It cannot be served.
    Failed(Arc<Error>),
}

impl State {
    /// The name in the protocol's repository index.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Loading => "LOADING",
            Self::Ready(_) => "READY",
            Self::Unloading => "UNLOADING",
            Self::Unloaded | Self::Failed(_) => "UNAVAILABLE",
        }
    }

    /// Why it is not ready, where its name does not say so.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Failed(error) => Some(error.message().to_owned()),
            Self::Unloaded => Some("unloaded".to_owned()),
            Self::Loading | Self::Ready(_) | Self::Unloading => None,
        }
    }
}

/// A version of a model and its state.
#[derive(Clone)]
pub struct Entry {
    /// The model.
    pub name: String,
    /// The version.
    pub version: u64,
    /// What is known of it.
    pub state: State,
}

/// The state of a model that is in the repository and was never loaded.
pub const UNKNOWN: &str = "UNKNOWN";

/// A line of the protocol's repository index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The model.
    pub name: String,
    /// The version; `None` for a model that was never loaded.
    pub version: Option<u64>,
    /// `LOADING`, `READY`, `UNLOADING`, `UNAVAILABLE`, or [`UNKNOWN`], which the wire leaves out as Triton does.
    pub state: &'static str,
    /// Why it is unavailable (`unloaded`, or what failed), or why the last load of a version that is ready failed.
    pub reason: Option<String>,
}

/// The models of one server.
pub struct ModelRepository {
    table: Arc<Table>,
    turns: Turns,
    source: Source,
    config: ServerConfig,
    /// What is kept of models from load to load.
    cache: ModelCache,
    host: Host,
    /// Versions that were loaded or tried.
    loads: AtomicU64,
    /// Which models stay loaded, in mode `auto`.
    keeping: Option<Keeping>,
    metrics: Registry,
    /// The answers that are kept of models whose owners ask for that.
    responses: Arc<Responses>,
    /// Last, so that it gives back what the others drop.
    reaper: Reaper,
}

impl ModelRepository {
    /// Opens `path` and enters what is to be loaded at start, as loading; [`ModelRepository::load_announced`] loads it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`](crate::ErrorKind) when the path cannot be read;
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind) or [`ErrorKind::ModelNotFound`](crate::ErrorKind) when a
    /// setting does not fit what is there; [`ErrorKind::Internal`](crate::ErrorKind) when a thread cannot be started.
    pub fn open(path: &Path, config: ServerConfig) -> Result<(Self, Vec<Found>)> {
        let (source, found) = Source::open(path, &config)?;
        let table = Arc::new(Table::default());
        if config.control == ControlMode::Auto {
            let residents = Residents::open(&table, &found, &config);
            table.tell_departures({
                let residents = Arc::downgrade(&residents);
                move |place| {
                    if let Some(residents) = residents.upgrade() {
                        residents.has_left(place);
                    }
                }
            });
            let keeping = Some(Keeping(residents));
            let repository = Self::new(table, source, config, keeping)?;
            repository.enter_found(&found);
            return Ok((repository, Vec::new()));
        }
        for versions in found.chunk_by(|one, next| one.name == next.name) {
            if let Some(first) = versions.first() {
                table.begin(&first.name, versions)?;
            }
        }
        Ok((Self::new(table, source, config, None)?, found))
    }

    fn new(
        table: Arc<Table>,
        source: Source,
        config: ServerConfig,
        keeping: Option<Keeping>,
    ) -> Result<Self> {
        // A GPU runs one batch at a time.
        let least = if config.model.device == Device::Cpu { granted_cores() } else { NonZeroUsize::MIN };
        let lanes = Lanes::new(config.lanes, least);
        let library = config.runtime_library.as_deref();
        let cache = ModelCache::open(&config.model_cache, &config.load_check, library);
        Ok(Self {
            table,
            turns: Turns::default(),
            source,
            metrics: Registry::new(config.metrics == Metrics::On),
            responses: Arc::new(Responses::new(config.response_cache.0)),
            config,
            cache,
            host: Host { timer: Timer::start()?, lanes },
            loads: AtomicU64::new(0),
            keeping,
            reaper: Reaper::start()?,
        })
    }

    /// The folders in which a change can change a model.
    pub(crate) fn folders(&self) -> BTreeSet<PathBuf> {
        self.source.folders()
    }

    /// Every version that was ever to be loaded, by name and number.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.table.entries()
    }

    /// As [`InferenceServer::index`](crate::server::InferenceServer::index).
    #[must_use]
    pub fn index(&self, only_ready: bool) -> Vec<IndexEntry> {
        let mut index = self.table.index();
        if only_ready {
            index.retain(|entry| entry.state == "READY");
            return index;
        }
        let mut names = self.source.names().unwrap_or_else(|error| {
            tracing::warn!(cause = error.cause(), "the index lists only what was loaded: {error}");
            BTreeSet::new()
        });
        for entry in &index {
            names.remove(&entry.name);
        }
        index.extend(names.into_iter().map(|name| IndexEntry {
            name,
            version: None,
            state: UNKNOWN,
            reason: None,
        }));
        index.sort_by(|one, other| (&one.name, one.version).cmp(&(&other.name, other.version)));
        index
    }

    /// What the response cache holds and has counted.
    #[must_use]
    pub fn response_cache(&self) -> CacheReport {
        self.responses.report()
    }

    /// Who decides what is loaded.
    #[must_use]
    pub fn control_mode(&self) -> ControlMode {
        self.config.control
    }

    /// The versions that should be ready and are not, each with whether it is loading.
    #[must_use]
    pub fn unready(&self) -> Vec<(String, u64, bool)> {
        // What is loaded when it is asked for is not meant to be there.
        if self.keeping.is_some() {
            return Vec::new();
        }
        self.table.unready()
    }

    /// The versions that were loaded or tried since the start; a reload counts again.
    #[must_use]
    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::Relaxed)
    }

    /// A lease on a version that is ready: `version`, or the newest. An empty name is the only model.
    ///
    /// # Errors
    /// [`ErrorKind::ModelNotFound`](crate::ErrorKind) for a name or version that was never loaded,
    /// [`ErrorKind::ModelNotReady`](crate::ErrorKind) for one that is loading, unloading, unloaded or failed, and in mode
    /// `auto` for one that nobody has asked for.
    pub fn lease(&self, name: &str, version: Option<u64>) -> Result<Arc<Model>> {
        self.table.lease(name, version).map_err(|error| match self.residents() {
            Some(residents) if error.kind() == ErrorKind::ModelNotFound && !name.is_empty() => {
                residents.not_loaded(name, version)
            }
            _ => error,
        })
    }

    /// The versions of a model that are ready, ascending.
    #[must_use]
    pub fn ready_versions(&self, name: &str) -> Vec<u64> {
        self.table.ready_versions(name)
    }

    /// Refuses loads and unloads, answers what each model has accepted and stops its instances; `limit` bounds the
    /// wait for all together.
    pub fn close(&self, limit: Duration) {
        self.turns.close();
        if let Some(keeping) = &self.keeping {
            keeping.0.close();
        }
        self.cache.close();
        let end = Instant::now() + limit;
        for model in self.table.close() {
            model.close(end.saturating_duration_since(Instant::now()));
        }
    }

    /// Waits until nothing is loaded or unloaded, for `limit` at most; false when something still is.
    pub fn finish_loads(&self, limit: Duration) -> bool {
        self.turns.wait_for_none(limit)
    }
}

#[cfg(test)]
mod tests;
