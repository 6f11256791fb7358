//! Users, roles and permissions in the log: answers, rows, restarts and snapshots.

mod common;

use bytes::Bytes;
use common::{Member, bytes, delete, op, put, range, txn};
use prost::Message;
use proto::authpb::{self, permission::Type};
use proto::error;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use state::{Applied, Fact, Importer, Params, Response, State};
use std::ops::ControlFlow;
use std::sync::Arc;
use storage::catalog::Catalog;
use storage::disk::MemDisk;
use storage::segments::SegmentsOptions;

type Raft = pb::InternalRaftRequest;

fn raft(fill: impl FnOnce(&mut Raft)) -> Raft {
    let mut request = Raft::default();
    fill(&mut request);
    request
}

fn text(applied: &Applied) -> &'static str {
    applied
        .outcome
        .as_ref()
        .map_or_else(|rejected| rejected.0.text, |_| "yes")
}

/// Puts a request through the log in somebody's name, at the newest revision of the auth store.
fn by(member: &mut Member, user: &str, mut request: Raft) -> Applied {
    let auth_revision = match user {
        "" => 0,
        _ => member.state.view().auth().revision(),
    };
    request.header = Some(pb::RequestHeader {
        id: 1,
        username: user.into(),
        auth_revision,
    });
    member.request(&request)
}

fn asked(member: &mut Member, user: &str, request: Request) -> &'static str {
    let request = raft(|raft| match request {
        Request::RequestRange(request) => raft.range = Some(request),
        Request::RequestPut(request) => raft.put = Some(request),
        Request::RequestDeleteRange(request) => raft.delete_range = Some(request),
        Request::RequestTxn(request) => raft.txn = Some(request),
    });
    text(&by(member, user, request))
}

fn user_add(name: &str) -> Raft {
    let request = pb::AuthUserAddRequest {
        name: name.into(),
        hashed_password: "aGFzaA==".into(),
        ..Default::default()
    };
    raft(|raft| raft.auth_user_add = Some(request))
}

fn user_delete(name: &str) -> Raft {
    let name = name.into();
    raft(|raft| raft.auth_user_delete = Some(pb::AuthUserDeleteRequest { name }))
}

fn user_grant(user: &str, role: &str) -> Raft {
    let (user, role) = (user.into(), role.into());
    raft(|raft| raft.auth_user_grant_role = Some(pb::AuthUserGrantRoleRequest { user, role }))
}

fn user_revoke(name: &str, role: &str) -> Raft {
    let (name, role) = (name.into(), role.into());
    raft(|raft| raft.auth_user_revoke_role = Some(pb::AuthUserRevokeRoleRequest { name, role }))
}

fn user_get(name: &str) -> Raft {
    let name = name.into();
    raft(|raft| raft.auth_user_get = Some(pb::AuthUserGetRequest { name }))
}

fn role_add(name: &str) -> Raft {
    let name = name.into();
    raft(|raft| raft.auth_role_add = Some(pb::AuthRoleAddRequest { name }))
}

fn role_delete(role: &str) -> Raft {
    let role = role.into();
    raft(|raft| raft.auth_role_delete = Some(pb::AuthRoleDeleteRequest { role }))
}

fn role_get(role: &str) -> Raft {
    let role = role.into();
    raft(|raft| raft.auth_role_get = Some(pb::AuthRoleGetRequest { role }))
}

fn grant(role: &str, kind: Type, key: &str, end: &str) -> Raft {
    let perm = authpb::Permission {
        perm_type: kind as i32,
        key: bytes(key),
        range_end: bytes(end),
    };
    let request = pb::AuthRoleGrantPermissionRequest {
        name: role.into(),
        perm: Some(perm),
    };
    raft(|raft| raft.auth_role_grant_permission = Some(request))
}

fn take(role: &str, key: &str, end: &str) -> Raft {
    let request = pb::AuthRoleRevokePermissionRequest {
        role: role.into(),
        key: bytes(key),
        range_end: bytes(end),
    };
    raft(|raft| raft.auth_role_revoke_permission = Some(request))
}

fn enable() -> Raft {
    raft(|raft| raft.auth_enable = Some(Default::default()))
}

fn disable() -> Raft {
    raft(|raft| raft.auth_disable = Some(Default::default()))
}

