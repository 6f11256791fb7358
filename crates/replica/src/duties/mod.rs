//! What a member does of its own accord, as requests that go through the log like everybody else's.
//!
//! The leader expires leases, compacts history and sets the cluster's version; every member publishes its name and
//! addresses and reports that its quota is exceeded. Duties listen to facts, look at the time they are given, and propose.
//! They never change state directly, and nothing that follows from a duty of a deposed leader can take effect: its
//! requests are dropped unless they enter its own log at once.

mod compactor;
mod leases;

use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, InternalRaftRequest, LeaseRevokeRequest,
    RequestHeader,
};
use proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use state::{Fact, ReadView};
use storage::planted;

pub use compactor::AutoCompaction;
use compactor::Compactor;
use leases::Leases;

use crate::{MemberId, Now};

/// How often a request of a duty is repeated while it has not become true.
const REPEAT_US: u64 = 5_000_000;

/// What a member's duties depend on.
#[derive(Clone, Debug)]
pub struct Config {
    pub member: MemberId,
    /// What this member publishes about itself.
    pub name: String,
    pub client_urls: Vec<String>,
    /// The version that this member as leader gives to a cluster that has none, as `X.Y.0`. `None` if somebody else decides, who can ask
    /// the other members what they implement.
    pub cluster_version: Option<String>,
    /// Length of an election timeout; leases are extended by it when a leader takes over.
    pub election_us: u64,
    pub auto_compaction: AutoCompaction,
}

/// A request, and whether only a leader may make it.
#[derive(Debug)]
pub struct Proposal {
    pub request: InternalRaftRequest,
    pub leader_only: bool,
}

/// The clocks and notes behind the duties of one member.
#[derive(Debug)]
pub struct Duties {
    config: Config,
    is_leader: bool,
    leases: Leases,
    compactor: Compactor,
    cluster_version_known: bool,
    published: bool,
    no_space_to_report: bool,
    /// The revision of the auth store, while permissions are checked.
    auth_revision: Option<u64>,
    /// When publishing and versioning were last asked for.
    asked_us: Option<u64>,
}

impl Duties {
    /// The duties of a member whose state is empty.
    pub fn new(config: Config) -> Self {
        Duties {
            is_leader: false,
            leases: Leases::new(config.election_us),
            compactor: Compactor::new(config.auto_compaction),
            cluster_version_known: false,
            published: false,
            no_space_to_report: false,
            auth_revision: None,
            asked_us: None,
            config,
        }
    }

    /// Begins anew with a state that was not reached entry by entry: at a start, and when a snapshot was installed, which never
    /// happens to a leader.
    pub fn restore(&mut self, view: &ReadView) {
        assert!(!self.is_leader, "a leader's state follows its own log");
        self.leases = Leases::new(self.config.election_us);
        for (id, lease) in view.leases().all() {
            self.leases.known(id, lease.ttl_s, lease.remaining_s);
        }
        self.auth_known(view.auth().is_enabled(), view.auth().revision());
        self.cluster_version_known = view.cluster_version().version.is_some();
        let config = &self.config;
        self.published = view.members().get(config.member.0).is_some_and(|member| {
            member.name == config.name && member.client_urls == config.client_urls
        });
    }

    fn auth_known(&mut self, enabled: bool, revision: u64) {
        self.auth_revision = enabled.then_some(revision);
    }

    /// Takes note of what has become true.
    pub fn observe(&mut self, now: Now, fact: &Fact) {
        match fact {
            Fact::LeaseGranted { id, ttl_s } => self.leases.granted(now, *id, *ttl_s),
            Fact::LeaseRevoked { id } => self.leases.revoked(*id),
            Fact::LeaseCheckpointed { id, remaining_s } => {
                self.leases.checkpointed(*id, *remaining_s)
            }
            Fact::ClusterVersionSet(_) => self.cluster_version_known = true,
            Fact::MemberAttributesSet(member) if member.id == self.config.member.0 => {
                self.published = member.name == self.config.name
                    && member.client_urls == self.config.client_urls;
            }
            Fact::AuthChanged { enabled, revision } => self.auth_known(*enabled, *revision),
            Fact::QuotaExceeded => self.no_space_to_report = true,
            _ => {}
        }
    }

    /// The leadership came or went.
    pub fn leadership(&mut self, now: Now, is_leader: bool) {
        self.is_leader = is_leader;
        if is_leader {
            self.leases.promote(now);
            self.compactor.resume(now);
        } else {
            self.leases.demote();
            self.compactor.pause();
        }
        self.asked_us = None;
    }

