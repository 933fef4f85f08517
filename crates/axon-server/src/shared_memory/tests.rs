//! B-83 to B-91: what clients register, with real objects.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, FileType, mknodat};

use super::*;

/// The directory of all objects. **Source:** `shm_overview(7)`.
const DIRECTORY: &str = "/dev/shm";

/// An object of a client, which is removed with this value.
pub(crate) struct Object {
    pub key: String,
    pub file: File,
}

impl Object {
    /// A new object of `size` zero bytes.
    pub fn new(size: u64) -> Self {
        Self::with_mode(size, Mode::RUSR | Mode::WUSR)
    }

    fn with_mode(size: u64, mode: Mode) -> Self {
        let key = new_key();
        let flags = shm::OFlags::CREATE | shm::OFlags::EXCL | shm::OFlags::RDWR;
        let file = File::from(shm::open(&key, flags, mode).unwrap());
        file.set_len(size).unwrap();
        Self { key, file }
    }

    /// A new object of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let object = Self::new(bytes.len() as u64);
        object.file.write_all_at(bytes, 0).unwrap();
        object
    }

    /// All its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(path(&self.key)).unwrap()
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let _ = shm::unlink(&self.key);
    }
}

/// A key that no other test and no other process uses.
fn new_key() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("/axon-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn path(key: &str) -> String {
    format!("{DIRECTORY}{key}")
}

/// Registers with a new registry, which must refuse.
fn check(region: (&str, &str, u64, u64), kind: ErrorKind, field: &str, text: &str) {
    let (name, key, offset, byte_size) = region;
    let shared_memory = SharedMemory::new(true);
    let error = shared_memory.register_system(name, key, offset, byte_size).unwrap_err();
    assert_refusal(&error, kind, field, text);
    assert!(!error.message().contains(DIRECTORY), "{error}");
    assert_eq!(shared_memory.system_status(None).unwrap(), []);
}

fn assert_refusal(error: &Error, kind: ErrorKind, field: &str, text: &str) {
    assert_eq!((error.kind(), error.field()), (kind, Some(field)), "{error}");
    let message = error.message();
    assert!(message.contains(text), "{message:?} does not say {text:?}");
    assert!(message.contains("expected") && message.contains("got"), "{message:?}");
    assert!(!message.contains(char::is_control), "{message:?}");
}

#[test]
fn b83_keys_name_an_object_and_lead_nowhere_else() {
    let check = |key: &str, text: &str| {
        check(("r", key, 0, 8), ErrorKind::InvalidRequest, "key", text);
    };
    check("", "no `/` in front");
    check("/", "no name behind it");
    check("///", "another `/`");
    check("../x", "no `/` in front");
    check("/../x", "another `/`");
    check("/..", "no name behind it");
    check("/.", "no name behind it");
    check("a/b", "no `/` in front");
    check("/a/b", "another `/`");
    check(&format!("/{}", "x".repeat(299)), "at most 255 bytes, got 300");
    check(&format!("/{}", "x".repeat(255)), "at most 255 bytes, got 256");
    check(&format!("/{}", "x".repeat(254)), "one without an object");
    check("/a\0b", "a control character");
    check("/a\nb", "a control character");
    check("/triton_python_backend_shm_region_1", "a reserved name");
    check(&new_key(), "one without an object");
}

#[test]
fn b84_names_are_short_printable_and_free() {
    let object = Object::new(8);
    let long = "x".repeat(300);
    for (name, text) in
        [("", "1 to 256 bytes, got 0"), (&long, "1 to 256 bytes, got 300"), ("a\0", "printable")]
    {
        check((name, &object.key, 0, 8), ErrorKind::InvalidRequest, "name", text);
    }
    let shared_memory = SharedMemory::new(true);
    for name in ["r", "é 1/2", &long[..256]] {
        shared_memory.register_system(name, &object.key, 0, 8).unwrap();
        let error = shared_memory.register_system(name, &object.key, 0, 4).unwrap_err();
        assert_refusal(&error, ErrorKind::Conflict, "name", "which is registered");
        assert_eq!(shared_memory.system_status(Some(name)).unwrap()[0].byte_size, 8);
    }
}

