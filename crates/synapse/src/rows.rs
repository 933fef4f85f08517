//! Rows of several tensors into one, and back.

use std::fmt;

use crate::bytes;
use crate::{Memory, Shape, Tensor};

/// Why tensors cannot be joined or split by rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsError {
    /// No tensors, or a scalar, which has no rows.
    NoRows,
    /// The tensors differ in data type or in a dimension after the first.
    Mismatch,
    /// The rows asked for are `asked` where the tensor has `rows`.
    Count {
        /// The sum of the parts.
        asked: usize,
        /// The tensor's rows.
        rows: usize,
    },
}

impl fmt::Display for RowsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRows => f.write_str("no rows"),
            Self::Mismatch => f.write_str("rows differ in data type or shape"),
            Self::Count { asked, rows } => write!(f, "{asked} rows asked of {rows}"),
        }
    }
}

impl std::error::Error for RowsError {}

/// One tensor of all rows, in order. Copies each byte once; one tensor alone is not copied.
pub fn concat_rows(tensors: &[&Tensor]) -> Result<Tensor, RowsError> {
    let (first, rest) = tensors.split_first().ok_or(RowsError::NoRows)?;
    if rest.is_empty() {
        return Ok((*first).clone());
    }
    let mut rows = first.shape().rows().ok_or(RowsError::NoRows)?;
    for tensor in rest {
        let same = tensor.datatype() == first.datatype() && tensor.shape().get(1..) == first.shape().get(1..);
        if !same {
            return Err(RowsError::Mismatch);
        }
        rows += tensor.shape().rows().ok_or(RowsError::NoRows)?;
    }
    let shape = first.shape().with_rows(rows).map_err(|_| RowsError::Mismatch)?;
    let parts: Vec<&[u8]> = tensors.iter().map(|tensor| &**tensor.memory()).collect();
    Ok(first.with_memory(shape, Memory::concat(&parts)))
}

/// The rows of `tensor` in parts of `counts` rows each, in order. The parts share its memory.
pub fn split_rows(tensor: &Tensor, counts: &[usize]) -> Result<Vec<Tensor>, RowsError> {
    let rows = tensor.shape().rows().ok_or(RowsError::NoRows)?;
    let asked = counts.iter().sum();
    if asked != rows {
        return Err(RowsError::Count { asked, rows });
    }
    let mut start = 0;
    let mut parts = Vec::with_capacity(counts.len());
    for &count in counts {
        let shape = tensor.shape().with_rows(count).map_err(|_| RowsError::Mismatch)?;
        let length = byte_length(tensor, start, &shape);
        parts.push(tensor.with_memory(shape, slice(tensor.memory(), start, length)));
        start += length;
    }
    Ok(parts)
}

fn slice(memory: &Memory, start: usize, length: usize) -> Memory {
    memory.slice(start..start + length)
}

/// The bytes that the elements of `shape` take in `tensor` from `start` on.
fn byte_length(tensor: &Tensor, start: usize, shape: &Shape) -> usize {
    let count = shape.element_count();
    match tensor.datatype().size() {
        Some(size) => count * size,
        None => bytes::elements(&tensor.memory()[start..])
            .take(count)
            .map_while(Result::ok)
            .map(|element| bytes::PREFIX + element.len())
            .sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_joined_split_into_the_same_tensors() {
        let check = |tensors: Vec<Tensor>| {
            let joined = concat_rows(&tensors.iter().collect::<Vec<_>>()).unwrap();
            let counts: Vec<_> = tensors.iter().map(|tensor| tensor.shape()[0]).collect();
            assert_eq!(split_rows(&joined, &counts).unwrap(), tensors);
        };
        let numbers = |rows: usize, from: i64| {
            Tensor::from_vec(&[rows, 2], (from..).take(rows * 2).collect::<Vec<i64>>()).unwrap()
        };
        check(vec![numbers(1, 0), numbers(3, 9), numbers(0, 0), numbers(2, -4)]);
        check(vec![numbers(5, 0)]);
        let strings = |elements: &[&str]| Tensor::from_elements(&[elements.len()], elements).unwrap();
        check(vec![strings(&["", "a"]), strings(&["long one", "b", ""]), strings(&[])]);
        check(vec![
            Tensor::from_vec(&[2], vec![true, false]).unwrap(),
            Tensor::from_vec(&[1], vec![true]).unwrap(),
        ]);
    }

    #[test]
    fn rows_that_differ_are_refused() {
        let a = Tensor::from_vec(&[1, 2], vec![1_i32, 2]).unwrap();
        let b = Tensor::from_vec(&[1, 3], vec![1_i32, 2, 3]).unwrap();
        let c = Tensor::from_vec(&[1, 2], vec![1_u32, 2]).unwrap();
        let scalar = Tensor::from_vec(&[], vec![1_i32]).unwrap();
        assert_eq!(concat_rows(&[&a, &b]).err(), Some(RowsError::Mismatch));
        assert_eq!(concat_rows(&[&a, &c]).err(), Some(RowsError::Mismatch));
        assert_eq!(concat_rows(&[]).err(), Some(RowsError::NoRows));
        assert_eq!(split_rows(&scalar, &[1]).err(), Some(RowsError::NoRows));
        assert_eq!(split_rows(&a, &[2]).err(), Some(RowsError::Count { asked: 2, rows: 1 }));
    }
}
