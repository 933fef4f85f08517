//! Tensors behind the JSON part, and bodies that are nothing but one tensor.
//!
//! Tensors are parts of the body's memory: nothing is copied, whatever their alignment.
//!
//! **Source:** Triton's extension "binary tensor data", with its "raw binary request".

use axon::error::{Echo, Error, Result};
use axon::reason::{Payload, Reason};
use axon::request::{Inputs, NamedTensor};
use axon::signature::{Dimension, TensorSpec};
use bytes::Bytes;
use synapse::bytes::BytesError;
use synapse::{DataType, Memory, Shape, Tensor, TensorError};

use super::decode::{Input, Source};
use super::field::Field;
use super::parameters::BINARY_DATA_SIZE;
use super::shared::{Resolver, SharedInput};
use super::{Decoded, OutputFormat};

/// The header that says where the JSON part ends.
pub(super) const HEADER: &str = "Inference-Header-Content-Length";

/// The value of `Inference-Header-Content-Length`: decimal digits, at most `body_length`.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](axon::ErrorKind) that names the header and the body's length.
pub fn parse_header_length(value: &[u8], body_length: usize) -> Result<usize> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let length = digits.then(|| {
        // Digits that overflow are longer than any body.
        let add = |sum: usize, byte: &u8| sum.saturating_mul(10).saturating_add(usize::from(byte - b'0'));
        value.iter().fold(0, add)
    });
    length.filter(|&length| length <= body_length).ok_or_else(|| {
        let reason = Reason::HeaderLength { body: body_length, got: length };
        Field::top(HEADER)
            .invalid(format_args!(
                "expected an integer from 0 to {body_length}, the length of the body, got {}",
                Echo(&String::from_utf8_lossy(value.get(..value.len().min(256)).unwrap_or_default()))
            ))
            .because(reason)
    })
}

/// Checks, for a body without the header, that no input has bytes behind the JSON part.
pub(super) fn check_no_sections(inputs: &[Input]) -> Result<()> {
    for (index, input) in inputs.iter().enumerate() {
        if let Source::Binary { size: size @ 1.., .. } = input.source {
            let error = Field::top(HEADER).invalid(format_args!(
                "expected the length of the JSON part, because inputs[{index}] has a binary_data_size of {size}, got \
                 no such header"
            ));
            return Err(error.because(Reason::NoHeaderLength));
        }
    }
    Ok(())
}

/// The inputs of a request.
pub(super) struct Attached {
    /// Those that are read.
    pub tensors: Vec<NamedTensor>,
    /// Those that are in shared memory.
    pub unread: Vec<Unread>,
}

/// An input that is still to be read, and goes to `index` among all.
#[derive(Debug)]
pub(super) struct Unread {
    pub index: usize,
    pub name: String,
    pub input: SharedInput,
}

/// Text of up to this many bytes may stay in memory with the tensors behind it.
const KEPT_TEXT: usize = 64 << 10;

