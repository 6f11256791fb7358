//! Members of both kinds in one cluster, founded together: whoever leads, every member takes puts, holds the same, and comes back
//! by snapshot when it has fallen behind too far for the log.
//!
//! The long suites are in `mixed.rs`; this is the protocol between two programs that do not know each other.

use conformance::cluster::{Cluster, Plan};
use conformance::grpc::{Failure, Grpc, PUT, block_on};
use conformance::need;
use conformance::programs::{self, Program};
use conformance::server::http_get;
use proto::etcdserverpb as pb;

/// Three members.
struct Three(Cluster);

impl Three {
    fn found(programs: [&Program; 3], flags: &[&str]) -> Three {
        let programs = programs.map(Clone::clone);
        let plan = Plan::new(&programs).flags(flags.iter().copied());
        Three(done(plan.start()))
    }

    fn lead(&self, member: usize) {
        done(self.0.lead(member));
    }

    /// Puts through one member, several at a time.
    fn put(&self, member: usize, prefix: &str, count: usize, value_bytes: usize) {
        const AT_A_TIME: usize = 64;
        let address = self.0.address(member);
        block_on(async {
            let client = Grpc::connect(address).await.expect("connected");
            for first in (0..count).step_by(AT_A_TIME) {
                let mut puts = tokio::task::JoinSet::new();
                for i in first..count.min(first + AT_A_TIME) {
                    let request = pb::PutRequest {
                        key: format!("{prefix}{}", i % 997).into(),
                        value: vec![b'v'; value_bytes].into(),
                        ..Default::default()
                    };
                    let client = client.clone();
                    puts.spawn(async move {
                        let put: Result<pb::PutResponse, Failure> =
                            client.call(PUT, &request).await;
                        put.map_err(|why| why.to_string())
                    });
                }
                while let Some(put) = puts.join_next().await {
                    done(put.expect("no panic"));
                }
            }
        });
    }

    fn assert_equal(&self) {
        done(self.0.compare_hashes(&[0, 1, 2]));
    }

    /// The sum of a metric over its labels.
    fn metric(&self, member: usize, name: &str) -> f64 {
        let page = done(http_get(self.0.address(member), "/metrics"));
        let lines = page.body.lines().filter(|line| line.starts_with(name));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Each of the three leads in turn, and each takes puts.
    fn all_lead_and_all_take_puts(&self) {
        for leader in 0..3 {
            self.lead(leader);
            for member in 0..3 {
                let prefix = format!("led by {leader}, put by {member}: ");
                self.put(member, &prefix, 50, 100);
            }
            self.assert_equal();
        }
    }

    /// What a member got is its own: after a hard stop, and when it leads.
    fn stands_alone(&mut self, member: usize) {
        self.0.kill(member);
        done(self.0.start_again(member));
        self.lead(member);
        self.put(1, "afterwards ", 50, 100);
        self.assert_equal();
    }
}

fn done<T>(outcome: Result<T, String>) -> T {
    outcome.unwrap_or_else(|why| panic!("{why}"))
}

#[test]
fn two_etcds_and_one_quorate_lead_in_turn_and_etcd_brings_quorate_back_by_snapshot() {
    let etcd = need!("peers", programs::etcd("etcd-3.5.1"));
    let quorate = need!("peers", programs::quorate());
    let mut three = Three::found([&etcd, &etcd, &quorate], &["--snapshot-count=50"]);
    three.all_lead_and_all_take_puts();
    three.lead(0);
    three.0.kill(2);
    // etcd 3.5.1 keeps 5000 entries behind a snapshot.
    three.put(0, "while it is away ", 10_000, 50);
    done(three.0.start_again(2));
    three.assert_equal();
    let came = three.metric(2, "etcd_network_snapshot_receive_success");
    assert!(came >= 1.0, "it came back without a snapshot");
    three.stands_alone(2);
}

#[test]
fn one_etcd_and_two_quorates_lead_in_turn_and_quorate_brings_both_kinds_back_by_snapshot() {
    let etcd = need!("peers", programs::etcd("etcd-3.5.1"));
    let quorate = need!("peers", programs::quorate());
    let mut three = Three::found([&etcd, &quorate, &quorate], &[]);
    three.all_lead_and_all_take_puts();
    for away in [0, 2] {
        three.lead(1);
        three.0.kill(away);
        // Quorate keeps up to 64 MiB of log for a member that is away, and lets go of it at a checkpoint.
        three.put(1, "while it is away ", 160, 1_000_000);
        let before = three.metric(1, "etcd_network_snapshot_send_success");
        done(three.0.start_again(away));
        three.assert_equal();
        let sent = three.metric(1, "etcd_network_snapshot_send_success") - before;
        assert!(sent >= 1.0, "member {away} came back without a snapshot");
        three.stands_alone(away);
    }
}
