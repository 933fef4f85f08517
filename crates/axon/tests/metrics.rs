//! What is counted of requests that come from the process itself, over loads and unloads.
#![allow(clippy::unwrap_used, reason = "a test fails here")]

mod common;

use std::num::NonZeroUsize;
use std::pin::pin;
use std::time::Duration;

use axon::config::{Metrics, ServerConfig};
use axon::metrics::{ModelSnapshot, Outcome, Protocol};
use axon::repository::LoadOverrides;
use axon::request::{InferenceRequest, Parameter};
use axon::server::InferenceServer;
use axon::{ErrorKind, Tensor};

use common::{Repository, adder, row, until};

const IDENTITY: &str = r#"
    backend: "identity" max_batch_size: 1
    input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }
"#;

fn question(delay_ms: i64) -> InferenceRequest {
    InferenceRequest {
        model: "m".to_owned(),
        parameters: vec![("execute_delay_ms".to_owned(), Parameter::Int(delay_ms))],
        ..InferenceRequest::new(Tensor::from_vec(&[1, 1], vec![1.0_f32]).unwrap())
    }
}

/// The counters of a model's version, or of unknown ones.
fn counted(server: &InferenceServer, model: Option<(&str, u64)>) -> ModelSnapshot {
    let wanted = model.map(|(name, version)| (name.to_owned(), version));
    let series = server.series().into_iter().find(|series| series.model == wanted).unwrap();
    series.metrics.snapshot()
}

fn outcomes(snapshot: &ModelSnapshot) -> Vec<(&'static str, u64)> {
    let all = Outcome::ALL.into_iter().map(|outcome| (outcome.name(), snapshot.count(outcome)));
    all.filter(|(_, count)| *count > 0).collect()
}

#[tokio::test]
async fn every_request_is_counted_once_by_how_it_ended() {
    let repository = Repository::new();
    std::fs::create_dir_all(repository.root.join("m/1")).unwrap();
    std::fs::write(repository.root.join("m/config.pbtxt"), IDENTITY).unwrap();
    let mut config = ServerConfig::default();
    config.model.max_queue_size = NonZeroUsize::MIN;
    let server = InferenceServer::load_with(&repository.root, config).await.unwrap();
    for _ in 0..3 {
        server.infer(question(0)).await.unwrap();
    }
    let wrong = InferenceRequest::new(row(1.0)).with_model("m");
    assert_eq!(server.infer(wrong).await.unwrap_err().kind(), ErrorKind::InvalidRequest);
    let unknown = InferenceRequest::new(row(1.0)).with_model("x");
    assert_eq!(server.infer(unknown).await.unwrap_err().kind(), ErrorKind::ModelNotFound);
    let model = server.model("m", None).unwrap();
    {
        let mut running = pin!(server.infer(question(60_000)));
        let poll = |limit| Duration::from_millis(limit);
        assert!(tokio::time::timeout(poll(1), &mut running).await.is_err());
        assert!(tokio::time::timeout(poll(1), &mut running).await.is_err());
        until("it runs", || model.waiting() == 0);
        let mut waiting = pin!(server.infer(question(0)));
        assert!(tokio::time::timeout(poll(1), &mut waiting).await.is_err());
        assert_eq!(server.infer(question(0)).await.unwrap_err().kind(), ErrorKind::Overloaded);
        assert_eq!(counted(&server, Some(("m", 1))).in_flight(Protocol::InProcess), 2);
    }
    // The run that was stopped ends on its instance's thread.
    until("nothing is in flight", || counted(&server, Some(("m", 1))).in_flight(Protocol::InProcess) == 0);
    server.close();
    assert_eq!(server.infer(question(0)).await.unwrap_err().kind(), ErrorKind::ShuttingDown);
    let snapshot = counted(&server, Some(("m", 1)));
    assert_eq!(
        outcomes(&snapshot),
        [("answered", 3), ("queue_full", 1), ("draining", 1), ("invalid", 1), ("cancelled", 2)]
    );
    assert_eq!(snapshot.received, [0, 0, 8]);
    let observations = &snapshot.observations;
    assert_eq!([observations.queue.count(), observations.total.count()], [3, 3]);
    assert_eq!((observations.request_bytes.whole_sum(), observations.response_bytes.whole_sum()), (12, 12));
    assert_eq!(observations.batch_rows.whole_sum(), 4, "the run that was stopped counts");
    assert_eq!(outcomes(&counted(&server, None)), [("unknown_model", 1)]);
}

#[tokio::test]
async fn counters_outlive_a_reload_and_count_loads() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = repository.serve(&["m"]);
    let ask = || InferenceRequest::new(row(0.0)).with_model("m");
    server.infer(ask()).await.unwrap();
    server.load_model("m", LoadOverrides::default()).unwrap();
    server.infer(ask()).await.unwrap();
    repository.write("m", 1, b"broken");
    assert!(server.load_model("m", LoadOverrides::default()).is_err());
    server.unload_model("m", false).unwrap();
    assert_eq!(server.infer(ask()).await.unwrap_err().kind(), ErrorKind::ModelNotReady);
    let snapshot = counted(&server, Some(("m", 1)));
    assert_eq!((snapshot.loads, snapshot.failed_loads, snapshot.unloads), (2, 1, 1));
    assert!(snapshot.load_duration > Duration::ZERO);
    assert_eq!(outcomes(&snapshot), [("answered", 2), ("not_ready", 1)]);
    assert_eq!(snapshot.observations.compute.count(), 2);
}

#[tokio::test]
async fn nothing_is_counted_where_metrics_are_off() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let config = ServerConfig { metrics: Metrics::Off, ..ServerConfig::default() };
    let server = InferenceServer::load_with(&repository.root, config).await.unwrap();
    server.infer(InferenceRequest::new(row(0.0))).await.unwrap();
    assert!(server.series().is_empty());
    let model = server.model("m", None).unwrap();
    assert!(model.metrics().is_none());
    assert_eq!(model.statistics().success.read().0, 1, "the protocol's statistics go on");
}
