//! What a path holds: one model file, or a folder of models, each with its configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Echo, Error, ErrorKind, Result};
use crate::model_config::{ModelConfiguration, VersionPolicy, confined};
use crate::reason::Reason;

/// The longest model name, in bytes.
const MAX_NAME: usize = 128;

/// The most models of one folder.
const MAX_MODELS: usize = 10_000;

/// The file of a version, where the configuration names no other.
const MODEL_FILE: &str = "model.onnx";

/// A model version that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The model's name: the file's, without `.onnx`, or the folder's.
    pub name: String,
    /// Its version; 1 for a lone file.
    pub version: u64,
    /// Its file, or the version's folder for a backend without one; or why it cannot be served.
    pub path: Result<PathBuf>,
    /// The model's folder, where the files lie that its configuration names; `None` for a lone file.
    pub folder: Option<PathBuf>,
    /// What is configured of it; the same for all its versions.
    pub configuration: Arc<ModelConfiguration>,
}

impl Found {
    /// A model file without a configuration.
    #[must_use]
    pub fn file(name: String, path: PathBuf) -> Self {
        Self { name, version: 1, path: Ok(path), folder: None, configuration: Arc::default() }
    }
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
    let error = Error::invalid(
        "model_name",
        format_args!(
            "expected 1 to {MAX_NAME} of a-z A-Z 0-9 _ . - beginning with none of `.-`, got {}",
            Echo(name)
        ),
    );
    Err(if name.is_empty() { error.because(Reason::NoModelName) } else { error })
}

/// Finds the models at `path`: a model file, or a folder of `name.onnx` files and of `name/1/model.onnx` folders. Of a
/// folder's versions those are found that its configuration chooses, else the newest.
///
/// What is in the folder and is no model is passed over, except that a folder with a configuration or with version
/// folders, of which none can be served, is found with its error.
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
        return Ok(vec![Found::file(name, path.to_owned())]);
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
        .map_err(unreadable)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    entries.sort();
    let mut found = BTreeMap::new();
    for one in entries.iter().flat_map(|entry| scan_entry(entry)) {
        enter(&mut found, one);
        if found.len() > MAX_MODELS {
            return Err(Error::new(ErrorKind::InvalidModel, format!("more than {MAX_MODELS} models")));
        }
    }
    Ok(found.into_values().collect())
}

/// Finds the versions of one model of the folder `repository`, as [`scan`] does; none when it is not there.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] at `model_name` for a name that no model can have.
pub fn scan_model(repository: &Path, name: &str) -> Result<Vec<Found>> {
    scan_model_with(repository, name, None)
}

/// Like [`scan_model`], with a configuration in place of the model's own.
///
/// # Errors
/// As for [`scan_model`], and when the configuration is another model's.
pub fn scan_model_with(
    repository: &Path,
    name: &str,
    configuration: Option<ModelConfiguration>,
) -> Result<Vec<Found>> {
    check_name(name)?;
    if let Some(configuration) = &configuration {
        configuration.check_name(name)?;
    }
    let mut found = BTreeMap::new();
    let file = repository.join(format!("{name}.onnx"));
    if file.is_file() {
        enter(&mut found, Found::file(name.to_owned(), file));
    }
    let folder = repository.join(name);
    if folder.is_dir() {
        for one in scan_folder(name, &folder, configuration) {
            enter(&mut found, one);
        }
    } else if let Some(configuration) = configuration {
        let configuration = Arc::new(configuration);
        for one in found.values_mut() {
            one.configuration = Arc::clone(&configuration);
        }
    }
    Ok(found.into_values().collect())
}

/// Enters a version; one that was entered before cannot be served.
fn enter(found: &mut BTreeMap<(String, u64), Found>, one: Found) {
    let key = (one.name.clone(), one.version);
    let Some(first) = found.get_mut(&key) else {
        found.insert(key, one);
        return;
    };
    first.path = Err(Error::new(
        ErrorKind::InvalidModel,
        format!("model {} version {} is here twice: as a file and as a folder", Echo(&one.name), one.version),
    ));
}

