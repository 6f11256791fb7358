//! The text that Prometheus reads: one line of this file for each metric.

use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;

use proto::error::Code;
use proto::methods::{self, Method};

use super::process::Process;
use super::{Counter, FileLimit, Histogram, MethodMetrics, Metrics, peers};
use crate::config::VERSION_ETCD;
use crate::member::Member;
use crate::tls::Side;

/// All metrics as they are now.
pub fn page(member: &Member) -> String {
    let mut page = Page(String::with_capacity(64 << 10));
    server(&mut page, member);
    store(&mut page, member);
    watch_and_lease(&mut page, member);
    disk(&mut page, member);
    peers::peers(&mut page, member);
    grpc(&mut page, member);
    tls(&mut page, member);
    process(&mut page);
    let name = "promhttp_metric_handler_requests_total";
    page.head(name, "counter", "Pages like this, by status.");
    for (code, count) in [("200", member.metrics.pages.get()), ("500", 0), ("503", 0)] {
        page.line(name, &format!("{{code=\"{code}\"}}"), count);
    }
    member.metrics.pages.inc();
    page.0
}

fn server(page: &mut Page, member: &Member) {
    let (metrics, status, view) = (&member.metrics, member.raft.get(), member.view.load());
    let settings = member.settings();
    let id = format!("{:x}", member.member_id);
    page.gauge(
        "etcd_server_has_leader",
        "Whether there is a leader.",
        u8::from(status.leader != 0),
    );
    page.gauge(
        "etcd_server_is_leader",
        "Whether this member leads.",
        u8::from(status.is_leader),
    );
    page.gauge(
        "etcd_server_is_learner",
        "Whether this member is a learner.",
        u8::from(status.is_learner),
    );
    page.counter_value(
        "etcd_server_leader_changes_seen_total",
        "Leaders seen.",
        member.raft.leaders_seen(),
    );
    page.gauge(
        "etcd_server_proposals_committed_total",
        "Committed proposals.",
        status.committed,
    );
    page.gauge(
        "etcd_server_proposals_applied_total",
        "Applied proposals.",
        view.applied().0,
    );
    page.gauge(
        "etcd_server_proposals_pending",
        "Proposals that wait for their commit.",
        status.proposals_pending,
    );
    page.counter(
        "etcd_server_proposals_failed_total",
        "Proposals that failed.",
        &metrics.proposals_failed,
    );
    page.counter(
        "etcd_server_read_indexes_failed_total",
        "Linearizable reads that failed.",
        &metrics.read_indexes_failed,
    );
    page.counter(
        "etcd_server_slow_read_indexes_total",
        "Linearizable reads that took long.",
        &metrics.slow_read_indexes,
    );
    page.counter(
        "etcd_server_slow_apply_total",
        "Batches that took long to apply.",
        &metrics.slow_applies,
    );
    page.counter(
        "etcd_server_heartbeat_send_failures_total",
        "Heartbeats that left late.",
        &metrics.heartbeat_send_failures,
    );
    page.counter(
        "etcd_server_health_success",
        "Successful health checks.",
        &metrics.health_success,
    );
    page.counter(
        "etcd_server_health_failures",
        "Failed health checks.",
        &metrics.health_failures,
    );
    checks(page, metrics);
    page.gauge(
        "etcd_server_quota_backend_bytes",
        "The quota of the store.",
        settings.quota_shown,
    );
    page.gauge(
        "etcd_server_snapshot_apply_in_progress_total",
        "Snapshots of a leader being installed.",
        0,
    );
    page.counter_value(
        "etcd_server_learner_promote_successes",
        "Learners promoted here.",
        metrics.learner_promotions.get(),
    );
    let failures = metrics
        .promotion_failures
        .lock()
        .expect("no thread panics while it holds the failures")
        .clone();
    page.head(
        "etcd_server_learner_promote_failures",
        "counter",
        "Learners that were not promoted, by the reason.",
    );
    for (reason, count) in failures {
        let labels = format!("{{Reason=\"{}\"}}", escape(reason));
        page.line("etcd_server_learner_promote_failures", &labels, count);
    }
    page.labelled(
        "etcd_server_id",
        "gauge",
        "This member's id.",
        "server_id",
        &id,
        1,
    );
    page.labelled(
        "etcd_server_version",
        "gauge",
        "The version served.",
        "server_version",
        VERSION_ETCD,
        1,
    );
    page.labelled(
        "etcd_server_go_version",
        "gauge",
        "No Go here.",
        "server_go_version",
        "none",
        1,
    );
    if let Some(version) = view.cluster_version().version {
        let version = format!("{}.{}", version.major, version.minor);
        page.labelled(
            "etcd_cluster_version",
            "gauge",
            "The version agreed on.",
            "cluster_version",
            &version,
            1,
        );
    }
    page.head(
        "etcd_server_client_requests_total",
        "counter",
        "Calls by the version of the client.",
    );
    for (version, [unary, stream]) in metrics.clients.all() {
        let version = escape(&version);
        for (kind, count) in [("unary", unary), ("stream", stream)] {
            let labels = format!("{{client_api_version=\"{version}\",type=\"{kind}\"}}");
            page.line("etcd_server_client_requests_total", &labels, count);
        }
    }
    page.counter(
        "etcd_network_client_grpc_received_bytes_total",
        "Bytes of requests.",
        &metrics.grpc_received_bytes,
    );
    page.counter(
        "etcd_network_client_grpc_sent_bytes_total",
        "Bytes of responses.",
        &metrics.grpc_sent_bytes,
    );
}

