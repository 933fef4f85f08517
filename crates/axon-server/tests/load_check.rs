//! The child that the binary starts: what it says of good, hostile and hungry models.
#![allow(clippy::unwrap_used, reason = "a test fails here")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use axon::load_check::Outcome;
use axon_server::load_check::SUBCOMMAND;

fn digits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/digits/digits.onnx")
}

fn child(arguments: &[OsString]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_axon-server")).arg(SUBCOMMAND).args(arguments).output().unwrap()
}

fn trial(model: &Path, bytes: u64) -> (Option<i32>, String) {
    let output = child(&[model.into(), "".into(), bytes.to_string().into(), "60".into()]);
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_good_model_survives() {
    assert_eq!(trial(&digits(), 4 << 30), (Some(Outcome::Survived as i32), "\n".to_owned()));
}

#[test]
fn a_model_that_is_refused_says_why() {
    let path = std::env::temp_dir().join(format!("axon-trial-{}.onnx", std::process::id()));
    std::fs::write(&path, "no model").unwrap();
    let (code, message) = trial(&path, 4 << 30);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(code, Some(Outcome::Refused as i32));
    assert!(message.starts_with("ONNX Runtime cannot load the model"), "{message}");
}

#[test]
fn a_child_without_memory_does_not_say_that_it_survived() {
    // Less than the library itself takes.
    let (code, _) = trial(&digits(), 16 << 20);
    assert_ne!(code, Some(Outcome::Survived as i32));
}

#[test]
fn a_child_that_is_asked_wrongly_says_so() {
    let wrong: [&[&str]; 3] = [&[], &["m.onnx"], &["m.onnx", "", "many", "60"]];
    for arguments in wrong {
        let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
        assert_eq!(child(&arguments).status.code(), Some(Outcome::Unable as i32), "{arguments:?}");
    }
}
