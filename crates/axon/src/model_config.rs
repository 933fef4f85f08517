//! What a model's owner says of it: `config.pbtxt` as Triton has it, `model.toml`, or the JSON of a load request.
//!
//! All three become one [`ModelConfiguration`], checked once and trusted from then on. A field that Axon does not act
//! on is an error when answers could depend on it, else a warning that names it. `docs/model-configuration.md` has the
//! list.
//!
//! Text → `parse` or `native` → fields → `check` → `fit` (against the model file) → `effective`.

mod check;
mod effective;
mod fields;
mod files;
mod fit;
mod native;
mod origin;
mod parameters;
mod parse;
mod schema;
pub mod sequence;
mod text;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize as _;
use serde_json::{Value, json};
use synapse::DataType;

use crate::config::{Batching, Device, Profile};
use crate::error::{Error, ErrorKind, Result};
use check::{Checked, Checker};
use fields::Fields;
use origin::{Origin, Problem, Source};
use text::Syntax;

pub use effective::Chosen;
pub use files::{confined, read_labels};
pub use fit::{Fit, Layout, Slot};
pub use parameters::ResponseCaching;

/// Triton's name for a configuration's file.
pub const PBTXT: &str = "config.pbtxt";

/// Axon's own name for a configuration's file.
pub const TOML: &str = "model.toml";

/// The field of a load request that holds a configuration.
const PARAMETER: &str = "parameters.config";

/// The longest configuration, in bytes.
pub const MAX_CONFIGURATION: usize = 1 << 20;

/// The most elements of one list or map in it.
const MAX_ELEMENTS: usize = 4096;

/// What runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// ONNX Runtime.
    OnnxRuntime,
    /// Nothing: outputs are the inputs. For tests of what surrounds a model.
    Identity,
}

impl Backend {
    /// Every backend.
    pub const ALL: [Self; 2] = [Self::OnnxRuntime, Self::Identity];

    /// The name in `backend`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OnnxRuntime => "onnxruntime",
            Self::Identity => "identity",
        }
    }

    /// The name in `platform`, and in a model's metadata.
    #[must_use]
    pub const fn platform(self) -> &'static str {
        match self {
            Self::OnnxRuntime => "onnxruntime_onnx",
            Self::Identity => "identity",
        }
    }

    fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == name)
    }

    fn by_platform(platform: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| backend.platform() == platform)
    }
}

/// Which of the versions that are there are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The newest so many.
    Latest(NonZeroUsize),
    /// All.
    All,
    /// These.
    Specific(Vec<u64>),
}

impl Default for VersionPolicy {
    fn default() -> Self {
        Self::Latest(NonZeroUsize::MIN)
    }
}

/// An input or an output as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorConfig {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: DataType,
    /// Its dimensions as clients see them, -1 for any size; without the batch dimension where there is one.
    pub dims: Vec<i64>,
    /// Its dimensions as the model sees them, where they differ.
    pub reshape: Option<Vec<i64>>,
    /// The file of an output's labels.
    pub labels: Option<String>,
}

/// How requests wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueuePolicy {
    /// The most requests that wait; `None` leaves it to the server's settings.
    pub max_queue_size: Option<NonZeroUsize>,
    /// How long a request may wait; `None` leaves it to the server's settings.
    pub default_timeout: Option<Duration>,
    /// Whether a request may ask to wait shorter than `default_timeout`; it never waits longer.
    pub allow_timeout_override: bool,
}

impl QueuePolicy {
    /// How long a request may wait that asks for `asked`, where the server's setting is `setting`.
    #[must_use]
    pub fn timeout(&self, asked: Option<Duration>, setting: Duration) -> Duration {
        match (self.default_timeout, asked) {
            (Some(longest), Some(asked)) if self.allow_timeout_override => asked.min(longest),
            (Some(timeout), _) | (None, Some(timeout)) => timeout,
            (None, None) => setting,
        }
    }
}

/// How requests share batches and wait for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DynamicBatching {
    /// Batch sizes for which nothing waits, in rows, ascending.
    pub preferred_rows: Vec<usize>,
    /// How long a request may be kept waiting for others to share its batch, while an instance is free.
    pub max_delay: Duration,
    /// Levels of urgency; 0 has one.
    pub levels: u32,
    /// The level of a request that does not say.
    pub default_level: u32,
    /// How the requests of some levels wait.
    pub policies: BTreeMap<u32, QueuePolicy>,
}

impl DynamicBatching {
    /// The level of a request that asks for `priority`, 0 for none. More than there are levels is the least urgent.
    #[must_use]
    pub fn class(&self, priority: u64) -> u32 {
        match u32::try_from(priority).unwrap_or(u32::MAX) {
            _ if self.levels == 0 => 1,
            0 => self.default_level,
            asked => asked.min(self.levels),
        }
    }
}

/// Where instances run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceKind {
    /// Where the server runs models.
    Auto,
    /// The host's cores.
    Cpu,
    /// A GPU.
    Gpu,
}

