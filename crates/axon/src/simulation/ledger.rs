//! A second, simpler account of every request, against which each answer of the batcher is checked.
//!
//! It knows the rules, not how the batcher keeps them: a list for each key, searched from the front. It is told each
//! call with its result, and says which invariant the result breaks. The order of the checks decides which is named
//! where one defect breaks several.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::{Invariant, Report};
use crate::batcher::{Action, Batch, Batcher, Limits, Rejected, RequestId, Waiting};

/// What the batcher carries in place of a request: the number of its arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(pub(super) usize);

/// How an accepted request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered,
    Failed,
    Expired,
    Cancelled,
    ShutDown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Refused,
    Waiting,
    Running,
    Ended(Outcome),
}

/// A broken invariant, before it is known where and when.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) invariant: Invariant,
    pub(super) detail: String,
}

pub(super) type Checked = Result<(), Broken>;

fn ensure(holds: bool, invariant: Invariant, detail: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Broken { invariant, detail: detail() }) }
}

struct Record {
    key: u8,
    rows: usize,
    bytes: usize,
    deadline: Instant,
    state: State,
}

/// The account. Waiting requests are those in `lanes`, and equally those in `deadlines`.
pub(super) struct Ledger {
    limits: Limits,
    records: Vec<Record>,
    lanes: BTreeMap<u8, VecDeque<Ticket>>,
    deadlines: BTreeSet<(Instant, Ticket)>,
    bytes: usize,
    closed: bool,
    last_id: Option<RequestId>,
    start: Instant,
    last_outcome: Instant,
    report: Report,
}

impl Ledger {
    pub(super) fn new(limits: Limits, start: Instant) -> Self {
        Self {
            limits,
            records: Vec::new(),
            lanes: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            bytes: 0,
            closed: false,
            last_id: None,
            start,
            last_outcome: start,
            report: Report::default(),
        }
    }

    /// Requests that arrived so far; the next one's ticket.
    pub(super) fn received(&self) -> usize {
        self.records.len()
    }

    pub(super) fn last_outcome(&self) -> Instant {
        self.last_outcome
    }

    pub(super) fn into_report(self) -> Report {
        self.report
    }

    /// A request was pushed at `now`, with this result.
    pub(super) fn pushed(
        &mut self,
        request: &Waiting<u8, Ticket>,
        now: Instant,
        result: Result<RequestId, (Rejected, Ticket)>,
    ) -> Checked {
        let Waiting { key, rows, bytes, deadline, request: ticket } = *request;
        let reason = self.reason_to_refuse(bytes, deadline, now);
        self.report.received += 1;
        let state = match result {
            Ok(id) => {
                if let Some((reason, invariant)) = reason {
                    let detail = format!("{ticket:?} is accepted, not refused as {reason:?}");
                    return Err(Broken { invariant, detail });
                }
                ensure(self.last_id.is_none_or(|last| last < id), Invariant::OwnRequest, || {
                    format!("{id:?} is given after {:?}", self.last_id)
                })?;
                self.last_id = Some(id);
                self.report.accepted += 1;
                self.lanes.entry(key).or_default().push_back(ticket);
                self.deadlines.insert((deadline, ticket));
                self.bytes += bytes;
                State::Waiting
            }
            Err((told, returned)) => {
                ensure(Some(told) == reason.map(|(reason, _)| reason), Invariant::ReasonToRefuse, || {
                    format!("{ticket:?} is refused as {told:?}; the reason is {reason:?}")
                })?;
                ensure(returned == ticket, Invariant::OwnRequest, || {
                    format!("{ticket:?} is refused and {returned:?} handed back")
                })?;
                *self.refusals(told) += 1;
                State::Refused
            }
        };
        self.records.push(Record { key, rows, bytes, deadline, state });
        Ok(())
    }

