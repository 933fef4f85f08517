//! What a load request brings itself: a configuration, and files that stand in for the model's folder.
//!
//! ONNX Runtime finds a model's external weights beside it only when it loads from a path. Such files are therefore
//! written to a folder of their own under the system's temporary folder (`TMPDIR`), which only this process's user can
//! enter, and which is removed as soon as the model is loaded or refused. Nothing is written into the repository.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::fs::{DirBuilder, OpenOptions};
use std::hash::BuildHasher;
use std::io::{self, ErrorKind as IoErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use super::scan::check_name;
use crate::error::{Echo, Error, ErrorKind, Result};

/// The longest configuration, in bytes.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// The most bytes of all files of one load.
pub const MAX_FILE_BYTES: usize = 1 << 30;

/// The most files of one load.
pub const MAX_FILES: usize = 256;

/// What a load uses instead of what the repository holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOverrides {
    /// The configuration as JSON text, at most [`MAX_CONFIG_BYTES`].
    pub config: Option<String>,
    /// Contents by `file:<version>/<name>`, as the protocol's parameter is called; they are all that the model's folder
    /// holds. They need a configuration, and are together at most [`MAX_FILE_BYTES`].
    pub files: Vec<(String, Vec<u8>)>,
}

impl LoadOverrides {
    /// Checks sizes, names and that the configuration is a JSON object.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] or [`ErrorKind::RequestTooLarge`] at `parameters.config` or at
    /// `parameters.file:…`.
    pub fn check(&self) -> Result<()> {
        if let Some(config) = &self.config {
            check_config(config)?;
        }
        if self.files.is_empty() {
            return Ok(());
        }
        if self.config.is_none() {
            return Err(Error::invalid(CONFIG, "expected a model configuration beside the files, got none"));
        }
        if self.files.len() > MAX_FILES {
            return Err(Error::at(
                ErrorKind::RequestTooLarge,
                "parameters",
                format_args!("expected at most {MAX_FILES} files, got {}", self.files.len()),
            ));
        }
        let mut places = BTreeSet::new();
        let mut total = 0_usize;
        for (key, bytes) in &self.files {
            if !places.insert(place(key)?) {
                return Err(Error::invalid(field(key), "expected each file once, got it twice"));
            }
            total = total.saturating_add(bytes.len());
            if total > MAX_FILE_BYTES {
                return Err(Error::at(
                    ErrorKind::RequestTooLarge,
                    field(key),
                    format_args!(
                        "expected at most {MAX_FILE_BYTES} bytes in all files, got {total} with this"
                    ),
                ));
            }
        }
        Ok(())
    }
}

const CONFIG: &str = "parameters.config";

fn check_config(config: &str) -> Result<()> {
    if config.len() > MAX_CONFIG_BYTES {
        return Err(Error::invalid(
            CONFIG,
            format_args!("expected at most {MAX_CONFIG_BYTES} bytes, got {}", config.len()),
        ));
    }
    let wrong = |problem: &dyn std::fmt::Display| {
        Error::invalid(CONFIG, format_args!("expected a JSON object: {problem}"))
    };
    if !config.trim_start().starts_with('{') {
        return Err(wrong(&"got another value, or nothing"));
    }
    // Read to its end and kept nowhere, so that its size is all that it costs.
    serde_json::from_str::<IgnoredAny>(config).map(drop).map_err(|error| wrong(&error))
}

/// The parameter as an error names it.
fn field(key: &str) -> String {
    let plain: String = key.chars().filter(|character| !character.is_control()).take(64).collect();
    format!("parameters.{plain}")
}

/// The version and the file name of a key.
fn place(key: &str) -> Result<(u64, &str)> {
    let wrong = || {
        Error::invalid(
            field(key),
            format_args!(
                "expected `file:<version>/<name>` with a name of 1 to 128 of a-z A-Z 0-9 _ . - beginning with none of `.-`, got {}",
                Echo(key)
            ),
        )
    };
    let (version, name) =
        key.strip_prefix("file:").and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
    let number: u64 = version.parse().map_err(|_| wrong())?;
    // As the version folders of a repository: a positive number without leading zeros.
    if !(1..=i64::MAX.unsigned_abs()).contains(&number) || number.to_string() != version {
        return Err(wrong());
    }
    // A file's name is held to what a model's is: it cannot leave its folder, whatever the file system.
    check_name(name).map_err(|_| wrong())?;
    Ok((number, name))
}

/// Files on their way into a model; removed when dropped.
pub(super) struct Staged {
    root: PathBuf,
}

impl Staged {
    /// Writes `files`, which have been checked, as the folder of model `name`. Copies every byte once, to the disk or
    /// memory that holds temporary files.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when they cannot be written.
    pub fn write(name: &str, files: &[(String, Vec<u8>)]) -> Result<Self> {
        let staged = Self { root: private_folder(&std::env::temp_dir()).map_err(Error::internal)? };
        for (key, bytes) in files {
            let (version, file) = place(key)?;
            let folder = staged.root.join(name).join(version.to_string());
            let write = || {
                DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(0o600).open(folder.join(file))?.write_all(bytes)
            };
            write().map_err(Error::internal)?;
        }
        Ok(staged)
    }

