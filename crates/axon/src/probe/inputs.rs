//! Made-up inputs that fit a signature.

use half::{bf16, f16};
use synapse::{DataType, Shape, Tensor};

use crate::signature::{Dimension, Signature, TensorSpec};

/// Sizes tried for dynamic dimensions after the first, in turn: sequence lengths, image sides, small counts.
const SIZES: [usize; 7] = [16, 32, 64, 224, 1, 3, 4];

/// The largest extreme integers, tried in turn: pixels, and indices that fewer and fewer tables have. None is so large
/// that a model that allocates by it would be a danger.
const MAGNITUDES: [u64; 5] = [1000, 255, 100, 10, 1];

/// What a row is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Floats in 0 to 1, integers 0 or 1 (indices that any table has), short strings.
    Random,
    /// Integers a quarter as large as extreme ones; the rest as `Random`.
    Moderate,
    /// Floats a thousand times as large and of both signs, integers as large as the model takes; the rest as `Random`.
    Extreme,
    /// Floats that are not a number; the rest as `Random`.
    NotANumber,
}

/// Makes rows, each different from the one before.
pub struct InputMaker {
    /// The size of dynamic dimensions after the first.
    size: usize,
    /// The largest extreme integer.
    magnitude: u64,
    state: u64,
}

impl InputMaker {
    pub fn new() -> Self {
        Self { size: SIZES[0], magnitude: 1, state: 0x9e37_79b9_7f4a_7c15 }
    }

    /// Settles on the first size that `runs` accepts; false when none does.
    pub fn find_runnable(&mut self, signature: &Signature, mut runs: impl FnMut(&[Tensor]) -> bool) -> bool {
        let dynamic = signature.inputs.iter().any(TensorSpec::has_dynamic_row);
        let sizes = if dynamic { &SIZES[..] } else { &SIZES[..1] };
        sizes.iter().any(|&size| {
            self.size = size;
            let inputs = self.row(signature, Fill::Random);
            runs(&inputs)
        })
    }

    /// Settles on the largest extreme integers that `runs` accepts.
    pub fn find_magnitude(&mut self, signature: &Signature, mut runs: impl FnMut(&[Tensor]) -> bool) {
        for magnitude in MAGNITUDES {
            self.magnitude = magnitude;
            let rows = [self.row(signature, Fill::Extreme), self.row(signature, Fill::Extreme)];
            if rows.iter().all(|row| runs(row)) {
                return;
            }
        }
    }

    /// One row of each input.
    pub fn row(&mut self, signature: &Signature, fill: Fill) -> Vec<Tensor> {
        self.make(signature, 1, fill)
    }

    /// `rows` rows of each input.
    pub fn rows(&mut self, signature: &Signature, rows: usize, fill: Fill) -> Vec<Tensor> {
        self.make(signature, rows, fill)
    }

    /// The rows that come of asking for `rows`: a model whose first dimension is fixed takes as many as that.
    pub fn rows_made(&self, signature: &Signature, rows: usize) -> usize {
        signature.inputs.first().and_then(|spec| self.shape(spec, rows)?.rows()).unwrap_or(rows).max(1)
    }

    /// Bytes that one row of all inputs takes.
    pub fn bytes_of_row(&self, signature: &Signature) -> usize {
        let bytes = |spec: &TensorSpec| {
            let count = self.shape(spec, 1).map_or(usize::MAX, |shape| shape.element_count());
            count.saturating_mul(spec.datatype.size().unwrap_or(16))
        };
        signature.inputs.iter().map(bytes).fold(0, usize::saturating_add)
    }

    fn make(&mut self, signature: &Signature, rows: usize, fill: Fill) -> Vec<Tensor> {
        // All or none: a run without one of them would be refused, one with them shifted would be wrong.
        let tensors: Option<Vec<_>> =
            signature.inputs.iter().map(|spec| self.tensor(spec, rows, fill)).collect();
        tensors.unwrap_or_default()
    }

