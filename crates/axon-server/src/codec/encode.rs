//! The body of an inference response.
//!
//! Numbers are the shortest text that reads back to the same bits.

use axon::error::{Error, Result};
use axon::request::InferenceResponse;
use half::{bf16, f16};
use synapse::{DataType, Memory, Tensor};

use super::shared::{self, SharedPart};
use super::{Labels, OutputFormat, classify, string};

/// A response body, ready to be sent.
#[derive(Debug)]
pub struct Encoded {
    /// The JSON part.
    pub json: Vec<u8>,
    /// What follows it, in this order and without gaps.
    pub tensors: Vec<Memory>,
    /// The length of `json` when bytes follow it; `None` when it is the whole body.
    pub header_length: Option<usize>,
}

/// Writes a response as `format` wants it, classes with their `labels`, also to shared memory; binary tensors share the response's memory.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](axon::ErrorKind) when an output cannot be written as the caller wants it.
pub fn encode(
    response: &InferenceResponse,
    id: Option<&str>,
    format: &OutputFormat,
    labels: Labels<'_>,
) -> Result<Encoded> {
    let mut json = Vec::with_capacity(capacity(response, format));
    let mut tensors = Vec::new();
    json.extend_from_slice(b"{\"model_name\":");
    string::write(&mut json, &response.model);
    json.extend_from_slice(b",\"model_version\":\"");
    write_integer(&mut json, response.version);
    json.push(b'"');
    if let Some(id) = id {
        json.extend_from_slice(b",\"id\":");
        string::write(&mut json, id);
    }
    json.extend_from_slice(b",\"outputs\":[");
    for (index, output) in response.outputs.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        let wanted = format.of(index);
        let classes = wanted
            .classification
            .map(|count| {
                classify::classify(&output.tensor, count, index, labels(&output.name).unwrap_or_default())
            })
            .transpose()?;
        let tensor = classes.as_ref().unwrap_or(&output.tensor);
        write_head(&mut json, &output.name, tensor);
        if let Some(part) = format.shared(index) {
            write_part(&mut json, part, tensor);
        } else if wanted.binary {
            json.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
            write_integer(&mut json, tensor.memory().len() as u64);
            json.push(b'}');
            if !tensor.memory().is_empty() {
                tensors.push(tensor.memory().clone());
            }
        } else {
            json.extend_from_slice(b",\"data\":[");
            write_data(&mut json, index, tensor)?;
            json.push(b']');
        }
        json.push(b'}');
    }
    json.extend_from_slice(b"]}");
    // Last, so that a response that cannot be written leaves the caller's memory as it was.
    shared::write_outputs(&response.outputs, &format.shared)?;
    let header_length = if tensors.is_empty() { None } else { Some(json.len()) };
    Ok(Encoded { json, tensors, header_length })
}

/// About as many bytes as the JSON part will have.
fn capacity(response: &InferenceResponse, format: &OutputFormat) -> usize {
    const HEAD: usize = 128;
    let output = |(index, output): (usize, &axon::request::NamedTensor)| {
        let bytes = output.tensor.memory().len();
        let wanted = format.of(index);
        let elsewhere = wanted.binary || wanted.classification.is_some() || format.shared(index).is_some();
        let data = if elsewhere { 0 } else { bytes.saturating_mul(4) };
        HEAD + output.name.len() + data
    };
    HEAD + response.model.len() + response.outputs.iter().enumerate().map(output).sum::<usize>()
}

/// Writes what comes before an output's data.
fn write_head(json: &mut Vec<u8>, name: &str, tensor: &Tensor) {
    json.extend_from_slice(b"{\"name\":");
    string::write(json, name);
    json.extend_from_slice(b",\"datatype\":\"");
    json.extend_from_slice(tensor.datatype().name().as_bytes());
    json.extend_from_slice(b"\",\"shape\":[");
    for (axis, &dimension) in tensor.shape().iter().enumerate() {
        if axis > 0 {
            json.push(b',');
        }
        write_integer(json, dimension as u64);
    }
    json.push(b']');
}

