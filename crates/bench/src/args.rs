//! The command line. Parsing does not act; [`crate::workload`] and [`crate::compare`] do.

use crate::compare::Settings;
use crate::engine::Target;
use crate::figures::{self, Sizes};
use crate::load::Watched;
use crate::load::keys::Keyspace;
use crate::servers::Spec;
use crate::workload::{Options, Workload};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Load generator for etcd and servers that speak its protocol.
#[derive(Debug, Parser)]
#[command(name = "quorate-bench", version, about, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the user may ask for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put random keys
    Put(Common),
    /// Read single random keys
    Range {
        #[command(flatten)]
        common: Common,
        /// Read the member's own state instead of the cluster's
        #[arg(long)]
        serializable: bool,
    },
    /// Read all 1000 keys of a random prefix
    RangePrefix {
        #[command(flatten)]
        common: Common,
        /// Read the member's own state instead of the cluster's
        #[arg(long)]
        serializable: bool,
    },
    /// Update random keys as Kubernetes does: put if the mod_revision is as last seen, else read
    Txn(Common),
    /// Read and put random keys
    Mixed {
        #[command(flatten)]
        common: Common,
        /// How many of 100 requests read
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u8).range(0..=100))]
        read_percent: u8,
    },
    /// Put keys under watchers and measure the time to the events
    Watch {
        #[command(flatten)]
        common: Common,
        /// Number of watchers, each on a stream of its own
        #[arg(long, default_value_t = 100)]
        watchers: u32,
        /// Connections of the watchers (those of the puts are --connections)
        #[arg(long, default_value_t = 10)]
        watch_connections: u32,
        /// What they watch
        #[arg(long, value_enum, default_value_t = WatchedArg::Prefix)]
        watched: WatchedArg,
    },
    /// Grant leases
    LeaseGrant {
        #[command(flatten)]
        common: Common,
        /// Time to live of each lease, in seconds
        #[arg(long, default_value_t = 600)]
        ttl: i64,
    },
    /// Keep leases alive
    #[command(name = "lease-keepalive")]
    LeaseKeepAlive {
        #[command(flatten)]
        common: Common,
        /// Number of leases, granted first
        #[arg(long, default_value_t = 1000)]
        leases: u32,
    },
    /// Put every key once, in order
    Preload(Common),
    /// Hold connections that ask nothing, and show what they cost the server
    Idle(Common),
    /// Run a suite on two servers in turn and print the ratios
    Compare(Box<Compare>),
    /// Draw the JSON of a comparison as SVG, or print it as a Markdown table
    Plot {
        /// What `compare --out` wrote
        input: PathBuf,
        /// The picture to write; without it, a Markdown table is printed
        #[arg(long)]
        svg: Option<PathBuf>,
    },
}

/// What `compare` takes.
#[derive(Debug, Clone, Args)]
pub struct Compare {
    /// Command of server A, the one to compare with. {client} {peer} {dir} {name} {cluster} {state} are filled in; without any of them, etcd's usual flags are appended
    #[arg(long)]
    pub a: String,
    /// Command of server B
    #[arg(long)]
    pub b: String,
    /// What to call server A
    #[arg(long, default_value = "A")]
    pub a_name: String,
    /// What to call server B
    #[arg(long, default_value = "B")]
    pub b_name: String,
    /// The suite
    #[arg(long, default_value = "figures", value_parser = figures::SUITES)]
    pub suite: String,
    /// Members of each side: with more than one, clusters are compared, by figures of their own (put, follower, idle, kill, stop, wiped)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub members: u8,
    /// Only these cases, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Pairs of runs of each case
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub repeats: u16,
    /// Pairs of runs of the part with a million keys
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub million_repeats: u16,
    /// Small sizes, to see that everything works
    #[arg(long)]
    pub quick: bool,
    /// Measured seconds of each run
    #[arg(long)]
    pub duration: Option<f64>,
    /// Where the data directories are made; the default is the system's directory for temporary files
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Threads of the generator
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Write the result as JSON to this file as well
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Draw the result
    #[arg(long)]
    pub svg: Option<PathBuf>,
    /// End with an error if a figure falls short of its bar
    #[arg(long)]
    pub check: bool,
}

