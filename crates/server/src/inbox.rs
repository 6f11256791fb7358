//! The inbox of a thread that takes everything that has gathered, works, and comes back.
//!
//! A channel of the usual kind hands over one item at a time and spins before it sleeps, which is dear when most waits are for a disk or
//! a client. Here taking all costs one lock, waiting costs nothing, and a sender makes a system call only when the owner
//! sleeps. Waiting and taking are apart, so that an owner may wait first, then lock what it guards, and only then take.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// Items on their way to one owner.
pub struct Inbox<T> {
    /// Held only to add, take or look; nothing else is locked meanwhile.
    state: Mutex<State<T>>,
    arrived: Condvar,
    room: Condvar,
    bound: usize,
}

struct State<T> {
    items: VecDeque<T>,
    is_closed: bool,
    owner_waits: bool,
    senders_waiting: usize,
}

/// How often an owner lets others run before it sleeps.
const YIELDS: usize = 1;

/// Why an item was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many items wait as may.
    Full,
    /// The owner has gone.
    Closed,
}

impl<T> Inbox<T> {
    /// At most `bound` items wait, [`Inbox::push`] excepted.
    pub fn new(bound: usize) -> Self {
        assert!(bound > 0, "an inbox that holds nothing");
        Inbox {
            state: Mutex::new(State {
                items: VecDeque::new(),
                is_closed: false,
                owner_waits: false,
                senders_waiting: 0,
            }),
            arrived: Condvar::new(),
            room: Condvar::new(),
            bound,
        }
    }

    /// Adds an item if there is room.
    ///
    /// # Errors
    /// There is none, or the owner has gone. The item is dropped.
    pub fn offer(&self, item: T) -> Result<(), Refused> {
        let state = self.lock();
        if state.items.len() >= self.bound && !state.is_closed {
            return Err(Refused::Full);
        }
        self.add(state, item)
    }

    /// Adds an item, and waits for room first. For owners that never wait for the caller.
    ///
    /// # Errors
    /// The owner has gone. The item is dropped.
    pub fn send(&self, item: T) -> Result<(), Refused> {
        let mut state = self.lock();
        while state.items.len() >= self.bound && !state.is_closed {
            state.senders_waiting += 1;
            state = self.room.wait(state).expect(NO_PANIC);
            state.senders_waiting -= 1;
        }
        self.add(state, item)
    }

    /// Adds an item whether there is room or not: for completions, of which there are no more than jobs in flight. Once the owner
    /// has gone the item is dropped.
    pub fn push(&self, item: T) {
        let _ = self.add(self.lock(), item);
    }

    fn add(&self, mut state: MutexGuard<'_, State<T>>, item: T) -> Result<(), Refused> {
        if state.is_closed {
            return Err(Refused::Closed);
        }
        state.items.push_back(item);
        let wake = std::mem::take(&mut state.owner_waits);
        drop(state);
        if wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits until something is there, the inbox is closed, or the time has come. Only the owner may.
    pub fn wait(&self, until: Option<Instant>) {
        // On a busy machine somebody is about to add something: letting them run is cheaper than sleeping and being woken, and
        // gathers more. On an idle one this returns at once.
        for _ in 0..YIELDS {
            if !self.is_empty() {
                return;
            }
            std::thread::yield_now();
        }
        let mut state = self.lock();
        while state.items.is_empty() && !state.is_closed {
            state.owner_waits = true;
            state = match until {
                None => self.arrived.wait(state).expect(NO_PANIC),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        state.owner_waits = false;
                        return;
                    }
                    self.arrived.wait_timeout(state, left).expect(NO_PANIC).0
                }
            };
        }
        state.owner_waits = false;
    }

    /// Moves what is there, at most `most` items, to the end of `taken`, in the order in which it came.
    pub fn take(&self, most: usize, taken: &mut Vec<T>) {
        let mut state = self.lock();
        let count = state.items.len().min(most);
        taken.extend(state.items.drain(..count));
        if state.senders_waiting > 0 {
            self.room.notify_all();
        }
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.lock().items.is_empty()
    }

    /// The owner goes or is to go: what is there is dropped, and so is what would come.
    pub fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        let left = std::mem::take(&mut state.items);
        drop(state);
        self.room.notify_all();
        self.arrived.notify_all();
        // Dropping an item may tell somebody who waits for its answer.
        drop(left);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect(NO_PANIC)
    }
}

const NO_PANIC: &str = "no thread panics while it holds an inbox";

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn items_come_out_in_the_order_in_which_they_came_and_no_more_than_asked_for() {
        let inbox = Inbox::new(8);
        for item in 0..5 {
            inbox.offer(item).expect("room");
        }
        let mut taken = Vec::new();
        inbox.take(3, &mut taken);
        assert_eq!(taken, [0, 1, 2]);
        inbox.take(usize::MAX, &mut taken);
        assert_eq!(taken, [0, 1, 2, 3, 4]);
        assert!(inbox.is_empty());
    }

    #[test]
    fn a_full_inbox_refuses_offers_and_takes_completions() {
        let inbox = Inbox::new(1);
        assert_eq!(inbox.offer('a'), Ok(()));
        assert_eq!(inbox.offer('b'), Err(Refused::Full));
        inbox.push('c');
        let mut taken = Vec::new();
        inbox.take(9, &mut taken);
        assert_eq!(taken, ['a', 'c']);
    }

    #[test]
    fn a_closed_inbox_drops_what_it_has_and_what_comes() {
        let (told, items) = (Arc::new(()), Inbox::new(4));
        items.push(told.clone());
        items.close();
        assert_eq!(Arc::strong_count(&told), 1);
        assert_eq!(items.offer(told.clone()), Err(Refused::Closed));
        assert_eq!(items.send(told.clone()), Err(Refused::Closed));
        items.push(told.clone());
        assert_eq!(Arc::strong_count(&told), 1);
    }

    #[test]
    fn waiting_ends_when_the_time_has_come() {
        let inbox = Inbox::<u8>::new(1);
        inbox.wait(Some(Instant::now() + Duration::from_millis(1)));
        assert!(inbox.is_empty());
    }

    #[test]
    fn an_owner_that_sleeps_and_senders_without_room_are_woken() {
        let inbox = Arc::new(Inbox::new(2));
        let sender = {
            let inbox = inbox.clone();
            std::thread::spawn(move || (0..1_000).try_for_each(|item| inbox.send(item)))
        };
        let mut taken = Vec::new();
        while taken.len() < 1_000 {
            inbox.wait(None);
            inbox.take(1, &mut taken);
        }
        assert_eq!(sender.join().expect("no panic"), Ok(()));
        assert!(taken.is_sorted());
    }

    #[test]
    fn closing_wakes_the_owner() {
        let inbox = Arc::new(Inbox::<u8>::new(1));
        let owner = {
            let inbox = inbox.clone();
            std::thread::spawn(move || inbox.wait(None))
        };
        while !inbox.lock().owner_waits {
            std::thread::yield_now();
        }
        inbox.close();
        owner.join().expect("the wait is over");
    }

    #[test]
    fn closing_wakes_a_sender_without_room() {
        let inbox = Arc::new(Inbox::new(1));
        inbox.push(0);
        let sender = {
            let inbox = inbox.clone();
            std::thread::spawn(move || inbox.send(1))
        };
        while inbox.lock().senders_waiting == 0 {
            std::thread::yield_now();
        }
        inbox.close();
        assert_eq!(sender.join().expect("no panic"), Err(Refused::Closed));
    }
}
