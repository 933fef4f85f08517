//! Binds, loads, serves and drains.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axon::config::{Device, Metrics, ServerConfig, granted_cores};
use axon::server::{DRAIN_LIMIT, InferenceServer};
use axon::{Error, ErrorKind};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::access::AccessLog;
use crate::app::{App, InFlight};
use crate::compat::Compat;
use crate::connection::{self, Answer, Connections};
use crate::grpc::Grpc;
use crate::handler::Http;
use crate::history::{self, History};
use crate::loading::Loading;
use crate::logging;
use crate::metrics::{Scrape, Scrapes};
use crate::overview;
use crate::settings::Settings;
use crate::shared_memory::SharedMemory;
use crate::signals;
use crate::tls::{Tls, TlsFiles, follow};
use crate::trace::{TraceOptions, Tracer};
use crate::wakes::Wakes;

/// The most bytes of a request's body or message, as sent and decoded, where nothing else is said.
pub const BODY_LIMIT: usize = 64 << 20;

/// The limits of that limit. The length of a message of gRPC has 32 bits.
pub const MAX_REQUEST_BYTES: std::ops::RangeInclusive<usize> = 1024..=(1 << 32) - 1;

/// The most connections, if the process may open twice as many files.
const MAX_CONNECTIONS: usize = 10_000;

/// The most connections of the port for metrics.
const MAX_SCRAPERS: usize = 64;

/// How long answers that are being written may take once everything is answered.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// What is served, and where.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// A model file, or a folder of models.
    pub path: PathBuf,
    /// The address to listen on.
    pub host: IpAddr,
    /// The port for HTTP; 0 takes a free one.
    pub http_port: u16,
    /// The port for gRPC; 0 takes a free one, `None` has no gRPC.
    pub grpc_port: Option<u16>,
    /// The port for metrics; 0 takes a free one. Where metrics are off, there is none.
    pub metrics_port: u16,
    /// What all ports speak TLS with; `None` speaks none.
    pub tls: Option<TlsFiles>,
    /// How the protocol is spoken.
    pub wire: WireOptions,
    /// How the models are run.
    pub config: ServerConfig,
}

/// How the protocol is spoken.
#[derive(Clone, Debug)]
pub struct WireOptions {
    /// The most bytes of a request's body or message, as sent and decoded.
    pub max_request_bytes: usize,
    /// Whose habits are followed where the protocol leaves them open.
    pub compat: Compat,
    /// Whether clients on this host may name shared memory.
    pub allow_client_shm: bool,
    /// Whether metrics are told.
    pub metrics: Metrics,
    /// Where models run that do not say, to be told.
    pub device: Device,
    /// Which requests are traced, and where the traces go.
    pub trace: TraceOptions,
    /// Which requests have a line in the log.
    pub access: AccessLog,
}

impl Default for WireOptions {
    fn default() -> Self {
        Self {
            max_request_bytes: BODY_LIMIT,
            compat: Compat::Native,
            allow_client_shm: false,
            metrics: Metrics::On,
            device: Device::Cpu,
            trace: TraceOptions::default(),
            access: AccessLog::default(),
        }
    }
}

impl ServeOptions {
    /// Serves `path` on the loopback address and ports 8000, 8001 and 8002.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            http_port: 8000,
            grpc_port: Some(8001),
            metrics_port: 8002,
            tls: None,
            wire: WireOptions::default(),
            config: ServerConfig::default(),
        }
    }
}

/// Where the server listens.
pub struct Listeners {
    /// For HTTP.
    pub http: TcpListener,
    /// For gRPC.
    pub grpc: Option<TcpListener>,
    /// For metrics.
    pub metrics: Option<TcpListener>,
    /// What all of them speak TLS with; `None` speaks none.
    pub tls: Option<Arc<Tls>>,
}

impl Listeners {
    async fn bind(options: &ServeOptions) -> Result<Self, ServeError> {
        let tls = options.tls.clone().map(Tls::open).transpose().map_err(ServeError::Listen)?;
        let http = bind(options.host, options.http_port, "--http-port").await?;
        let grpc = match options.grpc_port {
            Some(port) => Some(bind(options.host, port, "--grpc-port").await?),
            None => None,
        };
        let metrics = match options.config.metrics {
            Metrics::On => Some(bind(options.host, options.metrics_port, "--metrics-port").await?),
            Metrics::Off => None,
        };
        Ok(Self { http, grpc, metrics, tls })
    }

    fn addresses(&self) -> Result<Addresses, ServeError> {
        let address = |listener: &TcpListener| {
            listener.local_addr().map_err(|error| ServeError::Listen(error.to_string()))
        };
        Ok(Addresses {
            http: address(&self.http)?,
            grpc: self.grpc.as_ref().map(address).transpose()?,
            metrics: self.metrics.as_ref().map(address).transpose()?,
            is_tls: self.tls.is_some(),
        })
    }
}

