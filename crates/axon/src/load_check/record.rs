//! Notes which models have survived a trial on this machine.
//!
//! A note is named by the SHA-256 of what was tried: the model's file, the files beside it that hold tensors, and the
//! versions of Axon and ONNX Runtime.

use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::onnx::{ModelFile, runtime_version};
use crate::storage::{Digests, Disk, Notes, cache_folder, enter, hexadecimal};

/// The most notes that are kept; the oldest go first.
const MAX_RECORDS: usize = 4096;

/// What each note begins with.
const HEADING: &str = "axon load check 2";

/// What is known of trials on this machine.
pub(super) struct Records {
    notes: Notes,
    digests: Digests,
}

impl Records {
    /// The notes in `folder`, or in the user's cache folder; digests of files are remembered beside it.
    pub fn open(folder: Option<&Path>) -> Self {
        let folder = folder.map(Path::to_owned).or_else(|| cache_folder("checked"));
        let digests = folder.as_deref().and_then(Path::parent).map(|parent| parent.join("digests"));
        Self {
            notes: Notes::open(folder, HEADING, MAX_RECORDS, Disk::default()),
            digests: Digests::open(digests, Disk::default()),
        }
    }

    /// The name of what is tried: the digest of all that it is made of.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn key(&self, path: &Path, outline: &ModelFile) -> io::Result<String> {
        let mut whole = Sha256::new();
        for text in [HEADING, env!("CARGO_PKG_VERSION"), runtime_version().unwrap_or_default()] {
            enter(&mut whole, text.as_bytes());
        }
        self.digests.enter_model(&mut whole, path, &outline.external)?;
        Ok(hexadecimal(&whole.finalize()))
    }

    pub fn contains(&self, key: &str) -> bool {
        self.notes.read(key).is_some()
    }

    /// Notes that `key` has survived. That it cannot is no error: the next load is tried again.
    pub fn enter(&self, key: &str) {
        if let Err(error) = self.notes.write(key, "") {
            tracing::warn!("cannot note that a model has survived its trial: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_key_follows_every_byte_of_every_file() {
        let folder = Folder(std::env::temp_dir().join(format!("axon-records-{}", std::process::id())));
        std::fs::create_dir_all(&folder.0).unwrap();
        let records = Records::open(Some(&folder.0.join("checked")));
        let key = |path: &Path, outline: &ModelFile| records.key(path, outline);
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
        assert!(!records.contains(&changed));
        records.enter(&changed);
        assert!(records.contains(&changed) && !records.contains(&whole));
        std::fs::remove_file(&weights).unwrap();
        assert!(key(&model, &outline).is_err());
    }
}
