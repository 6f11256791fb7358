//! Who a member is when it starts: what its data directory says, a founder of a new cluster, or one that was added to a running one.
//!
//! ```text
//!  data directory? --yes--> its log names member and cluster
//!        | no
//!  --initial-cluster-state=new -------> ids from names, peer URLs and token; the others are asked whether this member was there before
//!  --initial-cluster-state=existing --> the others are asked who they are; ids are theirs, by the peer URLs that agree
//! ```
//! Nothing is written here: a mistake leaves no directory behind. The texts of mistakes are etcd's, because people search for them; what
//! to do next follows where etcd leaves it open. Source: upstream `server/etcdserver/bootstrap.go`, `cluster_util.go`,
//! `api/membership/cluster.go` (`ValidateClusterAndAssignIDs`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use replica::past::{self, Past};
use replica::{Input, MemberId};
use state::membership::{self, Member, id_to_hex};
use state::version::Version;
use storage::datadir::Layout;
use storage::disk::Disk;
use storage::wal::{Identity, Wal};

use crate::config::{self, Config, Url};
use crate::member::Member as Running;
use crate::peer::ask::{Asker, RemoteCluster, Versions};

/// How long a member that may have been wiped waits for each of the others to say so. Source: upstream `BootstrapTimeoutEffective`.
const PATIENCE_NEW: Duration = Duration::from_secs(1);
/// How long one that joins waits for each URL. Source: upstream `GetClusterFromRemotePeers`.
const PATIENCE_EXISTING: Duration = Duration::from_secs(10);
/// How long others may take to say what they know of this member; the one that asks waits a little longer.
const PATIENCE_PAST: Duration = Duration::from_secs(2);
/// How long names of the initial cluster may take to be known to DNS. Source: upstream `ValidateClusterAndAssignIDs`.
const RESOLVE: Duration = Duration::from_secs(30);
/// The oldest cluster version that can be joined. Source: upstream `MinClusterVersion`.
const CLUSTER_VERSION_MIN: Version = Version::new(3, 0, 0);
/// Members below this version panic, and again at each restart, when they apply the entry by which this member publishes its name, or a
/// leader the version of the cluster: they know both as requests of the version 2 store only.
const SERVER_VERSION_MIN: Version = Version::new(3, 5, 0);

/// How a member begins.
#[derive(Debug)]
pub struct Beginning {
    pub identity: Identity,
    /// The founders of a new cluster, this member among them; none otherwise.
    pub founders: Vec<Member>,
    /// The members of the cluster that is joined, as one of them described them.
    pub remotes: Vec<Member>,
    /// What the others know of a member whose data directory is new.
    pub past: Past,
}

/// Finds out who this member is.
///
/// # Errors
/// What is wrong with the configuration, seen together with the data directory and the other members.
pub async fn begin(config: &Config, disk: &dyn Disk, asker: &Asker) -> Result<Beginning, String> {
    if config.data_dir.join("member").exists() {
        return returning(config, disk);
    }
    if config.force_new_cluster {
        return Err(format!(
            "--force-new-cluster needs the data of a member, and there is none in {}",
            config.data_dir.display()
        ));
    }
    let mistakes = config.check_bootstrap(&resolve);
    if !mistakes.is_empty() {
        return Err(mistakes.join("\n"));
    }
    match config.bootstrap.existing {
        true => joining(config, asker).await,
        false => founding(config, asker).await,
    }
}

/// A member that was here before. Its log says who it is, and if it can't, the start will say why.
///
/// The flags that founded a cluster of one are compared all the same, because a wrong directory is a common mistake; those of a larger
/// one are not, because its members come and go and nobody updates the flags of those who stay.
fn returning(config: &Config, disk: &dyn Disk) -> Result<Beginning, String> {
    let founders = founders(config)?;
    let layout = Layout::new(&config.data_dir, config.wal_dir.clone());
    let stored = Wal::identity_of(disk, &layout.wal_dir()).ok();
    let must_agree = config.names_cluster() && founders.len() <= 1 && !config.bootstrap.existing;
    let identity = match stored {
        Some(stored) if !must_agree => stored,
        _ => identity_of(config, &founders)?,
    };
    Ok(Beginning {
        identity,
        founders: Vec::new(),
        remotes: Vec::new(),
        past: Past::Unknown,
    })
}

