//! One body for each verb of the protocol but inference, shared by HTTP and gRPC: the values are the protocol's own
//! messages, which HTTP writes as JSON.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axon::error::echo_names;
use axon::metrics::{BatchStatistics, DurationCounter};
use axon::reason::Reason;
use axon::repository::{IndexEntry, LoadOverrides, Model, State};
use axon::server::{ModelMetadata, NotReady};
use axon::signature::TensorSpec;
use axon::{Error, ErrorKind, Result};

use serde_json::Value;
use tokio::sync::oneshot;

use crate::app::App;
use crate::proto::inference::model_metadata_response::TensorMetadata;
use crate::proto::inference::repository_index_response::ModelIndex;
use crate::proto::inference::{
    InferBatchStatistics, InferResponseStatistics, InferStatistics, ModelMetadataResponse, ModelStatistics,
    ServerMetadataResponse, StatisticDuration,
};
use crate::route::MemoryKind;
use crate::shared_memory::SystemRegion;

/// What of the protocol's extensions is spoken, in the order that Triton lists them.
const EXTENSIONS: [&str; 13] = [
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "cuda_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
];

pub(crate) fn server_metadata(app: &App) -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: app.compat.server_name().to_owned(),
        version: app.compat.server_version().to_owned(),
        extensions: EXTENSIONS.map(str::to_owned).to_vec(),
    }
}

/// Fails with the reason while the server is not ready.
pub(crate) fn ready(app: &App) -> Result<()> {
    let reason = match app.server.ready() {
        Ok(()) => return Ok(()),
        Err(NotReady::Stopping) => "the server is shutting down".to_owned(),
        Err(NotReady::Loading) => "models are being loaded".to_owned(),
        Err(NotReady::Failed(models)) => {
            format!("models that are not ready: {}", echo_names(models.iter().map(String::as_str)))
        }
    };
    Err(Error::new(ErrorKind::ModelNotReady, reason))
}

pub(crate) fn model_metadata(app: &App, name: &str, version: Option<u64>) -> Result<ModelMetadataResponse> {
    let metadata = app.server.metadata(name, version)?;
    let tensor = |spec: &TensorSpec| TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.datatype.name().to_owned(),
        shape: spec.wire_shape(),
    };
    Ok(ModelMetadataResponse {
        name: metadata.name,
        versions: metadata.versions.iter().map(u64::to_string).collect(),
        platform: metadata.platform.to_owned(),
        inputs: metadata.signature.inputs.iter().map(tensor).collect(),
        outputs: metadata.signature.outputs.iter().map(tensor).collect(),
    })
}

/// The statistics of one version, of all versions of a model, or of all models for an empty name.
pub(crate) fn statistics(app: &App, name: &str, version: Option<u64>) -> Result<Vec<ModelStatistics>> {
    let ready: Vec<Arc<Model>> = app
        .server
        .models()
        .into_iter()
        .filter(|entry| name.is_empty() || entry.name == name)
        .filter(|entry| version.is_none_or(|version| entry.version == version))
        .filter_map(|entry| match entry.state {
            State::Ready(model) => Some(model),
            _ => None,
        })
        .collect();
    if ready.is_empty() && !name.is_empty() {
        // Says what is wrong: the name, the version or its state.
        app.server.model(name, version).map_err(|error| match error.reason() {
            Some(Reason::UnknownModel(_) | Reason::NoReadyVersion(_)) => {
                error.because(Reason::StatisticsOf(name.to_owned()))
            }
            Some(Reason::UnknownVersion(..) | Reason::VersionNotReady(..)) => {
                error.because(Reason::StatisticsOfVersion(name.to_owned()))
            }
            _ => error,
        })?;
    }
    Ok(ready.iter().map(|model| model_statistics(model)).collect())
}

/// A model's counters; durations in nanoseconds. **Source:** Triton's extension "statistics".
fn model_statistics(model: &Model) -> ModelStatistics {
    let counters = model.statistics();
    let read = |counter: &DurationCounter| Some(StatisticDuration::from(counter.read()));
    let none = || Some(StatisticDuration::default());
    let response = InferResponseStatistics {
        compute_infer: read(&counters.compute_infer),
        compute_output: read(&counters.compute_output),
        success: read(&counters.success),
        fail: read(&counters.fail),
        empty_response: none(),
        cancel: read(&counters.cancel),
    };
    let batch = |(rows, batch): (usize, BatchStatistics)| InferBatchStatistics {
        batch_size: rows as u64,
        compute_input: Some((batch.count, batch.input_ns).into()),
        compute_infer: Some((batch.count, batch.infer_ns).into()),
        compute_output: Some((batch.count, batch.output_ns).into()),
    };
    ModelStatistics {
        name: model.name().to_owned(),
        version: model.version().to_string(),
        last_inference: counters.last_inference_ms.load(Relaxed),
        inference_count: counters.inference_count.load(Relaxed),
        execution_count: counters.execution_count.load(Relaxed),
        inference_stats: Some(InferStatistics {
            success: read(&counters.success),
            fail: read(&counters.fail),
            queue: read(&counters.queue),
            compute_input: read(&counters.compute_input),
            compute_infer: read(&counters.compute_infer),
            compute_output: read(&counters.compute_output),
            cache_hit: read(&counters.cache_hit),
            cache_miss: read(&counters.cache_miss),
        }),
        batch_stats: counters.batches().into_iter().map(batch).collect(),
        memory_usage: Vec::new(),
        response_stats: BTreeMap::from([("0".to_owned(), response)]),
    }
}

