//! What a model does differently that shares its device: it asks before it runs, as `scheduler` does.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Driver, Instance, Ticket};
use crate::batcher::{Cap, Class, Outlook, Waiting};
use crate::lanes::{Arbiter, RunId, SeatId};
use crate::simulation::ledger::{Broken, Checked};

/// How long a run hangs.
const HANG: Duration = Duration::from_secs(5);

/// A model's place on a device that others use too.
#[derive(Debug)]
pub(in crate::simulation) struct Shared {
    arbiter: Rc<RefCell<Arbiter>>,
    seat: SeatId,
    /// The share of runs that hang.
    hangs: f64,
    /// The lane of the batch that is formed next, and how long it may take.
    pub(super) granted: Option<(RunId, Cap)>,
    /// Lanes that were given back since the last look.
    ended: Vec<RunId>,
    /// The class and limit of what was accepted since the last look.
    heard: Vec<(Class, Duration)>,
}

impl Shared {
    pub(in crate::simulation) fn new(arbiter: &Rc<RefCell<Arbiter>>, seat: SeatId, hangs: f64) -> Self {
        let (ended, heard) = (Vec::new(), Vec::new());
        Self { arbiter: Rc::clone(arbiter), seat, hangs, granted: None, ended, heard }
    }
}

impl<'a> Driver<'a> {
    /// The same model, on a device that others use too.
    pub(in crate::simulation) fn sharing(self, shared: Shared) -> Driver<'a> {
        Driver { shared: Some(shared), ..self }
    }

    /// The lanes that were given back, and what was accepted, since the last call.
    pub(in crate::simulation) fn news(&mut self) -> (Vec<RunId>, Vec<(Class, Duration)>) {
        let Some(shared) = &mut self.shared else { return (Vec::new(), Vec::new()) };
        (std::mem::take(&mut shared.ended), std::mem::take(&mut shared.heard))
    }

    /// Everything has left; after the last event.
    pub(in crate::simulation) fn check_end(&self) -> Checked {
        self.ledger.check_end()
    }

    /// When the next event is due.
    pub(in crate::simulation) fn next_event(&self) -> Option<Duration> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// It is `now` for this model too.
    pub(in crate::simulation) fn keep_time(&mut self, now: Duration) {
        self.now = now;
    }

    /// What an idle instance would run.
    pub(in crate::simulation) fn wish(&self) -> Option<Outlook> {
        self.idle()?;
        self.batcher.outlook(self.start + self.now)
    }

    /// True when something waits that could run, whether or not an instance is idle.
    pub(in crate::simulation) fn has_work(&self) -> bool {
        self.batcher.has_work(self.start + self.now)
    }

    fn idle(&self) -> Option<usize> {
        self.instances.iter().position(|instance| matches!(instance, Instance::Idle))
    }

    /// An idle instance runs on a lane; the rows that it runs, `None` when there was nothing after all.
    pub(in crate::simulation) fn run_on(&mut self, lane: RunId, cap: Cap) -> Result<bool, Broken> {
        let index = self.idle();
        if let Some(shared) = &mut self.shared {
            shared.granted = Some((lane, cap));
        }
        self.poll(index)?;
        let runs = |instance: &Instance| matches!(instance, Instance::Running(run) if run.lane == Some(lane));
        Ok(self.instances.iter().any(runs))
    }

    /// What the device leaves to a request that comes.
    pub(super) fn look_around(&mut self, request: &Waiting<u8, Ticket>) {
        let Some(shared) = &self.shared else { return };
        let now: Instant = self.start + self.now;
        let run = self.batcher.estimator_of(&request.key).bound(request.rows, now);
        let latest = request.deadline.checked_sub(run).unwrap_or(now);
        let surroundings = shared.arbiter.borrow().surroundings(shared.seat, request.class, latest, now);
        self.batcher.surround(surroundings);
        self.ledger.device_free_at = surroundings.free_at;
    }

    /// A request was accepted.
    pub(super) fn is_heard(&mut self, request: &Waiting<u8, Ticket>) {
        let Some(shared) = &mut self.shared else { return };
        let now: Instant = self.start + self.now;
        let limit = request.deadline.saturating_duration_since(now);
        let seconds = self.batcher.work_of_row() * request.rows as f64;
        shared.arbiter.borrow_mut().heard(shared.seat, request.class, (limit, seconds), now);
        shared.heard.push((request.class, limit));
    }

    /// A run may take much longer than anybody could have known.
    pub(super) fn hang(&mut self, duration: Duration) -> Duration {
        let hangs = self.shared.as_ref().map_or(0.0, |shared| shared.hangs);
        if hangs > 0.0 && self.running.chance(hangs) { duration + HANG } else { duration }
    }

    pub(super) fn give_back(&mut self, lane: Option<RunId>) {
        let now = self.start + self.now;
        if let (Some(shared), Some(lane)) = (&mut self.shared, lane) {
            shared.arbiter.borrow_mut().finish(lane, now);
            shared.ended.push(lane);
        }
    }
}
