//! Models are loaded and unloaded on request: what is answered meanwhile, and what the index says.
#![allow(clippy::unwrap_used, reason = "a test fails here")]
#![allow(clippy::float_cmp, reason = "small whole numbers add exactly")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axon::config::ServerConfig;
use axon::repository::LoadOverrides;
use axon::request::InferenceRequest;
use axon::server::{InferenceServer, NotReady};
use axon::{Error, ErrorKind, Tensor};

use common::{Repository, adder, digits, explicit, image, index, row, until};

fn load(server: &InferenceServer, name: &str) -> Result<(), Error> {
    server.load_model(name, LoadOverrides::default())
}

/// What a model adds, asked with zeros.
fn addend(server: &InferenceServer, name: &str, version: Option<u64>) -> Result<f32, Error> {
    let mut request = InferenceRequest::new(row(0.0)).with_model(name);
    request.version = version;
    let answer = ask(server, request)?;
    Ok(answer.as_slice::<f32>().unwrap()[0])
}

/// The first output.
fn ask(server: &InferenceServer, request: InferenceRequest) -> Result<Tensor, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut response = runtime.block_on(server.infer(request))?;
    Ok(response.outputs.remove(0).tensor)
}

#[test]
fn in_mode_none_models_are_neither_loaded_nor_unloaded_on_request() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = InferenceServer::load_blocking(&repository.root, ServerConfig::default()).unwrap();
    for refused in [load(&server, "m"), server.unload_model("m", false), load(&server, "../m")] {
        let refused = refused.unwrap_err();
        assert_eq!((refused.kind(), refused.field()), (ErrorKind::ModelNotReady, Some("model_control")));
        assert!(refused.message().contains("--model-control-mode explicit"), "{refused}");
    }
    assert_eq!(addend(&server, "m", None).unwrap(), 1.0);
}

#[test]
fn what_is_loaded_at_start_is_what_is_named() {
    let repository = Repository::new();
    repository.write("a", 1, &adder(1.0)).write("b", 1, &adder(2.0));
    let check = |names: &[&str], expected: [&str; 2]| {
        let server = repository.serve(names);
        assert_eq!(index(&server), expected);
        assert_eq!(server.ready(), Ok(()));
        assert_eq!(server.index(true).len(), expected.iter().filter(|line| line.contains("READY")).count());
    };
    check(&[], ["a - UNKNOWN", "b - UNKNOWN"]);
    check(&["b"], ["a - UNKNOWN", "b 1 READY"]);
    check(&["*"], ["a 1 READY", "b 1 READY"]);
    let refused = InferenceServer::announce(&repository.root, explicit(&["a", "c"])).err().unwrap();
    assert_eq!((refused.kind(), refused.field()), (ErrorKind::ModelNotFound, Some("load_models")));
    let config = ServerConfig { load_models: vec!["a".to_owned()], ..ServerConfig::default() };
    let refused = InferenceServer::announce(&repository.root, config).err().unwrap();
    assert_eq!((refused.kind(), refused.field()), (ErrorKind::InvalidRequest, Some("load_models")));
}

#[test]
fn a_model_is_loaded_unloaded_and_loaded_again() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = repository.serve(&[]);
    let kind = || addend(&server, "m", None).unwrap_err().kind();
    assert_eq!(kind(), ErrorKind::ModelNotFound, "never loaded");
    server.unload_model("m", false).unwrap();
    assert_eq!(index(&server), ["m - UNKNOWN"]);
    for _ in 0..3 {
        load(&server, "m").unwrap();
        assert_eq!(addend(&server, "m", None).unwrap(), 1.0);
        assert_eq!(index(&server), ["m 1 READY"]);
        server.unload_model("m", true).unwrap();
        assert_eq!(kind(), ErrorKind::ModelNotReady, "known");
        until("it is unloaded", || index(&server) == ["m 1 UNAVAILABLE unloaded"]);
        assert_eq!(kind(), ErrorKind::ModelNotReady, "known");
        assert_eq!(server.ready(), Ok(()), "what was unloaded does not count");
        server.unload_model("m", false).unwrap();
    }
    assert_eq!(server.loads(), 3);
    let error = addend(&server, "m", Some(1)).unwrap_err();
    assert!(error.message().ends_with("state UNAVAILABLE: unloaded"), "{error}");
}

