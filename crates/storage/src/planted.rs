//! Defects planted on purpose: the simulator must notice each of them, or it proves nothing when it notices none.
//!
//! Each is one or two lines at the place where the right code stands, behind [`planted!`](crate::planted!), which is `false` and
//! gone from every build but one with `--cfg planted`. Such a build has all of them and does none until [`choose`] picks one, so
//! that one build serves to try them all. It lies in this crate because every other that can be wrong depends on it.
//!
//! `scripts/planted-defects.sh` makes that build and runs it. Never on a server: the choice is the process's, the only global
//! state there is.

use std::sync::atomic::{AtomicU8, Ordering};

/// The enum, and all of it, from one list.
macro_rules! defects {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// Mistakes that somebody made once; issue numbers are etcd's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Defect {
            $($(#[$doc])+ $name,)+
        }

        impl Defect {
            /// All of them.
            pub const ALL: [Defect; [$(Defect::$name),+].len()] = [$(Defect::$name),+];
        }
    };
}

defects! {
    /// A leader counts its own entries as durable before the sync (#14370).
    AnswerBeforeSync,
    /// A follower's acknowledgement or vote leaves before the sync (#14143).
    PromiseBeforeSync,
    /// The error of a failed sync of the log is passed over (the kernel has dropped what should have been written).
    FailedSyncForgotten,
    /// A restart takes the end of the log for durable because it can read it (a killed process has not synced it; #14370).
    UnsyncedTailTrusted,
    /// A restart takes for durable what a failed sync has lost, because it can still read it.
    LostTailTrusted,
    /// A restart takes a torn record for a whole one (#6378, #14098).
    TornRecordBelieved,
    /// A checkpoint commits its data first and the applied index in a commit of its own (#13766).
    IndexApartFromData,
    /// A rewritten segment's old file is removed before the commit that names the new one (PR 14685).
    OldFileRemovedFirst,
    /// A record of the data is not compared with its checksum when it is read (#14102).
    DamageIsServed,
    /// A deletion at the compacted revision itself is taken away (#18089, #19179).
    DeletionLostAtCompaction,
    /// After a restart the newest value tells the revision, although deletions had revisions as well (#17780).
    RevisionGoesBack,
    /// A read at a compacted revision is answered with what the background pass has left (#18667).
    CompactedRevisionIsRead,
    /// A range in a transaction does not see the changes before it (PR 17230).
    TxnMissesItsOwnWrites,
    /// A transaction that is refused halfway leaves what it has changed (PR 18799).
    TxnAppliedInPart,
    /// Progress is told while events are still to come (#15220).
    ProgressOvertakesEvents,
    /// What a watcher without credit can't receive, it never receives (#17529).
    SlowWatcherLosesEvents,
    /// A watcher without credit begins again where the delivery began (PR 15274).
    EventsAreRepeated,
    /// A watcher of a future revision receives what happens before it (#20221).
    FutureWatchGetsOldEvents,
    /// A leader answers reads for as long as it takes itself for one, without asking the others (#20418).
    StaleReadAfterPause,
    /// A read joins a question to the others that was asked before it came (PR 21378, raft #397).
    ReadJoinsRunningRound,
    /// A read is answered when its index is known, although this member has not applied it.
    ReadBeforeItIsApplied,
    /// A leader confirms nothing for keepalives either: a lease that another leader has revoked is told to live (PR 20615).
    KeepAliveUnconfirmed,
    /// A member that no longer leads goes on revoking leases, by clocks that nobody winds any more (#15247).
    OldLeaderRevokesLeases,
    /// A member that leads again goes on with the clocks of its last time as a leader (#12528).
    LeaseClocksRunOn,
    /// Watchers that had everything go on behind an installed snapshot, without what lies between (#15271).
    SnapshotSkipsEvents,
    /// The clocks of leases stay as they were before a snapshot was installed (what is restored at a start has to be restored here as
    /// well; #14571 is the same with users).
    SnapshotForgetsLeases,
    /// A member that lost its disk votes with an empty log (etcd's panic in #20269 comes too late for that).
    WipedMemberVotes,
    /// Raft goes on counting a member that was removed.
    RemovedMemberCounts,
    /// A learner is promoted however far behind it is (PR 15096).
    LaggingLearnerPromoted,
    /// New addresses make a voter of a learner (PR 21736).
    UpdatePromotes,
    /// A member that got a snapshot does not know of the compaction before it.
    SnapshotForgetsCompaction,
    /// A message is taken by whoever gets it (PR 17813).
    ForeignMessageTaken,
    /// The end of a snapshot that was overtaken by another counts as the end of that one (#18055 is another trap of two in a row).
    SnapshotOverSnapshot,
    /// A start does not notice that the last life put a snapshot in place in the store, and not yet in the log.
    InstallLeftHalfDone,
    /// Users and roles are not there after a restart or a snapshot, so that everybody may do everything (#14571).
    AuthNotRestored,
    /// A permission is asked for the kind of an operation only, not for all that it reads and changes (GHSA-rfx7-8w68-q57q).
    PermissionByKind,
}

/// The chosen one; 0 is none.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

/// From now on the whole process has this defect, and no other.
pub fn choose(defect: Option<Defect>) {
    CHOSEN.store(defect.map_or(0, number), Ordering::Relaxed);
}

/// Whether this is the chosen one. Ask with [`planted!`](crate::planted!).
#[must_use]
pub fn is_chosen(defect: Defect) -> bool {
    CHOSEN.load(Ordering::Relaxed) == number(defect)
}

fn number(defect: Defect) -> u8 {
    defect as u8 + 1
}
