//! Claims about users, roles and permissions as a whole; those about requests in the log stand in `tests/auth.rs`.

use bytes::Bytes;
use proto::authpb::{self, permission::Type};
use proto::error::{self, RpcError};
use proto::etcdserverpb as pb;

use super::ranges::{Access, Granted};
use super::*;
use crate::outcome::Rejected;

/// Answers of etcd's own trees: intervals, the range asked for, and whether it is covered in 3.5 and in 3.7. `-` is a single key, `0`
/// everything from a key on. Made with etcd's `pkg/adt` of 3.5.30 and 3.7.1 from random intervals, of which a third may end before
/// they begin; the last fifty are answered differently by the two.
const ETCDS_ANSWERS: &str = include_str!("intervals.golden");

#[test]
fn ranges_are_covered_as_by_etcds_tree() {
    for line in ETCDS_ANSWERS.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [listed, asked, in_3_5, in_3_7] = fields[..] else {
            panic!("{line}")
        };
        let permissions: Vec<_> = listed.split_whitespace().map(permission).collect();
        let granted = Granted::of(permissions.iter());
        let asked = permission(asked);
        let covers = |is_3_7| {
            let covers = granted.covers(Access::Read, &asked.key, &asked.range_end, is_3_7);
            covers.to_string()
        };
        assert_eq!(
            (covers(false).as_str(), covers(true).as_str()),
            (in_3_5, in_3_7),
            "{line}"
        );
    }
}

fn permission(text: &str) -> authpb::Permission {
    let part = |part: &str| match part {
        "-" => Bytes::new(),
        "0" => Bytes::from_static(&[0]),
        part => Bytes::copy_from_slice(part.as_bytes()),
    };
    let (key, range_end) = text.split_once(',').expect("two bounds");
    authpb::Permission {
        perm_type: Type::Read as i32,
        key: part(key),
        range_end: part(range_end),
    }
}

#[test]
fn a_type_of_permission_grants_what_it_says_and_one_that_is_unknown_nothing() {
    let grants = |perm_type| {
        let permission = authpb::Permission {
            perm_type,
            ..permission("a,c")
        };
        let granted = Granted::of([permission].iter());
        [Access::Read, Access::Write].map(|access| granted.covers(access, b"b", b"", true))
    };
    assert_eq!(grants(Type::Read as i32), [true, false]);
    assert_eq!(grants(Type::Write as i32), [false, true]);
    assert_eq!(grants(Type::Readwrite as i32), [true, true]);
    assert_eq!(grants(7), [false, false]);
}

/// A store with users `root` and `u`; `u` may read `r··s` and write `w··x`. On, at the revision that is returned.
fn store() -> (Store, u64) {
    let mut store = Store::new();
    let mut add = |name: &str| {
        let request = pb::AuthUserAddRequest {
            name: name.into(),
            ..Default::default()
        };
        let _ = store.user_add(&request, 1).expect("a new user");
    };
    add("root");
    add("u");
    let done = |changed: Result<Changes, Rejected>| drop(changed.expect("a change"));
    done(store.user_grant_role("root", "root"));
    done(store.role_add("part"));
    for (text, perm_type) in [("r,s", Type::Read), ("w,x", Type::Write)] {
        let permission = authpb::Permission {
            perm_type: perm_type as i32,
            ..permission(text)
        };
        done(store.role_grant_permission("part", Some(&permission)));
    }
    done(store.user_grant_role("u", "part"));
    done(store.enable());
    let revision = store.revision();
    (store, revision)
}

fn text(outcome: Result<(), Rejected>) -> &'static str {
    outcome.map_or_else(|rejected| rejected.0.text, |()| "yes")
}