/// Those that were asked for so far.
fn checks(page: &mut Page, metrics: &Metrics) {
    let checks = metrics
        .checks
        .lock()
        .expect("no thread panics while it holds the checks")
        .clone();
    page.head(
        "etcd_server_healthcheck",
        "gauge",
        "Whether a check of /livez or /readyz came out well.",
    );
    for ((kind, name), check) in &checks {
        let labels = format!("{{name=\"{name}\",type=\"{kind}\"}}");
        page.line("etcd_server_healthcheck", &labels, u8::from(check.is_well));
    }
    page.head(
        "etcd_server_healthchecks_total",
        "counter",
        "Checks of /livez and /readyz.",
    );
    for ((kind, name), check) in &checks {
        for (status, count) in [("error", check.errors), ("success", check.successes)] {
            let labels = format!("{{name=\"{name}\",status=\"{status}\",type=\"{kind}\"}}");
            page.line("etcd_server_healthchecks_total", &labels, count);
        }
    }
}

fn store(page: &mut Page, member: &Member) {
    let (metrics, view) = (&member.metrics, member.view.load());
    page.gauge(
        "etcd_mvcc_db_total_size_in_bytes",
        "Bytes of the store's files.",
        view.file_bytes(),
    );
    page.gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Bytes of them in use.",
        view.live_bytes(),
    );
    page.gauge(
        "etcd_mvcc_db_open_read_transactions",
        "Readers that hold up a writer: none ever.",
        0,
    );
    page.counter("etcd_mvcc_range_total", "Ranges.", &metrics.ranges);
    page.head(
        "etcd_server_range_duration_seconds",
        "histogram",
        "Time that ranges took.",
    );
    for (success, durations) in ["false", "true"].iter().zip(&metrics.range_durations) {
        page.buckets(
            "etcd_server_range_duration_seconds",
            &format!("success=\"{success}\""),
            durations,
        );
    }
    page.counter("etcd_mvcc_put_total", "Puts.", &metrics.puts);
    page.counter(
        "etcd_mvcc_delete_total",
        "Deletions of keys.",
        &metrics.deletes,
    );
    page.counter(
        "etcd_mvcc_txn_total",
        "Transactions of several operations.",
        &metrics.txns,
    );
    page.histogram(
        "etcd_mvcc_hash_duration_seconds",
        "Hashing all.",
        &metrics.hash,
    );
    page.histogram(
        "etcd_mvcc_hash_rev_duration_seconds",
        "Hashing the keys.",
        &metrics.hash_rev,
    );
    page.gauge("etcd_debugging_mvcc_keys_total", "Keys.", view.key_count());
    page.gauge(
        "etcd_debugging_mvcc_current_revision",
        "The newest revision.",
        view.revision(),
    );
    page.gauge(
        "etcd_debugging_mvcc_compact_revision",
        "The last compaction.",
        view.compact_revision(),
    );
    page.gauge(
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "Bytes of keys and values put.",
        metrics.put_bytes.get(),
    );
    page.gauge(
        "etcd_debugging_mvcc_db_compaction_last",
        "When the last compaction ended, in Unix time.",
        metrics.compaction_last.get(),
    );
    page.gauge(
        "etcd_debugging_auth_revision",
        "Revision of users and roles.",
        1,
    );
    page.head(
        "etcd_debugging_server_alarms",
        "gauge",
        "Alarms that are on.",
    );
    for alarm in view.alarms().get(0) {
        let kind = proto::etcdserverpb::AlarmType::try_from(alarm.alarm)
            .map_or("UNKNOWN", |kind| kind.as_str_name());
        let labels = format!(
            "{{alarm_type=\"{kind}\",server_id=\"{:x}\"}}",
            alarm.member_id
        );
        page.line("etcd_debugging_server_alarms", &labels, 1);
    }
}

