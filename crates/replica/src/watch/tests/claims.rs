//! The rules of watching, one claim each; then the stories of bugs that others had.

use super::*;
use proto::etcdserverpb::watch_create_request::FilterType;

// Creation.

#[test]
fn a_creation_is_answered_before_any_of_its_events() {
    let mut bed = Bed::after(&[&[put("a", "1")], &[put("a", "2")]]);
    bed.create(1, from(2, on("a")));
    assert_eq!(
        bed.lines(1),
        ["created 0 @3", "events 0 @3: a=1 #2, a=2 #3"]
    );
}

#[test]
fn start_revision_zero_means_from_now_on() {
    let mut bed = Bed::after(&[&[put("a", "1")]]);
    bed.create(1, on("a"));
    bed.txn(&[put("a", "2")]);
    assert_eq!(bed.lines(1), ["created 0 @2", "events 0 @3: a=2 #3"]);
}

#[test]
fn a_watch_from_now_begins_after_what_the_edge_had_published() {
    let mut bed = Bed::after(&[]);
    // The client has its answer for #2 and #3 already, this hub has not handled them yet.
    bed.store.txn(&[put("a", "1")]);
    bed.store.txn(&[put("a", "2")]);
    bed.create_at(1, on("a"), 3);
    bed.store.txn(&[put("a", "3")]);
    bed.publish();
    assert_eq!(bed.lines(1), ["created 0 @3", "events 0 @4: a=3 #4"]);
}

#[test]
fn a_watch_from_now_begins_after_what_the_hub_has_handled_if_the_edge_is_older() {
    let mut bed = Bed::after(&[&[put("a", "1")], &[put("a", "2")]]);
    bed.create_at(1, on("a"), 2);
    bed.txn(&[put("a", "3")]);
    assert_eq!(bed.lines(1), ["created 0 @3", "events 0 @4: a=3 #4"]);
}

#[test]
fn an_empty_range_end_is_one_key_and_a_zero_byte_is_no_end() {
    let mut bed = Bed::after(&[]);
    bed.create(1, on("b"));
    bed.create(1, range("b", "\0"));
    bed.create(1, range("b", "c"));
    bed.create(1, on(""));
    bed.create(1, all());
    bed.lines(1);
    bed.txn(&[put("a", "1"), put("b", "1"), put("bb", "1"), put("c", "1")]);
    bed.txn(&[put("\0", "1")]);
    let mut lines = bed.lines(1);
    lines.sort();
    assert_eq!(
        lines,
        [
            "events 0 @2: b=1 #2",
            "events 1 @2: b=1 #2, bb=1 #2, c=1 #2",
            "events 2 @2: b=1 #2, bb=1 #2",
            "events 3 @3: \0=1 #3",
            "events 4 @2: a=1 #2, b=1 #2, bb=1 #2, c=1 #2",
            "events 4 @3: \0=1 #3",
        ]
    );
}

#[test]
fn a_range_that_holds_no_key_is_refused() {
    let mut bed = Bed::after(&[]);
    bed.create(1, range("b", "b"));
    bed.create(1, range("b", "a"));
    bed.create(1, on("b"));
    assert_eq!(
        bed.lines(1),
        [
            "refused -1 @1: mvcc: watcher range is empty",
            "refused -1 @1: mvcc: watcher range is empty",
            "created 0 @1",
        ]
    );
}

#[test]
fn ids_count_from_zero_and_pass_over_those_in_use() {
    let mut bed = Bed::after(&[]);
    let with_id = |watch_id| WatchCreateRequest {
        watch_id,
        ..on("a")
    };
    bed.create(1, with_id(1));
    bed.create(1, with_id(0));
    bed.create(1, with_id(0));
    bed.create(1, with_id(7));
    bed.cancel(1, 0);
    bed.create(1, with_id(0));
    assert_eq!(
        bed.lines(1),
        [
            "created 1 @1",
            "created 0 @1",
            "created 2 @1",
            "created 7 @1",
            "canceled 0 @1",
            "created 3 @1",
        ]
    );
}

#[test]
fn an_id_in_use_is_refused_and_its_owner_lives_on() {
    let mut bed = Bed::after(&[]);
    let request = WatchCreateRequest {
        watch_id: 5,
        ..on("a")
    };
    bed.create(1, request.clone());
    bed.create(1, request);
    bed.txn(&[put("a", "1")]);
    assert_eq!(
        bed.lines(1),
        [
            "created 5 @1",
            "refused -1 @1: mvcc: duplicate watch ID provided on the WatchStream",
            "events 5 @2: a=1 #2",
        ]
    );
}

