//! The settings that a client may read and change while the server runs: traces and logs.
//!
//! **Source:** Triton's extensions "trace" and "logging": their keys, defaults and ranges.

mod trace;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axon::error::Echo;
use axon::reason::Reason;
use axon::{Error, ErrorKind, Result};

use crate::logging;
use crate::trace::Policies;
use trace::Trace;

pub use trace::{TraceUpdate, Values};

/// A value of a log setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogValue {
    /// A switch.
    Bool(bool),
    /// A level.
    Uint(u64),
    /// A text.
    Text(String),
    /// What no setting takes, described: a number that is negative or not whole, an array.
    Other(String),
}

/// As a message says what came.
impl fmt::Display for LogValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Uint(value) => value.fmt(f),
            Self::Text(text) => Echo(text).fmt(f),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// All settings of a server.
pub(crate) struct Settings {
    trace: Mutex<Trace>,
    log_format: Mutex<LogFormat>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum LogFormat {
    #[default]
    Default,
    Iso8601,
}

impl Settings {
    /// Acts on the policies of `tracing`, whose requests are traced by this ratio at first; `None` traces nothing.
    pub fn new(tracing: Option<(f64, Arc<Policies>)>) -> Self {
        Self { trace: Mutex::new(Trace::new(tracing)), log_format: Mutex::default() }
    }

    /// The trace settings of the server, or of a model.
    pub fn trace(&self, model: Option<&str>) -> BTreeMap<&'static str, Values> {
        lock(&self.trace).read(model)
    }

    /// Changes trace settings; all of them or, on an error, none. The caller knows that the model exists.
    pub fn set_trace(&self, model: Option<&str>, update: TraceUpdate) -> Result<()> {
        lock(&self.trace).change(model, update)
    }

    /// The log settings.
    pub fn log(&self) -> Vec<(&'static str, LogValue)> {
        let format = match *lock(&self.log_format) {
            LogFormat::Default => "default",
            LogFormat::Iso8601 => "ISO8601",
        };
        vec![
            ("log_file", LogValue::Text(String::new())),
            ("log_info", LogValue::Bool(logging::is_on(tracing::Level::INFO))),
            ("log_warning", LogValue::Bool(logging::is_on(tracing::Level::WARN))),
            ("log_error", LogValue::Bool(logging::is_on(tracing::Level::ERROR))),
            ("log_verbose_level", LogValue::Uint(logging::verbosity())),
            ("log_format", LogValue::Text(format.to_owned())),
        ]
    }

    /// Changes log settings; all of them or, on an error, none.
    pub fn set_log(&self, update: BTreeMap<String, LogValue>) -> Result<()> {
        let mut actions: Vec<LogChange> = Vec::with_capacity(update.len());
        for (key, value) in update {
            actions.push(log_change(&key, value)?);
        }
        for action in actions {
            action(self);
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where traces or the log are written is the operator's to say.
fn file_setting(key: &'static str, what: &'static str) -> Error {
    Error::at(
        ErrorKind::Unimplemented,
        key,
        "cannot be changed over the network: expected it on the server, got an update",
    )
    .because(Reason::FileSetting(what))
}

type LogChange = Box<dyn FnOnce(&Settings)>;

fn log_change(key: &str, value: LogValue) -> Result<LogChange> {
    let level = match key {
        "log_info" => Some(("log_info", tracing::Level::INFO)),
        "log_warning" => Some(("log_warning", tracing::Level::WARN)),
        "log_error" => Some(("log_error", tracing::Level::ERROR)),
        _ => None,
    };
    if let Some((key, level)) = level {
        let LogValue::Bool(on) = value else {
            return Err(Error::invalid(key, format_args!("expected a boolean, got {value}")));
        };
        return Ok(Box::new(move |_| logging::switch(level, on)));
    }
    match (key, value) {
        ("log_verbose_level", LogValue::Uint(verbosity)) => {
            Ok(Box::new(move |_| logging::set_verbosity(verbosity)))
        }
        ("log_verbose_level", other) => Err(Error::invalid(
            "log_verbose_level",
            format_args!("expected a whole number from 0 to 2^64 - 1, got {other}"),
        )),
        ("log_format", LogValue::Text(format)) if matches!(format.as_str(), "default" | "ISO8601") => {
            let format = if format == "default" { LogFormat::Default } else { LogFormat::Iso8601 };
            Ok(Box::new(move |settings| *lock(&settings.log_format) = format))
        }
        ("log_format", LogValue::Text(format)) => Err(Error::invalid(
            "log_format",
            format_args!("expected `default` or `ISO8601`, got {}", Echo(&format)),
        )
        .because(Reason::LogFormat(format))),
        ("log_format", other) => {
            Err(Error::invalid("log_format", format_args!("expected a string, got {other}")))
        }
        ("log_file", _) => Err(file_setting("log_file", "log")),
        _ => Err(Error::invalid(
            "settings",
            format_args!(
                "expected one of log_info, log_warning, log_error, log_verbose_level, log_format, got {}",
                Echo(key)
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_log_setting_is_named() {
        let other = |what: &str| LogValue::Other(what.to_owned());
        let settings = Settings::new(None);
        let check = |key: &str, value: LogValue, kind: ErrorKind, field: &str| {
            let error = settings.set_log(BTreeMap::from([(key.to_owned(), value)])).unwrap_err();
            assert_eq!((error.kind(), error.field()), (kind, Some(field)), "{key}");
            error.message().to_owned()
        };
        let text = |text: &str| LogValue::Text(text.to_owned());
        check("log_format", text("x"), ErrorKind::InvalidRequest, "log_format");
        check("log_file", text("/tmp/x"), ErrorKind::Unimplemented, "log_file");
        check("log_info", text("yes"), ErrorKind::InvalidRequest, "log_info");
        for (value, got) in [(LogValue::Bool(true), "true"), (other("-1"), "-1"), (other("1e30"), "1e30")] {
            let message = check("log_verbose_level", value, ErrorKind::InvalidRequest, "log_verbose_level");
            assert!(message.ends_with(&format!("expected a whole number from 0 to 2^64 - 1, got {got}")));
        }
        let message = check("log_error", LogValue::Uint(3), ErrorKind::InvalidRequest, "log_error");
        assert_eq!(message, "log_error: expected a boolean, got 3");
        check("log_colour", LogValue::Bool(true), ErrorKind::InvalidRequest, "settings");
    }
}
