//! Loads and unloads models on request, and at start.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::calm::give_way;
use super::overrides::{LoadOverrides, Staged};
use super::scan::{Found, check_name, scan_model_with};
use super::table::{Place, Tried};
use super::turns::Change;
use super::{Model, ModelRepository};
use crate::config::ControlMode;
use crate::error::{Error, ErrorKind, Result};
use crate::load_check;
use crate::model_config::ModelConfiguration;
use crate::onnx::load_library;
use crate::reason::Reason;

impl ModelRepository {
    /// As [`InferenceServer::load_model`](crate::server::InferenceServer::load_model).
    ///
    /// # Errors
    /// As there.
    pub fn load_model(&self, name: &str, overrides: LoadOverrides) -> Result<()> {
        self.check_control(name)?;
        overrides.check()?;
        let LoadOverrides { config, files } = overrides;
        if config.is_none() && files.is_empty() && self.load_by_residency(name)? {
            return Ok(());
        }
        let change = if files.is_empty() {
            Change::Load { config: config.clone(), seen: self.source.stamps(name) }
        } else {
            Change::LoadFiles
        };
        self.turns.take(name, change, || self.load_now(name, config.as_deref(), &files))
    }

    /// Loads one model, giving way to the requests of those that serve.
    pub(super) fn load_now(
        &self,
        name: &str,
        config: Option<&str>,
        files: &[(String, Vec<u8>)],
    ) -> Result<()> {
        // Kept until the model is loaded: the files are removed when it is dropped.
        let staged = if files.is_empty() { None } else { Some(Staged::write(name, files)?) };
        let configuration = config.map(ModelConfiguration::from_json).transpose()?;
        let found = match &staged {
            Some(staged) => scan_model_with(staged.path(), name, configuration)?,
            None => self.source.find(name, configuration)?,
        };
        if found.is_empty() {
            return Err(self.table.not_found(name).because(Reason::LoadUnknown(name.to_owned())));
        }
        match give_way(|| self.load_versions(name, &found)).into_iter().next() {
            None => Ok(()),
            Some((version, error)) => Err(error
                .within(format_args!("model `{name}` version {version}"))
                .because(Reason::LoadFailed(name.to_owned(), version))),
        }
    }

    /// Loads what was found of one model at start, unless it has been loaded or unloaded on request since; returns
    /// the versions that failed.
    pub fn load_announced(&self, name: &str, found: &[Found]) -> Vec<(u64, Error)> {
        let mut failed = Vec::new();
        let change = Change::Load { config: None, seen: self.source.stamps(name) };
        let outcome = self.turns.take(name, change, || {
            if self.table.is_settled(name) {
                return Ok(());
            }
            failed = self.load_versions(name, found);
            failed.first().map_or(Ok(()), |(_, error)| Err(error.clone()))
        });
        match outcome {
            // Another's load of the model, or none at all.
            Err(error) if failed.is_empty() => {
                found.iter().take(1).map(|one| (one.version, error.clone())).collect()
            }
            _ => failed,
        }
    }

    /// Loads versions of one model one after the other and publishes them together; returns those that failed.
    fn load_versions(&self, name: &str, found: &[Found]) -> Vec<(u64, Error)> {
        if let Err(error) = self.table.begin(name, found) {
            return found.iter().take(1).map(|one| (one.version, error.clone())).collect();
        }
        let load = |one: &Found| {
            let metrics = self.counters_of(name, one.version);
            let started = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| self.load_version(one)));
            let outcome = outcome.unwrap_or_else(|_| Err(Error::internal("a load panicked")));
            if let Some(metrics) = metrics {
                metrics.loaded(started.elapsed(), outcome.is_ok());
                if let Ok((model, _)) = &outcome {
                    model.count_in(metrics);
                }
            }
            Tried { version: one.version, outcome }
        };
        let measuring = self.measure();
        let tried: Vec<Tried> = found.iter().map(load).collect();
        let generations: Vec<u64> =
            tried.iter().filter_map(|one| Some(one.outcome.as_ref().ok()?.1)).collect();
        let failed = self.table.publish(name, tried);
        self.tell_loaded(name, &generations, measuring.as_ref());
        failed
    }

    pub(super) fn load_version(&self, found: &Found) -> Result<(Model, u64)> {
        let Found { name, version, .. } = found;
        let started = Instant::now();
        let generation = self.loads.fetch_add(1, Ordering::Relaxed) + 1;
        if let (Ok(path), false) = (&found.path, found.configuration.is_identity()) {
            let library = self.config.runtime_library.as_deref();
            load_library(library)?;
            load_check::check(path, library, self.config.model.device, &self.config.load_check)?;
        }
        let mut model = Model::load(found, &self.config.model, &self.cache, &self.host)?;
        model.keep_answers(&self.responses, &self.host.timer);
        let place = Place { name: name.clone(), version: *version, generation };
        model.depart_by(|scheduler| self.reaper.departure(&self.table, place, scheduler));
        tracing::info!(
            model = name,
            version,
            milliseconds = started.elapsed().as_millis(),
            batchable = %model.findings().batchable,
            "loaded a model"
        );
        Ok((model, generation))
    }

    /// As [`InferenceServer::unload_model`](crate::server::InferenceServer::unload_model).
    ///
    /// # Errors
    /// As there.
    pub fn unload_model(&self, name: &str) -> Result<()> {
        self.check_control(name)?;
        self.turns.take(name, Change::Unload, || {
            // First, so that nothing has left before residency knows that it leaves.
            self.tell_retired(name);
            if self.retire(name) || !self.source.find(name, None)?.is_empty() {
                return Ok(());
            }
            Err(self.table.not_found(name).because(Reason::UnloadUnknown(name.to_owned())))
        })
    }

    /// Refuses new requests for a model; false when it was never loaded.
    pub(super) fn retire(&self, name: &str) -> bool {
        let Some(leaving) = self.table.retire(name) else { return false };
        if !leaving.is_empty() {
            tracing::info!(model = name, versions = leaving.len(), "unloading a model");
        }
        for metrics in leaving.iter().filter_map(|model| model.metrics()) {
            metrics.unloaded();
        }
        true
    }

    fn check_control(&self, name: &str) -> Result<()> {
        if !matches!(self.config.control, ControlMode::Explicit | ControlMode::Auto) {
            let hint = "start the server with `--model-control-mode explicit`";
            return Err(Error::new(
                ErrorKind::ModelNotReady,
                format!(
                    "model_control: models are not loaded or unloaded on request in mode `{}`\nhint: {hint}",
                    self.config.control
                ),
            )
            .with_field("model_control")
            .because(Reason::ControlMode));
        }
        check_name(name)
    }
}
