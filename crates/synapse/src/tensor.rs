//! A tensor: a data type, a shape and memory that fits both.

use std::fmt;

use half::{bf16, f16};

use crate::bytes::{self, BytesError};
use crate::{DataType, Memory, Shape, ShapeError};

/// A tensor in row-major order.
///
/// Invariant: the memory holds exactly the shape's elements, little-endian and packed; BOOL bytes are 0 or 1;
/// BYTES elements are encoded as [`crate::bytes`] says. A clone shares the memory.
#[derive(Clone, Debug)]
pub struct Tensor {
    datatype: DataType,
    shape: Shape,
    memory: Memory,
}

/// Why a data type, a shape and bytes do not make a [`Tensor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorError {
    /// The bytes are not as many as the shape and the data type need.
    Size {
        /// Bytes needed; `None` when their number overflows.
        expected: Option<usize>,
        /// Bytes given.
        got: usize,
    },
    /// The BOOL byte at `index` is neither 0 nor 1.
    Bool {
        /// The byte, from 0.
        index: usize,
        /// What it holds.
        value: u8,
    },
    /// The BYTES encoding is broken.
    Bytes(BytesError),
    /// The dimensions make no shape.
    Shape(ShapeError),
}

impl fmt::Display for TensorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { expected: Some(expected), got } => write!(f, "expected {expected} bytes, got {got}"),
            Self::Size { expected: None, got } => write!(f, "the byte size overflows; got {got} bytes"),
            Self::Bool { index, value } => write!(f, "byte {index}: BOOL must be 0 or 1, got {value}"),
            Self::Bytes(error) => error.fmt(f),
            Self::Shape(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TensorError {}

impl From<BytesError> for TensorError {
    fn from(error: BytesError) -> Self {
        Self::Bytes(error)
    }
}

impl From<ShapeError> for TensorError {
    fn from(error: ShapeError) -> Self {
        Self::Shape(error)
    }
}

impl Tensor {
    /// A tensor over `memory`, which must hold exactly the elements of `shape`. Copies nothing.
    pub fn new(datatype: DataType, shape: Shape, memory: Memory) -> Result<Self, TensorError> {
        let count = shape.element_count();
        if let Some(size) = datatype.size() {
            let expected = count.checked_mul(size);
            if expected != Some(memory.len()) {
                return Err(TensorError::Size { expected, got: memory.len() });
            }
        } else {
            bytes::validate(&memory, count)?;
        }
        if datatype == DataType::Bool
            && let Some(index) = memory.iter().position(|&byte| byte > 1)
        {
            return Err(TensorError::Bool { index, value: memory[index] });
        }
        Ok(Self { datatype, shape, memory })
    }

    /// A tensor that takes the elements of a vector. Copies nothing.
    pub fn from_vec<T: Element>(dimensions: &[usize], elements: Vec<T>) -> Result<Self, TensorError> {
        let shape = Shape::new(dimensions)?;
        Self::new(T::DATATYPE, shape, Memory::from_owner(ElementVec(elements)))
    }

    /// A BYTES tensor of `elements`, each any bytes.
    pub fn from_elements<E: AsRef<[u8]>>(dimensions: &[usize], elements: &[E]) -> Result<Self, TensorError> {
        let mut encoded = Vec::new();
        for element in elements {
            bytes::push(&mut encoded, element.as_ref());
        }
        Self::new(DataType::Bytes, Shape::new(dimensions)?, encoded.into())
    }

    /// The type of the elements.
    #[must_use]
    pub fn datatype(&self) -> DataType {
        self.datatype
    }

    /// The dimensions.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The bytes of the elements.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The bytes of the elements, without the rest of the tensor.
    #[must_use]
    pub fn into_memory(self) -> Memory {
        self.memory
    }

    /// The elements as `T`; `None` when `T` is not this tensor's type or its memory is not aligned for it.
    #[must_use]
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        if T::DATATYPE != self.datatype {
            return None;
        }
        // SAFETY: `Element` promises that any bytes of its data type's size are a value (BOOL bytes are checked by
        // `new`); `align_to` gives the middle part that is aligned, and only a whole one is returned.
        let (before, elements, after) = unsafe { self.memory.align_to::<T>() };
        (before.is_empty() && after.is_empty()).then_some(elements)
    }

    /// The elements of a BYTES tensor, each any bytes; none for another data type.
    pub fn elements(&self) -> impl Iterator<Item = &[u8]> {
        let encoded = if self.datatype == DataType::Bytes { &self.memory[..] } else { &[] };
        bytes::elements(encoded).map_while(Result::ok)
    }

    /// A tensor of the same type over `memory`, which the caller cut or joined to fit `shape`.
    pub(crate) fn with_memory(&self, shape: Shape, memory: Memory) -> Self {
        Self { datatype: self.datatype, shape, memory }
    }

    /// The same tensor in memory of its own, which holds nothing else. Copies every byte.
    #[must_use]
    pub fn detached(&self) -> Self {
        self.with_memory(self.shape.clone(), Memory::copy_of(&self.memory))
    }

    /// The same tensor at an address that suits its elements; copies only when it is not at one yet.
    #[must_use]
    pub fn aligned(self) -> Self {
        if self.memory.is_aligned_to(self.datatype.size().unwrap_or(1)) {
            return self;
        }
        let memory = Memory::copy_of(&self.memory);
        Self { memory, ..self }
    }
}

