//! A second, simpler account of every request, against which each answer of the batcher is checked.
//!
//! It knows the rules, not how the batcher keeps them: a list for each key, searched from the front. It is told each
//! call with its result, and says which invariant the result breaks. The order of the checks decides which is named
//! where one defect breaks several. What runs will take it asks the batcher's estimator, which has tests of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Invariant, Report};
use crate::batcher::{
    Accepted, Action, BatchId, Batcher, Cap, Class, Estimator, Refused, RequestId, Rules, Waiting,
};

mod admission;
mod batches;
mod behind;
mod foretold;

use foretold::{Foretold, ROUNDING};

/// What the batcher carries in place of a request: the number of its arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(pub(super) usize);

/// How an accepted request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered,
    Failed,
    Expired,
    Shed,
    Displaced,
    Cancelled,
    ShutDown,
}

/// What has become of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum News {
    Accepted(Ticket),
    Ended(Ticket, Outcome),
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

pub(super) fn ensure(holds: bool, invariant: Invariant, detail: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Broken { invariant, detail: detail() }) }
}

struct Record {
    key: u8,
    class: Class,
    rows: usize,
    bytes: usize,
    arrived: Instant,
    deadline: Instant,
    /// How much longer it may wait once that is over.
    lingers: Duration,
    /// The deadline that it had, once it was put behind the others.
    before: Option<Instant>,
    /// Accepted although it is foretold to miss.
    probe: bool,
    state: State,
}

/// The order in which the requests of a key are served.
type Place = (Class, Instant, Ticket);

/// The requests of each key.
type Lanes = BTreeMap<u8, BTreeSet<Place>>;

/// The account. Waiting requests are those in `lanes`, and equally those in `deadlines`.
pub(super) struct Ledger {
    rules: Rules,
    records: Vec<Record>,
    lanes: Lanes,
    deadlines: BTreeSet<(Instant, Ticket)>,
    /// When each run is foretold to end.
    runs: BTreeMap<BatchId, Instant>,
    bytes: usize,
    closed: bool,
    /// How long the batch may take that is formed next, where other models have a say in it.
    pub(super) cap: Option<Cap>,
    /// When the device is free, where other models use it too.
    pub(super) device_free_at: Option<Instant>,
    last_id: Option<RequestId>,
    /// The accepted requests by the numbers that the batcher gave them.
    numbers: BTreeMap<u64, Ticket>,
    /// What was accepted and what ended since the last look, for whoever keeps the answers in order.
    pub(super) news: Vec<News>,
    start: Instant,
    last_outcome: Instant,
    report: Report,
}