#[test]
fn what_may_be_done_is_asked_in_etcds_order() {
    let (store, revision) = store();
    let caller = |user, revision| Caller { user, revision };
    let cases: [(Caller<'_>, &str, Option<&RpcError>); 8] = [
        (Caller::NOBODY, "r1", Some(&error::USER_EMPTY)),
        (caller("u", 0), "r1", Some(&error::USER_EMPTY)),
        (
            caller("u", revision - 1),
            "r1",
            Some(&error::AUTH_OLD_REVISION),
        ),
        (
            caller("root", revision - 1),
            "r1",
            Some(&error::AUTH_OLD_REVISION),
        ),
        (caller("u", revision), "r1", None),
        (caller("u", revision), "w1", Some(&error::PERMISSION_DENIED)),
        (
            caller("nobody", revision),
            "r1",
            Some(&error::PERMISSION_DENIED),
        ),
        // A revision that is still to come, as a leader may have it that is ahead.
        (caller("root", revision + 1), "w1", None),
    ];
    for (caller, key, wanted) in cases {
        let answer = text(store.may_read(caller, key.as_bytes(), b""));
        assert_eq!(
            answer,
            wanted.map_or("yes", |error| error.text),
            "{caller:?} {key}"
        );
    }
    assert_eq!(
        text(store.may_write(caller("u", revision), b"w", b"x")),
        "yes"
    );
    let beyond = store.may_write(caller("u", revision), b"w", b"x1");
    assert_eq!(text(beyond), error::PERMISSION_DENIED.text);
}

#[test]
fn administration_needs_the_role_root_and_not_a_new_revision() {
    let (mut store, _) = store();
    let ask = |store: &Store, user| text(store.may_administer(Caller { user, revision: 1 }));
    assert_eq!(ask(&store, ""), error::USER_EMPTY.text);
    assert_eq!(ask(&store, "x"), error::USER_NOT_FOUND.text);
    assert_eq!(ask(&store, "u"), error::PERMISSION_DENIED.text);
    assert_eq!(ask(&store, "root"), "yes");
    let _ = store.user_grant_role("u", "root").expect("a change");
    assert_eq!(ask(&store, "u"), "yes");
    let _ = store.disable();
    assert_eq!(ask(&store, ""), "yes");
}

#[test]
fn a_change_of_a_role_reaches_everybody_who_has_it_at_once() {
    let (mut store, _) = store();
    let may = |store: &Store, key: &str| {
        let caller = Caller {
            user: "u",
            revision: store.revision(),
        };
        store.may_read(caller, key.as_bytes(), b"").is_ok()
    };
    assert!(may(&store, "r1") && !may(&store, "q"));
    let more = permission("q,-");
    let _ = store
        .role_grant_permission("part", Some(&more))
        .expect("a change");
    assert!(may(&store, "r1") && may(&store, "q"));
    let _ = store
        .role_revoke_permission("part", b"r", b"s")
        .expect("a change");
    assert!(!may(&store, "r1") && may(&store, "q"));
    let _ = store.role_delete("part").expect("a change");
    assert!(!may(&store, "q"));
    assert!(store.user("u").expect("a user").roles().is_empty());
}

#[test]
fn a_range_is_granted_twice_if_it_is_not_the_first_that_begins_there() {
    let (mut store, _) = store();
    let grant = |store: &mut Store, text: &str, perm_type: Type| {
        let permission = authpb::Permission {
            perm_type: perm_type as i32,
            ..permission(text)
        };
        let _ = store
            .role_grant_permission("part", Some(&permission))
            .expect("a change");
    };
    let ends = |store: &Store| {
        let role = store.role("part").expect("a role");
        let listed = role.key_permission.iter();
        listed
            .filter(|permission| permission.key == "a")
            .map(|permission| (permission.range_end.to_vec(), permission.perm_type))
            .collect::<Vec<_>>()
    };
    grant(&mut store, "a,b", Type::Read);
    grant(&mut store, "a,c", Type::Read);
    grant(&mut store, "a,b", Type::Write);
    assert_eq!(ends(&store), [(b"b".to_vec(), 1), (b"c".to_vec(), 0)]);
    grant(&mut store, "a,c", Type::Write);
    assert_eq!(
        ends(&store),
        [(b"b".to_vec(), 1), (b"c".to_vec(), 0), (b"c".to_vec(), 1)]
    );
    let _ = store
        .role_revoke_permission("part", b"a", b"c")
        .expect("a change");
    assert_eq!(ends(&store), [(b"b".to_vec(), 1)]);
}
