//! Reads the outline of a model file in safe Rust, before ONNX Runtime sees it.
//!
//! Only the fields that decide how the model is loaded are read; weights are skipped, so that the cost does not grow
//! with the file. **Source:** onnx/onnx.proto3 (field numbers), the protocol buffers encoding.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// The largest nested message that is read rather than skipped, in bytes: a `ValueInfoProto` with 32 named dimensions
/// is a few kilobytes.
const MAX_MESSAGE: u64 = 1 << 20;

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

impl ModelFile {
    /// Reads the outline of the file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`] when it cannot be read, is not an ONNX model, or has an input or output of an
    /// element type that the protocol does not have.
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
        Self::parse(BufReader::new(file), size)
    }

    fn parse<R: Read + Seek>(input: R, size: u64) -> Result<Self> {
        let mut outline = Self { size, ..Self::default() };
        let mut reader = Reader { input, position: 0 };
        let mut graph = false;
        let not_onnx = |problem: Problem| match problem {
            Problem::Refused(error) => error,
            Problem::Encoding(at) => Error::new(
                ErrorKind::InvalidModel,
                format!("not an ONNX protobuf: invalid encoding at byte {at}"),
            ),
        };
        while reader.position < size {
            let field = reader.field(size).map_err(not_onnx)?;
            match field {
                Field { number: 7, length: Some(length), .. } => {
                    graph = true;
                    let end = reader.position + length;
                    outline.read_graph(&mut reader, end).map_err(not_onnx)?;
                }
                Field { number: 8, length: Some(length), .. } => {
                    let bytes = reader.bytes(length).map_err(not_onnx)?;
                    if let Some(opset) = default_opset(&bytes) {
                        outline.opset = opset;
                    }
                }
                Field { number: 2, length: Some(length), .. } => {
                    let bytes = reader.bytes(length).map_err(not_onnx)?;
                    outline.producer = String::from_utf8_lossy(&bytes).chars().take(64).collect();
                }
                Field { length: Some(length), .. } => reader.skip(length).map_err(not_onnx)?,
                Field { .. } => {}
            }
        }
        if graph {
            Ok(outline)
        } else {
            Err(Error::new(ErrorKind::InvalidModel, "not an ONNX protobuf: no graph"))
        }
    }

    /// `GraphProto`: `initializer` 5, `input` 11, `output` 12.
    fn read_graph<R: Read + Seek>(&mut self, reader: &mut Reader<R>, end: u64) -> Result<(), Problem> {
        let mut infos = Vec::new();
        let mut initializers = BTreeSet::new();
        while reader.position < end {
            match reader.field(end)? {
                Field { number: number @ (11 | 12), length: Some(length), .. } => {
                    let bytes = reader.bytes(length)?;
                    infos.push((number == 11, ValueInfo::read(&bytes)));
                }
                Field { number: 5, length: Some(length), .. } => {
                    let end = reader.position + length;
                    if let Some(name) = reader.tensor_name(end)? {
                        initializers.insert(name);
                    }
                }
                Field { length: Some(length), .. } => reader.skip(length)?,
                Field { .. } => {}
            }
        }
        for (is_input, info) in infos {
            // Old files list initializers among the inputs; they are not inputs of a request.
            if is_input && initializers.contains(&info.name) {
                continue;
            }
            if let Some(element) = info.element.filter(|element| !SERVABLE.contains(element)) {
                let side = if is_input { "input" } else { "output" };
                let name = String::from_utf8_lossy(&info.name).into_owned();
                return Err(Problem::Refused(Error::at(
                    ErrorKind::InvalidModel,
                    format!("{side} {}", crate::error::Echo(&name)),
                    format_args!("element type {} has no name in the protocol", element_type_name(element)),
                )));
            }
            self.dynamic_rows |= info.dynamic_rows;
        }
        Ok(())
    }
}

