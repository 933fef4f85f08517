//! The one table from an error's kind to the wire.

use std::time::Duration;

use axon::{Error, ErrorKind};
use hyper::StatusCode;
use serde::Serialize;

use crate::compat::{self, Compat, Context};

/// An error as the wire writes it.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

/// The HTTP status and the protocol's code of a kind.
#[must_use]
pub fn status_of(kind: ErrorKind) -> (StatusCode, &'static str) {
    match kind {
        ErrorKind::InvalidRequest | ErrorKind::InvalidModel => (StatusCode::BAD_REQUEST, "INVALID_ARGUMENT"),
        ErrorKind::RequestTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE"),
        ErrorKind::UriTooLong => (StatusCode::URI_TOO_LONG, "HEADERS_TOO_LARGE"),
        ErrorKind::UnsupportedMedia => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "MEDIA"),
        ErrorKind::NotFound | ErrorKind::ModelNotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
        ErrorKind::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "METHOD"),
        ErrorKind::Conflict => (StatusCode::CONFLICT, "CONFLICT"),
        ErrorKind::PermissionDenied => (StatusCode::FORBIDDEN, "PERMISSION_DENIED"),
        ErrorKind::ModelNotReady | ErrorKind::ShuttingDown | ErrorKind::Overloaded => {
            (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE")
        }
        ErrorKind::QuotaExceeded => (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"),
        ErrorKind::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "DEADLINE"),
        ErrorKind::Cancelled => (StatusCode::REQUEST_TIMEOUT, "READ_TIMEOUT"),
        ErrorKind::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "UNIMPLEMENTED"),
        ErrorKind::ExecutionFailed | ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL"),
    }
}

/// The status of gRPC. **Source:** `google.rpc.Code`.
#[must_use]
pub fn grpc_code(kind: ErrorKind) -> u32 {
    match kind {
        ErrorKind::Cancelled => 1,
        ErrorKind::InvalidRequest | ErrorKind::InvalidModel => 3,
        ErrorKind::DeadlineExceeded => 4,
        ErrorKind::NotFound | ErrorKind::ModelNotFound => 5,
        ErrorKind::RequestTooLarge | ErrorKind::UriTooLong | ErrorKind::QuotaExceeded => 8,
        ErrorKind::PermissionDenied => 7,
        ErrorKind::Conflict => 9,
        ErrorKind::UnsupportedMedia | ErrorKind::MethodNotAllowed | ErrorKind::Unimplemented => 12,
        ErrorKind::ExecutionFailed | ErrorKind::Internal => 13,
        ErrorKind::ModelNotReady | ErrorKind::ShuttingDown | ErrorKind::Overloaded => 14,
    }
}

/// The JSON body of an error.
#[must_use]
pub fn error_body(error: &Error) -> Vec<u8> {
    let (_, code) = status_of(error.kind());
    let body = ErrorBody { error: error.message(), code, field: error.field() };
    // Strings alone always serialise.
    serde_json::to_vec(&body).unwrap_or_default()
}

/// How a request of HTTP is refused.
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub body: Vec<u8>,
}

impl Refusal {
    /// In whoever's words `compat` says.
    pub fn new(compat: Compat, error: &Error, context: Context<'_>) -> Self {
        match compat {
            Compat::Native => Self { status: status_of(error.kind()).0, body: error_body(error) },
            Compat::Triton => {
                let told = compat::triton(error, context);
                let status = StatusCode::from_u16(told.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let text = told.over_http.unwrap_or(&told.text);
                // A map of one text always serialises.
                let body = serde_json::to_vec(&serde_json::json!({ "error": text })).unwrap_or_default();
                Self { status, body }
            }
        }
    }
}

/// `Retry-After` in whole seconds, rounded up, at least 1.
#[must_use]
pub fn retry_after_seconds(retry_after: Duration) -> u64 {
    retry_after.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_where_and_of_which_kind() {
        let error = Error::invalid("inputs[0].shape[1]", "expected 3, got 4");
        let body = String::from_utf8(error_body(&error)).unwrap();
        assert_eq!(
            body,
            r#"{"error":"inputs[0].shape[1]: expected 3, got 4","code":"INVALID_ARGUMENT","field":"inputs[0].shape[1]"}"#
        );
    }

    #[test]
    fn a_retry_is_never_told_to_come_at_once() {
        let check = |milliseconds, seconds| {
            assert_eq!(retry_after_seconds(Duration::from_millis(milliseconds)), seconds);
        };
        check(0, 1);
        check(1000, 1);
        check(1001, 2);
    }
}
