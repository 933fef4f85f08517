//! What a model's configuration wishes of residency, and what becomes of that beside what an operator asks.

use std::collections::BTreeSet;

use super::Desk;
use crate::model_config::ModelConfiguration;
use crate::residency::{Hints, ModelId};

/// What a load has come to.
pub(in crate::repository) struct Loaded {
    pub generations: BTreeSet<u64>,
    /// The bytes of its weights.
    pub weights: u64,
    /// What its configuration wishes.
    pub wishes: Hints,
}

/// What a model's configuration wishes.
pub(in crate::repository) fn wishes(configuration: &ModelConfiguration) -> Hints {
    Hints {
        // What a stateful model knows of its sequences would be lost.
        pinned: configuration.pin() || configuration.sequence().is_some(),
        keep_alive: configuration.keep_alive(),
        ..Hints::default()
    }
}

impl Desk {
    /// Takes over what a model's configuration wishes, where that has changed since it was last read: what an operator has
    /// asked for meanwhile stays.
    pub(super) fn wish(&mut self, id: ModelId, wishes: Hints) {
        if self.wishes.insert(id, wishes) != Some(wishes) {
            self.residency.set_hints(id, |hints| *hints = wishes);
        }
    }
}
