//! What the codec costs by itself: nanoseconds for each number of a JSON body, read and written, and the rate at which a
//! binary tensor is read beside that of a plain copy. Medians of several runs, one line of JSON for each.

use std::hint::black_box;
use std::time::Instant;

use axon::request::{InferenceResponse, Inputs, NamedTensor, Timing};
use axon::{DataType, Tensor};
use axon_server::codec::{self, DecodeOptions, OutputFormat, Parsed};
use bytes::Bytes;
use serde_json::json;

use crate::window::Result;

/// Numbers of one body.
const NUMBERS: usize = 200_000;

const RUNS: usize = 15;

/// Bytes of the binary tensor: larger than the caches.
const BINARY: usize = 64 << 20;

/// Measures all of it.
pub fn measure() -> Result<()> {
    // Seven significant digits, as a model's outputs have; whole numbers for the integers.
    let digits = |index: usize| (index as u64).wrapping_mul(2_654_435_761) % 9_999_999;
    for datatype in [
        DataType::Fp32,
        DataType::Fp64,
        DataType::Fp16,
        DataType::Bf16,
        DataType::Int64,
        DataType::Int32,
        DataType::Uint8,
    ] {
        let number = |index: usize| match datatype {
            DataType::Fp32 | DataType::Fp64 => format!("0.{:07}", digits(index)),
            DataType::Fp16 | DataType::Bf16 => format!("{}.5", digits(index) % 100),
            DataType::Uint8 => (digits(index) % 256).to_string(),
            _ => digits(index).to_string(),
        };
        let data: Vec<String> = (0..NUMBERS).map(number).collect();
        let body = format!(
            r#"{{"inputs":[{{"name":"x","datatype":"{}","shape":[{NUMBERS}],"data":[{}]}}]}}"#,
            datatype.name(),
            data.join(",")
        );
        let body = Bytes::from(body);
        let read = median(|| decode(&body, None).map(|tensor| drop(black_box(tensor))))?;
        let response = response(decode(&body, None)?);
        let format = OutputFormat::default();
        let written = median(|| {
            codec::encode(&response, None, &format, &|_| None).map(|encoded| drop(black_box(encoded)))?;
            Ok(())
        })?;
        let each = |nanoseconds: f64| nanoseconds / NUMBERS as f64;
        println!(
            "{}",
            json!({ "datatype": datatype.name(), "read_ns": each(read), "written_ns": each(written) })
        );
    }
    let head = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[{}],"parameters":{{"binary_data_size":{BINARY}}}}}]}}"#,
        BINARY / 4
    );
    let source = vec![1_u8; BINARY];
    let body = Bytes::from([head.as_bytes(), &source].concat());
    let read = median(|| decode(&body, Some(head.len())).map(|tensor| drop(black_box(tensor))))?;
    let copied = median(|| {
        drop(black_box(source.clone()));
        Ok(())
    })?;
    println!("{}", json!({ "binary_bytes": BINARY, "read_ns": read, "plain_copy_ns": copied }));
    Ok(())
}

fn decode(body: &Bytes, header_length: Option<usize>) -> Result<Tensor> {
    let parsed = codec::decode(body.clone(), header_length, &DecodeOptions::default())?;
    match Parsed::finish(parsed)?.inputs {
        Inputs::One(tensor) => Ok(tensor),
        Inputs::Named(mut named) => Ok(named.pop().ok_or("the body has an input")?.tensor),
    }
}

fn response(tensor: Tensor) -> InferenceResponse {
    let outputs = vec![NamedTensor::new("y", tensor)];
    InferenceResponse { model: "m".to_owned(), version: 1, outputs, timing: Timing::default() }
}

fn median(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let started = Instant::now();
        run()?;
        times.push(started.elapsed().as_nanos() as f64);
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}