    /// The reason, and the invariant that is broken when the request is accepted all the same.
    fn reason_to_refuse(
        &self,
        bytes: usize,
        deadline: Instant,
        now: Instant,
    ) -> Option<(Rejected, Invariant)> {
        let full = self.waiting() >= self.limits.max_queue_size.get();
        let bytes_full = self.waiting() > 0 && self.bytes + bytes > self.limits.max_queue_bytes;
        let reasons = [
            (self.closed, Rejected::Closed, Invariant::ClosedForGood),
            (deadline <= now, Rejected::Expired, Invariant::NotLate),
            (full, Rejected::QueueFull, Invariant::QueueSize),
            (bytes_full, Rejected::QueueBytesFull, Invariant::QueueBytes),
        ];
        reasons.into_iter().find_map(|(holds, reason, invariant)| holds.then_some((reason, invariant)))
    }

    fn refusals(&mut self, reason: Rejected) -> &mut usize {
        match reason {
            Rejected::QueueFull => &mut self.report.refused_queue_full,
            Rejected::QueueBytesFull => &mut self.report.refused_queue_bytes_full,
            Rejected::Expired => &mut self.report.refused_expired,
            Rejected::Closed => &mut self.report.refused_closed,
        }
    }

    /// The queue was polled at `now`, when an instance was `free` or not, and `left` requests wait after it.
    pub(super) fn polled(
        &mut self,
        now: Instant,
        free: bool,
        action: &Action<Ticket>,
        left: usize,
    ) -> Checked {
        for &ticket in &action.expired {
            self.leave_queue(ticket, "expires")?;
            ensure(self.records[ticket.0].deadline <= now, Invariant::ExpiresInTime, || {
                format!("{ticket:?} expires before its deadline")
            })?;
            self.end(ticket, Outcome::Expired, now)?;
        }
        let lanes = action.batch.as_ref().map(|batch| self.start(batch, now)).transpose()?;
        // A lost request would look like one of the faults below.
        ensure(left == self.waiting(), Invariant::Balance, || {
            format!("{left} wait after {action:?}, not {}", self.waiting())
        })?;
        if let (Some(batch), Some(lanes)) = (&action.batch, lanes) {
            ensure(free, Invariant::OnlyWhenFree, || format!("{batch:?} is formed for nobody"))?;
            self.check_batch(batch, &lanes)?;
        }
        let late = self.deadlines.first().filter(|(deadline, _)| *deadline <= now);
        ensure(late.is_none(), Invariant::ExpiresInTime, || {
            format!("{:?} waits after its deadline", late.map(|(_, ticket)| ticket))
        })?;
        ensure(!free || action.batch.is_some() || left == 0, Invariant::WorkConservation, || {
            format!("a free instance gets nothing while {left} wait")
        })
    }

    /// Marks the batch's requests as running, and returns the lanes as they were before.
    fn start(
        &mut self,
        batch: &Batch<Ticket>,
        now: Instant,
    ) -> Result<BTreeMap<u8, VecDeque<Ticket>>, Broken> {
        let lanes = self.lanes.clone();
        for &ticket in &batch.requests {
            self.leave_queue(ticket, "starts")?;
            let record = &mut self.records[ticket.0];
            ensure(now < record.deadline, Invariant::NotLate, || {
                format!("{ticket:?} starts at or after its deadline")
            })?;
            record.state = State::Running;
        }
        Ok(lanes)
    }

