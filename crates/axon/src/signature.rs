//! What a model takes and gives, and whether a request fits it.

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use smallvec::SmallVec;
use synapse::{DataType, Tensor};

use crate::error::{Echo, Error, Result, echo_names};
use crate::reason::Reason;
use crate::request::{Inputs, NamedTensor};

/// One dimension of a model's input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// Always this size.
    Fixed(usize),
    /// Any size; models may name it, and equal names mean equal sizes.
    Dynamic(Option<String>),
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => size.fmt(f),
            Self::Dynamic(Some(name)) => f.write_str(name),
            Self::Dynamic(None) => f.write_str("?"),
        }
    }
}

/// The name, type and shape of a model's input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name in the graph.
    pub name: String,
    /// The element type.
    pub datatype: DataType,
    /// The dimensions, outermost first; `None` where the model does not even fix the rank.
    pub shape: Option<Vec<Dimension>>,
}

impl TensorSpec {
    /// The shape as the protocol writes it: -1 for a dynamic dimension; `[-1]` for an unknown rank.
    #[must_use]
    pub fn wire_shape(&self) -> Vec<i64> {
        let Some(dimensions) = &self.shape else { return vec![-1] };
        let size = |dimension: &Dimension| match dimension {
            Dimension::Fixed(size) => i64::try_from(*size).unwrap_or(i64::MAX),
            Dimension::Dynamic(_) => -1,
        };
        dimensions.iter().map(size).collect()
    }

    /// True when a dimension after the first may change from request to request.
    #[must_use]
    pub fn has_dynamic_row(&self) -> bool {
        let dynamic = |dimension: &Dimension| matches!(dimension, Dimension::Dynamic(_));
        self.shape.as_ref().is_none_or(|dimensions| dimensions.iter().skip(1).any(dynamic))
    }

    fn display_shape(&self) -> String {
        let Some(dimensions) = &self.shape else { return "[any rank]".to_owned() };
        let sizes: Vec<_> = dimensions.iter().map(Dimension::to_string).collect();
        format!("[{}]", sizes.join(", "))
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.name, self.datatype, self.display_shape())
    }
}

/// A model's inputs and outputs, in the model's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What it takes.
    pub inputs: Vec<TensorSpec>,
    /// What it gives.
    pub outputs: Vec<TensorSpec>,
}

/// Requests with equal keys may share a batch: their rows have the same shapes.
pub type BatchKey = SmallVec<[usize; 4]>;

/// A request that fits its model.
#[derive(Debug)]
pub struct Admitted {
    /// The inputs in the model's order.
    pub inputs: Vec<Tensor>,
    /// The rows of each input; 1 when the model is not batched.
    pub rows: usize,
    /// Which requests it may share a batch with.
    pub key: BatchKey,
    /// How urgent it is: 1 is served before 2.
    pub class: u32,
    /// The outputs asked for, as indices in the model's order; `None` for all.
    pub outputs: Option<Vec<usize>>,
    /// What is to blame if the run fails: inputs that disagree about a dimension that the model names. It is no error
    /// by itself, because exporters use names carelessly.
    pub doubt: Option<Error>,
    /// How much longer than it needs a test executor is asked to take.
    pub delay: Duration,
    /// How much longer it may wait behind all others of its class once its timeout is over.
    pub lingers: Duration,
}

impl Signature {
    /// Checks a request's inputs and outputs and brings them into the model's order.
    ///
    /// `batched` says that dimension 0 counts rows, which must be the same for all inputs, at least 1, and at
    /// most `max_batch_size` where the model's owner set one.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::error::ErrorKind) that names the input or output.
    pub fn admit(
        &self,
        inputs: Inputs,
        outputs: &[String],
        batched: bool,
        max_batch_size: Option<NonZeroUsize>,
    ) -> Result<Admitted> {
        let inputs = self.order_inputs(inputs)?;
        let mut key = BatchKey::new();
        for (spec, (position, tensor)) in self.inputs.iter().zip(&inputs) {
            check_tensor(spec, *position, tensor)?;
            check_empty(*position, tensor)?;
            check_first_dimension(spec, *position, tensor, max_batch_size)?;
            if batched && spec.has_dynamic_row() {
                key.extend_from_slice(tensor.shape().get(1..).unwrap_or_default());
            }
        }
        let rows = if batched { self.common_rows(&inputs)? } else { 1 };
        let outputs = self.order_outputs(outputs)?;
        let doubt = self.disagreement(&inputs);
        let inputs = inputs.into_iter().map(|(_, tensor)| tensor).collect();
        Ok(Admitted {
            inputs,
            rows,
            key,
            class: 1,
            outputs,
            doubt,
            delay: Duration::ZERO,
            lingers: Duration::ZERO,
        })
    }

