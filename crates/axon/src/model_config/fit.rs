//! Checks a configuration against the model it is about, and finds what clients and model see of each other.

use std::fmt;
use std::num::NonZeroUsize;

use synapse::{DataType, Shape, Tensor};

use super::check::data_type_name;
use super::{Backend, ModelConfiguration, TensorConfig};
use crate::error::{Echo, Error, Result, echo_names};
use crate::signature::{Dimension, Signature, TensorSpec};

/// The rows that Triton batches where a model can batch and nothing is said.
/// **Source:** its setting `default-max-batch-size`.
pub(super) const DEFAULT_MAX_BATCH_SIZE: usize = 4;

/// A configuration that fits its model.
#[derive(Clone, Debug)]
pub struct Fit {
    /// What clients see.
    pub signature: Signature,
    /// How it becomes what the model sees; `None` when they are the same.
    pub layout: Option<Layout>,
    /// The most rows of a request, where the configuration says so.
    pub max_batch_size: Option<NonZeroUsize>,
    /// False when dimension 0 counts no rows, whatever the probe finds.
    pub may_batch: bool,
    /// True when every input and output begins with a dimension of any size.
    pub can_batch: bool,
    pub(super) inputs: Vec<TensorConfig>,
    pub(super) outputs: Vec<TensorConfig>,
    /// True when Triton would have filled in what was left out.
    pub(super) is_completed: bool,
}

/// Which tensor comes from where, and its two shapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The position on the other side.
    pub from: usize,
    /// The dimensions before, without rows; -1 for any size.
    pub before: Vec<i64>,
    /// The dimensions after: as many of any size, in the same order.
    pub after: Vec<i64>,
}

/// How the tensors that clients see become those that the model sees, and back. No bytes move.
///
/// Clients' inputs are in the configuration's order, after them the control inputs and then the states of
/// [`SequenceBatching`](super::sequence::SequenceBatching); outputs are the same way followed by the states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The model's inputs in its order, from the clients'.
    pub inputs: Vec<Slot>,
    /// The clients' outputs in their order, from the model's.
    pub outputs: Vec<Slot>,
    /// True when dimension 0 of all is rows, which the slots leave out.
    pub is_batched: bool,
}

impl Layout {
    /// The tensors that the model takes.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::ErrorKind) when the tensors are not those of the layout.
    pub fn to_model(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.inputs.iter().map(|slot| self.take(slot, inputs)).collect()
    }

    /// The tensors that clients get.
    ///
    /// # Errors
    /// As for [`Layout::to_model`].
    pub fn to_client(&self, outputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.outputs.iter().map(|slot| self.take(slot, outputs)).collect()
    }

    fn take(&self, slot: &Slot, tensors: &[Tensor]) -> Result<Tensor> {
        let tensor =
            tensors.get(slot.from).ok_or_else(|| Error::internal("a tensor of the layout is missing"))?;
        if slot.before == slot.after {
            return Ok(tensor.clone());
        }
        let sizes = tensor.shape();
        let (rows, sizes) = sizes.split_at(usize::from(self.is_batched).min(sizes.len()));
        let mut any = sizes.iter().zip(&slot.before).filter(|&(_, &size)| size < 0).map(|(&size, _)| size);
        let size = |&size: &i64| usize::try_from(size).unwrap_or_else(|_| any.next().unwrap_or(1));
        let sizes: Vec<usize> = rows.iter().copied().chain(slot.after.iter().map(size)).collect();
        let shape = Shape::new(&sizes).map_err(Error::internal)?;
        Tensor::new(tensor.datatype(), shape, tensor.memory().clone()).map_err(Error::internal)
    }
}

/// Both sides of the model.
#[derive(Clone, Copy)]
enum Side {
    Input,
    Output,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Output => "output",
        })
    }
}

