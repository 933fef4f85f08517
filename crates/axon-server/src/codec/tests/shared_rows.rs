//! B-27 and B-87 to B-92: tensors in memory that the caller shares, with real objects.

use std::sync::atomic::{AtomicBool, Ordering};

use axon::request::{InferenceResponse, NamedTensor, Timing};
use axon::{DataType, ErrorKind, Result, Shape, Tensor};
use bytes::Bytes;

use super::encode;
use super::{assert_error, inputs};
use crate::codec::{DecodeOptions, Decoded, Encoded, Parsed, decode};
use crate::shared_memory::SharedMemory;
use crate::shared_memory::tests::Object;

const REGION: &str = "parameters.shared_memory_region";
const BYTE_SIZE: &str = "parameters.shared_memory_byte_size";
const OFFSET: &str = "parameters.shared_memory_offset";

/// A registry with the whole of `object` under the name `r`.
fn sharing(object: &Object) -> SharedMemory {
    let shared_memory = SharedMemory::new(true);
    let size = object.file.metadata().unwrap().len();
    shared_memory.register_system("r", &object.key, 0, size).unwrap();
    shared_memory
}

fn options(shared_memory: &SharedMemory) -> DecodeOptions<'_> {
    DecodeOptions { regions: shared_memory, shared_limit: 1 << 20, ..DecodeOptions::default() }
}

fn parse(body: &str, shared_memory: &SharedMemory) -> Result<Parsed> {
    decode(Bytes::copy_from_slice(body.as_bytes()), None, &options(shared_memory))
}

fn read(body: &str, shared_memory: &SharedMemory) -> Result<Decoded> {
    parse(body, shared_memory).and_then(Parsed::finish)
}

/// A request whose one input has these parameters.
fn input(datatype: &str, shape: &str, parameters: &str) -> String {
    format!(
        r#"{{"inputs":[{{"name":"a","datatype":"{datatype}","shape":{shape},"parameters":{{{parameters}}}}}]}}"#
    )
}

