//! The operations of the wire, as a table.

use serde_json::{Map, Value, json};

use super::{errors, reference, schema};

/// A method at a path.
#[derive(Clone, Copy)]
pub(super) struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    pub tag: &'static str,
    pub id: &'static str,
    pub summary: &'static str,
    request: Body,
    response: Body,
    /// The statuses of its errors.
    errors: &'static [u16],
}

/// A body, of a request or of a response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    None,
    /// JSON of the schema.
    Json(&'static str),
    /// As `Json`, and may be left out.
    Optional(&'static str),
    /// JSON of the schema, or that and binary tensors.
    Tensors(&'static str),
    /// Server-sent events.
    Events,
    /// A page to look at.
    Page,
    /// Plain text.
    Text,
}

/// Groups of operations.
pub(super) const TAGS: [(&str, &str); 6] = [
    (LOADED, "The models that are loaded, with their own inputs and outputs."),
    (MODELS, "Any model, by name and version."),
    (SERVER, "The server itself."),
    (REPOSITORY, "Which models are there, loading and unloading them."),
    (SHARED_MEMORY, "Memory that a client on the same machine shares with the server."),
    (SETTINGS, "Tracing and logging."),
];

pub(super) const LOADED: &str = "loaded models";
const MODELS: &str = "models";
const SERVER: &str = "server";
const REPOSITORY: &str = "repository";
const SHARED_MEMORY: &str = "shared memory";
const SETTINGS: &str = "settings";

/// What asking a model can end in.
pub(super) const ASKING: &[u16] = &[400, 404, 408, 413, 415, 429, 500, 501, 503, 504];
const FINDING: &[u16] = &[400, 404, 503];
const SETTING: &[u16] = &[400, 403, 404, 408, 413, 415, 501];
const LOADING: &[u16] = &[400, 403, 404, 408, 409, 413, 415, 500, 503];
const SHARING: &[u16] = &[400, 403, 404, 408, 409, 413, 415, 501];

const fn get(tag: &'static str, path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation {
        method: "get",
        path,
        tag,
        id,
        summary,
        request: Body::None,
        response: Body::None,
        errors: &[],
    }
}

const fn post(tag: &'static str, path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation { method: "post", ..get(tag, path, id, summary) }
}

/// Every operation, by group.
#[rustfmt::skip]
pub(super) const OPERATIONS: &[Operation] = &[
    post(MODELS, "/v2/models/{model}/infer", "infer", "Ask a model")
        .takes(Body::Tensors("InferRequest")).gives(Body::Tensors("InferResponse")).fails(ASKING),
    post(MODELS, "/v2/models/{model}/generate", "generate", "Ask a model with a flat object, for one answer")
        .takes(Body::Optional("GenerateRequest")).gives(Body::Json("GenerateResponse")).fails(ASKING),
    post(MODELS, "/v2/models/{model}/generate_stream", "generateStream", "Ask a model, for answers as events")
        .takes(Body::Optional("GenerateRequest")).gives(Body::Events).fails(ASKING),
    get(MODELS, "/v2/models/{model}", "getModel", "What a model takes and gives")
        .gives(Body::Json("ModelMetadata")).fails(FINDING),
    get(MODELS, "/v2/models/{model}/ready", "isModelReady", "Whether a model is ready")
        .gives(Body::Json("ModelReady")).fails(FINDING),
    get(MODELS, "/v2/models/{model}/config", "getModelConfig", "A model's configuration, with all that was filled in")
        .gives(Body::Json("ModelConfig")).fails(FINDING),
    get(MODELS, "/v2/models/{model}/stats", "getModelStatistics", "A model's counters")
        .gives(Body::Json("Statistics")).fails(FINDING),
    get(MODELS, "/v2/models/{model}/explain", "explainModel", "What was learned of a model, its load, and what was refused")
        .gives(Body::Json("Explanation")).fails(FINDING),
    get(MODELS, "/v2/models/{model}/recent", "getRecent", "How a model did lately: latencies, batches and its slowest requests")
        .gives(Body::Json("Recent")).fails(FINDING),
    get(MODELS, "/v2/models/stats", "getStatistics", "The counters of all models").gives(Body::Json("Statistics")),

    get(SERVER, "/v2/health/live", "isLive", "Whether the process answers").gives(Body::Json("ServerLive")),
    get(SERVER, READY, "isReady", "Whether every model is ready")
        .gives(Body::Json("ServerReady")).fails(&[503]),
    get(SERVER, "/v2", "getServer", "The server's name, version and extensions").gives(Body::Json("ServerMetadata")),
    get(SERVER, "/metrics", "getMetrics", "What the server tells of itself, for Prometheus").gives(Body::Text).fails(&[404]),
    get(SERVER, "/v2/axon/overview", "getOverview", "How the server and its models are now").gives(Body::Json("Overview")),
    get(SERVER, "/dashboard", "getDashboard", "The same, as a page, which is at `/` too").gives(Body::Page),
    get(SERVER, "/openapi.json", "getDocument", "This document").gives(Body::Json("Document")),
    get(SERVER, "/docs", "getPage", "This document, as a page").gives(Body::Page),

    post(REPOSITORY, "/v2/repository/index", "listModels", "Every model and its state")
        .takes(Body::Optional("RepositoryIndexRequest")).gives(Body::Json("RepositoryIndex"))
        .fails(&[400, 403, 408, 413, 415]),
    post(REPOSITORY, "/v2/repository/models/{model}/load", "loadModel", "Load a model, or load it again")
        .takes(Body::Optional("LoadRequest")).fails(LOADING),
    post(REPOSITORY, "/v2/repository/models/{model}/unload", "unloadModel", "Unload a model")
        .takes(Body::Optional("UnloadRequest")).fails(LOADING),
    post(REPOSITORY, "/v2/repository/models/{model}/warm", "warmModel", "Load a model if it is not loaded, in mode auto")
        .fails(LOADING),
    post(REPOSITORY, "/v2/repository/models/{model}/pin", "pinModel", "Load a model and have it stay, in mode auto")
        .fails(LOADING),
    post(REPOSITORY, "/v2/repository/models/{model}/unpin", "unpinModel", "Let a model go like any other, in mode auto")
        .fails(LOADING),
    get(REPOSITORY, "/v2/residency", "getResidency", "Which models are in memory, and what they are worth")
        .gives(Body::Json("Residency")),

    get(SHARED_MEMORY, "/v2/systemsharedmemory/status", "listSystemRegions", "The regions of system shared memory")
        .gives(Body::Json("SystemRegions")).fails(SHARING),
    get(SHARED_MEMORY, "/v2/systemsharedmemory/region/{region}/status", "getSystemRegion", "One region of system shared memory")
        .gives(Body::Json("SystemRegions")).fails(SHARING),
    post(SHARED_MEMORY, "/v2/systemsharedmemory/region/{region}/register", "registerSystemRegion", "Register system shared memory")
        .takes(Body::Json("SystemRegionRequest")).fails(SHARING),
    post(SHARED_MEMORY, "/v2/systemsharedmemory/region/{region}/unregister", "unregisterSystemRegion", "Unregister one region of system shared memory")
        .fails(SHARING),
    post(SHARED_MEMORY, "/v2/systemsharedmemory/unregister", "unregisterSystemRegions", "Unregister all system shared memory")
        .fails(SHARING),
    get(SHARED_MEMORY, "/v2/cudasharedmemory/status", "listCudaRegions", "The regions of CUDA shared memory")
        .gives(Body::Json("CudaRegions")).fails(SHARING),
    get(SHARED_MEMORY, "/v2/cudasharedmemory/region/{region}/status", "getCudaRegion", "One region of CUDA shared memory")
        .gives(Body::Json("CudaRegions")).fails(SHARING),
    post(SHARED_MEMORY, "/v2/cudasharedmemory/region/{region}/register", "registerCudaRegion", "Register CUDA shared memory")
        .takes(Body::Json("CudaRegionRequest")).fails(SHARING),
    post(SHARED_MEMORY, "/v2/cudasharedmemory/region/{region}/unregister", "unregisterCudaRegion", "Unregister one region of CUDA shared memory")
        .fails(SHARING),
    post(SHARED_MEMORY, "/v2/cudasharedmemory/unregister", "unregisterCudaRegions", "Unregister all CUDA shared memory")
        .fails(SHARING),

    get(SETTINGS, "/v2/trace/setting", "getTraceSettings", "How requests are traced")
        .gives(Body::Json("TraceSettings")).fails(SETTING),
    post(SETTINGS, "/v2/trace/setting", "setTraceSettings", "Change how requests are traced; answers with all settings")
        .takes(Body::Json("TraceSettings")).gives(Body::Json("TraceSettings")).fails(SETTING),
    get(SETTINGS, "/v2/models/{model}/trace/setting", "getModelTraceSettings", "How a model's requests are traced")
        .gives(Body::Json("TraceSettings")).fails(SETTING),
    post(SETTINGS, "/v2/models/{model}/trace/setting", "setModelTraceSettings", "Change how a model's requests are traced; answers with all settings")
        .takes(Body::Json("TraceSettings")).gives(Body::Json("TraceSettings")).fails(SETTING),
    get(SETTINGS, "/v2/logging", "getLogSettings", "What is logged").gives(Body::Json("LogSettings")).fails(SETTING),
    post(SETTINGS, "/v2/logging", "setLogSettings", "Change what is logged; answers with all settings")
        .takes(Body::Json("LogSettings")).gives(Body::Json("LogSettings")).fails(SETTING),
];

impl Operation {
    const fn takes(self, request: Body) -> Self {
        Self { request, ..self }
    }

    const fn gives(self, response: Body) -> Self {
        Self { response, ..self }
    }

    const fn fails(self, errors: &'static [u16]) -> Self {
        Self { errors, ..self }
    }

    /// The path with a version, for what can be asked of one.
    pub fn versioned_path(&self) -> Option<String> {
        let rest = self.path.strip_prefix("/v2/models/{model}")?;
        (self.tag == MODELS).then(|| format!("/v2/models/{{model}}/versions/{{version}}{rest}"))
    }

    /// What goes into the path and the headers.
    pub fn parameters(&self, path: &str) -> Vec<Value> {
        let in_path = ["model", "version", "region"].into_iter();
        let in_path = in_path.filter(|name| path.contains(&format!("{{{name}}}")));
        let in_query: &[&str] = if path == READY { &[VERBOSE] } else { &[] };
        let in_head: &[&str] = match self.request {
            Body::Tensors(_) => IN_HEAD,
            _ => &[],
        };
        in_path.chain(in_query.iter().chain(in_head).copied()).map(parameter).collect()
    }

    pub fn request_body(&self) -> Option<Value> {
        match self.request {
            Body::None => None,
            body => {
                let required = !matches!(body, Body::Optional(_));
                Some(json!({ "required": required, "content": body.content() }))
            }
        }
    }

    pub fn responses(&self) -> Map<String, Value> {
        let mut good = json!({ "description": "Done." });
        if self.response != Body::None {
            good["content"] = self.response.content();
        }
        if matches!(self.response, Body::Tensors(_)) {
            good["headers"] = tensor_headers();
        }
        let errors = self.errors.iter().map(|&status| (status.to_string(), errors::response(status)));
        std::iter::once(("200".to_owned(), good)).chain(errors).collect()
    }
}

impl Body {
    /// The media types and their schemas.
    fn content(self) -> Value {
        match self {
            Self::None => json!({}),
            Self::Json(name) | Self::Optional(name) => {
                json!({ "application/json": { "schema": schema(name) } })
            }
            Self::Tensors(name) => tensors(schema(name)),
            Self::Events => json!({ "text/event-stream": { "schema": schema("Events") } }),
            Self::Text => json!({ "text/plain": { "schema": { "type": "string" } } }),
            Self::Page => json!({ "text/html": { "schema": { "type": "string" } } }),
        }
    }
}

/// The content of a body of tensors whose JSON has this schema.
pub(super) fn tensors(schema: Value) -> Value {
    let mut content = json!({ "application/octet-stream": {} });
    content["application/json"]["schema"] = schema;
    content
}

/// The parameters in the head of a request that has tensors.
pub(super) const IN_HEAD: &[&str] = &[HEADER_LENGTH, "Content-Encoding", "Accept-Encoding"];

/// The path that says whether the server is ready, and the parameter with which it says why not.
const READY: &str = "/v2/health/ready";
const VERBOSE: &str = "verbose";

const HEADER_LENGTH: &str = "Inference-Header-Content-Length";

/// The reference to a parameter.
pub(super) fn parameter(name: &str) -> Value {
    reference(&format!("parameters/{name}"))
}

/// All parameters.
pub(super) fn parameters() -> Value {
    let in_path = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "path", "required": true, "description": description, "schema": schema });
    let in_head = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "header", "description": description, "schema": schema });
    json!({
        "model": in_path("model", "The model's name.", json!({ "type": "string", "minLength": 1 })),
        "version": in_path("version", "The model's version.", json!({ "type": "integer", "minimum": 1 })),
        "region": in_path("region", "The region's name.", json!({ "type": "string", "minLength": 1 })),
        VERBOSE: json!({
            "name": VERBOSE,
            "in": "query",
            "description": "Whether to tell what stands in the way of being ready, model by model.",
            "schema": { "enum": ["0", "1", "false", "true"] },
        }),
        HEADER_LENGTH: in_head(
            HEADER_LENGTH,
            "Bytes of the JSON in front of binary tensors; 0 when the body is the only input's bytes.",
            json!({ "type": "integer", "minimum": 0 }),
        ),
        "Content-Encoding": in_head(
            "Content-Encoding",
            "How the body is compressed.",
            json!({ "enum": ["identity", "gzip", "deflate"] }),
        ),
        "Accept-Encoding": in_head(
            "Accept-Encoding",
            "How the answer may be compressed: `gzip`, `deflate`, with weights.",
            json!({ "type": "string" }),
        ),
    })
}

/// The headers of a response that has tensors.
pub(super) fn tensor_headers() -> Value {
    json!({
        HEADER_LENGTH: {
            "description": "Bytes of the JSON in front of binary tensors; absent when there are none.",
            "schema": { "type": "integer", "minimum": 0 },
        },
        "Content-Encoding": {
            "description": "How the answer is compressed; absent when it is not.",
            "schema": { "enum": ["gzip", "deflate"] },
        },
        "X-Axon-Load-Ms": {
            "description": "Milliseconds that the model was waited for to be loaded; absent where it was.",
            "schema": { "type": "number", "minimum": 0 },
        },
        "X-Axon-Queue-Ms": {
            "description": "Milliseconds from arrival at the queue to the start of the run.",
            "schema": { "type": "number", "minimum": 0 },
        },
        "X-Axon-Compute-Ms": {
            "description": "Milliseconds that the run took.",
            "schema": { "type": "number", "minimum": 0 },
        },
        "X-Axon-Batch-Size": {
            "description": "Rows that were run together.",
            "schema": { "type": "integer", "minimum": 1 },
        },
    })
}
