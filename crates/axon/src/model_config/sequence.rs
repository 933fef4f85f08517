//! How the requests of a stateful model are put into sequences, as `sequence_batching` says it.

use std::time::Duration;

use synapse::DataType;

use super::check::{Checker, data_type, dimensions};
use super::fields::{ControlFields, SequenceFields, StateFields};
use crate::error::{Echo, Result};

/// A sequence that asks nothing for so long has ended. **Source:** Triton's `max_sequence_idle_microseconds`.
const DEFAULT_IDLE: Duration = Duration::from_secs(1);

/// The longest idle time.
const MAX_IDLE: Duration = Duration::from_secs(24 * 60 * 60);

/// The most sequences that are candidates for a batch.
const MAX_CANDIDATES: i32 = 65_536;

/// Sequence batching, parsed and checked by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceBatching {
    /// How a batch is put together.
    pub strategy: SequenceStrategy,
    /// A sequence that asks nothing for longer has ended; more than zero.
    pub max_idle: Duration,
    /// Inputs that tell the model where a request is in its sequence, in the configuration's order.
    pub controls: Vec<ControlInput>,
    /// Outputs that come back as inputs of the sequence's next request, in the configuration's order.
    pub states: Vec<SequenceState>,
}

/// How a batch of sequences is put together.
#[derive(Clone, Debug, PartialEq)]
pub enum SequenceStrategy {
    /// Each sequence has a slot of one instance's batch until it ends; a slot whose sequence asks nothing runs unready.
    Direct {
        /// How long a batch may wait for more slots.
        max_queue_delay: Duration,
        /// The share of slots, 0 to 1, that ends the wait.
        minimum_slot_utilization: f32,
    },
    /// Each sequence belongs to an instance, which batches the oldest requests of its sequences.
    Oldest {
        /// The most sequences of one instance; 0 for no bound but the batch's own.
        max_candidate_sequences: u32,
        /// Batch sizes to wait for.
        preferred_batch_size: Vec<u32>,
        /// How long a batch may wait for them.
        max_queue_delay: Duration,
        /// Whether answers keep the requests' order.
        preserve_ordering: bool,
    },
}

/// What a control input tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ControlKind {
    /// The request is its sequence's first.
    Start,
    /// The slot has a request.
    Ready,
    /// The request is its sequence's last.
    End,
    /// The sequence's id.
    CorrelationId,
}

/// The values that stand for no and for yes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FalseTrue {
    /// INT32.
    Int32(i32, i32),
    /// FP32.
    Fp32(f32, f32),
    /// BOOL.
    Bool(bool, bool),
}

/// An input that the server fills, of one element a row.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlInput {
    /// The model's input.
    pub name: String,
    /// What it tells.
    pub kind: ControlKind,
    /// Its element type.
    pub datatype: DataType,
    /// Its values; `None` for [`ControlKind::CorrelationId`].
    pub values: Option<FalseTrue>,
}

/// An output that is kept for its sequence's next request; it is zeros before the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceState {
    /// The model's input.
    pub input: String,
    /// The model's output.
    pub output: String,
    /// The element type of both.
    pub datatype: DataType,
    /// The shape of a row (of the whole tensor where the model is not batched), -1 for any size.
    pub dims: Vec<i64>,
    /// The shape of the first, all zeros; -1 nowhere.
    pub initial_dims: Vec<usize>,
}

impl SequenceBatching {
    pub(super) fn read(fields: &SequenceFields, checker: &mut Checker<'_>) -> Result<Self> {
        const AT: &str = "sequence_batching";
        if fields.iterative_sequence {
            return Err(checker.unsupported(&format!("{AT}.iterative_sequence")));
        }
        let idle = fields.max_sequence_idle_microseconds;
        let max_idle = match idle {
            0 => DEFAULT_IDLE,
            _ => checker.microseconds(&format!("{AT}.max_sequence_idle_microseconds"), idle, MAX_IDLE)?,
        };
        let strategy = Self::read_strategy(fields, checker)?;
        let mut controls: Vec<ControlInput> = Vec::new();
        for (index, input) in fields.control_input.iter().enumerate() {
            let at = format!("{AT}.control_input[{index}]");
            checker.name(&format!("{at}.name"), &input.name)?;
            let [control] = &input.control[..] else {
                let got = input.control.len();
                return Err(checker.error(&at, format_args!("expected one control, got {got}")));
            };
            let control = read_control(&input.name, control, &format!("{at}.control[0]"), checker)?;
            if controls.iter().any(|known| known.kind == control.kind) {
                return Err(checker.error(&at, "another control input is of this kind"));
            }
            controls.push(control);
        }
        let states = fields.state.iter().enumerate();
        let states = states.map(|(index, state)| read_state(state, &format!("{AT}.state[{index}]"), checker));
        let states: Vec<_> = states.collect::<Result<_>>()?;
        let mut names: Vec<&str> = controls.iter().map(|control| control.name.as_str()).collect();
        names.extend(states.iter().map(|state| state.input.as_str()));
        names.sort_unstable();
        if let Some(&[name, _]) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(checker.error(AT, format_args!("input {} is named twice", Echo(name))));
        }
        Ok(Self { strategy, max_idle, controls, states })
    }

    fn read_strategy(fields: &SequenceFields, checker: &Checker<'_>) -> Result<SequenceStrategy> {
        const AT: &str = "sequence_batching";
        if let Some(oldest) = &fields.oldest {
            let at = |field: &str| format!("{AT}.oldest.{field}");
            let candidates = u32::try_from(oldest.max_candidate_sequences)
                .ok()
                .filter(|_| oldest.max_candidate_sequences <= MAX_CANDIDATES)
                .ok_or_else(|| {
                    checker.out_of_range(
                        &at("max_candidate_sequences"),
                        0,
                        i64::from(MAX_CANDIDATES),
                        oldest.max_candidate_sequences.into(),
                    )
                })?;
            let delay =
                checker.delay(&at("max_queue_delay_microseconds"), oldest.max_queue_delay_microseconds)?;
            let preferred = checker.preferred(&at("preferred_batch_size"), &oldest.preferred_batch_size)?;
            return Ok(SequenceStrategy::Oldest {
                max_candidate_sequences: candidates,
                preferred_batch_size: preferred,
                max_queue_delay: delay,
                preserve_ordering: oldest.preserve_ordering,
            });
        }
        let at = |field: &str| format!("{AT}.direct.{field}");
        let (delay, utilization) = fields.direct.as_ref().map_or((0, 0.0), |direct| {
            (direct.max_queue_delay_microseconds, direct.minimum_slot_utilization)
        });
        if !(0.0..=1.0).contains(&utilization) {
            let problem = format_args!("expected a share from 0 to 1, got {utilization}");
            return Err(checker.error(&at("minimum_slot_utilization"), problem));
        }
        #[expect(clippy::cast_possible_truncation, reason = "it was an `f32` in the description")]
        let minimum_slot_utilization = utilization as f32;
        let max_queue_delay = checker.delay(&at("max_queue_delay_microseconds"), delay)?;
        Ok(SequenceStrategy::Direct { max_queue_delay, minimum_slot_utilization })
    }
}