/// Writes where in shared memory an output is, and how much of the part it takes.
fn write_part(json: &mut Vec<u8>, part: &SharedPart, tensor: &Tensor) {
    json.extend_from_slice(b",\"parameters\":{\"shared_memory_region\":");
    string::write(json, part.region());
    json.extend_from_slice(b",\"shared_memory_byte_size\":");
    write_integer(json, tensor.memory().len() as u64);
    json.extend_from_slice(b",\"shared_memory_offset\":");
    write_integer(json, part.offset());
    json.push(b'}');
}

/// Writes the elements of output number `index`, with commas between them.
pub(super) fn write_data(json: &mut Vec<u8>, index: usize, tensor: &Tensor) -> Result<()> {
    // `write!` is several times slower than the two formatters.
    macro_rules! integers {
        ($type:ty) => {
            write_each(json, index, tensor, |json, element| {
                write_integer(json, <$type>::from_le_bytes(element));
                Ok(())
            })
        };
    }
    macro_rules! floats {
        ($read:expr) => {
            write_each(json, index, tensor, |json, element| {
                let value = $read(element);
                if !value.is_finite() {
                    return Err("a number, which NaN and infinity are not");
                }
                json.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
                Ok(())
            })
        };
    }
    match tensor.datatype() {
        DataType::Bool => write_each(json, index, tensor, |json, [element]| {
            json.extend_from_slice(if element == 0 { b"false" } else { b"true" });
            Ok(())
        }),
        DataType::Uint8 => integers!(u8),
        DataType::Uint16 => integers!(u16),
        DataType::Uint32 => integers!(u32),
        DataType::Uint64 => integers!(u64),
        DataType::Int8 => integers!(i8),
        DataType::Int16 => integers!(i16),
        DataType::Int32 => integers!(i32),
        DataType::Int64 => integers!(i64),
        // The shortest text of the binary32 is nearest to the narrower value too.
        DataType::Fp16 => floats!(|element| f16::from_le_bytes(element).to_f32()),
        DataType::Bf16 => floats!(|element| bf16::from_le_bytes(element).to_f32()),
        DataType::Fp32 => floats!(f32::from_le_bytes),
        DataType::Fp64 => floats!(f64::from_le_bytes),
        DataType::Bytes => write_strings(json, index, tensor),
    }
}

/// Writes elements of `SIZE` bytes with `write`, which may say what JSON has no words for.
#[inline]
fn write_each<const SIZE: usize>(
    json: &mut Vec<u8>,
    index: usize,
    tensor: &Tensor,
    write: impl Fn(&mut Vec<u8>, [u8; SIZE]) -> Result<(), &'static str>,
) -> Result<()> {
    let (elements, _) = tensor.memory().as_chunks::<SIZE>();
    for (position, &element) in elements.iter().enumerate() {
        if position > 0 {
            json.push(b',');
        }
        write(json, element).map_err(|expected| unwritable(index, position, expected))?;
    }
    Ok(())
}

fn write_strings(json: &mut Vec<u8>, index: usize, tensor: &Tensor) -> Result<()> {
    for (position, element) in tensor.elements().enumerate() {
        if position > 0 {
            json.push(b',');
        }
        let text = str::from_utf8(element).map_err(|_| unwritable(index, position, "UTF-8"))?;
        string::write(json, text);
    }
    Ok(())
}

#[cold]
fn unwritable(index: usize, position: usize, expected: &str) -> Error {
    Error::invalid(
        format!("outputs[{index}].data[{position}]"),
        format_args!(
            "expected {expected}, got a value that cannot be written in JSON\nhint: ask for this output with \
             binary_data true"
        ),
    )
}

#[inline]
fn write_integer(json: &mut Vec<u8>, value: impl itoa::Integer) {
    json.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}
