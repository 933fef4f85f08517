//! Bodies broken at random: no panic, no tensor that breaks its own promises, no error without a field.

use axon::signature::TensorSpec;
use axon::{DataType, Tensor};
use bytes::Bytes;

use super::{inputs, spec};
use crate::codec::{self, DecodeOptions, Decoded, Parsed, decode_content, decode_raw, parse_header_length};
use crate::shared_memory::SharedMemory;
use crate::shared_memory::tests::Object;

/// A generator of numbers that only the seed decides. **Source:** Marsaglia, "Xorshift RNGs".
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn half_word(&mut self) -> u32 {
        (self.word() >> 32) as u32
    }

    pub fn byte(&mut self) -> u8 {
        (self.word() >> 56) as u8
    }

    /// A number less than `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.word() >> 11) as usize % end.max(1)
    }
}

/// The bytes of the region `r`.
const REGION: usize = 64;

/// Good bodies, each with the length of its JSON part.
fn seeds() -> Vec<(Vec<u8>, Option<usize>)> {
    let json = [
        r#"{"id":"é-1","inputs":[{"name":"INPUT0","datatype":"FP32","shape":[2,3],"data":[[1,2.5,-3e2],[0.1,4,5]]}]}"#,
        r#"{"inputs":[{"data":["a","\u00e9\ud83d\ude00",""],"name":"s","shape":[3],"datatype":"BYTES"}],"x":[{"y":null}]}"#,
        r#"{"inputs":[{"name":"b","datatype":"BOOL","shape":[2],"data":[true,false]},{"name":"i","datatype":"INT64","shape":[],"data":[9007199254740993]}]}"#,
        r#"{"parameters":{"timeout":1000,"sequence_id":5,"sequence_start":true,"priority":2,"k":"v","binary_data_output":true},"inputs":[],"outputs":[{"name":"y","parameters":{"classification":3,"binary_data":true}}]}"#,
        r#"{"inputs":[{"name":"h","datatype":"FP16","shape":[1,1,2],"data":[[[1.5,65504]]]},{"name":"u","datatype":"UINT8","shape":[0],"data":[]}]}"#,
    ];
    let shared = r#"{"inputs":[{"name":"a","datatype":"FP32","shape":[1,2],"parameters":{"shared_memory_region":"r","shared_memory_byte_size":8,"shared_memory_offset":3}}],"outputs":[{"name":"y","parameters":{"shared_memory_region":"r","shared_memory_byte_size":64}}]}"#;
    let binary = r#"{"inputs":[{"name":"a","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}},{"name":"b","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":11}},{"name":"c","datatype":"BOOL","shape":[2],"parameters":{"binary_data_size":2}}]}"#;
    let tensors = b"\0\0\x80\x3f\0\0\0\x40\x03\0\0\0abc\0\0\0\0\x01\0";
    let mut seeds: Vec<_> = json.iter().map(|json| (json.as_bytes().to_vec(), None)).collect();
    seeds.push(([binary.as_bytes(), tensors].concat(), Some(binary.len())));
    seeds.push((shared.as_bytes().to_vec(), None));
    seeds
}

/// Changes a few places of `body`.
fn mutate(random: &mut Random, body: &mut Vec<u8>) {
    const TOKENS: [&str; 27] = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\ud800",
        "NaN",
        "-Infinity",
        "null",
        "true",
        "-",
        "1e400",
        "0",
        "18446744073709551616",
        "9223372036854775807",
        "1.5",
        "\0",
        "\u{ff}",
        "\"data\":",
        "\"shape\":",
        "[[[[[[[[",
        "]]]]]]]]",
        "\"BYTES\"",
        "\"shared_memory_region\":",
    ];
    for _ in 0..=random.below(4) {
        let at = random.below(body.len() + 1);
        let end = (at + random.below(12)).min(body.len());
        match random.below(7) {
            0 => body.truncate(at),
            1 => drop(body.drain(at..end)),
            2 => drop(body.splice(at..at, TOKENS[random.below(TOKENS.len())].bytes())),
            3 => drop(body.splice(at..end, TOKENS[random.below(TOKENS.len())].bytes())),
            4 => {
                let copy = body[at..end].to_vec();
                let to = random.below(body.len() + 1);
                drop(body.splice(to..to, copy));
            }
            _ => {
                if let Some(byte) = body.get_mut(at) {
                    *byte = if random.below(2) == 0 { random.byte() } else { *byte ^ (1 << random.below(8)) };
                }
            }
        }
    }
}

/// What the codec lets through is what it says it is.
fn assert_sound(decoded: Decoded, length: usize) {
    for named in inputs(decoded) {
        let tensor = named.tensor;
        assert!((1..=1024).contains(&named.name.len()) || named.name.is_empty());
        let again = Tensor::new(tensor.datatype(), tensor.shape().clone(), tensor.memory().clone());
        assert_eq!(again.unwrap(), tensor);
        assert!(tensor.memory().len() <= length.saturating_mul(8) + REGION);
    }
}

fn specs(random: &mut Random) -> Vec<TensorSpec> {
    let datatype = DataType::ALL[random.below(DataType::ALL.len())];
    let dimensions: Vec<i64> = (0..random.below(4)).map(|_| [-1, 0, 1, 3][random.below(4)]).collect();
    vec![spec("a", datatype, &dimensions)]
}

#[test]
fn broken_bodies_never_panic() {
    const ROUNDS: usize = 20_000;
    let mut random = Random::new(2026);
    let seeds = seeds();
    let object = Object::new(REGION as u64);
    let shared_memory = SharedMemory::new(true);
    shared_memory.register_system("r", &object.key, 0, REGION as u64).unwrap();
    let options = DecodeOptions { regions: &shared_memory, ..DecodeOptions::default() };
    let decode = |body, length| codec::decode(body, length, &options).and_then(Parsed::finish);
    for (body, length) in &seeds {
        let whole = body.len();
        assert_sound(decode(body.clone().into(), *length).unwrap(), whole);
    }
    let mut accepted = 0;
    for _ in 0..ROUNDS {
        let (seed, length) = &seeds[random.below(seeds.len())];
        let mut body = seed.clone();
        mutate(&mut random, &mut body);
        let length = match random.below(8) {
            0 => Some(random.below(body.len() + 2)),
            1 => None,
            _ => *length,
        };
        let body = Bytes::from(body);
        match decode(body.clone(), length) {
            Ok(decoded) => {
                accepted += 1;
                assert_sound(decoded, body.len());
            }
            Err(error) => {
                assert!(error.field().is_some_and(|field| !field.is_empty() && field.len() < 256), "{error}");
                assert!(error.message().len() <= 1024);
            }
        }
        if let Ok(decoded) = decode_raw(body.clone(), &specs(&mut random)) {
            assert_sound(decoded, body.len());
        }
        let _ = parse_header_length(&body, body.len());
        let _ = decode_content(body, if random.below(2) == 0 { "gzip" } else { "deflate" }, 1 << 20);
    }
    assert!((ROUNDS / 100..ROUNDS / 2).contains(&accepted), "{accepted} of {ROUNDS} bodies were accepted");
}
