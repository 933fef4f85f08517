//! The value of one input: an element or a flat array of them, and the shape that they fill.

use std::fmt;

use axon::error::{Error, Result};
use axon::signature::{Dimension, TensorSpec};
use half::{bf16, f16};
use synapse::{DataType, Memory, Shape, Tensor};

use super::path;
use crate::codec::data::{Sink, Strings, Value, Values, explain};
use crate::codec::field::Field;
use crate::codec::scan::{Kind, Scanner};

/// Reads the value that comes next as the input `spec`.
pub(super) fn read(scanner: &mut Scanner<'_>, spec: &TensorSpec, batched: bool) -> Result<Tensor> {
    match spec.datatype {
        DataType::Bool => read_values::<bool>(scanner, spec, batched),
        DataType::Uint8 => read_values::<u8>(scanner, spec, batched),
        DataType::Uint16 => read_values::<u16>(scanner, spec, batched),
        DataType::Uint32 => read_values::<u32>(scanner, spec, batched),
        DataType::Uint64 => read_values::<u64>(scanner, spec, batched),
        DataType::Int8 => read_values::<i8>(scanner, spec, batched),
        DataType::Int16 => read_values::<i16>(scanner, spec, batched),
        DataType::Int32 => read_values::<i32>(scanner, spec, batched),
        DataType::Int64 => read_values::<i64>(scanner, spec, batched),
        DataType::Fp16 => read_values::<f16>(scanner, spec, batched),
        DataType::Bf16 => read_values::<bf16>(scanner, spec, batched),
        DataType::Fp32 => read_values::<f32>(scanner, spec, batched),
        DataType::Fp64 => read_values::<f64>(scanner, spec, batched),
        DataType::Bytes => read_strings(scanner, spec, batched),
    }
}

fn read_values<T: Value>(scanner: &mut Scanner<'_>, spec: &TensorSpec, batched: bool) -> Result<Tensor> {
    let mut sink = Values::<T>::of_any_count();
    fill(scanner, spec, &mut sink)?;
    let shape = fit(spec, batched, sink.elements.len())?;
    Tensor::from_vec(&shape, sink.elements).map_err(Error::internal)
}

fn read_strings(scanner: &mut Scanner<'_>, spec: &TensorSpec, batched: bool) -> Result<Tensor> {
    let mut sink = Strings::of_any_count();
    fill(scanner, spec, &mut sink)?;
    let shape = fit(spec, batched, sink.count)?;
    Tensor::new(DataType::Bytes, shape, Memory::from(sink.encoded)).map_err(Error::internal)
}

/// Reads one element, or all of an array.
fn fill<S: Sink>(scanner: &mut Scanner<'_>, spec: &TensorSpec, sink: &mut S) -> Result<()> {
    if scanner.loose_kind()? != Kind::Array {
        return take(scanner, sink, || path(&spec.name));
    }
    scanner
        .items(Field::BODY, |scanner, index| take(scanner, sink, || format!("{}[{index}]", path(&spec.name))))
}

fn take<S: Sink>(scanner: &mut Scanner<'_>, sink: &mut S, place: impl Fn() -> String) -> Result<()> {
    scanner.peek();
    let start = scanner.at();
    sink.take(scanner).map_err(|trouble| {
        scanner.go_back(start);
        explain(scanner, sink, trouble, |problem| Error::invalid(place(), problem))
    })
}

/// The shape of the input `spec` that `count` elements fill.
fn fit(spec: &TensorSpec, batched: bool, count: usize) -> Result<Shape> {
    let mut sizes = match &spec.shape {
        Some(dimensions) => dimensions.iter().map(size).collect(),
        None if batched => vec![None, None],
        None => vec![None],
    };
    if let (true, Some(rows @ None)) = (batched, sizes.first_mut()) {
        *rows = Some(1);
    }
    let fixed = sizes.iter().flatten().try_fold(1_usize, |product, &size| product.checked_mul(size));
    let innermost = sizes.iter().rposition(Option::is_none);
    let free = match (fixed, innermost) {
        (Some(0), _) => (count == 0).then_some(1),
        (Some(fixed), Some(_)) => count.is_multiple_of(fixed).then_some(count / fixed),
        (Some(fixed), None) => (count == fixed).then_some(1),
        (None, _) => None,
    };
    let field = || path(&spec.name);
    let free = free.ok_or_else(|| {
        let multiple = if innermost.is_some() { "a multiple of " } else { "" };
        // A model whose fixed dimensions overflow cannot be asked at all.
        let fixed = fixed.map_or("2^64".to_owned(), |fixed| fixed.to_string());
        Error::invalid(
            field(),
            format_args!(
                "{count} elements do not fill the shape {}: expected {multiple}{fixed} elements, got {count}",
                Sizes(&sizes)
            ),
        )
    })?;
    let dimensions: Vec<usize> = sizes
        .iter()
        .enumerate()
        .map(|(axis, size)| size.unwrap_or(if innermost == Some(axis) { free } else { 1 }))
        .collect();
    Shape::new(&dimensions).map_err(|error| Error::invalid(field(), error))
}

fn size(dimension: &Dimension) -> Option<usize> {
    match dimension {
        Dimension::Fixed(size) => Some(*size),
        Dimension::Dynamic(_) => None,
    }
}

/// Sizes as the protocol writes a shape: -1 for any.
struct Sizes<'a>(&'a [Option<usize>]);

impl fmt::Display for Sizes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = self.0.iter().map(|size| size.map_or("-1".to_owned(), |size| size.to_string()));
        write!(f, "[{}]", sizes.collect::<Vec<_>>().join(", "))
    }
}
