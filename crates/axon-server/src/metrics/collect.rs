//! Fills the families from what the engine and the wire have counted.

use std::sync::Arc;

use axon::metrics::{ModelSnapshot, Outcome, Protocol, UNKNOWN};
use axon::onnx::runtime_version;
use axon::repository::{Model, State};
use axon::response_cache::CacheReport;
use axon::scheduler::Load;

use super::declared as d;
use super::declared::Metric;
use super::family::{Family, Label, Value};
use super::{gpu, process, triton};
use crate::app::App;
use crate::compat::Compat;
use crate::connection::Port;
use crate::logging;
use crate::tls::Handshake;

/// What is known of a version at one moment.
pub(super) struct View {
    pub labels: [Label; 2],
    /// False for requests whose model is unknown.
    pub is_model: bool,
    pub counted: ModelSnapshot,
    /// `None` when it is known no more.
    pub state: Option<State>,
    /// When it is ready.
    pub ready: Option<(Arc<Model>, Load)>,
}

impl View {
    /// The labels of the version and another.
    pub fn and(&self, label: impl Into<Label>) -> [Label; 3] {
        let [model, version] = self.labels.clone();
        [model, version, label.into()]
    }
}

/// Everything that is told; `views` are what [`views`] has read.
pub(super) fn families<'a>(app: &App, views: &'a [View]) -> Vec<Family<'a>> {
    let mut families = requests(views);
    families.extend(observations(views));
    families.extend(loads(views));
    families.extend(models(views));
    families.extend(memory(app));
    families.extend(response_cache(&app.server.response_cache()));
    families.extend(server(app));
    families.extend(tls(app));
    let gpus = app.scrapes.gpus.look();
    families.extend(gpu::families(&gpus));
    families.extend(process::families());
    if app.compat == Compat::Triton {
        families.extend(triton::families(views, &app.server.response_cache(), &app.scrapes.utilization));
        families.extend(gpu::triton_families(&gpus));
    }
    families
}

/// Reads the counters of every version.
pub(super) fn views(app: &App) -> Vec<View> {
    let mut states = app.server.models();
    let mut state_of = |name: &str, version: u64| {
        let index =
            states.binary_search_by(|entry| (entry.name.as_str(), entry.version).cmp(&(name, version)));
        index.ok().and_then(|index| states.get_mut(index)).map(|entry| entry.state.clone())
    };
    let view = |series: axon::metrics::Series| {
        let (labels, state) = match &series.model {
            Some((name, version)) => {
                ([Label::from(name.clone()), version.to_string().into()], state_of(name, *version))
            }
            None => ([UNKNOWN.into(), UNKNOWN.into()], None),
        };
        let ready = match &state {
            Some(State::Ready(model)) => Some((Arc::clone(model), model.load_now())),
            _ => None,
        };
        View { labels, is_model: series.model.is_some(), counted: series.metrics.snapshot(), state, ready }
    };
    app.server.series().into_iter().map(view).collect()
}

/// The family of one sample for each version of which `value` says something.
pub(super) fn each<'a, V: Into<Value<'a>>>(
    metric: &'static Metric,
    views: impl IntoIterator<Item = &'a View>,
    value: impl Fn(&'a View) -> Option<V>,
) -> Family<'a> {
    let mut family = Family::new(metric);
    for view in views {
        if let Some(value) = value(view) {
            family.push(view.labels.clone(), value);
        }
    }
    family
}

fn requests(views: &[View]) -> Vec<Family<'_>> {
    let mut received = Family::new(&d::REQUESTS_RECEIVED);
    let mut ended = Family::new(&d::REQUESTS);
    let mut refused = Family::new(&d::REQUESTS_REFUSED);
    let mut in_flight = Family::new(&d::REQUESTS_IN_FLIGHT);
    for view in views {
        for protocol in Protocol::ALL {
            let labels = || view.and(protocol.name());
            received.push(labels(), view.counted.received[protocol as usize]);
            in_flight.push(labels(), view.counted.in_flight(protocol));
            // Two outcomes may be told by one code.
            let mut codes: Vec<(&'static str, u64)> = Vec::new();
            for one in view.counted.ended.iter().filter(|one| one.protocol == protocol) {
                let code = one.code.name(protocol);
                match codes.iter_mut().find(|(known, _)| *known == code) {
                    Some((_, count)) => *count += one.count,
                    None => codes.push((code, one.count)),
                }
            }
            for (code, count) in codes {
                let [model, version, protocol] = labels();
                ended.push([model, version, protocol, code.into()], count);
            }
        }
        for outcome in Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::Answered) {
            refused.push(view.and(outcome.name()), view.counted.count(outcome));
        }
    }
    vec![received, ended, refused, in_flight]
}