#[test]
fn a_lone_file_is_loaded_by_its_name() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let path = repository.root.join("m/1/model.onnx");
    for (name, given) in [("model", None), ("other", Some("other".to_owned()))] {
        let config = ServerConfig { name: given, ..explicit(&[]) };
        let server = InferenceServer::load_blocking(&path, config).unwrap();
        assert_eq!(index(&server), [format!("{name} - UNKNOWN")]);
        load(&server, name).unwrap();
        assert_eq!(addend(&server, "", None).unwrap(), 1.0);
        assert_eq!(load(&server, "m").unwrap_err().kind(), ErrorKind::ModelNotFound);
    }
}

#[test]
fn a_name_that_could_leave_the_repository_is_refused() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = repository.serve(&[]);
    let absolute = repository.root.join("m").display().to_string();
    let files = || vec![("file:1/model.onnx".to_owned(), adder(1.0))];
    for name in [
        "..",
        ".",
        "",
        "a/b",
        "../m",
        "a/../m",
        "m/1",
        "a\\b",
        "%2e%2e",
        "..%2fm",
        "/etc/passwd",
        &absolute,
        "m\0",
        "a\0b",
        "\u{2024}\u{2024}",
        "\u{ff0e}\u{ff0e}",
        "m\u{2215}1",
        &"x".repeat(300),
        "-m",
        "--help",
        ".m",
        " m",
        "m ",
        "$(id)",
        ";id",
        "m\n",
        "*",
    ] {
        let with_files = LoadOverrides { config: Some("{}".to_owned()), files: files() };
        for refused in
            [load(&server, name), server.load_model(name, with_files), server.unload_model(name, false)]
        {
            let refused = refused.unwrap_err();
            assert_eq!(
                (refused.kind(), refused.field()),
                (ErrorKind::InvalidRequest, Some("model_name")),
                "{name:?}"
            );
        }
    }
    assert_eq!((index(&server), server.loads()), (vec!["m - UNKNOWN".to_owned()], 0));
}

#[test]
fn a_model_that_is_not_there_is_not_found() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = repository.serve(&[]);
    for refused in [load(&server, "n"), server.unload_model("n", false)] {
        let refused = refused.unwrap_err();
        assert_eq!((refused.kind(), refused.field()), (ErrorKind::ModelNotFound, Some("model_name")));
    }
    assert_eq!(index(&server), ["m - UNKNOWN"]);
}

#[test]
fn a_new_model_answers_once_it_is_loaded_and_the_old_one_whoever_holds_it() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = repository.serve(&["m"]);
    let lease = server.model("m", None).unwrap();
    repository.write("m", 1, &adder(2.0));
    assert_eq!(addend(&server, "m", None).unwrap(), 1.0, "nothing changes by itself");
    load(&server, "m").unwrap();
    assert_eq!(addend(&server, "m", None).unwrap(), 2.0);
    let (sender, receiver) = std::sync::mpsc::channel();
    let request = InferenceRequest::new(row(0.0));
    let ticket = lease.submit(request, move |answer| sender.send(answer).unwrap()).unwrap();
    drop(ticket);
    let answer = receiver.recv().unwrap().unwrap();
    assert_eq!(answer.outputs[0].tensor.as_slice::<f32>().unwrap(), [1.0; 2]);
    assert_eq!(index(&server), ["m 1 READY"]);
}

