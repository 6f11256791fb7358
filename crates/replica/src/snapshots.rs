//! Snapshots between members: the rows of a state on their way to a member that fell behind, and their arrival on its disk.
//!
//! ```text
//! sender   raft: the follower needs what is cut --> SendSnapshot --> Outgoing: rows of a pinned view, slice by slice
//! receiver Incoming: segments beside the live ones, durable --> SnapshotReceived --> raft takes it, or not
//!          --> InstallSnapshot --> one commit of the catalog names the new segments --> Installed
//!          --> the log begins again behind it (its marker) --> raft goes on, the sender learns of it
//! ```
//! The rows become durable before raft hears of them, so that raft waits for a commit only. Catalog and log are two files: a
//! crash between the commit and the marker is finished by the next start ([`crate::boot`]). What was not committed is removed by the
//! checkpoint after it.
//!
//! Nothing here sends: the edge carries rows in whatever form it likes (the server: a backend file, as etcd does; the simulator: as
//! they are), and may lose them. Then the sender reports it, and raft asks again.

use bytes::Bytes;
use proto::raftpb;
use state::membership;
use state::{Importer, ReadView, RowWalk, State};
use storage::checkpoint::CheckpointJob;
use storage::fault::{Fault, FaultKind};

/// A snapshot on its way to another member. Holds its view, and so the files that it needs.
pub struct Outgoing {
    message: raftpb::Message,
    walk: RowWalk,
    rows: u64,
    is_done: bool,
}

impl Outgoing {
    /// A snapshot of `view`, which is as new as what raft promised in `message` or newer. The view published last is.
    pub fn new(view: ReadView, message: raftpb::Message) -> Outgoing {
        Outgoing {
            message: announcement(&view, message),
            walk: RowWalk::new(view),
            rows: 0,
            is_done: false,
        }
    }

    /// What announces the snapshot, complete.
    pub fn message(&self) -> &raftpb::Message {
        &self.message
    }

    /// Visits the next rows (bucket, key, value), about `bytes_max` of them and at least one. False when there was none left.
    ///
    /// # Errors
    /// A fault, if a record cannot be read: this member must stop.
    pub fn rows(
        &mut self,
        bytes_max: usize,
        mut visit: impl FnMut(&'static str, &[u8], &[u8]),
    ) -> Result<bool, Fault> {
        if self.is_done {
            return Ok(false);
        }
        let before = self.rows;
        let rows = &mut self.rows;
        let more = self.walk.visit(bytes_max, |bucket, key, value| {
            *rows += 1;
            visit(bucket, key, value);
        })?;
        self.is_done = !more;
        Ok(self.rows > before)
    }

    /// Rows visited so far; in the end, what the receiver must have.
    pub fn count(&self) -> u64 {
        self.rows
    }
}

/// What raft has to say to the receiver (`message`), completed for a snapshot of `view`, which is as new as what raft promised or newer.
/// The view published last is. With it goes the version 2 store that older etcds want.
pub fn announcement(view: &ReadView, mut message: raftpb::Message) -> raftpb::Message {
    let (index, term) = view.applied();
    let promised = position(&message);
    assert!(
        (index, term) >= promised,
        "a snapshot of {promised:?} was promised, the view is at {index}"
    );
    let version = view.cluster_version().version.map(|v| v.to_string());
    let members = membership::v2_store(view.members(), version.as_deref());
    message.snapshot = Some(raftpb::Snapshot {
        data: Some(members.into()),
        metadata: Some(raftpb::SnapshotMetadata {
            conf_state: Some(view.members().conf_state()),
            index: Some(index),
            term: Some(term),
        }),
    });
    message
}

/// A snapshot that is arriving. One at a time; a member that is told of another before the end abandons the first.
pub struct Incoming {
    message: raftpb::Message,
    importer: Importer,
    rows: u64,
}

/// A snapshot whose rows are durable, beside the store that it may replace.
pub struct Received {
    pub(crate) state: State,
    pub(crate) job: CheckpointJob,
}

impl Incoming {
    /// Begins to receive what `message` announces, beside the files of the living state.
    ///
    /// # Errors
    /// A fault, if the directory cannot be used.
    pub(crate) fn begin(message: raftpb::Message, state: &State) -> Result<Incoming, Fault> {
        Ok(Incoming {
            message,
            importer: Importer::beside(state)?,
            rows: 0,
        })
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// A fault; see [`ends_member`] for whose it is. No further row may be given then, only [`Incoming::abandon`] is left.
    pub fn row(&mut self, bucket: &str, key: &[u8], value: Bytes) -> Result<(), Fault> {
        self.rows += 1;
        self.importer.row(bucket, key, value)
    }

    /// All rows have come, `count` of them: makes them durable. The message is for [`crate::Input::SnapshotReceived`].
    ///
    /// # Errors
    /// A fault; see [`ends_member`] for whose it is. What was written is removed by the next checkpoint after a start.
    pub fn finish(self, count: u64) -> Result<(Received, raftpb::Message), Fault> {
        if self.rows != count {
            let what = format!("{count} rows were sent, {} rows came", self.rows);
            return self.refuse(&what);
        }
        self.finish_file()
    }

    /// The same for the rows of a backend file, which says itself whether it is whole. One of an etcd before 3.5 does not know term
    /// and configuration of its last entry; then those of the message count.
    ///
    /// # Errors
    /// As [`Incoming::finish`].
    pub fn finish_file(mut self) -> Result<(Received, raftpb::Message), Fault> {
        let promised = position(&self.message);
        let metadata = self
            .message
            .snapshot
            .as_ref()
            .and_then(|s| s.metadata.as_ref());
        let conf_state = metadata.and_then(|metadata| metadata.conf_state.clone());
        self.importer
            .complete(promised.1, &conf_state.unwrap_or_default());
        let applied = self.importer.applied();
        if applied != promised || promised.0 == 0 {
            return self.refuse(&format!("it is of entry {applied:?}"));
        }
        self.importer.flush()?;
        let (state, job) = self.importer.finish()?;
        let received = Received {
            state,
            job: job.replacing_log(),
        };
        Ok((received, self.message))
    }

    fn refuse(self, what: &str) -> Result<(Received, raftpb::Message), Fault> {
        let promised = position(&self.message);
        self.importer.abandon()?;
        Err(Fault::new(
            FaultKind::Format,
            format!(
                "a snapshot of entry {promised:?} was announced, but {what}; it is not used, and the leader sends another."
            ),
        ))
    }

    /// Gives up, and removes what was written.
    ///
    /// # Errors
    /// A fault, if the disk fails: this member must stop.
    pub fn abandon(self) -> Result<(), Fault> {
        self.importer.abandon()
    }
}

impl Received {
    /// Removes a snapshot that nobody wants.
    ///
    /// # Errors
    /// A fault, if the disk fails: this member must stop.
    pub fn discard(self) -> Result<(), Fault> {
        self.state.discard()
    }
}

/// Whether a fault of an arriving snapshot is this member's own. Otherwise the snapshot was bad, or there was no room for it: the
/// sender is told that it failed, and the member goes on without it.
pub fn ends_member(fault: &Fault) -> bool {
    !matches!(
        fault.kind(),
        FaultKind::NoSpace | FaultKind::Format | FaultKind::Corrupted | FaultKind::Gap
    )
}

/// Index and term of the last entry that an announced snapshot includes.
pub(crate) fn position(message: &raftpb::Message) -> (u64, u64) {
    let metadata = message
        .snapshot
        .as_ref()
        .and_then(|snapshot| snapshot.metadata.as_ref());
    metadata.map_or((0, 0), |metadata| (metadata.index(), metadata.term()))
}
