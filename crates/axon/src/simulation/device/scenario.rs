//! What one seed stands for on a device with several models.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::super::random::Random;
use super::super::scenario::{Arrivals, Freezes, Scenario};

/// A model of the scenario.
#[derive(Clone, Debug)]
pub struct SharedModel {
    /// Its requests, limits and runs.
    pub scenario: Scenario,
    /// Its part of the device's time against those of the others.
    pub weight: u32,
    /// Lanes of each run.
    pub width: usize,
    /// The share of its runs that hang.
    pub hangs: f64,
}

/// What freezes are measured by: about what a run takes.
const USUAL: Duration = Duration::from_millis(10);

/// Several models on one device.
#[derive(Clone, Debug)]
pub struct DeviceScenario {
    /// Where all randomness comes from.
    pub seed: u64,
    /// The lanes of the device.
    pub lanes: usize,
    /// The models, at least 2.
    pub models: Vec<SharedModel>,
    /// The whole process stands still.
    pub freezes: Freezes,
}

impl DeviceScenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x6c61_6e65);
        let lanes = random.pick(&[1, 1, 1, 2, 2, 4]);
        let count = random.between(2, 5);
        // All models want more than they can have, so that shares show.
        let is_contest = random.chance(0.25);
        let hangs = random.pick(&[0.0, 0.0, 0.0, 0.02]);
        let models = (0..count).map(|_| {
            // Waiting on behind others is for the models alone.
            let scenario = Scenario { lingers: Duration::ZERO, ..Scenario::from_seed(random.next()) };
            let model = SharedModel {
                scenario,
                weight: random.pick(&[1, 1, 1, 2, 3, 10]),
                width: random.pick(&[1, 1, 1, 2]),
                hangs,
            };
            if is_contest { model.into_contestant(lanes, &mut random) } else { model }
        });
        let models = models.collect();
        // Shares are compared only where every run takes about what was foretold.
        let freezes = if is_contest { Freezes::NONE } else { Freezes::draw(USUAL, &mut random) };
        Self { seed, lanes, models, freezes }
    }
}

impl SharedModel {
    /// True when all that it gets of so many lanes depends on the others: it has instances for all of them, none of which
    /// is ever away, and its requests are of one class.
    pub(super) fn could_use(&self, lanes: usize) -> bool {
        let Scenario { instances, classes, service, .. } = &self.scenario;
        let is_steady = service.panics == 0.0 && service.stalls == 0.0 && self.hangs == 0.0;
        is_steady && *classes == 1 && instances * self.width >= lanes
    }

    /// One that could use the whole device.
    fn into_contestant(mut self, lanes: usize, random: &mut Random) -> Self {
        let scenario = &mut self.scenario;
        (scenario.instances, scenario.classes, self.width, self.hangs) = (lanes, 1, 1, 0.0);
        scenario.class_size = None;
        scenario.max_delay = Duration::ZERO;
        scenario.limits.max_queue_size = NonZeroUsize::new(32).unwrap_or(NonZeroUsize::MIN);
        scenario.limits.max_queue_bytes = 1 << 30;
        scenario.timeouts.short_share = 0.0;
        scenario.timeouts.long = random.pick(&[Duration::from_secs(10), Duration::from_secs(3)]);
        scenario.service.per_row = Duration::from_micros(random.pick(&[200, 1000, 5000]));
        scenario.service.fixed = Duration::from_micros(random.pick(&[100, 2000]));
        scenario.service.stalls = 0.0;
        scenario.requests = 400;
        let gap = scenario.service.duration(1) / 4;
        scenario.arrivals = Arrivals::Poisson { gap, together: 1 };
        self
    }
}
