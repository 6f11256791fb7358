use super::*;

fn entry(term: u64, index: u64, data: &str) -> Entry {
    Entry {
        r#type: Some(0),
        term: Some(term),
        index: Some(index),
        data: (!data.is_empty()).then(|| Bytes::copy_from_slice(data.as_bytes())),
    }
}

/// Entries behind `index` of `log_term`, as leader 2 sends them to 1.
fn app(term: u64, log_term: u64, index: u64, entries: Vec<Entry>, commit: u64) -> Message {
    Message {
        r#type: Some(MessageType::MsgApp as i32),
        to: Some(1),
        from: Some(2),
        term: Some(term),
        log_term: Some(log_term),
        index: Some(index),
        entries,
        commit: Some(commit),
        ..Default::default()
    }
}

fn encoded(kind: Kind, messages: &[Message]) -> Bytes {
    let (mut encoder, mut out) = (Encoder::new(kind), BytesMut::new());
    for message in messages {
        encoder.message(message, &mut out);
        encoder.alive(&mut out);
    }
    out.freeze()
}

/// Everything that `bytes` hold when they come in pieces of `size`.
fn decoded(kind: Kind, bytes: &Bytes, size: usize) -> Result<Vec<Frame>, Malformed> {
    let mut decoder = Decoder::new(kind, 1, 2);
    let mut frames = Vec::new();
    let mut bytes = bytes.clone();
    while !bytes.is_empty() {
        decoder.feed(bytes.split_to(size.min(bytes.len())));
        while let Some(frame) = decoder.next_frame()? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

fn messages(frames: Vec<Frame>) -> Vec<Message> {
    let message = |frame| match frame {
        Frame::Message(message) => Some(*message),
        Frame::Alive => None,
    };
    frames.into_iter().filter_map(message).collect()
}

fn some_appends() -> Vec<Message> {
    vec![
        app(5, 4, 10, vec![entry(5, 11, "a"), entry(5, 12, "")], 10),
        app(5, 5, 12, vec![entry(5, 13, &"long ".repeat(40))], 12),
        app(5, 5, 13, vec![], 13),
        app(5, 5, 13, vec![entry(5, 14, "b"), entry(5, 15, "c")], 13),
        app(6, 5, 15, vec![entry(6, 16, "d")], 15),
    ]
}

#[test]
fn messages_come_out_as_they_went_in_whatever_the_pieces() {
    for kind in Kind::ALL {
        let sent = some_appends();
        let bytes = encoded(kind, &sent);
        for size in [1, 2, 7, 8, 9, 10, 64, bytes.len()] {
            let frames = decoded(kind, &bytes, size).expect("well formed");
            assert_eq!(frames.len(), 2 * sent.len(), "{kind:?} in pieces of {size}");
            assert_eq!(messages(frames), sent, "{kind:?} in pieces of {size}");
        }
    }
}

#[test]
fn what_continues_goes_without_its_head_and_nothing_else_does() {
    let kinds = |sent: &[Message]| {
        let (mut encoder, mut kinds) = (Encoder::new(Kind::MsgApp), Vec::new());
        for message in sent {
            let mut out = BytesMut::new();
            encoder.message(message, &mut out);
            kinds.push(out[0]);
        }
        kinds
    };
    assert_eq!(kinds(&some_appends()), [2, 1, 1, 1, 2]);
    // The first of a connection, a step back, another term before it, and entries with a hole are written in full.
    let odd = [
        app(5, 5, 1, vec![entry(5, 2, "a")], 1),
        app(5, 5, 1, vec![entry(5, 2, "a")], 1),
        app(5, 4, 2, vec![entry(5, 3, "a")], 1),
        app(5, 5, 3, vec![entry(5, 5, "a")], 1),
    ];
    assert_eq!(kinds(&odd), [2, 2, 2, 2]);
}

/// Bytes that etcd 3.5 writes for these messages: every field, an empty snapshot, zeros included.
#[test]
fn what_etcd_writes_is_read() {
    let bytes = b"\x02\0\0\0\0\0\0\0\x29\x08\x03\x10\x01\x18\x02\x20\x02\x28\x01\x30\x03\x3a\x09\x08\x00\x10\x02\x18\x04\x22\x01x\x40\x03\
        \x4a\x0a\x12\x08\x0a\x02\x28\x00\x10\x00\x18\x00\x50\x00\x58\x00\
        \x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x06\x08\x00\x10\x02\x18\x05\0\0\0\0\0\0\0\x04\0";
    let frames = decoded(Kind::MsgApp, &Bytes::from_static(bytes), 5).expect("well formed");
    assert_eq!(frames[2], Frame::Alive);
    let got = messages(frames);
    assert_eq!(
        (got[0].term(), got[0].log_term(), got[0].index()),
        (2, 1, 3)
    );
    assert_eq!(got[0].entries, [entry(2, 4, "x")]);
    assert_eq!(
        (got[1].term(), got[1].index(), got[1].commit()),
        (2, 4, 4),
        "derived"
    );
    assert_eq!((got[1].from(), got[1].to()), (2, 1));
    assert_eq!(got[1].entries[0].index(), 5);
}

#[test]
fn a_link_heartbeat_is_told_from_one_of_raft() {
    let raft = Message {
        r#type: Some(MessageType::MsgHeartbeat as i32),
        to: Some(1),
        from: Some(2),
        ..Default::default()
    };
    let frames = decoded(
        Kind::Message,
        &encoded(Kind::Message, std::slice::from_ref(&raft)),
        3,
    );
    let frames = frames.expect("well formed");
    assert_eq!(frames, [Frame::Message(Box::new(raft)), Frame::Alive]);
}

#[test]
fn lengths_beyond_the_limit_end_the_connection_before_anything_is_kept() {
    let huge = u64::MAX.to_be_bytes();
    let over = (STREAM_FRAME_MAX + 1).to_be_bytes();
    for length in [huge, over] {
        let message = Bytes::copy_from_slice(&length);
        assert_eq!(
            decoded(Kind::Message, &message, 64),
            Err(Malformed::TooLarge)
        );
        for kind in [1u8, 2] {
            let frame = Bytes::from([&[kind][..], &length].concat());
            assert_eq!(decoded(Kind::MsgApp, &frame, 64), Err(Malformed::TooLarge));
        }
        let entry = Bytes::from([&[1][..], &1u64.to_be_bytes(), &length].concat());
        assert_eq!(decoded(Kind::MsgApp, &entry, 64), Err(Malformed::TooLarge));
        assert_eq!(
            message_size(u64::from_be_bytes(length)),
            Err(Malformed::TooLarge)
        );
    }
}

/// Many entries, each within the limit, that would add up to more.
#[test]
fn a_frame_of_many_entries_is_bounded_as_a_whole() {
    let mut scan = Scan {
        at: STREAM_FRAME_MAX as usize - 4,
        entries: Some(2),
    };
    let mut seen = vec![0; STREAM_FRAME_MAX as usize + 4];
    seen[0] = FRAME_ENTRIES;
    assert!(scan.go_on(Kind::MsgApp, &seen).is_err());
}

#[test]
fn a_count_without_entries_costs_no_memory() {
    let frame = Bytes::from([&[1][..], &(1u64 << 29).to_be_bytes()].concat());
    let mut decoder = Decoder::new(Kind::MsgApp, 1, 2);
    decoder.feed(frame);
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(decoder.partial.capacity() < 1 << 10);
}

#[test]
fn what_does_not_fit_together_ends_the_connection() {
    let text = |bytes: &[u8]| decoded(Kind::MsgApp, &Bytes::copy_from_slice(bytes), 64);
    assert_eq!(text(&[7]), Err(Malformed::FrameKind(7)));
    // Entries before any whole message.
    let entries = [&[1][..], &[0; 8], &[0; 8]].concat();
    assert_eq!(text(&entries), Err(Malformed::Gap));
    // A message that is none, and one that is not about entries.
    assert_eq!(
        text(b"\x02\0\0\0\0\0\0\0\x02\xff\xff"),
        Err(Malformed::Content)
    );
    let vote = b"\x02\0\0\0\0\0\0\0\x06\x08\x05\x10\x01\x18\x02";
    assert_eq!(text(vote), Err(Malformed::Content));
    // An entry that is not the next one.
    let mut out = BytesMut::new();
    let mut encoder = Encoder::new(Kind::MsgApp);
    encoder.message(&app(5, 5, 1, vec![entry(5, 2, "a")], 1), &mut out);
    encoder.entries(&app(5, 5, 2, vec![entry(5, 4, "a")], 1), &mut out);
    assert_eq!(text(&out), Err(Malformed::Gap));
}

/// Every prefix waits for more, and every single changed byte is either read as something or refused; nothing panics.
#[test]
fn any_bytes_are_read_or_refused() {
    for kind in Kind::ALL {
        let whole = encoded(kind, &some_appends());
        for end in 0..whole.len() {
            let frames = decoded(kind, &whole.slice(..end), 11).expect("a prefix is no mistake");
            assert!(frames.len() < 10);
        }
        for at in 0..whole.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bytes = whole.to_vec();
                bytes[at] ^= flip;
                let _ = decoded(kind, &bytes.into(), 13);
            }
        }
    }
}
