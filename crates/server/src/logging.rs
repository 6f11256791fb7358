//! The log: one line per event, in the JSON shape of etcd's zap or as text for a terminal.
//!
//! Code logs with `tracing`'s macros (`info!(revision, "compacted")`); [`Logger`] receives the events and writes lines. It
//! never shows values of keys, passwords or tokens, because nothing may put those into fields: [`NOT_SHOWN`] stands for them.
//! Lines are written by the thread that logs, whole and at once; there is no queue that could overflow.
//!
//! ```text
//! {"level":"info","ts":"2026-11-23T08:45:01.123456Z","caller":"server/serve.rs:42","msg":"ready to serve client requests"}
//! 2026-11-23T08:45:01.123456Z  info  server/serve.rs:42  ready to serve client requests  {"address":"127.0.0.1:2379"}
//! ```
//!
//! In the second shape the columns are separated by tabs. Times are UTC. Levels above error (`panic`, `fatal`) are written through [`note`]. Source of the shape: upstream
//! `client/pkg/logutil/zap.go`.

mod output;
#[cfg(test)]
mod tests;

use output::Sink;
use serde::Deserialize;
use serde_json::Value;
use std::fmt::{self, Write as _};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber, span};

/// Stands in the log for what must not be there.
pub const NOT_SHOWN: &str = "(not shown)";

/// How the log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The lowest level that is written.
    pub level: Level,
    /// The shape of lines.
    pub format: Format,
    /// Where they go, each line to all.
    pub outputs: Vec<Output>,
    /// How the one file among the outputs is rotated.
    pub rotation: Option<Rotation>,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            level: Level::Info,
            format: Format::Json,
            outputs: vec![Output::Stderr],
            rotation: None,
        }
    }
}

/// Severity, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For the author of the code.
    Debug,
    /// Normal operation.
    Info,
    /// Something to look at.
    Warn,
    /// Something failed.
    Error,
    /// A broken invariant.
    Panic,
    /// The process ends.
    Fatal,
}

/// Shape of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object.
    Json,
    /// Columns separated by tabs, fields as JSON at the end.
    Console,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// When a log file is put aside and how many are kept. The names are those of `--log-rotation-config-json`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Rotation {
    /// Size in MB at which a new file is begun; 0 means 100.
    pub maxsize: u64,
    /// Days after which an old file is deleted; 0 for never.
    pub maxage: u64,
    /// Old files to keep; 0 for all.
    pub maxbackups: usize,
    /// Whether names of old files carry local time. Accepted; they carry UTC.
    pub localtime: bool,
    /// Whether old files are compressed, with gzip.
    pub compress: bool,
}

impl Default for Rotation {
    fn default() -> Self {
        Rotation {
            maxsize: 100,
            maxage: 0,
            maxbackups: 0,
            localtime: false,
            compress: false,
        }
    }
}

/// A log line that was decided on before there was a log, or one above error.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// Its level.
    pub level: Level,
    /// Its message.
    pub message: String,
    /// Its fields.
    pub fields: Vec<(&'static str, Value)>,
}

impl Note {
    /// A line without fields.
    pub fn new(level: Level, message: impl Into<String>) -> Note {
        Note {
            level,
            message: message.into(),
            fields: Vec::new(),
        }
    }

    /// The same with one more field.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Note {
        self.fields.push((name, value.into()));
        self
    }
}

impl Level {
    /// The level of a name in `--log-level`, with the spellings zap accepts.
    pub fn from_name(name: &str) -> Option<Level> {
        match name.to_ascii_lowercase().as_str() {
            "debug" => Some(Level::Debug),
            "info" | "" => Some(Level::Info),
            "warn" | "warning" => Some(Level::Warn),
            "error" => Some(Level::Error),
            "dpanic" | "panic" => Some(Level::Panic),
            "fatal" => Some(Level::Fatal),
            _ => None,
        }
    }

