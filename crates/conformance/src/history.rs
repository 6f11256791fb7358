//! Real clients that note everything they see, and the judgement of it by the simulator's checker.
//!
//! A [`Witness`] starts clients that call and clients that watch, all through the real ports of real processes, while the test lets faults happen. At the end it
//! hands what was seen to `sim::checker`, the same that judges simulated clusters: one order of all changes must explain every answer and every
//! event, and nothing that was acknowledged may be missing.
//!
//! The order of all changes comes from watchers of everything, one per member ([`watchers::follow`]). They must agree, and each goes on where it was
//! broken off, so one complete log is left whatever happens to the members. When a change could first be seen is the earliest moment at which anybody
//! saw it, so no rule about time is stricter than what was observed.

pub mod clients;
pub mod watchers;

use crate::grpc::{Failure, Grpc, code};
use crate::suite::Dice;
use bytes::Bytes;
use proto::etcdserverpb as pb;
use sim::checker;
use sim::checker::history::{
    Change, History, Op, Outcome, Request, Revision, Watch, WatchKind, WatchMessage,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// How long the watchers may take to see the last revision after everything has healed.
const CATCH_UP: Duration = Duration::from_secs(30);

/// A violation quotes whole answers; so much of it says what it is.
const VIOLATION_CHARS: usize = 1_500;

/// What the clients do.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Clients that call.
    pub clients: usize,
    /// Clients that watch.
    pub watchers: usize,
    /// Keys they use.
    pub keys: u64,
    /// Values are up to so long.
    pub value_bytes: u64,
    /// Longest pause of a client between two calls.
    pub think: Duration,
    /// Of 1000 calls, so many compact.
    pub compactions: u64,
    /// Of 1000 calls, so many are about leases.
    pub leases: u64,
    /// Stay clear of what old versions of etcd get wrong: before 3.5.8 asking for progress is answered without regard to events that are still on
    /// their way (etcd #15220), and before 3.5.16 a watcher that starts at a compacted revision misses its deletions (etcd #19179).
    pub spares_old_etcd: bool,
    /// How long a client waits for an answer.
    pub patience: Duration,
}

impl Workload {
    /// Some of everything, about a thousand calls a second on an idle machine.
    pub const MIXED: Workload = Workload {
        clients: 12,
        watchers: 4,
        keys: 24,
        value_bytes: 200,
        think: Duration::from_millis(15),
        compactions: 4,
        leases: 60,
        spares_old_etcd: false,
        patience: Duration::from_secs(9),
    };
}

/// Clients at work, and all that they have seen.
pub struct Witness {
    shared: Arc<Shared>,
    runtime: Runtime,
    callers: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<()>>,
    /// Members that are followed from the first revision on.
    followed: Vec<SocketAddr>,
}

/// What was seen in a run that was found correct.
#[derive(Debug)]
pub struct Verdict {
    /// Calls.
    pub calls: usize,
    /// Of them answered, "no" included.
    pub answered: usize,
    /// Of them writes that were acknowledged.
    pub acknowledged: usize,
    /// Revisions.
    pub revisions: usize,
    /// Messages to watchers, those of the log not counted.
    pub watched: usize,
}

/// What all clients share.
pub(crate) struct Shared {
    workload: Workload,
    /// Members that clients may ask.
    addresses: Mutex<Vec<SocketAddr>>,
    begin: Instant,
    /// No new calls for a while.
    hold: AtomicBool,
    /// Calls under way.
    calling: AtomicUsize,
    stop_calling: AtomicBool,
    stop_watching: AtomicBool,
    seen: Mutex<Seen>,
}

/// Everything noted so far.
#[derive(Default)]
pub(crate) struct Seen {
    ops: Vec<Op>,
    watches: Vec<Watch>,
    /// Changes by revision from 2 on, and when the first watcher of everything received them.
    log: Vec<(u64, Vec<Change>)>,
    /// What must not be and needs no checker: members that tell different stories.
    wrong: Vec<String>,
    /// Acknowledged writes.
    acknowledged: usize,
    /// The highest revision in any answer.
    revision: i64,
    /// The last revision that deleted something, as far as answers tell.
    deleted_at: i64,
    /// The highest compaction asked for.
    compacted: i64,
    values: u64,
    lease_last: i64,
    leases: Vec<i64>,
    /// Last known mod revision and version of keys.
    known: BTreeMap<Bytes, (i64, i64)>,
}

