//! How members speak to each other: etcd's peer protocol (`rafthttp`), on one thread.
//!
//! ```text
//!   this member                                            a peer
//!   stream_in   --GET /raft/stream/{msgapp,message}/<us>-->  serve, stream_out     what it has for us comes back
//!   serve, stream_out  <--GET /raft/stream/.../<them>------  stream_in             what we have for it goes back
//!   pipeline    --POST /raft------------------------------>  serve                 while it does not read our streams
//!   snapshot_out --POST /raft/snapshot-------------------->  serve, snapshot_in    when it has fallen behind
//!   probe       --GET /raft/probing----------------------->  serve                 how far away it is
//! ```
//! Who has something to send leaves it in [`links::Links`], from any thread; what comes goes to the replica's desk. Everything else on the
//! peer port is asked for by name: [`ask`] has the questions, [`answers`] the answers.
//!
//! Who the peers are is read from the published membership whenever it may have changed. A member that is not in it but speaks for this
//! cluster, as the leader does to one that has just been added, is answered through its pipeline until it is.
//!
//! Start with [`Peers::start`]; [`codec`] has the bytes. Source: upstream `server/etcdserver/api/rafthttp`.

pub mod answers;
pub mod ask;
mod body;
mod client;
pub mod codec;
pub mod dial;
mod headers;
pub mod links;
pub mod metrics;
mod pipeline;
mod probe;
mod report;
mod running;
mod serve;
mod snapshot_in;
mod snapshot_out;
mod stream_in;
mod stream_out;
mod timed;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use state::membership::{Member as ClusterMember, id_to_hex};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use crate::config::{Config, Url};
use crate::member::Member;
use crate::threads::snapshots::SnapshotDoor;
use crate::tls::{Acceptor, Address, Side};
use crate::transport::listen::{Listener, Security, SocketOptions};

pub use body::Body;
use client::Timeouts;
use dial::Dialer;
use headers::Own;
use running::{Context, Running};

/// Members that have asked and are not known, at most. More are not answered until they are.
const STRANGERS_MAX: usize = 16;
/// What handshakes of a listener are bounded by: as if it had so many connections.
const HANDSHAKES_MAX: usize = 256;
/// How long the thread may take to end.
const STOP: Duration = Duration::from_secs(2);

/// What the peers need to know of the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// Peer URLs that are told to others.
    pub advertise: Vec<Url>,
    pub timeouts: Timeouts,
    pub dialer: Dialer,
    /// Members as somebody told them, in force until the log says who is one.
    pub known: Vec<ClusterMember>,
}

impl Options {
    pub fn new(config: &Config, dialer: Dialer, known: Vec<ClusterMember>) -> Options {
        Options {
            advertise: config.urls.advertise_peer.clone(),
            dialer,
            timeouts: Timeouts {
                read: config.raft.read_timeout,
                write: config.raft.write_timeout,
            },
            known,
        }
    }
}

/// The peer URLs, bound, and the event loop that will serve them.
pub struct Ports {
    runtime: tokio::runtime::Runtime,
    listeners: Vec<(Listener, Url)>,
}

impl Ports {
    /// Binds what the configuration says. Connections wait until [`Peers::start`].
    ///
    /// # Errors
    /// An address is taken or does not exist, in the words that scripts look for.
    pub fn bind(config: &Config) -> Result<Ports, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|why| format!("no event loop: {why}"))?;
        let options = SocketOptions {
            reuse_port: config.socket.reuse_port,
        };
        let mut listeners = Vec::new();
        for url in &config.urls.listen_peer {
            let listener = runtime.block_on(Listener::bind(url, options))?;
            listeners.push((listener, url.clone()));
        }
        Ok(Ports { runtime, listeners })
    }

    /// Asks for TLS where the URLs say so.
    ///
    /// # Errors
    /// There is no certificate to serve with.
    pub fn secure(&mut self, side: &Arc<Side>) -> Result<(), String> {
        for (listener, url) in self.listeners.iter_mut().filter(|(_, url)| url.is_tls()) {
            let acceptor = Acceptor::new(side.clone(), Address::Checked, HANDSHAKES_MAX)
                .map_err(|why| format!("cannot listen on TLS for {}: {why}", url.host_port()))?;
            listener.secure(Security::Tls(acceptor));
        }
        Ok(())
    }
}

