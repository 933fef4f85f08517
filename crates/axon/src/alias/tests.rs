//! The table as its users see it: what may be declared beside what, and that a change is seen whole.

use std::sync::atomic::AtomicUsize;

use super::*;

fn no_models() -> Finder {
    Box::new(|_| None)
}

fn declare(aliases: &Aliases, name: &str, declared: Declared) -> Result<()> {
    let mut change = aliases.change();
    change.set(name, declared, Origin::Request)?;
    change.publish(no_models)
}

fn split(targets: &[(&str, u64, u32)]) -> Declared {
    let target = |&(model, version, weight): &(&str, u64, u32)| Target {
        to: Destination { model: model.to_owned(), version: Some(version) },
        weight,
    };
    Declared::new(targets.iter().map(target).collect(), None).unwrap()
}

#[test]
fn what_may_not_stand_beside_what() {
    let aliases = Aliases::default();
    declare(&aliases, "prod", split(&[("digits", 3, 1)])).unwrap();
    let check = |name: &str, declared: Declared, field: &str, part: &str| {
        let error = declare(&aliases, name, declared).unwrap_err();
        assert_eq!(error.field(), Some(field), "{error}");
        assert!(error.message().contains(part), "{error}");
    };
    check("../a", split(&[("m", 1, 1)]), "alias", "got `../a`");
    check("next", split(&[("m", 1, 1), ("prod", 1, 1)]), "targets[1]", "the alias `prod`");
    check("self", split(&[("self", 1, 1)]), "targets[0]", "the alias `self`");
    check("digits", split(&[("m", 1, 1)]), "alias", "the alias `prod` leads to `digits`");
    let shadowed = Declared::from_json(&serde_json::json!({ "targets": ["m"], "shadow": "prod" })).unwrap();
    check("next", shadowed, "shadow", "the alias `prod`");
    assert_eq!(aliases.report().len(), 1, "nothing of it holds");
    assert_eq!(aliases.leads("prod").as_deref(), Some("`digits:3`"));
    assert_eq!(aliases.leads("digits"), None);
}

#[test]
fn a_version_beside_an_alias_is_refused() {
    let aliases = Aliases::default();
    declare(&aliases, "prod", split(&[("digits", 3, 1)])).unwrap();
    let error = aliases.route("prod", Some(3), None).err().unwrap();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidRequest, Some("model_version")));
    assert!(error.message().contains("`prod` is an alias of `digits:3`"), "{error}");
    assert!(aliases.route("digits", Some(3), None).unwrap().is_none());
}

#[test]
fn there_are_no_more_aliases_than_may_be() {
    let aliases = Aliases::default();
    let mut change = aliases.change();
    for number in 0..MAX_ALIASES {
        change.set(&format!("a{number}"), split(&[("m", 1, 1)]), Origin::File).unwrap();
    }
    let error = change.set("one-more", split(&[("m", 1, 1)]), Origin::File).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    change.set("a7", split(&[("m", 2, 1)]), Origin::File).unwrap();
    change.publish(no_models).unwrap();
    assert_eq!(aliases.route("a7", None, None).unwrap().unwrap().to().version, Some(2));
}

#[test]
fn a_file_takes_back_what_it_declared_and_nothing_else() {
    let aliases = Aliases::default();
    declare(&aliases, "by-request", split(&[("m", 1, 1)])).unwrap();
    let read = |names: &[&str]| {
        let mut change = aliases.change();
        change.retain_of_file(|name| names.contains(&name));
        for name in names {
            change.set(name, split(&[("m", 1, 1)]), Origin::File).unwrap();
        }
        change.publish(no_models).unwrap();
        aliases.report().into_iter().map(|alias| alias.name).collect::<Vec<_>>()
    };
    assert_eq!(read(&["a", "b"]), ["a", "b", "by-request"]);
    assert_eq!(read(&["b"]), ["b", "by-request"]);
    assert_eq!(read(&[]), ["by-request"]);
    let mut change = aliases.change();
    change.remove("by-request").unwrap();
    assert_eq!(change.remove("by-request").unwrap_err().kind(), ErrorKind::ModelNotFound);
    change.publish(no_models).unwrap();
    assert!(aliases.route("by-request", None, None).unwrap().is_none());
}

#[test]
fn a_change_of_several_aliases_is_seen_whole() {
    const FLIPS: u64 = 2_000;
    let aliases = Aliases::default();
    let both = |version: u64| {
        let mut change = aliases.change();
        for name in ["a", "b"] {
            change.set(name, split(&[("m", version, 1), ("n", version, 1)]), Origin::File).unwrap();
        }
        change.publish(no_models).unwrap();
    };
    both(1);
    let (is_over, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut before = 0;
                while !is_over.load(Ordering::Acquire) {
                    // Each alias's two targets, and the two aliases, are always of one change.
                    let now = aliases.now();
                    let versions: Vec<_> = now
                        .values()
                        .flat_map(|alias| alias.declared.targets())
                        .map(|target| target.to.version)
                        .collect();
                    assert_eq!(versions.len(), 4);
                    assert!(versions.iter().all(|version| *version == versions[0]), "{versions:?}");
                    let routed = aliases.route("b", None, None).unwrap().unwrap();
                    let version = routed.to().version.unwrap();
                    assert!(version >= before, "a flip is not taken back: {version} after {before}");
                    before = version;
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for version in 2..FLIPS {
            both(version);
        }
        while looks.load(Ordering::Relaxed) < 100 {
            std::thread::yield_now();
        }
        is_over.store(true, Ordering::Release);
    });
    let last = aliases.route("a", None, None).unwrap().unwrap();
    assert_eq!(last.to().version, Some(FLIPS - 1));
}

#[test]
fn counters_go_on_for_what_stays() {
    let aliases = Aliases::default();
    declare(&aliases, "prod", split(&[("m", 1, 9), ("m", 2, 1)])).unwrap();
    let ask = |times: usize| {
        for _ in 0..times {
            let routed = aliases.route("prod", None, None).unwrap().unwrap();
            let tensor = synapse::Tensor::from_vec(&[1], vec![0.0_f32]).unwrap();
            // Dropped without an answer, which counts too.
            drop(routed.watch(&aliases, &InferenceRequest::new(tensor)));
        }
    };
    let counted = || {
        let report = aliases.report_of("prod").unwrap();
        report.targets.iter().map(|counts| counts.unanswered).collect::<Vec<_>>()
    };
    ask(20);
    assert_eq!(counted(), [18, 2]);
    declare(&aliases, "prod", split(&[("m", 3, 1), ("m", 2, 1)])).unwrap();
    ask(10);
    assert_eq!(counted(), [5, 2 + 5]);
}
