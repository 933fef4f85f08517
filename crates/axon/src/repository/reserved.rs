//! Names that no model may have, since they stand for others.

use std::collections::BTreeSet;

use super::scan::Found;
use super::{ModelRepository, State};
use crate::error::{Echo, Error, Result};

/// Says what a name stands for, if it stands for something else than a model.
pub(super) type Reserved = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

impl ModelRepository {
    /// Has no model be loaded from now on whose name `stands_for` something else. Once.
    pub(crate) fn reserve_names(&self, stands_for: impl Fn(&str) -> Option<String> + Send + Sync + 'static) {
        let _ = self.reserved.set(Box::new(stands_for));
    }

    /// Checks that a model may have this name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind) at `model_name`.
    pub(super) fn check_unreserved(&self, name: &str) -> Result<()> {
        let Some(stands_for) = self.reserved.get().and_then(|stands_for| stands_for(name)) else {
            return Ok(());
        };
        let name = Echo(name);
        Err(Error::invalid(
            "model_name",
            format_args!(
                "the model {name} is not loaded: {name} is an alias of {stands_for}\nhint: remove the alias, or give the \
                 model another name"
            ),
        ))
    }

    /// The names of the models that are loaded or could be.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub(crate) fn names(&self) -> Result<BTreeSet<String>> {
        let mut names = self.source.names()?;
        let loaded = self.table.entries().into_iter();
        let loaded = loaded.filter(|entry| !matches!(entry.state, State::Unloaded | State::Unloading));
        names.extend(loaded.map(|entry| entry.name));
        Ok(names)
    }

    /// The versions of a model that its files and its configuration offer.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub(crate) fn offered(&self, name: &str) -> Result<Vec<u64>> {
        let found: Vec<Found> = self.source.find(name, None)?;
        Ok(found.into_iter().map(|one| one.version).collect())
    }
}
