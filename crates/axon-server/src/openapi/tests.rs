//! The document holds together, whatever the models are.

use std::collections::HashSet;

use axon::DataType;
use axon::server::ModelMetadata;
use axon::signature::{Dimension, Signature, TensorSpec};
use serde_json::Value;

use super::document;
use crate::route::{parse, route};

fn spec(name: &str, datatype: DataType, shape: Option<&[i64]>) -> TensorSpec {
    let dimension = |&size: &i64| match usize::try_from(size) {
        Ok(size) => Dimension::Fixed(size),
        Err(_) => Dimension::Dynamic((size == -2).then(|| "batch".to_owned())),
    };
    let shape = shape.map(|shape| shape.iter().map(dimension).collect());
    TensorSpec { name: name.to_owned(), datatype, shape }
}

/// One model with a tensor of every type, one without any tensor, and one whose names are hard to write.
fn models() -> Vec<ModelMetadata> {
    let all = DataType::ALL.map(|datatype| spec(datatype.name(), datatype, Some(&[-2, 3, -1])));
    let model = |name: &str, inputs: &[TensorSpec], outputs: &[TensorSpec]| ModelMetadata {
        name: name.to_owned(),
        versions: vec![1, 2],
        platform: "onnxruntime_onnx",
        signature: Signature { inputs: inputs.to_vec(), outputs: outputs.to_vec() },
    };
    vec![
        model("all-types_1.0", &all, &all),
        model("none", &[], &[]),
        model(
            "odd",
            &[spec("id", DataType::Fp32, None), spec("a/b~c\"\n", DataType::Int8, Some(&[]))],
            &[spec("model_name", DataType::Bytes, Some(&[0]))],
        ),
    ]
}

/// Calls `visit` with every value of `document` and its path.
fn walk(document: &Value, mut visit: impl FnMut(&str, &Value)) {
    let mut open = vec![(String::new(), document)];
    while let Some((path, value)) = open.pop() {
        visit(&path, value);
        match value {
            Value::Object(members) => {
                open.extend(members.iter().map(|(key, value)| (format!("{path}/{key}"), value)));
            }
            Value::Array(items) => {
                open.extend(
                    items.iter().enumerate().map(|(index, value)| (format!("{path}/{index}"), value)),
                );
            }
            _ => {}
        }
    }
}

#[test]
fn what_is_referred_to_is_there_and_what_is_there_is_referred_to() {
    let document = document(&models());
    let mut referred = HashSet::new();
    walk(&document, |path, value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{path}: {reference}");
            referred.insert(pointer.to_owned());
        }
    });
    for (kind, parts) in document["components"].as_object().unwrap() {
        for name in parts.as_object().unwrap().keys() {
            let pointer = format!("/components/{kind}/{name}");
            // Those that any operation could end in before it is one.
            let general =
                ["/components/responses/401", "/components/responses/405", "/components/responses/414"];
            assert!(referred.contains(&pointer) || general.contains(&&*pointer), "{pointer} is not used");
        }
    }
}

#[test]
fn an_operations_id_comes_once_and_its_tag_is_described() {
    let document = document(&models());
    let tags: Vec<_> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let mut ids = HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} comes twice");
            assert!(tags.contains(&&operation["tags"][0]), "{id}");
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let named = parameters.filter(|parameter| {
                let reference = parameter["$ref"].as_str().unwrap();
                document.pointer(&reference[1..]).unwrap()["in"] == "path"
            });
            assert_eq!(named.count(), path.matches('{').count(), "{path}");
        }
    }
}

#[test]
fn a_route_that_is_served_is_described() {
    let document = document(&models());
    let paths = document["paths"].as_object().unwrap();
    let check = |path: &str, method: &str| assert!(paths[path].get(method).is_some(), "{method} {path}");
    for rest in ["", "/ready", "/stats", "/config"] {
        check(&format!("/v2/models/{{model}}{rest}"), "get");
        check(&format!("/v2/models/{{model}}/versions/{{version}}{rest}"), "get");
    }
    for rest in ["infer", "generate", "generate_stream"] {
        check(&format!("/v2/models/{{model}}/{rest}"), "post");
        check(&format!("/v2/models/{{model}}/versions/{{version}}/{rest}"), "post");
    }
    for path in ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats", "/openapi.json", "/docs"] {
        check(path, "get");
    }
    for memory in ["system", "cuda"] {
        let path = |rest: &str| format!("/v2/{memory}sharedmemory/{rest}");
        check(&path("status"), "get");
        check(&path("region/{region}/status"), "get");
        check(&path("unregister"), "post");
        check(&path("region/{region}/register"), "post");
        check(&path("region/{region}/unregister"), "post");
    }
    for verb in ["load", "unload", "warm", "pin", "unpin"] {
        check(&format!("/v2/repository/models/{{model}}/{verb}"), "post");
    }
    check("/v2/repository/index", "post");
    check("/v2/residency", "get");
    for method in ["get", "put", "delete"] {
        check("/v2/aliases/{alias}", method);
    }
    check("/v2/aliases", "post");
    for path in ["/v2/trace/setting", "/v2/models/{model}/trace/setting", "/v2/logging"] {
        check(path, "get");
        check(path, "post");
    }
    // Not the other way round: what the router knows under a method is described under it.
    for (path, item) in paths {
        let path = path
            .replace("{model}", "m")
            .replace("{version}", "1")
            .replace("{region}", "r")
            .replace("{alias}", "a");
        if parse(&path).is_ok() {
            for method in item.as_object().unwrap().keys() {
                let method = hyper::Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                assert!(route(&method, &path).is_ok(), "{method} {path}");
            }
        }
    }
}

