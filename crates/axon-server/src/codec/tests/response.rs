//! Responses: their text, their binary parts, and classification.

use axon::request::{InferenceResponse, NamedTensor, Timing};
use axon::{ErrorKind, Tensor};
use half::f16;

use super::{assert_error, encode};
use crate::codec::{ListedOutput, OutputFormat};

fn response(tensors: Vec<Tensor>) -> InferenceResponse {
    let outputs =
        ["y", "z", "w"].into_iter().zip(tensors).map(|(name, tensor)| NamedTensor::new(name, tensor));
    InferenceResponse {
        model: "m".to_owned(),
        version: 1,
        outputs: outputs.collect(),
        timing: Timing::default(),
    }
}

fn singles(dimensions: &[usize], elements: &[f32]) -> Tensor {
    Tensor::from_vec(dimensions, elements.to_vec()).unwrap()
}

fn listed(binary: &[bool]) -> OutputFormat {
    let listed = binary.iter().map(|&binary| ListedOutput { binary, classification: None });
    OutputFormat { listed: listed.collect(), ..OutputFormat::default() }
}

/// The JSON part that `tensor` makes under the name `y`.
fn json(tensor: Tensor, format: &OutputFormat) -> String {
    String::from_utf8(encode(&response(vec![tensor]), None, format).unwrap().json).unwrap()
}

#[test]
fn a_response_is_written_as_the_protocol_says() {
    let mut response = response(vec![
        singles(&[1, 3], &[1.0, -0.5, 1e-9]),
        Tensor::from_elements(&[1], &["a\"\u{1}é\n"]).unwrap(),
    ]);
    response.model = "my \\ model".to_owned();
    let encoded = encode(&response, Some("i\"d"), &OutputFormat::default()).unwrap();
    assert_eq!(
        String::from_utf8(encoded.json).unwrap(),
        concat!(
            r#"{"model_name":"my \\ model","model_version":"1","id":"i\"d","outputs":["#,
            r#"{"name":"y","datatype":"FP32","shape":[1,3],"data":[1.0,-0.5,1e-9]},"#,
            r#"{"name":"z","datatype":"BYTES","shape":[1],"data":["a\"\u0001é\n"]}]}"#,
        )
    );
    assert_eq!(encoded.header_length, None);
    assert!(encoded.tensors.is_empty());
}

#[test]
fn numbers_are_short_and_exact() {
    let data = |tensor: Tensor| {
        let json = json(tensor, &OutputFormat::default());
        json.split_once("\"data\":").unwrap().1.strip_suffix("}]}").unwrap().to_owned()
    };
    assert_eq!(
        data(singles(&[5], &[0.1, -0.0, 1e16, f32::MAX, 16_777_216.0])),
        "[0.1,-0.0,1e+16,3.4028235e+38,16777216.0]"
    );
    assert_eq!(data(Tensor::from_vec(&[2], vec![0.1_f64, 5e-324]).unwrap()), "[0.1,5e-324]");
    assert_eq!(
        data(Tensor::from_vec(&[2], vec![f16::from_f32(0.1), f16::MAX]).unwrap()),
        "[0.099975586,65504.0]"
    );
    assert_eq!(data(Tensor::from_vec(&[2], vec![u64::MAX, 0]).unwrap()), "[18446744073709551615,0]");
    assert_eq!(data(Tensor::from_vec(&[2], vec![i8::MIN, 5]).unwrap()), "[-128,5]");
    assert_eq!(data(Tensor::from_vec(&[2], vec![true, false]).unwrap()), "[true,false]");
    assert_eq!(data(singles(&[0, 3], &[])), "[]");
}

