//! Three real processes under faults, with real clients whose histories go through the simulator's checker.
//!
//! Every suite founds a cluster, sets clients to work (`conformance::history`), lets faults happen, heals everything, and then demands three things: the
//! cluster writes again, `HashKV` is equal on all members, and one order of all changes explains every answer and every watch event, without
//! anything missing that was acknowledged.
//!
//! | variable | meaning |
//! |---|---|
//! | `QUORATE_BLACKBOX_SECONDS` | how long faults of processes and network go on (20) |
//! | `QUORATE_KILLS` | rounds of `kill -9` (6) |
//! | `QUORATE_POWER_CUTS` | rounds of power cuts (3) |
//! | `QUORATE_UNDER_TEST` | folder of a real etcd to test instead of our server, to try the harness itself |
//! | `QUORATE_SEED` | which faults |

use conformance::cluster::disk::Disk;
use conformance::cluster::network::Network;
use conformance::cluster::{Cluster, Plan, admin};
use conformance::history::{Verdict, Witness, Workload};
use conformance::programs::{self, Program};
use conformance::suite::{self, Dice, note, number, seed};
use conformance::{allowed, need};
use std::time::{Duration, Instant};

const MEMBERS: usize = 3;
/// Room for two log segments of etcd or of ours, and a store.
const DISK_MIB: u32 = 512;
/// A history is kept in memory until it is judged, so long runs are cut into pieces of so many rounds.
const ROUNDS_MAX: u64 = 20;
/// How long a cluster may take to write again when enough members are well.
const RECOVERY: Duration = Duration::from_secs(60);

#[test]
fn histories_stand_up_to_faults_of_processes_and_network() {
    let _turn = suite::turn();
    let suite = "faults of processes and network";
    let program = need!(suite, programs::under_test());
    let network = allowed!(suite, Network::create());
    let seed = seed();
    let seconds = number("QUORATE_BLACKBOX_SECONDS", 20);
    note(&format!("{suite}: QUORATE_SEED={seed}, {seconds} s"));
    let mut dice = Dice(seed);
    let mut cluster = found(Plan::new(&three(&program)).network(network));
    let witness = Witness::start(Workload::MIXED, &cluster.addresses(), dice.roll());
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut faults = Vec::new();
    while Instant::now() < until {
        std::thread::sleep(ms(200 + dice.below(800)));
        faults.push(one_fault(&mut cluster, &mut dice).expect("the harness works"));
    }
    let verdict = heal_and_judge(cluster, witness)
        .unwrap_or_else(|wrong| panic!("seed {seed}, faults {faults:?}: {wrong}"));
    note(&format!("{suite}: {}: {verdict:?}", faults.join(" ")));
    assert!(
        verdict.acknowledged > 50 * seconds as usize / 2,
        "too little load to mean anything"
    );
}

#[test]
fn nothing_acknowledged_is_lost_by_kills() {
    let _turn = suite::turn();
    let suite = "kill -9 of members";
    let program = need!(suite, programs::under_test());
    let seed = seed();
    let rounds = number("QUORATE_KILLS", 6);
    note(&format!("{suite}: QUORATE_SEED={seed}, {rounds} rounds"));
    let plan = || Plan::new(&three(&program));
    let done = rounds_of(rounds, seed, plan, |cluster, dice| {
        let victims = some_members(dice);
        for victim in &victims {
            cluster.kill(*victim);
        }
        std::thread::sleep(ms(dice.below(300)));
        for victim in &victims {
            cluster.start(*victim)?;
        }
        // Once more while they recover.
        if dice.below(4) == 0 {
            std::thread::sleep(ms(dice.below(200)));
            for victim in &victims {
                cluster.kill(*victim);
                cluster.start(*victim)?;
            }
        }
        Ok(())
    });
    let acknowledged = done.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    note(&format!(
        "{suite}: {rounds} rounds, {acknowledged} acknowledged writes, none lost"
    ));
}

#[test]
fn nothing_acknowledged_is_lost_by_power_cuts() {
    let _turn = suite::turn();
    let suite = "power cuts";
    let program = need!(suite, programs::under_test());
    allowed!(suite, Disk::Ext4(32).probe());
    let seed = seed();
    let rounds = number("QUORATE_POWER_CUTS", 3);
    note(&format!("{suite}: QUORATE_SEED={seed}, {rounds} rounds"));
    let plan = || Plan::new(&three(&program)).disk(Disk::Ext4(DISK_MIB));
    let acknowledged = rounds_of(rounds, seed, plan, cut_power)
        .unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    note(&format!(
        "{suite}: {rounds} rounds, {acknowledged} acknowledged writes, none lost"
    ));
}