async fn founding(config: &Config, asker: &Asker) -> Result<Beginning, String> {
    let founders = founders(config)?;
    let identity = identity_of(config, &founders)?;
    let past = past_of(asker, identity, &founders, PATIENCE_NEW).await;
    if past == Past::Started {
        let id = id_to_hex(identity.member_id);
        return Err(format!(
            "member {id} has already been bootstrapped (the other members know it, and the data directory {} is empty). If its data is \
             lost: remove it from the cluster (member remove {id}), add it again (member add), and start it with \
             --initial-cluster-state=existing and the --initial-cluster that member add prints",
            config.data_dir.display()
        ));
    }
    Ok(Beginning {
        identity,
        founders,
        remotes: Vec::new(),
        past,
    })
}

async fn joining(config: &Config, asker: &Asker) -> Result<Beginning, String> {
    let cluster = cluster_of(asker, &remote_urls(config))
        .await
        .map_err(|why| format!("cannot fetch cluster info from peer urls: {why}"))?;
    // In the order of the ids that they would have as founders, as etcd compares them.
    let founders = founders(config)?;
    let local: Vec<_> = founders
        .iter()
        .filter_map(|founder| {
            config
                .bootstrap
                .initial_cluster
                .get_key_value(&founder.name)
        })
        .collect();
    let member_id =
        assign_ids(&cluster.members, &local, &config.name, &resolve).map_err(|why| {
            format!(
                "error validating peerURLs {}: {why}",
                show_cluster(&cluster)
            )
        })?;
    if !is_compatible(
        &cluster.members,
        member_id,
        asker,
        config.raft.request_timeout(),
    )
    .await
    {
        return Err("incompatible with current running cluster".to_owned());
    }
    let learners = cluster.members.iter().filter(|m| m.is_learner).count();
    if i64::try_from(learners).unwrap_or(i64::MAX) > config.raft.learners_max {
        return Err("membership: too many learner members in cluster".to_owned());
    }
    let identity = Identity {
        cluster_id: cluster.id,
        member_id,
    };
    let past = past_of(asker, identity, &cluster.members, PATIENCE_PAST).await;
    Ok(Beginning {
        identity,
        founders: Vec::new(),
        remotes: cluster.members,
        past,
    })
}

/// Asks all other members at once whether this one was here before, and lets [`past::judge`] decide.
async fn past_of(
    asker: &Asker,
    identity: Identity,
    members: &[Member],
    patience: Duration,
) -> Past {
    let others = members
        .iter()
        .filter(|member| member.id != identity.member_id);
    let asked = others.map(async |other| {
        for url in other.peer_urls() {
            if let Ok(cluster) = asker.members(url, patience).await
                && cluster.id == identity.cluster_id
            {
                return Some((MemberId(other.id), cluster.members));
            }
        }
        None
    });
    let answers = futures_util::future::join_all(asked).await;
    let answers: Vec<_> = answers.into_iter().flatten().collect();
    past::judge(MemberId(identity.member_id), &answers)
}

/// Asks again whenever the running member wants to know, for as long as it runs. `remotes` are asked until the log says who the members
/// are.
pub async fn answer_for_past(member: Arc<Running>, remotes: Vec<Member>) {
    let identity = Identity {
        cluster_id: member.cluster_id,
        member_id: member.member_id,
    };
    loop {
        member.past_wanted.notified().await;
        let applied = member.view.load().members().list();
        let members = match applied.is_empty() {
            true => &remotes,
            false => &applied,
        };
        let past = match member.asker.get() {
            Some(asker) => past_of(asker, identity, members, PATIENCE_PAST).await,
            None => Past::Unknown,
        };
        member.report(Input::Past(past));
    }
}