fn watch_and_lease(page: &mut Page, member: &Member) {
    let (metrics, watch) = (&member.metrics, member.metrics.watch_stats());
    page.gauge(
        "etcd_debugging_mvcc_watch_stream_total",
        "Watch streams.",
        watch.streams,
    );
    page.gauge(
        "etcd_debugging_mvcc_watcher_total",
        "Watchers.",
        watch.watchers,
    );
    page.gauge(
        "etcd_debugging_mvcc_slow_watcher_total",
        "Watchers that are behind.",
        watch.behind,
    );
    page.counter_value(
        "etcd_debugging_mvcc_events_total",
        "Events sent to watchers.",
        watch.events,
    );
    page.gauge(
        "etcd_debugging_mvcc_pending_events_total",
        "Events kept for slow watchers: none ever.",
        0,
    );
    page.counter(
        "etcd_debugging_lease_granted_total",
        "Leases granted.",
        &metrics.leases_granted,
    );
    page.histogram(
        "etcd_debugging_lease_ttl_total",
        "Seconds that leases were granted for.",
        &metrics.lease_ttls,
    );
    page.counter(
        "etcd_debugging_lease_revoked_total",
        "Leases revoked.",
        &metrics.leases_revoked,
    );
    page.counter(
        "etcd_debugging_lease_renewed_total",
        "Leases renewed here.",
        &metrics.leases_renewed,
    );
    page.counter_value(
        "etcd_debugging_server_lease_expired_total",
        "Leases that ran out.",
        member.raft.get().leases_expired,
    );
}

fn disk(page: &mut Page, member: &Member) {
    let metrics = &member.metrics;
    page.histogram(
        "etcd_disk_wal_fsync_duration_seconds",
        "Syncs of the log.",
        &metrics.wal_fsync,
    );
    page.histogram(
        "etcd_disk_wal_write_duration_seconds",
        "Writes of the log.",
        &metrics.wal_write,
    );
    page.gauge(
        "etcd_disk_wal_write_bytes_total",
        "Bytes written to the log.",
        metrics.wal_write_bytes.get(),
    );
    page.histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "Checkpoints of the store.",
        &metrics.backend_commit,
    );
    page.histogram(
        "etcd_disk_backend_defrag_duration_seconds",
        "Defragmentations.",
        &metrics.backend_defrag,
    );
    page.histogram(
        "etcd_disk_backend_snapshot_duration_seconds",
        "Snapshots sent.",
        &metrics.backend_snapshot,
    );
    page.gauge(
        "etcd_disk_defrag_inflight",
        "Whether a defragmentation runs.",
        u8::from(member.long_calls.is_defragmenting()),
    );
}

