//! How requests come and how they end: fixed sets, so that no client can make labels.

use crate::error::{Error, ErrorKind};
use crate::reason::Reason;

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Over HTTP.
    Http,
    /// Over gRPC.
    Grpc,
    /// From the process itself, by a function call.
    InProcess,
}

impl Protocol {
    /// All, in the order in which they are counted.
    pub const ALL: [Self; 3] = [Self::Http, Self::Grpc, Self::InProcess];

    /// The name in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::InProcess => "in_process",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has its outputs.
    Answered,
    /// The queue was full.
    QueueFull,
    /// The answer would have been late: refused at arrival, or given up in the queue.
    PredictedMiss,
    /// A more urgent request took its place.
    Displaced,
    /// Its deadline passed in the queue, or had passed when it came.
    Expired,
    /// This client has used up its own limit.
    Quota,
    /// The caller may not ask.
    Denied,
    /// The server, or the model, takes nothing new.
    Draining,
    /// The model is being loaded.
    Loading,
    /// The model is not ready, and not about to be.
    NotReady,
    /// There is no such model or version.
    UnknownModel,
    /// It was larger than a limit.
    TooLarge,
    /// It was wrong.
    Invalid,
    /// The model failed while it ran.
    ExecutionFailed,
    /// A defect of the server.
    Internal,
    /// Its caller went away, or stopped sending.
    Cancelled,
}

impl Outcome {
    /// All, in the order in which they are counted.
    pub const ALL: [Self; 16] = [
        Self::Answered,
        Self::QueueFull,
        Self::PredictedMiss,
        Self::Displaced,
        Self::Expired,
        Self::Quota,
        Self::Denied,
        Self::Draining,
        Self::Loading,
        Self::NotReady,
        Self::UnknownModel,
        Self::TooLarge,
        Self::Invalid,
        Self::ExecutionFailed,
        Self::Internal,
        Self::Cancelled,
    ];

    /// The name in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::QueueFull => "queue_full",
            Self::PredictedMiss => "predicted_miss",
            Self::Displaced => "displaced",
            Self::Expired => "expired",
            Self::Quota => "quota",
            Self::Denied => "denied",
            Self::Draining => "draining",
            Self::Loading => "loading",
            Self::NotReady => "not_ready",
            Self::UnknownModel => "unknown_model",
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
            Self::ExecutionFailed => "execution_failed",
            Self::Internal => "internal",
            Self::Cancelled => "cancelled",
        }
    }

    /// How a request ends that is answered with `error`.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Overloaded => match error.reason() {
                Some(Reason::PredictedMiss) => Self::PredictedMiss,
                Some(Reason::Displaced) => Self::Displaced,
                _ => Self::QueueFull,
            },
            ErrorKind::DeadlineExceeded => Self::Expired,
            ErrorKind::QuotaExceeded => Self::Quota,
            ErrorKind::PermissionDenied => Self::Denied,
            ErrorKind::ShuttingDown => Self::Draining,
            // Only what will be ready says when to come again.
            ErrorKind::ModelNotReady if error.retry_after().is_some() => Self::Loading,
            ErrorKind::ModelNotReady => Self::NotReady,
            ErrorKind::ModelNotFound => Self::UnknownModel,
            ErrorKind::RequestTooLarge | ErrorKind::UriTooLong => Self::TooLarge,
            ErrorKind::InvalidRequest
            | ErrorKind::UnsupportedMedia
            | ErrorKind::NotFound
            | ErrorKind::MethodNotAllowed
            | ErrorKind::Conflict
            | ErrorKind::InvalidModel
            | ErrorKind::Unimplemented => Self::Invalid,
            ErrorKind::ExecutionFailed => Self::ExecutionFailed,
            ErrorKind::Internal => Self::Internal,
            ErrorKind::Cancelled => Self::Cancelled,
        }
    }
}

/// The most codes of one protocol.
pub const CODES: usize = LAST as usize + 1;

/// The statuses of HTTP that are counted apart, then all others. 499 is nobody's answer: the caller has gone.
const HTTP: [&str; 18] = [
    "200", "400", "401", "403", "404", "405", "408", "409", "413", "414", "415", "429", "431", "499", "500",
    "501", "503", "504",
];

