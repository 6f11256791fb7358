//! `--help`, `--version` and `docs/configuration.md`, all from the table.

#[cfg(test)]
use super::gates::Effect;
use super::gates::{GATES, Stage};
#[cfg(test)]
use super::table::Row;
use super::table::{SECTIONS, Section, Status};
use std::fmt::Write;

/// The release of etcd whose behaviour this is. Clients and scripts look for it.
pub const VERSION_ETCD: &str = "3.7.1";

/// Printed for a bad flag and at the top of the help.
pub(super) const USAGE: &str = "Usage:

  quorate [flags]
    Start a member.

  quorate --version
    Show the version.

  quorate -h | --help
    Show this help.

  quorate --config-file FILE
    Start a member with the options of a YAML file. With it, every other flag and variable is ignored.

Every flag can be given as a variable instead: --data-dir is ETCD_DATA_DIR.
";

/// The text of `--help`.
pub(super) fn help() -> String {
    let mut out = format!("{USAGE}\n");
    for section in SECTIONS.iter().filter(|section| listed(section)) {
        let _ = writeln!(out, "{}:", section.title);
        for row in section.rows {
            let _ = writeln!(out, "  --{} '{}'\n    {}", row.name, row.default, row.help);
            if let Some(remark) = remark(row.status) {
                let _ = writeln!(out, "    {remark}");
            }
            if row.name == "feature-gates" {
                for gate in GATES {
                    let _ = writeln!(out, "    {}", gate_line(gate.name, gate.stage));
                }
            }
        }
        out.push('\n');
    }
    out.push_str(
        "CAUTIOUS with unsafe flag! It may break the guarantees given by the consensus protocol!\n",
    );
    out
}

/// The text of `--version`: the four lines of etcd, then ours.
pub(super) fn version() -> String {
    format!(
        "etcd Version: {VERSION_ETCD}\nGit SHA: {}\nGo Version: none (written in Rust)\nGo OS/Arch: {}/{}\nQuorate Version: {}\n",
        option_env!("QUORATE_GIT_SHA").unwrap_or("Not provided"),
        std::env::consts::OS,
        go_arch(std::env::consts::ARCH),
        env!("CARGO_PKG_VERSION"),
    )
}

/// The text of `docs/configuration.md`.
#[cfg(test)]
pub(super) fn document() -> String {
    let mut out = String::from(DOCUMENT_HEAD);
    for section in SECTIONS {
        let _ = writeln!(
            out,
            "\n## {}\n\n| Option | Kind | Default | etcd | File key | Meaning |\n|---|---|---|---|---|---|",
            section.title
        );
        for row in section.rows {
            out.push_str(&document_row(row));
        }
    }
    out.push_str("\n## Feature gates\n\n| Gate | Stage, default | Here |\n|---|---|---|\n");
    for gate in GATES {
        let (Effect::NotYet(why) | Effect::None(why)) = gate.effect;
        let line = gate_line(gate.name, gate.stage);
        let state = line
            .split_once(" (")
            .map_or("", |(_, state)| state.trim_end_matches(')'));
        let _ = writeln!(out, "| `{}` | {state} | no effect: {why} |", gate.name);
    }
    out
}

#[cfg(test)]
const DOCUMENT_HEAD: &str = "# Configuration

<!-- Made from the table in crates/server/src/config/table.rs. To change it, change the table and run
     UPDATE_DOCS=1 cargo test -p server the_document_is_current -->

An option is given in one of three ways: as a flag (`--data-dir /x`, `-data-dir=/x`), as a variable (`ETCD_DATA_DIR=/x`), or in
a YAML file named by `--config-file` or `ETCD_CONFIG_FILE`. With a file every other flag and variable is ignored. The same
option as flag and as variable is an error. How this differs from etcd is told in [compat.md](compat.md).

In a file, durations are integer nanoseconds or texts such as `10m`. A dot in a file key stands for a level:
`client-transport-security.cert-file` is `cert-file` below `client-transport-security`.

The column *etcd* names the releases of etcd that know the option.
";

#[cfg(test)]
fn document_row(row: &Row) -> String {
    let releases: Vec<_> = row
        .releases
        .chars()
        .map(|digit| format!("3.{digit}"))
        .collect();
    let code = |text: &str| {
        if text.is_empty() {
            String::new()
        } else {
            format!("`{text}`")
        }
    };
    let yaml = match row.yaml {
        "" => "-".to_owned(),
        same if same == row.name => "same".to_owned(),
        other => code(other),
    };
    let remark = remark(row.status)
        .map(|remark| format!(" *{remark}*"))
        .unwrap_or_default();
    format!(
        "| `{}` | {} | {} | {} | {yaml} | {}{remark} |\n",
        row.name,
        row.kind.title(),
        code(row.default),
        releases.join(" "),
        row.help.replace('|', "\\|"),
    )
}

/// Sections that only exist so that old configurations are understood are in the documentation, not in the help.
fn listed(section: &Section) -> bool {
    section.rows.iter().any(|row| {
        row.releases.contains('7') && !matches!(row.status, Status::Ignored(_) | Status::Removed(_))
    })
}

fn remark(status: Status) -> Option<String> {
    match status {
        Status::Works => None,
        Status::NotYet(why) => Some(format!("No effect yet: {why}.")),
        Status::Refused(why) => Some(format!("Refused for now: {why}.")),
        Status::RefusedAtBootstrap(why) => {
            Some(format!("Refused for now when a cluster is founded: {why}."))
        }
        Status::Ignored(why) => Some(format!("Ignored: {why}.")),
        Status::Removed("") => Some("An error, as in etcd 3.7.".into()),
        Status::Removed(instead) => Some(format!("An error, as in etcd 3.7; use {instead}.")),
    }
}

fn gate_line(name: &str, stage: Stage) -> String {
    match stage {
        Stage::Alpha => format!("{name}=true|false (ALPHA - default=false)"),
        Stage::Beta => format!("{name}=true|false (BETA - default=true)"),
    }
}

/// Go's name of a processor.
fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