    /// The rows that all inputs have.
    fn common_rows(&self, inputs: &[(usize, Tensor)]) -> Result<usize> {
        let mut common = None;
        for (spec, (position, tensor)) in self.inputs.iter().zip(inputs) {
            let field = || format!("inputs[{position}].shape[0]");
            let rows = tensor.shape().rows().unwrap_or(1);
            if rows == 0 {
                return Err(Error::invalid(field(), "batch must be at least 1, got 0"));
            }
            match common {
                Some((first, expected)) if expected != rows => {
                    return Err(Error::invalid(
                        field(),
                        format_args!("expected {expected} rows as in inputs[{first}], got {rows}"),
                    )
                    .because(Reason::RowsDiffer(spec.name.clone())));
                }
                Some(_) => {}
                None => common = Some((*position, rows)),
            }
        }
        Ok(common.map_or(1, |(_, rows)| rows))
    }

    /// The first dimension that the model names and that two inputs give different sizes.
    fn disagreement(&self, inputs: &[(usize, Tensor)]) -> Option<Error> {
        // Few enough to search, and on the stack: this runs for every request.
        let mut sizes: SmallVec<[(&str, usize, usize, usize); 8]> = SmallVec::new();
        for (spec, (position, tensor)) in self.inputs.iter().zip(inputs) {
            let dimensions = spec.shape.iter().flatten().zip(tensor.shape().iter());
            for (axis, (dimension, &size)) in dimensions.enumerate() {
                let Dimension::Dynamic(Some(name)) = dimension else { continue };
                let Some(&(_, first, first_axis, expected)) = sizes.iter().find(|known| known.0 == name)
                else {
                    sizes.push((name, *position, axis, size));
                    continue;
                };
                if expected != size {
                    return Some(Error::invalid(
                        format!("inputs[{position}].shape[{axis}]"),
                        format_args!(
                            "expected {expected} as in inputs[{first}].shape[{first_axis}], got {size}; the model names both {}",
                            Echo(name)
                        ),
                    ));
                }
            }
        }
        None
    }

    /// The tensors in the model's order, each with its position in the request.
    fn order_inputs(&self, inputs: Inputs) -> Result<Vec<(usize, Tensor)>> {
        let named = match inputs {
            Inputs::One(tensor) if self.inputs.len() == 1 => return Ok(vec![(0, tensor)]),
            Inputs::One(_) => {
                return Err(Error::invalid(
                    "inputs",
                    format_args!(
                        "expected {} inputs by name ({}), got one tensor without a name",
                        self.inputs.len(),
                        echo_names(self.inputs.iter().map(|spec| spec.name.as_str()))
                    ),
                ));
            }
            Inputs::Named(named) => named,
        };
        let mut slots: Vec<Option<(usize, Tensor)>> = self.inputs.iter().map(|_| None).collect();
        for (position, NamedTensor { name, tensor }) in named.into_iter().enumerate() {
            let index = find(&self.inputs, &name).ok_or_else(|| {
                let expected = echo_names(self.inputs.iter().map(|spec| spec.name.as_str()));
                Error::invalid(
                    format!("inputs[{position}].name"),
                    format_args!("expected one of {expected}, got {}", Echo(&name)),
                )
                .because(Reason::UnknownInput(name.clone()))
            })?;
            if slots[index].replace((position, tensor)).is_some() {
                return Err(Error::invalid(
                    format!("inputs[{position}].name"),
                    format_args!("duplicate input {}", Echo(&name)),
                )
                .because(Reason::DuplicateInput(name)));
            }
        }
        let missing = self.inputs.iter().zip(&slots).filter(|(_, slot)| slot.is_none());
        let missing: Vec<_> = missing.map(|(spec, _)| spec.name.as_str()).collect();
        if !missing.is_empty() {
            let present = self.inputs.iter().zip(&slots).filter(|(_, slot)| slot.is_some());
            let got: Vec<String> = present.map(|(spec, _)| spec.name.clone()).collect();
            let error = Error::invalid(
                "inputs",
                format_args!(
                    "expected {} inputs, got {}; missing {}",
                    self.inputs.len(),
                    got.len(),
                    echo_names(missing.iter().copied())
                ),
            );
            let missing = missing.into_iter().map(str::to_owned).collect();
            return Err(error.because(Reason::MissingInputs { expected: self.inputs.len(), got, missing }));
        }
        Ok(slots.into_iter().flatten().collect())
    }

