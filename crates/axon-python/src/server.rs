//! The engine's handle, and the server process behind `axon serve`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axon::config::{LoadCheckConfig, ModelCacheConfig, PollInterval, ResponseCacheSize, ServerConfig};
use axon::repository::{State, Ticket};
use axon::request::{InferenceRequest, InferenceResponse};
use axon::server::InferenceServer;
use axon::{Error, ErrorKind, Result};
use axon_server::tls::TlsFiles;
use axon_server::trace::TraceOptions;
use axon_server::{ServeOptions, WireOptions, logging, serve_until_signal};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::completions::Completions;
use crate::detached;
use crate::errors::{IntoPyResult, NativeError, to_native};
use crate::tensors::{NativeInput, inputs, outputs, release_buffers};

/// How often a blocking call looks for a signal such as Ctrl-C.
const SIGNAL_CHECK: Duration = Duration::from_millis(100);

/// Servers that are open, for [`close_all`].
static OPEN: Mutex<Vec<Weak<Handle>>> = Mutex::new(Vec::new());

struct Handle {
    server: InferenceServer,
    /// A forked child has the memory of the server but not its threads.
    process: u32,
    /// Accepted requests of event loops, by token, so that they can be cancelled.
    /// `None` while one is being submitted; its answer may come before it has been.
    tickets: Mutex<HashMap<u64, Option<Ticket>>>,
}

impl Handle {
    fn tickets(&self) -> MutexGuard<'_, HashMap<u64, Option<Ticket>>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }

    fn submit(
        &self,
        request: InferenceRequest,
        reply: impl FnOnce(Result<InferenceResponse>) + Send + 'static,
    ) -> Result<Ticket> {
        if self.is_forked() {
            return Err(Error::new(
                ErrorKind::Internal,
                "the server belongs to the parent of this forked process\nhint: load the model after the fork",
            ));
        }
        self.server.submit(request, reply)
    }

    fn close(&self) {
        // A child has none of the threads to join, and perhaps a lock as one of them held it.
        if !self.is_forked() {
            self.server.close();
        }
    }
}

/// Settings as `axon.config` passes them on.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct NativeConfig {
    name: Option<String>,
    max_batch_size: Option<NonZeroUsize>,
    max_queue_size: Option<NonZeroUsize>,
    request_timeout_s: f64,
    latency_target_s: Option<f64>,
    batching: String,
    instances: Option<NonZeroUsize>,
    lanes: Option<NonZeroUsize>,
    profile: String,
    device: String,
    runtime_library: Option<PathBuf>,
    control: String,
    load_models: Vec<String>,
    memory_budget: Option<u64>,
    eviction_policy: String,
    repository_poll_s: u64,
    load_check: String,
    load_check_s: u64,
    load_check_bytes: Option<u64>,
    load_check_command: Vec<OsString>,
    model_cache: bool,
    model_cache_folder: Option<PathBuf>,
    model_cache_bytes: u64,
    quick_load: bool,
    response_cache_bytes: usize,
}

impl NativeConfig {
    pub(crate) fn parse(self) -> Result<ServerConfig> {
        let mut config = ServerConfig {
            name: self.name,
            runtime_library: self.runtime_library,
            control: self.control.parse().map_err(|problem| Error::invalid("model_control_mode", problem))?,
            load_models: self.load_models,
            memory_budget: self.memory_budget,
            eviction_policy: self
                .eviction_policy
                .parse()
                .map_err(|problem| Error::invalid("eviction_policy", problem))?,
            lanes: self.lanes,
            poll_interval: PollInterval(Duration::from_secs(self.repository_poll_s)),
            load_check: LoadCheckConfig {
                mode: self.load_check.parse().map_err(|problem| Error::invalid("load_check", problem))?,
                command: self.load_check_command,
                time: Duration::from_secs(self.load_check_s),
                memory: self.load_check_bytes,
                records: None,
            },
            model_cache: ModelCacheConfig {
                is_on: self.model_cache,
                folder: self.model_cache_folder,
                max_bytes: self.model_cache_bytes,
                quick_load: self.quick_load,
                ..ModelCacheConfig::default()
            },
            response_cache: ResponseCacheSize(self.response_cache_bytes),
            ..ServerConfig::default()
        };
        let model = &mut config.model;
        model.max_batch_size = self.max_batch_size;
        model.max_queue_size = self.max_queue_size.unwrap_or(model.max_queue_size);
        model.request_timeout = seconds("request_timeout_s", self.request_timeout_s)?;
        model.latency_target =
            self.latency_target_s.map(|target| seconds("latency_target_s", target)).transpose()?;
        model.batching = self.batching.parse().map_err(|problem| Error::invalid("batching", problem))?;
        model.instances = self.instances;
        model.profile = self.profile.parse().map_err(|problem| Error::invalid("profile", problem))?;
        model.device = self.device.parse().map_err(|problem| Error::invalid("device", problem))?;
        Ok(config)
    }
}

