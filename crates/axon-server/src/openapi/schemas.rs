//! The schemas of the bodies, for any model.

use axon::DataType;
use serde_json::{Map, Value, json};

use super::{errors, schema};

/// All schemas by name.
pub(super) fn all() -> Map<String, Value> {
    [inference(), generate(), models(), repository(), aliases(), shared_memory(), settings(), server()]
        .into_iter()
        .flatten()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

type Schemas = Vec<(&'static str, Value)>;

/// An object with these members, of which `required` must be there; others may be.
pub(super) fn object(required: &[&str], properties: Value) -> Value {
    let mut object = json!({ "type": "object", "required": required });
    object["properties"] = properties;
    object
}

/// An array of these.
pub(super) fn array_of(items: Value) -> Value {
    let mut array = json!({ "type": "array" });
    array["items"] = items;
    array
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn described(description: &str, mut schema: Value) -> Value {
    schema["description"] = description.into();
    schema
}

/// What one element of this type is in JSON.
pub(super) fn element(datatype: DataType) -> Value {
    fn integer(minimum: impl Into<Value>, maximum: impl Into<Value>) -> Value {
        json!({ "type": "integer", "minimum": minimum.into(), "maximum": maximum.into() })
    }
    match datatype {
        DataType::Bool => json!({ "type": "boolean" }),
        DataType::Uint8 => integer(u8::MIN, u8::MAX),
        DataType::Uint16 => integer(u16::MIN, u16::MAX),
        DataType::Uint32 => integer(u32::MIN, u32::MAX),
        DataType::Uint64 => integer(u64::MIN, u64::MAX),
        DataType::Int8 => integer(i8::MIN, i8::MAX),
        DataType::Int16 => integer(i16::MIN, i16::MAX),
        DataType::Int32 => integer(i32::MIN, i32::MAX),
        DataType::Int64 => integer(i64::MIN, i64::MAX),
        DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64 => json!({ "type": "number" }),
        DataType::Bytes => text(),
    }
}

/// The members of an infer request that are the same for all models, besides `inputs` and `outputs`.
pub(super) fn request_members() -> Value {
    json!({ "id": schema("Id"), "parameters": schema("RequestParameters") })
}

fn inference() -> Schemas {
    let bytes = || json!({ "type": "integer", "minimum": 0 });
    let shared = json!({
        "shared_memory_region": text(),
        "shared_memory_byte_size": bytes(),
        "shared_memory_offset": bytes(),
    });
    let with = |member: Value| {
        let mut members = shared.clone();
        if let (Some(members), Value::Object(member)) = (members.as_object_mut(), member) {
            members.extend(member);
        }
        object(&[], members)
    };
    let dimensions = || array_of(bytes());
    let input = object(
        &["name", "datatype", "shape"],
        json!({
            "name": text(), "datatype": schema("DataType"), "shape": dimensions(),
            "parameters": schema("InputParameters"), "data": schema("Data"),
        }),
    );
    let output = object(
        &["name", "datatype", "shape"],
        json!({
            "name": text(), "datatype": schema("DataType"), "shape": dimensions(),
            "parameters": schema("OutputInfo"), "data": schema("Data"),
        }),
    );
    let mut request = request_members();
    request["inputs"] = array_of(input);
    request["outputs"] = array_of(schema("RequestedOutput"));
    vec![
        ("DataType", json!({ "enum": DataType::ALL.map(DataType::name) })),
        ("Data", described("Elements row by row, flat or nested.", json!({ "type": "array" }))),
        (
            "Id",
            described(
                "Repeated in the answer and in the log.",
                json!({ "type": "string", "maxLength": 256 }),
            ),
        ),
        ("RequestParameters", request_parameters()),
        ("InputParameters", with(json!({ "binary_data_size": bytes() }))),
        (
            "RequestedOutput",
            object(&["name"], json!({ "name": text(), "parameters": schema("OutputParameters") })),
        ),
        (
            "OutputParameters",
            with(json!({
                "binary_data": { "type": "boolean" },
                "classification": described(
                    "So many best classes, as `score:index`.",
                    json!({ "type": "integer", "minimum": 1 }),
                ),
            })),
        ),
        ("OutputInfo", with(json!({ "binary_data_size": bytes() }))),
        ("InferRequest", object(&["inputs"], request)),
        (
            "InferResponse",
            object(
                &["model_name", "model_version", "outputs"],
                json!({
                    "model_name": text(), "model_version": text(), "id": text(),
                    "parameters": { "type": "object" }, "outputs": array_of(output),
                }),
            ),
        ),
    ]
}

fn request_parameters() -> Value {
    let mut parameters = object(
        &[],
        json!({
            "timeout": described("Microseconds; 0 for the server's own.", json!({ "type": "integer", "minimum": 0 })),
            "priority": described("1 is the most urgent; 0 leaves it to the model.", json!({ "type": "integer", "minimum": 0 })),
            "sequence_id": { "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "maxLength": 128 },
            ] },
            "sequence_start": { "type": "boolean" },
            "sequence_end": { "type": "boolean" },
            "binary_data_output": described("Binary for outputs that are not listed.", json!({ "type": "boolean" })),
        }),
    );
    parameters["maxProperties"] = 64.into();
    parameters["additionalProperties"] = schema("Parameter");
    parameters
}

fn generate() -> Schemas {
    vec![
        ("Parameter", json!({ "type": ["string", "number", "boolean"] })),
        (
            "Values",
            described(
                "One element, or a flat array of them.",
                json!({ "type": ["string", "number", "boolean", "array"] }),
            ),
        ),
        (
            "GenerateRequest",
            json!({
                "description": "Members named like inputs are their values; all others are parameters.",
                "type": "object",
                "properties": { "id": schema("Id"), "parameters": schema("RequestParameters") },
                "additionalProperties": schema("Values"),
            }),
        ),
        (
            "GenerateResponse",
            json!({
                "type": "object",
                "required": ["model_name", "model_version"],
                "properties": { "model_name": text(), "model_version": text(), "id": text() },
                "additionalProperties": schema("Values"),
            }),
        ),
        ("Events", described("`data: ` and the JSON of an answer or an error, for each event.", text())),
    ]
}

fn models() -> Schemas {
    let signature = |minimum: i64| {
        let size = json!({ "type": "integer", "minimum": minimum });
        object(
            &["name", "datatype", "shape"],
            json!({ "name": text(), "datatype": schema("DataType"), "shape": array_of(size) }),
        )
    };
    let counted = || json!({ "type": "integer", "minimum": 0 });
    let names = [
        "success",
        "fail",
        "queue",
        "compute_input",
        "compute_infer",
        "compute_output",
        "cache_hit",
        "cache_miss",
    ];
    let durations: Map<_, _> = names.map(|name| (name.to_owned(), schema("Duration"))).into_iter().collect();
    let batch = object(
        &["batch_size"],
        json!({
            "batch_size": counted(), "compute_input": schema("Duration"),
            "compute_infer": schema("Duration"), "compute_output": schema("Duration"),
        }),
    );
    let statistics = object(
        &["name", "version"],
        json!({
            "name": text(), "version": text(),
            "last_inference": described("Milliseconds since 1970.", counted()),
            "inference_count": counted(), "execution_count": counted(),
            "inference_stats": object(&[], durations.into()),
            "batch_stats": array_of(batch),
        }),
    );
    vec![
        (
            "ModelMetadata",
            object(
                &["name", "versions", "platform", "inputs", "outputs"],
                json!({
                    "name": text(), "versions": array_of(text()), "platform": text(),
                    "inputs": array_of(signature(-1)), "outputs": array_of(signature(-1)),
                }),
            ),
        ),
        (
            "ModelConfig",
            object(
                &["name"],
                json!({
                    "name": text(), "platform": text(), "backend": text(),
                    "max_batch_size": { "type": "integer", "minimum": 0 },
                    "input": array_of(json!({ "type": "object" })), "output": array_of(json!({ "type": "object" })),
                }),
            ),
        ),
        (
            "Duration",
            described(
                "How often, and how long in all.",
                object(&["count", "ns"], json!({ "count": counted(), "ns": counted() })),
            ),
        ),
        ("Statistics", object(&["model_stats"], json!({ "model_stats": array_of(statistics) }))),
    ]
}

fn repository() -> Schemas {
    let model =
        object(&["name"], json!({ "name": text(), "version": text(), "state": text(), "reason": text() }));
    vec![
        (
            "RepositoryIndexRequest",
            object(
                &[],
                json!({ "ready": described("Only models that are ready.", json!({ "type": "boolean" })) }),
            ),
        ),
        ("RepositoryIndex", array_of(model)),
        ("Residency", residency()),
        (
            "LoadRequest",
            object(
                &[],
                json!({ "parameters": object(&[], json!({
                    "config": described("A configuration in JSON, instead of the model's own.", text()),
                })) }),
            ),
        ),
        (
            "UnloadRequest",
            object(
                &[],
                json!({ "parameters": object(&[], json!({ "unload_dependents": { "type": "boolean" } })) }),
            ),
        ),
    ]
}

fn aliases() -> Schemas {
    let version = json!({ "type": ["string", "integer", "null"] });
    let target = object(
        &["model"],
        json!({ "model": text(), "version": version, "weight": { "type": "integer", "minimum": 1, "maximum": 1000 } }),
    );
    let shadow = object(
        &["model"],
        json!({ "model": text(), "version": version, "share": { "type": "number", "exclusiveMinimum": 0, "maximum": 1 } }),
    );
    let mut targets = array_of(json!({ "anyOf": [target, text()] }));
    targets["minItems"] = 1.into();
    targets["maxItems"] = 8.into();
    let request = object(
        &["targets"],
        json!({ "targets": targets, "shadow": { "anyOf": [shadow, text(), { "type": "null" }] } }),
    );
    let told = json!({
        "name": text(),
        "origin": { "enum": ["file", "request"] },
        "targets": array_of(json!({ "type": "object" })),
        "shadow": { "type": ["object", "null"] },
    });
    let told = described(
        "docs/aliases.md says what is in it.",
        object(&["name", "origin", "targets", "shadow"], told),
    );
    vec![
        ("AliasRequest", request),
        ("Alias", told),
        ("Aliases", object(&["aliases"], json!({ "aliases": array_of(schema("Alias")) }))),
        ("Nothing", json!({ "type": "object" })),
    ]
}

fn residency() -> Value {
    let number = |description: &str| described(description, json!({ "type": ["number", "null"] }));
    let bytes =
        |description: &str| described(description, json!({ "type": ["integer", "null"], "minimum": 0 }));
    let model = json!({
        "name": text(),
        "state": described("ABSENT, QUEUED, LOADING or READY; outside mode auto as in the index.", text()),
        "versions": array_of(text()),
        "bytes": bytes("What it takes: measured, or foretold before its first load."),
        "requests_per_second": number("Of which each counts half after ten minutes."),
        "score": number("Seconds of loading that each of its MiB saves, in a second."),
        "reload_s": number("What its next load is foretold to take."),
        "idle_s": number("How long ago it was used or loaded."),
        "pinned": described("Whether it stays.", json!({ "type": "boolean" })),
        "until_s": number("In how long it is unloaded if nobody uses it."),
        "failures": described("Loads that failed one after the other.", json!({ "type": "integer" })),
        "retry_s": number("In how long it may be tried again."),
        "reason": described("Why its last load failed.", json!({ "type": ["string", "null"] })),
    });
    object(
        &["budget_bytes", "models"],
        json!({
            "budget_bytes": bytes("What models may take together; null outside mode auto."),
            "allowed_bytes": bytes("What they may take now: less where the host has not so much."),
            "charged_bytes": bytes("What counts against it."),
            "evictions": described("Models that made way since the start.", json!({ "type": "integer" })),
            "expired": described("Models that nobody used for as long as they are kept.", json!({ "type": "integer" })),
            "models": array_of(object(&["name", "state", "versions"], model)),
        }),
    )
}

fn shared_memory() -> Schemas {
    let size = || json!({ "type": "integer", "minimum": 0 });
    let at_least_one = || json!({ "type": "integer", "minimum": 1 });
    let system = object(
        &["name", "key", "offset", "byte_size"],
        json!({ "name": text(), "key": text(), "offset": size(), "byte_size": size() }),
    );
    let cuda = object(
        &["name", "device_id", "byte_size"],
        json!({ "name": text(), "device_id": size(), "byte_size": size() }),
    );
    vec![
        ("SystemRegions", array_of(system)),
        (
            "SystemRegionRequest",
            object(
                &["key", "byte_size"],
                json!({
                    "key": described("The name of a POSIX shared memory object.", text()),
                    "offset": size(), "byte_size": at_least_one(),
                }),
            ),
        ),
        ("CudaRegions", array_of(cuda)),
        (
            "CudaRegionRequest",
            object(
                &["raw_handle", "device_id", "byte_size"],
                json!({
                    "raw_handle": object(&["b64"], json!({ "b64": text() })),
                    "device_id": size(), "byte_size": at_least_one(),
                }),
            ),
        ),
    ]
}

fn settings() -> Schemas {
    let trace = json!({ "anyOf": [{ "type": ["string", "null"] }, { "type": "array", "items": text() }] });
    let names = ["trace_file", "trace_level", "trace_rate", "trace_count", "log_frequency", "trace_mode"];
    let members: Map<_, _> = names.map(|name| (name.to_owned(), trace.clone())).into_iter().collect();
    let flag = || json!({ "type": "boolean" });
    vec![
        ("TraceSettings", described("null takes a setting back.", object(&[], members.into()))),
        (
            "LogSettings",
            object(
                &[],
                json!({
                    "log_file": text(), "log_info": flag(), "log_warning": flag(), "log_error": flag(),
                    "log_verbose_level": { "type": "integer", "minimum": 0 }, "log_format": text(),
                }),
            ),
        ),
    ]
}

fn server() -> Schemas {
    let flag = || json!({ "type": "boolean" });
    let code = json!({ "enum": errors::codes().collect::<Vec<_>>() });
    vec![
        (
            "Error",
            object(
                &["error", "code"],
                json!({
                    "error": described("What was expected and what came.", text()),
                    "code": code,
                    "field": described("The part of the request that is wrong, as `inputs[0].shape[1]`.", text()),
                }),
            ),
        ),
        (
            "ServerMetadata",
            object(
                &["name", "version", "extensions"],
                json!({ "name": text(), "version": text(), "extensions": array_of(text()) }),
            ),
        ),
        ("ServerLive", object(&["live"], json!({ "live": flag() }))),
        ("ServerReady", object(&["ready"], json!({ "ready": flag() }))),
        ("ModelReady", object(&["name", "ready"], json!({ "name": text(), "ready": flag() }))),
        ("Overview", described("docs/operations.md says what is in it.", json!({ "type": "object" }))),
        ("Recent", described("docs/operations.md says what is in it.", json!({ "type": "object" }))),
        ("Explanation", described("docs/scheduling.md says what is in it.", json!({ "type": "object" }))),
        ("Document", described("An OpenAPI document.", json!({ "type": "object" }))),
    ]
}
