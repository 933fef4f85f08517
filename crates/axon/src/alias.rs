//! Names that stand for models: which version answers, how a canary shares the requests, where copies of them go.
//!
//! A change makes a new table beside the old one and swaps one pointer: a request sees the one or the other, never a mix.
//! What has been sent to a target stays with it. An alias never stands for another alias, and never has a model's name.
//!
//! Invariants: of the requests without a key each target gets exactly its part; a copy never delays or fails the request
//! that it is of, and there are never more than [`MAX_COPIES`] on their way.

mod compare;
mod counters;
mod declared;
mod shadow;
mod split;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use crate::error::{Echo, Error, ErrorKind, Result};
use crate::request::{InferenceRequest, InferenceResponse};
pub use counters::{Dropped, OutputDifference, ShadowCounts, TargetCounts};
use counters::{ShadowCounters, TargetCounters};
pub use declared::{Declared, Destination, MAX_TARGETS, MAX_WEIGHT, Shadow, Target};
pub(crate) use shadow::Finder;
use shadow::{Copied, Shadows};
pub use shadow::{MAX_COPIES, MAX_COPY_BYTES};
use split::{Split, takes};

/// The most aliases of a server.
pub const MAX_ALIASES: usize = 1000;

/// The largest file of aliases.
pub const MAX_FILE_BYTES: u64 = 4 << 20;

/// Who declared an alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The file, which is read again.
    File,
    /// A request; it holds until the server ends.
    Request,
}

impl Origin {
    /// Its name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Request => "request",
        }
    }
}

/// What is known of an alias.
#[derive(Clone, Debug)]
pub struct AliasReport {
    /// Its name.
    pub name: String,
    /// Where it leads.
    pub declared: Declared,
    /// Who declared it.
    pub origin: Origin,
    /// What was counted of each target, in their order.
    pub targets: Vec<TargetCounts>,
    /// What was counted of the shadow, where it has one.
    pub shadow: Option<ShadowCounts>,
}

struct Alias {
    name: String,
    declared: Declared,
    origin: Origin,
    split: Split,
    /// Requests that came without a key.
    turns: AtomicU64,
    /// Requests that could be copied.
    copyable: AtomicU64,
    targets: Vec<Arc<TargetCounters>>,
    shadow: Option<Arc<ShadowCounters>>,
}

impl Alias {
    /// Counts on where `before` stood for the same.
    fn new(name: &str, declared: Declared, origin: Origin, before: Option<&Self>) -> Self {
        let counters = |target: &Target| {
            let known = before.and_then(|before| {
                let index = before.declared.targets().iter().position(|known| known.to == target.to)?;
                before.targets.get(index).map(Arc::clone)
            });
            known.unwrap_or_default()
        };
        let shadow = declared.shadow().map(|shadow| {
            let known =
                before.filter(|before| before.declared.shadow().is_some_and(|known| known.to == shadow.to));
            known.and_then(|before| before.shadow.clone()).unwrap_or_default()
        });
        Self {
            name: name.to_owned(),
            split: Split::new(declared.targets().iter().map(|target| target.weight)),
            targets: declared.targets().iter().map(counters).collect(),
            shadow,
            declared,
            origin,
            turns: AtomicU64::new(0),
            copyable: AtomicU64::new(0),
        }
    }

