//! What a repository holds, and what is wrong with it, without serving it: `axon models` and `axon check`.

use std::path::{Path, PathBuf};

use super::residents::file_bytes;
use super::scan::{check_name, holds_versions};
use super::source::Source;
use super::{Found, ModelRepository};
use crate::config::{ControlMode, ServerConfig};
use crate::error::{Error, ErrorKind, Result};

/// The most entries of a folder that are looked at beside its models.
const MAX_ENTRIES: usize = 20_000;

/// One version, or something that is no model.
#[derive(Debug)]
pub struct Examined {
    /// The model; the file's own name for what is none.
    pub name: String,
    /// The version; `None` for what is no model.
    pub version: Option<u64>,
    /// Its file, or the folder that is at fault.
    pub path: PathBuf,
    /// The bytes of its file.
    pub bytes: u64,
    /// Why it cannot be served.
    pub problem: Option<Error>,
    /// What its owner should know all the same.
    pub warnings: Vec<String>,
}

/// Finds what is at `path`, in the order of names; loads each version and lets it go again if `loads`.
///
/// # Errors
/// [`ErrorKind::InvalidModel`] when the path cannot be read, and as for a wrong setting.
pub fn examine(path: &Path, config: ServerConfig, loads: bool) -> Result<Vec<Examined>> {
    let config = ServerConfig { control: ControlMode::None, load_models: Vec::new(), ..config };
    let (_, found) = Source::open(path, &config)?;
    let repository = if loads {
        Some(ModelRepository::open(path, config).map(|(repository, _)| repository)?)
    } else {
        None
    };
    let mut examined: Vec<Examined> = found.iter().map(|one| version(one, repository.as_ref())).collect();
    if path.is_dir() {
        examined.extend(passed_over(path, &found));
    }
    examined.sort_by(|one, other| (&one.name, one.version).cmp(&(&other.name, other.version)));
    Ok(examined)
}

fn version(found: &Found, repository: Option<&ModelRepository>) -> Examined {
    let (path, problem) = match &found.path {
        Err(error) => (found.folder.clone().unwrap_or_default(), Some(error.clone())),
        Ok(path) => {
            let outcome = repository.map_or(Ok(()), |repository| repository.load_version(found).map(drop));
            (path.clone(), outcome.err())
        }
    };
    Examined {
        name: found.name.clone(),
        version: Some(found.version),
        bytes: file_bytes(found),
        path,
        problem,
        warnings: found.configuration.warnings().to_vec(),
    }
}

/// What lies in a repository and looks like a model, but is none.
fn passed_over(root: &Path, found: &[Found]) -> Vec<Examined> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten().take(MAX_ENTRIES);
    let mut over = Vec::new();
    for path in entries.map(|entry| entry.path()) {
        let (is_folder, is_file) =
            (path.is_dir(), path.extension().is_some_and(|extension| extension == "onnx"));
        let name = if is_folder { path.file_name() } else { path.file_stem() };
        let name = name.unwrap_or_default().to_string_lossy().into_owned();
        let is_found = found.iter().any(|one| one.name == name);
        if is_found || name.starts_with('.') || !(is_folder || is_file) {
            continue;
        }
        let mut one = Examined {
            name: name.clone(),
            version: None,
            path: path.clone(),
            bytes: 0,
            problem: None,
            warnings: Vec::new(),
        };
        match check_name(&name) {
            Err(error) if is_file || holds_versions(&path) => {
                let hint = "rename it";
                one.problem =
                    Some(Error::new(ErrorKind::InvalidModel, format!("{}\nhint: {hint}", error.message())));
            }
            Ok(()) if is_folder => one.warnings.push(
                "holds no version folder and no configuration, so it is no model\nhint: put the file at `1/model.onnx` in it"
                    .to_owned(),
            ),
            _ => continue,
        }
        over.push(one);
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_model_is_named_and_what_is_one_is_listed() {
        let root = std::env::temp_dir().join(format!("axon-examine-{}", std::process::id()));
        for folder in ["good/1", "empty", "bad name/1", "typo/1"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::write(root.join("good/1/model.onnx"), "bytes").unwrap();
        std::fs::write(root.join("typo/1/model.onnx"), "bytes").unwrap();
        std::fs::write(root.join("typo/config.pbtxt"), "\nmax_bath_size: 1").unwrap();
        std::fs::write(root.join("also bad.onnx"), "bytes").unwrap();
        let examined = examine(&root, ServerConfig::default(), false).unwrap();
        let seen: Vec<_> = examined
            .iter()
            .map(|one| (one.name.as_str(), one.version, one.problem.is_some(), one.warnings.len(), one.bytes))
            .collect();
        let expected = [
            ("also bad", None, true, 0, 0),
            ("bad name", None, true, 0, 0),
            ("empty", None, false, 1, 0),
            ("good", Some(1), false, 0, 5),
            ("typo", Some(1), true, 0, 0),
        ];
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(seen, expected);
        let typo = examined.iter().find(|one| one.name == "typo").unwrap();
        let problem = typo.problem.as_ref().unwrap().message();
        assert!(problem.contains("config.pbtxt:2:"), "{problem}");
        assert!(examine(&root, ServerConfig::default(), false).is_err(), "it is gone");
    }
}