impl Compare {
    /// The comparison this asks for.
    pub fn settings(&self) -> Settings {
        let mut sizes = if self.quick {
            Sizes::QUICK
        } else {
            Sizes::FULL
        };
        if let Some(seconds) = self.duration {
            sizes.measure = Duration::from_secs_f64(seconds.max(0.1));
        }
        let spec = |name: &str, command: &str| Spec {
            name: name.to_owned(),
            command: command.to_owned(),
        };
        Settings {
            servers: [spec(&self.a_name, &self.a), spec(&self.b_name, &self.b)],
            suite: self.suite.clone(),
            members: usize::from(self.members),
            only: self.only.clone(),
            repeats: if self.quick {
                1
            } else {
                usize::from(self.repeats)
            },
            million_repeats: if self.quick {
                1
            } else {
                usize::from(self.million_repeats)
            },
            sizes,
            dir: self.dir.clone().unwrap_or_else(std::env::temp_dir),
            threads: self.threads,
        }
    }
}

/// What the watchers of `watch` watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WatchedArg {
    /// All the same prefix: every put is an event for every watcher
    Prefix,
    /// Each a key of its own: every put is one event
    OwnKey,
}

/// What every workload takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Server addresses, host:port or http://host:port, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379", value_parser = endpoint)]
    pub endpoints: Vec<String>,
    /// Authenticate as this user: name:password
    #[arg(long)]
    pub user: Option<String>,
    /// Clients, each waiting for its answer before it asks again (closed loop)
    #[arg(long, default_value_t = 100)]
    pub clients: u32,
    /// Connections the clients share
    #[arg(long, default_value_t = 10)]
    pub connections: u32,
    /// Send this many requests per second, whatever the answers do (open loop); latency then counts from the moment a request was due
    #[arg(long)]
    pub rate: Option<f64>,
    /// Measured seconds
    #[arg(long, default_value_t = 10.0)]
    pub duration: f64,
    /// Seconds before the measurement
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// Threads of the generator
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Number of keys
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    /// Bytes of a key
    #[arg(long, default_value_t = 32)]
    pub key_size: usize,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    pub value_size: usize,
    /// Start of all random choices
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The server's process ids, separated by commas: shows its CPU time and memory
    #[arg(long = "pid", value_delimiter = ',')]
    pub pids: Vec<u32>,
    /// Do not put missing keys before a workload that reads
    #[arg(long)]
    pub no_fill: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Write the result as JSON to this file as well
    #[arg(long)]
    pub out: Option<PathBuf>,
}

impl Common {
    /// The options of a run, without a token: authenticating is a request.
    pub fn options(&self) -> Options {
        Options {
            target: Target {
                endpoints: self.endpoints.clone(),
                token: None,
            },
            clients: self.clients,
            connections: self.connections,
            threads: self.threads,
            rate: self.rate,
            warmup: Duration::from_secs_f64(self.warmup.max(0.0)),
            measure: Duration::from_secs_f64(self.duration.max(0.0)),
            keys: Keyspace {
                count: self.keys,
                key_bytes: self.key_size,
            },
            value_bytes: self.value_size,
            seed: self.seed,
            pids: self.pids.clone(),
            fill: !self.no_fill,
        }
    }
}

