//! The engine's face on a real model: the digits classifier that ships with the repository.
//!
//! ONNX Runtime is found as the engine finds it (`ORT_DYLIB_PATH`); `make test` sets it.

use std::path::{Path, PathBuf};

use axon::config::{ModelConfig, ServerConfig};
use axon::request::InferenceRequest;
use axon::server::{InferenceServer, NotReady};
use axon::{ErrorKind, Tensor};

fn digits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/digits/digits.onnx")
}

/// Image `number` of made-up ink: every image differs.
fn image(number: usize) -> Tensor {
    let pixels = (0..64).map(|pixel| ((pixel * 7 + number * 31) % 17) as f32);
    Tensor::from_vec(&[1, 64], pixels.collect()).expect("64 pixels")
}

#[tokio::test]
async fn answers_are_the_same_alone_and_together() {
    let server = InferenceServer::load(digits()).await.unwrap();
    let mut alone = Vec::new();
    for number in 0..200 {
        alone.push(server.infer(&image(number)).await.unwrap());
    }
    let together: Vec<_> = (0..200)
        .map(|number| {
            let server = server.clone();
            tokio::spawn(async move { server.infer(&image(number)).await.unwrap() })
        })
        .collect();
    for (alone, together) in alone.iter().zip(together) {
        let together = together.await.unwrap();
        for output in ["label", "probabilities"] {
            assert_eq!(alone.output(output).unwrap(), together.output(output).unwrap());
        }
    }
    server.close();
}

#[tokio::test]
async fn a_request_of_many_rows_and_one_output() {
    let server = InferenceServer::load(digits()).await.unwrap();
    let rows = Tensor::from_vec(&[500, 64], vec![1.0_f32; 500 * 64]).unwrap();
    let mut request = InferenceRequest::new([("pixels", rows)]).with_model("digits");
    request.outputs = vec!["label".to_owned()];
    let response = server.infer(request).await.unwrap();
    assert_eq!((response.outputs.len(), response.timing.batch_rows), (1, 500));
    assert_eq!(&**response.outputs[0].tensor.shape(), &[500]);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let server = InferenceServer::load(digits()).await.unwrap();
    let kind = |request: InferenceRequest| {
        let server = server.clone();
        async move { server.infer(request).await.unwrap_err().kind() }
    };
    assert_eq!(kind(InferenceRequest::new(image(0)).with_model("other")).await, ErrorKind::ModelNotFound);
    let mut request = InferenceRequest::new(image(0));
    request.version = Some(2);
    assert_eq!(kind(request).await, ErrorKind::ModelNotFound);
    let wrong = Tensor::from_vec(&[1, 63], vec![0.0_f32; 63]).unwrap();
    assert_eq!(kind(InferenceRequest::new(wrong)).await, ErrorKind::InvalidRequest);
    server.close();
    assert_eq!(kind(InferenceRequest::new(image(0))).await, ErrorKind::ShuttingDown);
    assert_eq!(server.ready(), Err(NotReady::Stopping));
}

#[tokio::test]
async fn a_limit_on_rows_is_held() {
    let model = ModelConfig { max_batch_size: std::num::NonZeroUsize::new(2), ..ModelConfig::default() };
    let server = InferenceServer::load_with(digits(), ServerConfig { model, ..ServerConfig::default() })
        .await
        .unwrap();
    let rows = |rows: usize| Tensor::from_vec(&[rows, 64], vec![1.0_f32; rows * 64]).unwrap();
    assert!(server.infer(rows(2)).await.is_ok());
    assert_eq!(server.infer(rows(3)).await.unwrap_err().field(), Some("inputs[0].shape[0]"));
}

#[tokio::test]
async fn a_model_that_cannot_be_served_does_not_stop_the_others() {
    let folder = std::env::temp_dir().join(format!("axon-engine-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(digits(), folder.join("good.onnx")).unwrap();
    std::fs::write(folder.join("bad.onnx"), b"not a model").unwrap();
    let server = InferenceServer::open(&folder).await.unwrap();
    let load = InferenceServer::load(&folder).await;
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(server.infer(InferenceRequest::new(image(0)).with_model("good")).await.is_ok());
    let error = server.infer(InferenceRequest::new(image(0)).with_model("bad")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ModelNotReady);
    assert!(error.message().contains("not an ONNX protobuf"), "{error}");
    assert_eq!(server.ready(), Err(NotReady::Failed(vec!["bad version 1".to_owned()])));
    assert_eq!(load.err().map(|error| error.kind()), Some(ErrorKind::InvalidModel));
}
