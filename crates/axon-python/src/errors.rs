//! Engine errors on their way to the exceptions of `axon.errors`.
//!
//! An answer's error crosses as data and becomes an exception in Python: a thread that asks while the interpreter
//! ends may be stopped wherever bytecode runs, and must not be stopped beneath Rust's frames.

use axon::{Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::types::PyType;

/// An error as data: class of `axon.errors`, message, field, seconds after which to retry.
pub type NativeError = (&'static str, String, Option<String>, Option<f64>);

/// The exception class of a kind. A kind without one of its own is the server's trouble.
fn class_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidRequest
        | ErrorKind::RequestTooLarge
        | ErrorKind::UriTooLong
        | ErrorKind::UnsupportedMedia
        | ErrorKind::Conflict
        | ErrorKind::PermissionDenied => "InvalidRequest",
        ErrorKind::ModelNotFound | ErrorKind::NotFound => "ModelNotFound",
        ErrorKind::InvalidModel => "InvalidModel",
        ErrorKind::ModelNotReady => "ModelNotReady",
        ErrorKind::Overloaded => "Overloaded",
        ErrorKind::QuotaExceeded => "QuotaExceeded",
        ErrorKind::DeadlineExceeded => "DeadlineExceeded",
        ErrorKind::ExecutionFailed => "ExecutionFailed",
        ErrorKind::ShuttingDown
        | ErrorKind::Cancelled
        | ErrorKind::MethodNotAllowed
        | ErrorKind::Unimplemented
        | ErrorKind::Internal => "ServerError",
    }
}

/// The error as data.
#[must_use]
pub fn to_native(error: &Error) -> NativeError {
    // A defect's cause helps whoever runs this process, who is also the caller here.
    let message = match (error.kind(), error.cause()) {
        (ErrorKind::Internal | ErrorKind::InvalidModel, Some(cause)) => {
            format!("{}\ncause: {cause}", error.message())
        }
        _ => error.message().to_owned(),
    };
    let retry_after = error.retry_after().map(|retry_after| retry_after.as_secs_f64());
    (class_name(error.kind()), message, error.field().map(str::to_owned), retry_after)
}

/// The exception for an error.
fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let raise = || -> PyResult<Bound<'_, PyAny>> {
        let (class, message, field, retry_after) = to_native(error);
        let class = py.import("axon.errors")?.getattr(class)?.cast_into::<PyType>()?;
        class.call1((message, field, retry_after))
    };
    match raise() {
        Ok(exception) => PyErr::from_value(exception),
        Err(unavailable) => unavailable,
    }
}

/// `Result` of the engine as a `PyResult`.
pub trait IntoPyResult<T> {
    /// Turns the error into an exception.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> IntoPyResult<T> for axon::Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| to_python(py, &error))
    }
}
