//! Inference requests and responses as the protocol's messages: the same values as JSON, by another road.
//!
//! Raw contents share the message's memory. The same fields are named in errors as in JSON.
//!
//! **Source:** Open Inference Protocol over gRPC; Triton's extensions, whose parameters are typed.

use axon::error::{Echo, Error, Result};
use axon::reason::{Payload, Reason};
use axon::request::{InferenceResponse, Inputs, NamedTensor, Parameter, Sequence, SequenceId};
use bytes::Bytes;
use synapse::{DataType, Memory, Shape, Tensor};

use super::binary::{Unread, of_input};
use super::field::Field;
use super::parameters::{MAX_KEYS, MAX_SEQUENCE_ID, RequestParameters};
use super::shared::{self, Resolver, SharedParameters, SharedPart};
use super::typed::{contents_of, type_of};
use super::{DecodeOptions, Decoded, Labels, ListedOutput, OutputFormat, Parsed, binary, check, classify};
use crate::proto::inference::infer_parameter::ParameterChoice;
use crate::proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crate::proto::inference::model_infer_response::InferOutputTensor;
use crate::proto::inference::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};

/// The most bytes that the message may have beside a tensor that keeps it alive.
const KEPT: usize = 64 << 10;

type Parameters = std::collections::BTreeMap<String, InferParameter>;

/// Reads a request. Its model's name and version are left to the caller.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](axon::ErrorKind) that names the field.
pub fn decode_message(request: ModelInferRequest, options: &DecodeOptions<'_>) -> Result<Parsed> {
    let ModelInferRequest { id, parameters, inputs, outputs, raw_input_contents, .. } = request;
    check::id(&id)?;
    let most = check::MAX_TENSORS;
    let counts = [
        (Field::top("inputs"), inputs.len(), "inputs"),
        (Field::output(most, "name"), outputs.len(), "outputs"),
    ];
    for (field, count, what) in counts {
        if count > most {
            return Err(field.invalid(format_args!("expected at most {most} {what}, got {count}")));
        }
    }
    let parameters = request_parameters(parameters)?;
    let mut resolver = Resolver::new(options.regions, options.shared_limit);
    let (inputs, unread) = read_inputs(inputs, raw_input_contents, &mut resolver)?;
    let Outputs { names, listed, shared } = read_outputs(outputs, &mut resolver)?;
    let decoded = Decoded {
        inputs: Inputs::Named(inputs),
        outputs: names,
        timeout: parameters.timeout,
        priority: parameters.priority,
        sequence: parameters.sequence,
        parameters: parameters.custom,
        id: (!id.is_empty()).then_some(id),
        // Outputs are raw in every answer.
        format: OutputFormat { binary: true, listed, shared },
    };
    Ok(Parsed { decoded, unread })
}

/// The inputs that came, and those that are still to be read from shared memory.
fn read_inputs(
    inputs: Vec<InferInputTensor>,
    raw: Vec<Bytes>,
    resolver: &mut Resolver<'_>,
) -> Result<(Vec<NamedTensor>, Vec<Unread>)> {
    let mut parameters = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.iter().enumerate() {
        parameters.push(input_parameters(index, &input.parameters)?);
    }
    check_raw_count(raw.len(), parameters.iter().filter(|shared| !shared.is_given()).count())?;
    let mut raw = raw.into_iter();
    let (mut tensors, mut unread) = (Vec::with_capacity(inputs.len()), Vec::new());
    for (index, (input, shared)) in inputs.into_iter().zip(parameters).enumerate() {
        let InferInputTensor { name, datatype, shape, contents, .. } = input;
        check::name(&name, Field::input(index, "name"))?;
        let datatype = check::datatype(&datatype, Field::input(index, "datatype"), Some(&name))?;
        let shape = read_shape(index, &name, &shape)?;
        let contents = contents.unwrap_or_default();
        let is_typed = contents != InferTensorContents::default();
        if shared.is_given() {
            if is_typed {
                return Err(Field::input(index, "contents")
                    .invalid("expected none beside a shared memory region, got some"));
            }
            unread.push(Unread { index, name, input: resolver.input(index, shared, datatype, shape)? });
            continue;
        }
        let tensor = match raw.next() {
            Some(_) if is_typed => {
                let error = Field::input(index, "contents")
                    .invalid("expected none beside raw_input_contents, got some");
                return Err(of_input(error, Some(&name), Payload::Twice));
            }
            Some(bytes) => raw_tensor(index, &name, datatype, shape, bytes)?,
            None => typed_tensor(index, &name, datatype, shape, &contents)?,
        };
        tensors.push(NamedTensor { name, tensor });
    }
    Ok((tensors, unread))
}

