//! Several models on one device: the production arbiter and batchers under virtual time.
//!
//! Each model has a driver and a ledger as it has alone; a lane stands between its idle instance and its batch, as in
//! `scheduler`. The device's own account checks who is called, what is held, who had how much, and for how long runs
//! may block others.

mod account;
mod scenario;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::driver::{Driver, Shared};
use super::ledger::{Broken, Checked};
use super::random::{Random, Trace};
use super::{Invariant, Report, Violation, ratio};
use crate::batcher::{Batcher, Cap};
use crate::lanes::{Arbiter, SeatId, Terms};
use account::{Account, Facts, Wish};

pub use scenario::{DeviceScenario, SharedModel};

/// What happened on a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceReport {
    /// The scenario's seed.
    pub seed: u64,
    /// Of each model.
    pub models: Vec<Report>,
    /// Events handled; the invariants were checked after each.
    pub events: usize,
    /// Times that the whole process stood still.
    pub freezes: usize,
    /// Virtual time until the last request had its outcome.
    pub elapsed: Duration,
    /// How far apart two models were that always had work, against what they may be.
    pub greatest_spread: f64,
    /// A hash over all events.
    pub trace: u64,
}

impl DeviceReport {
    /// The share of received requests that were answered at or before their deadline.
    #[must_use]
    pub fn share_in_time(&self) -> f64 {
        let sum = |count: fn(&Report) -> usize| self.models.iter().map(count).sum();
        ratio(sum(|model| model.in_time), sum(|model| model.received))
    }
}

/// Runs a device's scenario to its end. Virtual time begins at `start`, on which nothing depends.
///
/// # Errors
/// The first [`Violation`] of an invariant, when the arbiter or a batcher has a defect.
pub fn run_device(scenario: &DeviceScenario, start: Instant) -> Result<DeviceReport, Violation> {
    let arbiter = Arbiter::new(Some(scenario.lanes), 1);
    DeviceDriver::new(scenario, start, arbiter, Batcher::new).run()
}

type MakeBatcher = fn(crate::batcher::Rules) -> Batcher<u8, super::ledger::Ticket>;

struct Model<'a> {
    seat: SeatId,
    driver: Driver<'a>,
    /// Since it was last checked.
    has_changed: bool,
}

pub(super) struct DeviceDriver<'a> {
    scenario: &'a DeviceScenario,
    start: Instant,
    now: Duration,
    models: Vec<Model<'a>>,
    arbiter: Rc<RefCell<Arbiter>>,
    account: Account,
    handled: usize,
    freezes: usize,
    standing_still: Random,
    trace: Trace,
}