/// The addresses that the server listens on.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// For HTTP.
    pub http: SocketAddr,
    /// For gRPC.
    pub grpc: Option<SocketAddr>,
    /// For metrics.
    pub metrics: Option<SocketAddr>,
    /// Whether they speak TLS.
    pub is_tls: bool,
}

/// Why the server did not start or did not end well.
#[derive(Debug)]
pub enum ServeError {
    /// It could not listen; the command line is to blame.
    Listen(String),
    /// The model cannot be served.
    Model(Error),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listen(message) => f.write_str(message),
            Self::Model(error) => match error.cause() {
                Some(cause) => write!(f, "{error}\ncause: {cause}"),
                None => error.fmt(f),
            },
        }
    }
}

impl std::error::Error for ServeError {}

/// Serves until SIGINT or SIGTERM, then drains. Blocks this thread, which must not be one of Tokio's.
///
/// # Errors
/// [`ServeError`] when the address is taken or the lone model cannot be served.
pub fn serve_until_signal(options: ServeOptions) -> Result<(), ServeError> {
    let started = Instant::now();
    // As many threads allocate at the same time at most.
    synapse::settle_allocator(granted_cores().get());
    options.wire.trace.check().map_err(|error| ServeError::Listen(error.message().to_owned()))?;
    let runtime = runtime().map_err(|error| ServeError::Model(Error::internal(error)))?;
    let outcome = runtime.block_on(async {
        let stop = signals::first_of_interrupt_and_terminate()
            .map_err(|error| ServeError::Model(Error::internal(error)))?;
        let listeners = Listeners::bind(&options).await?;
        let asks_clients = listeners.tls.as_ref().is_some_and(|tls| tls.asks_clients());
        if !options.host.is_loopback() && !asks_clients {
            tracing::warn!(
                "listening on {}: whoever reaches it can use the models, nobody is asked who they are",
                options.host
            );
        }
        let is_file = options.path.is_file();
        let (metrics, device) = (options.config.metrics, options.config.model.device);
        let wire = WireOptions { metrics, device, ..options.wire };
        let (server, found) =
            InferenceServer::announce(&options.path, options.config).map_err(ServeError::Model)?;
        let addresses = listeners.addresses()?;
        let mut loading = Loading::start(server.clone(), found).map_err(ServeError::Model)?;
        let mut failure = None;
        let stop = async {
            tokio::select! {
                () = stop => {}
                error = loading.announce(&server, is_file, addresses, started) => failure = Some(error),
            }
        };
        serve(listeners, server.clone(), wire, stop).await.map_err(ServeError::Model)?;
        loading.finish(server).await;
        failure.map_or(Ok(()), |error| Err(ServeError::Model(error)))
    });
    // Nothing is left to run: connections are closed and instances joined.
    runtime.shutdown_timeout(Duration::from_secs(1));
    logging::finish();
    outcome
}

/// Threads that move bytes: few, as the models need the rest of the cores. Two cores have two, so that small models, which
/// cost less than their bytes, can have both.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let cores = granted_cores().get();
    let mut builder = if cores == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads((cores / 4).clamp(2, 16));
        builder
    };
    // Long texts are read and written on these, no more at once than there are cores.
    builder.thread_name("axon-io").max_blocking_threads(cores + 1).enable_all().build()
}

/// Listens on an address; `port_flag` is the option that chose the port.
///
/// # Errors
/// [`ServeError::Listen`] that names the flag to change.
pub async fn bind(host: IpAddr, port: u16, port_flag: &'static str) -> Result<TcpListener, ServeError> {
    let address = SocketAddr::new(host, port);
    TcpListener::bind(address).await.map_err(|error| {
        let (problem, flag) = match error.kind() {
            io::ErrorKind::AddrInUse => ("the port is in use".to_owned(), port_flag.to_owned()),
            io::ErrorKind::PermissionDenied => ("the port needs privileges".to_owned(), port_flag.to_owned()),
            io::ErrorKind::AddrNotAvailable => {
                ("this host does not have the address".to_owned(), "--host".to_owned())
            }
            _ => (error.to_string(), format!("--host or {port_flag}")),
        };
        ServeError::Listen(format!("cannot listen on {address}: {problem}\nhint: choose another with {flag}"))
    })
}

