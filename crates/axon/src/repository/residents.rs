//! The models that are loaded when they are asked for: who is there, who is on its way, who waits.
//!
//! Around the state machine of [`residency`](crate::residency): names, callers, the copies that are being unloaded, what
//! is read from the system. [`keeper`](super::keeper) does what it decides. A request for a model that is ready never
//! comes here; how often it came is read from the model's counters.
//!
//! Invariants: nothing of this is held while a model is loaded or unloaded; every waiter is answered once, at his deadline
//! at the latest; the lock is held for a few lines and no other is taken under it but the table's, for reading.

mod files;
mod measuring;
mod refusal;
mod report;
mod wait;
mod wishes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::host_memory::{HostMemory, resident_bytes};
use super::scan::Found;
use super::table::{Place, Table, model_not_found};
use crate::config::ServerConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::residency::{Cause, CopyId, Decision, Hints, ModelId, Residency, Rules, Step, Wish};

pub(super) use measuring::Measuring;
use refusal::{failed, overloaded, refused};
pub use report::{ResidencyReport, Resident};
pub(super) use wait::{Waiter, Wanted};
pub(super) use wishes::{Loaded, wishes};

/// The most callers that wait for models; one more is refused.
const MAX_WAITERS: usize = 4096;

/// The most names that wait to be looked up; one more is refused.
const MAX_LOOKUPS: usize = 256;

/// The most models that are known.
const MAX_KNOWN: usize = 10_000;

/// How often the system's memory and the models' counters are read at least.
const TICK: Duration = Duration::from_secs(1);

/// Counters are not read more often than this.
const SAMPLE: Duration = Duration::from_millis(20);

/// What ONNX Runtime allocates for the first run of a model, whatever that needs. **Source:** its `BFCArena`.
const ARENA_BYTES: u64 = 1 << 20;

/// What any model takes: threads, their stacks, the outline of its graph.
const LEAST_BYTES: u64 = 256 << 10;

/// A copy that was loaded.
struct Shown {
    id: ModelId,
    /// Its versions that have not been given back.
    generations: BTreeSet<u64>,
    /// The requests that were counted.
    counted: u64,
}

/// What is behind the lock.
pub(super) struct Desk {
    residency: Residency,
    ids: BTreeMap<String, ModelId>,
    names: BTreeMap<ModelId, String>,
    next_id: u32,
    shown: BTreeMap<CopyId, Shown>,
    /// By name; bounded by [`MAX_WAITERS`].
    waiters: BTreeMap<String, Vec<Waiter>>,
    waiting: usize,
    /// Names that nobody has looked up; bounded by [`MAX_LOOKUPS`].
    lookups: VecDeque<String>,
    /// Why a model's last load failed.
    failures: BTreeMap<ModelId, Arc<Error>>,
    sampled: Instant,
    /// Loads and departures that have begun or ended: what was measured across one is not one model's.
    disturbances: u64,
    /// The first load brings the runtime with it, which is no model's.
    is_first: bool,
    /// What each model's configuration wished when it was last read: only a change of that counts.
    wishes: BTreeMap<ModelId, Hints>,
    /// The versions of each model, when it was last looked at.
    versions: BTreeMap<ModelId, Vec<u64>>,
    /// Models that have made way for others.
    evictions: u64,
    /// Models that nobody has used for as long as they are kept.
    expired: u64,
    closed: bool,
}

/// Something for the keeper to do.
pub(super) enum Work {
    /// See what is known of a name.
    Look(String),
    Load(String),
    Evict(String),
    /// Nothing any more.
    Over,
}

/// The models that are loaded when they are asked for.
pub(super) struct Residents {
    desk: Mutex<Desk>,
    changed: Condvar,
    table: Arc<Table>,
    budget: u64,
}

