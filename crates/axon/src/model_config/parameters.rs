//! The parameters of a configuration that Axon acts on; those of ONNX Runtime's sessions are Axon's to choose.

use std::time::Duration;

use super::Backend;
use super::check::Checker;
use super::fields::Fields;
use crate::config::Batching;
use crate::error::{Echo, Result};

/// How long each run of the backend `identity` takes.
const EXECUTE_DELAY: &str = "execute_delay_ms";

/// The longest made-up run of the backend `identity`.
const MAX_EXECUTE_DELAY_MS: u64 = 60_000;

/// Whether requests may share a run; `batching` in `model.toml`.
pub(super) const BATCHING: &str = "axon_batching";

impl Checker<'_> {
    /// The made-up run time of the backend `identity`, and whether requests may share a run.
    pub fn parameters(
        &mut self,
        fields: &Fields,
        backend: Option<Backend>,
    ) -> Result<(Duration, Option<Batching>)> {
        let mut delay = Duration::ZERO;
        let mut batching = None;
        for (name, parameter) in &fields.parameters {
            let value = &parameter.string_value;
            match name.as_str() {
                BATCHING => {
                    let parsed = value.parse().map_err(|_| {
                        let problem = format_args!("expected `auto`, `off` or `always`, got {}", Echo(value));
                        self.error(&format!("parameters.{BATCHING}"), problem)
                    })?;
                    batching = Some(parsed);
                }
                EXECUTE_DELAY if backend == Some(Backend::Identity) => delay = self.execute_delay(value)?,
                _ => self.unused(&format!("parameters.{}", name.escape_debug())),
            }
        }
        Ok((delay, batching))
    }

    fn execute_delay(&self, value: &str) -> Result<Duration> {
        let milliseconds = value.parse().ok();
        let milliseconds = milliseconds.filter(|&milliseconds: &u64| milliseconds <= MAX_EXECUTE_DELAY_MS);
        milliseconds.map(Duration::from_millis).ok_or_else(|| {
            self.error(
                &format!("parameters.{EXECUTE_DELAY}"),
                format_args!("expected milliseconds from 0 to {MAX_EXECUTE_DELAY_MS}, got {}", Echo(value)),
            )
        })
    }
}
