//! The liveness phase: no more faults. The cluster must come back within bounded time, take writes on every member, bring every
//! member to the same state and every watcher to the end.

use proto::etcdserverpb as pb;

use super::World;
use super::edge::range_response;
use super::machine::Machine;
use crate::checker::model::Model;

/// How long everybody may take to come back; a paused member and the longest election lie within.
const RECOVER_US: u64 = 40_000_000;
/// Calls that have to succeed before the cluster counts as recovered, per client.
const SUCCESSES: u64 = 4;
/// How long it may take until nothing moves any more.
const SETTLE_US: u64 = 60_000_000;
/// How often it is looked.
const LOOK_US: u64 = 200_000;

impl World {
    pub(super) fn liveness_phase(&mut self) {
        self.note(0, "all faults end", 0, 0);
        self.mend_all();
        let wanted = self.workload.successes + SUCCESSES * self.clients.len() as u64;
        let recovered = self.run_while(RECOVER_US, |world| world.workload.successes < wanted);
        if self.is_over {
            return;
        }
        if self.failure.is_none() && !recovered {
            return self.fail(format!("no recovery: {}", self.standings()));
        }
        self.workload.is_over = true;
        let settled = self.run_while(SETTLE_US, |world| !world.is_settled());
        if self.is_over {
            return;
        }
        if self.failure.is_none() && !settled {
            return self.fail(format!(
                "the cluster does not come to rest: {}",
                self.standings()
            ));
        }
        if self.failure.is_none()
            && let Err(why) = self.compare()
        {
            self.fail(why);
        }
        self.watchers_must_be_done();
    }

    /// Runs until the condition no longer holds; false if it still does in the end.
    fn run_while(&mut self, most_us: u64, condition: impl Fn(&World) -> bool) -> bool {
        let end_us = self.now_us + most_us;
        while condition(self) {
            if self.now_us >= end_us || self.failure.is_some() || self.is_over {
                return false;
            }
            self.run_until(self.now_us + LOOK_US);
            // The answer to whoever added a member may have been lost.
            self.start_members();
        }
        true
    }

    /// Nothing moves: no calls, every member has applied everything, leases that ran out are gone, watchers have read all.
    fn is_settled(&self) -> bool {
        let last = self.ledger.index_last();
        let is_done = |machine: &Machine| {
            machine.is_lost
                || machine.life.as_ref().is_some_and(|life| {
                    let status = life.status;
                    let has_short_lease = life
                        .view
                        .leases()
                        .all()
                        .iter()
                        .any(|(_, lease)| lease.ttl_s < 30);
                    status.leader != 0
                        && (status.applied, status.committed) == (last, last)
                        && life.view.applied().0 == last
                        && !life.apply.needs_maintenance()
                        && !has_short_lease
                })
        };
        self.clients.iter().all(|client| client.op.is_none())
            && self.members().all(is_done)
            && self.watchers_are_quiet()
    }

    /// The machines that belong to the cluster.
    fn members(&self) -> impl Iterator<Item = &super::machine::Machine> {
        let known = self.newest_members().unwrap_or_default();
        self.machines
            .iter()
            .filter(move |machine| known.members.contains_key(&machine.id))
    }

    fn standings(&self) -> String {
        let mut text = format!("log ends at {}, ", self.ledger.index_last());
        for machine in self.members() {
            text += &match &machine.life {
                None => format!("member {} is down; ", machine.id),
                Some(life) => format!(
                    "member {}: {:?}, leases {}, watch {:?}; ",
                    machine.id,
                    life.status,
                    life.view.leases().all().len(),
                    life.hub.stats()
                ),
            };
        }
        text += &format!(
            "calls waiting {}",
            self.clients
                .iter()
                .filter(|client| client.op.is_some())
                .count()
        );
        text
    }

    /// All members hold the same, and it is what the log of changes says.
    fn compare(&self) -> Result<(), String> {
        let mut expected = None;
        for machine in self.members().filter(|machine| !machine.is_lost) {
            let life = machine.life.as_ref().ok_or("a member is down")?;
            let view = &life.view;
            let id = machine.id;
            let (kv_hash, hash) = match (view.hash_kv(0), view.hash()) {
                (Ok(kv_hash), Ok(hash)) => (kv_hash, hash),
                // It notices only now that its files are damaged.
                _ if machine.rotten.is_some() => continue,
                (Err(error), _) => return Err(format!("member {id}: {error}")),
                (_, Err(error)) => return Err(format!("member {id}: {error}")),
            };
            let found = (
                view.revision(),
                view.compact_revision(),
                kv_hash.hash,
                hash,
                view.leases().all(),
            );
            let expected = expected.get_or_insert_with(|| found.clone());
            if *expected != found {
                return Err(format!(
                    "member {id} differs from member 1: {found:?}, not {expected:?}"
                ));
            }
            if view.revision() != self.ledger.revision_last() {
                return Err(format!(
                    "member {id} is at revision {}, not {}",
                    view.revision(),
                    self.ledger.revision_last()
                ));
            }
            life.apply.state().segments().check();
        }
        self.compare_with_model()
    }

    fn compare_with_model(&self) -> Result<(), String> {
        let mut model = Model::default();
        for revision in self.ledger.log() {
            model.follow(revision);
        }
        let everything = pb::RangeRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            ..Default::default()
        };
        let expected = model.range(&everything, self.ledger.revision_last());
        for machine in self.members() {
            let Some(life) = &machine.life else { continue };
            let found = match life.view.range(&everything) {
                Ok(found) => found,
                Err(_) if machine.rotten.is_some() => continue,
                Err(error) => return Err(format!("member {}: {error}", machine.id)),
            };
            let found = range_response(found);
            if found.kvs != expected.kvs {
                return Err(format!(
                    "member {} holds other keys than its log of changes tells",
                    machine.id
                ));
            }
        }
        Ok(())
    }
}
