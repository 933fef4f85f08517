//! Requests by an alias, and what operators change of aliases.

use std::sync::Arc;
use std::time::Duration;

use super::InferenceServer;
use super::resident::waited;
use crate::alias::{AliasReport, Declared, Destination, Finder, Origin, Routed};
use crate::config::ControlMode;
use crate::error::{Echo, Error, ErrorKind, Result};
use crate::repository::{Model, Ticket};
use crate::request::{InferenceRequest, InferenceResponse};

/// How often a request looks again where its alias leads, when what it led to has gone meanwhile.
const TRIES: usize = 3;

/// Says of which alias an error of a target is.
pub(super) fn within(alias: &str, to: &Destination, error: Error) -> Error {
    error.within(format_args!("alias {} leads to {}", Echo(alias), Echo(&to.to_string())))
}

/// A model that was asked for by an alias, if it was.
pub(super) fn routed_model(routed: Option<&Routed>, model: Result<Arc<Model>>) -> Result<Arc<Model>> {
    let Some(routed) = routed else { return model };
    let model = model.map_err(|error| routed.within(error))?;
    check_stateless(routed, &model)?;
    Ok(model)
}

/// The requests of a sequence must all come to one model.
fn check_stateless(routed: &Routed, model: &Model) -> Result<()> {
    if routed.is_split() && model.configuration().sequence().is_some() {
        return Err(stateful(routed.alias(), routed.to()).with_field("model_name"));
    }
    Ok(())
}

fn stateful(alias: &str, to: &Destination) -> Error {
    Error::new(
        ErrorKind::InvalidRequest,
        format!(
            "{} is stateful, and the alias {} splits or copies requests\nhint: lead the alias to this model alone",
            Echo(&to.to_string()),
            Echo(alias)
        ),
    )
}

impl InferenceServer {
    /// Every alias, by name.
    #[must_use]
    pub fn aliases(&self) -> Vec<AliasReport> {
        self.inner.aliases.report()
    }

    /// One alias.
    ///
    /// # Errors
    /// [`ErrorKind::ModelNotFound`] at `alias`.
    pub fn alias(&self, name: &str) -> Result<AliasReport> {
        self.inner.aliases.report_of(name)
    }

    /// Adds an alias, or leads one elsewhere at one moment: each request sees the old targets or the new ones. Every target
    /// must be ready; in mode `auto` it is loaded. Blocks for as long as that takes: not for an event loop.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] for a name that a model has or that no model could have, for an alias of an alias, and
    /// for a stateful model that would share requests; [`ErrorKind::ModelNotFound`] or [`ErrorKind::ModelNotReady`] at the
    /// target that is not there. What the alias was is kept then.
    pub fn set_alias(&self, name: &str, declared: Declared) -> Result<()> {
        self.check_not_a_model(name, &declared)?;
        self.check_targets(name, &declared)?;
        let mut change = self.inner.aliases.change();
        change.set(name, declared, Origin::Request)?;
        change.publish(|| self.finder())?;
        tracing::info!(alias = name, "an alias was set");
        Ok(())
    }

    /// Removes an alias. What it has sent to its targets is answered.
    ///
    /// # Errors
    /// [`ErrorKind::ModelNotFound`] at `alias`.
    pub fn remove_alias(&self, name: &str) -> Result<()> {
        let mut change = self.inner.aliases.change();
        change.remove(name)?;
        change.publish(|| self.finder())?;
        tracing::info!(alias = name, "an alias was removed");
        Ok(())
    }

    /// Whether there is any alias.
    #[must_use]
    pub fn has_aliases(&self) -> bool {
        self.inner.aliases.are_any()
    }

    /// Chooses the target of a request for `name`; `None` when that is no alias. Requests with the same `key` go to the
    /// same target for as long as the alias stays as it is.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] at `model_version` for an alias with a version.
    pub fn route(&self, name: &str, version: Option<u64>, key: Option<&[u8]>) -> Result<Option<Routed>> {
        self.inner.aliases.route(name, version, key)
    }

    /// What a name leads to: the targets of an alias, that of the largest weight first, or the model itself.
    ///
    /// # Errors
    /// As for [`InferenceServer::route`].
    pub fn destinations(&self, name: &str, version: Option<u64>) -> Result<Vec<Destination>> {
        let itself = || vec![Destination { model: name.to_owned(), version }];
        Ok(self.inner.aliases.destinations(name, version)?.unwrap_or_else(itself))
    }

    /// As [`InferenceServer::submit_when_loaded`], for a request whose target [`InferenceServer::route`] has chosen. Where
    /// that has gone since, and the alias leads elsewhere now, the request goes there.
    ///
    /// # Errors
    /// As there; an error of a target says which alias leads to it.
    pub async fn submit_routed(
        &self,
        routed: Routed,
        mut request: InferenceRequest,
        reply: impl FnOnce(Result<InferenceResponse>) + Send + 'static,
    ) -> Result<Ticket> {
        direct(&mut request, &routed);
        let mut routed = Some(routed);
        let loaded = self.load_routed(&mut routed, &mut request).await;
        let load = loaded.as_ref().map_or(Duration::ZERO, |(_, load)| *load);
        let reply = self.watched(routed.clone(), &request, reply);
        let model = routed_model(routed.as_ref(), loaded.map(|(model, _)| model))?;
        model.submit(request, move |answer| reply(answer.map(|response| waited(response, load))))
    }

