//! Engine errors as the exceptions of `axon.errors`.

use axon::{Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::types::PyType;

/// The exception class of a kind. A kind without one of its own is the server's trouble.
fn class_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidRequest | ErrorKind::RequestTooLarge | ErrorKind::UnsupportedMedia => {
            "InvalidRequest"
        }
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

/// The exception for an error.
pub fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    match exception(py, error) {
        Ok(exception) => PyErr::from_value(exception),
        Err(unavailable) => unavailable,
    }
}

fn exception<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    let class = py.import("axon.errors")?.getattr(class_name(error.kind()))?.cast_into::<PyType>()?;
    // A defect's cause helps whoever runs this process, who is also the caller here.
    let message = match (error.kind(), error.cause()) {
        (ErrorKind::Internal | ErrorKind::InvalidModel, Some(cause)) => {
            format!("{}\ncause: {cause}", error.message())
        }
        _ => error.message().to_owned(),
    };
    let retry_after = error.retry_after().map(|retry_after| retry_after.as_secs_f64());
    class.call1((message, error.field(), retry_after))
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