impl Witness {
    /// Sets the clients to work on members at these addresses. The cluster must be a fresh one: the first change is its first.
    pub fn start(workload: Workload, addresses: &[SocketAddr], seed: u64) -> Witness {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let shared = Arc::new(Shared {
            workload: workload.clone(),
            addresses: Mutex::new(addresses.to_vec()),
            hold: AtomicBool::new(false),
            calling: AtomicUsize::new(0),
            begin: Instant::now(),
            stop_calling: AtomicBool::new(false),
            stop_watching: AtomicBool::new(false),
            seen: Mutex::new(Seen::default()),
        });
        let mut dice = Dice(seed);
        let callers = (0..workload.clients)
            .map(|_| runtime.spawn(clients::work(shared.clone(), Dice(dice.roll()))))
            .collect();
        let log = addresses
            .iter()
            .map(|address| runtime.spawn(watchers::follow(shared.clone(), *address)));
        let mut watchers: Vec<_> = log.collect();
        for _ in 0..workload.watchers {
            watchers.push(runtime.spawn(watchers::wander(shared.clone(), Dice(dice.roll()))));
        }
        Witness {
            shared,
            runtime,
            callers,
            watchers,
            followed: addresses.to_vec(),
        }
    }

    /// From now on clients ask these members and no others.
    pub fn serve_by(&mut self, addresses: &[SocketAddr]) {
        *self.shared.addresses() = addresses.to_vec();
        for address in addresses {
            if !self.followed.contains(address) {
                self.followed.push(*address);
                let follow = watchers::follow(self.shared.clone(), *address);
                self.watchers.push(self.runtime.spawn(follow));
            }
        }
    }

    /// Runs `look` while no call is under way. Leases may end meanwhile.
    pub fn in_silence<T>(&self, look: impl FnOnce() -> T) -> T {
        self.shared.hold.store(true, Ordering::SeqCst);
        while self.shared.calling.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        let seen = look();
        self.shared.hold.store(false, Ordering::SeqCst);
        seen
    }

    /// Acknowledged writes so far, to tell whether the cluster works.
    pub fn acknowledged(&self) -> usize {
        self.shared.seen().acknowledged
    }

    /// The highest revision that any answer has named: no member that serves may be below it for long.
    pub fn revision(&self) -> i64 {
        self.shared.seen().revision
    }

    /// Ends the calls: from now on nothing changes but by leases that end.
    pub fn stop_calling(&mut self) -> Result<(), String> {
        self.shared.stop_calling.store(true, Ordering::Relaxed);
        join(&self.runtime, std::mem::take(&mut self.callers))
    }

    /// Waits until the watchers have seen everything up to `last`, the revision now, and judges. All members must be well again.
    pub fn judge(mut self, last: i64) -> Result<Verdict, String> {
        self.stop_calling()?;
        // Calls that were under way may have added some.
        let last = last.max(self.shared.seen().revision);
        let until = Instant::now() + CATCH_UP;
        while self.shared.last_logged() < last && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        // What is on its way to the other watchers arrives in this time, or is missing.
        std::thread::sleep(Duration::from_secs(1));
        self.shared.stop_watching.store(true, Ordering::Relaxed);
        join(&self.runtime, std::mem::take(&mut self.watchers))?;
        let seen = std::mem::take(&mut *self.shared.seen());
        judge(seen, last)
    }
}

fn join(runtime: &Runtime, tasks: Vec<JoinHandle<()>>) -> Result<(), String> {
    runtime.block_on(async {
        for task in tasks {
            task.await.map_err(|e| format!("a client: {e}"))?;
        }
        Ok(())
    })
}

