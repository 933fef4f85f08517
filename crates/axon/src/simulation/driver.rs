//! Makes the scenario happen: events in the order of virtual time, instances that pull batches, a timer, callers.
//!
//! Each batcher call is told to the ledger with its result. The driver draws on three streams of random numbers, for
//! callers, for instances and for the timer, so that a different batch does not change which requests come after it
//! (unless callers wait for their answers).

mod answers;
mod shared;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::ledger::{Broken, Checked, Ledger, Ticket};
use super::random::{Random, Trace};
use super::scenario::{Arrivals, Ending, Scenario, Shutdown};
use super::{Invariant, Report, Violation};
use crate::batcher::{Batch, BatchId, Batcher, Refused, Rejected, RequestId, Waiting};
use crate::lanes::RunId;

use answers::Answers;
pub(super) use shared::Shared;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// Requests come.
    Arrive,
    /// The caller of a request goes away.
    Cancel(RequestId, Ticket),
    /// The run of an instance ends.
    Finish(usize),
    /// An instance is back after a panic.
    Restart(usize),
    /// The timer looks at the queue.
    Alarm,
    /// New requests are refused from now on.
    Drain,
    /// The queue is closed.
    Close,
}

#[derive(Debug)]
enum Instance {
    Idle,
    Running(Run),
    Restarting,
}

#[derive(Debug)]
struct Run {
    id: BatchId,
    lane: Option<RunId>,
    requests: Vec<Ticket>,
    ending: Ending,
    took: Duration,
}

pub(super) struct Driver<'a> {
    scenario: &'a Scenario,
    start: Instant,
    now: Duration,
    /// What will happen, by time and then by when it was decided. Bounded: each request and each instance adds a few.
    events: BTreeMap<(Duration, u64), Event>,
    scheduled: u64,
    handled: usize,
    batcher: Batcher<u8, Ticket>,
    ledger: Ledger,
    instances: Vec<Instance>,
    /// Where answers leave in order.
    answers: Option<Answers>,
    /// When the timer looks at the queue next, as in `scheduler`.
    armed: Option<Instant>,
    draining: bool,
    /// The arrivals' own clock, which is not rounded: a coarse tick bunches requests and leaves their rate.
    next_arrival: Duration,
    arriving: Random,
    running: Random,
    timing: Random,
    trace: Trace,
    /// How much later than it was due the present event happens.
    late: Duration,
    freezes: usize,
    /// What other models on the device change.
    shared: Option<Shared>,
}

impl<'a> Driver<'a> {
    pub(super) fn new(scenario: &'a Scenario, start: Instant, batcher: Batcher<u8, Ticket>) -> Self {
        // Another stream than the one that the scenario was drawn from.
        let mut random = Random::new(!scenario.seed);
        Self {
            scenario,
            start,
            now: Duration::ZERO,
            events: BTreeMap::new(),
            scheduled: 0,
            handled: 0,
            batcher,
            ledger: Ledger::new(scenario.rules(), start),
            instances: (0..scenario.instances).map(|_| Instance::Idle).collect(),
            answers: scenario.preserve_order.then(Answers::default),
            armed: None,
            draining: false,
            next_arrival: Duration::ZERO,
            arriving: random.split(),
            running: random.split(),
            timing: random.split(),
            trace: Trace::default(),
            late: Duration::ZERO,
            freezes: 0,
            shared: None,
        }
    }

