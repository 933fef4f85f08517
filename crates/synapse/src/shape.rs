//! Shapes whose element count is known not to overflow.

use std::fmt;
use std::ops::Deref;

use smallvec::SmallVec;

/// The largest rank of a tensor. **Source:** NumPy's limit before 2.0; no ONNX operator needs more.
pub const MAX_RANK: usize = 32;

/// The dimensions of a tensor, outermost first; `[]` is a scalar.
///
/// Invariant: the rank is at most [`MAX_RANK`] and the product of the dimensions fits `isize`.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(SmallVec<[usize; 6]>);

/// Why dimensions do not make a [`Shape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeError {
    /// More than [`MAX_RANK`] dimensions; holds how many.
    TooManyDimensions(usize),
    /// The product of the dimensions does not fit `isize`.
    Overflow,
}

impl fmt::Display for ShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyDimensions(rank) => write!(f, "{rank} dimensions; at most {MAX_RANK} are supported"),
            Self::Overflow => f.write_str("the element count overflows"),
        }
    }
}

impl std::error::Error for ShapeError {}

impl Shape {
    /// A shape of these dimensions, outermost first.
    pub fn new(dimensions: &[usize]) -> Result<Self, ShapeError> {
        if dimensions.len() > MAX_RANK {
            return Err(ShapeError::TooManyDimensions(dimensions.len()));
        }
        // The non-zero dimensions alone must not overflow, so that `[0, 2^63]` is refused like `[1, 2^63]`
        // and a row of any tensor has a size.
        let nonzero = dimensions.iter().filter(|&&dimension| dimension != 0);
        nonzero
            .copied()
            .try_fold(1_usize, usize::checked_mul)
            .filter(|&count| isize::try_from(count).is_ok())
            .ok_or(ShapeError::Overflow)?;
        Ok(Self(SmallVec::from_slice(dimensions)))
    }

    /// The number of elements; 1 for a scalar.
    #[must_use]
    pub fn element_count(&self) -> usize {
        self.0.iter().product()
    }

    /// The number of rows (the first dimension); `None` for a scalar.
    #[must_use]
    pub fn rows(&self) -> Option<usize> {
        self.0.first().copied()
    }

    /// The elements of one row; 1 for a scalar or a vector.
    #[must_use]
    pub fn row_elements(&self) -> usize {
        self.0.iter().skip(1).product()
    }

    /// The same shape with `rows` as its first dimension.
    pub fn with_rows(&self, rows: usize) -> Result<Self, ShapeError> {
        let mut dimensions = self.0.clone();
        if let Some(first) = dimensions.first_mut() {
            *first = rows;
        }
        Self::new(&dimensions)
    }
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter()).finish()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, dimension) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dimension}")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_counts_that_overflow_are_refused() {
        let check = |dimensions: &[usize], expected: Result<usize, ShapeError>| {
            assert_eq!(Shape::new(dimensions).map(|shape| shape.element_count()), expected, "{dimensions:?}");
        };
        check(&[], Ok(1));
        check(&[2, 3], Ok(6));
        check(&[0, 3], Ok(0));
        check(&[16, (1 << 60) + 2], Err(ShapeError::Overflow));
        check(&[1, 1 << 63], Err(ShapeError::Overflow));
        check(&[0, 1 << 63], Err(ShapeError::Overflow));
        check(&[1; 33], Err(ShapeError::TooManyDimensions(33)));
    }

    #[test]
    fn rows_are_the_first_dimension() {
        let shape = Shape::new(&[4, 2, 3]).unwrap();
        assert_eq!((shape.rows(), shape.row_elements()), (Some(4), 6));
        assert_eq!(&*shape.with_rows(9).unwrap(), &[9, 2, 3]);
        assert_eq!(Shape::default().rows(), None);
        assert_eq!(shape.to_string(), "[4, 2, 3]");
    }
}