/// Two tensors are equal when type, shape and every byte are: NaN equals the same NaN, 0.0 is not -0.0.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.datatype == other.datatype && self.shape == other.shape && self.memory[..] == other.memory[..]
    }
}

/// A Rust type that is a tensor element.
///
/// # Safety
/// Its size is that of `DATATYPE`, and any bytes that a tensor of that type may hold are a value of it.
pub unsafe trait Element: Copy + Send + Sync + 'static {
    /// The protocol's type.
    const DATATYPE: DataType;
}

macro_rules! elements {
    ($($type:ty => $datatype:ident),* $(,)?) => { $(
        // SAFETY: plain numbers of the data type's size; `bool` is one byte, and BOOL tensors hold only 0 and 1.
        unsafe impl Element for $type {
            const DATATYPE: DataType = DataType::$datatype;
        }
    )* };
}

elements! {
    bool => Bool, u8 => Uint8, u16 => Uint16, u32 => Uint32, u64 => Uint64,
    i8 => Int8, i16 => Int16, i32 => Int32, i64 => Int64,
    f16 => Fp16, bf16 => Bf16, f32 => Fp32, f64 => Fp64,
}

/// A vector of elements, seen as bytes.
struct ElementVec<T>(Vec<T>);

impl<T: Element> AsRef<[u8]> for ElementVec<T> {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: elements are plain values without padding, as `Element` promises.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), size_of_val(self.0.as_slice())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_do_not_fit_the_shape_are_refused() {
        let check = |datatype, dimensions: &[usize], bytes: &[u8], expected| {
            let shape = Shape::new(dimensions).unwrap();
            assert_eq!(Tensor::new(datatype, shape, Memory::copy_of(bytes)).err(), expected);
        };
        check(DataType::Fp32, &[1, 2], &[0; 8], None);
        check(DataType::Fp32, &[1, 2], &[0; 9], Some(TensorError::Size { expected: Some(8), got: 9 }));
        check(DataType::Fp64, &[1 << 61], &[0; 8], Some(TensorError::Size { expected: None, got: 8 }));
        check(DataType::Bool, &[3], &[0, 1, 2], Some(TensorError::Bool { index: 2, value: 2 }));
        check(DataType::Bytes, &[2], &[0; 8], None);
        check(DataType::Fp32, &[], &[0; 4], None);
    }

    #[test]
    fn a_slice_has_the_tensors_own_type() {
        let tensor = Tensor::from_vec(&[2, 2], vec![1.0_f32, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!(tensor.as_slice::<f32>(), Some(&[1.0, 2.0, 3.0, 4.0][..]));
        assert_eq!(tensor.as_slice::<i32>(), None);
    }

    #[test]
    fn unaligned_memory_is_copied_to_an_aligned_place() {
        let memory = Memory::copy_of(&[0; 13]).slice(1..13);
        let tensor = Tensor::new(DataType::Fp32, Shape::new(&[3]).unwrap(), memory).unwrap();
        assert_eq!(tensor.as_slice::<f32>(), None);
        assert_eq!(tensor.aligned().as_slice::<f32>(), Some(&[0.0; 3][..]));
    }
}