    pub(super) fn run(mut self) -> Result<Report, Violation> {
        // The seed of a panic is worth as much as that of a wrong answer.
        let played = catch_unwind(AssertUnwindSafe(|| self.play())).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let detail = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(Broken { invariant: Invariant::NoPanic, detail })
        });
        match played {
            Ok(()) => Ok(self.into_report()),
            Err(Broken { invariant, detail }) => {
                Err(Violation { invariant, seed: self.scenario.seed, at: self.now, detail })
            }
        }
    }

    pub(super) fn into_report(self) -> Report {
        Report {
            seed: self.scenario.seed,
            events: self.handled,
            freezes: self.freezes,
            elapsed: self.ledger.last_outcome().duration_since(self.start),
            trace: self.trace.hash(),
            ..self.ledger.into_report()
        }
    }

    fn play(&mut self) -> Checked {
        self.begin();
        while self.step()? {
            self.settle()?;
        }
        self.ledger.check_end()
    }

    /// The first requests come.
    pub(super) fn begin(&mut self) {
        let callers = match self.scenario.arrivals {
            Arrivals::Callers { count, .. } => count,
            _ => 1,
        };
        (0..callers).for_each(|_| self.arrive_next());
    }

    /// Handles the next event; false when there is none.
    pub(super) fn step(&mut self) -> Result<bool, Broken> {
        let Some(((due, _), event)) = self.events.pop_first() else { return Ok(false) };
        self.now = self.now.max(due);
        // Where models share a device they stand still together.
        let still = if self.shared.is_none() { self.scenario.freezes.length(&mut self.timing) } else { None };
        if let Some(length) = still {
            self.now = self.scenario.ticks(self.now + length);
            self.freezes += 1;
        }
        self.late = self.now.saturating_sub(due);
        self.handled += 1;
        self.note(&[u64::try_from(self.now.as_nanos()).unwrap_or(u64::MAX), self.handled as u64]);
        self.handle(event)?;
        Ok(true)
    }

    fn handle(&mut self, event: Event) -> Checked {
        match event {
            Event::Arrive => self.arrive(),
            Event::Cancel(id, ticket) => self.cancel(id, ticket),
            Event::Finish(index) => self.finish(index),
            Event::Restart(index) => {
                self.instances[index] = Instance::Idle;
                self.pull(index)
            }
            Event::Alarm => {
                self.armed = None;
                self.poll(None)
            }
            Event::Drain => {
                self.batcher.refuse_new();
                self.ledger.refusing();
                self.draining = true;
                self.ledger.check_accounts(&self.batcher, self.start + self.now)
            }
            Event::Close => self.close(),
        }
    }

    /// What the scheduler does whenever something has happened: idle instances pull, the timer is armed, and a
    /// drained queue is closed.
    fn settle(&mut self) -> Checked {
        for index in 0..self.instances.len() {
            if matches!(self.instances[index], Instance::Idle) && !self.batcher.is_empty() {
                self.poll(Some(index))?;
            }
        }
        self.end_step()
    }

    /// The timer is armed, the account is checked, and a drained queue is closed.
    pub(super) fn end_step(&mut self) -> Checked {
        self.answer()?;
        self.arm();
        let running = self.instances.iter().map(Instance::requests).sum();
        let idle = self.instances.iter().filter(|instance| matches!(instance, Instance::Idle)).count();
        // Whether it may run is for whoever shares out the device.
        let idle = if self.shared.is_some() { 0 } else { idle };
        self.ledger.check_event(&self.batcher, running, idle, self.start + self.now)?;
        if self.draining && self.batcher.is_empty() && running == 0 {
            self.close()?;
        }
        Ok(())
    }

    fn arrive(&mut self) -> Checked {
        let together = match self.scenario.arrivals {
            Arrivals::Poisson { together, .. } => together,
            _ => 1,
        };
        for _ in 0..together.min(self.scenario.requests - self.ledger.received()) {
            self.push()?;
            self.shut_down_when_due();
        }
        if !matches!(self.scenario.arrivals, Arrivals::Callers { .. }) {
            self.arrive_next();
        }
        Ok(())
    }

    /// Schedules the next arrival of an open loop, or that of one caller who thinks first.
    fn arrive_next(&mut self) {
        if self.ledger.received() >= self.scenario.requests {
            return;
        }
        let gap = self.scenario.arrivals.gap(&mut self.arriving);
        let from = match self.scenario.arrivals {
            Arrivals::Callers { .. } => self.now,
            _ => self.next_arrival,
        };
        self.next_arrival = from + gap;
        self.schedule(self.next_arrival.saturating_sub(self.now), Event::Arrive);
    }

    fn push(&mut self) -> Checked {
        let Scenario { rows, limits, timeouts, keys, cancellation, service, .. } = self.scenario;
        let random = &mut self.arriving;
        let ticket = Ticket(self.ledger.received());
        // Some shapes are more common than others.
        let last = random.between(0, usize::from(*keys) - 1);
        let key = random.between(0, last);
        let class = random.between(1, self.scenario.classes as usize);
        let rows = rows.count(limits.max_batch_rows.get(), random);
        let timeout = self.scenario.ticks(timeouts.length(random));
        let gone = random.chance(cancellation.share).then(|| random.up_to(cancellation.within));
        let now = self.start + self.now;
        let request = Waiting {
            key: u8::try_from(key).unwrap_or_default(),
            class: u32::try_from(class).unwrap_or(1),
            rows,
            bytes: rows * self.scenario.rows.bytes,
            deadline: now + timeout,
            lingers: self.scenario.ticks(self.scenario.lingers),
            request: ticket,
        };
        self.look_around(&request);
        let foretold = self.ledger.foretold(&request, now, &self.batcher);
        let result = self.batcher.push(request.clone(), now);
        self.note(&[ticket.0 as u64, result.as_ref().map_or(u64::MAX, |accepted| accepted.id.number())]);
        match (&result, gone) {
            (Ok(accepted), Some(after)) => self.schedule(after, Event::Cancel(accepted.id, ticket)),
            (Ok(_), None) | (Err(Refused { reason: Rejected::Closed, .. }), _) => {}
            // A caller who is refused waits for about a batch before it asks again.
            (Err(_), _) => self.caller_asks_again(service.duration(limits.max_batch_rows.get())),
        }
        if result.is_ok() {
            self.is_heard(&request);
        }
        let displaced = result.as_ref().map_or(0, |accepted| accepted.displaced.len());
        (0..displaced).for_each(|_| self.caller_asks_again(Duration::ZERO));
        self.ledger.pushed(&request, now, foretold, result)?;
        self.ledger.check_accounts(&self.batcher, self.start + self.now)
    }

    fn caller_asks_again(&mut self, after: Duration) {
        if matches!(self.scenario.arrivals, Arrivals::Callers { .. }) {
            let think = self.scenario.arrivals.gap(&mut self.arriving);
            self.schedule(after + think, Event::Arrive);
        }
    }

    fn shut_down_when_due(&mut self) {
        let sent = self.ledger.received();
        match self.scenario.shutdown {
            Shutdown::Drain { after, limit } if after == sent => {
                self.schedule(Duration::ZERO, Event::Drain);
                if let Some(limit) = limit {
                    self.schedule(limit, Event::Close);
                }
            }
            Shutdown::Close { after } if after == sent => self.schedule(Duration::ZERO, Event::Close),
            _ => {}
        }
    }

    fn cancel(&mut self, id: RequestId, ticket: Ticket) -> Checked {
        let returned = self.batcher.cancel(id);
        self.note(&[id.number(), u64::from(returned.is_some())]);
        if returned.is_some() {
            self.caller_asks_again(Duration::ZERO);
        }
        self.ledger.cancelled(ticket, returned, self.start + self.now)?;
        self.ledger.check_accounts(&self.batcher, self.start + self.now)
    }

    /// Polls for the instance `free`, or only for what has expired.
    fn poll(&mut self, free: Option<usize>) -> Checked {
        let now = self.start + self.now;
        let granted = self.shared.as_mut().and_then(|shared| shared.granted.take());
        let cap = granted.map(|(_, cap)| cap);
        let action = match cap {
            Some(cap) => self.batcher.poll_within(cap, now),
            None => self.batcher.poll(now, free.is_some()),
        };
        self.ledger.cap = cap;
        self.ledger.polled(now, free.is_some(), &action, &self.batcher)?;
        self.ledger.check_accounts(&self.batcher, self.start + self.now)?;
        for ticket in action.expired.into_iter().chain(action.shed) {
            self.note(&[ticket.0 as u64]);
            self.caller_asks_again(Duration::ZERO);
        }
        let lane = granted.map(|(lane, _)| lane);
        let (Some(index), Some(batch)) = (free, action.batch) else {
            self.give_back(lane);
            return Ok(());
        };
        self.note(&[index as u64, batch.rows as u64]);
        let (duration, ending) = self.scenario.service.run(batch.rows, &mut self.running);
        let duration = self.hang(duration);
        batch.requests.iter().for_each(|ticket| self.note(&[ticket.0 as u64]));
        let Batch { id, requests, .. } = batch;
        self.instances[index] = Instance::Running(Run { id, lane, requests, ending, took: duration });
        self.schedule(duration, Event::Finish(index));
        Ok(())
    }

    fn finish(&mut self, index: usize) -> Checked {
        let done = std::mem::replace(&mut self.instances[index], Instance::Idle);
        let Instance::Running(Run { id, lane, requests, ending, took }) = done else { return Ok(()) };
        self.give_back(lane);
        self.note(&[index as u64, ending as u64]);
        let took = (ending == Ending::Answers).then_some(took + self.late);
        self.batcher.finish(id, took, self.start + self.now);
        self.ledger.ran(id);
        for ticket in requests {
            self.ledger.finished(ticket, ending == Ending::Answers, self.start + self.now)?;
            self.caller_asks_again(Duration::ZERO);
        }
        if ending == Ending::Panic {
            self.instances[index] = Instance::Restarting;
            let restart = self.running.up_to(self.scenario.service.restart);
            self.schedule(restart, Event::Restart(index));
            return Ok(());
        }
        self.pull(index)
    }

    /// An instance is free: it pulls, where it need not ask first.
    fn pull(&mut self, index: usize) -> Checked {
        self.poll(Some(index).filter(|_| self.shared.is_none()))
    }

    fn close(&mut self) -> Checked {
        self.draining = false;
        let returned = self.batcher.close();
        self.note(&[returned.len() as u64]);
        self.ledger.closed(&returned, self.start + self.now)?;
        self.ledger.check_accounts(&self.batcher, self.start + self.now)
    }

    /// Arms the timer as `scheduler` does: only for a deadline that is earlier than what it is armed for.
    fn arm(&mut self) {
        let held = self.answers.as_ref().and_then(|answers| answers.order.next_deadline());
        let wake = self.batcher.next_wake(self.start + self.now);
        let Some(deadline) = wake.into_iter().chain(held).min() else { return };
        if self.armed.is_none_or(|armed| deadline < armed) {
            self.armed = Some(deadline);
            let late = self.timing.up_to(self.scenario.timer_lag);
            let wait = deadline.saturating_duration_since(self.start + self.now);
            self.schedule(wait + late, Event::Alarm);
        }
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        let at = self.scenario.ticks(self.now + after);
        self.events.insert((at, self.scheduled), event);
        self.scheduled += 1;
    }

    fn note(&mut self, words: &[u64]) {
        for &word in words {
            self.trace.add(word);
        }
    }
}

impl Instance {
    fn requests(&self) -> usize {
        match self {
            Self::Running(run) => run.requests.len(),
            Self::Idle | Self::Restarting => 0,
        }
    }
}
