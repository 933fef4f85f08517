//! The SHA-256 of files, computed once while they do not change.
//!
//! A digest is remembered with the stamp that the file had: inode, length, time of change. Every way to change a file
//! moves the time of change, which no program can set, so that a file with the same stamp has the same bytes; one that
//! was changed in the last seconds is not remembered, since a clock that ticks coarsely would not show the next change.
//! **Source:** git has the same rule for its index ("racy git").

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Disk, Notes, Stamp};

/// The most files whose digests are remembered.
const MAX_DIGESTS: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Remembered {
    stamp: Stamp,
    digest: String,
}

/// Digests of files, and where they are remembered.
#[derive(Clone)]
pub(crate) struct Digests {
    notes: Notes,
    disk: Disk,
}

impl Digests {
    /// Those remembered in `folder`; without one each is computed each time.
    pub fn open(folder: Option<PathBuf>, disk: Disk) -> Self {
        Self { notes: Notes::open(folder, "axon digest 1", MAX_DIGESTS, disk.clone()), disk }
    }

    /// The digest of the file at `path`, as hexadecimal text.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of(&self, path: &Path) -> io::Result<String> {
        // Links are followed: it is the file behind them that has the bytes.
        let path = std::fs::canonicalize(path)?;
        let name = hexadecimal(&Sha256::digest(path.as_os_str().as_bytes()));
        let remembered = self.notes.read(&name);
        let remembered = remembered.and_then(|text| serde_json::from_str::<Remembered>(&text).ok());
        if let Some(remembered) = remembered
            && self.disk.stamp(&path)? == remembered.stamp
        {
            return Ok(remembered.digest);
        }
        let (digest, stamp) = self.disk.digest(&path)?;
        let digest = hexadecimal(&digest);
        if let Some(stamp) = stamp.filter(Stamp::is_settled) {
            let remembered = Remembered { stamp, digest: digest.clone() };
            let text = serde_json::to_string(&remembered).map_err(io::Error::other)?;
            if let Err(error) = self.notes.write(&name, &text) {
                tracing::debug!("cannot remember the digest of a model: {error}");
            }
        }
        Ok(digest)
    }

    /// The stamp of the file at `path`, behind its links.
    ///
    /// # Errors
    /// When there is no regular file.
    pub fn stamp(&self, path: &Path) -> io::Result<Stamp> {
        self.disk.stamp(&std::fs::canonicalize(path)?)
    }

    /// Enters all that a model is made of: its file, and the names and the contents of those beside it.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn enter_model(&self, whole: &mut Sha256, path: &Path, beside: &BTreeSet<PathBuf>) -> io::Result<()> {
        enter(whole, self.of(path)?.as_bytes());
        for file in beside {
            let name = file.strip_prefix(path.parent().unwrap_or(Path::new(""))).unwrap_or(file);
            enter(whole, name.as_os_str().as_bytes());
            enter(whole, self.of(file)?.as_bytes());
        }
        Ok(())
    }
}

/// Enters bytes with their length, so that no two lists of texts are the same bytes.
pub(crate) fn enter(digest: &mut Sha256, bytes: &[u8]) {
    digest.update((bytes.len() as u64).to_le_bytes());
    digest.update(bytes);
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, SystemTime};

    use super::*;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_digest_is_computed_again_when_the_file_has_changed() {
        let folder = std::env::temp_dir().join(format!("axon-digests-{}", std::process::id()));
        let folder = Folder(folder);
        std::fs::create_dir_all(&folder.0).unwrap();
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let disk = Disk::failing(move |operation| {
            counted.fetch_add(usize::from(operation == "read"), Ordering::Relaxed);
            Ok(())
        });
        let digests = Digests::open(Some(folder.0.join("digests")), disk);
        let path = folder.0.join("file");
        // Of a size that takes several reads, so that a computed digest is told from a remembered one.
        let write = |byte| std::fs::write(&path, vec![byte; 1 << 20]).unwrap();
        let reads_of = |expected: &str| {
            let before = reads.load(Ordering::Relaxed);
            assert_eq!(digests.of(&path).unwrap(), expected);
            reads.load(Ordering::Relaxed) - before
        };
        let expected = |byte| hexadecimal(&Sha256::digest(vec![byte; 1 << 20]));
        write(1);
        // It has just been changed, so that nothing is remembered yet.
        assert!(reads_of(&expected(1)) > 2);
        assert!(reads_of(&expected(1)) > 2);
        // What is remembered with a stamp counts for as long as the stamp is the file's.
        let name = hexadecimal(&Sha256::digest(std::fs::canonicalize(&path).unwrap().as_os_str().as_bytes()));
        let stamp = digests.disk.stamp(&path).unwrap();
        let text = serde_json::to_string(&Remembered { stamp, digest: expected(1) }).unwrap();
        digests.notes.write(&name, &text).unwrap();
        assert!(reads_of(&expected(1)) <= 2);
        // Neither the same length nor a time that is set back hides a change.
        write(2);
        let past = SystemTime::now() - Duration::from_secs(3600);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(past).unwrap();
        assert!(reads_of(&expected(2)) > 2);
        std::fs::remove_file(&path).unwrap();
        assert!(digests.of(&path).is_err());
    }
}
