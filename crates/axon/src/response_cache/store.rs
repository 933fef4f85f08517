//! Values by key within a budget of bytes.
//!
//! New values come in front. A hand goes from the oldest to the newest: what was asked for since the hand last passed is
//! spared once, what was not leaves. A stream of questions that are asked once so drives out itself, and a hit only sets
//! a mark.
//!
//! **Source:** Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024.

use std::collections::HashMap;
use std::time::Instant;

use super::key::{Key, Keys};

const NONE: u32 = u32::MAX;

/// Expired values that leave with each insertion, the oldest first.
const SWEEP: usize = 2;

/// A value and what is known of it.
pub(super) struct Entry<V> {
    key: Key,
    owner: u64,
    value: V,
    charged: usize,
    expires: Option<Instant>,
    was_asked_for: bool,
}

impl<V> Entry<V> {
    /// A value that holds `bytes` bytes itself.
    pub fn new(key: Key, owner: u64, value: V, bytes: usize, expires: Option<Instant>) -> Self {
        Self { key, owner, value, charged: Self::charged(bytes), expires, was_asked_for: false }
    }

    /// What a value of `bytes` bytes is charged: its place comes on top. Tables grow by doubling, so that there may be
    /// two places for each that is used.
    pub fn charged(bytes: usize) -> usize {
        let place = size_of::<Slot<V>>() + size_of::<u32>() + size_of::<(Key, u32)>() + 1;
        bytes.saturating_add(2 * place)
    }

    fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// A place for a value, in the order in which they came.
struct Slot<V> {
    entry: Option<Entry<V>>,
    newer: u32,
    older: u32,
}

/// The values of an owner.
struct Holding {
    is_open: bool,
    entries: usize,
}

/// What became of an insertion. What made way is freed when this is dropped.
pub(super) struct Inserted<V> {
    pub is_kept: bool,
    /// How many values made way that had not expired.
    pub evicted: u64,
    #[expect(dead_code, reason = "they are held to be freed without the lock")]
    freed: Vec<Entry<V>>,
}

pub(super) struct Store<V> {
    budget: usize,
    bytes: usize,
    index: HashMap<Key, u32, Keys>,
    slots: Vec<Slot<V>>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    /// Where the hand looks next; [`NONE`] begins at the oldest.
    hand: u32,
    holdings: HashMap<u64, Holding>,
}

impl<V: Clone> Store<V> {
    pub fn new(budget: usize) -> Self {
        Self {
            budget,
            bytes: 0,
            index: HashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            hand: NONE,
            holdings: HashMap::new(),
        }
    }

    /// The bytes that are charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn open(&mut self, owner: u64) {
        self.holdings.insert(owner, Holding { is_open: true, entries: 0 });
    }

    /// Takes what `owner` keeps from at most `limit` places, and says where to go on.
    pub fn close(&mut self, owner: u64, from: usize, limit: usize) -> (Vec<Entry<V>>, Option<usize>) {
        let Some(holding) = self.holdings.get_mut(&owner) else { return (Vec::new(), None) };
        holding.is_open = false;
        let mut taken = Vec::new();
        let to = from.saturating_add(limit).min(self.slots.len());
        for place in from..to {
            if self.slots[place].entry.as_ref().is_some_and(|entry| entry.owner == owner) {
                taken.extend(self.remove(narrow(place)));
            }
        }
        if self.holdings.get(&owner).is_some_and(|holding| holding.entries > 0) {
            // The places may have been laid out anew since the first were looked at.
            return (taken, Some(if to < self.slots.len() { to } else { 0 }));
        }
        self.holdings.remove(&owner);
        self.shrink();
        (taken, None)
    }

    /// What is kept under `key`, and what was found to have expired.
    pub fn get(&mut self, key: Key, now: Instant) -> (Option<V>, Option<Entry<V>>) {
        let Some(&place) = self.index.get(&key) else { return (None, None) };
        let Some(entry) = self.slots[place as usize].entry.as_mut() else { return (None, None) };
        if entry.has_expired(now) {
            return (None, self.remove(place));
        }
        entry.was_asked_for = true;
        (Some(entry.value.clone()), None)
    }