impl Shared {
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn addresses(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A member to ask.
    fn some_member(&self, dice: &mut Dice) -> SocketAddr {
        let addresses = self.addresses();
        addresses[dice.below(addresses.len() as u64) as usize]
    }

    /// Whether clients may still ask this member.
    fn serves(&self, address: SocketAddr) -> bool {
        self.addresses().contains(&address)
    }

    /// How histories name a member.
    fn number_of(&self, address: SocketAddr) -> u64 {
        let place = self.addresses().iter().position(|known| *known == address);
        place.map_or(0, |place| place as u64 + 1)
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.begin.elapsed().as_micros() as u64
    }

    fn last_logged(&self) -> i64 {
        self.seen().log.len() as i64 + 1
    }
}

fn is_acknowledged(op: &Op) -> bool {
    matches!(
        op.outcome,
        Outcome::Put(_)
            | Outcome::Delete(_)
            | Outcome::Txn(_)
            | Outcome::LeaseGranted { .. }
            | Outcome::LeaseRevoked { .. }
    )
}

/// Turns what was seen into a history and checks it.
fn judge(seen: Seen, last: i64) -> Result<Verdict, String> {
    if let Some(wrong) = seen.wrong.first() {
        return Err(wrong.clone());
    }
    if (seen.log.len() as i64) + 1 < last {
        return Err(format!(
            "the log ends at revision {}, but {last} was answered: acknowledged writes are lost",
            seen.log.len() + 1
        ));
    }
    let verdict = Verdict {
        calls: seen.ops.len(),
        answered: seen.ops.iter().filter(|op| op.return_us.is_some()).count(),
        acknowledged: seen.acknowledged,
        revisions: seen.log.len(),
        watched: seen.watches.iter().map(|watch| watch.messages.len()).sum(),
    };
    let history = history(seen);
    let violations = checker::check(&history);
    if violations.is_empty() {
        return Ok(verdict);
    }
    let count = violations.len();
    let short = |violation: &checker::Violation| {
        let whole = violation.to_string();
        whole.chars().take(VIOLATION_CHARS).collect::<String>()
    };
    let first: Vec<String> = violations.iter().take(5).map(short).collect();
    Err(format!(
        "{count} violations in {verdict:?}; the first:\n{}",
        first.join("\n")
    ))
}

fn history(seen: Seen) -> History {
    let earliest = earliest_sightings(&seen);
    let log = seen.log.into_iter().zip(2..).zip(earliest);
    History {
        log: log
            .map(|(((_, changes), number), seen_us)| Revision {
                number,
                seen_us,
                changes,
            })
            .collect(),
        ops: seen.ops,
        watches: seen.watches,
        // All processes run by the same clock, which the clients use as well.
        clock_rate_max: 1000,
        // No member comes or goes while these clients call.
        ..History::default()
    }
}

/// For each revision from 2 on, when anybody first saw it or a later one.
fn earliest_sightings(seen: &Seen) -> Vec<u64> {
    let mut earliest: Vec<u64> = seen.log.iter().map(|(seen_us, _)| *seen_us).collect();
    let mut sight = |time_us: u64, revision: i64| {
        if let Some(known) = usize::try_from(revision - 2)
            .ok()
            .and_then(|place| earliest.get_mut(place))
        {
            *known = (*known).min(time_us);
        }
    };
    for op in &seen.ops {
        if let (Some(return_us), Some(revision)) = (op.return_us, op.revision()) {
            sight(return_us, revision);
        }
    }
    for message in seen.watches.iter().flat_map(|watch| &watch.messages) {
        sight(message.time_us, message.revision);
        if let WatchKind::Events { events, .. } = &message.kind {
            for kv in events.iter().filter_map(|event| event.kv.as_ref()) {
                sight(message.time_us, kv.mod_revision);
            }
        }
    }
    for place in (1..earliest.len()).rev() {
        earliest[place - 1] = earliest[place - 1].min(earliest[place]);
    }
    earliest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::mvccpb;

    fn put(value: &str, call_us: u64, return_us: Option<u64>, revision: i64) -> Op {
        let outcome = match return_us {
            None => Outcome::Unknown,
            Some(_) => Outcome::Put(pb::PutResponse {
                header: Some(pb::ResponseHeader {
                    revision,
                    ..Default::default()
                }),
                prev_kv: None,
            }),
        };
        Op {
            call_us,
            return_us,
            member: 1,
            request: Request::Put(pb::PutRequest {
                key: "k".into(),
                value: Bytes::copy_from_slice(value.as_bytes()),
                ..Default::default()
            }),
            outcome,
        }
    }

    fn change(value: &str, create: i64, revision: i64, version: i64) -> Vec<Change> {
        vec![Change {
            key: "k".into(),
            now: Some(mvccpb::KeyValue {
                key: "k".into(),
                create_revision: create,
                mod_revision: revision,
                version,
                value: Bytes::copy_from_slice(value.as_bytes()),
                lease: 0,
            }),
        }]
    }

    fn seen(ops: Vec<Op>, log: Vec<(u64, Vec<Change>)>) -> Seen {
        Seen {
            acknowledged: ops.iter().filter(|op| is_acknowledged(op)).count(),
            ops,
            log,
            ..Seen::default()
        }
    }

    #[test]
    fn what_was_acknowledged_is_in_the_log_or_lost() {
        let ops = || vec![put("a", 10, Some(20), 2), put("b", 30, Some(40), 3)];
        let log = vec![(25, change("a", 2, 2, 1)), (45, change("b", 2, 3, 2))];
        assert_eq!(judge(seen(ops(), log.clone()), 3).unwrap().acknowledged, 2);
        let lost = judge(seen(ops(), log[..1].to_vec()), 3).unwrap_err();
        assert!(lost.contains("lost"), "{lost}");
        // Another write in its place is no better.
        let other = vec![(25, change("a", 2, 2, 1)), (45, change("c", 2, 3, 2))];
        assert!(judge(seen(ops(), other), 3).is_err());
    }

    #[test]
    fn a_write_without_an_answer_may_be_there_or_not() {
        let ops = || vec![put("a", 10, None, 0), put("b", 30, Some(40), 2)];
        assert!(judge(seen(ops(), vec![(45, change("b", 2, 2, 1))]), 2).is_ok());
        let late = vec![(45, change("b", 2, 2, 1)), (50, change("a", 2, 3, 2))];
        assert!(judge(seen(ops(), late), 2).is_ok());
    }

    #[test]
    fn a_revision_is_seen_when_the_first_of_all_sees_it() {
        let ops = vec![put("b", 30, Some(40), 3)];
        let log = vec![(90, change("a", 2, 2, 1)), (95, change("b", 2, 3, 2))];
        // Who was answered at revision 3 knew that 2 exists.
        assert_eq!(earliest_sightings(&seen(ops, log)), [40, 40]);
    }
}
