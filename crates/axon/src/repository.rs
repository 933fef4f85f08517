//! The models of a server: where they are found, what state each version is in.
//!
//! A version's states: unknown → loading → ready, or failed with its reason. A model that failed does not stop the
//! others; the server is ready when every version is.
//!
//! An `Arc<Model>` is the lease that a request holds on its version while it is answered.

mod model;
mod scan;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::config::ServerConfig;
use crate::error::{Echo, Error, ErrorKind, Result, echo_names};
use crate::onnx::load_library;
use crate::scheduler::Timer;

pub use model::{Model, Plan, Ticket};
pub use scan::{Found, check_name, scan};

/// What is known of a version.
#[derive(Clone)]
pub enum State {
    /// It is being read, probed and warmed up.
    Loading,
    /// The next request succeeds.
    Ready(Arc<Model>),
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
            Self::Failed(_) => "UNAVAILABLE",
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

type Versions = BTreeMap<u64, State>;

/// The models of one server.
pub struct ModelRepository {
    models: RwLock<BTreeMap<String, Versions>>,
    config: ServerConfig,
    timer: Arc<Timer>,
}

impl ModelRepository {
    /// An empty repository whose models will all be run as `config` says.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when its timer thread cannot be started.
    pub fn new(config: ServerConfig) -> Result<Self> {
        Ok(Self { models: RwLock::default(), config, timer: Timer::start()? })
    }

    /// Enters what was found, as loading.
    pub fn announce(&self, found: &[Found]) {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        for Found { name, version, path } in found {
            let state = match path {
                Ok(_) => State::Loading,
                Err(error) => State::Failed(Arc::new(error.clone())),
            };
            models.entry(name.clone()).or_default().insert(*version, state);
        }
    }

    /// Loads one version and publishes it; the error is kept as its state too.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`] with the reason.
    pub fn load(&self, name: &str, version: u64, path: &Path) -> Result<()> {
        let started = Instant::now();
        let loaded = load_library(self.config.runtime_library.as_deref())
            .and_then(|()| Model::load(name, version, path, &self.config.model, &self.timer));
        let (state, outcome) = match loaded {
            Ok(model) => {
                tracing::info!(
                    model = name,
                    version,
                    milliseconds = started.elapsed().as_millis(),
                    batchable = %model.findings().batchable,
                    "loaded a model"
                );
                (State::Ready(Arc::new(model)), Ok(()))
            }
            Err(error) => (State::Failed(Arc::new(error.clone())), Err(error)),
        };
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        models.entry(name.to_owned()).or_default().insert(version, state);
        outcome
    }

    /// Every version, by name and number.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let entry = |name: &String, (&version, state): (&u64, &State)| Entry {
            name: name.clone(),
            version,
            state: state.clone(),
        };
        models
            .iter()
            .flat_map(|(name, versions)| versions.iter().map(|version| entry(name, version)))
            .collect()
    }

    /// A lease on a version that is ready: `version`, or the newest. An empty name is the only model.
    ///
    /// # Errors
    /// [`ErrorKind::ModelNotFound`] for a name or version that is not here, [`ErrorKind::ModelNotReady`] for one that
    /// is loading or failed.
    pub fn lease(&self, name: &str, version: Option<u64>) -> Result<Arc<Model>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let (name, versions) = find_model(&models, name)?;
        let Some(version) = version else {
            let ready = versions.values().rev().find_map(|state| match state {
                State::Ready(model) => Some(Arc::clone(model)),
                _ => None,
            });
            return match (ready, versions.last_key_value()) {
                (Some(model), _) => Ok(model),
                (None, Some((version, state))) => Err(not_ready(name, *version, state)),
                (None, None) => Err(model_not_found(name, models.keys())),
            };
        };
        match versions.get(&version) {
            Some(State::Ready(model)) => Ok(Arc::clone(model)),
            Some(state) => Err(not_ready(name, version, state)),
            None => {
                let known = echo_versions(versions);
                Err(Error::new(
                    ErrorKind::ModelNotFound,
                    format!("version {version} of model {} is not here; expected one of {known}", Echo(name)),
                )
                .with_field("model_version"))
            }
        }
    }

    /// The versions of a model that are ready, ascending.
    #[must_use]
    pub fn ready_versions(&self, name: &str) -> Vec<u64> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let Some(versions) = models.get(name) else { return Vec::new() };
        let ready = versions.iter().filter(|(_, state)| matches!(state, State::Ready(_)));
        ready.map(|(version, _)| *version).collect()
    }

    /// Answers what each model has accepted and stops its instances; `limit` bounds the wait for all together.
    pub fn close(&self, limit: Duration) {
        let end = Instant::now() + limit;
        for entry in self.entries() {
            if let State::Ready(model) = entry.state {
                model.close(end.saturating_duration_since(Instant::now()));
            }
        }
    }
}

fn find_model<'a>(models: &'a BTreeMap<String, Versions>, name: &'a str) -> Result<(&'a str, &'a Versions)> {
    if name.is_empty() {
        let mut all = models.iter();
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

fn model_not_found<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Error {
    let known = echo_names(known.map(String::as_str));
    Error::new(ErrorKind::ModelNotFound, format!("model {} is not here; expected one of {known}", Echo(name)))
        .with_field("model_name")
}

fn not_ready(name: &str, version: u64, state: &State) -> Error {
    let reason = match state {
        State::Failed(error) => format!(": {}", error.message()),
        _ => String::new(),
    };
    let error = Error::new(
        ErrorKind::ModelNotReady,
        format!("model {} version {version} is not ready: state {}{reason}", Echo(name), state.name()),
    );
    match state {
        State::Failed(_) => error,
        _ => error.with_retry_after(Duration::from_secs(1)),
    }
}

fn echo_versions(versions: &Versions) -> String {
    let versions: Vec<String> = versions.keys().map(u64::to_string).collect();
    echo_names(versions.iter().map(String::as_str))
}
