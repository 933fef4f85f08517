//! The settings that a client may read and change while the server runs: traces and logs.
//!
//! **Source:** Triton's extensions "trace" and "logging": their keys, defaults and ranges.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axon::error::Echo;
use axon::reason::Reason;
use axon::{Error, ErrorKind, Result};

use crate::logging;

/// The values of one trace setting; one for most.
pub type Values = Vec<String>;

/// Trace settings by key. A change to none takes what holds for the whole server.
pub type TraceUpdate = BTreeMap<String, Option<Values>>;

/// A value of a log setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogValue {
    /// A switch.
    Bool(bool),
    /// A level.
    Uint(u64),
    /// A text.
    Text(String),
}

/// The keys of the trace settings and their values at the start.
const TRACE: [(&str, &str); 6] = [
    ("trace_file", ""),
    ("trace_level", "OFF"),
    ("trace_rate", "1000"),
    ("trace_count", "-1"),
    ("log_frequency", "0"),
    ("trace_mode", "triton"),
];

/// The longest value of a setting, in bytes.
const MAX_VALUE: usize = 256;

/// All settings of a server.
#[derive(Default)]
pub(crate) struct Settings {
    trace: Mutex<Trace>,
    log_format: Mutex<LogFormat>,
}

#[derive(Default)]
struct Trace {
    global: BTreeMap<&'static str, Values>,
    models: BTreeMap<String, BTreeMap<&'static str, Values>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum LogFormat {
    #[default]
    Default,
    Iso8601,
}