fn seconds(field: &'static str, seconds: f64) -> Result<Duration> {
    let duration = Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero());
    duration
        .ok_or_else(|| Error::invalid(field, format_args!("expected 1e-9 to 1e9 seconds, got {seconds:?}")))
}

/// A question as the package passes it on: model, version, outputs, timeout in seconds.
type Question = (String, Option<u64>, Vec<String>, Option<f64>);

fn request(native: Vec<NativeInput<'_>>, question: Question) -> Result<InferenceRequest> {
    let (model, version, outputs, timeout) = question;
    let timeout = timeout.map(|timeout| seconds("timeout_s", timeout)).transpose()?;
    Ok(InferenceRequest { model, version, outputs, timeout, ..InferenceRequest::new(inputs(native)?) })
}

/// The outputs, or the error as data; the other is None.
type Outcome<'py> = (Option<Bound<'py, PyList>>, Option<NativeError>);

fn outcome(py: Python<'_>, answer: Result<InferenceResponse>) -> PyResult<Outcome<'_>> {
    release_buffers(py);
    match answer {
        Ok(response) => Ok((Some(outputs(py, response)?), None)),
        Err(error) => Ok((None, Some(to_native(&error)))),
    }
}

/// Models in this process.
#[pyclass(frozen, module = "axon._axon")]
pub struct Server {
    handle: Arc<Handle>,
}

#[pymethods]
impl Server {
    /// Loads a model file, or a folder; every model must load.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf, config: NativeConfig) -> PyResult<Self> {
        let config = config.parse().or_raise(py)?;
        Ok(Self::enter(detached(py, || InferenceServer::load_blocking(&path, config)).or_raise(py)?))
    }

    /// Opens a folder; models that cannot be served do not stop the others.
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf, config: NativeConfig) -> PyResult<Self> {
        let config = config.parse().or_raise(py)?;
        Ok(Self::enter(detached(py, || InferenceServer::open_blocking(&path, config)).or_raise(py)?))
    }

    /// Asks and waits: (outputs, error as data), of which one is None.
    fn infer<'py>(
        &self,
        py: Python<'py>,
        inputs: Vec<NativeInput<'py>>,
        question: Question,
    ) -> PyResult<Outcome<'py>> {
        let slot = Arc::new(Slot::default());
        let reply = {
            let slot = Arc::clone(&slot);
            move |answer| slot.fill(answer)
        };
        let submitted = request(inputs, question).and_then(|request| self.handle.submit(request, reply));
        let mut ticket = match submitted {
            Ok(ticket) => ticket,
            Err(error) => return outcome(py, Err(error)),
        };
        ticket.wake();
        loop {
            if let Some(answer) = detached(py, || slot.wait(SIGNAL_CHECK)) {
                return outcome(py, answer);
            }
            if let Err(interrupt) = py.check_signals() {
                ticket.cancel();
                release_buffers(py);
                return Err(interrupt);
            }
        }
    }

    /// Asks; the answer comes through `completions` under `token`. The error as data when the request is refused.
    fn submit(
        &self,
        py: Python<'_>,
        inputs: Vec<NativeInput<'_>>,
        question: Question,
        completions: &Completions,
        token: u64,
    ) -> Option<NativeError> {
        let (queue, handle) = (Arc::clone(&completions.queue), Arc::downgrade(&self.handle));
        let reply = move |answer| {
            if let Some(handle) = handle.upgrade() {
                handle.tickets().remove(&token);
            }
            queue.push(token, answer);
        };
        let asked = request(inputs, question);
        // Entered before the submission and filled in after it: an answer may overtake it, and removes the place.
        self.handle.tickets().insert(token, None);
        let submitted = asked.and_then(|request| self.handle.submit(request, reply));
        match submitted {
            Ok(mut ticket) => {
                ticket.wake();
                if let Some(place) = self.handle.tickets().get_mut(&token) {
                    *place = Some(ticket);
                }
                None
            }
            Err(error) => {
                self.handle.tickets().remove(&token);
                release_buffers(py);
                Some(to_native(&error))
            }
        }
    }

    /// Takes the request of `token` out of the queue because nobody waits for it any more.
    fn cancel(&self, py: Python<'_>, token: u64) {
        let ticket = self.handle.tickets().remove(&token);
        if let Some(ticket) = ticket.flatten() {
            ticket.cancel();
        }
        release_buffers(py);
    }

    /// Every version: (name, version, state, reason it failed).
    fn models(&self) -> Vec<(String, u64, &'static str, Option<String>)> {
        let reason = |state: &State| match state {
            State::Failed(error) => Some(error.message().to_owned()),
            _ => None,
        };
        let entries = self.handle.server.models().into_iter();
        entries.map(|entry| (entry.name, entry.version, entry.state.name(), reason(&entry.state))).collect()
    }

    /// The versions of a model that are ready, or the one asked for.
    fn versions(&self, py: Python<'_>, model: &str, version: Option<u64>) -> PyResult<Vec<u64>> {
        Ok(self.handle.server.metadata(model, version).or_raise(py)?.versions)
    }

    /// What was measured and chosen when the model was loaded, as JSON.
    fn report(&self, py: Python<'_>, model: &str, version: Option<u64>) -> PyResult<String> {
        let report = self.handle.server.report(model, version).or_raise(py)?;
        serde_json::to_string(&report).map_err(Error::internal).or_raise(py)
    }

    /// Whether every model is ready.
    fn is_ready(&self) -> bool {
        !self.handle.is_forked() && self.handle.server.ready().is_ok()
    }

    /// Answers what has been accepted and stops every thread.
    fn close(&self, py: Python<'_>) {
        detached(py, || self.handle.close());
        release_buffers(py);
    }
}

