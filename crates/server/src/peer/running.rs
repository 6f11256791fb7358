//! One peer: what is known of it, and the tasks that keep up with it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use state::membership::id_to_hex;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

use super::client::{Connection, Failure, Picker, Timeouts, Urls};
use super::codec::Kind;
use super::dial::Dialer;
use super::headers::Own;
use super::links::Links;
use super::metrics::PeerMetrics;
use super::{pipeline, probe, snapshot_out, stream_in};
use crate::config::Url;
use crate::member::Member;
use crate::threads::snapshots::SnapshotDoor;

/// What all peers share.
pub struct Context {
    pub member: Arc<Member>,
    /// Where snapshots of other members come in.
    pub snapshots: Arc<SnapshotDoor>,
    pub own: Own,
    pub dialer: Dialer,
    pub timeouts: Timeouts,
    /// Members that have asked before this one has heard of them, and where they are.
    pub strangers: RefCell<Vec<(u64, Vec<Url>)>>,
}

impl Context {
    /// Says who this member is.
    pub fn introduce(&self, headers: &mut HeaderMap) {
        self.own.introduce(headers, self.member.version_for_peers());
    }

    /// A peer says that this member is none any more.
    pub fn tell_removed(&self) {
        self.member.was_removed();
    }
}

/// One peer.
pub struct Peer {
    pub id: u64,
    pub context: Rc<Context>,
    pub urls: Picker,
    pub metrics: Arc<PeerMetrics>,
    came: [Notify; 2],
}

impl Peer {
    /// This member and the peer, as the log shows them.
    pub fn ids(&self) -> (String, String) {
        (id_to_hex(self.context.own.member_id), id_to_hex(self.id))
    }

    pub fn links(&self) -> &Links {
        &self.context.member.links
    }

    pub fn activate(&self) {
        self.links().activate(self.id);
    }

    pub fn deactivate(&self, source: &str, action: &str, why: &str) {
        self.links().deactivate(self.id, source, action, why);
    }

    /// Whether a URL is still the one in use.
    pub fn is_current(&self, url: &Url) -> bool {
        self.urls.borrow().pick().as_ref() == Some(url)
    }

    /// Connects to the peer, for requests one after the other.
    ///
    /// # Errors
    /// Nobody answers there; another URL is tried next time.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        let url = self.urls.borrow().pick().ok_or(Failure::NoUrl)?;
        let opened = Connection::open(
            url.clone(),
            &self.context.dialer,
            self.context.timeouts,
            None,
        )
        .await;
        if opened.is_err() {
            self.urls.borrow_mut().failed(&url);
        }
        opened
    }

    /// The peer has come to this member, so it can be reached again.
    pub fn has_come(&self) {
        self.came.iter().for_each(Notify::notify_one);
    }

    /// Waits until the peer comes.
    pub async fn came_by_itself(&self, kind: Kind) {
        self.came[usize::from(kind == Kind::Message)]
            .notified()
            .await;
    }
}

/// A peer and its tasks, which end when this is dropped.
pub struct Running {
    pub peer: Rc<Peer>,
    /// Whether it is a member as far as this one knows, and not only one that said so.
    pub is_member: bool,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts to keep up with a peer. One that is not known as a member is only answered.
    pub fn start(context: &Rc<Context>, id: u64, urls: Vec<Url>, is_member: bool) -> Running {
        context.member.links.open(id);
        let peer = Rc::new(Peer {
            id,
            context: context.clone(),
            urls: Rc::new(RefCell::new(Urls::new(urls))),
            metrics: context.member.links.metrics(id),
            came: Default::default(),
        });
        let mut tasks = Vec::new();
        for _ in 0..pipeline::WORKERS {
            tasks.push(spawn_local(pipeline::post_for_ever(peer.clone())));
        }
        if is_member {
            for kind in Kind::ALL {
                tasks.push(spawn_local(stream_in::read_for_ever(peer.clone(), kind)));
            }
            tasks.push(spawn_local(probe::probe_for_ever(peer.clone())));
            tasks.push(spawn_local(snapshot_out::send_for_ever(peer.clone())));
        }
        Running {
            peer,
            is_member,
            tasks,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.peer.links().close(self.peer.id);
    }
}
