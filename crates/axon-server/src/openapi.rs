//! The server's own description: an OpenAPI document with the loaded models' inputs and outputs typed.
//!
//! Pure: metadata in, a document out. `operations` lists what the wire takes, `errors` what it refuses with,
//! `schemas` the bodies, `model` what one model makes of them.
//!
//! Always: whatever is referred to is there, and an operation's id comes once.
//!
//! **Source:** OpenAPI Specification 3.1; JSON Schema 2020-12.

mod errors;
mod model;
mod operations;
mod schemas;
#[cfg(test)]
mod tests;

use axon::server::ModelMetadata;
use serde_json::{Map, Value, json};

use operations::{OPERATIONS, Operation};

/// The document for a server that has loaded `models`, each once.
#[must_use]
pub fn document(models: &[ModelMetadata]) -> Value {
    let mut paths = Map::new();
    for metadata in models {
        model::describe(&mut paths, metadata);
    }
    for operation in OPERATIONS {
        add(&mut paths, operation.path, operation.method, describe(operation, operation.path, operation.id));
        if let Some(path) = operation.versioned_path() {
            let id = format!("{}OfVersion", operation.id);
            add(&mut paths, &path, operation.method, describe(operation, &path, &id));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Axon",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "An inference server for ONNX models",
            "description": "The Open Inference Protocol with Triton's extensions, over HTTP.",
        },
        "servers": [{ "url": "/" }],
        "tags": operations::TAGS.map(|(name, description)| json!({ "name": name, "description": description })),
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "responses": errors::responses(),
            "parameters": operations::parameters(),
        },
    })
}

/// Puts an operation at its path and method.
fn add(paths: &mut Map<String, Value>, path: &str, method: &str, operation: Value) {
    let item = paths.entry(path).or_insert_with(|| json!({}));
    if let Some(item) = item.as_object_mut() {
        item.insert(method.to_owned(), operation);
    }
}

fn describe(operation: &Operation, path: &str, id: &str) -> Value {
    let mut described = json!({
        "tags": [operation.tag],
        "operationId": id,
        "summary": operation.summary,
        "responses": operation.responses(),
    });
    let parameters = operation.parameters(path);
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if let Some(body) = operation.request_body() {
        described["requestBody"] = body;
    }
    described
}

/// A reference to a part of the document, as `schemas/Error`.
fn reference(part: &str) -> Value {
    json!({ "$ref": format!("#/components/{part}") })
}

/// The reference to a schema.
fn schema(name: &str) -> Value {
    reference(&format!("schemas/{name}"))
}
