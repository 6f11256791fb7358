//! What the tasks of a peer tell the replica.

use replica::{Input, MemberId};

use crate::member::Member;

/// Messages to this peer are lost. If too much waits at the replica, it will learn of it by the next one that is lost.
pub fn unreachable(member: &Member, peer: u64) {
    let _ = member.tell(Input::PeerUnreachable(MemberId(peer)));
}

/// The process of this peer has ended: it was connected, and now nobody listens there.
pub fn gone(member: &Member, peer: u64) {
    let _ = member.tell(Input::PeerGone(MemberId(peer)));
}

/// Hands over what a peer has sent. How many were dropped because too much waits.
pub fn received(member: &Member, messages: Vec<Input>) -> usize {
    member.deliver(messages)
}
