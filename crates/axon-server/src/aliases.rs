//! `/v2/aliases`: names that stand for models, and what is told of them; and what a request by an alias says and is told.

use axon::Result;
use axon::alias::{AliasReport, Declared, Destination, Dropped, Routed, ShadowCounts, TargetCounts};
use axon::metrics::HistogramSnapshot;
use axon::request::InferenceResponse;
use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::verbs::on_a_thread;

/// Requests with the same value go to the same target of an alias.
const KEY: HeaderName = HeaderName::from_static("x-axon-key");

/// The model and version that answered, as `digits/3`.
const ANSWERED_BY: HeaderName = HeaderName::from_static("x-axon-model");

/// The longest key.
const MAX_KEY: usize = 256;

/// The key that a request says.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](axon::ErrorKind) at `X-Axon-Key` for several, and for one that is too long.
pub(crate) fn key(headers: &HeaderMap) -> Result<Option<&[u8]>> {
    let mut keys = headers.get_all(KEY).iter();
    let Some(key) = keys.next().map(HeaderValue::as_bytes) else { return Ok(None) };
    if keys.next().is_some() || key.len() > MAX_KEY {
        return Err(axon::Error::invalid(
            "X-Axon-Key",
            format_args!("expected one value of at most {MAX_KEY} bytes, got {} bytes or several", key.len()),
        ));
    }
    Ok(Some(key))
}

/// Chooses the target of a request for `name`; `None` when that is no alias. Where there are none, no header is looked at.
///
/// # Errors
/// As for [`key`], and for an alias with a version.
pub(crate) fn route(
    app: &App,
    name: &str,
    version: Option<u64>,
    headers: &HeaderMap,
) -> Result<Option<Routed>> {
    if !app.server.has_aliases() {
        return Ok(None);
    }
    app.server.route(name, version, key(headers)?)
}

/// Who answered, for a header.
pub(crate) fn answered_by(response: &InferenceResponse) -> HeaderValue {
    let told = HeaderValue::try_from(format!("{}/{}", response.model, response.version));
    // A model's name has only letters that a header may have.
    told.unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// Adds who answered a request for an alias.
pub(crate) fn insert(headers: &mut HeaderMap, answered_by: Option<HeaderValue>) {
    if let Some(answered_by) = answered_by {
        headers.insert(ANSWERED_BY, answered_by);
    }
}

/// Every alias.
pub(crate) fn all(app: &App) -> Value {
    json!({ "aliases": app.server.aliases().iter().map(|report| told(app, report)).collect::<Vec<_>>() })
}

/// One alias.
pub(crate) fn one(app: &App, name: &str) -> Result<Value> {
    app.server.alias(name).map(|report| told(app, &report))
}

/// Adds an alias, or leads one elsewhere.
pub(crate) async fn set(app: &App, name: &str, body: &Bytes) -> Result<Value> {
    let declared = Declared::from_json(&Value::Object(crate::admin::object(body)?))?;
    let (server, asked) = (app.server.clone(), name.to_owned());
    on_a_thread(move || server.set_alias(&asked, declared)).await?;
    one(app, name)
}

/// Removes an alias.
pub(crate) fn remove(app: &App, name: &str) -> Result<Value> {
    app.server.remove_alias(name)?;
    Ok(json!({}))
}

/// Reads the file of aliases again.
pub(crate) async fn reread(app: &App) -> Result<Value> {
    let server = app.server.clone();
    on_a_thread(move || server.reread_aliases().map(drop)).await?;
    Ok(all(app))
}

fn told(app: &App, report: &AliasReport) -> Value {
    let targets = report.declared.targets().iter().zip(&report.targets);
    let targets: Vec<Value> = targets
        .map(|(target, counts)| {
            let mut value = destination(app, &target.to);
            value["weight"] = json!(target.weight);
            with_counts(value, counts)
        })
        .collect();
    let shadow = report.declared.shadow().zip(report.shadow.as_ref()).map(|(shadow, counts)| {
        let mut value = destination(app, &shadow.to);
        value["share"] = json!(shadow.share);
        with_shadow_counts(value, counts)
    });
    json!({ "name": report.name, "origin": report.origin.name(), "targets": targets, "shadow": shadow })
}

/// A model and the version that it stands for now.
fn destination(app: &App, to: &Destination) -> Value {
    let (ready, reason) = match app.server.model(&to.model, to.version) {
        Ok(model) => (Some(model.version().to_string()), None),
        Err(error) => (None, Some(error.message().to_owned())),
    };
    json!({
        "model": to.model,
        "version": to.version.map(|version| version.to_string()),
        "ready_version": ready,
        "not_ready_because": reason,
    })
}

fn with_counts(mut value: Value, counts: &TargetCounts) -> Value {
    value["answered"] = json!(counts.answered);
    value["unanswered"] = json!(counts.unanswered);
    value["mean_ms"] = json!(mean_ms(&counts.durations));
    value
}

fn with_shadow_counts(mut value: Value, counts: &ShadowCounts) -> Value {
    let dropped = Dropped::ALL.iter().zip(counts.dropped);
    let dropped: Map<String, Value> =
        dropped.map(|(cause, count)| (cause.name().to_owned(), json!(count))).collect();
    // What is endless has no number in JSON.
    let number = |number: f64| if number.is_finite() { json!(number) } else { json!("infinity") };
    let outputs: Map<String, Value> = counts
        .outputs
        .iter()
        .map(|(name, found)| {
            let found = json!({
                "different": found.different,
                "largest_absolute": number(found.absolute),
                "largest_relative": number(found.relative),
                "form": found.form,
            });
            (name.clone(), found)
        })
        .collect();
    value["compared"] = json!(counts.equal + counts.different);
    value["equal"] = json!(counts.equal);
    value["different"] = json!(counts.different);
    value["failed"] = json!(counts.failed);
    value["dropped"] = dropped.into();
    value["primary_mean_ms"] = json!(mean_ms(&counts.primary));
    value["shadow_mean_ms"] = json!(mean_ms(&counts.shadow));
    value["outputs"] = outputs.into();
    value["last_failure"] = json!(counts.last_failure);
    value
}

/// `None` when nothing was observed.
fn mean_ms(durations: &HistogramSnapshot) -> Option<f64> {
    let count = durations.count();
    (count > 0).then(|| durations.sum() * 1e3 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_one_key_of_bounded_length() {
        let check = |values: &[&str], expected: Option<Option<&str>>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(KEY, HeaderValue::from_str(value).unwrap());
            }
            let read = key(&headers);
            assert_eq!(
                read.as_ref().ok().map(|key| key.map(|key| std::str::from_utf8(key).unwrap())),
                expected
            );
            assert!(read.err().is_none_or(|error| error.field() == Some("X-Axon-Key")));
        };
        check(&[], Some(None));
        check(&["user-7"], Some(Some("user-7")));
        check(&[&"x".repeat(MAX_KEY)], Some(Some(&"x".repeat(MAX_KEY))));
        check(&[&"x".repeat(MAX_KEY + 1)], None);
        check(&["a", "b"], None);
    }
}
