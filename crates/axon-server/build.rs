//! Compiles the protocol's messages; no `protoc` is needed.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message;

/// The protocol's JSON has the names of its messages: these are written as they are.
const IN_JSON: [&str; 9] = [
    "ServerMetadataResponse",
    "ModelMetadataResponse",
    "ModelMetadataResponse.TensorMetadata",
    "ModelStatistics",
    "InferStatistics",
    "StatisticDuration",
    "InferBatchStatistics",
    "InferResponseStatistics",
    "MemoryUsage",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = protox::compile(["inference.proto", "health.proto"], [&root])?;
    let output = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(output.join("services.binpb"), files.encode_to_vec())?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]);
    for message in IN_JSON {
        config.type_attribute(format!("inference.{message}"), "#[derive(serde::Serialize)]");
    }
    config.compile_fds(files)?;
    Ok(())
}
