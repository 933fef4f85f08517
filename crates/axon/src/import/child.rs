//! The process that imports, as the cache starts it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::build::Job;
use crate::config::LoadCheckConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::load_check::{Errand, run_errand};

/// A child's time and memory are those of so many trials: it loads the model, runs it, loads what it has written and
/// runs that.
const TRIALS: u32 = 3;

/// Who waits for an import, and is told how many bytes have been written; it answers whether to go on.
pub(super) enum Watch<'a> {
    /// Nobody: it has what processor time is left.
    Background(&'a mut dyn FnMut(u64) -> bool),
    /// Somebody who asked for it.
    Foreground(&'a mut dyn FnMut(u64) -> bool),
}

/// How a child is started.
pub(super) struct Child {
    config: LoadCheckConfig,
    runtime: Option<PathBuf>,
    /// Imports in this process instead: for tests.
    #[cfg(test)]
    pub here: Option<crate::storage::Disk>,
}

impl Child {
    pub fn new(config: &LoadCheckConfig, library: Option<&Path>) -> Self {
        Self {
            config: config.clone(),
            runtime: library.map(Path::to_owned),
            #[cfg(test)]
            here: None,
        }
    }

    /// False where nothing says how to start one: nothing is imported then.
    pub fn can_start(&self) -> bool {
        !self.config.command.is_empty()
    }

    /// Has a model of `bytes` imported.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`] when the model is refused or harms; [`ErrorKind::Internal`] when nothing can be said
    /// of it; [`ErrorKind::Cancelled`] when `watch` has said to stop.
    pub fn run(&self, job: &Job, bytes: u64, watch: &mut Watch<'_>) -> Result<()> {
        #[cfg(test)]
        if let Some(disk) = &self.here {
            return super::build::build_on(disk, job);
        }
        if !self.can_start() {
            return Err(Error::new(ErrorKind::Internal, "no command is set that imports models"));
        }
        let (is_background, watch) = match watch {
            Watch::Background(watch) => (true, watch),
            Watch::Foreground(watch) => (false, watch),
        };
        let arguments: [OsString; 3] = [
            job.folder.clone().into(),
            job.key.clone().into(),
            if is_background { "background" } else { "foreground" }.into(),
        ];
        let mut goes_on = || watch(written(&job.folder));
        let errand = Errand { arguments: &arguments, trials: TRIALS, bytes, goes_on: &mut goes_on };
        run_errand(&job.model, self.runtime.as_deref(), &self.config, errand)
    }
}

/// The bytes of a folder's files so far; what cannot be looked at counts nothing.
fn written(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| Some(file.metadata().ok()?.len())).fold(0, u64::saturating_add)
}
