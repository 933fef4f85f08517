//! Where the cells of a histogram end.
//!
//! One row of cells serves both forms in which a histogram is told: the cells end at the bounds of a native histogram
//! and at those of a classic one, so that both are exact sums of cells. Bounds are whole units, so that finding a cell
//! takes no floating point.

use std::sync::LazyLock;

/// The bounds of a histogram's cells.
#[derive(Debug)]
pub struct Scale {
    /// How many whole units, as they are observed, make one of the unit that is told.
    per_unit: f64,
    /// A native bucket ends at 2^(1/2^schema) times where it begins.
    schema: i8,
    /// What is at most so large, in the unit that is told, counts as zero in the native form.
    zero_threshold: f64,
    /// The largest value of each cell but the last, in whole units, ascending.
    bounds: Vec<u64>,
    /// The cell of the least value of each [`range`]: where its other values are looked for from.
    starts: Vec<usize>,
    /// The native bucket of each cell; the first cell is the zero bucket and has none.
    native: Vec<i32>,
    /// The classic bounds in the unit that is told, each with the number of cells up to it.
    classic: Vec<(f64, usize)>,
}

/// Seconds, observed as nanoseconds: from a microsecond to eight minutes, told to 9 %.
pub static DURATIONS: LazyLock<Scale> = LazyLock::new(|| {
    let classic = [
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ];
    Scale::new(Form { per_unit: 1e9, schema: 3, octaves: (-20, 9), is_whole: false }, &classic)
});

/// Bytes: up to 4 GiB, told to 19 %.
pub static BYTES: LazyLock<Scale> = LazyLock::new(|| {
    // 256 B to 1 GiB, each four times the one before.
    let classic: Vec<f64> = (0..12).map(|power| 256.0 * f64::powi(4.0, power)).collect();
    Scale::new(Form { per_unit: 1.0, schema: 2, octaves: (0, 32), is_whole: true }, &classic)
});

/// Rows: up to 65 536, told to 19 %.
pub static ROWS: LazyLock<Scale> = LazyLock::new(|| {
    let classic: Vec<f64> = (0..11).map(|power| f64::powi(2.0, power)).collect();
    Scale::new(Form { per_unit: 1.0, schema: 2, octaves: (0, 16), is_whole: true }, &classic)
});

/// What a scale is made of.
#[derive(Clone, Copy)]
struct Form {
    per_unit: f64,
    schema: i8,
    /// The least and the largest power of two that are told apart.
    octaves: (i32, i32),
    /// Values are whole numbers of the unit that is told, and only 0 is zero.
    is_whole: bool,
}

/// How many binary digits of a value, after its first, say which range it is in.
const DIGITS: u32 = 3;

/// The range of a value: each below 16 has its own, and each octave from there on has eight.
#[expect(clippy::cast_possible_truncation, reason = "it is less than 512")]
fn range(value: u64) -> usize {
    let octaves = (u64::BITS - value.leading_zeros()).saturating_sub(DIGITS + 1);
    ((u64::from(octaves) << DIGITS) + (value >> octaves)) as usize
}

/// The least value of a range.
fn least(range: usize) -> u64 {
    let octaves = (range >> DIGITS).saturating_sub(1);
    ((range - (octaves << DIGITS)) as u64) << octaves
}