/// Serves on `listeners` until `stop` resolves; then is not ready, answers what has come, and closes the models.
///
/// # Errors
/// [`ErrorKind::Internal`] when it cannot begin.
pub async fn serve(
    listeners: Listeners,
    server: InferenceServer,
    options: WireOptions,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let (finish, finishing) = watch::channel(false);
    let (tracer, exporter) = Tracer::start(&options.trace)?.unzip();
    let tls = listeners.tls.clone();
    let app = Arc::new(app(server.clone(), &options, tls.clone(), tracer, finishing.clone()));
    let (answers, wakes) = (Arc::clone(&app.answers), Arc::clone(&app.wakes));
    let (http, grpc) = (Http(Arc::clone(&app)), Grpc::new(Arc::clone(&app))?);
    let delivering = tokio::spawn(async move { answers.deliver().await });
    let waking = tokio::spawn(async move { wakes.deliver().await });
    let connections = Connections::new(connection_limit(), &app.ports, tls.as_ref());
    // Of their own, so that scrapers never take the place of a caller.
    let scrapers = Connections::new(MAX_SCRAPERS, &app.ports, tls.as_ref());
    let scrape = Scrape(Arc::clone(&app));
    {
        let accepting_http = accept(Some(&listeners.http), &http, &connections, &finishing);
        let accepting_grpc = accept(listeners.grpc.as_ref(), &grpc, &connections, &finishing);
        let accepting_metrics = accept(listeners.metrics.as_ref(), &scrape, &scrapers, &finishing);
        let draining = async {
            stop.await;
            server.stop();
            tracing::info!("shutting down: answering what has come");
            // New connections are still accepted meanwhile, so that health checks get their answer.
            let _ = tokio::time::timeout(DRAIN_LIMIT, app.in_flight.wait_for_none()).await;
        };
        let sweeping = async {
            let mut seconds = tokio::time::interval(history::EVERY);
            loop {
                seconds.tick().await;
                connections.sweep();
                scrapers.sweep();
                app.history.look(&app.server, overview::now());
            }
        };
        tokio::select! {
            () = draining => {}
            () = accepting_http => {}
            () = accepting_grpc => {}
            () = accepting_metrics => {}
            () = sweeping => {}
            () = follow(tls) => {}
        }
    }
    drop(listeners);
    finish.send_replace(true);
    // Everything in flight has been answered, or has had its time: what still runs is stopped, and its caller told so.
    let closing = tokio::task::spawn_blocking(move || server.close_within(Duration::ZERO));
    let flushed = async {
        connections.wait_for_none().await;
        scrapers.wait_for_none().await;
    };
    let _ = tokio::time::timeout(FLUSH_LIMIT, flushed).await;
    delivering.abort();
    waking.abort();
    if let Err(error) = closing.await {
        tracing::error!("closing the models failed: {error}");
    }
    // The last spans are those of what was answered last.
    if let (Some(exporter), Some(tracer)) = (exporter, &app.tracer) {
        exporter.close(tracer).await;
    }
    tracing::info!("bye");
    Ok(())
}

/// The server as its verbs see it.
fn app(
    server: InferenceServer,
    options: &WireOptions,
    tls: Option<Arc<Tls>>,
    tracer: Option<Arc<Tracer>>,
    finishing: watch::Receiver<bool>,
) -> App {
    let tracing = tracer.as_ref().map(|tracer| (options.trace.ratio, tracer.policies()));
    App {
        server,
        body_limit: options.max_request_bytes,
        in_flight: InFlight::default(),
        finishing,
        answers: Arc::default(),
        wakes: Arc::new(Wakes::default()),
        settings: Settings::new(tracing),
        compat: options.compat,
        shared_memory: Arc::new(SharedMemory::new(options.allow_client_shm)),
        metrics: options.metrics,
        device: options.device,
        ports: Arc::default(),
        tls,
        scrapes: Scrapes::default(),
        access: options.access,
        tracer,
        started: Instant::now(),
        history: History::default(),
    }
}

/// Accepts connections for ever; without a listener there are none.
async fn accept<A: Answer>(
    listener: Option<&TcpListener>,
    answer: &A,
    connections: &Arc<Connections>,
    finishing: &watch::Receiver<bool>,
) {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connection::spawn(answer, connections, stream, finishing.clone()),
            Err(error) => {
                connections.count_error(A::PORT);
                // Out of descriptors, or a peer that left already: never fatal, and not worth a busy loop.
                tracing::warn!("accepting a connection failed: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Half of the files that the process may open, so that models and health checks have theirs.
fn connection_limit() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits.lines().find_map(|line| {
        line.strip_prefix("Max open files")?.split_whitespace().next()?.parse::<usize>().ok()
    });
    soft.map_or(MAX_CONNECTIONS, |soft| (soft / 2).clamp(16, MAX_CONNECTIONS))
}

impl From<ServeError> for Error {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Listen(message) => Self::new(ErrorKind::InvalidRequest, message),
            ServeError::Model(error) => error,
        }
    }
}
