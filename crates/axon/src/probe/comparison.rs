//! Whether two outputs are the same, within what rounding may do.

use half::{bf16, f16};
use synapse::{DataType, Tensor};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    Close,
    Different,
}

/// The relative difference that rounding in another order may make. **Source:** fp32 has 7 digits, fp16 has 3.
#[must_use]
pub fn tolerance(datatype: DataType) -> f64 {
    match datatype {
        DataType::Fp32 | DataType::Fp64 => 1e-3,
        DataType::Fp16 | DataType::Bf16 => 1e-2,
        _ => 0.0,
    }
}

/// Compares a row's output in a batch with the one it gives alone.
pub fn compare(batched: &Tensor, alone: &Tensor) -> Comparison {
    if batched == alone {
        return Comparison::Equal;
    }
    let same = batched.datatype() == alone.datatype() && batched.shape() == alone.shape();
    let tolerance = tolerance(alone.datatype());
    let (Some(batched), Some(alone)) = (floats(batched), floats(alone)) else { return Comparison::Different };
    // Against the row's largest value: a tiny element beside large ones carries their rounding.
    let scale =
        alone.iter().filter(|value| value.is_finite()).fold(0.0, |scale: f64, value| scale.max(value.abs()));
    let close = |(a, b): (&f64, &f64)| {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * scale
    };
    if same && batched.iter().zip(&alone).all(close) { Comparison::Close } else { Comparison::Different }
}

/// The values of a tensor of floats; `None` for other data types.
pub fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    let tensor = tensor.clone().aligned();
    match tensor.datatype() {
        DataType::Fp32 => {
            tensor.as_slice::<f32>().map(|values| values.iter().map(|&value| value.into()).collect())
        }
        DataType::Fp64 => tensor.as_slice::<f64>().map(<[f64]>::to_vec),
        DataType::Fp16 => {
            tensor.as_slice::<f16>().map(|values| values.iter().map(|&value| value.into()).collect())
        }
        DataType::Bf16 => {
            tensor.as_slice::<bf16>().map(|values| values.iter().map(|&value| value.into()).collect())
        }
        _ => None,
    }
}
