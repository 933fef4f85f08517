//! Every metric, once: its name, kind, unit, labels and meaning.

use std::fmt::Write as _;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows. Its samples are called `name_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It counts values by size.
    Histogram,
    /// It is 1, and its labels say something. Its sample is called `name_info`.
    Info,
    /// A counter whose name is Triton's, without `_total`; OpenMetrics, which has no such counters, calls it unknown.
    Plain,
}

/// A metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, without what its kind adds.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The unit, with which its name ends; empty for a number of things.
    pub unit: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means, in one sentence.
    pub help: &'static str,
}

impl Metric {
    /// The name that a query has.
    #[must_use]
    pub fn sample_name(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Info => format!("{}_info", self.name),
            Kind::Gauge | Kind::Histogram | Kind::Plain => self.name.to_owned(),
        }
    }
}

macro_rules! declare {
    ($(#[$meta:meta])* $all:ident: $($constant:ident = $kind:ident $name:literal $unit:literal [$($label:literal)*] $help:literal;)*) => {
        $(
            pub(super) const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: $unit,
                labels: &[$($label),*],
                help: $help,
            };
        )*
        $(#[$meta])*
        pub const $all: &[&Metric] = &[$(&$constant),*];
    };
}

declare! {
    /// Every metric, in the order in which they are told.
    METRICS:
    REQUESTS_RECEIVED = Counter "axon_requests_received" "" ["model" "version" "protocol"]
        "Requests for inference that came; over HTTP from their head on, over gRPC once their message is whole.";
    REQUESTS = Counter "axon_requests" "" ["model" "version" "protocol" "code"]
        "Requests for inference that have ended, by the status that their caller was told.";
    REQUESTS_REFUSED = Counter "axon_requests_refused" "" ["model" "version" "reason"]
        "Requests for inference that ended without an answer, by the reason.";
    REQUESTS_IN_FLIGHT = Gauge "axon_requests_in_flight" "" ["model" "version" "protocol"]
        "Requests for inference that came and have not ended.";
    REQUEST_DURATION = Histogram "axon_request_duration_seconds" "seconds" ["model" "version"]
        "Time from the whole request to the whole answer, of requests answered.";
    QUEUE_DURATION = Histogram "axon_queue_duration_seconds" "seconds" ["model" "version"]
        "Time from arrival at the queue to the start of the batch, of requests answered; how long a hit of the response cache waited.";
    COMPUTE_DURATION = Histogram "axon_compute_duration_seconds" "seconds" ["model" "version"]
        "Time that the batch of a request ran, of requests answered; 0 of a hit of the response cache.";
    REQUEST_SIZE = Histogram "axon_request_size_bytes" "bytes" ["model" "version"]
        "Bytes of the body or message of requests answered; of their tensors for requests from the process itself.";
    RESPONSE_SIZE = Histogram "axon_response_size_bytes" "bytes" ["model" "version"]
        "Bytes of the body or message of answers; of their tensors for requests from the process itself.";
    BATCH_ROWS = Histogram "axon_batch_rows" "rows" ["model" "version"]
        "Rows of a batch, one value for each run of the model.";
    QUEUE_REQUESTS = Gauge "axon_queue_requests" "" ["model" "version"]
        "Requests that wait for an instance.";
    QUEUE_SIZE = Gauge "axon_queue_size_bytes" "bytes" ["model" "version"]
        "Input bytes of the requests that wait for an instance.";
    RUNNING_REQUESTS = Gauge "axon_running_requests" "" ["model" "version"]
        "Requests that an instance runs.";
    ARRIVING_ROWS = Gauge "axon_arriving_rows_per_second" "" ["model" "version"]
        "Rows that arrive in a second, those of the last second mostly.";
    CAPACITY_ROWS = Gauge "axon_capacity_rows_per_second" "" ["model" "version"]
        "Rows that the instances run in a second at best.";
    LATENCY_TARGET = Gauge "axon_latency_target_seconds" "seconds" ["model" "version"]
        "The latency target; 0.01 where none is stated.";
    LATE_ANSWERS = Counter "axon_late_answers" "" ["model" "version"]
        "Requests answered that took longer than the latency target.";
    PREDICTED_P99 = Gauge "axon_predicted_p99_seconds" "seconds" ["model" "version"]
        "What 99 of 100 requests take at the present rate, predicted; no sample beyond the capacity.";
    LEARNED_RUN = Gauge "axon_learned_run_duration_seconds" "seconds" ["model" "version" "rows"]
        "The learned curve: what a run of so many rows takes.";
    LEARNED_PER_ROW = Gauge "axon_learned_per_row_seconds" "seconds" ["model" "version"]
        "Time that each row adds to a run, learned.";
    LEARNED_FIXED = Gauge "axon_learned_fixed_seconds" "seconds" ["model" "version"]
        "Time of a run before its first row, learned.";
    LEARNED_MARGIN = Gauge "axon_learned_margin_ratio" "ratio" ["model" "version"]
        "What predictions of run time are multiplied with, learned.";
    INSTANCES = Gauge "axon_instances" "" ["model" "version"]
        "Instances of a version that is ready.";
    INSTANCES_BUSY = Gauge "axon_instances_busy" "" ["model" "version"]
        "Instances that run a batch.";
    INSTANCE_RESTARTS = Counter "axon_instance_restarts" "" ["model" "version"]
        "Panics caught at an instance, since the version was loaded.";
    MAX_BATCH_ROWS = Gauge "axon_max_batch_rows" "rows" ["model" "version"]
        "The most rows of a batch, as chosen at load or since.";
    MODEL_STATE = Gauge "axon_model_state" "" ["model" "version" "state"]
        "1 for the state that a version is in, 0 for the others.";
    MODEL_LOADS = Counter "axon_model_loads" "" ["model" "version" "outcome"]
        "Loads of a version that have ended, by whether they went well.";
    MODEL_LOAD_DURATION = Gauge "axon_model_load_duration_seconds" "seconds" ["model" "version"]
        "What the last load of a version took that went well.";
    MODEL_UNLOADS = Counter "axon_model_unloads" "" ["model" "version"]
        "How often a version was unloaded.";
    MODEL_SIZE = Gauge "axon_model_size_bytes" "bytes" ["model" "version" "device"]
        "Bytes of the files of a version that is ready: its graph and its tensors; no sample for what has no file.";
    MEMORY_BUDGET = Gauge "axon_memory_budget_bytes" "bytes" []
        "What models may take together now; told in the control mode auto, as what follows of memory.";
    MEMORY_CHARGED = Gauge "axon_memory_charged_bytes" "bytes" []
        "What counts against the budget: models that are loaded, being loaded, or not given back yet.";
    MODEL_MEMORY = Gauge "axon_model_memory_bytes" "bytes" ["model" "device"]
        "Memory that a model in it takes, measured at its load.";
    MODEL_RELOAD = Gauge "axon_model_reload_seconds" "seconds" ["model"]
        "What the next load of a model is foretold to take.";
    EVICTIONS = Counter "axon_evictions" "" ["cause"]
        "Models that were unloaded by residency, by the cause.";
    CACHE_HITS = Counter "axon_response_cache_hits" "" ["model" "version"]
        "Requests answered from the response cache, or by the run of an identical request; a part of those answered.";
    CACHE_MISSES = Counter "axon_response_cache_misses" "" ["model" "version"]
        "Requests that were looked up in the response cache and run.";
    CACHE_FOLLOWERS = Gauge "axon_response_cache_waiting_requests" "" ["model" "version"]
        "Requests that wait for the run of an identical one, of models whose answers are kept.";
    CACHE_BYTES = Gauge "axon_response_cache_bytes" "bytes" []
        "Bytes that the response cache holds, of all models.";
    CACHE_LIMIT = Gauge "axon_response_cache_limit_bytes" "bytes" []
        "The most bytes that the response cache holds; 0 when it is off.";
    CACHE_ENTRIES = Gauge "axon_response_cache_entries" "" []
        "Answers that the response cache holds, of all models.";
    CACHE_EVICTIONS = Counter "axon_response_cache_evictions" "" []
        "Answers that made way for others before they expired.";
    READY = Gauge "axon_ready" "" []
        "1 when the server takes requests and every model that is meant to be loaded is ready, else 0.";
    CONNECTIONS = Gauge "axon_connections" "" ["port"]
        "Connections that are open.";
    CONNECTIONS_ACCEPTED = Counter "axon_connections_accepted" "" ["port"]
        "Connections that were accepted.";
    CONNECTIONS_REFUSED = Counter "axon_connections_refused" "" ["port"]
        "Connections that were closed at once, since as many were open as may be.";
    ACCEPT_ERRORS = Counter "axon_accept_errors" "" ["port"]
        "Connections that could not be accepted, as when the process has no descriptor left.";
    TLS_HANDSHAKES = Counter "axon_tls_handshakes" "" ["result"]
        "TLS handshakes that have ended, by how; told, as what follows of TLS, where TLS is spoken.";
    TLS_EXPIRES = Gauge "axon_tls_certificate_expires_timestamp_seconds" "seconds" []
        "When the first certificate to expire of the chain that is shown does, in seconds since 1970.";
    TLS_RELOADS = Counter "axon_tls_reloads" "" ["outcome"]
        "Changes of the files of TLS, by whether they were taken or those of before stay.";
    SPANS_EXPORTED = Counter "axon_trace_spans_exported" "" []
        "Spans of traces that the collector has taken; 0 without one.";
    SPANS_DROPPED = Counter "axon_trace_spans_dropped" "" []
        "Spans of traces that were given up, as when the collector is gone.";
    LOG_DROPPED = Counter "axon_log_lines_dropped" "" []
        "Lines of the log that were dropped, since nobody read them.";
    GPU_UTILIZATION = Gauge "axon_gpu_utilization_ratio" "ratio" ["gpu" "uuid"]
        "Part of the last moments in which the GPU ran something, 0 to 1; told, as what follows of GPUs, where NVML is.";
    GPU_MEMORY_USED = Gauge "axon_gpu_memory_used_bytes" "bytes" ["gpu" "uuid"]
        "Memory of the GPU that is in use, by whatever process.";
    GPU_MEMORY_TOTAL = Gauge "axon_gpu_memory_total_bytes" "bytes" ["gpu" "uuid"]
        "Memory of the GPU.";
    GPU_TEMPERATURE = Gauge "axon_gpu_temperature_celsius" "celsius" ["gpu" "uuid"]
        "Temperature of the GPU.";
    GPU_POWER = Gauge "axon_gpu_power_watts" "watts" ["gpu" "uuid"]
        "Power that the GPU draws.";
    GPU_POWER_LIMIT = Gauge "axon_gpu_power_limit_watts" "watts" ["gpu" "uuid"]
        "Power that the GPU may draw.";
    BUILD = Info "axon_build" "" ["version"]
        "The version of this server.";
    RUNTIME = Info "axon_runtime" "" ["version" "device" "provider"]
        "The version of ONNX Runtime, and where and by what models run that do not say; no sample before the first model.";
    PROCESS_CPU = Counter "process_cpu_seconds" "seconds" []
        "Processor time of this process.";
    PROCESS_RESIDENT = Gauge "process_resident_memory_bytes" "bytes" []
        "Memory of this process that is in RAM.";
    PROCESS_VIRTUAL = Gauge "process_virtual_memory_bytes" "bytes" []
        "Address space of this process.";
    PROCESS_FDS = Gauge "process_open_fds" "" []
        "Descriptors that this process has open.";
    PROCESS_MAX_FDS = Gauge "process_max_fds" "" []
        "Descriptors that this process may have open.";
    PROCESS_THREADS = Gauge "process_threads" "" []
        "Threads of this process.";
    PROCESS_START = Gauge "process_start_time_seconds" "seconds" []
        "When this process started, in seconds since 1970.";
}

declare! {
    /// What Triton tells, told too under `--compat triton`.
    TRITON:
    NV_SUCCESS = Plain "nv_inference_request_success" "" ["model" "version"]
        "Requests answered.";
    NV_FAILURE = Plain "nv_inference_request_failure" "" ["model" "version" "reason"]
        "Requests that ended without an answer: REJECTED, CANCELED, BACKEND or OTHER. Those refused at arrival count too.";
    NV_COUNT = Plain "nv_inference_count" "" ["model" "version"]
        "Rows answered since the version was loaded.";
    NV_EXECUTIONS = Plain "nv_inference_exec_count" "" ["model" "version"]
        "Runs of the model since the version was loaded.";
    NV_PENDING = Gauge "nv_inference_pending_request_count" "" ["model" "version"]
        "Requests that wait for an instance.";
    NV_REQUEST_DURATION = Plain "nv_inference_request_duration_us" "" ["model" "version"]
        "Microseconds from the whole request to the whole answer, of all requests answered together.";
    NV_QUEUE_DURATION = Plain "nv_inference_queue_duration_us" "" ["model" "version"]
        "Microseconds in the queue, of all requests answered together.";
    NV_COMPUTE_INPUT = Plain "nv_inference_compute_input_duration_us" "" ["model" "version"]
        "Microseconds of joining inputs since the version was loaded; each request counts its whole batch.";
    NV_COMPUTE_INFER = Plain "nv_inference_compute_infer_duration_us" "" ["model" "version"]
        "Microseconds of running the model; each request answered counts its whole batch.";
    NV_COMPUTE_OUTPUT = Plain "nv_inference_compute_output_duration_us" "" ["model" "version"]
        "Microseconds of splitting outputs since the version was loaded; each request counts its whole batch.";
    NV_LOAD_DURATION = Gauge "nv_model_load_duration_secs" "" ["model" "version"]
        "Seconds that the last load of a version took that went well.";
    NV_CACHE_HITS_OF = Plain "nv_cache_num_hits_per_model" "" ["model" "version"]
        "Requests answered from the response cache, or by the run of an identical request.";
    NV_CACHE_MISSES_OF = Plain "nv_cache_num_misses_per_model" "" ["model" "version"]
        "Requests that were looked up in the response cache and run.";
    NV_CACHE_HIT_DURATION = Plain "nv_cache_hit_duration_per_model" "" ["model" "version"]
        "Microseconds of hashing and looking up, of hits since the version was loaded.";
    NV_CACHE_MISS_DURATION = Plain "nv_cache_miss_duration_per_model" "" ["model" "version"]
        "Microseconds of hashing, looking up and keeping answers, of misses since the version was loaded.";
    NV_CACHE_UTIL = Gauge "nv_cache_util" "" []
        "Part of the response cache's bytes that is used, 0 to 1.";
    NV_CACHE_ENTRIES = Gauge "nv_cache_num_entries" "" []
        "Answers that the response cache holds.";
    NV_CACHE_LOOKUPS = Gauge "nv_cache_num_lookups" "" []
        "Requests that were looked up in the response cache.";
    NV_CACHE_HITS = Gauge "nv_cache_num_hits" "" []
        "Requests answered from the response cache, of all models.";
    NV_CACHE_MISSES = Gauge "nv_cache_num_misses" "" []
        "Requests that were looked up in the response cache and run, of all models.";
    NV_CACHE_EVICTIONS = Gauge "nv_cache_num_evictions" "" []
        "Answers that made way for others.";
    NV_CACHE_LOOKUP_DURATION = Gauge "nv_cache_lookup_duration" "" []
        "Microseconds of hashing and looking up, all requests together.";
    NV_CACHE_INSERTION_DURATION = Gauge "nv_cache_insertion_duration" "" []
        "Microseconds of keeping answers, all together.";
    NV_CPU_UTILIZATION = Gauge "nv_cpu_utilization" "" []
        "Part of the machine's processor time that was used since the scrape before, 0 to 1.";
    NV_CPU_MEMORY_TOTAL = Gauge "nv_cpu_memory_total_bytes" "" []
        "Memory of the machine.";
    NV_CPU_MEMORY_USED = Gauge "nv_cpu_memory_used_bytes" "" []
        "Memory of the machine that is in use.";
    NV_GPU_UTILIZATION = Gauge "nv_gpu_utilization" "" ["gpu_uuid"]
        "Part of the last moments in which the GPU ran something, 0 to 1.";
    NV_GPU_MEMORY_TOTAL = Gauge "nv_gpu_memory_total_bytes" "" ["gpu_uuid"]
        "Memory of the GPU.";
    NV_GPU_MEMORY_USED = Gauge "nv_gpu_memory_used_bytes" "" ["gpu_uuid"]
        "Memory of the GPU that is in use.";
    NV_GPU_POWER = Gauge "nv_gpu_power_usage" "" ["gpu_uuid"]
        "Power that the GPU draws, in watts.";
    NV_GPU_POWER_LIMIT = Gauge "nv_gpu_power_limit" "" ["gpu_uuid"]
        "Power that the GPU may draw, in watts.";
    NV_ENERGY = Plain "nv_energy_consumption" "" ["gpu_uuid"]
        "Energy that the GPU has taken since the first scrape, in joules.";
}

/// What is said of each label, for the document.
const LABELS: [(&str, &str); 16] = [
    ("model", "a model that was loaded; `-` for requests whose model or version was never here"),
    ("version", "its version; `-` with the model `-`"),
    (
        "protocol",
        "`http`, `grpc` (each message of a stream is a request), `in_process` (the Python and Rust interfaces)",
    ),
    (
        "code",
        "the status of HTTP as a number, 499 where the caller has gone; the status of gRPC by its name, for requests from the \
         process itself too; `other` for what is in no list",
    ),
    (
        "reason",
        "`queue_full`, `predicted_miss`, `displaced` (a more urgent request took the place), `expired`, `quota`, `denied`, \
         `draining`, `loading`, `not_ready`, `unknown_model`, `too_large`, `invalid`, `execution_failed`, `internal`, \
         `cancelled` (the caller has gone)",
    ),
    ("cause", "`room` (others are worth more), `unused` (for as long as it is kept)"),
    ("state", "`loading`, `ready`, `unloading`, `unloaded`, `failed`"),
    ("outcome", "`loaded`, `failed`"),
    (
        "result",
        "`ok`; `timeout`; `no_client_certificate` where one is asked for; `client_certificate` (the client's is expired, \
         revoked or of an unknown authority); `server_certificate` (the client does not trust the server's); \
         `protocol_version` (older than TLS 1.2); `not_tls`; `other`",
    ),
    ("rows", "1 and its doubles up to the most rows of a batch, and that"),
    ("device", "`cpu`, `cuda`"),
    ("provider", "ONNX Runtime's name of what runs models: `CPUExecutionProvider`, `CUDAExecutionProvider`"),
    ("port", "`http`, `grpc`, `metrics`"),
    ("gpu", "its number, as `nvidia-smi` has it"),
    ("uuid", "what the GPU is called everywhere"),
    ("gpu_uuid", "the same, as Triton calls it"),
];

/// The document `docs/metrics.md`.
#[must_use]
pub fn document() -> String {
    let mut text = String::from(INTRODUCTION);
    table(&mut text, METRICS);
    text.push_str("\n## Labels\n\n| label | values |\n|---|---|\n");
    for (label, values) in LABELS {
        let _ = writeln!(text, "| `{label}` | {values} |");
    }
    text.push_str(TRITON_INTRODUCTION);
    table(&mut text, TRITON);
    text
}

fn table(text: &mut String, metrics: &[&Metric]) {
    text.push_str("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for metric in metrics {
        let kind = match metric.kind {
            Kind::Counter | Kind::Plain => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(
            text,
            "| `{}` | {kind} | {} | {} |",
            metric.sample_name(),
            labels.join(" "),
            metric.help
        );
    }
}

const INTRODUCTION: &str = "\
<!-- Made from crates/axon-server/src/metrics/declared.rs. To renew it: AXON_UPDATE_DOCS=1 cargo test -p axon-server docs -->

# Metrics

`axon serve` tells them at `/metrics`, on a port of their own (`--metrics-port`, 8002) and on the port for HTTP.
`--metrics off` counts and tells nothing.

- The form is what the scraper asks for in `Accept`: text (the default), OpenMetrics, or protobuf with native
  histograms. Prometheus asks for the last with `scrape_protocols: [PrometheusProto]`, and since version 3.8 keeps native
  histograms with `scrape_native_histograms: true`.
- In OpenMetrics and protobuf, durations of requests that were traced carry the trace's id as exemplar.
- Counters of a version go on over its reloads. Per model, version and protocol
  `axon_requests_received_total` = `axon_requests_total` + `axon_requests_in_flight` at every scrape, and what is not
  answered is in `axon_requests_refused_total` by its reason.
- Requests for models that were never here share one row, so that no client can make more.

";

const TRITON_INTRODUCTION: &str = "
## Under `--compat triton`

These come on top, from the same counters. Triton counts no request that it refuses at arrival; here all count.

";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn docs_say_what_is_declared() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        if std::env::var_os("AXON_UPDATE_DOCS").is_some() {
            std::fs::write(&path, document()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == document(), "docs/metrics.md is stale: its first line says how to renew it");
    }

    #[test]
    fn a_name_is_declared_once_and_says_its_unit() {
        let mut names = BTreeSet::new();
        for metric in METRICS.iter().chain(TRITON) {
            assert!(names.insert(metric.name), "{} comes twice", metric.name);
            assert!(
                metric.unit.is_empty() || metric.name.ends_with(&format!("_{}", metric.unit)),
                "{metric:?}"
            );
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{metric:?}");
            for label in metric.labels {
                assert!(LABELS.iter().any(|(known, _)| known == label), "{metric:?}");
            }
        }
    }
}
