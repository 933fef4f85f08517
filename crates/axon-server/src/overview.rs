//! How the server and its models are, for the page and for `axon top`: one small document, made from counters.
//!
//! What is in it: `docs/operations.md`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axon::metrics::SlowRequest;
use axon::repository::{Entry, Model, State};
use axon::scheduler::Refusal;
use axon::server::NotReady;
use axon::{Result, error::echo_names};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::history::{self, SLOT_SECONDS, SLOTS, Slot, Track};
use crate::spread::{self, Spread};

/// What the p99 of a model without a latency target is measured against.
const LINE: Duration = Duration::from_millis(10);

/// Since 1970.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The document of `/v2/axon/overview`.
pub(crate) fn overview(app: &App) -> Value {
    let now = now();
    let mut slots: Vec<Slot> = Vec::new();
    let models: Vec<Value> = app
        .server
        .models()
        .iter()
        .map(|entry| {
            let track = app.history.of(&entry.name, entry.version);
            slots.extend(track.slots().cloned());
            model(entry, &track, now)
        })
        .collect();
    json!({
        "time_ms": u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        "server": server(app),
        "models": models,
        "latency": latency(&slots, now),
    })
}

fn server(app: &App) -> Value {
    let reason = match app.server.ready() {
        Ok(()) => None,
        Err(NotReady::Stopping) => Some("shutting down".to_owned()),
        Err(NotReady::Loading) => Some("models are being loaded".to_owned()),
        Err(NotReady::Failed(models)) => {
            Some(format!("these models failed: {}", echo_names(models.iter().map(String::as_str))))
        }
    };
    json!({
        "name": app.compat.server_name(),
        "version": app.compat.server_version(),
        "ready": reason.is_none(),
        "not_ready_because": reason,
        "uptime_s": app.started.elapsed().as_secs_f64(),
        "control": app.server.control_mode().name(),
    })
}

/// One model of the overview.
fn model(entry: &Entry, track: &Track, now: Duration) -> Value {
    let mut document = json!({
        "name": entry.name,
        "version": entry.version.to_string(),
        "state": entry.state.name(),
        "reason": entry.state.reason(),
    });
    if let (State::Ready(model), Some(members)) = (&entry.state, document.as_object_mut()) {
        members.extend(ready(model, track, now));
    }
    document
}

/// What is told of a model that is ready.
fn ready(model: &Model, track: &Track, now: Duration) -> Map<String, Value> {
    let (load, config, rates) = (model.load_now(), model.config(), track.rates());
    let recent = history::last_minute(track.slots(), now);
    let refused: Map<String, Value> =
        load.refusals.iter().map(|(refusal, count)| (refusal.name().to_owned(), json!(count))).collect();
    let told = json!({
        "bytes": model.outline().map(|outline| outline.size),
        "instances": model.plan().instances,
        "busy_instances": load.busy_instances,
        "running": load.running,
        "waiting": load.waiting,
        "waiting_bytes": load.waiting_bytes,
        "latency_target_ms": config.latency_target.map(milliseconds),
        "line_ms": milliseconds(config.latency_target.unwrap_or(LINE)),
        "p50_ms": recent.percentile(0.5),
        "p99_ms": recent.percentile(0.99),
        "requests": model.statistics().success.read().0,
        "failed": model.statistics().fail.read().0,
        "requests_per_s": rates.requests,
        "refused_per_s": rates.failed,
        "mean_batch_rows": rates.mean_batch,
        "max_batch_rows": load.max_batch_rows,
        "refused": refused,
        "refusing_because": load.refusing.map(Refusal::name),
    });
    match told {
        Value::Object(told) => told,
        _ => Map::new(),
    }
}

/// The document of `/v2/models/M/recent`.
pub(crate) fn recent(app: &App, name: &str, version: Option<u64>) -> Result<Value> {
    let model = app.server.model(name, version)?;
    let track = app.history.of(model.name(), model.version());
    let slots: Vec<Slot> = track.slots().cloned().collect();
    let batches: Vec<Value> =
        track.batches().into_iter().map(|(rows, count)| json!({ "rows": rows, "count": count })).collect();
    let at = std::time::Instant::now();
    let told = |request: &SlowRequest| {
        let ended = now().saturating_sub(at.saturating_duration_since(request.ended));
        json!({
            "at_ms": u64::try_from(ended.as_millis()).unwrap_or(u64::MAX),
            "total_ms": milliseconds(request.total),
            "queue_ms": milliseconds(request.queue),
            "input_ms": milliseconds(request.phases.input),
            "run_ms": milliseconds(request.phases.infer),
            "output_ms": milliseconds(request.phases.output),
            "rows": request.rows,
            "batch_rows": request.batch_rows,
        })
    };
    let slowest: Vec<Value> = model.statistics().slowest.read(at).iter().map(told).collect();
    Ok(json!({
        "model_name": model.name(),
        "model_version": model.version().to_string(),
        "latency": latency(&slots, now()),
        "batches": batches,
        "slowest": slowest,
    }))
}

/// Requests by time and latency up to `now`, and the percentiles of the last minute.
fn latency(slots: &[Slot], now: Duration) -> Value {
    let last = now.as_secs() / SLOT_SECONDS;
    let first = last.saturating_sub(SLOTS as u64 - 1);
    let mut columns: BTreeMap<u64, Spread> = (first..=last).map(|index| (index, Spread::default())).collect();
    for slot in slots {
        if let Some(spread) = columns.get_mut(&slot.index) {
            spread.add(&slot.spread);
        }
    }
    let columns: Vec<Value> = columns
        .into_iter()
        .map(|(index, spread)| json!({ "start_ms": index * SLOT_SECONDS * 1000, "counts": spread.rows() }))
        .collect();
    let recent = history::last_minute(slots.iter(), now);
    json!({
        "slot_s": SLOT_SECONDS,
        "bounds_ms": spread::bounds_ms(),
        "slots": columns,
        "p50_ms": recent.percentile(0.5),
        "p99_ms": recent.percentile(0.99),
    })
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
