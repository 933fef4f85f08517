//! The codec from outside: the catalogue of bad bodies, round trips, and bodies broken at random.

mod binary_rows;
mod encoding_rows;
mod mutation;
mod number;
mod parameter_rows;
mod response;
mod round_trip;
mod shared_rows;
mod tensor_rows;

use std::num::NonZeroUsize;

use axon::error::{Error, Result};
use axon::request::{InferenceResponse, Inputs, NamedTensor};
use axon::signature::{Dimension, Signature, TensorSpec};
use axon::{DataType, ErrorKind, Tensor};
use bytes::Bytes;

use super::{DecodeOptions, Decoded, Encoded, OutputFormat, Parsed};

pub(super) use mutation::Random;

pub(super) fn spec(name: &str, datatype: DataType, dimensions: &[i64]) -> TensorSpec {
    let dimension = |&size: &i64| usize::try_from(size).map_or(Dimension::Dynamic(None), Dimension::Fixed);
    TensorSpec { name: name.to_owned(), datatype, shape: Some(dimensions.iter().map(dimension).collect()) }
}

/// The model of the catalogue: one FP32 input of rows of three.
fn signature() -> Signature {
    Signature {
        inputs: vec![spec("INPUT0", DataType::Fp32, &[-1, 3])],
        outputs: vec![spec("OUTPUT0", DataType::Fp32, &[-1, 3])],
    }
}

/// The response of a model whose classes have no names.
fn encode(response: &InferenceResponse, id: Option<&str>, format: &OutputFormat) -> Result<Encoded> {
    super::encode(response, id, format, &|_| None)
}

/// Reads a body as a server without shared memory does.
fn decode(body: Bytes, header_length: Option<usize>) -> Result<Decoded> {
    super::decode(body, header_length, &DecodeOptions::default()).and_then(Parsed::finish)
}

fn decode_json(body: impl AsRef<[u8]>) -> Result<Decoded> {
    decode(Bytes::copy_from_slice(body.as_ref()), None)
}

fn inputs(decoded: Decoded) -> Vec<NamedTensor> {
    match decoded.inputs {
        Inputs::Named(named) => named,
        Inputs::One(tensor) => vec![NamedTensor::new("", tensor)],
    }
}

/// The tensor of a body that has one input.
fn tensor(body: &str) -> Tensor {
    inputs(decode_json(body).unwrap_or_else(|error| panic!("{error}: {body:.200}"))).remove(0).tensor
}

/// A request with one input of these members.
fn request(members: &str) -> String {
    format!(r#"{{"inputs":[{{{members}}}]}}"#)
}

/// What rules R1 to R4 ask of every error: the kind, the field, a text with both sides, a bounded length.
pub(super) fn assert_error(error: &Error, kind: ErrorKind, field: &str, text: &str, input: &str) {
    let input: String = input.chars().take(200).collect();
    let message = error.message();
    assert_eq!(error.kind(), kind, "{message} for {input}");
    assert_eq!(error.field(), Some(field), "{message} for {input}");
    assert!(message.contains(text), "{message:?} does not say {text:?} for {input}");
    assert!(message.contains("expected") && message.contains("got"), "{message:?} for {input}");
    assert!(message.len() <= 1024 && !message.contains(char::is_control), "{message:?} for {input}");
}

/// A JSON body that the codec or the catalogue's model must refuse.
fn check(body: impl AsRef<[u8]>, field: &str, text: &str) {
    check_with(&signature(), body, field, text);
}

fn check_with(signature: &Signature, body: impl AsRef<[u8]>, field: &str, text: &str) {
    let shown = String::from_utf8_lossy(body.as_ref()).into_owned();
    let error = match decode_json(&body) {
        Ok(Decoded { inputs, outputs, .. }) => {
            match signature.admit(inputs, &outputs, true, NonZeroUsize::new(32)) {
                Ok(_) => panic!("accepted: {shown}"),
                Err(error) => {
                    // The engine's own messages are its own tests' matter; here they show who answers.
                    assert_eq!(error.field(), Some(field), "{error}");
                    assert!(error.message().contains(text), "{error}");
                    return;
                }
            }
        }
        Err(error) => error,
    };
    assert_error(&error, ErrorKind::InvalidRequest, field, text, &shown);
}
