//! Four models on one device that runs one batch at a time: three light ones with a limit of 10 ms, and a heavy one with
//! 100 ms.
//!
//! A run of n rows takes 1 + 0.1n ms for a light model and 2 + 0.3n ms for the heavy one, with the noise and the stalls
//! of the device in `main.rs`. Whoever chooses, each model has Axon's own queue.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use axon::batcher::{Batch, Batcher, Cap, Limits, Rules, Waiting};
use axon::lanes::{Arbiter, RunId, SeatId, Terms};

use crate::random::Random;
use crate::{MOST_ROWS, SECONDS, disturbance};

/// One of the models.
#[derive(Clone, Copy)]
struct Profile {
    limit: f64,
    fixed: f64,
    per_row: f64,
    rate: f64,
}

fn profiles(light: f64, heavy: f64) -> [Profile; 4] {
    let light = Profile { limit: 10e-3, fixed: 1e-3, per_row: 0.1e-3, rate: light };
    [light, light, light, Profile { limit: 100e-3, fixed: 2e-3, per_row: 0.3e-3, rate: heavy }]
}

/// Who decides which model runs next.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    /// Nobody: models that know nothing of each other, in turn.
    Turns,
    /// Whose batch must start first.
    Earliest,
    /// The arbiter, with its cap on runs and its shares.
    Arbiter,
}

struct Model {
    profile: Profile,
    batcher: Batcher<(), f64>,
    seat: SeatId,
    in_time: usize,
    received: usize,
}

struct Device {
    order: Order,
    models: Vec<Model>,
    arbiter: Arbiter,
    start: Instant,
    last: usize,
    run: Option<RunId>,
}

fn batcher(profile: &Profile) -> Batcher<(), f64> {
    let bound = |number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN);
    let limits =
        Limits { max_batch_rows: bound(MOST_ROWS), max_queue_size: bound(8192), max_queue_bytes: 1 << 30 };
    let point = |rows: usize| (rows, Duration::from_secs_f64(profile.fixed + profile.per_row * rows as f64));
    Batcher::new(Rules { curve: [1, 4, 16].map(point).into(), ..Rules::new(limits) })
}

impl Device {
    fn new(order: Order, profiles: &[Profile]) -> Self {
        let mut arbiter = Arbiter::new(Some(1), 1);
        let model = |profile: &Profile| Model {
            profile: *profile,
            batcher: batcher(profile),
            seat: arbiter.join(Terms { weight: 1, instances: 1, width: 1 }),
            in_time: 0,
            received: 0,
        };
        let models = profiles.iter().map(model).collect();
        Self { order, models, arbiter, start: Instant::now(), last: 0, run: None }
    }

    fn arrive(&mut self, index: usize, at: f64) {
        let now = self.start + Duration::from_secs_f64(at);
        let Model { batcher, seat, profile, received, .. } = &mut self.models[index];
        *received += 1;
        let limit = Duration::from_secs_f64(profile.limit);
        let deadline = now + limit;
        if self.order == Order::Arbiter {
            let latest = deadline - batcher.estimator().bound(1, now);
            batcher.surround(self.arbiter.surroundings(*seat, 1, latest, now));
        }
        let waiting =
            Waiting { key: (), class: 1, rows: 1, bytes: 0, deadline, lingers: Duration::ZERO, request: at };
        if batcher.push(waiting, now).is_ok() {
            self.arbiter.heard(*seat, 1, (limit, batcher.work_of_row()), now);
        }
    }

    /// What the free device runs, and of which model.
    fn next(&mut self, now: Instant) -> Option<(usize, Batch<f64>)> {
        let count = self.models.len();
        loop {
            let ready = |(index, model): (usize, &Model)| Some((model.batcher.outlook(now)?.latest, index));
            let batch = match self.order {
                Order::Turns => {
                    let mut turns = (1..=count).map(|turn| (self.last + turn) % count);
                    let index = turns.find(|&index| self.models[index].batcher.has_work(now))?;
                    (index, self.models[index].batcher.poll(now, true).batch)
                }
                Order::Earliest => {
                    let (_, index) = self.models.iter().enumerate().filter_map(ready).min()?;
                    (index, self.models[index].batcher.poll(now, true).batch)
                }
                Order::Arbiter => return self.ask(now),
            };
            self.last = batch.0;
            if let (index, Some(batch)) = batch {
                return Some((index, batch));
            }
        }
    }

