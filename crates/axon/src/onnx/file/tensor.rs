//! What a tensor in a model file says of itself: its shape and type must take exactly the data that it has.
//!
//! **Source:** onnx.proto3, `TensorProto`: which field holds the data of which type, and how small types are packed.

use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use super::external::External;
use super::reader::{Field, Problem, Reader, nested};
use super::{element_type_name, refused};

/// The most dimensions of a tensor.
const MAX_RANK: usize = 64;

/// The most bytes of a sparse tensor when it is written out, which ONNX Runtime does: no data of the file stands
/// against them.
const MAX_DENSE: u64 = 1 << 30;

/// A tensor that is being read.
#[derive(Default)]
pub(super) struct Tensor {
    pub name: Vec<u8>,
    element: u64,
    dimensions: Vec<u64>,
    raw: Option<u64>,
    /// Elements of the typed fields: floats, 32-bit and smaller integers, strings, 64-bit integers, doubles, unsigned.
    typed: [u64; 6],
    external: Option<External>,
    is_external: bool,
    has_segment: bool,
}

/// What a tensor takes.
pub(super) struct Checked {
    /// Bytes of its data; 0 for strings, which are counted one by one.
    pub bytes: u64,
    /// The file that holds it.
    pub file: Option<PathBuf>,
}

const STRING: u64 = 8;

/// The bits of an element; `None` for one of no fixed size or of no known type.
fn bits(element: u64) -> Option<u64> {
    Some(match element {
        2 | 3 | 9 | 17..=20 | 24 => 8,
        4 | 5 | 10 | 16 => 16,
        1 | 6 | 12 => 32,
        7 | 11 | 13 | 14 => 64,
        15 => 128,
        21..=23 => 4,
        25 | 26 => 2,
        _ => return None,
    })
}

/// The product of dimensions; `None` when one is negative or it does not fit.
fn product(dimensions: &[u64]) -> Option<u64> {
    if dimensions.iter().any(|&size| i64::try_from(size).is_err()) {
        return None;
    }
    // Checked without the zeros: what is empty by one of them is no excuse for the others.
    let checked =
        dimensions.iter().filter(|&&size| size > 0).try_fold(1_u64, |all, &size| all.checked_mul(size));
    checked.map(|all| if dimensions.contains(&0) { 0 } else { all })
}

fn shape(dimensions: &[u64]) -> String {
    let sizes: Vec<String> = dimensions.iter().map(|&size| size.cast_signed().to_string()).collect();
    format!("[{}]", sizes.join(", "))
}

/// Reads a repeated number that is packed or not.
fn numbers<R: Read + Seek>(
    reader: &mut Reader<R>,
    field: Field,
    numbers: &mut Vec<u64>,
) -> Result<(), Problem> {
    let end = reader.position + field.length.unwrap_or(0);
    if field.length.is_none() {
        numbers.push(field.value);
    }
    while reader.position < end && numbers.len() <= MAX_RANK {
        numbers.push(reader.varint()?);
    }
    if numbers.len() > MAX_RANK {
        return Err(refused("tensor.dims", format_args!("expected at most {MAX_RANK} dimensions, got more")));
    }
    if reader.position > end && field.length.is_some() {
        return Err(Problem::Encoding(end));
    }
    Ok(())
}

impl Tensor {
    /// Takes the next field.
    pub fn step<R: Read + Seek>(&mut self, reader: &mut Reader<R>, field: Field) -> Result<(), Problem> {
        let length = field.length.unwrap_or(0);
        match field.number {
            1 => return numbers(reader, field, &mut self.dimensions),
            2 => self.element = field.value,
            3 => self.has_segment = true,
            8 => {
                self.name = reader.bytes(length)?;
                return Ok(());
            }
            9 => self.raw = Some(length),
            4 => self.count(0, if field.length.is_some() { length / 4 } else { 1 }),
            6 => self.count(2, 1),
            10 => self.count(4, if field.length.is_some() { length / 8 } else { 1 }),
            5 | 7 | 11 => {
                let slot = match field.number {
                    5 => 1,
                    7 => 3,
                    _ => 5,
                };
                let count = if field.length.is_some() { reader.count_varints(length)? } else { 1 };
                self.count(slot, count);
                return Ok(());
            }
            13 => {
                let entry = reader.bytes(length)?;
                let external = self.external.get_or_insert_default();
                external.enter(nested(&entry, 1).unwrap_or_default(), nested(&entry, 2).unwrap_or_default());
                return Ok(());
            }
            14 => self.is_external = field.value == 1,
            _ => {}
        }
        reader.skip(length)
    }

