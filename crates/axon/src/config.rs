//! Settings, parsed into valid types once and trusted from then on.

use std::ffi::OsString;
use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::residency::EvictionPolicy;

/// Where models run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Device {
    /// The host's cores.
    #[default]
    Cpu,
    /// The first NVIDIA GPU, through ONNX Runtime's CUDA provider; there is no fallback to the CPU.
    Cuda,
}

impl Device {
    /// ONNX Runtime's name of what runs models on it.
    #[must_use]
    pub const fn provider(self) -> &'static str {
        match self {
            Self::Cpu => "CPUExecutionProvider",
            Self::Cuda => "CUDAExecutionProvider",
        }
    }

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            _ => Err(format!("expected `cpu` or `cuda`, got `{}`", name.escape_debug())),
        }
    }
}

/// Whether requests may share a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Batching {
    /// When the load-time probe shows that rows do not influence each other.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Wherever the model can be run on rows of several requests, also when they influence each other: an answer may
    /// then depend on who asked at the same time.
    Always,
}

impl Batching {
    /// The name on the command line and in `model.toml`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Always => "always",
        }
    }
}

impl fmt::Display for Batching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Batching {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let all = [Self::Auto, Self::Off, Self::Always];
        let found = all.into_iter().find(|batching| batching.name() == name);
        found.ok_or_else(|| format!("expected `auto`, `off` or `always`, got `{}`", name.escape_debug()))
    }
}

/// What instances and threads are chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Profile {
    /// The most rows a second.
    #[default]
    Throughput,
    /// The shortest run of one row, as long as half of the best throughput is kept.
    Latency,
}

impl Profile {
    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Latency => "latency",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "throughput" => Ok(Self::Throughput),
            "latency" => Ok(Self::Latency),
            _ => Err(format!("expected `throughput` or `latency`, got `{}`", name.escape_debug())),
        }
    }
}

/// What holds for each model.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// The most rows of one request; `None` leaves it to the request's size limit.
    pub max_batch_size: Option<NonZeroUsize>,
    /// The most requests that wait; one more is refused with `Overloaded`.
    pub max_queue_size: NonZeroUsize,
    /// The most input bytes that wait; more is refused with `Overloaded`.
    pub max_queue_bytes: usize,
    /// How long a request may wait for its answer when it does not say; a run that has begun is not stopped.
    pub request_timeout: Duration,
    /// The time within which a request is to be answered that does not say; it is held by refusing early what would
    /// be late. `None` has `request_timeout`.
    pub latency_target: Option<Duration>,
    /// Whether requests may share a run.
    pub batching: Batching,
    /// The most bytes of the inputs and outputs of a batch, of rows of the size that the load-time probe tried; one
    /// row is run whatever it takes.
    pub max_batch_bytes: usize,
    /// Instances, at most the cores; `None` chooses at load.
    pub instances: Option<NonZeroUsize>,
    /// What instances and threads are chosen for.
    pub profile: Profile,
    /// Its part of the device's time against those of other models, while all have work.
    pub weight: NonZeroU32,
    /// Where it runs.
    pub device: Device,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            max_batch_size: None,
            max_queue_size: NonZeroUsize::new(1024).expect("1024 is not zero"),
            max_queue_bytes: 256 << 20,
            request_timeout: Duration::from_secs(10),
            latency_target: None,
            batching: Batching::Auto,
            max_batch_bytes: 64 << 20,
            instances: None,
            profile: Profile::Throughput,
            weight: NonZeroU32::MIN,
            device: Device::Cpu,
        }
    }
}

/// Who decides which models are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ControlMode {
    /// All models are loaded at start and stay.
    #[default]
    None,
    /// What [`ServerConfig::load_models`] names is loaded at start; from then on models are loaded and unloaded on
    /// request.
    Explicit,
    /// All models are loaded at start; from then on what changes in the repository is loaded, loaded again or unloaded.
    Poll,
    /// None is loaded at start. Each is loaded by the first request for it, and unloaded when its bytes are needed for what
    /// is worth more; models are loaded and unloaded on request too.
    Auto,
}

impl ControlMode {
    /// The name on the command line. **Source:** Triton's `--model-control-mode`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Explicit => "explicit",
            Self::Poll => "poll",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for ControlMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ControlMode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "none" => Ok(Self::None),
            "explicit" => Ok(Self::Explicit),
            "poll" => Ok(Self::Poll),
            "auto" => Ok(Self::Auto),
            _ => Err(format!("expected `none`, `explicit`, `poll` or `auto`, got `{}`", name.escape_debug())),
        }
    }
}

/// Which models are loaded for trial, in a process of its own, before this process loads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LoadCheckMode {
    /// Every model, every time.
    Always,
    /// A model that has not survived a trial on this machine yet.
    First,
    /// None.
    #[default]
    Off,
}

impl LoadCheckMode {
    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::First => "first",
            Self::Off => "off",
        }
    }
}

