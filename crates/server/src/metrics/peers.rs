//! What is counted of each peer, one line for each.

use std::fmt::Display;

use state::membership::id_to_hex;

use super::Histogram;
use super::page::Page;
use crate::member::Member;
use crate::peer::metrics::{PeerMetrics, Transfers};

/// A peer as the page tells it.
struct Peer {
    id: String,
    is_active: bool,
    metrics: std::sync::Arc<PeerMetrics>,
}

/// All peers that there are.
pub(super) fn peers(page: &mut Page, member: &Member) {
    let peers = member.links.counts();
    let peers: Vec<Peer> = peers
        .into_iter()
        .map(|(id, is_active, metrics)| Peer {
            id: id_to_hex(id),
            is_active,
            metrics,
        })
        .collect();
    let local = id_to_hex(member.member_id);
    let between = |peer: &Peer| format!("{{Local=\"{local}\",Remote=\"{}\"}}", peer.id);
    let mut pairs = |name, kind, help, value: &dyn Fn(&Peer) -> u64| {
        all(page, name, kind, help, &peers, &between, value);
    };
    pairs(
        "etcd_network_active_peers",
        "gauge",
        "Peers that are connected.",
        &|peer| peer.is_active.into(),
    );
    pairs(
        "etcd_network_disconnected_peers_total",
        "counter",
        "Connections to peers that were lost.",
        &|peer| peer.metrics.disconnected.get(),
    );
    pairs(
        "etcd_network_known_peers",
        "gauge",
        "Peers that there are.",
        &|_| 1,
    );
    to_and_from(page, &peers);
    histograms(
        page,
        "etcd_network_peer_round_trip_time_seconds",
        "Time that a peer takes to answer.",
        "To",
        &peers,
        &|peer| &peer.metrics.round_trip,
    );
    snapshots(page, "send", "To", &peers, &|peer| {
        &peer.metrics.snapshots_sent
    });
    snapshots(page, "receive", "From", &peers, &|peer| {
        &peer.metrics.snapshots_received
    });
}

fn to_and_from(page: &mut Page, peers: &[Peer]) {
    let mut one = |name, label: &'static str, help, value: &dyn Fn(&PeerMetrics) -> u64| {
        let labels = |peer: &Peer| format!("{{{label}=\"{}\"}}", peer.id);
        let value = |peer: &Peer| value(&peer.metrics);
        all(page, name, "counter", help, peers, &labels, &value);
    };
    one(
        "etcd_network_peer_received_bytes_total",
        "From",
        "Bytes received from peers.",
        &|metrics| metrics.received_bytes.get(),
    );
    one(
        "etcd_network_peer_received_failures_total",
        "From",
        "Messages of peers that could not be read or taken.",
        &|metrics| metrics.received_failures.get(),
    );
    one(
        "etcd_network_peer_sent_bytes_total",
        "To",
        "Bytes sent to peers.",
        &|metrics| metrics.sent_bytes.get(),
    );
    one(
        "etcd_network_peer_sent_failures_total",
        "To",
        "Messages that could not be sent to peers.",
        &|metrics| metrics.sent_failures.get(),
    );
}

fn snapshots(
    page: &mut Page,
    direction: &str,
    label: &str,
    peers: &[Peer],
    of: &dyn Fn(&Peer) -> &Transfers,
) {
    let labels = |peer: &Peer| format!("{{{label}=\"{}\"}}", peer.id);
    let name = |what| format!("etcd_network_snapshot_{direction}_{what}");
    let mut one = |what, kind, help, value: &dyn Fn(&Transfers) -> u64| {
        let value = |peer: &Peer| value(of(peer));
        all(page, &name(what), kind, help, peers, &labels, &value);
    };
    one(
        "success",
        "counter",
        "Snapshots that arrived.",
        &|transfers| transfers.succeeded.get(),
    );
    one(
        "failures",
        "counter",
        "Snapshots that did not arrive.",
        &|transfers| transfers.failed.get(),
    );
    one(
        "inflights_total",
        "gauge",
        "Snapshots on their way.",
        &Transfers::under_way,
    );
    let took = name("total_duration_seconds");
    histograms(
        page,
        &took,
        "Time that snapshots took.",
        label,
        peers,
        &|peer| &of(peer).took,
    );
}

/// One metric of all peers.
fn all<V: Display>(
    page: &mut Page,
    name: &str,
    kind: &str,
    help: &str,
    peers: &[Peer],
    labels: &dyn Fn(&Peer) -> String,
    value: &dyn Fn(&Peer) -> V,
) {
    if peers.is_empty() {
        return;
    }
    page.head(name, kind, help);
    for peer in peers {
        page.line(name, &labels(peer), value(peer));
    }
}

fn histograms(
    page: &mut Page,
    name: &str,
    help: &str,
    label: &str,
    peers: &[Peer],
    of: &dyn Fn(&Peer) -> &Histogram,
) {
    if peers.is_empty() {
        return;
    }
    page.head(name, "histogram", help);
    for peer in peers {
        page.buckets(name, &format!("{label}=\"{}\"", peer.id), of(peer));
    }
}