    pub fn insert(&mut self, entry: Entry<V>, now: Instant) -> Inserted<V> {
        let mut freed = Vec::new();
        let is_open = self.holdings.get(&entry.owner).is_some_and(|holding| holding.is_open);
        if !is_open || entry.charged > self.budget {
            freed.push(entry);
            return Inserted { is_kept: false, evicted: 0, freed };
        }
        if let Some(&place) = self.index.get(&entry.key) {
            freed.extend(self.remove(place));
        }
        for _ in 0..SWEEP {
            let oldest = self.slots.get(self.oldest as usize).and_then(|slot| slot.entry.as_ref());
            if !oldest.is_some_and(|entry| entry.has_expired(now)) {
                break;
            }
            freed.extend(self.remove(self.oldest));
        }
        let mut evicted = 0;
        while self.bytes > self.budget - entry.charged {
            let Some(victim) = self.evict(now) else { break };
            evicted += u64::from(!victim.has_expired(now));
            freed.push(victim);
        }
        self.push(entry);
        Inserted { is_kept: true, evicted, freed }
    }

    fn push(&mut self, entry: Entry<V>) {
        let (key, owner) = (entry.key, entry.owner);
        self.bytes += entry.charged;
        let slot = Slot { entry: Some(entry), newer: NONE, older: self.newest };
        let place = if let Some(place) = self.free.pop() {
            self.slots[place as usize] = slot;
            place
        } else {
            self.slots.push(slot);
            narrow(self.slots.len() - 1)
        };
        match self.newest {
            NONE => self.oldest = place,
            newest => self.slots[newest as usize].newer = place,
        }
        self.newest = place;
        self.index.insert(key, place);
        if let Some(holding) = self.holdings.get_mut(&owner) {
            holding.entries += 1;
        }
    }

    /// Takes what the hand comes upon first that was not asked for, or has expired. Each is passed twice at most.
    fn evict(&mut self, now: Instant) -> Option<Entry<V>> {
        loop {
            let place = if self.hand == NONE { self.oldest } else { self.hand };
            let slot = self.slots.get_mut(place as usize)?;
            let newer = slot.newer;
            let entry = slot.entry.as_mut()?;
            if entry.was_asked_for && !entry.has_expired(now) {
                entry.was_asked_for = false;
                self.hand = newer;
                continue;
            }
            return self.remove(place);
        }
    }

    fn remove(&mut self, place: u32) -> Option<Entry<V>> {
        let slot = self.slots.get_mut(place as usize)?;
        let entry = slot.entry.take()?;
        let (newer, older) = (slot.newer, slot.older);
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
        if self.hand == place {
            self.hand = newer;
        }
        self.free.push(place);
        self.index.remove(&entry.key);
        self.bytes -= entry.charged;
        if let Some(holding) = self.holdings.get_mut(&entry.owner) {
            holding.entries -= 1;
        }
        Some(entry)
    }

    /// Gives back the places of those that have left, where they are most.
    fn shrink(&mut self) {
        if self.slots.capacity() <= 4 * self.index.len() {
            return;
        }
        let mut entries = Vec::with_capacity(self.index.len());
        let mut place = self.oldest;
        let mut hand = None;
        while let Some(slot) = self.slots.get_mut(place as usize) {
            if place == self.hand {
                hand = Some(narrow(entries.len()));
            }
            place = slot.newer;
            entries.extend(slot.entry.take());
        }
        let count = narrow(entries.len());
        let slot = |(place, entry): (u32, Entry<V>)| Slot {
            entry: Some(entry),
            newer: if place + 1 < count { place + 1 } else { NONE },
            older: place.checked_sub(1).unwrap_or(NONE),
        };
        self.slots = (0..count).zip(entries).map(slot).collect();
        self.index.clear();
        let keys = self.slots.iter().filter_map(|slot| slot.entry.as_ref()).map(|entry| entry.key);
        self.index.extend(keys.zip(0..));
        self.index.shrink_to_fit();
        self.free = Vec::new();
        (self.oldest, self.newest) = if count > 0 { (0, count - 1) } else { (NONE, NONE) };
        self.hand = hand.unwrap_or(NONE);
    }
}

/// A place as it is noted. A budget that would hold as many entries as this has numbers is 800 GB.
fn narrow(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(NONE)
}
