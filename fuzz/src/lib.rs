//! The parsers of bytes that come from outside, each as a function of bytes that must neither panic nor hang, whose
//! errors name what is wrong, and whose answers hold.
//!
//! `main.rs` feeds them from the corpus and from seeded mutations of it, on stable Rust and in CI; `libfuzzer.rs` lets
//! coverage lead the mutations.

use axon::model_config::ModelConfiguration;
use axon::onnx::ModelFile;
use axon::signature::{Dimension, TensorSpec};
use axon::{DataType, Error, Shape, Tensor};
use axon_server::codec::{self, DecodeOptions, Parsed};
use axon_server::proto::inference::ModelInferRequest;
use axon_server::route;
use bytes::Bytes;
use prost::Message as _;

/// The most bytes that a compressed input may become here.
const LIMIT: usize = 1 << 20;

/// A target and its name, which is that of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 12] = [
    ("json", json),
    ("binary", binary),
    ("bytes", bytes),
    ("protobuf", protobuf),
    ("generate", generate),
    ("pbtxt", pbtxt),
    ("toml", toml),
    ("config-json", config_json),
    ("path", path),
    ("shape", shape),
    ("gzip", gzip),
    ("model", model),
];

/// The target called `name`.
#[must_use]
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

fn honest(error: &Error) {
    assert!(!error.message().is_empty() && error.message().len() <= axon::error::MESSAGE_LIMIT);
    assert!(error.message().chars().all(|character| character == '\n' || !character.is_control()));
}

fn json(data: &[u8]) {
    decode(Bytes::copy_from_slice(data), None);
}

/// The first two bytes are the length of the JSON part.
fn binary(data: &[u8]) {
    let Some((length, body)) = data.split_first_chunk::<2>() else { return };
    decode(Bytes::copy_from_slice(body), Some(usize::from(u16::from_le_bytes(*length))));
}

fn decode(body: Bytes, header_length: Option<usize>) {
    for nan in [false, true] {
        let options = DecodeOptions { nan, ..DecodeOptions::default() };
        if let Err(error) = codec::decode(body.clone(), header_length, &options).and_then(Parsed::finish) {
            honest(&error);
            assert!(error.field().is_some(), "{error}");
        }
    }
}

fn bytes(data: &[u8]) {
    let Some((count, encoded)) = data.split_first() else { return };
    let count = usize::from(*count);
    if synapse::bytes::validate(encoded, count).is_ok() {
        let elements: Result<Vec<&[u8]>, _> = synapse::bytes::elements(encoded).collect();
        let elements = elements.expect("what was found valid is read");
        assert_eq!(elements.len(), count);
        let mut again = Vec::new();
        elements.iter().for_each(|element| synapse::bytes::push(&mut again, element));
        assert_eq!(again, encoded);
    }
}

fn protobuf(data: &[u8]) {
    let Ok(message) = ModelInferRequest::decode(data) else { return };
    if let Err(error) = codec::decode_message(message, &DecodeOptions::default()).and_then(Parsed::finish) {
        honest(&error);
        assert!(error.field().is_some(), "{error}");
    }
}

fn generate(data: &[u8]) {
    let spec = |name: &str, datatype, shape: &[Dimension]| TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: Some(shape.to_vec()),
    };
    let free = Dimension::Dynamic(None);
    let inputs = [
        spec("x", DataType::Fp32, &[free.clone(), Dimension::Fixed(2)]),
        spec("s", DataType::Bytes, &[free.clone(), free]),
    ];
    if let Err(error) = codec::decode_generate(data, &inputs, true) {
        honest(&error);
    }
}

fn text(data: &[u8], read: fn(&str) -> axon::Result<ModelConfiguration>) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match read(text) {
        Ok(read) => drop(read.to_json()),
        Err(error) => honest(&error),
    }
}

fn pbtxt(data: &[u8]) {
    text(data, ModelConfiguration::from_pbtxt);
}

fn toml(data: &[u8]) {
    text(data, ModelConfiguration::from_toml);
}

fn config_json(data: &[u8]) {
    text(data, ModelConfiguration::from_json);
}

fn path(data: &[u8]) {
    let Ok(path) = std::str::from_utf8(data) else { return };
    if let Err(error) = route::parse(path) {
        honest(&error);
        assert!(error.field().is_some());
    }
}

fn shape(data: &[u8]) {
    let (sizes, _) = data.as_chunks::<8>();
    let sizes: Vec<usize> =
        sizes.iter().filter_map(|size| usize::try_from(u64::from_le_bytes(*size)).ok()).collect();
    let Ok(shape) = Shape::new(&sizes) else { return };
    let product = sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
    assert_eq!(product, Some(shape.element_count()));
    if shape.element_count() <= 1024 {
        let values = vec![0_u8; shape.element_count()];
        assert_eq!(
            Tensor::from_vec(&sizes, values).map(|tensor| tensor.memory().len()),
            Ok(shape.element_count())
        );
    }
}

/// Whatever a file says of its size, what is found in it is bounded by its bytes: a number of 8 bytes
/// takes one at least.
fn model(data: &[u8]) {
    match ModelFile::from_bytes(data) {
        Ok(model) => {
            assert!(model.initializer_bytes <= data.len() as u64 * 8 && model.external.is_empty());
            assert!(model.nodes <= 1_000_000);
        }
        Err(error) => honest(&error),
    }
}

fn gzip(data: &[u8]) {
    for encoding in ["gzip", "deflate"] {
        match codec::decode_content(Bytes::copy_from_slice(data), encoding, LIMIT) {
            Ok(decoded) => assert!(decoded.len() <= LIMIT),
            Err(error) => honest(&error),
        }
    }
}
