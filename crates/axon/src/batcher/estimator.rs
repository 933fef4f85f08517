//! Learns how long a model runs, from every batch it has run.
//!
//! `l(n) = a·n + b` for a run of `n` rows, by recursive least squares that forgets, and beside the line a table of the
//! sizes that were seen often, for models whose time has steps. A margin follows the tail of what runs took against
//! what was foretold. Pure: durations and moments are passed in.
//!
//! Guards: one run far from the rest counts as little more than its neighbours (a stall), three in a row are believed
//! (another clock, another neighbour); the margin stays within bounds, and falls while nothing runs, so that what was
//! slow once is tried again.

use std::time::{Duration, Instant};

/// After so many runs a run counts half.
const HALF_LIFE: f64 = 200.0;
/// What is typical is the mean of about so many runs.
const TYPICAL: f64 = 20.0;
/// A run that took this much longer or shorter than foretold is an outlier.
const OUTLIER: f64 = 1.5;
/// So many outliers on one side, one after another, are the truth.
const BELIEVED: u32 = 3;
/// A size has a place in the table once it was run so often.
const SEEN: u32 = 20;
/// The margin is this quantile of duration / prediction.
const QUANTILE: f64 = 0.9;
/// How much one run moves the margin.
const STEP: f64 = 0.01;
/// The bounds of the margin.
const MARGIN: (f64, f64) = (1.0, 1.5);
/// Without a run for so long, the margin loses half of what it has above 1.
const IDLE_HALF_LIFE: Duration = Duration::from_millis(500);
/// Without a run for so long, a request that is foretold to miss is tried all the same, if it ever could be in time.
const SILENCE: Duration = Duration::from_millis(100);
/// Sizes up to this have a place in the table.
const EXACT: usize = 64;

/// A size in the table.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    runs: u32,
    /// The mean of the last of them.
    seconds: f64,
}

/// What has been learned of one model on one kind of instance.
#[derive(Clone, Debug)]
pub struct Estimator {
    /// Seconds for each row, and for each run, as the regression has them: one of them may be negative for a while.
    line: [f64; 2],
    /// The rows of runs lately.
    typical: f64,
    /// The inverse of the weighted sums of `[n, 1]·[n, 1]ᵀ`, symmetric.
    covariance: [f64; 3],
    table: Vec<Cell>,
    margin: f64,
    runs: u64,
    outliers: i32,
    last: Option<Instant>,
    /// Seconds of the fastest run of a row, half of it a minute later: nothing is faster.
    floor: f64,
}

/// What an estimator has learned, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    /// The time that each row adds to a run.
    pub per_row: Duration,
    /// The time of a run before its first row.
    pub fixed: Duration,
    /// What predictions are multiplied with.
    pub margin: f64,
    /// Runs that were observed.
    pub runs: u64,
    /// Sizes that have a time of their own, in rows.
    pub table: Vec<(usize, Duration)>,
}

impl Estimator {
    /// Knows nothing but that a run of `rows` rows took so long, by rows; a line through the first and the last point.
    #[must_use]
    pub fn seeded(curve: &[(usize, Duration)]) -> Self {
        let line = match (curve.first(), curve.last()) {
            (Some(&(few, short)), Some(&(many, long))) if many > few => {
                let per_row = (long.as_secs_f64() - short.as_secs_f64()) / (many - few) as f64;
                let per_row = per_row.max(0.0);
                [per_row, (short.as_secs_f64() - per_row * few as f64).max(0.0)]
            }
            (Some(&(rows, duration)), _) => [0.0, duration.as_secs_f64() / rows.max(1) as f64],
            _ => [0.0, 0.0],
        };
        let fastest = curve.iter().map(|&(_, duration)| duration).min().unwrap_or_default();
        Self {
            line,
            typical: 1.0,
            // As if nothing had been measured: the first runs count for nearly everything.
            covariance: [1.0, 0.0, 100.0],
            table: Vec::new(),
            margin: MARGIN.0,
            runs: 0,
            outliers: 0,
            last: None,
            // What a model takes on made-up inputs may be more than real ones take.
            floor: fastest.as_secs_f64() * 0.9,
        }
    }

