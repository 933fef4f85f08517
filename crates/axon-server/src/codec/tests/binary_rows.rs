//! B-43 to B-53: tensors behind the JSON part, and raw bodies.

use axon::request::Inputs;
use axon::signature::TensorSpec;
use axon::{DataType, ErrorKind, Tensor};
use bytes::Bytes;

use super::{assert_error, decode, inputs, spec};
use crate::codec::{ListedOutput, decode_raw, parse_header_length};

const HEADER: &str = "Inference-Header-Content-Length";
const SIZE: &str = "inputs[0].parameters.binary_data_size";

/// An input with this datatype, shape and `binary_data_size`.
fn input(datatype: &str, shape: &str, size: &str) -> String {
    format!(
        r#"{{"name":"a","datatype":"{datatype}","shape":{shape},"parameters":{{"binary_data_size":{size}}}}}"#
    )
}

fn body(inputs: &[String], tensors: &[u8]) -> (Bytes, usize) {
    let json = format!(r#"{{"inputs":[{}]}}"#, inputs.join(","));
    ([json.as_bytes(), tensors].concat().into(), json.len())
}

/// A body of these inputs and bytes that must be refused.
fn check(inputs: &[String], tensors: &[u8], field: &str, text: &str) {
    let (body, length) = body(inputs, tensors);
    let error = decode(body, Some(length)).unwrap_err();
    assert_error(&error, ErrorKind::InvalidRequest, field, text, &inputs.join(","));
}

fn read(inputs_in: &[String], tensors: &[u8]) -> Vec<Tensor> {
    let (body, length) = body(inputs_in, tensors);
    let start = body.as_ptr().addr();
    let end = start + body.len();
    let tensors: Vec<_> =
        inputs(decode(body, Some(length)).unwrap()).into_iter().map(|named| named.tensor).collect();
    for tensor in &tensors {
        assert!((start..=end).contains(&tensor.memory().as_ptr().addr()), "copied");
    }
    tensors
}

#[test]
fn b43_b44_the_header_is_an_integer_within_the_body() {
    for value in
        ["-1", "101", "99999999999", "18446744073709551616", "abc", "12abc", "", "+5", " 5", "5,5", "1.0"]
    {
        let error = parse_header_length(value.as_bytes(), 100).unwrap_err();
        assert_error(
            &error,
            ErrorKind::InvalidRequest,
            HEADER,
            "from 0 to 100, the length of the body",
            value,
        );
    }
    assert!(parse_header_length(b"\xff\xfe", 100).is_err());
    assert_eq!(parse_header_length(b"100", 100).unwrap(), 100);
    assert_eq!(parse_header_length(b"0", 0).unwrap(), 0);
    assert_eq!(parse_header_length(b"0012", 100).unwrap(), 12);
    // B-44: smaller than the JSON, wherever it cuts.
    let (body, length) =
        body(&[input("BYTES", "[1]", "8").replace("\"a\"", "\"é\"")], &[4, 0, 0, 0, 1, 2, 3, 4]);
    for short in 1..length {
        let error = decode(body.clone(), Some(short)).unwrap_err();
        assert_error(&error, ErrorKind::InvalidRequest, HEADER, "less than the JSON part", "");
    }
    assert!(decode(body.clone(), Some(length)).is_ok());
    let error = decode(body.clone(), Some(length + 1)).unwrap_err();
    assert_error(&error, ErrorKind::InvalidRequest, "body", "expected the end", "");
    let error = decode(body.clone(), Some(body.len() + 1)).unwrap_err();
    assert_error(&error, ErrorKind::InvalidRequest, HEADER, "expected at most", "");
    assert!(decode(body, Some(0)).is_err());
}

#[test]
fn b45_the_json_part_is_json() {
    let error = decode(Bytes::from_static(b"hello\0\0\0\0"), Some(5)).unwrap_err();
    assert_error(&error, ErrorKind::InvalidRequest, "body", "invalid JSON at byte 0", "");
    let error = decode(Bytes::from_static(b"{\"\xff\":1}"), Some(7)).unwrap_err();
    assert_error(&error, ErrorKind::InvalidRequest, "body", "not UTF-8 at byte 2", "");
}

#[test]
fn b46_to_b49_sizes() {
    let fp32 = |size: &str| [input("FP32", "[1,3]", size)];
    for size in ["-1", "\"12\"", "1.5", "null", "18446744073709551616"] {
        check(&fp32(size), &[0; 12], SIZE, "expected integer from 0 to"); // B-46
    }
    check(&fp32("18446744073709551615"), &[0; 12], SIZE, "overflow");
    check(&fp32("12"), &[0; 8], "inputs[0]", "4 bytes missing: expected 12 bytes, got 8"); // B-47
    check(&fp32("12"), &[0; 20], "body", "8 bytes left over: expected 12 bytes");
    check(&fp32("13"), &[0; 13], "inputs[0]", "expected 12 bytes for FP32 [1, 3], got 13"); // B-48
    check(&fp32("8"), &[0; 8], "inputs[0]", "expected 12 bytes for FP32 [1, 3], got 8");
    check(&fp32("0"), &[], "inputs[0]", "expected 12 bytes for FP32 [1, 3], got 0");
    // B-49
    let half = "9223372036854775808";
    let second = "inputs[1].parameters.binary_data_size";
    check(&[input("FP32", "[1]", half), input("FP32", "[1]", half)], &[0; 12], second, "overflow");
    let second = [input("FP32", "[1]", "4"), input("FP32", "[2]", "8")];
    check(&second, &[0; 8], "inputs[1]", "4 bytes missing");
}

#[test]
fn b50_to_b52_contents() {
    let bytes = |size: usize| [input("BYTES", "[2]", &size.to_string())];
    let huge = [0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7, 8];
    check(&bytes(12), &huge, "inputs[0]", "element 0 length 4294967295 > 8 left"); // B-50
    check(&bytes(7), &[1, 0, 0, 0, 9, 0, 0], "inputs[0]", "element 1 length cut: expected 4 bytes, got 2");
    check(&bytes(4), &[0; 4], "inputs[0]", "expected 2 elements, got 1");
    check(&bytes(12), &[0; 12], "inputs[0]", "expected 2 elements, got 3");
    check(&bytes(0), &[], "inputs[0]", "expected 2 elements, got 0");
    let huge = [input("FP32", "[1,281474976710656]", "12")];
    check(
        &huge,
        &[0; 12],
        "inputs[0]",
        "expected 1125899906842624 bytes for FP32 [1, 281474976710656], got 12",
    ); // B-51
    let huge = [input("FP64", "[2305843009213693952]", "12")];
    check(&huge, &[0; 12], "inputs[0]", "expected more than 2^63 bytes");
    let bool = [input("BOOL", "[3]", "3")];
    check(&bool, &[0, 1, 2], "inputs[0]", "byte 2: BOOL must be 0/1"); // B-52
    check(&[input("FP16", "[1]", "3")], &[0; 3], "inputs[0]", "expected 2 bytes for FP16 [1], got 3");
    check(&[input("BF16", "[1]", "1")], &[0; 1], "inputs[0]", "expected 2 bytes for BF16 [1], got 1");
}

#[test]
fn binary_bytes_without_the_header_are_explained() {
    let (body, _) = body(&[input("FP32", "[1]", "4")], &[0xff; 4]);
    let error = decode(body, None).unwrap_err();
    assert_error(&error, ErrorKind::InvalidRequest, HEADER, "inputs[0] has a binary_data_size of 4", "");
}

#[test]
fn tensors_are_parts_of_the_body() {
    let mixed = r#"{"name":"c","datatype":"INT8","shape":[1],"data":[5]}"#.to_owned();
    let all = [input("FP32", "[1,2]", "8"), mixed, input("BYTES", "[0]", "0"), input("BOOL", "[1]", "1")];
    let (body, length) = body(&all, &[1, 2, 3, 4, 5, 6, 7, 8, 1]);
    let tensors = inputs(decode(body, Some(length)).unwrap());
    assert_eq!(&tensors[0].tensor.memory()[..], &[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(tensors[1].tensor.as_slice::<i8>(), Some(&[5][..]));
    assert_eq!(tensors[2].tensor.shape().element_count(), 0);
    assert_eq!(tensors[3].tensor.as_slice::<bool>(), Some(&[true][..]));
    read(&[input("FP32", "[1]", "4"), input("UINT8", "[2]", "2")], &[1, 2, 3, 4, 5, 6]);
}

fn check_raw(specs: &[TensorSpec], body: &[u8], field: &str, text: &str) {
    let error = decode_raw(Bytes::copy_from_slice(body), specs).unwrap_err();
    assert_error(&error, ErrorKind::InvalidRequest, field, text, "");
}

#[test]
fn b53_raw_bodies_need_one_input_and_one_free_dimension() {
    let one = |dimensions: &[i64]| [spec("a", DataType::Fp32, dimensions)];
    check_raw(&[one(&[-1]), one(&[-1])].concat(), &[0; 4], "inputs", "raw body needs 1 input, 1 free dim");
    check_raw(&[], &[0; 4], "inputs", "raw body needs 1 input, 1 free dim");
    check_raw(&one(&[-1, -1, -1]), &[0; 4], "inputs", "got 2 free dims");
    check_raw(&one(&[3, -1, -1]), &[0; 4], "inputs", "got 2 free dims");
    let any_rank = TensorSpec { shape: None, ..spec("a", DataType::Fp32, &[]) };
    check_raw(&[any_rank], &[0; 4], "inputs", "any rank");
    check_raw(&one(&[-1, 3]), &[0; 13], "inputs[0]", "expected a multiple of 12 bytes, at least 12, got 13");
    check_raw(&one(&[-1, 3]), &[], "inputs[0]", "at least 12, got 0");
    check_raw(&one(&[-1, -1]), &[], "inputs[0]", "at least 4, got 0");
    check_raw(&one(&[2, 3]), &[0; 20], "inputs[0]", "expected 24 bytes, got 20");
    check_raw(&one(&[-1, 1 << 62]), &[0; 20], "inputs[0]", "more than 2^64 bytes");
    check_raw(&one(&[-1, 0]), &[0; 4], "inputs[0]", "multiple of 0 bytes");
    check_raw(&[spec("a", DataType::Bool, &[-1])], &[0, 2], "inputs[0]", "byte 1: BOOL must be 0/1");
    check_raw(&[spec("a", DataType::Bytes, &[2])], &[0, 2], "inputs", "more than one element");
}

#[test]
fn a_raw_bodys_length_decides_the_free_dimension() {
    let shape_of = |datatype, dimensions: &[i64], body: &[u8]| {
        let decoded = decode_raw(Bytes::copy_from_slice(body), &[spec("a", datatype, dimensions)]).unwrap();
        assert_eq!(decoded.format.of(0), ListedOutput { binary: true, classification: None });
        let Inputs::One(tensor) = decoded.inputs else { panic!("expected one tensor") };
        (tensor.shape().to_vec(), tensor.memory().to_vec())
    };
    let fp32 = |dimensions: &[i64], length: usize| shape_of(DataType::Fp32, dimensions, &vec![0; length]).0;
    assert_eq!(fp32(&[-1, 3], 24), [2, 3]);
    assert_eq!(fp32(&[-1, -1], 24), [1, 6]);
    assert_eq!(fp32(&[-1, 2, -1], 24), [1, 2, 3]);
    assert_eq!(fp32(&[2, -1], 24), [2, 3]);
    assert_eq!(fp32(&[2, 3], 24), [2, 3]);
    assert_eq!(fp32(&[], 4), [0; 0]);
    let (shape, encoded) = shape_of(DataType::Bytes, &[-1, 1], b"text");
    assert_eq!((shape, encoded), (vec![1, 1], b"\x04\0\0\0text".to_vec()));
    assert_eq!(shape_of(DataType::Bytes, &[-1, -1], b"").1, [0; 4]);
}
