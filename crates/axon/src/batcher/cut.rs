//! Which of the waiting requests of one shape run next, so that most are answered in time.
//!
//! The requests are in the order of their deadlines. A batch that begins with the first may be so small, to be in time
//! for it, that all behind it come too late; then the batch begins further back, where the rate is highest, and those
//! before it are given up. **Source:** `docs/scheduling.md` gives the rule and what it was compared with.

use std::time::Instant;

use super::estimator::Estimator;
use super::line::Line;

/// What is known when a batch is chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment<'a> {
    pub(super) now: Instant,
    pub(super) estimator: &'a Estimator,
    /// The most rows of a batch, at least 1.
    pub(super) most_rows: usize,
    /// Instances that share the work, as many as the device leaves them; more than 0.
    pub(super) instances: f64,
}

/// The first `shed` are given up, and the next `take` run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) shed: usize,
    pub(super) take: usize,
}

impl Moment<'_> {
    /// True when a run of `rows` rows that begins now is over by `deadline`.
    pub(super) fn in_time(&self, rows: usize, deadline: Instant) -> bool {
        self.estimator.bound(rows, self.now) <= deadline.saturating_duration_since(self.now)
    }

    /// The most rows, at most `most_rows`, that are over by `deadline`.
    fn rows_until(&self, deadline: Instant) -> usize {
        let left = deadline.saturating_duration_since(self.now);
        self.estimator.rows_within(left, self.most_rows, self.now)
    }

    /// What is run of a line that is not empty, and whose first requests could each be in time alone.
    pub(super) fn choose<T>(&self, line: &Line<T>) -> Cut {
        let first = self.batch_at(line, 0);
        let covers = first.take >= line.len();
        let full = line.rows_of_first(first.take + 1) > self.most_rows;
        if covers || full || self.rest_in_time(line, first.take) {
            return first;
        }
        let best = self.best_cut(line);
        if self.rate(line, best) > self.rate(line, first) { best } else { first }
    }

    /// Rows per second of a batch; none of one that would be late, as a large request may be that is not the first.
    fn rate<T>(&self, line: &Line<T>, cut: Cut) -> f64 {
        let rows = line.rows_of_first(cut.shed + cut.take) - line.rows_of_first(cut.shed);
        let deadline = line.rank_at(cut.shed).map(|(deadline, _)| deadline);
        if deadline.is_some_and(|deadline| self.in_time(rows, deadline)) {
            self.estimator.rate(rows)
        } else {
            0.0
        }
    }

    /// The largest batch that begins with the request before which `position` are.
    fn batch_at<T>(&self, line: &Line<T>, position: usize) -> Cut {
        let Some((deadline, _)) = line.rank_at(position) else { return Cut { shed: position, take: 0 } };
        let before = line.rows_of_first(position);
        let left = deadline.saturating_duration_since(self.now);
        let mut most = self.rows_until(deadline);
        loop {
            let until = line.count_within(before.saturating_add(most));
            // A request of more rows than a batch may have runs alone.
            let take = until.saturating_sub(position).max(1);
            let rows = line.rows_of_first(position + take) - before;
            // Sizes that have times of their own may take longer than larger ones.
            if take == 1 || self.in_time(rows, deadline) {
                return Cut { shed: position, take };
            }
            most = self.estimator.rows_within(left, rows - 1, self.now);
        }
    }

    /// True when what is behind the first `count` can be answered in time after them, in full batches and with the time
    /// of one to spare, in which more will come. Looked at in places twice as far each time: what is missed between them
    /// is found when its turn comes.
    fn rest_in_time<T>(&self, line: &Line<T>, count: usize) -> bool {
        let rows = line.rows_of_first(count);
        let rest = line.rows().saturating_sub(rows);
        let start = self.now + self.estimator.bound(rows, self.now);
        let batch = self.estimator.bound(self.most_rows.min(rest), self.now);
        let mut batches = 0;
        loop {
            let position = line.count_within(rows.saturating_add(batches * self.most_rows)).max(count);
            let Some((deadline, _)) = line.rank_at(position) else { return true };
            let turns = 1.0 + (batches + 1) as f64 / self.instances;
            let end = batch.mul_f64(turns.min(1e6));
            if deadline.saturating_duration_since(start) < end {
                return false;
            }
            batches = batches * 2 + 1;
        }
    }

    /// The cut that serves most rows per second. The deadline allows more the further back a batch begins, and what is
    /// left becomes less: the best is where these meet, or one before.
    fn best_cut<T>(&self, line: &Line<T>) -> Cut {
        let (mut low, mut high) = (0, line.len() - 1);
        while low < high {
            let middle = low + (high - low) / 2;
            let left = line.rows().saturating_sub(line.rows_of_first(middle));
            let allowed = line.rank_at(middle).map_or(0, |(deadline, _)| self.rows_until(deadline));
            if allowed >= left.min(self.most_rows) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let [before, at] = [low.saturating_sub(1), low].map(|position| self.batch_at(line, position));
        if self.rate(line, before) >= self.rate(line, at) { before } else { at }
    }
}
