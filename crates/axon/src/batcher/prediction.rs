//! Foretells what 99 of 100 requests take, from what was learned and from how many come.
//!
//! No formula holds for batches that grow with the load, steps in the curve and several instances alike. So the queue's
//! rule is played in small: made-up requests at that rate, at random, always the same; an instance that is free takes all
//! that wait, up to the most rows; a run takes what was learned.
//!
//! Left out: deadlines (nothing is refused here, so that what is answered under a limit is faster), shapes, classes,
//! waiting for others, and bursts beyond chance. Costs about as many steps as there are requests.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::Estimator;

/// Requests that are played; the first of them only fill the queue.
const REQUESTS: usize = 8192;
const WARM_UP: usize = 512;
/// One run in so many takes as long as the margin says, which nine of ten runs stay within.
const SLOW_ONE_IN: u64 = 10;
/// The most instances that are told apart.
const MAX_INSTANCES: f64 = 256.0;

/// How requests come to a model, and with what it meets them.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Rows that arrive in a second.
    pub rows_per_second: f64,
    /// Rows of a request, on average; at least 1.
    pub request_rows: f64,
    /// Instances that the model can count on; less than 1 on a device that it shares.
    pub instances: f64,
    /// The most rows of a run.
    pub max_batch_rows: usize,
}

/// What 99 of 100 requests take from arrival to answer. `None` where more comes than can be run.
#[must_use]
pub fn predicted_p99(estimator: &Estimator, demand: Demand) -> Option<Duration> {
    let most = demand.max_batch_rows.max(1);
    let rows = whole(demand.request_rows.round()).min(most);
    let margin = estimator.learned().margin;
    if demand.rows_per_second >= estimator.rate(most) * demand.instances {
        return None;
    }
    let slow = |rows: usize| estimator.predict(rows).as_secs_f64() * margin;
    if demand.rows_per_second * slow(rows) < 1e-3 * rows as f64 {
        // Hardly ever do two of them meet.
        return Duration::try_from_secs_f64(slow(rows)).ok();
    }
    let gap = rows as f64 / demand.rows_per_second;
    let mut latencies = played(estimator, demand, (gap, rows, margin));
    let rank = latencies.len() * 99 / 100;
    let (_, p99, _) = latencies.select_nth_unstable_by(rank, f64::total_cmp);
    Duration::try_from_secs_f64(*p99).ok()
}

/// The latencies, in seconds, of requests of `rows` rows each that come every `gap` seconds on average.
fn played(estimator: &Estimator, demand: Demand, (gap, request_rows, margin): (f64, usize, f64)) -> Vec<f64> {
    let mut random = SplitMix(0x5eed);
    let mut at = 0.0;
    let arrivals: Vec<f64> = std::iter::repeat_with(|| {
        at -= gap * (1.0 - random.share()).ln();
        at
    })
    .take(REQUESTS + WARM_UP)
    .collect();
    let instances = demand.instances.clamp(1.0, MAX_INSTANCES).ceil();
    // A part of an instance is one that others have in between.
    let held = instances / demand.instances.clamp(f64::MIN_POSITIVE, MAX_INSTANCES);
    let most = (demand.max_batch_rows / request_rows).max(1);
    // Moments from 0 on, whose bits are in the order of their values.
    let mut free: BinaryHeap<Reverse<u64>> = (0..whole(instances)).map(|_| Reverse(0)).collect();
    let (mut first, mut latencies) = (0, Vec::with_capacity(arrivals.len()));
    while first < arrivals.len() {
        let Some(Reverse(next)) = free.pop() else { break };
        let start = f64::from_bits(next).max(arrivals[first]);
        let waiting = arrivals[first..].iter().take(most).take_while(|&&arrival| arrival <= start);
        let last = first + waiting.count();
        let slow = if random.next().is_multiple_of(SLOW_ONE_IN) { margin } else { 1.0 };
        let run = estimator.predict((last - first) * request_rows).as_secs_f64() * slow;
        latencies.extend(arrivals[first..last].iter().map(|arrival| start + run - arrival));
        free.push(Reverse((start + run * held).to_bits()));
        first = last;
    }
    latencies.split_off(WARM_UP)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is at least 1, and what is too much becomes the most there is"
)]
fn whole(number: f64) -> usize {
    number.max(1.0) as usize
}

/// **Source:** G. Steele, D. Lea, C. Flood, *Fast splittable pseudorandom number generators*, OOPSLA 2014.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to less than 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `l(n) = 1 + 0.1n` ms; of 64 rows it runs 8,649 in a second.
    fn learned() -> Estimator {
        Estimator::seeded(&[(1, Duration::from_micros(1100)), (64, Duration::from_micros(7400))])
    }

    fn p99_ms(rows_per_second: f64, request_rows: f64, instances: f64) -> Option<f64> {
        let demand = Demand { rows_per_second, request_rows, instances, max_batch_rows: 64 };
        predicted_p99(&learned(), demand).map(|p99| p99.as_secs_f64() * 1e3)
    }

    #[test]
    fn nothing_that_comes_takes_one_run_and_too_much_takes_no_time_that_can_be_told() {
        assert!((p99_ms(0.0, 1.0, 1.0).unwrap() - 1.1).abs() < 1e-9);
        assert!((p99_ms(0.0, 10.0, 1.0).unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(p99_ms(8650.0, 1.0, 1.0), None);
        assert!(p99_ms(8650.0, 1.0, 2.0).is_some());
        assert_eq!(p99_ms(4400.0, 1.0, 0.5), None);
    }

    #[test]
    fn more_that_comes_takes_longer_and_more_instances_take_less() {
        let loads = [1.0, 1000.0, 3000.0, 5000.0, 7000.0, 8500.0].map(|rate| p99_ms(rate, 1.0, 1.0).unwrap());
        assert!(loads.is_sorted() && loads[5] > 4.0 * loads[0], "{loads:?}");
        assert!(p99_ms(7000.0, 1.0, 2.0).unwrap() < loads[4]);
        assert!(p99_ms(3000.0, 1.0, 0.5).unwrap() > loads[2]);
        assert_eq!(p99_ms(5000.0, 1.0, 1.0), Some(loads[3]), "the same question has the same answer");
    }
}