/// Instances of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceGroup {
    /// Where they run.
    pub kind: InstanceKind,
    /// How many.
    pub count: NonZeroUsize,
    /// The GPUs that are named.
    pub gpus: Vec<i32>,
}

/// What is configured of a model, checked.
#[derive(Clone, Debug)]
pub struct ModelConfiguration {
    origin: Origin,
    /// As protobuf's JSON has it, defaults printed.
    json: Value,
    name: Option<String>,
    file_name: Option<String>,
    checked: Checked,
    warnings: Vec<String>,
}

impl Default for ModelConfiguration {
    /// Of a model that nothing is said of.
    fn default() -> Self {
        Self::from_fields(json!({}), Origin::new(Source::None, "")).expect("a configuration may be empty")
    }
}

impl ModelConfiguration {
    /// Reads the text of a `config.pbtxt`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`] that says line, column and field.
    pub fn from_pbtxt(text: &str) -> Result<Self> {
        Self::parse(text, Source::File(PBTXT), Syntax::Text)
    }

    /// Reads the text of a `model.toml`.
    ///
    /// # Errors
    /// As for [`ModelConfiguration::from_pbtxt`].
    pub fn from_toml(text: &str) -> Result<Self> {
        let source = Source::File(TOML);
        check_size(text.len(), source)?;
        let mut origin = Origin::new(source, text);
        let fields = native::parse(text, &mut origin).map_err(|problem| origin.unreadable(&problem))?;
        Self::from_fields(fields, origin)
    }