    fn order_outputs(&self, outputs: &[String]) -> Result<Option<Vec<usize>>> {
        if outputs.is_empty() {
            return Ok(None);
        }
        let mut indices = Vec::with_capacity(outputs.len().min(self.outputs.len()));
        for (position, name) in outputs.iter().enumerate() {
            let field = || format!("outputs[{position}].name");
            let index = find(&self.outputs, name).ok_or_else(|| {
                let expected = echo_names(self.outputs.iter().map(|spec| spec.name.as_str()));
                Error::invalid(field(), format_args!("expected one of {expected}, got {}", Echo(name)))
                    .because(Reason::UnknownOutput(name.clone()))
            })?;
            if indices.contains(&index) {
                return Err(Error::invalid(field(), format_args!("duplicate output {}", Echo(name)))
                    .because(Reason::DuplicateOutput(name.clone())));
            }
            indices.push(index);
        }
        Ok(Some(indices))
    }
}

fn find(specs: &[TensorSpec], name: &str) -> Option<usize> {
    specs.iter().position(|spec| spec.name == name)
}

/// Checks one tensor's type and shape; `position` is its place in the request.
fn check_tensor(spec: &TensorSpec, position: usize, tensor: &Tensor) -> Result<()> {
    if tensor.datatype() != spec.datatype {
        return Err(Error::invalid(
            format!("inputs[{position}].datatype"),
            format_args!(
                "expected {} for input {}, got {}",
                spec.datatype,
                Echo(&spec.name),
                tensor.datatype()
            ),
        )
        .because(Reason::WrongDatatype {
            input: spec.name.clone(),
            got: tensor.datatype().name(),
            expected: spec.datatype.name(),
        }));
    }
    let Some(dimensions) = &spec.shape else { return Ok(()) };
    if dimensions.len() != tensor.shape().len() {
        return Err(Error::invalid(
            format!("inputs[{position}].shape"),
            format_args!(
                "expected rank {} {} for input {}, got rank {} {}",
                dimensions.len(),
                spec.display_shape(),
                Echo(&spec.name),
                tensor.shape().len(),
                tensor.shape()
            ),
        )
        .because(wrong_shape(spec, tensor)));
    }
    for (axis, (dimension, &size)) in dimensions.iter().zip(tensor.shape().iter()).enumerate() {
        if let Dimension::Fixed(expected) = dimension
            && *expected != size
        {
            return Err(Error::invalid(
                format!("inputs[{position}].shape[{axis}]"),
                format_args!(
                    "expected {expected}, got {size}; input {} takes {}",
                    Echo(&spec.name),
                    spec.display_shape()
                ),
            )
            .because(wrong_shape(spec, tensor)));
        }
    }
    Ok(())
}

fn wrong_shape(spec: &TensorSpec, tensor: &Tensor) -> Reason {
    let text = |sizes: Vec<String>| format!("[{}]", sizes.join(","));
    Reason::WrongShape {
        input: spec.name.clone(),
        expected: text(spec.wire_shape().iter().map(i64::to_string).collect()),
        got: text(tensor.shape().iter().map(usize::to_string).collect()),
    }
}

/// The most that the dimensions of a tensor without elements may multiply to, zeros left out: nothing was sent, and a
/// model may allocate by the dimensions.
const MAX_EMPTY: usize = 1 << 16;

fn check_empty(position: usize, tensor: &Tensor) -> Result<()> {
    let shape = tensor.shape();
    let product =
        shape.iter().filter(|&&size| size > 0).try_fold(1_usize, |product, &size| product.checked_mul(size));
    if shape.element_count() > 0 || product.is_some_and(|product| product <= MAX_EMPTY) {
        return Ok(());
    }
    Err(Error::invalid(
        format!("inputs[{position}].shape"),
        format_args!("expected at most {MAX_EMPTY} rows without elements, got shape {shape}"),
    ))
}