/// A harness that has never found anything proves nothing: a server that does not sync must not pass.
#[test]
fn a_server_that_does_not_sync_is_found_out_by_power_cuts() {
    let _turn = suite::turn();
    let suite = "power cuts of a server that does not sync";
    let program = need!(suite, programs::under_test());
    allowed!(suite, Disk::Ext4(32).probe());
    let plan = || {
        let careless = Plan::new(&three(&program)).flags(["--unsafe-no-fsync"]);
        careless.disk(Disk::Ext4(DISK_MIB))
    };
    let found = rounds_of(5, seed(), plan, |cluster, _| {
        cluster.cut_power(&[0, 1, 2])?;
        (0..MEMBERS).try_for_each(|member| cluster.start(member))
    });
    let wrong = found.expect_err("five power cuts without a sync, and nothing was missed");
    note(&format!(
        "{suite}: found: {}",
        wrong.lines().next().unwrap_or_default()
    ));
}

#[test]
fn a_full_disk_of_one_member_stops_nobody_else() {
    let _turn = suite::turn();
    let suite = "full disk of one member";
    let program = need!(suite, programs::under_test());
    allowed!(suite, Disk::Memory(8).probe());
    let seed = seed();
    note(&format!("{suite}: QUORATE_SEED={seed}"));
    let mut cluster = found(Plan::new(&three(&program)).disk(Disk::Memory(DISK_MIB)));
    let large = Workload {
        value_bytes: 40_000,
        clients: 16,
        think: ms(5),
        ..Workload::MIXED
    };
    let witness = Witness::start(large, &cluster.addresses(), seed);
    std::thread::sleep(ms(500));
    let victim = (cluster.leader().expect("a leader") + seed as usize) % MEMBERS;
    cluster.fill_disk(victim).expect("the harness works");
    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until && !cluster.has_ended(victim) {
        std::thread::sleep(ms(50));
    }
    let has_ended = cluster.has_ended(victim);
    let begin = Instant::now();
    let so_far = || format!("{:.1} s", begin.elapsed().as_secs_f64());
    note(&format!("{suite}: the member ended: {has_ended}"));
    writes_go_on(&witness).unwrap_or_else(|stuck| panic!("seed {seed}: {stuck}"));
    note(&format!("{suite}: {}: the others write", so_far()));
    cluster.free_disk(victim).expect("the harness works");
    cluster.kill(victim);
    cluster.start(victim).expect("it starts");
    let verdict =
        heal_and_judge(cluster, witness).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    note(&format!(
        "{suite}: the member ended: {has_ended}; {verdict:?}"
    ));
}

/// Cuts the power of all members or some, and starts them again.
fn cut_power(cluster: &mut Cluster, dice: &mut Dice) -> Result<(), String> {
    let victims = match dice.below(2) {
        0 => (0..MEMBERS).collect(),
        _ => some_members(dice),
    };
    cluster.cut_power(&victims)?;
    std::thread::sleep(ms(dice.below(100)));
    victims.iter().try_for_each(|victim| cluster.start(*victim))
}

/// Rounds of a fault under load, judged in pieces. The number of acknowledged writes.
fn rounds_of(
    rounds: u64,
    seed: u64,
    plan: impl Fn() -> Plan,
    fault: impl Fn(&mut Cluster, &mut Dice) -> Result<(), String>,
) -> Result<usize, String> {
    let mut dice = Dice(seed);
    let (mut done, mut acknowledged) = (0, 0);
    while done < rounds {
        let mut cluster = found(plan());
        let witness = Witness::start(Workload::MIXED, &cluster.addresses(), dice.roll());
        let piece = ROUNDS_MAX.min(rounds - done);
        for round in 0..piece {
            std::thread::sleep(ms(200 + dice.below(800)));
            let at = |wrong: String| format!("round {}: {wrong}", done + round);
            fault(&mut cluster, &mut dice).map_err(at)?;
            all_ready(&mut cluster).map_err(at)?;
            writes_go_on(&witness).map_err(at)?;
        }
        done += piece;
        acknowledged += heal_and_judge(cluster, witness)?.acknowledged;
    }
    Ok(acknowledged)
}

/// Waits until all members serve; a member that ends instead is a finding, however the others fare.
fn all_ready(cluster: &mut Cluster) -> Result<(), String> {
    let until = Instant::now() + RECOVERY;
    let serves = |cluster: &Cluster, member| admin::revision(cluster.address(member)).is_ok();
    let mut missing: Vec<usize> = (0..MEMBERS).collect();
    while !missing.is_empty() {
        if let Some(ended) = (0..MEMBERS).find(|member| cluster.has_ended(*member)) {
            return Err(format!(
                "member {ended} ended:\n{}",
                tail(&cluster.log(ended))
            ));
        }
        if Instant::now() > until {
            return Err(format!("{missing:?} do not serve within {RECOVERY:?}"));
        }
        missing.retain(|member| !serves(cluster, *member));
    }
    Ok(())
}

