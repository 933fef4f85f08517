//! The engine serves what a configuration says: the digits classifier, and the backend that answers with its inputs.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axon::config::{ModelConfig, ServerConfig};
use axon::request::InferenceRequest;
use axon::server::InferenceServer;
use axon::{ErrorKind, Tensor};
use serde_json::json;

/// A repository that is removed when it is dropped.
struct Repository(PathBuf);

impl Repository {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("axon-configured-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&root).expect("a temporary folder");
        Self(root)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    /// Copies the digits classifier: `pixels` `[rows, 64]` to `label` `[rows]` and `probabilities` `[rows, 10]`.
    fn digits(&self, path: &str) {
        let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/digits/digits.onnx");
        self.write(path, "");
        std::fs::copy(digits, self.0.join(path)).expect("a copy");
    }

    async fn load(&self) -> axon::Result<InferenceServer> {
        InferenceServer::load(&self.0).await
    }

    async fn error(&self) -> String {
        self.load().await.err().expect("the model is refused").message().to_owned()
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn pixels(rows: usize) -> Tensor {
    Tensor::from_vec(&[rows, 64], vec![1.0_f32; rows * 64]).expect("64 pixels a row")
}

const DIGITS: &str = r#"
    name: "m" platform: "onnxruntime_onnx" max_batch_size: 8
    input [ { name: "pixels" data_type: TYPE_FP32 dims: [ 64 ] } ]
    output [
      { name: "probabilities" data_type: TYPE_FP32 dims: [ 10 ] label_filename: "labels.txt" },
      { name: "label" data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [ ] } }
    ]
    version_policy { all { } }
    instance_group [ { kind: KIND_CPU count: 1 } ]
    dynamic_batching { default_queue_policy { max_queue_size: 100 } }
"#;

#[tokio::test]
async fn a_repository_of_triton_is_served_unchanged() {
    let repository = Repository::new("triton");
    for version in [1, 2, 3] {
        repository.digits(&format!("m/{version}/model.onnx"));
    }
    repository.write("m/config.pbtxt", DIGITS);
    repository.write("m/labels.txt", "null\none\ntwo\n");
    let server = repository.load().await.unwrap();
    assert_eq!(server.metadata("m", None).unwrap().versions, [1, 2, 3]);
    let response = server.infer(InferenceRequest::new(pixels(2)).with_model("m")).await.unwrap();
    assert_eq!(response.version, 3);
    let shapes: Vec<_> = response
        .outputs
        .iter()
        .map(|output| (output.name.as_str(), output.tensor.shape().to_vec()))
        .collect();
    assert_eq!(shapes, [("probabilities", vec![2, 10]), ("label", vec![2, 1])]);
    let error = server.infer(InferenceRequest::new(pixels(9)).with_model("m")).await.unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidRequest, Some("inputs[0].shape[0]")));
    let model = server.model("m", Some(1)).unwrap();
    assert_eq!(model.labels("probabilities").unwrap(), ["null", "one", "two"]);
    assert!(model.labels("label").is_none() && model.labels("other").is_none());
    assert_eq!((model.platform(), model.config().max_queue_size.get()), ("onnxruntime_onnx", 100));
    let json = model.configuration().to_json();
    assert_eq!(
        (&json["max_batch_size"], &json["name"], &json["backend"]),
        (&json!(8), &json!("m"), &json!("onnxruntime"))
    );
    assert_eq!(json["instance_group"][0]["count"], 1);
    assert_eq!(json["dynamic_batching"]["preferred_batch_size"], json!([8]));
    assert_eq!(json["output"][0]["label_filename"], "labels.txt");
    server.close();
}

#[tokio::test]
async fn the_newest_version_is_served_where_nothing_is_said() {
    let repository = Repository::new("newest");
    repository.digits("m/1/model.onnx");
    repository.digits("m/3/model.onnx");
    let server = repository.load().await.unwrap();
    assert_eq!(server.metadata("m", None).unwrap().versions, [3]);
    assert_eq!(server.infer(pixels(500)).await.unwrap().outputs[0].tensor.shape().rows(), Some(500));
    let model = server.model("m", None).unwrap();
    assert!(model.counts_rows() && model.config().max_batch_size.is_none());
    let json = model.configuration().to_json();
    assert!(json["max_batch_size"].as_u64().unwrap() >= 4, "{json}");
    assert_eq!(json["input"][0]["dims"], json!([64]));
}

