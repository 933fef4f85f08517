//! Repository control where only the inside can say when: a load is held up by taking all slots.

use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use super::turns::{Change, PARALLEL_LOADS};
use super::*;
use crate::ErrorKind;
use crate::config::ControlMode;

/// A folder that holds the digits classifier, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let root = std::env::temp_dir().join(format!("axon-repository-{test}-{}", std::process::id()));
        std::fs::create_dir_all(root.join("digits/1")).unwrap();
        let folder = Self(root);
        folder.write(&std::fs::read(digits()).unwrap());
        folder
    }

    fn write(&self, bytes: &[u8]) {
        std::fs::write(self.0.join("digits/1/model.onnx"), bytes).unwrap();
    }

    fn open(&self) -> Arc<ModelRepository> {
        let config = ServerConfig { control: ControlMode::Explicit, ..ServerConfig::default() };
        Arc::new(ModelRepository::open(&self.0, config).unwrap().0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn digits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/digits/digits.onnx")
}

/// Takes every slot until the senders are dropped.
fn hold_up_loads(repository: &Arc<ModelRepository>) -> Vec<Sender<()>> {
    let hold_up = |slot: usize| {
        let (begun, has_begun) = channel();
        let (end, ends) = channel::<()>();
        let repository = Arc::clone(repository);
        std::thread::spawn(move || {
            repository.turns.take(&format!("slot{slot}"), Change::LoadFiles, || {
                begun.send(()).unwrap();
                let _ = ends.recv();
                Ok(())
            })
        });
        has_begun.recv().unwrap();
        end
    };
    (0..PARALLEL_LOADS).map(hold_up).collect()
}

fn load(repository: &Arc<ModelRepository>) -> JoinHandle<Result<()>> {
    let repository = Arc::clone(repository);
    std::thread::spawn(move || repository.load_model("digits", LoadOverrides::default()))
}

fn wait_for_waiting(repository: &ModelRepository, waiting: usize) {
    while repository.turns.waiting() != waiting {
        std::thread::yield_now();
    }
}

#[test]
fn fifty_loads_of_one_model_at_once_are_one_load() {
    let folder = Folder::new("fifty");
    let repository = folder.open();
    let held_up = hold_up_loads(&repository);
    let callers: Vec<_> = (0..50).map(|_| load(&repository)).collect();
    wait_for_waiting(&repository, 50);
    drop(held_up);
    for caller in callers {
        caller.join().unwrap().unwrap();
    }
    assert_eq!(repository.loads(), 1);
    assert!(repository.lease("digits", None).is_ok());
}

#[test]
fn all_who_asked_for_a_load_that_fails_learn_why() {
    let folder = Folder::new("fails");
    folder.write(b"broken");
    let repository = folder.open();
    let held_up = hold_up_loads(&repository);
    let callers: Vec<_> = (0..10).map(|_| load(&repository)).collect();
    wait_for_waiting(&repository, 10);
    drop(held_up);
    for caller in callers {
        assert_eq!(caller.join().unwrap().unwrap_err().kind(), ErrorKind::InvalidModel);
    }
    assert_eq!(repository.loads(), 1);
}

#[test]
fn who_has_changed_the_file_gets_a_load_that_reads_it() {
    let folder = Folder::new("changed");
    let repository = folder.open();
    let held_up = hold_up_loads(&repository);
    let first = load(&repository);
    wait_for_waiting(&repository, 1);
    folder.write(b"broken");
    let second = load(&repository);
    wait_for_waiting(&repository, 2);
    drop(held_up);
    // Which file the first one read is not said; the second has read the new one.
    let _ = first.join().unwrap();
    assert_eq!(second.join().unwrap().unwrap_err().kind(), ErrorKind::InvalidModel);
    assert_eq!(repository.loads(), 2);
}

#[test]
fn a_server_that_closes_publishes_nothing_more() {
    let folder = Folder::new("closes");
    let repository = folder.open();
    let found = scan(&folder.0).unwrap();
    // The load has begun when the server closes.
    let outcome = repository.turns.take("digits", Change::LoadFiles, || {
        repository.table.begin("digits", &found)?;
        assert_eq!(repository.unready(), [("digits".to_owned(), 1, true)]);
        repository.close(Duration::ZERO);
        let tried = table::Tried { version: 1, outcome: repository.load_version(&found[0]) };
        let failed = repository.table.publish("digits", vec![tried]);
        failed.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    });
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ShuttingDown);
    assert!(repository.lease("digits", None).is_err());
    assert!(repository.finish_loads(Duration::ZERO));
}

#[test]
fn a_model_that_was_changed_on_request_is_not_touched_by_the_start() {
    let folder = Folder::new("start");
    let repository = folder.open();
    let found = scan(&folder.0).unwrap();
    repository.load_model("digits", LoadOverrides::default()).unwrap();
    assert!(repository.load_announced("digits", &found).is_empty());
    assert_eq!(repository.loads(), 1);
    repository.unload_model("digits").unwrap();
    assert!(repository.load_announced("digits", &found).is_empty());
    assert_eq!(repository.loads(), 1);
}

#[test]
fn what_left_long_ago_says_nothing_of_what_has_come_since() {
    let folder = Folder::new("generation");
    let repository = folder.open();
    for generation in 1..=2 {
        repository.load_model("digits", LoadOverrides::default()).unwrap();
        let lease = repository.lease("digits", None).unwrap();
        repository.unload_model("digits").unwrap();
        let left = |generation| {
            let place = table::Place { name: "digits".to_owned(), version: 1, generation };
            repository.table.has_left(&place);
            repository.index(false)[0].state
        };
        assert_eq!(left(generation - 1), "UNLOADING", "the lease is held");
        assert_eq!(left(generation), "UNAVAILABLE");
        drop(lease);
    }
}
