//! Why a model answers as it does: what was learned of its runs, its load, and what was refused.

use std::time::Duration;

use axon::Result;
use axon::report::ModelReport;
use axon::repository::Model;
use serde_json::{Value, json};

use crate::app::App;

/// The document of `/v2/models/M/explain`.
pub(crate) fn explain(app: &App, name: &str, version: Option<u64>) -> Result<Value> {
    let model = app.server.model(name, version)?;
    let (load, report, config) = (model.load_now(), ModelReport::new(&model), model.config());
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    let learned = &load.learned;
    let table: Vec<Value> = learned
        .table
        .iter()
        .map(|&(rows, duration)| json!({ "rows": rows, "ms": milliseconds(duration) }))
        .collect();
    let refused: serde_json::Map<String, Value> =
        load.refusals.iter().map(|(refusal, count)| (refusal.name().to_owned(), json!(count))).collect();
    Ok(json!({
        "model_name": model.name(),
        "model_version": model.version().to_string(),
        "latency_target_ms": config.latency_target.map(milliseconds),
        "request_timeout_ms": milliseconds(config.request_timeout),
        "run_time": {
            "per_row_ms": milliseconds(learned.per_row),
            "fixed_ms": milliseconds(learned.fixed),
            "margin": learned.margin,
            "runs": learned.runs,
            "full_batch_ms": milliseconds(load.full_batch),
            "by_rows": table,
        },
        "plan": {
            "instances": report.instances,
            "threads": report.threads,
            "max_batch_rows": load.max_batch_rows,
            "chosen_because": report.chosen_because,
            "batchable": report.batchable,
            "not_batchable_because": report.not_batchable_because,
        },
        "load": {
            "arriving_rows_per_second": load.arrivals,
            "capacity_rows_per_second": load.capacity.is_finite().then_some(load.capacity),
            "waiting": load.waiting,
            "waiting_bytes": load.waiting_bytes,
            "running": load.running,
            "predicted_p99_ms": load.predicted_p99.map(milliseconds),
        },
        "device": {
            "lanes": load.standing.lanes,
            "is_shared": load.standing.is_contended,
            "weight": load.standing.weight,
            "share": load.standing.share,
            "longest_run_ms": load.standing.cap.map(milliseconds),
        },
        "response_cache": cached(&model),
        "refused": refused,
        "refusing_because": load.refusing.map(axon::scheduler::Refusal::name),
    }))
}

/// How many answers were kept or shared; `None` of a model whose answers are not.
fn cached(model: &Model) -> Option<Value> {
    let wish = model.configuration().response_cache()?;
    let (hits, misses) = (model.statistics().cache_hit.read().0, model.statistics().cache_miss.read().0);
    Some(json!({ "hits": hits, "misses": misses, "ttl_s": wish.ttl.map(|ttl| ttl.as_secs_f64()) }))
}
