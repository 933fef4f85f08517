//! How a caller is told that a model is not loaded now, and when to try again.

use std::time::Duration;

use crate::error::{Echo, Error, ErrorKind};
use crate::residency::Refusal;

pub(super) fn overloaded(name: &str, retry_after: Duration) -> Error {
    let message = format!("model {}: too many requests wait for models that are not loaded", Echo(name));
    Error::new(ErrorKind::Overloaded, message).with_retry_after(retry_after)
}

/// That a model is here and was never loaded.
pub(super) fn not_loaded(name: &str) -> Error {
    let message = format!("model {} is not loaded; a request for an answer of it loads it", Echo(name));
    Error::new(ErrorKind::ModelNotReady, message).with_field("model_name")
}

pub(super) fn coming(name: &str, ready_in: Duration) -> Error {
    let seconds = ready_in.as_secs_f64();
    let message = format!("model {} is being loaded, and foretold to be ready in {seconds:.1} s", Echo(name));
    Error::new(ErrorKind::ModelNotReady, message).with_retry_after(ready_in)
}

/// That a load failed; `retry_after` where it is not tried again before.
pub(super) fn failed(name: &str, error: &Error, retry_after: Option<Duration>) -> Error {
    let message = format!("model {} cannot be loaded: {}", Echo(name), error.message());
    let told = Error::new(ErrorKind::ModelNotReady, message).with_source(error.cause().unwrap_or_default());
    match retry_after {
        Some(retry_after) => told.with_retry_after(retry_after),
        None => told,
    }
}

pub(super) fn refused(name: &str, refusal: Refusal, failure: Option<&Error>) -> Error {
    let not_ready = |problem: &str, retry_after: Duration| {
        Error::new(ErrorKind::ModelNotReady, format!("model {} is not loaded: {problem}", Echo(name)))
            .with_retry_after(retry_after)
    };
    match refusal {
        Refusal::Unknown => Error::internal("a model is known by name and not by number"),
        Refusal::TooLarge { bytes, budget } => Error::new(
            ErrorKind::ModelNotReady,
            format!("model {} takes {bytes} bytes, more than the memory budget of {budget}", Echo(name)),
        ),
        Refusal::Failed { retry_after } => match failure {
            Some(error) => failed(name, error, Some(retry_after)),
            None => not_ready("its last load failed", retry_after),
        },
        Refusal::NoRoom { retry_after } => not_ready("nothing may leave for it", retry_after),
        Refusal::NotWorthIt { retry_after } => {
            not_ready("what would have to leave is worth more", retry_after)
        }
        Refusal::Busy { retry_after } => not_ready("too many models wait to be loaded", retry_after),
    }
}
