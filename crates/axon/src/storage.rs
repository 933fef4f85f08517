//! Files that Axon keeps for itself on a machine: what it has found out about models, and what it has made of them.
//!
//! Every file is written whole beside its place and moved there, so that whoever reads meanwhile, and whoever comes
//! after a crash, finds all of it or nothing. What is read is checked: a file that is torn, changed or another's counts
//! as none. All operations go through [`Disk`], so that tests can make each of them fail.

mod digests;
mod disk;
mod notes;

use std::path::PathBuf;

pub(crate) use digests::{Digests, enter, hexadecimal};
pub(crate) use disk::{Disk, Lock, Stamp};
pub(crate) use notes::{Notes, seal, unseal};

/// The folder `name` in Axon's part of the user's cache folder; `None` when there is none.
///
/// **Source:** XDG Base Directory Specification; a relative path in the variable is to be passed over.
pub(crate) fn cache_folder(name: &str) -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(cache.join("axon").join(name))
}
