//! What the server says when it is ready: what it serves, where, and a line to try it with.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use axon::DataType;
use axon::config::granted_cores;
use axon::onnx::runtime_version;
use axon::repository::{Model, State};
use axon::server::InferenceServer;
use axon::signature::{Dimension, TensorSpec};

use crate::serve::Addresses;

/// Inputs of more values than this are tried as binary zeros; typed out they would fill the screen.
const TYPED_VALUES: usize = 256;

/// The most models that are listed in full.
const LISTED: usize = 20;

/// Prints what is served to standard output. That nobody reads it is no trouble.
pub fn ready(server: &InferenceServer, addresses: Addresses, elapsed: Duration) {
    let text = ready_text(server, addresses, elapsed);
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

fn ready_text(server: &InferenceServer, addresses: Addresses, elapsed: Duration) -> String {
    let mut text = String::new();
    let (http_scheme, grpc_scheme) = if addresses.is_tls { ("https", "grpcs") } else { ("http", "grpc") };
    let entries = server.models();
    let mut first = None;
    for (index, entry) in entries.iter().enumerate() {
        if index == LISTED {
            let _ = writeln!(text, "… and {} more", entries.len() - LISTED);
            break;
        }
        match &entry.state {
            State::Ready(model) => {
                describe(&mut text, model);
                first = first.or(Some(model));
            }
            State::Failed(error) => {
                let _ = writeln!(text, "{} version {}: not served: {error}", entry.name, entry.version);
            }
            State::Loading | State::Unloading | State::Unloaded => {}
        }
    }
    if let Some(report) = server.residency() {
        let (models, bytes) = (report.models.len(), report.budget >> 20);
        let _ = writeln!(text, "models: {models}, each loaded when it is asked for, in {bytes} MiB together");
    } else if entries.is_empty() {
        text.push_str("no models here yet\n");
    }
    if let Some(model) = first {
        let _ =
            writeln!(text, "try it: {}", curl_line(model, &format!("{http_scheme}://{}", addresses.http)));
    }
    let runtime = runtime_version().map(|version| format!(", ONNX Runtime {version}")).unwrap_or_default();
    let Addresses { http, grpc, metrics, .. } = addresses;
    if let Some(metrics) = metrics {
        let _ = writeln!(text, "metrics: {http_scheme}://{metrics}/metrics");
    }
    let grpc = grpc.map(|address| format!(" and {grpc_scheme}://{address}")).unwrap_or_default();
    let _ = writeln!(
        text,
        "axon {} ready at {http_scheme}://{http}{grpc} in {:.2} s ({} cores{runtime})",
        env!("CARGO_PKG_VERSION"),
        elapsed.as_secs_f64(),
        granted_cores(),
    );
    text
}

fn describe(text: &mut String, model: &Model) {
    let plan = model.plan();
    let batching = match plan.max_batch_rows.get() {
        1 => "not batched".to_owned(),
        rows => format!("batches of up to {rows} rows"),
    };
    let plural = if plan.instances == 1 { "" } else { "s" };
    let threads = match plan.threads {
        1 => String::new(),
        threads => format!(" of {threads} threads"),
    };
    let _ = writeln!(
        text,
        "{} version {} on {}: {} instance{plural}{threads}, {batching}",
        model.name(),
        model.version(),
        model.config().device,
        plan.instances
    );
    for (side, specs) in [("in ", &model.signature().inputs), ("out", &model.signature().outputs)] {
        for spec in specs {
            let _ = writeln!(text, "  {side} {spec}");
        }
    }
}

/// The size that a try-out takes for a dynamic dimension.
fn try_size(spec: &TensorSpec) -> Vec<usize> {
    let size = |dimension: &Dimension| match dimension {
        Dimension::Fixed(size) => *size,
        Dimension::Dynamic(_) => 1,
    };
    spec.shape.as_deref().map_or_else(|| vec![1], |shape| shape.iter().map(size).collect())
}

/// The elements of a try-out's input.
fn try_count(spec: &TensorSpec) -> usize {
    try_size(spec).into_iter().fold(1, usize::saturating_mul)
}

/// A line for a POSIX shell that asks the model for an answer to zeros; `base` is the server's address with its scheme.
#[must_use]
pub fn curl_line(model: &Model, base: &str) -> String {
    let url = format!("{base}/v2/models/{}/versions/{}/infer", model.name(), model.version());
    let inputs = &model.signature().inputs;
    let counts: Vec<usize> = inputs.iter().map(try_count).collect();
    if counts.iter().copied().fold(0, usize::saturating_add) <= TYPED_VALUES {
        let inputs: Vec<String> = inputs.iter().map(typed_input).collect();
        let body = format!(r#"{{"inputs":[{}]}}"#, inputs.join(","));
        return format!("curl -s {url} -d {}", quoted(&body));
    }
    let mut total = 0;
    let mut binary_input = |(spec, count): (&TensorSpec, &usize)| {
        // Zero bytes are zeros of every number type, and for BYTES that many empty strings.
        let bytes = count.saturating_mul(spec.datatype.size().unwrap_or(synapse::bytes::PREFIX));
        total = usize::saturating_add(total, bytes);
        format!(
            r#"{{"name":{},"shape":{:?},"datatype":"{}","parameters":{{"binary_data_size":{bytes}}}}}"#,
            json_string(&spec.name),
            try_size(spec),
            spec.datatype
        )
    };
    let inputs: Vec<String> = inputs.iter().zip(&counts).map(&mut binary_input).collect();
    let header = format!(r#"{{"inputs":[{}]}}"#, inputs.join(","));
    format!(
        "{{ printf %s {}; head -c {total} /dev/zero; }} | curl -s {url} -H 'Inference-Header-Content-Length: {}' --data-binary @-",
        quoted(&header),
        header.len(),
    )
}

fn typed_input(spec: &TensorSpec) -> String {
    let shape = try_size(spec);
    let zero = match spec.datatype {
        DataType::Bool => "false",
        DataType::Bytes => "\"\"",
        _ => "0",
    };
    let data = vec![zero; shape.iter().product()].join(",");
    format!(
        r#"{{"name":{},"shape":{shape:?},"datatype":"{}","data":[{data}]}}"#,
        json_string(&spec.name),
        spec.datatype
    )
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A word for a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
