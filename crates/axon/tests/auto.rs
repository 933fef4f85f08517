//! Models that are loaded when they are asked for, more of them than fit: what is answered, and what is in memory.
#![allow(clippy::unwrap_used, reason = "a test fails here")]
#![allow(clippy::float_cmp, reason = "small whole numbers add exactly")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axon::config::{ControlMode, ServerConfig};
use axon::metrics::Outcome;
use axon::repository::{LoadOverrides, ResidencyReport, Resident};
use axon::request::InferenceRequest;
use axon::residency::EvictionPolicy;
use axon::server::InferenceServer;
use axon::{Error, ErrorKind, Tensor};

use common::{Repository, adder, index, row, until};

/// What a model of the backend `identity` counts for.
const SLICE: u64 = 256 << 10;

fn auto(repository: &Repository, budget: u64) -> InferenceServer {
    let config =
        ServerConfig { control: ControlMode::Auto, memory_budget: Some(budget), ..ServerConfig::default() };
    InferenceServer::open_blocking(&repository.root, config).unwrap()
}

/// A model that answers with its input.
fn echo(repository: &Repository, name: &str, more: &str) {
    let folder = repository.root.join(name);
    std::fs::create_dir_all(folder.join("1")).unwrap();
    let text = format!(
        "backend: \"identity\"\nmax_batch_size: 8\ninput {{ name: \"x\" data_type: TYPE_FP32 dims: 2 }}\n\
         output {{ name: \"x\" data_type: TYPE_FP32 dims: 2 }}\n{more}"
    );
    std::fs::write(folder.join("config.pbtxt"), text).unwrap();
}

fn ask_with(
    server: &InferenceServer,
    name: &str,
    value: f32,
    timeout: Option<Duration>,
) -> Result<f32, Error> {
    let mut request = InferenceRequest::new(row(value)).with_model(name);
    request.timeout = timeout;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut response = runtime.block_on(server.infer(request))?;
    let tensor: Tensor = response.outputs.remove(0).tensor;
    Ok(tensor.as_slice::<f32>().unwrap()[0])
}

fn ask(server: &InferenceServer, name: &str, value: f32) -> Result<f32, Error> {
    ask_with(server, name, value, None)
}

/// What an answer says of how long its model was waited for.
fn load_time(server: &InferenceServer, name: &str) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(server.infer(InferenceRequest::new(row(0.0)).with_model(name))).unwrap().timing.load
}

/// Asks until the model is loaded: what came too lately may not leave yet.
fn insist(server: &InferenceServer, name: &str, value: f32) -> f32 {
    let answer = std::cell::Cell::new(None);
    until("it is answered", || match ask(server, name, value) {
        Ok(number) => {
            answer.set(Some(number));
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ModelNotReady, "{error}");
            assert!(error.retry_after().is_some(), "{error}");
            false
        }
    });
    answer.get().unwrap()
}

fn report(server: &InferenceServer) -> ResidencyReport {
    server.residency().unwrap()
}

fn resident(server: &InferenceServer, name: &str) -> Resident {
    report(server).models.into_iter().find(|model| model.name == name).unwrap()
}

fn is_ready(server: &InferenceServer, name: &str) -> bool {
    resident(server, name).state == "READY"
}

#[test]
fn a_model_is_loaded_by_its_first_request() {
    let repository = Repository::new();
    repository.write("a", 1, &adder(1.0)).write("b", 1, &adder(2.0));
    let server = auto(&repository, 1 << 30);
    assert_eq!(server.ready(), Ok(()), "nothing is meant to be loaded");
    assert_eq!(index(&server), ["a - UNKNOWN", "b - UNKNOWN"]);
    assert_eq!(report(&server).charged, 0);
    assert_eq!(ask(&server, "b", 3.0).unwrap(), 5.0);
    assert_eq!(index(&server), ["a - UNKNOWN", "b 1 READY"]);
    assert_eq!(load_time(&server, "b"), Duration::ZERO, "it is there");
    let series =
        server.series().into_iter().find(|series| series.model == Some(("b".to_owned(), 1))).unwrap();
    assert_eq!(
        series.metrics.snapshot().count(Outcome::Answered),
        2,
        "the first counts for the model that it loaded"
    );
    let known = resident(&server, "b");
    assert_eq!((known.state, report(&server).charged), ("READY", known.bytes));
    assert!(known.bytes >= SLICE && known.rate > 0.0);
    repository.write("c", 1, &adder(4.0));
    assert!(load_time(&server, "c") > Duration::ZERO, "it came after the start, and was waited for");
    assert_eq!(ask(&server, "c", 0.0).unwrap(), 4.0);
    assert_eq!(ask(&server, "missing", 0.0).unwrap_err().kind(), ErrorKind::ModelNotFound);
    assert_eq!(ask(&server, "../a", 0.0).unwrap_err().kind(), ErrorKind::InvalidRequest);
    assert_eq!(server.ready(), Ok(()));
}

