//! Compiles the protocol's messages and services; no `protoc` is needed.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message;

/// The field names of the protocol's JSON are those of its messages.
const JSON: &str = "#[derive(serde::Serialize)]";

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = protox::compile(["inference.proto"], [&root])?;
    let output = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(output.join("inference.binpb"), files.encode_to_vec())?;
    let mut builder = tonic_prost_build::configure().build_client(false).bytes(".");
    for message in ["ModelStatistics", "InferStatistics", "StatisticDuration", "InferBatchStatistics"] {
        builder = builder.type_attribute(format!("inference.{message}"), JSON);
    }
    builder.compile_fds(files)?;
    Ok(())
}