fn authenticate(name: &str, simple_token: &str) -> Raft {
    let request = pb::InternalAuthenticateRequest {
        name: name.into(),
        password: String::new(),
        simple_token: simple_token.into(),
    };
    raft(|raft| raft.authenticate = Some(request))
}

/// Users `root` and `u`, of whom `u` may read `r··s` and write `w··x`; authentication is on.
fn member() -> Member {
    let mut member = Member::new();
    for request in [
        user_add("root"),
        user_grant("root", "root"),
        user_add("u"),
        role_add("part"),
        grant("part", Type::Read, "r", "s"),
        grant("part", Type::Write, "w", "x"),
        user_grant("u", "part"),
        enable(),
    ] {
        assert_eq!(text(&by(&mut member, "", request)), "yes");
    }
    member
}

#[test]
fn requests_about_users_and_roles_are_answered_in_etcds_words_and_order() {
    let mut member = Member::new();
    let cases = [
        (enable(), error::ROOT_USER_NOT_EXIST.text),
        (user_add(""), error::USER_EMPTY.text),
        (user_add(&"x".repeat(32_769)), error::REQUEST_TOO_LARGE.text),
        (user_add("root"), "yes"),
        (user_add("root"), error::USER_ALREADY_EXIST.text),
        (enable(), error::ROOT_ROLE_NOT_EXIST.text),
        (user_grant("nobody", "root"), error::USER_NOT_FOUND.text),
        (user_grant("root", "r"), error::ROLE_NOT_FOUND.text),
        (user_grant("root", "root"), "yes"),
        (role_get("root"), error::ROLE_NOT_FOUND.text),
        (role_add(""), error::ROLE_EMPTY.text),
        (role_add("r"), "yes"),
        (role_add("r"), error::ROLE_ALREADY_EXIST.text),
        (
            raft(|raft| raft.auth_role_grant_permission = Some(Default::default())),
            error::PERMISSION_NOT_GIVEN.text,
        ),
        (
            grant("nothing", Type::Read, "b", "a"),
            error::INVALID_AUTH_MGMT.text,
        ),
        (
            grant("nothing", Type::Read, "", ""),
            error::INVALID_AUTH_MGMT.text,
        ),
        (
            grant("nothing", Type::Read, "a", ""),
            error::ROLE_NOT_FOUND.text,
        ),
        (grant("r", Type::Read, "b", "\0"), "yes"),
        (take("nothing", "b", ""), error::ROLE_NOT_FOUND.text),
        (take("r", "b", ""), error::PERMISSION_NOT_GRANTED.text),
        (user_revoke("root", "r"), error::ROLE_NOT_GRANTED.text),
        (user_revoke("nobody", "r"), error::USER_NOT_FOUND.text),
        (user_delete("nobody"), error::USER_NOT_FOUND.text),
        (role_delete("nothing"), error::ROLE_NOT_FOUND.text),
        (authenticate("root", "x"), error::AUTH_NOT_ENABLED.text),
        (enable(), "yes"),
        (enable(), error::USER_EMPTY.text),
    ];
    for (request, wanted) in cases {
        let applied = by(&mut member, "", request.clone());
        assert_eq!(text(&applied), wanted, "{request:?}");
    }
    let cases = [
        (enable(), "yes"),
        (user_delete("root"), error::INVALID_AUTH_MGMT.text),
        (role_delete("root"), error::INVALID_AUTH_MGMT.text),
        (user_revoke("root", "root"), error::INVALID_AUTH_MGMT.text),
        (authenticate("nobody", "x"), error::AUTH_FAILED.text),
        (authenticate("root", "x"), "yes"),
        (disable(), "yes"),
        (disable(), "yes"),
        (user_revoke("root", "root"), "yes"),
        (user_delete("root"), "yes"),
    ];
    for (request, wanted) in cases {
        let applied = by(&mut member, "root", request.clone());
        assert_eq!(text(&applied), wanted, "{request:?}");
    }
}