impl Ledger {
    pub(super) fn new(rules: Rules, start: Instant) -> Self {
        Self {
            rules,
            records: Vec::new(),
            lanes: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            runs: BTreeMap::new(),
            bytes: 0,
            closed: false,
            cap: None,
            device_free_at: None,
            last_id: None,
            numbers: BTreeMap::new(),
            news: Vec::new(),
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
        foretold: Foretold,
        result: Result<Accepted<Ticket>, Refused<Ticket>>,
    ) -> Checked {
        let Waiting { key, class, rows, bytes, deadline, lingers, request: ticket } = *request;
        self.report.received += 1;
        let before = None;
        let record = |probe, state| Record {
            key,
            class,
            rows,
            bytes,
            arrived: now,
            deadline,
            lingers,
            before,
            probe,
            state,
        };
        match result {
            Ok(Accepted { id, displaced }) => {
                self.displaced(request, &displaced, now)?;
                if let Some((reason, invariant)) = self.reason_to_refuse(request, now, foretold, None) {
                    let detail = format!("{ticket:?} is accepted, not refused as {reason:?}");
                    return Err(Broken { invariant, detail });
                }
                ensure(self.last_id.is_none_or(|last| last < id), Invariant::OwnRequest, || {
                    format!("{id:?} is given after {:?}", self.last_id)
                })?;
                self.last_id = Some(id);
                self.numbers.insert(id.number(), ticket);
                self.news.push(News::Accepted(ticket));
                self.report.accepted += 1;
                self.lanes.entry(key).or_default().insert((class, deadline, ticket));
                self.deadlines.insert((deadline, ticket));
                self.bytes += bytes;
                let probe = foretold.wait + ROUNDING > foretold.left;
                self.records.push(record(probe, State::Waiting));
            }
            Err(Refused { reason: told, request: returned }) => {
                let reason =
                    self.reason_to_refuse(request, now, foretold, Some(told)).map(|(reason, _)| reason);
                let same = std::mem::discriminant;
                let agrees = reason.is_some_and(|reason| same(&reason) == same(&told));
                ensure(agrees, Invariant::ReasonToRefuse, || {
                    format!("{ticket:?} is refused as {told:?}; the reason is {reason:?}")
                })?;
                ensure(returned == ticket, Invariant::OwnRequest, || {
                    format!("{ticket:?} is refused and {returned:?} handed back")
                })?;
                *self.refusals(told) += 1;
                self.records.push(record(false, State::Refused));
            }
        }
        Ok(())
    }

    /// The queue was polled at `now`, when an instance was `free` or not.
    pub(super) fn polled(
        &mut self,
        now: Instant,
        free: bool,
        action: &Action<Ticket>,
        batcher: &Batcher<u8, Ticket>,
    ) -> Checked {
        let left = batcher.len();
        self.put_behind(now, action, batcher)?;
        for &ticket in &action.expired {
            self.leave_queue(ticket, "expires")?;
            let Record { lingers, before, .. } = self.records[ticket.0];
            ensure(lingers.is_zero() || before.is_some(), Invariant::WaitsOn, || {
                format!("{ticket:?} is given up and may wait on")
            })?;
            ensure(self.records[ticket.0].deadline <= now, Invariant::ExpiresInTime, || {
                format!("{ticket:?} expires before its deadline")
            })?;
            self.end(ticket, Outcome::Expired, now)?;
        }
        // As they were before anything was shed; a copy costs more than all else here.
        let is_needed = action.batch.is_some() || !action.shed.is_empty();
        let lanes = if is_needed { self.lanes.clone() } else { Lanes::new() };
        for &ticket in &action.shed {
            self.leave_queue(ticket, "is shed")?;
            self.end(ticket, Outcome::Shed, now)?;
        }
        self.start(action, now, batcher)?;
        // A lost request would look like one of the faults below.
        ensure(left == self.waiting(), Invariant::Balance, || {
            format!("{left} wait after {action:?}, not {}", self.waiting())
        })?;
        if let Some(batch) = &action.batch {
            ensure(free, Invariant::OnlyWhenFree, || format!("{batch:?} is formed for nobody"))?;
            self.check_batch(now, action, batch, &lanes, batcher)?;
        }
        self.check_shed(now, action, &lanes, batcher)?;
        let late = self.deadlines.first().filter(|(deadline, _)| *deadline <= now);
        ensure(late.is_none(), Invariant::ExpiresInTime, || {
            format!("{:?} waits after its deadline", late.map(|(_, ticket)| ticket))
        })?;
        let kept = !free || action.batch.is_some() || self.may_all_be_kept(now) || self.cap.is_some();
        ensure(kept, Invariant::WorkConservation, || {
            format!("a free instance gets nothing while {left} wait")
        })
    }

    /// True when every key's first request may be kept waiting.
    fn may_all_be_kept(&self, now: Instant) -> bool {
        let first =
            |lane: &BTreeSet<Place>| lane.first().map(|&(_, _, ticket)| self.records[ticket.0].arrived);
        self.lanes.values().filter_map(first).all(|arrived| now < arrived + self.rules.max_delay)
    }

    /// Marks the batch's requests as running.
    fn start(&mut self, action: &Action<Ticket>, now: Instant, batcher: &Batcher<u8, Ticket>) -> Checked {
        let Some(batch) = &action.batch else { return Ok(()) };
        for &ticket in &batch.requests {
            self.leave_queue(ticket, "starts")?;
            let record = &mut self.records[ticket.0];
            ensure(now < record.deadline, Invariant::NotLate, || {
                format!("{ticket:?} starts at or after its deadline")
            })?;
            record.state = State::Running;
        }
        if let Some(&first) = batch.requests.first() {
            let run = batcher.estimator_of(&self.records[first.0].key).predict(batch.rows);
            self.runs.insert(batch.id, now + run);
        }
        Ok(())
    }

    /// A run has ended.
    pub(super) fn ran(&mut self, id: BatchId) {
        self.runs.remove(&id);
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
        ensure(returned.is_sorted(), Invariant::Order, || format!("closing hands back {returned:?}"))?;
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
    pub(super) fn check_accounts(&self, batcher: &Batcher<u8, Ticket>, now: Instant) -> Checked {
        let (length, bytes, told) = (batcher.len(), batcher.bytes(), batcher.next_wake(now));
        ensure(length == self.waiting(), Invariant::Balance, || {
            format!("the queue holds {length} requests, not {}", self.waiting())
        })?;
        ensure(bytes == self.bytes && batcher.is_empty() == (length == 0), Invariant::Accounts, || {
            format!("the queue holds {bytes} bytes, not {}, in {length} requests", self.bytes)
        })?;
        let first = self.deadlines.first().map(|&(deadline, _)| deadline);
        let agrees = if self.rules.max_delay.is_zero() { told == first } else { told <= first };
        ensure(agrees && told.is_some() == first.is_some(), Invariant::Accounts, || {
            let [told, first] =
                [told, first].map(|deadline| deadline.map(|at| at.duration_since(self.start)));
            format!("the next deadline is {told:?}, not {first:?}")
        })?;
        ensure(length <= self.rules.limits.max_queue_size.get(), Invariant::QueueSize, || {
            format!("{length} requests wait")
        })?;
        ensure(bytes <= self.rules.limits.max_queue_bytes || length == 1, Invariant::QueueBytes, || {
            format!("{bytes} bytes wait")
        })
    }

    /// Nothing is lost and nobody is idle; after every event. `running` requests are with the instances, of which
    /// `idle` have none.
    pub(super) fn check_event(
        &self,
        batcher: &Batcher<u8, Ticket>,
        running: usize,
        idle: usize,
        now: Instant,
    ) -> Checked {
        let Report { accepted, answered, failed, expired, shed, displaced, cancelled, shut_down, .. } =
            self.report;
        let waiting = batcher.len();
        let ended = answered + failed + expired + shed + displaced + cancelled + shut_down;
        let found = ended + waiting + running;
        ensure(accepted == found, Invariant::Balance, || {
            format!("{accepted} were accepted and {found} are there: {running} run, {waiting} wait")
        })?;
        ensure(idle == 0 || waiting == 0 || self.may_all_be_kept(now), Invariant::WorkConservation, || {
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

    /// The most rows of a batch.
    fn most_rows(&self, estimator: &Estimator, now: Instant) -> usize {
        let most = self.rules.limits.max_batch_rows.get();
        let cap = self.cap.and_then(|cap| cap.run);
        cap.map_or(most, |cap| estimator.rows_within(cap, most, now).max(1))
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
            lane.remove(&(record.class, record.deadline, ticket));
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
        self.news.push(News::Ended(ticket, outcome));
        self.last_outcome = now;
        let count = match outcome {
            Outcome::Answered => &mut self.report.answered,
            Outcome::Failed => &mut self.report.failed,
            Outcome::Expired => &mut self.report.expired,
            Outcome::Shed => &mut self.report.shed,
            Outcome::Displaced => &mut self.report.displaced,
            Outcome::Cancelled => &mut self.report.cancelled,
            Outcome::ShutDown => &mut self.report.shut_down,
        };
        *count += 1;
        Ok(())
    }
}
