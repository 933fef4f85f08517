//! Tensors, their memory and the operations on them.
//!
//! Synapse knows no models and no requests. It is the crate where `unsafe` lives: everything above it
//! handles memory through [`Memory`] and [`Tensor`], which check sizes once, when they are made.
//!
//! Only the host is implemented; device memory comes behind the same types.

pub mod bytes;
mod datatype;
mod memory;
mod rows;
mod shape;
mod tensor;
mod trim;

pub use datatype::DataType;
pub use memory::{ALIGNMENT, Memory, MemoryMut};
pub use rows::{RowsError, concat_rows, split_rows};
pub use shape::{MAX_RANK, Shape, ShapeError};
pub use tensor::{Element, Tensor, TensorError};
pub use trim::{Allocated, settle_allocator, trim};