impl Settings {
    /// The trace settings of the server, or of a model.
    pub fn trace(&self, model: Option<&str>) -> BTreeMap<&'static str, Values> {
        let trace = lock(&self.trace);
        let mut settings: BTreeMap<_, _> =
            TRACE.iter().map(|&(key, value)| (key, vec![value.to_owned()])).collect();
        let own = model.and_then(|model| trace.models.get(model));
        for (key, values) in trace.global.iter().chain(own.into_iter().flatten()) {
            settings.insert(key, values.clone());
        }
        settings
    }

    /// Changes trace settings; all of them or, on an error, none. The caller knows that the model exists.
    pub fn set_trace(&self, model: Option<&str>, update: TraceUpdate) -> Result<()> {
        let mut checked = Vec::with_capacity(update.len());
        for (key, values) in update {
            checked.push((check_trace(&key, values.as_deref())?, values));
        }
        let mut trace = lock(&self.trace);
        let settings = match model {
            Some(model) => trace.models.entry(model.to_owned()).or_default(),
            None => &mut trace.global,
        };
        for (key, values) in checked {
            match values {
                Some(values) => settings.insert(key, values),
                None => settings.remove(key),
            };
        }
        drop(trace);
        if self.trace(model).get("trace_level").is_some_and(|level| level != &["OFF"]) {
            tracing::warn!("trace_level is set; this version keeps the setting and writes no trace");
        }
        Ok(())
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

fn check_trace(key: &str, values: Option<&[String]>) -> Result<&'static str> {
    let Some(&(known, _)) = TRACE.iter().find(|(known, _)| *known == key) else {
        let keys = axon::error::echo_names(TRACE.iter().map(|(key, _)| *key));
        return Err(Error::invalid("settings", format_args!("expected one of {keys}, got {}", Echo(key))));
    };
    let Some(values) = values else { return Ok(known) };
    let wrong = |expected: &str| {
        let got = axon::error::echo_names(values.iter().map(String::as_str));
        let reason = match (known, values) {
            ("trace_level", values) if values.iter().any(|level| level == "OFF") => Reason::TraceOff,
            _ => Reason::TraceValue(known, values.first().cloned().unwrap_or_default()),
        };
        Err(Error::invalid(known, format_args!("expected {expected}, got {got}")).because(reason))
    };
    if values.iter().map(String::len).sum::<usize>() > MAX_VALUE {
        return wrong("at most 256 bytes");
    }
    let one = match values {
        [one] => one.as_str(),
        _ => "",
    };
    match known {
        "trace_file" => Err(file_setting("trace_file", "trace")),
        "trace_mode" => Err(Error::at(
            ErrorKind::Unimplemented,
            "trace_mode",
            "cannot be changed over the network: expected it on the server, got an update",
        )),
        "trace_level" => {
            let known_level = |level: &String| matches!(level.as_str(), "TIMESTAMPS" | "TENSORS");
            let valid = one == "OFF" || (!values.is_empty() && values.iter().all(known_level));
            if valid { Ok(known) } else { wrong("`OFF` alone, or `TIMESTAMPS` and `TENSORS`") }
        }
        "trace_rate" if one.parse::<u32>().is_ok_and(|rate| rate > 0) => Ok(known),
        "trace_rate" => wrong("a whole number of at least 1"),
        "trace_count" if one.parse::<i64>().is_ok_and(|count| count >= -1) => Ok(known),
        "trace_count" => wrong("a whole number of at least -1"),
        _ if one.parse::<u32>().is_ok() => Ok(known),
        _ => wrong("a whole number"),
    }
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
            return Err(Error::invalid(key, "expected a boolean, got something else"));
        };
        return Ok(Box::new(move |_| logging::switch(level, on)));
    }
    match (key, value) {
        ("log_verbose_level", LogValue::Uint(verbosity)) => {
            Ok(Box::new(move |_| logging::set_verbosity(verbosity)))
        }
        ("log_verbose_level", _) => {
            Err(Error::invalid("log_verbose_level", "expected a whole number, got something else"))
        }
        ("log_format", LogValue::Text(format)) if matches!(format.as_str(), "default" | "ISO8601") => {
            let format = if format == "default" { LogFormat::Default } else { LogFormat::Iso8601 };
            Ok(Box::new(move |settings| *lock(&settings.log_format) = format))
        }
        ("log_format", LogValue::Text(format)) => Err(Error::invalid(
            "log_format",
            format_args!("expected `default` or `ISO8601`, got {}", Echo(&format)),
        )
        .because(Reason::LogFormat(format))),
        ("log_format", _) => Err(Error::invalid("log_format", "expected a string, got something else")),
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

    fn update(key: &str, values: &[&str]) -> TraceUpdate {
        let values = values.iter().map(ToString::to_string).collect();
        BTreeMap::from([(key.to_owned(), Some(values))])
    }

    #[test]
    fn a_models_trace_settings_are_its_own_or_else_the_servers() {
        let settings = Settings::default();
        settings.set_trace(None, update("trace_rate", &["5"])).unwrap();
        settings.set_trace(Some("m"), update("trace_count", &["7"])).unwrap();
        let of = |model: Option<&str>, key: &str| settings.trace(model)[key].join(",");
        assert_eq!((of(None, "trace_rate"), of(Some("m"), "trace_rate")), ("5".to_owned(), "5".to_owned()));
        assert_eq!(
            (of(None, "trace_count"), of(Some("m"), "trace_count")),
            ("-1".to_owned(), "7".to_owned())
        );
        let clear = BTreeMap::from([("trace_count".to_owned(), None)]);
        settings.set_trace(Some("m"), clear).unwrap();
        assert_eq!(of(Some("m"), "trace_count"), "-1");
    }

    #[test]
    fn a_wrong_trace_setting_changes_nothing() {
        let settings = Settings::default();
        let before = settings.trace(None);
        let check = |key: &str, values: &[&str], field: &str| {
            let mut changes = update(key, values);
            changes.insert("log_frequency".to_owned(), Some(vec!["9".to_owned()]));
            let error = settings.set_trace(None, changes).unwrap_err();
            assert_eq!(error.field(), Some(field), "{key} {values:?}");
            assert_eq!(settings.trace(None), before);
        };
        check("trace_rate", &["x"], "trace_rate");
        check("trace_rate", &["0"], "trace_rate");
        check("trace_count", &["-2"], "trace_count");
        check("trace_level", &["OFF", "TENSORS"], "trace_level");
        check("trace_level", &[], "trace_level");
        check("trace_file", &["/tmp/x"], "trace_file");
        check("trace_colour", &["red"], "settings");
    }

    #[test]
    fn a_wrong_log_setting_is_named() {
        let settings = Settings::default();
        let check = |key: &str, value: LogValue, kind: ErrorKind, field: &str| {
            let error = settings.set_log(BTreeMap::from([(key.to_owned(), value)])).unwrap_err();
            assert_eq!((error.kind(), error.field()), (kind, Some(field)), "{key}");
        };
        let text = |text: &str| LogValue::Text(text.to_owned());
        check("log_format", text("x"), ErrorKind::InvalidRequest, "log_format");
        check("log_file", text("/tmp/x"), ErrorKind::Unimplemented, "log_file");
        check("log_info", text("yes"), ErrorKind::InvalidRequest, "log_info");
        check("log_verbose_level", LogValue::Bool(true), ErrorKind::InvalidRequest, "log_verbose_level");
        check("log_colour", LogValue::Bool(true), ErrorKind::InvalidRequest, "settings");
    }
}
