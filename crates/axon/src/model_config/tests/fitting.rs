//! Configurations against models, and what is filled in.

use serde_json::json;
use synapse::Tensor;

use super::*;
use crate::executor::{Arranged, Executor};
use crate::signature::{Dimension, Signature, TensorSpec};

/// An input or output; -1 is a dimension of any size.
fn spec(name: &str, datatype: DataType, dimensions: &[i64]) -> TensorSpec {
    let dimension = |&size: &i64| usize::try_from(size).map_or(Dimension::Dynamic(None), Dimension::Fixed);
    TensorSpec { name: name.to_owned(), datatype, shape: Some(dimensions.iter().map(dimension).collect()) }
}

fn model(inputs: &[(&str, &[i64])], outputs: &[(&str, &[i64])]) -> Signature {
    let specs = |specs: &[(&str, &[i64])]| {
        specs.iter().map(|(name, dimensions)| spec(name, DataType::Fp32, dimensions)).collect()
    };
    Signature { inputs: specs(inputs), outputs: specs(outputs) }
}

/// `x` `[rows, 3]` and `ids` `[rows]` -> `y` `[rows, 10]` and `z` `[rows, any]`.
fn batched() -> Signature {
    model(&[("x", &[-1, 3]), ("ids", &[-1])], &[("y", &[-1, 10]), ("z", &[-1, -1])])
}

fn effective(configuration: &ModelConfiguration, model: &Signature) -> Value {
    let fit = configuration.fit(model).unwrap();
    let chosen = Chosen {
        name: "m",
        file_name: "model.onnx",
        device: Device::Cpu,
        instances: 2,
        max_batch_rows: NonZeroUsize::new(32).unwrap(),
    };
    configuration.effective(&fit, &chosen).unwrap().to_json()
}

#[test]
fn differences_from_the_model_are_told_with_both_sides() {
    let check = |text: &str, expected: &str| {
        let error = pbtxt(text).fit(&batched()).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::InvalidModel);
        assert!(error.message().ends_with(expected), "{error}");
    };
    let input = |fields: &str| format!("max_batch_size: 8 input {{ {fields} }}");
    check(
        &input("name: \"x\" data_type: TYPE_FP32 dims: 4"),
        "1:58: input[0].dims: config [4], model [3]; both without the dimension of rows that max_batch_size 8 means",
    );
    check(
        &input("name: \"x\" data_type: TYPE_FP32 dims: -1"),
        "input[0].dims: config [-1], model [3]; both without the dimension of rows that max_batch_size 8 means",
    );
    check(
        &input("name: \"x\" data_type: TYPE_INT32 dims: 3"),
        "1:37: input[0].data_type: config TYPE_INT32, model TYPE_FP32",
    );
    check(
        &input("name: \"w\" data_type: TYPE_FP32 dims: 3"),
        "1:27: input[0].name: config `w`, model `x`, `ids`",
    );
    check(&input("name: \"x\" data_type: TYPE_FP32 dims: 3"), "1:19: input: config `x`, model has `ids` too");
    check(
        "output { name: \"y\" data_type: TYPE_FP32 dims: 10 } input { name: \"x\" data_type: TYPE_FP32 dims: 3 } \
         input { name: \"ids\" data_type: TYPE_FP32 dims: -1 }",
        "input[0].dims: config [3], model [-1, 3]\nhint: set max_batch_size where dimension 0 is rows",
    );
    let json = ModelConfiguration::from_json(
        "{\"max_batch_size\": 8, \"output\": [{\"name\": \"y\", \"data_type\": \"TYPE_FP32\", \"dims\": [9]}]}",
    );
    let error = json.unwrap().fit(&batched()).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidRequest, Some("parameters.config")));
}

#[test]
fn rows_need_a_model_that_takes_any_number_of_them() {
    let fixed = model(&[("x", &[1, 3])], &[("y", &[1, 3])]);
    let error = pbtxt("max_batch_size: 2").fit(&fixed).unwrap_err();
    assert_eq!(
        error.message(),
        "config.pbtxt:1:1: max_batch_size: expected 0, got 2: the model does not batch; dimension 0 of its input `x` is not free"
    );
    assert!(pbtxt("max_batch_size: 1").fit(&fixed).is_ok());
    let scalar = model(&[("x", &[-1, 3])], &[("y", &[])]);
    assert!(pbtxt("max_batch_size: 2").fit(&scalar).unwrap_err().message().contains("output `y`"));
}