#[test]
fn a_broken_new_model_leaves_the_old_one_serving_and_the_index_says_so() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = repository.serve(&["m"]);
    repository.write("m", 1, b"not a model");
    let refused = load(&server, "m").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidModel);
    assert!(refused.message().starts_with("model `m` version 1: not an ONNX protobuf"), "{refused}");
    assert_eq!(addend(&server, "m", None).unwrap(), 1.0);
    let [line] = &index(&server)[..] else { panic!("one line") };
    assert!(line.starts_with("m 1 READY an earlier load goes on serving"), "{line}");
    assert!(line.contains("not an ONNX protobuf"), "{line}");
    assert!(!line.contains(repository.root.to_str().unwrap()), "{line}");
    assert_eq!(server.ready(), Ok(()));
    repository.write("m", 1, &adder(3.0));
    load(&server, "m").unwrap();
    assert_eq!(addend(&server, "m", None).unwrap(), 3.0);
    assert_eq!(index(&server), ["m 1 READY"]);
}

#[test]
fn a_model_that_is_gone_from_the_repository_goes_on_serving_until_it_is_unloaded() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = repository.serve(&["m"]);
    repository.remove("m", 1);
    assert_eq!(load(&server, "m").unwrap_err().kind(), ErrorKind::ModelNotFound);
    assert_eq!(addend(&server, "m", None).unwrap(), 1.0);
    server.unload_model("m", false).unwrap();
    assert_eq!(addend(&server, "m", None).unwrap_err().kind(), ErrorKind::ModelNotReady);
}

#[test]
fn a_load_takes_all_versions_that_are_there_or_changes_nothing() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0)).write("m", 2, &adder(2.0));
    let server = repository.serve(&["m"]);
    assert_eq!(addend(&server, "m", None).unwrap(), 2.0);

    repository.remove("m", 1);
    repository.write("m", 2, &adder(20.0)).write("m", 3, &adder(3.0)).write("m", 4, b"broken");
    let refused = load(&server, "m").unwrap_err();
    assert!(refused.message().starts_with("model `m` version 4: "), "{refused}");
    assert_eq!(addend(&server, "m", Some(1)).unwrap(), 1.0);
    assert_eq!(addend(&server, "m", None).unwrap(), 2.0);
    let lines = index(&server);
    assert_eq!(lines[..3], ["m 1 READY", "m 2 READY", "m 3 UNAVAILABLE unloaded"]);
    assert!(lines[3].starts_with("m 4 UNAVAILABLE not an ONNX protobuf"), "{lines:?}");
    assert_eq!(server.ready(), Ok(()), "what served serves");

    repository.write("m", 4, &adder(4.0));
    load(&server, "m").unwrap();
    assert_eq!(addend(&server, "m", None).unwrap(), 4.0);
    assert_eq!(addend(&server, "m", Some(2)).unwrap(), 20.0);
    assert_eq!(addend(&server, "m", Some(1)).unwrap_err().kind(), ErrorKind::ModelNotReady);
    until("version 1 is given back", || {
        index(&server) == ["m 1 UNAVAILABLE unloaded", "m 2 READY", "m 3 READY", "m 4 READY"]
    });
}

#[test]
fn a_first_load_serves_what_loads_and_the_server_is_not_ready_for_the_rest() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0)).write("m", 2, b"broken");
    let server = repository.serve(&[]);
    assert_eq!(load(&server, "m").unwrap_err().kind(), ErrorKind::InvalidModel);
    assert_eq!(addend(&server, "m", None).unwrap(), 1.0);
    assert_eq!(server.ready(), Err(NotReady::Failed(vec!["m version 2".to_owned()])));
    server.unload_model("m", false).unwrap();
    assert_eq!(server.ready(), Ok(()), "nothing is meant to be loaded any more");
}

