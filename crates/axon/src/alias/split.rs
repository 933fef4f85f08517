//! Which of an alias's targets a request goes to. Pure.
//!
//! Invariants: of any [`Split::total`] requests in a row each target gets exactly its weight, spread evenly; a key always
//! goes to the same target, and when weights change only keys near a moved border move.

/// The parts of the targets, in their order.
#[derive(Clone, Debug)]
pub(super) struct Split {
    /// Where each part ends, ascending; the last is the whole, at most 8000.
    ends: Vec<u64>,
    /// The target of each request of a round.
    round: Box<[u8]>,
}

impl Split {
    /// Parts in proportion to `weights`, of which there is one and none is 0.
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let weights: Vec<u64> = weights.into_iter().map(u64::from).collect();
        let unit = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
        let mut ends = Vec::with_capacity(weights.len());
        let mut end = 0;
        for weight in weights {
            end += weight / unit;
            ends.push(end);
        }
        // Steps of the golden section are spread evenly over any part of the whole; their ranks are, and visit every place
        // once. **Source:** Weyl's equidistribution, with the number that is worst to approximate by fractions; here in
        // units of 2^-64.
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let mut visits: Vec<u64> = (0..end).collect();
        visits.sort_unstable_by_key(|&number| number.wrapping_mul(step));
        let mut round = vec![0_u8; visits.len()];
        let mut part = 0_u8;
        for (place, number) in visits.into_iter().enumerate() {
            while ends.get(usize::from(part)).is_some_and(|&end| end <= place as u64) {
                part += 1;
            }
            if let Some(target) = usize::try_from(number).ok().and_then(|number| round.get_mut(number)) {
                *target = part;
            }
        }
        Self { ends, round: round.into() }
    }

    /// After how many requests every target has had its exact part.
    pub fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(1).max(1)
    }

    /// The target of the request with this number, counted from 0.
    pub fn turn(&self, number: u64) -> usize {
        let place = usize::try_from(number % self.total()).unwrap_or(0);
        self.round.get(place).copied().map_or(0, usize::from)
    }

    /// The target of requests with `key`, of the alias `name`.
    pub fn keyed(&self, name: &str, key: &[u8]) -> usize {
        let place = (u128::from(hash(name, key)) * u128::from(self.total())) >> 64;
        self.part(u64::try_from(place).unwrap_or(0))
    }

    fn part(&self, place: u64) -> usize {
        self.ends.partition_point(|&end| end <= place).min(self.ends.len().saturating_sub(1))
    }
}

/// Whether the request with this number, counted from 0, is among the `share` of all that is taken: of the first n
/// exactly the whole part of n times `share` are.
pub(super) fn takes(share: f64, number: u64) -> bool {
    // Numbers below 2^53 are exact.
    let before = (number as f64 * share).floor();
    ((number + 1) as f64 * share).floor() > before
}

fn greatest_common_divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

/// The same on every host and in every version, so that a key keeps its target. **Source:** FNV-1a, with the finalizer of
/// `MurmurHash3`, since FNV's upper bits hardly depend on the last bytes.
fn hash(name: &str, key: &[u8]) -> u64 {
    let bytes = name.bytes().chain([0]).chain(key.iter().copied());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(split: &Split, parts: usize, numbers: std::ops::Range<u64>) -> Vec<u64> {
        let mut counts = vec![0; parts];
        for number in numbers {
            counts[split.turn(number)] += 1;
        }
        counts
    }

    #[test]
    fn each_target_gets_exactly_its_part() {
        let check = |weights: &[u32], expected: &[u64]| {
            let split = Split::new(weights.iter().copied());
            let total = split.total();
            assert_eq!(total, expected.iter().sum::<u64>(), "{weights:?}");
            // From anywhere, also where the counter comes round.
            for start in [0, 1, 17, u64::MAX - u64::MAX % total - total] {
                assert_eq!(
                    counts(&split, weights.len(), start..start + total),
                    expected,
                    "{weights:?} {start}"
                );
            }
        };
        check(&[1], &[1]);
        check(&[7], &[1]);
        check(&[1, 1], &[1, 1]);
        check(&[95, 5], &[19, 1]);
        check(&[99, 1], &[99, 1]);
        check(&[1000, 999, 1], &[1000, 999, 1]);
        check(&[3, 5, 7, 11, 13, 17, 19, 23], &[3, 5, 7, 11, 13, 17, 19, 23]);
        check(&[1000; 8], &[1; 8]);
    }

    #[test]
    fn a_small_part_is_spread_evenly() {
        let check = |weights: [u32; 2]| {
            let split = Split::new(weights);
            let total = split.total();
            let taken: Vec<u64> = (0..2 * total).filter(|&number| split.turn(number) == 1).collect();
            let widest = taken.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(total);
            let fair = f64::from(weights[0] + weights[1]) / f64::from(weights[1]);
            assert!(widest as f64 <= 3.0 * fair, "{weights:?}: {widest} apart, {fair} would be even");
        };
        for weights in [[95, 5], [90, 10], [99, 1], [997, 3], [75, 25], [50, 50], [983, 17]] {
            check(weights);
        }
    }

    #[test]
    fn a_key_keeps_its_target_and_keys_are_spread_by_weight() {
        let keys: Vec<String> = (0..20_000).map(|number| format!("user-{number}")).collect();
        let of =
            |split: &Split| keys.iter().map(|key| split.keyed("prod", key.as_bytes())).collect::<Vec<_>>();
        let few = of(&Split::new([95, 5]));
        assert_eq!(few, of(&Split::new([950, 50])), "the same proportions");
        let taken = few.iter().filter(|&&target| target == 1).count();
        // 1000 of 20,000 are expected; the standard deviation of a fair hash is 31.
        assert!((800..1200).contains(&taken), "{taken}");
        let more = of(&Split::new([80, 20]));
        assert!(
            few.iter().zip(&more).all(|(few, more)| *few == 0 || *more == 1),
            "who had the canary keeps it"
        );
        let other = keys.iter().filter(|key| Split::new([95, 5]).keyed("other", key.as_bytes()) == 1).count();
        assert!((800..1200).contains(&other), "{other}");
    }

    #[test]
    fn a_share_is_taken_exactly() {
        for (share, expected) in [(1.0, 1000), (0.1, 100), (0.25, 250), (0.001, 1)] {
            assert_eq!((0..1000).filter(|&number| takes(share, number)).count(), expected, "{share}");
        }
    }
}
