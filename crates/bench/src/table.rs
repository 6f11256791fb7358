//! A comparison for people: as text for a terminal, as Markdown for a document.

use crate::compare::{Comparison, Row};
use crate::figures::Better;
use crate::report::number;
use std::fmt::Write;

/// The comparison as text, with ratios, bars and what fell short.
pub fn text(comparison: &Comparison) -> String {
    let [(a, _), (b, _)] = &comparison.servers;
    let mut out = format!(
        "{b} against {a}, suite {}\n{}\n",
        comparison.suite, comparison.machine
    );
    if comparison.quick {
        out.push_str("small sizes: this shows that everything works, not how fast it is\n");
    }
    let mut case = "";
    for row in &comparison.rows {
        if row.case != case {
            let _ = write!(
                out,
                "\n{}\n  {:<24}{a:>14}{b:>14}{:>9}  {:<16}{:<20}\n",
                row.title, "", "ratio", "of the pairs", "bar"
            );
            case = &row.case;
        }
        let [ratio, spread, bar, verdict] = judge(row);
        let line = format!(
            "  {:<24}{:>14}{:>14}{ratio:>9}  {spread:<16}{bar:<20}{verdict}",
            row.metric.label(),
            value(row, 0),
            value(row, 1)
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    let bars: Vec<bool> = comparison.rows.iter().filter_map(Row::reached).collect();
    if !bars.is_empty() {
        let _ = writeln!(
            out,
            "\n{} of {} bars reached",
            bars.iter().filter(|r| **r).count(),
            bars.len()
        );
    }
    let [usual, most] = comparison.others_cores;
    let _ = writeln!(
        out,
        "during the loads other processes used {usual:.2} cores (at most {most:.2}); ratios are medians of pairs because of that"
    );
    for note in &comparison.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

/// The rows as a Markdown table, for a README.
pub fn markdown(comparison: &Comparison) -> String {
    let [(a, _), (b, _)] = &comparison.servers;
    let mut out = format!("| | | {a} | {b} | ratio | bar | |\n|---|---|--:|--:|--:|--:|---|\n");
    let mut case = "";
    for row in &comparison.rows {
        let title = if row.case == case { "" } else { &row.title };
        case = &row.case;
        let [ratio, _, bar, verdict] = judge(row);
        let _ = writeln!(
            out,
            "| {title} | {} | {} | {} | {ratio} | {bar} | {verdict} |",
            row.metric.label(),
            value(row, 0),
            value(row, 1)
        );
    }
    let _ = writeln!(out, "\nMeasured on {}.", comparison.machine);
    out
}

fn value(row: &Row, side: usize) -> String {
    if row.values[side].is_empty() {
        "-".into()
    } else {
        number(round(row.median(side)))
    }
}

/// Two digits behind the point where they can matter.
fn round(value: f64) -> f64 {
    if value < 100.0 {
        (value * 100.0).round() / 100.0
    } else {
        value.round()
    }
}

/// Ratio, spread of the pairs' ratios, bar, verdict.
fn judge(row: &Row) -> [String; 4] {
    let ratios = row.ratios();
    let spread = match ratios[..] {
        [first, _, .., last] if row.metric.is_paired() => format!("{first:.2} .. {last:.2}"),
        _ => String::new(),
    };
    let sign = match row.metric.better() {
        Better::Higher => ">=",
        Better::Lower => "<=",
    };
    let verdict = match row.reached() {
        Some(true) => "reached",
        Some(false) => "falls short",
        None => "",
    };
    [
        row.ratio()
            .map_or_else(|| "-".into(), |r| format!("{r:.2}x")),
        spread,
        bounds(row, sign),
        verdict.into(),
    ]
}

/// The bound of the ratio and that of the value, as far as there are any.
fn bounds(row: &Row, sign: &str) -> String {
    let bar = row.bar.map(|b| format!("{sign} {b:.2}x"));
    let limit = row.limit.map(|l| format!("{sign} {}", number(l)));
    bar.into_iter().chain(limit).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::figures::Metric;

    pub(crate) fn sample() -> Comparison {
        let row = |case: &str, title: &str, metric, a: &[f64], b: &[f64], bar| Row {
            case: case.into(),
            title: title.into(),
            metric,
            values: [a.to_vec(), b.to_vec()],
            bar,
            limit: None,
        };
        Comparison {
            servers: [
                ("etcd 3.5".into(), "etcd".into()),
                ("quorate".into(), "quorate".into()),
            ],
            suite: "figures".into(),
            machine: "2 x test, Linux 6, ext4".into(),
            quick: false,
            rows: vec![
                row(
                    "put",
                    "put <256 B>, 1000 clients",
                    Metric::Throughput,
                    &[20_000.0, 25_000.0],
                    &[60_000.0, 50_000.0],
                    Some(2.0),
                ),
                row(
                    "put",
                    "put <256 B>, 1000 clients",
                    Metric::CpuPerOp,
                    &[60.0, 62.0],
                    &[40.0, 42.0],
                    Some(0.5),
                ),
                row(
                    "restart",
                    "restart",
                    Metric::Restart,
                    &[2_700.0],
                    &[300.0],
                    Some(0.5),
                ),
            ],
            others_cores: [0.1, 0.5],
            notes: vec!["etcd 3.5: put: 3 x UNAVAILABLE: no leader".into()],
        }
    }

    #[test]
    fn the_table_tells_what_was_reached_and_what_fell_short() {
        let text = text(&sample());
        let line = |label: &str| {
            text.lines()
                .find(|l| l.contains(label))
                .unwrap_or_else(|| panic!("{label} in {text}"))
        };
        assert!(
            line("throughput").contains("2.50x")
                && line("throughput").contains(">= 2.00x")
                && line("throughput").ends_with("reached"),
            "{text}"
        );
        assert!(line("server CPU").ends_with("falls short"), "{text}");
        assert!(
            text.contains("2 of 3 bars reached") && text.contains("note: etcd 3.5: put"),
            "{text}"
        );
    }

    #[test]
    fn the_markdown_names_each_case_once() {
        let markdown = markdown(&sample());
        assert_eq!(markdown.matches("1000 clients").count(), 1);
        assert!(
            markdown.contains("| | server CPU, us/op | 61 | 41 | 0.67x | <= 0.50x | falls short |")
                || markdown.contains("|  | server CPU"),
            "{markdown}"
        );
    }
}
