//! What one seed stands for: a model and its limits, the requests that come, and what goes wrong.
//!
//! Rare things are common here: whole seeds run with a queue of one, with times so coarse that everything happens at
//! once, or with an instance that fails every third batch.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::random::Random;
use crate::batcher::{Class, Limits, Rules};

/// The most shapes that the requests of one scenario have.
pub const MAX_KEYS: u8 = 5;

/// Everything that is decided before a simulation starts; the rest is drawn from `seed` on the way.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where all randomness comes from.
    pub seed: u64,
    /// How many requests are sent, refused ones counted.
    pub requests: usize,
    /// Copies of the model that run at the same time, 1 to 4.
    pub instances: usize,
    /// The queue's bounds.
    pub limits: Limits,
    /// Different shapes among the requests, 1 to [`MAX_KEYS`].
    pub keys: u8,
    /// Levels of urgency among the requests, at least 1.
    pub classes: Class,
    /// The most requests of the least urgent class that wait, where that is bounded.
    pub class_size: Option<NonZeroUsize>,
    /// Batch sizes for which nothing waits.
    pub preferred_rows: Vec<usize>,
    /// How long a request may be kept waiting for others.
    pub max_delay: Duration,
    /// How much longer requests may wait behind the others once their time is over.
    pub lingers: Duration,
    /// Whether answers leave in the order in which their requests were accepted.
    pub preserve_order: bool,
    /// What is foretold at the start is the truth times this; 0 foretells nothing.
    pub foretold: f64,
    /// When requests come.
    pub arrivals: Arrivals,
    /// How large they are.
    pub rows: Rows,
    /// How long they may take.
    pub timeouts: Timeouts,
    /// Callers who go away.
    pub cancellation: Cancellation,
    /// How long an instance runs, and how it fails.
    pub service: Service,
    /// How serving ends.
    pub shutdown: Shutdown,
    /// The timer looks at a passed deadline so much later at most.
    pub timer_lag: Duration,
    /// The whole process stands still.
    pub freezes: Freezes,
    /// Every length of time is rounded up to a multiple of it, so that a large one makes events coincide.
    pub tick: Duration,
}

/// When requests come.
#[derive(Clone, Copy, Debug)]
pub enum Arrivals {
    /// `together` at a time, with exponential gaps.
    Poisson {
        /// Mean time between two arrivals.
        gap: Duration,
        /// Requests that an event loop queues before it wakes an instance.
        together: usize,
    },
    /// On and off.
    Bursts {
        /// Mean time between two requests of a burst.
        gap: Duration,
        /// Mean number of requests in a burst.
        length: usize,
        /// Mean time between two bursts.
        pause: Duration,
    },
    /// Callers that wait for their answer before they ask again.
    Callers {
        /// How many.
        count: usize,
        /// Mean time from an answer to the next request.
        think: Duration,
    },
}

/// How many rows requests have.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// From 1 to so many, evenly.
    pub most: usize,
    /// The share of requests of more rows than a batch may have.
    pub oversized: f64,
    /// Input bytes of one row.
    pub bytes: usize,
}

/// How long requests may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// The share of requests with a timeout up to `short`, evenly; the others have `long`.
    pub short_share: f64,
    /// The longest short timeout.
    pub short: Duration,
    /// The server's own timeout.
    pub long: Duration,
}

/// Callers who go away.
#[derive(Clone, Copy, Debug)]
pub struct Cancellation {
    /// The share of requests that are cancelled, be they waiting, running or answered by then.
    pub share: f64,
    /// The longest time from arrival to cancellation.
    pub within: Duration,
}

/// The process is stopped, or its machine is: what was due meanwhile happens at once when it goes on, and runs have taken
/// as much longer. A clock that jumps forward does the same; the batcher knows no other clock than the monotonic one.
#[derive(Clone, Copy, Debug)]
pub struct Freezes {
    /// The share of events before which it stands still.
    pub share: f64,
    /// For how long at most.
    pub longest: Duration,
}

/// How long an instance runs: `l(n) = per_row · n + fixed`, and what goes wrong.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Time for each row.
    pub per_row: Duration,
    /// Time for each run.
    pub fixed: Duration,
    /// A run takes up to this share more or less.
    pub noise: f64,
    /// The share of runs that stall, for up to 30 times their length.
    pub stalls: f64,
    /// The share of runs that end in an error.
    pub errors: f64,
    /// The share of runs that end in a panic, at any moment of the run.
    pub panics: f64,
    /// The longest time from a panic until the instance is back.
    pub restart: Duration,
}