/// Why a file is refused.
enum Problem {
    Encoding(u64),
    Refused(Error),
}

/// A field's number, and its length when it is a nested message, string or bytes.
struct Field {
    number: u64,
    length: Option<u64>,
    value: u64,
}

struct Reader<R> {
    input: R,
    position: u64,
}

impl<R: Read + Seek> Reader<R> {
    fn byte(&mut self) -> Result<u8, Problem> {
        let mut byte = [0];
        self.input.read_exact(&mut byte).map_err(|_| Problem::Encoding(self.position))?;
        self.position += 1;
        Ok(byte[0])
    }

    fn varint(&mut self) -> Result<u64, Problem> {
        let start = self.position;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Problem::Encoding(start))
    }

    /// The next field of a message that ends at `end`; the value of a nested one is left to be read or skipped.
    fn field(&mut self, end: u64) -> Result<Field, Problem> {
        let start = self.position;
        let tag = self.varint()?;
        let mut field = Field { number: tag >> 3, length: None, value: 0 };
        match tag & 7 {
            0 => field.value = self.varint()?,
            1 => self.skip(8)?,
            2 => field.length = Some(self.varint()?),
            5 => self.skip(4)?,
            _ => return Err(Problem::Encoding(start)),
        }
        let field_end = self.position.checked_add(field.length.unwrap_or(0));
        if field.number == 0 || field_end.is_none_or(|field_end| field_end > end) {
            return Err(Problem::Encoding(start));
        }
        Ok(field)
    }

    fn skip(&mut self, length: u64) -> Result<(), Problem> {
        let problem = Problem::Encoding(self.position);
        let Ok(offset) = i64::try_from(length) else { return Err(problem) };
        if offset > 64 {
            // Seeking drops the read buffer, so short skips read through it.
            self.input.seek(SeekFrom::Current(offset)).map_err(|_| problem)?;
        } else {
            let mut scratch = [0; 64];
            let part = scratch.get_mut(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
            self.input.read_exact(part).map_err(|_| problem)?;
        }
        self.position += length;
        Ok(())
    }

    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, Problem> {
        let start = self.position;
        let Some(size) = usize::try_from(length).ok().filter(|_| length <= MAX_MESSAGE) else {
            return Err(Problem::Encoding(start));
        };
        let mut bytes = vec![0; size];
        self.input.read_exact(&mut bytes).map_err(|_| Problem::Encoding(start))?;
        self.position += length;
        Ok(bytes)
    }

    /// The name of the `TensorProto` (field 8) that ends at `end`; its data is skipped.
    fn tensor_name(&mut self, end: u64) -> Result<Option<Vec<u8>>, Problem> {
        let mut name = None;
        while self.position < end {
            match self.field(end)? {
                Field { number: 8, length: Some(length), .. } => name = Some(self.bytes(length)?),
                Field { length: Some(length), .. } => self.skip(length)?,
                Field { .. } => {}
            }
        }
        Ok(name)
    }
}

/// The fields of a message in memory; ends at the first that is broken, which ONNX Runtime then refuses.
fn fields(bytes: &[u8]) -> impl Iterator<Item = (u64, u64, &[u8])> {
    let mut reader = Reader { input: io::Cursor::new(bytes), position: 0 };
    let end = bytes.len() as u64;
    std::iter::from_fn(move || {
        if reader.position >= end {
            return None;
        }
        let field = reader.field(end).ok()?;
        let length = usize::try_from(field.length.unwrap_or(0)).ok()?;
        let start = usize::try_from(reader.position).ok()?;
        reader.skip(field.length.unwrap_or(0)).ok()?;
        Some((field.number, field.value, bytes.get(start..start.checked_add(length)?)?))
    })
}

fn nested(bytes: &[u8], number: u64) -> Option<&[u8]> {
    fields(bytes).find(|&(found, _, _)| found == number).map(|(_, _, bytes)| bytes)
}