#[test]
fn a_refusal_by_the_edge_keeps_its_place_among_the_answers() {
    let mut bed = Bed::after(&[]);
    let reason = proto::error::PERMISSION_DENIED.long_text();
    bed.create(1, on("a"));
    bed.step(Input::Create {
        stream: StreamId(1),
        request: on("secret"),
        revision: 1,
        refusal: Some(reason.into()),
    });
    bed.create(1, on("b"));
    assert_eq!(
        bed.lines(1),
        [
            "created 0 @1",
            "refused -1 @1: rpc error: code = PermissionDenied desc = etcdserver: permission denied",
            "created 1 @1",
        ]
    );
}

#[test]
fn a_cancel_is_answered_without_a_reason_and_only_for_an_id_in_use() {
    let mut bed = Bed::after(&[]);
    bed.create(1, on("a"));
    bed.cancel(1, 3);
    bed.cancel(1, 0);
    bed.cancel(1, 0);
    bed.txn(&[put("a", "1")]);
    assert_eq!(bed.lines(1), ["created 0 @1", "canceled 0 @1"]);
}

// Events.

#[test]
fn a_revision_arrives_in_one_message_in_the_order_of_its_changes() {
    let mut bed = Bed::after(&[&[put("b", "0")]]);
    bed.create(1, all());
    bed.lines(1);
    bed.txn(&[put("c", "1"), delete("b"), put("a", "1")]);
    assert_eq!(bed.lines(1), ["events 0 @3: c=1 #3, b deleted #3, a=1 #3"]);
}

#[test]
fn revisions_of_one_batch_share_a_message() {
    let mut bed = Bed::after(&[]);
    bed.create(1, all());
    bed.lines(1);
    bed.store.txn(&[put("a", "1")]);
    bed.store.txn(&[put("b", "1")]);
    bed.publish();
    assert_eq!(bed.lines(1), ["events 0 @3: a=1 #2, b=1 #3"]);
}

#[test]
fn watchers_that_are_due_the_same_events_share_the_same_bytes() {
    let mut bed = Bed::after(&[]);
    for stream in 2..5 {
        bed.open(stream);
    }
    bed.create(1, on("a"));
    bed.create(2, on("a"));
    bed.create(3, range("a", "b"));
    bed.create(4, all());
    bed.txn(&[put("a", "1")]);
    let bytes = |stream| bed.queues[&StreamId(stream)][1].events.clone();
    for stream in 2..5 {
        assert_eq!(bytes(1).as_ptr(), bytes(stream).as_ptr(), "stream {stream}");
    }
}

#[test]
fn filters_drop_events_and_a_message_left_empty_is_not_sent() {
    let mut bed = Bed::after(&[]);
    let filtered = |filter: FilterType| WatchCreateRequest {
        filters: vec![filter as i32, 99],
        ..on("a")
    };
    bed.create(1, filtered(FilterType::Noput));
    bed.create(1, filtered(FilterType::Nodelete));
    bed.lines(1);
    bed.txn(&[put("a", "1")]);
    bed.txn(&[delete("a")]);
    assert_eq!(
        bed.lines(1),
        ["events 1 @2: a=1 #2", "events 0 @3: a deleted #3"]
    );
}

#[test]
fn the_previous_version_comes_on_request_only() {
    let mut bed = Bed::after(&[]);
    bed.create(1, on("a"));
    bed.create(
        1,
        WatchCreateRequest {
            prev_kv: true,
            ..on("a")
        },
    );
    bed.lines(1);
    bed.txn(&[put("a", "1")]);
    bed.txn(&[put("a", "2")]);
    bed.txn(&[delete("a")]);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for line in bed.lines(1) {
        match line.strip_prefix("events 1 ") {
            Some(rest) => with.push(rest.to_owned()),
            None => without.push(line),
        }
    }
    assert_eq!(
        with,
        ["@2: a=1 #2", "@3: a=2 was 1 #3", "@4: a deleted was 2 #4"]
    );
    assert_eq!(
        without,
        [
            "events 0 @2: a=1 #2",
            "events 0 @3: a=2 #3",
            "events 0 @4: a deleted #4"
        ]
    );
}