impl<'a> DeviceDriver<'a> {
    pub(super) fn new(
        scenario: &'a DeviceScenario,
        start: Instant,
        arbiter: Arbiter,
        batcher: MakeBatcher,
    ) -> Self {
        let arbiter = Rc::new(RefCell::new(arbiter));
        let model = |model: &'a SharedModel| {
            let instances = model.scenario.instances;
            let terms = Terms { weight: model.weight, instances, width: model.width };
            let seat = arbiter.borrow_mut().join(terms);
            let shared = Shared::new(&arbiter, seat, model.hangs);
            let driver = Driver::new(&model.scenario, start, batcher(model.scenario.rules()));
            Model { seat, driver: driver.sharing(shared), has_changed: false }
        };
        let models = scenario.models.iter().map(model).collect();
        let facts = scenario.models.iter().map(|model| Facts {
            weight: f64::from(model.weight),
            width: model.width,
            is_comparable: scenario.freezes.share == 0.0 && model.could_use(scenario.lanes),
        });
        let account = Account::new(scenario.lanes, facts.collect());
        let (now, trace) = (Duration::ZERO, Trace::default());
        let standing_still = Random::new(!scenario.seed);
        let (handled, freezes) = (0, 0);
        Self { scenario, start, now, models, arbiter, account, handled, freezes, standing_still, trace }
    }

    pub(super) fn run(mut self) -> Result<DeviceReport, Violation> {
        let played = catch_unwind(AssertUnwindSafe(|| self.play())).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let detail = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(Broken { invariant: Invariant::NoPanic, detail })
        });
        let seed = self.scenario.seed;
        if let Err(Broken { invariant, detail }) = played {
            return Err(Violation { invariant, seed, at: self.now, detail });
        }
        let mut report = DeviceReport {
            seed,
            events: self.handled,
            freezes: self.freezes,
            greatest_spread: self.account.greatest_spread,
            ..DeviceReport::default()
        };
        for model in self.models {
            let of_model = model.driver.into_report();
            self.trace.add(of_model.trace);
            report.elapsed = report.elapsed.max(of_model.elapsed);
            report.models.push(of_model);
        }
        report.trace = self.trace.hash();
        Ok(report)
    }

    fn play(&mut self) -> Checked {
        self.models.iter_mut().for_each(|model| model.driver.begin());
        while let Some((at, index)) = self.next_event() {
            self.now = self.now.max(at);
            if let Some(length) = self.scenario.freezes.length(&mut self.standing_still) {
                self.now += length;
                self.freezes += 1;
            }
            self.handled += 1;
            self.models.iter_mut().for_each(|model| model.driver.keep_time(self.now));
            if let Some(index) = index {
                self.models[index].driver.step()?;
                self.models[index].has_changed = true;
                self.trace.add(index as u64);
            }
            self.settle()?;
        }
        self.models.iter().try_for_each(|model| model.driver.check_end())
    }

    /// When something happens next, and to which model; to none, when a run is overdue then.
    fn next_event(&self) -> Option<(Duration, Option<usize>)> {
        let models = self.models.iter().enumerate();
        let events = models.filter_map(|(index, model)| Some((model.driver.next_event()?, Some(index))));
        let wake = self.arbiter.borrow().next_wake(self.start + self.now);
        let wake = wake.map(|at| (at.saturating_duration_since(self.start), None));
        // What is due comes before the look at what is overdue.
        events.chain(wake).min_by_key(|&(at, index)| (at, index.is_none(), index))
    }

    /// What instances do when something has happened: claim, and run when they are called.
    fn settle(&mut self) -> Checked {
        let now = self.start + self.now;
        self.listen(now);
        let wishes = loop {
            let mut wishes = self.claim(now);
            let called = self.arbiter.borrow_mut().call_next(now);
            let called = called.and_then(|seat| self.models.iter().position(|model| model.seat == seat));
            let Some(position) = wishes.iter().position(|wish| Some(wish.model) == called) else {
                break wishes;
            };
            let chosen = wishes.swap_remove(position);
            chosen.called(&wishes)?;
            self.give(&chosen, now)?;
            self.listen(now);
        };
        let has_work: Vec<bool> = self.models.iter().map(|model| model.driver.has_work()).collect();
        self.account.check(&wishes, &has_work, now)?;
        for model in self.models.iter_mut().filter(|model| model.has_changed) {
            model.has_changed = false;
            model.driver.end_step()?;
        }
        Ok(())
    }

    /// Hears what models have done.
    fn listen(&mut self, now: Instant) {
        for (index, model) in self.models.iter_mut().enumerate() {
            let (ended, heard) = model.driver.news();
            for run in ended {
                self.account.ended(run, now);
            }
            for (class, limit) in heard {
                self.account.heard(index, class, limit, now);
            }
        }
    }

    /// Each model's claim is what it would run now; they are returned.
    fn claim(&self, now: Instant) -> Vec<Wish> {
        let mut arbiter = self.arbiter.borrow_mut();
        let mut wishes = Vec::new();
        for (model, Model { seat, driver, .. }) in self.models.iter().enumerate() {
            let outlook = driver.wish();
            arbiter.claim(*seat, outlook, now);
            wishes.extend(outlook.map(|outlook| Wish { model, outlook, is_ahead: false }));
        }
        for wish in &mut wishes {
            wish.is_ahead = arbiter.is_ahead(self.models[wish.model].seat, now);
        }
        wishes
    }

    /// The instance of a called model takes its lane and runs.
    fn give(&mut self, wish: &Wish, now: Instant) -> Checked {
        let index = wish.model;
        let Model { seat, driver, has_changed } = &mut self.models[index];
        *has_changed = true;
        let class = wish.outlook.class;
        let (run, cap) = {
            let mut arbiter = self.arbiter.borrow_mut();
            (arbiter.take(*seat, now), Cap { class, run: arbiter.cap(*seat, class, now) })
        };
        let Some(run) = run else { return Ok(()) };
        self.trace.add(index as u64);
        if driver.run_on(run, cap)? {
            self.account.began(run, wish, cap.run, now)?;
        }
        Ok(())
    }
}
