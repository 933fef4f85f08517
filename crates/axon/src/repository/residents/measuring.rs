//! What a load takes: its time, and what the process has more in memory after it.

use std::time::Instant;

use synapse::Allocated;

use super::resident_bytes;

/// What the allocator tells is right for models of fewer bytes of weights, whatever their sessions make of them.
const MOST_ALLOCATED: u64 = 512 << 20;

/// A measurement that has begun.
pub(in crate::repository) struct Measuring {
    pub(super) began: Instant,
    /// Loads and departures that had begun or ended by then.
    pub(super) disturbances: u64,
    /// No other load was under way.
    pub(super) is_alone: bool,
    /// What the process had in memory.
    resident: Option<u64>,
    /// What the allocator had handed out, where it tells.
    allocated: Option<Allocated>,
}

impl Measuring {
    pub(super) fn begin(disturbances: u64, is_alone: bool) -> Self {
        let (resident, allocated) = (resident_bytes(), Allocated::now());
        Self { began: Instant::now(), disturbances, is_alone, resident, allocated }
    }

    /// How much more there is now, for a model of so many bytes of weights.
    pub(super) fn grown(&self, weights: u64) -> Option<u64> {
        let allocated = self.allocated.filter(|_| weights < MOST_ALLOCATED).zip(Allocated::now());
        if let Some((before, after)) = allocated {
            return Some(after.more_than(before));
        }
        // Memory that was free already does not show here.
        Some(resident_bytes()?.saturating_sub(self.resident?))
    }
}
