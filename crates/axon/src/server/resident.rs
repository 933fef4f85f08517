//! Models that are loaded when they are asked for, in [`ControlMode::Auto`](crate::config::ControlMode::Auto).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{InferenceServer, Inner};
use crate::error::{Error, ErrorKind, Result};
use crate::repository::{Model, ModelRepository, ResidencyReport, Ticket, rest};
use crate::request::{InferenceRequest, InferenceResponse};

/// How often a caller finds his model gone again before he is told so.
const TRIES: usize = 3;

impl AsRef<ModelRepository> for Inner {
    fn as_ref(&self) -> &ModelRepository {
        &self.repository
    }
}

impl InferenceServer {
    /// As [`InferenceServer::model`]; in mode `auto` a model that is not loaded is loaded, and waited for as long as
    /// `timeout`, or the server's request timeout, if it is foretold to be there by then.
    ///
    /// # Errors
    /// As there; [`ErrorKind::ModelNotReady`] that says when to try again for a model that is not loaded now or not in
    /// time, [`ErrorKind::Overloaded`] when too many wait.
    pub async fn loaded_model(
        &self,
        name: &str,
        version: Option<u64>,
        timeout: Option<Duration>,
    ) -> Result<Arc<Model>> {
        let repository = &self.inner.repository;
        let error = match repository.lease(name, version) {
            Ok(model) => return Ok(model),
            Err(error) => error,
        };
        let timeout = timeout.unwrap_or_else(|| repository.patience()).min(repository.patience());
        self.load_for(name, version, timeout, error).await
    }

    async fn load_for(
        &self,
        name: &str,
        version: Option<u64>,
        timeout: Duration,
        mut error: Error,
    ) -> Result<Arc<Model>> {
        let (repository, since) = (&self.inner.repository, Instant::now());
        for _ in 0..TRIES {
            if self.inner.closed.load(Ordering::Acquire) {
                return Err(Error::shutting_down());
            }
            if !matches!(error.kind(), ErrorKind::ModelNotFound | ErrorKind::ModelNotReady) {
                return Err(error);
            }
            let Some(wanted) = repository.want(name, version, timeout.saturating_sub(since.elapsed())) else {
                return Err(error);
            };
            if let Some(coming) = wanted? {
                coming.await.map_err(Error::internal)??;
            }
            match repository.lease(name, version) {
                Ok(model) => return Ok(model),
                // It was evicted between the two.
                Err(gone) => error = gone,
            }
        }
        Err(error.with_retry_after(Duration::from_secs(1)))
    }

    /// As [`InferenceServer::submit`], for whoever has the request counted ([`InferenceServer::observe`]) and a model that
    /// may have to be loaded first, as [`InferenceServer::loaded_model`] does; that counts against the request's timeout.
    ///
    /// # Errors
    /// As for both.
    pub async fn submit_when_loaded(
        &self,
        mut request: InferenceRequest,
        reply: impl FnOnce(Result<InferenceResponse>) + Send + 'static,
    ) -> Result<Ticket> {
        let (model, load) = self.load_first(&mut request).await?;
        model.submit(request, move |answer| reply(answer.map(|response| waited(response, load))))
    }

    /// A lease on the model of a request, which is loaded first where that is needed, and the time that this took; it is
    /// taken from the request's timeout.
    pub(super) async fn load_first(&self, request: &mut InferenceRequest) -> Result<(Arc<Model>, Duration)> {
        let repository = &self.inner.repository;
        let error = match self.lease(request) {
            Ok(model) => return Ok((model, Duration::ZERO)),
            Err(error) => error,
        };
        let since = Instant::now();
        let timeout = request.timeout.unwrap_or_else(|| repository.patience());
        let model = self.load_for(&request.model, request.version, timeout, error).await?;
        request.timeout = Some(rest(timeout, since));
        Ok((model, since.elapsed()))
    }

    /// What is known of the models in memory; `None` in another mode than `auto`.
    #[must_use]
    pub fn residency(&self) -> Option<ResidencyReport> {
        self.inner.repository.residency()
    }

    /// Loads a model if it is not loaded, in mode `auto`, also where others are worth more. Blocks for as long as that
    /// takes: not for an event loop.
    ///
    /// # Errors
    /// [`ErrorKind::ModelNotReady`] at `model_control` in another mode, and with the reason where it cannot be loaded;
    /// [`ErrorKind::ModelNotFound`], [`ErrorKind::InvalidRequest`] for a name.
    pub fn warm_model(&self, name: &str) -> Result<()> {
        self.inner.repository.warm_model(name)
    }

    /// Has a model stay loaded in mode `auto`, and loads it for that; or lets it go like any other.
    ///
    /// # Errors
    /// As for [`InferenceServer::warm_model`].
    pub fn pin_model(&self, name: &str, pinned: bool) -> Result<()> {
        self.inner.repository.pin_model(name, pinned)
    }
}

/// The answer to a request that waited so long for its model.
pub(super) fn waited(mut response: InferenceResponse, load: Duration) -> InferenceResponse {
    response.timing.load = load;
    response
}
