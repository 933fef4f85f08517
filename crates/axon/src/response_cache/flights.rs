//! Who waits for the run of a question that is under way, so that identical questions run once.
//!
//! A flight: begun by its leader, whose run it is → joined by followers → finished, when all are answered; or failed: the
//! leader alone bears that, and the first follower leads from then on; or over, when the last has left. The leader may
//! leave before the others; its run goes on for them.
//!
//! A pure state machine. `W` is a caller who waits, `R` what the caller's run can be stopped by.

use std::collections::HashMap;
use std::time::Instant;

use super::key::{Key, Keys};

/// A caller's place in a flight; no other has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The flight.
    pub key: Key,
    id: u64,
}

struct Waiting<W> {
    id: u64,
    /// For followers: a leader's deadline is its run's.
    deadline: Instant,
    weight: usize,
    class: u32,
    waiter: W,
}

struct Flight<W, R> {
    /// No other run of this table has the same; results of earlier ones come to nothing.
    run: u64,
    handle: Option<R>,
    class: u32,
    /// `None` when it has left.
    leader: Option<W>,
    leader_id: u64,
    /// In the order in which they came.
    followers: Vec<Waiting<W>>,
}

/// The flights of one model.
pub struct Flights<W, R> {
    open: HashMap<Key, Flight<W, R>, Keys>,
    next: u64,
    followers: usize,
    weight: usize,
}

/// What a caller was that has left.
pub struct Left<W, R> {
    /// The caller.
    pub waiter: W,
    /// Whether the run was its own.
    pub was_leader: bool,
    /// Whether nobody waits for the run any more.
    pub was_last: bool,
    /// Stops the run that nobody waits for, where it has been told yet.
    pub handle: Option<R>,
}

/// Who is answered by a run.
pub struct Finished<W> {
    /// Whose run it was; `None` when it has left.
    pub leader: Option<W>,
    /// The others, in the order in which they came.
    pub followers: Vec<W>,
}

/// What is to be done after a run that failed.
pub struct Failed<W, N> {
    /// Who bears it; `None` when it has left.
    pub leader: Option<W>,
    /// Who leads now: what was made of it, and its run.
    pub next: Option<(N, u64)>,
}

impl<W, R> Default for Flights<W, R> {
    fn default() -> Self {
        Self { open: HashMap::default(), next: 0, followers: 0, weight: 0 }
    }
}

impl<W, R> Flights<W, R> {
    /// The urgency of the run of `key`, 1 before 2; `None` when there is none.
    #[must_use]
    pub fn class(&self, key: Key) -> Option<u32> {
        self.open.get(&key).map(|flight| flight.class)
    }

    /// How many follow, in all flights, and what they weigh.
    #[must_use]
    pub fn followers(&self) -> (usize, usize) {
        (self.followers, self.weight)
    }

    /// Begins a flight; returns its run and its leader's place. There must be none of this key.
    pub fn begin(&mut self, key: Key, class: u32, leader: W) -> (u64, Member) {
        let (run, id) = (self.number(), self.number());
        let followers = Vec::new();
        let flight = Flight { run, handle: None, class, leader: Some(leader), leader_id: id, followers };
        self.open.insert(key, flight);
        (run, Member { key, id })
    }

    /// Joins the flight of `key` until `deadline`, as urgent as `class` should it lead; gives the caller back when there is none.
    ///
    /// # Errors
    /// The caller.
    pub fn join(
        &mut self,
        key: Key,
        class: u32,
        deadline: Instant,
        weight: usize,
        waiter: W,
    ) -> Result<Member, W> {
        let id = self.number();
        let Some(flight) = self.open.get_mut(&key) else { return Err(waiter) };
        flight.followers.push(Waiting { id, deadline, weight, class, waiter });
        self.followers += 1;
        self.weight += weight;
        Ok(Member { key, id })
    }

    /// Says how a run can be stopped; gives it back when nobody waits for that run any more.
    ///
    /// # Errors
    /// The handle.
    pub fn started(&mut self, key: Key, run: u64, handle: R) -> Result<(), R> {
        match self.open.get_mut(&key) {
            Some(flight) if flight.run == run => {
                flight.handle = Some(handle);
                Ok(())
            }
            _ => Err(handle),
        }
    }

    /// Takes a caller out; `None` when it has been answered.
    pub fn leave(&mut self, member: Member) -> Option<Left<W, R>> {
        let flight = self.open.get_mut(&member.key)?;
        let was_leader = flight.leader_id == member.id;
        let waiter = if was_leader {
            flight.leader.take()?
        } else {
            let index = flight.followers.iter().position(|follower| follower.id == member.id)?;
            let Waiting { weight, waiter, .. } = flight.followers.remove(index);
            self.followers -= 1;
            self.weight -= weight;
            waiter
        };
        let was_last = flight.leader.is_none() && flight.followers.is_empty();
        let flight = if was_last { self.open.remove(&member.key) } else { None };
        Some(Left { waiter, was_leader, was_last, handle: flight.and_then(|flight| flight.handle) })
    }

    /// Ends the flight whose run has its answer; `None` when nobody waits for that run.
    pub fn finish(&mut self, key: Key, run: u64) -> Option<Finished<W>> {
        if self.open.get(&key)?.run != run {
            return None;
        }
        let Flight { leader, followers, .. } = self.open.remove(&key)?;
        self.followers -= followers.len();
        self.weight -= followers.iter().map(|follower| follower.weight).sum::<usize>();
        Some(Finished { leader, followers: followers.into_iter().map(|follower| follower.waiter).collect() })
    }

    /// Passes the lead on when a run has failed; `prepare` makes of the next leader what its run needs, with its deadline.
    /// `None` when nobody waits for that run.
    pub fn fail<N>(
        &mut self,
        key: Key,
        run: u64,
        prepare: impl FnOnce(&mut W, Instant) -> N,
    ) -> Option<Failed<W, N>> {
        let next_run = self.number();
        let flight = self.open.get_mut(&key).filter(|flight| flight.run == run)?;
        let leader = flight.leader.take();
        if flight.followers.is_empty() {
            self.open.remove(&key);
            return Some(Failed { leader, next: None });
        }
        let Waiting { id, deadline, weight, class, mut waiter } = flight.followers.remove(0);
        self.followers -= 1;
        self.weight -= weight;
        let next = prepare(&mut waiter, deadline);
        flight.run = next_run;
        flight.handle = None;
        flight.leader = Some(waiter);
        flight.leader_id = id;
        flight.class = class;
        Some(Failed { leader, next: Some((next, next_run)) })
    }

    /// The followers whose deadline is not after `now`.
    #[must_use]
    pub fn due(&self, now: Instant) -> Vec<Member> {
        let flights = self.open.iter();
        let due = |(&key, flight)| {
            let flight: &Flight<W, R> = flight;
            let due = flight.followers.iter().filter(|follower| follower.deadline <= now);
            due.map(|follower| Member { key, id: follower.id }).collect::<Vec<_>>()
        };
        flights.flat_map(due).collect()
    }

    /// The earliest deadline of a follower.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let followers = self.open.values().flat_map(|flight| &flight.followers);
        followers.map(|follower| follower.deadline).min()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}
