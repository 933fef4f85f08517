//! Does what residency decides: looks names up, loads models, evicts them. And what operators ask in mode `auto`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::residents::{Loaded, Measuring, ResidencyReport, Residents, Wanted, Work, wishes};
use super::turns::Change;
use super::{Model, ModelRepository};
use crate::error::{Error, ErrorKind, Result};
use crate::reason::Reason;
use crate::residency::Wish;

/// How long an operator waits for a model that is to be loaded.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Ends the keeper when it is dropped.
pub(super) struct Keeping(pub Arc<Residents>);

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Does what residency decides, on a thread of its own, until the residents are closed or `repository` gives none any
/// more. The thread holds the repository only while it works.
///
/// # Errors
/// [`ErrorKind::Internal`] when the thread cannot be started.
pub(crate) fn keep<R, F>(residents: Arc<Kept>, repository: F) -> Result<()>
where
    R: AsRef<ModelRepository> + Send + Sync + 'static,
    F: Fn() -> Option<Arc<R>> + Send + 'static,
{
    let run = move || {
        loop {
            let work = residents.0.next_work();
            let Some(holder) = repository() else { return };
            let repository: &ModelRepository = (*holder).as_ref();
            match work {
                Work::Over => return,
                Work::Look(name) => {
                    let found = repository.source.find(&name, None);
                    repository.enter_found(found.as_deref().unwrap_or_default());
                    residents.0.looked_up(&name, found);
                }
                Work::Evict(name) => {
                    repository.retire(&name);
                }
                Work::Load(name) => {
                    let (loaded, to_tell) = (name.clone(), Arc::clone(&residents));
                    let load = move || (*holder).as_ref().load_resident(&loaded);
                    let thread = std::thread::Builder::new().name("axon-loader".to_owned()).spawn(load);
                    if let Err(error) = thread {
                        to_tell.0.failed(&name, &Error::internal(error));
                    }
                }
            }
        }
    };
    std::thread::Builder::new().name("axon-keeper".to_owned()).spawn(run).map_err(Error::internal)?;
    Ok(())
}

/// The residents, for whoever starts the keeper.
pub(crate) struct Kept(Arc<Residents>);

impl ModelRepository {
    /// What is kept by residency, in mode `auto`.
    pub(crate) fn kept(&self) -> Option<Arc<Kept>> {
        self.keeping.as_ref().map(|keeping| Arc::new(Kept(Arc::clone(&keeping.0))))
    }

    pub(super) fn residents(&self) -> Option<&Residents> {
        self.keeping.as_ref().map(|keeping| &*keeping.0)
    }

    /// What is known of the models in memory; `None` in another mode than `auto`.
    #[must_use]
    pub fn residency(&self) -> Option<ResidencyReport> {
        self.residents().map(Residents::report)
    }

    /// Loads a model whose bytes are reserved.
    fn load_resident(&self, name: &str) {
        let change = Change::Load { config: None, seen: self.source.stamps(name) };
        let outcome = self.turns.take(name, change, || self.load_now(name, None, &[]));
        if let (Err(error), Some(residents)) = (outcome, self.residents()) {
            tracing::warn!(model = name, cause = error.cause(), "a model is not served: {error}");
            residents.failed(name, &error);
        }
    }

    /// As [`ModelRepository::lease`], where a model that is not there is loaded in mode `auto`: answers when it may be
    /// leased, and is asked again then. `None` where that would be no use.
    pub(crate) fn want(
        &self,
        name: &str,
        version: Option<u64>,
        patience: Duration,
    ) -> Option<Result<Option<oneshot::Receiver<Result<()>>>>> {
        let residents = self.residents()?;
        let only = if name.is_empty() { residents.only() } else { None };
        let name = only.as_deref().unwrap_or(name);
        // Another version of what is there would not come by loading it again.
        if name.is_empty() || (version.is_some() && !self.table.ready_versions(name).is_empty()) {
            return None;
        }
        if let Err(error) = super::check_name(name) {
            return Some(Err(error));
        }
        if version.is_some_and(|version| !residents.may_have(name, version)) {
            return None;
        }
        Some(match residents.want(name, Wish::Request, patience) {
            Err(error) => Err(error),
            Ok(Wanted::Ready) => Ok(None),
            Ok(Wanted::Wait(receiver)) => Ok(Some(receiver)),
        })
    }

