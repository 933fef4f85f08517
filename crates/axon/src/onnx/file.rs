//! Reads the outline of a model file in safe Rust, and refuses what would harm, before ONNX Runtime sees it.
//!
//! What is checked: the file's size, how deep its messages nest, the nodes after inlining, that every tensor has exactly
//! the data that its shape and type take, that data in other files lies whole in regular files below the model's
//! folder, that names are short and printable, that inputs and outputs are of types that the protocol has. Whether the
//! graph makes sense is for ONNX Runtime to say.
//!
//! Weights are skipped, so that the cost grows with the graph alone. **Source:** onnx/onnx.proto3 (field numbers), the
//! protocol buffers encoding.

mod external;
mod inlined;
mod reader;
mod tensor;
mod value;
mod walk;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use reader::{Problem, Reader};
use walk::Walk;

/// The largest model file, in bytes: what a protocol buffer can be. Larger weights lie in files beside it.
const MAX_SIZE: u64 = (1 << 31) - 1;

/// The outline of a model file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFile {
    /// Bytes of the file; external data comes on top.
    pub size: u64,
    /// The version of the default operator set; 0 when the file names none.
    pub opset: u64,
    /// Who made the file, as it says itself.
    pub producer: String,
    /// True when an input or output has a dimension after the first that is not fixed.
    pub dynamic_rows: bool,
    /// Nodes, subgraphs included, once functions are put in the place of their calls.
    pub nodes: u64,
    /// Bytes of all tensors of the file and of the files beside it.
    pub initializer_bytes: u64,
    /// The files beside it that hold tensors.
    pub external: BTreeSet<PathBuf>,
}

/// The name of an ONNX element type, for messages. **Source:** onnx.proto3, `TensorProto.DataType`.
#[must_use]
pub fn element_type_name(number: u64) -> &'static str {
    const NAMES: [&str; 25] = [
        "undefined",
        "float",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "int32",
        "int64",
        "string",
        "bool",
        "float16",
        "double",
        "uint32",
        "uint64",
        "complex64",
        "complex128",
        "bfloat16",
        "float8e4m3fn",
        "float8e4m3fnuz",
        "float8e5m2",
        "float8e5m2fnuz",
        "uint4",
        "int4",
        "float4e2m1",
        "float8e8m0",
    ];
    usize::try_from(number).ok().and_then(|number| NAMES.get(number)).copied().unwrap_or("unknown")
}

/// Element types that the protocol has a name for. **Source:** as above.
const SERVABLE: [u64; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16];

/// A refusal that names its place.
fn refused(place: &str, problem: impl std::fmt::Display) -> Problem {
    Problem::Refused(Error::at(ErrorKind::InvalidModel, place.to_owned(), problem))
}

impl ModelFile {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`] when it cannot be read, is not an ONNX model, or is one that is not to be loaded; the
    /// field names the place.
    pub fn read(path: &Path) -> Result<Self> {
        let unreadable = |error: io::Error| {
            Error::new(ErrorKind::InvalidModel, format!("cannot read the model file: {error}"))
        };
        // Asked before it is opened: opening a pipe would wait for whoever writes it.
        if !path.metadata().map_err(unreadable)?.is_file() {
            return Err(Error::new(ErrorKind::InvalidModel, "expected a regular file"));
        }
        let file = File::open(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        Self::parse(file, size, path.parent())
    }

    /// Reads and checks a model in memory, which has no files beside it.
    ///
    /// # Errors
    /// As [`ModelFile::read`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::parse(io::Cursor::new(bytes), bytes.len() as u64, None)
    }

    /// Reads and checks the `size` bytes of `input`; `folder` is where its external data may lie, if anywhere.
    fn parse<R: Read + Seek>(input: R, size: u64, folder: Option<&Path>) -> Result<Self> {
        if size > MAX_SIZE {
            return Err(Error::new(
                ErrorKind::InvalidModel,
                format!(
                    "expected a model file of at most {MAX_SIZE} bytes, got {size}\nhint: keep the weights in external data"
                ),
            ));
        }
        Walk::new(size, folder).run(&mut Reader::new(input)).map_err(|problem| match problem {
            Problem::Refused(error) => error,
            Problem::Encoding(at) => Error::new(
                ErrorKind::InvalidModel,
                format!("not an ONNX protobuf: invalid encoding at byte {at}"),
            ),
        })
    }
}

#[cfg(test)]
mod tests;