/// There is one a revision before, but etcd looks only for what is no creation (upstream `IsCreateEvent`; difftest seed 9001).
#[test]
fn a_key_put_again_by_the_transaction_that_deleted_it_has_no_previous_version() {
    let mut bed = Bed::after(&[&[put("a", "1")]]);
    bed.create(
        1,
        WatchCreateRequest {
            prev_kv: true,
            ..on("a")
        },
    );
    bed.lines(1);
    bed.txn(&[delete("a"), put("a", "2")]);
    assert_eq!(bed.lines(1), ["events 0 @3: a deleted was 1 #3, a=2 #3"]);
}

#[test]
fn the_previous_version_is_absent_once_compacted() {
    let mut bed = Bed::after(&[&[put("a", "1")], &[put("a", "2")], &[put("a", "3")]]);
    bed.compact(3);
    bed.create(
        1,
        WatchCreateRequest {
            prev_kv: true,
            ..from(3, on("a"))
        },
    );
    assert_eq!(
        bed.lines(1),
        ["created 0 @4", "events 0 @4: a=2 #3, a=3 was 2 #4"]
    );
}

#[test]
fn a_client_that_allows_fragments_gets_them_and_others_get_the_revision_whole() {
    let mut bed = Bed::with(Limits {
        message_bytes: 100,
        ..Limits::default()
    });
    bed.open(1);
    bed.create(
        1,
        WatchCreateRequest {
            fragment: true,
            ..all()
        },
    );
    bed.create(1, all());
    bed.lines(1);
    bed.txn(&[
        put("a", "0123456789"),
        put("b", "0123456789"),
        put("c", "0"),
    ]);
    let mut lines = bed.lines(1);
    lines.sort();
    assert_eq!(
        lines,
        [
            "events 0 @2: a=0123456789 #2 ..",
            "events 0 @2: b=0123456789 #2 ..",
            "events 0 @2: c=0 #2",
            "events 1 @2: a=0123456789 #2, b=0123456789 #2, c=0 #2",
        ]
    );
}

#[test]
fn a_message_is_cut_between_revisions_when_it_gets_long() {
    let mut bed = Bed::with(Limits {
        message_bytes: 60,
        ..Limits::default()
    });
    bed.open(1);
    bed.create(1, all());
    bed.lines(1);
    for n in 0..3 {
        bed.store
            .txn(&[put("a", &n.to_string()), put("b", &n.to_string())]);
    }
    bed.publish();
    assert_eq!(
        bed.lines(1),
        [
            "events 0 @2: a=0 #2, b=0 #2",
            "events 0 @3: a=1 #3, b=1 #3",
            "events 0 @4: a=2 #4, b=2 #4",
        ]
    );
}

// Compaction.

#[test]
fn a_start_below_the_compaction_is_created_then_canceled_with_header_revision_zero() {
    let mut bed = Bed::after(&[&[put("a", "1")], &[put("a", "2")], &[put("a", "3")]]);
    bed.compact(4);
    bed.create(1, from(3, on("a")));
    assert_eq!(bed.lines(1), ["created 0 @4", "compacted 0 @0: 4"]);
    // The client cancels what the server canceled, and waits for the answer before it reuses the id.
    bed.cancel(1, 0);
    bed.cancel(1, 0);
    assert_eq!(bed.lines(1), ["canceled 0 @4"]);
}

#[test]
fn the_id_of_an_overtaken_watcher_stays_taken_until_the_client_cancels_it() {
    let mut bed = Bed::after(&[&[put("a", "1")], &[put("a", "2")]]);
    bed.compact(3);
    let request = WatchCreateRequest {
        watch_id: 4,
        ..from(2, on("a"))
    };
    bed.create(1, request.clone());
    bed.settle();
    bed.create(1, request.clone());
    bed.cancel(1, 4);
    bed.create(1, request);
    assert_eq!(
        bed.lines(1),
        [
            "created 4 @3",
            "compacted 4 @0: 3",
            "refused -1 @3: mvcc: duplicate watch ID provided on the WatchStream",
            "canceled 4 @3",
            "created 4 @3",
            "compacted 4 @0: 3",
        ]
    );
}

#[test]
fn a_watcher_that_falls_below_the_compaction_while_blocked_is_told_so() {
    let mut bed = Bed::with(Limits {
        stream_messages: 2,
        ..Limits::default()
    });
    bed.open(1);
    bed.create(1, on("a"));
    for n in 0..5 {
        bed.txn(&[put("a", &n.to_string())]);
    }
    bed.compact(6);
    assert_eq!(
        bed.lines(1),
        ["created 0 @1", "events 0 @2: a=0 #2", "compacted 0 @0: 6"]
    );
}

