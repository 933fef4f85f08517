//! What an instance runs: one execution context that one thread owns.

use std::sync::Arc;

use synapse::Tensor;

use crate::error::Result;
use crate::onnx;

/// Runs a model on inputs that fit its signature, in the model's order.
pub trait Executor: Send {
    /// Runs the model once; the outputs are in the model's order.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind) when the values are to blame,
    /// [`ErrorKind::ExecutionFailed`](crate::ErrorKind) otherwise.
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>>;
}

impl Executor for Arc<onnx::Session> {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        onnx::Session::run(self, inputs)
    }
}
