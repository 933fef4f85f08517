//! Keeps models as they are made ready for this machine, so that they load fast and share their memory.
//!
//! A model that is *imported* was optimised once, and its weights were written to a file that is mapped: a load of it
//! parses no weights and packs none, and sessions and processes share them. Which models that pays for, and by how
//! much: `docs/decisions/0008`. What a load finds out by running a model is remembered beside it.
//!
//! unknown → wanted → imported, or left as it is with its reason; a broken entry is unknown again.
//!
//! Invariants: an imported model answers what it answered before, bit for bit, on every sample that was tried; the bytes
//! that are loaded are those that were written; a model is served whatever happens to the cache; a first load waits
//! for no import.

mod build;
mod child;
mod machine;
mod measured;
mod profile;
mod store;
mod worker;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::config::{Device, LoadCheckConfig, ModelCacheConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::{ModelFile, Session, SessionOptions};
use crate::storage::{Digests, Disk, Notes, cache_folder};
use child::{Child, Watch};
use store::{Depth, Entry, Store};
use worker::{Wanted, Worker};

pub use build::{Job, build};
pub use measured::Remembered;
pub use profile::{Measured, Profile};

/// The most models of which it is remembered what was measured.
const MAX_MEASURED: usize = 4096;

/// The models that are kept; nothing where there is no cache.
pub struct ModelCache {
    open: Option<Arc<Open>>,
    /// Imports in the background, where there is a child to do so.
    worker: Option<Worker>,
}

struct Open {
    store: Store,
    digests: Digests,
    measured: Notes,
    least_bytes: u64,
    quick_load: bool,
    child: Child,
    /// That it cannot be written has been said.
    has_warned: AtomicBool,
}

/// What is kept of a model.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its name in the cache: 64 hexadecimal digits.
    pub key: String,
    /// Bytes that it takes there.
    pub bytes: u64,
    /// When it was loaded last, or made.
    pub used: Option<SystemTime>,
    /// What is known of it, or what is wrong with it.
    pub profile: Result<Profile, String>,
}

impl ModelCache {
    /// The cache that `config` asks for. One that cannot be used is passed over with a warning: models are served without.
    #[must_use]
    pub fn open(config: &ModelCacheConfig, load_check: &LoadCheckConfig, library: Option<&Path>) -> Self {
        if !config.is_on {
            return Self { open: None, worker: None };
        }
        let opened = Self::try_open(config, load_check, library).and_then(|cache| {
            let worker = cache.start_worker(config.quiet).map_err(Error::internal)?;
            Ok(Self { worker, ..cache })
        });
        opened.unwrap_or_else(|error| {
            tracing::warn!(cause = error.cause(), "models are loaded without the model cache: {error}");
            Self { open: None, worker: None }
        })
    }

    /// The cache that `config` asks for, without a thread that imports.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when it cannot be used.
    pub fn try_open(
        config: &ModelCacheConfig,
        load_check: &LoadCheckConfig,
        library: Option<&Path>,
    ) -> Result<Self> {
        Self::open_on(&Disk::default(), config, Child::new(load_check, library))
    }

