//! Configuration: from the command line, `ETCD_*` variables or a file to one [`Config`], with etcd's names, precedence,
//! checks and messages.
//!
//! Reading a configuration never acts. It opens nothing, looks at no environment and ends no process: all of that comes in
//! through [`Surroundings`], and what should happen goes out as an [`Outcome`]. Options that have no effect yet are never
//! silently accepted, see [`Config::not_yet`]; options without which serving would be unsafe stop the start, see
//! [`Config::refusals`].
//!
//! Start with [`read`], then [`table`], from which everything derives.

mod gates;
mod help;
mod meant;
mod raw;
pub mod table;
mod url;
mod validate;
mod value;
mod yaml;

#[cfg(test)]
mod tests;

pub use crate::logging::{Level, NOT_SHOWN, Note};
pub use gates::{FeatureGates, GATES, Gate, Stage};
pub use help::VERSION_ETCD;
pub use meant::{
    Auth, AutoCompaction, Bootstrap, Checks, Config, Keepalive, Limits, Monitoring,
    QUOTA_BYTES_DEFAULT, Raft, SocketOptions, Tls, TlsVersion, Tracing, Urls,
};
pub use raw::{Origin, RawConfig, Setting};
pub use url::{Scheme, Url};
pub use validate::same_urls;
pub use value::{Kind, Value, show_duration};

use raw::Flags;
use std::io;
use std::net::{ToSocketAddrs, UdpSocket};

/// What reading a configuration may ask of the world.
pub struct Surroundings<'a> {
    /// The name that the program was called by.
    pub program: String,
    /// Every variable of the environment.
    pub env: Vec<(String, String)>,
    /// Reads a file as text.
    pub read_file: &'a dyn Fn(&str) -> io::Result<String>,
    /// This machine's address as others see it, if it can be told. See [`default_host`].
    pub default_host: &'a dyn Fn() -> Option<String>,
}

impl Surroundings<'static> {
    /// The world of this process. Text that is not UTF-8 is read with replacement characters.
    pub fn of_this_process() -> Self {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        Surroundings {
            program: std::env::args_os().next().map(text).unwrap_or_default(),
            env: std::env::vars_os()
                .map(|(key, value)| (text(key), text(value)))
                .collect(),
            read_file: &read_small_file,
            default_host: &default_host,
        }
    }
}

/// What should happen.
#[derive(Debug)]
pub enum Outcome {
    /// Start a member. The notes are to be logged as soon as the log is set up.
    Run(Box<Config>, Vec<Note>),
    /// Print and end with this code.
    Exit(Exit),
}

/// How to end instead of starting: write `stdout` and `stderr` as they are, log `notes` to stderr in the default shape
/// ([`crate::logging::print_notes`]), and exit with `code`.
#[derive(Debug, Default, PartialEq)]
pub struct Exit {
    /// The code of the process: 0 for help and version, 1 for a bad configuration, 2 for bad flags.
    pub code: u8,
    /// Text for standard output.
    pub stdout: String,
    /// Text for standard error.
    pub stderr: String,
    /// Log lines.
    pub notes: Vec<Note>,
}

impl Exit {
    /// Writes everything where it belongs and returns the code to exit with.
    pub fn act(&self) -> std::process::ExitCode {
        use std::io::Write as _;
        // Whoever closed the stream does not want to read it.
        let _ = io::stdout().write_all(self.stdout.as_bytes());
        let _ = io::stderr().write_all(self.stderr.as_bytes());
        crate::logging::print_notes(&self.notes);
        std::process::ExitCode::from(self.code)
    }
}