fn grpc(page: &mut Page, member: &Member) {
    let metrics = &member.metrics;
    let rows = || methods::ALL.iter().zip(&metrics.methods);
    let each = |page: &mut Page, name: &str, help: &str, count: fn(&MethodMetrics) -> &Counter| {
        page.head(name, "counter", help);
        for (method, metrics) in rows() {
            page.line(name, &labels(method, None), count(metrics).get());
        }
    };
    each(page, "grpc_server_started_total", "Calls begun.", |m| {
        &m.started
    });
    each(
        page,
        "grpc_server_msg_received_total",
        "Messages of clients.",
        |m| &m.received,
    );
    each(
        page,
        "grpc_server_msg_sent_total",
        "Messages to clients.",
        |m| &m.sent,
    );
    page.head("grpc_server_handled_total", "counter", "Calls ended.");
    for (method, metrics) in rows() {
        for (code, count) in Code::ALL.into_iter().zip(&metrics.handled) {
            page.line(
                "grpc_server_handled_total",
                &labels(method, Some(code)),
                count.get(),
            );
        }
    }
    if member.settings().extensive {
        grpc_durations(page, metrics);
    }
}

/// How long calls take, by method.
/// TLS, where it is used. etcd counts nothing of it.
fn tls(page: &mut Page, member: &Member) {
    let sides = member.tls.get().map(|sides| sides.each());
    let sides: Vec<_> = sides
        .into_iter()
        .flatten()
        .filter(|side| side.is_used())
        .collect();
    if sides.is_empty() {
        return;
    }
    let of = |side: &Side| format!("side=\"{}\"", side.role().name());
    page.head(
        "etcd_network_tls_not_after_timestamp_seconds",
        "gauge",
        "When a certificate expires, or a revocation list should be replaced; of several in a file the first.",
    );
    for side in &sides {
        for (kind, end) in side.ends() {
            let labels = format!("{{{},kind=\"{kind}\"}}", of(side));
            page.line("etcd_network_tls_not_after_timestamp_seconds", &labels, end);
        }
    }
    page.head(
        "etcd_network_tls_handshakes_total",
        "counter",
        "TLS connections that came in, by how their handshake ended.",
    );
    for side in &sides {
        let counts = &side.counts;
        for (result, count) in [
            ("succeeded", &counts.succeeded),
            ("failed", &counts.failed),
            ("timed_out", &counts.timed_out),
            ("refused", &counts.refused),
        ] {
            let labels = format!("{{{},result=\"{result}\"}}", of(side));
            page.line("etcd_network_tls_handshakes_total", &labels, count.get());
        }
    }
    page.head(
        "etcd_network_tls_reloads_total",
        "counter",
        "Changes of TLS files, by whether the new ones can be used.",
    );
    for side in &sides {
        let counts = &side.counts;
        for (result, count) in [
            ("succeeded", &counts.reloads),
            ("failed", &counts.reload_failures),
        ] {
            let labels = format!("{{{},result=\"{result}\"}}", of(side));
            page.line("etcd_network_tls_reloads_total", &labels, count.get());
        }
    }
    page.head(
        "etcd_network_tls_files_stale",
        "gauge",
        "Whether older TLS files are in use because those on disk cannot be used.",
    );
    for side in &sides {
        let labels = format!("{{{}}}", of(side));
        page.line(
            "etcd_network_tls_files_stale",
            &labels,
            side.counts.is_stale.get(),
        );
    }
}

fn grpc_durations(page: &mut Page, metrics: &Metrics) {
    let name = "grpc_server_handling_seconds";
    page.head(name, "histogram", "Time that calls took.");
    for (method, metrics) in methods::ALL.iter().zip(&metrics.methods) {
        let labels = labels(method, None);
        page.buckets(name, labels.trim_matches(['{', '}']), &metrics.handling);
    }
}

