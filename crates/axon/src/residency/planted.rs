//! Bugs for the simulation to find; only test builds have them. Each hook of the state machine is one call of this file.

use super::Residency;

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlantedBug {
    /// The bytes of an evicted copy are used before they have come back.
    ForgetsLeavers,
    /// A load that failed stays charged.
    KeepsFailed,
    /// What a load measured is not noted.
    KeepsEstimate,
    /// A model that is being loaded is loaded again for the next who wants it.
    LoadsTwice,
    /// What is pinned may leave.
    IgnoresPins,
    /// What has just come may leave.
    IgnoresStays,
    /// What is worth more leaves for what is worth less, without a bound.
    IgnoresWorth,
    /// What is over the budget stays.
    KeepsOver,
    /// What failed is tried again at once.
    RetriesAtOnce,
    /// What fits is refused when something else would have to leave for it if it did not.
    RefusesWhatFits,
    /// One load too many at once.
    LoadsOneTooMany,
    /// Nothing is loaded any more.
    LoadsNothing,
}

use PlantedBug as Bug;

impl Residency {
    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub(super) fn forgets_leavers(&self) -> bool {
        self.has(Bug::ForgetsLeavers)
    }

    pub(super) fn keeps_failed(&self) -> bool {
        self.has(Bug::KeepsFailed)
    }

    pub(super) fn keeps_estimate(&self) -> bool {
        self.has(Bug::KeepsEstimate)
    }

    pub(super) fn loads_twice(&self) -> bool {
        self.has(Bug::LoadsTwice)
    }

    pub(super) fn ignores_pins(&self) -> bool {
        self.has(Bug::IgnoresPins)
    }

    pub(super) fn ignores_stays(&self) -> bool {
        self.has(Bug::IgnoresStays)
    }

    pub(super) fn ignores_worth(&self) -> bool {
        self.has(Bug::IgnoresWorth)
    }

    pub(super) fn keeps_over(&self) -> bool {
        self.has(Bug::KeepsOver)
    }

    pub(super) fn retries_at_once(&self) -> bool {
        self.has(Bug::RetriesAtOnce)
    }

    pub(super) fn refuses_what_fits(&self) -> bool {
        self.has(Bug::RefusesWhatFits)
    }

    pub(super) fn most_loads(&self) -> usize {
        match self.bug {
            Some(Bug::LoadsOneTooMany) => self.rules.parallel_loads + 1,
            Some(Bug::LoadsNothing) => 0,
            _ => self.rules.parallel_loads,
        }
    }
}
