//! What an instance runs: one execution context that one thread owns.

use std::sync::Arc;
use std::time::Duration;

use synapse::Tensor;

use crate::error::Result;
use crate::onnx;

/// One run of a model.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The inputs, in the model's order.
    pub inputs: &'a [Tensor],
    /// How much longer than it needs a test executor is asked to take; a model's own ignores it.
    pub delay: Duration,
}

/// Runs a model on inputs that fit its signature, in the model's order.
pub trait Executor: Send {
    /// Runs the model once; the outputs are in the model's order.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind) when the values are to blame,
    /// [`ErrorKind::ExecutionFailed`](crate::ErrorKind) otherwise.
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>>;

    /// Runs the model for requests, which may ask a test executor to be slow.
    ///
    /// # Errors
    /// As [`Executor::run`].
    fn run_for(&mut self, run: &Run<'_>) -> Result<Vec<Tensor>> {
        self.run(run.inputs)
    }
}

impl Executor for Arc<onnx::Session> {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        onnx::Session::run(self, inputs)
    }
}