#[tokio::test]
async fn what_differs_from_the_model_is_its_error() {
    let repository = Repository::new("differs");
    repository.digits("m/1/model.onnx");
    repository.write("m/config.pbtxt", &DIGITS.replace("[ 64 ]", "[ 63 ]"));
    repository.write("m/labels.txt", "");
    let error = repository.error().await;
    assert!(error.starts_with("config.pbtxt:3:51: input[0].dims: config [63], model [64]"), "{error}");
    std::fs::remove_file(repository.0.join("m/labels.txt")).unwrap();
    repository.write("m/config.pbtxt", DIGITS);
    let error = repository.error().await;
    assert!(
        error.contains("output[0].label_filename: expected a file in the model's folder, got `labels.txt`"),
        "{error}"
    );
    repository.write("m/config.pbtxt", "instance_group { kind: KIND_GPU }");
    assert!(repository.error().await.contains("instance_group[0].kind: expected KIND_CPU or KIND_AUTO"));
}

#[tokio::test]
async fn a_model_without_rows_runs_each_request_alone() {
    let repository = Repository::new("rows");
    repository.digits("m/1/model.onnx");
    let text = r#"
        [inputs.pixels]
        datatype = "FP32"
        shape = [-1, 64]
        [outputs.label]
        datatype = "INT64"
        shape = [-1]
    "#;
    repository.write("m/model.toml", text);
    let server = repository.load().await.unwrap();
    let response = server.infer(pixels(20)).await.unwrap();
    assert_eq!((response.outputs.len(), response.outputs[0].tensor.shape().rows()), (1, Some(20)));
    let model = server.model("m", None).unwrap();
    assert!(!model.counts_rows());
    assert_eq!(model.plan().max_batch_rows, NonZeroUsize::MIN);
    assert_eq!(model.configuration().to_json()["max_batch_size"], 0);
}

fn identity(more: &str) -> String {
    format!(
        "backend: \"identity\" max_batch_size: 4 {more} \
         input {{ name: \"a\" data_type: TYPE_FP32 dims: [2] }} input {{ name: \"b\" data_type: TYPE_STRING dims: [-1] }} \
         output {{ name: \"c\" data_type: TYPE_FP32 dims: [2] }} output {{ name: \"d\" data_type: TYPE_STRING dims: [-1] }}"
    )
}

fn pair() -> InferenceRequest {
    let a = Tensor::from_vec(&[1, 2], vec![1.0_f32, 2.0]).expect("two elements");
    let b = Tensor::from_elements(&[1, 3], &["x", "", "zz"]).expect("three elements");
    InferenceRequest::new([("a", a), ("b", b)]).with_model("i")
}

#[tokio::test]
async fn the_test_backend_answers_with_its_inputs_without_onnx_runtime() {
    let repository = Repository::new("identity");
    repository.write("i/1/readme", "");
    repository.write("i/config.pbtxt", &identity("instance_group { count: 3 }"));
    // A library that is not there is not looked for.
    let config =
        ServerConfig { runtime_library: Some(PathBuf::from("/nowhere.so")), ..ServerConfig::default() };
    let server = InferenceServer::load_with(&repository.0, config).await.unwrap();
    let model = server.model("i", None).unwrap();
    assert_eq!((model.platform(), model.plan().instances, model.outline()), ("identity", 3, None));
    let json = model.configuration().to_json();
    assert_eq!((&json["backend"], &json["instance_group"][0]["count"]), (&json!("identity"), &json!(3)));
    let request = pair();
    let response = server.infer(request.clone()).await.unwrap();
    let axon::request::Inputs::Named(inputs) = request.inputs else { panic!("the inputs have names") };
    for ((output, name), input) in response.outputs.iter().zip(["c", "d"]).zip(&inputs) {
        assert_eq!((output.name.as_str(), &output.tensor), (name, &input.tensor));
    }
    assert_eq!(server.report("i", None).unwrap().runtime, "none");
}

#[tokio::test]
async fn the_test_backend_takes_its_time() {
    let repository = Repository::new("delay");
    repository.write("i/1/readme", "");
    let delay = "parameters { key: \"execute_delay_ms\" value { string_value: \"50\" } }";
    repository.write("i/config.pbtxt", &identity(delay));
    let server = repository.load().await.unwrap();
    let requests = (0..4).map(|_| {
        let server = server.clone();
        tokio::spawn(async move { server.infer(pair()).await.unwrap() })
    });
    let requests: Vec<_> = requests.collect();
    for request in requests {
        let timing = request.await.unwrap().timing;
        assert!(timing.compute >= Duration::from_millis(50), "{timing:?}");
    }
}

#[tokio::test]
async fn the_tighter_limit_of_rows_counts() {
    let repository = Repository::new("tighter");
    repository.digits("m/1/model.onnx");
    repository.write("m/config.pbtxt", "max_batch_size: 8");
    let model = ModelConfig { max_batch_size: NonZeroUsize::new(3), ..ModelConfig::default() };
    let server = InferenceServer::load_with(&repository.0, ServerConfig { model, ..ServerConfig::default() })
        .await
        .unwrap();
    assert!(server.infer(pixels(3)).await.is_ok());
    assert_eq!(server.infer(pixels(4)).await.unwrap_err().field(), Some("inputs[0].shape[0]"));
}