/// Checks dimension 0, where it is free, against the limit of the model's owner.
fn check_first_dimension(
    spec: &TensorSpec,
    position: usize,
    tensor: &Tensor,
    limit: Option<NonZeroUsize>,
) -> Result<()> {
    let is_free = matches!(spec.shape.as_deref(), Some([Dimension::Dynamic(_), ..]) | None);
    let (Some(limit), Some(rows), true) = (limit, tensor.shape().rows(), is_free) else { return Ok(()) };
    if rows <= limit.get() {
        return Ok(());
    }
    Err(Error::invalid(
        format!("inputs[{position}].shape[0]"),
        format_args!("{rows} > {limit}: expected at most max_batch_size rows, got {rows}"),
    )
    .because(Reason::TooManyRows(limit.get())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, dimensions: &[i64]) -> TensorSpec {
        let dimension =
            |&size: &i64| usize::try_from(size).map_or(Dimension::Dynamic(None), Dimension::Fixed);
        let shape = Some(dimensions.iter().map(dimension).collect());
        TensorSpec { name: name.to_owned(), datatype: DataType::Fp32, shape }
    }

    fn signature() -> Signature {
        Signature {
            inputs: vec![spec("a", &[-1, 3]), spec("b", &[-1, -1])],
            outputs: vec![spec("y", &[-1]), spec("z", &[-1])],
        }
    }

    fn zeros(dimensions: &[usize]) -> Tensor {
        Tensor::from_vec(dimensions, vec![0.0_f32; dimensions.iter().product()]).unwrap()
    }

    fn named(inputs: &[(&str, &[usize])]) -> Inputs {
        let named = |&(name, dimensions): &(&str, &[usize])| NamedTensor::new(name, zeros(dimensions));
        Inputs::Named(inputs.iter().map(named).collect())
    }

    #[test]
    fn inputs_come_into_the_models_order() {
        let admitted = signature()
            .admit(named(&[("b", &[2, 5]), ("a", &[2, 3])]), &["z".to_owned()], true, None)
            .unwrap();
        assert_eq!(&**admitted.inputs[0].shape(), &[2, 3]);
        assert_eq!((admitted.rows, &admitted.key[..], admitted.outputs), (2, &[5][..], Some(vec![1])));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let check = |inputs: Inputs, outputs: &[&str], field: &str, text: &str| {
            let outputs: Vec<_> = outputs.iter().map(|&name| name.to_owned()).collect();
            let error = signature().admit(inputs, &outputs, true, NonZeroUsize::new(4)).unwrap_err();
            assert_eq!(error.field(), Some(field), "{error}");
            assert!(error.message().contains(text), "{error}");
        };
        let good: &[(&str, &[usize])] = &[("a", &[1, 3]), ("b", &[1, 1])];
        check(named(&[]), &[], "inputs", "missing `a`, `b`");
        check(named(&good[..1]), &[], "inputs", "missing `b`");
        check(Inputs::One(zeros(&[1, 3])), &[], "inputs", "by name");
        check(named(&[("NOPE", &[1])]), &[], "inputs[0].name", "expected one of `a`, `b`, got `NOPE`");
        check(named(&[good[0], good[0]]), &[], "inputs[1].name", "duplicate");
        check(named(&[("a", &[1]), good[1]]), &[], "inputs[0].shape", "expected rank 2 [?, 3]");
        check(named(&[("a", &[1, 4]), good[1]]), &[], "inputs[0].shape[1]", "expected 3, got 4");
        check(named(&[("a", &[0, 3]), good[1]]), &[], "inputs[0].shape[0]", "at least 1");
        check(named(&[("a", &[1, 3]), ("b", &[2, 1])]), &[], "inputs[1].shape[0]", "inputs[0]");
        check(named(&[("a", &[5, 3]), ("b", &[5, 1])]), &[], "inputs[0].shape[0]", "5 > 4");
        check(named(&[("a", &[1, 3]), ("b", &[1 << 40, 0])]), &[], "inputs[1].shape", "without elements");
        check(named(good), &["q"], "outputs[0].name", "expected one of `y`, `z`");
        check(named(good), &["y", "y"], "outputs[1].name", "duplicate");
        let wrong_type = NamedTensor::new("a", Tensor::from_vec(&[1, 3], vec![1_i64, 2, 3]).unwrap());
        let inputs = Inputs::Named(vec![wrong_type, NamedTensor::new("b", zeros(&[1, 1]))]);
        check(inputs, &[], "inputs[0].datatype", "expected FP32 for input `a`, got INT64");
    }
}
