//! The answers of a model whose owner asks for their order, as `scheduler` keeps them, and a simpler account of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::Driver;
use crate::batcher::{Leaves, Order};
use crate::simulation::Invariant;
use crate::simulation::ledger::{Checked, News, Outcome, Ticket, ensure};

#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) order: Order<Ticket>,
    turns: BTreeMap<Ticket, u64>,
    /// Accepted, and not ended and not left.
    open: BTreeSet<Ticket>,
    held: BTreeMap<Ticket, Instant>,
}

impl Answers {
    fn hear(&mut self, news: News, deadline: Instant, now: Instant) -> Checked {
        match news {
            News::Accepted(ticket) => {
                self.turns.insert(ticket, self.order.open());
                self.open.insert(ticket);
            }
            News::Ended(ticket, Outcome::Answered) => {
                self.held.insert(ticket, deadline);
                let turn = self.turns.get(&ticket).copied().unwrap_or(u64::MAX);
                let unwanted = self.order.answer(turn, deadline, ticket, now);
                ensure(unwanted.is_none(), Invariant::OneOutcome, || {
                    format!("{ticket:?} is answered twice")
                })?;
            }
            News::Ended(ticket, _) => {
                self.open.remove(&ticket);
                self.order.vacate(self.turns.get(&ticket).copied().unwrap_or(u64::MAX));
            }
        }
        Ok(())
    }

    /// Lets what is ready leave.
    fn leave(&mut self, now: Instant) -> Result<Vec<Ticket>, super::Broken> {
        let mut gone = Vec::new();
        while let Some(next) = self.order.pop() {
            let (Leaves::InTurn(ticket) | Leaves::TooLate(ticket)) = next;
            if let Leaves::InTurn(_) = next {
                let first = self.open.first().copied();
                ensure(first == Some(ticket), Invariant::AnswersInOrder, || {
                    format!("{ticket:?} leaves before {first:?}")
                })?;
            }
            let deadline = self.held.remove(&ticket);
            let may = matches!(next, Leaves::InTurn(_)) || deadline.is_some_and(|at| at <= now);
            ensure(deadline.is_some() && may, Invariant::HeldForAReason, || format!("{next:?} at {now:?}"))?;
            self.open.remove(&ticket);
            gone.push(ticket);
        }
        let first = self.open.first().filter(|first| self.held.contains_key(first));
        ensure(first.is_none(), Invariant::HeldForAReason, || format!("{first:?} is first, and held"))?;
        let late = self.held.iter().find(|(_, deadline)| **deadline <= now);
        ensure(late.is_none(), Invariant::HeldForAReason, || format!("{late:?} is held after its deadline"))?;
        Ok(gone)
    }
}

impl Driver<'_> {
    /// Answers what has ended since the last look, in order where that is asked for.
    pub(super) fn answer(&mut self) -> Checked {
        let news = std::mem::take(&mut self.ledger.news);
        let now = self.start + self.now;
        let Some(answers) = &mut self.answers else { return Ok(()) };
        answers.order.expire(now);
        let mut gone = answers.leave(now)?;
        for news in news {
            let (News::Accepted(ticket) | News::Ended(ticket, _)) = news;
            answers.hear(news, self.ledger.last_deadline(ticket), now)?;
            gone.extend(answers.leave(now)?);
        }
        for ticket in gone {
            self.note(&[ticket.0 as u64]);
        }
        Ok(())
    }
}

#[cfg(test)]
impl Driver<'_> {
    /// The same answers with a mistake in them.
    pub(in crate::simulation) fn with_order_bug(mut self, bug: crate::batcher::OrderBug) -> Self {
        if let Some(answers) = &mut self.answers {
            answers.order.bug = Some(bug);
        }
        self
    }
}
