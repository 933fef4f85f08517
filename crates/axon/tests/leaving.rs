//! A Rust caller that drops its future leaves the queue, or stops the run that nobody else waits for.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axon::request::{InferenceRequest, Parameter};
use axon::server::InferenceServer;
use axon::{Result, Tensor};

const IDENTITY: &str = r#"
    backend: "identity" max_batch_size: 1
    input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }
"#;

/// A repository of one model, `m`, which is removed when it is dropped.
struct Repository(PathBuf);

impl Repository {
    fn new() -> Self {
        let root = std::env::temp_dir().join(format!("axon-leaving-{}", std::process::id()));
        std::fs::create_dir_all(root.join("m/1")).expect("a temporary folder");
        std::fs::write(root.join("m/config.pbtxt"), IDENTITY).expect("a file");
        Self(root)
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A question whose run takes a minute, or no time.
fn question(is_long: bool) -> InferenceRequest {
    let mut request = InferenceRequest::new(Tensor::from_vec(&[1, 1], vec![1.0_f32]).expect("one value"));
    if is_long {
        request.parameters = vec![("execute_delay_ms".to_owned(), Parameter::Int(60_000))];
    }
    request
}

/// (runs, requests whose callers left, requests that failed)
fn counted(server: &InferenceServer) -> Result<(u64, u64, u64)> {
    let model = server.model("m", None)?;
    let statistics = model.statistics();
    let runs = statistics.execution_count.load(Ordering::Relaxed);
    Ok((runs, statistics.cancel.read().0, statistics.fail.read().0))
}

#[tokio::test]
async fn a_future_that_is_dropped_is_never_run_or_stops_its_run() -> Result<()> {
    let repository = Repository::new();
    let server = InferenceServer::load(&repository.0).await?;
    {
        let mut running = pin!(server.infer(question(true)));
        let model = server.model("m", None)?;
        // Queues it, and has it run.
        for _ in 0..2 {
            assert!(tokio::time::timeout(Duration::from_millis(1), &mut running).await.is_err());
        }
        while model.waiting() > 0 {
            tokio::task::yield_now().await;
        }
        {
            let mut waiting = pin!(server.infer(question(true)));
            assert!(tokio::time::timeout(Duration::from_millis(1), &mut waiting).await.is_err());
            assert_eq!(model.waiting(), 1);
        }
        assert_eq!(model.waiting(), 0);
        assert_eq!(counted(&server)?, (0, 1, 1), "who waited is never run");
    }
    assert_eq!(server.infer(question(false)).await?.outputs.len(), 1);
    let (runs, cancelled, failed) = counted(&server)?;
    assert_eq!((cancelled, failed), (2, 2));
    assert_eq!(runs, 2, "the run that was stopped counts");
    Ok(())
}
