//! `axon-server`: the Axon inference server without Python.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use axon::config::{
    Batching, ControlMode, Device, LoadCheckMode, MAX_TIMEOUT, Metrics, PollInterval, Profile,
    ResponseCacheSize,
};
use axon::residency::EvictionPolicy;
use axon_server::access::AccessLog;
use axon_server::compat::Compat;
use axon_server::tls::TlsFiles;
use axon_server::trace::{Protocol, TraceOptions};
use axon_server::{
    BODY_LIMIT, MAX_REQUEST_BYTES, ServeError, ServeOptions, load_check, logging, serve_until_signal,
};
use clap::Parser;

/// Serves ONNX models over the Open Inference Protocol.
///
/// ONNX Runtime's library (1.24 or newer) is found by `ORT_DYLIB_PATH`, in the Python environment that is active or that
/// this program is installed in, beside this program, in `.venv` here, or by the system's loader.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// A model file, or a folder of `name.onnx` files and `name/1/model.onnx` folders
    path: PathBuf,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port for HTTP; 0 takes a free one
    #[arg(long, default_value_t = 8000)]
    http_port: u16,
    /// The port for gRPC; 0 takes a free one
    #[arg(long, default_value_t = 8001)]
    grpc_port: u16,
    /// Serve no gRPC
    #[arg(long, conflicts_with = "grpc_port")]
    no_grpc: bool,
    /// The port for metrics; 0 takes a free one
    #[arg(long, default_value_t = 8002)]
    metrics_port: u16,
    /// on: requests, runs and loads are counted, and told at /metrics on this port and the one for HTTP; off: neither
    #[arg(long, default_value_t)]
    metrics: Metrics,
    #[command(flatten)]
    tls: TlsArguments,
    /// The most bytes of a request, as sent and decoded
    #[arg(long, default_value_t = BODY_LIMIT, value_parser = request_bytes)]
    max_request_bytes: usize,
    /// Let clients on this host pass tensors in POSIX shared memory
    #[arg(long)]
    allow_client_shm: bool,
    /// native, or triton for its names, codes and texts
    #[arg(long, default_value_t)]
    compat: Compat,
    /// off, error, warn, info, debug or trace
    #[arg(long, default_value = "warn", value_parser = clap::builder::PossibleValuesParser::new(logging::LEVELS))]
    log_level: String,
    /// text or json: a line for each event, or a JSON object
    #[arg(long, default_value = "text", value_parser = clap::builder::PossibleValuesParser::new(logging::FORMATS))]
    log_format: String,
    /// off, errors or a share from 0 to 1: which requests have a line in the log, whatever the level; a share of those
    /// that are answered well, and all others
    #[arg(long, default_value_t, value_name = "off|errors|RATIO")]
    access_log: AccessLog,
    /// How long a request may wait for its answer when it does not say, in seconds
    #[arg(long, default_value_t = 10.0)]
    request_timeout: f64,
    /// The time within which requests are answered that do not say, such as 10ms or 0.5s; what would be late is refused
    #[arg(long, value_parser = latency_target, value_name = "TIME")]
    latency_target: Option<Duration>,
    /// The most rows of one request; none leaves it to the size limit
    #[arg(long)]
    max_batch_size: Option<NonZeroUsize>,
    /// The most requests that wait for each model
    #[arg(long)]
    max_queue_size: Option<NonZeroUsize>,
    /// Threads that run each model; chosen at load by default
    #[arg(long)]
    instances: Option<NonZeroUsize>,
    /// Runs at the same time on the device, counted by their threads, all models together; the cores by default, and
    /// never fewer than one model alone uses
    #[arg(long)]
    lanes: Option<NonZeroUsize>,
    /// throughput or latency: what instances and threads are chosen for
    #[arg(long, default_value_t = Profile::Throughput)]
    profile: Profile,
    /// auto: requests share a run where their rows do not influence each other; off: never; always: even then
    #[arg(long, default_value_t)]
    batching: Batching,
    /// The same as `--batching off`
    #[arg(long, conflicts_with = "batching")]
    no_batching: bool,
    /// cpu or cuda
    #[arg(long, default_value_t = Device::Cpu)]
    device: Device,
    /// none: all models are loaded at start and stay; explicit: models are loaded and unloaded on request; poll: they
    /// follow the repository; auto: each is loaded by the first request for it and unloaded when others are worth more
    #[arg(long, default_value_t)]
    model_control_mode: ControlMode,
    /// A model to load at start in mode explicit; may come several times; `*` is all
    #[arg(long, value_name = "NAME")]
    load_model: Vec<String>,
    /// The bytes that loaded models may take together in mode auto, such as 8GiB or 500MB; by default what the host or the
    /// cgroup has, less a tenth of that, or 256 MiB where that is more
    #[arg(long, value_name = "SIZE", value_parser = axon_server::size)]
    memory_budget: Option<u64>,
    /// value or lru: which models leave first in mode auto. value: those whose bytes save the least time of loading; lru:
    /// those that were used longest ago, to compare with
    #[arg(long, default_value_t)]
    eviction_policy: EvictionPolicy,
    /// How often the repository is looked at in mode poll, in seconds; 0 leaves it to the system to tell of changes
    #[arg(long, default_value_t = 15, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86400))]
    repository_poll_secs: u64,
    /// Which models are loaded for trial in a process of their own before the server loads them: always, first (those
    /// that have not survived it on this machine yet) or off
    #[arg(long, default_value_t = LoadCheckMode::First)]
    load_check: LoadCheckMode,
    /// How long a trial may take, in seconds; large models are given more
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86400))]
    load_check_secs: u64,
    /// The bytes of address space that a trial may take; chosen by the model's size by default
    #[arg(long, value_name = "BYTES")]
    load_check_bytes: Option<u64>,
    #[command(flatten)]
    cache: CacheArguments,
    /// The name of a lone model file's model; the file's by default
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    trace: TraceArguments,
}

