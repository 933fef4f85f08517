//! Requests whose owner lets them wait on when their time is over: behind all others of their class.
//!
//! A request that lingers has two deadlines. The first gives it its place; when that has passed, or cannot be met, it is
//! put into the place that the second gives it. As that lies far behind what the others have, it goes behind them, and as
//! time goes on it comes to its turn all the same: nobody is put off for ever. **Source:** Triton's timeout action `DELAY`,
//! which has no second deadline.

use std::time::{Duration, Instant};

use super::queue::Entry;
use super::{Batcher, Class, RequestId};

impl<K: Ord + Clone, R> Batcher<K, R> {
    /// Takes the requests whose deadline is at or before `now`; they are never run. Those that linger are put behind.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<R> {
        let mut expired = Vec::new();
        while let Some((&rank, &(place, class))) = self.queue.deadlines.first_key_value() {
            if rank.0 > now {
                break;
            }
            let key = self.queue.shape(place).map(|shape| &shape.key);
            let key = key.filter(|_| self.lingers(place, class, rank)).cloned();
            match (self.take(place, class, rank), key) {
                (Some(entry), Some(key)) => expired.extend(self.put_behind(&key, class, entry)),
                (Some(entry), None) => expired.push(entry.request),
                // Unreachable while the accounts agree; removing the line keeps the loop finite all the same.
                (None, _) => {
                    self.queue.deadlines.remove(&rank);
                }
            }
        }
        expired
    }

    /// True for a request that waits on when its deadline has passed.
    pub(super) fn lingers(&self, place: usize, class: Class, rank: super::Rank) -> bool {
        let line = self.queue.shape(place).and_then(|shape| shape.lines.get(&class));
        line.and_then(|line| line.line.get(rank)).is_some_and(|entry| !entry.lingers.is_zero())
    }

    /// Puts a request that was taken behind the others of its class; given back when it does not linger. Its shape has the
    /// place that it had: nothing else came or went meanwhile.
    pub(super) fn put_behind(&mut self, key: &K, class: Class, entry: Entry<R>) -> Option<R> {
        #[cfg(test)]
        if self.plant_in_linger() {
            return Some(entry.request);
        }
        if entry.lingers.is_zero() {
            return Some(entry.request);
        }
        let Entry { rank: (deadline, number), lingers, .. } = entry;
        let entry =
            Entry { rank: (deadline + lingers, number), lingers: Duration::ZERO, probe: false, ..entry };
        let place = self.queue.insert(key.clone(), class, entry);
        self.delayed.push(RequestId { number, deadline, lingers, class, place });
        None
    }
}
