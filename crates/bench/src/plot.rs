//! A comparison as a picture: one horizontal bar per figure, to the right where B is better, on a scale of doublings.
//!
//! The file is plain SVG with no outside reference. Its colours are readable on white and on black, and it adapts where the viewer says which.

use crate::compare::{Comparison, Row};
use crate::figures::Better;
use crate::report::number;
use std::fmt::Write;

const WIDTH: f64 = 880.0;
const LABELS: f64 = 350.0;
const VALUES: f64 = 170.0;
const ROW: f64 = 34.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 44.0;

const STYLE: &str = "text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#57606a}\
.title{font-size:16px;font-weight:600}.strong{font-weight:600}.small{font-size:11px}\
.better{fill:#2a9d8f}.worse{fill:#e07a3f}.grid{stroke:#8b949e;stroke-opacity:.3}.one{stroke:#8b949e;stroke-width:1.5}.bar{stroke:#8b949e;stroke-width:2}\
@media(prefers-color-scheme:dark){text{fill:#c9d1d9}}";

/// The rows that have a bar, or all with a throughput or CPU if none has; as SVG.
pub fn svg(comparison: &Comparison) -> String {
    let rows = chosen(comparison);
    let scale = Scale::new(&rows);
    let height = TOP + ROW * rows.len() as f64 + BOTTOM;
    let [(a, _), (b, _)] = &comparison.servers;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>{b} compared with {a}</title>\n<style>{STYLE}</style>\n",
        a = escape(a),
        b = escape(b),
    );
    text(
        &mut out,
        "title",
        16.0,
        26.0,
        "start",
        &format!("{b}, how many times better than {a}"),
    );
    grid(&mut out, &scale, height);
    for (i, row) in rows.iter().enumerate() {
        bar(&mut out, &scale, row, TOP + ROW * i as f64);
    }
    let caption = format!(
        "{}{}",
        if comparison.quick {
            "small sizes. "
        } else {
            ""
        },
        comparison.machine
    );
    text(&mut out, "small", 16.0, height - 12.0, "start", &caption);
    if rows.iter().any(|r| r.bar.is_some()) {
        let x = WIDTH - 16.0;
        text(
            &mut out,
            "small",
            x,
            height - 12.0,
            "end",
            "upright mark: the bar to reach",
        );
    }
    out.push_str("</svg>\n");
    out
}

fn chosen(comparison: &Comparison) -> Vec<&Row> {
    let usable = || {
        comparison
            .rows
            .iter()
            .filter(|r| r.ratio().is_some_and(|x| x > 0.0))
    };
    let barred: Vec<&Row> = usable().filter(|r| r.bar.is_some()).collect();
    if !barred.is_empty() {
        return barred;
    }
    let telling = |r: &&Row| {
        r.metric.label().starts_with("throughput")
            || r.metric.label().starts_with("server CPU")
            || r.metric.label().starts_with("events per")
    };
    usable().filter(telling).collect()
}

/// How many times better B is: the ratio, turned round where less is better.
fn gain(row: &Row, ratio: f64) -> f64 {
    match row.metric.better() {
        Better::Higher => ratio,
        Better::Lower => 1.0 / ratio,
    }
}

/// From doublings to pixels.
struct Scale {
    low: i32,
    high: i32,
}

impl Scale {
    fn new(rows: &[&Row]) -> Scale {
        let logs = || {
            rows.iter()
                .filter_map(|r| r.ratio().map(|x| gain(r, x).log2()))
        };
        let low = logs().fold(-0.5, f64::min).floor().max(-6.0) as i32;
        let high = logs().fold(2.0, f64::max).ceil().min(10.0) as i32;
        Scale { low, high }
    }

    fn x(&self, gain: f64) -> f64 {
        let log = gain.log2().clamp(f64::from(self.low), f64::from(self.high));
        LABELS
            + (log - f64::from(self.low)) / f64::from(self.high - self.low)
                * (WIDTH - LABELS - VALUES)
    }
}

fn grid(out: &mut String, scale: &Scale, height: f64) {
    for power in scale.low..=scale.high {
        let gain = 2f64.powi(power);
        let x = scale.x(gain);
        let class = if power == 0 { "one" } else { "grid" };
        let _ = writeln!(
            out,
            "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\"/>",
            TOP - 6.0,
            height - BOTTOM + 2.0
        );
        text(
            out,
            "small",
            x,
            TOP - 12.0,
            "middle",
            &format!("{}x", number(gain)),
        );
    }
}

fn bar(out: &mut String, scale: &Scale, row: &Row, y: f64) {
    let Some(ratio) = row.ratio() else { return };
    let gain_b = gain(row, ratio);
    let (x, one) = (scale.x(gain_b), scale.x(1.0));
    let class = if gain_b >= 1.0 { "better" } else { "worse" };
    text(out, "", LABELS - 14.0, y + 13.0, "end", &row.title);
    text(
        out,
        "small",
        LABELS - 14.0,
        y + 26.0,
        "end",
        row.metric.label(),
    );
    let (left, width) = (x.min(one), (x - one).abs().max(1.0));
    let _ = writeln!(
        out,
        "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"18\" rx=\"2\"/>",
        y + 6.0
    );
    if let Some(target) = row.bar {
        let x = scale.x(gain(row, target));
        let _ = writeln!(
            out,
            "<line class=\"bar\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\"/>",
            y + 3.0,
            y + 27.0
        );
    }
    let right = WIDTH - VALUES + 16.0;
    text(
        out,
        "strong",
        right,
        y + 13.0,
        "start",
        &format!("{gain_b:.2}x"),
    );
    text(
        out,
        "small",
        right,
        y + 26.0,
        "start",
        &format!(
            "{} → {}",
            number(row.median(0).round()),
            number(row.median(1).round())
        ),
    );
}

fn text(out: &mut String, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escape(text)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::sample;

    #[test]
    fn the_picture_is_balanced_xml_with_one_bar_per_figure() {
        let mut comparison = sample();
        comparison.rows[1].values[1] = vec![100.0, 100.0];
        let svg = svg(&comparison);
        assert_eq!(svg.matches("<rect").count(), 3);
        assert_eq!(svg.matches("class=\"worse\"").count(), 1);
        assert_eq!(svg.matches("class=\"bar\"").count(), 3);
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(
            svg.contains("put &lt;256 B&gt;") && !svg.contains("NaN") && !svg.contains("inf"),
            "{svg}"
        );
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn everything_lies_within_the_picture() {
        let mut comparison = sample();
        comparison.rows[0].values[1] = vec![1e9, 1e9];
        comparison.rows[1].values[1] = vec![1e9, 1e9];
        let svg = svg(&comparison);
        for part in svg.split(" x=\"").skip(1) {
            let x: f64 = part.split('"').next().unwrap().parse().unwrap();
            assert!((0.0..=WIDTH).contains(&x), "{x}");
        }
    }

    #[test]
    fn less_is_drawn_as_better_where_it_is() {
        let comparison = sample();
        let restart = &comparison.rows[2];
        assert!((gain(restart, restart.ratio().unwrap()) - 9.0).abs() < 1e-9);
    }
}