/// The members of a new cluster. Their names are known here but published later, by each member itself.
fn founders(config: &Config) -> Result<Vec<Member>, String> {
    let token = &config.bootstrap.token;
    let member = |(name, urls): (&String, &Vec<Url>)| {
        let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
        Member {
            id: membership::member_id(&urls, token, None),
            name: name.clone(),
            peer_urls: Some(urls),
            ..Member::default()
        }
    };
    let mut founders: Vec<_> = config
        .bootstrap
        .initial_cluster
        .iter()
        .map(member)
        .collect();
    founders.sort_by_key(|member| member.id);
    match founders.windows(2).find(|pair| pair[0].id == pair[1].id) {
        None => Ok(founders),
        Some(pair) => Err(format!(
            "member exists with identical ID {}",
            show(&pair[1])
        )),
    }
}

/// Who this member is among the founders.
fn identity_of(config: &Config, founders: &[Member]) -> Result<Identity, String> {
    let own = founders
        .iter()
        .find(|member| member.name == config.name)
        .ok_or_else(|| {
            format!(
                "couldn't find local name \"{}\" in the initial cluster configuration",
                config.name
            )
        })?;
    let ids: Vec<u64> = founders.iter().map(|member| member.id).collect();
    Ok(Identity {
        cluster_id: membership::cluster_id(&ids),
        member_id: own.id,
    })
}

/// The peer URLs of all but this member, in order.
fn remote_urls(config: &Config) -> Vec<String> {
    let others = config
        .bootstrap
        .initial_cluster
        .iter()
        .filter(|(name, _)| **name != config.name);
    let mut urls: Vec<_> = others
        .flat_map(|(_, urls)| urls.iter().map(Url::to_string))
        .collect();
    urls.sort();
    urls
}

/// The cluster as the first member describes it that can be asked.
async fn cluster_of(asker: &Asker, urls: &[String]) -> Result<RemoteCluster, String> {
    for url in urls {
        match asker.members(url, PATIENCE_EXISTING).await {
            Ok(cluster) if cluster.members.is_empty() => {
                let why = "failed to get raft cluster member(s) from the given URLs";
                return Err(why.to_owned());
            }
            Ok(cluster) => return Ok(cluster),
            Err(why) => {
                let address = format!("{url}/members");
                tracing::warn!(address, error = %why, "failed to get cluster response");
            }
        }
    }
    Err("could not retrieve cluster information from the given URLs".to_owned())
}

/// Finds the running cluster's members in `--initial-cluster` by their peer URLs, and the id of the one that is called `name` there.
fn assign_ids(
    existing: &[Member],
    local: &[(&String, &Vec<Url>)],
    name: &str,
    resolve: &dyn Fn(&str) -> Option<String>,
) -> Result<u64, String> {
    if existing.len() != local.len() {
        return Err("member count is unequal".to_owned());
    }
    let mut own = None;
    for member in existing {
        let mut last = "%!w(<nil>)".to_owned();
        let found = local.iter().find(|(_, urls)| {
            let compared = parse_all(member.peer_urls())
                .and_then(|existing| config::same_urls(&existing, urls, resolve));
            compared.map_err(|why| last = why).is_ok()
        });
        match found {
            Some((found, _)) if *found == name => own = Some(member.id),
            Some(_) => {}
            None => {
                return Err(format!(
                    "PeerURLs: no match found for existing member ({}, [{}]), last resolver error ({last})",
                    id_to_hex(member.id),
                    member.peer_urls().join(" "),
                ));
            }
        }
    }
    // As many as there are, and each found: this one is among them unless two of them have the same URLs.
    own.ok_or_else(|| format!("no member of the cluster has the peer URLs of {name}"))
}

fn parse_all(urls: &[String]) -> Result<Vec<Url>, String> {
    urls.iter()
        .map(|url| Url::parse(url).map_err(|_| format!("failed to parse string to URL: \"{url}\"")))
        .collect()
}

