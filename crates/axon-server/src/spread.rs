//! How latencies are spread: a count for each of a histogram's cells that is not empty.
//!
//! The cells are those of [`axon::metrics`], fine enough for percentiles. [`Spread::rows`] puts them together into the
//! fewer rows of a heat map, whose bounds are bounds of cells too.

use std::sync::LazyLock;

use axon::metrics::Observations;

/// Counts by latency. Sparse: requests to one model lie in a few of the many cells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spread(Vec<(u16, u32)>);

/// The largest value of each cell in milliseconds, infinite for the last.
static UPPER_MS: LazyLock<Vec<f64>> =
    LazyLock::new(|| Observations::empty().total.cells().map(|(upper, _)| upper * 1e3).collect());

/// The bounds of the rows in milliseconds, two for each doubling: from an eighth of a millisecond to half a minute.
static BOUNDS_MS: LazyLock<Vec<f64>> =
    LazyLock::new(|| (-26..=10).map(|half| f64::exp2(f64::from(half) / 2.0) * 1e3).collect());

/// The largest value of each row but the last, which has no bound, in milliseconds.
pub(crate) fn bounds_ms() -> &'static [f64] {
    &BOUNDS_MS
}

impl Spread {
    /// What came between two looks at a histogram's cells.
    pub fn between(earlier: &[u64], later: &[u64]) -> Self {
        let earlier = earlier.iter().copied().chain(std::iter::repeat(0));
        let came = (0..).zip(later.iter().zip(earlier)).filter_map(|(cell, (later, earlier))| {
            let came = u32::try_from(later.saturating_sub(earlier)).unwrap_or(u32::MAX);
            (came > 0).then_some((cell, came))
        });
        Self(came.collect())
    }

    /// True when nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Self) {
        for &(cell, count) in &other.0 {
            match self.0.binary_search_by_key(&cell, |&(cell, _)| cell) {
                Ok(at) => self.0[at].1 = self.0[at].1.saturating_add(count),
                Err(at) => self.0.insert(at, (cell, count)),
            }
        }
    }

    /// The milliseconds within which this share was answered; `None` when nothing was.
    ///
    /// Within a cell the requests are taken to lie evenly; of what is beyond all bounds only that is known.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let total: f64 = self.0.iter().map(|&(_, count)| f64::from(count)).sum();
        let mut left = share * total;
        for &(cell, count) in &self.0 {
            let (cell, count) = (usize::from(cell), f64::from(count));
            if left <= count {
                let upper = |cell: usize| UPPER_MS.get(cell).copied().unwrap_or(f64::INFINITY);
                let (low, high) = (cell.checked_sub(1).map_or(0.0, upper), upper(cell));
                return Some(if high.is_finite() { low + (high - low) * (left / count) } else { low });
            }
            left -= count;
        }
        None
    }

    /// The counts by row; one more row than there are bounds.
    pub fn rows(&self) -> Vec<u64> {
        let mut rows = vec![0; BOUNDS_MS.len() + 1];
        for &(cell, count) in &self.0 {
            let upper = UPPER_MS.get(usize::from(cell)).copied().unwrap_or(f64::INFINITY);
            // The bounds of cells are whole nanoseconds.
            let row = BOUNDS_MS.partition_point(|&bound| bound * (1.0 + 1e-5) < upper);
            rows[row] += u64::from(count);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The counts of a histogram that has observed these milliseconds.
    fn of(milliseconds: &[f64]) -> Spread {
        let mut counts = vec![0; UPPER_MS.len()];
        for &value in milliseconds {
            counts[UPPER_MS.partition_point(|&upper| upper < value)] += 1;
        }
        Spread::between(&[], &counts)
    }

    #[test]
    fn percentiles_are_within_a_tenth() {
        assert_eq!(Spread::default().percentile(0.5), None);
        let values: Vec<f64> = (1..=1000).map(|step| f64::from(step) / 50.0).collect();
        let spread = of(&values);
        for (share, expected) in [(0.5, 10.0), (0.9, 18.0), (0.99, 19.8), (1.0, 20.0)] {
            let got = spread.percentile(share).unwrap();
            assert!((got / expected - 1.0).abs() < 0.1, "{share}: {got}");
        }
        // Beyond all bounds the last bound is told.
        assert!((of(&[1e9]).percentile(0.5).unwrap() - 512_000.0).abs() < 1.0);
    }

    #[test]
    fn each_request_is_in_the_row_of_its_latency() {
        let values = [0.000_5, 0.1, 0.13, 1.0, 2.0, 2.8, 400.0, 31_000.0, 40_000.0, 1e9];
        let rows = of(&values).rows();
        assert_eq!(rows.len(), bounds_ms().len() + 1);
        for (row, &count) in rows.iter().enumerate() {
            let low = row.checked_sub(1).map_or(0.0, |below| bounds_ms()[below]);
            let high = bounds_ms().get(row).copied().unwrap_or(f64::INFINITY);
            let expected = values.iter().filter(|&&value| value > low && value <= high).count();
            assert_eq!(count, expected as u64, "{low} to {high}");
        }
    }

    #[test]
    fn spreads_add_up() {
        let mut spread = of(&[1.0, 2.0]);
        spread.add(&of(&[2.0, 3.0]));
        assert_eq!(spread, of(&[1.0, 2.0, 2.0, 3.0]));
        assert_eq!(Spread::between(&[5, 1], &[5, 3, 0, 7]), Spread(vec![(1, 2), (3, 7)]));
    }
}
