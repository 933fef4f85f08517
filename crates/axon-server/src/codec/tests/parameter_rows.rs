//! B-28 to B-33: the id, the parameters and the outputs that are asked for.

use std::time::Duration;

use axon::request::{Parameter, Sequence, SequenceId};

use super::{check, decode_json};
use crate::codec::{Decoded, ListedOutput};

const INPUTS: &str = r#""inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,3],"data":[1,2,3]}]"#;

/// A good request with one member more.
fn with(member: &str) -> String {
    format!("{{{INPUTS},{member}}}")
}

#[test]
fn b28_ids() {
    check(with(r#""id":5"#), "id", "expected string, got number");
    check(with(&format!(r#""id":"{}""#, "x".repeat(257))), "id", "at most 256 bytes, got 257");
    check(with(&format!(r#""id":"{}""#, "x".repeat(1 << 20))), "id", "at most 256 bytes, got 1048576");
    check(with(r#""id":"a\u0000b""#), "id", r"expected printable characters, got `a\0b`");
    check(with(r#""id":"a\r\nX-Header: 1""#), "id", "expected printable characters");
    check(with(r#""id":"\u2028""#), "id", "expected printable characters");
    check(with("\"id\":\"\u{85}\""), "id", "expected printable characters");
    let id = |text: &str| decode_json(with(&format!(r#""id":"{text}""#))).unwrap().id;
    assert_eq!(id("42 é\\\"").as_deref(), Some("42 é\""));
    assert_eq!(id(&"x".repeat(256)).map(|id| id.len()), Some(256));
    assert_eq!(id(""), None);
}

#[test]
fn b29_to_b31_parameters_of_the_request() {
    let check = |parameters: &str, field: &str, text: &str| {
        check(with(&format!(r#""parameters":{parameters}"#)), field, text);
    };
    let keys = |count: usize| {
        let keys: Vec<_> = (0..count).map(|key| format!(r#""k{key}":{key}"#)).collect();
        format!("{{{}}}", keys.join(","))
    };
    check("[]", "parameters", "expected object, got array"); // B-29
    check(&keys(65), "parameters", "at most 64 keys");
    check(r#"{"k":{}}"#, "parameters", "expected string, number or boolean for `k`, got object");
    check(r#"{"k":[1]}"#, "parameters", "expected string, number or boolean for `k`, got array");
    check(r#"{"k":null}"#, "parameters", "expected string, number or boolean for `k`, got null");
    check(r#"{"triton_x":1}"#, "parameters", "reserved, got `triton_x`");
    check(r#"{"priority":"x"}"#, "parameters.priority", "expected integer from 0 to"); // B-30
    check(
        r#"{"timeout":-5}"#,
        "parameters.timeout",
        "expected integer from 0 to 18446744073709551615, got `-5`",
    );
    check(r#"{"timeout":18446744073709551616}"#, "parameters.timeout", "got `18446744073709551616`");
    check(r#"{"timeout":1.5}"#, "parameters.timeout", "got `1.5`");
    check(r#"{"timeout":1,"timeout":1}"#, "parameters.timeout", "duplicate key");
    check(r#"{"sequence_start":1}"#, "parameters.sequence_start", "expected boolean, got number");
    check(r#"{"sequence_end":"x"}"#, "parameters.sequence_end", "expected boolean, got string");
    check(r#"{"binary_data_output":0}"#, "parameters.binary_data_output", "expected boolean");
    // B-31
    check(r#"{"sequence_id":0,"sequence_start":true}"#, "parameters.sequence_id", "other than 0");
    check(r#"{"sequence_start":true,"sequence_id":""}"#, "parameters.sequence_id", "other than 0");
    check(r#"{"sequence_id":18446744073709551616}"#, "parameters.sequence_id", "got `18446744073709551616`");
    check(r#"{"sequence_id":-1}"#, "parameters.sequence_id", "got `-1`");
    check(r#"{"sequence_id":true}"#, "parameters.sequence_id", "got boolean");
    let long = format!(r#"{{"sequence_id":"{}"}}"#, "x".repeat(129));
    check(&long, "parameters.sequence_id", "at most 128 bytes, got 129");
    let good = [
        r#"{"sequence_id":18446744073709551615,"sequence_start":true,"sequence_end":false,"priority":2,"a":-1.5e3}"#,
        r#"{"sequence_id":0,"sequence_start":false,"k":"v","b":true}"#,
        &keys(64),
        "{}",
    ];
    for parameters in good {
        decode_json(with(&format!(r#""parameters":{parameters}"#))).unwrap();
    }
    let timeout =
        |us: &str| decode_json(with(&format!(r#""parameters":{{"timeout":{us}}}"#))).unwrap().timeout;
    assert_eq!(timeout("0"), None);
    assert_eq!(timeout("1500"), Some(Duration::from_micros(1500)));
    assert_eq!(timeout("18446744073709551615"), Some(Duration::from_micros(u64::MAX)));
}

#[test]
fn b32_b33_outputs() {
    let outputs = |outputs: &str| with(&format!(r#""outputs":{outputs}"#));
    check(outputs("{}"), "outputs", "expected array, got object");
    check(outputs("[1]"), "outputs[0]", "expected object, got number");
    check(outputs("[{}]"), "outputs[0].name", "required");
    check(outputs(r#"[{"name":""}]"#), "outputs[0].name", "1 to 1024 bytes");
    check(outputs(r#"[{"name":5}]"#), "outputs[0].name", "expected string, got number");
    // B-32
    check(outputs(r#"[{"name":"NOPE"}]"#), "outputs[0].name", "expected one of `OUTPUT0`, got `NOPE`");
    check(outputs(r#"[{"name":"OUTPUT0"},{"name":"OUTPUT0"}]"#), "outputs[1].name", "duplicate");
    let many = vec![r#"{"name":"OUTPUT0"}"#; 10_000].join(",");
    check(outputs(&format!("[{many}]")), "outputs[1024].name", "at most 1024 outputs");
    // B-33
    for value in ["0", "-1", "2147483648", "\"x\"", "1.5", "null", "99999999999999999999"] {
        let body = outputs(&format!(r#"[{{"name":"OUTPUT0","parameters":{{"classification":{value}}}}}]"#));
        check(body, "outputs[0].parameters.classification", "expected integer from 1 to 2147483647, got ");
    }
    let parameters = |text: &str| outputs(&format!(r#"[{{"name":"OUTPUT0","parameters":{text}}}]"#));
    check(parameters("5"), "outputs[0].parameters", "expected object, got number");
    check(parameters(r#"{"binary_data":1}"#), "outputs[0].parameters.binary_data", "expected boolean");
    check(parameters(r#"{"x":[]}"#), "outputs[0].parameters", "expected string, number or boolean");
}

#[test]
fn formats_follow_the_request() {
    let format = |members: &str| decode_json(with(members)).unwrap().format;
    let listed = |binary, classification| ListedOutput { binary, classification };
    assert_eq!(format(r#""outputs":[]"#).of(0), ListedOutput::default());
    let all_binary = r#""parameters":{"binary_data_output":true}"#;
    assert_eq!(format(all_binary).of(7), listed(true, None));
    let outputs =
        r#""outputs":[{"name":"a"},{"name":"b","parameters":{"binary_data":true,"classification":3}}]"#;
    let both = format(&format!("{all_binary},{outputs}"));
    assert_eq!((both.of(0), both.of(1)), (listed(false, None), listed(true, Some(3))));
}

fn parameters(text: &str) -> Decoded {
    decode_json(with(&format!(r#""parameters":{text}"#))).unwrap()
}

#[test]
fn a_request_says_its_priority_and_its_sequence() {
    assert_eq!(parameters("{}").priority, 0);
    assert_eq!(parameters(r#"{"priority":18446744073709551615}"#).priority, u64::MAX);
    let sequence = |id, start, end| Some(Sequence { id, start, end });
    let check = |text: &str, expected: Option<Sequence>| assert_eq!(parameters(text).sequence, expected);
    check(r#"{"sequence_id":5}"#, sequence(SequenceId::Number(5), false, false));
    let text = SequenceId::Text("é 1".to_owned());
    check(r#"{"sequence_end":true,"sequence_id":"é 1","sequence_start":true}"#, sequence(text, true, true));
    check(r#"{"sequence_id":0,"sequence_end":true}"#, None);
    check(r#"{"sequence_id":""}"#, None);
    check(r#"{"sequence_start":true}"#, None);
}

#[test]
fn what_else_a_caller_says_is_handed_on_as_it_came() {
    let text = r#"{"z":-9223372036854775808,"priority":1,"a":18446744073709551615,"d":1e3,"t":true,"s":"\u00e9","big":18446744073709551616,"i":7}"#;
    let expected = [
        ("z", Parameter::Int(i64::MIN)),
        ("a", Parameter::Uint(u64::MAX)),
        ("d", Parameter::Double(1000.0)),
        ("t", Parameter::Bool(true)),
        ("s", Parameter::String("é".to_owned())),
        ("big", Parameter::Double(18_446_744_073_709_551_616.0)),
        ("i", Parameter::Int(7)),
    ];
    assert_eq!(parameters(text).parameters, expected.map(|(name, value)| (name.to_owned(), value)));
    assert_eq!(parameters("{}").parameters, []);
}

#[test]
fn what_else_a_caller_says_is_bounded() {
    let check = |parameters: &str, text: &str| {
        check(with(&format!(r#""parameters":{parameters}"#)), "parameters", text);
    };
    check(r#"{"k":1,"k":2}"#, "duplicate key: expected `k` once");
    check(r#"{"k":1e400}"#, "out of range: expected number from");
    let half = "x".repeat(32 << 10);
    check(&format!(r#"{{"a":"{half}","b":"{half}"}}"#), "at most 65536 bytes of names and texts, got 65538");
    check(&format!(r#"{{"{half}{half}":"x"}}"#), "at most 65536 bytes of names and texts, got 65537");
    let fits = &half[..(32 << 10) - 2];
    assert_eq!(parameters(&format!(r#"{{"a":"{half}","b":"{fits}"}}"#)).parameters.len(), 2);
}
