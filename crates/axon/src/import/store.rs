//! The folder of imported models.
//!
//! ```text
//! FOLDER/lock               held by whoever imports, publishes or makes room
//! FOLDER/entries/KEY/       graph.onnx, weights.bin, profile.json, and the manifest that lists them
//! FOLDER/building/KEY/      what is being written; whoever holds the lock may remove it
//! FOLDER/measured/KEY       how long runs take and how they are divided; see `measured`
//! ```
//!
//! Invariants: an entry is moved to its place whole, after every byte is on the medium; a file of an entry is never
//! changed; what a reader gets has been checked. Whoever has an entry's weights mapped keeps them when it is removed.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::profile::Profile;
use crate::error::Error;
use crate::storage::{Disk, Lock, Stamp, hexadecimal, seal, unseal};

const MANIFEST: &str = "manifest";
const HEADING: &str = "axon imported model 1";

/// The longest manifest and the longest profile, in bytes.
const MAX_MANIFEST: u64 = 64 << 10;

/// A file of at most so many bytes is read and compared whole each time that its entry is used; of a larger one the stamp
/// is. **Source:** SHA-256 takes 4 ms for as much without instructions of its own.
const MAX_READ: u64 = 1 << 20;

/// What is left free on the file system, in bytes.
const HEADROOM: u64 = 256 << 20;

/// The names of an entry's files.
pub(super) const GRAPH: &str = "graph.onnx";
pub(super) const WEIGHTS: &str = "weights.bin";
pub(super) const PROFILE: &str = "profile.json";

/// A file of an entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Member {
    sha256: String,
    stamp: Stamp,
}

/// What an entry is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, Member>,
}

/// An entry that was checked.
pub(crate) struct Entry {
    pub key: String,
    pub profile: Profile,
    /// The graph to load; `None` when the model is left as it is.
    pub graph: Option<PathBuf>,
    pub bytes: u64,
    pub used: Option<SystemTime>,
}

/// How much of an entry is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The lengths of large files: for who lists and does not load.
    Lengths,
    /// The stamps of large files, and every byte where a stamp is another.
    Stamps,
    /// Every byte.
    Bytes,
}

/// A folder of imported models.
pub(crate) struct Store {
    folder: PathBuf,
    max_bytes: u64,
    disk: Disk,
}