fn observations(views: &[View]) -> Vec<Family<'_>> {
    // What has no model has no answers.
    let models = || views.iter().filter(|view| view.is_model);
    vec![
        each(&d::REQUEST_DURATION, models(), |view| Some(&view.counted.observations.total)),
        each(&d::QUEUE_DURATION, models(), |view| Some(&view.counted.observations.queue)),
        each(&d::COMPUTE_DURATION, models(), |view| Some(&view.counted.observations.compute)),
        each(&d::REQUEST_SIZE, models(), |view| Some(&view.counted.observations.request_bytes)),
        each(&d::RESPONSE_SIZE, models(), |view| Some(&view.counted.observations.response_bytes)),
        each(&d::BATCH_ROWS, models(), |view| Some(&view.counted.observations.batch_rows)),
        each(&d::LATENCY_TARGET, models(), |view| Some(view.counted.latency_target)),
        each(&d::LATE_ANSWERS, models(), |view| Some(view.counted.late)),
    ]
}

/// What is known of versions that are ready.
fn loads(views: &[View]) -> Vec<Family<'_>> {
    let of = |metric, value: &dyn Fn(&Model, &Load) -> Option<Value<'static>>| {
        each(metric, views, |view| view.ready.as_ref().and_then(|(model, load)| value(model, load)))
    };
    let mut sizes = Family::new(&d::MODEL_SIZE);
    for (view, (model, _)) in views.iter().filter_map(|view| Some((view, view.ready.as_ref()?))) {
        if let Some(outline) = model.outline() {
            sizes.push(view.and(model.config().device.name()), outline.size);
        }
    }
    let mut curve = Family::new(&d::LEARNED_RUN);
    for (view, load) in views.iter().filter_map(|view| Some((view, &view.ready.as_ref()?.1))) {
        for &(rows, duration) in &load.curve {
            curve.push(view.and(rows.to_string()), duration);
        }
    }
    vec![
        of(&d::QUEUE_REQUESTS, &|_, load| Some(load.waiting.into())),
        of(&d::QUEUE_SIZE, &|_, load| Some(load.waiting_bytes.into())),
        of(&d::RUNNING_REQUESTS, &|_, load| Some(load.running.into())),
        of(&d::ARRIVING_ROWS, &|_, load| Some(load.arrivals.into())),
        of(&d::CAPACITY_ROWS, &|_, load| Some(load.capacity.into())),
        of(&d::PREDICTED_P99, &|_, load| load.predicted_p99.map(Value::from)),
        curve,
        of(&d::LEARNED_PER_ROW, &|_, load| Some(load.learned.per_row.into())),
        of(&d::LEARNED_FIXED, &|_, load| Some(load.learned.fixed.into())),
        of(&d::LEARNED_MARGIN, &|_, load| Some(load.learned.margin.into())),
        of(&d::INSTANCES, &|_, load| Some(load.instances.into())),
        of(&d::INSTANCES_BUSY, &|_, load| Some(load.busy_instances.into())),
        of(&d::INSTANCE_RESTARTS, &|model, _| {
            Some(model.statistics().instance_restarts.load(std::sync::atomic::Ordering::Relaxed).into())
        }),
        of(&d::CACHE_FOLLOWERS, &|model, _| model.followers().map(Value::from)),
        of(&d::MAX_BATCH_ROWS, &|_, load| Some(load.max_batch_rows.into())),
        sizes,
    ]
}

/// The states of a version, with their names.
fn state_name(state: &State) -> &'static str {
    match state {
        State::Loading => "loading",
        State::Ready(_) => "ready",
        State::Unloading => "unloading",
        State::Unloaded => "unloaded",
        State::Failed(_) => "failed",
    }
}