impl From<(u64, u64)> for StatisticDuration {
    fn from((count, ns): (u64, u64)) -> Self {
        Self { count, ns }
    }
}

/// The trace settings of a model that is here, or of the server.
pub(crate) fn check_traced(app: &App, model: Option<&str>) -> Result<()> {
    let Some(model) = model else { return Ok(()) };
    app.server.model(model, None).map(drop).map_err(|error| match error.reason() {
        Some(Reason::UnknownModel(_)) => error.because(Reason::TraceUnknown(model.to_owned())),
        _ => error,
    })
}

/// What the repository holds; only what is ready if asked so.
pub(crate) fn index(app: &App, repository: Option<&str>, only_ready: bool) -> Result<Vec<ModelIndex>> {
    check_repository(repository)?;
    let entry = |entry: IndexEntry| ModelIndex {
        name: entry.name,
        version: entry.version.map(|version| version.to_string()).unwrap_or_default(),
        // A model that was never loaded has no state, as in Triton.
        state: if entry.version.is_some() { entry.state.to_owned() } else { String::new() },
        reason: entry.reason.unwrap_or_default(),
    };
    Ok(app.server.index(only_ready).into_iter().map(entry).collect())
}

/// Loads a model, or loads it again.
pub(crate) async fn load(
    app: &App,
    repository: Option<&str>,
    name: &str,
    overrides: LoadOverrides,
) -> Result<()> {
    check_repository(repository)?;
    let (server, name) = (app.server.clone(), name.to_owned());
    on_a_thread(move || server.load_model(&name, overrides)).await
}

/// Unloads a model.
pub(crate) async fn unload(
    app: &App,
    repository: Option<&str>,
    name: &str,
    unload_dependents: bool,
) -> Result<()> {
    check_repository(repository)?;
    let (server, name) = (app.server.clone(), name.to_owned());
    let outcome = on_a_thread(move || server.unload_model(&name, unload_dependents)).await;
    outcome.or_else(|error| if app.compat.forgives(&error) { Ok(()) } else { Err(error) })
}

pub(crate) fn check_repository(repository: Option<&str>) -> Result<()> {
    match repository {
        None | Some("") => Ok(()),
        Some(_) => Err(Error::at(
            ErrorKind::Unimplemented,
            "repository_name",
            "expected none: the server has one repository, got a name",
        )
        .because(Reason::RepositoryName)),
    }
}

/// Runs what takes long on a thread of its own: the pool is for short work. The repository bounds how many there are.
pub(crate) async fn on_a_thread(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let (sender, receiver) = oneshot::channel();
    // A caller that has gone does not want the outcome; what was begun goes on.
    let run = move || drop(sender.send(work()));
    std::thread::Builder::new().name("axon-control".to_owned()).spawn(run).map_err(Error::internal)?;
    receiver.await.map_err(Error::internal)?
}

/// The models that are ready, each once, with its newest version's signature.
pub(crate) fn ready_models(app: &App) -> Vec<ModelMetadata> {
    let mut names: Vec<String> = app.server.models().into_iter().map(|entry| entry.name).collect();
    names.dedup();
    names.into_iter().filter_map(|name| app.server.metadata(&name, None).ok()).collect()
}

/// What is registered of one kind of memory.
pub(crate) fn shared_memory_status(
    app: &App,
    kind: MemoryKind,
    name: Option<&str>,
) -> Result<Vec<SystemRegion>> {
    match kind {
        MemoryKind::System => app.shared_memory.system_status(name),
        MemoryKind::Cuda => app.shared_memory.cuda_status(name).map(|()| Vec::new()),
    }
}

/// Forgets one region of a kind of memory, or all.
pub(crate) fn shared_memory_unregister(app: &App, kind: MemoryKind, name: Option<&str>) -> Result<()> {
    match kind {
        MemoryKind::System => app.shared_memory.unregister_system(name),
        MemoryKind::Cuda => app.shared_memory.unregister_cuda(name),
    }
}

/// The configuration of a model as it is acted on, in the protocol's JSON.
pub(crate) fn model_config(app: &App, name: &str, version: Option<u64>) -> Result<Value> {
    Ok(app.server.model(name, version)?.configuration().to_json())
}
