//! Checks what a configuration says by itself, before a model file is at hand: what Axon does not do, and ranges.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use synapse::DataType;

use super::fields::{DynamicBatchingFields, Fields, InstanceGroupFields, QueuePolicyFields, TensorFields};
use super::origin::{Origin, suggestion};
use super::parameters::Parameters;
use super::sequence::SequenceBatching;
use super::{
    Backend, DynamicBatching, InstanceGroup, InstanceKind, QueuePolicy, TensorConfig, VersionPolicy,
};
use crate::config::MAX_TIMEOUT;
use crate::error::{Echo, Error, Result};

/// The most rows of a request or a run.
pub(super) const MAX_BATCH_SIZE: i32 = 1 << 20;
const MAX_QUEUE_SIZE: u32 = 1 << 20;
const MAX_INSTANCES: i32 = 256;
const MAX_PRIORITY_LEVELS: u64 = 1 << 16;
const MAX_NAME: usize = 256;
/// The longest that requests may be held back for a fuller batch.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// What was checked.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    pub backend: Option<Backend>,
    pub versions: VersionPolicy,
    pub max_batch_size: Option<NonZeroUsize>,
    pub inputs: Vec<TensorConfig>,
    pub outputs: Vec<TensorConfig>,
    pub queue: QueuePolicy,
    pub dynamic_batching: DynamicBatching,
    pub sequence: Option<SequenceBatching>,
    pub instances: Vec<InstanceGroup>,
    pub gpu_accelerators: Vec<String>,
    pub parameters: Parameters,
}

/// Turns fields into valid values; collects what to warn of.
pub(super) struct Checker<'a> {
    origin: &'a Origin,
    pub warnings: Vec<String>,
}

impl<'a> Checker<'a> {
    pub fn new(origin: &'a Origin) -> Self {
        Self { origin, warnings: Vec::new() }
    }

    pub fn error(&self, path: &str, problem: impl fmt::Display) -> Error {
        self.origin.error(path, problem)
    }

    pub fn unsupported(&self, path: &str) -> Error {
        self.error(path, "Axon does not support this, and answers could differ without it")
    }

    /// Warns of a field that cannot change answers.
    pub fn unused(&mut self, path: &str) {
        self.warnings.push(format!("{path}: kept, but not used by Axon; answers do not depend on it"));
    }

    pub fn out_of_range(&self, path: &str, least: i64, most: i64, got: i64) -> Error {
        self.error(path, format_args!("expected {least} to {most}, got {got}"))
    }