#[test]
fn b85_b86_a_region_lies_within_its_object() {
    let object = Object::new(64);
    let empty = Object::new(0);
    check(("r", &empty.key, 0, 1), ErrorKind::InvalidRequest, "offset", "less than 0");
    let check = |offset: u64, byte_size: u64, field: &str, text: &str| {
        check(("r", &object.key, offset, byte_size), ErrorKind::InvalidRequest, field, text);
    };
    check(0, 65, "byte_size", "at most 64 bytes, of the object's 64 from offset 0 on, got 65"); // B-85
    check(1, 64, "byte_size", "at most 63 bytes");
    check(64, 1, "offset", "less than 64, the bytes of the object, got 64");
    check(65, 1, "offset", "got 65");
    check(0, 0, "byte_size", "at least 1 byte, got 0");
    check(u64::MAX - 31, 32, "byte_size", "offset + byte_size overflow"); // B-86
    check(32, u64::MAX - 31, "byte_size", "offset + byte_size overflow");
    check(u64::MAX - 31, 31, "offset", "less than 64");
    let shared_memory = SharedMemory::new(true);
    for (name, offset, byte_size) in [("all", 0, 64), ("last", 63, 1)] {
        shared_memory.register_system(name, &object.key, offset, byte_size).unwrap();
    }
}

#[test]
fn b89_an_object_is_a_regular_file_that_its_owner_may_read_and_write() {
    let check = |key: &str, text: &str| check(("r", key, 0, 1), ErrorKind::PermissionDenied, "key", text);
    for mode in [Mode::RUSR, Mode::WUSR, Mode::empty()] {
        check(&Object::with_mode(8, mode).key, "owner: expected an object that its owner");
    }
    let target = Object::new(8);
    let (link, queue, directory) = (new_key(), new_key(), new_key());
    symlink(path(&target.key), path(&link)).unwrap();
    mknodat(CWD, path(&queue), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    std::fs::create_dir(path(&directory)).unwrap();
    for key in [&link, &queue, &directory] {
        check(key, "owner: expected a regular object");
    }
    std::fs::remove_file(path(&link)).unwrap();
    std::fs::remove_file(path(&queue)).unwrap();
    std::fs::remove_dir(path(&directory)).unwrap();
}

#[test]
fn b89_an_object_is_the_servers_own_users() {
    assert!(check_access(1000, 0o100_600, 1000).is_ok());
    assert!(check_access(0, 0o100_666, 0).is_ok());
    for (owner, mode, user) in
        [(1001, 0o100_666, 1000), (0, 0o100_666, 1000), (1000, 0o100_600, 0), (1000, 0o100_466, 1000)]
    {
        let error = check_access(owner, mode, user).unwrap_err();
        assert_refusal(&error, ErrorKind::PermissionDenied, "key", "owner");
    }
}

#[test]
fn b90_cuda_memory_is_not_available() {
    let shared_memory = SharedMemory::new(true);
    for length in [0, 63, 65] {
        let error = shared_memory.register_cuda("r", &vec![7; length]).unwrap_err();
        assert_refusal(&error, ErrorKind::InvalidRequest, "raw_handle", &format!("64 bytes, got {length}"));
    }
    assert_eq!(shared_memory.register_cuda("", &[7; 64]).unwrap_err().field(), Some("name"));
    let error = shared_memory.register_cuda("r", &[7; 64]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented);
    assert!(error.message().contains("not available on this host"), "{error}");
    shared_memory.cuda_status(None).unwrap();
    shared_memory.cuda_status(Some("")).unwrap();
    let error = shared_memory.cuda_status(Some("r")).unwrap_err();
    assert_refusal(&error, ErrorKind::NotFound, "name", "got `r`");
    shared_memory.unregister_cuda(Some("r")).unwrap();
}

#[test]
fn a_server_without_shared_memory_says_how_to_enable_it() {
    let off = SharedMemory::new(false);
    assert!(!off.is_enabled());
    let object = Object::new(8);
    let refusals = [
        off.register_system("r", &object.key, 0, 8),
        off.register_system("", "", 0, 0),
        off.unregister_system(None),
        off.system_status(None).map(drop),
        off.register_cuda("r", &[]),
        off.unregister_cuda(None),
        off.cuda_status(None),
    ];
    for refusal in refusals {
        let error = refusal.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unimplemented);
        assert!(error.message().contains("--allow-client-shm"), "{error}");
    }
    assert_eq!(off.find("r").unwrap_err(), NoRegion::Disabled);
}

