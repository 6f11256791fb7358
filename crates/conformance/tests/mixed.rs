//! Our members and real etcd's in one cluster, under load from real clients, from the first that joins to the last etcd that leaves, and back.
//!
//! Clients call, watch, use transactions, range deletes, leases and compactions all the time (`conformance::history`), users and roles are made, and
//! at every step the clients fall silent for a moment while `HashKV` is compared on all members. In the end one order of all changes must explain
//! everything that they saw: a cluster that changed hands a dozen times is held to the same rules as one that never did.
//!
//! `QUORATE_UNDER_TEST` names the folder of a real etcd that plays our part, to try the suite itself.

use conformance::cluster::{Cluster, Plan, admin};
use conformance::ctl::Ctl;
use conformance::history::{Witness, Workload};
use conformance::need;
use conformance::programs::{self, Program};
use conformance::suite::{self, note, seed};
use std::time::{Duration, Instant};

/// Entries after which a member makes a snapshot. From its first one on, etcd serves nobody from the beginning of its log any more.
const SNAPSHOT_COUNT: u64 = 6_000;
/// What a member says of a call that it does not serve.
const NOT_SERVED: &str = "is not available yet";
/// How long the cluster may take to write again.
const RECOVERY: Duration = Duration::from_secs(60);

#[test]
fn members_of_etcd_3_5_are_replaced_one_by_one_and_come_back() {
    let _turn = suite::turn();
    let suite = "mixed with etcd 3.5.1";
    let ours = need!(suite, programs::under_test());
    let theirs = need!(suite, programs::etcd("etcd-3.5.1"));
    let ctl = need!(suite, programs::peer("etcd-3.5.1", "etcdctl"));
    let seed = seed();
    note(&format!("{suite}: QUORATE_SEED={seed}"));
    let mut mixed = Mixed::found(suite, &theirs, 3, &ctl, seed);

    let ours_1 = mixed.joins(&ours, "by etcd's log");
    // On a fast machine the clients may have written more by now than etcd keeps of its log.
    let by_snapshot = mixed.snapshots_sent();
    note(&format!(
        "{suite}: the first came with {by_snapshot} snapshots"
    ));
    mixed.leads(ours_1);
    mixed.leads(0);

    mixed.many_entries();
    mixed.is_removed(ours_1, 0);
    let ours_2 = mixed.joins(&ours, "by a snapshot of etcd's");
    assert!(
        mixed.snapshots_sent() > by_snapshot,
        "it was to get a snapshot"
    );
    mixed.leads(ours_2);

    let ours_3 = mixed.joins(&ours, "by one of ours");
    mixed.is_removed(0, ours_2);
    mixed.is_removed(1, ours_2);
    mixed.is_removed(2, ours_2);

    mixed.many_entries();
    let theirs_4 = mixed.joins(&theirs, "by a snapshot of ours");
    assert!(
        mixed.cluster.log(theirs_4).contains("applied snapshot"),
        "it was to get a snapshot"
    );
    mixed.leads(theirs_4);
    mixed.restarts(theirs_4);
    mixed.restarts(ours_3);

    let theirs_5 = mixed.joins(&theirs, "under etcd's lead again");
    mixed.leads(theirs_5);
    mixed.is_removed(ours_2, theirs_5);
    mixed.is_removed(ours_3, theirs_5);
    mixed.judge();
}

/// Members of 3.4 panic at the entry by which we publish ourselves, so we do not come in; they must not notice anything.
#[test]
fn etcd_3_4_is_left_alone() {
    let _turn = suite::turn();
    let suite = "mixed with etcd 3.4";
    let ours = need!(suite, programs::quorate());
    let theirs = need!(suite, programs::etcd("etcd-3.4"));
    let ctl = need!(suite, programs::peer("etcd-3.4", "etcdctl"));
    let seed = seed();
    note(&format!("{suite}: QUORATE_SEED={seed}"));
    let mut mixed = Mixed::found(suite, &theirs, 3, &ctl, seed);
    let member = ok(mixed.cluster.add(&ours, true, 0));
    let status = ok(mixed.cluster.wait_end(member));
    let log = mixed.cluster.log(member);
    assert!(
        status != 0 && log.contains("older than 3.5.0"),
        "it was to end and say why, not with {status}: {log}"
    );
    ok(mixed.cluster.remove(member, 0));
    mixed.check("who came was not let in");
    mixed.restarts(1);
    mixed.judge();
}

/// A cluster that changes, its clients, and who serves them.
struct Mixed {
    suite: &'static str,
    cluster: Cluster,
    witness: Witness,
    /// Voters, the first of which is asked for changes.
    voters: Vec<usize>,
    ctl: Program,
    users: usize,
    begin: Instant,
}

impl Mixed {
    fn found(
        suite: &'static str,
        program: &Program,
        size: usize,
        ctl: &Program,
        seed: u64,
    ) -> Mixed {
        let plan = Plan::new(&vec![program.clone(); size]);
        let cluster = plan
            .flags(["--snapshot-count", &SNAPSHOT_COUNT.to_string()])
            .start()
            .unwrap_or_else(|error| panic!("{error}"));
        let workload = Workload {
            think: Duration::from_millis(4),
            spares_old_etcd: true,
            ..Workload::MIXED
        };
        let witness = Witness::start(workload, &cluster.addresses(), seed);
        let mut mixed = Mixed {
            suite,
            cluster,
            witness,
            voters: (0..size).collect(),
            ctl: ctl.clone(),
            users: 0,
            begin: Instant::now(),
        };
        mixed.check("founded");
        mixed
    }

