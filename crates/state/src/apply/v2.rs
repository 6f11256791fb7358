//! Requests in the form they had before 3.0, which members up to 3.5 still write for two purposes: to publish a member's
//! attributes, and to set the cluster version.

use proto::error;
use proto::etcdserverpb::Request;
use proto::raftpb::Entry;

use super::{Answer, Yield, membership, not_understood, version};
use crate::State;
use crate::membership::{Member, id_from_hex};
use crate::outcome::{Response, reject};

pub(super) fn apply(
    state: &mut State,
    request: &Request,
    entry: &Entry,
    yields: &mut Yield,
) -> Answer {
    let (method, path) = (request.method(), text(request.path()));
    match method {
        // Reads, and the ticks by which keys of the v2 tree expire: nothing here can.
        "QGET" | "SYNC" | "GET" => return Ok(Response::None),
        "PUT" if path == "/0/version" => return version::set(state, &text(request.val()), yields),
        _ => {}
    }
    let id = path
        .strip_prefix("/0/members/")
        .and_then(|rest| rest.strip_suffix("/attributes"))
        .and_then(id_from_hex);
    match id {
        Some(id) if method == "PUT" => {
            let Ok(member) = Member::from_json(text(request.val()).as_bytes()) else {
                return reject(&error::MEMBER_NOT_FOUND);
            };
            membership::publish(state, id, member.name, member.client_urls, yields)
        }
        _ => Err(not_understood(
            entry,
            &format!("it writes \"{path}\" through the v2 API, which this version does not keep"),
        )
        .into()),
    }
}

/// Names of v2 may be any bytes. The two kinds of path that matter here are plain text, and so are their values.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
