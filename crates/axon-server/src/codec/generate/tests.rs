//! Generate bodies: what becomes an input, what a parameter, what is refused; answers and events.

use std::time::Duration;

use axon::request::{InferenceResponse, NamedTensor, Parameter, Sequence, SequenceId, Timing};
use axon::signature::TensorSpec;
use axon::{DataType, Error, ErrorKind, Tensor};
use half::{bf16, f16};
use synapse::Element;

use super::{Generated, decode_generate, encode_generate, event};
use crate::codec::tests::{Random, assert_error, spec};
use crate::status::error_body;

/// A model with a text, a vector and a table.
fn specs() -> Vec<TensorSpec> {
    vec![
        spec("text", DataType::Bytes, &[-1, 1]),
        spec("row", DataType::Fp32, &[-1, 3]),
        spec("ids", DataType::Int64, &[-1, -1]),
    ]
}

fn decoded(body: &str) -> Generated {
    decode_generate(body.as_bytes(), &specs(), true).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// A good body with one member more.
fn with(member: &str) -> String {
    format!(r#"{{"text":"hi","row":[1,2.5,-3e2],"ids":[7,8],{member}}}"#)
}

fn check(body: impl AsRef<[u8]>, field: &str, text: &str) {
    let shown = String::from_utf8_lossy(body.as_ref()).into_owned();
    let error = decode_generate(body.as_ref(), &specs(), true).expect_err(&shown);
    assert_error(&error, ErrorKind::InvalidRequest, field, text, &shown);
}

#[test]
fn members_named_like_inputs_are_inputs_and_the_rest_are_parameters() {
    let body = concat!(
        r#"{"temperature":0.5, "ids":[7,9007199254740993], "stream":true, "text":"h\u00e9", "row":[1,2.5,-3e2],"#,
        r#""id":"a-1", "parameters":{"max_tokens":20,"big":18446744073709551615,"bigger":18446744073709551616,"#,
        r#""stop":"\n","timeout":1500,"priority":2,"sequence_id":"s","sequence_start":true,"#,
        r#""binary_data_output":true}}"#
    );
    let generated = decoded(body);
    let tensors: Vec<_> = generated.inputs.into_iter().map(|named| (named.name, named.tensor)).collect();
    let expected = [
        ("text", Tensor::from_elements(&[1, 1], &["hé"]).unwrap()),
        ("row", Tensor::from_vec(&[1, 3], vec![1_f32, 2.5, -300.0]).unwrap()),
        ("ids", Tensor::from_vec(&[1, 2], vec![7_i64, 9_007_199_254_740_993]).unwrap()),
    ];
    assert_eq!(tensors, expected.map(|(name, tensor)| (name.to_owned(), tensor)));
    assert_eq!(generated.id.as_deref(), Some("a-1"));
    assert_eq!(generated.timeout, Some(Duration::from_micros(1500)));
    assert_eq!(generated.priority, 2);
    let sequence = Sequence { id: SequenceId::Text("s".to_owned()), start: true, end: false };
    assert_eq!(generated.sequence, Some(sequence));
    let expected = [
        ("temperature", Parameter::Double(0.5)),
        ("stream", Parameter::Bool(true)),
        ("max_tokens", Parameter::Int(20)),
        ("big", Parameter::Uint(u64::MAX)),
        ("bigger", Parameter::Double(18_446_744_073_709_551_616.0)),
        ("stop", Parameter::String("\n".to_owned())),
    ];
    assert_eq!(generated.parameters, expected.map(|(name, value)| (name.to_owned(), value)));
}

#[test]
fn what_is_not_said_is_left_open() {
    let generated = decoded(&with(r#""id":"","timeout":0,"sequence_id":0,"sequence_end":true"#));
    assert_eq!((generated.id, generated.timeout, generated.priority), (None, None, 0));
    assert_eq!((generated.sequence, generated.parameters), (None, vec![]));
    let generated = decoded(&with(r#""sequence_id":5,"sequence_end":true"#));
    let sequence = Sequence { id: SequenceId::Number(5), start: false, end: true };
    assert_eq!(generated.sequence, Some(sequence));
}

#[test]
fn an_input_may_have_any_name() {
    let names = ["id", "parameters", "timeout", "triton_x"];
    let specs = names.map(|name| spec(name, DataType::Int32, &[-1, 1]));
    let body = br#"{"id":1,"parameters":2,"timeout":3,"triton_x":4,"priority":5}"#;
    let generated = decode_generate(body, &specs, true).unwrap();
    let values: Vec<_> =
        generated.inputs.iter().map(|input| input.tensor.as_slice::<i32>().unwrap()).collect();
    assert_eq!(values, [&[1], &[2], &[3], &[4]]);
    assert_eq!((generated.id, generated.timeout, generated.priority), (None, None, 5));
}

/// The shape that `count` elements get for an input of these dimensions.
fn shape(dimensions: Option<&[i64]>, batched: bool, count: usize) -> Result<Vec<usize>, Error> {
    let mut spec = spec("x", DataType::Uint8, dimensions.unwrap_or_default());
    if dimensions.is_none() {
        spec.shape = None;
    }
    let body = format!(r#"{{"x":[{}]}}"#, vec!["1"; count].join(","));
    let generated = decode_generate(body.as_bytes(), &[spec], batched)?;
    Ok(generated.inputs[0].tensor.shape().to_vec())
}

#[test]
fn elements_fill_the_shape() {
    let check = |dimensions: &[i64], batched, count, expected: &[usize]| {
        let got = shape(Some(dimensions), batched, count).unwrap();
        assert_eq!(got, expected, "{count} in {dimensions:?}");
    };
    check(&[-1, 3], true, 3, &[1, 3]);
    check(&[-1], true, 1, &[1]);
    check(&[-1, -1], true, 5, &[1, 5]);
    check(&[-1, -1, -1], true, 5, &[1, 1, 5]);
    check(&[-1, -1, 2], true, 6, &[1, 3, 2]);
    check(&[-1, 2, -1], true, 6, &[1, 2, 3]);
    check(&[-1, -1, 2, -1, 3], true, 12, &[1, 1, 2, 2, 3]);
    check(&[-1, 3], false, 6, &[2, 3]);
    check(&[-1], false, 0, &[0]);
    check(&[2, 3], false, 6, &[2, 3]);
    check(&[], false, 1, &[]);
    check(&[-1, 0], true, 0, &[1, 0]);
    check(&[-1, -1, 0], true, 0, &[1, 1, 0]);
    assert_eq!(shape(None, false, 4).unwrap(), [4]);
    assert_eq!(shape(None, true, 4).unwrap(), [1, 4]);
}

#[test]
fn elements_that_do_not_fill_the_shape_are_refused() {
    let check = |dimensions: &[i64], batched, count, text: &str| {
        let error = shape(Some(dimensions), batched, count).unwrap_err();
        assert_error(&error, ErrorKind::InvalidRequest, "x", text, "");
    };
    check(&[-1, 3], true, 2, "do not fill the shape [1, 3]: expected 3 elements, got 2");
    check(&[-1, 3], true, 6, "expected 3 elements, got 6");
    check(
        &[-1, -1, 3],
        true,
        7,
        "7 elements do not fill the shape [1, -1, 3]: expected a multiple of 3 elements",
    );
    check(&[-1], true, 2, "the shape [1]: expected 1 elements, got 2");
    check(&[], false, 2, "the shape []: expected 1 elements, got 2");
    check(&[-1, 0], true, 1, "expected 0 elements, got 1");
    check(&[1 << 40, 1 << 40], false, 1, "expected 2^64 elements, got 1");
    check(&[-1, 0, 1 << 40, 1 << 40], false, 1, "expected");
}

#[test]
fn every_data_type_is_read_as_one_element_and_as_many() {
    fn check<T: Element + PartialEq + std::fmt::Debug>(one: &str, value: T) {
        let spec = [spec("x", T::DATATYPE, &[-1])];
        for (body, count) in [(one.to_owned(), 1), (format!("[ {one} , {one}\n]"), 2)] {
            let body = format!(r#"{{ "x" : {body} }}"#);
            let generated = decode_generate(body.as_bytes(), &spec, false).unwrap();
            assert_eq!(generated.inputs[0].tensor.as_slice::<T>(), Some(&vec![value; count][..]));
        }
    }
    check("true", true);
    check("255", u8::MAX);
    check("65535", u16::MAX);
    check("4294967295", u32::MAX);
    check("18446744073709551615", u64::MAX);
    check("-128", i8::MIN);
    check("-32768", i16::MIN);
    check("-2147483648", i32::MIN);
    check("-9223372036854775808", i64::MIN);
    check("65504", f16::MAX);
    check("1.5", bf16::from_f32(1.5));
    check("1e-45", f32::from_bits(1));
    check("5e-324", f64::from_bits(1));
}

#[test]
fn a_value_that_does_not_fit_is_named() {
    let check_type = |datatype, value: &str, field: &str, text: &str| {
        let body = format!(r#"{{"x":{value}}}"#);
        let error = decode_generate(body.as_bytes(), &[spec("x", datatype, &[-1])], false).unwrap_err();
        assert_error(&error, ErrorKind::InvalidRequest, field, text, &body);
    };
    check_type(
        DataType::Uint8,
        "300",
        "x",
        "out of range for UINT8: expected integer from 0 to 255, got `300`",
    );
    check_type(DataType::Uint8, "[1,300]", "x[1]", "out of range for UINT8");
    check_type(DataType::Int32, "1.5", "x", "expected integer from -2147483648");
    check_type(DataType::Fp32, "[1e400]", "x[0]", "out of range for FP32");
    check_type(DataType::Fp16, "1e9", "x", "out of range for FP16");
    check_type(DataType::Fp32, "NaN", "x", "expected number, got NaN or Infinity, which is not JSON");
    check_type(DataType::Fp32, "[1,-Infinity]", "x[1]", "which is not JSON");
    check_type(DataType::Fp32, r#"["1"]"#, "x[0]", "expected number, got string");
    check_type(DataType::Fp32, "null", "x", "expected number, got null");
    check_type(DataType::Fp32, "[[1]]", "x[0]", "expected number, got array");
    check_type(DataType::Fp32, r#"{"a":1}"#, "x", "expected number, got object");
    check_type(DataType::Bool, "[true,1]", "x[1]", "expected boolean, got number");
    check_type(DataType::Bytes, "5", "x", "expected string, got number");
    check_type(DataType::Bytes, r#"["\ud800"]"#, "x[0]", "not UTF-8: expected a surrogate pair");
    check_type(DataType::Bytes, "\"a\tb\"", "body", "invalid JSON at byte 7");
    check_type(DataType::Fp32, "[1,]", "body", "invalid JSON at byte 8: expected a value");
    check_type(DataType::Fp32, "[1 2]", "body", "expected `,` or `]`");
    check_type(DataType::Fp32, "01", "body", "invalid JSON");
}

#[test]
fn inputs_that_are_missing_are_named() {
    check(
        "",
        "text",
        "required: expected a value for each of `text`, `row`, `ids`, got none for `text`, `row`, `ids`",
    );
    check("{}", "text", "got none for `text`, `row`, `ids`");
    check(r#"{"text":"a","row":[1,2,3],"idz":1}"#, "ids", "got none for `ids`");
    assert!(decode_generate(b"", &[], false).unwrap().inputs.is_empty());
}

#[test]
fn bodies_that_are_no_flat_object_are_refused() {
    check("hello", "body", "invalid JSON at byte 0");
    check("null", "body", "expected a JSON object at byte 0, got null");
    check(" []", "body", "expected a JSON object at byte 1, got array");
    check(r#"{"text":"hi""#, "body", "got the end of the body");
    check(with(r#""a":1"#) + " xx", "body", "expected the end");
    check(b"{\"text\":\"\xff\"}", "body", "not UTF-8 at byte 9");
    check(b"{\0\"\0", "body", "not UTF-8 at byte 1");
    // Nothing nests, however deep.
    check("[".repeat(250_000), "body", "expected a JSON object");
    check(format!(r#"{{"x":{}"#, "[".repeat(250_000)), "x", "for what is no input, got array");
    check(r#"{"parameters":"#.repeat(100_000), "parameters", "expected string, number or boolean");
}

#[test]
fn parameters_that_are_none_are_refused() {
    check(with(r#""k":null"#), "k", "expected string, number or boolean for what is no input, got null");
    check(with(r#""k":[1]"#), "k", "got array");
    check(with(r#""parameters":[]"#), "parameters", "expected object, got array");
    check(with(r#""parameters":{"k":{}}"#), "k", "got object");
    check(with(r#""k":1e400"#), "k", "out of range: expected number from");
    check(with(r#""triton_x":1"#), "triton_x", "reserved");
    check(with(r#""priority":"x""#), "priority", "expected integer from 0 to");
    check(with(r#""parameters":{"timeout":-5}"#), "timeout", "got `-5`");
    check(with(r#""timeout":18446744073709551616"#), "timeout", "got `18446744073709551616`");
    check(with(r#""sequence_id":0,"sequence_start":true"#), "sequence_id", "other than 0");
    check(with(r#""sequence_id":18446744073709551616"#), "sequence_id", "expected integer");
    check(
        with(&format!(r#""sequence_id":"{}""#, "x".repeat(129))),
        "sequence_id",
        "at most 128 bytes, got 129",
    );
    check(with(r#""sequence_start":1"#), "sequence_start", "expected boolean, got number");
    check(with(r#""binary_data_output":0"#), "binary_data_output", "expected boolean");
    check(with(r#""id":5"#), "id", "expected string, got number");
    check(with(&format!(r#""id":"{}""#, "x".repeat(257))), "id", "at most 256 bytes");
    check(with(r#""id":"a\u0000b""#), "id", "printable");
    // What the caller chose is shown escaped and cut.
    check(with(r#""a\u0000b":null"#), r"a\0b", "got null");
    let long = "x".repeat(1 << 20);
    check(with(&format!(r#""{long}":null"#)), &format!("{}…", "x".repeat(64)), "got null");
}

#[test]
fn at_most_64_keys_are_parameters() {
    let keys = |count: usize| {
        let keys: Vec<_> = (0..count).map(|key| format!(r#""k{key}":{key}"#)).collect();
        with(&keys.join(","))
    };
    assert_eq!(decoded(&keys(64)).parameters.len(), 64);
    check(keys(65), "parameters", "expected at most 64 besides the inputs, got more");
}

#[test]
fn what_comes_twice_is_refused() {
    check(with(r#""row":[1,2,3]"#), "row", "duplicate key");
    check(with(r#""k":1,"k":1"#), "k", "duplicate key");
    check(with(r#""id":"a","id":"a""#), "id", "duplicate key");
    check(with(r#""timeout":1,"timeout":1"#), "timeout", "duplicate key");
    check(with(r#""parameters":{},"parameters":{}"#), "parameters", "duplicate key");
    // Inside `parameters` is outside.
    check(with(r#""k":1,"parameters":{"k":1}"#), "k", "duplicate key");
    check(with(r#""parameters":{"row":[1,2,3]}"#), "row", "duplicate key");
    let body = r#"{"parameters":{"text":"a","row":[1,2,3],"ids":1,"id":"i"}}"#;
    assert_eq!(decoded(body).id.as_deref(), Some("i"));
}

#[test]
fn bodies_broken_at_random_never_break_a_promise() {
    let mut random = Random::new(11);
    let good = with(r#""id":"a","parameters":{"k":1.5,"timeout":10,"sequence_id":3},"b":false,"s":"\u00e9""#);
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut body = good.clone().into_bytes();
        for _ in 0..=random.below(3) {
            let at = random.below(body.len());
            match random.below(3) {
                0 => body[at] = random.byte(),
                1 => drop(body.remove(at)),
                _ => body.insert(at, br#"{}[],:"0-1.e+\"#[random.below(14)]),
            }
        }
        match decode_generate(&body, &specs(), true) {
            Ok(generated) => {
                let shapes: Vec<_> =
                    generated.inputs.iter().map(|input| input.tensor.shape().to_vec()).collect();
                assert_eq!((&shapes[0][..], &shapes[1][..], shapes[2][0]), (&[1, 1][..], &[1, 3][..], 1));
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
                assert!(error.field().is_some() && error.message().len() <= 1024, "{error}");
            }
        }
    }
    assert!(refused > 10_000, "{refused}");
}

fn response(outputs: Vec<(&str, Tensor)>) -> InferenceResponse {
    let outputs = outputs.into_iter().map(|(name, tensor)| NamedTensor::new(name, tensor)).collect();
    InferenceResponse { model: "m".to_owned(), version: 3, outputs, timing: Timing::default() }
}

fn encoded(response: &InferenceResponse, id: Option<&str>) -> String {
    String::from_utf8(encode_generate(response, id).unwrap()).unwrap()
}

#[test]
fn an_output_of_one_element_is_that_element_and_any_other_one_is_flat() {
    let response = response(vec![
        ("text", Tensor::from_elements(&[1, 1], &["a\"\n"]).unwrap()),
        ("row", Tensor::from_vec(&[1, 3], vec![1_f32, -0.5, 1e-9]).unwrap()),
        ("table", Tensor::from_vec(&[2, 2], vec![1_i64, 2, 3, i64::MAX]).unwrap()),
        ("scalar", Tensor::from_vec(&[], vec![true]).unwrap()),
        ("none", Tensor::from_vec(&[1, 0], Vec::<u8>::new()).unwrap()),
        ("half", Tensor::from_vec(&[1], vec![f16::from_f32(0.1)]).unwrap()),
        ("brain", Tensor::from_vec(&[2], vec![bf16::from_f32(1.5); 2]).unwrap()),
    ]);
    let expected = concat!(
        r#"{"model_name":"m","model_version":"3","id":"i\"d","text":"a\"\n","row":[1.0,-0.5,1e-9],"#,
        r#""table":[1,2,3,9223372036854775807],"scalar":true,"none":[],"half":0.099975586,"brain":[1.5,1.5]}"#
    );
    assert_eq!(encoded(&response, Some("i\"d")), expected);
    assert!(!encoded(&response, None).contains("\"id\""));
}

#[test]
fn an_output_takes_the_place_of_the_answers_own_member() {
    let one = |value: i32| Tensor::from_vec(&[1], vec![value]).unwrap();
    let response = response(vec![("id", one(1)), ("model_name", one(2))]);
    assert_eq!(encoded(&response, Some("i")), r#"{"model_version":"3","id":1,"model_name":2}"#);
}

#[test]
fn a_value_without_words_in_json_is_refused() {
    for tensor in [
        Tensor::from_vec(&[2], vec![1.0, f32::NAN]).unwrap(),
        Tensor::from_vec(&[1], vec![f64::INFINITY]).unwrap(),
        Tensor::from_elements(&[1], &[b"\xff"]).unwrap(),
    ] {
        let error = encode_generate(&response(vec![("y", tensor)]), None).unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidRequest, Some("y")));
        assert!(error.message().contains("expected finite numbers or UTF-8, got"), "{error}");
    }
}

#[test]
fn an_event_is_one_line_of_data() {
    assert_eq!(event(br#"{"y":1}"#), b"data: {\"y\":1}\n\n");
    let error = Error::invalid("y", "expected a\nhint: b");
    let event = String::from_utf8(event(&error_body(&error))).unwrap();
    let json = event.strip_prefix("data: ").and_then(|event| event.strip_suffix("\n\n")).unwrap();
    assert!(!json.contains('\n'));
    let value: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(value["error"], "y: expected a\nhint: b");
}
