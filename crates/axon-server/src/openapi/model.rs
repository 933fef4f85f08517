//! One model's own operations, whose inputs and outputs are typed.

use axon::server::ModelMetadata;
use axon::signature::{Dimension, TensorSpec};
use serde_json::{Map, Value, json};

use super::operations::{ASKING, IN_HEAD, LOADED, parameter, tensor_headers, tensors};
use super::schemas::{array_of, element, object, request_members};
use super::{add, errors, schema};

/// Adds what can be asked of `model` to `paths`.
pub(super) fn describe(paths: &mut Map<String, Value>, model: &ModelMetadata) {
    let name = &model.name;
    add(paths, &format!("/v2/models/{name}/infer"), "post", infer(model));
    add(paths, &format!("/v2/models/{name}/generate"), "post", generate(model));
}

fn infer(model: &ModelMetadata) -> Value {
    let done = json!({
        "description": "The outputs.",
        "content": tensors(infer_response(model)),
        "headers": tensor_headers(),
    });
    json!({
        "tags": [LOADED],
        "operationId": format!("infer_{}", model.name),
        "summary": format!("Ask {}", model.name),
        "parameters": IN_HEAD.iter().map(|name| parameter(name)).collect::<Vec<_>>(),
        "requestBody": { "required": true, "content": tensors(infer_request(model)) },
        "responses": responses(done),
    })
}

fn generate(model: &ModelMetadata) -> Value {
    let signature = &model.signature;
    let mut request = members(&signature.inputs, request_members());
    request["required"] = signature.inputs.iter().map(|spec| spec.name.as_str()).collect();
    let head = json!({ "model_name": { "const": model.name }, "model_version": { "type": "string" }, "id": schema("Id") });
    let response = members(&signature.outputs, head);
    let json = |schema: Value| json!({ "application/json": { "schema": schema } });
    json!({
        "tags": [LOADED],
        "operationId": format!("generate_{}", model.name),
        "summary": format!("Ask {} with a flat object", model.name),
        "requestBody": { "required": true, "content": json(request) },
        "responses": responses(json!({ "description": "The outputs.", "content": json(response) })),
    })
}

fn responses(done: Value) -> Map<String, Value> {
    let errors = ASKING.iter().map(|&status| (status.to_string(), errors::response(status)));
    std::iter::once(("200".to_owned(), done)).chain(errors).collect()
}

fn infer_request(model: &ModelMetadata) -> Value {
    let signature = &model.signature;
    let outputs: Vec<&str> = signature.outputs.iter().map(|spec| spec.name.as_str()).collect();
    let output =
        object(&["name"], json!({ "name": { "enum": outputs }, "parameters": schema("OutputParameters") }));
    let mut request = request_members();
    request["inputs"] = each(&signature.inputs, "InputParameters");
    request["outputs"] = json!({ "type": "array", "maxItems": outputs.len(), "items": output });
    object(&["inputs"], request)
}

fn infer_response(model: &ModelMetadata) -> Value {
    object(
        &["model_name", "model_version", "outputs"],
        json!({
            "model_name": { "const": model.name },
            "model_version": { "enum": model.versions.iter().map(u64::to_string).collect::<Vec<_>>() },
            "id": schema("Id"),
            "outputs": tensors_of(&model.signature.outputs, "OutputInfo"),
        }),
    )
}

/// An array of every one of these tensors, in any order.
fn each(specs: &[TensorSpec], parameters: &str) -> Value {
    let mut tensors = tensors_of(specs, parameters);
    tensors["minItems"] = specs.len().into();
    tensors["maxItems"] = specs.len().into();
    tensors
}

/// An array of some of these tensors. A model without any has an empty one.
fn tensors_of(specs: &[TensorSpec], parameters: &str) -> Value {
    if specs.is_empty() {
        return json!({ "type": "array", "maxItems": 0 });
    }
    array_of(json!({ "oneOf": specs.iter().map(|spec| tensor(spec, parameters)).collect::<Vec<_>>() }))
}

fn tensor(spec: &TensorSpec, parameters: &str) -> Value {
    let elements = json!({ "anyOf": [element(spec.datatype), { "type": "array" }] });
    json!({
        "title": spec.to_string(),
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": { "const": spec.name },
            "datatype": { "const": spec.datatype.name() },
            "shape": shape(spec),
            "parameters": schema(parameters),
            "data": {
                "type": "array",
                "description": "Elements row by row, flat or nested.",
                "items": elements,
            },
        },
    })
}

fn shape(spec: &TensorSpec) -> Value {
    let Some(dimensions) = &spec.shape else {
        return array_of(json!({ "type": "integer", "minimum": 0 }));
    };
    // JSON Schema wants one dimension at least in `prefixItems`.
    if dimensions.is_empty() {
        return json!({ "type": "array", "maxItems": 0 });
    }
    let dimension = |(axis, dimension): (usize, &Dimension)| match dimension {
        Dimension::Fixed(size) => json!({ "const": size }),
        Dimension::Dynamic(name) => {
            // There is no batch of no rows.
            let mut any = json!({ "type": "integer", "minimum": usize::from(axis == 0) });
            if let Some(name) = name {
                any["title"] = name.as_str().into();
            }
            any
        }
    };
    json!({
        "type": "array",
        "prefixItems": dimensions.iter().enumerate().map(dimension).collect::<Vec<_>>(),
        "minItems": dimensions.len(),
        "maxItems": dimensions.len(),
    })
}

/// An object with one member for each of these tensors, and those of `head` that they do not hide.
fn members(specs: &[TensorSpec], head: Value) -> Value {
    let mut properties = head;
    for spec in specs {
        properties[&spec.name] = values(spec);
    }
    object(&[], properties)
}

/// One element or a flat array of them, as many as the fixed dimensions need.
fn values(spec: &TensorSpec) -> Value {
    let fixed = spec.shape.iter().flatten().map(|dimension| match dimension {
        Dimension::Fixed(size) => *size,
        Dimension::Dynamic(_) => 1,
    });
    let least = fixed.fold(1, usize::saturating_mul);
    let one = (least == 1).then(|| element(spec.datatype));
    let many = json!({ "type": "array", "minItems": least, "items": element(spec.datatype) });
    json!({ "title": spec.to_string(), "anyOf": one.into_iter().chain([many]).collect::<Vec<_>>() })
}
