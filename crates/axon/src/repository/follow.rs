//! Follows the repository: what has changed there is loaded, loaded again or unloaded.
//!
//! [`Changes`] decides and is a pure state machine: the caller passes in what is there and when. [`Watcher`] is the
//! thread that looks, when the system tells of a change and at intervals.
//!
//! A model is acted on when its files have stayed the same for [`SETTLE`], so that one that is being copied is waited
//! for. A copy that stalls for longer is read half, which the load refuses, and is read again once it goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::ModelRepository;
use super::events::Events;
use super::source::Stamps;
use super::turns::Change;
use crate::error::{Error, ErrorKind, Result};

/// How long a model's files must have stayed the same.
const SETTLE: Duration = Duration::from_millis(500);

/// The shortest time between two looks, however much the system tells.
const SHORTEST: Duration = Duration::from_millis(50);

/// What has been acted on, and what is on its way.
#[derive(Default)]
pub(crate) struct Changes {
    /// By model; one that is gone has no files.
    acted_on: BTreeMap<String, Stamps>,
    /// What is there now and is not acted on, and since when it has been so.
    moving: BTreeMap<String, (Stamps, Instant)>,
}

impl Changes {
    /// Notes what is there before it is loaded at start.
    pub fn begin(acted_on: BTreeMap<String, Stamps>) -> Self {
        Self { acted_on, moving: BTreeMap::new() }
    }

    /// Takes in what is there at `now`; returns the models that have changed and settled.
    fn look(&mut self, mut current: BTreeMap<String, Stamps>, now: Instant) -> Vec<String> {
        for name in self.acted_on.keys() {
            // It is gone.
            current.entry(name.clone()).or_default();
        }
        current.retain(|name, stamps| self.acted_on.get(name) != Some(stamps));
        self.moving.retain(|name, (stamps, _)| current.get(name) == Some(stamps));
        for (name, stamps) in current {
            self.moving.entry(name).or_insert((stamps, now));
        }
        let settled = |(_, (_, since)): &(&String, &(Stamps, Instant))| now.duration_since(*since) >= SETTLE;
        self.moving.iter().filter(settled).map(|(name, _)| name.clone()).collect()
    }

    /// A model has been acted on as it was when it had settled.
    fn done(&mut self, name: &str) {
        let Some((stamps, _)) = self.moving.remove(name) else { return };
        if stamps.is_empty() {
            self.acted_on.remove(name);
        } else {
            self.acted_on.insert(name.to_owned(), stamps);
        }
    }

    fn is_moving(&self) -> bool {
        !self.moving.is_empty()
    }
}

impl ModelRepository {
    /// What is there now, to tell later what has changed.
    pub(crate) fn changes(&self) -> Changes {
        Changes::begin(self.stamps(BTreeSet::new()).unwrap_or_default())
    }

    /// The files of every model that is there, and of `known` ones.
    fn stamps(&self, known: BTreeSet<String>) -> Result<BTreeMap<String, Stamps>> {
        let mut names = self.source.listed()?;
        names.extend(known);
        // One whose files are too many to tell changes only on request.
        Ok(names.into_iter().filter_map(|name| Some((name.clone(), self.source.stamps(&name)?))).collect())
    }

    /// Looks at the repository once and acts on what has settled; true while something is on its way.
    pub(crate) fn follow(&self, changes: &mut Changes) -> bool {
        let known = changes.acted_on.keys().cloned().collect();
        let current = match self.stamps(known) {
            Ok(current) => current,
            Err(error) => {
                // Nothing is taken away because a disk does not answer.
                tracing::warn!(cause = error.cause(), "the models stay as they are: {error}");
                return false;
            }
        };
        for name in changes.look(current, Instant::now()) {
            let stamps = changes.moving.get(&name).map(|(stamps, _)| stamps.clone());
            match self.follow_model(&name, stamps) {
                Err(error) if matches!(error.kind(), ErrorKind::Overloaded | ErrorKind::ShuttingDown) => {
                    tracing::debug!(model = name, "a change waits: {error}");
                    continue;
                }
                Err(error) => {
                    tracing::error!(
                        model = name,
                        cause = error.cause(),
                        "a changed model is not served: {error}"
                    );
                }
                Ok(()) => {}
            }
            changes.done(&name);
        }
        changes.is_moving()
    }

    fn follow_model(&self, name: &str, seen: Option<Stamps>) -> Result<()> {
        let found = self.source.find(name, None)?;
        if let Some(residents) = self.residents() {
            if residents.is_loading(name) {
                return Err(Error::new(ErrorKind::Overloaded, "the model is being loaded"));
            }
            self.enter_found(&found);
            if found.is_empty() {
                self.turns.take(name, Change::Unload, || {
                    self.retire(name);
                    Ok(())
                })?;
                residents.gone(name);
                return Ok(());
            }
            residents.changed(&found);
            if self.table.ready_versions(name).is_empty() {
                return Ok(());
            }
        }
        if !found.is_empty() {
            let change = Change::Load { config: None, seen };
            return self.turns.take(name, change, || self.load_now(name, None, &[]));
        }
        self.turns.take(name, Change::Unload, || {
            self.retire(name);
            Ok(())
        })
    }
}