#[test]
fn models_make_way_and_the_budget_is_never_exceeded() {
    let repository = Repository::new();
    let names: Vec<String> = (0..9).map(|number| format!("m{number}")).collect();
    for name in &names {
        echo(&repository, name, "");
    }
    let server = auto(&repository, 3 * SLICE);
    let (stop, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let report = report(&server);
                assert!(report.charged <= report.budget, "{} of {}", report.charged, report.budget);
                most.fetch_max(
                    report.models.iter().filter(|model| model.state == "READY").count(),
                    Ordering::Relaxed,
                );
            }
        });
        let asking: Vec<_> = (0..3)
            .map(|caller: usize| {
                let (server, names) = (&server, &names);
                scope.spawn(move || {
                    for turn in 0..40 {
                        let (name, value) = (&names[(turn * (caller + 1)) % names.len()], turn as f32);
                        assert_eq!(insist(server, name, value), value);
                    }
                })
            })
            .collect();
        for caller in asking {
            caller.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        watching.join().unwrap();
    });
    assert!(report(&server).evictions > 0);
    assert_eq!(most.load(Ordering::Relaxed), 3, "the budget was used");
}

#[test]
fn a_hundred_callers_of_one_model_are_one_load() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = auto(&repository, 1 << 30);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..100)
            .map(|number: u8| {
                let server = &server;
                scope.spawn(move || ask(server, "m", f32::from(number)).unwrap() == f32::from(number) + 1.0)
            })
            .collect();
        assert!(callers.into_iter().all(|caller| caller.join().unwrap()));
    });
    assert_eq!(server.loads(), 1);
}

#[test]
fn a_request_that_cannot_wait_is_told_when_to_come_again() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = auto(&repository, 1 << 30);
    let hasty = ask_with(&server, "m", 0.0, Some(Duration::from_millis(1))).unwrap_err();
    assert_eq!(hasty.kind(), ErrorKind::ModelNotReady);
    assert!(hasty.retry_after().unwrap() >= Duration::from_millis(1), "{hasty}");
    assert!(hasty.message().contains("being loaded"), "{hasty}");
    until("it is loaded all the same", || is_ready(&server, "m"));
    assert_eq!(ask(&server, "m", 1.0).unwrap(), 2.0);
}

#[test]
fn a_load_that_fails_is_not_tried_again_at_once_and_its_reason_is_told() {
    let repository = Repository::new();
    repository.write("m", 1, b"no model");
    let server = auto(&repository, 1 << 30);
    let first = ask(&server, "m", 0.0).unwrap_err();
    assert_eq!(first.kind(), ErrorKind::ModelNotReady);
    assert!(first.message().starts_with("model `m` cannot be loaded: "), "{first}");
    let loads = server.loads();
    let second = ask(&server, "m", 0.0).unwrap_err();
    assert!(second.retry_after().is_some(), "{second}");
    assert!(second.message().starts_with("model `m` cannot be loaded: "), "{second}");
    assert_eq!(server.loads(), loads, "it was left alone");
    let known = resident(&server, "m");
    assert_eq!((known.state, known.failures), ("ABSENT", 1));
    assert_eq!(report(&server).charged, 0);
    assert_eq!(server.ready(), Ok(()));
    repository.write("m", 1, &adder(7.0));
    server.load_model("m", LoadOverrides::default()).unwrap();
    assert_eq!(ask(&server, "m", 0.0).unwrap(), 7.0, "the operator does not wait");
}

#[test]
fn what_is_pinned_stays_and_who_finds_no_room_is_told_so() {
    let repository = Repository::new();
    echo(&repository, "a", "parameters { key: \"axon_pin\" value { string_value: \"true\" } }\n");
    echo(&repository, "b", "");
    let server = auto(&repository, SLICE);
    assert_eq!(ask(&server, "a", 1.0).unwrap(), 1.0);
    assert!(resident(&server, "a").pinned);
    let refused = ask(&server, "b", 1.0).unwrap_err();
    assert_eq!(
        (refused.kind(), refused.retry_after().is_some()),
        (ErrorKind::ModelNotReady, true),
        "{refused}"
    );
    server.pin_model("a", false).unwrap();
    assert_eq!(insist(&server, "b", 1.0), 1.0);
    until("b can be pinned", || server.pin_model("b", true).is_ok());
    assert!(ask(&server, "a", 1.0).is_err());
    let large = auto(&repository, SLICE - 1);
    let error = ask(&large, "a", 1.0).unwrap_err();
    assert!(error.message().contains("more than the memory budget"), "{error}");
}

#[test]
fn an_idle_model_leaves_after_its_time() {
    let repository = Repository::new();
    echo(&repository, "m", "parameters { key: \"axon_keep_alive_s\" value { string_value: \"0.05\" } }\n");
    let server = auto(&repository, 1 << 30);
    assert_eq!(ask(&server, "m", 1.0).unwrap(), 1.0);
    until("it has left", || !is_ready(&server, "m") && report(&server).charged == 0);
    let known = report(&server);
    assert_eq!((known.evictions, known.expired), (0, 1), "it made way for nobody");
    assert_eq!(ask(&server, "m", 2.0).unwrap(), 2.0, "and comes again");
}

