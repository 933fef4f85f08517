//! Lets answers leave in the order in which their requests were accepted.
//!
//! A pure state machine like the batcher, with every moment passed in. An answer whose turn has not come is held; one that
//! leaves without an answer holds up nobody. What is held when its deadline passes is given up: whoever comes before it may
//! take as long as it likes, and a deadline holds all the same.
//!
//! Invariants: answers leave in the order of their numbers; the first that is open is never held; nothing is held at or
//! after its deadline once [`Order::expire`] was asked. Every call takes O(log n) steps for each answer that leaves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

/// How an answer leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves<T> {
    /// Its turn has come.
    InTurn(T),
    /// Its deadline has passed before.
    TooLate(T),
}

/// The requests that were accepted and whose answers have not left, with the answers that are there already.
#[derive(Debug)]
pub struct Order<T> {
    /// By number; `None` while there is no answer.
    open: BTreeMap<u64, Option<(Instant, T)>>,
    /// Of the answers that are held.
    deadlines: BTreeSet<(Instant, u64)>,
    ready: VecDeque<Leaves<T>>,
    next: u64,
    #[cfg(test)]
    pub(crate) bug: Option<OrderBug>,
}

/// One mistake, for the simulation to find.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OrderBug {
    /// An answer leaves when it is there.
    LeavesAtOnce,
    /// What leaves without an answer keeps its turn until the next answer comes.
    HoldsForTheGone,
    /// What is held is held whatever its deadline.
    KeepsTheLate,
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self {
            open: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            ready: VecDeque::new(),
            next: 0,
            #[cfg(test)]
            bug: None,
        }
    }
}

impl<T> Order<T> {
    /// A request is accepted; the number of its turn.
    pub fn open(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open.insert(number, None);
        number
    }

    /// The answer of a request is there at `now`. Given back when nobody waits for it any more.
    pub fn answer(&mut self, number: u64, deadline: Instant, answer: T, now: Instant) -> Option<T> {
        let Some(slot) = self.open.get_mut(&number) else { return Some(answer) };
        #[cfg(test)]
        if self.bug == Some(OrderBug::LeavesAtOnce) {
            self.open.remove(&number);
            self.ready.push_back(Leaves::InTurn(answer));
            return None;
        }
        *slot = Some((deadline, answer));
        self.deadlines.insert((deadline, number));
        self.advance();
        self.expire(now);
        None
    }

    /// A request has left, or leaves, without an answer: it failed, expired, or its caller has gone.
    /// Gives back an answer that was held for it.
    pub fn vacate(&mut self, number: u64) -> Option<T> {
        let held = self.open.remove(&number).flatten();
        if let Some((deadline, _)) = &held {
            self.deadlines.remove(&(*deadline, number));
        }
        #[cfg(test)]
        if self.bug == Some(OrderBug::HoldsForTheGone) {
            return None;
        }
        self.advance();
        held.map(|(_, answer)| answer)
    }

    /// Gives up what is held and whose deadline is at or before `now`.
    pub fn expire(&mut self, now: Instant) {
        #[cfg(test)]
        if self.bug == Some(OrderBug::KeepsTheLate) {
            return;
        }
        while let Some(&(deadline, number)) = self.deadlines.first() {
            if deadline > now {
                return;
            }
            self.deadlines.remove(&(deadline, number));
            if let Some(Some((_, answer))) = self.open.remove(&number) {
                self.ready.push_back(Leaves::TooLate(answer));
            }
        }
    }

    /// Lets the first leave as long as their answers are there.
    fn advance(&mut self) {
        while let Some(first) = self.open.first_entry() {
            let number = *first.key();
            if first.get().is_none() {
                return;
            }
            if let Some((deadline, answer)) = first.remove() {
                self.deadlines.remove(&(deadline, number));
                self.ready.push_back(Leaves::InTurn(answer));
            }
        }
    }

    /// The next answer that leaves, in order.
    pub fn pop(&mut self) -> Option<Leaves<T>> {
        self.ready.pop_front()
    }

    /// How many answers are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.deadlines.len()
    }

    /// When what is held is given up next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn left(order: &mut Order<char>) -> Vec<Leaves<char>> {
        std::iter::from_fn(|| order.pop()).collect()
    }

    #[test]
    fn answers_leave_in_the_order_of_their_requests() {
        let now = Instant::now();
        let late = now + Duration::from_secs(1);
        let mut order = Order::default();
        let numbers: Vec<u64> = (0..4).map(|_| order.open()).collect();
        assert_eq!(order.answer(numbers[2], late, 'c', now), None);
        assert_eq!(order.answer(numbers[1], late, 'b', now), None);
        assert_eq!((left(&mut order), order.held()), (vec![], 2));
        assert_eq!(order.answer(numbers[0], late, 'a', now), None);
        assert_eq!(left(&mut order), ['a', 'b', 'c'].map(Leaves::InTurn));
        assert_eq!((order.held(), order.next_deadline()), (0, None));
    }

    #[test]
    fn who_leaves_without_an_answer_holds_up_nobody() {
        let now = Instant::now();
        let late = now + Duration::from_secs(1);
        let mut order = Order::default();
        let numbers: Vec<u64> = (0..3).map(|_| order.open()).collect();
        order.answer(numbers[2], late, 'c', now);
        order.vacate(numbers[1]);
        assert!(left(&mut order).is_empty());
        order.vacate(numbers[0]);
        assert_eq!(left(&mut order), [Leaves::InTurn('c')]);
        assert_eq!(order.answer(numbers[0], late, 'a', now), Some('a'), "it has left");
    }

    #[test]
    fn what_is_held_is_given_up_at_its_deadline_and_whose_turn_it_is_never_is() {
        let now = Instant::now();
        let mut order = Order::default();
        let [first, second, third] = [(); 3].map(|()| order.open());
        let later = now + Duration::from_secs(1);
        order.answer(second, later, 'b', now);
        order.answer(third, now, 'c', now);
        assert_eq!(left(&mut order), [Leaves::TooLate('c')]);
        assert_eq!(order.next_deadline(), Some(later));
        order.expire(later);
        assert_eq!(left(&mut order), [Leaves::TooLate('b')]);
        order.answer(first, now, 'a', later);
        assert_eq!(left(&mut order), [Leaves::InTurn('a')]);
    }
}