fn models(views: &[View]) -> Vec<Family<'_>> {
    const STATES: [&str; 5] = ["loading", "ready", "unloading", "unloaded", "failed"];
    let mut states = Family::new(&d::MODEL_STATE);
    let mut loads = Family::new(&d::MODEL_LOADS);
    for view in views.iter().filter(|view| view.is_model) {
        let present = view.state.as_ref().map(state_name);
        for state in STATES {
            states.push(view.and(state), u64::from(present == Some(state)));
        }
        loads.push(view.and("loaded"), view.counted.loads);
        loads.push(view.and("failed"), view.counted.failed_loads);
    }
    let models = || views.iter().filter(|view| view.is_model);
    vec![
        states,
        loads,
        each(&d::MODEL_LOAD_DURATION, models(), |view| {
            (view.counted.loads > 0).then_some(view.counted.load_duration)
        }),
        each(&d::MODEL_UNLOADS, models(), |view| Some(view.counted.unloads)),
        each(&d::CACHE_HITS, models(), |view| Some(view.counted.cache_hits)),
        each(&d::CACHE_MISSES, models(), |view| Some(view.counted.cache_misses)),
    ]
}

/// What the models take that come and go by themselves.
fn memory(app: &App) -> Vec<Family<'static>> {
    let Some(report) = app.server.residency() else { return Vec::new() };
    let (mut bytes, mut reloads) = (Family::new(&d::MODEL_MEMORY), Family::new(&d::MODEL_RELOAD));
    for model in &report.models {
        let name = Label::from(model.name.clone());
        if model.state == "READY" {
            bytes.push([name.clone(), app.device.name().into()], model.bytes);
        }
        reloads.push([name], model.reload);
    }
    vec![
        Family::single(&d::MEMORY_BUDGET, report.allowed),
        Family::single(&d::MEMORY_CHARGED, report.charged),
        bytes,
        reloads,
        Family::new(&d::EVICTIONS)
            .with(["room".into()], report.evictions)
            .with(["unused".into()], report.expired),
    ]
}

/// What the answers take that are kept.
fn response_cache(report: &CacheReport) -> Vec<Family<'static>> {
    vec![
        Family::single(&d::CACHE_BYTES, report.bytes),
        Family::single(&d::CACHE_LIMIT, report.budget),
        Family::single(&d::CACHE_ENTRIES, report.entries),
        Family::single(&d::CACHE_EVICTIONS, report.evictions),
    ]
}

/// How the ports are encrypted, where they are.
fn tls(app: &App) -> Vec<Family<'static>> {
    let Some(tls) = &app.tls else { return Vec::new() };
    let mut handshakes = Family::new(&d::TLS_HANDSHAKES);
    for result in Handshake::ALL {
        handshakes.push([result.name().into()], tls.handshakes(result));
    }
    let [taken, refused] = tls.reloads();
    vec![
        handshakes,
        Family::single(&d::TLS_EXPIRES, tls.expires()),
        Family::new(&d::TLS_RELOADS).with(["loaded".into()], taken).with(["failed".into()], refused),
    ]
}

fn server(app: &App) -> Vec<Family<'static>> {
    let mut families = vec![Family::single(&d::READY, u64::from(app.server.ready().is_ok()))];
    let mut ports = [&d::CONNECTIONS, &d::CONNECTIONS_ACCEPTED, &d::CONNECTIONS_REFUSED, &d::ACCEPT_ERRORS]
        .map(Family::new);
    for port in Port::ALL {
        let counted = app.ports.read(port);
        let values = [counted.open, counted.accepted, counted.refused, counted.errors];
        for (family, value) in ports.iter_mut().zip(values) {
            family.push([port.name().into()], value);
        }
    }
    families.extend(ports);
    let spans = app.tracer.as_ref().map(|tracer| tracer.counts()).unwrap_or_default();
    families.extend([
        Family::single(&d::SPANS_EXPORTED, spans.exported),
        Family::single(&d::SPANS_DROPPED, spans.dropped),
        Family::single(&d::LOG_DROPPED, logging::dropped()),
    ]);
    families.push(Family::new(&d::BUILD).with([env!("CARGO_PKG_VERSION").into()], 1_u64));
    if let Some(version) = runtime_version() {
        let labels = [version.into(), app.device.name().into(), app.device.provider().into()];
        families.push(Family::new(&d::RUNTIME).with(labels, 1_u64));
    }
    families
}
