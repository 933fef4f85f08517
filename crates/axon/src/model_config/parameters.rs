//! The parameters of a configuration that Axon acts on; those of ONNX Runtime's sessions are Axon's to choose.

use std::num::NonZeroU32;
use std::time::Duration;

use super::check::Checker;
use super::fields::Fields;
use super::{Backend, ModelConfiguration};
use crate::config::{Batching, MAX_TIMEOUT, Profile};
use crate::error::{Echo, Result};

/// How long each run of the backend `identity` takes.
const EXECUTE_DELAY: &str = "execute_delay_ms";

/// The longest made-up run of the backend `identity`.
const MAX_EXECUTE_DELAY_MS: u64 = 60_000;

/// The longest that an idle model can be kept: ten years.
const MAX_KEEP_ALIVE_S: f64 = 315_360_000.0;

/// Whether requests may share a run; `batching` in `model.toml`.
pub(super) const BATCHING: &str = "axon_batching";

/// The time within which requests are to be answered that do not say, in milliseconds; `latency_target_ms` in
/// `model.toml`.
pub(super) const LATENCY_TARGET: &str = "latency_target_ms";

/// What instances and threads are chosen for; `profile` in `model.toml`.
pub(super) const PROFILE: &str = "axon_profile";

/// Whether the model stays loaded once it is; `pin` in `model.toml`.
pub(super) const PIN: &str = "axon_pin";

/// How long the model stays loaded when nobody uses it, in seconds; `keep_alive_s` in `model.toml`.
pub(super) const KEEP_ALIVE: &str = "axon_keep_alive_s";

/// Its part of the device's time against those of other models; `weight` in `model.toml`.
pub(super) const WEIGHT: &str = "axon_weight";

/// How long an answer is kept, in seconds; `response_cache.ttl_s` in `model.toml`.
pub(super) const RESPONSE_CACHE_TTL: &str = "axon_response_cache_ttl_s";

/// The longest that an answer can be kept: ten years.
const MAX_TTL_S: f64 = 315_360_000.0;

/// The greatest weight.
const MAX_WEIGHT: u32 = 1000;

/// What the parameters say.
#[derive(Clone, Debug, Default)]
pub(super) struct Parameters {
    /// How long each run of the backend `identity` takes.
    pub execute_delay: Duration,
    /// Whether requests may share a run.
    pub batching: Option<Batching>,
    /// The time within which requests are to be answered that do not say.
    pub latency_target: Option<Duration>,
    /// What instances and threads are chosen for.
    pub profile: Option<Profile>,
    /// Whether the model stays loaded once it is.
    pub pin: bool,
    /// How long the model stays loaded when nobody uses it.
    pub keep_alive: Option<Duration>,
    /// Its part of the device's time against those of other models.
    pub weight: Option<NonZeroU32>,
    /// How long an answer is kept.
    pub response_cache_ttl: Option<Duration>,
    /// How answers are kept; `None` for none.
    pub response_cache: Option<ResponseCaching>,
}

/// How the answers of a model are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseCaching {
    /// How long each is kept at most; `None` for as long as there is room.
    pub ttl: Option<Duration>,
}

impl ModelConfiguration {
    /// Whether the model stays loaded once it is.
    #[must_use]
    pub fn pin(&self) -> bool {
        self.checked.parameters.pin
    }

    /// How long the model stays loaded when nobody uses it; `None` for as long as there is room.
    #[must_use]
    pub fn keep_alive(&self) -> Option<Duration> {
        self.checked.parameters.keep_alive
    }

    /// How its answers are kept for the same questions; `None` where they are not.
    #[must_use]
    pub fn response_cache(&self) -> Option<ResponseCaching> {
        self.checked.parameters.response_cache
    }

    /// Its part of the device's time against those of other models, 1 to 1000; `None` leaves it to the server.
    #[must_use]
    pub fn weight(&self) -> Option<NonZeroU32> {
        self.checked.parameters.weight
    }
}

