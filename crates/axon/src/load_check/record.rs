//! Notes which models have survived a trial on this machine.
//!
//! A note is a file named by the SHA-256 of what was tried: the model's file, the files beside it that hold tensors, and
//! the versions of Axon and ONNX Runtime. It repeats its name, so that one that was not written whole counts as none.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::onnx::{ModelFile, runtime_version};

/// The most notes that are kept; the oldest go first.
const MAX_RECORDS: usize = 4096;

/// What each note begins with.
const HEADING: &str = "axon load check 1\n";

/// The name of what is tried: the digest of all that it is made of.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn key(path: &Path, outline: &ModelFile) -> io::Result<String> {
    let mut whole = Sha256::new();
    for text in [HEADING, env!("CARGO_PKG_VERSION"), runtime_version().unwrap_or_default()] {
        enter(&mut whole, text.as_bytes());
    }
    enter(&mut whole, &digest(path)?);
    for file in &outline.external {
        let name = file.strip_prefix(path.parent().unwrap_or(Path::new(""))).unwrap_or(file);
        enter(&mut whole, name.as_os_str().as_encoded_bytes());
        enter(&mut whole, &digest(file)?);
    }
    Ok(hexadecimal(&whole.finalize()))
}

/// With its length, so that no two lists of texts are the same bytes.
fn enter(digest: &mut Sha256, bytes: &[u8]) {
    digest.update((bytes.len() as u64).to_le_bytes());
    digest.update(bytes);
}

fn digest(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut chunk = vec![0; 256 << 10];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(digest.finalize().into()),
            size => digest.update(chunk.get(..size).unwrap_or_default()),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The folder of notes; without one nothing is known and nothing is noted.
pub(super) struct Records {
    folder: Option<PathBuf>,
}

impl Records {
    /// The notes in `folder`, or in the user's cache folder.
    pub fn open(folder: Option<&Path>) -> Self {
        Self { folder: folder.map(Path::to_owned).or_else(default_folder) }
    }

    pub fn contains(&self, key: &str) -> bool {
        let Some(folder) = &self.folder else { return false };
        let whole = note(key);
        let mut text = Vec::new();
        let read = File::open(folder.join(key))
            .and_then(|file| file.take(whole.len() as u64 + 1).read_to_end(&mut text));
        read.is_ok() && text == whole.as_bytes()
    }

    /// Notes that `key` has survived. That it cannot is no error: the next load is tried again.
    pub fn enter(&self, key: &str) {
        let Some(folder) = &self.folder else { return };
        if let Err(error) = write(folder, key) {
            tracing::warn!(
                "cannot note that a model has survived its trial: `{}`: {error}",
                folder.display()
            );
        }
    }
}

/// **Source:** XDG Base Directory Specification; a relative path in the variable is to be passed over.
fn default_folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(cache.join("axon").join("checked"))
}

fn note(key: &str) -> String {
    format!("{HEADING}{key}\n")
}

fn write(folder: &Path, key: &str) -> io::Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::fs::create_dir_all(folder)?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let unfinished = folder.join(format!("{key}.{}-{number}", std::process::id()));
    // Moved into place: who reads meanwhile reads all of it or nothing.
    std::fs::write(&unfinished, note(key))?;
    let moved = std::fs::rename(&unfinished, folder.join(key));
    if moved.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    moved?;
    forget(folder, MAX_RECORDS)
}

/// Removes the oldest files past the most that are kept, those that were never moved into place among them.
fn forget(folder: &Path, most: usize) -> io::Result<()> {
    let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(folder)?.flatten() {
        if let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) {
            files.push((modified, entry.path()));
        }
    }
    files.sort();
    for (_, path) in files.iter().take(files.len().saturating_sub(most)) {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("axon-records-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_note_that_is_torn_or_anothers_counts_as_none() {
        let folder = Folder::new("torn");
        let records = Records::open(Some(&folder.0.join("below")));
        assert!(!records.contains("abc"));
        records.enter("abc");
        assert!(records.contains("abc"));
        let path = folder.0.join("below").join("abc");
        let whole = std::fs::read_to_string(&path).unwrap();
        for torn in ["", &whole[..whole.len() - 1], &format!("{whole} "), &note("abd")] {
            std::fs::write(&path, torn).unwrap();
            assert!(!records.contains("abc"), "{torn:?}");
        }
        records.enter("abc");
        assert!(records.contains("abc"));
    }

    #[test]
    fn the_oldest_notes_are_forgotten() {
        let folder = Folder::new("many");
        let records = Records::open(Some(&folder.0));
        let start = SystemTime::UNIX_EPOCH;
        for number in 0..10_u32 {
            records.enter(&number.to_string());
            let file = File::options().write(true).open(folder.0.join(number.to_string())).unwrap();
            file.set_modified(start + std::time::Duration::from_secs(number.into())).unwrap();
        }
        forget(&folder.0, 4).unwrap();
        let kept: Vec<u32> = (0..10).filter(|number| records.contains(&number.to_string())).collect();
        assert_eq!(kept, [6, 7, 8, 9]);
    }

    #[test]
    fn the_key_follows_every_byte_of_every_file() {
        let folder = Folder::new("key");
        let (model, weights) = (folder.0.join("m.onnx"), folder.0.join("w"));
        std::fs::write(&model, "model").unwrap();
        std::fs::write(&weights, "weights").unwrap();
        let outline = ModelFile { external: [weights.clone()].into(), ..ModelFile::default() };
        let whole = key(&model, &outline).unwrap();
        assert_eq!(whole.len(), 64);
        assert_ne!(key(&model, &ModelFile::default()).unwrap(), whole);
        std::fs::write(&weights, "weightz").unwrap();
        let changed = key(&model, &outline).unwrap();
        assert_ne!(changed, whole);
        std::fs::write(&model, "modem").unwrap();
        assert_ne!(key(&model, &outline).unwrap(), changed);
        std::fs::remove_file(&weights).unwrap();
        assert!(key(&model, &outline).is_err());
    }
}