impl ModelConfiguration {
    /// Checks the configuration against what the model file says, and completes it as Triton does: what it leaves out
    /// is the model's.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`](crate::ErrorKind) that names the field and says both sides.
    pub fn fit(&self, model: &Signature) -> Result<Fit> {
        let begins_dynamic = |spec: &TensorSpec| {
            spec.shape.as_ref().is_some_and(|shape| matches!(shape.first(), Some(Dimension::Dynamic(_))))
        };
        let specs = || model.inputs.iter().chain(&model.outputs);
        let can_batch = !model.inputs.is_empty() && specs().all(begins_dynamic);
        let max_batch_size = self.max_batch_size();
        let is_completed = self.inputs().is_empty() || self.outputs().is_empty();
        let is_batched = max_batch_size.is_some() || (is_completed && can_batch);
        if let Some(rows) = max_batch_size {
            self.check_rows(model, rows)?;
        }
        let fitting = Fitting { configuration: self, model, is_batched };
        let inputs = fitting.complete(Side::Input)?;
        let outputs = fitting.complete(Side::Output)?;
        let mut fit = Fit {
            signature: model.clone(),
            layout: None,
            max_batch_size,
            may_batch: is_batched || !self.is_given(),
            can_batch,
            is_completed,
            inputs,
            outputs,
        };
        if self.is_given() {
            let layout = fitting.layout(&fit.inputs, &fit.outputs)?;
            fit.signature = Signature {
                inputs: fit.inputs.iter().map(|tensor| fitting.spec(Side::Input, tensor)).collect(),
                outputs: fit.outputs.iter().map(|tensor| fitting.spec(Side::Output, tensor)).collect(),
            };
            fit.layout = Some(layout).filter(|layout| !layout.is_plain(model));
        }
        Ok(fit)
    }

    /// Checks that the model takes any number of rows, or the one that is configured.
    fn check_rows(&self, model: &Signature, rows: NonZeroUsize) -> Result<()> {
        let sides = [(Side::Input, &model.inputs), (Side::Output, &model.outputs)];
        for (side, spec) in sides.iter().flat_map(|(side, specs)| specs.iter().map(move |spec| (side, spec)))
        {
            let takes = match &spec.shape {
                None => true,
                Some(shape) => match shape.first() {
                    None => false,
                    Some(Dimension::Dynamic(_)) => true,
                    Some(Dimension::Fixed(size)) => *size == rows.get() && rows.get() == 1,
                },
            };
            if !takes {
                let problem = format_args!(
                    "expected 0, got {rows}: the model does not batch; dimension 0 of its {side} {} is not free",
                    Echo(&spec.name)
                );
                return Err(self.error("max_batch_size", problem));
            }
        }
        Ok(())
    }

    /// The fit of the backend `identity`, whose configuration says all that there is.
    ///
    /// # Errors
    /// When its inputs and outputs are not pairs.
    pub fn fit_identity(&self) -> Result<Fit> {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        if inputs.is_empty() || inputs.len() != outputs.len() {
            let problem = format_args!(
                "expected as many outputs as inputs, and at least one, for the backend identity; got {} and {}",
                outputs.len(),
                inputs.len()
            );
            return Err(self.error("output", problem));
        }
        if self.sequence().is_some() {
            return Err(self.error("sequence_batching", "the backend identity has no sequences"));
        }
        for (index, (input, output)) in inputs.iter().zip(outputs).enumerate() {
            if (input.datatype, &input.dims) != (output.datatype, &output.dims) {
                let problem = format_args!(
                    "expected {} {:?} as input[{index}], got {} {:?}",
                    data_type_name(input.datatype),
                    input.dims,
                    data_type_name(output.datatype),
                    output.dims
                );
                return Err(self.error(&format!("output[{index}]"), problem));
            }
        }
        let is_batched = self.max_batch_size().is_some();
        let spec = |tensor: &TensorConfig| client_spec(tensor, is_batched, None);
        Ok(Fit {
            signature: Signature {
                inputs: inputs.iter().map(spec).collect(),
                outputs: outputs.iter().map(spec).collect(),
            },
            layout: None,
            max_batch_size: self.max_batch_size(),
            may_batch: is_batched,
            can_batch: is_batched,
            is_completed: false,
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
        })
    }

    /// True when the backend needs no model file.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.backend() == Backend::Identity
    }
}

impl Layout {
    /// True when it changes nothing.
    fn is_plain(&self, model: &Signature) -> bool {
        let plain = |slots: &[Slot], count: usize| {
            slots.len() == count
                && slots
                    .iter()
                    .enumerate()
                    .all(|(index, slot)| slot.from == index && slot.before == slot.after)
        };
        plain(&self.inputs, model.inputs.len()) && plain(&self.outputs, model.outputs.len())
    }
}

struct Fitting<'a> {
    configuration: &'a ModelConfiguration,
    model: &'a Signature,
    is_batched: bool,
}

