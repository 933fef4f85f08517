//! The access log: a line for each request once it has been answered, whatever the level of the log.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use hyper::header::HeaderMap;
use hyper::{Method, Request};
use tracing::Level;

use crate::logging::{self, Line};
use crate::trace::{Caller, Rate, SpanContext, new_trace};

/// Which requests have a line in the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum AccessLog {
    /// None.
    #[default]
    Off,
    /// Those that are refused or fail, and those whose caller leaves.
    Errors,
    /// The same, and this share of the others, 0 to 1.
    Ratio(f64),
}

impl FromStr for AccessLog {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "errors" => Ok(Self::Errors),
            _ => {
                let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
                let problem =
                    || format!("expected off, errors or a number from 0 to 1, got `{}`", text.escape_debug());
                ratio.map(Self::Ratio).ok_or_else(problem)
            }
        }
    }
}

impl fmt::Display for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Errors => f.write_str("errors"),
            Self::Ratio(ratio) => ratio.fmt(f),
        }
    }
}

impl AccessLog {
    /// Whether a request is told of; each call draws anew.
    pub(crate) fn wants(self, is_error: bool) -> bool {
        match self {
            Self::Off => false,
            Self::Errors => is_error,
            Self::Ratio(ratio) => is_error || Rate::ratio(ratio).takes(new_trace()),
        }
    }
}

/// Begins a line about a request that was asked as `asked` says and took `total`.
pub(crate) fn line(protocol: &str, asked: &str, status: Option<u16>, total: Duration) -> Line {
    let mut line = logging::line(Level::INFO);
    line.message("access");
    line.field("protocol", protocol);
    line.field("request", asked);
    match status {
        Some(status) => line.bare("status", status),
        None => line.field("status", "cancelled"),
    }
    line.milliseconds("total_ms", total);
    line
}

/// Names the trace that a line belongs to.
pub(crate) fn name(line: &mut Line, context: Option<SpanContext>) {
    if let Some(context) = context {
        line.field("trace_id", &context.trace_id().to_string());
        line.field("span_id", &context.span_id().to_string());
    }
}

/// A request that asks no model, or none that could be found out.
pub(crate) struct Visit {
    access: AccessLog,
    started: Instant,
    method: Method,
    path: String,
    caller: Caller,
}

impl Visit {
    /// Notes what is asked; `None` when nothing is told of it.
    pub fn begin<B>(access: AccessLog, request: &Request<B>) -> Option<Self> {
        (access != AccessLog::Off).then(|| Self {
            access,
            started: Instant::now(),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            caller: Caller::of(request.headers()),
        })
    }

    /// Tells of a request over HTTP.
    pub fn answered(self, status: u16) {
        if self.access.wants(status >= 400) {
            let asked = format!("{} {}", self.method, self.path);
            self.tell("http", &asked, status);
        }
    }

    /// Tells of a call of gRPC, which ended as these headers or trailers say.
    pub fn ended(self, ending: &HeaderMap) {
        let status = ending.get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
        if let Some(status) = status.filter(|status| self.access.wants(*status != 0)) {
            let path = self.path.clone();
            self.tell("grpc", &path, status);
        }
    }

    fn tell(&self, protocol: &str, asked: &str, status: u16) {
        let mut line = line(protocol, asked, Some(status), self.started.elapsed());
        name(&mut line, self.caller.context);
        logging::write(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_and_written() {
        let check = |text: &str, expected: Option<AccessLog>| {
            let read: Result<AccessLog, _> = text.parse();
            assert_eq!(read.ok(), expected, "{text}");
            assert!(expected.is_none_or(|expected| expected.to_string() == text));
        };
        check("off", Some(AccessLog::Off));
        check("errors", Some(AccessLog::Errors));
        check("0.25", Some(AccessLog::Ratio(0.25)));
        check("1", Some(AccessLog::Ratio(1.0)));
        for wrong in ["", "on", "-0.1", "1.1", "nan", "inf"] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_ratio_takes_its_share_and_all_errors() {
        let taken = |access: AccessLog, is_error| (0..4000).filter(|_| access.wants(is_error)).count();
        assert_eq!(taken(AccessLog::Off, true), 0);
        assert_eq!((taken(AccessLog::Errors, true), taken(AccessLog::Errors, false)), (4000, 0));
        assert_eq!(taken(AccessLog::Ratio(0.0), false), 0);
        assert_eq!((taken(AccessLog::Ratio(0.5), true), taken(AccessLog::Ratio(1.0), false)), (4000, 4000));
        // A half of 4000: outside of 1700 to 2300 once in 10^20 runs.
        assert!((1700..2300).contains(&taken(AccessLog::Ratio(0.5), false)));
    }
}
