//! What an operation refuses with.

use serde_json::{Map, Value, json};

use super::{reference, schema};

/// The statuses of errors: each with the codes that go with it, and what they mean.
const STATUSES: [(u16, &[&str], &str); 15] = [
    (400, &["INVALID_ARGUMENT"], "The request is wrong; the same one will be refused again."),
    (401, &["UNAUTHENTICATED"], "The caller does not say who it is."),
    (403, &["PERMISSION_DENIED"], "The caller may not do this."),
    (404, &["NOT_FOUND"], "There is no such path, model, version or region."),
    (405, &["METHOD"], "The path does not take this method; `Allow` lists those that it takes."),
    (408, &["READ_TIMEOUT"], "The request came too slowly."),
    (409, &["CONFLICT"], "What is asked for contradicts what is there."),
    (413, &["TOO_LARGE"], "The body is larger than the server's limit, as sent or decoded."),
    (414, &["HEADERS_TOO_LARGE"], "The path is longer than the server's limit."),
    (415, &["MEDIA"], "The content type or the content encoding is not one that is understood."),
    (429, &["RATE_LIMITED"], "This caller has used up its own limit; `Retry-After` says when to try again."),
    (500, &["INTERNAL"], "The model failed, or the server has a defect."),
    (501, &["UNIMPLEMENTED"], "The protocol knows this, and this server does not do it."),
    (
        503,
        &["UNAVAILABLE", "MEMORY_BUDGET"],
        "Not ready, busy or shutting down; `Retry-After` says when to try again, where that is known.",
    ),
    (504, &["DEADLINE"], "The answer would come after the request's deadline."),
];

/// All codes, in the order of their statuses.
pub(super) fn codes() -> impl Iterator<Item = &'static str> {
    STATUSES.iter().flat_map(|(_, codes, _)| codes.iter().copied())
}

/// The reference to the response of a status.
pub(super) fn response(status: u16) -> Value {
    reference(&format!("responses/{status}"))
}

/// The responses of all statuses.
pub(super) fn responses() -> Map<String, Value> {
    let describe = |&(status, _, description): &(u16, &[&str], &str)| {
        let mut response = json!({
            "description": description,
            "content": { "application/json": { "schema": schema("Error") } },
        });
        if matches!(status, 429 | 503) {
            response["headers"] = json!({
                "Retry-After": { "description": "Seconds.", "schema": { "type": "integer", "minimum": 1 } },
            });
        }
        (status.to_string(), response)
    };
    STATUSES.iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use axon::ErrorKind;

    use super::*;
    use crate::status::status_of;

    #[test]
    fn every_kind_of_error_is_described() {
        for kind in [
            ErrorKind::InvalidRequest,
            ErrorKind::RequestTooLarge,
            ErrorKind::UriTooLong,
            ErrorKind::UnsupportedMedia,
            ErrorKind::NotFound,
            ErrorKind::MethodNotAllowed,
            ErrorKind::ModelNotFound,
            ErrorKind::InvalidModel,
            ErrorKind::ModelNotReady,
            ErrorKind::ShuttingDown,
            ErrorKind::Overloaded,
            ErrorKind::QuotaExceeded,
            ErrorKind::DeadlineExceeded,
            ErrorKind::Cancelled,
            ErrorKind::Unimplemented,
            ErrorKind::ExecutionFailed,
            ErrorKind::Internal,
        ] {
            let (status, code) = status_of(kind);
            let described =
                |(known, codes, _): &(u16, &[&str], &str)| *known == status && codes.contains(&code);
            assert!(STATUSES.iter().any(described), "{kind:?} is {status} {code}");
        }
    }
}
