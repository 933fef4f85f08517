//! What a repository holds, and what is wrong with it.

use std::path::PathBuf;

use axon::repository::examine as examine_repository;
use pyo3::prelude::*;

use crate::detached;
use crate::errors::IntoPyResult;
use crate::server::NativeConfig;

/// Name, version, file, bytes, problem, cause for the log, warnings.
type Examined = (String, Option<u64>, PathBuf, u64, Option<String>, Option<String>, Vec<String>);

/// Finds what is at a path; loads each version, and lets it go again, if `loads`.
#[pyfunction]
pub fn examine(py: Python<'_>, path: PathBuf, config: NativeConfig, loads: bool) -> PyResult<Vec<Examined>> {
    let config = config.parse().or_raise(py)?;
    let examined = detached(py, || examine_repository(&path, config, loads)).or_raise(py)?;
    let told = examined.into_iter().map(|one| {
        let problem = one.problem.as_ref().map(|error| error.message().to_owned());
        let cause = one.problem.as_ref().and_then(|error| error.cause().map(str::to_owned));
        (one.name, one.version, one.path, one.bytes, problem, cause, one.warnings)
    });
    Ok(told.collect())
}