/// Reads the configuration of a member. `args` are the arguments after the program's name.
///
/// With a configuration file every other flag and variable is ignored; without, a variable fills in for a flag that was not
/// given, and both together are fatal. Source: upstream `server/etcdmain/config.go`, `parse`.
pub fn read(args: &[String], surroundings: &Surroundings<'_>) -> Outcome {
    if let Some(command @ ("gateway" | "grpc-proxy")) = args.first().map(String::as_str) {
        return failed(
            Vec::new(),
            vec![format!("the command {command:?} is not available yet")],
        );
    }
    let (flags, positional) = match raw::read_flags(args) {
        Ok((Flags::Start(raw), positional)) => (raw, positional),
        Ok((Flags::Help, _)) => {
            return Outcome::Exit(Exit {
                stdout: help::help(),
                ..Exit::default()
            });
        }
        Err(mistakes) => {
            let stderr = format!("{}\n{}\n", mistakes.join("\n"), help::USAGE);
            return Outcome::Exit(Exit {
                code: 2,
                stderr,
                ..Exit::default()
            });
        }
    };
    if let Some(argument) = positional.first() {
        return failed(
            Vec::new(),
            vec![format!("{} is not a valid flag", value::quote(argument))],
        );
    }
    if flags.flag("version") {
        return Outcome::Exit(Exit {
            stdout: help::version(),
            ..Exit::default()
        });
    }
    let mut command_line = vec![surroundings.program.clone()];
    command_line.extend(shown(args));
    let mut notes = vec![Note::new(Level::Info, "Running: ").with("args", command_line)];
    let from_env = || {
        surroundings
            .env
            .iter()
            .find(|(key, _)| key == "ETCD_CONFIG_FILE")
            .map(|(_, path)| path.clone())
    };
    let path = Some(flags.text("config-file"))
        .filter(|path| !path.is_empty())
        .or_else(from_env)
        .unwrap_or_default();
    let raw = if path.is_empty() {
        match with_env(flags, surroundings, &mut notes) {
            Ok(raw) => raw,
            Err(exit) => return Outcome::Exit(exit),
        }
    } else {
        match from_file(&path, surroundings, &mut notes) {
            Ok(raw) => raw,
            Err(mistakes) => return failed(notes, mistakes),
        }
    };
    let (config, more) = match Config::new(raw, surroundings.default_host) {
        Ok(done) => done,
        Err(mistakes) => return failed(notes, mistakes),
    };
    notes.extend(more);
    let refusals = config.refusals();
    if !refusals.is_empty() {
        return failed(notes, refusals);
    }
    Outcome::Run(Box::new(config), notes)
}

/// The address of the interface that holds the default route, for [`Surroundings::default_host`].
///
/// Choosing the address to send from needs no packet: a UDP socket is "connected" to an address reserved for documentation.
pub fn default_host() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then(|| address.to_string())
}

/// Looks up the address of `host:port`, for [`Config::check_bootstrap`].
pub fn resolve(host_port: &str) -> Option<String> {
    host_port
        .to_socket_addrs()
        .ok()?
        .next()
        .map(|address| address.to_string())
}

/// The largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

fn read_small_file(path: &str) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(
            "larger than 1 MiB, which no configuration is",
        ));
    }
    Ok(text)
}

fn with_env(
    mut raw: RawConfig,
    surroundings: &Surroundings<'_>,
    notes: &mut Vec<Note>,
) -> Result<RawConfig, Exit> {
    let report = raw.read_env(&surroundings.env);
    let mut notes_so_far = std::mem::take(notes);
    notes_so_far.extend(report.notes);
    if !report.conflicts.is_empty() {
        let text = "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment \
                    variable or disable flag))";
        for key in report.conflicts {
            notes_so_far.push(Note::new(Level::Fatal, text).with("environment-variable", key));
        }
        notes_so_far.extend(report.mistakes.into_iter().map(verify_failed));
        return Err(Exit {
            code: 1,
            notes: notes_so_far,
            ..Exit::default()
        });
    }
    if !report.mistakes.is_empty() {
        notes_so_far.extend(report.mistakes.into_iter().map(verify_failed));
        return Err(Exit {
            code: 1,
            notes: notes_so_far,
            ..Exit::default()
        });
    }
    *notes = notes_so_far;
    Ok(raw)
}

fn from_file(
    path: &str,
    surroundings: &Surroundings<'_>,
    notes: &mut Vec<Note>,
) -> Result<RawConfig, Vec<String>> {
    let text = (surroundings.read_file)(path).map_err(|e| {
        let why = match e.kind() {
            io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => e.to_string(),
        };
        vec![format!("open {path}: {why}")]
    })?;
    let raw = yaml::read(&text, notes)?;
    let text = "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided";
    notes.push(Note::new(Level::Info, text).with("path", path));
    Ok(raw)
}

/// The end of a start that cannot be, one line per mistake, in etcd's words.
fn failed(mut notes: Vec<Note>, mistakes: Vec<String>) -> Outcome {
    notes.extend(mistakes.into_iter().map(verify_failed));
    Outcome::Exit(Exit {
        code: 1,
        notes,
        ..Exit::default()
    })
}

fn verify_failed(mistake: String) -> Note {
    Note::new(Level::Warn, "failed to verify flags").with("error", mistake)
}

/// The arguments for the log, without values that must stay out of it.
fn shown(args: &[String]) -> Vec<String> {
    let mut hide_next = false;
    let mut out = Vec::with_capacity(args.len());
    for arg in args {
        let body = arg.trim_start_matches('-');
        let (name, value) = body
            .split_once('=')
            .map_or((body, None), |(name, value)| (name, Some(value)));
        let secret = arg.starts_with('-') && table::find(name).is_some_and(|row| row.secret);
        out.push(match (hide_next, secret, value) {
            (true, _, _) => NOT_SHOWN.to_owned(),
            (false, true, Some(_)) => format!("--{name}={NOT_SHOWN}"),
            _ => arg.clone(),
        });
        hide_next = !hide_next && secret && value.is_none();
    }
    out
}