impl Residents {
    /// Enters what was found, of which nothing is loaded.
    pub fn open(table: &Arc<Table>, found: &[Found], config: &ServerConfig) -> Arc<Self> {
        let now = Instant::now();
        let rules = Rules { eviction: config.eviction_policy, ..Rules::default() };
        let budget = config.memory_budget.unwrap_or_else(|| {
            HostMemory::read().map_or(u64::MAX, |memory| memory.budget(resident_bytes().unwrap_or(0)))
        });
        let desk = Desk {
            residency: Residency::new(rules, budget, now),
            ids: BTreeMap::new(),
            names: BTreeMap::new(),
            next_id: 0,
            shown: BTreeMap::new(),
            waiters: BTreeMap::new(),
            waiting: 0,
            lookups: VecDeque::new(),
            failures: BTreeMap::new(),
            sampled: now,
            disturbances: 0,
            is_first: true,
            wishes: BTreeMap::new(),
            versions: BTreeMap::new(),
            evictions: 0,
            expired: 0,
            closed: false,
        };
        let residents =
            Self { desk: Mutex::new(desk), changed: Condvar::new(), table: Arc::clone(table), budget };
        let mut desk = residents.lock();
        for versions in found.chunk_by(|one, next| one.name == next.name) {
            desk.enter(versions, now);
        }
        drop(desk);
        Arc::new(residents)
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a model is known, loaded or not.
    pub fn knows(&self, name: &str) -> bool {
        self.lock().ids.contains_key(name)
    }

    /// How many models are known.
    pub fn count(&self) -> usize {
        self.lock().ids.len()
    }

    /// Asks for a model that is not ready; the caller waits at most for `patience`.
    ///
    /// # Errors
    /// [`ErrorKind::ModelNotReady`] where it is not loaded now, or not in time; [`ErrorKind::Overloaded`] when too many
    /// wait.
    pub fn want(&self, name: &str, wish: Wish, patience: Duration) -> Result<Wanted> {
        let now = Instant::now();
        let mut desk = self.lock();
        if desk.closed {
            return Err(Error::shutting_down());
        }
        desk.sample(&self.table, now);
        let Some(&id) = desk.ids.get(name) else {
            if desk.lookups.len() >= MAX_LOOKUPS {
                return Err(overloaded(name, Duration::from_secs(1)));
            }
            if !desk.lookups.iter().any(|waiting| waiting == name) {
                desk.lookups.push_back(name.to_owned());
            }
            let wanted = desk.wait(name, wish, now + patience)?;
            self.changed.notify_all();
            return Ok(wanted);
        };
        let decided = desk.decide(id, wish, now);
        // The state machine has something to do, whether or not this caller waits for it.
        self.changed.notify_all();
        match decided? {
            None => Ok(Wanted::Ready),
            Some(ready_in) if ready_in > patience => Err(refusal::coming(name, ready_in)),
            Some(_) => desk.wait(name, wish, now + patience),
        }
    }

    /// What the keeper is to do next; waits for it.
    pub fn next_work(&self) -> Work {
        let mut desk = self.lock();
        loop {
            if desk.closed {
                return Work::Over;
            }
            let now = Instant::now();
            desk.sample(&self.table, now);
            desk.expire_waiters(now);
            if let Some(name) = desk.lookups.pop_front() {
                return Work::Look(name);
            }
            let name = |desk: &Desk, id| desk.names.get(&id).cloned().unwrap_or_default();
            match desk.residency.poll(now) {
                Step::Load(id, _) => return Work::Load(name(&desk, id)),
                Step::Evict(id, _, cause) => {
                    match cause {
                        Cause::Room => desk.evictions += 1,
                        Cause::Unused => desk.expired += 1,
                    }
                    return Work::Evict(name(&desk, id));
                }
                Step::GiveUp(id, refusal) => {
                    let name = name(&desk, id);
                    let error = refused(&name, refusal, None);
                    desk.answer(&name, &Err(error));
                }
                Step::Idle => {
                    let moments = [desk.residency.next_moment(), desk.first_deadline()];
                    let next = moments.into_iter().flatten().min();
                    let wait = next.map_or(TICK, |next| next.saturating_duration_since(now)).min(TICK);
                    // A moment that is now is looked at again, not waited for.
                    let wait = wait.max(Duration::from_millis(1));
                    desk = self.changed.wait_timeout(desk, wait).unwrap_or_else(PoisonError::into_inner).0;
                    self.follow_memory(&mut desk);
                }
            }
        }
    }

    /// Makes the budget smaller where the host has less, and larger again.
    fn follow_memory(&self, desk: &mut Desk) {
        let Some(memory) = HostMemory::read() else { return };
        let before = desk.residency.budget();
        let allowed = memory.allowed(self.budget, desk.residency.charged());
        // What is measured trembles; a hundredth is no news.
        if allowed == self.budget && before != allowed || allowed.abs_diff(before) > self.budget / 100 {
            if allowed < before {
                tracing::info!(bytes = allowed, "the host has little memory: models may take less");
            }
            desk.residency.set_budget(allowed);
        }
    }

    /// A name was looked up: what was found of it, or that it is not there.
    pub fn looked_up(&self, name: &str, found: Result<Vec<Found>>) {
        let now = Instant::now();
        let mut desk = self.lock();
        let error = match found {
            Err(error) => error,
            Ok(found) if found.is_empty() => model_not_found(name, desk.ids.keys()),
            Ok(found) => match desk.enter(&found, now) {
                None => overloaded(name, Duration::from_secs(1)),
                Some(id) => {
                    let wish = desk.strongest_wish(name);
                    match desk.decide(id, wish, now) {
                        Err(error) => error,
                        Ok(None) => return desk.answer(name, &Ok(())),
                        Ok(Some(ready_in)) => return desk.dismiss_hasty(name, ready_in, now),
                    }
                }
            },
        };
        desk.answer(name, &Err(error));
    }

    /// A load of a model begins.
    pub fn measure(&self) -> Measuring {
        let mut desk = self.lock();
        desk.disturbances += 1;
        let disturbances = desk.disturbances;
        // One that has begun and has not ended by the end of this one would pass unseen.
        let is_alone = desk.residency.loading() <= 1;
        drop(desk);
        Measuring::begin(disturbances, is_alone)
    }

    /// A model was loaded: the versions that serve now, whose files have `weights` bytes.
    pub fn published(&self, name: &str, loaded: Loaded, measuring: &Measuring) {
        let Loaded { generations, weights, wishes } = loaded;
        let now = Instant::now();
        let grown = measuring.grown(weights);
        let mut desk = self.lock();
        // One that came with the call, and was never in the repository.
        let Some(id) = desk.number(name) else { return };
        desk.residency.add_unknown(id, now);
        desk.wish(id, wishes);
        // A model without weights is only threads.
        let is_first = desk.is_first;
        desk.is_first &= weights == 0;
        let is_alone = measuring.is_alone && desk.disturbances == measuring.disturbances;
        let is_alone = is_alone && !is_first && weights > 0;
        desk.disturbances += 1;
        // What requests took meanwhile shows too.
        let grown = grown
            .filter(|_| is_alone)
            .map(|grown| grown.clamp(weights + LEAST_BYTES, 3 * weights + (16 << 20)));
        let bytes = match (grown, desk.residency.measured(id)) {
            (Some(grown), Some(before)) => grown.midpoint(before),
            (Some(grown), None) => grown,
            (None, before) => before.unwrap_or_else(|| foretold(weights)),
        };
        let took = now - measuring.began;
        if let Some(copy) = desk.residency.published(id, bytes, took, now) {
            desk.shown.insert(copy, Shown { id, generations, counted: 0 });
        }
        desk.failures.remove(&id);
        desk.release();
        desk.answer(name, &Ok(()));
        drop(desk);
        self.changed.notify_all();
    }

    /// A load has ended without a model.
    pub fn failed(&self, name: &str, error: &Error) {
        let now = Instant::now();
        let mut desk = self.lock();
        desk.disturbances += 1;
        let mut retry_after = None;
        if let Some(&id) = desk.ids.get(name) {
            desk.residency.failed(id, now);
            let retry_at = desk.residency.view(id, now).and_then(|view| view.retry_at);
            retry_after = retry_at.map(|at| at.saturating_duration_since(now));
            // Taken out of the repository, it is looked up should it come back.
            if error.kind() != ErrorKind::ModelNotFound || !desk.forget(name, id) {
                desk.failures.insert(id, Arc::new(error.clone()));
            }
        }
        let told = match error.kind() {
            ErrorKind::ModelNotFound | ErrorKind::ShuttingDown => error.clone(),
            _ => failed(name, error, retry_after),
        };
        desk.answer(name, &Err(told));
        drop(desk);
        self.changed.notify_all();
    }

    /// Somebody unloads a model, or is about to.
    pub fn retired(&self, name: &str) {
        let mut desk = self.lock();
        if let Some(&id) = desk.ids.get(name) {
            desk.residency.retire(id);
            desk.release();
        }
        drop(desk);
        self.changed.notify_all();
    }

    /// A version has been given back whole.
    pub fn has_left(&self, place: &Place) {
        let mut desk = self.lock();
        desk.disturbances += 1;
        for shown in desk.shown.values_mut() {
            shown.generations.remove(&place.generation);
        }
        desk.release();
        drop(desk);
        self.changed.notify_all();
    }

    /// Changes what the owner of a model wishes; false for a name that is not known.
    pub fn set_hints(&self, name: &str, change: impl FnOnce(&mut Hints)) -> bool {
        let mut desk = self.lock();
        let Some(&id) = desk.ids.get(name) else { return false };
        desk.residency.set_hints(id, change);
        drop(desk);
        self.changed.notify_all();
        true
    }

    /// A model may be tried again at once.
    pub fn forgive(&self, name: &str) {
        let mut desk = self.lock();
        if let Some(&id) = desk.ids.get(name) {
            desk.residency.forgive(id);
        }
    }

    /// The only model that is known.
    pub fn only(&self) -> Option<String> {
        let desk = self.lock();
        let mut names = desk.ids.keys();
        names.next().filter(|_| names.next().is_none()).cloned()
    }

    /// Refuses whoever waits and whoever comes.
    pub fn close(&self) {
        let mut desk = self.lock();
        desk.closed = true;
        let names: Vec<String> = desk.waiters.keys().cloned().collect();
        for name in names {
            desk.answer(&name, &Err(Error::shutting_down()));
        }
        drop(desk);
        self.changed.notify_all();
    }
}

impl Desk {
    /// The number of a name, known or new; `None` when there are too many.
    fn number(&mut self, name: &str) -> Option<ModelId> {
        if let Some(&id) = self.ids.get(name) {
            return Some(id);
        }
        if self.ids.len() >= MAX_KNOWN {
            return None;
        }
        let id = ModelId(self.next_id);
        self.next_id += 1;
        self.ids.insert(name.to_owned(), id);
        self.names.insert(id, name.to_owned());
        Some(id)
    }