    /// Reads the JSON of a load request's parameter `config`: Triton's fields, under their own names or in camel case.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] at `parameters.config` that says line, column and field.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::parse(text, Source::Parameter(PARAMETER), Syntax::Json)
    }

    fn parse(text: &str, source: Source, syntax: Syntax) -> Result<Self> {
        check_size(text.len(), source)?;
        let mut origin = Origin::new(source, text);
        let fields = parse::parse(text, syntax, schema::model_config(), &mut origin)
            .map_err(|problem| origin.unreadable(&problem))?;
        Self::from_fields(fields, origin)
    }

    fn from_fields(sparse: Value, origin: Origin) -> Result<Self> {
        // What the readers let through fits the description; an error here would be theirs.
        let json = schema::with_defaults(sparse)?;
        let fields = Fields::deserialize(&json).map_err(Error::internal)?;
        let mut check = Checker::new(&origin);
        let checked = check.check(&fields)?;
        let warnings = check.warnings;
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let file_name = given(fields.default_model_filename);
        if let Some(name) = &file_name {
            files::check_relative(name).map_err(|problem| origin.error("default_model_filename", problem))?;
        }
        for (index, output) in checked.outputs.iter().enumerate() {
            if let Some(name) = &output.labels {
                let path = format!("output[{index}].label_filename");
                files::check_relative(name).map_err(|problem| origin.error(&path, problem))?;
            }
        }
        Ok(Self { name: given(fields.name), file_name, json, checked, warnings, origin })
    }

    /// Reads the configuration that lies in a model's folder; `None` when there is none.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`] when there are two, or when it cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let (pbtxt, toml) = (folder.join(PBTXT), folder.join(TOML));
        // A dangling link is there and cannot be read.
        let is_there = |path: &Path| path.symlink_metadata().is_ok();
        match (is_there(&pbtxt), is_there(&toml)) {
            (false, false) => Ok(None),
            (true, true) => {
                let problem = format!("expected one of {PBTXT} and {TOML}, got both");
                Err(Error::new(ErrorKind::InvalidModel, problem))
            }
            (true, false) => Self::from_pbtxt(&read_text(&pbtxt, PBTXT)?).map(Some),
            (false, true) => Self::from_toml(&read_text(&toml, TOML)?).map(Some),
        }
    }

    /// True when something was configured: a file or a request says so.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.origin.source() != Source::None
    }

    /// The model's name, where it is said.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What runs it.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.checked.backend.unwrap_or(Backend::OnnxRuntime)
    }

    /// Which versions are served.
    #[must_use]
    pub fn versions(&self) -> &VersionPolicy {
        &self.checked.versions
    }

    /// The most rows of one request; `None` when dimension 0 does not count rows, or nothing is said.
    #[must_use]
    pub fn max_batch_size(&self) -> Option<NonZeroUsize> {
        self.checked.max_batch_size
    }

    /// The inputs that are listed.
    #[must_use]
    pub fn inputs(&self) -> &[TensorConfig] {
        &self.checked.inputs
    }

    /// The outputs that are listed.
    #[must_use]
    pub fn outputs(&self) -> &[TensorConfig] {
        &self.checked.outputs
    }

    /// How requests wait.
    #[must_use]
    pub fn queue(&self) -> &QueuePolicy {
        &self.checked.queue
    }

    /// How the requests of a level wait.
    #[must_use]
    pub fn queue_of(&self, level: u32) -> &QueuePolicy {
        self.checked.dynamic_batching.policies.get(&level).unwrap_or(&self.checked.queue)
    }

    /// How requests share batches.
    #[must_use]
    pub fn dynamic_batching(&self) -> &DynamicBatching {
        &self.checked.dynamic_batching
    }

    /// The time within which requests must be answered that do not say; `None` leaves it to the server's settings.
    #[must_use]
    pub fn latency_target(&self) -> Option<Duration> {
        self.checked.parameters.latency_target
    }

    /// How the requests of a stateful model belong together.
    #[must_use]
    pub fn sequence(&self) -> Option<&sequence::SequenceBatching> {
        self.checked.sequence.as_ref()
    }

    /// The instances of all groups; `None` leaves it to Axon.
    #[must_use]
    pub fn instances(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(self.checked.instances.iter().map(|group| group.count.get()).sum())
    }

    /// What instances and threads are chosen for; `None` leaves it to the server.
    #[must_use]
    pub fn profile(&self) -> Option<Profile> {
        self.checked.parameters.profile
    }

    /// The name of the model's file in its version's folder, where it is not `model.onnx`.
    #[must_use]
    pub fn file_name(&self) -> Option<&str> {
        self.file_name.as_deref()
    }

    /// How long each run of the backend `identity` takes.
    #[must_use]
    pub fn execute_delay(&self) -> Duration {
        self.checked.parameters.execute_delay
    }

    /// Whether requests may share a run; `None` leaves it to the server's settings.
    #[must_use]
    pub fn batching(&self) -> Option<Batching> {
        self.checked.parameters.batching
    }

    /// What was read and is not used, one line for each field.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// As Triton answers it: protobuf's JSON, fields under their own names, defaults printed.
    #[must_use]
    pub fn to_json(&self) -> Value {
        self.json.clone()
    }

    /// The error of the field at `path`, with its place.
    pub fn error(&self, path: &str, problem: impl std::fmt::Display) -> Error {
        self.origin.error(path, problem)
    }

    /// Checks that the configuration is about the model of this name.
    ///
    /// # Errors
    /// When it says another one.
    pub fn check_name(&self, name: &str) -> Result<()> {
        match &self.name {
            Some(other) if other != name => {
                let got = crate::error::Echo(other);
                Err(self.error("name", format_args!("expected `{name}`, as the model's folder, got {got}")))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the instances may run on `device`.
    ///
    /// # Errors
    /// When they ask for another one.
    pub fn check_device(&self, device: Device) -> Result<()> {
        for (index, group) in self.checked.instances.iter().enumerate() {
            let path = format!("instance_group[{index}].kind");
            match (group.kind, device) {
                (InstanceKind::Gpu, Device::Cpu) => {
                    let problem =
                        "expected KIND_CPU or KIND_AUTO, got KIND_GPU; this server runs models on the CPU";
                    return Err(self.error(&path, problem));
                }
                (InstanceKind::Cpu, Device::Cuda) => {
                    let problem =
                        "expected KIND_GPU or KIND_AUTO, got KIND_CPU; this server runs models on a GPU";
                    return Err(self.error(&path, problem));
                }
                _ => {}
            }
            if device == Device::Cuda && group.gpus.iter().any(|&gpu| gpu != 0) {
                let path = format!("instance_group[{index}].gpus");
                return Err(self.error(&path, format_args!("expected only GPU 0, got {:?}", group.gpus)));
            }
        }
        let wanted = self.checked.gpu_accelerators.first();
        match wanted {
            Some(name) if device == Device::Cpu || name != "cuda" => {
                let problem = format_args!("{} is not available on this server", crate::error::Echo(name));
                Err(self.error("optimization.execution_accelerators.gpu_execution_accelerator", problem))
            }
            _ => Ok(()),
        }
    }
}

fn check_size(size: usize, source: Source) -> Result<()> {
    if size <= MAX_CONFIGURATION {
        return Ok(());
    }
    let message = format!("expected at most {MAX_CONFIGURATION} bytes, got {size}");
    Err(Origin::new(source, "").unreadable(&Problem::new(0, message)))
}

fn read_text(path: &Path, name: &'static str) -> Result<String> {
    let source = Source::File(name);
    let unreadable = |error: std::io::Error| {
        Error::new(ErrorKind::InvalidModel, format!("{name}: cannot be read: {}", error.kind()))
            .with_source(format_args!("`{}`: {error}", path.display()))
    };
    // Asked before it is opened: opening a pipe would wait for whoever writes it.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(Error::new(ErrorKind::InvalidModel, format!("{name}: expected a regular file")));
    }
    let mut bytes = Vec::new();
    let limit = MAX_CONFIGURATION as u64 + 1;
    File::open(path).map_err(unreadable)?.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    check_size(bytes.len(), source)?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(&error.as_bytes()[..valid]);
        Origin::new(source, &text).unreadable(&Problem::new(valid, "expected UTF-8"))
    })
}

#[cfg(test)]
mod tests;
