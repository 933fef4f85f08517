//! The extension module `axon._axon`: conversions only. The package `axon` gives it its Python face.

#![allow(
    clippy::needless_pass_by_value,
    reason = "the interpreter's arguments are extracted to owned values"
)]

mod cache;
mod completions;
mod errors;
mod examine;
mod server;
mod simulate;
mod tensors;

use pyo3::prelude::*;

/// The native part of `axon`. Private: its users are the modules of the package.
#[pymodule]
mod _axon {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::cache::Cache;
    #[pymodule_export]
    use crate::completions::Completions;
    #[pymodule_export]
    use crate::examine::examine;
    #[pymodule_export]
    use crate::server::{Server, check_load, close_all, runtime_version, serve};
    #[pymodule_export]
    use crate::simulate::simulate;
    #[pymodule_export]
    use crate::tensors::Buffer;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}

/// Runs `work` without the GIL.
fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    py.detach(work)
}
