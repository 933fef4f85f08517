//! The cache on a real model, with every file operation made to fail once.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

use rustix::io::Errno;
use synapse::{Shape, Tensor};

use super::*;
use crate::config::LoadCheckMode;
use crate::executor::Executor;
use crate::onnx::load_library;

/// A folder with the digits classifier, removed when dropped.
struct Folder {
    root: PathBuf,
    model: PathBuf,
}

impl Folder {
    fn new(test: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("axon-import-{test}-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).unwrap();
        let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/digits/digits.onnx");
        let model = root.join("digits.onnx");
        std::fs::copy(digits, &model).unwrap();
        load_library(None).unwrap();
        Self { root, model }
    }

    fn config(&self) -> ModelCacheConfig {
        let folder = Some(self.root.join("cache"));
        ModelCacheConfig { is_on: true, folder, least_bytes: 1, quiet: Duration::ZERO, ..Default::default() }
    }

    /// A cache that imports in this process, by `disk`.
    fn open(&self, disk: &Disk) -> Result<ModelCache> {
        Self::open_with(disk, &self.config())
    }

    fn open_with(disk: &Disk, config: &ModelCacheConfig) -> Result<ModelCache> {
        let mut child = Child::new(&LoadCheckConfig::default(), None);
        child.here = Some(disk.clone());
        ModelCache::open_on(disk, config, child)
    }

    fn import(&self, cache: &ModelCache) -> Result<Kept> {
        cache.import(&self.model, false, &mut |_| true)
    }

    /// What the model answers, and whether from what was imported.
    fn ask(&self, cache: &ModelCache) -> (Vec<Tensor>, bool) {
        let outline = ModelFile::read(&self.model).unwrap();
        let located = cache.locate(&self.model, &outline, Device::Cpu);
        let was_imported = located.is_imported();
        let mut session = located.load(OPTIONS).unwrap();
        (Executor::run(&mut session, &[image()]).unwrap(), was_imported)
    }

    /// Says something else in the model's documentation: it computes the same and is another.
    fn alter(&self, text: u8) {
        let mut bytes = std::fs::read(&self.model).unwrap();
        // **Source:** onnx.proto3, `ModelProto.doc_string`: field 6, a string of one byte.
        bytes.extend([0x32, 0x01, text]);
        std::fs::write(&self.model, bytes).unwrap();
    }

    fn entry(&self, key: &str) -> PathBuf {
        self.root.join("cache/entries").join(key)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

const OPTIONS: SessionOptions = SessionOptions { device: Device::Cpu, threads: 1, arena: false };

fn image() -> Tensor {
    let pixels: Vec<f32> = (0..64_u16).map(|pixel| f32::from(pixel) / 64.0).collect();
    Tensor::from_vec(&Shape::new(&[1, 64]).unwrap(), pixels).unwrap()
}

fn plain(folder: &Folder) -> Vec<Tensor> {
    Executor::run(&mut Session::load(&folder.model, OPTIONS).unwrap(), &[image()]).unwrap()
}

#[test]
fn an_imported_model_answers_bit_for_bit_what_it_did() {
    let folder = Folder::new("same");
    let cache = folder.open(&Disk::default()).unwrap();
    let expected = plain(&folder);
    assert_eq!(folder.ask(&cache), (expected.clone(), false));
    let kept = folder.import(&cache).unwrap();
    let profile = kept.profile.unwrap();
    assert_eq!((profile.left_alone, profile.model.as_str()), (None, "digits.onnx"));
    assert!(profile.measured.unwrap().compared >= 2);
    assert_eq!(folder.ask(&cache), (expected.clone(), true));
    assert_eq!(cache.verify(&kept.key), Ok(()));
    assert_eq!(folder.import(&cache).unwrap().key, kept.key, "once is enough");
    let mode = folder.root.join("cache").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // Another model at the same path is another model.
    folder.alter(b'x');
    assert_eq!(folder.ask(&cache), (expected, false));
    assert!(cache.remove(&kept.key).unwrap());
    assert!(!cache.remove(&kept.key).unwrap());
    assert!(cache.list().unwrap().is_empty());
}

#[test]
fn a_torn_or_changed_entry_is_never_loaded_and_is_built_again() {
    let folder = Folder::new("torn");
    let cache = folder.open(&Disk::default()).unwrap();
    let expected = plain(&folder);
    let kept = folder.import(&cache).unwrap();
    let names = ["graph.onnx", "weights.bin", "profile.json", "manifest"];
    for name in names {
        let path = folder.entry(&kept.key).join(name);
        let whole = std::fs::read(&path).unwrap();
        let cuts = [Vec::new(), whole[..whole.len() - 1].to_vec(), [whole.as_slice(), b"x"].concat()];
        // Spread over the file, one bit each.
        let flips = (0..16).map(|number| {
            let mut flipped = whole.clone();
            let at = number * (whole.len() - 1) / 15;
            flipped[at] ^= 1 << (number % 8);
            flipped
        });
        for broken in cuts.into_iter().chain(flips) {
            std::fs::write(&path, &broken).unwrap();
            assert!(cache.verify(&kept.key).is_err(), "{name}");
            assert_eq!(folder.ask(&cache), (expected.clone(), false), "{name}");
            assert!(!folder.entry(&kept.key).exists(), "{name}: a broken entry is removed");
            folder.import(&cache).unwrap();
            assert_eq!(folder.ask(&cache), (expected.clone(), true), "{name}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(folder.ask(&cache), (expected.clone(), false), "{name}");
        folder.import(&cache).unwrap();
    }
}

/// What a disk says that is full, broken, or not to be written.
const ERRORS: [Errno; 3] = [Errno::NOSPC, Errno::IO, Errno::ACCESS];

/// A disk whose operations fail where `fails` says so by their number, and whether one has.
fn faulty(fails: impl Fn(u32) -> Option<Errno> + Send + Sync + 'static) -> (Disk, Arc<AtomicBool>) {
    let (count, hit) = (AtomicU32::new(0), Arc::new(AtomicBool::new(false)));
    let was_hit = Arc::clone(&hit);
    let disk = Disk::failing(move |_| match fails(count.fetch_add(1, Ordering::Relaxed)) {
        None => Ok(()),
        Some(error) => {
            was_hit.store(true, Ordering::Relaxed);
            Err(error.into())
        }
    });
    (disk, hit)
}

fn error_of(at: u32) -> Errno {
    ERRORS[at as usize % ERRORS.len()]
}

#[test]
fn the_disk_may_fail_from_any_operation_on_and_the_model_is_served() {
    let expected = plain(&Folder::new("plain"));
    let mut failed = 0;
    for at in 0.. {
        let folder = Folder::new("fault");
        let (disk, hit) = faulty(move |number| (number >= at).then(|| error_of(at)));
        let imported = folder.open(&disk).and_then(|cache| {
            let imported = folder.import(&cache);
            assert_eq!(folder.ask(&cache).0, expected, "from operation {at} on");
            imported
        });
        // What the fault left behind is loaded only when it is whole, and does not stop the next import.
        let cache = folder.open(&Disk::default()).unwrap();
        assert_eq!(folder.ask(&cache).0, expected, "from operation {at} on");
        let kept = folder.import(&cache).unwrap();
        assert_eq!(cache.verify(&kept.key), Ok(()), "from operation {at} on");
        assert_eq!(folder.ask(&cache), (expected.clone(), true), "from operation {at} on");
        if !hit.load(Ordering::Relaxed) {
            assert!(imported.is_ok());
            break;
        }
        failed += u32::from(imported.is_err());
    }
    // Most of them make the import fail; those after it do not.
    assert!(failed > 40, "{failed} operations are suspiciously few");
}

#[test]
fn any_one_file_operation_may_fail_and_the_model_is_served() {
    let expected = plain(&Folder::new("plain"));
    for at in 0.. {
        let folder = Folder::new("once");
        let (disk, hit) = faulty(move |number| (number == at).then(|| error_of(at + 1)));
        if let Ok(cache) = folder.open(&disk) {
            let first = folder.import(&cache);
            assert_eq!(folder.ask(&cache).0, expected, "operation {at} failed");
            let kept = folder.import(&cache).or(first).unwrap();
            assert_eq!(folder.ask(&cache).0, expected, "operation {at} failed");
            // One whose bytes could not be read for once was removed.
            let problem = folder.open(&Disk::default()).unwrap().verify(&kept.key).err();
            assert!(
                problem.is_none() || !folder.entry(&kept.key).exists(),
                "operation {at} failed: {problem:?}"
            );
        }
        if !hit.load(Ordering::Relaxed) {
            assert!(at > 40, "{at} operations are suspiciously few");
            break;
        }
    }
}

#[test]
fn the_bound_is_held_and_what_was_used_longest_ago_goes() {
    let folder = Folder::new("bound");
    let unbounded = folder.open(&Disk::default()).unwrap();
    let first = folder.import(&unbounded).unwrap();
    let used = |key: &str, seconds: u64| {
        let manifest =
            std::fs::File::options().append(true).open(folder.entry(key).join("manifest")).unwrap();
        manifest.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    };
    let size = std::fs::metadata(&folder.model).unwrap().len();
    // Room for two and what a third is expected to take.
    let max_bytes = first.bytes * 2 + size * 2 + 1;
    let cache =
        Folder::open_with(&Disk::default(), &ModelCacheConfig { max_bytes, ..folder.config() }).unwrap();
    used(&first.key, 10);
    let mut keys = vec![first.key];
    for number in 0..4_u8 {
        folder.alter(b'a' + number);
        keys.push(folder.import(&cache).unwrap().key);
        used(&keys[keys.len() - 1], 1000 - u64::from(number));
        let kept = cache.list().unwrap();
        assert!(kept.iter().map(|kept| kept.bytes).sum::<u64>() <= max_bytes);
    }
    let left: Vec<String> = cache.list().unwrap().into_iter().map(|kept| kept.key).collect();
    assert!(left.contains(&keys[4]), "the one that was just imported");
    assert!(left.contains(&keys[1]), "that one was used last");
    assert!(!left.contains(&keys[0]));
    let tiny = ModelCacheConfig { max_bytes: 10, ..folder.config() };
    let error =
        Folder::open_with(&Disk::default(), &tiny).unwrap().import(&folder.model, true, &mut |_| true);
    assert!(error.unwrap_err().message().contains("more than the model cache may"));
}

#[test]
fn a_folder_that_others_can_write_is_not_used() {
    let folder = Folder::new("owner");
    folder.open(&Disk::default()).unwrap();
    let path = folder.root.join("cache");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(folder.open(&Disk::default()).is_err());
    let cache = ModelCache::open(&folder.config(), &LoadCheckConfig::default(), None);
    assert_eq!(folder.ask(&cache), (plain(&folder), false), "it is served without");
}

#[test]
fn a_model_that_cannot_be_compared_or_is_refused_is_left_alone() {
    let folder = Folder::new("alone");
    let cache = folder.open(&Disk::default()).unwrap();
    let small = ModelCacheConfig { least_bytes: u64::MAX, ..folder.config() };
    let left = folder.import(&Folder::open_with(&Disk::default(), &small).unwrap()).unwrap();
    assert!(left.profile.unwrap().left_alone.unwrap().starts_with("its tensors have"));
    assert!(cache.list().unwrap().is_empty());
    // A child that dies of it: it says nothing and is killed by a signal.
    let command = ["/bin/sh", "-c", "kill -SEGV $$"].map(Into::into).to_vec();
    let config = LoadCheckConfig { command, mode: LoadCheckMode::First, ..LoadCheckConfig::default() };
    let harmed = ModelCache::open_on(&Disk::default(), &folder.config(), Child::new(&config, None)).unwrap();
    let kept = folder.import(&harmed).unwrap();
    let reason = kept.profile.unwrap().left_alone.unwrap();
    assert!(reason.contains("SIGSEGV"), "{reason}");
    assert_eq!(folder.ask(&harmed), (plain(&folder), false));
    assert_eq!(cache.list().unwrap().len(), 1, "it is not tried again");
    // On request it is.
    let again = cache.import(&folder.model, true, &mut |_| true).unwrap();
    assert_eq!(again.profile.unwrap().left_alone, None);
}

#[test]
fn an_import_that_is_given_up_leaves_nothing() {
    let folder = Folder::new("stopped");
    let command = ["/bin/sh", "-c", "exec sleep 60"].map(Into::into).to_vec();
    let config = LoadCheckConfig { command, ..LoadCheckConfig::default() };
    let cache = ModelCache::open_on(&Disk::default(), &folder.config(), Child::new(&config, None)).unwrap();
    let error = cache.import(&folder.model, false, &mut |_| false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(cache.list().unwrap().is_empty());
}

#[test]
fn importers_at_once_make_one_entry() {
    let folder = Folder::new("many");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let cache = folder.open(&Disk::default()).unwrap();
            let folder = &folder;
            scope.spawn(move || {
                folder.import(&cache).unwrap();
                assert!(folder.ask(&cache).1);
            });
        }
    });
    let cache = folder.open(&Disk::default()).unwrap();
    assert_eq!(cache.list().unwrap().len(), 1);
    assert_eq!(std::fs::read_dir(folder.root.join("cache/building")).unwrap().count(), 0);
}
