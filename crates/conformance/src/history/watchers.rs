//! Clients that watch: those that put the log together, and those that wander from member to member and must miss nothing.

use super::*;
use crate::grpc;
use crate::grpc::Call;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::mvccpb::event::EventType;

/// How long a stream may be silent before a watcher looks whether it is told to stop, or gives a member up.
const LOOK: Duration = Duration::from_millis(100);
const CONNECT: Duration = Duration::from_secs(2);
/// The pause before a member is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// A wandering watcher stays on one stream for up to so long.
const STAY_MS: u64 = 4_000;

/// Follows everything on one member from the first revision on, and adds to the log what it is the first to see. What it is not the first to see must be
/// the same.
pub(super) async fn follow(shared: Arc<Shared>, member: SocketAddr) {
    let mut next = 2;
    while !shared.stop_watching.load(Ordering::Relaxed) {
        let create = pb::WatchCreateRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            start_revision: next,
            ..Default::default()
        };
        let Ok(mut stream) = open(member, create).await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        loop {
            match next_message(&mut stream).await {
                Heard::Nothing if shared.stop_watching.load(Ordering::Relaxed) => return,
                Heard::Nothing => {}
                Heard::End => break,
                Heard::Message(message) if message.canceled => {
                    // A member that was away for long finds what it needs compacted; another one has noted that.
                    next = next.max(message.compact_revision);
                    break;
                }
                Heard::Message(message) => next = shared.log_events(member, next, &message.events),
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Follows some keys, now here, now there, and notes every message.
pub(super) async fn wander(shared: Arc<Shared>, mut dice: Dice) {
    let (key, range_end) = clients::span(&mut dice, shared.workload.keys);
    let filters = match dice.below(6) {
        0 => vec![FilterType::Noput as i32],
        1 => vec![FilterType::Nodelete as i32],
        _ => Vec::new(),
    };
    let wish = pb::WatchCreateRequest {
        key,
        range_end,
        filters,
        prev_kv: dice.below(2) == 0,
        fragment: dice.below(2) == 0,
        ..Default::default()
    };
    // 0 is "from now on", which is known only when the watcher exists.
    let mut next = dice.below(2) as i64;
    while !shared.stop_watching.load(Ordering::Relaxed) {
        let member = shared.some_member(&mut dice);
        let create = pb::WatchCreateRequest {
            start_revision: next,
            ..wish.clone()
        };
        let call_us = shared.now_us();
        let Ok(stream) = open(member, create.clone()).await else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let stay = Duration::from_millis(200 + dice.below(STAY_MS));
        let mut watch = Watch {
            member: shared.number_of(member),
            call_us,
            create,
            messages: Vec::new(),
            must_reach_end: false,
        };
        attend(&shared, member, stream, &mut watch, stay, &mut dice).await;
        next = resume_from(&watch, next);
        shared.seen().watches.push(watch);
    }
}

/// Reads one stream until it ends, it has stayed long enough, or all is over.
async fn attend(
    shared: &Shared,
    member: SocketAddr,
    mut stream: Call,
    watch: &mut Watch,
    stay: Duration,
    dice: &mut Dice,
) {
    let since = Instant::now();
    loop {
        let heard = next_message(&mut stream).await;
        let is_over = shared.stop_watching.load(Ordering::Relaxed);
        match heard {
            Heard::Nothing if is_over => {
                watch.must_reach_end = true;
                return;
            }
            Heard::Nothing => {}
            Heard::End => return,
            Heard::Message(message) => {
                let canceled = message.canceled;
                if let Some(kind) = kind_of(message.clone()) {
                    watch.messages.push(WatchMessage {
                        time_us: shared.now_us(),
                        revision: message.header.map_or(0, |header| header.revision),
                        kind,
                    });
                }
                if canceled {
                    return;
                }
            }
        }
        // In the end everybody stays to see whether all comes.
        let is_ending = shared.stop_calling.load(Ordering::Relaxed);
        if !is_ending && (since.elapsed() > stay || !shared.serves(member)) {
            return;
        }
        if !shared.workload.spares_old_etcd && dice.below(40) == 0 {
            let ask = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
            let request = pb::WatchRequest {
                request_union: Some(ask),
            };
            if stream.send(&request).await.is_err() {
                return;
            }
        }
    }
}

/// Where the next attempt goes on, as etcd's clients do it.
fn resume_from(watch: &Watch, before: i64) -> i64 {
    let mut next = before;
    for message in &watch.messages {
        match &message.kind {
            WatchKind::Created if next == 0 => next = message.revision + 1,
            WatchKind::Created => {}
            WatchKind::Events { events, fragment } => {
                let last = events.last().and_then(|event| event.kv.as_ref());
                // In the middle of a revision it is asked for again as a whole.
                let step = i64::from(!fragment);
                next = next.max(last.map_or(0, |kv| kv.mod_revision + step));
            }
            WatchKind::Progress => next = next.max(message.revision + 1),
            WatchKind::Canceled { compact_revision } => next = next.max(*compact_revision),
        }
    }
    next
}

fn kind_of(message: pb::WatchResponse) -> Option<WatchKind> {
    if message.canceled {
        return Some(WatchKind::Canceled {
            compact_revision: message.compact_revision,
        });
    }
    if message.created {
        return Some(WatchKind::Created);
    }
    Some(match message.events.is_empty() {
        true => WatchKind::Progress,
        false => WatchKind::Events {
            events: message.events,
            fragment: message.fragment,
        },
    })
}

async fn open(member: SocketAddr, create: pb::WatchCreateRequest) -> Result<Call, Failure> {
    let opening = async {
        let connection = Grpc::connect(member).await?;
        let mut stream = connection.open(grpc::WATCH).await?;
        let request = pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        stream.send(&request).await?;
        Ok(stream)
    };
    tokio::time::timeout(CONNECT, opening)
        .await
        .unwrap_or_else(|_| Err(Failure::Transport("no connection".into())))
}

enum Heard {
    Message(pb::WatchResponse),
    /// Nothing for a while.
    Nothing,
    /// The stream is no more.
    End,
}

async fn next_message(stream: &mut Call) -> Heard {
    use prost::Message as _;
    match tokio::time::timeout(LOOK, stream.next_bytes()).await {
        Err(_) => Heard::Nothing,
        Ok(Ok(Some(bytes))) => match pb::WatchResponse::decode(bytes) {
            Ok(message) => Heard::Message(message),
            Err(_) => Heard::End,
        },
        Ok(_) => Heard::End,
    }
}

impl Shared {
    /// Adds events of one message to the log, or compares them with it. Returns the revision that is due next.
    fn log_events(&self, member: SocketAddr, next: i64, events: &[proto::mvccpb::Event]) -> i64 {
        let now_us = self.now_us();
        let mut next = next;
        let mut seen = self.seen();
        for group in events.chunk_by(|a, b| mod_revision(a) == mod_revision(b)) {
            let revision = mod_revision(&group[0]);
            let changes: Vec<Change> = group.iter().filter_map(change_of).collect();
            if revision < next {
                let wrong =
                    format!("member {member} sent revision {revision} again or after {next}");
                seen.wrong.push(wrong);
                continue;
            }
            next = revision + 1;
            let place = (revision - 2) as usize;
            match place.cmp(&seen.log.len()) {
                std::cmp::Ordering::Equal => seen.log.push((now_us, changes)),
                std::cmp::Ordering::Less if seen.log[place].1 == changes => {}
                std::cmp::Ordering::Less => {
                    let wrong = format!(
                        "member {member} says that revision {revision} is {changes:?}, but it was {:?} before",
                        seen.log[place].1
                    );
                    seen.wrong.push(wrong);
                }
                std::cmp::Ordering::Greater => {
                    let wrong = format!(
                        "member {member} sent revision {revision}, but the log ends at {}",
                        seen.log.len() + 1
                    );
                    seen.wrong.push(wrong);
                }
            }
        }
        next
    }
}

fn mod_revision(event: &proto::mvccpb::Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

fn change_of(event: &proto::mvccpb::Event) -> Option<Change> {
    let kv = event.kv.clone()?;
    Some(Change {
        key: kv.key.clone(),
        now: (event.r#type == EventType::Put as i32).then_some(kv),
    })
}