    fn open_on(disk: &Disk, config: &ModelCacheConfig, child: Child) -> Result<Self> {
        let folder = config.folder.clone().or_else(|| cache_folder("models")).ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "no folder for the model cache: neither XDG_CACHE_HOME nor HOME is set",
            )
        })?;
        // The user's own is shared with the trials, which look at the same files.
        let digests =
            config.folder.as_ref().map(|folder| folder.join("digests")).or_else(|| cache_folder("digests"));
        let measured = folder.join("measured");
        let store = Store::open(folder.clone(), config.max_bytes, disk.clone()).map_err(|error| {
            Error::new(ErrorKind::Internal, format!("the model cache cannot be used: {error}"))
                .with_source(format_args!("`{}`", folder.display()))
        })?;
        let open = Open {
            store,
            digests: Digests::open(digests, disk.clone()),
            measured: Notes::open(Some(measured), "axon measured 1", MAX_MEASURED, disk.clone()),
            least_bytes: config.least_bytes,
            quick_load: config.quick_load,
            child,
            has_warned: AtomicBool::new(false),
        };
        Ok(Self { open: Some(Arc::new(open)), worker: None })
    }

    fn start_worker(&self, quiet: Duration) -> io::Result<Option<Worker>> {
        let Some(open) = self.open.as_ref().filter(|open| open.child.can_start()) else { return Ok(None) };
        let open = Arc::clone(open);
        let import = move |wanted: &Wanted, is_over: &dyn Fn() -> bool| {
            let mut watch = |_| !is_over();
            match open.import(&wanted.model, Some(&wanted.key), false, &mut Watch::Background(&mut watch)) {
                Ok(_) => {
                    tracing::info!(key = wanted.key, "imported a model; its next load is the faster one");
                }
                Err(error) if error.kind() == ErrorKind::Internal => open.warn(&error),
                Err(error) => {
                    tracing::debug!(cause = error.cause(), "a model was not imported: {error}");
                }
            }
        };
        Worker::start(quiet, import).map(Some)
    }

    /// What is kept of the model at `path`, to load it.
    pub fn locate<'a>(&'a self, path: &'a Path, outline: &ModelFile, device: Device) -> Located<'a> {
        if let Some(worker) = &self.worker {
            worker.hold_off();
        }
        let nothing = Located { path, cache: self, key: None, entry: None, is_wanted: false };
        let Some(open) = &self.open else { return nothing };
        let key = match machine::key(path, outline, device, &open.digests) {
            Ok(key) => key,
            Err(error) => {
                tracing::debug!("cannot tell whether a model was imported: {error}");
                return nothing;
            }
        };
        let entry = (device == Device::Cpu).then(|| open.store.find(&key, Depth::Stamps)).flatten();
        if entry.is_some() {
            open.store.touch(&key);
        }
        let is_wanted =
            device == Device::Cpu && entry.is_none() && outline.initializer_bytes >= open.least_bytes;
        Located { path, cache: self, key: Some(key), entry, is_wanted }
    }

    /// Imports the model at `path` now, unless that has been done; `again` does it once more. `watch` is told the bytes
    /// that have been written, again and again, and says whether to go on. Blocks for as long as it takes.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`] when the model is refused; [`ErrorKind::Internal`] when the cache cannot be used;
    /// [`ErrorKind::Cancelled`] when `watch` has said so.
    pub fn import(&self, path: &Path, again: bool, watch: &mut dyn FnMut(u64) -> bool) -> Result<Kept> {
        let open = self.used()?;
        let entry = open.import(path, None, again, &mut Watch::Foreground(watch))?;
        Ok(Kept { key: entry.key, bytes: entry.bytes, used: entry.used, profile: Ok(entry.profile) })
    }

    /// What is in the cache, by key; of large files only the lengths are compared.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when it cannot be read.
    pub fn list(&self) -> Result<Vec<Kept>> {
        let open = self.used()?;
        let listed = open.store.entries().map_err(cannot("read"))?;
        let kept = |listed: store::Listed| {
            let profile = open.store.read(&listed.key, Depth::Lengths).map(|entry| entry.profile);
            Kept { key: listed.key, bytes: listed.bytes, used: listed.used, profile }
        };
        let mut all: Vec<Kept> = listed.into_iter().map(kept).collect();
        all.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(all)
    }

    /// Compares every byte of an entry with what was written.
    ///
    /// # Errors
    /// What is wrong with it, for its user.
    pub fn verify(&self, key: &str) -> Result<(), String> {
        let open = self.used().map_err(|error| error.message().to_owned())?;
        open.store.read(key, Depth::Bytes).map(drop)
    }

    /// Removes what is kept of a model; false when there is nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when it stays.
    pub fn remove(&self, key: &str) -> Result<bool> {
        let open = self.used()?;
        open.measured.remove(key).map_err(cannot("write"))?;
        open.store.remove(key).map_err(cannot("write"))
    }

    /// Waits until nothing is left to import in the background, for `limit` at most; false when something still is.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> bool {
        self.worker.as_ref().is_none_or(|worker| worker.wait(limit))
    }

    /// Imports nothing more; what is being imported is given up.
    pub fn close(&self) {
        if let Some(worker) = &self.worker {
            worker.stop();
        }
    }

    fn used(&self) -> Result<&Open> {
        let open = self.open.as_deref();
        open.ok_or_else(|| Error::new(ErrorKind::Internal, "there is no model cache"))
    }
}