impl Checker<'_> {
    /// What the parameters say.
    pub fn parameters(&mut self, fields: &Fields, backend: Option<Backend>) -> Result<Parameters> {
        let mut read = Parameters::default();
        for (name, parameter) in &fields.parameters {
            let value = &parameter.string_value;
            match name.as_str() {
                BATCHING => {
                    let parsed = value.parse().map_err(|_| {
                        let problem = format_args!("expected `auto`, `off` or `always`, got {}", Echo(value));
                        self.error(&format!("parameters.{BATCHING}"), problem)
                    })?;
                    read.batching = Some(parsed);
                }
                EXECUTE_DELAY if backend == Some(Backend::Identity) => {
                    read.execute_delay = self.execute_delay(value)?;
                }
                PROFILE => {
                    let parsed = value.parse().map_err(|_| {
                        let problem = format_args!("expected `throughput` or `latency`, got {}", Echo(value));
                        self.error(&format!("parameters.{PROFILE}"), problem)
                    })?;
                    read.profile = Some(parsed);
                }
                PIN => {
                    let parsed = value.parse().map_err(|_| {
                        let problem = format_args!("expected `true` or `false`, got {}", Echo(value));
                        self.error(&format!("parameters.{PIN}"), problem)
                    })?;
                    read.pin = parsed;
                }
                KEEP_ALIVE => read.keep_alive = Some(self.keep_alive(value)?),
                RESPONSE_CACHE_TTL => read.response_cache_ttl = Some(self.ttl(value)?),
                WEIGHT => read.weight = Some(self.weight(value)?),
                LATENCY_TARGET => read.latency_target = Some(self.latency_target(value)?),
                _ => self.unused(&format!("parameters.{}", name.escape_debug())),
            }
        }
        Ok(read)
    }

    fn latency_target(&self, value: &str) -> Result<Duration> {
        let milliseconds = value.parse().ok().filter(|milliseconds: &f64| milliseconds.is_finite());
        let target =
            milliseconds.and_then(|milliseconds| Duration::try_from_secs_f64(milliseconds / 1e3).ok());
        target.filter(|target| !target.is_zero() && *target <= MAX_TIMEOUT).ok_or_else(|| {
            let most = MAX_TIMEOUT.as_millis();
            let problem = format_args!("expected milliseconds, more than 0 to {most}, got {}", Echo(value));
            self.error(&format!("parameters.{LATENCY_TARGET}"), problem)
        })
    }

    fn keep_alive(&self, value: &str) -> Result<Duration> {
        let seconds = value.parse().ok().filter(|seconds: &f64| (0.0..=MAX_KEEP_ALIVE_S).contains(seconds));
        seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(|| {
            let problem = format_args!("expected seconds from 0 to {MAX_KEEP_ALIVE_S}, got {}", Echo(value));
            self.error(&format!("parameters.{KEEP_ALIVE}"), problem)
        })
    }

    /// How answers are kept. A stateful model's depend on more than the question.
    pub fn response_cache(&mut self, fields: &Fields, read: &Parameters) -> Result<Option<ResponseCaching>> {
        let ttl = read.response_cache_ttl;
        if !fields.response_cache.as_ref().is_some_and(|cache| cache.enable) {
            if ttl.is_some() {
                self.unused(&format!("parameters.{RESPONSE_CACHE_TTL}"));
            }
            return Ok(None);
        }
        if fields.sequence_batching.is_some() {
            let problem =
                "expected false for a stateful model, whose answers depend on its sequence, got true";
            return Err(self.error("response_cache.enable", problem));
        }
        Ok(Some(ResponseCaching { ttl }))
    }

    fn ttl(&self, value: &str) -> Result<Duration> {
        let seconds = value.parse().ok().filter(|seconds: &f64| (0.0..=MAX_TTL_S).contains(seconds));
        let ttl = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        ttl.filter(|ttl| !ttl.is_zero()).ok_or_else(|| {
            let problem = format_args!("expected seconds, more than 0 to {MAX_TTL_S}, got {}", Echo(value));
            self.error(&format!("parameters.{RESPONSE_CACHE_TTL}"), problem)
        })
    }

    fn weight(&self, value: &str) -> Result<NonZeroU32> {
        let weight = value.parse().ok().filter(|weight: &NonZeroU32| weight.get() <= MAX_WEIGHT);
        weight.ok_or_else(|| {
            let problem = format_args!("expected an integer from 1 to {MAX_WEIGHT}, got {}", Echo(value));
            self.error(&format!("parameters.{WEIGHT}"), problem)
        })
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