#[test]
fn the_revision_counts_changes_and_nothing_else() {
    let mut member = Member::new();
    let mut revision = 1;
    for (request, steps) in [
        (user_add("root"), 1),
        (user_add("root"), 0),
        (user_grant("root", "root"), 1),
        (user_grant("root", "root"), 0),
        (role_add("r"), 1),
        (grant("r", Type::Read, "a", ""), 1),
        (grant("r", Type::Read, "a", ""), 1),
        (take("r", "a", ""), 1),
        (role_delete("r"), 1),
        (enable(), 0),
        (enable(), 0),
        (authenticate("root", "x"), 0),
        (disable(), 1),
        (disable(), 0),
        (user_delete("root"), 1),
    ] {
        by(&mut member, "root", request.clone());
        revision += steps;
        assert_eq!(
            member.state.view().auth().revision(),
            revision,
            "{request:?}"
        );
    }
    assert_eq!(member.state.view().revision(), 1, "keys have not changed");
}

/// A user has options even if the request has none; what is zero is left out.
#[test]
fn rows_are_etcds() {
    let mut member = member();
    assert_eq!(
        text(&by(
            &mut member,
            "root",
            grant("part", Type::Readwrite, "q", "")
        )),
        "yes"
    );
    let no_password = pb::AuthUserAddRequest {
        name: "cert".into(),
        options: Some(authpb::UserAddOptions { no_password: true }),
        ..Default::default()
    };
    let request = raft(|raft| raft.auth_user_add = Some(no_password));
    assert_eq!(text(&by(&mut member, "root", request)), "yes");
    let expected = [
        ("auth", "authEnabled", r"\x01"),
        ("auth", "authRevision", r"\x00\x00\x00\x00\x00\x00\x00\n"),
        (
            "authRoles",
            "part",
            r"\n\x04part\x12\x05\x08\x02\x12\x01q\x12\x06\x12\x01r\x1a\x01s\x12\x08\x08\x01\x12\x01w\x1a\x01x",
        ),
        ("authUsers", "cert", r#"\n\x04cert"\x02\x08\x01"#),
        (
            "authUsers",
            "root",
            r#"\n\x04root\x12\x04hash\x1a\x04root"\x00"#,
        ),
        ("authUsers", "u", r#"\n\x01u\x12\x04hash\x1a\x04part"\x00"#),
    ];
    assert_eq!(
        auth_rows(&member.state),
        expected.map(|(bucket, key, value)| (
            bucket,
            key.to_owned(),
            value.replace(r#"""#, "\\\"")
        ))
    );
}

fn auth_rows(state: &State) -> Vec<(&'static str, String, String)> {
    let mut rows = Vec::new();
    let visit = |bucket: &'static str, key: &[u8], value: &[u8]| {
        if bucket.starts_with("auth") {
            rows.push((
                bucket,
                key.escape_ascii().to_string(),
                value.escape_ascii().to_string(),
            ));
        }
        ControlFlow::Continue(())
    };
    state.view().rows(visit).expect("sound data");
    rows
}

#[test]
fn what_an_entry_may_do_is_decided_by_all_that_it_does() {
    let mut member = member();
    member.grant(7, 60);
    member.grant(8, 60);
    let denied = error::PERMISSION_DENIED.text;
    let rooted = |member: &mut Member, request| assert_eq!(asked(member, "root", request), "yes");
    rooted(&mut member, put("a", "", 7));
    rooted(&mut member, put("w1", "", 8));
    let prev = |key: &str| {
        let Request::RequestPut(put) = put(key, "", 0) else {
            unreachable!()
        };
        Request::RequestPut(pb::PutRequest {
            prev_kv: true,
            ..put
        })
    };
    let blind = |key: &str, end: &str| {
        Request::RequestDeleteRange(pb::DeleteRangeRequest {
            key: bytes(key),
            range_end: bytes(end),
            prev_kv: false,
        })
    };
    let compare = |key: &str, end: &str| pb::Compare {
        key: bytes(key),
        range_end: bytes(end),
        ..Default::default()
    };
    let nested = |request: Request| txn(vec![], vec![txn(vec![], vec![], vec![request])], vec![]);
    let read = |key, end| Request::RequestRange(range(key, end));
    let cases = [
        (read("r", ""), "yes"),
        (read("r", "s"), "yes"),
        (read("r", "t"), denied),
        (read("w", ""), denied),
        (put("w", "1", 0), "yes"),
        (put("r", "1", 0), denied),
        // To see what was there is to read.
        (prev("w"), denied),
        (blind("w", "x"), "yes"),
        (blind("w", "y"), denied),
        (delete("w", "x"), denied),
        // A lease that holds a key which this user may not delete.
        (put("w", "1", 7), denied),
        (put("w", "1", 8), "yes"),
        (put("w", "1", 99), error::LEASE_NOT_FOUND.text),
        // Both ways through a transaction, its comparisons, and what is nested in it.
        (txn(vec![compare("r", "")], vec![], vec![]), "yes"),
        (txn(vec![compare("r", "t")], vec![], vec![]), denied),
        (
            txn(vec![], vec![put("w", "", 0), read("r", "")], vec![]),
            "yes",
        ),
        (
            txn(vec![], vec![put("w", "", 0)], vec![read("w", "")]),
            denied,
        ),
        (nested(put("w", "", 0)), "yes"),
        (nested(put("r", "", 0)), denied),
        (nested(prev("w")), denied),
        (nested(put("w", "", 7)), denied),
        (nested(blind("w", "y")), denied),
        (nested(delete("w", "")), denied),
        (
            txn(
                vec![],
                vec![txn(vec![compare("w", "")], vec![], vec![])],
                vec![],
            ),
            denied,
        ),
    ];
    for (request, wanted) in cases {
        let before = member.state.view().revision();
        assert_eq!(
            asked(&mut member, "u", request.clone()),
            wanted,
            "{request:?}"
        );
        if wanted != "yes" {
            assert_eq!(member.state.view().revision(), before, "{request:?}");
        }
        assert_eq!(
            asked(&mut member, "", request.clone()),
            error::USER_EMPTY.text,
            "{request:?}"
        );
    }
    rooted(&mut member, put("w1", "", 8));
    let revoke = |id| raft(|raft| raft.lease_revoke = Some(pb::LeaseRevokeRequest { id }));
    assert_eq!(text(&by(&mut member, "u", revoke(7))), denied);
    assert_eq!(
        text(&by(&mut member, "", revoke(8))),
        error::USER_EMPTY.text
    );
    assert_eq!(text(&by(&mut member, "u", revoke(8))), "yes");
    assert_eq!(
        text(&by(&mut member, "u", revoke(8))),
        error::LEASE_NOT_FOUND.text
    );
    assert_eq!(text(&by(&mut member, "root", revoke(7))), "yes");
}

#[test]
fn users_and_roles_are_shown_to_root_and_to_whom_they_concern() {
    let mut member = member();
    let denied = error::PERMISSION_DENIED.text;
    for (user, request, wanted) in [
        ("u", user_get("u"), "yes"),
        ("u", user_get("root"), denied),
        ("root", user_get("u"), "yes"),
        ("", user_get(""), error::USER_NOT_FOUND.text),
        ("u", role_get("part"), "yes"),
        ("u", role_get("root"), denied),
        ("root", role_get("root"), error::ROLE_NOT_FOUND.text),
        (
            "u",
            raft(|raft| raft.auth_user_list = Some(Default::default())),
            denied,
        ),
        (
            "u",
            raft(|raft| raft.auth_role_list = Some(Default::default())),
            denied,
        ),
        (
            "u",
            raft(|raft| raft.auth_status = Some(Default::default())),
            "yes",
        ),
        ("u", user_add("v"), denied),
        ("u", disable(), denied),
    ] {
        assert_eq!(
            text(&by(&mut member, user, request.clone())),
            wanted,
            "{user} {request:?}"
        );
    }
    assert_eq!(text(&by(&mut member, "root", role_add("root"))), "yes");
    let Ok(Response::AuthRoleGet(answer)) = by(&mut member, "root", role_get("root")).outcome
    else {
        panic!("refused")
    };
    assert_eq!(answer.perm.len(), 1);
    assert_eq!(
        (&answer.perm[0].key[..], &answer.perm[0].range_end[..]),
        (&b""[..], &[0][..])
    );
}

#[test]
fn a_token_is_what_the_edge_drew_and_the_index_of_the_entry() {
    let mut member = member();
    let applied = by(&mut member, "", authenticate("u", "AbC"));
    let token = format!("AbC.{}", applied.index);
    let Ok(Response::Authenticate(answer)) = &applied.outcome else {
        panic!("refused")
    };
    assert_eq!(answer.token, token);
    let [Fact::TokenAssigned(assigned)] = &applied.facts[..] else {
        panic!("{:?}", applied.facts)
    };
    assert_eq!((assigned.user.as_str(), &assigned.token), ("u", &token));
    assert!(
        !format!("{applied:?}").contains("AbC"),
        "a token is never printed"
    );
    // An edge with tokens of another kind draws nothing; nobody may guess what that makes.
    assert!(by(&mut member, "", authenticate("u", "")).facts.is_empty());
    let revoked = |user: Option<&str>| Fact::TokensRevoked {
        user: user.map(str::to_owned),
    };
    assert!(
        by(&mut member, "root", user_delete("u"))
            .facts
            .contains(&revoked(Some("u")))
    );
    assert!(
        by(&mut member, "root", disable())
            .facts
            .contains(&revoked(None))
    );
    assert!(by(&mut member, "root", disable()).facts.is_empty());
}

/// etcd #14571: a member that had its users from a snapshot let everybody in.
#[test]
fn users_come_back_with_a_restart_and_with_a_snapshot() {
    let mut member = member();
    member.checkpoint();
    member.restart();
    let snapshot = Arc::new(MemDisk::new());
    let (_catalog, recovered) = Catalog::open(snapshot.clone(), "data").expect("an empty disk");
    assert!(recovered.is_none());
    let mut importer = Importer::new(
        Params::default(),
        snapshot,
        "data",
        SegmentsOptions::default(),
    )
    .expect("an empty disk");
    let mut rows = Vec::new();
    let visit = |bucket: &'static str, key: &[u8], value: &[u8]| {
        rows.push((bucket, key.to_vec(), Bytes::copy_from_slice(value)));
        ControlFlow::Continue(())
    };
    member.state.view().rows(visit).expect("sound data");
    for (bucket, key, value) in rows {
        importer.row(bucket, &key, value).expect("a row");
    }
    let (imported, _job) = importer.finish().expect("sound rows");
    assert_eq!(auth_rows(&imported), auth_rows(&member.state));
    assert_eq!(
        imported.view().hash().expect("sound"),
        member.state.view().hash().expect("sound")
    );
    for state in [&imported, &member.state] {
        let view = state.view();
        let auth = view.auth();
        assert!(auth.is_enabled());
        let u = state::auth::Caller {
            user: "u",
            revision: auth.revision(),
        };
        assert!(auth.may_read(u, b"r", b"s").is_ok());
        assert!(auth.may_write(u, b"r", b"s").is_err());
    }
    assert_eq!(
        asked(&mut member, "u", put("r", "", 0)),
        error::PERMISSION_DENIED.text
    );
    assert_eq!(asked(&mut member, "u", put("w", "", 0)), "yes");
}

#[test]
fn a_password_in_clear_of_an_old_member_becomes_a_hash() {
    let mut member = Member::new();
    let request = pb::AuthUserAddRequest {
        name: "u".into(),
        password: "secret".into(),
        ..Default::default()
    };
    let applied = by(
        &mut member,
        "",
        raft(|raft| raft.auth_user_add = Some(request)),
    );
    assert_eq!(text(&applied), "yes");
    let view = member.state.view();
    let hash = view
        .auth()
        .user("u")
        .expect("a user")
        .password_hash()
        .to_vec();
    assert!(bcrypt::verify("secret", std::str::from_utf8(&hash).expect("text")).expect("a hash"));
    let request = pb::AuthUserAddRequest {
        name: "v".into(),
        hashed_password: "*".into(),
        ..Default::default()
    };
    let applied = by(
        &mut member,
        "",
        raft(|raft| raft.auth_user_add = Some(request)),
    );
    assert_eq!(text(&applied), error::NO_PASSWORD_USER.text);
}

/// The order of the checks: alarms, then permissions, then the request itself.
#[test]
fn alarms_come_before_permissions() {
    let mut member = member();
    let alarm = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate as i32,
        member_id: 1,
        alarm: pb::AlarmType::Nospace as i32,
    };
    member.request(&raft(|raft| raft.alarm = Some(alarm)));
    assert_eq!(
        asked(&mut member, "u", put("r", "", 0)),
        error::NO_SPACE.text
    );
    assert_eq!(
        asked(&mut member, "u", Request::RequestRange(range("w", ""))),
        error::PERMISSION_DENIED.text
    );
    let ops = pb::TxnRequest {
        success: vec![op(put("r", "", 0))],
        ..Default::default()
    };
    assert_eq!(
        asked(&mut member, "u", Request::RequestTxn(ops.clone())),
        error::NO_SPACE.text
    );
    assert!(!ops.encode_to_vec().is_empty());
}
