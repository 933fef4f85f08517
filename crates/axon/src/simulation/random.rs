//! The simulation's random numbers and its hash: integers and IEEE arithmetic only, so that a seed means the same
//! on every machine.

use std::time::Duration;

/// A stream of random numbers. Not for secrets.
///
/// **Source:** SplitMix64, G. Steele, D. Lea and C. Flood, *Fast splittable pseudorandom number generators*,
/// OOPSLA 2014; constants as in S. Vigna's public-domain `splitmix64.c`.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// A stream of its own: what is drawn from one does not shift the other.
    pub(super) fn split(&mut self) -> Self {
        Self(self.next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN_GAMMA);
        mix(self.0)
    }

    /// Evenly from `0.0` up to, but not, `1.0`.
    pub(super) fn share(&mut self) -> f64 {
        const STEPS: f64 = (1_u64 << 53) as f64;
        (self.next() >> 11) as f64 / STEPS
    }

    /// True with this probability.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.share() < probability
    }

    /// Evenly from `low` to `high`, both included. The bias, under 2^-32 × the range, does not matter here.
    pub(super) fn between(&mut self, low: usize, high: usize) -> usize {
        let number = usize::try_from(self.next() >> 32).expect("32 bits fit");
        low + number % (high - low + 1)
    }

    /// One of `choices`, which is not empty.
    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.between(0, choices.len() - 1)]
    }

    /// Evenly from zero up to `most`.
    pub(super) fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.share())
    }

    /// Exponentially distributed around `mean`, the gaps of a Poisson process.
    pub(super) fn around(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(self.exponential())
    }

    /// Exponential with mean 1, by comparisons alone: a logarithm's last bits differ between machines.
    ///
    /// **Source:** J. von Neumann, *Various techniques used in connection with random digits*, 1951.
    fn exponential(&mut self) -> f64 {
        let mut whole = 0.0;
        loop {
            let first = self.share();
            let (mut last, mut falling) = (first, 1);
            loop {
                let next = self.share();
                if next >= last {
                    break;
                }
                (last, falling) = (next, falling + 1);
            }
            if falling % 2 == 1 {
                return whole + first;
            }
            whole += 1.0;
        }
    }
}

/// Stafford's variant 13 of the 64-bit finaliser, as `SplitMix64` uses it.
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A hash over everything that happened, in order.
#[derive(Debug, Default)]
pub(super) struct Trace(u64);

impl Trace {
    pub(super) fn of(word: u64) -> Self {
        Self(word)
    }

    pub(super) fn add(&mut self, word: u64) -> &mut Self {
        self.0 = mix(self.0.wrapping_add(GOLDEN_GAMMA) ^ word);
        self
    }

    pub(super) fn hash(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_published_one() {
        // The first outputs of `splitmix64.c` from state 1234567.
        let mut random = Random(1_234_567);
        let numbers = [random.next(), random.next(), random.next()];
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn shares_are_even_and_gaps_have_their_mean() {
        let mut random = Random::new(1);
        let many = 100_000;
        let mean = |sum: f64| sum / f64::from(many);
        let shares = mean((0..many).map(|_| random.share()).sum());
        assert!((shares - 0.5).abs() < 0.005, "{shares}");
        let gaps: Vec<f64> = (0..many).map(|_| random.exponential()).collect();
        let average = mean(gaps.iter().sum());
        assert!((average - 1.0).abs() < 0.02, "{average}");
        // An exponential exceeds its mean with probability 1/e.
        let long = mean(gaps.iter().map(|&gap| f64::from(u8::from(gap > 1.0))).sum());
        assert!((long - (-1.0_f64).exp()).abs() < 0.01, "{long}");
    }
}