#[test]
fn what_is_left_out_is_the_models() {
    let json = effective(&pbtxt("backend: \"onnxruntime\""), &batched());
    let tensor = |name: &str, dims: &[i64]| json!({ "name": name, "data_type": "TYPE_FP32", "dims": dims });
    let brief = |side: &str| -> Value {
        let keep = |each: &Value| json!({ "name": each["name"], "data_type": each["data_type"], "dims": each["dims"] });
        json[side].as_array().unwrap().iter().map(keep).collect()
    };
    assert_eq!(brief("input"), json!([tensor("x", &[3]), tensor("ids", &[1])]));
    assert_eq!(brief("output"), json!([tensor("y", &[10]), tensor("z", &[-1])]));
    assert_eq!(json["input"][1]["reshape"], json!({ "shape": [] }));
    assert_eq!(json["max_batch_size"], 4);
    assert_eq!(json["dynamic_batching"]["preferred_batch_size"], json!([4]));
    assert_eq!(json["name"], "m");
    assert_eq!((&json["platform"], &json["backend"]), (&json!("onnxruntime_onnx"), &json!("onnxruntime")));
    assert_eq!(json["version_policy"], json!({ "latest": { "num_versions": 1 } }));
    let group = &json["instance_group"][0];
    assert_eq!(
        (&group["name"], &group["kind"], &group["count"]),
        (&json!("m_0"), &json!("KIND_CPU"), &json!(2))
    );
    assert_eq!(json["default_model_filename"], "model.onnx");
    assert_eq!(json["optimization"]["input_pinned_memory"]["enable"], true);
    let native = effective(&ModelConfiguration::default(), &batched());
    assert_eq!(native["max_batch_size"], 32, "as many rows as Axon runs together");
}

#[test]
fn nothing_is_filled_in_where_both_lists_are_there() {
    let text = "input { name: \"x\" data_type: TYPE_FP32 dims: [-1, 3] } output { name: \"y\" data_type: TYPE_FP32 dims: [-1, 10] }";
    let model = model(&[("x", &[-1, 3])], &[("y", &[-1, 10])]);
    let configuration = pbtxt(text);
    let json = effective(&configuration, &model);
    assert_eq!(json["max_batch_size"], 0);
    assert!(json.get("dynamic_batching").is_none());
    let fit = configuration.fit(&model).unwrap();
    assert!(!fit.may_batch && fit.can_batch && fit.layout.is_none());
    assert_eq!(fit.signature, model);
}

#[test]
fn a_model_without_rows_is_completed_without_them() {
    let model = model(&[("x", &[3, -1])], &[("y", &[])]);
    let configuration = pbtxt("name: \"m\"");
    let json = effective(&configuration, &model);
    assert_eq!((&json["max_batch_size"], &json["input"][0]["dims"]), (&json!(0), &json!([3, -1])));
    assert_eq!(json["output"][0]["dims"], json!([1]));
    assert!(json["output"][0].get("reshape").is_none());
    assert!(json.get("dynamic_batching").is_none());
    let fit = configuration.fit(&model).unwrap();
    assert_eq!(fit.signature.outputs[0].wire_shape(), [1]);
    let layout = fit.layout.unwrap();
    let scalar = Tensor::from_vec(&[], vec![5.0_f32]).unwrap();
    assert_eq!(&**layout.to_client(&[scalar]).unwrap()[0].shape(), &[1]);
}

/// Answers with its inputs, and says what they were.
struct Echoing(Vec<Vec<usize>>);

impl Executor for &mut Echoing {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.0 = inputs.iter().map(|input| input.shape().to_vec()).collect();
        Ok(inputs.to_vec())
    }
}

#[test]
fn clients_see_the_order_and_the_shapes_of_the_configuration() {
    let model = model(&[("a", &[-1, -1, 2]), ("b", &[-1])], &[("p", &[-1, -1, 2]), ("q", &[-1])]);
    let configuration = pbtxt(
        r#"max_batch_size: 4
        input { name: "b" data_type: TYPE_FP32 dims: 1 reshape { } }
        input { name: "a" data_type: TYPE_FP32 dims: [-1, 1, 2] reshape { shape: [-1, 2] } }
        output { name: "q" data_type: TYPE_FP32 dims: 1 reshape { } }
        output { name: "p" data_type: TYPE_FP32 dims: [-1, 2, 1] reshape { shape: [-1, 2] } }"#,
    );
    let fit = configuration.fit(&model).unwrap();
    let shapes = |specs: &[TensorSpec]| specs.iter().map(TensorSpec::wire_shape).collect::<Vec<_>>();
    assert_eq!(shapes(&fit.signature.inputs), [vec![-1, 1], vec![-1, -1, 1, 2]]);
    assert_eq!(shapes(&fit.signature.outputs), [vec![-1, 1], vec![-1, -1, 2, 1]]);
    let mut inner = Echoing(Vec::new());
    let mut executor = Arranged::new(&mut inner, std::sync::Arc::new(fit.layout.unwrap()));
    let b = Tensor::from_vec(&[2, 1], vec![1.0_f32, 2.0]).unwrap();
    let a = Tensor::from_vec(&[2, 3, 1, 2], (0..12).map(|value| value as f32).collect()).unwrap();
    let outputs = executor.run(&[b.clone(), a.clone()]).unwrap();
    assert_eq!(inner.0, [vec![2, 3, 2], vec![2]]);
    assert_eq!((&**outputs[0].shape(), &**outputs[1].shape()), (&[2, 1][..], &[2, 3, 2, 1][..]));
    assert_eq!(outputs[0].as_slice::<f32>(), b.as_slice::<f32>());
    assert_eq!(outputs[1].as_slice::<f32>(), a.as_slice::<f32>());
}