impl Fitting<'_> {
    fn specs(&self, side: Side) -> &[TensorSpec] {
        match side {
            Side::Input => &self.model.inputs,
            Side::Output => &self.model.outputs,
        }
    }

    /// The names that the server deals with itself: control inputs and states.
    fn own_names(&self, side: Side) -> Vec<&str> {
        let Some(sequence) = self.configuration.sequence() else { return Vec::new() };
        match side {
            Side::Input => {
                let controls = sequence.controls.iter().map(|control| control.name.as_str());
                controls.chain(sequence.states.iter().map(|state| state.input.as_str())).collect()
            }
            Side::Output => sequence.states.iter().map(|state| state.output.as_str()).collect(),
        }
    }

    /// The configured tensors of one side, checked; the model's where none are.
    fn complete(&self, side: Side) -> Result<Vec<TensorConfig>> {
        let configured = match side {
            Side::Input => self.configuration.inputs(),
            Side::Output => self.configuration.outputs(),
        };
        if configured.is_empty() {
            let own = self.own_names(side);
            let others = self.specs(side).iter().filter(|spec| !own.contains(&spec.name.as_str()));
            return Ok(others.map(|spec| self.derive(spec)).collect());
        }
        for (index, tensor) in configured.iter().enumerate() {
            let at = format!("{side}[{index}]");
            let dims = tensor.reshape.as_ref().unwrap_or(&tensor.dims);
            let spec = self.find(side, &format!("{at}.name"), &tensor.name)?;
            self.check(&at, spec, tensor.datatype, dims)?;
        }
        Ok(configured.to_vec())
    }

    /// What Triton fills in: no dimension left counts as one of size 1.
    fn derive(&self, spec: &TensorSpec) -> TensorConfig {
        let dims = self.row_dims(spec);
        let is_scalar = dims.is_empty();
        TensorConfig {
            name: spec.name.clone(),
            datatype: spec.datatype,
            dims: if is_scalar { vec![1] } else { dims },
            reshape: (is_scalar && self.is_batched).then(Vec::new),
            labels: None,
        }
    }

    /// The dimensions of the model's tensor without rows; `[-1]` where the model does not fix the rank.
    fn row_dims(&self, spec: &TensorSpec) -> Vec<i64> {
        let mut dims = spec.wire_shape();
        if self.is_batched && spec.shape.is_some() && !dims.is_empty() {
            dims.remove(0);
        }
        dims
    }

    fn find(&self, side: Side, path: &str, name: &str) -> Result<&TensorSpec> {
        let specs = self.specs(side);
        specs.iter().find(|spec| spec.name == name).ok_or_else(|| {
            let names = echo_names(specs.iter().map(|spec| spec.name.as_str()));
            self.configuration.error(path, format_args!("config {}, model {names}", Echo(name)))
        })
    }

    fn check(&self, at: &str, spec: &TensorSpec, datatype: DataType, dims: &[i64]) -> Result<()> {
        if datatype != spec.datatype {
            let problem =
                format_args!("config {}, model {}", data_type_name(datatype), data_type_name(spec.datatype));
            return Err(self.configuration.error(&format!("{at}.data_type"), problem));
        }
        if spec.shape.is_none() {
            return Ok(());
        }
        let model = self.row_dims(spec);
        // `[1]` stands for a scalar where no rows are counted.
        let is_scalar = !self.is_batched && model.is_empty() && dims == [1];
        let fits = model.len() == dims.len()
            && model.iter().zip(dims).all(|(&model, &config)| model == -1 || model == config);
        if fits || is_scalar {
            return Ok(());
        }
        let rows = match (self.is_batched, self.configuration.max_batch_size()) {
            (true, Some(rows)) => {
                format!("; both without the dimension of rows that max_batch_size {rows} means")
            }
            (true, None) => "; both without the dimension of rows".to_owned(),
            (false, _) if model.len() == dims.len() + 1 => {
                "\nhint: set max_batch_size where dimension 0 is rows".to_owned()
            }
            (false, _) => String::new(),
        };
        let problem = format_args!("config {dims:?}, model {model:?}{rows}");
        Err(self.configuration.error(&format!("{at}.dims"), problem))
    }

    fn spec(&self, side: Side, tensor: &TensorConfig) -> TensorSpec {
        let model = self.specs(side).iter().find(|spec| spec.name == tensor.name);
        let mut spec = client_spec(tensor, self.is_batched, model);
        if model.is_some_and(|model| model.shape.is_none()) {
            spec.shape = None;
        }
        spec
    }

    fn layout(&self, inputs: &[TensorConfig], outputs: &[TensorConfig]) -> Result<Layout> {
        let sequence = self.configuration.sequence();
        let mut given: Vec<(&str, Vec<i64>)> =
            inputs.iter().map(|input| (input.name.as_str(), input.dims.clone())).collect();
        let mut taken: Vec<(&str, Vec<i64>)> =
            outputs.iter().map(|output| (output.name.as_str(), output.dims.clone())).collect();
        for (index, control) in sequence.iter().flat_map(|sequence| &sequence.controls).enumerate() {
            let at = format!("sequence_batching.control_input[{index}]");
            let spec = self.find(Side::Input, &format!("{at}.name"), &control.name)?;
            self.check(&at, spec, control.datatype, &[1])?;
            given.push((&control.name, vec![1]));
        }
        for (index, state) in sequence.iter().flat_map(|sequence| &sequence.states).enumerate() {
            let at = format!("sequence_batching.state[{index}]");
            for (side, field, name) in
                [(Side::Input, "input_name", &state.input), (Side::Output, "output_name", &state.output)]
            {
                let spec = self.find(side, &format!("{at}.{field}"), name)?;
                self.check(&at, spec, state.datatype, &state.dims)?;
            }
            given.push((&state.input, state.dims.clone()));
            taken.push((&state.output, state.dims.clone()));
        }
        let inputs = self.model.inputs.iter().map(|spec| {
            let from = given.iter().position(|(name, _)| *name == spec.name).ok_or_else(|| {
                let names = echo_names(given.iter().map(|(name, _)| *name));
                let problem = format_args!("config {names}, model has {} too", Echo(&spec.name));
                self.configuration.error("input", problem)
            })?;
            let before = given.get(from).map(|(_, dims)| dims.clone()).unwrap_or_default();
            let after = model_dims(inputs, spec, &before);
            Ok(Slot { from, before, after })
        });
        let inputs = inputs.collect::<Result<_>>()?;
        let outputs = taken.into_iter().map(|(name, after)| {
            let from = self.model.outputs.iter().position(|spec| spec.name == name);
            let from = from.ok_or_else(|| Error::internal("an output that was found is gone"))?;
            let before = model_dims(outputs, &self.model.outputs[from], &after);
            Ok(Slot { from, before, after })
        });
        Ok(Layout { inputs, outputs: outputs.collect::<Result<_>>()?, is_batched: self.is_batched })
    }
}