fn scan_entry(entry: &Path) -> Vec<Found> {
    let is_file = entry.is_file() && entry.extension().is_some_and(|extension| extension == "onnx");
    match model_name(entry) {
        Ok(name) if is_file => vec![Found::file(name, entry.to_owned())],
        Ok(name) if entry.is_dir() => scan_folder(&name, entry, None),
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

pub(super) fn holds_versions(folder: &Path) -> bool {
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

/// Finds the versions of the model in `folder`, by `configuration` or by the folder's own.
fn scan_folder(name: &str, folder: &Path, configuration: Option<ModelConfiguration>) -> Vec<Found> {
    let versions = versions(folder);
    let newest = versions.last().map_or(1, |(version, _)| *version);
    let read = configuration.map_or_else(|| read_configuration(name, folder), Ok);
    let found = |version: u64, path: Result<PathBuf>, configuration: &Arc<ModelConfiguration>| Found {
        name: name.to_owned(),
        version,
        path,
        folder: Some(folder.to_owned()),
        configuration: Arc::clone(configuration),
    };
    let configuration = match read {
        Ok(configuration) => Arc::new(configuration),
        Err(error) => return vec![found(newest, Err(error), &Arc::default())],
    };
    for warning in configuration.warnings() {
        tracing::warn!(model = name, "{warning}");
    }
    let chosen = choose(name, versions, configuration.versions());
    if chosen.is_empty() && configuration.is_given() {
        let none = "the model has none of the version folders that are served, as `1`";
        return vec![found(newest, Err(Error::new(ErrorKind::InvalidModel, none)), &configuration)];
    }
    let file = |version, folder: PathBuf| version_path(version, folder, &configuration);
    chosen
        .into_iter()
        .map(|(version, folder)| found(version, file(version, folder), &configuration))
        .collect()
}

fn read_configuration(name: &str, folder: &Path) -> Result<ModelConfiguration> {
    let configuration = ModelConfiguration::read(folder)?.unwrap_or_default();
    configuration.check_name(name)?;
    Ok(configuration)
}

fn choose(name: &str, versions: Vec<(u64, PathBuf)>, policy: &VersionPolicy) -> Vec<(u64, PathBuf)> {
    match policy {
        VersionPolicy::All => versions,
        VersionPolicy::Latest(count) => {
            let older = versions.len().saturating_sub(count.get());
            versions.into_iter().skip(older).collect()
        }
        VersionPolicy::Specific(wanted) => {
            for version in
                wanted.iter().filter(|&wanted| versions.iter().all(|(version, _)| version != wanted))
            {
                tracing::warn!(model = name, version, "a version that is to be served has no folder");
            }
            versions.into_iter().filter(|(version, _)| wanted.contains(version)).collect()
        }
    }
}

fn version_path(version: u64, folder: PathBuf, configuration: &ModelConfiguration) -> Result<PathBuf> {
    if configuration.is_identity() {
        return Ok(folder);
    }
    if let Some(name) = configuration.file_name() {
        return confined(&folder, name).map_err(|error| {
            configuration.error("default_model_filename", format_args!("version {version}: {error}"))
        });
    }
    let file = folder.join(MODEL_FILE);
    if file.is_file() {
        return Ok(file);
    }
    Err(Error::new(ErrorKind::InvalidModel, format!("version {version} has no file {MODEL_FILE}")))
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

    /// A folder that is removed when it is dropped.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("axon-scan-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&root).unwrap();
            Self(root)
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        /// Name, version and whether it can be served.
        fn found(&self) -> Vec<(String, u64, bool)> {
            scan(&self.0).unwrap().into_iter().map(|one| (one.name, one.version, one.path.is_ok())).collect()
        }

        fn versions(&self, name: &str) -> Vec<u64> {
            let found = scan_model(&self.0, name).unwrap();
            found.iter().filter(|one| one.path.is_ok()).map(|one| one.version).collect()
        }

        fn error(&self, name: &str) -> String {
            let found = scan_model(&self.0, name).unwrap();
            assert_eq!(found.len(), 1, "{name}");
            found[0].path.as_ref().unwrap_err().message().to_owned()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn both_layouts_are_found_and_the_rest_is_passed_over() {
        let root = Root::new("layouts");
        for path in [
            "b.onnx",
            "a/1/model.onnx",
            "a/12/model.onnx",
            "a/01/model.onnx",
            "a/-1/model.onnx",
            "a/abc/model.onnx",
            "a/0/model.onnx",
            "a/18446744073709551616/model.onnx",
            "a/9223372036854775808/model.onnx",
        ] {
            root.write(path, "");
        }
        for path in
            ["c/1/other.onnx", "notes.txt", "empty/readme", "bad name.onnx", "b/1/model.onnx", ".hidden.onnx"]
        {
            root.write(path, "");
        }
        let expected = [("a", 12, true), ("b", 1, false), ("c", 1, false)];
        assert_eq!(root.found(), expected.map(|(name, version, is_ok)| (name.to_owned(), version, is_ok)));
        assert!(scan_model(&root.0, "empty").unwrap().is_empty());
        assert!(scan_model(&root.0, "missing").unwrap().is_empty());
        assert_eq!(scan_model(&root.0, "../x").unwrap_err().field(), Some("model_name"));
        assert_eq!(root.error("b"), "model `b` version 1 is here twice: as a file and as a folder");
        let gone = root.0.join("gone");
        assert_eq!(scan(&gone).unwrap_err().kind(), ErrorKind::InvalidModel);
    }

    #[test]
    fn the_configuration_chooses_the_versions() {
        let root = Root::new("versions");
        for version in [1, 2, 10] {
            root.write(&format!("m/{version}/model.onnx"), "");
        }
        let check = |policy: &str, expected: &[u64]| {
            root.write("m/config.pbtxt", policy);
            assert_eq!(root.versions("m"), expected, "{policy}");
        };
        check("", &[10]);
        check("version_policy { latest { num_versions: 2 } }", &[2, 10]);
        check("version_policy { latest { num_versions: 4294967295 } }", &[1, 2, 10]);
        check("version_policy { all { } }", &[1, 2, 10]);
        check("version_policy { specific { versions: [10, 1, 7] } }", &[1, 10]);
        root.write("m/config.pbtxt", "version_policy { specific { versions: 7 } }");
        assert_eq!(root.error("m"), "the model has none of the version folders that are served, as `1`");
        let all = ModelConfiguration::from_json("{\"version_policy\": {\"all\": {}}}").unwrap();
        let found = scan_model_with(&root.0, "m", Some(all)).unwrap();
        assert_eq!(found.len(), 3, "what a request says comes before the file");
    }

    #[test]
    fn a_configuration_that_cannot_be_used_is_its_models_error_alone() {
        let root = Root::new("errors");
        root.write("good/1/model.onnx", "");
        root.write("typo/3/model.onnx", "");
        root.write("typo/config.pbtxt", "max_bath_size: 1");
        root.write("other/1/model.onnx", "");
        root.write("other/config.pbtxt", "name: \"good\"");
        root.write("two/1/model.onnx", "");
        root.write("two/config.pbtxt", "");
        root.write("two/model.toml", "");
        root.write("hollow/config.pbtxt", "");
        let found = root.found();
        let expected = [
            ("good", 1, true),
            ("hollow", 1, false),
            ("other", 1, false),
            ("two", 1, false),
            ("typo", 3, false),
        ];
        assert_eq!(found, expected.map(|(name, version, is_ok)| (name.to_owned(), version, is_ok)));
        let typo = "config.pbtxt:1:1: `max_bath_size`: unknown field; did you mean `max_batch_size`";
        assert_eq!(root.error("typo"), typo);
        let other = "config.pbtxt:1:1: name: expected `other`, as the model's folder, got `good`";
        assert_eq!(root.error("other"), other);
        assert_eq!(root.error("two"), "expected one of config.pbtxt and model.toml, got both");
        let good = ModelConfiguration::from_json("{\"name\": \"other\"}").unwrap();
        let error = scan_model_with(&root.0, "good", Some(good)).unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidRequest, Some("parameters.config")));
    }

    #[test]
    fn the_configuration_names_the_file() {
        let root = Root::new("files");
        root.write("m/1/net.onnx", "");
        root.write("m/config.pbtxt", "default_model_filename: \"net.onnx\"");
        assert_eq!(root.versions("m"), [1]);
        root.write("m/config.pbtxt", "\n  default_model_filename: \"missing.onnx\"");
        let expected = "config.pbtxt:2:3: default_model_filename: version 1: expected a file in the model's folder, \
                        got `missing.onnx`";
        assert_eq!(root.error("m"), expected);
        root.write("m/config.pbtxt", "default_model_filename: \"../1/net.onnx\"");
        assert!(root.error("m").contains("expected a path inside the model's folder"));
        root.write("i/1/readme", "");
        root.write("i/config.pbtxt", "backend: \"identity\"");
        assert_eq!(scan_model(&root.0, "i").unwrap()[0].path.clone().unwrap(), root.0.join("i").join("1"));
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_nowhere_do_not_stop_the_others() {
        let root = Root::new("links");
        root.write("good/1/model.onnx", "");
        let link = |from: &str, to: &str| std::os::unix::fs::symlink(to, root.0.join(from)).unwrap();
        link("loop", "loop");
        link("loop.onnx", "loop.onnx");
        link("good/2", "2");
        std::fs::create_dir_all(root.0.join("bad/1")).unwrap();
        link("bad/config.pbtxt", "config.pbtxt");
        let found = root.found();
        assert_eq!(found, [("bad".to_owned(), 1, false), ("good".to_owned(), 1, true)]);
        assert!(root.error("bad").starts_with("config.pbtxt: cannot be read"));
    }
}
