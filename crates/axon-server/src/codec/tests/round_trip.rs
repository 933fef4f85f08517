//! What is written reads back to the same bits, for every data type, in JSON and in binary.

use axon::request::{InferenceResponse, NamedTensor, Timing};
use axon::{DataType, Shape, Tensor};
use bytes::Bytes;
use synapse::Memory;

use super::encode;
use super::mutation::Random;
use super::{decode, decode_json, inputs};
use crate::codec::{Encoded, OutputFormat};

/// A tensor of random elements that JSON can hold.
fn random_tensor(random: &mut Random, datatype: DataType, dimensions: &[usize]) -> Tensor {
    let shape = Shape::new(dimensions).unwrap();
    let count = shape.element_count();
    if datatype == DataType::Bytes {
        let mut character = || char::from_u32(random.half_word() % 0x2_0000).unwrap_or('"');
        let strings: Vec<String> =
            (0..count).map(|length| (0..length % 9).map(|_| character()).collect()).collect();
        return Tensor::from_elements(dimensions, &strings).unwrap();
    }
    let size = datatype.size().unwrap();
    let mut bytes: Vec<u8> = (0..count * size).map(|_| random.byte()).collect();
    for element in bytes.chunks_mut(size) {
        let last = element.last_mut().unwrap();
        match datatype {
            DataType::Bool => *last &= 1,
            // Clears the lowest exponent bit of that byte: neither infinite nor NaN.
            _ if datatype.is_float() => *last &= 0xfb,
            _ => {}
        }
    }
    Tensor::new(datatype, shape, Memory::from(bytes)).unwrap()
}

fn response(outputs: Vec<NamedTensor>) -> InferenceResponse {
    InferenceResponse { model: "m".to_owned(), version: 1, outputs, timing: Timing::default() }
}

/// Turns an encoded response into a request with the same tensors.
fn as_request(encoded: &Encoded) -> (Bytes, Option<usize>) {
    let json = String::from_utf8(encoded.json.clone()).unwrap().replacen("\"outputs\"", "\"inputs\"", 1);
    let length = encoded.header_length.map(|_| json.len());
    let tensors: Vec<u8> = encoded.tensors.iter().flat_map(|tensor| tensor.iter().copied()).collect();
    ([json.as_bytes(), &tensors].concat().into(), length)
}

#[test]
fn every_data_type_reads_back() {
    let mut random = Random::new(3);
    for dimensions in [&[][..], &[0], &[7], &[2, 0], &[50, 2, 2], &[3, 1, 40]] {
        let outputs: Vec<_> = DataType::ALL
            .into_iter()
            .map(|datatype| {
                NamedTensor::new(datatype.name(), random_tensor(&mut random, datatype, dimensions))
            })
            .collect();
        let response = response(outputs.clone());
        for binary in [false, true] {
            let format = OutputFormat { binary, ..OutputFormat::default() };
            let encoded = encode(&response, Some("7"), &format).unwrap();
            let (body, length) = as_request(&encoded);
            let decoded = decode(body, length).unwrap();
            assert_eq!(decoded.id.as_deref(), Some("7"));
            for (read, written) in inputs(decoded).into_iter().zip(&outputs) {
                assert_eq!(read.name, written.name);
                assert_eq!(read.tensor, written.tensor, "{} {dimensions:?} binary {binary}", written.name);
            }
        }
    }
}

#[test]
fn every_single_of_a_sample_reads_back() {
    let mut random = Random::new(5);
    let values: Vec<f32> =
        (0..200_000).map(|_| f32::from_bits(random.half_word())).filter(|value| value.is_finite()).collect();
    let tensor = Tensor::from_vec(&[values.len()], values).unwrap();
    let encoded =
        encode(&response(vec![NamedTensor::new("y", tensor.clone())]), None, &OutputFormat::default())
            .unwrap();
    let (body, _) = as_request(&encoded);
    assert_eq!(inputs(decode_json(&body).unwrap())[0].tensor, tensor);
}
