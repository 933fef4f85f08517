//! Errors as gRPC tells them.

use axon::{Error, ErrorKind};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::compat::{self, Compat, Context};
use crate::status::{grpc_code, retry_after_seconds, status_of};

pub(super) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// The kind of error and the field that is wrong, as the JSON of HTTP names them.
const CODE: HeaderName = HeaderName::from_static("axon-code");
const FIELD: HeaderName = HeaderName::from_static("axon-field");
const RETRY_AFTER: HeaderName = HeaderName::from_static("retry-after");
/// What gRPC clients that retry by themselves look for, in milliseconds.
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// How a call that went well ends.
pub(super) fn ok() -> HeaderMap {
    HeaderMap::from_iter([(STATUS, HeaderValue::from_static("0"))])
}

/// The status of an error, in whoever's codes `compat` says.
pub(super) fn code(compat: Compat, error: &Error) -> u32 {
    match compat {
        Compat::Native => grpc_code(error.kind()),
        Compat::Triton => compat::triton(error, Context::default()).grpc,
    }
}

/// The status that `headers` say; unknown where they say none.
pub(super) fn read(headers: &HeaderMap) -> u32 {
    const UNKNOWN: u32 = 2;
    headers.get(STATUS).and_then(|status| status.to_str().ok()?.parse().ok()).unwrap_or(UNKNOWN)
}

/// How a call that failed ends, in whoever's words `compat` says.
pub(super) fn failed(compat: Compat, error: &Error, context: Context<'_>) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(6);
    let (code, text) = match compat {
        Compat::Native => (grpc_code(error.kind()), error.message().to_owned()),
        Compat::Triton => {
            let told = compat::triton(error, context);
            (told.grpc, told.text)
        }
    };
    trailers.insert(STATUS, HeaderValue::from(code));
    let mut insert = |name, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            trailers.insert(name, value);
        }
    };
    insert(MESSAGE, &percent_encode(&text));
    insert(CODE, status_of(error.kind()).1);
    if let Some(field) = error.field() {
        insert(FIELD, field);
    }
    if let Some(retry_after) = error.retry_after() {
        insert(RETRY_AFTER, &retry_after_seconds(retry_after).to_string());
        if error.kind() != ErrorKind::QuotaExceeded {
            insert(PUSHBACK, &retry_after.as_millis().to_string());
        }
    }
    trailers
}

/// The form of `grpc-message`: printable ASCII but `%` as it is, every other byte in hexadecimal.
fn percent_encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_ascii_on_the_wire() {
        assert_eq!(percent_encode("100 % `é`\n"), "100 %25 `%C3%A9`%0A");
    }

    #[test]
    fn an_error_says_what_where_and_when_to_come_again() {
        let trailers = failed(Compat::Native, &Error::shutting_down(), Context::default());
        let get = |name: &str| trailers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(get("grpc-status"), Some("14"));
        assert_eq!(get("retry-after"), Some("1"));
        assert_eq!(get("grpc-retry-pushback-ms"), Some("1000"));
        let trailers = failed(Compat::Native, &Error::invalid("inputs[0].shape", "x"), Context::default());
        let get = |name: &str| trailers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!((get("grpc-status"), get("axon-field")), (Some("3"), Some("inputs[0].shape")));
        assert_eq!(get("axon-code"), Some("INVALID_ARGUMENT"));
    }
}
