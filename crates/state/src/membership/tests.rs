use super::*;

fn urls(urls: &[&str]) -> Vec<String> {
    urls.iter().map(|url| (*url).to_owned()).collect()
}

fn change(kind: ConfChangeType, id: u64, context: &str) -> ConfChange {
    ConfChange {
        id: Some(1),
        r#type: Some(kind as i32),
        node_id: Some(id),
        context: Some(bytes::Bytes::copy_from_slice(context.as_bytes())),
    }
}

fn text(result: Result<ChangeContext, Rejected>) -> &'static str {
    result.map_or_else(|rejected| rejected.0.text, |_| "ok")
}

/// Members 1 (voter, started) and 2 (learner); 9 was removed.
fn example() -> Membership {
    let mut membership = Membership::default();
    for (kind, id, context) in [
        (
            ConfChangeType::ConfChangeAddNode,
            1,
            r#"{"id":1,"peerURLs":["http://a:1"],"name":"a"}"#,
        ),
        (
            ConfChangeType::ConfChangeAddNode,
            9,
            r#"{"id":9,"peerURLs":["http://i:1"]}"#,
        ),
        (
            ConfChangeType::ConfChangeAddLearnerNode,
            2,
            r#"{"id":2,"peerURLs":["http://b:1"],"isLearner":true,"isPromote":false}"#,
        ),
        (ConfChangeType::ConfChangeRemoveNode, 9, ""),
    ] {
        let change = change(kind, id, context);
        let context = membership.validate(&change, 1).expect("a valid change");
        membership.change(&change, context);
    }
    membership
}

#[test]
fn ids_are_etcds() {
    let id = |url: &str| member_id(&urls(&[url]), "etcd-cluster", None);
    let ids = [
        id("http://192.168.126.135:2380"),
        id("http://192.168.126.136:2380"),
    ];
    assert_eq!(ids, [0xe3bf_8bca_a9f9_60b4, 0x168a_e043_a1f5_2da5]);
    assert_eq!(cluster_id(&ids), 0xebb4_4d8d_1f09_e651);
    let alone = id("http://localhost:2380");
    assert_eq!(
        (alone, cluster_id(&[alone])),
        (0x8e9e_05c5_2164_694d, 0xcdf8_1819_4e3a_8c32)
    );
}

#[test]
fn an_id_does_not_depend_on_the_order_of_urls_but_on_the_time() {
    let (a, b) = (
        urls(&["http://a:1", "http://b:1"]),
        urls(&["http://b:1", "http://a:1"]),
    );
    assert_eq!(member_id(&a, "", Some(5)), member_id(&b, "", Some(5)));
    assert_ne!(member_id(&a, "", Some(5)), member_id(&a, "", Some(6)));
}

#[test]
fn json_has_gos_field_order_and_escapes() {
    let member = Member {
        id: 7,
        peer_urls: Some(urls(&["http://a?x=1&y=<2>"])),
        is_learner: true,
        name: "a\"\\\u{2028}\n\u{1}\u{7f}é".into(),
        client_urls: urls(&["c"]),
    };
    let json = r#"{"id":7,"peerURLs":["http://a?x=1\u0026y=\u003c2\u003e"],"isLearner":true,"name":"a\"\\\u2028\n\u0001"#.to_owned()
        + "\u{7f}é\",\"clientURLs\":[\"c\"]}";
    assert_eq!(String::from_utf8(member.to_json()).expect("UTF-8"), json);
    assert_eq!(Member::from_json(json.as_bytes()), Ok(member));
    let promote = ChangeContext {
        member: Member {
            id: 2,
            ..Default::default()
        },
        is_promote: true,
    };
    assert_eq!(
        promote.to_json(),
        br#"{"id":2,"peerURLs":null,"isPromote":true}"#
    );
    assert_eq!(ChangeContext::from_json(&promote.to_json()), Ok(promote));
}