impl fmt::Display for LoadCheckMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LoadCheckMode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "always" => Ok(Self::Always),
            "first" => Ok(Self::First),
            "off" => Ok(Self::Off),
            _ => Err(format!("expected `always`, `first` or `off`, got `{}`", name.escape_debug())),
        }
    }
}

/// How models are loaded for trial. Off unless a program says how to start the process.
#[derive(Clone, Debug)]
pub struct LoadCheckConfig {
    /// Which models.
    pub mode: LoadCheckMode,
    /// The program and its first arguments; [`load_check`](crate::load_check) says what they are followed by.
    pub command: Vec<OsString>,
    /// How long a trial may take; a second for each 32 MiB of the model comes on top.
    pub time: Duration,
    /// The bytes of address space that a trial may take; `None` chooses by the model's size.
    pub memory: Option<u64>,
    /// Where it is noted what has survived; `None` is `axon/checked` in the user's cache folder.
    pub records: Option<PathBuf>,
}

impl Default for LoadCheckConfig {
    fn default() -> Self {
        Self {
            mode: LoadCheckMode::Off,
            command: Vec::new(),
            time: Duration::from_secs(60),
            memory: None,
            records: None,
        }
    }
}

/// Where models are kept as they are made ready for this machine, so that they load fast and share their memory; and
/// what was measured of them. Off unless a program asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelCacheConfig {
    /// Whether there is one.
    pub is_on: bool,
    /// The folder; `None` is `axon/models` in the user's cache folder.
    pub folder: Option<PathBuf>,
    /// The most bytes of what is kept; what was used longest ago goes first.
    pub max_bytes: u64,
    /// A model whose tensors have fewer bytes is left as it is.
    pub least_bytes: u64,
    /// How long no model must have been loaded before one is imported in the background.
    pub quiet: Duration,
    /// Whether an imported model answers before its weights are packed; those answers may differ in their last bits from
    /// the later ones.
    pub quick_load: bool,
}

impl Default for ModelCacheConfig {
    fn default() -> Self {
        Self {
            is_on: false,
            folder: None,
            max_bytes: 16 << 30,
            // **Source:** docs/decisions/0008: below, less than 15 ms of a load can be saved.
            least_bytes: 4 << 20,
            quiet: Duration::from_secs(3),
            quick_load: false,
        }
    }
}

/// The longest time that a request may wait, whatever its client asks.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// Whether requests, runs and loads are counted for whoever reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Metrics {
    /// They are; it costs a request less than a microsecond.
    #[default]
    On,
    /// Only what the protocol's statistics tell is counted.
    Off,
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

impl FromStr for Metrics {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("expected `on` or `off`, got `{}`", name.escape_debug())),
        }
    }
}

/// What holds for the server.
#[derive(Clone, Debug, Default)]
pub struct ServerConfig {
    /// What holds for each model.
    pub model: ModelConfig,
    /// The name of a lone model file's model; `None` takes the file's.
    pub name: Option<String>,
    /// Who decides which models are loaded.
    pub control: ControlMode,
    /// The models that are loaded at start in [`ControlMode::Explicit`]; `*` is all. Empty otherwise.
    pub load_models: Vec<String>,
    /// The ONNX Runtime library; `None` looks for it.
    pub runtime_library: Option<PathBuf>,
    /// How models are loaded for trial.
    pub load_check: LoadCheckConfig,
    /// Where models are kept as they are made ready for this machine.
    pub model_cache: ModelCacheConfig,
    /// The bytes that loaded models may take together in [`ControlMode::Auto`]; `None` takes what the host, or the cgroup,
    /// has, less a tenth of that or 256 MiB.
    pub memory_budget: Option<u64>,
    /// Which models leave first in [`ControlMode::Auto`].
    pub eviction_policy: EvictionPolicy,
    /// The bytes of answers that are kept, of all models that ask for it; 0 keeps none.
    pub response_cache: ResponseCacheSize,
    /// Lanes of the device: runs, counted by their threads, at the same time. `None` has the cores that are granted, or
    /// one of a GPU, and never fewer than one model alone uses.
    pub lanes: Option<NonZeroUsize>,
    /// Whether requests are counted.
    pub metrics: Metrics,
    /// How often the repository is looked at in [`ControlMode::Poll`], whether or not the system tells of changes; zero
    /// leaves it to the system.
    pub poll_interval: PollInterval,
}

/// Bytes of answers that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseCacheSize(pub usize);

impl Default for ResponseCacheSize {
    fn default() -> Self {
        Self(64 << 20)
    }
}

/// A time between two looks at the repository. **Source:** Triton's `--repository-poll-secs` for the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollInterval(pub Duration);

impl Default for PollInterval {
    fn default() -> Self {
        Self(Duration::from_secs(15))
    }
}

/// The cores that this process may use: its affinity and its cgroup's quota, at least 1.
#[must_use]
pub fn granted_cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