#[test]
fn a_reload_is_charged_once_when_the_old_one_has_left() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = auto(&repository, 1 << 30);
    assert_eq!(ask(&server, "m", 0.0).unwrap(), 1.0);
    repository.write("m", 1, &adder(2.0));
    server.load_model("m", LoadOverrides::default()).unwrap();
    assert_eq!(ask(&server, "m", 0.0).unwrap(), 2.0);
    until("the old one has left", || report(&server).charged == resident(&server, "m").bytes);
    server.unload_model("m", false).unwrap();
    until("it has left", || report(&server).charged == 0);
    assert_eq!(index(&server), ["m 1 UNAVAILABLE unloaded"]);
    server.warm_model("m").unwrap();
    assert_eq!(index(&server), ["m 1 READY"]);
}

#[test]
fn callers_that_load_unload_and_ask_at_random_get_right_answers_or_honest_refusals() {
    let repository = Repository::new();
    for number in 0..4_u8 {
        repository.write(&format!("m{number}"), 1, &adder(f32::from(number)));
    }
    let server = auto(&repository, 1 << 30);
    std::thread::scope(|scope| {
        for caller in 0..8_usize {
            let server = &server;
            scope.spawn(move || {
                for turn in 0..30_usize {
                    let number = u8::try_from((caller * 7 + turn * 3) % 4).unwrap();
                    let name = format!("m{number}");
                    let outcome = match (caller + turn * 5) % 11 {
                        0 => server.unload_model(&name, false),
                        1 => server.load_model(&name, LoadOverrides::default()),
                        _ => ask(server, &name, 1.0).map(|sum| assert_eq!(sum, 1.0 + f32::from(number))),
                    };
                    if let Err(error) = outcome {
                        let kinds =
                            [ErrorKind::ModelNotReady, ErrorKind::ModelNotFound, ErrorKind::Overloaded];
                        assert!(kinds.contains(&error.kind()), "{error}");
                    }
                }
            });
        }
    });
    for number in 0..4_u8 {
        assert_eq!(insist(&server, &format!("m{number}"), 1.0), 1.0 + f32::from(number));
    }
    let whole: u64 =
        report(&server).models.iter().filter(|model| model.state == "READY").map(|model| model.bytes).sum();
    until("all that left has been given back", || report(&server).charged == whole);
}

#[test]
fn what_serves_has_the_priority_of_the_process() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = auto(&repository, 1 << 30);
    assert_eq!(ask(&server, "m", 0.0).unwrap(), 1.0);
    let nice = |stat: &str| stat.rsplit_once(')')?.1.split_whitespace().nth(16)?.parse::<i32>().ok();
    let own = nice(&std::fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let instances: Vec<i32> = tasks
        .filter_map(|task| {
            let comm = std::fs::read_to_string(task.path().join("comm")).ok()?;
            let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
            comm.trim_end().ends_with("-m").then(|| nice(&stat))?
        })
        .collect();
    assert!(!instances.is_empty(), "the instances are named after their model");
    assert!(instances.iter().all(|&nice| nice == own), "{instances:?}, the process has {own}");
}

const PIN: &str = "parameters { key: \"axon_pin\" value { string_value: \"true\" } }";

#[test]
fn what_a_configuration_wishes_counts_when_it_changes_and_leaves_alone_what_an_operator_asked() {
    let repository = Repository::new();
    echo(&repository, "a", "");
    let server = auto(&repository, 1 << 30);
    let reload = || server.load_model("a", LoadOverrides::default()).unwrap();
    assert_eq!(ask(&server, "a", 1.0).unwrap(), 1.0);
    server.pin_model("a", true).unwrap();
    reload();
    assert!(resident(&server, "a").pinned, "nothing was said against it");
    server.pin_model("a", false).unwrap();
    echo(&repository, "a", PIN);
    reload();
    assert!(resident(&server, "a").pinned);
    server.pin_model("a", false).unwrap();
    reload();
    assert!(!resident(&server, "a").pinned, "it says what it said before");
}

#[test]
fn a_budget_is_for_the_mode_that_keeps_it() {
    let repository = Repository::new();
    let lru = ServerConfig { eviction_policy: EvictionPolicy::Lru, ..ServerConfig::default() };
    let refused = InferenceServer::open_blocking(&repository.root, lru).err().unwrap();
    assert_eq!((refused.kind(), refused.field()), (ErrorKind::InvalidRequest, Some("eviction_policy")));
    let config = ServerConfig { memory_budget: Some(1 << 30), ..ServerConfig::default() };
    let refused = InferenceServer::open_blocking(&repository.root, config).err().unwrap();
    assert_eq!((refused.kind(), refused.field()), (ErrorKind::InvalidRequest, Some("memory_budget")));
}
