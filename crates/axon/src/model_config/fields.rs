//! The fields of the description that Axon looks at, as they were read. What is not here is only kept and returned.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// A configuration with its defaults filled in.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fields {
    pub name: String,
    pub platform: String,
    pub backend: String,
    pub runtime: String,
    pub version_policy: Option<VersionPolicyFields>,
    pub max_batch_size: i32,
    pub input: Vec<TensorFields>,
    pub output: Vec<TensorFields>,
    pub batch_input: Vec<Value>,
    pub batch_output: Vec<Value>,
    pub optimization: Option<OptimizationFields>,
    pub dynamic_batching: Option<DynamicBatchingFields>,
    pub sequence_batching: Option<SequenceFields>,
    pub ensemble_scheduling: Option<Value>,
    pub instance_group: Vec<InstanceGroupFields>,
    pub default_model_filename: String,
    pub cc_model_filenames: BTreeMap<String, Value>,
    pub metric_tags: BTreeMap<String, Value>,
    pub parameters: BTreeMap<String, ParameterFields>,
    pub model_warmup: Vec<Value>,
    pub model_operations: Option<OperationsFields>,
    pub model_transaction_policy: Option<TransactionFields>,
    pub model_repository_agents: Option<AgentsFields>,
    pub response_cache: Option<SwitchFields>,
    pub model_metrics: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct VersionPolicyFields {
    pub latest: Option<LatestFields>,
    pub all: Option<Value>,
    pub specific: Option<SpecificFields>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LatestFields {
    pub num_versions: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SpecificFields {
    pub versions: Vec<i64>,
}

/// An input or an output; each has fields that the other has not.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "the fields are the schema's")]
pub(super) struct TensorFields {
    pub name: String,
    pub data_type: String,
    pub format: String,
    pub dims: Vec<i64>,
    pub reshape: Option<ReshapeFields>,
    pub is_shape_tensor: bool,
    pub allow_ragged_batch: bool,
    pub optional: bool,
    pub is_non_linear_format_io: bool,
    pub label_filename: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ReshapeFields {
    pub shape: Vec<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OptimizationFields {
    pub graph: Option<Value>,
    pub priority: String,
    pub cuda: Option<Value>,
    pub execution_accelerators: Option<AcceleratorsFields>,
    pub gather_kernel_buffer_threshold: u32,
    pub eager_batching: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AcceleratorsFields {
    pub gpu_execution_accelerator: Vec<NameFields>,
    pub cpu_execution_accelerator: Vec<NameFields>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NameFields {
    pub name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct QueuePolicyFields {
    pub timeout_action: String,
    pub default_timeout_microseconds: u64,
    pub allow_timeout_override: bool,
    pub max_queue_size: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct DynamicBatchingFields {
    pub preferred_batch_size: Vec<i32>,
    pub max_queue_delay_microseconds: u64,
    pub preserve_ordering: bool,
    pub priority_levels: u64,
    pub default_priority_level: u64,
    pub default_queue_policy: Option<QueuePolicyFields>,
    pub priority_queue_policy: BTreeMap<String, QueuePolicyFields>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SequenceFields {
    pub direct: Option<DirectFields>,
    pub oldest: Option<OldestFields>,
    pub max_sequence_idle_microseconds: u64,
    pub control_input: Vec<ControlInputFields>,
    pub state: Vec<StateFields>,
    pub iterative_sequence: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct DirectFields {
    pub max_queue_delay_microseconds: u64,
    pub minimum_slot_utilization: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OldestFields {
    pub max_candidate_sequences: i32,
    pub preferred_batch_size: Vec<i32>,
    pub max_queue_delay_microseconds: u64,
    pub preserve_ordering: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ControlInputFields {
    pub name: String,
    pub control: Vec<ControlFields>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ControlFields {
    pub kind: String,
    pub int32_false_true: Vec<i32>,
    pub fp32_false_true: Vec<f32>,
    pub bool_false_true: Vec<bool>,
    pub data_type: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StateFields {
    pub input_name: String,
    pub output_name: String,
    pub data_type: String,
    pub dims: Vec<i64>,
    pub initial_state: Vec<InitialStateFields>,
    pub use_same_buffer_for_input_output: bool,
    pub use_growable_memory: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct InitialStateFields {
    pub data_type: String,
    pub dims: Vec<i64>,
    pub zero_data: Option<bool>,
    pub data_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct InstanceGroupFields {
    pub kind: String,
    pub count: i32,
    pub gpus: Vec<i32>,
    pub secondary_devices: Vec<Value>,
    pub rate_limiter: Option<Value>,
    pub profile: Vec<String>,
    pub passive: bool,
    pub host_policy: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ParameterFields {
    pub string_value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OperationsFields {
    pub op_library_filename: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TransactionFields {
    pub decoupled: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AgentsFields {
    pub agents: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SwitchFields {
    pub enable: bool,
}
