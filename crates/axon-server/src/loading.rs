//! The models are loaded on a thread of their own, so that the server is live meanwhile.

use std::time::{Duration, Instant};

use axon::repository::Found;
use axon::server::InferenceServer;
use axon::{Error, Result};
use tokio::sync::watch;

use crate::announce;
use crate::logging;
use crate::serve::Addresses;

/// How long a shutdown waits for the model that is being loaded.
const FINISH_LIMIT: Duration = Duration::from_secs(1);

/// The thread that loads; its last word is what failed.
pub(crate) struct Loading {
    outcome: watch::Receiver<Option<Vec<Error>>>,
}

impl Loading {
    /// Starts to load what was found.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](axon::ErrorKind) when the thread cannot be started.
    pub fn start(server: InferenceServer, found: Vec<Found>) -> Result<Self> {
        let (sender, outcome) = watch::channel(None);
        let load = move || {
            let failed = server.load_all(&found);
            drop(server);
            sender.send_replace(Some(failed));
        };
        std::thread::Builder::new().name("axon-loader".to_owned()).spawn(load).map_err(Error::internal)?;
        Ok(Self { outcome })
    }

    /// Says what is served when all has been tried, and what is not. Returns only the error of a lone model that
    /// cannot be served.
    pub async fn announce(
        &mut self,
        server: &InferenceServer,
        is_file: bool,
        addresses: Addresses,
        started: Instant,
    ) -> Error {
        let failed = match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_default(),
            Err(_) => return Error::internal("the loading thread panicked"),
        };
        for error in failed {
            if is_file {
                return error;
            }
            tracing::error!(cause = error.cause(), "a model is not served: {error}");
        }
        if !server.is_stopping() {
            announce::ready(server, addresses, started.elapsed());
        }
        std::future::pending().await
    }

    /// Waits until nothing is being loaded, at start or on request. ONNX Runtime cannot be interrupted everywhere, and
    /// its library must not be unloaded under a thread that is inside: past the limit the process ends here, with nothing
    /// left to answer.
    pub async fn finish(mut self, server: InferenceServer) {
        let end = Instant::now() + FINISH_LIMIT;
        let finished = tokio::time::timeout(FINISH_LIMIT, self.outcome.wait_for(Option::is_some)).await;
        let left = end.saturating_duration_since(Instant::now());
        let on_request = tokio::task::spawn_blocking(move || server.finish_loads(left)).await;
        if finished.is_err() || !on_request.unwrap_or(false) {
            tracing::info!("ended while a model was being loaded");
            logging::finish();
            signal_hook::low_level::exit(0);
        }
    }
}