    /// A lease on the model of a request, as [`InferenceServer::load_first`]. Where what its alias led to has gone, and the
    /// alias leads elsewhere now, the request goes there.
    pub(super) async fn load_routed(
        &self,
        routed: &mut Option<Routed>,
        request: &mut InferenceRequest,
    ) -> Result<(Arc<Model>, Duration)> {
        let mut model = self.load_first(request).await;
        for _ in 1..TRIES {
            if !self.reroute(routed, request, &model)? {
                break;
            }
            model = self.load_first(request).await;
        }
        model
    }

    /// As [`InferenceServer::load_routed`], of what is loaded.
    pub(super) fn lease_routed(
        &self,
        routed: &mut Option<Routed>,
        request: &mut InferenceRequest,
    ) -> Result<Arc<Model>> {
        let mut model = self.lease(request);
        for _ in 1..TRIES {
            if !self.reroute(routed, request, &model)? {
                break;
            }
            model = self.lease(request);
        }
        model
    }

    /// Directs a request anew whose target has gone, if its alias leads elsewhere now.
    fn reroute<T>(
        &self,
        routed: &mut Option<Routed>,
        request: &mut InferenceRequest,
        model: &Result<T>,
    ) -> Result<bool> {
        let (Some(before), Err(error)) = (routed.as_ref(), model) else { return Ok(false) };
        if !matches!(error.kind(), ErrorKind::ModelNotFound | ErrorKind::ModelNotReady) {
            return Ok(false);
        }
        let now = self.route(before.alias(), None, before.key())?;
        let Some(now) = now.filter(|now| !now.is_same_as(before)) else { return Ok(false) };
        direct(request, &now);
        *routed = Some(now);
        Ok(true)
    }

    /// Chooses the target of a request that may be for an alias.
    pub(super) fn take_route(&self, request: &mut InferenceRequest) -> Result<Option<Routed>> {
        let routed = self.route(&request.model, request.version, None)?;
        if let Some(routed) = &routed {
            direct(request, routed);
        }
        Ok(routed)
    }

    /// The same reply, which has the alias count how the request ends. Dropped without an answer counts too.
    pub(super) fn watched(
        &self,
        routed: Option<Routed>,
        request: &InferenceRequest,
        reply: impl FnOnce(Result<InferenceResponse>) + Send + 'static,
    ) -> impl FnOnce(Result<InferenceResponse>) + Send + 'static {
        let aliases = Arc::clone(&self.inner.aliases);
        let watch = routed.map(|routed| routed.watch(&aliases, request));
        move |answer| {
            if let Some(watch) = watch {
                watch.ended(&aliases, &answer);
            }
            reply(answer);
        }
    }

    /// The target of an alias that stands for all where one model is meant; `None` when the name is no alias.
    pub(super) fn main_target(&self, name: &str, version: Option<u64>) -> Result<Option<Destination>> {
        let all = self.inner.aliases.destinations(name, version)?;
        Ok(all.and_then(|all| all.into_iter().next()))
    }

    /// What shadows ask: models that are ready, of a server that takes requests.
    pub(super) fn finder(&self) -> Finder {
        let inner = Arc::downgrade(&self.inner);
        Box::new(move |to| {
            let server = Self { inner: inner.upgrade()? };
            if server.is_stopping() {
                return None;
            }
            server.inner.repository.lease(&to.model, to.version).ok()
        })
    }

    /// Checks that an alias would not hide a model.
    fn check_not_a_model(&self, name: &str, declared: &Declared) -> Result<()> {
        if !self.inner.repository.names()?.contains(name) {
            return Ok(());
        }
        Err(hides(name, declared))
    }

    /// Checks that every target of an alias is ready, and loads it in mode `auto`.
    pub(super) fn check_targets(&self, name: &str, declared: &Declared) -> Result<()> {
        let is_shared = declared.targets().len() > 1;
        for (index, target) in declared.targets().iter().enumerate() {
            let field = format!("targets[{index}]");
            let model = self
                .ready_target(&target.to)
                .map_err(|error| error.within(&field).with_field(field.clone()))?;
            if is_shared && model.configuration().sequence().is_some() {
                return Err(stateful(name, &target.to).with_field(field));
            }
        }
        let Some(shadow) = declared.shadow() else { return Ok(()) };
        let model =
            self.ready_target(&shadow.to).map_err(|error| error.within("shadow").with_field("shadow"))?;
        if model.configuration().sequence().is_some() {
            return Err(stateful(name, &shadow.to).with_field("shadow"));
        }
        Ok(())
    }

    fn ready_target(&self, to: &Destination) -> Result<Arc<Model>> {
        let repository = &self.inner.repository;
        match repository.lease(&to.model, to.version) {
            Err(_) if repository.control_mode() == ControlMode::Auto => {
                repository.warm_model(&to.model)?;
                repository.lease(&to.model, to.version)
            }
            leased => leased,
        }
    }
}

pub(super) fn hides(name: &str, declared: &Declared) -> Error {
    let targets: Vec<String> = declared.targets().iter().map(|target| target.to.to_string()).collect();
    let targets = crate::error::echo_names(targets.iter().map(String::as_str));
    let name = Echo(name);
    Error::invalid("alias", format_args!("the alias {name} of {targets} would hide the model {name}"))
}

fn direct(request: &mut InferenceRequest, routed: &Routed) {
    request.model.clone_from(&routed.to().model);
    request.version = routed.to().version;
}
