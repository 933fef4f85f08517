//! Aliases of models that run: flips, canaries, shadows, and the file that declares them.
#![allow(clippy::unwrap_used, reason = "a test fails here")]
#![allow(clippy::float_cmp, reason = "small whole numbers add exactly")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axon::alias::{AliasReport, Declared};
use axon::config::{ControlMode, PollInterval, ServerConfig};
use axon::repository::LoadOverrides;
use axon::request::{InferenceRequest, InferenceResponse};
use axon::server::InferenceServer;
use axon::{Error, ErrorKind};
use serde_json::{Value, json};

use common::{Repository, adder, explicit, row, until};

fn ask(server: &InferenceServer, name: &str) -> Result<InferenceResponse, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(server.infer(InferenceRequest::new(row(0.0)).with_model(name)))
}

/// What a model adds, and what it says it is.
fn answer(server: &InferenceServer, name: &str) -> Result<(f32, String, u64), Error> {
    let response = ask(server, name)?;
    Ok((response.outputs[0].tensor.as_slice::<f32>().unwrap()[0], response.model, response.version))
}

fn set(server: &InferenceServer, name: &str, alias: &Value) -> Result<(), Error> {
    server.set_alias(name, Declared::from_json(alias)?)
}

fn split(stay: u32, canary: u32) -> Value {
    let target = |version: u64, weight: u32| json!({ "model": "m", "version": version, "weight": weight });
    json!({ "targets": [target(1, stay), target(2, canary)] })
}

/// A model `m` whose version adds its number, and a model `n` of one version, which adds 10.
fn repository() -> Repository {
    let repository = Repository::new();
    for version in 1..=3_u8 {
        repository.write("m", version.into(), &adder(version.into()));
    }
    repository.write("n", 1, &adder(10.0));
    repository
}

#[test]
fn an_alias_answers_as_its_target_and_a_flip_is_refused_or_whole() {
    let repository = repository();
    let server = repository.serve(&["m"]);
    set(&server, "prod", &json!("m:2")).unwrap();
    assert_eq!(answer(&server, "prod").unwrap(), (2.0, "m".to_owned(), 2));
    assert_eq!(server.metadata("prod", None).unwrap().versions, [2]);
    assert_eq!(server.report("prod", None).unwrap().version, 2);
    set(&server, "prod", &json!("m")).unwrap();
    assert_eq!(answer(&server, "prod").unwrap(), (3.0, "m".to_owned(), 3));
    let check = |name: &str, alias: Value, kind, field: &str| {
        let error = set(&server, name, &alias).unwrap_err();
        assert_eq!((error.kind(), error.field()), (kind, Some(field)), "{error}");
        assert_eq!(answer(&server, "prod").unwrap().0, 3.0, "the old stays");
    };
    check("prod", json!("m:9"), ErrorKind::ModelNotFound, "targets[0]");
    check("prod", json!("x"), ErrorKind::ModelNotFound, "targets[0]");
    check("prod", json!("n"), ErrorKind::ModelNotFound, "targets[0]");
    check("prod", json!({ "targets": ["m"], "shadow": "n" }), ErrorKind::ModelNotFound, "shadow");
    // It is in the repository, loaded or not.
    for taken in ["m", "n"] {
        check(taken, json!("m:1"), ErrorKind::InvalidRequest, "alias");
    }
    server.load_model("n", LoadOverrides::default()).unwrap();
    set(&server, "prod", &json!("n")).unwrap();
    assert_eq!(answer(&server, "prod").unwrap(), (10.0, "n".to_owned(), 1));
    // A target may be unloaded; who asks is told by both names.
    server.unload_model("n", false).unwrap();
    let error = ask(&server, "prod").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ModelNotReady);
    assert!(
        error.message().starts_with("alias `prod` leads to `n`: model `n` version 1 is not ready"),
        "{error}"
    );
    server.remove_alias("prod").unwrap();
    assert_eq!(ask(&server, "prod").unwrap_err().kind(), ErrorKind::ModelNotFound);
}

#[test]
fn a_model_that_comes_under_an_aliass_name_is_not_loaded() {
    let repository = repository();
    let server = repository.serve(&["m"]);
    set(&server, "late", &json!("m:1")).unwrap();
    repository.write("late", 1, &adder(99.0));
    let error = server.load_model("late", LoadOverrides::default()).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidRequest, Some("model_name")));
    assert!(error.message().contains("`late` is an alias of `m:1`"), "{error}");
    assert_eq!(answer(&server, "late").unwrap().0, 1.0);
    server.remove_alias("late").unwrap();
    server.load_model("late", LoadOverrides::default()).unwrap();
    assert_eq!(answer(&server, "late").unwrap().0, 99.0);
}