    /// What is due now. `revision` is the newest applied one.
    pub fn tick(&mut self, now: Now, revision: i64) -> Vec<Proposal> {
        let mut due = Vec::new();
        if self
            .asked_us
            .is_none_or(|asked| now.monotonic_us >= asked + REPEAT_US)
        {
            self.introduce(now, &mut due);
        }
        if std::mem::take(&mut self.no_space_to_report) {
            due.push(Proposal {
                request: self.no_space(),
                leader_only: false,
            });
        }
        if self.is_leader || planted!(OldLeaderRevokesLeases) {
            due.extend(self.leases.expired(now).into_iter().map(|id| Proposal {
                request: InternalRaftRequest {
                    header: Some(self.header()),
                    lease_revoke: Some(LeaseRevokeRequest { id }),
                    ..Default::default()
                },
                leader_only: true,
            }));
            due.extend(self.compactor.tick(now, revision).map(|revision| Proposal {
                request: InternalRaftRequest {
                    compaction: Some(CompactionRequest {
                        revision,
                        physical: false,
                    }),
                    ..Default::default()
                },
                leader_only: true,
            }));
        }
        due
    }

    /// Starts the lease's time anew; its TTL in seconds, or `None` when it is gone or its time is up.
    pub fn lease_renew(&mut self, now: Now, id: i64) -> Option<i64> {
        self.leases.renew(now, id)
    }

    /// Granted and remaining seconds.
    pub fn lease_time(&self, now: Now, id: i64) -> Option<(i64, i64)> {
        self.leases.time(now, id)
    }

    /// Publishes this member, and as leader gives a cluster without a version its first one.
    fn introduce(&mut self, now: Now, due: &mut Vec<Proposal>) {
        if !self.published {
            due.push(Proposal {
                request: self.attributes(),
                leader_only: false,
            });
            self.asked_us = Some(now.monotonic_us);
        }
        if self.is_leader
            && !self.cluster_version_known
            && let Some(version) = &self.config.cluster_version
        {
            due.push(Proposal {
                request: set_version(version.clone()),
                leader_only: true,
            });
            self.asked_us = Some(now.monotonic_us);
        }
    }

    /// A lease may have keys that only root may delete; whoever applies the entry asks. Source: upstream `auth.WithRoot`.
    fn header(&self) -> RequestHeader {
        let auth_revision = self.auth_revision.unwrap_or(0);
        let username = match self.auth_revision {
            Some(_) => state::auth::ROOT.to_owned(),
            None => String::new(),
        };
        RequestHeader {
            username,
            auth_revision,
            ..Default::default()
        }
    }

    fn attributes(&self) -> InternalRaftRequest {
        InternalRaftRequest {
            cluster_member_attr_set: Some(ClusterMemberAttrSetRequest {
                member_id: self.config.member.0,
                member_attributes: Some(Attributes {
                    name: self.config.name.clone(),
                    client_urls: self.config.client_urls.clone(),
                }),
            }),
            ..Default::default()
        }
    }

    fn no_space(&self) -> InternalRaftRequest {
        InternalRaftRequest {
            alarm: Some(AlarmRequest {
                action: AlarmAction::Activate as i32,
                member_id: self.config.member.0,
                alarm: AlarmType::Nospace as i32,
            }),
            ..Default::default()
        }
    }
}

fn set_version(version: String) -> InternalRaftRequest {
    InternalRaftRequest {
        cluster_version_set: Some(ClusterVersionSetRequest { ver: version }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_revoked_as_root_while_permissions_are_checked() {
        let config = Config {
            member: MemberId(1),
            name: String::new(),
            client_urls: Vec::new(),
            cluster_version: None,
            election_us: 0,
            auto_compaction: AutoCompaction::Off,
        };
        let at = |monotonic_us| Now { monotonic_us };
        let mut duties = Duties::new(config);
        duties.published = true;
        let mut revoked_as = |id: i64, from: u64, enabled: bool| {
            let granted = Fact::LeaseGranted { id, ttl_s: 1 };
            let changed = Fact::AuthChanged {
                enabled,
                revision: 7,
            };
            duties.leadership(at(from), true);
            duties.observe(at(from), &granted);
            duties.observe(at(from), &changed);
            let due = duties.tick(at(from + 2_000_000), 1);
            let [Proposal { request, .. }] = &due[..] else {
                panic!("{due:?}")
            };
            assert_eq!(request.lease_revoke, Some(LeaseRevokeRequest { id }));
            duties.observe(at(from), &Fact::LeaseRevoked { id });
            let header = request.header.clone().expect("a header");
            (header.username, header.auth_revision)
        };
        assert_eq!(revoked_as(5, 1_000_000, true), ("root".to_owned(), 7));
        assert_eq!(revoked_as(6, 9_000_000, false), (String::new(), 0));
    }
}
