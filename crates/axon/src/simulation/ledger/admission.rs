//! What is checked of a request that arrives.

use std::time::Instant;

use super::foretold::{Foretold, ROUNDING};
use super::{Checked, Ledger, Outcome, Ticket, ensure};
use crate::batcher::{Rejected, Waiting};
use crate::simulation::Invariant;

impl Ledger {
    /// The reason, and the invariant that is broken when the request is accepted all the same. What is foretold is
    /// rounded in favour of what was done.
    pub(super) fn reason_to_refuse(
        &self,
        request: &Waiting<u8, Ticket>,
        now: Instant,
        foretold: Foretold,
        told: Option<Rejected>,
    ) -> Option<(Rejected, Invariant)> {
        let Waiting { class, bytes, deadline, .. } = *request;
        let waiting = || self.lanes.values().flatten();
        let of_class = waiting().filter(|place| place.0 == class).count();
        // What stays when all that may leave for it have left.
        let staying = || waiting().filter(|place| place.0 <= class).map(|place| &self.records[place.2.0]);
        let (length, held) = (staying().count(), staying().map(|record| record.bytes).sum::<usize>());
        let class_full = self.rules.class_sizes.get(&class).is_some_and(|most| of_class >= most.get());
        let left = foretold.left;
        let late = match told {
            Some(Rejected::PredictedMiss { .. } | Rejected::TooShort { .. }) => {
                foretold.wait + ROUNDING > left
            }
            _ => foretold.wait > left + ROUNDING,
        };
        let full = length >= self.rules.limits.max_queue_size.get();
        let bytes_full = length > 0 && held + bytes > self.rules.limits.max_queue_bytes;
        let too_short = match told {
            Some(Rejected::TooShort { .. }) => foretold.run + ROUNDING > left,
            _ => foretold.run > left + ROUNDING,
        };
        let miss = if too_short {
            Rejected::TooShort { run: foretold.run }
        } else {
            Rejected::PredictedMiss { wait: foretold.wait }
        };
        let reasons = [
            (self.closed, Rejected::Closed, Invariant::ClosedForGood),
            (deadline <= now, Rejected::Expired, Invariant::NotLate),
            (class_full, Rejected::QueueFull, Invariant::QueueSize),
            (late && !foretold.may_probe, miss, Invariant::Useful),
            (full, Rejected::QueueFull, Invariant::QueueSize),
            (bytes_full, Rejected::QueueBytesFull, Invariant::QueueBytes),
        ];
        reasons.into_iter().find_map(|(holds, reason, invariant)| holds.then_some((reason, invariant)))
    }

    /// A request was accepted, and these left the queue for it.
    pub(super) fn displaced(
        &mut self,
        request: &Waiting<u8, Ticket>,
        displaced: &[Ticket],
        now: Instant,
    ) -> Checked {
        for &ticket in displaced {
            let full = self.waiting() >= self.rules.limits.max_queue_size.get()
                || self.bytes + request.bytes > self.rules.limits.max_queue_bytes;
            let last = self.lanes.values().flatten().max().copied();
            let may = last.is_some_and(|(class, _, last)| last == ticket && class > request.class);
            ensure(full && may, Invariant::LeastUrgentLeaves, || {
                format!("{ticket:?} leaves the queue for {:?}; the last is {last:?}", request.request)
            })?;
            self.leave_queue(ticket, "is displaced")?;
            self.end(ticket, Outcome::Displaced, now)?;
        }
        Ok(())
    }

    pub(super) fn refusals(&mut self, reason: Rejected) -> &mut usize {
        match reason {
            Rejected::QueueFull => &mut self.report.refused_queue_full,
            Rejected::QueueBytesFull => &mut self.report.refused_queue_bytes_full,
            Rejected::PredictedMiss { .. } | Rejected::TooShort { .. } => &mut self.report.refused_predicted,
            Rejected::Expired => &mut self.report.refused_expired,
            Rejected::Closed => &mut self.report.refused_closed,
        }
    }
}