/// Whether the cluster's version is one that this member can live with: at least one other member tells a good one, and none tells a bad
/// one. Others may be down.
async fn is_compatible(members: &[Member], own: u64, asker: &Asker, patience: Duration) -> bool {
    let others: Vec<_> = members.iter().filter(|member| member.id != own).collect();
    let mut told = Vec::new();
    for member in &others {
        match asker.version(member.peer_urls(), patience).await {
            Ok(versions) => told.push((member.id, versions)),
            Err(why) => {
                let id = id_to_hex(member.id);
                tracing::warn!("remote-member-id" = id, error = %why, "failed to get version");
            }
        }
    }
    let mut is_downgrading = false;
    for member in &others {
        if let Ok(enabled) = asker.downgrade_enabled(member.peer_urls(), patience).await {
            is_downgrading = enabled;
            break;
        }
    }
    are_compatible(&told, is_downgrading)
}

fn are_compatible(told: &[(u64, Versions)], is_downgrading: bool) -> bool {
    let own = Version::parse(config::VERSION_ETCD)
        .expect("our own version is one")
        .minor_only();
    let (lowest, highest) = match is_downgrading {
        false => (CLUSTER_VERSION_MIN, own),
        // Only who has the version that the cluster goes down to may come in.
        true => {
            let above = Version::new(own.major, own.minor + 1, 0);
            (above, above)
        }
    };
    let mut is_one = false;
    for (id, versions) in told {
        let id = id_to_hex(*id);
        let server = Version::parse(&versions.server);
        if server.is_some_and(|server| server < SERVER_VERSION_MIN) {
            tracing::warn!(
                "remote-member-id" = id,
                "remote-member-server-version" = versions.server,
                "this member would stop the remote member, which is older than {SERVER_VERSION_MIN}: \
                 upgrade it first, or restore a snapshot of it"
            );
            return false;
        }
        let Some(version) = Version::parse(&versions.cluster) else {
            tracing::warn!(
                "remote-member-id" = id,
                "remote-member-cluster-version" = versions.cluster,
                "failed to parse cluster version of remote member"
            );
            continue;
        };
        if version < lowest || version > highest {
            let how = if version < lowest { "low" } else { "high" };
            tracing::warn!(
                "remote-member-id" = id,
                "remote-member-cluster-version" = %version,
                "cluster version of remote member is not compatible; too {how}"
            );
            return false;
        }
        is_one = true;
    }
    is_one
}