/// `OperatorSetIdProto`: `domain` 1, `version` 2; the default domain is empty or `ai.onnx`.
fn default_opset(bytes: &[u8]) -> Option<u64> {
    let domain = nested(bytes, 1).unwrap_or_default();
    if !(domain.is_empty() || domain == b"ai.onnx") {
        return None;
    }
    fields(bytes).find(|&(number, _, _)| number == 2).map(|(_, version, _)| version)
}

struct ValueInfo {
    name: Vec<u8>,
    /// `None` when it is not a tensor; ONNX Runtime's own description decides then.
    element: Option<u64>,
    dynamic_rows: bool,
}

impl ValueInfo {
    /// `ValueInfoProto`: `name` 1, `type` 2; `TypeProto`: `tensor_type` 1; `TypeProto.Tensor`: `elem_type` 1, `shape` 2;
    /// `TensorShapeProto`: `dim` 1; `Dimension`: `dim_value` 1.
    fn read(bytes: &[u8]) -> Self {
        let name = nested(bytes, 1).unwrap_or_default().to_vec();
        let tensor = nested(bytes, 2).and_then(|kind| nested(kind, 1));
        let Some(tensor) = tensor else { return Self { name, element: None, dynamic_rows: true } };
        let element = fields(tensor).find(|&(number, _, _)| number == 1).map(|(_, value, _)| value);
        let dynamic_rows = nested(tensor, 2).is_none_or(|shape| {
            let dimensions =
                fields(shape).filter(|&(number, _, _)| number == 1).map(|(_, _, dimension)| dimension);
            let is_fixed = |dimension| fields(dimension).any(|(number, _, _)| number == 1);
            dimensions.skip(1).any(|dimension| !is_fixed(dimension))
        });
        Self { name, element, dynamic_rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<ModelFile> {
        ModelFile::parse(io::Cursor::new(bytes), bytes.len() as u64)
    }

    /// A field that holds bytes.
    fn message(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        field.extend_from_slice(bytes);
        field
    }

    fn number(field: u8, value: u8) -> Vec<u8> {
        vec![field << 3, value]
    }

    /// An input or output of an element type and dimensions; 0 is a dynamic one.
    fn info(field: u8, element: u8, dimensions: &[u8]) -> Vec<u8> {
        let dimension = |&size: &u8| message(1, &if size == 0 { message(2, b"n") } else { number(1, size) });
        let shape: Vec<u8> = dimensions.iter().flat_map(dimension).collect();
        let tensor = [number(1, element), message(2, &shape)].concat();
        message(field, &[message(1, b"x"), message(2, &message(1, &tensor))].concat())
    }

    #[test]
    fn the_outline_is_read() {
        let graph = [message(5, &message(8, b"w")), info(11, 1, &[0, 3]), info(12, 7, &[0])].concat();
        let model =
            [number(1, 8), message(2, b"me"), message(7, &graph), message(8, &number(2, 17))].concat();
        let outline = parse(&model).unwrap();
        assert_eq!((outline.opset, outline.producer.as_str(), outline.dynamic_rows), (17, "me", false));
        let dynamic = message(7, &info(11, 1, &[0, 0]));
        assert!(parse(&dynamic).unwrap().dynamic_rows);
    }

    #[test]
    fn an_element_type_without_a_name_is_refused() {
        let error = parse(&message(7, &info(12, 23, &[1]))).unwrap_err();
        assert_eq!(error.message(), "output `x`: element type float4e2m1 has no name in the protocol");
    }

    #[test]
    fn what_is_not_a_model_is_refused() {
        for bytes in
            [&b""[..], b"hello world", b"PK\x03\x04", b"\x80\x04K\x01.", &[0xff; 64], &message(7, b"")[..1]]
        {
            let error = parse(bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidModel);
            assert!(error.message().starts_with("not an ONNX protobuf"), "{error}");
        }
    }
}
