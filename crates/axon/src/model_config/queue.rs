//! How the requests of a model wait for a batch, as its owner says.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

/// How requests wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueuePolicy {
    /// The most requests that wait; `None` leaves it to the server's settings.
    pub max_queue_size: Option<NonZeroUsize>,
    /// How long a request may wait; `None` leaves it to the server's settings.
    pub default_timeout: Option<Duration>,
    /// Whether a request may ask to wait shorter than `default_timeout`; it never waits longer.
    pub allow_timeout_override: bool,
    /// Whether a request that has waited so long goes behind the others of its level, instead of being refused.
    pub delays: bool,
}

impl QueuePolicy {
    /// How long a request may wait that asks for `asked`, where the server's setting is `setting`.
    #[must_use]
    pub fn timeout(&self, asked: Option<Duration>, setting: Duration) -> Duration {
        match (self.default_timeout, asked) {
            (Some(longest), Some(asked)) if self.allow_timeout_override => asked.min(longest),
            (Some(timeout), _) | (None, Some(timeout)) => timeout,
            (None, None) => setting,
        }
    }

    /// How much longer than [`QueuePolicy::timeout`] a request that asks for `asked` may wait behind the others of its
    /// level: until its own timeout, or for `request_timeout` more where it does not say.
    #[must_use]
    pub fn lingers(&self, asked: Option<Duration>, request_timeout: Duration) -> Duration {
        match (self.default_timeout, asked) {
            (Some(timeout), Some(asked)) if self.delays => asked.saturating_sub(timeout),
            (Some(_), None) if self.delays => request_timeout,
            _ => Duration::ZERO,
        }
    }
}

/// How requests share batches and wait for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DynamicBatching {
    /// Batch sizes for which nothing waits, in rows, ascending.
    pub preferred_rows: Vec<usize>,
    /// How long a request may be kept waiting for others to share its batch, while an instance is free.
    pub max_delay: Duration,
    /// Levels of urgency; 0 has one.
    pub levels: u32,
    /// The level of a request that does not say.
    pub default_level: u32,
    /// Whether answers leave in the order in which their requests were accepted.
    pub preserve_ordering: bool,
    /// How the requests of some levels wait.
    pub policies: BTreeMap<u32, QueuePolicy>,
}

impl DynamicBatching {
    /// The level of a request that asks for `priority`, 0 for none. More than there are levels is the least urgent.
    #[must_use]
    pub fn class(&self, priority: u64) -> u32 {
        match u32::try_from(priority).unwrap_or(u32::MAX) {
            _ if self.levels == 0 => 1,
            0 => self.default_level,
            asked => asked.min(self.levels),
        }
    }
}
