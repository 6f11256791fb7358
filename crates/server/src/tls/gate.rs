//! How many handshakes may be under way at a listener, and whose.
//!
//! Handshakes cost memory and time before anybody has shown who they are, so a listener lets only so many be computed at once
//! ([`Bounds::active`]), and one address only a share of them. Who comes above that waits: the addresses take turns, so that a flood from one does not hold up the others. When an address has too many waiting, its next
//! connections are closed at once; when the room is full, new connections stay in the kernel's backlog. Every wait ends with
//! the deadline of the handshake, which begins when the connection is accepted. (GHSA-6vch-q96h-7gc3)
//!
//! ```text
//! backlog ──knock──> waiting (one queue an address) ──in turn──> active ──done──> (served, or closed)
//! ```

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// How many, by listener and by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Handshakes under way at once.
    active: usize,
    active_per_source: usize,
    /// Connections that have not finished their handshake, waiting ones included. Each holds a file.
    present: usize,
    present_per_source: usize,
}

impl Bounds {
    /// For a listener that may have so many connections: at most half of them may be unfinished, and a quarter those of one
    /// address, so that there is room for others.
    pub fn of(connections_max: usize) -> Self {
        let present = (connections_max / 2).clamp(8, 8192);
        let active = present.min(512);
        Bounds {
            active,
            active_per_source: active / 4,
            present,
            present_per_source: present / 2,
        }
    }
}

/// Who shares a share: an IPv4 address, an IPv6 network of 64 bits (one household or machine has that many), or whoever
/// comes through a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    Address(IpAddr),
    Local,
}

impl Source {
    fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V6(address)) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Source::Address(Ipv6Addr::from_bits(network).into())
            }
            Some(address) => Source::Address(address),
            None => Source::Local,
        }
    }
}

/// The gate of one listener.
#[derive(Debug)]
pub struct Gate {
    bounds: Bounds,
    /// Held for a few steps of a map and a queue, never across an await.
    state: Mutex<State>,
    /// Told when somebody has left a full room.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    present: usize,
    active: usize,
    sources: HashMap<Source, Share>,
    /// Sources that have somebody waiting and room in their share, in the order of their turns.
    turns: VecDeque<Source>,
}

#[derive(Debug, Default)]
struct Share {
    present: usize,
    active: usize,
    waiting: VecDeque<oneshot::Sender<Pass>>,
    has_turn: bool,
}

/// A connection that was accepted and has not finished its handshake.
#[derive(Debug)]
pub struct Knock {
    gate: Arc<Gate>,
    source: Source,
}

/// Leave to compute a handshake. Dropped when it is done.
#[derive(Debug)]
pub struct Pass {
    gate: Option<Arc<Gate>>,
    source: Source,
}

impl Gate {
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Gate {
            bounds,
            state: Mutex::default(),
            room: Notify::new(),
        })
    }

    /// Waits until one more may be accepted.
    pub async fn room(&self) {
        loop {
            let freed = self.room.notified();
            if self.lock().present < self.bounds.present {
                return;
            }
            freed.await;
        }
    }

    /// Counts a connection that was accepted; `None` if its address has too many.
    pub fn knock(self: &Arc<Self>, from: Option<IpAddr>) -> Option<Knock> {
        let source = Source::of(from);
        let mut state = self.lock();
        let share = state.sources.entry(source).or_default();
        // Nobody but us comes through a Unix socket, so there it is for the room alone to say.
        if share.present >= self.bounds.present_per_source && source != Source::Local {
            return None;
        }
        share.present += 1;
        state.present += 1;
        Some(Knock {
            gate: self.clone(),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.lock();
        (state.present, state.active, state.sources.len())
    }
}

impl Knock {
    /// Waits for its turn.
    pub async fn enter(&self) -> Pass {
        let receiver = {
            let mut state = self.gate.lock();
            let (sender, receiver) = oneshot::channel();
            let share = state.share(self.source);
            share.waiting.push_back(sender);
            state.queue(self.source, &self.gate.bounds);
            state.call(&self.gate);
            receiver
        };
        receiver
            .await
            .expect("a sender in the queue is used or its receiver has gone")
    }
}

impl Drop for Knock {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.present -= 1;
        let share = state.share(self.source);
        share.present -= 1;
        if share.present == 0 {
            assert_eq!(
                share.active, 0,
                "a handshake goes on without its connection"
            );
            state.sources.remove(&self.source);
            state.turns.retain(|source| *source != self.source);
        }
        drop(state);
        self.gate.room.notify_one();
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let Some(gate) = self.gate.take() else {
            return;
        };
        let mut state = gate.lock();
        state.active -= 1;
        state.share(self.source).active -= 1;
        state.queue(self.source, &gate.bounds);
        state.call(&gate);
    }
}

impl State {
    fn share(&mut self, source: Source) -> &mut Share {
        let share = self.sources.get_mut(&source);
        share.expect("a source is known for as long as one of its connections is present")
    }

    /// Gives a source a turn if it can use one.
    fn queue(&mut self, source: Source, bounds: &Bounds) {
        let share = self.share(source);
        let has_room = source == Source::Local || share.active < bounds.active_per_source;
        if !share.has_turn && !share.waiting.is_empty() && has_room {
            share.has_turn = true;
            self.turns.push_back(source);
        }
    }

