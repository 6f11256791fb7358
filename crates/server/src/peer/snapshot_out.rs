//! Snapshots on their way to members that fell behind.

use std::rc::Rc;

use replica::{Input, MemberId};

use super::running::Peer;

/// Sends what raft asks for, for as long as the peer is one.
pub async fn send_for_ever(peer: Rc<Peer>) {
    while let Some(_message) = peer.links().next_snapshot(peer.id).await {
        let sent = Input::SnapshotSent {
            to: MemberId(peer.id),
            is_sent: false,
        };
        peer.context.member.report(sent);
    }
}