/// Looks up an address, for as long as it may take a name to be known: members that start together find each other's names only little
/// by little.
fn resolve(host_port: &str) -> Option<String> {
    let begun = Instant::now();
    loop {
        let found = config::resolve(host_port);
        if found.is_some() || begun.elapsed() > RESOLVE {
            return found;
        }
        tracing::warn!(host = host_port, "failed to resolve URL Host");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// As Go prints it: people compare such lines.
fn show_cluster(cluster: &RemoteCluster) -> String {
    let members: Vec<_> = cluster.members.iter().map(show).collect();
    format!(
        "{{ClusterID:{} Members:[{}] RemovedMemberIDs:[]}}",
        id_to_hex(cluster.id),
        members.join(" ")
    )
}

fn show(member: &Member) -> String {
    format!(
        "&{{ID:{} RaftAttributes:{{PeerURLs:[{}] IsLearner:{}}} Attributes:{{Name:{} ClientURLs:[{}]}}}}",
        id_to_hex(member.id),
        member.peer_urls().join(" "),
        member.is_learner,
        member.name,
        member.client_urls.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Config {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let surroundings = config::Surroundings {
            program: "etcd".to_owned(),
            env: Vec::new(),
            read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
            default_host: &|| None,
        };
        match config::read(&arguments, &surroundings) {
            config::Outcome::Run(config, _) => *config,
            config::Outcome::Exit(exit) => panic!("{exit:?}"),
        }
    }

    /// The ids that two machines of a well-known walkthrough print.
    #[test]
    fn founders_have_the_ids_that_etcd_gives_them() {
        let cluster = "etcd1=http://192.168.126.135:2380,etcd2=http://192.168.126.136:2380";
        let config = config(&["--name", "etcd1", "--initial-cluster", cluster]);
        let founders = founders(&config).expect("two members");
        let ids: Vec<_> = founders.iter().map(|m| (m.name.as_str(), m.id)).collect();
        assert_eq!(
            ids,
            [
                ("etcd2", 0x168a_e043_a1f5_2da5),
                ("etcd1", 0xe3bf_8bca_a9f9_60b4)
            ]
        );
        let identity = identity_of(&config, &founders).expect("a name");
        assert_eq!(identity.member_id, 0xe3bf_8bca_a9f9_60b4);
        assert_eq!(identity.cluster_id, 0xebb4_4d8d_1f09_e651);
    }

    fn existing(id: u64, urls: &[&str]) -> Member {
        Member {
            id,
            peer_urls: Some(urls.iter().map(ToString::to_string).collect()),
            ..Member::default()
        }
    }

    /// What member `name` of this cluster finds when the cluster consists of `members`.
    fn join(members: &[Member], name: &str, cluster: &str) -> Result<u64, String> {
        let config = config(&["--name", name, "--initial-cluster", cluster]);
        let local: Vec<_> = config.bootstrap.initial_cluster.iter().collect();
        let resolve = |host: &str| match host {
            "b.example:1" => Some("10.0.0.2:1".to_owned()),
            known if known.starts_with("10.") => Some(known.to_owned()),
            _ => None,
        };
        assign_ids(members, &local, name, &resolve)
    }

    #[test]
    fn whoever_joins_is_found_by_its_urls_also_through_dns() {
        let members = [
            existing(7, &["http://10.0.0.1:1"]),
            existing(9, &["http://10.0.0.2:1"]),
        ];
        let cluster = "a=http://10.0.0.1:1,b=http://b.example:1";
        assert_eq!(join(&members, "b", cluster), Ok(9));
        assert_eq!(join(&members, "a", cluster), Ok(7));
    }

    #[test]
    fn a_cluster_that_is_not_the_one_described_is_refused_in_etcds_words() {
        let members = [
            existing(7, &["http://10.0.0.1:1"]),
            existing(9, &["http://10.0.0.2:1"]),
        ];
        assert_eq!(
            join(&members, "a", "a=http://10.0.0.1:1"),
            Err("member count is unequal".to_owned())
        );
        assert_eq!(
            join(&members, "b", "a=http://10.0.0.1:1,b=http://10.0.0.3:1"),
            Err(
                "PeerURLs: no match found for existing member (9, [http://10.0.0.2:1]), last resolver error (resolved urls: \
                 \"http://10.0.0.2:1\" != \"http://10.0.0.3:1\")"
                    .to_owned()
            )
        );
    }

    #[test]
    fn one_good_version_is_enough_and_one_bad_too_many() {
        let told = |clusters: &[&str]| -> Vec<(u64, Versions)> {
            let versions = |cluster: &&str| Versions {
                server: "3.5.1".to_owned(),
                cluster: cluster.to_string(),
            };
            (1..).zip(clusters.iter().map(versions)).collect()
        };
        assert!(are_compatible(&told(&["3.5.0"]), false));
        assert!(are_compatible(&told(&["3.7.0", "not_decided"]), false));
        for bad in [
            &[][..],
            &["not_decided"],
            &["3.5.0", "3.8.0"],
            &["2.3.0", "3.5.0"],
        ] {
            assert!(!are_compatible(&told(bad), false), "{bad:?}");
        }
        assert!(!are_compatible(&told(&["3.7.0"]), true));
        assert!(are_compatible(&told(&["3.8.0"]), true));
        // A 3.4 that has just been found out to be alone has the cluster version 3.0.0, as a 3.5 has.
        let mut old = told(&["3.0.0"]);
        assert!(are_compatible(&old, false));
        old[0].1.server = "3.4.23".to_owned();
        assert!(!are_compatible(&old, false));
    }

    #[test]
    fn a_cluster_is_shown_as_go_shows_it() {
        let mut member = existing(0xab, &["http://a:1", "http://b:1"]);
        member.name = "n".to_owned();
        let cluster = RemoteCluster {
            id: 0x10,
            members: vec![member],
        };
        assert_eq!(
            show_cluster(&cluster),
            "{ClusterID:10 Members:[&{ID:ab RaftAttributes:{PeerURLs:[http://a:1 http://b:1] IsLearner:false} \
             Attributes:{Name:n ClientURLs:[]}}] RemovedMemberIDs:[]}"
        );
    }
}
