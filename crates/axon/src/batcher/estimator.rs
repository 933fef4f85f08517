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
    /// Seconds for each row, and for each run.
    line: [f64; 2],
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
            // As if nothing had been measured: the first runs count for nearly everything.
            covariance: [1.0, 0.0, 1.0],
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

    /// How long a run of `rows` rows takes but for rare ones.
    #[must_use]
    pub fn bound(&self, rows: usize) -> Duration {
        Duration::try_from_secs_f64(self.seconds(rows) * self.margin).unwrap_or(Duration::MAX)
    }

    /// True when nothing is known yet: everything is foretold to take no time.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.runs == 0 && self.line == [0.0, 0.0]
    }

    fn seconds(&self, rows: usize) -> f64 {
        match self.table.get(rows) {
            Some(cell) if cell.runs >= SEEN => cell.seconds,
            _ => self.on_line(rows),
        }
    }

    fn on_line(&self, rows: usize) -> f64 {
        let [per_row, fixed] = self.line;
        (per_row.max(0.0) * rows as f64 + fixed.max(0.0)).max(0.0)
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
        self.floor = if self.runs == 0 { took } else { self.floor_at(now).min(took) };
        self.follow_tail(took, foretold, now);
        let believed = self.weigh(took, foretold);
        self.learn_line(rows as f64, believed);
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

    /// Lets the margin fall while nothing runs.
    pub fn rest(&mut self, now: Instant) {
        let margin = self.margin_at(now);
        if margin < self.margin {
            self.margin = margin;
            self.last = Some(now);
        }
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

    fn learn_line(&mut self, rows: f64, took: f64) {
        let [rows_rows, rows_one, one_one] = self.covariance;
        // With one size alone, what says nothing about the line is not forgotten, or it would grow without end.
        let forget = if rows_rows + one_one > 10.0 { 1.0 } else { 0.5_f64.powf(1.0 / HALF_LIFE) };
        // P·x for x = [rows, 1].
        let across = [rows_rows * rows + rows_one, rows_one * rows + one_one];
        let denominator = forget + across[0] * rows + across[1];
        let gain = [across[0] / denominator, across[1] / denominator];
        let error = took - (self.line[0] * rows + self.line[1]);
        self.line[0] += gain[0] * error;
        self.line[1] += gain[1] * error;
        self.covariance = [
            (rows_rows - gain[0] * across[0]) / forget,
            (rows_one - gain[0] * across[1]) / forget,
            (one_one - gain[1] * across[1]) / forget,
        ];
        self.keep_positive(rows);
    }

    /// Neither part of the line may be negative: the other takes it over.
    fn keep_positive(&mut self, rows: f64) {
        let [per_row, fixed] = self.line;
        if per_row < 0.0 {
            self.line = [0.0, (fixed + per_row * rows).max(0.0)];
        } else if fixed < 0.0 {
            self.line = [(per_row + fixed / rows).max(0.0), 0.0];
        }
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

    /// What has been learned.
    #[must_use]
    pub fn learned(&self) -> Learned {
        let seconds = |value: f64| Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(Duration::MAX);
        let table = self.table.iter().enumerate().filter(|(_, cell)| cell.runs >= SEEN);
        Learned {
            per_row: seconds(self.line[0]),
            fixed: seconds(self.line[1]),
            margin: self.margin,
            runs: self.runs,
            table: table.map(|(rows, cell)| (rows, seconds(cell.seconds))).collect(),
        }
    }
}
