//! The file that declares aliases: read at start, on demand, and when it has changed in mode `poll`.
//!
//! What the file declares takes effect as a whole and at one moment, or not at all. Aliases that a request has set stay
//! until the file declares them too.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::InferenceServer;
use super::aliased::hides;
use crate::alias::{Declared, MAX_FILE_BYTES, Origin, parse_file, within};
use crate::error::{Echo, Error, ErrorKind, Result};

/// The file of a folder of models.
const NAME: &str = "aliases.toml";

/// How long the file must have stayed the same.
const SETTLE: Duration = Duration::from_millis(500);

/// What changes with the file; `None` while it is not there.
type Stamp = Option<(Option<SystemTime>, u64, u64)>;

/// Where aliases are declared.
pub(super) struct AliasFile {
    /// Absolute, since it is read again long after the process may have changed its folder.
    path: PathBuf,
    /// Whether it must be there.
    is_named: bool,
}

/// What of the file has been acted on, and what is on its way.
pub(super) struct Seen {
    acted_on: Stamp,
    moving: Option<(Stamp, Instant)>,
    /// Why the last try changed nothing.
    trouble: Option<String>,
}

impl AliasFile {
    /// The file that `named` says, else that of the folder at `models`.
    pub fn new(models: &Path, named: Option<&Path>) -> Self {
        let path = named.map_or_else(|| models.join(NAME), Path::to_owned);
        let path = std::path::absolute(&path).unwrap_or(path);
        Self { path, is_named: named.is_some() }
    }

    /// The folder that tells of its changes.
    pub fn folder(&self) -> Option<PathBuf> {
        self.path.parent().filter(|folder| folder.is_dir()).map(Path::to_owned)
    }

    fn stamp(&self) -> Stamp {
        let metadata = std::fs::metadata(&self.path).ok()?;
        Some((metadata.modified().ok(), metadata.len(), metadata.ino()))
    }

    /// The file as it is now, which was acted on.
    pub fn seen(&self) -> Seen {
        Seen { acted_on: self.stamp(), moving: None, trouble: None }
    }

    /// What it declares; nothing where it is not there and need not be.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] at `aliases` that names the alias and the field.
    fn read(&self) -> Result<BTreeMap<String, Declared>> {
        let unreadable = |problem: &dyn std::fmt::Display| {
            Error::invalid("aliases", format_args!("cannot be read: {problem}"))
        };
        let metadata = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !self.is_named => {
                return Ok(BTreeMap::new());
            }
            // A lone model file has no folder.
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory && !self.is_named => {
                return Ok(BTreeMap::new());
            }
            Err(error) => return Err(unreadable(&error)),
        };
        if !metadata.is_file() {
            return Err(unreadable(&"expected a regular file"));
        }
        let mut text = String::new();
        let file = std::fs::File::open(&self.path).map_err(|error| unreadable(&error))?;
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| unreadable(&error))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(unreadable(&format_args!("expected at most {MAX_FILE_BYTES} bytes, got more")));
        }
        parse_file(&text).map_err(|error| error.within("aliases").with_field("aliases"))
    }
}

impl InferenceServer {
    /// Reads the file of aliases again, and has it take effect as a whole; returns how many aliases it declares.
    /// Blocks for as long as that takes: not for an event loop.
    ///
    /// # Errors
    /// As for [`InferenceServer::set_alias`] and for a file that is wrong; nothing changes then.
    pub fn reread_aliases(&self) -> Result<usize> {
        let declared = self.inner.alias_file.read()?;
        self.declare(declared, |name, declared| self.check_targets(name, declared))
    }

    /// Reads the file before any model is loaded.
    pub(super) fn declare_at_start(&self) -> Result<()> {
        let declared = self.inner.alias_file.read()?;
        if !declared.is_empty() {
            self.declare(declared, |_, declared| self.check_offered(declared))?;
        }
        Ok(())
    }

    /// Has what the file declares take effect, if `check` finds nothing wrong with what is new of it.
    fn declare(
        &self,
        declared: BTreeMap<String, Declared>,
        check: impl Fn(&str, &Declared) -> Result<()>,
    ) -> Result<usize> {
        let models = self.inner.repository.names()?;
        let before = self.inner.aliases.report();
        let is_new = |name: &str, declared: &Declared| {
            !before.iter().any(|known| known.name == name && known.declared == *declared)
        };
        for (name, declared) in &declared {
            if models.contains(name) {
                return Err(of_file(name, &hides(name, declared)));
            }
            if is_new(name, declared) {
                check(name, declared).map_err(|error| of_file(name, &error))?;
            }
        }
        let count = declared.len();
        let mut change = self.inner.aliases.change();
        change.retain_of_file(|name| declared.contains_key(name));
        for (name, declared) in declared {
            change.set(&name, declared, Origin::File).map_err(|error| of_file(&name, &error))?;
        }
        change.publish(|| self.finder())?;
        Ok(count)
    }

    /// Checks that the repository has every target, whether or not it is loaded.
    fn check_offered(&self, declared: &Declared) -> Result<()> {
        let shadow = declared.shadow().map(|shadow| ("shadow".to_owned(), &shadow.to));
        let targets = declared.targets().iter().enumerate();
        let targets = targets.map(|(index, target)| (format!("targets[{index}]"), &target.to));
        for (field, to) in targets.chain(shadow) {
            let offered = self.inner.repository.offered(&to.model)?;
            if offered.is_empty() || to.version.is_some_and(|version| !offered.contains(&version)) {
                let has: Vec<String> = offered.iter().map(u64::to_string).collect();
                let has = crate::error::echo_names(has.iter().map(String::as_str));
                return Err(Error::at(
                    ErrorKind::ModelNotFound,
                    field,
                    format_args!(
                        "{} is not in the repository, whose versions of it are {has}",
                        Echo(&to.to_string())
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Looks at the file once, and has it take effect when it has changed and settled; true while it is on its way.
    pub(super) fn follow_aliases(&self, seen: &mut Seen) -> bool {
        let (now, file) = (Instant::now(), &self.inner.alias_file);
        let stamp = file.stamp();
        if seen.acted_on == stamp && seen.trouble.is_none() {
            seen.moving = None;
            return false;
        }
        match &seen.moving {
            Some((moving, since)) if *moving == stamp => {
                if now.duration_since(*since) < SETTLE {
                    return true;
                }
            }
            // One that is tried again has settled.
            _ if seen.acted_on == stamp => {}
            _ => {
                seen.moving = Some((stamp, now));
                return true;
            }
        }
        seen.moving = None;
        seen.acted_on = stamp;
        let trouble = self.reread_aliases().err().map(|error| error.to_string());
        match &trouble {
            Some(problem) if seen.trouble.as_ref() != Some(problem) => {
                tracing::error!("the aliases stay as they are: {problem}");
            }
            None => tracing::info!("the aliases were read again"),
            Some(_) => {}
        }
        seen.trouble = trouble;
        false
    }
}

fn of_file(name: &str, error: &Error) -> Error {
    within(name, error).within("aliases").with_field("aliases")
}
