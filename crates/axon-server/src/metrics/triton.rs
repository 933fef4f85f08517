//! The metrics of Triton, under its names.
//!
//! **Source:** Triton's metrics guide and its core's reporter of model metrics.

use std::sync::atomic::Ordering::Relaxed;

use axon::metrics::{DurationCounter, ModelStatistics, Outcome};

use super::collect::{View, each};
use super::declared as d;
use super::family::{Family, Value};
use super::process::{Utilization, machine_memory};

/// What is told on top under `--compat triton`.
pub(super) fn families<'a>(views: &'a [View], utilization: &Utilization) -> Vec<Family<'a>> {
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
    ];
    families.extend(utilization.look().map(|used| Family::single(&d::NV_CPU_UTILIZATION, used)));
    if let Some((total, used)) = machine_memory() {
        families.push(Family::single(&d::NV_CPU_MEMORY_TOTAL, total));
        families.push(Family::single(&d::NV_CPU_MEMORY_USED, used));
    }
    families
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
