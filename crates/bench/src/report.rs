//! Reports for people: the table of a run, and numbers that can be read at a glance.

use crate::stats::Quantiles;
use crate::workload::Report;
use std::fmt::Write;

/// The report of one run as text.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    let loop_ = match report.rate {
        Some(rate) => format!("open loop at {}/s", number(rate)),
        None => format!("{} clients", report.clients),
    };
    line(
        &mut out,
        "workload",
        &format!(
            "{}, {loop_}, {} connections, {:.1} s",
            report.workload, report.connections, report.seconds
        ),
    );
    if report.ops > 0 {
        line(
            &mut out,
            "operations",
            &format!("{}/s ({})", number(report.ops_per_s), report.ops),
        );
    }
    if report.events > 0 {
        line(
            &mut out,
            "events",
            &format!("{}/s ({})", number(report.events_per_s), report.events),
        );
    }
    if let Some(q) = &report.latency_us {
        line(&mut out, "latency", &quantiles(q));
        line(
            &mut out,
            "longest gap",
            &format!("{:.1} ms without an answer", report.gap_ms_max),
        );
    }
    if let Some(q) = &report.event_latency_us {
        line(&mut out, "event latency", &quantiles(q));
    }
    if report.conflicts > 0 {
        line(
            &mut out,
            "conflicts",
            &format!("{} transactions found the key changed", report.conflicts),
        );
    }
    let unit = if report.events > 0 {
        "event"
    } else {
        "operation"
    };
    if let (Some(cpu), Some(each)) = (report.server_cpu_s, report.server_cpu_us_per_op) {
        let cores = cpu / report.seconds.max(1e-9);
        let each = if report.units() > 0 {
            format!("{each:.2} us per {unit}, ")
        } else {
            String::new()
        };
        line(&mut out, "server CPU", &format!("{each}{cores:.3} cores"));
    }
    if let Some(memory) = &report.server_memory {
        let parts = format!(
            "{} resident ({} anonymous), at most {}",
            bytes(memory.rss),
            bytes(memory.rss_anon),
            bytes(memory.rss_max)
        );
        line(&mut out, "server memory", &parts);
        if let (true, Some(before)) = (report.ops == 0, &report.server_memory_before) {
            let each = memory.rss.saturating_sub(before.rss) / u64::from(report.connections.max(1));
            line(&mut out, "per connection", &bytes(each));
        }
    }
    if report.units() > 0 {
        line(
            &mut out,
            "generator CPU",
            &format!("{:.2} us per {unit}", report.generator_cpu_us_per_op),
        );
    }
    if let Some(others) = report.others_cores.filter(|cores| *cores > 0.2) {
        line(
            &mut out,
            "disturbed by",
            &format!("other processes on {others:.2} cores"),
        );
    }
    for (code, failure) in &report.errors {
        line(
            &mut out,
            "error",
            &format!("{} x {code}: {}", failure.count, failure.example),
        );
    }
    out
}

fn line(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "{name:<14} {value}");
}

fn quantiles(q: &Quantiles) -> String {
    format!(
        "p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
        micros(q.p50),
        micros(q.p90),
        micros(q.p99),
        micros(q.p999),
        micros(q.max)
    )
}

/// A time in the unit that suits it.
pub fn micros(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} us"),
        us if us < 100_000.0 => format!("{:.2} ms", us / 1e3),
        us if us < 1_000_000.0 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// A number with thousands separated; small ones keep digits behind the point.
pub fn number(value: f64) -> String {
    if value < 100.0 && value.fract() != 0.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A size in the unit that suits it.
pub fn bytes(count: u64) -> String {
    match count as f64 {
        b if b < 1024.0 => format!("{b:.0} B"),
        b if b < 1_048_576.0 => format!("{:.1} KiB", b / 1024.0),
        b if b < 1_073_741_824.0 => format!("{:.1} MiB", b / 1_048_576.0),
        b => format!("{:.2} GiB", b / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(number(1234567.4), "1,234,567");
        assert_eq!(number(999.0), "999");
        assert_eq!(number(2.345_6), "2.35");
        assert_eq!(micros(215.4), "215 us");
        assert_eq!(micros(12_345.0), "12.35 ms");
        assert_eq!(micros(2_500_000.0), "2.50 s");
        assert_eq!(bytes(500), "500 B");
        assert_eq!(bytes(300 << 20), "300.0 MiB");
    }

    #[test]
    fn a_report_names_its_errors() {
        let mut report = Report {
            workload: "put".into(),
            clients: 5,
            connections: 1,
            ops: 10,
            ops_per_s: 5.0,
            ..Report::default()
        };
        report.errors.insert(
            "UNAVAILABLE".into(),
            crate::stats::Failure {
                count: 3,
                example: "etcdserver: no leader".into(),
            },
        );
        let text = text(&report);
        assert!(
            text.contains("3 x UNAVAILABLE: etcdserver: no leader"),
            "{text}"
        );
    }
}
