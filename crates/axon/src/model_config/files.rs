//! Files that a configuration names: inside the model's folder, and nowhere else.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use crate::error::{Echo, Error, ErrorKind, Result};

/// The largest file of labels, in bytes.
const MAX_LABELS: u64 = 64 << 20;

const MAX_NAME: usize = 1024;

/// Checks that `name` leads downwards only.
pub(super) fn check_relative(name: &str) -> Result<(), String> {
    let is_plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let is_text = name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    if is_plain && is_text && !name.is_empty() {
        return Ok(());
    }
    Err(format!("expected a path inside the model's folder, without `..`, got {}", Echo(name)))
}

/// The file `name` of `folder`, where no link leads out of it.
///
/// # Errors
/// [`ErrorKind::InvalidModel`] when it is not there, is outside, or is no regular file.
pub fn confined(folder: &Path, name: &str) -> Result<PathBuf> {
    let invalid =
        |problem: &str| Error::new(ErrorKind::InvalidModel, format!("{problem}, got {}", Echo(name)));
    check_relative(name).map_err(|problem| Error::new(ErrorKind::InvalidModel, problem))?;
    let missing = |error: std::io::Error| invalid("expected a file in the model's folder").with_source(error);
    let folder = folder.canonicalize().map_err(missing)?;
    let file = folder.join(name).canonicalize().map_err(missing)?;
    if !file.starts_with(&folder) {
        return Err(invalid("expected a file inside the model's folder, not a link out of it"));
    }
    if !file.metadata().map_err(missing)?.is_file() {
        return Err(invalid("expected a regular file"));
    }
    Ok(file)
}

/// Reads labels, one a line.
///
/// # Errors
/// [`ErrorKind::InvalidModel`] when the file cannot be read, is too large or is not UTF-8.
pub fn read_labels(folder: &Path, name: &str) -> Result<Vec<String>> {
    let path = confined(folder, name)?;
    let invalid = |problem: &str| Error::new(ErrorKind::InvalidModel, format!("{}: {problem}", Echo(name)));
    let unreadable = |error: std::io::Error| invalid("cannot be read").with_source(error);
    let mut text = String::new();
    let read = File::open(path).map_err(unreadable)?.take(MAX_LABELS + 1).read_to_string(&mut text);
    match read {
        Ok(size) if size as u64 > MAX_LABELS => {
            Err(invalid(&format!("expected at most {MAX_LABELS} bytes of labels")))
        }
        Ok(_) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err(invalid("expected UTF-8")),
        Err(error) => Err(unreadable(error)),
    }
}
