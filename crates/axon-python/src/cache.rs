//! The model cache, for `axon add` and `axon cache`.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use axon::import::{Kept, ModelCache};
use axon::onnx::load_library;
use axon::repository::scan;
use axon::{Error, Result};
use pyo3::prelude::*;
use serde_json::{Value, json};

use crate::detached;
use crate::errors::IntoPyResult;
use crate::server::NativeConfig;

/// A model that was found: name, version, and its file or why there is none.
type Found = (String, u64, Option<PathBuf>, Option<String>);

/// The models that are kept on this machine.
#[pyclass(frozen, module = "axon._axon")]
pub struct Cache {
    cache: ModelCache,
    runtime: Option<PathBuf>,
}

#[pymethods]
impl Cache {
    /// Opens the cache that the settings of a server name.
    #[staticmethod]
    fn open(py: Python<'_>, config: NativeConfig) -> PyResult<Self> {
        let config = config.parse().or_raise(py)?;
        let library = config.runtime_library;
        let cache = ModelCache::try_open(&config.model_cache, &config.load_check, library.as_deref());
        Ok(Self { cache: cache.or_raise(py)?, runtime: library })
    }

    /// The models of a file or a folder.
    #[staticmethod]
    fn find(py: Python<'_>, path: PathBuf) -> PyResult<Vec<Found>> {
        let found = detached(py, || scan(&path)).or_raise(py)?;
        let told = |found: axon::repository::Found| match found.path {
            Ok(path) => (found.name, found.version, Some(path), None),
            Err(error) => (found.name, found.version, None, Some(error.message().to_owned())),
        };
        // A backend without a file has nothing to import.
        Ok(found.into_iter().filter(|found| !found.configuration.is_identity()).map(told).collect())
    }

    /// Imports a model file; calls `watch` with the bytes written so far, again and again. What is kept, as JSON.
    #[pyo3(name = "add")]
    fn import(&self, py: Python<'_>, path: PathBuf, again: bool, watch: Py<PyAny>) -> PyResult<String> {
        let mut raised = None;
        let imported = detached(py, || {
            load_library(self.runtime.as_deref())?;
            let mut tell = |bytes: u64| {
                let told = Python::attach(|py| {
                    py.check_signals()?;
                    watch.call1(py, (bytes,)).map(drop)
                });
                let goes_on = told.is_ok();
                raised = told.err();
                goes_on
            };
            self.cache.import(&path, again, &mut tell)
        });
        match raised {
            Some(raised) => Err(raised),
            None => text(&kept(&imported.or_raise(py)?)).or_raise(py),
        }
    }

    /// What is in the cache, as JSON.
    fn list(&self, py: Python<'_>) -> PyResult<String> {
        let listed = detached(py, || self.cache.list()).or_raise(py)?;
        text(&Value::Array(listed.iter().map(kept).collect())).or_raise(py)
    }

    /// What is wrong with an entry, compared byte by byte; None when nothing is.
    fn verify(&self, py: Python<'_>, key: &str) -> Option<String> {
        detached(py, || self.cache.verify(key)).err()
    }

    /// Removes an entry; false when there is none.
    fn remove(&self, py: Python<'_>, key: &str) -> PyResult<bool> {
        // A key is the name of a folder.
        let is_key =
            Path::new(key).components().count() == 1 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_key {
            return Err(Error::invalid("key", "expected hexadecimal digits")).or_raise(py);
        }
        detached(py, || self.cache.remove(key)).or_raise(py)
    }
}

fn text(value: &Value) -> Result<String> {
    serde_json::to_string(value).map_err(Error::internal)
}

fn kept(kept: &Kept) -> Value {
    let used = kept.used.and_then(|used| used.duration_since(UNIX_EPOCH).ok());
    let (profile, problem) = match &kept.profile {
        Ok(profile) => (Some(profile), None),
        Err(problem) => (None, Some(problem)),
    };
    json!({
        "key": kept.key,
        "bytes": kept.bytes,
        "used": used.map(|used| used.as_secs_f64()),
        "profile": profile,
        "problem": problem,
    })
}