#[derive(clap::Args)]
struct CacheArguments {
    /// Where models are kept as they are made ready for this machine, to load faster: a folder, or off;
    /// `$XDG_CACHE_HOME/axon/models` by default
    #[arg(long, value_name = "DIR|off")]
    model_cache: Option<PathBuf>,
    /// The most bytes of it, such as 512MiB or 20GB; what was used longest ago is removed first
    #[arg(long, default_value = "16GiB", value_name = "SIZE", value_parser = axon_server::size)]
    model_cache_size: u64,
    /// The bytes of answers that are kept for the same questions, of all models whose configuration asks for it, such as
    /// 64MiB; 0 keeps none
    #[arg(long, default_value = "64MiB", value_name = "SIZE", value_parser = axon_server::size_or_none)]
    response_cache_size: u64,
    /// Has an imported model answer before its weights are packed, within milliseconds of its load, until they are; those
    /// answers may differ in their last bits from the later ones
    #[arg(long)]
    quick_load: bool,
}

#[derive(clap::Args)]
#[expect(clippy::struct_field_names, reason = "the options are called so")]
struct TlsArguments {
    /// Speak TLS on every port with this certificate: a PEM file of the server's own, then those that lead from it to
    /// one that clients trust. It is read again when it changes
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate, a PEM file
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Serve only clients with a certificate that one of this PEM file has signed, and that no list of revoked ones in
    /// it names
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
}

