//! What is bounded, and what happens at the bound.

use super::*;

#[test]
fn a_stream_without_credit_keeps_only_cursors_and_others_go_on() {
    let mut bed = Bed::with(Limits {
        stream_bytes: 1000,
        ..Limits::default()
    });
    bed.open(1);
    bed.open(2);
    bed.create(1, on("a"));
    bed.create(2, on("a"));
    bed.lines(2);
    for n in 0..50 {
        bed.txn(&[put("a", &"x".repeat(100 + n))]);
        assert_eq!(bed.lines(2).len(), 1);
    }
    let held: usize = bed.queues[&StreamId(1)].iter().map(Message::size).sum();
    assert!(held < 1000 + 400, "{held} bytes");
    assert_eq!(bed.hub.stats().outstanding_bytes, held);
    assert_eq!(bed.hub.stats().behind, 1);
    assert!(!bed.wants_turn, "without credit there is nothing to do");
}

#[test]
fn beyond_the_total_only_idle_streams_get_a_message() {
    let mut bed = Bed::with(Limits {
        total_bytes: 1000,
        ..Limits::default()
    });
    for stream in 0..40 {
        bed.open(stream);
        bed.create(stream, on("a"));
        bed.lines(stream);
    }
    for n in 0..10 {
        bed.txn(&[put("a", &n.to_string())]);
    }
    assert!(bed.queued(0) < 10);
    for stream in 0..40 {
        assert!(bed.queued(stream) >= 1, "stream {stream}");
    }
    for stream in 0..40 {
        let lines = bed.lines(stream).join("; ");
        for n in 0..10 {
            assert_eq!(lines.matches(&format!("a={n} ")).count(), 1, "{lines}");
        }
    }
    assert_eq!(bed.hub.stats().outstanding_bytes, 0);
}

#[test]
fn a_client_that_asks_without_reading_is_ended() {
    let mut bed = Bed::with(Limits {
        stream_messages: 2,
        stream_answers: 3,
        ..Limits::default()
    });
    bed.open(1);
    for _ in 0..5 {
        bed.create(1, on("a"));
    }
    assert_eq!(bed.overrun, []);
    bed.create(1, on("a"));
    assert_eq!(bed.overrun, [StreamId(1)]);
    assert_eq!(
        bed.hub.stats(),
        Stats {
            messages: 5,
            ..Stats::default()
        }
    );
}

#[test]
fn watchers_beyond_the_limit_are_refused() {
    let mut bed = Bed::with(Limits {
        watchers: 1,
        ..Limits::default()
    });
    bed.open(1);
    bed.create(1, on("a"));
    bed.create(1, on("b"));
    bed.cancel(1, 0);
    bed.create(1, on("c"));
    assert_eq!(
        bed.lines(1),
        [
            "created 0 @1",
            "refused -1 @1: etcdserver: too many requests",
            "canceled 0 @1",
            "created 2 @1",
        ]
    );
}

#[test]
fn watchers_far_apart_take_turns_and_none_waits_for_the_whole_way_of_another() {
    let mut store = Store::new();
    for n in 2..1002 {
        store.txn(&[put("a", &n.to_string())]);
    }
    let mut bed = Bed::over(
        store,
        Limits {
            slice_events: 10,
            ..Limits::default()
        },
    );
    for (stream, start) in [(1, 2), (2, 500), (3, 995)] {
        bed.open(stream);
        bed.create(stream, from(start, on("a")));
    }
    for _ in 0..3 {
        bed.step(Input::Tick);
    }
    let lines = |bed: &mut Bed, stream| bed.read(stream, 9).len();
    assert_eq!(
        lines(&mut bed, 3),
        2,
        "served within three turns, and synced"
    );
    assert_eq!(bed.hub.stats().behind, 2);
    assert_eq!(lines(&mut bed, 1), 2);
    assert_eq!(lines(&mut bed, 2), 2);
}

#[test]
fn watchers_that_meet_share_one_scan() {
    let mut store = Store::new();
    for n in 2..102 {
        store.txn(&[put("a", &n.to_string())]);
    }
    let mut bed = Bed::over(
        store,
        Limits {
            slice_events: 10,
            ..Limits::default()
        },
    );
    bed.open(1);
    for start in 2..102 {
        bed.create(1, from(start, range("a", "b")));
    }
    let mut turns = 0;
    while bed.wants_turn {
        bed.read(1, usize::MAX);
        bed.step(Input::Tick);
        turns += 1;
    }
    assert!(
        turns <= 12,
        "{turns} turns for a hundred watchers and a hundred revisions"
    );
}

#[test]
fn blocked_watchers_of_one_stream_are_served_in_turn() {
    let mut bed = Bed::with(Limits {
        stream_messages: 4,
        ..Limits::default()
    });
    bed.open(1);
    for _ in 0..20 {
        bed.create(1, on("a"));
    }
    bed.txn(&[put("a", "1")]);
    bed.txn(&[put("a", "2")]);
    let mut lines = bed.lines(1);
    assert_eq!(
        lines
            .drain(..20)
            .filter(|l| l.starts_with("created"))
            .count(),
        20
    );
    lines.sort();
    let mut want: Vec<String> = (0..20)
        .map(|id| format!("events {id} @3: a=1 #2, a=2 #3"))
        .collect();
    want.sort();
    assert_eq!(lines, want);
}
