//! Requests that end without having been in the queue: they wait for the run of another one.

use std::time::Duration;

use super::{Refusal, Scheduler};

impl Scheduler {
    /// Counts a request whose deadline passed while it waited for another one's run.
    pub fn count_expired(&self, waited: Duration) {
        self.shared.refusals.add(Refusal::Expired);
        self.shared.statistics.fail.add(waited);
    }

    /// Counts a request whose caller went away while it waited for another one's run.
    pub fn count_left(&self, waited: Duration) {
        self.shared.refusals.add(Refusal::Cancelled);
        self.shared.statistics.fail.add(waited);
        self.shared.statistics.cancel.add(waited);
    }
}
