//! Compiles the protocol's messages; no `protoc` is needed.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message;

/// The protocol's JSON has the names of its messages: these are written as they are.
const IN_JSON: [&str; 10] = [
    "RepositoryIndexResponse.ModelIndex",
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
    let files = protox::compile(["inference.proto", "health.proto", "introspection.proto"], [&root])?;
    let output = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(output.join("services.binpb"), files.encode_to_vec())?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]);
    for message in IN_JSON {
        config.type_attribute(format!("inference.{message}"), "#[derive(serde::Serialize)]");
    }
    // What is not known is left out, as Triton does.
    for field in ["version", "state", "reason"] {
        config.field_attribute(
            format!("inference.RepositoryIndexResponse.ModelIndex.{field}"),
            "#[serde(skip_serializing_if = \"String::is_empty\")]",
        );
    }
    config.compile_fds(files)?;
    // Not a service: reflection does not tell of it.
    prost_build::Config::new().compile_fds(protox::compile(["metrics.proto"], [&root])?)?;
    // Sent to collectors, not served: reflection does not tell of it.
    config.compile_fds(protox::compile(["otlp.proto"], [&root])?)?;
    Ok(())
}