fn cannot(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::new(ErrorKind::Internal, format!("cannot {what} the model cache: {error}"))
}

impl Open {
    fn import(&self, path: &Path, key: Option<&str>, again: bool, watch: &mut Watch<'_>) -> Result<Entry> {
        let outline = ModelFile::read(path)?;
        let stamps = self.stamps(path, &outline)?;
        let found = machine::key(path, &outline, Device::Cpu, &self.digests).map_err(cannot_read)?;
        if key.is_some_and(|key| key != found) {
            return Err(changed());
        }
        if outline.initializer_bytes < self.least_bytes {
            let (bytes, least) = (outline.initializer_bytes, self.least_bytes);
            let reason = format!("its tensors have {bytes} bytes, and importing pays from {least} on");
            let profile = build::profile(path, &outline, Some(reason), None);
            return Ok(Entry { key: found, profile, graph: None, bytes: 0, used: None });
        }
        let store = &self.store;
        // The background does not wait: another process imports, perhaps the same.
        let waits = matches!(watch, Watch::Foreground(_));
        let Some(lock) = store.lock(waits).map_err(cannot("lock"))? else {
            return Err(Error::new(ErrorKind::ModelNotReady, "another process imports models"));
        };
        store.sweep(&lock).map_err(cannot("write"))?;
        let present = if again { None } else { store.find(&found, Depth::Stamps) };
        if let Some(entry) = present {
            return Ok(entry);
        }
        let (size, tensors) = (outline.size, outline.initializer_bytes);
        let bytes = size.saturating_add(tensors);
        let graph = if outline.external.is_empty() { size.saturating_sub(tensors) } else { size };
        // The weights as they are, and as they are packed.
        let room = tensors.saturating_mul(2).saturating_add(graph);
        let folder = store.begin(&lock, &found, room).map_err(cannot("write"))?;
        let job = Job { model: path.to_owned(), folder, key: found.clone() };
        let outcome = self.child.run(&job, bytes, watch);
        if self.stamps(path, &outline)? != stamps {
            return Err(changed());
        }
        match outcome {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::InvalidModel => {
                let folder = store.begin(&lock, &found, 0).map_err(cannot("write"))?;
                let reason = format!("it could not be imported: {error}");
                store.leave_alone(&folder, &found, &build::profile(path, &outline, Some(reason), None))?;
            }
            Err(error) => return Err(error),
        }
        store.publish(&lock, &found).map_err(cannot("write"))
    }

    /// The stamps of all files of a model: the same before and after, they were the same in between.
    fn stamps(&self, path: &Path, outline: &ModelFile) -> Result<Vec<crate::storage::Stamp>> {
        let paths = std::iter::once(path).chain(outline.external.iter().map(AsRef::as_ref));
        let stamp = |path: &Path| self.digests.stamp(path);
        paths.map(stamp).collect::<io::Result<_>>().map_err(cannot_read)
    }