/// A tensor as clients see it; dimensions of any size keep the names that the model gives them.
fn client_spec(tensor: &TensorConfig, is_batched: bool, model: Option<&TensorSpec>) -> TensorSpec {
    let named = model.and_then(|spec| spec.shape.as_ref());
    let keeps_axes = tensor.reshape.is_none();
    let dimension = |(axis, &size): (usize, &i64)| {
        usize::try_from(size).map_or_else(
            |_| {
                let axis = axis + usize::from(is_batched);
                match named.filter(|_| keeps_axes).and_then(|shape| shape.get(axis)) {
                    Some(Dimension::Dynamic(name)) => Dimension::Dynamic(name.clone()),
                    _ => Dimension::Dynamic(None),
                }
            },
            Dimension::Fixed,
        )
    };
    let rows = named.and_then(|shape| shape.first()).cloned().filter(|_| is_batched);
    let rows = rows.unwrap_or(Dimension::Dynamic(None));
    let dims = tensor.dims.iter().enumerate().map(dimension);
    let shape = is_batched.then_some(rows).into_iter().chain(dims).collect();
    TensorSpec { name: tensor.name.clone(), datatype: tensor.datatype, shape: Some(shape) }
}

/// The dimensions that the model sees of a tensor that clients see as `dims`.
fn model_dims(tensors: &[TensorConfig], spec: &TensorSpec, dims: &[i64]) -> Vec<i64> {
    let reshape = tensors.iter().find(|tensor| tensor.name == spec.name);
    match reshape.and_then(|tensor| tensor.reshape.clone()) {
        Some(reshape) => reshape,
        None if spec.shape.as_ref().is_some_and(Vec::is_empty) => Vec::new(),
        None => dims.to_vec(),
    }
}