/// A request without inputs, whose outputs have these parameters.
fn outputs(parameters: &[&str]) -> String {
    let output = |parameters: &&str| format!(r#"{{"name":"y","parameters":{{{parameters}}}}}"#);
    format!(r#"{{"inputs":[],"outputs":[{}]}}"#, parameters.iter().map(output).collect::<Vec<_>>().join(","))
}

fn part(region: &str, byte_size: u64, offset: u64) -> String {
    format!(
        r#""shared_memory_region":"{region}","shared_memory_byte_size":{byte_size},"shared_memory_offset":{offset}"#
    )
}

fn check(body: &str, shared_memory: &SharedMemory, field: &str, text: &str) {
    let error = read(body, shared_memory).unwrap_err();
    assert_error(&error, ErrorKind::InvalidRequest, field, text, body);
}

#[test]
fn a_server_without_shared_memory_says_so_at_the_tensor() {
    let off = SharedMemory::new(false);
    let part = part("r", 12, 0);
    for (body, owner) in [(input("FP32", "[1,3]", &part), "inputs"), (outputs(&[&part]), "outputs")] {
        for options in [options(&off), DecodeOptions::default()] {
            let error = decode(Bytes::from(body.clone()), None, &options).unwrap_err();
            let field = format!("{owner}[0].{REGION}");
            assert_error(&error, ErrorKind::Unimplemented, &field, "--allow-client-shm", &body);
        }
    }
}

#[test]
fn b27_an_input_is_in_one_place() {
    let object = Object::new(12);
    let shared_memory = sharing(&object);
    let part = part("r", 12, 0);
    check(
        &input("FP32", "[1,3]", &format!(r#"{part},"binary_data_size":12"#)),
        &shared_memory,
        "inputs[0]",
        "got binary_data_size and shared_memory_region",
    );
    let both = format!(
        r#"{{"inputs":[{{"name":"a","datatype":"FP32","shape":[1,3],"data":[1,2,3],"parameters":{{{part}}}}}]}}"#
    );
    check(&both, &shared_memory, "inputs[0]", "got data and shared_memory_region");
    let check = |parameters: &str, member: &str, text: &str| {
        check(&input("FP32", "[1,3]", parameters), &shared_memory, &format!("inputs[0].{member}"), text);
        check(&outputs(&[parameters]), &shared_memory, &format!("outputs[0].{member}"), text);
    };
    check(r#""shared_memory_byte_size":12"#, REGION, "required");
    check(r#""shared_memory_offset":0"#, REGION, "required");
    check(r#""shared_memory_region":"r""#, BYTE_SIZE, "required");
    check(r#""shared_memory_region":5,"shared_memory_byte_size":12"#, REGION, "expected string, got number");
    check(r#""shared_memory_region":"r","shared_memory_byte_size":-1"#, BYTE_SIZE, "got `-1`");
    check(r#""shared_memory_region":"r","shared_memory_byte_size":"12""#, BYTE_SIZE, "got string");
    check(&format!(r#"{part},"shared_memory_offset":0"#), OFFSET, "duplicate key");
    check(&format!(r#"{part},"shared_memory_region":"r""#), REGION, "duplicate key");
}

#[test]
fn b87_a_part_lies_within_its_region() {
    let object = Object::new(64);
    let shared_memory = sharing(&object);
    let check = |region: &str, byte_size: u64, offset: u64, member: &str, text: &str| {
        let part = part(region, byte_size, offset);
        let shape = format!("[{byte_size}]");
        check(&input("UINT8", &shape, &part), &shared_memory, &format!("inputs[0].{member}"), text);
        check(&outputs(&[&part]), &shared_memory, &format!("outputs[0].{member}"), text);
    };
    check("nope", 8, 0, REGION, "expected the name of a registered region, got `nope`");
    check("", 8, 0, REGION, "got ``");
    check("r", 8, 64, OFFSET, "less than 64, the bytes of the region, got 64");
    check("r", 8, 65, OFFSET, "got 65");
    check("r", 8, u64::MAX, OFFSET, "got 18446744073709551615");
    check("r", 65, 0, BYTE_SIZE, "at most 64 bytes");
    check("r", 9, 56, BYTE_SIZE, "at most 8 bytes, which the region has from offset 56 on, got 9");
    check("r", i64::MAX as u64, 1, BYTE_SIZE, "at most 63 bytes");
    assert!(read(&input("UINT8", "[8]", &part("r", 8, 56)), &shared_memory).is_ok());
}

#[test]
fn b88_a_part_has_the_size_of_its_input() {
    let object = Object::new(64);
    let shared_memory = sharing(&object);
    let check = |shape: &str, byte_size: u64, text: &str| {
        let body = input("FP32", shape, &part("r", byte_size, 0));
        check(&body, &shared_memory, &format!("inputs[0].{BYTE_SIZE}"), text);
    };
    check("[1,3]", 11, "expected 12 bytes for FP32 [1, 3], got 11");
    check("[1,3]", 13, "got 13");
    check("[1,3]", 0, "got 0");
    check("[0,3]", 12, "expected 0 bytes");
    check("[2305843009213693952,2]", 64, "expected more than 2^63 bytes");
    assert!(read(&input("FP32", "[0,3]", &part("r", 0, 0)), &shared_memory).is_ok());
}

#[test]
fn an_input_is_copied_out_and_aligned() {
    let object = Object::of(&[&[7][..], &1.5_f32.to_le_bytes(), &(-2.0_f32).to_le_bytes()].concat());
    let shared_memory = sharing(&object);
    let parsed = parse(&input("FP32", "[1,2]", &part("r", 8, 1)), &shared_memory).unwrap();
    assert_eq!(parsed.shared_bytes(), 8);
    let tensor = inputs(parsed.finish().unwrap()).remove(0).tensor;
    object.file.set_len(0).unwrap();
    assert_eq!(tensor.as_slice::<f32>(), Some(&[1.5, -2.0][..]));
}

#[test]
fn inputs_from_all_places_keep_their_order() {
    let object = Object::of(&[1, 2, 3]);
    let shared_memory = sharing(&object);
    let input =
        |name: &str, rest: &str| format!(r#"{{"name":"{name}","datatype":"UINT8","shape":[1],{rest}}}"#);
    let shared = |offset| format!(r#""parameters":{{{}}}"#, part("r", 1, offset));
    let members = [
        input("a", &shared(2)),
        input("b", r#""data":[9]"#),
        input("c", &shared(0)),
        input("d", r#""parameters":{"binary_data_size":1}"#),
        input("e", &shared(1)),
    ];
    let json = format!(r#"{{"inputs":[{}]}}"#, members.join(","));
    let body = Bytes::from([json.as_bytes(), &[8]].concat());
    let parsed = decode(body, Some(json.len()), &options(&shared_memory)).unwrap();
    assert_eq!(parsed.shared_bytes(), 3);
    let named = inputs(parsed.finish().unwrap());
    let read: Vec<_> = named.iter().map(|one| (one.name.as_str(), one.tensor.memory()[0])).collect();
    assert_eq!(read, [("a", 3), ("b", 9), ("c", 1), ("d", 8), ("e", 2)]);
}

#[test]
fn bytes_and_booleans_are_checked_after_the_copy() {
    let object = Object::of(b"\x02\0\0\0ab\xff\0\0\0");
    let shared_memory = sharing(&object);
    let check = |datatype: &str, shape: &str, size: u64, offset: u64, text: &str| {
        check(&input(datatype, shape, &part("r", size, offset)), &shared_memory, "inputs[0]", text);
    };
    check("BYTES", "[2]", 10, 0, "element 1 length 255 > 0 left");
    check("BYTES", "[1]", 3, 0, "element 0 length cut");
    check("BYTES", "[3]", 6, 0, "expected 3 elements, got 1");
    check("BOOL", "[2]", 2, 0, "byte 0: BOOL must be 0/1");
    let body = input("BYTES", "[1]", &part("r", 6, 0));
    let tensor = inputs(read(&body, &shared_memory).unwrap()).remove(0).tensor;
    assert_eq!(tensor.elements().collect::<Vec<_>>(), [b"ab"]);
}

#[test]
fn the_inputs_of_a_request_are_bounded_whatever_their_regions_declare() {
    // Backed by no memory: a region costs its client nothing.
    let object = Object::new(1 << 40);
    let shared_memory = sharing(&object);
    let body = input("UINT8", "[1099511627776]", &part("r", 1 << 40, 0));
    let error = parse(&body, &shared_memory).unwrap_err();
    let field = format!("inputs[0].{BYTE_SIZE}");
    assert_error(&error, ErrorKind::RequestTooLarge, &field, "at most 1048576 bytes together", &body);
    let half = format!(
        r#"{{"name":"a","datatype":"UINT8","shape":[524289],"parameters":{{{}}}}}"#,
        part("r", 524_289, 0)
    );
    let body = format!(r#"{{"inputs":[{half},{half}]}}"#);
    let error = parse(&body, &shared_memory).unwrap_err();
    let field = format!("inputs[1].{BYTE_SIZE}");
    assert_error(&error, ErrorKind::RequestTooLarge, &field, "got 2 more", &body);
    assert!(parse(&outputs(&[&part("r", 1 << 40, 0)]), &shared_memory).is_ok());
}

#[test]
fn b91_a_region_that_shrinks_before_the_copy_is_the_callers_fault() {
    let object = Object::new(8192);
    let shared_memory = sharing(&object);
    let body = input("UINT8", "[8192]", &part("r", 8192, 0));
    let parsed = parse(&body, &shared_memory).unwrap();
    object.file.set_len(8191).unwrap();
    let error = parsed.finish().unwrap_err();
    let field = format!("inputs[0].{REGION}");
    assert_error(&error, ErrorKind::InvalidRequest, &field, "backing file shrank", &body);
    assert!(read(&input("UINT8", "[8191]", &part("r", 8191, 0)), &shared_memory).is_ok());
}

#[test]
fn b92_bytes_that_change_meanwhile_never_make_a_broken_tensor() {
    const ROUNDS: usize = 2000;
    // One element of 4 bytes, or of 255 bytes, or two of none: the client changes its mind all the time.
    let states: [&[u8]; 3] = [b"\x04\0\0\0\0\0\0\0", b"\xff\0\0\0\0\0\0\0", b"\0\0\0\0\0\0\0\0"];
    let object = Object::of(states[0]);
    let shared_memory = sharing(&object);
    let body = input("BYTES", "[1]", &part("r", 8, 0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for state in states.iter().cycle() {
                use std::os::unix::fs::FileExt;
                object.file.write_all_at(state, 0).unwrap();
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..ROUNDS {
            match read(&body, &shared_memory) {
                Ok(decoded) => {
                    let tensor = inputs(decoded).remove(0).tensor;
                    let shape = Shape::new(&[1]).unwrap();
                    assert!(Tensor::new(DataType::Bytes, shape, tensor.memory().clone()).is_ok());
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}"),
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

fn answer(body: &str, shared_memory: &SharedMemory, tensors: Vec<Tensor>) -> Result<Encoded> {
    let format = read(body, shared_memory).unwrap().format;
    let outputs = tensors.into_iter().map(|tensor| NamedTensor::new("y", tensor));
    let response = InferenceResponse {
        model: "m".to_owned(),
        version: 1,
        outputs: outputs.collect(),
        timing: Timing::default(),
    };
    encode(&response, None, &format)
}

fn bytes(elements: &[u8]) -> Tensor {
    Tensor::from_vec(&[elements.len()], elements.to_vec()).unwrap()
}

#[test]
fn outputs_go_where_the_request_says_and_the_answer_says_so() {
    let object = Object::new(16);
    let shared_memory = sharing(&object);
    let in_memory = format!(r#"{},"binary_data":false"#, part("r", 10, 4));
    let body = outputs(&[&in_memory, "", r#""binary_data":true"#]);
    let encoded = answer(&body, &shared_memory, vec![bytes(&[1, 2, 3]), bytes(&[4]), bytes(&[5])]).unwrap();
    assert_eq!(object.bytes(), [0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(encoded.header_length, Some(encoded.json.len()));
    assert_eq!(encoded.tensors.len(), 1);
    let json = String::from_utf8(encoded.json).unwrap();
    let expected = concat!(
        r#""outputs":[{"name":"y","datatype":"UINT8","shape":[3],"parameters":{"shared_memory_region":"r","#,
        r#""shared_memory_byte_size":3,"shared_memory_offset":4}},"#,
        r#"{"name":"y","datatype":"UINT8","shape":[1],"data":[4]},"#,
        r#"{"name":"y","datatype":"UINT8","shape":[1],"parameters":{"binary_data_size":1}}]}"#,
    );
    assert!(json.ends_with(expected), "{json}");
}

#[test]
fn what_goes_to_shared_memory_is_not_counted_as_text() {
    let object = Object::new(16);
    let shared_memory = sharing(&object);
    let format = read(&outputs(&[&part("r", 16, 0), ""]), &shared_memory).unwrap().format;
    let outputs = [bytes(&[1, 2, 3]), bytes(&[4, 5])].map(|tensor| NamedTensor::new("y", tensor));
    let response = InferenceResponse {
        model: "m".to_owned(),
        version: 1,
        outputs: outputs.to_vec(),
        timing: Timing::default(),
    };
    assert_eq!((format.shared_bytes(&response), format.text_bytes(&response)), (3, 2));
}

#[test]
fn every_data_type_passes_through_shared_memory() {
    let object = Object::new(64);
    let shared_memory = sharing(&object);
    let pattern: Vec<u8> = (0..16).map(|byte| byte % 2).collect();
    for datatype in DataType::ALL {
        let tensor = match datatype.size() {
            None => Tensor::from_elements(&[2], &[&b"\xff\0"[..], b""]).unwrap(),
            Some(size) => {
                let shape = Shape::new(&[2]).unwrap();
                Tensor::new(datatype, shape, pattern[..2 * size].to_vec().into()).unwrap()
            }
        };
        let size = tensor.memory().len() as u64;
        answer(&outputs(&[&part("r", 32, 32)]), &shared_memory, vec![tensor.clone()]).unwrap();
        let body = input(datatype.name(), "[2]", &part("r", size, 32));
        assert_eq!(inputs(read(&body, &shared_memory).unwrap()).remove(0).tensor, tensor);
    }
}

#[test]
fn b88_nothing_is_written_when_an_output_has_no_room() {
    let object = Object::new(16);
    let shared_memory = sharing(&object);
    let body = outputs(&[&part("r", 4, 0), &part("r", 3, 8)]);
    let error = answer(&body, &shared_memory, vec![bytes(&[1; 4]), bytes(&[2; 4])]).unwrap_err();
    let field = format!("outputs[1].{BYTE_SIZE}");
    let text = "expected at least 4 bytes, which UINT8 [4] needs, got 3";
    assert_error(&error, ErrorKind::InvalidRequest, &field, text, &body);
    assert_eq!(object.bytes(), [0; 16]);
}

#[test]
fn nothing_is_written_when_another_output_cannot_be() {
    let object = Object::new(16);
    let shared_memory = sharing(&object);
    let body = outputs(&[&part("r", 4, 0), ""]);
    let unwritable = Tensor::from_vec(&[1], vec![f32::NAN]).unwrap();
    let error = answer(&body, &shared_memory, vec![bytes(&[1; 4]), unwritable]).unwrap_err();
    assert_eq!(error.field(), Some("outputs[1].data[0]"));
    assert_eq!(object.bytes(), [0; 16]);
}

#[test]
fn b91_a_region_that_shrinks_before_the_answer_is_the_callers_fault() {
    let object = Object::new(8192);
    let shared_memory = sharing(&object);
    let body = outputs(&[&part("r", 4096, 4096)]);
    let format = read(&body, &shared_memory).unwrap().format;
    // Unregistering while the request runs takes nothing from it.
    shared_memory.unregister_system(None).unwrap();
    let response = InferenceResponse {
        model: "m".to_owned(),
        version: 1,
        outputs: vec![NamedTensor::new("y", bytes(&[1; 4096]))],
        timing: Timing::default(),
    };
    encode(&response, None, &format).unwrap();
    assert_eq!(object.bytes()[4096..], [1; 4096]);
    object.file.set_len(4096).unwrap();
    let error = encode(&response, None, &format).unwrap_err();
    let field = format!("outputs[0].{REGION}");
    assert_error(&error, ErrorKind::InvalidRequest, &field, "backing file shrank", &body);
    assert_eq!(object.bytes().len(), 4096);
}

#[test]
fn an_output_in_shared_memory_is_neither_binary_nor_classes() {
    let object = Object::new(16);
    let shared_memory = sharing(&object);
    let part = part("r", 16, 0);
    for (other, text) in [
        (r#""binary_data":true"#, "shared_memory_region and binary_data, got both"),
        (r#""classification":1"#, "shared_memory_region and classification, got both"),
    ] {
        let body = outputs(&["", &format!("{part},{other}")]);
        check(&body, &shared_memory, "outputs[1]", text);
    }
}
