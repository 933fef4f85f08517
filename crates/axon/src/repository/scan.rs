//! What a path holds: one model file, or a folder of models.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Echo, Error, ErrorKind, Result};

/// The longest model name, in bytes.
const MAX_NAME: usize = 128;

/// The most models of one folder.
const MAX_MODELS: usize = 10_000;

/// A model version that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The model's name: the file's, without `.onnx`, or the folder's.
    pub name: String,
    /// Its version; 1 for a lone file.
    pub version: u64,
    /// Its file, or why it cannot be served.
    pub path: Result<PathBuf>,
}

/// Checks a model name: letters, digits, `_`, `.` and `-`, beginning with none of the last two, at most 128 bytes.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] at `model_name`.
pub fn check_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if first && name.len() <= MAX_NAME && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::invalid(
        "model_name",
        format_args!(
            "expected 1 to {MAX_NAME} of a-z A-Z 0-9 _ . - beginning with none of `.-`, got {}",
            Echo(name)
        ),
    ))
}

/// Finds the models at `path`: a model file, or a folder of `name.onnx` files and of `name/1/model.onnx` folders.
///
/// What is in the folder and is no model is passed over, except that a folder with version folders and without a
/// model file is found with its error.
///
/// # Errors
/// [`ErrorKind::InvalidModel`] when the path is not there or cannot be read.
pub fn scan(path: &Path) -> Result<Vec<Found>> {
    let unreadable = |error: std::io::Error| {
        Error::new(ErrorKind::InvalidModel, format!("cannot read `{}`: {error}", path.display()))
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_dir() {
        let name = model_name(path).map_err(|_| {
            let hint = "rename it, or give a name";
            Error::new(
                ErrorKind::InvalidModel,
                format!("the file name `{}` makes no model name\nhint: {hint}", path.display()),
            )
        })?;
        return Ok(vec![Found { name, version: 1, path: Ok(path.to_owned()) }]);
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
        .map_err(unreadable)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    entries.sort();
    let mut found: BTreeMap<(String, u64), Found> = BTreeMap::new();
    for one in entries.iter().flat_map(|entry| scan_entry(entry)) {
        let key = (one.name.clone(), one.version);
        if let Some(first) = found.get_mut(&key) {
            first.path = Err(Error::new(
                ErrorKind::InvalidModel,
                format!(
                    "model {} version {} is here twice: as a file and as a folder",
                    Echo(&one.name),
                    one.version
                ),
            ));
            continue;
        }
        found.insert(key, one);
        if found.len() > MAX_MODELS {
            return Err(Error::new(ErrorKind::InvalidModel, format!("more than {MAX_MODELS} models")));
        }
    }
    Ok(found.into_values().collect())
}

fn scan_entry(entry: &Path) -> Vec<Found> {
    let is_file = entry.is_file() && entry.extension().is_some_and(|extension| extension == "onnx");
    match model_name(entry) {
        Ok(name) if is_file => vec![Found { name, version: 1, path: Ok(entry.to_owned()) }],
        Ok(name) if entry.is_dir() => scan_versions(&name, entry),
        Err(error) if is_file || holds_versions(entry) => {
            tracing::warn!("a model is passed over: {error}");
            Vec::new()
        }
        _ => Vec::new(),
    }
}

fn model_name(path: &Path) -> Result<String> {
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let name = name.unwrap_or_default().to_string_lossy().into_owned();
    check_name(&name)?;
    Ok(name)
}

fn holds_versions(folder: &Path) -> bool {
    !versions(folder).is_empty()
}

/// The version folders, by number. **Source:** Triton: a version is a positive integer without leading zeros.
fn versions(folder: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let version = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        let number: u64 =
            name.parse().ok().filter(|number| (1..=i64::MAX.unsigned_abs()).contains(number))?;
        (number.to_string() == name && path.is_dir()).then_some((number, path))
    };
    let mut versions: Vec<_> = entries.flatten().filter_map(|entry| version(entry.path())).collect();
    versions.sort();
    versions
}

fn scan_versions(name: &str, folder: &Path) -> Vec<Found> {
    if folder.join("config.pbtxt").exists() {
        tracing::warn!(model = name, "config.pbtxt is not read by this version of Axon");
    }
    let found = |(version, folder): (u64, PathBuf)| {
        let file = folder.join("model.onnx");
        let path = if file.is_file() {
            Ok(file)
        } else {
            Err(Error::new(ErrorKind::InvalidModel, format!("version {version} has no file model.onnx")))
        };
        Found { name: name.to_owned(), version, path }
    };
    versions(folder).into_iter().map(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_repository_are_refused() {
        for name in ["digits", "_x", "a.b-c_1", &"x".repeat(128)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in
            ["", ".", "..", "../x", "..%2fx", "a/../b", "a\0b", "$(id)", ";id", " ..", "-x", &"x".repeat(129)]
        {
            assert_eq!(check_name(name).unwrap_err().field(), Some("model_name"), "{name}");
        }
    }

    #[test]
    fn both_layouts_are_found_and_the_rest_is_passed_over() {
        let root = std::env::temp_dir().join(format!("axon-scan-{}", std::process::id()));
        let touch = |path: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        };
        for path in [
            "b.onnx",
            "a/1/model.onnx",
            "a/12/model.onnx",
            "a/01/model.onnx",
            "a/abc/model.onnx",
            "a/0/model.onnx",
        ] {
            touch(path);
        }
        for path in
            ["c/1/other.onnx", "notes.txt", "empty/readme", "bad name.onnx", "b/1/model.onnx", ".hidden.onnx"]
        {
            touch(path);
        }
        let found = scan(&root).unwrap();
        let summary: Vec<_> =
            found.iter().map(|one| (one.name.as_str(), one.version, one.path.is_ok())).collect();
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(summary, [("a", 1, true), ("a", 12, true), ("b", 1, false), ("c", 1, false)]);
        assert_eq!(scan(&root).unwrap_err().kind(), ErrorKind::InvalidModel);
    }
}
