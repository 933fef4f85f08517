//! A model is loaded for trial by a child first. What stands for the child here is a shell, so that each way to end can
//! be had; the real one is tested where its program is built, in `axon-server`.
#![allow(clippy::unwrap_used, reason = "a test fails here")]

mod common;

use std::path::Path;
use std::time::Duration;

use axon::config::{LoadCheckConfig, LoadCheckMode, ServerConfig};
use axon::server::InferenceServer;
use axon::{Error, ErrorKind};

use common::{Repository, adder};

fn check(mode: LoadCheckMode, script: &str, records: &Path) -> LoadCheckConfig {
    let command = ["sh", "-c", script, "sh"].map(Into::into).to_vec();
    let records = Some(records.to_owned());
    LoadCheckConfig { mode, command, time: Duration::from_secs(60), memory: None, records }
}

fn load(root: &Path, load_check: LoadCheckConfig) -> Result<InferenceServer, Error> {
    InferenceServer::load_blocking(
        &root.join("models"),
        ServerConfig { load_check, ..ServerConfig::default() },
    )
}

/// A repository with the model `m`, and room beside it.
fn repository(model: &[u8]) -> Repository {
    let repository = Repository::new();
    std::fs::create_dir(repository.root.join("models")).unwrap();
    std::fs::write(repository.root.join("models/m.onnx"), model).unwrap();
    repository
}

#[test]
fn a_child_that_dies_is_an_error_that_says_how() {
    let repository = repository(&adder(1.0));
    let refusal = |script: &str, time: Duration| {
        let mut check = check(LoadCheckMode::Always, script, &repository.root.join("records"));
        check.time = time;
        load(&repository.root, check).err().unwrap()
    };
    let patient = Duration::from_secs(60);
    for (script, time, expected) in [
        ("kill -SEGV $$", patient, "was killed by signal 11 (SIGSEGV)"),
        ("kill -ABRT $$", patient, "was killed by signal 6 (SIGABRT)"),
        ("kill -KILL $$", patient, "was killed by signal 9 (SIGKILL), as the system does"),
        ("kill -XCPU $$", patient, "took more than 60 s and was stopped"),
        ("exit 11", patient, "took more than 4294"),
        // Also one that has said all it will say.
        ("exec >&-; exec sleep 600", Duration::from_millis(50), "took more than 0 s and was stopped"),
        ("exec sleep 600", Duration::from_millis(50), "took more than 0 s and was stopped"),
    ] {
        let error = refusal(script, time);
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidModel, Some("load_check")), "{script}");
        assert!(error.message().contains(expected), "{script}: {error}");
    }
    let refused = refusal("echo 'node[0]: no such operator'; exit 10", patient);
    assert_eq!(refused.kind(), ErrorKind::InvalidModel);
    assert!(refused.message().contains("node[0]: no such operator"), "{refused}");
    assert!(!repository.root.join("records").exists(), "nothing has survived");
}

#[test]
fn a_trial_that_cannot_be_made_says_how_to_do_without() {
    let repository = repository(&adder(1.0));
    let mut check = check(LoadCheckMode::First, "exit 3", &repository.root.join("records"));
    let refused = load(&repository.root, check.clone()).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Internal);
    assert!(refused.message().contains("`--load-check off`"), "{refused}");
    check.command = vec!["/nowhere/at/all".into()];
    assert_eq!(load(&repository.root, check).err().unwrap().kind(), ErrorKind::Internal);
}

#[test]
fn what_has_survived_is_not_tried_again_until_a_byte_changes() {
    let repository = repository(&adder(1.0));
    let (records, count) = (repository.root.join("records"), repository.root.join("count"));
    let script = format!("echo \"$@\" >> {}", count.display());
    let trials = || std::fs::read_to_string(&count).unwrap().lines().count();
    let load = |mode| load(&repository.root, check(mode, &script, &records)).unwrap().close();
    load(LoadCheckMode::First);
    load(LoadCheckMode::First);
    assert_eq!(trials(), 1);
    load(LoadCheckMode::Always);
    assert_eq!(trials(), 2);
    load(LoadCheckMode::Off);
    assert_eq!(trials(), 2);
    std::fs::write(repository.root.join("models/m.onnx"), adder(2.0)).unwrap();
    load(LoadCheckMode::First);
    assert_eq!(trials(), 3);
    let note = std::fs::read_dir(&records).unwrap().next().unwrap().unwrap().path();
    std::fs::write(note, "torn").unwrap();
    load(LoadCheckMode::First);
    std::fs::write(repository.root.join("models/m.onnx"), adder(1.0)).unwrap();
    load(LoadCheckMode::First);
    assert_eq!(trials(), 4, "of two notes one was torn, and counts as none");
}

#[test]
fn what_is_refused_without_a_child_starts_none() {
    let repository = repository(b"broken");
    let check = check(LoadCheckMode::Always, "kill -SEGV $$", &repository.root.join("records"));
    let refused = load(&repository.root, check).err().unwrap();
    assert!(refused.message().contains("not an ONNX protobuf"), "{refused}");
}
