use std::collections::HashMap;
use std::sync::Arc;

use super::store::{Entry, Store};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn key<V: Clone>(cache: &ResponseCache<V>, owner: Owner, parts: &[&str]) -> Key {
    let mut hasher = cache.hasher(owner);
    for part in parts {
        hasher.bytes(part.as_bytes());
    }
    hasher.finish()
}

#[test]
fn what_is_hashed_is_framed() {
    let cache: ResponseCache<u32> = ResponseCache::new(1 << 20);
    let owner = cache.open();
    let questions: [&[&str]; 7] =
        [&["ab", "c"], &["a", "bc"], &["abc"], &["abc", ""], &["", "abc"], &["ab", "", "c"], &[]];
    let mut keys: Vec<Key> = questions.iter().map(|parts| key(&cache, owner, parts)).collect();
    keys.push(key(&cache, cache.open(), &["abc"]));
    for (index, one) in keys.iter().enumerate() {
        assert!(keys[..index].iter().all(|other| other != one), "{index}");
    }
    assert_eq!(key(&cache, owner, &["ab", "c"]), keys[0]);
    let other: ResponseCache<u32> = ResponseCache::new(1 << 20);
    assert_ne!(key(&other, other.open(), &["ab", "c"]), keys[0], "each process has a secret of its own");
}

#[test]
fn a_value_is_kept_until_it_expires_and_for_its_owner_alone() {
    let cache = ResponseCache::new(1 << 20);
    let (owner, now) = (cache.open(), Instant::now());
    let (one, other) = (key(&cache, owner, &["1"]), key(&cache, owner, &["2"]));
    assert!(cache.insert(owner, one, ("one", 100), Some(now + SECOND), now));
    assert!(cache.insert(owner, other, ("other", 100), None, now));
    assert_eq!(cache.get(one, now + Duration::from_nanos(999_999_999)), Some("one"));
    assert_eq!(cache.get(one, now + SECOND), None);
    assert_eq!(cache.get(other, now + 1_000_000 * SECOND), Some("other"));
    assert_eq!(cache.report().entries, 1, "what has expired is dropped when it is asked for");
    assert!(cache.insert(owner, other, ("again", 100), None, now), "a later answer takes the place");
    assert_eq!((cache.get(other, now), cache.report().entries), (Some("again"), 1));
}

#[test]
fn what_is_too_large_is_not_kept() {
    let cache = ResponseCache::new(8000);
    let (owner, now) = (cache.open(), Instant::now());
    let key = key(&cache, owner, &["large"]);
    assert!(!cache.insert(owner, key, ((), 1000), None, now));
    assert!(cache.insert(owner, key, ((), 500), None, now));
    let off = ResponseCache::new(0);
    let owner = off.open();
    assert!(off.is_off() && !off.insert(owner, key, ((), 0), None, now));
}

#[test]
fn a_closed_owner_keeps_nothing_and_the_bytes_come_back() {
    let cache = ResponseCache::new(64 << 20);
    let (one, other, now) = (cache.open(), cache.open(), Instant::now());
    let value = Arc::new(());
    let put = |owner, number: u64| {
        let mut hasher = cache.hasher(owner);
        hasher.number(number);
        cache.insert(owner, hasher.finish(), (Arc::clone(&value), 1), None, now)
    };
    // More than are looked at under one lock.
    for number in 0..3 * SLICE as u64 {
        assert!(put(one, number));
        assert!(number % 8 > 0 || put(other, number));
    }
    let before = cache.report();
    cache.close(one);
    let after = cache.report();
    assert_eq!(after.entries, 3 * SLICE / 8);
    assert_eq!(after.bytes, before.bytes * after.entries / before.entries);
    assert!(!put(one, 1));
    assert!(put(other, 1));
    cache.close(one);
    cache.close(other);
    assert_eq!((cache.report().entries, cache.report().bytes), (0, 0));
    assert_eq!(Arc::strong_count(&value), 1);
}

#[test]
fn what_is_asked_for_outlives_a_stream_of_what_is_not() {
    let charged = Entry::<u64>::charged(100);
    let cache = ResponseCache::new(32 * charged);
    let (owner, now) = (cache.open(), Instant::now());
    let key = |number: u64| {
        let mut hasher = cache.hasher(owner);
        hasher.number(number);
        hasher.finish()
    };
    for number in 0..10_000 {
        let wanted = key(number % 8);
        if cache.get(wanted, now).is_none() {
            cache.insert(owner, wanted, (number % 8, 100), None, now);
        }
        assert!(cache.insert(owner, key(1000 + number), (number, 100), None, now));
    }
    assert_eq!((0..8).filter(|&number| cache.get(key(number), now).is_some()).count(), 8);
    let report = cache.report();
    assert_eq!((report.entries, report.bytes), (32, 32 * charged));
    assert_eq!(report.evictions, 10_008 - 32, "each of the eight came once");
}