#[test]
fn a_model_is_loaded_from_files_that_come_with_the_call() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = repository.serve(&["m"]);
    let overrides = |files: &[(&str, Vec<u8>)]| LoadOverrides {
        config: Some(r#"{"version_policy":{"all":{}}}"#.to_owned()),
        files: files.iter().map(|(key, bytes)| ((*key).to_owned(), bytes.clone())).collect(),
    };
    let files = [("file:5/model.onnx", adder(5.0)), ("file:7/model.onnx", adder(7.0))];
    server.load_model("m", overrides(&files)).unwrap();
    assert_eq!((addend(&server, "m", None).unwrap(), addend(&server, "m", Some(5)).unwrap()), (7.0, 5.0));
    until("version 1 is given back", || {
        index(&server) == ["m 1 UNAVAILABLE unloaded", "m 5 READY", "m 7 READY"]
    });
    server.load_model("only-sent", overrides(&files[..1])).unwrap();
    assert_eq!(addend(&server, "only-sent", None).unwrap(), 5.0);
    let entries: Vec<_> =
        std::fs::read_dir(&repository.root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(entries, ["m"], "nothing is written into the repository");

    let broken = server.load_model("m", overrides(&[("file:7/model.onnx", b"broken".to_vec())])).unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::InvalidModel);
    assert!(!broken.message().contains("axon-load"), "{broken}");
    let no_model = server.load_model("m", overrides(&[("file:7/weights", adder(1.0))])).unwrap_err();
    assert_eq!(no_model.kind(), ErrorKind::InvalidModel);
    assert_eq!(addend(&server, "m", None).unwrap(), 7.0);

    load(&server, "m").unwrap();
    assert_eq!(addend(&server, "m", None).unwrap(), 1.0, "a load without files takes the repository's again");
    let other = LoadOverrides { config: Some(r#"{"name":"other"}"#.to_owned()), files: Vec::new() };
    assert_eq!(server.load_model("m", other).unwrap_err().field(), Some("parameters.config"));
    let alone = LoadOverrides { config: None, ..overrides(&files) };
    assert_eq!(server.load_model("m", alone).unwrap_err().field(), Some("parameters.config"));
    let outside = server.load_model("m", overrides(&[("file:../x", adder(1.0))])).unwrap_err();
    assert_eq!(outside.field(), Some("parameters.file:../x"));
}

#[test]
fn what_has_been_taken_is_answered_after_an_unload() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = repository.serve(&["m"]);
    let (sender, receiver) = std::sync::mpsc::channel();
    let tickets: Vec<_> = (0..32_u8)
        .map(|number| {
            let sender = sender.clone();
            let request = InferenceRequest::new(row(f32::from(number))).with_model("m");
            server.submit(request, move |answer| sender.send((number, answer)).unwrap()).unwrap()
        })
        .collect();
    server.unload_model("m", false).unwrap();
    // The tickets are leases: what they stand for has not been told to run yet.
    assert_eq!(index(&server), ["m 1 UNLOADING"]);
    assert_eq!(addend(&server, "m", None).unwrap_err().kind(), ErrorKind::ModelNotReady);
    drop(tickets);
    for _ in 0..32 {
        let (number, answer) = receiver.recv().unwrap();
        let answer = answer.unwrap();
        assert_eq!(answer.outputs[0].tensor.as_slice::<f32>().unwrap(), [f32::from(number) + 1.0; 2]);
    }
    until("it is unloaded", || index(&server) == ["m 1 UNAVAILABLE unloaded"]);
}

#[test]
fn what_an_unloaded_model_has_taken_is_answered_when_the_server_closes() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = repository.serve(&["m"]);
    let (sender, receiver) = std::sync::mpsc::channel();
    let request = InferenceRequest::new(row(0.0));
    let ticket = server.submit(request, move |answer| sender.send(answer).unwrap()).unwrap();
    server.unload_model("m", false).unwrap();
    server.close();
    let answer = receiver.try_recv().unwrap().unwrap();
    assert_eq!(answer.outputs[0].tensor.as_slice::<f32>().unwrap(), [1.0; 2]);
    drop(ticket);
    until("it is unloaded", || index(&server) == ["m 1 UNAVAILABLE unloaded"]);
}