    fn choose(&self, key: Option<&[u8]>) -> usize {
        match key {
            Some(key) => self.split.keyed(&self.name, key),
            None => self.split.turn(self.turns.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// The target of the largest weight, the first among equals.
    fn main(&self) -> Option<&Destination> {
        let targets = self.declared.targets();
        let heaviest = targets.iter().map(|target| target.weight).max();
        targets.iter().find(|target| Some(target.weight) == heaviest).map(|target| &target.to)
    }

    fn report(&self) -> AliasReport {
        AliasReport {
            name: self.name.clone(),
            declared: self.declared.clone(),
            origin: self.origin,
            targets: self.targets.iter().map(|counters| counters.read()).collect(),
            shadow: self.shadow.as_ref().map(|counters| counters.read()),
        }
    }
}

type Table = BTreeMap<String, Arc<Alias>>;

/// All aliases of a server.
#[derive(Default)]
pub(crate) struct Aliases {
    table: RwLock<Arc<Table>>,
    /// Whether there is any: requests of servers without pay for nothing more.
    any: AtomicBool,
    /// Held while the next table is made.
    changing: Mutex<()>,
    shadows: Shadows,
}

impl Aliases {
    fn now(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there is any.
    pub fn are_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn find(&self, name: &str) -> Option<Arc<Alias>> {
        if !self.are_any() {
            return None;
        }
        self.table.read().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone)
    }

    /// Whether a name is an alias; then where it leads, for a message.
    pub fn leads(&self, name: &str) -> Option<String> {
        self.find(name).map(|alias| told(&alias.declared))
    }

    /// The target of a request for `name`; `None` when that is no alias. Requests with the same `key` have the same target.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] at `model_version` for a request that names a version too.
    pub fn route(&self, name: &str, version: Option<u64>, key: Option<&[u8]>) -> Result<Option<Routed>> {
        let Some(alias) = self.find(name) else { return Ok(None) };
        check_no_version(&alias, version)?;
        let index = alias.choose(key);
        let target = alias.declared.targets().get(index);
        let to = target
            .map(|target| target.to.clone())
            .ok_or_else(|| Error::internal("a split has no such target"))?;
        Ok(Some(Routed { alias, index, to, key: key.map(<[u8]>::to_vec) }))
    }

    /// Every target of an alias, the one of the largest weight first; `None` when the name is no alias.
    ///
    /// # Errors
    /// As for [`Aliases::route`].
    pub fn destinations(&self, name: &str, version: Option<u64>) -> Result<Option<Vec<Destination>>> {
        let Some(alias) = self.find(name) else { return Ok(None) };
        check_no_version(&alias, version)?;
        let mut all: Vec<Destination> = alias.main().cloned().into_iter().collect();
        for target in alias.declared.targets() {
            if !all.contains(&target.to) {
                all.push(target.to.clone());
            }
        }
        Ok(Some(all))
    }

    /// The changes of one caller: nobody else makes any meanwhile.
    pub fn change(&self) -> Changing<'_> {
        let guard = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        Changing { aliases: self, next: (*self.now()).clone(), _guard: guard }
    }

    /// Every alias, by name.
    pub fn report(&self) -> Vec<AliasReport> {
        self.now().values().map(|alias| alias.report()).collect()
    }

    /// One alias.
    ///
    /// # Errors
    /// [`ErrorKind::ModelNotFound`] at `alias`.
    pub fn report_of(&self, name: &str) -> Result<AliasReport> {
        self.find(name).map(|alias| alias.report()).ok_or_else(|| unknown(name))
    }
}

/// A change that is being made.
pub(crate) struct Changing<'a> {
    aliases: &'a Aliases,
    next: Table,
    _guard: MutexGuard<'a, ()>,
}

impl Changing<'_> {
    /// Adds an alias, or leads one elsewhere.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] for a name that no model could have, for an alias of an alias, and for one alias too
    /// many.
    pub fn set(&mut self, name: &str, declared: Declared, origin: Origin) -> Result<()> {
        declared::check_alias_name(name)?;
        let before = self.next.get(name).map(Arc::clone);
        if before.is_none() && self.next.len() >= MAX_ALIASES {
            return Err(Error::new(
                ErrorKind::Overloaded,
                format!("alias {}: the server holds {MAX_ALIASES} aliases, which is the most", Echo(name)),
            ));
        }
        for (field, to) in declared.destinations() {
            if to.model == name || self.next.contains_key(&to.model) {
                return Err(Error::invalid(
                    field,
                    format_args!(
                        "expected a model, got the alias {}: an alias leads to models only",
                        Echo(&to.model)
                    ),
                ));
            }
        }
        let leads_here = |alias: &&Arc<Alias>| alias.declared.destinations().any(|(_, to)| to.model == name);
        if let Some(other) = self.next.values().find(leads_here) {
            return Err(Error::invalid(
                "alias",
                format_args!(
                    "the alias {} leads to {}, which would be an alias too",
                    Echo(&other.name),
                    Echo(name)
                ),
            ));
        }
        let alias = Alias::new(name, declared, origin, before.as_deref());
        self.next.insert(name.to_owned(), Arc::new(alias));
        Ok(())
    }

