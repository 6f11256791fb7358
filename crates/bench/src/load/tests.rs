//! The hand-written messages against the generated ones, and the loads against a connection without a server.

use super::*;
use crate::load::keys::Keyspace;
use crate::stats::Window;

fn shared() -> Shared {
    let stats = Stats::new(Window {
        start: 0,
        end: 1_000,
    });
    Shared::new(
        stats,
        Keyspace {
            count: 5_000,
            key_bytes: 24,
        },
        64,
        1,
        Vec::new(),
    )
}

#[test]
fn a_closed_loop_keeps_one_request_per_client_in_flight() {
    let mut conn = Conn::new("h", None);
    let mut s = shared();
    let mut load = Unary::new(Op::Put, 3);
    load.start(&mut conn, &mut s);
    assert_eq!(s.in_flight, 3);
    s.now = 500;
    load.end(&mut conn, &mut s, 1, Outcome::Ok { bytes: 9 });
    assert_eq!((s.in_flight, s.stats.ops, s.stats.bytes), (3, 1, 9));
    load.end(&mut conn, &mut s, 2, Outcome::Status(14, "x".into()));
    assert_eq!((s.in_flight, s.stats.ops), (3, 1));
    s.stopping = true;
    load.end(&mut conn, &mut s, 0, Outcome::Ok { bytes: 0 });
    assert_eq!((s.in_flight, s.stats.ops), (2, 2));
    load.abandon(&mut s);
    assert_eq!(s.stats.errors["unanswered"].count, 2);
    assert_eq!(s.stats.errors["UNAVAILABLE"].count, 1);
}

#[test]
fn filling_puts_each_key_once_and_ends() {
    let mut conn = Conn::new("h", None);
    let mut s = shared();
    let mut load = Unary::new(Op::PutEach(10..15), 2);
    load.start(&mut conn, &mut s);
    let mut answered = 0;
    while s.in_flight > 0 {
        let token = load.calls.iter().position(|c| c.active).unwrap();
        load.end(&mut conn, &mut s, token as u32, Outcome::Ok { bytes: 0 });
        answered += 1;
    }
    assert_eq!(answered, 5);
}

#[test]
fn an_open_loop_sends_when_due_and_not_after_an_answer() {
    let mut conn = Conn::new("h", None);
    let mut s = shared();
    let mut load = Unary::new(Op::Get { serializable: true }, 0);
    load.start(&mut conn, &mut s);
    assert_eq!(s.in_flight, 0);
    s.now = 300;
    load.fire(&mut conn, &mut s, 100);
    s.now = 900;
    load.end(&mut conn, &mut s, 0, Outcome::Ok { bytes: 0 });
    assert_eq!((s.in_flight, s.stats.latency.len()), (0, 1));
}