/// How serving ends.
#[derive(Clone, Copy, Debug)]
pub enum Shutdown {
    /// It does not; the queue runs empty.
    Never,
    /// What waits is still run.
    Drain {
        /// Once so many requests have been sent.
        after: usize,
        /// What still waits then is given up; `None` waits for all of it.
        limit: Option<Duration>,
    },
    /// What waits is given up at once.
    Close {
        /// Once so many requests have been sent.
        after: usize,
    },
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Answers,
    Error,
    Panic,
}

impl Scenario {
    /// The scenario of a seed: always the same.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let requests = random.between(50, 700);
        let instances = random.between(1, 4);
        let max_batch_rows = random.pick(&[1, 2, 3, 4, 8, 16, 32, 64]);
        let rows = Rows::draw(max_batch_rows, &mut random);
        let limits = draw_limits(max_batch_rows, rows.bytes, &mut random);
        let service = Service::draw(&mut random);
        let batch = service.duration(max_batch_rows);
        // The mean time between requests at which they need all that the instances can do.
        let mean_rows = (1 + rows.most) as f64 / 2.0 + rows.oversized * max_batch_rows as f64;
        let sustainable = batch.mul_f64(mean_rows / (max_batch_rows * instances) as f64);
        Self {
            seed,
            requests,
            instances,
            limits,
            keys: random.pick(&[1, 1, 2, 3, MAX_KEYS]),
            classes: random.pick(&[1, 1, 1, 2, 3]),
            class_size: random.pick(&[None, None, NonZeroUsize::new(3)]),
            preferred_rows: random.pick(&[&[][..], &[], &[], &[2, 4]]).to_vec(),
            max_delay: batch.mul_f64(random.pick(&[0.0, 0.0, 0.0, 0.5, 3.0])),
            // By the seed itself, so that the other seeds draw what they always drew.
            lingers: if seed % 5 == 4 { batch * 200 } else { Duration::ZERO },
            preserve_order: seed % 3 == 2,
            foretold: random.pick(&[0.0, 1.0, 1.0, 0.2, 5.0]),
            arrivals: Arrivals::draw(sustainable, batch, &mut random),
            rows,
            timeouts: Timeouts::draw(batch, &mut random),
            cancellation: Cancellation {
                share: random.pick(&[0.0, 0.0, 0.05, 0.5]),
                within: batch.mul_f64(random.pick(&[0.1, 1.0, 5.0])),
            },
            service,
            shutdown: Shutdown::draw(requests, batch, &mut random),
            timer_lag: batch.mul_f64(random.pick(&[0.0, 0.0, 0.1, 2.0])),
            tick: random.pick(&[Duration::from_nanos(1), Duration::from_micros(1), batch / 4, batch]),
            freezes: Freezes::draw(batch, &mut random),
        }
    }

    /// The rules of its queue.
    #[must_use]
    pub fn rules(&self) -> Rules {
        let point = |rows| (rows, self.service.duration(rows).mul_f64(self.foretold));
        let bound = |size| (self.classes, size);
        Rules {
            instances: self.instances,
            class_sizes: self.class_size.map(bound).into_iter().collect(),
            preferred_rows: self.preferred_rows.clone(),
            max_delay: self.max_delay,
            preserve_order: self.preserve_order,
            curve: if self.foretold > 0.0 { vec![point(1), point(4)] } else { Vec::new() },
            ..Rules::new(self.limits)
        }
    }

    pub(super) fn ticks(&self, duration: Duration) -> Duration {
        let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let tick = nanoseconds(self.tick).max(1);
        Duration::from_nanos(nanoseconds(duration).div_ceil(tick).saturating_mul(tick))
    }
}

fn draw_limits(max_batch_rows: usize, row_bytes: usize, random: &mut Random) -> Limits {
    let bound = |number: usize| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN);
    // Just enough for some requests, or one byte short of it.
    let tight = (row_bytes * max_batch_rows * random.pick(&[1, 2, 8])).saturating_sub(random.between(0, 1));
    Limits {
        max_batch_rows: bound(max_batch_rows),
        max_queue_size: bound(random.pick(&[1, 2, 5, 16, 64, 64, 256, 256])),
        max_queue_bytes: random.pick(&[1 << 30, 1 << 30, tight]),
    }
}

impl Rows {
    fn draw(max_batch_rows: usize, random: &mut Random) -> Self {
        Self {
            most: random.pick(&[
                1,
                1,
                1,
                max_batch_rows.div_ceil(8),
                max_batch_rows.div_ceil(4),
                max_batch_rows,
            ]),
            oversized: random.pick(&[0.0, 0.0, 0.02, 0.2]),
            bytes: random.pick(&[0, 1, 100, 4096]),
        }
    }