    fn shape(&self, spec: &TensorSpec, rows: usize) -> Option<Shape> {
        // Without a rank, a vector is as good a guess as any.
        let dimensions = spec.shape.as_deref().unwrap_or(&[Dimension::Dynamic(None)]);
        let size = |(axis, dimension): (usize, &Dimension)| match dimension {
            Dimension::Fixed(size) => *size,
            Dimension::Dynamic(_) if axis == 0 => rows,
            Dimension::Dynamic(_) => self.size,
        };
        Shape::new(&dimensions.iter().enumerate().map(size).collect::<Vec<_>>()).ok()
    }

    fn tensor(&mut self, spec: &TensorSpec, rows: usize, fill: Fill) -> Option<Tensor> {
        let shape = self.shape(spec, rows)?;
        let count = shape.element_count();
        if count.saturating_mul(spec.datatype.size().unwrap_or(16)) > super::MAX_BYTES {
            return None;
        }
        let tensor = match spec.datatype {
            DataType::Bool => Tensor::from_vec(&shape, self.fill(count, |random| random & 1 == 1)),
            DataType::Uint8 => Tensor::from_vec(&shape, self.integers(count, fill, u8::MAX)),
            DataType::Uint16 => Tensor::from_vec(&shape, self.integers(count, fill, u16::MAX)),
            DataType::Uint32 => Tensor::from_vec(&shape, self.integers(count, fill, u32::MAX)),
            DataType::Uint64 => Tensor::from_vec(&shape, self.integers(count, fill, u64::MAX)),
            DataType::Int8 => Tensor::from_vec(&shape, self.integers(count, fill, i8::MAX)),
            DataType::Int16 => Tensor::from_vec(&shape, self.integers(count, fill, i16::MAX)),
            DataType::Int32 => Tensor::from_vec(&shape, self.integers(count, fill, i32::MAX)),
            DataType::Int64 => Tensor::from_vec(&shape, self.integers(count, fill, i64::MAX)),
            DataType::Fp16 => {
                Tensor::from_vec(&shape, self.fill(count, |random| f16::from_f32(float(random, fill))))
            }
            DataType::Bf16 => {
                Tensor::from_vec(&shape, self.fill(count, |random| bf16::from_f32(float(random, fill))))
            }
            DataType::Fp32 => Tensor::from_vec(&shape, self.fill(count, |random| float(random, fill))),
            DataType::Fp64 => {
                Tensor::from_vec(&shape, self.fill(count, |random| f64::from(float(random, fill))))
            }
            DataType::Bytes => {
                let elements = self.fill(count, |random| format!("{:x}", random & 0xffff));
                Tensor::from_elements(&shape, &elements)
            }
        };
        tensor.ok()
    }

    /// Integers of 0 or 1; up to the magnitude, or the type's `largest`, where the fill is extreme, and a quarter of
    /// that where it is moderate.
    fn integers<T: Copy + TryFrom<u64> + TryInto<u64>>(
        &mut self,
        count: usize,
        fill: Fill,
        largest: T,
    ) -> Vec<T> {
        let magnitude = largest.try_into().map_or(self.magnitude, |largest| largest.min(self.magnitude));
        let most = match fill {
            Fill::Extreme => magnitude,
            Fill::Moderate => (magnitude / 4).max(1),
            Fill::Random | Fill::NotANumber => 1,
        };
        self.fill(count, |random| T::try_from((random >> 16) % (most + 1)).unwrap_or(largest))
    }

    fn fill<T>(&mut self, count: usize, value: impl Fn(u64) -> T) -> Vec<T> {
        (0..count).map(|_| value(self.next())).collect()
    }

    /// **Source:** SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn float(random: u64, fill: Fill) -> f32 {
    // 24 bits fill a binary32's significand.
    let unit = (random >> 40) as f32 / (1_u64 << 24) as f32;
    match fill {
        Fill::Random | Fill::Moderate => unit,
        Fill::Extreme => (unit - 0.5) * 2000.0,
        Fill::NotANumber => f32::NAN,
    }
}
