//! At which priority models are loaded and served. Alone in its process, so that all threads in it are the test's.
#![allow(clippy::unwrap_used, reason = "a test fails here")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use axon::repository::LoadOverrides;

use common::{Repository, digits, until};

/// The niceness of each thread whose name `is` so.
fn niceness(is: impl Fn(&str) -> bool) -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let nice = |task: std::fs::DirEntry| {
        // A thread may end while it is looked at.
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        is(name.trim_end()).then(|| nice_of(&stat))
    };
    tasks.filter_map(nice).collect()
}

/// **Source:** proc(5), field 19 of `stat`; the name before it may hold anything.
fn nice_of(stat: &str) -> i32 {
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap()
}

/// Ends the loads when it is dropped, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_load_on_request_gives_way_to_what_serves() {
    let repository = Repository::new();
    repository.write("digits", 1, &digits());
    let server = repository.serve(&["digits"]);
    let own = nice_of(&std::fs::read_to_string("/proc/self/stat").unwrap());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                server.load_model("digits", LoadOverrides::default()).unwrap();
            }
        });
        let _over = Over(&is_over);
        until("a load is seen to give way", || {
            niceness(|name| name == "axon-load").iter().any(|&nice| nice == 10.max(own))
        });
    });
    let instances = niceness(|name| name.ends_with("-digits"));
    assert!(!instances.is_empty(), "the instances are named after their model");
    assert!(instances.iter().all(|&nice| nice == own), "{instances:?}, the process has {own}");
}
