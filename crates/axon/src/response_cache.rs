//! Keeps answers under the hash of their questions, for as long as they are worth their bytes.
//!
//! Three parts that know nothing of models: `key` hashes a question, [`ResponseCache`] keeps values within a number of
//! bytes, [`Flights`] remembers who waits for a run that is under way. The caller passes in every `Instant`.
//!
//! Invariants: the bytes that are charged never exceed the budget; nothing is given back after it expired, or after its
//! owner was closed; an owner that was closed holds nothing.

mod flights;
mod key;
mod store;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use flights::{Failed, Finished, Flights, Left, Member};
pub use key::{Key, KeyHasher};

use key::Secret;
use store::{Entry, Store};

/// A value of more than this part of the budget is not kept: it would drive out too many others.
const LARGEST_PART: usize = 8;

/// The most entries that are looked at under one lock while an owner is closed.
const SLICE: usize = 1024;

/// Keeps values within a budget. What was not asked for since it came leaves first (SIEVE).
pub struct ResponseCache<V> {
    budget: usize,
    secret: Secret,
    store: Mutex<Store<V>>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    owners: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
    lookup_ns: AtomicU64,
    insertion_ns: AtomicU64,
}

/// Who keeps values: a load of a model's version. Another one never gets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(u64);

/// What a cache holds, and what became of the questions so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheReport {
    /// The most bytes that it holds.
    pub budget: usize,
    /// The bytes that it holds.
    pub bytes: usize,
    /// The values that it holds.
    pub entries: usize,
    /// Questions that were answered without a run of their own.
    pub hits: u64,
    /// Questions that were run.
    pub misses: u64,
    /// Values that made way for others.
    pub evictions: u64,
    /// Hashing and looking up, all questions together.
    pub lookups: Duration,
    /// Keeping answers, all together.
    pub insertions: Duration,
}

impl<V> fmt::Debug for ResponseCache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseCache").field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl<V: Clone> ResponseCache<V> {
    /// Holds nothing yet, and at most `budget` bytes; 0 keeps nothing.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self {
            budget,
            secret: Secret::random(),
            store: Mutex::new(Store::new(budget)),
            counters: Counters::default(),
        }
    }

    /// True when nothing is ever kept.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.budget == 0
    }

    /// A new owner, whose values are kept until [`ResponseCache::close`].
    #[must_use]
    pub fn open(&self) -> Owner {
        let owner = Owner(self.counters.owners.fetch_add(1, Relaxed));
        self.lock().open(owner.0);
        owner
    }

    /// Drops what `owner` keeps; it keeps nothing from now on. Closing twice does nothing more.
    pub fn close(&self, owner: Owner) {
        let mut from = 0;
        loop {
            let mut store = self.lock();
            let (values, next) = store.close(owner.0, from, SLICE);
            drop(store);
            // Freed without the lock: requests of other models do not wait for it.
            drop(values);
            let Some(next) = next else { return };
            from = next;
        }
    }

    /// A hasher of a question to `owner`.
    #[must_use]
    pub fn hasher(&self, owner: Owner) -> KeyHasher {
        let mut hasher = KeyHasher::new(&self.secret);
        hasher.number(owner.0);
        hasher
    }

    /// What is kept under `key`, unless it has expired by `now`.
    #[must_use]
    pub fn get(&self, key: Key, now: Instant) -> Option<V> {
        let mut store = self.lock();
        let (value, expired) = store.get(key, now);
        drop(store);
        drop(expired);
        value
    }

    /// Keeps a value that holds `bytes` bytes, until `expires` where that is given; others make way for it. False when it
    /// is not kept: its owner is closed, or it is larger than an eighth of the budget.
    pub fn insert(
        &self,
        owner: Owner,
        key: Key,
        kept: (V, usize),
        expires: Option<Instant>,
        now: Instant,
    ) -> bool {
        let (value, bytes) = kept;
        if !self.may_keep(bytes) {
            return false;
        }
        let entry = Entry::new(key, owner.0, value, bytes, expires);
        let mut store = self.lock();
        let outcome = store.insert(entry, now);
        drop(store);
        self.counters.evictions.fetch_add(outcome.evicted, Relaxed);
        // With it what made way is freed, without the lock.
        outcome.is_kept
    }

    /// Whether a value of `bytes` bytes is small enough to be kept.
    #[must_use]
    pub fn may_keep(&self, bytes: usize) -> bool {
        Entry::<V>::charged(bytes) <= self.budget / LARGEST_PART
    }

    /// Counts a question that was answered without a run of its own, and how long it took to find that out.
    pub fn count_hit(&self, lookup: Duration) {
        self.counters.hits.fetch_add(1, Relaxed);
        self.counters.lookup_ns.fetch_add(nanoseconds(lookup), Relaxed);
    }

    /// Counts a question that is run.
    pub fn count_miss(&self, lookup: Duration) {
        self.counters.misses.fetch_add(1, Relaxed);
        self.counters.lookup_ns.fetch_add(nanoseconds(lookup), Relaxed);
    }

    /// Counts how long it took to keep an answer.
    pub fn count_insertion(&self, duration: Duration) {
        self.counters.insertion_ns.fetch_add(nanoseconds(duration), Relaxed);
    }

    /// What it holds and what it has counted.
    #[must_use]
    pub fn report(&self) -> CacheReport {
        let (bytes, entries) = {
            let store = self.lock();
            (store.bytes(), store.len())
        };
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        let Counters { hits, misses, evictions, lookup_ns, insertion_ns, .. } = &self.counters;
        CacheReport {
            budget: self.budget,
            bytes,
            entries,
            hits: read(hits),
            misses: read(misses),
            evictions: read(evictions),
            lookups: Duration::from_nanos(read(lookup_ns)),
            insertions: Duration::from_nanos(read(insertion_ns)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Store<V>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