    /// Says once that the cache cannot be written; models are served all the same.
    fn warn(&self, error: &Error) {
        if self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::debug!(cause = error.cause(), "a model was not imported: {error}");
        } else {
            tracing::warn!(
                cause = error.cause(),
                "models are loaded as they are, without being imported: {error}"
            );
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it maps an error")]
fn cannot_read(error: io::Error) -> Error {
    Error::new(ErrorKind::InvalidModel, format!("cannot read the model's files: {error}"))
}

fn changed() -> Error {
    Error::new(ErrorKind::ModelNotReady, "the model's files changed while it was imported")
}

/// A model file, and what is kept of it.
pub struct Located<'a> {
    path: &'a Path,
    cache: &'a ModelCache,
    key: Option<String>,
    entry: Option<Entry>,
    is_wanted: bool,
}

impl Located<'_> {
    /// Makes a session: from what was imported, else from the file itself.
    ///
    /// # Errors
    /// As [`Session::load`].
    pub fn load(&self, options: SessionOptions) -> Result<Arc<Session>> {
        let graph = self.entry.as_ref().and_then(|entry| entry.graph.as_deref());
        let (Some(graph), Some(open)) = (graph, &self.cache.open) else {
            return Session::load(self.path, options);
        };
        Session::load_saved(graph, options).or_else(|error| {
            tracing::warn!(cause = error.cause(), "an imported model is not used: {error}");
            if let Some(Err(error)) = self.key.as_ref().map(|key| open.store.remove(key)) {
                tracing::warn!("a broken imported model cannot be removed: {error}");
            }
            Session::load(self.path, options)
        })
    }

    /// True when it is loaded from what was imported.
    #[must_use]
    pub fn is_imported(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.graph.is_some())
    }

    /// What makes sessions of what was imported, first without packing their weights and later with; `None` where nothing
    /// was imported or it is not asked for.
    #[must_use]
    pub fn quick(&self) -> Option<Quick> {
        let is_asked_for = self.cache.open.as_ref().is_some_and(|open| open.quick_load);
        let graph = self.entry.as_ref().and_then(|entry| entry.graph.clone());
        graph.filter(|_| is_asked_for).map(Quick)
    }

    /// What an earlier load has found out, when it was loaded with the same settings: `question` says all of them.
    #[must_use]
    pub fn recall(&self, question: &str) -> Option<Remembered> {
        let (open, key) = self.kept()?;
        measured::recall(&open.measured, key, question)
    }

    /// The threads of one run, as the last load that found out how to run it has chosen them, with whatever settings.
    #[must_use]
    pub fn threads(&self) -> Option<usize> {
        let (open, key) = self.kept()?;
        measured::threads(&open.measured, key)
    }

    /// Remembers what this load has found out.
    pub fn remember(&self, question: &str, remembered: Remembered) {
        if let Some((open, key)) = self.kept() {
            measured::remember(&open.measured, key, question, remembered);
        }
    }

    /// What forgets all that was found out about it, when it is no longer so.
    pub fn forgetting(&self) -> impl Fn() + Send + 'static {
        let kept = self.kept().map(|(open, key)| (Arc::clone(open), key.to_owned()));
        move || {
            if let Some(Err(error)) = kept.as_ref().map(|(open, key)| open.measured.remove(key)) {
                tracing::debug!("cannot forget what was measured of a model: {error}");
            }
        }
    }

    /// Has it imported in the background, if that pays and has not been tried.
    pub fn want(&self) {
        if let (Some(worker), Some(key), true) = (&self.cache.worker, &self.key, self.is_wanted)
            && let Ok(model) = std::path::absolute(self.path)
        {
            worker.want(Wanted { model, key: key.clone() });
        }
    }

    fn kept(&self) -> Option<(&Arc<Open>, &str)> {
        Some((self.cache.open.as_ref()?, self.key.as_deref()?))
    }
}

/// The graph of an imported model that is to answer before its weights are packed.
#[derive(Clone)]
pub struct Quick(PathBuf);

impl Quick {
    /// Makes a session at once, whose weights are not packed.
    ///
    /// # Errors
    /// As [`Session::load_unpacked`].
    pub fn unpacked(&self, options: SessionOptions) -> Result<Arc<Session>> {
        Session::load_unpacked(&self.0, options)
    }

    /// Makes the session that is to take its place.
    ///
    /// # Errors
    /// As [`Session::load_saved`].
    pub fn packed(&self, options: SessionOptions) -> Result<Arc<Session>> {
        Session::load_saved(&self.0, options)
    }
}

#[cfg(test)]
mod tests;
