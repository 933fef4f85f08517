//! Prints what the response cache costs a request beside the hash of its bytes: of a question that is not kept, of one
//! that is, and of keeping its answer.
//!
//! The model is the backend identity, so that a run takes no time of its own; what is timed is on the caller's thread, and
//! waits for no other.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use axon::config::ServerConfig;
use axon::request::{InferenceRequest, Parameter};
use axon::response_cache::ResponseCache;
use axon::server::InferenceServer;
use axon::{Result, Tensor};

const SIZES: [(&str, usize, usize); 2] = [("1 KB", 256, 20_000), ("600 KB", 150_000, 1_000)];

const CONFIG: &str = "
backend: \"identity\"
max_batch_size: 64
input [ { name: \"x\" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: \"x\" data_type: TYPE_FP32 dims: [ -1 ] } ]
response_cache { enable: true }
instance_group [ { count: 1 } ]
";

fn main() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("axon-response-cache-{}", std::process::id()));
    let result = measure(&folder);
    if let Err(error) = fs::remove_dir_all(&folder) {
        println!("{} is left: {error}", folder.display());
    }
    result
}

fn measure(folder: &Path) -> Result<()> {
    let written = fs::create_dir_all(folder.join("m/1"))
        .and_then(|()| fs::write(folder.join("m/config.pbtxt"), CONFIG));
    written.map_err(axon::Error::internal)?;
    let server = InferenceServer::load_blocking(folder, ServerConfig::default())?;
    println!(
        "medians in µs            hash    not kept, beyond a run    kept, all of it    keeping the answer"
    );
    for (name, elements, times) in SIZES {
        let hash = median((0..times).map(|number| hashing(elements, number)));
        let new = median_of(times, |number| Ok(asking(&server, question(elements, number, true)?)?.0))?;
        let past = median_of(times, |number| Ok(asking(&server, question(elements, number, false)?)?.0))?;
        asking(&server, question(elements, times, true)?)?;
        let kept = median_of(times, |_| Ok(asking(&server, question(elements, times, true)?)?.1))?;
        let keeping = keeping(elements, times)?;
        println!(
            "{name:16} {:>12.2} {:>26.2} {:>18.2} {:>21.2}",
            microseconds(hash),
            microseconds(new) - microseconds(past),
            microseconds(kept),
            microseconds(keeping)
        );
    }
    server.close();
    Ok(())
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn median_of(times: usize, one: impl FnMut(usize) -> Result<Duration>) -> Result<Duration> {
    let times: Result<Vec<Duration>> = (0..times).map(one).collect();
    Ok(median(times?.into_iter()))
}

fn tensor(elements: usize, number: usize) -> Result<Tensor> {
    Tensor::from_vec(&[1, elements], vec![number as f32; elements]).map_err(axon::Error::internal)
}

/// Another one for each number; one that is not to be cached is run past the cache.
fn question(elements: usize, number: usize, is_cached: bool) -> Result<InferenceRequest> {
    let mut request = InferenceRequest::new(tensor(elements, number)?);
    request.parameters.push(("response_cache".to_owned(), Parameter::Bool(is_cached)));
    Ok(request)
}

/// The time until a request was taken, and until it was answered.
fn asking(server: &InferenceServer, request: InferenceRequest) -> Result<(Duration, Duration)> {
    let (sender, answers) = mpsc::sync_channel(1);
    let started = Instant::now();
    let mut ticket = server.submit(request, move |answer| {
        // The receiver waits for it.
        let _ = sender.send(answer);
    })?;
    let asked = started.elapsed();
    ticket.wake();
    black_box(answers.recv().map_err(axon::Error::internal)??);
    Ok((asked, started.elapsed()))
}

/// The bytes alone, under the cache's own hash.
fn hashing(elements: usize, number: usize) -> Duration {
    let cache: ResponseCache<()> = ResponseCache::new(1);
    let owner = cache.open();
    let bytes = vec![number as u8; 4 * elements];
    let started = Instant::now();
    let mut hasher = cache.hasher(owner);
    hasher.bytes(black_box(&bytes));
    black_box(hasher.finish());
    started.elapsed()
}

/// Copying an answer and putting it where others make way for it.
fn keeping(elements: usize, times: usize) -> Result<Duration> {
    let cache = ResponseCache::new(64 << 20);
    let (owner, answer) = (cache.open(), tensor(elements, 0)?);
    median_of(times, |number| {
        let mut hasher = cache.hasher(owner);
        hasher.number(number as u64);
        let key = hasher.finish();
        let started = Instant::now();
        black_box(cache.insert(owner, key, (answer.detached(), 4 * elements), None, started));
        Ok(started.elapsed())
    })
}
