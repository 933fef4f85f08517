//! A test executor: no model, outputs are the inputs, after a delay that is configured or that a request asks for.
//!
//! It makes queues, timeouts and cancellation testable without a model that happens to be slow.

use std::time::Duration;

use synapse::Tensor;

use super::{Executor, Run};
use crate::error::{Error, Result};
use crate::stop::StopSignal;

/// Answers with its inputs.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    delay: Duration,
}

impl Identity {
    /// Each run takes `delay`, however many rows it has.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        Self { delay }
    }
}

impl Executor for Identity {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run_for(&Run { inputs, delay: Duration::ZERO, stop: &StopSignal::default() })
    }

    fn run_for(&mut self, run: &Run<'_>) -> Result<Vec<Tensor>> {
        // Whatever is longer: the model's own delay, or the longest that a request of the batch asks for.
        let delay = self.delay.max(run.delay);
        if !delay.is_zero() && run.stop.wait(delay) {
            return Err(Error::stopped());
        }
        Ok(run.inputs.to_vec())
    }
}
