//! What a request is foretold to wait, by the account's own reckoning.

use std::time::{Duration, Instant};

use super::{Ledger, Ticket};
use crate::batcher::{Batcher, Waiting, time_to_spare};

/// What a request is foretold to wait, before it is pushed; half a microsecond of rounding is forgiven.
#[derive(Clone, Copy, Debug)]
pub(in crate::simulation) struct Foretold {
    pub(super) wait: Duration,
    /// What it may wait.
    pub(super) left: Duration,
    /// Of which its own run.
    pub(super) run: Duration,
    /// Nothing waits or runs, and the foretelling is in doubt.
    pub(super) may_probe: bool,
}

pub(super) const ROUNDING: Duration = Duration::from_nanos(500);

impl Ledger {
    /// What `request` would wait that is about to be pushed: the rest of the run that ends first, what is served before
    /// it at the best rate, and its own run.
    pub(in crate::simulation) fn foretold(
        &self,
        request: &Waiting<u8, Ticket>,
        now: Instant,
        batcher: &Batcher<u8, Ticket>,
    ) -> Foretold {
        let estimator = batcher.estimator_of(&request.key);
        let busy = self.runs.len() >= self.rules.instances;
        let first = self.runs.values().min().filter(|_| busy);
        let residual = first.map_or(Duration::ZERO, |ends| ends.saturating_duration_since(now));
        let place = (request.class, request.deadline, request.request);
        let ahead = self.lanes.values().flatten().filter(|other| **other < place);
        let rows: usize = ahead.map(|&(_, _, ticket)| self.records[ticket.0].rows).sum();
        let ahead = batcher.work(&request.key, rows, now);
        let left = request.deadline.saturating_duration_since(now);
        let run = estimator.bound(request.rows, now) + time_to_spare(left);
        let device = self.device_free_at.map_or(Duration::ZERO, |free| free.saturating_duration_since(now));
        let wait = residual.max(device) + ahead + run;
        let is_idle = self.waiting() == 0 && self.runs.is_empty() && device.is_zero();
        let may_probe = is_idle && estimator.is_doubtful(left, now);
        if wait > left && !request.lingers.is_zero() {
            let deadline = request.deadline + request.lingers;
            let behind = Waiting { deadline, lingers: Duration::ZERO, ..request.clone() };
            return self.foretold(&behind, now, batcher);
        }
        Foretold { wait, left, run, may_probe }
    }
}
