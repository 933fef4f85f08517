//! A test executor: no model, outputs are the inputs, after a delay that is configured or that a request asks for.
//!
//! It makes queues, timeouts and cancellation testable without a model that happens to be slow.

use std::time::Duration;

use synapse::Tensor;

use super::{Executor, Run};
use crate::error::{Error, Result};
use crate::request::Parameter;
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

/// The longest that a request can ask a test executor to take, in milliseconds.
const MAX_EXECUTE_DELAY_MS: u64 = 60_000;

/// How long a request asks a test executor to take.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](crate::ErrorKind) at the parameter for another value.
pub fn execute_delay(parameters: &[(String, Parameter)]) -> Result<Duration> {
    const KEY: &str = "execute_delay_ms";
    let Some((_, parameter)) = parameters.iter().find(|(key, _)| key == KEY) else {
        return Ok(Duration::ZERO);
    };
    let milliseconds = match parameter {
        Parameter::Uint(milliseconds) => Some(*milliseconds),
        Parameter::Int(milliseconds) => u64::try_from(*milliseconds).ok(),
        _ => None,
    };
    let milliseconds = milliseconds.filter(|milliseconds| *milliseconds <= MAX_EXECUTE_DELAY_MS);
    milliseconds.map(Duration::from_millis).ok_or_else(|| {
        Error::invalid(
            "parameters.execute_delay_ms",
            format_args!("expected an integer from 0 to {MAX_EXECUTE_DELAY_MS}, got {parameter:?}"),
        )
    })
}