    /// Removes an alias.
    ///
    /// # Errors
    /// [`ErrorKind::ModelNotFound`] at `alias`.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        self.next.remove(name).map(drop).ok_or_else(|| unknown(name))
    }

    /// Removes what a file had declared and `declares` no more.
    pub fn retain_of_file(&mut self, declares: impl Fn(&str) -> bool) {
        self.next.retain(|name, alias| alias.origin != Origin::File || declares(name));
    }

    /// Publishes the change at one moment. `find` gives what shadows are asked for.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when the thread of shadows cannot be started.
    pub fn publish(self, find: impl FnOnce() -> Finder) -> Result<()> {
        if self.next.values().any(|alias| alias.shadow.is_some()) {
            self.aliases.shadows.start(find)?;
        }
        let any = !self.next.is_empty();
        *self.aliases.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(self.next);
        self.aliases.any.store(any, Ordering::Release);
        Ok(())
    }
}

/// Reads a file of aliases.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] that says what is wrong where.
pub(crate) fn parse_file(text: &str) -> Result<BTreeMap<String, Declared>> {
    declared::parse_file(text)
}

/// Says of which alias of a file an error is.
pub(crate) fn within(name: &str, error: &Error) -> Error {
    declared::within(name, error)
}

/// The target that was chosen for a request.
#[derive(Clone)]
pub struct Routed {
    alias: Arc<Alias>,
    index: usize,
    to: Destination,
    key: Option<Vec<u8>>,
}

impl Routed {
    /// The alias.
    #[must_use]
    pub fn alias(&self) -> &str {
        &self.alias.name
    }

    /// The target.
    #[must_use]
    pub fn to(&self) -> &Destination {
        &self.to
    }

    /// The caller's key, by which the target was chosen.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// Whether requests of one alias may go to several models.
    pub(crate) fn is_split(&self) -> bool {
        self.alias.declared.targets().len() > 1
    }

    /// The same alias with the same targets.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.alias, &other.alias)
    }

    /// What an error of the target is put into.
    pub(crate) fn within(&self, error: Error) -> Error {
        error.within(format_args!("alias {} leads to {}", Echo(self.alias()), Echo(&self.to().to_string())))
    }

    /// Counts a request from now on, and copies it where it is its turn.
    pub(crate) fn watch(self, aliases: &Aliases, request: &InferenceRequest) -> Watch {
        let copied = self.copy(aliases, request);
        Watch { since: Instant::now(), routed: self, copied, is_ended: false }
    }

    fn copy(&self, aliases: &Aliases, request: &InferenceRequest) -> Option<Copied> {
        let (shadow, counters) = (self.alias.declared.shadow()?, self.alias.shadow.as_ref()?);
        // It answers itself; and a sequence would begin twice.
        if *self.to() == shadow.to || request.sequence.is_some() {
            return None;
        }
        if !takes(shadow.share, self.alias.copyable.fetch_add(1, Ordering::Relaxed)) {
            return None;
        }
        aliases.shadows.copy(request, (self.to().clone(), shadow.to.clone()), counters)
    }
}

/// A request of an alias that is being answered.
pub(crate) struct Watch {
    routed: Routed,
    since: Instant,
    copied: Option<Copied>,
    is_ended: bool,
}

impl Watch {
    /// Counts how it ended; then its copy, if there is one, is sent.
    pub fn ended(mut self, aliases: &Aliases, answer: &Result<InferenceResponse>) {
        let Ok(response) = answer else { return };
        self.is_ended = true;
        let took = self.since.elapsed();
        if let Some(counters) = self.routed.alias.targets.get(self.routed.index) {
            counters.answer(took);
        }
        if let Some(copied) = self.copied.take() {
            aliases.shadows.send(copied, response, took);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.is_ended {
            return;
        }
        if let Some(counters) = self.routed.alias.targets.get(self.routed.index) {
            counters.fail();
        }
        if let Some(copied) = self.copied.take() {
            copied.drop_for(Dropped::Unanswered);
        }
    }
}

fn check_no_version(alias: &Alias, version: Option<u64>) -> Result<()> {
    let Some(version) = version else { return Ok(()) };
    let (name, leads) = (Echo(&alias.name), told(&alias.declared));
    Err(Error::invalid(
        "model_version",
        format_args!(
            "expected none, got {version}: {name} is an alias of {leads}, which says the version\nhint: ask the model itself for a \
             version"
        ),
    ))
}

/// Where an alias leads, for a message.
fn told(declared: &Declared) -> String {
    let targets: Vec<String> = declared.targets().iter().map(|target| target.to.to_string()).collect();
    crate::error::echo_names(targets.iter().map(String::as_str))
}

fn unknown(name: &str) -> Error {
    Error::at(ErrorKind::ModelNotFound, "alias", format_args!("{} is not here", Echo(name)))
}

#[cfg(test)]
mod tests;
