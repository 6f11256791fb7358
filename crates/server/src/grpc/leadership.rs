//! Streams that want a leader: they end when this member has had none for too long.
//!
//! A client says so with `hasleader: true`. Source: upstream `server/etcdserver/api/v3rpc/interceptor.go`, `monitorLeader`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::Notify;

use crate::member::Member;

/// The streams of one connection thread that want a leader.
#[derive(Default)]
pub struct Leadership {
    waiting: RefCell<Slab<Option<Waker>>>,
    /// How often the leader was found missing for too long.
    losses: Cell<u64>,
    added: Notify,
}

/// One stream's wish for a leader.
pub struct Wish {
    leadership: Rc<Leadership>,
    slot: usize,
    losses: u64,
}

impl Leadership {
    pub fn wish(self: &Rc<Self>) -> Wish {
        let slot = self.waiting.borrow_mut().insert(None);
        self.added.notify_one();
        Wish {
            leadership: self.clone(),
            slot,
            losses: self.losses.get(),
        }
    }

    /// Looks for the leader as long as somebody wants one.
    pub async fn run(&self, member: &Member) {
        let election = member
            .settings()
            .election_timeout
            .max(Duration::from_millis(10));
        let mut missing_since = None;
        loop {
            if self.waiting.borrow().is_empty() {
                missing_since = None;
                self.added.notified().await;
            }
            tokio::time::sleep(election).await;
            if member.raft.has_leader() {
                missing_since = None;
                continue;
            }
            let since = *missing_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= 2 * election {
                self.lose();
            }
        }
    }

    fn lose(&self) {
        self.losses.set(self.losses.get() + 1);
        for (_, waker) in self.waiting.borrow_mut().iter_mut() {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }
}

impl Wish {
    /// Ready when the leader is lost.
    pub fn poll_lost(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.leadership.losses.get() != self.losses {
            return Poll::Ready(());
        }
        self.leadership.waiting.borrow_mut()[self.slot] = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Wish {
    fn drop(&mut self) {
        self.leadership.waiting.borrow_mut().remove(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_ends_with_the_leader_it_was_made_under_and_a_new_one_does_not() {
        let leadership = Rc::new(Leadership::default());
        let mut cx = Context::from_waker(Waker::noop());
        let before = leadership.wish();
        assert!(before.poll_lost(&mut cx).is_pending());
        leadership.lose();
        let after = leadership.wish();
        assert!(before.poll_lost(&mut cx).is_ready());
        assert!(after.poll_lost(&mut cx).is_pending());
        drop((before, after));
        assert!(leadership.waiting.borrow().is_empty());
    }
}
