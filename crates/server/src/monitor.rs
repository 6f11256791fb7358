//! Which version the cluster has: the leader asks all members what they implement, and raises the cluster to the lowest of it.
//!
//! A cluster that has risen never takes an older member again, so nothing is decided while a member can't be asked. A downgrade that the
//! operator has announced lowers the version by one minor. Source: upstream `server/etcdserver/version/monitor.go`,
//! `server/etcdserver/server.go` (`monitorClusterVersions`, `monitorDowngrade`).

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use proto::etcdserverpb::InternalRaftRequest;
use proto::membershippb::{ClusterVersionSetRequest, DowngradeInfoSetRequest};
use replica::Request;
use state::membership::id_to_hex;
use state::version::Version;

use crate::member::Member;

/// How often the versions are looked at. Source: upstream `monitorVersionInterval`.
const INTERVAL: Duration = Duration::from_secs(4);
/// What a cluster is given for a start that has a leader, but not all of whose members can be asked. Source: upstream
/// `MinClusterVersion`.
const UNDECIDED: Version = Version::new(3, 0, 0);

/// Watches over the cluster's version for as long as the member runs.
pub async fn run(member: Arc<Member>) {
    let mut leaders = member.raft.leaders();
    loop {
        leaders.borrow_and_update();
        if member.raft.get().is_leader {
            look(&member).await;
        }
        let _ = tokio::time::timeout(INTERVAL, leaders.changed()).await;
    }
}

async fn look(member: &Arc<Member>) {
    let told = versions(member).await;
    let view = member.view.load_full();
    let agreed = view.cluster_version();
    let target = agreed.downgrade_target.as_deref().and_then(Version::parse);
    if let Some(version) = decide(agreed.version, target, lowest(&told)) {
        let from = agreed
            .version
            .map_or("".to_owned(), |version| version.to_string());
        tracing::info!("cluster-version" = %version, from, "setting the cluster version");
        let request = InternalRaftRequest {
            cluster_version_set: Some(ClusterVersionSetRequest {
                ver: version.to_string(),
            }),
            ..Default::default()
        };
        propose(member, request).await;
    } else if let Some(target) = target
        && is_downgraded(&told, target)
    {
        tracing::info!("cluster-version" = %target, "the cluster has been downgraded");
        let request = InternalRaftRequest {
            downgrade_info_set: Some(DowngradeInfoSetRequest::default()),
            ..Default::default()
        };
        propose(member, request).await;
    }
}

/// What each member implements; `None` for one that can't be asked.
async fn versions(member: &Arc<Member>) -> Vec<Option<Version>> {
    let others = member.view.load().members().list();
    let mut told = vec![Some(member.version_for_peers())];
    for other in others.iter().filter(|other| other.id != member.member_id) {
        let patience = member.settings().request_timeout;
        let version = match member.asker.get() {
            Some(asker) => asker.version(other.peer_urls(), patience).await,
            None => return vec![None],
        };
        match version {
            Ok(versions) => told.push(Version::parse(&versions.server)),
            Err(why) => {
                let id = id_to_hex(other.id);
                tracing::warn!("remote-member-id" = id, error = %why, "failed to get version");
                told.push(None);
            }
        }
    }
    told
}

/// The lowest release line of all, if all are known.
fn lowest(told: &[Option<Version>]) -> Option<Version> {
    let known: Option<Vec<Version>> = told.iter().copied().collect();
    known?.into_iter().map(Version::minor_only).min()
}

/// The version that the cluster is to have from now on, if it is another one.
fn decide(
    agreed: Option<Version>,
    target: Option<Version>,
    lowest: Option<Version>,
) -> Option<Version> {
    let Some(agreed) = agreed else {
        return Some(lowest.unwrap_or(UNDECIDED));
    };
    let lowest = lowest?;
    match target {
        Some(target) => {
            let target = target.minor_only();
            let is_one_below = |from: Version| {
                (from.major, from.minor.checked_sub(1)) == (target.major, Some(target.minor))
            };
            // Members that can speak the older version already do no harm.
            (is_one_below(agreed) && (is_one_below(lowest) || lowest == target)).then_some(target)
        }
        None => (agreed.major == lowest.major && agreed < lowest).then_some(lowest),
    }
}

fn is_downgraded(told: &[Option<Version>], target: Version) -> bool {
    told.iter()
        .all(|version| version.is_some_and(|v| v.minor_only() == target.minor_only()))
}

/// Puts a decision into the log. If that fails it is taken again.
async fn propose(member: &Arc<Member>, mut request: InternalRaftRequest) {
    let id = member.ids.next();
    request.header = Some(proto::etcdserverpb::RequestHeader {
        id,
        ..Default::default()
    });
    let data = request.encode_to_vec();
    if let Err(why) = member.ask(Request::Propose { id, data }).await {
        tracing::warn!(error = why.text, "the cluster version could not be set");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn version(minor: u32) -> Version {
        Version::new(3, minor, 0)
    }

    #[test]
    fn a_cluster_rises_to_the_lowest_of_all_and_only_when_all_are_known() {
        let told = [Some(Version::new(3, 7, 1)), Some(Version::new(3, 5, 30))];
        assert_eq!(lowest(&told), Some(version(5)));
        assert_eq!(lowest(&[Some(version(7)), None]), None);
        for (agreed, lowest, expected) in [
            (None, None, Some(UNDECIDED)),
            (None, Some(version(5)), Some(version(5))),
            (Some(UNDECIDED), Some(version(7)), Some(version(7))),
            (Some(version(5)), Some(version(5)), None),
            (Some(version(5)), Some(version(7)), Some(version(7))),
            (Some(version(7)), Some(version(5)), None),
            (Some(version(5)), None, None),
        ] {
            assert_eq!(
                decide(agreed, None, lowest),
                expected,
                "{agreed:?} {lowest:?}"
            );
        }
    }

    #[test]
    fn an_announced_downgrade_goes_one_down_and_no_further() {
        let target = Some(version(6));
        let down = |agreed, lowest| decide(Some(version(agreed)), target, Some(version(lowest)));
        assert_eq!(down(7, 7), target);
        assert_eq!(down(6, 7), None);
        assert_eq!(down(7, 5), None);
        assert_eq!(
            decide(Some(version(7)), Some(version(5)), Some(version(7))),
            None
        );
        assert!(is_downgraded(&[Some(Version::new(3, 6, 2))], version(6)));
        assert!(!is_downgraded(&[Some(version(6)), None], version(6)));
    }
}
