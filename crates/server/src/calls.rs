//! Questions to the member's core, and their way back to the connection that asked.
//!
//! Every connection thread has a [`Mailbox`] that other threads post answers to, a batch at a time, and [`Calls`], the slots
//! of its own tasks that wait. A ticket names the thread, the slot and how often the slot was used, so an answer that
//! comes after its caller has gone finds nobody and is dropped.
//!
//! ```text
//! 63    56 55          32 31           0
//! +-------+--------------+--------------+
//! | shard | use of slot  | slot         |
//! +-------+--------------+--------------+
//! ```

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use proto::error::{self, RpcError};
use replica::{Reply, Ticket};
use slab::Slab;
use tokio::sync::Notify;

/// What the core says to a question.
pub type Answer = Result<Reply, &'static RpcError>;

/// Where answers for one connection thread arrive. Bounded by the questions that wait, of which there are at most as many
/// as the replica admits.
#[derive(Default)]
pub struct Mailbox {
    /// Held only to push or swap; nothing else is locked meanwhile.
    answers: Mutex<Vec<(Ticket, Answer)>>,
    notify: Notify,
}

impl Mailbox {
    /// Adds answers and wakes the thread once.
    pub fn post(&self, answers: impl IntoIterator<Item = (Ticket, Answer)>) {
        self.answers
            .lock()
            .expect("no thread panics while it holds a mailbox")
            .extend(answers);
        self.notify.notify_one();
    }

    /// All answers that have come; waits for the first.
    pub async fn take(&self) -> Vec<(Ticket, Answer)> {
        loop {
            let taken = std::mem::take(
                &mut *self
                    .answers
                    .lock()
                    .expect("no thread panics while it holds a mailbox"),
            );
            if !taken.is_empty() {
                return taken;
            }
            self.notify.notified().await;
        }
    }
}

/// Which thread a ticket belongs to.
pub fn shard_of(ticket: Ticket) -> usize {
    (ticket.0 >> 56) as usize
}

/// The waiting tasks of one connection thread.
pub struct Calls {
    shard: u64,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    slots: Slab<Slot>,
    /// Counts all uses of all slots; its low bits tell one use of a slot from the next.
    uses: u64,
}

struct Slot {
    ticket: Ticket,
    answer: Option<Answer>,
    waker: Option<Waker>,
}

impl Calls {
    /// `shard` must be below 256, and the number under which the thread's mailbox is known.
    pub fn new(shard: usize) -> Rc<Self> {
        assert!(shard < 256, "a ticket has eight bits for the thread");
        Rc::new(Calls {
            shard: shard as u64,
            state: RefCell::default(),
        })
    }

    /// Opens a slot. The caller sends the ticket with its question and then awaits the call.
    pub fn open(self: &Rc<Self>) -> Call {
        let state = &mut *self.state.borrow_mut();
        state.uses += 1;
        let entry = state.slots.vacant_entry();
        let slot = entry.key() as u64;
        let ticket = Ticket(self.shard << 56 | (state.uses & 0xff_ffff) << 32 | slot);
        entry.insert(Slot {
            ticket,
            answer: None,
            waker: None,
        });
        Call {
            calls: self.clone(),
            slot: slot as usize,
            ticket,
        }
    }

    /// Gives answers to those who wait for them.
    pub fn deliver(&self, answers: Vec<(Ticket, Answer)>) {
        let state = &mut *self.state.borrow_mut();
        for (ticket, answer) in answers {
            let slot = (ticket.0 & 0xffff_ffff) as usize;
            let Some(slot) = state.slots.get_mut(slot).filter(|s| s.ticket == ticket) else {
                continue;
            };
            slot.answer = Some(answer);
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.state.borrow().slots.len()
    }

    /// Answers everybody: the member has stopped.
    pub fn fail_all(&self) {
        let state = &mut *self.state.borrow_mut();
        for (_, slot) in &mut state.slots {
            slot.answer.get_or_insert(Err(&error::STOPPED));
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }
}

/// A question under way. Dropping it gives the slot back.
pub struct Call {
    calls: Rc<Calls>,
    slot: usize,
    ticket: Ticket,
}

impl Call {
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl Future for Call {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let state = &mut *self.calls.state.borrow_mut();
        let slot = &mut state.slots[self.slot];
        match slot.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.state.borrow_mut().slots.remove(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_reaches_the_call_that_holds_its_ticket() {
        let calls = Calls::new(3);
        let (first, second) = (calls.open(), calls.open());
        assert_eq!(shard_of(first.ticket()), 3);
        calls.deliver(vec![
            (second.ticket(), Ok(Reply::ReadReady)),
            (first.ticket(), Err(&error::TIMEOUT)),
        ]);
        assert!(matches!(first.await, Err(e) if *e == error::TIMEOUT));
        assert!(matches!(second.await, Ok(Reply::ReadReady)));
        assert_eq!(calls.waiting(), 0);
    }

    #[tokio::test]
    async fn a_late_answer_does_not_reach_the_next_user_of_the_slot() {
        let calls = Calls::new(0);
        let gone = calls.open();
        let late = gone.ticket();
        drop(gone);
        let next = calls.open();
        calls.deliver(vec![(late, Ok(Reply::ReadReady))]);
        calls.deliver(vec![(next.ticket(), Err(&error::NO_LEADER))]);
        assert!(next.await.is_err());
    }
}