    fn check_batch(&mut self, batch: &Batch<Ticket>, lanes: &BTreeMap<u8, VecDeque<Ticket>>) -> Checked {
        let max_rows = self.limits.max_batch_rows.get();
        let records = || batch.requests.iter().map(|ticket| &self.records[ticket.0]);
        let rows: usize = records().map(|record| record.rows).sum();
        let allowed = (1..=max_rows).contains(&rows) || (batch.requests.len() == 1 && rows > max_rows);
        ensure(allowed && rows == batch.rows, Invariant::BatchRows, || {
            format!("{batch:?} has {rows} rows of at most {max_rows}")
        })?;
        let keys: BTreeSet<u8> = records().map(|record| record.key).collect();
        ensure(keys.len() == 1, Invariant::OneKey, || format!("{batch:?} has the keys {keys:?}"))?;
        let oldest = lanes.values().min_by_key(|lane| lane.front());
        let lane = keys.first().and_then(|key| lanes.get(key));
        let (Some(oldest), Some(lane)) = (oldest, lane) else { return Ok(()) };
        ensure(lane == oldest, Invariant::LongestWaitFirst, || {
            format!("{batch:?} is formed before {:?}", oldest.front())
        })?;
        let count = batch.requests.len();
        ensure(lane.iter().take(count).eq(&batch.requests), Invariant::ArrivalOrder, || {
            format!("{batch:?} is formed from {:?}", lane.iter().take(count).collect::<Vec<_>>())
        })?;
        let next = lane.get(count);
        let next_rows = next.map_or(max_rows, |ticket| self.records[ticket.0].rows);
        ensure(rows + next_rows > max_rows, Invariant::Maximal, || {
            format!("{batch:?} is formed and {next:?} left, whose {next_rows} rows fit")
        })?;
        self.report.batches += 1;
        self.report.batched_requests += count;
        self.report.batched_rows += rows;
        self.report.oversized_batches += usize::from(rows > max_rows);
        Ok(())
    }

    /// A run has ended for one of its requests.
    pub(super) fn finished(&mut self, ticket: Ticket, answered: bool, now: Instant) -> Checked {
        let Record { state, deadline, .. } = self.records[ticket.0];
        ensure(state == State::Running, Invariant::OneOutcome, || format!("{ticket:?} ends as {state:?}"))?;
        self.report.in_time += usize::from(answered && now <= deadline);
        self.end(ticket, if answered { Outcome::Answered } else { Outcome::Failed }, now)
    }

    /// The caller of `ticket` went away, and the batcher handed back what it took out of the queue.
    pub(super) fn cancelled(&mut self, ticket: Ticket, returned: Option<Ticket>, now: Instant) -> Checked {
        let state = self.records[ticket.0].state;
        if state != State::Waiting {
            return ensure(returned.is_none(), Invariant::OneOutcome, || {
                format!("{ticket:?} is cancelled as {state:?}, and {returned:?} handed back")
            });
        }
        ensure(returned.is_some(), Invariant::NotCancelled, || {
            format!("{ticket:?} is cancelled and stays in the queue")
        })?;
        ensure(returned == Some(ticket), Invariant::OwnRequest, || {
            format!("{ticket:?} is cancelled and {returned:?} handed back")
        })?;
        self.leave_queue(ticket, "is cancelled")?;
        self.end(ticket, Outcome::Cancelled, now)
    }

    /// New requests are refused from now on.
    pub(super) fn refusing(&mut self) {
        self.closed = true;
    }

    /// The queue was closed and gave back what waited.
    pub(super) fn closed(&mut self, returned: &[Ticket], now: Instant) -> Checked {
        self.closed = true;
        ensure(returned.is_sorted(), Invariant::ArrivalOrder, || format!("closing hands back {returned:?}"))?;
        for &ticket in returned {
            self.leave_queue(ticket, "is given up")?;
            self.end(ticket, Outcome::ShutDown, now)?;
        }
        let forgotten = self.deadlines.first();
        ensure(forgotten.is_none(), Invariant::OneOutcome, || {
            format!("closing does not hand back {:?}", forgotten.map(|(_, ticket)| ticket))
        })
    }

