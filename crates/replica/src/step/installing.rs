//! Snapshots as this member sends and installs them. What one is: [`crate::snapshots`].

use proto::raftpb;
use storage::fault::{Fault, FaultKind};
use storage::planted;
use storage::wal::Marker;

use super::{Installing, Replica};
use crate::raft_core::Ready;
use crate::workers::{Installed, LogJob};
use crate::{Effect, snapshots};

impl Replica {
    /// With several on their way (one may be from an earlier time as a leader) each takes the receiver from the one before. If raft heard
    /// of the end of that, it would send another, which would take it from the one that is about to arrive, and so on for ever.
    pub(super) fn snapshot_sent(&mut self, to: u64, is_sent: bool) {
        let Some(count) = self.sending.get_mut(&to) else {
            return;
        };
        *count -= 1;
        if *count == 0 || planted!(SnapshotOverSnapshot) {
            self.sending.remove(&to);
            self.core.report_snapshot(to, is_sent);
        }
    }

    /// Offers a received snapshot to raft, once everything is applied that was committed before: membership changes in it must not
    /// reach raft after those of the snapshot.
    pub(super) fn offer_snapshot(&mut self, effects: &mut Vec<Effect>) {
        let Some(message) = &self.received else {
            return;
        };
        let (index, _) = snapshots::position(message);
        let is_late = index <= self.applied;
        if !is_late && (self.apply_jobs > 0 || !self.apply_backlog.is_empty()) {
            return;
        }
        let message = self.received.take().expect("it was just seen");
        if !is_late {
            let taken = self.core.receive(&message);
            assert_eq!(
                taken,
                Ok(()),
                "a snapshot asks for nothing that was promised"
            );
        }
        // Raft passes over what is stale, or from a leader of the past, or what its log has anyway.
        if !self.core.has_snapshot() {
            effects.push(Effect::DropSnapshot);
        }
    }

    /// Raft has taken a snapshot: its log begins behind it from now on. First the store, then the log, then whoever waits.
    pub(super) fn install(
        &mut self,
        ready: Ready,
        snapshot: (u64, u64, raftpb::ConfState),
        effects: &mut Vec<Effect>,
    ) {
        let (index, term, conf_state) = snapshot;
        assert!(
            self.apply_jobs == 0 && index > self.applied,
            "a snapshot of {index} while {} is applied, and {} batches under way",
            self.applied,
            self.apply_jobs
        );
        self.apply_backlog.clear();
        let job = LogJob {
            number: ready.number,
            hard_state: ready.hard_state,
            must_sync: true,
            restart: Some(Box::new(Marker {
                index,
                term,
                conf_state,
                restart: true,
            })),
            messages: ready.messages_durable,
            ..LogJob::default()
        };
        self.installing = Some(Installing {
            position: (index, term),
            number: ready.number,
            job: Some(job),
        });
        effects.push(Effect::InstallSnapshot);
    }

    /// The store is in place; now the log.
    pub(super) fn installed(&mut self, installed: &Installed, effects: &mut Vec<Effect>) {
        let view = &installed.view;
        let installing = self
            .installing
            .as_mut()
            .expect("an installation is under way");
        assert_eq!(
            installing.position,
            view.applied(),
            "another snapshot was installed than raft has taken"
        );
        let (of_raft, of_state) = (self.core.conf_state(), view.members().conf_state());
        if of_raft != of_state {
            let message = format!(
                "the snapshot of entry {} has the members {of_state:?}, but was announced with {of_raft:?}; this member no longer \
                 agrees with its cluster. Remove it and add it again.",
                installing.position.0
            );
            return self.stop(Fault::new(FaultKind::Corrupted, message), effects);
        }
        let job = installing.job.take().expect("an installation ends once");
        self.persist_jobs.push_back(job.number);
        effects.push(Effect::Persist(job));
        effects.push(Effect::MembersChanged);
        self.revision = view.revision();
        if !planted!(SnapshotForgetsLeases) {
            self.duties.restore(view);
        }
    }

    /// The log begins behind the snapshot, durably: raft goes on.
    pub(super) fn finish_install(&mut self, number: u64) {
        let done = self
            .installing
            .take_if(|installing| installing.job.is_none() && installing.number <= number);
        let Some(Installing {
            position: (index, term),
            ..
        }) = done
        else {
            return;
        };
        self.core.applied(index, term);
        self.applied = index;
        self.checkpoint.index = index;
        self.checkpoint.bytes = 0;
    }
}
