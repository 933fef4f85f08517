//! What stays loaded, under virtual time: `residency` against other rules, and with everything that may go wrong.
//!
//! [`Workload`] makes seeded requests for more models than fit; [`play`] plays them by one [`Policy`], where a load takes
//! no virtual time and is only counted, and [`least_loading`] bounds what any rule could reach that knew the future.
//! [`check`] is the other half: loads and departures that take their time, failures, sizes that were foretold wrongly,
//! pins, operators, a budget that moves; a ledger of its own checks each [`Broken`] rule at every step. Each is proved
//! able to fail by a bug planted in the state machine.

mod bound;
mod checker;
mod ledger;
mod policies;
mod scenario;
#[cfg(test)]
mod tests;
mod workload;

use std::fmt;
use std::time::Duration;

pub use bound::least_loading;
pub use policies::{Policy, play};
pub use workload::{Pattern, Request, Sized, Workload};

#[cfg(test)]
pub(crate) use checker::check_with;
pub use checker::{Checked, check};

/// What came of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Played {
    /// Requests that came.
    pub requests: u64,
    /// Loads.
    pub loads: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// What all loads took together.
    pub loading: Duration,
}

/// A rule that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Broken {
    /// I8: a load begins only when its bytes and all that is charged are within the budget.
    Budget,
    /// What is charged is what was reserved, measured and has not come back.
    Accounts,
    /// What is over the budget is evicted at once, where anything may be.
    Sheds,
    /// A model has one load at a time.
    SingleFlight,
    /// At most so many load at once.
    Slots,
    /// What is pinned stays.
    Pins,
    /// What has just come stays.
    Stays,
    /// What is worth more leaves for what is worth less only for a share of the time.
    Thrash,
    /// What failed to load is left alone for a while, longer each time.
    BackOff,
    /// What has room is not refused.
    ReasonToRefuse,
    /// Nothing waits for ever: what is queued is loaded or given up, and a free slot is used.
    Progress,
}

/// Which rule was broken, where and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which.
    pub broken: Broken,
    /// The scenario.
    pub seed: u64,
    /// Virtual time since the start.
    pub at: Duration,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is broken at {:?} by seed {}: {}", self.broken, self.at, self.seed, self.detail)
    }
}

impl std::error::Error for Fault {}