/// Raw contents come for each input that is not in shared memory, or for none.
fn check_raw_count(raw: usize, inputs: usize) -> Result<()> {
    if raw == 0 || raw == inputs {
        return Ok(());
    }
    Err(Error::invalid(
        "raw_input_contents",
        format_args!("expected one for each input: raw_input_contents: {raw}, inputs: {inputs}"),
    ))
}

fn input_parameters(index: usize, parameters: &Parameters) -> Result<SharedParameters> {
    let field = Field::input(index, "parameters");
    check_keys(parameters, field)?;
    let mut shared = SharedParameters::default();
    for (key, parameter) in parameters {
        shared_parameter(&mut shared, key, parameter, |member| Field::input(index, member))?;
    }
    Ok(shared)
}

/// Reads a parameter of shared memory; true when it is one.
fn shared_parameter(
    shared: &mut SharedParameters,
    key: &str,
    parameter: &InferParameter,
    field: impl Fn(&'static str) -> Field,
) -> Result<bool> {
    match key {
        "shared_memory_region" => {
            let field = field(shared::REGION);
            match choice(parameter, field, key)? {
                ParameterChoice::StringParam(region) => shared.region = Some(region.clone()),
                other => {
                    return Err(field.invalid(format_args!("expected a string, got {}", kind(other))));
                }
            }
        }
        "shared_memory_byte_size" => {
            let field = field(shared::BYTE_SIZE);
            shared.byte_size = Some(integer(choice(parameter, field, key)?, field)?);
        }
        "shared_memory_offset" => {
            let field = field(shared::OFFSET);
            shared.offset = Some(integer(choice(parameter, field, key)?, field)?);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn read_shape(index: usize, name: &str, dimensions: &[i64]) -> Result<Shape> {
    let field = |axis: usize| format!("inputs[{index}].shape[{axis}]");
    let mut sizes = Vec::with_capacity(dimensions.len().min(synapse::MAX_RANK + 1));
    for (axis, &dimension) in dimensions.iter().enumerate().take(synapse::MAX_RANK + 1) {
        let size = usize::try_from(dimension).map_err(|_| {
            let got: Vec<String> = dimensions.iter().take(synapse::MAX_RANK).map(i64::to_string).collect();
            let reason =
                Reason::NegativeDimension { input: name.to_owned(), got: format!("[{}]", got.join(",")) };
            Error::invalid(
                field(axis),
                format_args!("negative: expected an integer of at least 0, got {dimension}"),
            )
            .because(reason)
        })?;
        sizes.push(size);
    }
    let field = Field::input(index, "shape");
    if dimensions.len() > synapse::MAX_RANK {
        let (most, rank) = (synapse::MAX_RANK, dimensions.len());
        return Err(field.invalid(format_args!("rank: expected at most {most} dimensions, got {rank}")));
    }
    Shape::new(&sizes).map_err(|_| {
        let most = isize::MAX;
        field.invalid(format_args!(
            "element count overflows: expected at most {most} elements, got {dimensions:?}"
        ))
    })
}

fn raw_tensor(index: usize, name: &str, datatype: DataType, shape: Shape, bytes: Bytes) -> Result<Tensor> {
    binary::check_size(Field::input(index, ""), Some(name), datatype, &shape, bytes.len() as u64)?;
    // A small tensor must not keep a long message alive: the queue's bound counts the tensors. What is copied is small.
    let memory = if bytes.len() < KEPT { Memory::copy_of(&bytes) } else { Memory::from_owner(bytes) };
    binary::tensor(Field::input(index, ""), Some(name), datatype, shape, memory)
}

/// A tensor of typed contents; copies every element once.
fn typed_tensor(
    index: usize,
    name: &str,
    datatype: DataType,
    shape: Shape,
    contents: &InferTensorContents,
) -> Result<Tensor> {
    let field = Field::input(index, "contents");
    let filled = [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ];
    let Some(wanted) = contents_of(datatype) else {
        return Err(field.invalid(format_args!("expected raw_input_contents for {datatype}, got none")));
    };
    let wrong = filled.iter().find(|(name, count)| *count > 0 && *name != wanted);
    if let Some((got, _)) = wrong {
        let error = field.invalid(format_args!("expected {wanted} for {datatype}, got {got}"));
        let problem = Payload::Contents { got: type_of(got), expected: datatype.name() };
        return Err(of_input(error, Some(name), problem));
    }
    let got: usize = filled.iter().map(|(_, count)| count).sum();
    if got != shape.element_count() {
        let error = field.invalid(format_args!("expected {} elements, got {got}", shape.element_count()));
        return Err(if got == 0 { of_input(error, Some(name), Payload::Nothing) } else { error });
    }
    let c = contents;
    let bytes = match datatype {
        DataType::Bool => c.bool_contents.iter().map(|&value| u8::from(value)).collect(),
        DataType::Int8 => {
            narrow(&c.int_contents, field, datatype, |value| Some(i8::try_from(value).ok()?.to_le_bytes()))?
        }
        DataType::Int16 => {
            narrow(&c.int_contents, field, datatype, |value| Some(i16::try_from(value).ok()?.to_le_bytes()))?
        }
        DataType::Int32 => narrow(&c.int_contents, field, datatype, |value| Some(value.to_le_bytes()))?,
        DataType::Int64 => narrow(&c.int64_contents, field, datatype, |value| Some(value.to_le_bytes()))?,
        DataType::Uint8 => {
            narrow(&c.uint_contents, field, datatype, |value| Some(u8::try_from(value).ok()?.to_le_bytes()))?
        }
        DataType::Uint16 => {
            narrow(&c.uint_contents, field, datatype, |value| Some(u16::try_from(value).ok()?.to_le_bytes()))?
        }
        DataType::Uint32 => narrow(&c.uint_contents, field, datatype, |value| Some(value.to_le_bytes()))?,
        DataType::Uint64 => narrow(&c.uint64_contents, field, datatype, |value| Some(value.to_le_bytes()))?,
        DataType::Fp32 => narrow(&c.fp32_contents, field, datatype, |value| Some(value.to_le_bytes()))?,
        DataType::Fp64 => narrow(&c.fp64_contents, field, datatype, |value| Some(value.to_le_bytes()))?,
        DataType::Bytes => {
            return Tensor::from_elements(&shape, &c.bytes_contents).map_err(|error| field.invalid(error));
        }
        DataType::Fp16 | DataType::Bf16 => Vec::new(),
    };
    binary::tensor(Field::input(index, ""), Some(name), datatype, shape, Memory::copy_of(&bytes))
}

/// The least and the greatest value of a data type that is narrower than its contents.
const fn bounds(datatype: DataType) -> (i32, i32) {
    match datatype {
        DataType::Int8 => (-0x80, 0x7f),
        DataType::Int16 => (-0x8000, 0x7fff),
        DataType::Uint8 => (0, 0xff),
        DataType::Uint16 => (0, 0xffff),
        _ => (i32::MIN, i32::MAX),
    }
}

fn narrow<T: Copy + std::fmt::Display, const SIZE: usize>(
    values: &[T],
    field: Field,
    datatype: DataType,
    encode: impl Fn(T) -> Option<[u8; SIZE]>,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(values.len().saturating_mul(SIZE));
    for (position, &value) in values.iter().enumerate() {
        let element = encode(value).ok_or_else(|| {
            let (least, most) = bounds(datatype);
            field.invalid(format_args!(
                "element {position}: expected {least} to {most} for {datatype}, got {value}"
            ))
        })?;
        bytes.extend_from_slice(&element);
    }
    Ok(bytes)
}

fn request_parameters(parameters: Parameters) -> Result<RequestParameters> {
    let field = Field::top("parameters");
    check_keys(&parameters, field)?;
    let mut read = RequestParameters::default();
    let (mut start, mut end, mut id) = (false, false, None);
    for (key, parameter) in parameters {
        let choice = choice(&parameter, field, &key)?;
        match key.as_str() {
            "sequence_id" => id = sequence_id(choice)?,
            "sequence_start" => start = boolean(choice, Field::top("parameters.sequence_start"))?,
            "sequence_end" => end = boolean(choice, Field::top("parameters.sequence_end"))?,
            "priority" => read.priority = integer(choice, Field::top("parameters.priority"))?,
            "timeout" => {
                let timeout = integer(choice, Field::top("parameters.timeout"))?;
                read.timeout = (timeout > 0).then(|| std::time::Duration::from_micros(timeout));
            }
            // Outputs are raw anyway; the second asks for an empty last answer, which only decoupled models have.
            "binary_data_output" | "triton_enable_empty_final_response" => {}
            _ if key.starts_with("triton_") => {
                return Err(check::reserved(field, &key));
            }
            _ => read.custom.push((key, custom(choice))),
        }
    }
    if start && id.is_none() {
        return Err(Field::top("parameters.sequence_id")
            .invalid("expected an id other than 0 with sequence_start, got 0"));
    }
    read.sequence = id.map(|id| Sequence { id, start, end });
    Ok(read)
}

fn check_keys(parameters: &Parameters, field: Field) -> Result<()> {
    if parameters.len() > MAX_KEYS {
        let got = parameters.len();
        return Err(field.invalid(format_args!("expected at most {MAX_KEYS} keys, got {got}")));
    }
    Ok(())
}

fn choice<'a>(parameter: &'a InferParameter, field: Field, key: &str) -> Result<&'a ParameterChoice> {
    parameter
        .parameter_choice
        .as_ref()
        .ok_or_else(|| field.invalid(format_args!("expected a value for {}, got none", Echo(key))))
}

fn boolean(choice: &ParameterChoice, field: Field) -> Result<bool> {
    match choice {
        ParameterChoice::BoolParam(value) => Ok(*value),
        other => Err(field.invalid(format_args!("expected a boolean, got {}", kind(other)))),
    }
}

fn integer(choice: &ParameterChoice, field: Field) -> Result<u64> {
    let wrong = |got: &dyn std::fmt::Display| {
        field.invalid(format_args!("expected an integer from 0 to {}, got {got}", u64::MAX))
    };
    match choice {
        ParameterChoice::Uint64Param(value) => Ok(*value),
        ParameterChoice::Int64Param(value) => u64::try_from(*value).map_err(|_| wrong(value)),
        other => Err(wrong(&kind(other))),
    }
}

const fn kind(choice: &ParameterChoice) -> &'static str {
    match choice {
        ParameterChoice::BoolParam(_) => "a boolean",
        ParameterChoice::Int64Param(_) | ParameterChoice::Uint64Param(_) => "an integer",
        ParameterChoice::DoubleParam(_) => "a number",
        ParameterChoice::StringParam(_) => "a string",
    }
}

fn sequence_id(choice: &ParameterChoice) -> Result<Option<SequenceId>> {
    let field = Field::top("parameters.sequence_id");
    let ParameterChoice::StringParam(text) = choice else {
        let number = integer(choice, field)?;
        return Ok((number != 0).then_some(SequenceId::Number(number)));
    };
    if text.len() > MAX_SEQUENCE_ID {
        return Err(field
            .invalid(format_args!(
                "expected an integer or a string of at most {MAX_SEQUENCE_ID} bytes, got {} bytes",
                text.len()
            ))
            .because(Reason::SequenceIdLength));
    }
    Ok((!text.is_empty()).then(|| SequenceId::Text(text.clone())))
}

fn custom(choice: &ParameterChoice) -> Parameter {
    match choice {
        ParameterChoice::BoolParam(value) => Parameter::Bool(*value),
        ParameterChoice::Int64Param(value) => Parameter::Int(*value),
        ParameterChoice::Uint64Param(value) => Parameter::Uint(*value),
        ParameterChoice::DoubleParam(value) => Parameter::Double(*value),
        ParameterChoice::StringParam(value) => Parameter::String(value.clone()),
    }
}

/// The outputs that a request lists, and how each is to be written.
#[derive(Default)]
struct Outputs {
    names: Vec<String>,
    listed: Vec<ListedOutput>,
    shared: Vec<Option<SharedPart>>,
}

fn read_outputs(outputs: Vec<InferRequestedOutputTensor>, resolver: &mut Resolver<'_>) -> Result<Outputs> {
    let mut read = Outputs::default();
    for (index, InferRequestedOutputTensor { name, parameters }) in outputs.into_iter().enumerate() {
        check::name(&name, Field::output(index, "name"))?;
        let (listed, shared) = read_output(index, &parameters)?;
        let part = if shared.is_given() { Some(resolver.output(index, shared)?) } else { None };
        if listed.classification.is_some() && part.is_some() {
            return Err(Field::output(index, classify::CLASSIFICATION)
                .invalid("expected none beside shared_memory_region, got both")
                .because(Reason::RegionAnd("classification")));
        }
        read.names.push(name);
        read.listed.push(listed);
        read.shared.push(part);
    }
    Ok(read)
}

fn read_output(index: usize, parameters: &Parameters) -> Result<(ListedOutput, SharedParameters)> {
    let field = Field::output(index, "parameters");
    check_keys(parameters, field)?;
    let mut listed = ListedOutput { binary: true, classification: None };
    let mut shared = SharedParameters::default();
    for (key, parameter) in parameters {
        if shared_parameter(&mut shared, key, parameter, |member| Field::output(index, member))? {
            continue;
        }
        let choice = choice(parameter, field, key)?;
        if key == "classification" {
            let field = Field::output(index, classify::CLASSIFICATION);
            let count = integer(choice, field)?;
            if !(1..=0x7fff_ffff).contains(&count) {
                return Err(
                    field.invalid(format_args!("expected an integer from 1 to 2147483647, got {count}"))
                );
            }
            listed.classification = usize::try_from(count).ok();
        }
    }
    Ok((listed, shared))
}

/// An answer as a message without its raw contents, and these.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](axon::ErrorKind) for classes of an output that has none.
pub fn encode_message(
    response: InferenceResponse,
    id: Option<String>,
    format: &OutputFormat,
    labels: Labels<'_>,
) -> Result<(ModelInferResponse, Vec<Memory>)> {
    shared::write_outputs(&response.outputs, &format.shared)?;
    let InferenceResponse { model, version, outputs, .. } = response;
    let mut described = Vec::with_capacity(outputs.len());
    let mut raw = Vec::with_capacity(outputs.len());
    for (index, NamedTensor { name, tensor }) in outputs.into_iter().enumerate() {
        let tensor = match format.of(index).classification {
            Some(count) => classify::classify(&tensor, count, index, labels(&name).unwrap_or_default())?,
            None => tensor,
        };
        let shape = tensor.shape().iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
        let part = format.shared(index);
        described.push(InferOutputTensor {
            name,
            datatype: tensor.datatype().name().to_owned(),
            shape,
            parameters: part.map(|part| shared_parameters(part, &tensor)).unwrap_or_default(),
            contents: None,
        });
        // An output in shared memory has its place here too, and nothing in it.
        raw.push(if part.is_some() { Memory::default() } else { tensor.into_memory() });
    }
    let message = ModelInferResponse {
        model_name: model,
        model_version: version.to_string(),
        id: id.unwrap_or_default(),
        outputs: described,
        ..ModelInferResponse::default()
    };
    Ok((message, raw))
}

/// Where in shared memory an output is, and how much of the part it takes.
fn shared_parameters(part: &SharedPart, tensor: &Tensor) -> Parameters {
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    let integer =
        |value: u64| parameter(ParameterChoice::Int64Param(i64::try_from(value).unwrap_or(i64::MAX)));
    Parameters::from([
        (
            "shared_memory_region".to_owned(),
            parameter(ParameterChoice::StringParam(part.region().to_owned())),
        ),
        ("shared_memory_byte_size".to_owned(), integer(tensor.memory().len() as u64)),
        ("shared_memory_offset".to_owned(), integer(part.offset())),
    ])
}
