//! What `axon ps` shows.

use std::time::{Duration, Instant};

use super::Residents;
use crate::residency::{Place, View};

/// What is known of one model in mode `auto`.
#[derive(Clone, Debug)]
pub struct Resident {
    /// The model.
    pub name: String,
    /// `ABSENT`, `QUEUED`, `LOADING` or `READY`.
    pub state: &'static str,
    /// What it takes, measured; foretold while it was never loaded.
    pub bytes: u64,
    /// Requests in a second, of which each counts half after ten minutes.
    pub rate: f64,
    /// Seconds of loading that each of its MiB saves, in a second.
    pub score: f64,
    /// What its next load is foretold to take.
    pub reload: Duration,
    /// How long ago it was last used or loaded.
    pub idle: Option<Duration>,
    /// It is never evicted.
    pub pinned: bool,
    /// In how long it is unloaded if nobody uses it.
    pub until: Option<Duration>,
    /// Loads that failed one after the other.
    pub failures: u32,
    /// In how long it may be tried again.
    pub retry_in: Option<Duration>,
}

/// What is known of the host's memory and the models in it.
#[derive(Clone, Debug)]
pub struct ResidencyReport {
    /// What models may take together, as configured.
    pub budget: u64,
    /// What they may take now: less where the host has not so much.
    pub allowed: u64,
    /// What counts against it: what is loaded, being loaded, or not given back yet.
    pub charged: u64,
    /// Models that have made way for others since the start.
    pub evictions: u64,
    /// Models that were unloaded since nobody used them for as long as they are kept.
    pub expired: u64,
    /// Every model that is known, by name.
    pub models: Vec<Resident>,
}

impl Residents {
    /// What is known now.
    pub fn report(&self) -> ResidencyReport {
        let now = Instant::now();
        let mut desk = self.lock();
        desk.sample(&self.table, now);
        let models = desk.ids.iter().filter_map(|(name, &id)| {
            let view = desk.residency.view(id, now)?;
            Some(resident(name, &view, now))
        });
        ResidencyReport {
            budget: self.budget,
            allowed: desk.residency.budget(),
            charged: desk.residency.charged(),
            evictions: desk.evictions,
            expired: desk.expired,
            models: models.collect(),
        }
    }
}

fn resident(name: &str, view: &View, now: Instant) -> Resident {
    Resident {
        name: name.to_owned(),
        state: match view.place {
            Place::Absent => "ABSENT",
            Place::Queued { .. } => "QUEUED",
            Place::Loading { .. } => "LOADING",
            Place::Resident { .. } => "READY",
        },
        bytes: view.bytes,
        rate: view.rate,
        score: view.score,
        reload: view.reload,
        idle: view.last_used.map(|used| now.saturating_duration_since(used)),
        pinned: view.hints.pinned,
        until: view.until.map(|until| until.saturating_duration_since(now)),
        failures: view.failures,
        retry_in: view.retry_at.map(|at| at.saturating_duration_since(now)).filter(|wait| !wait.is_zero()),
    }
}