    /// The name in lines.
    pub fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Panic => "panic",
            Level::Fatal => "fatal",
        }
    }
}

impl Output {
    /// The output of a name in `--log-outputs`. The journal is reached through standard error, which systemd collects.
    pub fn from_name(name: &str) -> Output {
        match name {
            "default" | "stderr" | "systemd/journal" => Output::Stderr,
            "stdout" => Output::Stdout,
            path => Output::File(path.into()),
        }
    }
}

/// Writes lines. Clones write to the same outputs.
#[derive(Clone)]
pub struct Logger {
    shared: Arc<Shared>,
}

struct Shared {
    level: Level,
    format: Format,
    /// Held while one line is written, so that lines do not mix. Nothing else is locked or waited for while it is held.
    sinks: Mutex<Vec<Sink>>,
}

static INSTALLED: OnceLock<Logger> = OnceLock::new();

impl Logger {
    /// Opens the outputs. The error names the file.
    pub fn open(config: &LogConfig) -> io::Result<Logger> {
        let mut outputs = config.outputs.clone();
        outputs.dedup();
        let sinks = outputs
            .into_iter()
            .map(|output| Sink::open(output, config.rotation.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok(Logger {
            shared: Arc::new(Shared {
                level: config.level,
                format: config.format,
                sinks: Mutex::new(sinks),
            }),
        })
    }

    /// Makes this the log of the process. The first one stays; `false` if there was one.
    pub fn install(&self) -> bool {
        INSTALLED.set(self.clone()).is_ok()
            && tracing::subscriber::set_global_default(self.clone()).is_ok()
    }

    /// Writes a note, if its level is to be written.
    #[track_caller]
    pub fn note(&self, note: &Note) {
        let place = std::panic::Location::caller();
        self.note_at(note, &caller(place.file(), place.line()));
    }

    fn note_at(&self, note: &Note, caller: &str) {
        if note.level < self.shared.level {
            return;
        }
        let mut fields = String::new();
        for (name, value) in &note.fields {
            push_field(&mut fields, name, |out| push_value(out, value));
        }
        self.write(note.level, caller, &note.message, &fields);
    }

    fn write(&self, level: Level, caller: &str, message: &str, fields: &str) {
        let now = SystemTime::now();
        let line = line(self.shared.format, level, now, caller, message, fields);
        // A thread that panicked while writing left a whole or a torn line, nothing worse.
        let mut sinks = self
            .shared
            .sinks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for sink in sinks.iter_mut() {
            sink.write(line.as_bytes(), now);
        }
    }
}

/// Writes a note to the log of the process, or in the default shape to standard error if there is none yet.
#[track_caller]
pub fn note(note: &Note) {
    match INSTALLED.get() {
        Some(logger) => logger.note(note),
        None => print_notes(std::slice::from_ref(note)),
    }
}

/// Writes notes in the default shape to standard error, for a process that ends before it has a log.
#[track_caller]
pub fn print_notes(notes: &[Note]) {
    let logger = Logger::open(&LogConfig::default()).expect("standard error needs no opening");
    // Not a closure, so that the caller shown is ours.
    for note in notes {
        logger.note(note);
    }
}

impl Subscriber for Logger {
    /// Events of our own crates from the configured level on; of others only warnings and errors, because what libraries say
    /// below that is about bytes and frames. Spans are not used.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let level = level_of(metadata);
        metadata.is_event()
            && level >= self.shared.level
            && (level >= Level::Warn || is_ours(metadata.target()))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.shared.level {
            Level::Debug => LevelFilter::DEBUG,
            Level::Info => LevelFilter::INFO,
            Level::Warn => LevelFilter::WARN,
            Level::Error => LevelFilter::ERROR,
            Level::Panic | Level::Fatal => LevelFilter::OFF,
        })
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Collected::default();
        event.record(&mut line);
        let metadata = event.metadata();
        let caller = caller(
            metadata.file().unwrap_or("unknown"),
            metadata.line().unwrap_or(0),
        );
        self.write(level_of(metadata), &caller, &line.message, &line.fields);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        // Spans are disabled, so nobody looks at the id.
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn is_ours(target: &str) -> bool {
    let root = target.split("::").next().unwrap_or(target);
    matches!(
        root,
        "server" | "quorate" | "replica" | "state" | "storage" | "proto" | "ctl" | "raft"
    )
}

fn level_of(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        _ => Level::Debug,
    }
}

/// The last folder and the file, as zap's short caller; a crate's `src` folder is replaced by the crate.
fn caller(file: &str, line: u32) -> String {
    let mut parts = file.rsplit(['/', '\\']);
    let name = parts.next().unwrap_or(file);
    let folder = match parts.next() {
        Some("src") => parts.next(),
        other => other,
    };
    match folder {
        Some(folder) => format!("{folder}/{name}:{line}"),
        None => format!("{name}:{line}"),
    }
}

/// The message of an event, and its fields as the inside of a JSON object.
#[derive(Default)]
struct Collected {
    message: String,
    fields: String,
}

impl Collected {
    fn add(&mut self, field: &Field, write: impl FnOnce(&mut String)) {
        push_field(
            &mut self.fields,
            field.name().trim_start_matches("r#"),
            write,
        );
    }
}

impl Visit for Collected {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.add(field, |out| push_text(out, &text));
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            self.add(field, |out| push_text(out, value));
        }
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.add(field, |out| push_text(out, &text));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, |out| {
            out.push_str(if value { "true" } else { "false" })
        });
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, |out| show(out, value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, |out| show(out, value));
    }
    fn record_i128(&mut self, field: &Field, value: i128) {
        self.add(field, |out| show(out, value));
    }
    fn record_u128(&mut self, field: &Field, value: u128) {
        self.add(field, |out| show(out, value));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, |out| {
            if value.is_finite() {
                show(out, value)
            } else {
                push_text(out, &value.to_string())
            }
        });
    }
}