fn process(page: &mut Page) {
    let (process, files) = (Process::now(), FileLimit::now());
    page.gauge("os_fd_limit", "Files that may be open.", files.max);
    page.gauge("os_fd_used", "Files that are open.", files.open);
    page.gauge("process_max_fds", "Files that may be open.", files.max);
    page.gauge("process_open_fds", "Files that are open.", files.open);
    page.gauge(
        "process_resident_memory_bytes",
        "Memory in use.",
        process.resident_bytes,
    );
    page.gauge(
        "process_virtual_memory_bytes",
        "Address space.",
        process.virtual_bytes,
    );
    page.gauge(
        "process_start_time_seconds",
        "Start in Unix time.",
        process.started_s,
    );
    page.gauge(
        "process_virtual_memory_max_bytes",
        "Address space that there may be.",
        process.virtual_bytes_max,
    );
    page.counter_value(
        "process_network_receive_bytes_total",
        "Bytes received by this machine.",
        process.received_bytes,
    );
    page.counter_value(
        "process_network_transmit_bytes_total",
        "Bytes sent by this machine.",
        process.sent_bytes,
    );
    page.gauge("process_threads", "Threads.", process.threads);
    page.head("process_cpu_seconds_total", "counter", "Processor time.");
    page.line("process_cpu_seconds_total", "", process.cpu_s);
}

fn labels(method: &Method, code: Option<Code>) -> String {
    let code = code.map_or(String::new(), |code| {
        format!("grpc_code=\"{}\",", code.name())
    });
    let (name, service, kind) = (method.name, method.service, method.kind.label());
    format!("{{{code}grpc_method=\"{name}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"}}")
}

/// A label's value as the format wants it.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

pub(super) struct Page(String);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.line(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, counter: &Counter) {
        self.counter_value(name, help, counter.get());
    }

    fn counter_value(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.line(name, "", value);
    }

    fn labelled(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        text: &str,
        value: u64,
    ) {
        self.head(name, kind, help);
        self.line(name, &format!("{{{label}=\"{}\"}}", escape(text)), value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        self.buckets(name, "", histogram);
    }

    /// One histogram of those that share a name, told apart by `labels`.
    pub(super) fn buckets(&mut self, name: &str, labels: &str, histogram: &Histogram) {
        let bucket = format!("{name}_bucket");
        let comma = if labels.is_empty() { "" } else { "," };
        let mut sum = 0;
        let bounds = histogram.bounds.iter().map(|bound| go_float(*bound));
        let bounds = bounds.chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&histogram.counts) {
            sum += count.load(Ordering::Relaxed);
            self.line(&bucket, &format!("{{{labels}{comma}le=\"{bound}\"}}"), sum);
        }
        let labels = match labels {
            "" => String::new(),
            labels => format!("{{{labels}}}"),
        };
        let seconds = histogram.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
        self.line(&format!("{name}_sum"), &labels, seconds);
        self.line(&format!("{name}_count"), &labels, sum);
    }

    pub(super) fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

/// A number as Go writes it, without what binary fractions add to it.
fn go_float(number: f64) -> String {
    let number = (number * 1e6).round() / 1e6;
    if number < 1e6 {
        return number.to_string();
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => format!("{digits}e+{exponent:0>2}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_histogram_is_cumulative_and_its_bounds_are_written_as_etcd_does() {
        let histogram = Histogram::new(0.001, 3);
        histogram.observe(Duration::from_micros(1500));
        histogram.observe(Duration::from_secs(5));
        let mut page = Page(String::new());
        page.histogram("h", "help", &histogram);
        assert_eq!(
            page.0,
            "# HELP h help\n# TYPE h histogram\nh_bucket{le=\"0.001\"} 0\nh_bucket{le=\"0.002\"} 1\n\
             h_bucket{le=\"0.004\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 5.0015\nh_count 2\n"
        );
    }

    #[test]
    fn large_bounds_are_written_as_go_writes_them() {
        assert_eq!(go_float(524_288.0), "524288");
        assert_eq!(go_float(1_048_576.0), "1.048576e+06");
        assert_eq!(go_float(0.0001 * 8.0), "0.0008");
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
