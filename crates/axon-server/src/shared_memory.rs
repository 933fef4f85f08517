//! The memory that clients share with the server: POSIX shared memory objects, registered under names.
//!
//! An object is the file that `shm_open` opens, and it is read and written as one, never mapped. A client may
//! shrink its object at any time: a mapping would end the server with SIGBUS, a read past the end is an error. A
//! client may also change the bytes at any time: they are copied before they are checked, so what was checked is
//! what the model sees (`docs/decisions/0005-shared-memory-without-mapping.md`).
//!
//! Always: an object is a regular file of the server's own user, and a region was inside it when it was
//! registered; a region that is unregistered while requests use it keeps its file open until the last of them has
//! ended, and its name is free at once; what an error says names no key.
//!
//! **Source:** Triton's extension "shared memory".

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axon::error::{Echo, Error, ErrorKind, Result};
use axon::reason::Reason;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, geteuid, getrlimit};
use rustix::shm;

use crate::codec::{NoRegion, Region, Regions};

/// The most regions of a server; fewer where the process may open few files.
const MAX_REGIONS: usize = 1024;

/// Of the files that the process may open, one in so many is left to regions.
const SHARE_OF_FILES: u64 = 4;

/// The longest name of a region, in bytes.
const MAX_NAME: usize = 256;

/// The longest key, in bytes. **Source:** `NAME_MAX` of Linux.
const MAX_KEY: usize = 255;

/// The keys of Triton's own objects begin so, and no client has business there. **Source:** CVE-2025-23320.
const RESERVED_KEYS: &str = "/triton_python_backend_shm_region_";

/// The length of a CUDA memory handle. **Source:** `CUDA_IPC_HANDLE_SIZE`.
const CUDA_HANDLE: usize = 64;

/// A region of system shared memory, as its client registered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemRegion {
    /// The name that requests use.
    pub name: String,
    /// The key of the object.
    pub key: String,
    /// Its first byte in the object.
    pub offset: u64,
    /// Its length in bytes.
    pub byte_size: u64,
}

/// The regions of a server.
pub struct SharedMemory {
    /// `None` when clients may share nothing.
    registry: Option<Mutex<Registry>>,
}

/// At most `limit` regions by name; one more is refused.
struct Registry {
    regions: BTreeMap<String, Arc<OpenRegion>>,
    limit: usize,
}

/// A region and its object, which stays open for as long as a request holds it.
#[derive(Debug)]
struct OpenRegion {
    file: File,
    region: SystemRegion,
}