#[test]
fn outputs_may_be_left_out() {
    let model = model(&[("x", &[-1, 3])], &[("y", &[-1, 10]), ("z", &[-1, 3])]);
    let text = "max_batch_size: 2 output { name: \"z\" data_type: TYPE_FP32 dims: 3 }";
    let fit = pbtxt(text).fit(&model).unwrap();
    let names: Vec<_> = fit.signature.outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!(names, ["z"]);
    assert_eq!(fit.layout.unwrap().outputs[0].from, 1);
}

#[test]
fn nothing_configured_changes_nothing() {
    let fit = ModelConfiguration::default().fit(&batched()).unwrap();
    assert_eq!(fit.signature, batched());
    assert!(fit.layout.is_none() && fit.may_batch && fit.max_batch_size.is_none());
}

#[test]
fn a_stateful_models_own_tensors_are_not_its_clients() {
    let model =
        model(&[("S", &[-1, 2]), ("x", &[-1, 3]), ("START", &[-1, 1])], &[("T", &[-1, 2]), ("y", &[-1, 3])]);
    let text = r#"max_batch_size: 4 sequence_batching {
        control_input { name: "START" control { fp32_false_true: [0, 1] } }
        state { input_name: "S" output_name: "T" data_type: TYPE_FP32 dims: 2 } }"#;
    let configuration = pbtxt(text);
    let fit = configuration.fit(&model).unwrap();
    assert_eq!((fit.signature.inputs.len(), fit.signature.inputs[0].name.as_str()), (1, "x"));
    assert_eq!((fit.signature.outputs.len(), fit.signature.outputs[0].name.as_str()), (1, "y"));
    let layout = fit.layout.unwrap();
    let from: Vec<_> = layout.inputs.iter().map(|slot| slot.from).collect();
    assert_eq!(from, [2, 0, 1], "clients' inputs, then control inputs, then states");
    let from: Vec<_> = layout.outputs.iter().map(|slot| slot.from).collect();
    assert_eq!(from, [1, 0]);
    assert_eq!(
        effective(&configuration, &model)["sequence_batching"]["max_sequence_idle_microseconds"],
        1_000_000
    );
    let wrong = pbtxt(&text.replace("dims: 2", "dims: 3")).fit(&model).unwrap_err();
    assert!(wrong.message().contains("sequence_batching.state[0].dims: config [3], model [2]"), "{wrong}");
    let wrong = pbtxt(&text.replace("\"START\"", "\"BEGIN\"")).fit(&model).unwrap_err();
    assert!(wrong.message().contains("control_input[0].name: config `BEGIN`, model `S`"), "{wrong}");
}

#[test]
fn the_test_backend_needs_pairs() {
    let check = |text: &str, expected: &str| {
        let error = pbtxt(&format!("backend: \"identity\" {text}")).fit_identity().expect_err(text);
        assert!(error.message().contains(expected), "{error}");
    };
    let input = "input { name: \"x\" data_type: TYPE_FP32 dims: 3 }";
    check("", "expected as many outputs as inputs, and at least one");
    check(input, "got 0 and 1");
    check(
        &format!("{input} output {{ name: \"y\" data_type: TYPE_INT32 dims: 3 }}"),
        "output[0]: expected TYPE_FP32 [3] as input[0], got TYPE_INT32 [3]",
    );
    let text = format!(
        "backend: \"identity\" max_batch_size: 2 {input} output {{ name: \"y\" data_type: TYPE_FP32 dims: 3 }}"
    );
    let fit = pbtxt(&text).fit_identity().unwrap();
    assert_eq!(fit.signature.inputs[0].wire_shape(), [-1, 3]);
}