#[test]
fn a_models_inputs_and_outputs_are_typed() {
    let document = document(&models());
    let body = |model: &str, verb: &str, part: &str| {
        let operation = &document["paths"][format!("/v2/models/{model}/{verb}")]["post"];
        operation.pointer(part).unwrap()["content"]["application/json"]["schema"]["properties"].clone()
    };
    let inputs = body("all-types_1.0", "infer", "/requestBody")["inputs"].clone();
    assert_eq!((&inputs["minItems"], &inputs["maxItems"]), (&14.into(), &14.into()));
    for (datatype, input) in DataType::ALL.iter().zip(inputs["items"]["oneOf"].as_array().unwrap()) {
        let members = &input["properties"];
        assert_eq!(members["name"]["const"], datatype.name());
        assert_eq!(members["datatype"]["const"], datatype.name());
        assert_eq!(members["shape"]["minItems"], 3);
        assert_eq!(
            members["shape"]["prefixItems"],
            serde_json::json!([
                { "type": "integer", "minimum": 1, "title": "batch" },
                { "const": 3 },
                { "type": "integer", "minimum": 0 },
            ])
        );
        let element = &members["data"]["items"]["anyOf"][0];
        match datatype {
            DataType::Bool => assert_eq!(element["type"], "boolean"),
            DataType::Bytes => assert_eq!(element["type"], "string"),
            DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64 => {
                assert_eq!(element["type"], "number");
            }
            _ => assert_eq!(element["type"], "integer"),
        }
    }
    let bounds = |index: usize| {
        let element = &inputs["items"]["oneOf"][index]["properties"]["data"]["items"]["anyOf"][0];
        (element["minimum"].clone(), element["maximum"].clone())
    };
    assert_eq!(bounds(1), (0.into(), 255.into()));
    assert_eq!(bounds(4), (0.into(), u64::MAX.into()));
    assert_eq!(bounds(8), (i64::MIN.into(), i64::MAX.into()));
    let response = body("all-types_1.0", "infer", "/responses/200");
    assert_eq!(response["model_version"]["enum"], serde_json::json!(["1", "2"]));
    assert_eq!(response["outputs"]["items"]["oneOf"].as_array().unwrap().len(), 14);
    // A model without tensors, any rank, a scalar, and names that hide the protocol's own.
    assert_eq!(body("none", "infer", "/requestBody")["inputs"]["maxItems"], 0);
    let odd = body("odd", "infer", "/requestBody")["inputs"]["items"]["oneOf"].clone();
    assert!(odd[0]["properties"]["shape"].get("prefixItems").is_none());
    assert_eq!(odd[1]["properties"]["shape"]["maxItems"], 0);
    assert_eq!(body("odd", "generate", "/requestBody")["id"]["anyOf"][0]["type"], "number");
    let hidden = body("odd", "generate", "/responses/200")["model_name"].clone();
    assert_eq!(
        hidden["anyOf"],
        serde_json::json!([{ "type": "array", "minItems": 0, "items": { "type": "string" } }])
    );
    let row = body("all-types_1.0", "generate", "/requestBody")["BOOL"].clone();
    assert_eq!(
        row["anyOf"],
        serde_json::json!([{ "type": "array", "minItems": 3, "items": { "type": "boolean" } }])
    );
}

/// Writes the document of these models to the file that `AXON_OPENAPI` names, for a look at it with other tools.
#[test]
fn the_document_is_json() {
    let text = serde_json::to_string_pretty(&document(&models())).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), document(&models()));
    if let Some(path) = std::env::var_os("AXON_OPENAPI") {
        std::fs::write(path, text).unwrap();
    }
}
