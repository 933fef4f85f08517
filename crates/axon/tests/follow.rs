//! Models follow the repository: what changes there is loaded, loaded again or unloaded.
#![allow(clippy::unwrap_used, reason = "a test fails here")]
#![allow(clippy::float_cmp, reason = "small whole numbers add exactly")]

mod common;

use std::time::Duration;

use axon::config::{ControlMode, PollInterval, ServerConfig};
use axon::repository::LoadOverrides;
use axon::request::InferenceRequest;
use axon::server::InferenceServer;
use axon::{Error, ErrorKind};

use common::{Repository, adder, index, row, until};

fn follow(repository: &Repository) -> InferenceServer {
    // No timer: what is found is what the system has told of.
    let poll_interval = PollInterval(Duration::ZERO);
    let config = ServerConfig { control: ControlMode::Poll, poll_interval, ..ServerConfig::default() };
    InferenceServer::load_blocking(&repository.root, config).unwrap()
}

/// What a model adds, asked with zeros.
fn addend(server: &InferenceServer, name: &str) -> Result<f32, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let request = InferenceRequest::new(row(0.0)).with_model(name);
    let response = runtime.block_on(server.infer(request))?;
    Ok(response.outputs[0].tensor.as_slice::<f32>().unwrap()[0])
}

fn answers(server: &InferenceServer, name: &str, expected: f32) -> bool {
    addend(server, name).is_ok_and(|answer| answer == expected)
}

#[test]
fn a_model_that_appears_is_loaded_and_one_that_goes_is_unloaded() {
    let repository = Repository::new();
    repository.write("a", 1, &adder(1.0));
    let server = follow(&repository);
    assert_eq!(addend(&server, "a").unwrap(), 1.0);
    repository.write("b", 1, &adder(2.0));
    until("the new model answers", || answers(&server, "b", 2.0));
    std::fs::write(repository.root.join("lone.onnx"), adder(3.0)).unwrap();
    until("the new file answers", || answers(&server, "lone", 3.0));
    repository.remove("a", 1);
    until("the old model is unloaded", || index(&server).contains(&"a 1 UNAVAILABLE unloaded".to_owned()));
    assert_eq!(addend(&server, "a").unwrap_err().kind(), ErrorKind::ModelNotReady);
    assert_eq!(addend(&server, "b").unwrap(), 2.0);
    assert_eq!(server.ready(), Ok(()));
}

#[test]
fn f_09_a_new_version_takes_over_without_a_request_lost() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = follow(&repository);
    let asking = {
        let server = server.clone();
        std::thread::spawn(move || {
            let mut answers = Vec::new();
            while answers.last() != Some(&3.0) {
                let answer = addend(&server, "m").unwrap();
                if answers.last() != Some(&answer) {
                    answers.push(answer);
                }
            }
            answers
        })
    };
    repository.write("m", 2, &adder(2.0));
    until("the new version answers", || answers(&server, "m", 2.0));
    // The same version with other bytes.
    repository.write("m", 2, &adder(3.0));
    until("the changed version answers", || answers(&server, "m", 3.0));
    assert_eq!(asking.join().unwrap(), [1.0, 2.0, 3.0], "each took over once, none came back");
}

#[test]
fn f_10_a_broken_version_leaves_the_old_one_serving_until_it_is_mended() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = follow(&repository);
    repository.write("m", 1, b"broken");
    until("the index says what failed", || {
        index(&server).iter().any(|line| line.starts_with("m 1 READY an earlier load goes on serving"))
    });
    assert_eq!(addend(&server, "m").unwrap(), 1.0);
    repository.write("m", 1, &adder(4.0));
    until("the mended version answers", || answers(&server, "m", 4.0));
    assert_eq!(index(&server), ["m 1 READY"]);
}

#[test]
fn a_file_that_is_half_written_is_never_served() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = follow(&repository);
    let path = repository.root.join("m/1/model.onnx");
    let (whole, loads) = (adder(5.0), server.loads());
    // In place, as `cp` writes, and left off for long enough to look finished.
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    until("the half is tried", || server.loads() > loads);
    assert_eq!(addend(&server, "m").unwrap(), 1.0);
    std::fs::write(&path, &whole).unwrap();
    until("the whole answers", || answers(&server, "m", 5.0));
}

#[test]
fn in_mode_poll_models_are_not_loaded_on_request() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = follow(&repository);
    let refused = server.load_model("m", LoadOverrides::default()).unwrap_err();
    assert_eq!((refused.kind(), refused.field()), (ErrorKind::ModelNotReady, Some("model_control")));
}

#[test]
fn a_server_that_is_closed_follows_no_more() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = follow(&repository);
    server.close();
    let watching = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.map(|task| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default());
        names.filter(|name| name.trim() == "axon-poll").count()
    };
    if cfg!(target_os = "linux") {
        // Other tests of this file have theirs, and end.
        until("no thread looks", || watching() == 0);
    }
}