/// Random inserts, look-ups and closes, against a map that remembers what was put in last.
fn compare_with_a_map(seed: u64) {
    let mut random = Random(seed);
    let budget = 2_000 + usize::try_from(random.below(20_000)).unwrap();
    let mut store: Store<u64> = Store::new(budget);
    let cache: ResponseCache<u64> = ResponseCache::new(0);
    let hash = cache.open();
    let keys: Vec<Key> = (0..64)
        .map(|number| {
            let mut hasher = cache.hasher(hash);
            hasher.number(number);
            hasher.finish()
        })
        .collect();
    let start = Instant::now();
    let mut known: HashMap<usize, (u64, u64, Instant)> = HashMap::new();
    let mut owner = 0;
    store.open(owner);
    for step in 0..2_000 {
        let now = start + Duration::from_millis(step);
        let index = usize::try_from(random.below(64)).unwrap();
        match random.below(20) {
            0 => {
                let mut from = Some(0);
                while let Some(place) = from {
                    from = store.close(owner, place, 7).1;
                }
                known.retain(|_, (of, _, _)| *of != owner);
                owner += 1;
                store.open(owner);
            }
            1..10 => {
                let (bytes, ttl) = (random.below(600), 1 + random.below(200));
                let expires = now + Duration::from_millis(ttl);
                let bytes = usize::try_from(bytes).unwrap();
                let entry = Entry::new(keys[index], owner, step, bytes, Some(expires));
                if store.insert(entry, now).is_kept {
                    known.insert(index, (owner, step, expires));
                }
            }
            _ => {
                if let Some(value) = store.get(keys[index], now).0 {
                    let (_, expected, expires) = known[&index];
                    assert_eq!(value, expected, "seed {seed} step {step}");
                    assert!(now < expires, "seed {seed} step {step}");
                }
            }
        }
        assert!(store.bytes() <= budget, "seed {seed} step {step}");
        assert!(store.len() <= known.len(), "seed {seed} step {step}");
    }
}

#[test]
fn the_budget_is_never_exceeded_and_no_other_value_given() {
    let first = RandomSeed::new();
    println!("seeds from {}", first.0);
    (0..200).for_each(|offset| compare_with_a_map(first.0.wrapping_add(offset)));
}

struct RandomSeed(u64);

impl RandomSeed {
    fn new() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        Self(RandomState::new().hash_one(0))
    }
}

type Table = Flights<&'static str, u32>;

fn flight() -> (Table, Key, Instant) {
    let cache: ResponseCache<()> = ResponseCache::new(1);
    let owner = cache.open();
    (Table::default(), key(&cache, owner, &["q"]), Instant::now())
}

#[test]
fn all_who_wait_are_answered_by_one_run() {
    let (mut flights, key, now) = flight();
    assert_eq!(flights.class(key), None);
    assert_eq!(flights.join(key, 1, now, 1, "early"), Err("early"));
    let (run, _) = flights.begin(key, 2, "leader");
    assert_eq!(flights.class(key), Some(2));
    flights.join(key, 1, now + SECOND, 10, "one").unwrap();
    flights.join(key, 1, now, 5, "two").unwrap();
    assert_eq!((flights.followers(), flights.next_deadline()), ((2, 15), Some(now)));
    assert!(flights.finish(key, run + 100).is_none(), "another run's answer is not theirs");
    let finished = flights.finish(key, run).unwrap();
    assert_eq!((finished.leader, finished.followers), (Some("leader"), vec!["one", "two"]));
    assert!(flights.finish(key, run).is_none());
    assert_eq!((flights.followers(), flights.class(key)), ((0, 0), None));
    assert_eq!(flights.started(key, run, 7), Err(7), "a run that is over is not stopped later");
}

#[test]
fn a_run_goes_on_until_the_last_has_left() {
    let (mut flights, key, now) = flight();
    let (run, leader) = flights.begin(key, 1, "leader");
    flights.started(key, run, 7).unwrap();
    let follower = flights.join(key, 1, now, 1, "follower").unwrap();
    let left = flights.leave(leader).unwrap();
    assert_eq!((left.waiter, left.was_leader, left.was_last, left.handle), ("leader", true, false, None));
    assert!(flights.leave(leader).is_none());
    let late = flights.join(key, 1, now, 1, "late").unwrap();
    assert!(!flights.leave(follower).unwrap().was_last);
    let left = flights.leave(late).unwrap();
    assert_eq!((left.waiter, left.was_leader, left.was_last, left.handle), ("late", false, true, Some(7)));
    assert_eq!(flights.class(key), None);
}

#[test]
fn a_run_that_fails_fails_its_leader_alone() {
    let (mut flights, key, now) = flight();
    let (run, _) = flights.begin(key, 1, "leader");
    flights.started(key, run, 7).unwrap();
    flights.join(key, 2, now + SECOND, 3, "one").unwrap();
    flights.join(key, 1, now, 4, "two").unwrap();
    let failed = flights.fail(key, run, |waiter, deadline| (*waiter, deadline)).unwrap();
    assert_eq!(flights.class(key), Some(2), "as urgent as who leads now");
    let ((next, deadline), second) = failed.next.unwrap();
    assert_eq!((failed.leader, next, deadline), (Some("leader"), "one", now + SECOND));
    assert_eq!(flights.followers(), (1, 4));
    assert!(flights.fail(key, run, |_, _| ()).is_none(), "the first run is over");
    assert_eq!(flights.due(now).len(), 1, "a leader's deadline is its run's");
    let finished = flights.finish(key, second).unwrap();
    assert_eq!((finished.leader, finished.followers), (Some("one"), vec!["two"]));
    let (run, _) = flights.begin(key, 1, "alone");
    let failed = flights.fail(key, run, |_, _| ()).unwrap();
    assert_eq!((failed.leader, failed.next), (Some("alone"), None));
    assert_eq!(flights.class(key), None);
}
