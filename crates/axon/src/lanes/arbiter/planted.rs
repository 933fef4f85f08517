//! Bugs for the simulation to find; only test builds have them. Each hook in the arbiter is one call of this file.

use super::{Arbiter, SeatId};

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlantedBug {
    /// Nobody is called while anything runs.
    LeavesALaneIdle,
    /// There is one lane more than there is.
    HandsOutOneTooMany,
    /// A run that hangs holds its lane for ever.
    CountsTheHung,
    /// The model that has most time goes first.
    LatestFirst,
    /// The least urgent class goes first.
    LeastUrgentFirst,
    /// What a model has had is not counted.
    PaysNothing,
    /// The limits of the others bound no run.
    ForgetsLimits,
}

use PlantedBug as Bug;

impl Arbiter {
    /// The same arbiter with a mistake in it.
    pub(crate) fn with_bug(mut self, bug: PlantedBug) -> Self {
        self.plant = Some(bug);
        self
    }

    pub(super) fn plant_in_call(&self) -> bool {
        self.plant == Some(Bug::LeavesALaneIdle) && !self.runs.is_empty()
    }

    pub(super) fn plant_in_held(&self, held: usize) -> usize {
        match self.plant {
            Some(Bug::HandsOutOneTooMany) => held.saturating_sub(1),
            Some(Bug::CountsTheHung) => self.runs.values().map(|run| run.width).sum(),
            _ => held,
        }
    }

    pub(super) fn plant_in_first(&self) -> Option<SeatId> {
        let waiting = self.waiting();
        match self.plant? {
            Bug::LatestFirst => waiting.max_by_key(|(id, _, claim)| (claim.latest, *id)).map(|(id, ..)| id),
            Bug::LeastUrgentFirst => {
                waiting.max_by_key(|(id, _, claim)| (claim.class, *id)).map(|(id, ..)| id)
            }
            _ => None,
        }
    }
}
