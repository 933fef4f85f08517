//! What is checked of a batch, and of what was given up when it was formed.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Checked, Lanes, Ledger, Place, Ticket, ensure};
use crate::batcher::{Action, Batch, Batcher, Estimator};
use crate::simulation::Invariant;

impl Ledger {
    /// A batch was formed from `lanes`, as they were before anything was shed.
    pub(super) fn check_batch(
        &mut self,
        now: Instant,
        action: &Action<Ticket>,
        batch: &Batch<Ticket>,
        lanes: &Lanes,
        batcher: &Batcher<u8, Ticket>,
    ) -> Checked {
        let max_rows = self.rules.limits.max_batch_rows.get();
        let records = || batch.requests.iter().map(|ticket| &self.records[ticket.0]);
        let rows: usize = records().map(|record| record.rows).sum();
        let allowed = (1..=max_rows).contains(&rows) || (batch.requests.len() == 1 && rows > max_rows);
        ensure(allowed && rows == batch.rows, Invariant::BatchRows, || {
            format!("{batch:?} has {rows} rows of at most {max_rows}")
        })?;
        let keys: BTreeSet<u8> = records().map(|record| record.key).collect();
        ensure(keys.len() == 1, Invariant::OneKey, || format!("{batch:?} has the keys {keys:?}"))?;
        let Some((&key, lane)) = keys.first().and_then(|key| lanes.get_key_value(key)) else { return Ok(()) };
        let estimator = batcher.estimator_of(&key);
        let most_rows = self.most_rows(estimator, now);
        ensure(rows <= most_rows || batch.requests.len() == 1, Invariant::BlockingCap, || {
            format!("{batch:?} has more than {most_rows} rows, and may run no longer than {:?}", self.cap)
        })?;
        self.check_choice(action, batch, key, lanes)?;
        // What was put behind by the choice of this batch may come before some of it all the same.
        let delayed = self.delayed(action);
        let stayed = |ticket: &Ticket| delayed.contains(ticket) && !batch.requests.contains(ticket);
        let left = lane.iter().filter(|place| !action.shed.contains(&place.2) && !stayed(&place.2));
        let left: Vec<&Place> = left.collect();
        let count = batch.requests.len();
        let first = || left.iter().take(count).map(|place| &place.2);
        ensure(first().eq(&batch.requests), Invariant::Order, || {
            format!("{batch:?} is formed from {:?}", first().collect::<Vec<_>>())
        })?;
        // What was put behind and did not fit keeps its place before less urgent requests.
        let next = left.get(count).copied().filter(|_| !lane.iter().any(|place| stayed(&place.2)));
        self.check_size(now, batch, next, estimator)?;
        self.report.batches += 1;
        self.report.batched_requests += count;
        self.report.batched_rows += rows;
        self.report.oversized_batches += usize::from(rows > max_rows);
        Ok(())
    }

    /// The key that was served is the most urgent one.
    fn check_choice(
        &self,
        action: &Action<Ticket>,
        batch: &Batch<Ticket>,
        key: u8,
        lanes: &Lanes,
    ) -> Checked {
        let delayed = self.delayed(action);
        let place = |ticket: &Ticket| {
            let record = &self.records[ticket.0];
            let deadline = record.before.filter(|_| delayed.contains(ticket)).unwrap_or(record.deadline);
            (record.key == key).then_some((record.class, deadline, *ticket))
        };
        let served = action.shed.iter().chain(&batch.requests).chain(&delayed).filter_map(place).min();
        let others = lanes.iter().filter(|(other, _)| **other != key).map(|(_, lane)| lane);
        let left =
            |lane: &BTreeSet<Place>| lane.iter().find(|place| !action.shed.contains(&place.2)).copied();
        let most_urgent = others.filter_map(left).min();
        let right = most_urgent.is_none_or(|other| served.is_some_and(|served| served < other));
        ensure(right || !self.rules.max_delay.is_zero(), Invariant::MostUrgentKey, || {
            format!("{batch:?} is formed before {most_urgent:?}")
        })
    }

    /// The batch is in time, and as large as it can be.
    fn check_size(
        &self,
        now: Instant,
        batch: &Batch<Ticket>,
        next: Option<&Place>,
        estimator: &Estimator,
    ) -> Checked {
        let records = || batch.requests.iter().map(|ticket| &self.records[ticket.0]);
        let earliest = records().map(|record| record.deadline).min().unwrap_or(now);
        let probe = batch.requests.len() == 1 && records().all(|record| record.probe);
        let in_time =
            |rows, deadline: Instant| estimator.bound(rows, now) <= deadline.saturating_duration_since(now);
        ensure(probe || in_time(batch.rows, earliest), Invariant::Useful, || {
            format!("{batch:?} is foretold to be late")
        })?;
        let Some(&(class, deadline, next)) = next else { return Ok(()) };
        let together = batch.rows + self.records[next.0].rows;
        // A less urgent request joins only where all of it stays in time, its own deadline included.
        let same = records().any(|record| record.class == class);
        let limit = if same { earliest } else { earliest.min(deadline) };
        let fits = together <= self.most_rows(estimator, now) && in_time(together, limit);
        ensure(!fits || probe || !self.rules.preferred_rows.is_empty(), Invariant::Maximal, || {
            format!("{batch:?} is formed and {next:?} left, which fits")
        })
    }

    /// What was given up could not be in time, or made room for a batch that serves more than one that would have begun
    /// with the first of them.
    pub(super) fn check_shed(
        &self,
        now: Instant,
        action: &Action<Ticket>,
        lanes: &Lanes,
        batcher: &Batcher<u8, Ticket>,
    ) -> Checked {
        for &ticket in &action.shed {
            let record = &self.records[ticket.0];
            let estimator = batcher.estimator_of(&record.key);
            let left = record.deadline.saturating_duration_since(now);
            if estimator.bound(record.rows, now) > left {
                continue;
            }
            // What was in front of it then is not where it was any more.
            if !action.delayed.is_empty() {
                return Ok(());
            }
            let Some(batch) = &action.batch else {
                return ensure(false, Invariant::ReasonToShed, || format!("{ticket:?} is shed for nothing"));
            };
            let behind = lanes.get(&record.key).into_iter().flatten();
            let behind = behind.filter(|place| place.0 == record.class && place.2.0 != ticket.0);
            let behind = behind.filter(|place| (place.1, place.2) > (record.deadline, ticket));
            // The batch that would have begun with it.
            let (mut rows, mut all) = (record.rows, true);
            for &(_, _, next) in behind {
                let more = rows + self.records[next.0].rows;
                if more > self.most_rows(estimator, now) || estimator.bound(more, now) > left {
                    all = false;
                    break;
                }
                rows = more;
            }
            let better = estimator.rate(batch.rows) > estimator.rate(rows);
            let cut_short = !self.rules.preferred_rows.is_empty();
            return ensure(!all && (better || cut_short), Invariant::ReasonToShed, || {
                format!("{ticket:?} is shed, which could begin a batch of {rows} rows, for {batch:?}")
            });
        }
        Ok(())
    }
}