    /// What the batcher says of itself agrees with what waits; after every call.
    pub(super) fn check_accounts(&self, batcher: &Batcher<u8, Ticket>) -> Checked {
        let (length, bytes, told) = (batcher.len(), batcher.bytes(), batcher.next_deadline());
        ensure(length == self.waiting(), Invariant::Balance, || {
            format!("the queue holds {length} requests, not {}", self.waiting())
        })?;
        ensure(bytes == self.bytes && batcher.is_empty() == (length == 0), Invariant::Accounts, || {
            format!("the queue holds {bytes} bytes, not {}, in {length} requests", self.bytes)
        })?;
        let first = self.deadlines.first().map(|&(deadline, _)| deadline);
        ensure(told == first, Invariant::Accounts, || {
            let [told, first] =
                [told, first].map(|deadline| deadline.map(|at| at.duration_since(self.start)));
            format!("the next deadline is {told:?}, not {first:?}")
        })?;
        ensure(length <= self.limits.max_queue_size.get(), Invariant::QueueSize, || {
            format!("{length} requests wait")
        })?;
        ensure(bytes <= self.limits.max_queue_bytes || length == 1, Invariant::QueueBytes, || {
            format!("{bytes} bytes wait")
        })
    }

    /// Nothing is lost and nobody is idle; after every event. `running` requests are with the instances, of which
    /// `idle` have none.
    pub(super) fn check_event(&self, batcher: &Batcher<u8, Ticket>, running: usize, idle: usize) -> Checked {
        let Report { accepted, answered, failed, expired, cancelled, shut_down, .. } = self.report;
        let waiting = batcher.len();
        let found = answered + failed + expired + cancelled + shut_down + waiting + running;
        ensure(accepted == found, Invariant::Balance, || {
            format!("{accepted} were accepted and {found} are there: {running} run, {waiting} wait")
        })?;
        ensure(idle == 0 || waiting == 0, Invariant::WorkConservation, || {
            format!("{idle} instances are idle while {waiting} wait")
        })
    }

    /// Everything has left; after the last event.
    pub(super) fn check_end(&self) -> Checked {
        let open = |record: &Record| matches!(record.state, State::Waiting | State::Running);
        let open = self.records.iter().position(open).map(Ticket);
        ensure(open.is_none(), Invariant::OneOutcome, || format!("{open:?} has no outcome"))?;
        ensure(
            self.bytes == 0 && self.deadlines.is_empty() && self.lanes.is_empty(),
            Invariant::Accounts,
            || format!("{} bytes are left", self.bytes),
        )
    }

    fn waiting(&self) -> usize {
        self.deadlines.len()
    }

    /// Takes a request that the batcher has let go out of what waits.
    fn leave_queue(&mut self, ticket: Ticket, how: &str) -> Checked {
        let Some(record) = self.records.get(ticket.0) else {
            let detail = format!("{ticket:?} {how} and was never pushed");
            return Err(Broken { invariant: Invariant::OwnRequest, detail });
        };
        let invariant = match record.state {
            State::Ended(Outcome::Cancelled) => Invariant::NotCancelled,
            _ => Invariant::OneOutcome,
        };
        ensure(record.state == State::Waiting, invariant, || {
            format!("{ticket:?} {how} as {:?}", record.state)
        })?;
        self.bytes -= record.bytes;
        self.deadlines.remove(&(record.deadline, ticket));
        if let Some(lane) = self.lanes.get_mut(&record.key) {
            lane.retain(|&other| other != ticket);
            if lane.is_empty() {
                self.lanes.remove(&record.key);
            }
        }
        Ok(())
    }

    fn end(&mut self, ticket: Ticket, outcome: Outcome, now: Instant) -> Checked {
        let state = &mut self.records[ticket.0].state;
        ensure(!matches!(state, State::Ended(_) | State::Refused), Invariant::OneOutcome, || {
            format!("{ticket:?} is {outcome:?} after {state:?}")
        })?;
        *state = State::Ended(outcome);
        self.last_outcome = now;
        let count = match outcome {
            Outcome::Answered => &mut self.report.answered,
            Outcome::Failed => &mut self.report.failed,
            Outcome::Expired => &mut self.report.expired,
            Outcome::Cancelled => &mut self.report.cancelled,
            Outcome::ShutDown => &mut self.report.shut_down,
        };
        *count += 1;
        Ok(())
    }
}
