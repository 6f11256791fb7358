//! The members as etcd's version 2 store, in JSON: what etcd puts into a raft snapshot beside the backend file.
//!
//! Members of 3.5 and 3.6 load it when they receive a snapshot, and take later changes of members into it; of 3.7 they ignore it.
//! Quorate writes it for them and never reads it: the backend file says the same.
//!
//! ```text
//!   /0/members/{id}/raftAttributes    {"peerURLs":[..],"isLearner":true}
//!   /0/members/{id}/attributes        {"name":"..","clientURLs":[..]}       once published
//!   /0/removed_members/{id}           removed
//!   /0/version                        3.5.0                                 once decided
//!   /1                                empty
//! ```
//! The record of events must have its full length although it is empty, or etcd 3.5 takes the snapshot and panics at the next change.
//! Source: upstream `server/etcdserver/api/v2store/store.go`, `node.go`, `event_queue.go`, and
//! `server/etcdserver/api/membership/store.go`; the shape was compared with a file of 3.5.1.

use std::fmt::Write as _;

use super::json::{write_string, write_strings};
use super::{Member, Membership, id_to_hex};

/// Events that etcd's record has room for.
const EVENTS: usize = 1000;

/// The whole document.
pub(super) fn write(members: &Membership, version: Option<&str>) -> Vec<u8> {
    let mut below: Vec<String> = Vec::new();
    let each = members.members.values().map(member);
    below.push(dir("/0/members", each));
    if !members.removed.is_empty() {
        let each = members.removed.iter().map(|id| {
            let path = format!("/0/removed_members/{}", id_to_hex(*id));
            leaf(&path, "removed")
        });
        below.push(dir("/0/removed_members", each));
    }
    if let Some(version) = version {
        below.push(leaf("/0/version", version));
    }
    let root = node("/", "", Some([dir("/0", below), dir("/1", [])]));
    let events = vec!["null"; EVENTS].join(",");
    let document = format!(
        "{{\"Root\":{root},\"WatcherHub\":{{\"EventHistory\":{{\"Queue\":{{\"Events\":[{events}],\"Size\":0,\"Front\":0,\"Back\":0,\
         \"Capacity\":{EVENTS}}},\"StartIndex\":0,\"LastIndex\":0}}}},\"CurrentIndex\":0,\"Stats\":{{\"getsSuccess\":0,\"getsFail\":0,\
         \"setsSuccess\":0,\"setsFail\":0,\"deleteSuccess\":0,\"deleteFail\":0,\"updateSuccess\":0,\"updateFail\":0,\
         \"createSuccess\":0,\"createFail\":0,\"compareAndSwapSuccess\":0,\"compareAndSwapFail\":0,\"compareAndDeleteSuccess\":0,\
         \"compareAndDeleteFail\":0,\"expireCount\":0,\"watchers\":0}},\"CurrentVersion\":2}}"
    );
    document.into_bytes()
}

fn member(member: &Member) -> String {
    let path = format!("/0/members/{}", id_to_hex(member.id));
    let mut below = Vec::new();
    if member.is_started() {
        let mut attributes = String::from("{\"name\":");
        write_string(&mut attributes, &member.name);
        if !member.client_urls.is_empty() {
            attributes.push_str(",\"clientURLs\":");
            write_strings(&mut attributes, &member.client_urls);
        }
        attributes.push('}');
        below.push(leaf(&format!("{path}/attributes"), &attributes));
    }
    let mut raft_attributes = String::from("{\"peerURLs\":");
    match &member.peer_urls {
        Some(urls) => write_strings(&mut raft_attributes, urls),
        None => raft_attributes.push_str("null"),
    }
    if member.is_learner {
        raft_attributes.push_str(",\"isLearner\":true");
    }
    raft_attributes.push('}');
    below.push(leaf(&format!("{path}/raftAttributes"), &raft_attributes));
    dir(&path, below)
}

/// A directory as an entry of the one above it. Its name is the end of its path.
fn dir(path: &str, below: impl IntoIterator<Item = String>) -> String {
    format!("\"{}\":{}", name(path), node(path, "", Some(below)))
}

fn leaf(path: &str, value: &str) -> String {
    let nothing: Option<[String; 0]> = None;
    format!("\"{}\":{}", name(path), node(path, value, nothing))
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn node(path: &str, value: &str, below: Option<impl IntoIterator<Item = String>>) -> String {
    let mut out = format!(
        "{{\"Path\":\"{path}\",\"CreatedIndex\":0,\"ModifiedIndex\":0,\"ExpireTime\":\"0001-01-01T00:00:00Z\",\"Value\":"
    );
    write_string(&mut out, value);
    match below {
        None => out.push_str(",\"Children\":null}"),
        Some(below) => {
            let below: Vec<String> = below.into_iter().collect();
            write!(out, ",\"Children\":{{{}}}}}", below.join(","))
                .expect("writing to a string does not fail");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn members_removed_ids_and_the_version_stand_where_etcd_looks_for_them() {
        let mut members = Membership::default();
        for (id, name, is_learner) in [(0xa1, "one", false), (0xb2, "", true)] {
            let member = Member {
                id,
                name: name.into(),
                is_learner,
                peer_urls: Some(vec![format!("http://10.0.0.1:{id}")]),
                client_urls: vec!["http://10.0.0.1:2379".into()],
            };
            members.members.insert(id, member);
        }
        members.removed.insert(0xc3);
        let document = write(&members, Some("3.5.0"));
        let document: Value = serde_json::from_slice(&document).expect("JSON");
        let at = |path: &[&str]| {
            let mut node = &document["Root"];
            for name in path {
                node = &node["Children"][name];
            }
            node.clone()
        };
        let value = |path: &[&str]| at(path)["Value"].as_str().map(str::to_owned);
        let is = |path: &[&str], expected: &str| {
            assert_eq!(value(path).as_deref(), Some(expected), "{path:?}");
            let whole = format!("/{}", path.join("/"));
            assert_eq!(at(path)["Path"], Value::String(whole));
        };
        is(
            &["0", "members", "a1", "raftAttributes"],
            "{\"peerURLs\":[\"http://10.0.0.1:161\"]}",
        );
        is(
            &["0", "members", "a1", "attributes"],
            "{\"name\":\"one\",\"clientURLs\":[\"http://10.0.0.1:2379\"]}",
        );
        is(
            &["0", "members", "b2", "raftAttributes"],
            "{\"peerURLs\":[\"http://10.0.0.1:178\"],\"isLearner\":true}",
        );
        assert_eq!(value(&["0", "members", "b2", "attributes"]), None);
        is(&["0", "removed_members", "c3"], "removed");
        is(&["0", "version"], "3.5.0");
        assert_eq!(at(&["1"])["Children"], serde_json::json!({}));
        let queue = &document["WatcherHub"]["EventHistory"]["Queue"];
        assert_eq!(queue["Events"].as_array().map(Vec::len), Some(EVENTS));
    }
}