/// Lets one thing happen to one or two members, and undoes it. What it was, for the record.
fn one_fault(cluster: &mut Cluster, dice: &mut Dice) -> Result<String, String> {
    let victim = dice.below(MEMBERS as u64) as usize;
    let other = (victim + 1 + dice.below(MEMBERS as u64 - 1) as usize) % MEMBERS;
    let leader = cluster.running().first().map(|member| {
        let status = admin::status(cluster.address(*member)).unwrap_or_default();
        let own = |m: &usize| cluster.id(*m).is_ok_and(|id| id == status.leader);
        (0..MEMBERS).find(own).unwrap_or(victim)
    });
    // What happens to the leader matters most.
    let victim = match dice.below(2) {
        0 => leader.unwrap_or(victim),
        _ => victim,
    };
    let other = if other == victim {
        (victim + 1) % MEMBERS
    } else {
        other
    };
    let time = ms(300 + dice.below(2_500));
    let network = || cluster.network().expect("the plan has one");
    let name = match dice.below(8) {
        0 | 1 => {
            let victims = some_members(dice);
            victims.iter().for_each(|member| cluster.kill(*member));
            std::thread::sleep(time / 3);
            for member in &victims {
                cluster.start(*member)?;
            }
            for member in &victims {
                cluster.wait_ready(*member)?;
            }
            format!("kill{victims:?}")
        }
        2 | 3 => {
            cluster.pause(victim)?;
            std::thread::sleep(time);
            cluster.resume(victim)?;
            format!("pause[{victim}]")
        }
        4 => {
            network().isolate(victim)?;
            std::thread::sleep(time);
            network().heal()?;
            format!("isolate[{victim}]")
        }
        5 => {
            let all = dice.below(2) == 0;
            for to in (0..MEMBERS).filter(|to| *to != victim && (all || *to == other)) {
                network().cut(victim, to)?;
            }
            std::thread::sleep(time);
            network().heal()?;
            format!("mute[{victim}{}]", if all { "" } else { "->one" })
        }
        6 => {
            for from in (0..MEMBERS).filter(|from| *from != victim) {
                network().cut(from, victim)?;
            }
            std::thread::sleep(time);
            network().heal()?;
            format!("deaf[{victim}]")
        }
        _ => {
            network().slow(victim, 300 + dice.below(1_500) as u32, 100)?;
            let until = Instant::now() + time;
            // Short cuts on top: packets are lost in bursts.
            while Instant::now() < until {
                network().cut(victim, other)?;
                std::thread::sleep(ms(5 + dice.below(30)));
                network().join(victim, other)?;
                std::thread::sleep(ms(50 + dice.below(150)));
            }
            network().heal()?;
            format!("slow[{victim}]")
        }
    };
    Ok(name)
}

/// One, two or all members.
fn some_members(dice: &mut Dice) -> Vec<usize> {
    let first = dice.below(MEMBERS as u64) as usize;
    let count = match dice.below(4) {
        0 | 1 => 1,
        2 => 2,
        _ => MEMBERS,
    };
    (0..count).map(|step| (first + step) % MEMBERS).collect()
}

/// Waits until writes are acknowledged that were not before.
fn writes_go_on(witness: &Witness) -> Result<(), String> {
    let (before, until) = (witness.acknowledged(), Instant::now() + RECOVERY);
    while witness.acknowledged() < before + 20 {
        if Instant::now() > until {
            return Err(format!(
                "no writes within {RECOVERY:?} although enough members are well"
            ));
        }
        std::thread::sleep(ms(20));
    }
    Ok(())
}

fn heal_and_judge(mut cluster: Cluster, mut witness: Witness) -> Result<Verdict, String> {
    if let Some(network) = cluster.network() {
        network.heal()?;
    }
    for member in 0..MEMBERS {
        if cluster.has_ended(member) {
            cluster.kill(member);
            cluster.start(member)?;
        }
        cluster.wait_ready(member)?;
    }
    writes_go_on(&witness)?;
    witness.stop_calling()?;
    let last = admin::persist(RECOVERY, || admin::revision(cluster.address(0)))
        .map_err(|failure| format!("the last revision: {failure}"))?;
    cluster.compare_hashes(&[0, 1, 2])?;
    let verdict = witness.judge(last);
    if verdict.is_err() {
        for member in 0..MEMBERS {
            note(&format!(
                "--- member {member}:\n{}",
                tail(&cluster.log(member))
            ));
        }
    }
    verdict
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn found(plan: Plan) -> Cluster {
    plan.start().unwrap_or_else(|error| panic!("{error}"))
}

fn three(program: &Program) -> Vec<Program> {
    vec![program.clone(); MEMBERS]
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