    /// How long a request waits that does not say.
    pub(crate) fn patience(&self) -> Duration {
        self.config.model.request_timeout
    }

    /// Loads a model in mode `auto` if it is not there, whatever it is worth. Blocks.
    ///
    /// # Errors
    /// As for [`InferenceServer::warm_model`](crate::server::InferenceServer::warm_model).
    pub fn warm_model(&self, name: &str) -> Result<()> {
        super::check_name(name)?;
        let Some(residents) = self.residents() else { return Err(only_in_auto(self.config.control.name())) };
        if !self.table.ready_versions(name).is_empty() {
            return Ok(());
        }
        residents.forgive(name);
        match residents.want(name, Wish::Operator, PATIENCE)? {
            Wanted::Ready => Ok(()),
            Wanted::Wait(receiver) => receiver.blocking_recv().map_err(Error::internal)?,
        }
    }

    /// Has a model stay, or go as any other. Loads it when it is to stay. Blocks.
    ///
    /// # Errors
    /// As for [`InferenceServer::pin_model`](crate::server::InferenceServer::pin_model).
    pub fn pin_model(&self, name: &str, pinned: bool) -> Result<()> {
        if pinned {
            self.warm_model(name)?;
        }
        super::check_name(name)?;
        let Some(residents) = self.residents() else { return Err(only_in_auto(self.config.control.name())) };
        if residents.set_hints(name, |hints| hints.pinned = pinned) {
            return Ok(());
        }
        Err(residents.not_loaded(name, None))
    }

    /// In mode `auto`, has the bytes of a model reserved before it is loaded on request; false where it is loaded then
    /// already.
    pub(super) fn load_by_residency(&self, name: &str) -> Result<bool> {
        if self.residents().is_none() || !self.table.ready_versions(name).is_empty() {
            return Ok(false);
        }
        self.warm_model(name)?;
        Ok(true)
    }

    /// Begins to measure a load.
    pub(super) fn measure(&self) -> Option<Measuring> {
        self.residents().map(Residents::measure)
    }

    /// Tells residency what a load has come to.
    pub(super) fn tell_loaded(&self, name: &str, loaded: &[u64], measuring: Option<&Measuring>) {
        let (Some(residents), Some(measuring)) = (self.residents(), measuring) else { return };
        let serving = self.table.serving(name);
        let loaded = serving.iter().filter(|(_, generation)| loaded.contains(generation));
        let loaded: Vec<_> = loaded.map(|(model, generation)| (Arc::clone(model), *generation)).collect();
        let Some((newest, _)) = loaded.last() else { return };
        let wishes = wishes(newest.configuration());
        let weights = loaded.iter().map(|(model, _)| weights(model)).sum();
        let generations: BTreeSet<u64> = loaded.into_iter().map(|(_, generation)| generation).collect();
        residents.published(name, Loaded { generations, weights, wishes }, measuring);
    }

    /// Tells residency that a model is about to be unloaded by somebody else.
    pub(super) fn tell_retired(&self, name: &str) {
        if let Some(residents) = self.residents() {
            residents.retired(name);
        }
    }
}

/// The bytes of a model's weights.
fn weights(model: &Model) -> u64 {
    model.outline().map_or(0, |outline| outline.size.max(outline.initializer_bytes))
}

fn only_in_auto(mode: &str) -> Error {
    let hint = "start the server with `--model-control-mode auto`";
    Error::new(
        ErrorKind::ModelNotReady,
        format!("model_control: models are kept by what they are worth only in mode `auto`, not in `{mode}`\nhint: {hint}"),
    )
    .with_field("model_control")
    .because(Reason::ControlMode)
}

/// The rest of a timeout of which some has passed; at least a moment, so that the queue says what is late.
pub(crate) fn rest(timeout: Duration, since: Instant) -> Duration {
    timeout.saturating_sub(since.elapsed()).max(Duration::from_nanos(1))
}
