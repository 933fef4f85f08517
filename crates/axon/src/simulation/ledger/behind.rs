//! Requests that are put behind the others when their time is over.

use std::time::Instant;

use super::{Checked, Ledger, Record, State, Ticket, ensure};
use crate::batcher::{Action, Batcher};
use crate::simulation::Invariant;

impl Ledger {
    /// When the answer of an accepted request is no longer wanted.
    pub(in crate::simulation) fn last_deadline(&self, ticket: Ticket) -> Instant {
        let Record { deadline, lingers, before, .. } = self.records[ticket.0];
        if before.is_some() { deadline } else { deadline + lingers }
    }

    /// The batcher has put some behind the others: each once, and because its time is over, because it cannot be in time,
    /// or because a batch serves more that begins behind it.
    pub(super) fn put_behind(
        &mut self,
        now: Instant,
        action: &Action<Ticket>,
        batcher: &Batcher<u8, Ticket>,
    ) -> Checked {
        for id in &action.delayed {
            let ticket = self.numbers.get(&id.number()).copied();
            let record = ticket.and_then(|ticket| self.records.get(ticket.0));
            let key = record.map(|record| record.key);
            let may = record.is_some_and(|record| {
                let left = record.deadline.saturating_duration_since(now);
                let is_skipped = || {
                    let first = action.batch.as_ref().and_then(|batch| batch.requests.first());
                    first.map(|first| self.records[first.0].key) == key
                };
                let hopeless = || batcher.estimator_of(&record.key).bound(record.rows, now) > left;
                let is_first = record.before.is_none() && !record.lingers.is_zero();
                let is_open = record.state == State::Waiting && is_first;
                is_open && (left.is_zero() || hopeless() || is_skipped())
            });
            ensure(may, Invariant::WaitsOn, || format!("{ticket:?} is put behind the others"))?;
            if let Some(ticket) = ticket {
                self.move_behind(ticket);
            }
        }
        Ok(())
    }

    fn move_behind(&mut self, ticket: Ticket) {
        let record = &mut self.records[ticket.0];
        let before = record.deadline;
        record.deadline += record.lingers;
        (record.before, record.probe) = (Some(before), false);
        let (key, class, deadline) = (record.key, record.class, record.deadline);
        self.deadlines.remove(&(before, ticket));
        self.deadlines.insert((deadline, ticket));
        let lane = self.lanes.entry(key).or_default();
        lane.remove(&(class, before, ticket));
        lane.insert((class, deadline, ticket));
    }

    /// The requests that were put behind the others by this look at the queue.
    pub(super) fn delayed(&self, action: &Action<Ticket>) -> Vec<Ticket> {
        action.delayed.iter().filter_map(|id| self.numbers.get(&id.number()).copied()).collect()
    }
}
