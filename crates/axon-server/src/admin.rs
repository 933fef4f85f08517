//! HTTP's verbs that change or show the server itself: their bodies are small JSON objects, or nothing.

use std::collections::BTreeMap;

use axon::error::Echo;
use axon::reason::Reason;
use axon::repository::LoadOverrides;
use axon::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::route::MemoryKind;
use crate::settings::LogValue;
use crate::shared_memory::SystemRegion;
use crate::verbs;

/// Reads a body that is a JSON object, or empty.
pub(crate) fn object(body: &Bytes) -> Result<Map<String, Value>> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(other) => {
            Err(Error::invalid("body", format_args!("expected a JSON object, got {}", kind(&other))))
        }
        Err(error) => Err(Error::invalid(
            "body",
            format_args!(
                "expected a JSON object, got an error at line {} column {}",
                error.line(),
                error.column()
            ),
        )),
    }
}

/// What a JSON value is, for a message.
pub(crate) const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Whether an index is to hold only what is ready.
pub(crate) fn only_ready(body: &Bytes) -> Result<bool> {
    match object(body)?.get("ready") {
        None => Ok(false),
        Some(Value::Bool(ready)) => Ok(*ready),
        Some(other) => Err(Error::invalid("ready", format_args!("expected a boolean, got {}", kind(other)))
            .because(Reason::IndexReady)),
    }
}

/// What a load brings itself: `config`, a text, and `file:...`, base64.
pub(crate) fn overrides(body: &Bytes) -> Result<LoadOverrides> {
    let mut overrides = LoadOverrides::default();
    for (key, value) in parameters(body)? {
        let Value::String(text) = value else {
            return Err(Error::invalid(
                "parameters",
                format_args!("expected a string for {}, got {}", Echo(&key), kind(&value)),
            ));
        };
        if key == "config" {
            overrides.config = Some(text);
        } else if key.starts_with("file:") {
            let bytes = STANDARD.decode(text).map_err(|error| {
                let field = format!("parameters.{}", Echo(&key).to_string().trim_matches('`'));
                Error::invalid(field, format_args!("expected base64, got an error: {error}"))
            })?;
            overrides.files.push((key, bytes));
        } else {
            return Err(unknown_load_parameter(&key, "string"));
        }
    }
    Ok(overrides)
}

/// A parameter of a load that means nothing.
pub(crate) fn unknown_load_parameter(key: &str, datatype: &'static str) -> Error {
    Error::invalid("parameters", format_args!("expected config or file:<version>/<name>, got {}", Echo(key)))
        .because(Reason::LoadParameter(key.to_owned(), datatype))
}

/// Whether what depends on a model is to be unloaded with it.
pub(crate) fn unload_dependents(body: &Bytes) -> Result<bool> {
    match parameters(body)?.get("unload_dependents") {
        None => Ok(false),
        Some(Value::Bool(unload)) => Ok(*unload),
        Some(other) => Err(Error::invalid(
            "parameters.unload_dependents",
            format_args!("expected a boolean, got {}", kind(other)),
        )),
    }
}

fn parameters(body: &Bytes) -> Result<Map<String, Value>> {
    match object(body)?.remove("parameters") {
        None => Ok(Map::new()),
        Some(Value::Object(parameters)) => Ok(parameters),
        Some(other) => {
            Err(Error::invalid("parameters", format_args!("expected an object, got {}", kind(&other))))
        }
    }
}

/// What the regions of one kind of memory are, in the protocol's form.
pub(crate) fn regions(regions: &[SystemRegion]) -> Value {
    let region = |SystemRegion { name, key, offset, byte_size }: &SystemRegion| json!({ "name": name, "key": key, "offset": offset, "byte_size": byte_size });
    Value::Array(regions.iter().map(region).collect())
}