// Progress.

fn notified(request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest {
        progress_notify: true,
        ..request
    }
}

#[test]
fn a_quiet_watcher_is_notified_each_interval_and_a_busy_one_is_not() {
    let mut bed = Bed::after(&[]);
    bed.create(1, notified(on("quiet")));
    bed.create(1, notified(on("busy")));
    bed.create(1, on("not asked"));
    bed.txn(&[put("busy", "1")]);
    bed.lines(1);
    bed.now = bed.hub.next_deadline().expect("a stream is open");
    assert_eq!(bed.now.monotonic_us, 600_000_000);
    bed.step(Input::Tick);
    assert_eq!(bed.lines(1), ["progress 0 @2"]);
    bed.step(Input::Tick);
    assert_eq!(bed.lines(1), [] as [&str; 0]);
    bed.now = bed.hub.next_deadline().expect("a stream is open");
    bed.step(Input::Tick);
    assert_eq!(bed.lines(1), ["progress 0 @2", "progress 1 @2"]);
}

#[test]
fn jitter_spreads_notifications_over_a_tenth_of_the_interval() {
    let mut bed = Bed::new();
    for (stream, jitter) in [(1, u32::MAX), (2, 1 << 31)] {
        bed.step(Input::Open {
            stream: StreamId(stream),
            jitter,
        });
    }
    let first = bed.hub.next_deadline().expect("streams are open");
    assert_eq!(first.monotonic_us, 630_000_000);
    bed.step(Input::Close {
        stream: StreamId(2),
    });
    let second = bed.hub.next_deadline().expect("a stream is open");
    assert_eq!(second.monotonic_us, 659_999_999);
}

#[test]
fn a_manual_request_is_answered_once_for_the_stream() {
    let mut bed = Bed::after(&[&[put("a", "1")]]);
    bed.progress(1);
    assert_eq!(
        bed.lines(1),
        [] as [&str; 0],
        "a stream without watchers is silent"
    );
    bed.create(1, on("a"));
    bed.create(1, on("b"));
    bed.progress(1);
    assert_eq!(
        bed.lines(1),
        ["created 0 @2", "created 1 @2", "progress -1 @2"]
    );
}

#[test]
fn manual_progress_is_not_below_what_the_client_may_have_read_at_the_edge() {
    let mut bed = Bed::after(&[]);
    bed.create(1, on("a"));
    bed.lines(1);
    bed.store.txn(&[put("b", "1")]);
    bed.progress(1);
    assert_eq!(bed.queued(1), 0, "the hub has not handled revision 2 yet");
    bed.publish();
    assert_eq!(bed.lines(1), ["progress -1 @2"]);
}

#[test]
fn an_overtaken_watcher_does_not_silence_the_progress_of_others() {
    let mut bed = Bed::after(&[&[put("a", "1")], &[put("a", "2")]]);
    bed.compact(3);
    bed.create(1, from(2, on("a")));
    bed.create(1, on("a"));
    bed.lines(1);
    bed.progress(1);
    assert_eq!(bed.lines(1), ["progress -1 @3"]);
}

// Stories.

/// etcd #18089: a compaction at the revision of a delete dropped the tombstone that a watcher behind it was due.
#[test]
fn a_watcher_behind_sees_the_delete_at_which_history_is_compacted() {
    let mut bed = Bed::with(Limits {
        stream_messages: 1,
        ..Limits::default()
    });
    bed.open(1);
    bed.txn(&[put("a", "1")]);
    bed.create(1, on("a"));
    // Without credit: the watcher is due #3.
    bed.txn(&[delete("a")]);
    bed.compact(3);
    bed.txn(&[put("b", "1")]);
    assert_eq!(bed.lines(1), ["created 0 @2", "events 0 @4: a deleted #3"]);
}

/// etcd #19179: a watch opened at exactly the compaction revision missed the delete that happened there.
#[test]
fn a_watch_from_the_compaction_revision_sees_the_delete_at_it() {
    let mut bed = Bed::after(&[&[put("a", "1")], &[delete("a")], &[put("b", "1")]]);
    bed.compact(3);
    bed.create(1, from(3, all()));
    assert_eq!(
        bed.lines(1),
        ["created 0 @4", "events 0 @4: a deleted #3, b=1 #4"]
    );
}

