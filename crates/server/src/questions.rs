//! Questions to the member's core from anywhere: other members' requests, duties, the shutdown.
//!
//! Calls of clients have slots on their own threads ([`crate::calls`]), because there are many of them. Whoever asks rarely asks
//! here; the answer is handed over on the spot by the thread that has it.

use std::sync::Mutex;

use proto::error;
use replica::Ticket;
use slab::Slab;
use tokio::sync::oneshot;

use crate::calls::Answer;

/// The number that stands for no connection thread.
pub const SHARD: usize = 255;
/// Questions that may wait at once. Further ones are refused, as the replica refuses what is too much for it.
const WAITING_MAX: usize = 10_000;

/// Those who wait.
#[derive(Default)]
pub struct Questions {
    /// Held only to put in or take out.
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    slots: Slab<(Ticket, oneshot::Sender<Answer>)>,
    uses: u64,
}

/// A question under way. Dropping it gives its place back.
pub struct Question<'a> {
    questions: &'a Questions,
    ticket: Ticket,
    answer: oneshot::Receiver<Answer>,
}

impl Questions {
    /// Opens a place. The caller sends the ticket with its question and then awaits the answer.
    ///
    /// # Errors
    /// Too many wait.
    pub fn open(&self) -> Result<Question<'_>, &'static error::RpcError> {
        let mut waiting = self.lock();
        if waiting.slots.len() >= WAITING_MAX {
            return Err(&error::TOO_MANY_REQUESTS);
        }
        let (sender, answer) = oneshot::channel();
        waiting.uses += 1;
        let uses = waiting.uses & 0xff_ffff;
        let entry = waiting.slots.vacant_entry();
        let ticket = Ticket((SHARD as u64) << 56 | uses << 32 | entry.key() as u64);
        entry.insert((ticket, sender));
        Ok(Question {
            questions: self,
            ticket,
            answer,
        })
    }

    /// Hands an answer over. One whose question was given up is dropped.
    pub fn deliver(&self, ticket: Ticket, answer: Answer) {
        if let Some(sender) = self.take(ticket) {
            let _ = sender.send(answer);
        }
    }

    fn take(&self, ticket: Ticket) -> Option<oneshot::Sender<Answer>> {
        let mut waiting = self.lock();
        let slot = (ticket.0 & 0xffff_ffff) as usize;
        let is_his = waiting.slots.get(slot).is_some_and(|s| s.0 == ticket);
        is_his.then(|| waiting.slots.remove(slot).1)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting
            .lock()
            .expect("no thread panics while it holds the questions")
    }
}

impl Question<'_> {
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Waits. The replica answers within the time of a request, or the member has stopped.
    pub async fn answer(mut self) -> Answer {
        let answer = (&mut self.answer).await;
        answer.unwrap_or(Err(&error::STOPPED))
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        drop(self.questions.take(self.ticket));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use replica::Reply;

    #[tokio::test]
    async fn an_answer_reaches_its_question_and_no_later_one() {
        let questions = Questions::default();
        let gone = questions.open().expect("a place");
        let late = gone.ticket();
        drop(gone);
        let next = questions.open().expect("a place");
        questions.deliver(late, Ok(Reply::ReadReady));
        questions.deliver(next.ticket(), Err(&error::NO_LEADER));
        assert!(matches!(next.answer().await, Err(why) if *why == error::NO_LEADER));
        assert!(questions.lock().slots.is_empty());
    }
}
