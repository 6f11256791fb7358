//! The connection against frames written by hand, as a server would.

use super::*;

#[derive(Default)]
struct Seen {
    messages: Vec<(u32, Vec<u8>)>,
    ends: Vec<(u32, Outcome)>,
}

impl Events for Seen {
    fn message(&mut self, _: &mut Conn, token: u32, message: &[u8]) {
        self.messages.push((token, message.to_vec()));
    }
    fn end(&mut self, _: &mut Conn, token: u32, outcome: Outcome) {
        self.ends.push((token, outcome));
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame_head(&mut out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
    out
}

/// Splits what the connection wrote into (kind, flags, stream, payload).
fn written(conn: &mut Conn) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let out = std::mem::take(&mut conn.out);
    let mut rest = out.strip_prefix(PREFACE).unwrap_or(&out);
    let mut frames = Vec::new();
    while let Some(head) = rest.first_chunk::<9>() {
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        frames.push((head[3], head[4], stream, rest[9..9 + len].to_vec()));
        rest = &rest[9 + len..];
    }
    assert!(rest.is_empty());
    frames
}

fn ready(settings: &[u8]) -> Conn {
    let mut conn = Conn::new("host:1", None);
    conn.feed(&frame(SETTINGS, 0, 0, settings), &mut Seen::default())
        .unwrap();
    assert!(conn.ready());
    conn.out.clear();
    conn
}

/// `:status 200`, a message, `grpc-status: 0` as a literal.
fn answer(stream: u32, message: &[u8]) -> Vec<u8> {
    let mut data = vec![0];
    data.extend_from_slice(&(message.len() as u32).to_be_bytes());
    data.extend_from_slice(message);
    let trailers = [&[0x00, 11][..], b"grpc-status", &[1], b"0"].concat();
    [
        frame(HEADERS, END_HEADERS, stream, &[0x88]),
        frame(DATA, 0, stream, &data),
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &trailers),
    ]
    .concat()
}

#[test]
fn an_answer_cut_at_any_byte_is_the_same_answer() {
    let bytes = answer(1, b"hello");
    for cut in 0..bytes.len() {
        let mut conn = ready(&[]);
        let mut seen = Seen::default();
        conn.call(Method::Put, 7, Body::Deliver, |o| {
            o.extend_from_slice(b"req")
        });
        let used = conn.feed(&bytes[..cut], &mut seen).unwrap();
        assert_eq!(
            conn.feed(&bytes[used..], &mut seen).unwrap(),
            bytes.len() - used
        );
        assert_eq!(seen.messages, [(7, b"hello".to_vec())]);
        assert_eq!(seen.ends, [(7, Outcome::Ok { bytes: 10 })]);
    }
}

#[test]
fn a_message_may_span_data_frames_and_share_one() {
    let mut conn = ready(&[]);
    let mut seen = Seen::default();
    conn.open(Method::Watch, 3).unwrap();
    let mut data = Vec::new();
    for m in [&b"one"[..], b"two", b"three"] {
        data.push(0);
        data.extend_from_slice(&(m.len() as u32).to_be_bytes());
        data.extend_from_slice(m);
    }
    for piece in data.chunks(7) {
        conn.feed(&frame(DATA, 0, 1, piece), &mut seen).unwrap();
    }
    let texts: Vec<&[u8]> = seen.messages.iter().map(|(_, m)| &m[..]).collect();
    assert_eq!(texts, [&b"one"[..], b"two", b"three"]);
}

#[test]
fn a_request_waits_for_the_windows_and_is_cut_into_frames() {
    // The peer's stream window is 20,000, the connection's 65,535.
    let mut conn = ready(&[0, 4, 0, 0, 0x4e, 0x20]);
    conn.call(Method::Put, 1, Body::Count, |o| {
        o.resize(o.len() + 30_000, 9)
    });
    let sent = |conn: &mut Conn| -> Vec<(usize, u8)> {
        written(conn)
            .iter()
            .filter(|f| f.0 == DATA)
            .map(|f| (f.3.len(), f.1))
            .collect()
    };
    assert_eq!(sent(&mut conn), [(16_384, 0), (3_616, 0)]);
    conn.feed(
        &frame(WINDOW_UPDATE, 0, 1, &100_000u32.to_be_bytes()),
        &mut Seen::default(),
    )
    .unwrap();
    assert_eq!(sent(&mut conn), [(10_005, END_STREAM)]);
}

