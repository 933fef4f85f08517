//! The file operations of what is kept, in one place.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A file that was changed less than this long ago may be changed again unseen, since clocks of file systems tick coarsely.
/// **Source:** FAT's two seconds are the longest tick that is known.
const SETTLED: Duration = Duration::from_secs(3);

/// What a file system changes whenever a file is: no program can set the time of change back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    inode: u64,
    pub bytes: u64,
    /// When its content was changed, in nanoseconds; a program can set it.
    modified: i64,
    /// When it or what is known of it was changed.
    changed: i64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let nanoseconds =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// True when the last change lies so far back that another would show.
    pub fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let last = self.changed.max(self.modified);
        i64::try_from(now.saturating_sub(SETTLED).as_nanos()).is_ok_and(|latest| last < latest)
    }
}

/// Makes an operation fail under test.
type Fault = Arc<dyn Fn(&'static str) -> io::Result<()> + Send + Sync>;

/// The file operations.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    fault: Option<Fault>,
}

impl Disk {
    /// One whose operations ask `fault` first, which is told their names.
    #[cfg(test)]
    pub fn failing(fault: impl Fn(&'static str) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { fault: Some(Arc::new(fault)) }
    }

    fn step(&self, operation: &'static str) -> io::Result<()> {
        self.fault.as_ref().map_or(Ok(()), |fault| fault(operation))
    }

    /// Makes a folder, and those above it, that only this user can enter.
    pub fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.step("make folder")?;
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    /// What is known of `path` itself; a link is not followed.
    pub fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.step("metadata")?;
        std::fs::symlink_metadata(path)
    }

    /// The stamp of a regular file.
    pub fn stamp(&self, path: &Path) -> io::Result<Stamp> {
        let metadata = self.metadata(path)?;
        if metadata.is_file() { Ok(Stamp::of(&metadata)) } else { Err(not_a_file()) }
    }

    /// The whole content, of at most `most` bytes.
    pub fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        self.step("open")?;
        let file = File::open(path)?;
        self.step("read")?;
        let mut bytes = Vec::new();
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is larger than expected"));
        }
        Ok(bytes)
    }

    /// The SHA-256 of a file, and its stamp if it did not change meanwhile.
    pub fn digest(&self, path: &Path) -> io::Result<([u8; 32], Option<Stamp>)> {
        self.step("open")?;
        let mut file = File::open(path)?;
        let before = Stamp::of(&file.metadata()?);
        let mut digest = Sha256::new();
        let mut chunk = vec![0; 256 << 10];
        loop {
            self.step("read")?;
            match file.read(&mut chunk)? {
                0 => break,
                size => digest.update(chunk.get(..size).unwrap_or_default()),
            }
        }
        let after = Stamp::of(&file.metadata()?);
        Ok((digest.finalize().into(), (before == after).then_some(after)))
    }

    /// Writes a new file that only this user can read, down to the medium.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step("create")?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        self.step("write")?;
        file.write_all(bytes)?;
        self.step("sync")?;
        file.sync_all()
    }

    /// Waits until a file, or a folder's list of names, is on the medium.
    pub fn sync(&self, path: &Path) -> io::Result<()> {
        self.step("open")?;
        let file = File::open(path)?;
        self.step("sync")?;
        file.sync_all()
    }

    /// Moves a file or a folder to a place where nothing is, or only a file that it replaces.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename")?;
        std::fs::rename(from, to)
    }

    /// Removes a file; it may be gone already.
    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.step("remove file")?;
        unless_gone(std::fs::remove_file(path))
    }

    /// Removes a folder and all in it, or a file; it may be gone already.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.step("remove")?;
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => self.remove_file(path),
            outcome => unless_gone(outcome),
        }
    }

    /// What lies in a folder.
    pub fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.step("list")?;
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    }

    /// Notes that a file was used now.
    pub fn touch(&self, path: &Path) -> io::Result<()> {
        self.step("touch")?;
        OpenOptions::new().append(true).open(path)?.set_modified(SystemTime::now())
    }

    /// The bytes that can still be written to the file system of `path`.
    pub fn available(&self, path: &Path) -> io::Result<u64> {
        self.step("available")?;
        let system = rustix::fs::statvfs(path)?;
        Ok(system.f_bavail.saturating_mul(system.f_frsize))
    }

    /// Takes the lock that a file is, which ends with the process if not before. `None` when another process has it and
    /// this one does not wait.
    pub fn lock(&self, path: &Path, waits: bool) -> io::Result<Option<Lock>> {
        self.step("create")?;
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let operation =
            if waits { FlockOperation::LockExclusive } else { FlockOperation::NonBlockingLockExclusive };
        loop {
            self.step("lock")?;
            match flock(&file, operation) {
                Ok(()) => return Ok(Some(Lock { _file: file })),
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A lock that is held until this is dropped.
pub(crate) struct Lock {
    _file: File,
}

fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "expected a regular file")
}

fn unless_gone(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
