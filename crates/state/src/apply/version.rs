//! The cluster version, and downgrades.

use proto::error;
use proto::membershippb::DowngradeInfoSetRequest;
use storage::catalog::Table;
use storage::fault::{Fault, FaultKind};

use super::{Answer, Yield};
use crate::State;
use crate::membership::downgrade_to_json;
use crate::outcome::{Fact, Response, reject};
use crate::tables::{cluster, meta};
use crate::version::Version;

/// Text that is no version stops etcd; here it is refused.
///
/// The storage version, which etcd lets every member write for itself some seconds later, follows here at once. It is in no hash.
pub(super) fn set(state: &mut State, text: &str, yields: &mut Yield) -> Answer {
    let Some(version) = Version::parse(text) else {
        return reject(&error::WRONG_DOWNGRADE_VERSION_FORMAT);
    };
    check_supported(state.params.version, version)?;
    let small = state.small_mut();
    small.version.version = Some(version);
    small.auth.version_changed(small.version.is_at_least(3, 7));
    state
        .tables
        .set(Table::Cluster, cluster::CLUSTER_VERSION, text);
    if version >= Version::new(3, 6, 0) {
        state.tables.set(
            Table::Meta,
            meta::STORAGE_VERSION,
            version.minor_only().to_string(),
        );
    } else {
        state.tables.remove(Table::Meta, meta::STORAGE_VERSION);
    }
    yields.facts.push(Fact::ClusterVersionSet(version));
    Ok(Response::None)
}

pub(super) fn downgrade(
    state: &mut State,
    request: &DowngradeInfoSetRequest,
    yields: &mut Yield,
) -> Answer {
    let target = request.enabled.then(|| request.ver.clone());
    state.tables.set(
        Table::Cluster,
        cluster::DOWNGRADE,
        downgrade_to_json(target.as_deref()),
    );
    state
        .small_mut()
        .version
        .downgrade_target
        .clone_from(&target);
    yields.facts.push(Fact::DowngradeSet(target));
    Ok(Response::None)
}

/// A member older than the cluster may not understand what the others are about to write.
fn check_supported(own: Version, cluster: Version) -> Result<(), Fault> {
    if cluster.minor_only() <= own.minor_only() {
        return Ok(());
    }
    Err(Fault::new(
        FaultKind::Format,
        format!(
            "the cluster has agreed on version {cluster}, and this member implements {own}; it stops. \
             Upgrade this member, or remove it from the cluster."
        ),
    ))
}