#[test]
fn the_conf_state_follows_the_changes() {
    let membership = example();
    assert_eq!(
        membership.conf_state_json(),
        br#"{"voters":[1],"learners":[2],"auto_leave":false}"#
    );
    let state = conf_state_from_json(&membership.conf_state_json()).expect("our own JSON");
    assert_eq!(state, membership.conf_state());
    assert_eq!(
        conf_state_from_json(b"{}").expect("empty"),
        ConfState {
            auto_leave: Some(false),
            ..Default::default()
        }
    );
}

#[test]
fn changes_are_refused_with_etcds_errors() {
    use ConfChangeType::ConfChangeUpdateNode as Update;
    use ConfChangeType::{
        ConfChangeAddLearnerNode as Learner, ConfChangeAddNode as Add,
        ConfChangeRemoveNode as Remove,
    };
    let membership = example();
    let answer = |kind, id, context: &str| text(membership.validate(&change(kind, id, context), 1));
    let new =
        |id: u64, url: &str, rest: &str| format!(r#"{{"id":{id},"peerURLs":["{url}"]{rest}}}"#);
    assert_eq!(
        answer(Add, 9, &new(9, "http://z:1", "")),
        error::MEMBER_NOT_FOUND.text
    );
    assert_eq!(
        answer(Add, 1, &new(1, "http://z:1", "")),
        error::MEMBER_EXIST.text
    );
    assert_eq!(
        answer(Add, 3, &new(3, "http://b:1", "")),
        error::PEER_URL_EXIST.text
    );
    assert_eq!(
        answer(Learner, 3, &new(3, "http://z:1", r#","isLearner":true"#)),
        error::TOO_MANY_LEARNERS.text
    );
    assert_eq!(
        answer(Add, 1, r#"{"id":1,"peerURLs":null,"isPromote":true}"#),
        error::MEMBER_NOT_LEARNER.text
    );
    assert_eq!(
        answer(Add, 3, r#"{"id":3,"peerURLs":null,"isPromote":true}"#),
        error::MEMBER_NOT_FOUND.text
    );
    assert_eq!(answer(Remove, 3, ""), error::MEMBER_NOT_FOUND.text);
    assert_eq!(
        answer(Update, 3, &new(3, "http://z:1", "")),
        error::MEMBER_NOT_FOUND.text
    );
    assert_eq!(
        answer(Update, 1, &new(1, "http://b:1", "")),
        error::PEER_URL_EXIST.text
    );
    assert_eq!(
        answer(Update, 1, &new(1, "http://a:1", "")),
        "ok",
        "a member may keep its own URLs"
    );
    assert_eq!(answer(Add, 3, "{"), error::MEMBER_BAD_URLS.text);
    assert_eq!(
        answer(Add, 3, &new(4, "http://z:1", "")),
        error::MEMBER_BAD_URLS.text
    );
}

#[test]
fn an_update_does_not_promote_a_learner() {
    let mut membership = example();
    let change = change(
        ConfChangeType::ConfChangeUpdateNode,
        2,
        r#"{"id":2,"peerURLs":["http://b:2"],"name":"evil"}"#,
    );
    let context = membership.validate(&change, 1).expect("a valid change");
    membership.change(&change, context);
    let member = membership.get(2).expect("the member");
    assert_eq!(
        (member.is_learner, member.name.as_str(), member.peer_urls()),
        (true, "", &urls(&["http://b:2"])[..])
    );
}

#[test]
fn a_promoted_learner_votes() {
    let mut membership = example();
    let change = change(
        ConfChangeType::ConfChangeAddNode,
        2,
        r#"{"id":2,"peerURLs":null,"isPromote":true}"#,
    );
    let context = membership.validate(&change, 1).expect("a valid change");
    let Changed::Promoted(member) = membership.change(&change, context) else {
        panic!("not a promotion")
    };
    assert_eq!(
        (member.is_learner, member.peer_urls()),
        (false, &urls(&["http://b:1"])[..])
    );
    assert_eq!(membership.conf_state().voters, [1, 2]);
}

#[test]
fn hex_ids_have_no_leading_zeros_and_take_no_sign() {
    assert_eq!(
        (
            id_to_hex(0xab),
            id_from_hex("ab"),
            id_from_hex("+ab"),
            id_from_hex("")
        ),
        ("ab".into(), Some(0xab), None, None)
    );
}