#[test]
fn calls_beyond_the_peers_stream_limit_wait_their_turn() {
    let mut conn = ready(&[0, 3, 0, 0, 0, 2]);
    let mut seen = Seen::default();
    for token in 0..4 {
        conn.call(Method::Range, token, Body::Count, |o| o.push(1));
    }
    assert_eq!(
        written(&mut conn).iter().filter(|f| f.0 == HEADERS).count(),
        2
    );
    assert!(conn.open(Method::Watch, 9).is_none());
    conn.feed(&answer(1, b""), &mut seen).unwrap();
    let opened: Vec<u32> = written(&mut conn)
        .iter()
        .filter(|f| f.0 == HEADERS)
        .map(|f| f.2)
        .collect();
    assert_eq!(opened, [5]);
}

#[test]
fn statuses_resets_and_plain_http_are_told_apart() {
    let mut conn = ready(&[]);
    let mut seen = Seen::default();
    for token in 0..3 {
        conn.call(Method::Range, token, Body::Count, |_| {});
    }
    let refused = [
        &[0x88, 0x00, 11][..],
        b"grpc-status",
        &[2],
        b"14",
        &[0x00, 12],
        b"grpc-message",
        &[4],
        b"busy",
    ]
    .concat();
    conn.feed(
        &frame(HEADERS, END_HEADERS | END_STREAM, 1, &refused),
        &mut seen,
    )
    .unwrap();
    conn.feed(&frame(RST_STREAM, 0, 3, &8u32.to_be_bytes()), &mut seen)
        .unwrap();
    conn.feed(
        &frame(HEADERS, END_HEADERS | END_STREAM, 5, &[0x8d]),
        &mut seen,
    )
    .unwrap();
    assert_eq!(
        seen.ends,
        [
            (0, Outcome::Status(14, "busy".into())),
            (1, Outcome::Reset(8)),
            (2, Outcome::NotGrpc(404))
        ]
    );
}

#[test]
fn a_header_block_may_continue() {
    let mut conn = ready(&[]);
    let mut seen = Seen::default();
    conn.call(Method::Range, 4, Body::Count, |_| {});
    let block = [&[0x88, 0x00, 11][..], b"grpc-status", &[1], b"0"].concat();
    conn.feed(&frame(HEADERS, END_STREAM, 1, &block[..5]), &mut seen)
        .unwrap();
    assert_eq!(
        conn.feed(&frame(PING, 0, 0, &[0; 8]), &mut seen),
        Err(Broken::Protocol("CONTINUATION out of place"))
    );
    conn.feed(&frame(CONTINUATION, END_HEADERS, 1, &block[5..]), &mut seen)
        .unwrap();
    assert_eq!(seen.ends, [(4, Outcome::Ok { bytes: 0 })]);
}

#[test]
fn windows_are_given_back_before_they_run_out() {
    let mut conn = ready(&[]);
    let mut seen = Seen::default();
    conn.call(Method::Range, 0, Body::Count, |_| {});
    conn.out.clear();
    let data = frame(DATA, 0, 1, &[0; FRAME_BYTES_MAX]);
    let (mut stream_window, mut conn_window) = (i64::from(STREAM_WINDOW), i64::from(CONN_WINDOW));
    for _ in 0..20_000 {
        conn.feed(&data, &mut seen).unwrap();
        stream_window -= FRAME_BYTES_MAX as i64;
        conn_window -= FRAME_BYTES_MAX as i64;
        for (kind, _, stream, payload) in written(&mut conn) {
            assert_eq!(kind, WINDOW_UPDATE);
            let more = i64::from(be_u32(&payload).unwrap());
            if stream == 0 {
                conn_window += more
            } else {
                stream_window += more
            }
        }
        assert!(stream_window > 0 && conn_window > 0);
        assert!(stream_window <= i64::from(STREAM_WINDOW) && conn_window <= i64::from(CONN_WINDOW));
    }
}

#[test]
fn pings_are_answered_and_a_goaway_ends_the_connection() {
    let mut conn = ready(&[]);
    let mut seen = Seen::default();
    conn.feed(&frame(PING, 0, 0, b"12345678"), &mut seen)
        .unwrap();
    assert_eq!(written(&mut conn), [(PING, ACK, 0, b"12345678".to_vec())]);
    assert_eq!(
        conn.feed(&frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 2]), &mut seen),
        Err(Broken::GoAway(2))
    );
    conn.call(Method::Put, 5, Body::Count, |_| {});
    conn.lose(&mut seen);
    assert_eq!(seen.ends, [(5, Outcome::Lost)]);
}