/// etcd #20221, first bug: a watch on a future revision got older events after its member installed a snapshot.
#[test]
fn a_watch_on_a_future_revision_gets_no_older_event_even_after_a_snapshot() {
    let mut bed = Bed::after(&[&[put("a", "1")]]);
    bed.create(1, from(6, on("a")));
    bed.txn(&[put("a", "2")]);
    bed.store.txn(&[put("a", "3")]);
    bed.publish_jump();
    assert_eq!(bed.lines(1), ["created 0 @2"]);
    // One batch that begins before the start revision and ends after it.
    for n in 5..9 {
        bed.store.txn(&[put("a", &n.to_string())]);
    }
    bed.publish();
    let lines = bed.lines(1);
    assert_eq!(lines, ["events 0 @8: a=6 #6, a=7 #7, a=8 #8"]);
}

/// etcd #20221, second bug: progress notifications with a revision below the start of the watch.
#[test]
fn a_watch_on_a_future_revision_gets_no_progress_before_it() {
    let mut bed = Bed::after(&[&[put("a", "1")]]);
    bed.create(1, notified(from(3, on("b"))));
    bed.create(1, notified(from(4, on("b"))));
    bed.lines(1);
    bed.progress(1);
    bed.now = bed.hub.next_deadline().expect("a stream is open");
    bed.step(Input::Tick);
    assert_eq!(bed.lines(1), [] as [&str; 0]);
    bed.txn(&[put("a", "2")]);
    bed.progress(1);
    bed.now = bed.hub.next_deadline().expect("a stream is open");
    bed.step(Input::Tick);
    assert_eq!(bed.lines(1), ["progress 0 @3"], "the second starts at 4");
    bed.txn(&[put("a", "3")]);
    bed.progress(1);
    assert_eq!(bed.lines(1), ["progress -1 @4"]);
}

/// etcd #15220: a progress notification overtook events of the same stream, and clients that resumed after it lost them.
#[test]
fn progress_never_overtakes_events() {
    let mut bed = Bed::with(Limits {
        stream_messages: 2,
        slice_events: 1,
        ..Limits::default()
    });
    bed.open(1);
    bed.create(1, notified(on("a")));
    bed.create(1, notified(on("quiet")));
    for n in 0..3 {
        bed.txn(&[put("a", &n.to_string())]);
    }
    bed.progress(1);
    bed.now = bed.hub.next_deadline().expect("a stream is open");
    bed.step(Input::Tick);
    assert_eq!(
        bed.lines(1),
        [
            "created 0 @1",
            "created 1 @1",
            "events 0 @4: a=0 #2",
            "events 0 @4: a=1 #3",
            "events 0 @4: a=2 #4",
            "progress -1 @4",
        ]
    );
}

/// etcd #15271: after a partition a client reconnected to a member that was behind, or that was installing a snapshot, and
/// its watch went back in time.
#[test]
fn a_resumed_watch_on_a_lagging_member_never_goes_back() {
    let mut bed = Bed::after(&[&[put("a", "1")], &[put("a", "2")]]);
    // The client has seen everything up to #5 elsewhere.
    bed.create(1, from(6, on("a")));
    bed.txn(&[put("a", "4")]);
    assert_eq!(bed.lines(1), ["created 0 @3"]);
    for n in 5..8 {
        bed.store.txn(&[put("a", &n.to_string())]);
    }
    bed.publish_jump();
    assert_eq!(bed.lines(1), ["events 0 @7: a=6 #6, a=7 #7"]);
}

#[test]
fn a_snapshot_costs_a_synced_watcher_no_event() {
    let mut bed = Bed::after(&[&[put("a", "1")]]);
    bed.create(1, on("a"));
    bed.store.txn(&[put("a", "2")]);
    bed.store.txn(&[put("a", "3")]);
    bed.publish_jump();
    bed.txn(&[put("a", "4")]);
    assert_eq!(
        bed.lines(1),
        ["created 0 @2", "events 0 @5: a=2 #3, a=3 #4, a=4 #5"]
    );
}