#[test]
fn regions_are_listed_and_forgotten_by_name() {
    let shared_memory = SharedMemory::new(true);
    assert!(shared_memory.is_enabled());
    let object = Object::new(64);
    for (name, offset) in [("b", 32), ("a", 0)] {
        shared_memory.register_system(name, &object.key, offset, 16).unwrap();
    }
    let region = |name: &str, offset| SystemRegion {
        name: name.to_owned(),
        key: object.key.clone(),
        offset,
        byte_size: 16,
    };
    let (a, b) = (region("a", 0), region("b", 32));
    for all in [None, Some("")] {
        assert_eq!(shared_memory.system_status(all).unwrap(), [a.clone(), b.clone()]);
    }
    assert_eq!(shared_memory.system_status(Some("b")).unwrap(), std::slice::from_ref(&b));
    let error = shared_memory.system_status(Some("c")).unwrap_err();
    assert_refusal(&error, ErrorKind::NotFound, "name", "expected the name of a registered region, got `c`");
    shared_memory.unregister_system(Some("c")).unwrap();
    shared_memory.unregister_system(Some("a")).unwrap();
    assert_eq!(shared_memory.system_status(None).unwrap(), [b]);
    shared_memory.register_system("a", &object.key, 0, 16).unwrap();
    shared_memory.unregister_system(Some("")).unwrap();
    assert_eq!(shared_memory.system_status(None).unwrap(), []);
}

#[test]
fn a_region_is_read_and_written_within_its_bounds() {
    let object = Object::of(b"0123456789");
    let shared_memory = SharedMemory::new(true);
    shared_memory.register_system("r", &object.key, 2, 6).unwrap();
    let region = shared_memory.find("r").unwrap();
    assert_eq!(region.byte_size(), 6);
    let mut bytes = [0; 6];
    region.read(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"234567");
    region.write(4, b"xy").unwrap();
    assert_eq!(object.bytes(), b"012345xy89");
    for offset in [1, 6, u64::MAX] {
        assert_eq!(region.read(offset, &mut bytes).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(region.write(offset, &bytes).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    assert_eq!(object.bytes(), b"012345xy89");
}

#[test]
fn a_region_in_use_stays_open_while_its_name_is_free() {
    let (old, new) = (Object::of(b"old."), Object::of(b"new."));
    let shared_memory = SharedMemory::new(true);
    shared_memory.register_system("r", &old.key, 0, 4).unwrap();
    let in_use = shared_memory.find("r").unwrap();
    let still_open = Arc::downgrade(&in_use);
    shared_memory.unregister_system(Some("r")).unwrap();
    assert_eq!(shared_memory.find("r").unwrap_err(), NoRegion::Unknown);
    shared_memory.register_system("r", &new.key, 0, 4).unwrap();
    let mut bytes = [0; 4];
    in_use.read(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"old.");
    in_use.write(0, b"done").unwrap();
    assert_eq!((old.bytes(), new.bytes()), (b"done".to_vec(), b"new.".to_vec()));
    drop(in_use);
    assert!(still_open.upgrade().is_none(), "the file is open though nobody uses it");
}

#[test]
fn b91_a_region_that_has_shrunk_is_an_error_and_does_not_grow_again() {
    let object = Object::new(8192);
    let shared_memory = SharedMemory::new(true);
    shared_memory.register_system("r", &object.key, 0, 8192).unwrap();
    let region = shared_memory.find("r").unwrap();
    object.file.set_len(4096).unwrap();
    let mut bytes = vec![0; 8192];
    assert_eq!(region.read(0, &mut bytes).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(region.read(4096, &mut bytes[..1]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(region.write(4095, b"ab").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(object.bytes(), vec![0; 4096]);
    region.write(4095, b"a").unwrap();
    region.read(0, &mut bytes[..4096]).unwrap();
    assert_eq!(bytes[4095], b'a');
    object.file.set_len(0).unwrap();
    assert_eq!(region.read(0, &mut bytes[..1]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn regions_are_bounded() {
    let object = Object::new(8);
    let registry = Registry { regions: BTreeMap::new(), limit: 2 };
    let shared_memory = SharedMemory { registry: Some(Mutex::new(registry)) };
    shared_memory.register_system("a", &object.key, 0, 8).unwrap();
    shared_memory.register_system("b", &object.key, 0, 8).unwrap();
    let error = shared_memory.register_system("c", &object.key, 0, 8).unwrap_err();
    assert_refusal(&error, ErrorKind::QuotaExceeded, "name", "at most 2 regions");
    shared_memory.unregister_system(Some("a")).unwrap();
    shared_memory.register_system("c", &object.key, 0, 8).unwrap();
}
