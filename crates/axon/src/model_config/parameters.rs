//! Checks the parameters that Axon acts on.

use std::time::Duration;

use super::Backend;
use super::check::Checker;
use super::fields::Fields;
use crate::config::Profile;
use crate::error::{Echo, Result};

/// The longest made-up run of the backend `identity`.
const MAX_EXECUTE_DELAY_MS: u64 = 60_000;

/// The name of [`super::check::Checked::execute_delay`] in `parameters`.
const EXECUTE_DELAY: &str = "execute_delay_ms";

/// The name of [`super::check::Checked::profile`] in `parameters`; `model.toml` has a key of its own for it.
pub(super) const PROFILE: &str = "axon_profile";

impl Checker<'_> {
    /// What instances and threads are chosen for.
    pub(super) fn profile(&self, fields: &Fields) -> Result<Option<Profile>> {
        let Some(parameter) = fields.parameters.get(PROFILE) else { return Ok(None) };
        let profile = parameter.string_value.parse();
        let path = format!("parameters.{PROFILE}");
        profile.map(Some).map_err(|_| {
            let got = Echo(&parameter.string_value);
            self.error(&path, format_args!("expected `throughput` or `latency`, got {got}"))
        })
    }

    /// The made-up run time of the backend `identity`; the parameters of ONNX Runtime's sessions are Axon's to choose.
    pub(super) fn parameters(&mut self, fields: &Fields, backend: Option<Backend>) -> Result<Duration> {
        let mut delay = Duration::ZERO;
        for (name, parameter) in fields.parameters.iter().filter(|(name, _)| *name != PROFILE) {
            if !(name == EXECUTE_DELAY && backend == Some(Backend::Identity)) {
                self.unused(&format!("parameters.{}", name.escape_debug()));
                continue;
            }
            let milliseconds = parameter.string_value.parse().ok();
            let milliseconds =
                milliseconds.filter(|&milliseconds: &u64| milliseconds <= MAX_EXECUTE_DELAY_MS);
            let milliseconds = milliseconds.ok_or_else(|| {
                self.error(
                    &format!("parameters.{EXECUTE_DELAY}"),
                    format_args!(
                        "expected milliseconds from 0 to {MAX_EXECUTE_DELAY_MS}, got {}",
                        Echo(&parameter.string_value)
                    ),
                )
            })?;
            delay = Duration::from_millis(milliseconds);
        }
        Ok(delay)
    }
}