/// The thread that looks; it ends soon after this is dropped, and is not waited for: it may hold the last handle on what
/// this belongs to.
pub(crate) struct Watcher {
    /// What the thread sees closed when this is dropped.
    _open: UnixStream,
}

impl Watcher {
    /// Calls `look` when the folders that it names tell of a change, and at least every `interval` unless that is zero;
    /// until it says that there is nothing to look at any more.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when the thread cannot be started.
    pub fn start(interval: Duration, look: impl FnMut(&mut Events) -> Look + Send + 'static) -> Result<Self> {
        let (open, closed) = UnixStream::pair().map_err(Error::internal)?;
        let run = move || watch(&closed, interval, look);
        std::thread::Builder::new().name("axon-poll".to_owned()).spawn(run).map_err(Error::internal)?;
        Ok(Self { _open: open })
    }
}

/// What a look has found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// All is as it was acted on.
    Still,
    /// Something is on its way.
    Moving,
    /// There is nothing to look at any more.
    Over,
}

fn watch(closed: &UnixStream, interval: Duration, mut look: impl FnMut(&mut Events) -> Look) {
    let mut events = Events::start();
    // Without the system's help, the default interval stands for none.
    let interval = match interval {
        Duration::ZERO if events.are_told() => None,
        Duration::ZERO => Some(crate::config::PollInterval::default().0),
        interval => Some(interval),
    };
    loop {
        let wait = match look(&mut events) {
            Look::Over => return,
            Look::Moving => Some(SETTLE / 2),
            Look::Still => interval,
        };
        if is_over(closed, Some(&events), wait) || is_over(closed, None, Some(SHORTEST)) {
            return;
        }
        events.clear();
    }
}

/// Waits for an event, for the end or for `limit`; true at the end.
fn is_over(closed: &UnixStream, events: Option<&Events>, limit: Option<Duration>) -> bool {
    let mut waited = vec![PollFd::new(closed, PollFlags::IN)];
    waited.extend(
        events.and_then(Events::descriptor).map(|events| PollFd::from_borrowed_fd(events, PollFlags::IN)),
    );
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match poll(&mut waited, limit.as_ref()) {
        Ok(_) => waited.first().is_some_and(|closed| !closed.revents().is_empty()),
        Err(rustix::io::Errno::INTR) => false,
        Err(error) => {
            tracing::error!("the repository is no longer looked at: {error}");
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn stamps(size: u64) -> Stamps {
        Stamps::from([(PathBuf::from("model.onnx"), (None, size, 1))])
    }

    fn there(models: &[(&str, u64)]) -> BTreeMap<String, Stamps> {
        models.iter().map(|&(name, size)| (name.to_owned(), stamps(size))).collect()
    }

    #[test]
    fn a_model_is_acted_on_once_when_it_has_settled() {
        let start = Instant::now();
        let mut changes = Changes::begin(there(&[("old", 1)]));
        let at = |settles: u32| start + SETTLE * settles;
        assert!(changes.look(there(&[("old", 1), ("new", 1)]), at(0)).is_empty());
        assert!(changes.is_moving());
        assert!(changes.look(there(&[("old", 1), ("new", 1)]), at(0) + SETTLE / 2).is_empty());
        assert_eq!(changes.look(there(&[("old", 1), ("new", 1)]), at(1)), ["new"]);
        changes.done("new");
        assert!(changes.look(there(&[("old", 1), ("new", 1)]), at(9)).is_empty());
        assert!(!changes.is_moving());
    }

    #[test]
    fn a_file_that_grows_is_waited_for() {
        let start = Instant::now();
        let mut changes = Changes::default();
        for step in 0..10 {
            let now = start + SETTLE * step;
            assert!(changes.look(there(&[("m", u64::from(step))]), now).is_empty(), "{step}");
        }
        assert_eq!(changes.look(there(&[("m", 9)]), start + SETTLE * 10), ["m"]);
    }

    #[test]
    fn a_model_that_is_gone_for_a_moment_is_not_gone() {
        let start = Instant::now();
        let mut changes = Changes::begin(there(&[("m", 1)]));
        assert!(changes.look(there(&[]), start).is_empty());
        assert!(changes.look(there(&[("m", 1)]), start + SETTLE).is_empty());
        assert!(!changes.is_moving(), "it is as it was");
        assert!(changes.look(there(&[]), start + SETTLE * 2).is_empty());
        assert_eq!(changes.look(there(&[]), start + SETTLE * 3), ["m"]);
        changes.done("m");
        assert!(changes.look(there(&[]), start + SETTLE * 9).is_empty());
    }

    #[test]
    fn what_was_not_done_is_told_again_and_what_changed_meanwhile_anew() {
        let start = Instant::now();
        let mut changes = Changes::default();
        changes.look(there(&[("m", 1)]), start);
        assert_eq!(changes.look(there(&[("m", 1)]), start + SETTLE), ["m"]);
        assert_eq!(changes.look(there(&[("m", 1)]), start + SETTLE * 2), ["m"]);
        changes.done("m");
        assert!(changes.look(there(&[("m", 2)]), start + SETTLE * 3).is_empty());
        assert_eq!(changes.look(there(&[("m", 2)]), start + SETTLE * 4), ["m"]);
    }
}