impl Server {
    fn enter(server: InferenceServer) -> Self {
        let handle = Arc::new(Handle { server, process: std::process::id(), tickets: Mutex::default() });
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|handle| handle.strong_count() > 0);
        open.push(Arc::downgrade(&handle));
        Self { handle }
    }
}

/// Where a blocking caller waits for its answer.
#[derive(Default)]
struct Slot {
    answer: Mutex<Option<Result<InferenceResponse>>>,
    filled: Condvar,
}

impl Slot {
    fn fill(&self, answer: Result<InferenceResponse>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.filled.notify_one();
    }

    fn wait(&self, limit: Duration) -> Option<Result<InferenceResponse>> {
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.filled.wait_timeout_while(answer, limit, |answer| answer.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

/// Closes every server that is open: at the interpreter's exit no thread may still use ONNX Runtime.
#[pyfunction]
pub fn close_all(py: Python<'_>) {
    let open = std::mem::take(&mut *OPEN.lock().unwrap_or_else(PoisonError::into_inner));
    detached(py, || {
        for handle in open.iter().filter_map(Weak::upgrade) {
            handle.close();
        }
    });
    release_buffers(py);
}

/// What is served, where and how, as `axon serve` passes it on.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct NativeServe {
    path: PathBuf,
    host: IpAddr,
    http_port: u16,
    grpc_port: Option<u16>,
    metrics_port: u16,
    metrics: String,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_client_ca: Option<PathBuf>,
    max_request_bytes: usize,
    allow_client_shm: bool,
    compat: String,
    log_level: String,
    log_format: String,
    access_log: String,
    otlp_endpoint: Option<String>,
    otlp_protocol: Option<String>,
    trace_ratio: f64,
    trace_slow_ms: Option<u64>,
}

impl NativeServe {
    fn trace(&self) -> Result<TraceOptions> {
        let protocol = self.otlp_protocol.as_deref().map(str::parse).transpose();
        Ok(TraceOptions {
            endpoint: self.otlp_endpoint.clone(),
            protocol: protocol.map_err(|problem: String| Error::invalid("otlp_protocol", problem))?,
            ratio: self.trace_ratio,
            slow: self.trace_slow_ms.map(Duration::from_millis),
        })
    }
}

/// Serves until SIGINT or SIGTERM.
#[pyfunction]
pub fn serve(py: Python<'_>, options: NativeServe, config: NativeConfig) -> PyResult<()> {
    let trace = options.trace().or_raise(py)?;
    let NativeServe { path, host, http_port, grpc_port, metrics_port, .. } = options;
    let tls = TlsFiles::of_options(options.tls_cert, options.tls_key, options.tls_client_ca)
        .map_err(|problem| Error::new(ErrorKind::InvalidRequest, problem))
        .or_raise(py)?;
    logging::start(&options.log_level, &options.log_format)
        .map_err(|problem| Error::invalid("log_level", problem))
        .or_raise(py)?;
    let compat = options.compat.parse().map_err(|problem| Error::invalid("compat", problem)).or_raise(py)?;
    let access =
        options.access_log.parse().map_err(|problem| Error::invalid("access_log", problem)).or_raise(py)?;
    let wire = WireOptions {
        max_request_bytes: options.max_request_bytes,
        compat,
        allow_client_shm: options.allow_client_shm,
        trace,
        access,
        ..WireOptions::default()
    };
    let mut config = config.parse().or_raise(py)?;
    config.metrics =
        options.metrics.parse().map_err(|problem| Error::invalid("metrics", problem)).or_raise(py)?;
    let options = ServeOptions { path, host, http_port, grpc_port, metrics_port, tls, wire, config };
    detached(py, || serve_until_signal(options)).map_err(Error::from).or_raise(py)
}

/// Loads a model for trial and ends this process, which is the child of a server.
#[pyfunction]
pub fn check_load(py: Python<'_>, arguments: Vec<OsString>) {
    detached(py, || axon_server::load_check::run(&arguments));
}

/// The version of the ONNX Runtime that is loaded; None before the first model.
#[pyfunction]
pub fn runtime_version() -> Option<&'static str> {
    axon::onnx::runtime_version()
}