impl SharedMemory {
    /// No regions yet; when not `enabled`, never any.
    #[must_use]
    pub fn new(enabled: bool) -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let share = usize::try_from(files / SHARE_OF_FILES).unwrap_or(usize::MAX);
        let limit = share.clamp(1, MAX_REGIONS);
        Self { registry: enabled.then(|| Mutex::new(Registry { regions: BTreeMap::new(), limit })) }
    }

    /// Whether clients may share memory.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.registry.is_some()
    }

    /// Registers the `byte_size` bytes from `offset` on of the object `key` as the region `name`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] for a name, a key, an offset or a size that cannot be;
    /// [`ErrorKind::Conflict`] for a name that is registered; [`ErrorKind::PermissionDenied`] for an object that
    /// is not the server's own user's; [`ErrorKind::QuotaExceeded`] for one region too many;
    /// [`ErrorKind::Unimplemented`] when clients may share nothing.
    pub fn register_system(&self, name: &str, key: &str, offset: u64, byte_size: u64) -> Result<()> {
        self.enabled()?;
        check_name(name)?;
        check_key(key)?;
        let end = check_range(offset, byte_size)?;
        let file = open(key)?;
        let size = check_object(&file)?;
        if offset >= size {
            return Err(Error::invalid(
                "offset",
                format_args!("expected less than {size}, the bytes of the object, got {offset}"),
            ));
        }
        if end > size {
            let left = size - offset;
            return Err(Error::invalid(
                "byte_size",
                format_args!(
                    "expected at most {left} bytes, of the object's {size} from offset {offset} on, got {byte_size}"
                ),
            ));
        }
        let region = SystemRegion { name: name.to_owned(), key: key.to_owned(), offset, byte_size };
        self.registry()?.insert(OpenRegion { file, region })
    }

    /// Forgets the region `name`, or all when it is empty or `None`; one that is not registered is forgotten
    /// already. Requests that use it go on.
    ///
    /// # Errors
    /// [`ErrorKind::Unimplemented`] when clients may share nothing.
    pub fn unregister_system(&self, name: Option<&str>) -> Result<()> {
        let mut registry = self.registry()?;
        let closed = match name.filter(|name| !name.is_empty()) {
            Some(name) => registry.regions.remove(name).into_iter().collect(),
            None => std::mem::take(&mut registry.regions).into_values().collect::<Vec<_>>(),
        };
        // Files are closed after the lock: the last close of an object may free all its memory.
        drop(registry);
        drop(closed);
        Ok(())
    }

    /// The region `name`, or all in the order of their names when it is empty or `None`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when `name` is not registered; [`ErrorKind::Unimplemented`] when clients may share
    /// nothing.
    pub fn system_status(&self, name: Option<&str>) -> Result<Vec<SystemRegion>> {
        let registry = self.registry()?;
        match name.filter(|name| !name.is_empty()) {
            None => Ok(registry.regions.values().map(|open| open.region.clone()).collect()),
            Some(name) => match registry.regions.get(name) {
                Some(open) => Ok(vec![open.region.clone()]),
                None => Err(not_found(name)),
            },
        }
    }

    /// Refuses to register CUDA memory: there is no GPU to share it with.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] for a name or a handle that cannot be, else [`ErrorKind::Unimplemented`].
    pub fn register_cuda(&self, name: &str, raw_handle: &[u8]) -> Result<()> {
        self.enabled()?;
        check_name(name)?;
        if raw_handle.len() != CUDA_HANDLE {
            let length = raw_handle.len();
            return Err(Error::invalid(
                "raw_handle",
                format_args!("expected {CUDA_HANDLE} bytes, got {length}"),
            ));
        }
        Err(Error::new(
            ErrorKind::Unimplemented,
            "cuda shared memory is not available on this host: expected system shared memory, got a cuda handle",
        ))
    }

    /// Forgets CUDA regions, of which there are none.
    ///
    /// # Errors
    /// [`ErrorKind::Unimplemented`] when clients may share nothing.
    pub fn unregister_cuda(&self, _name: Option<&str>) -> Result<()> {
        self.enabled().map(drop)
    }

    /// Checks that `name` asks for all CUDA regions, of which there are none.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a name; [`ErrorKind::Unimplemented`] when clients may share nothing.
    pub fn cuda_status(&self, name: Option<&str>) -> Result<()> {
        self.enabled()?;
        match name.filter(|name| !name.is_empty()) {
            None => Ok(()),
            Some(name) => Err(not_found(name)),
        }
    }

    fn enabled(&self) -> Result<&Mutex<Registry>> {
        self.registry.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unimplemented,
                "client shared memory is disabled: expected a server started with --allow-client-shm, got one \
                 without",
            )
            .because(Reason::SharedMemoryOff)
        })
    }

    fn registry(&self) -> Result<MutexGuard<'_, Registry>> {
        Ok(self.enabled()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Registry {
    fn insert(&mut self, open: OpenRegion) -> Result<()> {
        if self.regions.contains_key(&open.region.name) {
            return Err(Error::at(
                ErrorKind::Conflict,
                "name",
                format_args!("expected a new name, got {}, which is registered", Echo(&open.region.name)),
            )
            .because(Reason::RegionExists(open.region.name)));
        }
        if self.regions.len() >= self.limit {
            return Err(too_many(format_args!("expected at most {} regions, got one more", self.limit)));
        }
        self.regions.insert(open.region.name.clone(), Arc::new(open));
        Ok(())
    }
}

impl Regions for SharedMemory {
    fn find(&self, name: &str) -> Result<Arc<dyn Region>, NoRegion> {
        let registry = self.registry().map_err(|_| NoRegion::Disabled)?;
        match registry.regions.get(name) {
            Some(open) => Ok(Arc::<OpenRegion>::clone(open)),
            None => Err(NoRegion::Unknown),
        }
    }
}

impl OpenRegion {
    /// Where `length` bytes from `offset` of the region lie in the object.
    fn position(&self, offset: u64, length: usize) -> io::Result<u64> {
        let inside = offset.checked_add(length as u64).is_some_and(|end| end <= self.region.byte_size);
        // The sum is less than the size of the object was.
        if inside { Ok(self.region.offset + offset) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }
}

impl Region for OpenRegion {
    fn byte_size(&self) -> u64 {
        self.region.byte_size
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, self.position(offset, bytes.len())?)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = self.position(offset, bytes.len())?;
        // A write past the end makes the object longer. When it shrinks between the two calls that happens still,
        // and harms nobody: it gets back to the size that it was registered with at most.
        if self.file.metadata()?.size() < start + bytes.len() as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.write_all_at(bytes, start)
    }
}

fn not_found(name: &str) -> Error {
    Error::at(
        ErrorKind::NotFound,
        "name",
        format_args!("expected the name of a registered region, got {}", Echo(name)),
    )
    .because(Reason::UnknownRegion(name.to_owned()))
}

fn too_many(problem: std::fmt::Arguments<'_>) -> Error {
    Error::at(ErrorKind::QuotaExceeded, "name", problem)
}

fn is_printable(text: &str) -> bool {
    !text.chars().any(|character| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}'))
}

fn check_name(name: &str) -> Result<()> {
    if !(1..=MAX_NAME).contains(&name.len()) {
        let length = name.len();
        return Err(Error::invalid("name", format_args!("expected 1 to {MAX_NAME} bytes, got {length}")));
    }
    if !is_printable(name) {
        return Err(Error::invalid(
            "name",
            format_args!("expected printable characters, got {}", Echo(name)),
        ));
    }
    Ok(())
}

/// Checks a key without the file system, which must never see one that leads elsewhere.
fn check_key(key: &str) -> Result<()> {
    let invalid = |got: &str| {
        let problem = format_args!("expected `/` and a name of printable characters without `/`, got {got}");
        Err(Error::invalid("key", problem))
    };
    if key.len() > MAX_KEY {
        let length = key.len();
        return Err(Error::invalid("key", format_args!("expected at most {MAX_KEY} bytes, got {length}")));
    }
    match key.strip_prefix('/') {
        None => invalid("no `/` in front"),
        Some("" | "." | "..") => invalid("no name behind it"),
        Some(name) if name.contains('/') => invalid("another `/`"),
        Some(name) if !is_printable(name) => invalid("a control character"),
        Some(_) if key.starts_with(RESERVED_KEYS) => invalid("a reserved name"),
        Some(_) => Ok(()),
    }
}

/// Checks a range without its object; returns its end.
fn check_range(offset: u64, byte_size: u64) -> Result<u64> {
    if byte_size == 0 {
        return Err(Error::invalid("byte_size", "expected at least 1 byte, got 0"));
    }
    offset.checked_add(byte_size).ok_or_else(|| {
        Error::invalid(
            "byte_size",
            format_args!("offset + byte_size overflow: expected less than 2^64, got {offset} + {byte_size}"),
        )
    })
}

/// Opens an object, but nothing that its name merely leads to.
fn open(key: &str) -> Result<File> {
    // A link in the directory of all objects would lead to any file of the server's user; a queue or a device must
    // not make the call wait.
    let guards = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = shm::OFlags::RDWR | shm::OFlags::from_bits_retain(guards.bits());
    match shm::open(key, flags, Mode::empty()) {
        Ok(descriptor) => Ok(descriptor.into()),
        Err(Errno::NOENT) => Err(Error::invalid(
            "key",
            "expected the key of a shared memory object, got one without an object",
        )),
        Err(error @ (Errno::MFILE | Errno::NFILE)) => {
            Err(too_many(format_args!("expected a free file descriptor, got none")).with_source(error))
        }
        Err(error @ (Errno::ACCESS | Errno::PERM)) => {
            Err(denied("an object that its owner, the server's user, may read and write", "another")
                .with_source(error))
        }
        Err(error @ (Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::NODEV)) => {
            Err(denied("a regular object", "something else").with_source(error))
        }
        Err(error) => {
            Err(Error::invalid("key", "expected an object that can be opened, got one that cannot be")
                .with_source(error))
        }
    }
}

fn denied(expected: &str, got: &str) -> Error {
    Error::at(ErrorKind::PermissionDenied, "key", format_args!("owner: expected {expected}, got {got}"))
}

/// Checks what has been opened; returns its size.
fn check_object(file: &File) -> Result<u64> {
    let metadata = file.metadata().map_err(|error| {
        Error::invalid("key", "expected an object of known size, got none").with_source(error)
    })?;
    if !metadata.is_file() {
        return Err(denied("a regular object", "something else"));
    }
    check_access(metadata.uid(), metadata.mode(), geteuid().as_raw())?;
    Ok(metadata.size())
}

/// Checks an object's owner and mode; root could open any.
fn check_access(owner: u32, mode: u32, user: u32) -> Result<()> {
    let both = Mode::RUSR.bits() | Mode::WUSR.bits();
    if owner != user {
        return Err(denied("an object of the server's own user", "one of another user"));
    }
    if mode & both != both {
        return Err(denied("an object that its owner may read and write", "one that it may not"));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
