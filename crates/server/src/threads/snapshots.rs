//! Snapshots between members, as etcd's backend file: how one leaves this member, and how one that has come takes the state's place.
//!
//! Sending: [`outgoing`] pins the view that was published last and makes the file of it while it is sent, in bounded memory and without a
//! temporary file; writes go on. Receiving: the peer port fills an [`Arrival`], since a backend file can only be read when all of it
//! is there, and hands it to [`SnapshotDoor::take`], which writes its rows beside the living store and tells the replica. Nothing waits
//! for that but the peer that sends.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use proto::raftpb;
use replica::Input;
use replica::snapshots::{Incoming, Received, announcement, ends_member};
use state::ReadView;
use storage::arrival::Arrival;
use storage::bolt::{Entry, Reader};
use storage::datadir::Layout;
use storage::disk::Disk;
use storage::fault::{Fault, FaultKind};
use tokio::sync::{mpsc, oneshot};

use super::apply::{ApplyDesk, ApplyInput};
use super::{Alarm, Desk};
use crate::grpc::snapshot::{self, Blob};
use crate::grpc::status::Status;

/// A snapshot on its way to another member: what announces it, and the file in pieces, each with the bytes that are left behind it. If
/// the pieces end before that is 0, the file is not whole and the sending has failed.
pub struct Outgoing {
    pub message: raftpb::Message,
    pub file: mpsc::Receiver<Blob>,
}

/// Begins to send what [`replica::Effect::SendSnapshot`] asks for, from the view that is published at this moment or later.
///
/// # Errors
/// No thread can be started.
pub fn outgoing(view: Arc<ReadView>, message: raftpb::Message) -> Result<Outgoing, Status> {
    Ok(Outgoing {
        message: announcement(&view, message),
        file: snapshot::file_of(view, ())?,
    })
}

/// Why a snapshot was not taken. In each case the sender hears that it failed, and raft asks again.
#[derive(Debug)]
pub enum NotTaken {
    /// Another one is being put in place.
    Busy,
    /// The member stops.
    Stopping,
    /// The file is not what was announced, or there is no room for it.
    Refused(Fault),
}

/// Where snapshots of other members come in.
pub struct SnapshotDoor {
    pub(super) apply: Arc<ApplyDesk>,
    pub(super) replica: Arc<Desk>,
    pub(super) alarm: Alarm,
    disk: Arc<dyn Disk>,
    layout: Layout,
    arrivals: AtomicU64,
    /// Held while the rows of one are written: their files have numbers of their own, for one at a time. Nothing is locked under it,
    /// and it says nothing of what a panic may have left: that is removed by the next start.
    taking: Mutex<()>,
}

impl SnapshotDoor {
    pub(super) fn new(
        (apply, replica, alarm): (Arc<ApplyDesk>, Arc<Desk>, Alarm),
        (disk, layout): (Arc<dyn Disk>, Layout),
    ) -> Self {
        SnapshotDoor {
            apply,
            replica,
            alarm,
            disk,
            layout,
            arrivals: AtomicU64::new(0),
            taking: Mutex::new(()),
        }
    }

    /// A file to be filled with what comes. Writing to it blocks: not for an async thread.
    ///
    /// # Errors
    /// The disk's.
    pub fn arrival(&self) -> Result<Arrival, Fault> {
        let number = self.arrivals.fetch_add(1, Ordering::Relaxed);
        Arrival::begin(&*self.disk, &self.layout, number)
    }

    /// Takes a file that has come whole, announced by `message`, and hands it to the replica, which installs it if it is of use. Blocks
    /// until the rows are on the disk: not for an async thread.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub fn take(&self, message: raftpb::Message, file: &Arrival) -> Result<(), NotTaken> {
        let reader = file.reader().map_err(NotTaken::Refused)?;
        let _one = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let incoming = self.begin(message)?;
        let (received, message) = self.fill(incoming, &reader)?;
        self.apply.tell(ApplyInput::Received(Box::new(received)));
        self.replica
            .report(Input::SnapshotReceived(Box::new(message)));
        Ok(())
    }

    fn begin(&self, message: raftpb::Message) -> Result<Incoming, NotTaken> {
        let (reply, answer) = oneshot::channel();
        self.apply
            .tell(ApplyInput::Receive(Box::new(message), reply));
        match answer.blocking_recv() {
            Ok(Ok(Some(incoming))) => Ok(incoming),
            Ok(Ok(None)) => Err(NotTaken::Busy),
            Ok(Err(fault)) => Err(self.judge(fault)),
            Err(_) => Err(NotTaken::Stopping),
        }
    }

    fn fill(
        &self,
        mut incoming: Incoming,
        reader: &Reader,
    ) -> Result<(Received, raftpb::Message), NotTaken> {
        let mut refused = None;
        let walked = reader.for_each(|entry| {
            let Entry::Row { bucket, key, value } = entry else {
                return ControlFlow::Continue(());
            };
            // No bucket of etcd has a name that is no text; unknown ones are passed over anyway.
            let Ok(bucket) = std::str::from_utf8(bucket) else {
                return ControlFlow::Continue(());
            };
            match incoming.row(bucket, key, Bytes::copy_from_slice(value)) {
                Ok(()) if !self.alarm.is_stopping() => ControlFlow::Continue(()),
                Ok(()) => ControlFlow::Break(()),
                Err(fault) => {
                    refused = Some(fault);
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(fault) = refused.or(walked.err()) {
            return Err(self.give_up(incoming, fault));
        }
        if self.alarm.is_stopping() {
            return Err(NotTaken::Stopping);
        }
        incoming.finish_file().map_err(|fault| self.judge(fault))
    }

    fn give_up(&self, incoming: Incoming, fault: Fault) -> NotTaken {
        let why = self.judge(fault);
        if let Err(fault) = incoming.abandon() {
            return self.judge(fault);
        }
        why
    }

    /// A fault of the file is the sender's affair, one of our disk ends this member. A file that can't be read back is as good as one that
    /// came damaged.
    fn judge(&self, fault: Fault) -> NotTaken {
        if ends_member(&fault) && fault.kind() != FaultKind::ReadFailed {
            self.alarm.raise(fault.clone());
        }
        NotTaken::Refused(fault)
    }
}