/// Gives each input its tensor; `start` is where the JSON part of the body ends.
///
/// Those in shared memory are found only.
pub(super) fn attach(
    body: Bytes,
    start: usize,
    inputs: Vec<Input>,
    resolver: &mut Resolver<'_>,
) -> Result<Attached> {
    let mut end = start as u64;
    for (index, input) in inputs.iter().enumerate() {
        if let Source::Binary { size, .. } = input.source {
            end = end.checked_add(size).ok_or_else(|| {
                Field::input(index, BINARY_DATA_SIZE).invalid(format_args!(
                    "overflow: expected sizes that add up to less than 2^64, got {size} more"
                ))
            })?;
        }
    }
    let length = body.len();
    let memory = Memory::from_owner(body);
    // A small tensor must not keep a long text alive: the queue's bound counts the tensors.
    let text_is_long = start > KEPT_TEXT && start > length - start;
    let mut from = start;
    let mut attached = Attached { tensors: Vec::with_capacity(inputs.len()), unread: Vec::new() };
    for (index, Input { name, source }) in inputs.into_iter().enumerate() {
        let tensor = match source {
            Source::Data(tensor) => tensor,
            Source::Shared { datatype, shape, parameters } => {
                let input = resolver.input(index, parameters, datatype, shape)?;
                attached.unread.push(Unread { index, name, input });
                continue;
            }
            Source::Binary { datatype, shape, size } => {
                check_size(Field::input(index, ""), Some(&name), datatype, &shape, size)?;
                let section = usize::try_from(size).ok().and_then(|size| from.checked_add(size));
                let Some(to) = section.filter(|&to| to <= length) else {
                    let left = length.saturating_sub(from) as u64;
                    let missing = size.saturating_sub(left);
                    let error = Field::input(index, "")
                        .invalid(format_args!("{missing} bytes missing: expected {size} bytes, got {left}"));
                    return Err(of_input(error, Some(&name), Payload::Missing(missing)));
                };
                let section =
                    if text_is_long { Memory::copy_of(&memory[from..to]) } else { memory.slice(from..to) };
                from = to;
                tensor(Field::input(index, ""), Some(&name), datatype, shape, section)?
            }
        };
        attached.tensors.push(NamedTensor { name, tensor });
    }
    if from < length {
        return Err(Field::BODY
            .invalid(format_args!(
                "{} bytes left over: expected {} bytes behind the JSON part, got {}",
                length - from,
                from - start,
                length - start
            ))
            .because(Reason::BytesLeftOver));
    }
    Ok(attached)
}

/// Says of an error with which input's payload what is wrong, where the input's name is known.
pub(super) fn of_input(error: Error, input: Option<&str>, problem: Payload) -> Error {
    match input {
        Some(input) => error.because(Reason::Payload { input: input.to_owned(), problem }),
        None => error,
    }
}

/// Checks the size in bytes that an input gives for a tensor of this type and shape.
pub(super) fn check_size(
    field: Field,
    input: Option<&str>,
    datatype: DataType,
    shape: &Shape,
    size: u64,
) -> Result<()> {
    let Some(width) = datatype.size() else { return Ok(()) };
    match shape.element_count().checked_mul(width) {
        Some(expected) if expected as u64 == size => Ok(()),
        Some(expected) => {
            let error =
                field.invalid(format_args!("expected {expected} bytes for {datatype} {shape}, got {size}"));
            Err(of_input(error, input, Payload::Size { expected: expected as u64, got: size }))
        }
        None => {
            Err(field
                .invalid(format_args!("expected more than 2^63 bytes for {datatype} {shape}, got {size}")))
        }
    }
}

/// The tensor that these bytes of a caller are.
pub(super) fn tensor(
    field: Field,
    input: Option<&str>,
    datatype: DataType,
    shape: Shape,
    memory: Memory,
) -> Result<Tensor> {
    Tensor::new(datatype, shape, memory).map_err(|error| {
        match error {
            TensorError::Bool { index, value } => {
                field.invalid(format_args!("byte {index}: BOOL must be 0/1: expected 0 or 1, got {value}"))
            }
            TensorError::Bytes(BytesError::ElementCut { index, length, left }) => field.invalid(format_args!(
                "element {index} length {length} > {left} left: expected at most {left} bytes, got a length of {length}"
            )),
            TensorError::Bytes(BytesError::PrefixCut { index, left }) => {
                let error = field.invalid(format_args!(
                    "element {index} length cut: expected {} bytes, got {left}",
                    synapse::bytes::PREFIX
                ));
                of_input(error, input, Payload::LengthCut(left))
            }
            TensorError::Bytes(BytesError::Count { expected, got }) => {
                let error = field.invalid(format_args!("expected {expected} elements, got {got}"));
                of_input(error, input, Payload::Elements { expected, got })
            }
            TensorError::Size { .. } | TensorError::Shape(_) => field.invalid(error),
        }
    })
}