    /// A member joins as a learner, catches up, and is made a voter.
    fn joins(&mut self, program: &Program, how: &str) -> usize {
        let through = self.voters[0];
        let member = ok(self.cluster.add(program, true, through));
        ok(self.cluster.wait_in_step(member, through));
        let same = || self.cluster.compare_keys(member, through);
        ok(self.witness.in_silence(same));
        ok(self.cluster.promote(member, through));
        self.voters.push(member);
        self.serve();
        self.check(&format!("{} joined as {member} {how}", program.name));
        member
    }

    /// A member takes the lead.
    fn leads(&mut self, member: usize) {
        ok(self.cluster.lead(member));
        let name = self.cluster.program(member).name.clone();
        self.check(&format!("{member} ({name}) leads"));
    }

    /// A member is removed, and ends by itself when it learns of it.
    fn is_removed(&mut self, member: usize, through: usize) {
        self.voters.retain(|voter| *voter != member);
        self.serve();
        ok(self.cluster.remove(member, through));
        let status = ok(self.cluster.wait_end(member));
        self.check(&format!(
            "{member} is removed and ended with status {status}"
        ));
    }

    /// A member ends in order and comes back.
    fn restarts(&mut self, member: usize) {
        ok(self.cluster.stop(member));
        ok(self.cluster.start_again(member));
        self.check(&format!("{member} has restarted"));
    }

    /// Writes until a member that knows nothing needs a snapshot.
    fn many_entries(&mut self) {
        let index = |mixed: &Mixed| {
            let address = mixed.cluster.address(mixed.voters[0]);
            let status = admin::persist(RECOVERY, || admin::status(address));
            ok(status.map_err(|failure| failure.to_string())).raft_index
        };
        let (from, until) = (index(self), Instant::now() + RECOVERY);
        while index(self) < from + SNAPSHOT_COUNT + 500 {
            assert!(Instant::now() < until, "too few writes in {RECOVERY:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.check("thousands of entries later");
    }

    /// Snapshots that members of etcd have sent, as their logs tell.
    fn snapshots_sent(&self) -> usize {
        let logs = self.cluster.running().into_iter();
        let logs = logs.map(|member| self.cluster.log(member));
        logs.map(|log| log.matches("sent database snapshot").count())
            .sum()
    }

    /// Clients ask voters only: learners refuse them.
    fn serve(&mut self) {
        let addresses = self.voters.iter().map(|voter| self.cluster.address(*voter));
        self.witness.serve_by(&addresses.collect::<Vec<_>>());
    }

    /// The cluster writes, makes users and roles, and all voters have the same history.
    fn check(&mut self, what: &str) {
        let (before, until) = (self.witness.acknowledged(), Instant::now() + RECOVERY);
        while self.witness.acknowledged() < before + 50 {
            assert!(
                Instant::now() < until,
                "{what}: no writes within {RECOVERY:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        self.auth_entries(what);
        let voters = &self.voters;
        let same = self
            .witness
            .in_silence(|| self.cluster.compare_hashes(voters));
        let (revision, hash) = same.unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
        note(&format!(
            "{} {:6.1} s: {what}; HashKV {hash} at {revision} on {voters:?}",
            self.suite,
            self.begin.elapsed().as_secs_f64()
        ));
    }

    /// A user, a role and a permission, which every later member must know. Asked of the newest voter that serves such calls.
    fn auth_entries(&mut self, what: &str) {
        let ctl = |voter: &usize| Ctl::new(&self.ctl, self.cluster.address(*voter).to_string());
        self.users += 1;
        let (user, role) = (format!("user{}", self.users), format!("role{}", self.users));
        let added = format!("{user}:secret");
        let newest_first: Vec<usize> = self.voters.iter().rev().copied().collect();
        let adds = |voter: &&usize| {
            let answer = ctl(voter).run(&["user", "add", &added]);
            let is_served = !answer.err.contains(NOT_SERVED);
            assert!(!is_served || answer.code == 0, "{what}: {answer:?}");
            is_served
        };
        let Some(newest) = newest_first.iter().find(adds) else {
            self.users -= 1;
            return note(&format!("{}: {what}: nobody serves users", self.suite));
        };
        let key = format!("a/{:02}", self.users);
        for arguments in [
            &["role", "add", &role][..],
            &["role", "grant-permission", &role, "readwrite", &key],
            &["user", "grant-role", &user, &role],
        ] {
            let answer = ctl(newest).run(arguments);
            assert_eq!(answer.code, 0, "{what}: {arguments:?}: {answer:?}");
        }
        // Every member lists all users that there ever were.
        let users_of = |voter: &usize| {
            let answer = ctl(voter).run(&["user", "list"]);
            match answer.err.contains(NOT_SERVED) {
                true => usize::MAX,
                false => answer.out.lines().count(),
            }
        };
        for voter in &self.voters {
            let until = Instant::now() + RECOVERY;
            while users_of(voter) < self.users {
                assert!(
                    Instant::now() < until,
                    "{what}: member {voter} misses users"
                );
            }
        }
    }

    fn judge(mut self) {
        ok(self.witness.stop_calling());
        let through = self.cluster.address(self.voters[0]);
        let last = admin::persist(RECOVERY, || admin::revision(through));
        let last = ok(last.map_err(|failure| failure.to_string()));
        let verdict = ok(self.witness.judge(last));
        note(&format!("{}: {verdict:?}", self.suite));
    }
}

#[track_caller]
fn ok<T>(done: Result<T, String>) -> T {
    done.unwrap_or_else(|error| panic!("{error}"))
}
