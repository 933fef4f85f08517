//! Models that are loaded when they are asked for, in a repository whose files change.
#![allow(clippy::unwrap_used, reason = "a test fails here")]
#![allow(clippy::float_cmp, reason = "small whole numbers add exactly")]

mod common;

use std::time::Duration;

use axon::config::{ControlMode, PollInterval, ServerConfig};
use axon::request::InferenceRequest;
use axon::server::InferenceServer;
use axon::{Error, ErrorKind};

use common::{Repository, adder, row, until};

/// A server that finds changes by what the system tells, in mode `auto`.
fn auto(repository: &Repository, budget: u64) -> InferenceServer {
    let config = ServerConfig {
        control: ControlMode::Auto,
        memory_budget: Some(budget),
        poll_interval: PollInterval(Duration::ZERO),
        ..ServerConfig::default()
    };
    InferenceServer::open_blocking(&repository.root, config).unwrap()
}

/// What a version of a model adds.
fn addend(server: &InferenceServer, name: &str, version: Option<u64>) -> Result<f32, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut request = InferenceRequest::new(row(0.0)).with_model(name);
    request.version = version;
    let response = runtime.block_on(server.infer(request))?;
    Ok(response.outputs[0].tensor.as_slice::<f32>().unwrap()[0])
}

fn answers(server: &InferenceServer, name: &str, expected: f32) -> bool {
    addend(server, name, None).is_ok_and(|answer| answer == expected)
}

fn ready(server: &InferenceServer) -> Vec<String> {
    let ready = server.index(true).into_iter();
    ready.map(|entry| format!("{} {}", entry.name, entry.version.unwrap_or_default())).collect()
}

#[test]
fn a_model_that_was_too_large_is_served_when_a_smaller_one_takes_its_place() {
    let repository = Repository::new();
    // What does not count for the graph counts for the file.
    let large = [adder(1.0), vec![0; 8 << 20]].concat();
    repository.write("m", 1, &large);
    let server = auto(&repository, 4 << 20);
    let error = addend(&server, "m", None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ModelNotReady);
    assert!(error.message().contains("more than the memory budget of 4194304"), "{error}");
    repository.write("m", 1, &adder(2.0));
    until("the smaller model answers", || answers(&server, "m", 2.0));
}

#[test]
fn what_changes_is_loaded_again_where_it_is_loaded_and_else_with_the_next_request() {
    let repository = Repository::new();
    repository.write("loaded", 1, &adder(1.0)).write("asleep", 1, &adder(10.0));
    let server = auto(&repository, 1 << 30);
    assert_eq!(addend(&server, "loaded", None).unwrap(), 1.0);
    repository.write("asleep", 1, &adder(20.0)).write("asleep", 2, &adder(30.0));
    repository.write("loaded", 2, &adder(2.0));
    until("the new version is served", || ready(&server) == ["loaded 1", "loaded 2"]);
    assert_eq!(addend(&server, "loaded", None).unwrap(), 2.0);
    assert_eq!(addend(&server, "asleep", None).unwrap(), 30.0);
    assert_eq!(addend(&server, "asleep", Some(1)).unwrap(), 20.0);
}

#[test]
fn a_broken_new_version_leaves_the_old_one_serving() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = auto(&repository, 1 << 30);
    assert_eq!(addend(&server, "m", None).unwrap(), 1.0);
    repository.write("m", 1, b"no model");
    let told = || server.index(false).into_iter().find_map(|entry| entry.reason);
    until("the index says so", || told().is_some_and(|reason| reason.contains("an earlier load goes on")));
    assert_eq!(addend(&server, "m", None).unwrap(), 1.0);
}

#[test]
fn a_model_that_is_taken_away_is_not_here_any_more() {
    let repository = Repository::new();
    repository.write("gone", 1, &adder(1.0)).write("asleep", 1, &adder(2.0)).write("stays", 1, &adder(3.0));
    let server = auto(&repository, 1 << 30);
    assert_eq!(addend(&server, "gone", None).unwrap(), 1.0);
    repository.remove("gone", 1);
    repository.remove("asleep", 1);
    let known = || server.residency().unwrap().models.into_iter().map(|model| model.name).collect::<Vec<_>>();
    until("it is known no more", || known() == ["stays"]);
    for name in ["gone", "asleep"] {
        let error = addend(&server, name, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ModelNotFound, "{error}");
        assert!(error.message().ends_with("is not here; expected one of `stays`"), "{error}");
    }
    assert_eq!(addend(&server, "stays", None).unwrap(), 3.0);
    repository.write("gone", 1, &adder(4.0));
    until("it has come back", || answers(&server, "gone", 4.0));
}

#[test]
fn a_version_that_is_not_there_loads_nothing() {
    let repository = Repository::new();
    repository.write("m", 2, &adder(2.0)).write("m", 5, &adder(5.0));
    let server = auto(&repository, 1 << 30);
    let error = addend(&server, "m", Some(7)).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::ModelNotFound, Some("model_version")));
    assert!(
        error.message().ends_with("version 7 of model `m` is not here; expected one of `2`, `5`"),
        "{error}"
    );
    assert_eq!(ready(&server), [""; 0]);
    assert_eq!(addend(&server, "m", Some(2)).unwrap(), 2.0);
}

#[test]
fn a_model_that_nobody_asked_for_is_told_from_one_that_is_not_here() {
    let repository = Repository::new();
    repository.write("a", 1, &adder(1.0)).write("b", 1, &adder(2.0));
    let server = auto(&repository, 1 << 30);
    let asleep = server.model("a", None).err().unwrap();
    assert_eq!(asleep.kind(), ErrorKind::ModelNotReady);
    assert!(
        asleep.message().contains("model `a` is not loaded; a request for an answer of it loads it"),
        "{asleep}"
    );
    let missing = server.model("c", None).err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::ModelNotFound);
    assert!(missing.message().ends_with("model `c` is not here; expected one of `a`, `b`"), "{missing}");
    assert_eq!(ready(&server), [""; 0], "looking loads nothing");
}
