//! How often which value was observed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use super::scale::Scale;

/// Counts values by size. An observation is two additions; the largest ones share a cell.
#[derive(Debug)]
pub struct Histogram {
    scale: &'static Scale,
    cells: Box<[AtomicU64]>,
    /// In whole units.
    sum: AtomicU64,
    /// The last of each classic bucket; there are none until one comes.
    exemplars: OnceLock<Box<[Mutex<Option<Exemplar>>]>>,
}

/// A value that was observed, and the trace that shows what happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// The trace.
    pub trace: u128,
    /// The value, in the histogram's unit.
    pub value: f64,
    /// When it was observed.
    pub at: SystemTime,
}

impl Histogram {
    /// Has observed nothing.
    #[must_use]
    pub fn new(scale: &'static Scale) -> Self {
        let cells = std::iter::repeat_with(AtomicU64::default).take(scale.cells()).collect();
        Self { scale, cells, sum: AtomicU64::new(0), exemplars: OnceLock::new() }
    }

    /// Counts `value` whole units, of the request whose trace is `trace`.
    pub fn observe(&self, value: u64, trace: Option<u128>) {
        self.sum.fetch_add(value, Relaxed);
        if let Some(cell) = self.cells.get(self.scale.cell(value)) {
            cell.fetch_add(1, Relaxed);
        }
        if let Some(trace) = trace {
            self.keep(Exemplar { trace, value: self.scale.told(value), at: SystemTime::now() }, value);
        }
    }

    /// Counts a duration.
    pub fn observe_duration(&self, duration: Duration, trace: Option<u128>) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), trace);
    }

    fn keep(&self, exemplar: Exemplar, value: u64) {
        let none = || std::iter::repeat_with(Mutex::default).take(self.scale.classic().len() + 1).collect();
        let slot = self.exemplars.get_or_init(none).get(self.scale.classic_bucket(value));
        // Whoever reads or writes it meanwhile has one as good.
        if let Some(Ok(mut slot)) = slot.map(Mutex::try_lock) {
            *slot = Some(exemplar);
        }
    }

    /// What has been observed.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        let read = |slot: &Mutex<Option<Exemplar>>| *slot.lock().unwrap_or_else(PoisonError::into_inner);
        HistogramSnapshot {
            scale: self.scale,
            cells: self.cells.iter().map(|cell| cell.load(Relaxed)).collect(),
            sum: self.sum.load(Relaxed),
            exemplars: self.exemplars.get().map(|slots| slots.iter().map(read).collect()).unwrap_or_default(),
        }
    }
}

/// What a histogram had observed at a moment.
#[derive(Clone, Debug)]
pub struct HistogramSnapshot {
    scale: &'static Scale,
    cells: Vec<u64>,
    sum: u64,
    exemplars: Vec<Option<Exemplar>>,
}

/// A bucket of the classic form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// The largest value in it; infinite for the last.
    pub upper: f64,
    /// How many values were at most as large.
    pub count: u64,
    /// One of those that no smaller bucket has.
    pub exemplar: Option<Exemplar>,
}

/// The native form: bucket `i` has what is above 2^((i-1)/2^schema) and at most 2^(i/2^schema).
#[derive(Clone, Debug, PartialEq)]
pub struct NativeBuckets {
    /// How fine the buckets are.
    pub schema: i8,
    /// What is at most so large is in no bucket.
    pub zero_threshold: f64,
    /// How many were so small.
    pub zero_count: u64,
    /// The buckets that are not empty, by index.
    pub buckets: Vec<(i32, u64)>,
}

impl HistogramSnapshot {
    /// Nothing.
    #[must_use]
    pub fn empty(scale: &'static Scale) -> Self {
        Self { scale, cells: vec![0; scale.cells()], sum: 0, exemplars: Vec::new() }
    }