#[test]
fn a_canary_gets_exactly_its_part() {
    let repository = repository();
    let server = repository.serve(&["m"]);
    set(&server, "prod", &split(95, 5)).unwrap();
    let answers: Vec<f32> = (0..200).map(|_| answer(&server, "prod").unwrap().0).collect();
    assert_eq!(answers.iter().filter(|&&added| added == 2.0).count(), 10);
    let counted: Vec<u64> =
        server.alias("prod").unwrap().targets.iter().map(|counts| counts.answered).collect();
    assert_eq!(counted, [190, 10]);
    let key = |key: &str| server.route("prod", None, Some(key.as_bytes())).unwrap().unwrap().to().clone();
    assert!((0..100).all(|_| key("a caller") == key("a caller")));
}

#[test]
fn a_flip_under_load_gives_no_error_and_no_mixed_answer() {
    const FLIPS: usize = 60;
    let repository = repository();
    let server = repository.serve(&["m", "n"]);
    set(&server, "prod", &json!("m:1")).unwrap();
    let (is_over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Acquire) {
                    let (added, model, version) = answer(&server, "prod").unwrap();
                    let said = if model == "n" { 10.0 } else { version as f32 };
                    assert_eq!(added, said, "{model} version {version} adds its own number");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for flip in 0..FLIPS {
            // What was flipped away from is unloaded at once: who was on the way there goes elsewhere.
            set(&server, "prod", &json!("m:2")).unwrap();
            server.unload_model("n", false).unwrap();
            server.load_model("n", LoadOverrides::default()).unwrap();
            set(&server, "prod", &json!("n")).unwrap();
            let seen = asked.load(Ordering::Relaxed);
            until("requests come in between", || asked.load(Ordering::Relaxed) > seen || flip == FLIPS);
        }
        is_over.store(true, Ordering::Release);
    });
    assert!(asked.into_inner() >= FLIPS);
}

fn shadow_of(server: &InferenceServer) -> axon::alias::ShadowCounts {
    server.alias("prod").unwrap().shadow.unwrap()
}

#[test]
fn copies_are_compared_with_what_was_answered() {
    let repository = repository();
    let server = repository.serve(&["m", "n"]);
    let shadow = |to: &str| json!({ "targets": ["m:1"], "shadow": to });
    set(&server, "prod", &shadow("m:3")).unwrap();
    until("some are compared", || {
        assert_eq!(answer(&server, "prod").unwrap(), (1.0, "m".to_owned(), 1));
        shadow_of(&server).different >= 5
    });
    let counts = shadow_of(&server);
    assert_eq!((counts.equal, counts.failed), (0, 0));
    let output = &counts.outputs["y"];
    // 1 was answered where the shadow says 3.
    assert_eq!((output.absolute, output.relative, &output.form), (2.0, 2.0 / 3.0, &None));
    assert!(counts.primary.count() >= 5 && counts.shadow.count() == counts.primary.count());
    // Another shadow is counted anew.
    repository.write("same", 1, &adder(1.0));
    server.load_model("same", LoadOverrides::default()).unwrap();
    set(&server, "prod", &shadow("same")).unwrap();
    until("some are equal", || {
        ask(&server, "prod").unwrap();
        shadow_of(&server).equal >= 5
    });
    assert_eq!(shadow_of(&server).different, 0);
    // A shadow that has gone hurts nobody.
    server.unload_model("same", false).unwrap();
    until("copies are dropped", || {
        ask(&server, "prod").unwrap();
        shadow_of(&server).dropped[2] >= 1
    });
    assert_eq!(shadow_of(&server).failed, 0);
}

#[test]
fn a_shadow_that_takes_something_else_fails_alone() {
    let repository = repository();
    repository.write("digits", 1, &common::digits());
    let server = repository.serve(&["m", "digits"]);
    set(&server, "prod", &json!({ "targets": ["m:1"], "shadow": "digits" })).unwrap();
    until("copies fail", || {
        assert_eq!(answer(&server, "prod").unwrap().0, 1.0);
        shadow_of(&server).failed >= 3
    });
    let counts = shadow_of(&server);
    assert_eq!((counts.equal, counts.different), (0, 0));
    assert!(counts.last_failure.unwrap().contains("inputs"), "it says what the shadow wants");
}

#[test]
fn a_share_is_copied_and_each_copy_has_one_end() {
    let repository = repository();
    let server = repository.serve(&["m"]);
    let alias = json!({ "targets": ["m:1", "m:2"], "shadow": { "model": "m", "version": 2, "share": 0.1 } });
    set(&server, "prod", &alias).unwrap();
    for _ in 0..400 {
        ask(&server, "prod").unwrap();
    }
    // Half of them went to the shadow itself, which is not compared with itself.
    until("all copies have ended", || {
        let counts = shadow_of(&server);
        counts.equal + counts.different + counts.failed + counts.dropped.iter().sum::<u64>() == 20
    });
}