    /// Lets in whoever is next, as many as may be.
    fn call(&mut self, gate: &Arc<Gate>) {
        while self.active < gate.bounds.active {
            let Some(source) = self.turns.pop_front() else {
                return;
            };
            let share = self.share(source);
            share.has_turn = false;
            if let Some(sender) = share.waiting.pop_front() {
                let pass = Pass {
                    gate: Some(gate.clone()),
                    source,
                };
                match sender.send(pass) {
                    Ok(()) => {
                        share.active += 1;
                        self.active += 1;
                    }
                    // It has given up. Its pass was never counted, and must not lock what is locked.
                    Err(mut pass) => pass.gate = None,
                }
            }
            self.queue(source, &gate.bounds);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    const BOUNDS: Bounds = Bounds {
        active: 8,
        active_per_source: 2,
        present: 40,
        present_per_source: 20,
    };

    fn gate() -> Arc<Gate> {
        Gate::new(BOUNDS)
    }

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    /// Lets `count` connections of an address in; each must get in at once.
    fn fill(gate: &Arc<Gate>, from: Option<IpAddr>, count: usize) -> Vec<(Pass, Knock)> {
        let one = || {
            let knock = gate.knock(from).expect("room");
            let pass = knock.enter().now_or_never().expect("at once");
            (pass, knock)
        };
        std::iter::repeat_with(one).take(count).collect()
    }

    #[test]
    fn an_address_has_its_share_and_no_more() {
        let gate = gate();
        let mut inside = fill(&gate, address(1), BOUNDS.active_per_source);
        let knock = gate.knock(address(1)).expect("may wait");
        let mut waits = Box::pin(knock.enter());
        assert!((&mut waits).now_or_never().is_none());
        fill(&gate, address(2), 1);
        inside.pop();
        assert!(waits.now_or_never().is_some());
    }

    #[test]
    fn addresses_take_turns_when_all_is_taken() {
        let gate = gate();
        let mut inside: Vec<_> = (1..=4)
            .flat_map(|last| fill(&gate, address(last), BOUNDS.active_per_source))
            .collect();
        assert_eq!(gate.counts().1, BOUNDS.active);
        let wait = |last| gate.knock(address(last)).expect("may wait");
        let (flood, single): (Vec<_>, _) = ((0..10).map(|_| wait(9)).collect(), wait(10));
        let mut floods: Vec<_> = flood.iter().map(|knock| Box::pin(knock.enter())).collect();
        for waits in &mut floods {
            assert!(waits.now_or_never().is_none());
        }
        let mut waits = Box::pin(single.enter());
        assert!((&mut waits).now_or_never().is_none());
        inside.pop();
        assert!(
            (&mut waits).now_or_never().is_none(),
            "the flood came first"
        );
        let first = (&mut floods[0]).now_or_never();
        assert!(first.is_some());
        inside.pop();
        assert!(waits.now_or_never().is_some(), "the second turn");
    }

    #[test]
    fn who_gives_up_leaves_nothing_behind() {
        let gate = gate();
        let mut inside = fill(&gate, address(1), BOUNDS.active_per_source);
        let knocks: Vec<_> = (0..3)
            .map(|_| gate.knock(address(1)).expect("room"))
            .collect();
        let mut waits: Vec<_> = knocks.iter().map(|knock| Box::pin(knock.enter())).collect();
        for waits in &mut waits {
            assert!(waits.now_or_never().is_none());
        }
        drop(waits.remove(0));
        // Passes the first, who has gone, and reaches the second, who goes without taking it, so the third has it.
        inside.pop();
        drop(waits.remove(0));
        assert!(waits.remove(0).now_or_never().is_some());
        drop(waits);
        drop((inside, knocks));
        assert_eq!(gate.counts(), (0, 0, 0));
    }

    #[test]
    fn an_address_with_too_many_is_refused_and_the_room_is_bounded() {
        let gate = gate();
        let knock = |last| gate.knock(address(last));
        let mut present: Vec<_> = (0..BOUNDS.present_per_source)
            .filter_map(|_| knock(1))
            .collect();
        assert_eq!(present.len(), BOUNDS.present_per_source);
        assert!(knock(1).is_none());
        present.extend((0..BOUNDS.present_per_source).filter_map(|_| knock(2)));
        assert!(gate.room().now_or_never().is_none());
        let mut room = Box::pin(gate.room());
        assert!((&mut room).now_or_never().is_none());
        present.pop();
        assert!(room.now_or_never().is_some());
    }

    #[test]
    fn bounds_leave_room_for_others_on_any_machine() {
        for connections_max in [1, 100, 874, 19_850, usize::MAX] {
            let bounds = Bounds::of(connections_max);
            assert!(0 < bounds.active_per_source && bounds.active_per_source < bounds.active);
            assert!(bounds.active <= bounds.present && bounds.present_per_source < bounds.present);
        }
        assert_eq!(Bounds::of(874).present, 437);
        assert_eq!(Bounds::of(19_850).active_per_source, 128);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let of = |text: &str| Source::of(Some(text.parse().expect("an address")));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