impl Command {
    /// The workload and its common options, unless the command is another kind.
    pub fn workload(&self) -> Option<(Workload, &Common)> {
        Some(match self {
            Command::Put(common) => (Workload::Put, common),
            Command::Range {
                common,
                serializable,
            } => (
                Workload::Range {
                    serializable: *serializable,
                },
                common,
            ),
            Command::RangePrefix {
                common,
                serializable,
            } => (
                Workload::RangePrefix {
                    serializable: *serializable,
                },
                common,
            ),
            Command::Txn(common) => (Workload::Txn, common),
            Command::Mixed {
                common,
                read_percent,
            } => (
                Workload::Mixed {
                    read_percent: *read_percent,
                },
                common,
            ),
            Command::Watch {
                common,
                watchers,
                watch_connections,
                watched,
            } => {
                let watched = match watched {
                    WatchedArg::Prefix => Watched::Prefix,
                    WatchedArg::OwnKey => Watched::OwnKey,
                };
                (
                    Workload::Watch {
                        watchers: *watchers,
                        connections: *watch_connections,
                        watched,
                    },
                    common,
                )
            }
            Command::LeaseGrant { common, ttl } => (Workload::LeaseGrant { ttl_s: *ttl }, common),
            Command::LeaseKeepAlive { common, leases } => {
                (Workload::LeaseKeepAlive { leases: *leases }, common)
            }
            Command::Preload(common) => (Workload::Preload, common),
            Command::Idle(common) => (Workload::Idle, common),
            Command::Compare(_) | Command::Plot { .. } => return None,
        })
    }
}

/// Accepts what etcd's clients accept as an endpoint without TLS.
fn endpoint(text: &str) -> Result<String, String> {
    if text.starts_with("https://") {
        return Err("TLS is not supported; use an http endpoint".into());
    }
    let address = text
        .strip_prefix("http://")
        .unwrap_or(text)
        .trim_end_matches('/');
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(address.to_owned())
        }
        _ => Err("expected host:port".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn endpoints_lose_their_scheme() {
        let cli =
            parse("quorate-bench put --endpoints http://10.0.0.1:2379/,[::1]:2379 --clients 7")
                .unwrap();
        let (workload, common) = cli.command.workload().unwrap();
        assert_eq!(workload, Workload::Put);
        assert_eq!(
            common.options().target.endpoints,
            ["10.0.0.1:2379", "[::1]:2379"]
        );
        assert_eq!(common.clients, 7);
    }

    #[test]
    fn what_cannot_work_is_refused_with_a_reason() {
        for (line, why) in [
            (
                "quorate-bench put --endpoints https://a:1",
                "TLS is not supported",
            ),
            ("quorate-bench put --endpoints a", "expected host:port"),
            ("quorate-bench mixed --read-percent 101", "101"),
            (
                "quorate-bench compare --a x --b y --suite none",
                "figures, core",
            ),
            ("quorate-bench", "Usage"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn a_comparison_takes_two_commands_with_their_arguments() {
        let line = [
            "quorate-bench",
            "compare",
            "--a",
            "/bin/etcd --log-level warn",
            "--b",
            "q {client} {dir}",
            "--quick",
            "--only",
            "put,watch",
        ];
        let Command::Compare(compare) = Cli::try_parse_from(line).unwrap().command else {
            panic!("not a comparison")
        };
        let settings = compare.settings();
        assert_eq!(settings.servers[0].command, "/bin/etcd --log-level warn");
        assert_eq!(
            (settings.repeats, settings.sizes.million),
            (1, Sizes::QUICK.million)
        );
        assert_eq!(settings.only, ["put", "watch"]);
    }

    #[test]
    fn every_workload_has_a_command() {
        for line in [
            "range --serializable",
            "range-prefix",
            "txn",
            "mixed",
            "watch --watched own-key",
            "lease-grant",
            "lease-keepalive",
            "preload",
            "idle",
        ] {
            let cli = parse(&format!("quorate-bench {line} --rate 5 --pid 1,2 --keys 9")).unwrap();
            let (_, common) = cli.command.workload().unwrap();
            assert_eq!(
                (common.rate, &common.pids[..], common.keys),
                (Some(5.0), &[1, 2][..], 9)
            );
        }
    }
}
