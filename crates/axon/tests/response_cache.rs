//! Many threads ask few questions, leave, wait too briefly or ask past the cache: every answer is right, every request
//! ends once, and nobody is left waiting.
#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails here and prints its seed"
)]

mod common;

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use axon::config::{ResponseCacheSize, ServerConfig};
use axon::request::{CacheUse, InferenceRequest, Parameter};
use axon::server::InferenceServer;
use axon::{ErrorKind, Tensor};

use common::Repository;

const CONFIG: &str = r#"
backend: "identity"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
response_cache { enable: true }
instance_group [ { count: 2 } ]
"#;
const THREADS: u64 = 8;
const REQUESTS: u64 = 400;
const PATIENCE: Duration = Duration::from_secs(30);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

fn question(random: &mut Random) -> (InferenceRequest, Vec<f32>) {
    #[expect(clippy::cast_precision_loss, reason = "three numbers")]
    let values = vec![random.below(3) as f32; 4];
    let mut request = InferenceRequest::new(Tensor::from_vec(&[1, 4], values.clone()).unwrap());
    request.parameters.push(("execute_delay_ms".to_owned(), Parameter::Uint(random.below(4))));
    if random.below(10) == 0 {
        request.parameters.push(("response_cache".to_owned(), Parameter::Bool(false)));
    }
    if random.below(4) == 0 {
        request.timeout = Some(Duration::from_micros(200 + random.below(4_000)));
    }
    (request, values)
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    shared: AtomicU64,
}

fn ask(server: &InferenceServer, counts: &Counts, seed: u64) {
    let mut random = Random(seed);
    for _ in 0..REQUESTS {
        let (request, values) = question(&mut random);
        let (sender, answers) = mpsc::channel();
        let submitted = server.submit(request, move |answer| drop(sender.send(answer)));
        let Ok(mut ticket) = submitted.inspect_err(|error| assert_refusal(error.kind())) else { continue };
        ticket.wake();
        if random.below(4) == 0 {
            thread::sleep(Duration::from_micros(random.below(2_000)));
            ticket.cancel();
        }
        match answers.recv_timeout(PATIENCE) {
            Ok(Ok(response)) => {
                assert_eq!(response.output("x").unwrap().as_slice::<f32>(), Some(&values[..]));
                counts.answered.fetch_add(1, Ordering::Relaxed);
                let is_shared = response.timing.cache == CacheUse::Hit;
                counts.shared.fetch_add(u64::from(is_shared), Ordering::Relaxed);
            }
            Ok(Err(error)) => assert_refusal(error.kind()),
            // It was taken back.
            Err(mpsc::RecvTimeoutError::Disconnected) => {}
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("seed {seed}: a request is never answered"),
        }
    }
}

fn assert_refusal(kind: ErrorKind) {
    assert!(matches!(kind, ErrorKind::DeadlineExceeded | ErrorKind::Overloaded), "{kind:?}");
}

fn every_request_ends_once(budget: usize) {
    let repository = Repository::new();
    fs::create_dir_all(repository.root.join("m/1")).unwrap();
    fs::write(repository.root.join("m/config.pbtxt"), CONFIG).unwrap();
    let config = ServerConfig { response_cache: ResponseCacheSize(budget), ..ServerConfig::default() };
    let server = InferenceServer::load_blocking(&repository.root, config).unwrap();
    let seed = RandomState::new().hash_one(budget);
    println!("seed {seed}");
    let counts = Counts::default();
    thread::scope(|scope| {
        for offset in 0..THREADS {
            let (server, counts) = (&server, &counts);
            scope.spawn(move || ask(server, counts, seed.wrapping_add(offset)));
        }
    });
    let model = server.model("m", None).unwrap();
    let statistics = model.statistics();
    let ended = || statistics.success.read().0 + statistics.fail.read().0;
    let deadline = Instant::now() + PATIENCE;
    while ended() < THREADS * REQUESTS {
        assert!(Instant::now() < deadline, "{} of {} requests have ended", ended(), THREADS * REQUESTS);
        thread::yield_now();
    }
    assert_eq!(model.followers(), Some(0));
    // A hit of the cache is one of a run that was shared, or of an answer that was kept.
    assert!(statistics.cache_hit.read().0 >= counts.shared.load(Ordering::Relaxed));
    assert!(counts.shared.load(Ordering::Relaxed) > 0);
    assert!(statistics.success.read().0 >= counts.answered.load(Ordering::Relaxed));
    server.close();
    assert_eq!(ended(), THREADS * REQUESTS, "none is counted twice");
    assert_eq!(told(&server), THREADS * REQUESTS);
}

/// The requests that came and have ended, by the counters that operators see.
fn told(server: &InferenceServer) -> u64 {
    let series = server.series();
    let snapshots = series.iter().map(|series| series.metrics.snapshot());
    snapshots.flat_map(|snapshot| snapshot.ended).map(|ended| ended.count).sum()
}

#[test]
fn every_request_ends_once_where_runs_are_shared() {
    every_request_ends_once(1);
}

#[test]
fn every_request_ends_once_where_answers_are_kept() {
    every_request_ends_once(1 << 20);
}
