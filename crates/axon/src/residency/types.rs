//! What goes into the state machine and comes out of it.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// A model of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(pub u32);

/// One load of a model, from its beginning until its bytes have come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CopyId(pub u64);

/// What a model's owner wishes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hints {
    /// It is never evicted.
    pub pinned: bool,
    /// Its requests count so many times; more than 0.
    pub weight: f64,
    /// It is unloaded when it was not used for so long, also when there is room; `None` leaves it.
    pub keep_alive: Option<Duration>,
    /// It stays for so long after its load.
    pub keep_at_least: Duration,
}

impl Default for Hints {
    fn default() -> Self {
        Self { pinned: false, weight: 1.0, keep_alive: None, keep_at_least: Duration::ZERO }
    }
}

/// Which models leave first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum EvictionPolicy {
    /// Those whose bytes save the least time of loading; what is worth more than the newcomer stays.
    #[default]
    Value,
    /// Those that were used longest ago, whatever they are worth: the familiar rule, to compare with.
    Lru,
}

impl fmt::Display for EvictionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value => "value",
            Self::Lru => "lru",
        })
    }
}

impl FromStr for EvictionPolicy {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "value" => Ok(Self::Value),
            "lru" => Ok(Self::Lru),
            _ => Err(format!("expected `value` or `lru`, got `{}`", name.escape_debug())),
        }
    }
}

/// How models are weighed.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Which leave first.
    pub eviction: EvictionPolicy,
    /// The time in which a request comes to count half.
    pub half_life: Duration,
    /// The requests that a model is taken to have had before it is known.
    pub seed: f64,
    /// Loads at once, at least 1.
    pub parallel_loads: usize,
    /// A model stays for so many times its load's duration, so that most of the time is not spent loading.
    pub least_stay: f64,
    /// The longest such stay.
    pub longest_stay: Duration,
    /// The share of the time in which models may be loaded that are worth less than what leaves for them; at 0 they are
    /// refused, and from 1 on none ever is.
    pub churn_share: f64,
    /// How much of that time may be saved up.
    pub churn_burst: Duration,
    /// How long a model that failed to load is left alone the first time; then twice as long each time.
    pub first_retry: Duration,
    /// The longest that it is left alone.
    pub longest_retry: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            eviction: EvictionPolicy::default(),
            half_life: Duration::from_secs(600),
            seed: 0.5,
            parallel_loads: 2,
            least_stay: 1.0,
            longest_stay: Duration::from_secs(10),
            churn_share: 0.25,
            churn_burst: Duration::from_secs(10),
            first_retry: Duration::from_secs(1),
            longest_retry: Duration::from_secs(300),
        }
    }
}

/// Where a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere; an evicted copy may still be leaving.
    Absent,
    /// Waiting for room or for a slot.
    Queued {
        /// When it was wanted.
        since: Instant,
    },
    /// Being loaded; its bytes are reserved.
    Loading {
        /// When the load began.
        since: Instant,
        /// Which load this is.
        copy: CopyId,
        /// What is reserved.
        bytes: u64,
    },
    /// Loaded.
    Resident {
        /// When its load ended.
        since: Instant,
        /// Which load this is.
        copy: CopyId,
        /// What it takes.
        bytes: u64,
    },
}

impl Place {
    pub(super) fn is_charged(&self) -> bool {
        matches!(self, Self::Loading { .. } | Self::Resident { .. })
    }
}

/// Who wants a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A request: refused where others are worth more.
    Request,
    /// The operator: it is loaded if it can be.
    Operator,
}

/// What becomes of a model that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is there.
    Resident,
    /// It is being loaded, or will be; foretold to be ready in so long.
    Coming(Duration),
    /// It is not loaded now.
    Refused(Refusal),
}

/// Why a model is not loaded now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody has entered it.
    Unknown,
    /// It takes more than the whole budget.
    TooLarge {
        /// What it takes.
        bytes: u64,
        /// What there is.
        budget: u64,
    },
    /// Its last load failed a short while ago.
    Failed {
        /// When it is tried again.
        retry_after: Duration,
    },
    /// What could leave does not make room enough: the rest is pinned, or came too lately.
    NoRoom {
        /// When it may be otherwise.
        retry_after: Duration,
    },
    /// What would have to leave is worth more.
    NotWorthIt {
        /// When it may be otherwise.
        retry_after: Duration,
    },
    /// Too many models wait to be loaded.
    Busy {
        /// When it may be otherwise.
        retry_after: Duration,
    },
}

/// Why a model leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Others are worth more, or there is less room than there was.
    Room,
    /// Nobody has used it for as long as its owner keeps it.
    Unused,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Load a model, then say [`loaded`](super::Residency::loaded) or [`failed`](super::Residency::failed).
    Load(ModelId, CopyId),
    /// Unload a model, then say that it has [`left`](super::Residency::left).
    Evict(ModelId, CopyId, Cause),
    /// A model that was queued will not be loaded after all.
    GiveUp(ModelId, Refusal),
    /// Nothing until something happens.
    Idle,
}

/// What is known of a model, for whoever looks on.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Where it is.
    pub place: Place,
    /// What its owner wishes.
    pub hints: Hints,
    /// What it takes, measured or foretold.
    pub bytes: u64,
    /// Requests in a second, decayed.
    pub rate: f64,
    /// The lowest leaves first. What each byte is worth: seconds of loading that are saved, in a second, for each MiB; by
    /// [`EvictionPolicy::Lru`] minus the seconds since its last use.
    pub score: f64,
    /// What its next load is foretold to take.
    pub reload: Duration,
    /// When it was last used or loaded.
    pub last_used: Option<Instant>,
    /// When it is unloaded if nobody uses it.
    pub until: Option<Instant>,
    /// Loads that failed one after the other.
    pub failures: u32,
    /// When it may be tried again.
    pub retry_at: Option<Instant>,
}
