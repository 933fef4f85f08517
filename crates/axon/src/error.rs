//! The one error value: a kind that the wire maps once, a message for the caller, a cause for the log.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::reason::Reason;
use crate::request::Timing;

/// The longest piece of a caller's own text that a message repeats, in bytes.
pub const ECHO_LIMIT: usize = 64;

/// The longest message, in bytes.
pub const MESSAGE_LIMIT: usize = 1024;

/// What went wrong, from the caller's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The request is wrong; the same request will be refused again.
    InvalidRequest,
    /// The request is larger than a limit.
    RequestTooLarge,
    /// The path and query are longer than a limit.
    UriTooLong,
    /// The media type or content encoding is not one that is understood.
    UnsupportedMedia,
    /// Nothing is at this path.
    NotFound,
    /// The path does not take this method.
    MethodNotAllowed,
    /// What is to be made is there already.
    Conflict,
    /// The caller may not have it.
    PermissionDenied,
    /// The model or the version is not in the repository.
    ModelNotFound,
    /// The model file cannot be served.
    InvalidModel,
    /// The model is in the repository but not ready to answer.
    ModelNotReady,
    /// The server answers what it has accepted and takes nothing new.
    ShuttingDown,
    /// The queue is full.
    Overloaded,
    /// This client has used up its own limit.
    QuotaExceeded,
    /// The answer would come after the request's deadline.
    DeadlineExceeded,
    /// The caller has gone.
    Cancelled,
    /// Something that the protocol knows and this server does not do.
    Unimplemented,
    /// The model failed while it ran.
    ExecutionFailed,
    /// A defect of the server.
    Internal,
}

/// Why a request has no answer.
///
/// `message` and `field` are for the caller: no paths, no addresses, nothing of the runtime's insides.
/// `source` is for the log.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    field: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    source: Option<String>,
    reason: Option<Box<Reason>>,
    timing: Option<Box<Timing>>,
}

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; the message is lower case and says what came and what was wanted.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_LIMIT {
            let mut end = MESSAGE_LIMIT - '…'.len_utf8();
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
            message.push('…');
        }
        Self { kind, message, field: None, retry_after: None, source: None, reason: None, timing: None }
    }

    /// A request that is wrong at `field`, a path such as `inputs[0].shape[1]`; the message begins with it.
    #[must_use]
    pub fn invalid(field: impl Into<Cow<'static, str>>, problem: impl fmt::Display) -> Self {
        Self::at(ErrorKind::InvalidRequest, field, problem)
    }

    /// An error of `kind` at `field`; the message begins with the field.
    #[must_use]
    pub fn at(kind: ErrorKind, field: impl Into<Cow<'static, str>>, problem: impl fmt::Display) -> Self {
        let field = field.into();
        let mut error = Self::new(kind, format!("{field}: {problem}"));
        error.field = Some(field);
        error
    }

    /// The same error, which names a field that its message says already.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same error, whose message says in front what it is about.
    #[must_use]
    pub fn within(mut self, context: impl fmt::Display) -> Self {
        self.message = Self::new(self.kind, format!("{context}: {}", self.message)).message;
        self
    }

    /// The same error with the time after which to try again.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    /// The same error with a cause that only the log may show.
    #[must_use]
    pub fn with_source(mut self, source: impl fmt::Display) -> Self {
        self.source = Some(source.to_string());
        self
    }

    /// The same error with what exactly is wrong.
    #[must_use]
    pub fn because(mut self, reason: Reason) -> Self {
        self.reason = Some(Box::new(reason));
        self
    }

    /// The same error of a request whose run failed: how that was.
    #[must_use]
    pub fn with_timing(mut self, timing: Timing) -> Self {
        self.timing = Some(Box::new(timing));
        self
    }

    /// A defect of the server; `source` goes to the log, the caller learns only that it happened.
    #[must_use]
    pub fn internal(source: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Internal, "internal error").with_source(source)
    }

    /// The refusal of a server that is going away.
    #[must_use]
    pub fn shutting_down() -> Self {
        Self::new(ErrorKind::ShuttingDown, "the server is shutting down")
            .with_retry_after(Duration::from_secs(1))
            .because(Reason::Stopping)
    }

    /// The end of a run that was stopped because nobody waited for it.
    #[must_use]
    pub fn stopped() -> Self {
        Self::new(ErrorKind::Cancelled, "the run was stopped: nobody waits for its answer")
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The text for the caller.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The part of the request that is wrong, as `inputs[0].shape[1]`.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// When to try again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What exactly is wrong, where that is known.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        self.reason.as_deref()
    }

    /// How the run was that failed; `None` where there was none.
    #[must_use]
    pub fn timing(&self) -> Option<&Timing> {
        self.timing.as_deref()
    }

    /// The cause, for the log only.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.source.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// A caller's own text, safe to repeat: in backticks, escaped, cut to [`ECHO_LIMIT`] bytes.
pub struct Echo<'a>(pub &'a str);

impl fmt::Display for Echo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('`')?;
        let mut written = 0;
        for character in self.0.chars() {
            let escaped = character.escape_debug();
            // `'` and `"` need no escape between backticks.
            let plain = matches!(character, '\'' | '"');
            written += if plain { 1 } else { escaped.clone().map(char::len_utf8).sum() };
            if written > ECHO_LIMIT {
                f.write_str("…")?;
                break;
            }
            if plain { f.write_char(character)? } else { write!(f, "{escaped}")? }
        }
        f.write_char('`')
    }
}

/// Names for a message, as `` `a`, `b` ``: at most eight, the rest counted.
#[must_use]
pub fn echo_names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 8;
    let names: Vec<_> = names.collect();
    let mut text = names.iter().take(SHOWN).map(|name| Echo(name).to_string()).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_wrote_is_repeated_escaped_and_cut() {
        assert_eq!(Echo("plain \"x\"").to_string(), "`plain \"x\"`");
        assert_eq!(Echo("a\r\nb\0").to_string(), "`a\\r\\nb\\0`");
        let long = Echo(&"x".repeat(1 << 20)).to_string();
        assert_eq!(long, format!("`{}…`", "x".repeat(ECHO_LIMIT)));
    }

    #[test]
    fn a_message_is_bounded() {
        let error = Error::new(ErrorKind::InvalidRequest, "é".repeat(4096));
        assert!(error.message().len() <= MESSAGE_LIMIT);
        assert!(error.message().ends_with('…'));
    }

    #[test]
    fn a_message_begins_with_its_field() {
        let error = Error::invalid("inputs[0].shape", "expected 2 dimensions, got 3");
        assert_eq!(error.message(), "inputs[0].shape: expected 2 dimensions, got 3");
        assert_eq!(error.field(), Some("inputs[0].shape"));
    }
}