#[test]
fn binary_outputs_follow_in_order() {
    let response = response(vec![
        singles(&[2], &[1.0, 2.0]),
        singles(&[1], &[5.0]),
        Tensor::from_vec(&[1], vec![7_u8]).unwrap(),
    ]);
    let encoded = encode(&response, None, &listed(&[true, false, true])).unwrap();
    assert_eq!(encoded.header_length, Some(encoded.json.len()));
    let json = String::from_utf8(encoded.json).unwrap();
    assert!(json.contains(r#""shape":[2],"parameters":{"binary_data_size":8}},{"name":"z""#), "{json}");
    assert!(json.contains(r#""data":[5.0]}"#), "{json}");
    let tensors: Vec<_> = encoded.tensors.iter().map(|tensor| tensor.to_vec()).collect();
    assert_eq!(tensors, [[1.0_f32.to_le_bytes(), 2.0_f32.to_le_bytes()].concat(), vec![7]]);
    assert_eq!(encoded.tensors[0].as_ptr(), response.outputs[0].tensor.memory().as_ptr(), "copied");
}

#[test]
fn no_binary_bytes_make_a_plain_answer() {
    let format = OutputFormat { binary: true, ..OutputFormat::default() };
    let encoded = encode(&response(vec![singles(&[0, 3], &[])]), None, &format).unwrap();
    assert_eq!(encoded.header_length, None);
    assert!(String::from_utf8(encoded.json).unwrap().contains(r#""parameters":{"binary_data_size":0}"#));
}

#[test]
fn what_json_cannot_hold_is_refused() {
    let check = |tensor: Tensor, field: &str, text: &str| {
        let error =
            encode(&response(vec![singles(&[1], &[0.0]), tensor.clone()]), None, &OutputFormat::default())
                .unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidRequest, Some(field)));
        assert!(error.message().contains(text), "{error}");
        assert!(
            error
                .message()
                .contains("cannot be written in JSON\nhint: ask for this output with binary_data true")
        );
        assert!(encode(&response(vec![tensor]), None, &listed(&[true])).is_ok());
    };
    check(singles(&[2], &[0.0, f32::NAN]), "outputs[1].data[1]", "NaN");
    check(singles(&[1], &[f32::INFINITY]), "outputs[1].data[0]", "infinity");
    check(Tensor::from_vec(&[1], vec![f64::NEG_INFINITY]).unwrap(), "outputs[1].data[0]", "infinity");
    check(Tensor::from_vec(&[1], vec![f16::NAN]).unwrap(), "outputs[1].data[0]", "NaN");
    check(Tensor::from_elements(&[2], &[&b"a"[..], b"\xff"]).unwrap(), "outputs[1].data[1]", "UTF-8");
}

fn classes(count: usize, binary: bool) -> OutputFormat {
    let listed = vec![ListedOutput { binary, classification: Some(count) }];
    OutputFormat { listed, ..OutputFormat::default() }
}

#[test]
fn the_best_classes_of_each_row() {
    let check = |tensor: Tensor, count: usize, expected: &str| {
        let json = json(tensor, &classes(count, false));
        let expected = format!(r#""datatype":"BYTES",{expected}}}]}}"#);
        assert!(json.ends_with(&expected), "{json} is not {expected}");
    };
    let two_rows = singles(&[2, 3], &[0.25, 0.5, 0.125, -1.0, 7.0, 7.0]);
    check(
        two_rows.clone(),
        2,
        r#""shape":[2,2],"data":["0.500000:1","0.250000:0","7.000000:1","7.000000:2"]"#,
    );
    check(two_rows.clone(), 1, r#""shape":[2,1],"data":["0.500000:1","7.000000:1"]"#);
    let all = r#""shape":[2,3],"data":["0.500000:1","0.250000:0","0.125000:2","7.000000:1","7.000000:2","-1.000000:0"]"#;
    check(two_rows, 1000, all);
    check(singles(&[3], &[1.0, 3.0, 2.0]), 2, r#""shape":[2],"data":["3.000000:1","2.000000:2"]"#);
    check(singles(&[], &[1.0]), 2, r#""shape":[1],"data":["1.000000:0"]"#);
    check(
        singles(&[1, 2, 2], &[1.0, 3.0, 2.0, 4.0]),
        2,
        r#""shape":[1,2],"data":["4.000000:3","3.000000:1"]"#,
    );
    check(singles(&[0, 3], &[]), 2, r#""shape":[0,2],"data":[]"#);
    check(singles(&[1 << 40, 0], &[]), 2, r#""shape":[1099511627776,0],"data":[]"#);
    check(
        singles(&[1, 4], &[f32::NAN, f32::NEG_INFINITY, f32::INFINITY, 0.1]),
        4,
        r#""shape":[1,4],"data":["inf:2","0.100000:3","-inf:1","nan:0"]"#,
    );
    let integers = Tensor::from_vec(&[1, 3], vec![i64::MIN, i64::MAX, i64::MAX - 1]).unwrap();
    check(
        integers,
        2,
        r#""shape":[1,2],"data":["9223372036854775807.000000:1","9223372036854775806.000000:2"]"#,
    );
    let ties = singles(&[1, 1000], &[0.5; 1000]);
    check(ties, 3, r#""shape":[1,3],"data":["0.500000:0","0.500000:1","0.500000:2"]"#);
    let halves = Tensor::from_vec(&[1, 2], vec![f16::ONE, f16::from_f32(1.5)]).unwrap();
    check(halves, 1, r#""shape":[1,1],"data":["1.500000:1"]"#);
}

#[test]
fn classes_have_the_labels_that_the_model_has() {
    let response = response(vec![singles(&[1, 3], &[0.25, 0.5, 0.125]), singles(&[1, 1], &[1.0])]);
    let listed = ListedOutput { binary: false, classification: Some(3) };
    let format = OutputFormat { listed: vec![listed; 2], ..OutputFormat::default() };
    let names = ["cat".to_owned(), "a \"dog\"".to_owned()];
    let labels = |output: &str| (output == "y").then_some(&names[..]);
    let encoded = crate::codec::encode(&response, None, &format, &labels).unwrap();
    let text = String::from_utf8(encoded.json).unwrap();
    assert!(text.contains(r#""data":["0.500000:1:a \"dog\"","0.250000:0:cat","0.125000:2"]"#), "{text}");
    assert!(text.contains(r#""data":["1.000000:0"]"#), "{text}");
}

#[test]
fn classes_can_be_binary_and_need_numbers() {
    let encoded = encode(&response(vec![singles(&[1, 2], &[1.0, 2.0])]), None, &classes(1, true)).unwrap();
    assert_eq!(&encoded.tensors[0][..], b"\x0a\0\0\x002.000000:1");
    for tensor in [Tensor::from_vec(&[1], vec![true]).unwrap(), Tensor::from_elements(&[1], &["a"]).unwrap()]
    {
        let error = encode(&response(vec![tensor]), None, &classes(1, false)).unwrap_err();
        let field = "outputs[0].parameters.classification";
        assert_error(&error, ErrorKind::InvalidRequest, field, "expected an output of numbers", "");
    }
}
