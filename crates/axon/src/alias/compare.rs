//! How the answers of two models differ, output by output. Pure.

use std::collections::BTreeSet;

use half::{bf16, f16};
use synapse::{DataType, Tensor};

use crate::request::NamedTensor;

/// How one output differs.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Difference {
    /// Not at all: the same values; NaN is as NaN, and -0 as 0.
    None,
    /// In values. Of texts and booleans no sizes are told.
    Values {
        /// The largest |a - b|; infinite where one is NaN.
        absolute: f64,
        /// The largest |a - b| / max(|a|, |b|).
        relative: f64,
    },
    /// In its type or shape, or one model does not have it.
    Form(String),
}

/// Compares the outputs of one model with those of another, by name.
pub(super) fn compare(one: &[NamedTensor], other: &[NamedTensor]) -> Vec<(String, Difference)> {
    let find = |outputs: &[NamedTensor], name: &str| {
        outputs.iter().find(|output| output.name == name).map(|output| output.tensor.clone())
    };
    let names: BTreeSet<&str> = one.iter().chain(other).map(|output| output.name.as_str()).collect();
    let differ = |name: &str| match (find(one, name), find(other, name)) {
        (Some(one), Some(other)) => difference(&one, &other),
        (Some(_), None) => Difference::Form("the shadow does not have it".to_owned()),
        _ => Difference::Form("only the shadow has it".to_owned()),
    };
    names.into_iter().map(|name| (name.to_owned(), differ(name))).collect()
}

fn difference(one: &Tensor, other: &Tensor) -> Difference {
    if one.datatype() != other.datatype() {
        let (one, other) = (one.datatype().name(), other.datatype().name());
        return Difference::Form(format!("datatype {one}, the shadow's is {other}"));
    }
    if one.shape() != other.shape() {
        let (one, other) = (&**one.shape(), &**other.shape());
        return Difference::Form(format!("shape {one:?}, the shadow's is {other:?}"));
    }
    let (left, right): (&[u8], &[u8]) = (one.memory(), other.memory());
    if left == right {
        return Difference::None;
    }
    match one.datatype() {
        DataType::Bool | DataType::Bytes => Difference::Values { absolute: f64::NAN, relative: f64::NAN },
        DataType::Uint8 => numbers(left, right, |[byte]: [u8; 1]| f64::from(byte)),
        DataType::Uint16 => numbers(left, right, |bytes| f64::from(u16::from_le_bytes(bytes))),
        DataType::Uint32 => numbers(left, right, |bytes| f64::from(u32::from_le_bytes(bytes))),
        DataType::Uint64 => numbers(left, right, |bytes| u64::from_le_bytes(bytes) as f64),
        DataType::Int8 => numbers(left, right, |bytes| f64::from(i8::from_le_bytes(bytes))),
        DataType::Int16 => numbers(left, right, |bytes| f64::from(i16::from_le_bytes(bytes))),
        DataType::Int32 => numbers(left, right, |bytes| f64::from(i32::from_le_bytes(bytes))),
        DataType::Int64 => numbers(left, right, |bytes| i64::from_le_bytes(bytes) as f64),
        DataType::Fp16 => numbers(left, right, |bytes| f16::from_le_bytes(bytes).to_f64()),
        DataType::Bf16 => numbers(left, right, |bytes| bf16::from_le_bytes(bytes).to_f64()),
        DataType::Fp32 => numbers(left, right, |bytes| f64::from(f32::from_le_bytes(bytes))),
        DataType::Fp64 => numbers(left, right, f64::from_le_bytes),
    }
}