impl Scale {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounds are small and not negative"
    )]
    fn new(form: Form, classic: &[f64]) -> Self {
        let Form { per_unit, schema, octaves: (low, high), is_whole } = form;
        let per_octave = 1 << schema;
        let native_bound = |index: i32| f64::exp2(f64::from(index) / f64::from(per_octave));
        let native_of = |bound: f64| (bound.log2() * f64::from(per_octave)).ceil() as i32;
        let (zero_threshold, first) = if is_whole {
            (0.0, low * per_octave)
        } else {
            (f64::exp2(f64::from(low)), low * per_octave + 1)
        };
        let whole = |bound: f64| (bound * per_unit + 1e-6).floor() as u64;
        let last = high * per_octave;
        let mut cells = vec![(whole(zero_threshold), i32::MIN)];
        cells.extend((first..=last).map(|index| (whole(native_bound(index)), index)));
        cells.extend(classic.iter().map(|&bound| (whole(bound), native_of(bound))));
        cells.sort_unstable();
        // Between two bounds with the same whole part there is no value.
        cells.dedup_by_key(|(bound, _)| *bound);
        let (bounds, mut native): (Vec<u64>, Vec<i32>) = cells.into_iter().unzip();
        native.push(last + 1);
        let cells_to = |bound: f64| bounds.partition_point(|&cell| cell <= whole(bound));
        let classic = classic.iter().map(|&bound| (bound, cells_to(bound))).collect();
        let starts = (0..=range(u64::MAX)).map(|range| bounds.partition_point(|&bound| bound < least(range)));
        let starts = starts.collect();
        Self { per_unit, schema, zero_threshold, bounds, starts, native, classic }
    }

    /// The cell that counts `value`.
    pub(super) fn cell(&self, value: u64) -> usize {
        let start = self.starts.get(range(value)).copied().unwrap_or_default();
        // A range is an eighth of an octave: a few bounds are in it at most.
        let beyond = self.bounds.get(start..).unwrap_or_default();
        start + beyond.iter().take_while(|&&bound| bound < value).count()
    }

    /// The number of cells, the last one for what is larger than every bound.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.native.len()
    }

    /// The largest value of a cell in the unit that is told; infinite for the last.
    #[must_use]
    pub fn upper(&self, cell: usize) -> f64 {
        self.bounds.get(cell).map_or(f64::INFINITY, |&bound| self.told(bound))
    }

    /// `value` whole units in the unit that is told.
    #[must_use]
    pub fn told(&self, value: u64) -> f64 {
        value as f64 / self.per_unit
    }

    /// How fine the native form is.
    #[must_use]
    pub fn schema(&self) -> i8 {
        self.schema
    }

    /// What counts as zero in the native form.
    #[must_use]
    pub fn zero_threshold(&self) -> f64 {
        self.zero_threshold
    }

    /// The native bucket of a cell other than the first.
    pub(super) fn native(&self, cell: usize) -> i32 {
        self.native.get(cell).copied().unwrap_or(i32::MAX)
    }

    /// The classic bounds, each with the number of cells up to it.
    pub(super) fn classic(&self) -> &[(f64, usize)] {
        &self.classic
    }

    /// The classic bucket of `value`; the number of classic bounds for what is larger than every one.
    pub(super) fn classic_bucket(&self, value: u64) -> usize {
        let cell = self.cell(value);
        self.classic.partition_point(|&(_, cells)| cells <= cell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scales() -> [&'static Scale; 3] {
        [&DURATIONS, &BYTES, &ROWS]
    }

    #[test]
    fn every_value_has_the_cell_whose_bounds_it_lies_between() {
        for scale in scales() {
            assert!(scale.bounds.windows(2).all(|pair| pair[0] < pair[1]), "{scale:?}");
            for (cell, &bound) in scale.bounds.iter().enumerate() {
                assert_eq!(scale.cell(bound), cell);
                assert_eq!(scale.cell(bound + 1), cell + 1);
            }
            assert_eq!(scale.cell(u64::MAX), scale.cells() - 1);
        }
    }

    #[test]
    fn ranges_follow_one_another_and_hold_few_bounds() {
        let last = range(u64::MAX);
        for exponent in 0..64 {
            for value in [1_u64 << exponent, (1 << exponent) - 1, (1_u64 << exponent) | (1 << exponent >> 1)]
            {
                let place = range(value);
                assert!(least(place) <= value);
                assert!(place == last || value < least(place + 1), "{value}");
            }
        }
        for place in 0..last {
            assert_eq!((range(least(place)), range(least(place + 1) - 1)), (place, place));
        }
        for scale in scales() {
            assert!(scale.starts.windows(2).all(|pair| pair[1] - pair[0] <= 4), "{:?}", scale.starts);
        }
    }

    #[test]
    fn a_native_bucket_has_the_bounds_of_its_index() {
        for scale in scales() {
            let base = f64::exp2(f64::exp2(-f64::from(scale.schema)));
            for cell in 1..scale.bounds.len() {
                let index = scale.native(cell);
                let (lower, upper) = (base.powi(index - 1), base.powi(index));
                let largest = scale.upper(cell);
                // A whole unit is the least that is told apart.
                let unit = 1.0 / scale.per_unit;
                assert!(largest > lower - unit && largest <= upper * (1.0 + 1e-9), "{index}: {largest}");
            }
        }
    }

    #[test]
    fn a_classic_bound_is_the_bound_of_a_cell() {
        for scale in scales() {
            for (bucket, &(bound, cells)) in scale.classic().iter().enumerate() {
                assert!((scale.upper(cells - 1) - bound).abs() < 1e-12, "{bound}");
                let whole = scale.bounds[cells - 1];
                assert_eq!(scale.classic_bucket(whole), bucket);
                assert_eq!(scale.classic_bucket(whole + 1), bucket + 1);
            }
        }
    }

    #[test]
    fn nothing_is_wider_than_what_the_scale_says() {
        for (scale, widest) in scales().into_iter().zip([1.093, 1.19, 1.19]) {
            for cell in 2..scale.bounds.len() {
                // From the least whole number that is counted here to the largest.
                let (least, largest) = (scale.bounds[cell - 1] + 1, scale.bounds[cell]);
                let width = largest as f64 / least as f64;
                assert!(width < widest, "{width} at {largest}");
            }
        }
    }
}