impl Store {
    /// The one in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made or written to, or when others than this process's user can write it: what lies there ends
    /// up in this process's memory.
    pub fn open(folder: PathBuf, max_bytes: u64, disk: Disk) -> io::Result<Self> {
        for path in [folder.join("entries"), folder.join("building")] {
            disk.make_folder(&path)?;
        }
        for path in [folder.clone(), folder.join("entries")] {
            let metadata = disk.metadata(&path)?;
            // Root can change this process anyway.
            let owners = [0, rustix::process::geteuid().as_raw()];
            let is_ours = owners.contains(&metadata.uid()) && metadata.mode() & 0o022 == 0;
            if !metadata.is_dir() || !is_ours {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "expected a folder that only this user can write",
                ));
            }
        }
        Ok(Self { folder, max_bytes, disk })
    }

    fn entry(&self, key: &str) -> PathBuf {
        self.folder.join("entries").join(key)
    }

    fn building(&self, key: &str) -> PathBuf {
        self.folder.join("building").join(key)
    }

    /// The entry of `key`, checked; `None` when there is none. One that is broken is removed.
    pub fn find(&self, key: &str, depth: Depth) -> Option<Entry> {
        let folder = self.entry(key);
        // The manifest is written last and moved with the rest: without it there is no entry.
        self.disk.metadata(&folder).ok()?;
        match self.check(key, &folder, depth) {
            Ok(entry) => Some(entry),
            Err(problem) => {
                tracing::warn!(
                    key,
                    "an imported model is broken and is removed, to be imported again: {problem}"
                );
                if let Err(error) = self.remove(key) {
                    tracing::warn!(
                        key,
                        "a broken imported model cannot be removed, and is not used: {error}"
                    );
                }
                None
            }
        }
    }

    /// Notes that an entry is used now, so that others go first.
    pub fn touch(&self, key: &str) {
        if let Err(error) = self.disk.touch(&self.entry(key).join(MANIFEST)) {
            tracing::debug!(key, "cannot note that an imported model is used: {error}");
        }
    }

    /// An entry, checked; a broken one stays.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self, key: &str, depth: Depth) -> Result<Entry, String> {
        self.check(key, &self.entry(key), depth)
    }

    /// Writes into `folder` that a model is left as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::ErrorKind) when that cannot be written.
    pub fn leave_alone(&self, folder: &Path, key: &str, profile: &Profile) -> Result<(), Error> {
        seal_entry(&self.disk, folder, key, profile).map_err(Error::internal)
    }

    fn check(&self, key: &str, folder: &Path, depth: Depth) -> Result<Entry, String> {
        let manifest = folder.join(MANIFEST);
        let text = self.disk.read(&manifest, MAX_MANIFEST).map_err(|error| format!("{MANIFEST}: {error}"))?;
        let text = String::from_utf8(text).map_err(|_| format!("{MANIFEST}: not a text"))?;
        let body = unseal(HEADING, key, &text).ok_or_else(|| format!("{MANIFEST}: not as it was written"))?;
        let Manifest { files } =
            serde_json::from_str(body).map_err(|error| format!("{MANIFEST}: {error}"))?;
        let mut bytes = text.len() as u64;
        for (name, member) in &files {
            let at = |problem: &dyn std::fmt::Display| format!("{name}: {problem}");
            let path = folder.join(name);
            let stamp = self.disk.stamp(&path).map_err(|error| at(&error))?;
            if stamp.bytes != member.stamp.bytes {
                return Err(at(&format_args!("{} bytes, not {}", stamp.bytes, member.stamp.bytes)));
            }
            bytes = bytes.saturating_add(stamp.bytes);
            let is_known = stamp.bytes > MAX_READ
                && match depth {
                    Depth::Lengths => true,
                    Depth::Stamps => stamp == member.stamp,
                    Depth::Bytes => false,
                };
            if !is_known {
                let (digest, _) = self.disk.digest(&path).map_err(|error| at(&error))?;
                if hexadecimal(&digest) != member.sha256 {
                    return Err(at(&"its bytes are not those that were written"));
                }
            }
        }
        let profile =
            files.contains_key(PROFILE).then(|| self.disk.read(&folder.join(PROFILE), MAX_MANIFEST));
        let profile = profile.ok_or_else(|| format!("{PROFILE}: missing"))?;
        let profile = profile.map_err(|error| format!("{PROFILE}: {error}"))?;
        let profile = serde_json::from_slice(&profile).map_err(|error| format!("{PROFILE}: {error}"))?;
        let graph = files.contains_key(GRAPH).then(|| folder.join(GRAPH));
        let used = self.disk.metadata(&manifest).and_then(|metadata| metadata.modified()).ok();
        Ok(Entry { key: key.to_owned(), profile, graph, bytes, used })
    }

    /// Takes the lock under which entries are made. `None` when another process has it and this one does not wait.
    ///
    /// # Errors
    /// When there can be no lock.
    pub fn lock(&self, waits: bool) -> io::Result<Option<Lock>> {
        self.disk.lock(&self.folder.join("lock"), waits)
    }

    /// Removes what was left unfinished: whoever left it has ended, since it would have the lock.
    ///
    /// # Errors
    /// When it stays.
    pub fn sweep(&self, _lock: &Lock) -> io::Result<()> {
        let left = self.disk.list(&self.folder.join("building"))?;
        // The folder is the user's choice, and what else lies in it is not ours to remove.
        for path in left.iter().filter(|path| is_ours(path)) {
            self.disk.remove(path)?;
        }
        Ok(())
    }

    /// An empty folder for the files of `key`, with room for `bytes` of them.
    ///
    /// # Errors
    /// When it cannot be made, or when `bytes` are too many for this folder or its file system.
    pub fn begin(&self, lock: &Lock, key: &str, bytes: u64) -> io::Result<PathBuf> {
        self.sweep(lock)?;
        let full = |problem: &'static str| Err(io::Error::new(io::ErrorKind::StorageFull, problem));
        if bytes > self.max_bytes {
            return full("it would take more than the model cache may");
        }
        self.make_room(bytes)?;
        if self.disk.available(&self.folder)? < bytes.saturating_add(HEADROOM) {
            return full("too little space is left");
        }
        let folder = self.building(key);
        self.disk.make_folder(&folder)?;
        Ok(folder)
    }

    /// Moves what was built to its place, in place of what was there.
    ///
    /// # Errors
    /// When it is not whole, or cannot be moved; nothing is at its place then, or what was there before.
    pub fn publish(&self, _lock: &Lock, key: &str) -> io::Result<Entry> {
        let built = self.building(key);
        let checked = self.check(key, &built, Depth::Stamps).map_err(io::Error::other)?;
        let place = self.entry(key);
        if self.disk.metadata(&place).is_ok() {
            self.remove(key)?;
        }
        self.make_room(checked.bytes)?;
        self.disk.rename(&built, &place)?;
        self.disk.sync(&self.folder.join("entries"))?;
        Ok(Entry { graph: checked.graph.map(|_| place.join(GRAPH)), ..checked })
    }

    /// Removes what was used longest ago, until `bytes` more fit.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut entries = self.entries()?;
        entries.sort_by_key(|listed| listed.used);
        let mut total = entries.iter().fold(0, |total: u64, listed| total.saturating_add(listed.bytes));
        for listed in &entries {
            if total.saturating_add(bytes) <= self.max_bytes {
                return Ok(());
            }
            tracing::info!(key = listed.key, "an imported model is removed, to make room for another");
            self.remove(&listed.key)?;
            total = total.saturating_sub(listed.bytes);
        }
        Ok(())
    }

    /// What is in the folder, unchecked; what has no entry's name is none.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn entries(&self) -> io::Result<Vec<Listed>> {
        let folders = self.disk.list(&self.folder.join("entries"))?;
        Ok(folders.into_iter().filter_map(|folder| self.list(&folder)).collect())
    }

    fn list(&self, folder: &Path) -> Option<Listed> {
        let key = folder.file_name()?.to_str().filter(|name| is_key(name))?.to_owned();
        // Removed meanwhile, it is not there; one whose size cannot be told counts by what can be.
        let files = self.disk.list(folder).ok()?;
        let sizes = files.iter().filter_map(|file| Some(self.disk.metadata(file).ok()?.len()));
        let used = self.disk.metadata(&folder.join(MANIFEST)).and_then(|metadata| metadata.modified()).ok();
        Some(Listed { key, bytes: sizes.fold(0, u64::saturating_add), used })
    }

    /// Removes an entry; false when there is none.
    ///
    /// # Errors
    /// When it is there and stays.
    pub fn remove(&self, key: &str) -> io::Result<bool> {
        let place = self.entry(key);
        if self.disk.metadata(&place).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(false);
        }
        // Out of the way at once, so that nobody sees a part of it.
        let aside = self.building(&format!("{key}.removed-{}", std::process::id()));
        self.disk.remove(&aside)?;
        self.disk.rename(&place, &aside)?;
        self.disk.remove(&aside)?;
        Ok(true)
    }
}