    /// The repository that holds the one model.
    pub fn path(&self) -> &Path {
        &self.root
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.root) {
            tracing::warn!("the files of a load could not be removed from the temporary folder: {error}");
        }
    }
}

/// Creates a folder whose name says whose it is and is not guessed. Creating fails on whatever is there already, a link included, so
/// that nobody else can own or choose it.
fn private_folder(parent: &Path) -> io::Result<PathBuf> {
    const TRIES: usize = 16;
    for _ in 0..TRIES {
        let id = std::process::id();
        let name = format!("axon-load-{id}-{:016x}", RandomState::new().hash_one(id));
        let path = parent.join(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == IoErrorKind::AlreadyExists => {}
            outcome => return outcome.map(|()| path),
        }
    }
    Err(IoErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn files(keys: &[&str]) -> LoadOverrides {
        let files = keys.iter().map(|key| ((*key).to_owned(), b"bytes".to_vec())).collect();
        LoadOverrides { config: Some("{}".to_owned()), files }
    }

    #[test]
    fn a_file_stays_in_its_version_folder() {
        for key in ["file:1/model.onnx", "file:9223372036854775807/model.onnx.data", "file:12/_weights-0"] {
            assert!(files(&[key]).check().is_ok(), "{key}");
        }
        let long = format!("file:1/{}", "x".repeat(256));
        for key in [
            "file:../x",
            "file:/abs",
            "file:/etc/passwd",
            "file:1//etc/passwd",
            &long,
            "file:model.onnx",
            "file:1",
            "file:1/",
            "file:1/..",
            "file:1/.",
            "file:1/../2/model.onnx",
            "file:1/a/b",
            "file:1/a\\b",
            "file:1/a\0b",
            "file:1/.hidden",
            "file:1/-x",
            "file:1/%2e%2e",
            "file:1/\u{2024}\u{2024}",
            "file:0/x",
            "file:01/x",
            "file:-1/x",
            "file:+1/x",
            "file:18446744073709551616/x",
            "file:x/y",
            "file:",
            "1/model.onnx",
            "",
        ] {
            let error = files(&[key]).check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{key}");
            assert!(error.field().unwrap().starts_with("parameters."), "{key}: {error}");
            assert!(error.message().len() < 512, "{error}");
        }
    }

    #[test]
    fn files_come_once_with_a_configuration_and_within_limits() {
        let twice = files(&["file:1/a", "file:1/a"]).check().unwrap_err();
        assert_eq!(twice.field(), Some("parameters.file:1/a"));
        let alone = LoadOverrides { config: None, ..files(&["file:1/a"]) }.check().unwrap_err();
        assert_eq!((alone.kind(), alone.field()), (ErrorKind::InvalidRequest, Some("parameters.config")));
        let keys: Vec<String> = (0..=MAX_FILES).map(|number| format!("file:1/{number}")).collect();
        let many = files(&keys.iter().map(String::as_str).collect::<Vec<_>>()).check().unwrap_err();
        assert_eq!((many.kind(), many.field()), (ErrorKind::RequestTooLarge, Some("parameters")));
        // Zeros of the system's that nothing touches: the size costs no memory.
        let mut large = files(&["file:1/a"]);
        large.files.push(("file:1/b".to_owned(), vec![0; MAX_FILE_BYTES]));
        let large = large.check().unwrap_err();
        assert_eq!((large.kind(), large.field()), (ErrorKind::RequestTooLarge, Some("parameters.file:1/b")));
    }

    #[test]
    fn a_configuration_is_a_json_object_of_bounded_size() {
        let check = |config: String| LoadOverrides { config: Some(config), files: Vec::new() }.check();
        assert!(check(r#"{"max_batch_size":8,"parameters":{}}"#.to_owned()).is_ok());
        for config in ["", "{", "[]", "8", "\"{}\"", "{}{}", &"[".repeat(100_000), &" ".repeat(10 << 20)] {
            let error = check(config.to_owned()).unwrap_err();
            assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidRequest, Some("parameters.config")));
        }
        assert!(check("{\n\"a\":}".to_owned()).unwrap_err().message().contains("line 2 column"));
    }

    #[test]
    fn staged_files_are_private_and_removed() {
        let overrides = files(&["file:1/model.onnx", "file:2/weights"]);
        let staged = Staged::write("m", &overrides.files).unwrap();
        let root = staged.path().to_owned();
        assert_eq!(root.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read(root.join("m/2/weights")).unwrap(), b"bytes");
        assert_eq!(root.join("m/1/model.onnx").metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(Staged::write("m", &overrides.files).unwrap().path(), root);
        drop(staged);
        assert!(!root.exists());
    }
}
