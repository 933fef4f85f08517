//! Whether the server is ready, and what stands in its way.
//!
//! Live says that the process answers, and nothing else does: it stays so until the end. Ready says that requests are
//! taken and every model that is meant to be loaded is there. A model that is overloaded is ready: who sends a request
//! elsewhere for it does so by the answer 503 to that request, and a server that stopped being ready would hand its load
//! to the next one.

use axon::repository::State;
use axon::scheduler::Refusal;
use axon::{Error, Result};
use serde_json::{Value, json};

use crate::app::App;

/// Fails while a version, or a target of an alias, does not take requests: the next request would fail so.
pub(crate) fn model_ready(app: &App, name: &str, version: Option<u64>) -> Result<()> {
    for to in app.server.destinations(name, version)? {
        app.server.model(&to.model, to.version)?;
    }
    if app.server.is_stopping() { Err(Error::shutting_down()) } else { Ok(()) }
}

/// Whether a query asks for everything: `verbose`, `verbose=1` or `verbose=true`.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](axon::ErrorKind) at `verbose` for another value.
pub(crate) fn is_verbose(query: Option<&str>) -> Result<bool> {
    let mut verbose = false;
    for pair in query.unwrap_or_default().split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, "1"));
        if name == "verbose" {
            verbose = match value {
                "1" | "true" => true,
                "0" | "false" => false,
                _ => {
                    return Err(Error::invalid(
                        "verbose",
                        format_args!("expected 0, 1, false or true, got {}", axon::error::Echo(value)),
                    ));
                }
            };
        }
    }
    Ok(verbose)
}

/// What stands in the way of being ready, and what an operator should know of models that are ready.
pub(crate) fn report(app: &App) -> (bool, Value) {
    let draining = app.server.is_stopping();
    let outcome = app.server.ready();
    let unready = app.server.unready();
    let entries = app.server.models();
    let named = |name: &str, version: u64| json!({ "name": name, "version": version.to_string() });
    let with = |mut value: Value, key: &str, other: Value| {
        value[key] = other;
        value
    };
    let loading: Vec<Value> = unready
        .iter()
        .filter(|(.., is_loading)| *is_loading)
        .map(|(name, version, _)| named(name, *version))
        .collect();
    let reason = |name: &str, version: u64| {
        let entry = entries.iter().find(|entry| (entry.name.as_str(), entry.version) == (name, version));
        entry.and_then(|entry| entry.state.reason())
    };
    let failed: Vec<Value> = unready
        .iter()
        .filter(|(.., is_loading)| !is_loading)
        .map(|(name, version, _)| with(named(name, *version), "reason", reason(name, *version).into()))
        .collect();
    let overloaded: Vec<Value> = entries
        .iter()
        .filter_map(|entry| match &entry.state {
            State::Ready(model) => Some((entry, model.load_now())),
            _ => None,
        })
        .filter_map(|(entry, load)| {
            let refusing = load.refusing.filter(|refusal| is_overload(*refusal))?;
            let told = with(named(&entry.name, entry.version), "reason", refusing.name().into());
            Some(with(told, "waiting", load.waiting.into()))
        })
        .collect();
    let stale: Vec<Value> = (app.server.index(true).into_iter())
        .filter_map(|entry| Some(with(named(&entry.name, entry.version?), "reason", entry.reason?.into())))
        .collect();
    let is_loading = !loading.is_empty() || outcome == Err(axon::server::NotReady::Loading);
    let because =
        [("draining", draining), ("loading", is_loading), ("failed", !failed.is_empty())].into_iter();
    let because: Vec<&str> = because.filter(|(_, holds)| *holds).map(|(reason, _)| reason).collect();
    let is_ready = because.is_empty();
    let document = json!({
        "live": true,
        "ready": is_ready,
        "not_ready_because": because,
        "loading": loading,
        "failed": failed,
        "overloaded": overloaded,
        "stale": stale,
    });
    (is_ready, document)
}

/// What is refused so is refused because too much comes.
fn is_overload(refusal: Refusal) -> bool {
    match refusal {
        Refusal::QueueFull | Refusal::PredictedMiss | Refusal::Displaced | Refusal::Expired => true,
        Refusal::Cancelled | Refusal::Late => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_asks_for_everything_or_not() {
        let check = |query, expected| assert_eq!(is_verbose(query).unwrap(), expected, "{query:?}");
        check(None, false);
        check(Some(""), false);
        check(Some("verbose"), true);
        check(Some("verbose=1"), true);
        check(Some("a=b&verbose=true"), true);
        check(Some("verbose=0"), false);
        check(Some("verbosely=1"), false);
        for query in ["verbose=yes", "verbose=", "verbose=1&verbose=2"] {
            assert_eq!(is_verbose(Some(query)).unwrap_err().field(), Some("verbose"), "{query}");
        }
    }
}
