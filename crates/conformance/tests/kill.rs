//! `kill -9` under load, again and again: nothing that was acknowledged is lost, and nothing else appears.
//!
//! Each round: many writers put rising numbers into keys of their own and grant leases; the server is killed at a random
//! moment, half of the time once more while it recovers, and started again. Then every key must hold its last acknowledged
//! number or a later one that was sent, at the revision that was acknowledged; every acknowledged lease must be there; and
//! the store's revision must not be below any that was seen. `QUORATE_ROUNDS` and `QUORATE_SEED` choose how much and which.

use conformance::grpc::{self, Failure, Grpc, block_on, code};
use conformance::need;
use conformance::programs;
use conformance::server::Server;
use conformance::suite::{Dice, note, number, seed};
use proto::etcdserverpb as pb;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

const WRITERS: u64 = 64;
const KEYS_PER_WRITER: u64 = 8;
const CONNECTIONS: usize = 4;
/// One request in so many is a lease.
const LEASE_EVERY: u64 = 20;

/// What is known of one key.
#[derive(Clone, Copy, Default, Debug)]
struct Known {
    acknowledged: u64,
    /// The revision that the acknowledgement carried.
    revision: i64,
    sent: u64,
}

/// Everything that the server has promised so far.
#[derive(Default)]
struct Promises {
    keys: BTreeMap<String, Known>,
    leases: Vec<i64>,
    revision: i64,
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9_under_load() {
    let suite = "kill -9 under load";
    let program = need!(suite, programs::quorate());
    let rounds = number("QUORATE_ROUNDS", 20);
    let seed = seed();
    note(&format!(
        "kill: QUORATE_SEED={seed} QUORATE_ROUNDS={rounds}"
    ));
    let mut dice = Dice(seed);
    let mut server = Server::start(&program);
    let mut promises = Promises::default();
    let mut total = 0;
    for round in 0..rounds {
        let after = Duration::from_millis(50 + dice.below(500));
        let before = promises.acknowledged();
        promises = block_on(load_until_killed(&mut server, promises, after));
        total += promises.acknowledged() - before;
        if dice.below(2) == 0 {
            kill_while_it_recovers(&mut server, Duration::from_millis(dice.below(60)));
        }
        server
            .start_again()
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        block_on(check(server.socket(), &promises))
            .unwrap_or_else(|lost| panic!("round {round} (seed {seed}): {lost}"));
    }
    note(&format!(
        "kill: {total} acknowledged puts in {rounds} rounds, all there; {} leases",
        promises.leases.len()
    ));
    assert!(
        total > rounds * 10,
        "too little load to mean anything: {total} puts"
    );
}

impl Promises {
    fn acknowledged(&self) -> u64 {
        self.keys.values().map(|known| known.acknowledged).sum()
    }
}

async fn load_until_killed(server: &mut Server, promises: Promises, after: Duration) -> Promises {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Grpc::connect(server.socket()).await.expect("it is ready"));
    }
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let connection = connections[writer as usize % CONNECTIONS].clone();
        let keys: Vec<(String, Known)> = (0..KEYS_PER_WRITER)
            .map(|index| format!("writer-{writer:02}-{index}"))
            .map(|key| {
                (
                    key.clone(),
                    promises.keys.get(&key).copied().unwrap_or_default(),
                )
            })
            .collect();
        writers.push(tokio::spawn(write_until_refused(connection, keys)));
    }
    tokio::time::sleep(after).await;
    server.kill();
    let mut all = Promises {
        leases: promises.leases,
        revision: promises.revision,
        ..Promises::default()
    };
    for writer in writers {
        let (keys, leases, revision) = writer.await.expect("a writer ends");
        all.keys.extend(keys);
        all.leases.extend(leases);
        all.revision = all.revision.max(revision);
    }
    all
}

async fn write_until_refused(
    connection: Grpc,
    mut keys: Vec<(String, Known)>,
) -> (Vec<(String, Known)>, Vec<i64>, i64) {
    let mut leases = Vec::new();
    let mut revision_max = 0;
    for turn in 1.. {
        let index = (turn % KEYS_PER_WRITER) as usize;
        let (key, known) = &mut keys[index];
        known.sent += 1;
        let request = pb::PutRequest {
            key: key.clone().into(),
            value: known.sent.to_string().into(),
            ..Default::default()
        };
        match connection
            .call::<_, pb::PutResponse>(grpc::PUT, &request)
            .await
        {
            Ok(answer) => {
                known.acknowledged = known.sent;
                known.revision = answer.header.map_or(0, |header| header.revision);
                revision_max = revision_max.max(known.revision);
            }
            Err(Failure::Transport(_)) => break,
            // A server that is going down may say so; anything else is a wrong answer.
            Err(failure) if failure.code() == code::UNAVAILABLE => break,
            Err(failure) => panic!("put: {failure}"),
        }
        if turn % LEASE_EVERY == 0 {
            let request = pb::LeaseGrantRequest {
                ttl: 100_000,
                id: 0,
            };
            match connection
                .call::<_, pb::LeaseGrantResponse>(grpc::LEASE_GRANT, &request)
                .await
            {
                Ok(answer) => leases.push(answer.id),
                Err(_) => break,
            }
        }
    }
    (keys, leases, revision_max)
}

fn kill_while_it_recovers(server: &mut Server, after: Duration) {
    server.start_without_waiting().expect("it starts");
    std::thread::sleep(after);
    server.kill();
}

async fn check(address: SocketAddr, promises: &Promises) -> Result<(), String> {
    let connection = Grpc::connect(address).await.map_err(|e| e.to_string())?;
    let everything = pb::RangeRequest {
        key: "writer-".into(),
        range_end: "writer.".into(),
        ..Default::default()
    };
    let answer: pb::RangeResponse = connection
        .call(grpc::RANGE, &everything)
        .await
        .map_err(|e| e.to_string())?;
    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
    if revision < promises.revision {
        return Err(format!(
            "revision {revision} after the restart, {} was acknowledged",
            promises.revision
        ));
    }
    let found: BTreeMap<String, (u64, i64)> = answer
        .kvs
        .iter()
        .map(|kv| {
            let number = String::from_utf8_lossy(&kv.value)
                .parse()
                .unwrap_or(u64::MAX);
            (
                String::from_utf8_lossy(&kv.key).into_owned(),
                (number, kv.mod_revision),
            )
        })
        .collect();
    for (key, known) in &promises.keys {
        let (value, mod_revision) = found.get(key).copied().unwrap_or((0, 0));
        if value < known.acknowledged || value > known.sent {
            return Err(format!("{key} holds {value}, known is {known:?}"));
        }
        if value == known.acknowledged && known.acknowledged > 0 && mod_revision != known.revision {
            return Err(format!(
                "{key} holds {value} at revision {mod_revision}, known is {known:?}"
            ));
        }
    }
    for key in found.keys() {
        if !promises.keys.contains_key(key) {
            return Err(format!("{key} was never written"));
        }
    }
    check_leases(&connection, &promises.leases).await
}

async fn check_leases(connection: &Grpc, leases: &[i64]) -> Result<(), String> {
    for id in leases.iter().rev().take(200) {
        let request = pb::LeaseTimeToLiveRequest {
            id: *id,
            keys: false,
        };
        let answer: pb::LeaseTimeToLiveResponse = connection
            .call(grpc::LEASE_TIME_TO_LIVE, &request)
            .await
            .map_err(|e| e.to_string())?;
        if answer.ttl <= 0 {
            return Err(format!("lease {id:x} was granted for 100000 s and is gone"));
        }
    }
    Ok(())
}