    fn ask(&mut self, now: Instant) -> Option<(usize, Batch<f64>)> {
        loop {
            for Model { batcher, seat, .. } in &self.models {
                self.arbiter.claim(*seat, batcher.outlook(now), now);
            }
            let called = self.arbiter.call_next(now)?;
            let index = self.models.iter().position(|model| model.seat == called)?;
            let Model { batcher, seat, .. } = &mut self.models[index];
            let class = batcher.outlook(now)?.class;
            let cap = Cap { class, run: self.arbiter.cap(*seat, class, now) };
            let run = self.arbiter.take(*seat, now)?;
            if let Some(batch) = batcher.poll_within(cap, now).batch {
                self.run = Some(run);
                return Some((index, batch));
            }
            self.arbiter.finish(run, now);
        }
    }
}

fn play(order: Order, profiles: &[Profile], seed: u64) -> Vec<f64> {
    let mut random = Random::new(seed);
    let mut arrivals: Vec<(f64, usize)> = Vec::new();
    for (index, profile) in profiles.iter().enumerate() {
        let mut at = 0.0;
        while at < SECONDS {
            at += random.exponential() / profile.rate;
            arrivals.push((at, index));
        }
    }
    arrivals.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut noise = random.split();
    let mut device = Device::new(order, profiles);
    let mut arrivals = arrivals.into_iter().peekable();
    let mut running: Option<(f64, f64, usize, Batch<f64>)> = None;
    loop {
        let arrival = arrivals.peek().map_or(f64::INFINITY, |arrival| arrival.0);
        let end = running.as_ref().map_or(f64::INFINITY, |run| run.0);
        if arrival.min(end).is_infinite() {
            break;
        }
        let at = arrival.min(end);
        let now = device.start + Duration::from_secs_f64(at);
        if end <= arrival {
            if let Some((end, began, index, batch)) = running.take() {
                device.finish(index, &batch, (began, end));
            }
        } else if let Some((at, index)) = arrivals.next() {
            device.arrive(index, at);
        }
        if running.is_none()
            && let Some((index, batch)) = device.next(now)
        {
            let Profile { fixed, per_row, .. } = device.models[index].profile;
            let took = (fixed + per_row * batch.rows as f64) * disturbance(&mut noise);
            running = Some((at + took, at, index, batch));
        }
    }
    device.models.iter().map(|model| 100.0 * model.in_time as f64 / model.received as f64).collect()
}

impl Device {
    fn finish(&mut self, index: usize, batch: &Batch<f64>, (began, end): (f64, f64)) {
        let now = self.start + Duration::from_secs_f64(end);
        let model = &mut self.models[index];
        model.batcher.finish(batch.id, Some(Duration::from_secs_f64(end - began)), now);
        model.in_time += batch.requests.iter().filter(|&at| end <= at + model.profile.limit).count();
        if let Some(run) = self.run.take() {
            self.arbiter.finish(run, now);
        }
    }
}

pub fn report() {
    let loads = [(600.0, 600.0), (800.0, 800.0), (1000.0, 1000.0), (1500.0, 1000.0)];
    let orders = [("in turn", Order::Turns), ("earliest first", Order::Earliest), ("Axon", Order::Arbiter)];
    println!("\nfour models on one device: % in time of each light model (least), and of the heavy one");
    print!("{:<30}", "requests/s, light and heavy");
    loads.iter().for_each(|(light, heavy)| print!("{:>18}", format!("3 x {light} + {heavy}")));
    println!();
    for (name, order) in orders {
        print!("{name:<30}");
        for (light, heavy) in loads {
            let mut shares: Vec<(f64, f64)> = (0..5)
                .map(|seed| {
                    let shares = play(order, &profiles(light, heavy), seed);
                    (shares[..3].iter().copied().fold(f64::INFINITY, f64::min), shares[3])
                })
                .collect();
            shares.sort_by(|one, other| one.0.total_cmp(&other.0));
            let (light, heavy) = shares[shares.len() / 2];
            print!("{:>18}", format!("{light:.1} {heavy:.1}"));
        }
        println!();
    }
}
