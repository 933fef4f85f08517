//! `/v2/residency`: which models are in memory, what they are worth, and what operators ask of them.

use std::collections::BTreeMap;
use std::time::Duration;

use axon::Result;
use axon::repository::{Resident, State};
use serde_json::{Value, json};

use crate::app::App;
use crate::verbs::on_a_thread;

/// What an operator asks of a model in mode `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// To be loaded now.
    Warm,
    /// To stay.
    Pin,
    /// To go like any other.
    Unpin,
}

/// Does what an operator asks.
pub(crate) async fn keep(app: &App, name: &str, keep: Keep) -> Result<()> {
    let (server, name) = (app.server.clone(), name.to_owned());
    on_a_thread(move || match keep {
        Keep::Warm => server.warm_model(&name),
        Keep::Pin => server.pin_model(&name, true),
        Keep::Unpin => server.pin_model(&name, false),
    })
    .await
}

/// What is known of the models in memory. In another mode than `auto` that is their states alone.
pub(crate) fn report(app: &App) -> Value {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut reasons: BTreeMap<String, String> = BTreeMap::new();
    let mut states: BTreeMap<String, &'static str> = BTreeMap::new();
    for entry in app.server.models() {
        let state = entry.state.name();
        if let State::Failed(error) = &entry.state {
            reasons.insert(entry.name.clone(), error.message().to_owned());
        }
        if state == "READY" {
            versions.entry(entry.name.clone()).or_default().push(entry.version.to_string());
        }
        let known = states.entry(entry.name).or_insert(state);
        if state == "READY" {
            *known = state;
        }
    }
    let Some(report) = app.server.residency() else {
        let models = states.iter().map(|(name, state)| {
            json!({ "name": name, "state": state, "versions": versions.get(name).cloned().unwrap_or_default(),
                    "reason": reasons.get(name) })
        });
        return json!({ "budget_bytes": null, "models": models.collect::<Vec<_>>() });
    };
    let models = report.models.iter().map(|model| {
        let mut row = row(model);
        row["versions"] = json!(versions.get(&model.name).cloned().unwrap_or_default());
        row["reason"] = json!(reasons.get(&model.name).filter(|_| model.failures > 0));
        row
    });
    json!({
        "budget_bytes": report.budget,
        "allowed_bytes": report.allowed,
        "charged_bytes": report.charged,
        "evictions": report.evictions,
        "expired": report.expired,
        "models": models.collect::<Vec<_>>(),
    })
}

fn row(model: &Resident) -> Value {
    let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64());
    json!({
        "name": model.name,
        "state": model.state,
        "bytes": model.bytes,
        "requests_per_second": model.rate,
        "score": model.score,
        "reload_s": model.reload.as_secs_f64(),
        "idle_s": seconds(model.idle),
        "pinned": model.pinned,
        "until_s": seconds(model.until),
        "failures": model.failures,
        "retry_s": seconds(model.retry_in),
    })
}