/// Reads a body that is the bytes of a model's only input, whose specification is `inputs`.
///
/// One dimension may be dynamic; the body's length decides it. A dynamic first one is 1 where another one is
/// dynamic too. A BYTES input is one element, without its length. All outputs are to be binary.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](axon::ErrorKind) when the model or the length does not allow it.
pub fn decode_raw(body: Bytes, inputs: &[TensorSpec]) -> Result<Decoded> {
    let [spec] = inputs else {
        return Err(raw_needs(format_args!("{} inputs", inputs.len())));
    };
    let Some(dimensions) = &spec.shape else {
        return Err(raw_needs(format_args!("an input of any rank")));
    };
    let mut sizes: Vec<Option<usize>> = dimensions
        .iter()
        .map(|dimension| match dimension {
            Dimension::Fixed(size) => Some(*size),
            Dimension::Dynamic(_) => None,
        })
        .collect();
    let free = |sizes: &[Option<usize>]| sizes.iter().filter(|size| size.is_none()).count();
    if free(&sizes) > 1
        && let Some(rows @ None) = sizes.first_mut()
    {
        *rows = Some(1);
    }
    if free(&sizes) > 1 {
        return Err(raw_needs(format_args!("{} free dims", free(&sizes))));
    }
    let tensor = match spec.datatype.size() {
        Some(width) => raw_values(body, spec.datatype, width, &sizes)?,
        None => raw_element(&body, &sizes)?,
    };
    Ok(Decoded {
        inputs: Inputs::One(tensor),
        outputs: Vec::new(),
        timeout: None,
        priority: 0,
        sequence: None,
        parameters: Vec::new(),
        id: None,
        format: OutputFormat { binary: true, ..OutputFormat::default() },
    })
}

fn raw_needs(got: std::fmt::Arguments<'_>) -> Error {
    Field::top("inputs")
        .invalid(format_args!("raw body needs 1 input, 1 free dim: expected a model like that, got {got}"))
}

fn raw_values(body: Bytes, datatype: DataType, width: usize, sizes: &[Option<usize>]) -> Result<Tensor> {
    let fixed = sizes.iter().flatten().try_fold(width, |product, &size| product.checked_mul(size));
    let wrong = |expected: std::fmt::Arguments<'_>| {
        Field::input(0, "").invalid(format_args!("expected {expected}, got {}", body.len()))
    };
    let fixed = fixed.ok_or_else(|| wrong(format_args!("more than 2^64 bytes")))?;
    let free = if sizes.contains(&None) {
        match body.len().checked_div(fixed) {
            Some(free) if free > 0 && free.checked_mul(fixed) == Some(body.len()) => free,
            _ => return Err(wrong(format_args!("a multiple of {fixed} bytes, at least {fixed}"))),
        }
    } else if fixed == body.len() {
        1
    } else {
        return Err(wrong(format_args!("{fixed} bytes")));
    };
    tensor(Field::input(0, ""), None, datatype, raw_shape(sizes, free)?, Memory::from_owner(body))
}

fn raw_element(body: &[u8], sizes: &[Option<usize>]) -> Result<Tensor> {
    let shape = raw_shape(sizes, 1)?;
    if shape.element_count() != 1 {
        return Err(raw_needs(format_args!("a BYTES input of more than one element")));
    }
    if u32::try_from(body.len()).is_err() {
        return Err(
            Field::input(0, "").invalid(format_args!("expected less than 2^32 bytes, got {}", body.len()))
        );
    }
    // Copies the body once, because the element's length goes before it.
    Tensor::from_elements(&shape, &[body]).map_err(Error::internal)
}

fn raw_shape(sizes: &[Option<usize>], free: usize) -> Result<Shape> {
    let dimensions: Vec<usize> = sizes.iter().map(|size| size.unwrap_or(free)).collect();
    Shape::new(&dimensions).map_err(|error| Field::input(0, "").invalid(error))
}