    pub fn name(&self, path: &str, name: &str) -> Result<()> {
        if !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control) {
            return Ok(());
        }
        Err(self.error(path, format_args!("expected 1 to {MAX_NAME} printable bytes, got {}", Echo(name))))
    }

    pub fn microseconds(&self, path: &str, value: u64, most: Duration) -> Result<Duration> {
        let duration = Duration::from_micros(value);
        if duration <= most {
            return Ok(duration);
        }
        Err(self.error(path, format_args!("expected at most {}, got {value}", most.as_micros())))
    }

    pub fn delay(&self, path: &str, value: u64) -> Result<Duration> {
        self.microseconds(path, value, MAX_DELAY)
    }

    pub fn preferred(&self, path: &str, sizes: &[i32]) -> Result<Vec<u32>> {
        let each = sizes.iter().enumerate().map(|(index, &size)| {
            let valid = u32::try_from(size).ok().filter(|_| (1..=MAX_BATCH_SIZE).contains(&size));
            valid.ok_or_else(|| {
                self.out_of_range(&format!("{path}[{index}]"), 1, MAX_BATCH_SIZE.into(), size.into())
            })
        });
        each.collect()
    }

    /// Checks all fields.
    pub fn check(&mut self, fields: &Fields) -> Result<Checked> {
        self.refuse(fields)?;
        let backend = self.backend(fields)?;
        let max_batch_size = usize::try_from(fields.max_batch_size)
            .ok()
            .filter(|_| fields.max_batch_size <= MAX_BATCH_SIZE)
            .ok_or_else(|| {
                self.out_of_range("max_batch_size", 0, MAX_BATCH_SIZE.into(), fields.max_batch_size.into())
            })?;
        let max_batch_size = NonZeroUsize::new(max_batch_size);
        let versions = self.versions(fields)?;
        let inputs = self.tensors("input", &fields.input, max_batch_size.is_some())?;
        let outputs = self.tensors("output", &fields.output, max_batch_size.is_some())?;
        let (queue, dynamic_batching) = match &fields.dynamic_batching {
            Some(batching) => self.dynamic_batching(batching, fields.max_batch_size)?,
            None => (QueuePolicy::default(), DynamicBatching::default()),
        };
        let sequence = match &fields.sequence_batching {
            Some(sequence) => Some(SequenceBatching::read(sequence, self)?),
            None => None,
        };
        let instances = self.instances(&fields.instance_group)?;
        let mut parameters = self.parameters(fields, backend)?;
        parameters.response_cache = self.response_cache(fields, &parameters)?;
        self.warn(fields);
        let hints = fields.optimization.as_ref();
        let accelerators = hints.and_then(|hints| hints.execution_accelerators.as_ref());
        let accelerators = accelerators.map(|given| &given.gpu_execution_accelerator[..]).unwrap_or_default();
        Ok(Checked {
            gpu_accelerators: accelerators.iter().map(|given| given.name.clone()).collect(),
            backend,
            versions,
            max_batch_size,
            inputs,
            outputs,
            queue,
            dynamic_batching,
            sequence,
            instances,
            parameters,
        })
    }

    /// Refuses what Axon does not do and what answers depend on.
    fn refuse(&self, fields: &Fields) -> Result<()> {
        let operations = fields.model_operations.as_ref();
        let agents = fields.model_repository_agents.as_ref();
        let accelerators =
            fields.optimization.as_ref().and_then(|hints| hints.execution_accelerators.as_ref());
        let refused = [
            (fields.ensemble_scheduling.is_some(), "ensemble_scheduling"),
            (!fields.batch_input.is_empty(), "batch_input"),
            (!fields.batch_output.is_empty(), "batch_output"),
            (operations.is_some_and(|given| !given.op_library_filename.is_empty()), "model_operations"),
            (
                fields.model_transaction_policy.as_ref().is_some_and(|policy| policy.decoupled),
                "model_transaction_policy.decoupled",
            ),
            (agents.is_some_and(|given| !given.agents.is_empty()), "model_repository_agents"),
            (
                accelerators.is_some_and(|given| !given.cpu_execution_accelerator.is_empty()),
                "optimization.execution_accelerators.cpu_execution_accelerator",
            ),
        ];
        match refused.iter().find(|(is_given, _)| *is_given) {
            Some((_, path)) => Err(self.unsupported(path)),
            None => Ok(()),
        }
    }

    fn backend(&self, fields: &Fields) -> Result<Option<Backend>> {
        let by_backend = self.known("backend", &fields.backend, Backend::by_name)?;
        let by_platform = self.known("platform", &fields.platform, Backend::by_platform)?;
        match (by_backend, by_platform) {
            (Some(one), Some(other)) if one != other => {
                let problem = format_args!(
                    "expected `{}` or nothing, as the backend is `{}`",
                    one.platform(),
                    one.name()
                );
                Err(self.error("platform", problem))
            }
            (one, other) => Ok(one.or(other)),
        }
    }

    fn known(
        &self,
        path: &str,
        name: &str,
        find: impl Fn(&str) -> Option<Backend>,
    ) -> Result<Option<Backend>> {
        if name.is_empty() {
            return Ok(None);
        }
        let unknown = || {
            let names = Backend::ALL
                .map(|backend| if path == "backend" { backend.name() } else { backend.platform() });
            self.error(path, format_args!("{}; got {}", suggestion(name, names.into_iter()), Echo(name)))
        };
        find(name).map(Some).ok_or_else(unknown)
    }

    fn versions(&self, fields: &Fields) -> Result<VersionPolicy> {
        const ONE: NonZeroUsize = NonZeroUsize::MIN;
        let Some(policy) = &fields.version_policy else { return Ok(VersionPolicy::Latest(ONE)) };
        if policy.all.is_some() {
            return Ok(VersionPolicy::All);
        }
        if let Some(specific) = &policy.specific {
            let path = "version_policy.specific.versions";
            let mut versions = Vec::with_capacity(specific.versions.len());
            for (index, &version) in specific.versions.iter().enumerate() {
                let version = u64::try_from(version)
                    .ok()
                    .filter(|&version| version > 0)
                    .ok_or_else(|| self.out_of_range(&format!("{path}[{index}]"), 1, i64::MAX, version))?;
                versions.push(version);
            }
            if versions.is_empty() {
                return Err(self.error(path, "expected at least one version"));
            }
            return Ok(VersionPolicy::Specific(versions));
        }
        let path = "version_policy.latest.num_versions";
        let latest = policy.latest.as_ref().map_or(0, |latest| latest.num_versions);
        match usize::try_from(latest).ok().and_then(NonZeroUsize::new) {
            Some(latest) => Ok(VersionPolicy::Latest(latest)),
            None if self.origin.says(path) => Err(self.error(path, "expected at least 1, got 0")),
            None => Ok(VersionPolicy::Latest(ONE)),
        }
    }

    fn tensors(
        &mut self,
        side: &str,
        tensors: &[TensorFields],
        is_batched: bool,
    ) -> Result<Vec<TensorConfig>> {
        let mut checked: Vec<TensorConfig> = Vec::with_capacity(tensors.len());
        for (index, fields) in tensors.iter().enumerate() {
            let at = format!("{side}[{index}]");
            let tensor = self.tensor(&at, fields, is_batched)?;
            if checked.iter().any(|known| known.name == tensor.name) {
                let problem = format_args!("duplicate {side} {}", Echo(&tensor.name));
                return Err(self.error(&format!("{at}.name"), problem));
            }
            checked.push(tensor);
        }
        Ok(checked)
    }

    fn tensor(&mut self, at: &str, fields: &TensorFields, is_batched: bool) -> Result<TensorConfig> {
        let refused = [
            (fields.is_shape_tensor, "is_shape_tensor"),
            (fields.allow_ragged_batch, "allow_ragged_batch"),
            (fields.optional, "optional"),
            (fields.is_non_linear_format_io, "is_non_linear_format_io"),
        ];
        if let Some((_, field)) = refused.iter().find(|(is_given, _)| *is_given) {
            return Err(self.unsupported(&format!("{at}.{field}")));
        }
        self.name(&format!("{at}.name"), &fields.name)?;
        let datatype = data_type(&format!("{at}.data_type"), &fields.data_type, self)?;
        dimensions(&format!("{at}.dims"), &fields.dims, self)?;
        let reshape = fields.reshape.as_ref().map(|reshape| reshape.shape.clone());
        if let Some(shape) = &reshape {
            self.reshape(&format!("{at}.reshape.shape"), &fields.dims, shape, is_batched)?;
        }
        if !matches!(fields.format.as_str(), "" | "FORMAT_NONE") {
            self.unused(&format!("{at}.format"));
        }
        let labels = Some(fields.label_filename.clone()).filter(|name| !name.is_empty());
        Ok(TensorConfig { name: fields.name.clone(), datatype, dims: fields.dims.clone(), reshape, labels })
    }

    /// A reshape keeps the elements: as many variable sizes, and between them the same number of elements.
    fn reshape(&self, path: &str, dims: &[i64], shape: &[i64], is_batched: bool) -> Result<()> {
        if shape.is_empty() && !is_batched {
            return Err(self.error(path, "expected at least one dimension where max_batch_size is 0"));
        }
        each_dimension(path, shape, self)?;
        let pieces = |sizes: &[i64]| -> Option<Vec<i64>> {
            let piece =
                |piece: &[i64]| piece.iter().try_fold(1_i64, |product, size| product.checked_mul(*size));
            sizes.split(|&size| size == -1).map(piece).collect()
        };
        match (pieces(dims), pieces(shape)) {
            (Some(from), Some(to)) if from == to => Ok(()),
            _ => Err(self.error(path, format_args!("expected the elements of dims {dims:?}, got {shape:?}"))),
        }
    }

    fn dynamic_batching(
        &mut self,
        fields: &DynamicBatchingFields,
        max_batch_size: i32,
    ) -> Result<(QueuePolicy, DynamicBatching)> {
        let at = |field: &str| format!("dynamic_batching.{field}");
        let preferred = at("preferred_batch_size");
        let sizes = self.preferred(&preferred, &fields.preferred_batch_size)?;
        for (index, &size) in sizes.iter().enumerate().filter(|_| max_batch_size > 0) {
            if i64::from(size) > i64::from(max_batch_size) {
                let problem = format_args!("expected at most max_batch_size {max_batch_size}, got {size}");
                return Err(self.error(&format!("{preferred}[{index}]"), problem));
            }
        }
        self.delay(&at("max_queue_delay_microseconds"), fields.max_queue_delay_microseconds)?;
        let levels = fields.priority_levels;
        if levels > MAX_PRIORITY_LEVELS {
            let problem = format_args!("expected 0 to {MAX_PRIORITY_LEVELS}, got {levels}");
            return Err(self.error(&at("priority_levels"), problem));
        }
        let default = fields.default_priority_level;
        if default > levels || (default == 0 && levels > 0) {
            let least = u64::from(levels > 0);
            let problem = format_args!("expected {least} to priority_levels {levels}, got {default}");
            return Err(self.error(&at("default_priority_level"), problem));
        }
        let mut policies = BTreeMap::new();
        for (level, policy) in &fields.priority_queue_policy {
            let path = at("priority_queue_policy");
            if level.parse().is_ok_and(|level: u64| level == 0 || level > levels) {
                let problem =
                    format_args!("expected a level from 1 to priority_levels {levels}, got {level}");
                return Err(self.error(&path, problem));
            }
            let checked = self.queue_policy(&path, policy)?;
            policies.extend(level.parse().ok().map(|level: u32| (level, checked)));
        }
        if fields.preserve_ordering {
            self.unused(&at("preserve_ordering"));
        }
        let policy = fields.default_queue_policy.as_ref();
        let queue = policy.map_or(Ok(QueuePolicy::default()), |policy| {
            self.queue_policy(&at("default_queue_policy"), policy)
        })?;
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let mut preferred_rows: Vec<usize> =
            sizes.iter().filter_map(|&size| usize::try_from(size).ok()).collect();
        preferred_rows.sort_unstable();
        let batching = DynamicBatching {
            preferred_rows,
            max_delay: Duration::from_micros(fields.max_queue_delay_microseconds),
            levels: small(levels),
            default_level: small(default),
            policies,
        };
        Ok((queue, batching))
    }

    fn queue_policy(&self, at: &str, fields: &QueuePolicyFields) -> Result<QueuePolicy> {
        let timeout = fields.default_timeout_microseconds;
        let path = format!("{at}.default_timeout_microseconds");
        let timeout = self.microseconds(&path, timeout, MAX_TIMEOUT)?;
        if fields.timeout_action == "DELAY" {
            return Err(self.error(
                &format!("{at}.timeout_action"),
                "expected REJECT, got DELAY; Axon does not run a request whose timeout is over",
            ));
        }
        let size = fields.max_queue_size;
        if size > MAX_QUEUE_SIZE {
            let path = format!("{at}.max_queue_size");
            return Err(self.out_of_range(&path, 0, MAX_QUEUE_SIZE.into(), size.into()));
        }
        Ok(QueuePolicy {
            max_queue_size: usize::try_from(size).ok().and_then(NonZeroUsize::new),
            default_timeout: Some(timeout).filter(|timeout| !timeout.is_zero()),
            allow_timeout_override: fields.allow_timeout_override,
        })
    }

    fn instances(&mut self, groups: &[InstanceGroupFields]) -> Result<Vec<InstanceGroup>> {
        let mut checked = Vec::with_capacity(groups.len());
        let mut total = 0_i32;
        for (index, group) in groups.iter().enumerate() {
            let at = |field: &str| format!("instance_group[{index}].{field}");
            let is_unset = group.count == 0 && !self.origin.says(&at("count"));
            let count = if is_unset { 1 } else { group.count };
            total = total.saturating_add(count);
            if !(1..=MAX_INSTANCES).contains(&count) || total > MAX_INSTANCES {
                return Err(self.out_of_range(
                    &at("count"),
                    1,
                    MAX_INSTANCES.into(),
                    count.max(total).into(),
                ));
            }
            let kind = match group.kind.as_str() {
                "KIND_GPU" => InstanceKind::Gpu,
                "KIND_CPU" => InstanceKind::Cpu,
                "KIND_MODEL" => return Err(self.unsupported(&at("kind"))),
                _ => InstanceKind::Auto,
            };
            for (is_given, field) in
                [(group.passive, "passive"), (!group.secondary_devices.is_empty(), "secondary_devices")]
            {
                if is_given {
                    return Err(self.unsupported(&at(field)));
                }
            }
            let unused = [
                (group.rate_limiter.is_some(), "rate_limiter"),
                (!group.profile.is_empty(), "profile"),
                (!group.host_policy.is_empty(), "host_policy"),
            ];
            unused.iter().filter(|(is_given, _)| *is_given).for_each(|(_, field)| self.unused(&at(field)));
            let count = usize::try_from(count).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);
            checked.push(InstanceGroup { kind, count, gpus: group.gpus.clone() });
        }
        Ok(checked)
    }

    /// Warns of what is kept and not used.
    fn warn(&mut self, fields: &Fields) {
        let given = |given: &BTreeMap<_, _>| !given.is_empty();
        let unused = [
            (!fields.runtime.is_empty(), "runtime"),
            (given(&fields.cc_model_filenames), "cc_model_filenames"),
            (given(&fields.metric_tags), "metric_tags"),
            (!fields.model_warmup.is_empty(), "model_warmup"),
            (fields.model_metrics.is_some(), "model_metrics"),
        ];
        unused.iter().filter(|(is_given, _)| *is_given).for_each(|(_, path)| self.unused(path));
        let Some(hints) = &fields.optimization else { return };
        let unused = [
            (hints.graph.is_some(), "graph"),
            (!matches!(hints.priority.as_str(), "" | "PRIORITY_DEFAULT"), "priority"),
            (hints.cuda.is_some(), "cuda"),
            (hints.gather_kernel_buffer_threshold > 0, "gather_kernel_buffer_threshold"),
            (hints.eager_batching, "eager_batching"),
        ];
        let unused = unused.iter().filter(|(is_given, _)| *is_given);
        unused.for_each(|(_, field)| self.unused(&format!("optimization.{field}")));
    }
}