/// Registers a region as the body says.
pub(crate) fn register(app: &App, kind: MemoryKind, name: &str, body: &Bytes) -> Result<()> {
    let members = object(body)?;
    let text = |field: &'static str, value: Option<&Value>| match value {
        Some(Value::String(text)) => Ok(text.clone()),
        other => Err(wrong(field, "a string", other)),
    };
    match kind {
        MemoryKind::System => {
            let key = text("key", members.get("key"))?;
            let offset = members.get("offset").map_or(Ok(0), |offset| whole("offset", Some(offset)))?;
            let byte_size = whole("byte_size", members.get("byte_size"))?;
            app.shared_memory.register_system(name, &key, offset, byte_size)
        }
        MemoryKind::Cuda => {
            let handle = members.get("raw_handle").and_then(|handle| handle.get("b64"));
            let handle = text("raw_handle.b64", handle)?;
            let handle = STANDARD.decode(handle).map_err(|error| {
                Error::invalid("raw_handle.b64", format_args!("expected base64: {error}"))
            })?;
            whole("device_id", members.get("device_id"))?;
            whole("byte_size", members.get("byte_size"))?;
            app.shared_memory.register_cuda(name, &handle)
        }
    }
}

fn whole(field: &'static str, value: Option<&Value>) -> Result<u64> {
    value.and_then(Value::as_u64).ok_or_else(|| wrong(field, "an integer from 0 to 2^64 - 1", value))
}

fn wrong(field: &'static str, expected: &str, got: Option<&Value>) -> Error {
    let got = match got {
        None => "none".to_owned(),
        Some(Value::Number(number)) => number.to_string(),
        Some(other) => kind(other).to_owned(),
    };
    Error::invalid(field, format_args!("expected {expected}, got {got}"))
}

/// The trace settings of a model, or of the server, after a change if there is one.
pub(crate) fn trace(app: &App, model: Option<&str>, change: Option<Map<String, Value>>) -> Result<Value> {
    verbs::check_traced(app, model)?;
    let mut update = BTreeMap::new();
    for (key, value) in change.unwrap_or_default() {
        let values = trace_values(&key, value)?;
        update.insert(key, values);
    }
    app.settings.set_trace(model, update)?;
    // Triton's form: the levels are a list, the rest are texts.
    let settings = app.settings.trace(model).into_iter().map(|(key, values)| {
        let value = if key == "trace_level" { json!(values) } else { json!(values.concat()) };
        (key.to_owned(), value)
    });
    Ok(Value::Object(settings.collect()))
}

fn trace_values(key: &str, value: Value) -> Result<Option<Vec<String>>> {
    let one = |value: Value| match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(Error::invalid(
            "settings",
            format_args!(
                "expected a string, a number, an array or null for {}, got {}",
                Echo(key),
                kind(&other)
            ),
        )),
    };
    match value {
        Value::Null => Ok(None),
        Value::Array(values) => values.into_iter().map(one).collect::<Result<_>>().map(Some),
        other => Ok(Some(vec![one(other)?])),
    }
}

/// The log settings, after a change if there is one.
pub(crate) fn log(app: &App, change: Option<Map<String, Value>>) -> Result<Value> {
    let mut update = BTreeMap::new();
    for (key, value) in change.unwrap_or_default() {
        let value = match value {
            Value::Bool(value) => LogValue::Bool(value),
            Value::String(text) => LogValue::Text(text),
            Value::Number(number) if number.is_u64() => LogValue::Uint(number.as_u64().unwrap_or_default()),
            Value::Number(number) => LogValue::Other(number.to_string()),
            other => LogValue::Other(kind(&other).to_owned()),
        };
        update.insert(key, value);
    }
    app.settings.set_log(update)?;
    let settings = app.settings.log().into_iter().map(|(key, value)| {
        let value = match value {
            LogValue::Bool(value) => json!(value),
            LogValue::Uint(value) => json!(value),
            LogValue::Text(value) | LogValue::Other(value) => json!(value),
        };
        (key.to_owned(), value)
    });
    Ok(Value::Object(settings.collect()))
}
