//! The metrics of Triton, under its names.
//!
//! **Source:** Triton's metrics guide and its core's reporter of model metrics.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axon::metrics::{DurationCounter, ModelStatistics, Outcome};
use axon::response_cache::CacheReport;

use super::collect::{View, each};
use super::declared as d;
use super::family::{Family, Value};
use super::process::{Utilization, machine_memory};

/// What is told on top under `--compat triton`.
pub(super) fn families<'a>(
    views: &'a [View],
    cache: &CacheReport,
    utilization: &Utilization,
) -> Vec<Family<'a>> {
    let models = || views.iter().filter(|view| view.is_model);
    let statistics = |metric, read: &dyn Fn(&ModelStatistics) -> u64| {
        each(metric, models(), |view| {
            Some(view.ready.as_ref().map_or(0, |(model, _)| read(model.statistics())))
        })
    };
    let microseconds = |counter: &DurationCounter| counter.read().1 / 1000;
    let mut families = vec![
        each(&d::NV_SUCCESS, models(), |view| Some(view.counted.count(Outcome::Answered))),
        failures(models()),
        statistics(&d::NV_COUNT, &|counted| counted.inference_count.load(Relaxed)),
        statistics(&d::NV_EXECUTIONS, &|counted| counted.execution_count.load(Relaxed)),
        each(&d::NV_PENDING, models(), |view| Some(view.ready.as_ref().map_or(0, |(_, load)| load.waiting))),
        each(&d::NV_REQUEST_DURATION, models(), |view| {
            Some(view.counted.observations.total.whole_sum() / 1000)
        }),
        each(&d::NV_QUEUE_DURATION, models(), |view| {
            Some(view.counted.observations.queue.whole_sum() / 1000)
        }),
        statistics(&d::NV_COMPUTE_INPUT, &|counted| microseconds(&counted.compute_input)),
        each(&d::NV_COMPUTE_INFER, models(), |view| {
            Some(view.counted.observations.compute.whole_sum() / 1000)
        }),
        statistics(&d::NV_COMPUTE_OUTPUT, &|counted| microseconds(&counted.compute_output)),
        each(&d::NV_LOAD_DURATION, models(), |view| {
            (view.counted.loads > 0).then_some(view.counted.load_duration)
        }),
        each(&d::NV_CACHE_HITS_OF, models(), |view| Some(view.counted.cache_hits)),
        each(&d::NV_CACHE_MISSES_OF, models(), |view| Some(view.counted.cache_misses)),
        statistics(&d::NV_CACHE_HIT_DURATION, &|counted| microseconds(&counted.cache_hit)),
        statistics(&d::NV_CACHE_MISS_DURATION, &|counted| microseconds(&counted.cache_miss)),
    ];
    families.extend(response_cache(cache));
    families.extend(utilization.look().map(|used| Family::single(&d::NV_CPU_UTILIZATION, used)));
    if let Some((total, used)) = machine_memory() {
        families.push(Family::single(&d::NV_CPU_MEMORY_TOTAL, total));
        families.push(Family::single(&d::NV_CPU_MEMORY_USED, used));
    }
    families
}

/// What Triton tells of its local cache, of all models together.
fn response_cache(report: &CacheReport) -> Vec<Family<'static>> {
    let used = if report.budget == 0 { 0.0 } else { report.bytes as f64 / report.budget as f64 };
    let microseconds = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    vec![
        Family::single(&d::NV_CACHE_UTIL, used),
        Family::single(&d::NV_CACHE_ENTRIES, report.entries),
        Family::single(&d::NV_CACHE_LOOKUPS, report.hits + report.misses),
        Family::single(&d::NV_CACHE_HITS, report.hits),
        Family::single(&d::NV_CACHE_MISSES, report.misses),
        Family::single(&d::NV_CACHE_EVICTIONS, report.evictions),
        Family::single(&d::NV_CACHE_LOOKUP_DURATION, microseconds(report.lookups)),
        Family::single(&d::NV_CACHE_INSERTION_DURATION, microseconds(report.insertions)),
    ]
}

fn failures<'a>(models: impl Iterator<Item = &'a View>) -> Family<'static> {
    const REASONS: [&str; 4] = ["REJECTED", "CANCELED", "BACKEND", "OTHER"];
    let mut family = Family::new(&d::NV_FAILURE);
    for view in models {
        for reason in REASONS {
            let outcomes = Outcome::ALL.into_iter().filter(|outcome| reason_of(*outcome) == Some(reason));
            let count: u64 = outcomes.map(|outcome| view.counted.count(outcome)).sum();
            family.push(view.and(reason), Value::Count(count));
        }
    }
    family
}

fn reason_of(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Answered => None,
        Outcome::QueueFull
        | Outcome::PredictedMiss
        | Outcome::Displaced
        | Outcome::Expired
        | Outcome::Quota
        | Outcome::Draining
        | Outcome::Loading
        | Outcome::NotReady => Some("REJECTED"),
        Outcome::Cancelled => Some("CANCELED"),
        Outcome::ExecutionFailed => Some("BACKEND"),
        Outcome::Denied
        | Outcome::UnknownModel
        | Outcome::TooLarge
        | Outcome::Invalid
        | Outcome::Internal => Some("OTHER"),
    }
}
