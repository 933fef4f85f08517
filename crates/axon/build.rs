//! Compiles the description of Triton's model configuration; no `protoc` is needed.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.join("model_config.proto").display());
    let files = protox::compile(["model_config.proto"], [&root])?;
    let output = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(output.join("model_config.binpb"), files.encode_to_vec())?;
    Ok(())
}