/// The largest differences of elements of `SIZE` bytes.
#[expect(clippy::float_cmp, reason = "whether values are the same is asked, not whether they are close")]
fn numbers<const SIZE: usize>(one: &[u8], other: &[u8], read: impl Fn([u8; SIZE]) -> f64) -> Difference {
    let (one, other) = (one.as_chunks::<SIZE>().0, other.as_chunks::<SIZE>().0);
    let (mut absolute, mut relative, mut differs) = (0.0_f64, 0.0_f64, false);
    for (left, right) in one.iter().zip(other).filter(|(left, right)| left != right) {
        let (left, right) = (read(*left), read(*right));
        if left == right {
            // Zeros of two signs; whole numbers beyond 2^53 are told apart by their bytes alone.
            differs |= left.abs() > 2.0_f64.powi(53) && left.is_finite();
            continue;
        }
        if left.is_nan() && right.is_nan() {
            continue;
        }
        differs = true;
        let distance = (left - right).abs();
        let distance = if distance.is_nan() { f64::INFINITY } else { distance };
        absolute = absolute.max(distance);
        let size = left.abs().max(right.abs());
        relative = relative.max(if distance.is_infinite() { f64::INFINITY } else { distance / size });
    }
    if differs { Difference::Values { absolute, relative } } else { Difference::None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(one: Tensor, other: Tensor, expected: &Difference) {
        let compared = compare(&[NamedTensor::new("y", one)], &[NamedTensor::new("y", other)]);
        assert_eq!(compared, [("y".to_owned(), expected.clone())]);
    }

    fn floats(values: &[f32]) -> Tensor {
        Tensor::from_vec(&[values.len()], values.to_vec()).unwrap()
    }

    #[test]
    fn the_largest_differences_are_told() {
        check(floats(&[1.0, 2.0]), floats(&[1.0, 2.0]), &Difference::None);
        let values = Difference::Values { absolute: 2.0, relative: 0.5 };
        check(floats(&[1.0, 100.0, 4.0]), floats(&[2.0, 102.0, 4.0]), &values);
        let whole = |values: &[i64]| Tensor::from_vec(&[values.len()], values.to_vec()).unwrap();
        check(whole(&[-1, 5]), whole(&[1, 5]), &Difference::Values { absolute: 2.0, relative: 2.0 });
        // They have the same value as FP64, and are not the same.
        let large = i64::MAX;
        check(whole(&[large]), whole(&[large - 1]), &Difference::Values { absolute: 0.0, relative: 0.0 });
    }

    #[test]
    fn what_is_no_number_is_told_apart() {
        let endless = Difference::Values { absolute: f64::INFINITY, relative: f64::INFINITY };
        check(floats(&[f32::NAN]), floats(&[-f32::NAN]), &Difference::None);
        check(floats(&[0.0]), floats(&[-0.0]), &Difference::None);
        check(floats(&[f32::NAN]), floats(&[1.0]), &endless);
        check(floats(&[f32::INFINITY]), floats(&[1.0]), &endless);
        check(floats(&[f32::INFINITY]), floats(&[f32::NEG_INFINITY]), &endless);
        let half = |value: f32| {
            Tensor::new(
                DataType::Fp16,
                synapse::Shape::new(&[1]).unwrap(),
                f16::from_f32(value).to_le_bytes().to_vec().into(),
            )
            .unwrap()
        };
        check(half(1.0), half(3.0), &Difference::Values { absolute: 2.0, relative: 2.0 / 3.0 });
        let text = |text: &str| Tensor::from_elements(&[1], &[text]).unwrap();
        check(text("a"), text("a"), &Difference::None);
        let compared = compare(&[NamedTensor::new("y", text("a"))], &[NamedTensor::new("y", text("b"))]);
        assert!(matches!(compared[0].1, Difference::Values { absolute, .. } if absolute.is_nan()));
    }

    #[test]
    fn a_form_that_differs_is_said() {
        let form = |text: &str| Difference::Form(text.to_owned());
        check(floats(&[1.0]), floats(&[1.0, 2.0]), &form("shape [1], the shadow's is [2]"));
        let whole = Tensor::from_vec(&[1], vec![1_i64]).unwrap();
        check(floats(&[1.0]), whole, &form("datatype FP32, the shadow's is INT64"));
        let compared =
            compare(&[NamedTensor::new("a", floats(&[1.0]))], &[NamedTensor::new("b", floats(&[1.0]))]);
        let expected = [("a", "the shadow does not have it"), ("b", "only the shadow has it")];
        assert_eq!(compared, expected.map(|(name, text)| (name.to_owned(), form(text))));
    }
}