/// The thread that speaks with other members.
pub struct Peers {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Peers {
    /// Starts to listen to peers, and to keep up with those that there are. Snapshots of theirs come in through `snapshots`.
    ///
    /// # Errors
    /// The operating system refused a thread.
    pub fn start(
        options: Options,
        member: Arc<Member>,
        snapshots: SnapshotDoor,
        ports: Ports,
    ) -> io::Result<Peers> {
        let Ports { runtime, listeners } = ports;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("peers".into())
            .spawn(move || {
                let local = LocalSet::new();
                local.block_on(
                    &runtime,
                    run(options, (member, snapshots), listeners, stopped),
                );
            })?;
        Ok(Peers { stop, thread })
    }

    /// Ends all connections.
    pub fn stop(self) {
        drop(self.stop);
        let deadline = std::time::Instant::now() + STOP;
        while !self.thread.is_finished() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

async fn run(
    options: Options,
    (member, snapshots): (Arc<Member>, SnapshotDoor),
    listeners: Vec<(Listener, Url)>,
    stopped: oneshot::Receiver<()>,
) {
    let context = Rc::new(Context {
        own: Own::new(member.cluster_id, member.member_id, &options.advertise),
        member,
        snapshots: Arc::new(snapshots),
        dialer: options.dialer,
        timeouts: options.timeouts,
        strangers: RefCell::default(),
    });
    let peers: Rc<RefCell<BTreeMap<u64, Running>>> = Rc::default();
    let serving = listeners.into_iter().map(|(listener, url)| {
        serve::accept_for_ever(listener, url, context.clone(), peers.clone())
    });
    let serving = futures_util::future::join_all(serving);
    let watching = async {
        loop {
            keep_up(&context, &options.known, &mut peers.borrow_mut());
            context.member.links.members_changed.notified().await;
        }
    };
    // Dropping the local set, when this returns, ends every connection.
    tokio::select! {
        _ = stopped => {}
        () = watching => {}
        _ = serving => {}
    }
    peers.borrow_mut().clear();
}

/// Starts, moves and stops peers so that they are those of the membership.
fn keep_up(context: &Rc<Context>, known: &[ClusterMember], peers: &mut BTreeMap<u64, Running>) {
    let view = context.member.view.load();
    let members = view.members();
    let local = context.own.member_id;
    let applied: Vec<ClusterMember> = members.list();
    let wanted = if applied.is_empty() { known } else { &applied };
    let is_wanted = |id: u64| id != local && wanted.iter().any(|member| member.id == id);
    peers.retain(|id, running| {
        let stays = is_wanted(*id) || (!running.is_member && !members.removed.contains(id));
        if !stays {
            tell(
                "removed remote peer",
                local,
                *id,
                running.peer.urls.borrow().all(),
            );
        }
        stays
    });
    for member in wanted.iter().filter(|member| is_wanted(member.id)) {
        let urls = urls_of(member);
        match peers.get(&member.id) {
            Some(running) if running.is_member => {
                if running.peer.urls.borrow().all() != urls {
                    tell("updated remote peer", local, member.id, &urls);
                    running.peer.urls.borrow_mut().update(urls);
                }
            }
            _ => {
                // One that was only answered so far ends first, and takes its queue with it.
                peers.remove(&member.id);
                tell("added remote peer", local, member.id, &urls);
                let running = Running::start(context, member.id, urls, true);
                peers.insert(member.id, running);
            }
        }
    }
    let strangers = std::mem::take(&mut *context.strangers.borrow_mut());
    for (id, urls) in strangers {
        let count = peers.values().filter(|running| !running.is_member).count();
        let is_new = id != local && !peers.contains_key(&id) && !members.removed.contains(&id);
        if is_new && count < STRANGERS_MAX {
            tell("added new remote peer", local, id, &urls);
            peers.insert(id, Running::start(context, id, urls, false));
        }
    }
}

/// The URLs of a member that can be read. The log may hold others (etcd #13464); they cannot be dialed.
fn urls_of(member: &ClusterMember) -> Vec<Url> {
    let urls = member.peer_urls().iter();
    urls.filter_map(|url| Url::parse(url).ok()).collect()
}

fn tell(what: &'static str, local: u64, peer: u64, urls: &[Url]) {
    let urls: Vec<String> = urls.iter().map(Url::to_string).collect();
    tracing::info!(
        "local-member-id" = id_to_hex(local),
        "remote-peer-id" = id_to_hex(peer),
        "remote-peer-urls" = urls.join(","),
        "{what}"
    );
}