/// An entry as it is listed.
pub(crate) struct Listed {
    pub key: String,
    pub bytes: u64,
    /// `None` without a manifest: it is not used, and goes first.
    pub used: Option<SystemTime>,
}

/// Writes the profile and the manifest of what lies in `folder`, after every byte of it is on the medium.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn seal_entry(disk: &Disk, folder: &Path, key: &str, profile: &Profile) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(profile).map_err(io::Error::other)?;
    disk.write(&folder.join(PROFILE), &text)?;
    let mut files = BTreeMap::new();
    for path in disk.list(folder)? {
        disk.sync(&path)?;
        let (digest, stamp) = disk.digest(&path)?;
        let stamp = stamp.ok_or_else(|| io::Error::other("a file changes while it is imported"))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(name, Member { sha256: hexadecimal(&digest), stamp });
    }
    let body = serde_json::to_string(&Manifest { files }).map_err(io::Error::other)?;
    disk.write(&folder.join(MANIFEST), seal(HEADING, key, &body).as_bytes())?;
    disk.sync(folder)
}

/// True for the name of an entry: a SHA-256 in hexadecimal.
pub fn is_key(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// True for what is written, or put aside to be removed, under the name of an entry.
fn is_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    is_key(name.split_once(".removed-").map_or(name, |(key, _)| key))
}