    /// `None` for a model that is there; else how long until it is.
    fn decide(&mut self, id: ModelId, wish: Wish, now: Instant) -> Result<Option<Duration>> {
        if wish == Wish::Request {
            self.residency.requested(id, 1, now);
        }
        match self.residency.want(id, wish, now) {
            Decision::Resident => Ok(None),
            Decision::Coming(ready_in) => Ok(Some(ready_in)),
            Decision::Refused(refusal) => {
                let name = self.names.get(&id).map(String::as_str).unwrap_or_default();
                Err(refused(name, refusal, self.failures.get(&id).map(|error| &**error)))
            }
        }
    }

    /// Reads what was asked of the models that are there.
    fn sample(&mut self, table: &Table, now: Instant) {
        if now.saturating_duration_since(self.sampled) < SAMPLE {
            return;
        }
        self.sampled = now;
        for shown in self.shown.values_mut() {
            let Some(name) = self.names.get(&shown.id) else { continue };
            let asked = table.asked(name, &shown.generations);
            let more = asked.saturating_sub(shown.counted);
            shown.counted = shown.counted.max(asked);
            self.residency.requested(shown.id, more, now);
        }
    }

    /// Gives back the bytes of what has left whole.
    fn release(&mut self) {
        let gone: Vec<CopyId> = self
            .shown
            .iter()
            .filter(|(_, shown)| shown.generations.is_empty())
            .map(|(&copy, _)| copy)
            .collect();
        for copy in gone {
            // One that has left and was not retired yet, because who does it is on the way here, is kept for that.
            if self.residency.left(copy) {
                self.shown.remove(&copy);
            }
        }
    }
}

/// The bytes of a version's files: its own, and what lies beside it and may be its weights.
fn file_bytes(found: &Found) -> u64 {
    let Ok(path) = &found.path else { return 0 };
    let length = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    match (&found.folder, path.parent()) {
        (Some(_), Some(version)) if path.is_file() => {
            let entries = std::fs::read_dir(version).into_iter().flatten().flatten().take(1024);
            entries.map(|entry| length(&entry.path())).sum()
        }
        _ if path.is_file() => length(path),
        _ => 0,
    }
}

/// What a model of so many bytes of weights takes, before anybody has measured it: they are copied or packed, and what a
/// run needs comes on top.
fn foretold(weights: u64) -> u64 {
    let arena = if weights > 0 { ARENA_BYTES } else { 0 };
    LEAST_BYTES + arena + weights + weights / 2
}
