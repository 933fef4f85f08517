//! What an instance runs: one execution context that one thread owns.

mod identity;

use std::sync::Arc;
use std::time::Duration;

use synapse::Tensor;

use crate::error::Result;
use crate::model_config::Layout;
use crate::onnx;
use crate::stop::StopSignal;

pub use identity::{Identity, execute_delay};

/// One run of a model.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// The inputs, in the model's order.
    pub inputs: &'a [Tensor],
    /// How much longer than it needs a test executor is asked to take; a model's own ignores it.
    pub delay: Duration,
    /// Tripped when nobody waits for the answer any more.
    pub stop: &'a StopSignal,
}

/// Runs a model on inputs that fit its signature, in the model's order.
pub trait Executor: Send {
    /// Runs the model once; the outputs are in the model's order.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind) when the values are to blame,
    /// [`ErrorKind::ExecutionFailed`](crate::ErrorKind) otherwise.
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>>;

    /// Runs the model for requests, which may ask a test executor to be slow, and may all leave while it runs: it then
    /// stops as soon as it can.
    ///
    /// # Errors
    /// As [`Executor::run`], and [`ErrorKind::Cancelled`](crate::ErrorKind) when it was stopped.
    fn run_for(&mut self, run: &Run<'_>) -> Result<Vec<Tensor>> {
        self.run(run.inputs)
    }
}

impl Executor for Arc<onnx::Session> {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        onnx::Session::run(self, inputs)
    }

    fn run_for(&mut self, run: &Run<'_>) -> Result<Vec<Tensor>> {
        onnx::Session::run_until(self, run.inputs, run.stop)
    }
}

/// An executor whose clients see other tensors than it does.
pub struct Arranged<E> {
    inner: E,
    layout: Arc<Layout>,
}

impl<E: Executor> Arranged<E> {
    /// `inner` behind `layout`.
    pub fn new(inner: E, layout: Arc<Layout>) -> Self {
        Self { inner, layout }
    }
}

impl<E: Executor> Executor for Arranged<E> {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let outputs = self.inner.run(&self.layout.to_model(inputs)?)?;
        self.layout.to_client(&outputs)
    }

    fn run_for(&mut self, run: &Run<'_>) -> Result<Vec<Tensor>> {
        let inputs = self.layout.to_model(run.inputs)?;
        let outputs = self.inner.run_for(&Run { inputs: &inputs, ..*run })?;
        self.layout.to_client(&outputs)
    }
}