fn read_control(name: &str, fields: &ControlFields, at: &str, checker: &Checker<'_>) -> Result<ControlInput> {
    let kind = match fields.kind.as_str() {
        "CONTROL_SEQUENCE_READY" => ControlKind::Ready,
        "CONTROL_SEQUENCE_END" => ControlKind::End,
        "CONTROL_SEQUENCE_CORRID" => ControlKind::CorrelationId,
        _ => ControlKind::Start,
    };
    let (int32, fp32, bools) = (&fields.int32_false_true, &fields.fp32_false_true, &fields.bool_false_true);
    let given = [int32.len(), fp32.len(), bools.len()];
    if kind == ControlKind::CorrelationId {
        if given != [0; 3] {
            return Err(checker.error(at, "expected no values for CONTROL_SEQUENCE_CORRID"));
        }
        let path = format!("{at}.data_type");
        let datatype = data_type(&path, &fields.data_type, checker)?;
        let allowed = [DataType::Uint64, DataType::Int64, DataType::Uint32, DataType::Int32, DataType::Bytes];
        if !allowed.contains(&datatype) {
            let problem = "expected TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 or TYPE_STRING for a correlation id";
            return Err(checker.error(&path, problem));
        }
        return Ok(ControlInput { name: name.to_owned(), kind, datatype, values: None });
    }
    let (datatype, values) = match (&int32[..], &fp32[..], &bools[..]) {
        (&[no, yes], [], []) => (DataType::Int32, FalseTrue::Int32(no, yes)),
        ([], &[no, yes], []) => (DataType::Fp32, FalseTrue::Fp32(no, yes)),
        ([], [], &[no, yes]) => (DataType::Bool, FalseTrue::Bool(no, yes)),
        _ => {
            let problem = "expected two values in one of int32_false_true, fp32_false_true, bool_false_true";
            return Err(checker.error(at, problem));
        }
    };
    Ok(ControlInput { name: name.to_owned(), kind, datatype, values: Some(values) })
}

fn read_state(fields: &StateFields, at: &str, checker: &mut Checker<'_>) -> Result<SequenceState> {
    checker.name(&format!("{at}.input_name"), &fields.input_name)?;
    checker.name(&format!("{at}.output_name"), &fields.output_name)?;
    let datatype = data_type(&format!("{at}.data_type"), &fields.data_type, checker)?;
    if fields.use_growable_memory {
        return Err(checker.unsupported(&format!("{at}.use_growable_memory")));
    }
    if fields.use_same_buffer_for_input_output {
        checker.unused(&format!("{at}.use_same_buffer_for_input_output"));
    }
    let path = format!("{at}.dims");
    dimensions(&path, &fields.dims, checker)?;
    let mut initial: Vec<i64> = fields.dims.clone();
    match &fields.initial_state[..] {
        [] => {}
        [state] => {
            let at = format!("{at}.initial_state[0]");
            if state.data_file.is_some() {
                return Err(checker.unsupported(&format!("{at}.data_file")));
            }
            if state.zero_data != Some(true) {
                return Err(checker.error(&at, "expected zero_data: true"));
            }
            if data_type(&format!("{at}.data_type"), &state.data_type, checker)? != datatype {
                return Err(checker.error(&format!("{at}.data_type"), "expected the data type of the state"));
            }
            let fits = state.dims.len() == fields.dims.len()
                && state.dims.iter().zip(&fields.dims).all(|(&size, &of)| of == -1 || of == size);
            if !fits {
                let problem = format_args!("expected dims that fit {:?}, got {:?}", fields.dims, state.dims);
                return Err(checker.error(&format!("{at}.dims"), problem));
            }
            initial.clone_from(&state.dims);
        }
        several => {
            let problem = format_args!("expected at most one initial state, got {}", several.len());
            return Err(checker.error(&format!("{at}.initial_state"), problem));
        }
    }
    // A variable size that no initial state fixes begins with one element.
    let initial_dims = initial.iter().map(|&size| usize::try_from(size).unwrap_or(1)).collect();
    Ok(SequenceState {
        input: fields.input_name.clone(),
        output: fields.output_name.clone(),
        datatype,
        dims: fields.dims.clone(),
        initial_dims,
    })
}