/// The data type that the configuration calls `name`.
pub(super) fn data_type(path: &str, name: &str, checker: &Checker<'_>) -> Result<DataType> {
    let known = match name.strip_prefix("TYPE_") {
        Some("STRING") => Some(DataType::Bytes),
        Some("BYTES") | None => None,
        Some(name) => DataType::ALL.into_iter().find(|datatype| datatype.name() == name),
    };
    known.ok_or_else(|| checker.error(path, "expected a data type, as `TYPE_FP32`"))
}

/// The name of a data type in a configuration.
pub(super) fn data_type_name(datatype: DataType) -> String {
    match datatype {
        DataType::Bytes => "TYPE_STRING".to_owned(),
        _ => format!("TYPE_{}", datatype.name()),
    }
}

/// Checks that there are dimensions, each of which is at least 1, or -1.
pub(super) fn dimensions(path: &str, dims: &[i64], checker: &Checker<'_>) -> Result<()> {
    if dims.is_empty() {
        return Err(checker.error(path, "expected at least one dimension"));
    }
    each_dimension(path, dims, checker)
}

fn each_dimension(path: &str, dims: &[i64], checker: &Checker<'_>) -> Result<()> {
    match dims.iter().position(|&size| size < 1 && size != -1) {
        None => Ok(()),
        Some(index) => Err(checker.error(
            &format!("{path}[{index}]"),
            format_args!("expected a size of at least 1, or -1 for any, got {}", dims[index]),
        )),
    }
}
