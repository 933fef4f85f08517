//! Follows the files: what they hold is taken when it has changed.

use std::sync::Arc;
use std::time::Duration;

use super::Tls;
use super::files::Ready;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(2);

/// What the files were found to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Holding(u64),
    Unreadable,
}

/// Looks at the files for ever, or never where there are none.
pub(crate) async fn follow(tls: Option<Arc<Tls>>) {
    let Some(tls) = tls else { return std::future::pending().await };
    let mut looks = tokio::time::interval(EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut follower = Follower::new(tls);
    loop {
        looks.tick().await;
        // Where they are on another machine, they may take their time.
        match tokio::task::spawn_blocking(move || follower.looked()).await {
            Ok(next) => follower = next,
            Err(error) => {
                tracing::error!("the files of TLS are followed no more: {error}");
                return std::future::pending().await;
            }
        }
    }
}

/// What is known of the files from one look to the next.
pub(super) struct Follower {
    tls: Arc<Tls>,
    /// At the last look.
    last: Look,
    /// What was taken, or was refused and told.
    settled: Look,
}

impl Follower {
    pub fn new(tls: Arc<Tls>) -> Self {
        let now = Look::Holding(tls.ready().fingerprint);
        Self { tls, last: now, settled: now }
    }

    fn looked(mut self) -> Self {
        self.look();
        self
    }

    /// Takes a change that the look before has seen as well: a certificate and its key are written one after the other.
    pub fn look(&mut self) {
        let read = self.tls.files.read();
        let now = read.as_ref().map_or(Look::Unreadable, |contents| Look::Holding(contents.fingerprint()));
        let is_stable = now == std::mem::replace(&mut self.last, now);
        if !is_stable || now == self.settled {
            return;
        }
        self.settled = now;
        if now == Look::Holding(self.tls.ready().fingerprint) {
            // Back to what is served, after something that was not taken.
            return;
        }
        let made = read.and_then(|contents| Ready::make(&contents, &self.tls.files));
        match self.tls.replace(made) {
            Ok(()) => tracing::info!("took the changed files of TLS for new connections"),
            Err(problem) => {
                tracing::error!("the changed files of TLS are not taken, those of before stay: {problem}");
            }
        }
    }
}