/// The statuses of gRPC by their numbers. **Source:** `google.rpc.Code`.
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The code of a status that is in no list.
const LAST: u8 = 19;

/// Its name.
const OTHER: &str = "other";

/// A status code, of the protocol of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(u8);

impl Code {
    /// A status of HTTP.
    #[must_use]
    pub fn http(status: u16) -> Self {
        // Without a string: statuses have three digits.
        let digits = [status / 100 % 10, status / 10 % 10, status % 10];
        let is = |name: &&str| name.bytes().map(|digit| u16::from(digit - b'0')).eq(digits);
        Self::known(HTTP.iter().position(is))
    }

    /// A status of gRPC.
    #[must_use]
    pub fn grpc(status: u32) -> Self {
        Self::known(usize::try_from(status).ok().filter(|&status| status < GRPC.len()))
    }

    fn known(index: Option<usize>) -> Self {
        Self(index.and_then(|index| u8::try_from(index).ok()).unwrap_or(LAST))
    }

    /// What a caller in the process gets: the codes of gRPC, by their kinds of error.
    #[must_use]
    pub fn in_process(outcome: Outcome) -> Self {
        Self::grpc(match outcome {
            Outcome::Answered => 0,
            Outcome::Cancelled => 1,
            Outcome::Invalid => 3,
            Outcome::Expired => 4,
            Outcome::UnknownModel => 5,
            Outcome::Denied => 7,
            Outcome::TooLarge | Outcome::Quota => 8,
            Outcome::ExecutionFailed | Outcome::Internal => 13,
            Outcome::QueueFull
            | Outcome::PredictedMiss
            | Outcome::Displaced
            | Outcome::Draining
            | Outcome::Loading
            | Outcome::NotReady => 14,
        })
    }

    /// What is counted when the caller has gone.
    #[must_use]
    pub fn cancelled(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self::http(499),
            Protocol::Grpc | Protocol::InProcess => Self::grpc(1),
        }
    }

    /// The name in documents.
    #[must_use]
    pub fn name(self, protocol: Protocol) -> &'static str {
        let names: &[&'static str] = match protocol {
            Protocol::Http => &HTTP,
            Protocol::Grpc | Protocol::InProcess => &GRPC,
        };
        names.get(self.index()).copied().unwrap_or(OTHER)
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..=LAST).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn outcomes_are_counted_in_their_order() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index, "{}", outcome.name());
        }
    }

    #[test]
    fn a_code_has_the_name_that_the_protocol_gives_it() {
        let http = |status| Code::http(status).name(Protocol::Http);
        assert_eq!(
            [http(200), http(404), http(503), http(599), http(5)],
            ["200", "404", "503", "other", "other"]
        );
        let grpc = |status| Code::grpc(status).name(Protocol::Grpc);
        assert_eq!(
            [grpc(0), grpc(14), grpc(16), grpc(17)],
            ["OK", "UNAVAILABLE", "UNAUTHENTICATED", "other"]
        );
        assert_eq!(Code::cancelled(Protocol::Http).name(Protocol::Http), "499");
        assert_eq!(Code::in_process(Outcome::QueueFull).name(Protocol::InProcess), "UNAVAILABLE");
        assert!(HTTP.len() < CODES && GRPC.len() < CODES);
    }

    #[test]
    fn an_error_tells_why_a_request_was_refused() {
        let check = |error: Error, outcome| assert_eq!(Outcome::of(&error), outcome, "{error}");
        let overloaded = |reason| Error::new(ErrorKind::Overloaded, "x").because(reason);
        check(overloaded(Reason::QueueFull), Outcome::QueueFull);
        check(overloaded(Reason::PredictedMiss), Outcome::PredictedMiss);
        check(overloaded(Reason::Displaced), Outcome::Displaced);
        check(Error::shutting_down(), Outcome::Draining);
        check(Error::invalid("inputs", "x"), Outcome::Invalid);
        let not_ready = Error::new(ErrorKind::ModelNotReady, "x");
        check(not_ready.clone().with_retry_after(Duration::from_secs(1)), Outcome::Loading);
        check(not_ready, Outcome::NotReady);
        check(Error::internal("x"), Outcome::Internal);
    }
}
