//! The classification extension: the best classes of each row instead of its scores.
//!
//! **Source:** Triton's extension "classification". Ties go to the lower index, where Triton leaves them open.

use std::cmp::Ordering;
use std::fmt::Write as _;

use axon::error::{Error, Result};
use half::{bf16, f16};
use synapse::{DataType, Tensor};

use super::field::Field;

/// The labels of an output by its name, where the model has some.
pub type Labels<'a> = &'a dyn Fn(&str) -> Option<&'a [String]>;

/// The path of an output's `classification`.
pub(super) const CLASSIFICATION: &str = "parameters.classification";

/// The `count` best classes of each row of output number `index`, as BYTES `"<score>:<class>"`, best first; with
/// `:<label>` behind it for a class that has one.
///
/// The shape is `[rows, count]`, or `[count]` for an output of one dimension; `count` is at most the elements of
/// a row.
pub(super) fn classify(tensor: &Tensor, count: usize, index: usize, labels: &[String]) -> Result<Tensor> {
    match tensor.datatype() {
        DataType::Uint8 => best(tensor, count, labels, u8::from_le_bytes),
        DataType::Uint16 => best(tensor, count, labels, u16::from_le_bytes),
        DataType::Uint32 => best(tensor, count, labels, u32::from_le_bytes),
        DataType::Uint64 => best(tensor, count, labels, u64::from_le_bytes),
        DataType::Int8 => best(tensor, count, labels, i8::from_le_bytes),
        DataType::Int16 => best(tensor, count, labels, i16::from_le_bytes),
        DataType::Int32 => best(tensor, count, labels, i32::from_le_bytes),
        DataType::Int64 => best(tensor, count, labels, i64::from_le_bytes),
        DataType::Fp16 => best(tensor, count, labels, |element| f16::from_le_bytes(element).to_f32()),
        DataType::Bf16 => best(tensor, count, labels, |element| bf16::from_le_bytes(element).to_f32()),
        DataType::Fp32 => best(tensor, count, labels, f32::from_le_bytes),
        DataType::Fp64 => best(tensor, count, labels, f64::from_le_bytes),
        datatype @ (DataType::Bool | DataType::Bytes) => Err(Field::output(index, CLASSIFICATION)
            .invalid(format_args!("expected an output of numbers, got {datatype}"))),
    }
}

fn best<T: Score, const SIZE: usize>(
    tensor: &Tensor,
    count: usize,
    labels: &[String],
    read: impl Fn([u8; SIZE]) -> T,
) -> Result<Tensor> {
    let shape = tensor.shape();
    let (rows, classes) = match shape.len() {
        0 | 1 => (1, shape.element_count()),
        _ => (shape.rows().unwrap_or_default(), shape.row_elements()),
    };
    let count = count.min(classes);
    let dimensions = if shape.len() > 1 { vec![rows, count] } else { vec![count] };
    let (elements, _) = tensor.memory().as_chunks::<SIZE>();
    let mut encoded: Vec<String> = Vec::new();
    // `max(1)`: a tensor without elements has no rows to go through.
    for row in elements.chunks(classes.max(1)) {
        let score = |class: usize| row.get(class).map(|&element| read(element));
        let better = |&one: &usize, &other: &usize| match (score(one), score(other)) {
            (Some(a), Some(b)) => b.rank(a).then(one.cmp(&other)),
            _ => Ordering::Equal,
        };
        let mut order: Vec<usize> = (0..row.len()).collect();
        if count < order.len() {
            order.select_nth_unstable_by(count, better);
            order.truncate(count);
        }
        order.sort_unstable_by(better);
        encoded.extend(order.into_iter().filter_map(|class| Some(text(score(class)?, class, labels))));
    }
    Tensor::from_elements(&dimensions, &encoded).map_err(Error::internal)
}

fn text(score: impl Score, class: usize, labels: &[String]) -> String {
    let mut text = String::new();
    score.write(&mut text);
    let _ = write!(text, ":{class}");
    if let Some(label) = labels.get(class).filter(|label| !label.is_empty()) {
        text.push(':');
        text.push_str(label);
    }
    text
}

/// A number that classes are ordered by.
trait Score: Copy {
    /// Greater is better; NaN is worse than any number.
    fn rank(self, other: Self) -> Ordering;

    /// Appends it with six decimals.
    fn write(self, text: &mut String);
}

macro_rules! integers {
    ($($type:ty),*) => { $(
        impl Score for $type {
            fn rank(self, other: Self) -> Ordering {
                self.cmp(&other)
            }

            fn write(self, text: &mut String) {
                let _ = write!(text, "{self}.000000");
            }
        }
    )* };
}

macro_rules! floats {
    ($($type:ty),*) => { $(
        impl Score for $type {
            fn rank(self, other: Self) -> Ordering {
                self.partial_cmp(&other).unwrap_or_else(|| other.is_nan().cmp(&self.is_nan()))
            }

            fn write(self, text: &mut String) {
                // As C's `%f` does, which writes `nan`.
                let _ = if self.is_nan() { write!(text, "nan") } else { write!(text, "{self:.6}") };
            }
        }
    )* };
}

integers!(u8, u16, u32, u64, i8, i16, i32, i64);
floats!(f32, f64);