fn names(server: &InferenceServer) -> Vec<String> {
    let told = |alias: AliasReport| {
        format!("{} {} {}", alias.name, alias.declared.targets()[0].to, alias.origin.name())
    };
    server.aliases().into_iter().map(told).collect()
}

#[test]
fn a_file_declares_aliases_as_a_whole_or_not_at_all() {
    let repository = repository();
    let file = repository.root.join("aliases.toml");
    std::fs::write(&file, "prod = \"m:1\"\nstable = \"m\"\n").unwrap();
    let server = repository.serve(&["m"]);
    assert_eq!(names(&server), ["prod m:1 file", "stable m file"]);
    assert_eq!(answer(&server, "prod").unwrap().0, 1.0);
    set(&server, "mine", &json!("m:3")).unwrap();
    for wrong in
        ["prod = \"m:2\"\nstable = 3\n", "prod = \"m:2\"\nnext = \"m:9\"\n", "prod = \"m:2\"\nm = \"m:1\"\n"]
    {
        std::fs::write(&file, wrong).unwrap();
        let error = server.reread_aliases().unwrap_err();
        assert!(error.message().starts_with("aliases: "), "{error}");
        assert_eq!(names(&server), ["mine m:3 request", "prod m:1 file", "stable m file"], "{wrong}");
    }
    std::fs::write(&file, "prod = \"m:2\"\n").unwrap();
    assert_eq!(server.reread_aliases().unwrap(), 1);
    assert_eq!(names(&server), ["mine m:3 request", "prod m:2 file"]);
    assert_eq!(answer(&server, "prod").unwrap().0, 2.0);
}

#[test]
fn a_file_that_is_wrong_at_start_stops_it() {
    let repository = repository();
    let file = repository.root.join("aliases.toml");
    let check = |text: &str, part: &str| {
        std::fs::write(&file, text).unwrap();
        let error = InferenceServer::announce(&repository.root, explicit(&["*"])).err().unwrap();
        assert_eq!(error.field(), Some("aliases"), "{error}");
        assert!(error.message().contains(part), "{error}");
    };
    check("prod = ", "line 1: expected TOML");
    check("m = \"n\"", "the alias `m` of `n` would hide the model `m`");
    check("prod = \"x\"", "prod.targets[0]: `x` is not in the repository");
    check("prod = \"m:7\"", "`m:7` is not in the repository, whose versions of it are `1`, `2`, `3`");
    check("a = \"b\"\nb = \"m\"", "a.targets[0]: `b` is not in the repository");
    std::fs::remove_file(&file).unwrap();
    let named = ServerConfig { aliases: Some(file), ..explicit(&[]) };
    let error = InferenceServer::announce(&repository.root, named).err().unwrap();
    assert!(error.message().starts_with("aliases: cannot be read"), "{error}");
}

#[test]
fn a_file_is_followed_with_the_repository() {
    let repository = repository();
    let config = ServerConfig {
        control: ControlMode::Poll,
        poll_interval: PollInterval(Duration::from_millis(200)),
        ..ServerConfig::default()
    };
    let server = InferenceServer::load_blocking(&repository.root, config).unwrap();
    assert!(names(&server).is_empty());
    let file = repository.root.join("aliases.toml");
    let write = |text: &str| {
        std::fs::write(repository.root.join("new"), text).unwrap();
        std::fs::rename(repository.root.join("new"), &file).unwrap();
    };
    write("prod = \"m:1\"\n");
    until("the file is read", || names(&server) == ["prod m:1 file"]);
    // A version and the alias that leads to it come together.
    repository.write("m", 4, &adder(4.0));
    write("prod = \"m:4\"\n");
    until("the new version answers", || names(&server) == ["prod m:4 file"]);
    assert_eq!(answer(&server, "prod").unwrap().0, 4.0);
    std::fs::remove_file(&file).unwrap();
    until("the aliases have gone", || names(&server).is_empty());
}

#[test]
fn in_mode_auto_an_alias_loads_what_it_leads_to() {
    let repository = repository();
    let config = ServerConfig { control: ControlMode::Auto, ..ServerConfig::default() };
    let server = InferenceServer::load_blocking(&repository.root, config).unwrap();
    set(&server, "prod", &json!("n")).unwrap();
    assert!(server.model("n", None).is_ok(), "it is loaded already");
    server.unload_model("n", false).unwrap();
    // And again by a request.
    assert_eq!(answer(&server, "prod").unwrap(), (10.0, "n".to_owned(), 1));
    let error = set(&server, "prod", &json!("x")).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::ModelNotFound, Some("targets[0]")));
    assert_eq!(answer(&server, "prod").unwrap().0, 10.0);
}
