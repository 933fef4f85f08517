//! What was lately: rates, latencies and batches, from a look at each model's counters once a second.
//!
//! Nothing of it is on the path of a request, and the caller passes in the time.
//!
//! Invariants: a model has at most [`LOOKS`] looks and [`SLOTS`] slots, and of one that serves nothing no slot is kept;
//! a model that the server does not know any more is forgotten at the next look.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axon::repository::{Entry, Model, State};
use axon::server::InferenceServer;

use crate::spread::Spread;

/// How often the counters are looked at.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

/// The looks that a rate is taken from: those of the last ten seconds.
const LOOKS: usize = 11;

/// The seconds of a slot.
pub(crate) const SLOT_SECONDS: u64 = 10;

/// The slots that are kept: ten minutes.
pub(crate) const SLOTS: usize = 60;

/// The slots that percentiles are taken from: the last minute, besides the one that is not over.
const RECENT_SLOTS: u64 = 6;

/// How long batch sizes are counted; two of these are told.
const BATCHES_FOR: u64 = 60;

/// What a model has counted since it was loaded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Requests answered.
    pub requests: u64,
    /// Requests that were refused or failed.
    pub failed: u64,
    /// Rows answered.
    pub rows: u64,
    /// Runs.
    pub runs: u64,
    /// Requests answered by their latency, in the cells of [`Spread`]; these go on over a reload.
    pub latency: Vec<u64>,
    /// Runs by their rows.
    pub batches: BTreeMap<usize, u64>,
}

/// How often something happens, and how much of it at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    /// Requests answered in a second.
    pub requests: f64,
    /// Requests that were refused or failed in a second.
    pub failed: f64,
    /// Rows of a run; `None` when nothing was run.
    pub mean_batch: Option<f64>,
}

/// Requests by latency, in ten seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Which ten seconds since 1970.
    pub index: u64,
    pub spread: Spread,
}

/// What is remembered of every model.
#[derive(Default)]
pub(crate) struct History(Mutex<BTreeMap<Key, Remembered>>);

/// A model and its version.
type Key = (String, u64);

#[derive(Default)]
struct Remembered {
    /// The load that the track belongs to; none before the first.
    model: Weak<Model>,
    track: Track,
}

impl History {
    /// Looks at the counters of every model that is ready, `now` since 1970.
    pub fn look(&self, server: &InferenceServer, now: Duration) {
        let looks: Vec<_> = server.models().into_iter().map(|entry| (counted(&entry), entry)).collect();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *all);
        for (counted, Entry { name, version, .. }) in looks {
            let mut remembered = before.remove(&(name.clone(), version)).unwrap_or_default();
            if let Some((model, counts)) = counted {
                if !remembered.model.ptr_eq(&model) {
                    // Loaded again: its counters begin anew.
                    remembered.track.begin_anew();
                    remembered.model = model;
                }
                remembered.track.look(now, counts);
            }
            all.insert((name, version), remembered);
        }
    }

    /// What is remembered of a model; nothing for one that was not looked at yet.
    pub fn of(&self, name: &str, version: u64) -> Track {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&(name.to_owned(), version)).map(|remembered| remembered.track.clone()).unwrap_or_default()
    }
}

/// What a model that is ready has counted, and which load of it.
fn counted(entry: &Entry) -> Option<(Weak<Model>, Counts)> {
    let State::Ready(model) = &entry.state else { return None };
    let statistics = model.statistics();
    let latency = model.metrics().map(|metrics| metrics.latency().cells().map(|(_, count)| count).collect());
    let counts = Counts {
        requests: statistics.success.read().0,
        failed: statistics.fail.read().0,
        rows: statistics.inference_count.load(Relaxed),
        runs: statistics.execution_count.load(Relaxed),
        latency: latency.unwrap_or_default(),
        batches: statistics.batches().into_iter().map(|(rows, batch)| (rows, batch.count)).collect(),
    };
    Some((Arc::downgrade(model), counts))
}

/// What is remembered of one model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Track {
    looks: VecDeque<(Duration, Counts)>,
    /// Ascending; a slot in which nothing was answered is not there.
    slots: VecDeque<Slot>,
    /// The latencies at the last look.
    latency: Vec<u64>,
    /// The runs by rows a while ago, and a while before that.
    batches: [(u64, BTreeMap<usize, u64>); 2],
}

impl Track {
    /// Takes what was counted up to `now`.
    fn look(&mut self, now: Duration, mut counts: Counts) {
        let latency = std::mem::take(&mut counts.latency);
        self.add_to_slot(now.as_secs() / SLOT_SECONDS, Spread::between(&self.latency, &latency));
        self.latency = latency;
        let part = now.as_secs() / BATCHES_FOR;
        if part != self.batches[0].0 {
            let latest = self.looks.back().map(|(_, counts)| counts.batches.clone()).unwrap_or_default();
            let [newer, older] = &mut self.batches;
            // After a break nothing of what was counted before it is of late.
            *older = if newer.0 + 1 == part { std::mem::take(newer) } else { (part, latest.clone()) };
            *newer = (part, latest);
        }
        if self.looks.len() == LOOKS {
            self.looks.pop_front();
        }
        self.looks.push_back((now, counts));
    }

    fn add_to_slot(&mut self, index: u64, answered: Spread) {
        while self.slots.front().is_some_and(|slot| slot.index + (SLOTS as u64) <= index) {
            self.slots.pop_front();
        }
        if answered.is_empty() {
            return;
        }
        match self.slots.back_mut() {
            Some(slot) if slot.index == index => slot.spread.add(&answered),
            _ => self.slots.push_back(Slot { index, spread: answered }),
        }
    }