#[test]
fn a_model_is_loaded_again_while_it_is_still_unloading() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = repository.serve(&["m"]);
    let lease = server.model("m", None).unwrap();
    server.unload_model("m", false).unwrap();
    assert_eq!(index(&server), ["m 1 UNLOADING"]);
    load(&server, "m").unwrap();
    assert_eq!(index(&server), ["m 1 READY"]);
    let gone = Arc::downgrade(&lease);
    drop(lease);
    assert!(gone.upgrade().is_none(), "nobody else holds the first load");
    server.unload_model("m", false).unwrap();
    until("it is unloaded", || index(&server) == ["m 1 UNAVAILABLE unloaded"]);
}

#[test]
fn requests_are_answered_bit_for_bit_through_twenty_reloads() {
    let repository = Repository::new();
    repository.write("digits", 1, &digits());
    let server = repository.serve(&["digits"]);
    let request = |number| InferenceRequest::new(image(number)).with_model("digits");
    let expected: Vec<Tensor> = (0..64).map(|number| ask(&server, request(number)).unwrap()).collect();
    let (expected, reloaded) = (Arc::new(expected), Arc::new(AtomicBool::new(false)));
    let answers = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let (server, expected) = (server.clone(), Arc::clone(&expected));
            let (reloaded, answers) = (Arc::clone(&reloaded), Arc::clone(&answers));
            std::thread::spawn(move || {
                let mut number = caller;
                while !reloaded.load(Ordering::Acquire) {
                    assert_eq!(ask(&server, request(number)).unwrap(), expected[number]);
                    answers.fetch_add(1, Ordering::Relaxed);
                    number = (number + 1) % expected.len();
                }
            })
        })
        .collect();
    for _ in 0..20 {
        let before = answers.load(Ordering::Relaxed);
        load(&server, "digits").unwrap();
        until("requests go on", || answers.load(Ordering::Relaxed) > before);
    }
    reloaded.store(true, Ordering::Release);
    for caller in callers {
        caller.join().unwrap();
    }
    assert_eq!(server.loads(), 21);
    assert_eq!(index(&server), ["digits 1 READY"]);
}

#[test]
fn loads_and_unloads_in_any_order_end_as_the_index_says() {
    let seed = std::process::id();
    println!("seed {seed}");
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = repository.serve(&[]);
    let callers: Vec<_> = (1..=4)
        .map(|caller| {
            let server = server.clone();
            let mut random = seed.wrapping_mul(2_654_435_761).wrapping_add(caller) | 1;
            std::thread::spawn(move || {
                for _ in 0..25 {
                    random ^= random << 13;
                    random ^= random >> 17;
                    random ^= random << 5;
                    match random % 3 {
                        0 => load(&server, "m").unwrap(),
                        1 => server.unload_model("m", false).unwrap(),
                        _ => match addend(&server, "m", None) {
                            Ok(added) => assert_eq!(added, 1.0),
                            Err(error) => assert!(
                                matches!(error.kind(), ErrorKind::ModelNotFound | ErrorKind::ModelNotReady),
                                "{error}"
                            ),
                        },
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
    until("nothing is on its way", || !index(&server)[0].contains("UNLOADING"));
    let answer = addend(&server, "m", None);
    match index(&server)[0].as_str() {
        "m 1 READY" => assert_eq!(answer.unwrap(), 1.0),
        "m 1 UNAVAILABLE unloaded" => assert_eq!(answer.unwrap_err().kind(), ErrorKind::ModelNotReady),
        "m - UNKNOWN" => assert_eq!(answer.unwrap_err().kind(), ErrorKind::ModelNotFound),
        other => panic!("{other}"),
    }
    assert!(server.finish_loads(std::time::Duration::ZERO));
}

#[test]
fn a_closed_server_loads_nothing() {
    let repository = Repository::new();
    repository.write("m", 1, &adder(1.0));
    let server = repository.serve(&["m"]);
    server.close();
    for refused in [load(&server, "m"), server.unload_model("m", false)] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ShuttingDown);
    }
    assert!(server.finish_loads(std::time::Duration::ZERO));
}