fn line(
    format: Format,
    level: Level,
    now: SystemTime,
    caller: &str,
    message: &str,
    fields: &str,
) -> String {
    let level = level.name();
    let mut out = String::with_capacity(128 + message.len() + fields.len());
    match format {
        Format::Json => {
            let _ = write!(
                out,
                "{{\"level\":\"{level}\",\"ts\":\"{}\",\"caller\":",
                timestamp(now)
            );
            push_text(&mut out, caller);
            out.push_str(",\"msg\":");
            push_text(&mut out, message);
            if !fields.is_empty() {
                out.push(',');
                out.push_str(fields);
            }
            out.push_str("}\n");
        }
        Format::Console => {
            let _ = write!(out, "{}\t{level}\t{caller}\t", timestamp(now));
            // A line of the log is a line of the file, whatever the message contains.
            message.chars().for_each(|c| {
                if c.is_control() {
                    out.extend(c.escape_default())
                } else {
                    out.push(c)
                }
            });
            if !fields.is_empty() {
                let _ = write!(out, "\t{{{fields}}}");
            }
            out.push('\n');
        }
    }
    out
}

fn push_field(out: &mut String, name: &str, write: impl FnOnce(&mut String)) {
    if !out.is_empty() {
        out.push(',');
    }
    push_text(out, name);
    out.push(':');
    write(out);
}

fn push_value(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => push_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                push_value(out, item);
            }
            out.push(']');
        }
        other => show(out, other),
    }
}

fn show(out: &mut String, value: impl fmt::Display) {
    write!(out, "{value}").expect("writing to a string succeeds");
}

/// A JSON string, with escapes only where JSON demands them, as zap writes it.
fn push_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 => show(out, format_args!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `2026-11-23T08:45:01.123456Z`.
pub(crate) fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z",
        since.subsec_micros()
    )
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last of a year; 146097 days are 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}