    /// Forgets what belongs to counters that begin anew.
    fn begin_anew(&mut self) {
        self.looks.clear();
        self.batches = Default::default();
    }

    /// The rates of the last seconds.
    pub fn rates(&self) -> Rates {
        let (Some((from, first)), Some((to, last))) = (self.looks.front(), self.looks.back()) else {
            return Rates::default();
        };
        let seconds = to.saturating_sub(*from).as_secs_f64();
        if seconds == 0.0 {
            return Rates::default();
        }
        let since = |later: u64, earlier: u64| later.saturating_sub(earlier) as f64;
        let runs = since(last.runs, first.runs);
        Rates {
            requests: since(last.requests, first.requests) / seconds,
            failed: since(last.failed, first.failed) / seconds,
            mean_batch: (runs > 0.0).then(|| since(last.rows, first.rows) / runs),
        }
    }

    /// The slots of the last ten minutes that are not empty, oldest first.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    /// The runs of the last one or two minutes by their rows.
    pub fn batches(&self) -> BTreeMap<usize, u64> {
        let Some((_, last)) = self.looks.back() else { return BTreeMap::new() };
        let (_, before) = &self.batches[1];
        let since = |(&rows, &count): (&usize, &u64)| {
            (rows, count.saturating_sub(before.get(&rows).copied().unwrap_or_default()))
        };
        last.batches.iter().map(since).filter(|&(_, count)| count > 0).collect()
    }
}

/// The requests by latency of the last minute up to `now`, of all the `slots`.
pub(crate) fn last_minute<'a>(slots: impl Iterator<Item = &'a Slot>, now: Duration) -> Spread {
    let oldest = (now.as_secs() / SLOT_SECONDS).saturating_sub(RECENT_SLOTS);
    let mut total = Spread::default();
    slots.filter(|slot| slot.index >= oldest).for_each(|slot| total.add(&slot.spread));
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(requests: u64, latency: &[u64], batches: &[(usize, u64)]) -> Counts {
        Counts {
            requests,
            failed: requests / 10,
            rows: requests * 4,
            runs: requests,
            latency: latency.to_vec(),
            batches: batches.iter().copied().collect(),
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn rates_are_those_of_the_last_ten_seconds() {
        let mut track = Track::default();
        assert_eq!(track.rates(), Rates::default());
        // Ten a second, then a hundred a second.
        (0..=20).for_each(|second| track.look(at(second), counts(second * 10, &[], &[])));
        assert_eq!(track.rates(), Rates { requests: 10.0, failed: 1.0, mean_batch: Some(4.0) });
        (21..=30).for_each(|second| track.look(at(second), counts(200 + (second - 20) * 100, &[], &[])));
        assert_eq!(track.rates(), Rates { requests: 100.0, failed: 10.0, mean_batch: Some(4.0) });
        assert_eq!(track.looks.len(), LOOKS);
        (31..=41).for_each(|second| track.look(at(second), counts(1200, &[], &[])));
        assert_eq!(track.rates(), Rates::default());
    }

    #[test]
    fn latencies_are_kept_by_ten_seconds_and_for_ten_minutes() {
        let mut track = Track::default();
        (0..25).for_each(|second| track.look(at(second), counts(0, &[second, 2 * second], &[])));
        let spreads: Vec<_> = track.slots().map(|slot| slot.spread.clone()).collect();
        let spread = |counts: &[u64]| Spread::between(&[], counts);
        assert_eq!(spreads, [spread(&[9, 18]), spread(&[10, 20]), spread(&[5, 10])]);
        assert_eq!(last_minute(track.slots(), at(24)), spread(&[24, 48]));
        assert_eq!(last_minute(track.slots(), at(71)), spread(&[15, 30]));
        // Nothing is answered for a while: the old slots go, and no empty ones come.
        (25..700).for_each(|second| track.look(at(second), counts(0, &[24, 48], &[])));
        assert_eq!(track.slots().count(), 0);
        (700..2000).for_each(|second| track.look(at(second), counts(0, &[second, 48], &[])));
        assert_eq!(track.slots().count(), SLOTS);
    }

    #[test]
    fn batches_are_those_of_the_last_minute_or_two() {
        let mut track = Track::default();
        // 1,000,000 s is 40 s into a minute.
        (0..80).for_each(|second| track.look(at(second), counts(0, &[], &[(1, second), (8, 7)])));
        assert_eq!(track.batches(), BTreeMap::from([(1, 79), (8, 7)]));
        track.look(at(80), counts(0, &[], &[(1, 80), (8, 7)]));
        assert_eq!(track.batches(), BTreeMap::from([(1, 61)]));
        (81..300).for_each(|second| track.look(at(second), counts(0, &[], &[(1, second), (8, 7)])));
        let batches = track.batches();
        assert!(batches[&1] >= 60 && batches[&1] <= 120, "{batches:?}");
        assert!(!batches.contains_key(&8));
    }

    #[test]
    fn a_model_that_is_loaded_again_begins_anew_and_keeps_its_latencies() {
        let mut track = Track::default();
        (0..5).for_each(|second| track.look(at(second), counts(second * 50, &[second * 50], &[(2, second)])));
        track.begin_anew();
        track.look(at(5), counts(3, &[203], &[(4, 3)]));
        track.look(at(6), counts(9, &[209], &[(4, 9)]));
        assert_eq!(track.rates(), Rates { requests: 6.0, failed: 0.0, mean_batch: Some(4.0) });
        // The latencies are counted over all loads.
        assert_eq!(last_minute(track.slots(), at(6)), Spread::between(&[], &[209]));
        assert_eq!(track.batches(), BTreeMap::from([(4, 9)]));
    }
}
