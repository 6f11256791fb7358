//! The table of options: one row per option, on one page per group of sections.
//!
//! Everything else in [`super`] derives from these rows: what a flag, a variable and a key of the configuration file are
//! called, how their values are read, the default, `--help`, `docs/configuration.md`, and what a member says at start about
//! options that have no effect (yet). A row never contains behaviour; behaviour lives where [`super::Config`] is used.
//!
//! Start with [`SECTIONS`]. Source of the rows: upstream `server/embed/config.go`, `AddFlags`, `server/etcdmain/config.go`
//! and, for what older releases accepted, the same files of releases 3.2, 3.5 and 3.6.

mod older;
mod security;
mod serving;

use super::value::Kind;

/// One option: `--name`, `ETCD_NAME` and a key of the configuration file.
#[derive(Debug)]
pub struct Row {
    /// The flag without dashes.
    pub name: &'static str,
    /// How a value is read.
    pub kind: Kind,
    /// The default, written as a user would write it.
    pub default: &'static str,
    /// The releases that know the flag: a subset of the digits of "2567", for 3.2, 3.5, 3.6 and 3.7.
    pub releases: &'static str,
    /// What Quorate does with it today.
    pub status: Status,
    /// One sentence for `--help` and the documentation.
    pub help: &'static str,
    /// The key in the configuration file, levels separated by dots; empty if a file cannot set it.
    pub yaml: &'static str,
    /// Whether values must stay out of logs.
    pub secret: bool,
}

/// What an option does here, today. Later work flips a row to [`Status::Works`] and nothing else needs to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It means what it means in etcd.
    Works,
    /// It is read and checked but has no effect yet; a member says so at start. The text says what is missing.
    NotYet(&'static str),
    /// Starting as if it had not been given would be unsafe, so the member refuses to start. The text says why.
    Refused(&'static str),
    /// As [`Status::Refused`], but only while a new data directory is made: etcd ignores such options afterwards, too.
    RefusedAtBootstrap(&'static str),
    /// It is accepted so that old configurations start, and will never have an effect. The text says why.
    Ignored(&'static str),
    /// It is an error, as in etcd 3.7. The text says what to use instead.
    Removed(&'static str),
}

/// A heading of `--help` and the options below it.
#[derive(Debug)]
pub struct Section {
    /// The heading.
    pub title: &'static str,
    /// The options, in the order of the listing.
    pub rows: &'static [Row],
}

/// Every option, by section.
pub const SECTIONS: &[Section] = &[
    Section {
        title: "Member",
        rows: serving::MEMBER,
    },
    Section {
        title: "Clustering",
        rows: serving::CLUSTERING,
    },
    Section {
        title: "Security",
        rows: security::SECURITY,
    },
    Section {
        title: "Auth",
        rows: security::AUTH,
    },
    Section {
        title: "Profiling and Monitoring",
        rows: serving::MONITORING,
    },
    Section {
        title: "Logging",
        rows: serving::LOGGING,
    },
    Section {
        title: "Distributed tracing",
        rows: serving::TRACING,
    },
    Section {
        title: "Features",
        rows: serving::FEATURES,
    },
    Section {
        title: "Unsafe feature",
        rows: serving::UNSAFE,
    },
    Section {
        title: "Program",
        rows: serving::PROGRAM,
    },
    Section {
        title: "Accepted from older releases",
        rows: older::ACCEPTED,
    },
    Section {
        title: "Without effect since long ago",
        rows: older::LONG_IGNORED,
    },
    Section {
        title: "Removed",
        rows: older::REMOVED,
    },
];

/// Every option, in the order of [`SECTIONS`].
pub fn rows() -> impl Iterator<Item = &'static Row> {
    SECTIONS.iter().flat_map(|section| section.rows)
}

/// The row of a flag, if there is one.
pub fn find(name: &str) -> Option<&'static Row> {
    rows().find(|row| row.name == name)
}

impl Row {
    /// The name of the environment variable.
    pub fn env(&self) -> String {
        format!("ETCD_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    const fn new(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        releases: &'static str,
        status: Status,
        help: &'static str,
    ) -> Self {
        Row {
            name,
            kind,
            default,
            releases,
            status,
            help,
            yaml: name,
            secret: false,
        }
    }

    const fn yaml(self, yaml: &'static str) -> Self {
        Row { yaml, ..self }
    }

    const fn secret(self) -> Self {
        Row {
            secret: true,
            ..self
        }
    }
}
