//! The engine's face: load models, ask them, close.
//!
//! ```no_run
//! # async fn example() -> axon::Result<()> {
//! # let input_tensor = axon::Tensor::from_vec(&[1, 64], vec![0.0_f32; 64]).expect("64 values");
//! let server = axon::server::InferenceServer::load("model.onnx").await?;
//! let outputs = server.infer(&input_tensor).await?;
//! # drop(outputs);
//! # Ok(())
//! # }
//! ```

mod resident;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::config::{ControlMode, ServerConfig};
use crate::error::{Error, Result};
use crate::metrics::{Observed, Protocol, Series};
use crate::report::ModelReport;
use crate::repository::{
    Entry, Events, Found, IndexEntry, LoadOverrides, Look, Model, ModelRepository, Ticket, Watcher, keep,
};
use crate::request::{InferenceRequest, InferenceResponse};
use crate::response_cache::CacheReport;
use crate::signature::Signature;
use resident::waited;

/// How long [`InferenceServer::close`] waits for what has been accepted.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// Serves models to callers in this process. A clone is another handle on the same server.
#[derive(Clone)]
pub struct InferenceServer {
    inner: Arc<Inner>,
}

struct Inner {
    repository: ModelRepository,
    /// All models that were found have been tried.
    loaded: AtomicBool,
    /// No longer ready; what is on its way is still taken.
    stopping: AtomicBool,
    /// Nothing is taken any more.
    closed: AtomicBool,
    /// Follows the repository, where that is asked for.
    watcher: Mutex<Option<Watcher>>,
}

/// What a model takes and gives, as the protocol's metadata.
#[derive(Clone, Debug)]
pub struct ModelMetadata {
    /// The model.
    pub name: String,
    /// The version that was asked for, else all that are ready.
    pub versions: Vec<u64>,
    /// What runs it, as `onnxruntime_onnx`.
    pub platform: &'static str,
    /// The inputs and outputs.
    pub signature: Signature,
}

/// Why the server is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// It is shutting down.
    Stopping,
    /// Models are being loaded.
    Loading,
    /// These models could not be loaded.
    Failed(Vec<String>),
}