#[derive(clap::Args)]
struct TraceArguments {
    /// The OpenTelemetry collector that traces are sent to, such as `http://127.0.0.1:4318`; by default what
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` says, else none
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// http/protobuf or grpc: how the collector is spoken to; by default what `OTEL_EXPORTER_OTLP_PROTOCOL` says,
    /// else http/protobuf
    #[arg(long, value_name = "PROTOCOL")]
    otlp_protocol: Option<Protocol>,
    /// The share of requests that are traced whose callers do not say, 0 to 1
    #[arg(long, default_value_t = 1.0, value_name = "RATIO")]
    trace_ratio: f64,
    /// Requests that take so many milliseconds are traced whatever the ratio; none by default
    #[arg(long, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    trace_slow_ms: Option<u64>,
}

#[expect(clippy::print_stderr, reason = "a command's errors go to standard error")]
fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == load_check::SUBCOMMAND) {
        load_check::run(&arguments.collect::<Vec<_>>());
    }
    let arguments = Arguments::parse();
    if let Err(message) = logging::start(&arguments.log_level, &arguments.log_format) {
        eprintln!("axon-server: --log-level, --log-format: {message}");
        return ExitCode::from(2);
    }
    let options = match options(arguments) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("axon-server: {problem}");
            return ExitCode::from(2);
        }
    };
    match serve_until_signal(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("axon-server: {error}");
            ExitCode::from(if matches!(error, ServeError::Listen(_)) { 2 } else { 1 })
        }
    }
}

/// A time with its unit; 300 s at most.
fn latency_target(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or_default(), 1.0),
    };
    let seconds = number.parse().ok().map(|number: f64| number * unit);
    let target = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let target = target.filter(|target| !target.is_zero() && *target <= MAX_TIMEOUT);
    target.ok_or_else(|| "expected a time such as 10ms or 0.5s, more than 0 and at most 300s".to_owned())
}

fn options(arguments: Arguments) -> Result<ServeOptions, String> {
    let timeout = arguments.request_timeout;
    if !(0.001..=300.0).contains(&timeout) {
        return Err("--request-timeout: expected 0.001 to 300 seconds".to_owned());
    }
    let TlsArguments { tls_cert, tls_key, tls_client_ca } = arguments.tls;
    let mut options = ServeOptions::new(arguments.path);
    options.tls = TlsFiles::of_options(tls_cert, tls_key, tls_client_ca)?;
    options.host = arguments.host;
    options.http_port = arguments.http_port;
    options.grpc_port = (!arguments.no_grpc).then_some(arguments.grpc_port);
    options.metrics_port = arguments.metrics_port;
    options.config.metrics = arguments.metrics;
    options.wire.max_request_bytes = arguments.max_request_bytes;
    options.wire.allow_client_shm = arguments.allow_client_shm;
    options.wire.compat = arguments.compat;
    options.wire.access = arguments.access_log;
    options.wire.trace = TraceOptions {
        endpoint: arguments.trace.otlp_endpoint,
        protocol: arguments.trace.otlp_protocol,
        ratio: arguments.trace.trace_ratio,
        slow: arguments.trace.trace_slow_ms.map(Duration::from_millis),
    };
    options.config.name = arguments.name;
    options.config.control = arguments.model_control_mode;
    options.config.load_models = arguments.load_model;
    options.config.memory_budget = arguments.memory_budget;
    options.config.eviction_policy = arguments.eviction_policy;
    let answers = usize::try_from(arguments.cache.response_cache_size).unwrap_or(usize::MAX);
    options.config.response_cache = ResponseCacheSize(answers);
    options.config.lanes = arguments.lanes;
    options.config.poll_interval = PollInterval(Duration::from_secs(arguments.repository_poll_secs));
    let cache = &mut options.config.model_cache;
    cache.is_on = arguments.cache.model_cache.as_deref() != Some(Path::new("off"));
    cache.folder = arguments.cache.model_cache.filter(|_| cache.is_on);
    cache.max_bytes = arguments.cache.model_cache_size;
    cache.quick_load = arguments.cache.quick_load;
    let check = &mut options.config.load_check;
    check.mode = arguments.load_check;
    check.time = Duration::from_secs(arguments.load_check_secs);
    check.memory = arguments.load_check_bytes;
    check.command = load_check::command();
    let model = &mut options.config.model;
    model.request_timeout = Duration::from_secs_f64(timeout);
    model.latency_target = arguments.latency_target;
    model.max_batch_size = arguments.max_batch_size;
    model.max_queue_size = arguments.max_queue_size.unwrap_or(model.max_queue_size);
    model.instances = arguments.instances;
    model.profile = arguments.profile;
    model.device = arguments.device;
    model.batching = if arguments.no_batching { Batching::Off } else { arguments.batching };
    Ok(options)
}

fn request_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse().ok().filter(|bytes| MAX_REQUEST_BYTES.contains(bytes));
    bytes
        .ok_or_else(|| format!("expected {} to {} bytes", MAX_REQUEST_BYTES.start(), MAX_REQUEST_BYTES.end()))
}