#[test]
fn a_snapshot_that_compacts_beyond_a_watcher_cancels_it() {
    let mut bed = Bed::after(&[&[put("a", "1")]]);
    bed.create(1, on("a"));
    for n in 3..6 {
        bed.store.txn(&[put("a", &n.to_string())]);
    }
    bed.store.compacted = 5;
    bed.publish_jump();
    assert_eq!(bed.lines(1), ["created 0 @2", "compacted 0 @0: 5"]);
}

/// etcd PR 15274: events were delivered twice when a watcher moved between catching up and being synced.
#[test]
fn an_event_that_arrives_during_catch_up_is_delivered_once() {
    let mut bed = Bed::with(Limits {
        slice_events: 1,
        ..Limits::default()
    });
    bed.open(1);
    bed.txn(&[put("a", "1")]);
    bed.txn(&[put("a", "2")]);
    bed.create(1, from(2, on("a")));
    bed.step(Input::Tick);
    bed.txn(&[put("a", "3")]);
    bed.step(Input::Tick);
    bed.step(Input::Tick);
    bed.txn(&[put("a", "4")]);
    assert_eq!(
        bed.lines(1),
        [
            "created 0 @3",
            "events 0 @3: a=1 #2",
            "events 0 @4: a=2 #3",
            "events 0 @4: a=3 #4",
            "events 0 @5: a=4 #5",
        ]
    );
}

/// etcd #17529: when a client read slowly, the events between "its channel is full" and "it is served again" were lost.
#[test]
fn a_slow_client_loses_no_event() {
    let mut bed = Bed::with(Limits {
        stream_messages: 2,
        ..Limits::default()
    });
    bed.open(1);
    bed.open(2);
    bed.create(1, on("a"));
    bed.create(2, on("a"));
    for n in 2..9 {
        bed.txn(&[put("a", &n.to_string())]);
        assert_eq!(
            bed.lines(2).last(),
            Some(&format!("events 0 @{n}: a={n} #{n}"))
        );
    }
    assert_eq!(bed.queued(1), 2);
    assert_eq!(
        bed.lines(1),
        [
            "created 0 @1",
            "events 0 @2: a=2 #2",
            "events 0 @8: a=3 #3, a=4 #4, a=5 #5, a=6 #6, a=7 #7, a=8 #8",
        ]
    );
}

/// etcd PR 14563: a refused creation was treated as watch id 0, and closed the real one.
#[test]
fn a_refused_creation_does_not_touch_watch_id_zero() {
    let mut bed = Bed::after(&[]);
    bed.create(1, on("a"));
    bed.create(1, range("b", "a"));
    bed.create(1, from(-1, on("a")));
    bed.cancel(1, NO_WATCH_ID);
    bed.txn(&[put("a", "1")]);
    assert_eq!(
        bed.lines(1),
        [
            "created 0 @1",
            "refused -1 @1: mvcc: watcher range is empty",
            "refused -1 @1: etcdserver: mvcc: required revision has been compacted",
            "events 0 @2: a=1 #2",
        ]
    );
}

/// etcd PR 20707: a negative start revision was accepted.
#[test]
fn a_negative_start_revision_is_refused() {
    let mut bed = Bed::after(&[]);
    for start in [-1, i64::MIN] {
        bed.create(1, from(start, on("a")));
    }
    let refused = "refused -1 @1: etcdserver: mvcc: required revision has been compacted";
    assert_eq!(bed.lines(1), [refused, refused]);
}

#[test]
fn the_largest_start_revision_waits() {
    let mut bed = Bed::after(&[]);
    bed.create(1, from(i64::MAX, on("a")));
    bed.txn(&[put("a", "1")]);
    bed.store.txn(&[put("a", "2")]);
    bed.publish_jump();
    assert_eq!(bed.lines(1), ["created 0 @1"]);
}

#[test]
fn a_closed_stream_gets_nothing_and_late_inputs_about_it_are_ignored() {
    let mut bed = Bed::after(&[&[put("a", "1")]]);
    bed.create(1, from(2, on("a")));
    bed.create(1, on("a"));
    bed.progress(1);
    let stream = StreamId(1);
    bed.step(Input::Close { stream });
    bed.txn(&[put("a", "2")]);
    bed.step(Input::Close { stream });
    bed.create(1, on("a"));
    bed.cancel(1, 0);
    bed.progress(1);
    assert_eq!(bed.lines(1), ["created 0 @2", "created 1 @2"]);
    assert_eq!(bed.hub.stats().watchers + bed.hub.stats().streams, 0);
    assert_eq!(bed.hub.stats().outstanding_bytes, 0);
}