impl InferenceServer {
    /// Loads one model file, or all models of a folder, and waits until they are ready.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`](crate::ErrorKind) when the path is not there or a model cannot be served.
    pub async fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::load_with(path, ServerConfig::default()).await
    }

    /// Like [`InferenceServer::load`], with settings.
    ///
    /// # Errors
    /// As for [`InferenceServer::load`].
    pub async fn load_with(path: impl AsRef<Path>, config: ServerConfig) -> Result<Self> {
        let path = path.as_ref().to_owned();
        in_a_thread(move || Self::load_blocking(&path, config)).await?
    }

    /// Opens a folder of models and waits until each has been tried. A model that cannot be served does not stop the
    /// others; asking it gives the reason.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`](crate::ErrorKind) when the folder cannot be read.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, ServerConfig::default()).await
    }

    /// Like [`InferenceServer::open`], with settings.
    ///
    /// # Errors
    /// As for [`InferenceServer::open`].
    pub async fn open_with(path: impl AsRef<Path>, config: ServerConfig) -> Result<Self> {
        let path = path.as_ref().to_owned();
        in_a_thread(move || Self::open_blocking(&path, config)).await?
    }

    /// Like [`InferenceServer::load_with`], on this thread.
    ///
    /// # Errors
    /// As for [`InferenceServer::load`].
    pub fn load_blocking(path: &Path, config: ServerConfig) -> Result<Self> {
        let (server, found) = Self::announce(path, config)?;
        for model in by_model(&found) {
            if let Some(error) = server.load_found(model, found.len() == 1).into_iter().next() {
                return Err(error);
            }
        }
        server.inner.loaded.store(true, Ordering::Release);
        Ok(server)
    }

    /// Like [`InferenceServer::open_with`], on this thread.
    ///
    /// # Errors
    /// As for [`InferenceServer::open`].
    pub fn open_blocking(path: &Path, config: ServerConfig) -> Result<Self> {
        let (server, found) = Self::announce(path, config)?;
        for error in server.load_all(&found) {
            tracing::error!(cause = error.cause(), "a model is not served: {error}");
        }
        Ok(server)
    }

    /// Finds the models at `path` and enters those that are loaded at start as loading; [`InferenceServer::load_all`]
    /// loads them.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`](crate::ErrorKind) when the path cannot be read, and as for a wrong setting.
    pub fn announce(path: &Path, config: ServerConfig) -> Result<(Self, Vec<Found>)> {
        let (control, interval) = (config.control, config.poll_interval);
        let (repository, found) = ModelRepository::open(path, config)?;
        let inner = Inner {
            repository,
            loaded: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            watcher: Mutex::default(),
        };
        let server = Self { inner: Arc::new(inner) };
        if let Some(kept) = server.inner.repository.kept() {
            let inner = Arc::downgrade(&server.inner);
            keep(kept, move || inner.upgrade())?;
        }
        if matches!(control, ControlMode::Poll | ControlMode::Auto) {
            server.follow(interval.0)?;
        }
        Ok((server, found))
    }

    /// Starts to follow the repository. The thread holds the server only while it looks.
    fn follow(&self, interval: Duration) -> Result<()> {
        let mut changes = self.inner.repository.changes();
        let inner = Arc::downgrade(&self.inner);
        let look = move |events: &mut Events| {
            let Some(inner) = inner.upgrade().filter(|inner| !inner.stopping.load(Ordering::Acquire)) else {
                return Look::Over;
            };
            if !inner.loaded.load(Ordering::Acquire) {
                return Look::Moving;
            }
            // Before the look, so that nothing happens unseen between the two.
            events.watch(&inner.repository.folders());
            if inner.repository.follow(&mut changes) { Look::Moving } else { Look::Still }
        };
        let watcher = Watcher::start(interval, look)?;
        *self.inner.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
        Ok(())
    }

    /// Loads what was found, one model after the other; failures become the models' states, and are returned to be
    /// told.
    #[must_use = "the server is not ready while models fail"]
    pub fn load_all(&self, found: &[Found]) -> Vec<Error> {
        let to_load = by_model(found).take_while(|_| !self.is_stopping());
        let failed = to_load.flat_map(|model| self.load_found(model, found.len() == 1)).collect();
        self.inner.loaded.store(true, Ordering::Release);
        failed
    }

    /// Loads the versions of one model; the error of one of several says which it is about.
    fn load_found(&self, versions: &[Found], is_lone: bool) -> Vec<Error> {
        let Some(Found { name, .. }) = versions.first() else { return Vec::new() };
        let failed = self.inner.repository.load_announced(name, versions).into_iter();
        let tell = |(version, error): (u64, Error)| {
            if is_lone { error } else { error.within(format_args!("model `{name}` version {version}")) }
        };
        failed.map(tell).collect()
    }

    /// Loads a model from the repository as it is now, or loads it again. Only in
    /// [`ControlMode::Explicit`](crate::config::ControlMode::Explicit). Blocks for as long as that takes: not for an
    /// event loop.
    ///
    /// What serves already goes on until every version has loaded, and answers then what it has taken. A load that
    /// comes while the same load is under way gets that one's answer. Versions that are no longer in the repository
    /// are unloaded. When a version fails, nothing that served is taken away.
    ///
    /// # Errors
    /// [`ErrorKind::ModelNotReady`](crate::ErrorKind) at `model_control` in another mode;
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind) or [`ErrorKind::RequestTooLarge`](crate::ErrorKind) for a name
    /// or an override that is wrong; [`ErrorKind::ModelNotFound`](crate::ErrorKind) when the repository does not hold
    /// it; [`ErrorKind::InvalidModel`](crate::ErrorKind) when it cannot be served;
    /// [`ErrorKind::Overloaded`](crate::ErrorKind) when too many loads wait.
    pub fn load_model(&self, name: &str, overrides: LoadOverrides) -> Result<()> {
        self.inner.repository.load_model(name, overrides)
    }

    /// Unloads every version of a model. Only in [`ControlMode::Explicit`](crate::config::ControlMode::Explicit).
    /// Returns once new requests are refused, which waits for a load of the same model; what has been taken is answered
    /// and the model given back afterwards, which the index shows.
    ///
    /// No model of this server depends on another, so `unload_dependents` changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::ModelNotReady`](crate::ErrorKind) at `model_control` in another mode;
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind) for a name that is wrong;
    /// [`ErrorKind::ModelNotFound`](crate::ErrorKind) for one that is neither loaded nor in the repository;
    /// [`ErrorKind::Overloaded`](crate::ErrorKind) when too many loads wait.
    pub fn unload_model(&self, name: &str, unload_dependents: bool) -> Result<()> {
        let _ = unload_dependents;
        self.inner.repository.unload_model(name)
    }

    /// Every model: each version that was to be loaded and its state, and the names of those that are in the repository
    /// and never were. Reads the repository's folder, except for `only_ready`.
    #[must_use]
    pub fn index(&self, only_ready: bool) -> Vec<IndexEntry> {
        self.inner.repository.index(only_ready)
    }

    /// The versions that were loaded or tried since the start; a reload counts again.
    #[must_use]
    pub fn loads(&self) -> u64 {
        self.inner.repository.loads()
    }

    /// Waits until no model is being loaded, for `limit` at most; false when one still is. For a shutdown, after
    /// [`InferenceServer::close`]: a process must not end while ONNX Runtime loads.
    #[must_use]
    pub fn finish_loads(&self, limit: Duration) -> bool {
        self.inner.repository.finish_loads(limit)
    }

    /// Asks a model. Dropping the future takes the request out of the queue.
    ///
    /// # Errors
    /// Any [`ErrorKind`](crate::ErrorKind); the message names the field that is wrong.
    pub async fn infer(&self, request: impl Into<InferenceRequest>) -> Result<InferenceResponse> {
        let mut request = request.into();
        let observed = self.observe_in_process(&request);
        let (model, load) = match self.load_first(&mut request).await {
            Ok((model, load)) => (Ok(model), load),
            Err(error) => (Err(error), Duration::ZERO),
        };
        let (sender, receiver) = oneshot::channel();
        let ticket = submit_counted(observed, model, request, move |answer| drop(sender.send(answer)))?;
        ticket.finish(receiver).await.map(|response| waited(response, load))
    }

    /// Queues a request; [`Ticket::wake`] or [`Ticket::finish`] then has it run. `reply` is called once with the
    /// answer and must not block: on another thread, or before this returns where the answer was kept.
    ///
    /// # Errors
    /// When the request is refused at arrival; `reply` is then not called.
    pub fn submit(
        &self,
        request: InferenceRequest,
        reply: impl FnOnce(Result<InferenceResponse>) + Send + 'static,
    ) -> Result<Ticket> {
        let observed = self.observe_in_process(&request);
        submit_counted(observed, self.lease(&request), request, reply)
    }

    fn observe_in_process(&self, request: &InferenceRequest) -> Observed {
        let mut observed = self.observe(Protocol::InProcess, Some(&request.model), request.version);
        observed.arrive(request.input_bytes());
        observed
    }

    /// A lease on the model of a request, while requests are taken.
    fn lease(&self, request: &InferenceRequest) -> Result<Arc<Model>> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(Error::shutting_down());
        }
        self.inner.repository.lease(&request.model, request.version)
    }

    /// Counts a request that has come by `protocol` for a model, and for a version of it unless it leaves that open;
    /// `None` where it does not say for which model.
    pub fn observe(&self, protocol: Protocol, name: Option<&str>, version: Option<u64>) -> Observed {
        self.inner.repository.observe(protocol, name, version)
    }

    /// Every version's counters, by name and number, those of requests for unknown models last. Empty when metrics are
    /// off.
    #[must_use]
    pub fn series(&self) -> Vec<Series> {
        self.inner.repository.series()
    }

    /// What the response cache holds and has counted, of all models together.
    #[must_use]
    pub fn response_cache(&self) -> CacheReport {
        self.inner.repository.response_cache()
    }

    /// Every version and its state, by name.
    #[must_use]
    pub fn models(&self) -> Vec<Entry> {
        self.inner.repository.entries()
    }

    /// A lease on a version that is ready; an empty name is the only model.
    ///
    /// # Errors
    /// [`ErrorKind::ModelNotFound`](crate::ErrorKind) or [`ErrorKind::ModelNotReady`](crate::ErrorKind).
    pub fn model(&self, name: &str, version: Option<u64>) -> Result<Arc<Model>> {
        self.inner.repository.lease(name, version)
    }

    /// What a model takes and gives.
    ///
    /// # Errors
    /// As for [`InferenceServer::model`].
    pub fn metadata(&self, name: &str, version: Option<u64>) -> Result<ModelMetadata> {
        let model = self.model(name, version)?;
        let versions = match version {
            Some(version) => vec![version],
            None => self.inner.repository.ready_versions(model.name()),
        };
        Ok(ModelMetadata {
            name: model.name().to_owned(),
            versions,
            platform: model.platform(),
            signature: model.signature().clone(),
        })
    }

    /// What was measured and chosen when a model was loaded.
    ///
    /// # Errors
    /// As for [`InferenceServer::model`].
    pub fn report(&self, name: &str, version: Option<u64>) -> Result<ModelReport> {
        Ok(ModelReport::new(&*self.model(name, version)?))
    }

    /// `Ok` when the server takes requests and every version that is meant to be loaded is ready. One that was unloaded
    /// is not meant to be; while an earlier load of a model serves, neither is what a later one failed to load.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self) -> Result<(), NotReady> {
        if self.is_stopping() {
            return Err(NotReady::Stopping);
        }
        if !self.inner.loaded.load(Ordering::Acquire) {
            return Err(NotReady::Loading);
        }
        let (loading, failed): (Vec<_>, Vec<_>) =
            self.inner.repository.unready().into_iter().partition(|(_, _, is_loading)| *is_loading);
        if !failed.is_empty() {
            let failed = failed.into_iter().map(|(name, version, _)| format!("{name} version {version}"));
            return Err(NotReady::Failed(failed.collect()));
        }
        if loading.is_empty() { Ok(()) } else { Err(NotReady::Loading) }
    }

    /// Who decides what is loaded.
    #[must_use]
    pub fn control_mode(&self) -> ControlMode {
        self.inner.repository.control_mode()
    }

    /// The versions that are meant to be loaded and are not, each with whether it is being loaded.
    #[must_use]
    pub fn unready(&self) -> Vec<(String, u64, bool)> {
        self.inner.repository.unready()
    }

    /// True from [`InferenceServer::stop`] on.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.inner.stopping.load(Ordering::Acquire)
    }

    /// Is no longer ready; requests are still taken until [`InferenceServer::close`], for those on their way.
    pub fn stop(&self) {
        self.inner.stopping.store(true, Ordering::Release);
    }

    /// Stops, answers what has been accepted (for [`DRAIN_LIMIT`] at most), stops what still runs then and joins every
    /// thread of the models. Blocks; closing twice does nothing more.
    pub fn close(&self) {
        self.close_within(DRAIN_LIMIT);
    }

    /// Like [`InferenceServer::close`], for whoever has waited already: what has been accepted is answered for `limit` at
    /// most.
    pub fn close_within(&self, limit: Duration) {
        self.stop();
        self.inner.closed.store(true, Ordering::Release);
        drop(self.inner.watcher.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.inner.repository.close(limit);
    }
}

/// Queues a request of a caller in this process for `model`, and has it counted how it ends.
fn submit_counted(
    observed: Observed,
    model: Result<Arc<Model>>,
    request: InferenceRequest,
    reply: impl FnOnce(Result<InferenceResponse>) + Send + 'static,
) -> Result<Ticket> {
    if !observed.is_counted() {
        return model?.submit(request, reply);
    }
    let observed = observed.share();
    let answering = observed.clone();
    let answer = move |answer: Result<InferenceResponse>| {
        match &answer {
            Ok(response) => answering.answer(response.timing, response.output_bytes()),
            Err(error) => answering.refuse(error),
        }
        reply(answer);
    };
    model.and_then(|model| model.submit(request, answer)).inspect_err(|error| observed.refuse(error))
}

/// What was found, model by model.
fn by_model(found: &[Found]) -> impl Iterator<Item = &[Found]> {
    found.chunk_by(|one, next| one.name == next.name)
}

/// Runs slow work on a thread of its own, so that no thread of the caller's runtime is blocked.
async fn in_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    let run = move || drop(sender.send(work()));
    std::thread::Builder::new().name("axon-loader".to_owned()).spawn(run).map_err(Error::internal)?;
    receiver.await.map_err(Error::internal)
}
