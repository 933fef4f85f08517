//! Where a server's models come from: one model file, or a folder of models.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::scan::{Found, check_name, scan, scan_model_with};
use crate::config::{ControlMode, ServerConfig};
use crate::error::{Echo, Error, ErrorKind, Result, echo_names};
use crate::model_config::ModelConfiguration;
use crate::residency::EvictionPolicy;

/// The name that stands for all models.
const ALL: &str = "*";

/// The most files of a model that are looked at to see whether one has changed.
const MAX_STAMPS: usize = 4096;

/// The most folders that are watched.
const MAX_FOLDERS: usize = 16_384;

/// What changes with a model's files: time of change, size and inode, by path.
pub(super) type Stamps = BTreeMap<PathBuf, (Option<SystemTime>, u64, u64)>;

/// The path that a server was started with.
pub(super) struct Source {
    /// Absolute, since it is read again long after the process may have changed its folder.
    path: PathBuf,
    /// The name of a lone file's model, when it is not the file's.
    name: Option<String>,
}

impl Source {
    /// The models at `path`, named and chosen as `config` says, and the source to find them in again.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`] when the path cannot be read; [`ErrorKind::InvalidRequest`] or
    /// [`ErrorKind::ModelNotFound`] when a setting does not fit what is there.
    pub fn open(path: &Path, config: &ServerConfig) -> Result<(Self, Vec<Found>)> {
        let found = choose(scan_named(path, config.name.as_deref())?, config)?;
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok((Self { path: absolute, name: config.name.clone() }, found))
    }

    /// The versions of one model as they are there now; none when it is not. `configuration` stands in the place of the
    /// model's own.
    ///
    /// # Errors
    /// When the repository cannot be read, and when the configuration is another model's.
    pub fn find(&self, name: &str, configuration: Option<ModelConfiguration>) -> Result<Vec<Found>> {
        if self.path.is_dir() {
            return scan_model_with(&self.path, name, configuration);
        }
        let mut found = scan_named(&self.path, self.name.as_deref()).map_err(unreadable)?;
        found.retain(|one| one.name == name);
        if let Some(configuration) = configuration {
            configuration.check_name(name)?;
            let configuration = Arc::new(configuration);
            for one in &mut found {
                one.configuration = Arc::clone(&configuration);
            }
        }
        Ok(found)
    }

    /// The files of a model as they are now: its folder's, its version folders', or the lone file. `None` when they are
    /// too many to tell.
    pub fn stamps(&self, name: &str) -> Option<Stamps> {
        let folder = self.path.join(name);
        let mut paths = vec![self.path.join(format!("{name}.onnx")), self.path.clone()];
        let inside = |folder: &Path| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).take(MAX_STAMPS + 1).collect::<Vec<_>>()
        };
        for entry in inside(&folder) {
            paths.extend(inside(&entry));
            paths.push(entry);
            if paths.len() > MAX_STAMPS {
                return None;
            }
        }
        let stamp = |path: PathBuf| {
            let metadata = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
            Some((path, (metadata.modified().ok(), metadata.len(), metadata.ino())))
        };
        Some(paths.into_iter().filter_map(stamp).collect())
    }

    /// The names that models there could have, without reading any.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub fn listed(&self) -> Result<BTreeSet<String>> {
        if !self.path.is_dir() {
            return self.names();
        }
        let read = |error: std::io::Error| unreadable(Error::internal(error));
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(&self.path).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
            let name = name.unwrap_or_default().to_string_lossy();
            let is_model = path.is_dir() || path.extension().is_some_and(|extension| extension == "onnx");
            if is_model && check_name(&name).is_ok() {
                names.insert(name.into_owned());
            }
        }
        Ok(names)
    }

    /// The folders in which a change can change a model: the repository, the models', their versions'; at most
    /// [`MAX_FOLDERS`].
    pub fn folders(&self) -> BTreeSet<PathBuf> {
        if !self.path.is_dir() {
            return self.path.parent().map(Path::to_owned).into_iter().collect();
        }
        let mut folders = BTreeSet::from([self.path.clone()]);
        let mut level = vec![self.path.clone()];
        for _ in 0..2 {
            let inside =
                level.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
            level = inside.map(|entry| entry.path()).filter(|path| path.is_dir()).take(MAX_FOLDERS).collect();
            folders.extend(level.iter().cloned());
        }
        folders.into_iter().take(MAX_FOLDERS).collect()
    }

    /// The names of all models that are there now.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub fn names(&self) -> Result<BTreeSet<String>> {
        let found = scan_named(&self.path, self.name.as_deref()).map_err(unreadable)?;
        Ok(found.into_iter().map(|one| one.name).collect())
    }
}

/// Whoever asks for a model is not told where the repository is.
#[allow(clippy::needless_pass_by_value, reason = "it maps an error")]
fn unreadable(error: Error) -> Error {
    Error::new(ErrorKind::Internal, "the model repository cannot be read").with_source(error)
}

fn scan_named(path: &Path, name: Option<&str>) -> Result<Vec<Found>> {
    let Some(name) = name else { return scan(path) };
    check_name(name)?;
    if path.is_dir() {
        return Err(Error::invalid("name", "expected a model file to name, got a folder"));
    }
    if !path.exists() {
        return scan(path);
    }
    Ok(vec![Found::file(name.to_owned(), path.to_owned())])
}

/// What is loaded at start.
fn choose(mut found: Vec<Found>, config: &ServerConfig) -> Result<Vec<Found>> {
    let wanted = &config.load_models;
    if config.memory_budget.is_some() && config.control != ControlMode::Auto {
        return Err(Error::invalid(
            "memory_budget",
            format_args!(
                "expected none in mode `{}`, where what is loaded stays\nhint: `--model-control-mode auto`",
                config.control
            ),
        ));
    }
    if config.eviction_policy != EvictionPolicy::default() && config.control != ControlMode::Auto {
        return Err(Error::invalid(
            "eviction_policy",
            format_args!(
                "expected none in mode `{}`, where nothing is evicted, got `{}`\nhint: `--model-control-mode auto`",
                config.control, config.eviction_policy
            ),
        ));
    }
    if config.control != ControlMode::Explicit {
        return match wanted.first() {
            None => Ok(found),
            Some(name) => {
                let why = match config.control {
                    ControlMode::Auto => "each model is loaded when it is asked for",
                    _ => "all models are loaded at start",
                };
                Err(Error::invalid(
                    "load_models",
                    format_args!(
                        "expected no names, since {why}, got {}\nhint: `--model-control-mode explicit` loads only these",
                        Echo(name)
                    ),
                ))
            }
        };
    }
    if wanted.iter().any(|name| name == ALL) {
        return Ok(found);
    }
    let known: BTreeSet<&str> = found.iter().map(|one| one.name.as_str()).collect();
    if let Some(name) = wanted.iter().find(|name| !known.contains(name.as_str())) {
        return Err(Error::at(
            ErrorKind::ModelNotFound,
            "load_models",
            format_args!(
                "model {} is not here; expected one of {}",
                Echo(name),
                echo_names(known.into_iter())
            ),
        ));
    }
    found.retain(|one| wanted.contains(&one.name));
    Ok(found)
}