    fn count(&mut self, slot: usize, count: u64) {
        if let Some(held) = self.typed.get_mut(slot) {
            *held = held.saturating_add(count);
        }
    }

    /// The field of typed data for its type, and the values that it holds for `elements` elements.
    fn expected_typed(&self, elements: u64) -> (u64, u64) {
        let slot = match self.element {
            1 | 14 => 0,
            STRING => 2,
            7 => 3,
            11 | 15 => 4,
            12 | 13 => 5,
            _ => 1,
        };
        let values = match self.element {
            14 | 15 => elements.saturating_mul(2),
            21..=23 => elements.div_ceil(2),
            25 | 26 => elements.div_ceil(4),
            _ => elements,
        };
        (self.typed.get(slot).copied().unwrap_or(0), values)
    }

    /// Checks the whole tensor; `folder` is where its data may lie.
    pub fn check(&self, folder: Option<&Path>, place: &str) -> Result<Checked, Problem> {
        let refuse = |problem: String| Err(refused(place, problem));
        if self.has_segment {
            return refuse("expected a whole tensor, got a segment of one".to_owned());
        }
        let element = element_type_name(self.element);
        let Some(elements) = product(&self.dimensions) else {
            return refuse(format!(
                "expected dimensions of at least 0 whose product fits 64 bits, got {}",
                shape(&self.dimensions)
            ));
        };
        let bits = bits(self.element);
        if bits.is_none() && self.element != STRING {
            return refuse(format!("expected a known element type, got {} ({element})", self.element));
        }
        let bytes = match bits.map(|bits| elements.checked_mul(bits)) {
            None => 0,
            Some(Some(bits)) => bits.div_ceil(8),
            Some(None) => {
                return refuse(format!(
                    "expected a tensor that fits memory, got {element} {}",
                    shape(&self.dimensions)
                ));
            }
        };
        if self.is_external || self.external.is_some() {
            if self.element == STRING {
                return refuse("expected strings in the model file, got external data".to_owned());
            }
            let file = self.external.clone().unwrap_or_default().check(folder, bytes);
            return match file {
                Ok(file) => Ok(Checked { bytes, file: Some(file) }),
                Err((key, problem)) => Err(refused(&format!("{place}.external_data.{key}"), problem)),
            };
        }
        let described = || format!("{element} {}", shape(&self.dimensions));
        match self.raw {
            Some(_) if self.element == STRING => {
                refuse("expected strings one by one, got raw data".to_owned())
            }
            Some(raw) if raw != bytes => {
                refuse(format!("expected {bytes} bytes for {}, got {raw}", described()))
            }
            Some(_) => Ok(Checked { bytes, file: None }),
            None => {
                let (got, expected) = self.expected_typed(elements);
                if got != expected {
                    return refuse(format!("expected {expected} values for {}, got {got}", described()));
                }
                Ok(Checked { bytes, file: None })
            }
        }
    }
}

/// A sparse tensor that is being read; its values and indices are tensors of their own.
#[derive(Default)]
pub(super) struct Sparse {
    dimensions: Vec<u64>,
    /// That of its values, as `SparseTensorProto` has it.
    pub name: Vec<u8>,
    /// The largest element, in bits.
    bits: u64,
}

impl Sparse {
    /// Takes its dimensions.
    pub fn step<R: Read + Seek>(&mut self, reader: &mut Reader<R>, field: Field) -> Result<(), Problem> {
        numbers(reader, field, &mut self.dimensions)
    }

    /// Takes its values or its indices, which are counted as if they were values.
    pub fn enter(&mut self, part: Tensor) {
        self.bits = self.bits.max(bits(part.element).unwrap_or(128));
        if self.name.is_empty() {
            self.name = part.name;
        }
    }

    /// Checks what it is when written out.
    pub fn check(&self, place: &str) -> Result<(), Problem> {
        let bytes = product(&self.dimensions).and_then(|elements| elements.checked_mul(self.bits.max(1)));
        match bytes.map(|bits| bits.div_ceil(8)) {
            Some(bytes) if bytes <= MAX_DENSE => Ok(()),
            _ => Err(refused(
                place,
                format_args!(
                    "expected a sparse tensor of at most {MAX_DENSE} bytes when written out, got {}",
                    shape(&self.dimensions)
                ),
            )),
        }
    }
}