    /// How long a run of `rows` rows takes, in the middle.
    #[must_use]
    pub fn predict(&self, rows: usize) -> Duration {
        Duration::try_from_secs_f64(self.seconds(rows)).unwrap_or(Duration::MAX)
    }

    /// How long a run of `rows` rows that begins at `now` takes but for rare ones.
    #[must_use]
    pub fn bound(&self, rows: usize, now: Instant) -> Duration {
        Duration::try_from_secs_f64(self.seconds(rows) * self.margin_at(now)).unwrap_or(Duration::MAX)
    }

    /// The most rows, at most `most`, whose run that begins at `now` takes no longer than `limit` but for rare ones.
    #[must_use]
    pub fn rows_within(&self, limit: Duration, most: usize, now: Instant) -> usize {
        if self.bound(most, now) <= limit {
            return most;
        }
        // In time for `low`, too late for `high`.
        let (mut low, mut high) = (0, most);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.bound(middle, now) <= limit {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }

    fn seconds(&self, rows: usize) -> f64 {
        match self.table.get(rows) {
            Some(cell) if cell.runs >= SEEN => cell.seconds,
            _ => self.on_line(rows),
        }
    }

    fn on_line(&self, rows: usize) -> f64 {
        let [per_row, fixed] = self.positive();
        per_row * rows as f64 + fixed
    }

    /// The line with neither part negative: at the rows of most runs it is where the regression has it.
    fn positive(&self) -> [f64; 2] {
        match self.line {
            [per_row, fixed] if per_row < 0.0 => [0.0, (fixed + per_row * self.typical).max(0.0)],
            [per_row, fixed] if fixed < 0.0 => [(per_row + fixed / self.typical).max(0.0), 0.0],
            line => line,
        }
    }

    /// Rows per second when every batch has `rows` rows.
    #[must_use]
    pub fn rate(&self, rows: usize) -> f64 {
        let seconds = self.seconds(rows);
        if seconds > 0.0 { rows as f64 / seconds } else { f64::INFINITY }
    }

    /// Learns that a run of `rows` rows ended at `now` after `duration`.
    pub fn observe(&mut self, rows: usize, duration: Duration, now: Instant) {
        let took = duration.as_secs_f64();
        let foretold = self.seconds(rows);
        self.floor = if self.floor > 0.0 { self.floor_at(now).min(took) } else { took };
        self.follow_tail(took, foretold, now);
        let believed = self.weigh(took, foretold);
        self.learn_line(rows as f64, believed);
        self.typical += (rows as f64 - self.typical) / (self.runs as f64 + 1.0).min(TYPICAL);
        self.learn_cell(rows, believed);
        self.runs += 1;
        self.last = Some(now);
    }

    /// What of a duration is believed.
    fn weigh(&mut self, took: f64, foretold: f64) -> f64 {
        let side = if took > foretold * OUTLIER {
            1
        } else if took < foretold / OUTLIER {
            -1
        } else {
            0
        };
        self.outliers =
            if side == 0 || self.outliers.signum() == -side { side } else { self.outliers + side };
        // The first runs have nothing to be compared with but the warm-up, which is not real traffic.
        if side == 0 || self.runs < u64::from(BELIEVED) || self.outliers.unsigned_abs() >= BELIEVED {
            return took;
        }
        if side > 0 { foretold * OUTLIER } else { foretold / OUTLIER }
    }

    fn follow_tail(&mut self, took: f64, foretold: f64, now: Instant) {
        if foretold <= 0.0 || self.runs < u64::from(BELIEVED) {
            return;
        }
        self.margin = self.margin_at(now);
        let above = f64::from(u8::from(took > foretold * self.margin));
        self.margin = (self.margin + STEP * (above - (1.0 - QUANTILE))).clamp(MARGIN.0, MARGIN.1);
    }

    /// The margin when nothing has run since the last run.
    fn margin_at(&self, now: Instant) -> f64 {
        let Some(last) = self.last else { return self.margin };
        let idle = now.saturating_duration_since(last).as_secs_f64() / IDLE_HALF_LIFE.as_secs_f64();
        if idle < 1.0 { self.margin } else { 1.0 + (self.margin - 1.0) * 0.5_f64.powf(idle) }
    }

    fn floor_at(&self, now: Instant) -> f64 {
        let Some(last) = self.last else { return self.floor };
        self.floor * 0.5_f64.powf(now.saturating_duration_since(last).as_secs_f64() / 60.0)
    }

    /// True when a run may be as short as `limit`, whatever is foretold, and none has told for a while.
    #[must_use]
    pub fn is_doubtful(&self, limit: Duration, now: Instant) -> bool {
        let silent = self.last.is_none_or(|last| now.saturating_duration_since(last) >= SILENCE);
        silent && self.floor_at(now) < limit.as_secs_f64()
    }

    /// One step of recursive least squares. What is forgotten is forgotten only along the size that was run: with one
    /// size alone, what other sizes have told stays, and what nothing tells does not grow without end.
    ///
    /// **Source:** L. Cao and H. Schwartz, *A directional forgetting algorithm based on the decomposition of the
    /// information matrix*, Automatica 36 (2000).
    fn learn_line(&mut self, rows: f64, took: f64) {
        let [mut rows_rows, mut rows_one, mut one_one] = self.covariance;
        let determinant = rows_rows * one_one - rows_one * rows_one;
        // How much is known along [rows, 1].
        let known = (one_one * rows * rows - 2.0 * rows_one * rows + rows_rows) / determinant;
        if determinant > 0.0 && known > 0.0 {
            let forgotten = (2.0_f64.powf(1.0 / HALF_LIFE) - 1.0) / known;
            rows_rows += forgotten * rows * rows;
            rows_one += forgotten * rows;
            one_one += forgotten;
        }
        let across = [rows_rows * rows + rows_one, rows_one * rows + one_one];
        let denominator = 1.0 + across[0] * rows + across[1];
        let gain = [across[0] / denominator, across[1] / denominator];
        let error = took - (self.line[0] * rows + self.line[1]);
        self.line[0] += gain[0] * error;
        self.line[1] += gain[1] * error;
        self.covariance =
            [rows_rows - gain[0] * across[0], rows_one - gain[0] * across[1], one_one - gain[1] * across[1]];
    }

    fn learn_cell(&mut self, rows: usize, took: f64) {
        if rows > EXACT {
            return;
        }
        if self.table.len() <= rows {
            self.table.resize(rows + 1, Cell::default());
        }
        let cell = &mut self.table[rows];
        cell.runs = cell.runs.saturating_add(1);
        cell.seconds += (took - cell.seconds) / f64::from(cell.runs.min(SEEN * 2));
    }

    /// Runs that were observed.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// What has been learned.
    #[must_use]
    pub fn learned(&self) -> Learned {
        let seconds = |value: f64| Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(Duration::MAX);
        let table = self.table.iter().enumerate().filter(|(_, cell)| cell.runs >= SEEN);
        Learned {
            per_row: seconds(self.positive()[0]),
            fixed: seconds(self.positive()[1]),
            margin: self.margin,
            runs: self.runs,
            table: table.map(|(rows, cell)| (rows, seconds(cell.seconds))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: f64) -> Duration {
        Duration::from_secs_f64(milliseconds / 1e3)
    }

    fn in_ms(duration: Duration) -> f64 {
        duration.as_secs_f64() * 1e3
    }

    /// `l(n) = 1 + 0.1n` ms.
    fn truth(rows: usize) -> Duration {
        ms(1.0 + 0.1 * rows as f64)
    }

    struct Fixture {
        estimator: Estimator,
        now: Instant,
    }

    impl Fixture {
        /// The warm-up was so many times the truth.
        fn new(factor: f64) -> Self {
            let curve = [1, 16].map(|rows| (rows, truth(rows).mul_f64(factor)));
            Self { estimator: Estimator::seeded(&curve), now: Instant::now() }
        }

        fn observe(&mut self, rows: usize, took: Duration) {
            self.now += took;
            self.estimator.observe(rows, took, self.now);
        }

        fn sizes(&mut self, count: usize) {
            for run in 0..count {
                let rows = 1 + run * 7 % 40;
                self.observe(rows, truth(rows));
            }
        }

        /// Within a tenth of the truth, also for a size that was never seen.
        fn assert_knows(&self) {
            for rows in [1, 5, 20, 40, 100] {
                let (told, true_ms) = (in_ms(self.estimator.predict(rows)), in_ms(truth(rows)));
                assert!((told - true_ms).abs() < true_ms / 10.0, "{rows} rows: {told} ms, not {true_ms} ms");
            }
        }
    }

    #[test]
    fn a_warm_up_that_is_five_times_wrong_is_corrected_within_twelve_runs() {
        for factor in [0.2, 1.0, 5.0] {
            let mut fixture = Fixture::new(factor);
            assert!((in_ms(fixture.estimator.predict(10)) - 2.0 * factor).abs() < 1e-6);
            fixture.sizes(12);
            fixture.assert_knows();
        }
    }

    #[test]
    fn one_stall_is_not_believed_and_three_are() {
        let mut fixture = Fixture::new(1.0);
        fixture.sizes(30);
        fixture.observe(10, truth(10) * 30);
        fixture.assert_knows();
        for _ in 0..300 {
            fixture.observe(10, truth(10) * 3);
        }
        let told = in_ms(fixture.estimator.predict(10));
        assert!((told - 6.0).abs() < 0.3, "{told} ms");
    }

    #[test]
    fn a_size_that_was_seen_often_has_a_time_of_its_own() {
        let mut fixture = Fixture::new(1.0);
        // A kernel with a step: 33 rows cost what 64 do.
        for _ in 0..40 {
            fixture.observe(32, ms(4.2));
            fixture.observe(33, ms(5.4));
        }
        let told = [32, 33].map(|rows| in_ms(fixture.estimator.predict(rows)));
        assert!((told[0] - 4.2).abs() < 0.05 && (told[1] - 5.4).abs() < 0.05, "{told:?}");
        assert_eq!(fixture.estimator.learned().table.len(), 2);
    }

    #[test]
    fn the_margin_follows_the_tail_within_bounds_and_falls_while_nothing_runs() {
        let mut fixture = Fixture::new(1.0);
        fixture.sizes(20);
        assert!((fixture.estimator.margin - 1.0).abs() < 0.05);
        for run in 0..2000 {
            fixture.observe(10, truth(10).mul_f64(if run % 4 == 0 { 1.4 } else { 1.0 }));
        }
        let margin = fixture.estimator.margin;
        assert!((1.1..=1.5).contains(&margin), "{margin}");
        let over = |after: u64| {
            let now = fixture.now + Duration::from_secs(after);
            in_ms(fixture.estimator.bound(10, now)) / in_ms(fixture.estimator.predict(10))
        };
        assert!((over(0) - margin).abs() < 1e-6);
        assert!(over(10) < 1.001, "{}", over(10));
    }

    #[test]
    fn one_size_for_a_long_time_spoils_nothing() {
        let mut fixture = Fixture::new(1.0);
        fixture.sizes(30);
        for _ in 0..100_000 {
            fixture.observe(8, truth(8));
        }
        fixture.assert_knows();
    }

    #[test]
    fn neither_part_of_the_line_is_negative() {
        let mut fixture = Fixture::new(1.0);
        for _ in 0..200 {
            fixture.observe(1, ms(5.0));
            fixture.observe(80, ms(3.0));
        }
        let Learned { per_row, fixed, .. } = fixture.estimator.learned();
        assert_eq!(per_row, Duration::ZERO);
        assert!((3.0..=5.0).contains(&in_ms(fixed)), "{fixed:?}");
    }

    #[test]
    fn what_is_foretold_is_doubted_after_a_silence_when_a_run_was_ever_short_enough() {
        let mut fixture = Fixture::new(1.0);
        fixture.sizes(10);
        let at = |after: u64| fixture.now + Duration::from_millis(after);
        let doubtful = |limit, after| fixture.estimator.is_doubtful(ms(limit), at(after));
        assert!(!doubtful(2.0, 99));
        assert!(doubtful(2.0, 100));
        assert!(!doubtful(0.5, 100));
        assert!(doubtful(0.5, 120_000), "half of it is forgotten in a minute");
    }
}
