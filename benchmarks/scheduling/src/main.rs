//! The share of requests that each policy answers within the limit, on one device under virtual time.
//!
//! ```console
//! $ cargo run --release --manifest-path benchmarks/scheduling/Cargo.toml
//! ```
//!
//! The device: a run of n rows takes 1 + 0.1n ms with 3 % noise, and one in 200 takes three times as long. The limit is
//! 10 ms from arrival, a batch has at most 64 rows. The peers' policies are written from their published rules.

mod cost;
mod device;
mod policies;
mod random;

use policies::{Aimd, Axon, Delay, Eager, Policy, Prefetch, Request};
use random::Random;

const LIMIT: f64 = 10e-3;
const SECONDS: f64 = 20.0;
pub const MOST_ROWS: usize = 64;

/// When requests arrive.
#[derive(Clone, Copy)]
enum Arrivals {
    Poisson(f64),
    /// 100 ms at five thirds of the rate, 100 ms at a third of it.
    Bursty(f64),
}

impl Arrivals {
    fn times(self, random: &mut Random) -> Vec<f64> {
        let (mut now, mut times) = (0.0, Vec::new());
        while now < SECONDS {
            match self {
                Self::Poisson(rate) => now += random.exponential() / rate,
                Self::Bursty(rate) => {
                    let factor = if now % 0.2 < 0.1 { 5.0 / 3.0 } else { 1.0 / 3.0 };
                    now += random.exponential() / (factor * rate);
                }
            }
            times.push(now);
        }
        times
    }
}

fn service(rows: usize, random: &mut Random) -> f64 {
    (1e-3 + 0.1e-3 * rows as f64) * disturbance(random)
}

/// What a run takes against what it should.
fn disturbance(random: &mut Random) -> f64 {
    let noise = 1.0 + 0.03 * random.normal();
    let stall = if random.share() < 0.005 { 3.0 } else { 1.0 };
    noise.max(0.1) * stall
}

/// The share answered within the limit.
fn play(policy: &mut dyn Policy, arrivals: Arrivals, seed: u64) -> f64 {
    let mut random = Random::new(seed);
    let times = arrivals.times(&mut random);
    let mut service_random = random.split();
    let (mut next, mut in_time) = (0, 0);
    // The batch that runs, when it ends and began.
    let mut running: Option<(Vec<Request>, f64, f64)> = None;
    let mut now: f64 = 0.0;
    loop {
        let arrival = times.get(next).copied().unwrap_or(f64::INFINITY);
        let end = running.as_ref().map_or(f64::INFINITY, |run| run.1);
        let wake =
            if running.is_none() { policy.wakes().unwrap_or(f64::INFINITY).max(now) } else { f64::INFINITY };
        if arrival.min(end).min(wake).is_infinite() {
            break;
        }
        if end <= arrival && end <= wake {
            now = end;
            let Some((batch, _, began)) = running.take() else { break };
            in_time += batch.iter().filter(|request| now <= request.deadline).count();
            policy.finished(batch.len(), now - began, now);
        } else if arrival <= wake {
            now = arrival;
            policy.arrive(Request { arrived: now, deadline: now + LIMIT }, now);
            next += 1;
        } else {
            now = wake;
        }
        if running.is_none()
            && let Some(batch) = policy.next(now)
        {
            let took = service(batch.len(), &mut service_random);
            running = Some((batch, now + took, now));
        }
    }
    100.0 * in_time as f64 / times.len() as f64
}

type Make = fn() -> Box<dyn Policy>;

fn main() {
    let loads = [
        ("3,000/s", Arrivals::Poisson(3000.0)),
        ("6,000/s", Arrivals::Poisson(6000.0)),
        ("8,000/s", Arrivals::Poisson(8000.0)),
        ("10,000/s", Arrivals::Poisson(10_000.0)),
        ("bursty 6,000/s", Arrivals::Bursty(6000.0)),
    ];
    let policies: [(&str, Make); 8] = [
        ("eager, nothing dropped", || Box::new(Eager::default())),
        ("frozen prefetch", || Box::new(Prefetch::default())),
        ("delay 1 ms", || Box::new(Delay::new(1e-3))),
        ("delay 5 ms", || Box::new(Delay::new(5e-3))),
        ("AIMD, expired dropped", || Box::new(Aimd::new(LIMIT))),
        ("Axon", || Box::new(Axon::new(1.0))),
        ("Axon, foretold 5x too long", || Box::new(Axon::new(5.0))),
        ("Axon, foretold 5x too short", || Box::new(Axon::new(0.2))),
    ];
    let seeds = 5;
    println!(
        "share of requests answered within 10 ms, in %, median of {seeds} seeds, {SECONDS} s of virtual time"
    );
    print!("{:<30}", "policy");
    loads.iter().for_each(|(name, _)| print!("{name:>16}"));
    println!();
    for (name, make) in policies {
        print!("{name:<30}");
        for (_, arrivals) in loads {
            let mut shares: Vec<f64> = (0..seeds).map(|seed| play(make().as_mut(), arrivals, seed)).collect();
            shares.sort_by(f64::total_cmp);
            print!("{:>16.1}", shares[shares.len() / 2]);
        }
        println!();
    }
    device::report();
    cost::report();
}