    /// How many values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.cells.iter().sum()
    }

    /// All values together, in the unit that is told: seconds, bytes or rows.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.scale.told(self.sum)
    }

    /// All values together in whole units: nanoseconds, bytes or rows.
    #[must_use]
    pub fn whole_sum(&self) -> u64 {
        self.sum
    }

    /// The value that so many of all values are at most as large as, about: `0.99` for the 99th percentile. `None` of
    /// nothing.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let rank = quantile.clamp(0.0, 1.0) * self.count() as f64;
        let mut below = 0;
        for (cell, &count) in self.cells.iter().enumerate().filter(|(_, count)| **count > 0) {
            let reached = below + count;
            if reached as f64 >= rank {
                let lower = cell.checked_sub(1).map_or(0.0, |cell| self.scale.upper(cell));
                let upper = self.scale.upper(cell);
                let part = (rank - below as f64).max(0.0) / count as f64;
                return Some(if upper.is_finite() { lower + (upper - lower) * part } else { lower });
            }
            below = reached;
        }
        None
    }

    /// What was observed since `earlier`, which is a snapshot of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let cells = self.cells.iter().zip(&earlier.cells).map(|(now, then)| now.saturating_sub(*then));
        Self { cells: cells.collect(), sum: self.sum.saturating_sub(earlier.sum), ..self.clone() }
    }

    /// The same values and those of another histogram of the same kind.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let cells = self.cells.iter().zip(&other.cells).map(|(one, other)| one + other);
        Self { cells: cells.collect(), sum: self.sum.saturating_add(other.sum), ..self.clone() }
    }

    /// How many values each cell has, with the largest value that it may have (infinite for the last).
    pub fn cells(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        self.cells.iter().enumerate().map(|(cell, &count)| (self.scale.upper(cell), count))
    }

    /// The classic form: counts up to each bound, the last one infinite and with everything.
    #[must_use]
    pub fn classic(&self) -> Vec<Bucket> {
        let mut count = 0;
        let mut cells = self.cells.iter();
        let mut from = 0;
        let infinite = (f64::INFINITY, self.cells.len());
        let bounds = self.scale.classic().iter().chain(std::iter::once(&infinite)).enumerate();
        bounds
            .map(|(bucket, &(upper, to))| {
                count += cells.by_ref().take(to - from).sum::<u64>();
                from = to;
                Bucket { upper, count, exemplar: self.exemplars.get(bucket).copied().flatten() }
            })
            .collect()
    }

    /// How many buckets the classic form has.
    #[must_use]
    pub fn classic_count(&self) -> usize {
        self.scale.classic().len() + 1
    }

    /// The native form.
    #[must_use]
    pub fn native(&self) -> NativeBuckets {
        let mut buckets: Vec<(i32, u64)> = Vec::new();
        for (cell, &count) in self.cells.iter().enumerate().skip(1).filter(|(_, count)| **count > 0) {
            let index = self.scale.native(cell);
            match buckets.last_mut() {
                Some((last, sum)) if *last == index => *sum += count,
                _ => buckets.push((index, count)),
            }
        }
        NativeBuckets {
            schema: self.scale.schema(),
            zero_threshold: self.scale.zero_threshold(),
            zero_count: self.cells.first().copied().unwrap_or_default(),
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scale::{DURATIONS, ROWS};
    use super::*;

    fn durations(nanoseconds: impl IntoIterator<Item = u64>) -> HistogramSnapshot {
        let histogram = Histogram::new(&DURATIONS);
        nanoseconds.into_iter().for_each(|value| histogram.observe(value, None));
        histogram.snapshot()
    }

    #[test]
    fn both_forms_count_the_same_values() {
        let values = (0..40).map(|power| 3_u64.saturating_pow(power));
        let snapshot = durations(values.clone());
        let count = values.clone().count() as u64;
        let (classic, native) = (snapshot.classic(), snapshot.native());
        assert_eq!((snapshot.count(), classic.last().unwrap().count), (count, count));
        assert!(classic.last().unwrap().upper.is_infinite());
        assert!(classic.windows(2).all(|pair| pair[0].count <= pair[1].count));
        let in_native: u64 = native.buckets.iter().map(|(_, count)| count).sum();
        assert_eq!(native.zero_count + in_native, count);
        for bucket in &classic {
            let expected = values.clone().filter(|&value| value as f64 <= bucket.upper * 1e9).count();
            assert_eq!(bucket.count, expected as u64, "{}", bucket.upper);
        }
    }

    #[test]
    fn a_quantile_is_within_the_width_of_a_cell() {
        let snapshot = durations((1..=10_000).map(|step| step * 1_000));
        for (quantile, expected) in [(0.5, 0.005), (0.9, 0.009), (0.99, 0.0099), (1.0, 0.01)] {
            let got = snapshot.quantile(quantile).unwrap();
            assert!((got / expected - 1.0).abs() < 0.05, "{quantile}: {got}");
        }
        assert_eq!(durations([]).quantile(0.5), None);
    }

    #[test]
    fn what_came_since_is_the_difference() {
        let histogram = Histogram::new(&ROWS);
        histogram.observe(1, None);
        let earlier = histogram.snapshot();
        histogram.observe(8, None);
        histogram.observe(8, None);
        let since = histogram.snapshot().since(&earlier);
        assert_eq!((since.count(), since.whole_sum()), (2, 16));
        assert_eq!(since.with(&earlier).count(), 3);
        let filled: Vec<(f64, u64)> = since.cells().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(8.0, 2)]);
    }

    #[test]
    fn an_exemplar_stands_in_the_bucket_of_its_value() {
        let histogram = Histogram::new(&DURATIONS);
        histogram.observe_duration(Duration::from_millis(7), Some(11));
        histogram.observe_duration(Duration::from_millis(8), Some(12));
        histogram.observe_duration(Duration::from_secs(100), Some(13));
        let traces: Vec<(f64, u128, f64)> = (histogram.snapshot().classic().into_iter())
            .filter_map(|bucket| Some((bucket.upper, bucket.exemplar?.trace, bucket.exemplar?.value)))
            .collect();
        assert_eq!(traces, [(0.01, 12, 0.008), (f64::INFINITY, 13, 100.0)]);
    }
}