    pub(super) fn count(&self, max_batch_rows: usize, random: &mut Random) -> usize {
        if random.chance(self.oversized) {
            return random.between(max_batch_rows + 1, 2 * max_batch_rows + 1);
        }
        random.between(1, self.most)
    }
}

impl Timeouts {
    fn draw(batch: Duration, random: &mut Random) -> Self {
        Self {
            short_share: random.pick(&[0.0, 0.5, 0.5, 1.0]),
            short: batch.mul_f64(random.pick(&[1.0, 3.0, 10.0])),
            long: Duration::from_secs(10),
        }
    }

    pub(super) fn length(&self, random: &mut Random) -> Duration {
        // A caller may allow no time at all.
        let none = random.chance(0.01);
        if !random.chance(self.short_share) {
            self.long
        } else if none {
            Duration::ZERO
        } else {
            random.up_to(self.short)
        }
    }
}

impl Arrivals {
    /// Requests at a load from a tenth of what the instances can do to three times as much.
    fn draw(sustainable: Duration, batch: Duration, random: &mut Random) -> Self {
        let gap = sustainable.div_f64(random.pick(&[0.1, 0.5, 0.8, 1.0, 1.3, 3.0]));
        match random.between(0, 3) {
            0 => Self::Poisson { gap, together: 1 },
            1 => {
                let together = random.between(2, 12);
                Self::Poisson { gap: gap.mul_f64(together as f64), together }
            }
            2 => {
                let length = random.pick(&[5, 20, 100]);
                Self::Bursts { gap: gap / 10, length, pause: gap.mul_f64(length as f64) }
            }
            _ => Self::Callers {
                count: random.pick(&[1, 2, 8, 64]),
                think: batch.mul_f64(random.pick(&[0.0, 0.1, 2.0])),
            },
        }
    }

    /// From one arrival to the next.
    pub(super) fn gap(&self, random: &mut Random) -> Duration {
        match *self {
            Self::Bursts { length, pause, .. } if random.chance(1.0 / length as f64) => random.around(pause),
            Self::Bursts { gap, .. } | Self::Poisson { gap, .. } => random.around(gap),
            Self::Callers { think, .. } => random.around(think),
        }
    }
}

impl Freezes {
    /// It never stands still.
    pub(super) const NONE: Self = Self { share: 0.0, longest: Duration::ZERO };

    pub(super) fn draw(batch: Duration, random: &mut Random) -> Self {
        let share = random.pick(&[0.0, 0.0, 0.0, 0.005, 0.1]);
        Self { share, longest: random.pick(&[batch, batch * 20, Duration::from_secs(20)]) }
    }

    /// How long it stands still before an event; `None` when it does not.
    pub(super) fn length(&self, random: &mut Random) -> Option<Duration> {
        (self.share > 0.0 && random.chance(self.share)).then(|| random.up_to(self.longest))
    }
}

impl Service {
    fn draw(random: &mut Random) -> Self {
        let micros = random.pick(&[20, 200, 2_000, 20_000]);
        let scale = Duration::from_micros(micros);
        Self {
            per_row: random.up_to(scale),
            fixed: scale / 10 + random.up_to(scale * 5),
            noise: random.pick(&[0.0, 0.05, 0.5]),
            stalls: random.pick(&[0.0, 0.0, 0.01, 0.1]),
            errors: random.pick(&[0.0, 0.0, 0.02, 0.3]),
            panics: random.pick(&[0.0, 0.0, 0.02, 0.2]),
            restart: scale * random.pick(&[0, 10, 100]),
        }
    }

    /// How long a run of `rows` rows takes when nothing disturbs it.
    #[must_use]
    pub fn duration(&self, rows: usize) -> Duration {
        self.per_row.mul_f64(rows as f64) + self.fixed
    }

    pub(super) fn run(&self, rows: usize, random: &mut Random) -> (Duration, Ending) {
        let factor = 1.0 + self.noise * (2.0 * random.share() - 1.0);
        let mut duration = self.duration(rows).mul_f64(factor);
        if random.chance(self.stalls) {
            duration += random.up_to(duration * 30);
        }
        if random.chance(self.panics) {
            (random.up_to(duration), Ending::Panic)
        } else if random.chance(self.errors) {
            (duration, Ending::Error)
        } else {
            (duration, Ending::Answers)
        }
    }
}

impl Shutdown {
    fn draw(requests: usize, batch: Duration, random: &mut Random) -> Self {
        let after = if random.chance(0.1) { 1 } else { random.between(requests / 2, requests) };
        match random.between(0, 5) {
            0 => Self::Drain { after, limit: None },
            1 => Self::Drain { after, limit: Some(random.up_to(batch * 3)) },
            2 => Self::Close { after },
            _ => Self::Never,
        }
    }
}
