//! B-01 to B-27 and B-34: the document, and inputs whose elements are JSON.

use std::fmt::Write as _;

use axon::DataType;
use axon::signature::Signature;
use half::{bf16, f16};

use super::{check, check_with, decode_json, inputs, request, spec, tensor};
use crate::codec::{self, DecodeOptions, Parsed};

const HEAD: &str = r#""name":"INPUT0","datatype":"FP32","shape":[1,3]"#;

/// A request for the catalogue's model with this `data`.
fn with_data(data: &str) -> String {
    request(&format!(r#"{HEAD},"data":{data}"#))
}

#[test]
fn b01_to_b03_what_is_not_a_json_object_names_its_byte() {
    check("", "body", "empty"); // B-01
    check("hello", "body", "at byte 0: expected a value, got `h`"); // B-02
    check("null", "body", "at byte 0, got null");
    check("[]", "body", "at byte 0, got array");
    check("  \n", "body", "invalid JSON at byte 3");
    check(r#"{"inputs":"#, "body", "at byte 10: expected a value, got the end of the body");
    check(r#"{"inputs":[]} xx"#, "body", "at byte 14: expected the end, got `x`");
    check(r#"{"inputs":[],}"#, "body", "at byte 13: expected a key");
    check(r#"{"x":01}"#, "body", "at byte 6");
    check(r#"{"x":"a"#, "body", "at byte 7: expected the end of a string");
    check("{\"x\":\"a\nb\"}", "body", r"at byte 7: expected an escape for a control character, got `\n`");
    check(r#"{"x":"\q"}"#, "body", "at byte 7: expected one of");
    check(r#"{"x":"\u12g4"}"#, "body", "at byte 10: expected a hexadecimal digit");
    check(r#"{"x":"\ud800"}"#, "body", "at byte 6: expected a surrogate pair");
    check(r#"{"x":tru}"#, "body", "at byte 5: expected a value");
    check(r#"{"x":NaN}"#, "body", "at byte 5: expected a value");
    check(r#"{"x":[1,2}"#, "body", "at byte 9: expected `,` or `]`");
    check(r#"{"x":{"y":1]}"#, "body", "at byte 11: expected `,` or `}`");
    check(r#"{"x" 1}"#, "body", "at byte 5: expected `:`");
    check("\u{feff}{}", "body", "at byte 0");
    // B-03
    let utf16: Vec<u8> = [0xfeff].into_iter().chain("{}".encode_utf16()).flat_map(u16::to_le_bytes).collect();
    check(&utf16, "body", "not UTF-8 at byte 0");
    check(&utf16[2..], "body", "not UTF-8 at byte 1");
    check(b"\0{\0}", "body", "not UTF-8 at byte 0");
    check(b"{\"inputs\":[{\"name\":\"IN\xff\"}]}", "body", "not UTF-8 at byte 22");
    check(b"{\"inputs\":[]} \xc3", "body", "not UTF-8 at byte 14");
}

#[test]
fn b04_to_b09_inputs_are_an_array_of_named_objects() {
    check("{}", "inputs", "required"); // B-04
    check(r#"{"inputs":{}}"#, "inputs", "expected array, got object");
    check(r#"{"inputs":[5]}"#, "inputs[0]", "expected object, got number");
    check(r#"{"inputs":[]}"#, "inputs", "missing `INPUT0`"); // B-05
    check(request(&format!(r#"{HEAD},"shape":[1,3]"#)), "inputs[0].shape", "duplicate key"); // B-06
    check(request(r#""name":"a","n\u0061me":"b""#), "inputs[0].name", "duplicate key");
    check(r#"{"inputs":[],"inputs":[]}"#, "inputs", "duplicate key");
    check(r#"{"inputs":[],"outputs":[],"outputs":[]}"#, "outputs", "duplicate key");
    check(r#"{"id":"a","id":"a"}"#, "id", "duplicate key");
    check(with_data("[1,2,3],\"data\":[1,2,3]"), "inputs[0].data", "duplicate key");
    check(request(r#""datatype":"FP32","shape":[1,3],"data":[1,2,3]"#), "inputs[0].name", "required"); // B-07
    check(request(r#""name":"""#), "inputs[0].name", "expected a string of 1 to");
    check(request(&format!(r#""name":"{}""#, "x".repeat(1 << 20))), "inputs[0].name", "got 1048576 bytes");
    check(request(r#""name":null"#), "inputs[0].name", "expected string, got null");
    let unknown = with_data("[1,2,3]").replace("INPUT0", "NOPE");
    check(unknown, "inputs[0].name", "expected one of `INPUT0`, got `NOPE`"); // B-08
    let one = format!(r#"{{{HEAD},"data":[1,2,3]}}"#);
    check(format!(r#"{{"inputs":[{one},{one}]}}"#), "inputs[1].name", "duplicate"); // B-09
    let many = vec![one.as_str(); 1025].join(",");
    check(format!(r#"{{"inputs":[{many}]}}"#), "inputs", "at most 1024 inputs");
    let twice = format!(r#"{{"x":1,"x":2,"inputs":[{{"y":[],"y":{{}},{HEAD},"data":[1,2,3]}}]}}"#);
    assert!(decode_json(twice).is_ok(), "unknown keys may come twice");
}

#[test]
fn b10_to_b20_data_types_and_shapes() {
    check(request(r#""name":"INPUT0","shape":[1,3],"data":[1]"#), "inputs[0].datatype", "one of BOOL, UINT8"); // B-10
    check(request(r#""datatype":"FP99""#), "inputs[0].datatype", "got `FP99`");
    check(request(r#""datatype":5"#), "inputs[0].datatype", "one of BOOL, UINT8");
    let other = with_data("[1,2,3]").replace("FP32", "INT64");
    check(other, "inputs[0].datatype", "expected FP32 for input `INPUT0`, got INT64"); // B-11
    let shape = |shape: &str| with_data("[1,2,3]").replace("[1,3]", shape);
    check(request(r#""name":"INPUT0","datatype":"FP32","data":[1]"#), "inputs[0].shape", "required"); // B-12
    check(shape(r#""1,3""#), "inputs[0].shape", "expected array, got string");
    check(shape(r#"["1","3"]"#), "inputs[0].shape", "got string as dimension 0");
    check(shape("[1.0,3.0]"), "inputs[0].shape", "got `1.0` as dimension 0");
    check(shape("[1,-3]"), "inputs[0].shape[1]", "negative"); // B-13
    check(shape("[-1,3]"), "inputs[0].shape[0]", "negative");
    check(shape("[1,9223372036854775808]"), "inputs[0].shape", "element count overflows"); // B-14
    check(shape("[1,18446744073709551617]"), "inputs[0].shape", "element count overflows");
    check(shape("[16,1152921504606846978]"), "inputs[0].shape", "element count overflows");
    check(shape("[1,1000000000]"), "inputs[0].data", "expected 1000000000 elements, got 3"); // B-15
    check(shape("[]").replace("[1,2,3]", "[1]"), "inputs[0].shape", "expected rank 2"); // B-16
    let ten_thousand = format!("[{}]", vec!["1"; 10_000].join(","));
    check(shape(&ten_thousand), "inputs[0].shape", "got 10000");
    check(shape("[0,3]").replace("[1,2,3]", "[]"), "inputs[0].shape[0]", "at least 1"); // B-17
    let rows = format!("[{}]", vec!["[1,2,3]"; 64].join(","));
    check(shape("[64,3]").replace("[1,2,3]", &rows), "inputs[0].shape[0]", "64 > 32"); // B-18
    let two = Signature {
        inputs: vec![spec("a", DataType::Int8, &[-1]), spec("b", DataType::Int8, &[-1])],
        outputs: Vec::new(),
    };
    let input = |name, rows: &str, data: &str| {
        format!(r#"{{"name":"{name}","datatype":"INT8","shape":[{rows}],"data":{data}}}"#)
    };
    let body = format!(r#"{{"inputs":[{},{}]}}"#, input("a", "1", "[1]"), input("b", "2", "[1,2]"));
    check_with(&two, body, "inputs[1].shape[0]", "inputs[0]"); // B-19
    check(shape("[1,4]").replace("[1,2,3]", "[1,2,3,4]"), "inputs[0].shape[1]", "expected 3, got 4"); // B-20
}

#[test]
fn b21_to_b24_elements() {
    check(with_data("[1,2]"), "inputs[0].data", "expected 3 elements, got 2"); // B-21
    check(with_data("[1,2,3,4]"), "inputs[0].data", "expected 3 elements, got 4");
    check(with_data("[]"), "inputs[0].data", "expected 3 elements, got 0");
    check(with_data("[[[1,2],[3,4]]]"), "inputs[0].data", "expected 3 elements, got 4");
    for (element, kind) in [("\"1\"", "string"), ("null", "null"), ("true", "boolean"), ("{}", "object")] {
        let text = format!("expected number, got {kind}");
        check(with_data(&format!("[{element}]")), "inputs[0].data[0]", &text); // B-22
        check(with_data(&format!("[1, {element}]")), "inputs[0].data[1]", &text);
        check(with_data(&format!("[[1,2],[3,{element}]]")), "inputs[0].data[1][1]", &text);
    }
    let typed = |datatype: &str, data: &str| with_data(data).replace("FP32", datatype);
    check(typed("BOOL", "[true,false,1]"), "inputs[0].data[2]", "expected boolean, got number");
    check(typed("BOOL", "[true,false,tru]"), "body", "expected a value, got `t`");
    check(typed("BYTES", "[1]"), "inputs[0].data[0]", "expected string, got number");
    check(typed("INT8", "[\"\"]"), "inputs[0].data[0]", "expected number, got string");
    check(with_data("5"), "inputs[0].data", "expected array, got number");
    check(with_data("[1,]"), "body", "expected a value, got `]`");
    check(with_data("[1 2]"), "body", "expected `,` or `]`, got `2`");
    check(with_data("[1,2,3"), "body", "expected `,` or `]`, got `}`");
    check(with_data("[1.]"), "body", "expected a digit, got `]`");
    check(with_data("[-]"), "body", "expected a digit");
    check(with_data("[1e]"), "body", "expected a digit");
    check(with_data("[007]"), "body", "expected no digit after a leading 0");
    check(with_data("[+1]"), "body", "expected a value, got `+`");
    // B-24
    for (at, data) in ["[NaN]", "[1,Infinity]", "[1,2,-Infinity]"].into_iter().enumerate() {
        check(with_data(data), &format!("inputs[0].data[{at}]"), "not JSON");
        let first = request(&format!(r#""data":{data},{HEAD}"#));
        check(first, &format!("inputs[0].data[{at}]"), "not JSON");
    }
    check(with_data("Infinity"), "inputs[0].data", "not JSON");
}

#[test]
fn b24_a_server_may_take_nan_and_infinity_for_floating_point() {
    let read = |members: &str| {
        let options = DecodeOptions { nan: true, ..DecodeOptions::default() };
        let decoded = codec::decode(request(members).into(), None, &options).and_then(Parsed::finish);
        decoded.map(|decoded| inputs(decoded).remove(0).tensor)
    };
    for datatype in ["FP16", "BF16", "FP32", "FP64"] {
        let head = format!(r#""name":"a","shape":[4],"datatype":"{datatype}""#);
        let data = r#""data":[NaN, Infinity,-Infinity,-1]"#;
        for members in [format!("{head},{data}"), format!("{data},{head}")] {
            let tensor = read(&members).unwrap();
            let values: Vec<f64> = match datatype {
                "FP16" => tensor.as_slice::<f16>().unwrap().iter().map(|value| value.to_f64()).collect(),
                "BF16" => tensor.as_slice::<bf16>().unwrap().iter().map(|value| value.to_f64()).collect(),
                "FP32" => tensor.as_slice::<f32>().unwrap().iter().map(|&value| value.into()).collect(),
                _ => tensor.as_slice::<f64>().unwrap().to_vec(),
            };
            assert!(values[0].is_nan());
            assert_eq!(values[1..], [f64::INFINITY, f64::NEG_INFINITY, -1.0]);
        }
    }
    for (datatype, data) in
        [("INT32", "[NaN]"), ("BOOL", "[NaN]"), ("BYTES", "[Infinity]"), ("FP32", "[nan]")]
    {
        let error = read(&format!(r#""name":"a","shape":[1],"datatype":"{datatype}","data":{data}"#));
        assert_eq!(error.unwrap_err().kind(), axon::ErrorKind::InvalidRequest);
    }
    assert!(read(r#""name":"a","shape":[NaN],"datatype":"FP32","data":[1]"#).is_err());
}

#[test]
fn b23_numbers_out_of_range() {
    let check = |datatype: &str, element: &str, text: &str| {
        let members = format!(r#""name":"INPUT0","datatype":"{datatype}","shape":[2],"data":[0,{element}]"#);
        check(request(&members), "inputs[0].data[1]", text);
    };
    let integers = [
        ("UINT8", "0", "255"),
        ("UINT16", "0", "65535"),
        ("UINT32", "0", "4294967295"),
        ("UINT64", "0", "18446744073709551615"),
        ("INT8", "-128", "127"),
        ("INT16", "-32768", "32767"),
        ("INT32", "-2147483648", "2147483647"),
        ("INT64", "-9223372036854775808", "9223372036854775807"),
    ];
    for (datatype, minimum, maximum) in integers {
        let range =
            format!("out of range for {datatype}: expected integer from {minimum} to {maximum}, got ");
        let above = (maximum.parse::<i128>().unwrap() + 1).to_string();
        let below = (minimum.parse::<i128>().unwrap() - 1).to_string();
        for element in
            [&above, &below, "1.5", "1.0", "1e0", "99999999999999999999999", "-99999999999999999999999"]
        {
            check(datatype, element, &format!("{range}`{element}`"));
        }
    }
    check("FP64", "1e400", "out of range for FP64");
    check("FP64", "-1e400", "out of range for FP64");
    check("FP64", "1e99999999999999999999", "out of range for FP64");
    check("FP32", "3.5e38", "out of range for FP32");
    check("FP32", "1e39", "out of range for FP32");
    check("FP16", "65520", "out of range for FP16");
    check("BF16", "3.4e38", "out of range for BF16");
    let exact = tensor(&request(r#""name":"a","datatype":"INT64","shape":[1],"data":[9007199254740993]"#));
    assert_eq!(exact.as_slice::<i64>(), Some(&[9_007_199_254_740_993][..]));
}

#[test]
fn b25_b26_nesting() {
    check(with_data("[[1,2],[3]]"), "inputs[0].data[1]", "length 1, expected 2"); // B-25
    check(with_data("[[1],[2,3]]"), "inputs[0].data[1]", "length 2, expected 1");
    check(with_data("[[],[1,2,3]]"), "inputs[0].data[1]", "length 3, expected 0");
    check(with_data("[[[1],[2]],[[3]]]"), "inputs[0].data[1]", "length 1, expected 2");
    check(with_data("[1,[2,3]]"), "inputs[0].data[1]", "expected number, got array");
    check(with_data("[[1],2,3]"), "inputs[0].data[1]", "expected array, got number");
    check(with_data("[[1],[[2]],[3]]"), "inputs[0].data[1][0]", "expected number, got array");
    check(with_data("[[],[[]]]"), "inputs[0].data[1]", "length 1, expected 0");
    // B-26
    let nested = |depth: usize| format!("{}1,2,3{}", "[".repeat(depth), "]".repeat(depth));
    for depth in [1, 2, 50, 100] {
        assert_eq!(tensor(&with_data(&nested(depth))).as_slice::<f32>(), Some(&[1.0, 2.0, 3.0][..]));
        let first = request(&format!(r#""data":{},{HEAD}"#, nested(depth)));
        assert_eq!(tensor(&first).as_slice::<f32>(), Some(&[1.0, 2.0, 3.0][..]));
    }
    for depth in [101, 250_000] {
        check(with_data(&nested(depth)), "inputs[0].data", "depth > 100");
        check(with_data(&"[".repeat(depth)), "inputs[0].data", "depth > 100");
        check(request(&format!(r#""data":{},{HEAD}"#, nested(depth))), "inputs[0].data", "depth > 100");
        check(format!(r#"{{"x":{}"#, r#"{"a":"#.repeat(depth)), "body", "depth > 100");
        check(format!(r#"{{"inputs":[{{"x":{}"#, "[".repeat(depth)), "inputs[0]", "depth > 100");
    }
    let deep = with_data(&format!("{}x", nested(100).replace('1', "null")));
    let path = format!("inputs[0].data{}", "[0]".repeat(8));
    check(deep, &path, "expected number, got null");
}

#[test]
fn b27_elements_come_from_one_place() {
    check(
        request(HEAD),
        "inputs[0]",
        "exactly one of data, binary_data_size, shared_memory_region, got none",
    );
    let both = with_data("[1,2,3],\"parameters\":{\"binary_data_size\":12}");
    check(both, "inputs[0]", "got data and binary_data_size");
    let region = r#""parameters":{"binary_data_size":12,"shared_memory_region":"r"}"#;
    check(request(&format!("{HEAD},{region}")), "inputs[0]", "got binary_data_size and shared_memory_region");
}

#[test]
fn b34_strings() {
    let strings =
        |data: &str| request(&format!(r#""name":"a","datatype":"BYTES","shape":[2],"data":{data}"#));
    let read = |data: &str| {
        let tensor = tensor(&strings(data));
        tensor.elements().map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    assert_eq!(read(r#"["", "plain"]"#), [b"".to_vec(), b"plain".to_vec()]);
    let escaped = r#"["\"\\\/\b\f\n\r\t","\u00e9\ud83d\ude00 é"]"#;
    assert_eq!(read(escaped), [b"\"\\/\x08\x0c\n\r\t".to_vec(), "é😀 é".as_bytes().to_vec()]);
    assert_eq!(read(r#"[["\u0000"],["a\u0062c"]]"#), [b"\0".to_vec(), b"abc".to_vec()]);
    for half in [r"\ud800", r"\ud800x", r"\udc00", r"\ud800\ud800", r"\ud800\u0041"] {
        check(
            strings(&format!(r#"["a","{half}"]"#)),
            "inputs[0].data[1]",
            "not UTF-8: expected a surrogate pair",
        );
    }
    check(strings(r#"["a"]"#), "inputs[0].data", "expected 2 elements, got 1");
    check(strings(r#"["a","b","c"]"#), "inputs[0].data", "expected 2 elements, got 3");
    check(strings(r#"["a",null]"#), "inputs[0].data[1]", "expected string, got null");
    check(strings(r#"["a","\x"]"#), "body", "expected one of");
    check(strings(r#"["a","b"#), "body", "expected the end of a string, got the end of the body");
}

#[test]
fn members_may_come_in_any_order_and_with_white_space() {
    let members = [
        r#""name" : "INPUT0""#,
        "\"datatype\"\t:\r\n\"FP32\"",
        r#""shape": [ 1 , 3 ]"#,
        r#""data": [ [ 1 , 2.5 ] , [ -3e0 , 4 ] ]"#,
        r#""unknown":{"a":[1,{"b":null}],"c":"\u0041"}"#,
    ];
    for first in 0..members.len() {
        let mut body = String::from("\n{ \"unknown\" : [ ] , \"inputs\" : [ { ");
        for position in 0..members.len() {
            let comma = if position > 0 { " , " } else { "" };
            let _ = write!(body, "{comma}{}", members[(first + position) % members.len()]);
        }
        body.push_str(" } ] , \"outputs\" : [ ] } ");
        let body = body.replace("[ 1 , 3 ]", "[ 1 , 4 ]");
        let named = inputs(decode_json(&body).unwrap()).remove(0);
        assert_eq!(named.name, "INPUT0");
        assert_eq!(&**named.tensor.shape(), &[1, 4]);
        assert_eq!(named.tensor.as_slice::<f32>(), Some(&[1.0, 2.5, -3.0, 4.0][..]));
    }
}
