//! What is unloaded is given back. Alone in its process, so that all threads, descriptors and files in it are the test's.
#![allow(clippy::unwrap_used, reason = "a test fails here")]

mod common;

use std::collections::BTreeSet;

use axon::repository::LoadOverrides;
use axon::request::InferenceRequest;

use common::{Repository, adder, image, index, until};

/// The threads of this process by id, its descriptors by target, and its folders of files on their way.
fn held() -> (BTreeSet<String>, Vec<String>, Vec<String>) {
    let names = |path: &std::path::Path| {
        let entries = std::fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    let threads = names("/proc/self/task".as_ref()).into_iter().collect();
    let target = |name: &String| std::fs::read_link(format!("/proc/self/fd/{name}")).ok();
    let targets = names("/proc/self/fd".as_ref());
    let mut targets: Vec<_> =
        targets.iter().filter_map(target).map(|path| path.display().to_string()).collect();
    // The folder that is being read.
    targets.retain(|target| !target.ends_with("/fd"));
    targets.sort();
    let staged = format!("axon-load-{}-", std::process::id());
    let mut files = names(&std::env::temp_dir());
    files.retain(|name| name.starts_with(&staged));
    (threads, targets, files)
}

#[test]
fn twenty_loads_and_unloads_leave_no_thread_no_descriptor_and_no_file() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let repository = Repository::new();
    repository.write("digits", 1, &common::digits());
    let server = repository.serve(&[]);
    let infer = |model: &str, tensor| {
        runtime.block_on(server.infer(InferenceRequest::new(tensor).with_model(model))).unwrap()
    };
    let sent = |bytes: &[u8]| LoadOverrides {
        config: Some("{}".to_owned()),
        files: vec![("file:1/model.onnx".to_owned(), bytes.to_vec())],
    };
    let cycle = || {
        server.load_model("digits", LoadOverrides::default()).unwrap();
        server.load_model("sent", sent(&adder(1.0))).unwrap();
        server.load_model("sent", sent(b"broken")).unwrap_err();
        let busy = held();
        assert!(busy.2.is_empty(), "{:?}", busy.2);
        infer("digits", image(0));
        infer("sent", common::row(0.0));
        for model in ["digits", "sent"] {
            server.unload_model(model, false).unwrap();
        }
        until("both are given back", || {
            index(&server) == ["digits 1 UNAVAILABLE unloaded", "sent 1 UNAVAILABLE unloaded"]
        });
        busy
    };
    // The first loads ONNX Runtime, which stays.
    cycle();
    let before = held();
    for _ in 0..20 {
        let busy = cycle();
        assert!(busy.0.len() >= before.0.len() + 2, "instances are threads");
        assert_eq!(held(), before);
    }
    drop(server);
    let names = held().0;
    assert!(names.len() < before.0.len(), "the server's own threads end with it");
}
