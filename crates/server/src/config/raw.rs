//! The configuration as typed: which options were given, by whom, with what value.
//!
//! Flags follow Go's `flag` package, variables etcd's `pkg/flags`. Nothing here compares one option with another; that is
//! [`super::meant`]. Start with [`read_flags`] and [`RawConfig::read_env`].

use super::table::{self, Row, Status};
use super::url::Url;
use super::value::{Kind, Value, quote};
use super::{Level, NOT_SHOWN, Note};
use std::collections::BTreeMap;

/// The options that were given. The others have their defaults.
#[derive(Clone, Debug, Default)]
pub struct RawConfig {
    given: BTreeMap<&'static str, Setting>,
}

/// A value and where it was given.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The value.
    pub value: Value,
    /// Who gave it.
    pub origin: Origin,
}

/// Where a value was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On the command line.
    Flag,
    /// In a variable.
    Env,
    /// In the configuration file.
    File,
}

impl RawConfig {
    /// Records a value. The last one given wins, except that feature gates add up.
    pub fn set(&mut self, row: &'static Row, value: Value, origin: Origin) {
        let value = match (
            row.kind,
            value,
            self.given.get(row.name).map(|setting| &setting.value),
        ) {
            (Kind::Gates, Value::Text(new), Some(Value::Text(old))) => {
                Value::Text(format!("{old},{new}"))
            }
            // The empty text leaves the default in place, as etcd's list of URLs does.
            (_, value, _) => value,
        };
        self.given.insert(row.name, Setting { value, origin });
    }

    /// Reads a value and records it. The error is the reason alone.
    fn read(&mut self, row: &'static Row, text: &str, origin: Origin) -> Result<(), String> {
        if row.kind == Kind::Urls && text.is_empty() {
            let value = default_of(row);
            self.set(row, value, origin);
            return Ok(());
        }
        let value = row.kind.read(text)?;
        self.set(row, value, origin);
        Ok(())
    }

    /// Whether the options come from a configuration file, for which etcd has a few rules of its own.
    pub fn is_from_file(&self) -> bool {
        self.given
            .values()
            .any(|setting| setting.origin == Origin::File)
    }

    /// Replaces options of 3.2 by the newer ones that say the same. The newer ones win if both are given.
    pub(super) fn translate_old_names(&mut self) {
        if self.flag("debug") && !self.is_given("log-level") {
            self.copy("debug", "log-level", Value::Text("debug".into()));
        }
        if self.is_given("log-output") && !self.is_given("log-outputs") {
            let output = self.text("log-output");
            self.copy("log-output", "log-outputs", Value::List(vec![output]));
        }
    }

    fn copy(&mut self, from: &str, to: &str, value: Value) {
        if let Some(origin) = self.given.get(from).map(|setting| setting.origin) {
            self.set(
                table::find(to).expect("the table has the newer name"),
                value,
                origin,
            );
        }
    }

    /// Whether the option was given at all, with whatever value.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Whether the option was given with a value other than its default.
    pub fn is_changed(&self, row: &Row) -> bool {
        match self.given.get(row.name) {
            None => false,
            Some(_) if row.kind == Kind::Any => true,
            Some(setting) => setting.value != default_of(row),
        }
    }

    /// The value of an option, given or default.
    pub fn value(&self, name: &str) -> Value {
        match self.given.get(name) {
            Some(setting) => setting.value.clone(),
            None => default_of(table::find(name).expect("only names of the table are asked for")),
        }
    }

    /// The value of an option that is a text.
    pub fn text(&self, name: &str) -> String {
        match self.value(name) {
            Value::Text(text) => text,
            other => unreachable!("--{name} is not a text but {other:?}"),
        }
    }

    /// The value of an option that is a switch.
    pub fn flag(&self, name: &str) -> bool {
        match self.value(name) {
            Value::Bool(flag) => flag,
            other => unreachable!("--{name} is not a switch but {other:?}"),
        }
    }

    /// The value of an option that is an unsigned number.
    pub fn uint(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Uint(number) => number,
            other => unreachable!("--{name} is not an unsigned number but {other:?}"),
        }
    }

    /// The value of an option that is a signed number.
    pub fn int(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Int(number) => number,
            other => unreachable!("--{name} is not a number but {other:?}"),
        }
    }

    /// The value of an option that is a duration, in nanoseconds.
    pub fn nanos(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Duration(nanos) => nanos,
            other => unreachable!("--{name} is not a duration but {other:?}"),
        }
    }

    /// The value of an option that is a list of URLs.
    pub fn urls(&self, name: &str) -> Vec<Url> {
        match self.value(name) {
            Value::Urls(urls) => urls,
            other => unreachable!("--{name} is not a list of URLs but {other:?}"),
        }
    }

    /// The value of an option that is a list of texts.
    pub fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Value::List(items) => items,
            other => unreachable!("--{name} is not a list but {other:?}"),
        }
    }
}

/// The default of a row. A list of URLs may be empty by default, but not when given.
pub(super) fn default_of(row: &Row) -> Value {
    match row.kind {
        Kind::Urls if row.default.is_empty() => Value::Urls(Vec::new()),
        kind => kind
            .read(row.default)
            .expect("defaults are valid; a test reads every one"),
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Flags {
    /// To start, with these options.
    Start(RawConfig),
    /// To print the help.
    Help,
}

/// Reads the command line after the program's name, as Go's `flag` package does.
///
/// Errors are those of that package, one per line; unlike it, reading goes on after a bad value, so that all are reported.
/// It stops at an unknown flag, because what follows might be its value.
/// Positional arguments are returned beside the options; the caller decides about them.
pub fn read_flags(args: &[String]) -> Result<(Flags, Vec<String>), Vec<String>> {
    let mut raw = RawConfig::default();
    let mut mistakes = Vec::new();
    let mut rest = args.iter();
    let mut positional = Vec::new();
    while let Some(arg) = rest.next() {
        let Some(name_value) = arg.strip_prefix('-').filter(|body| !body.is_empty()) else {
            positional.push(arg.clone());
            break;
        };
        if name_value == "-" {
            break;
        }
        let name_value = name_value.strip_prefix('-').unwrap_or(name_value);
        if name_value.is_empty() || name_value.starts_with(['-', '=']) {
            mistakes.push(format!("bad flag syntax: {arg}"));
            break;
        }
        let (name, mut value) = match name_value.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name_value, None),
        };
        let Some(row) = table::find(name) else {
            if name == "help" || name == "h" {
                return Ok((Flags::Help, Vec::new()));
            }
            mistakes.push(format!("flag provided but not defined: -{name}"));
            break;
        };
        if let Status::Removed(instead) = row.status {
            mistakes.push(format!(
                "flag provided but not defined: -{name}{}",
                advice(instead)
            ));
            break;
        }
        if value.is_none() && !row.kind.is_switch() {
            value = rest.next().cloned();
        }
        if let Err(mistake) = read_flag(&mut raw, row, value) {
            mistakes.push(mistake);
        }
    }
    positional.extend(rest.cloned());
    if mistakes.is_empty() {
        Ok((Flags::Start(raw), positional))
    } else {
        Err(mistakes)
    }
}

fn read_flag(raw: &mut RawConfig, row: &'static Row, value: Option<String>) -> Result<(), String> {
    let name = row.name;
    match (row.kind, value) {
        (Kind::Bool, None) => raw.read(row, "true", Origin::Flag),
        (Kind::Any, None) => raw.read(row, "", Origin::Flag),
        (_, None) => Err(format!("flag needs an argument: -{name}")),
        (Kind::Bool, Some(text)) => raw
            .read(row, &text, Origin::Flag)
            .map_err(|why| format!("invalid boolean value {} for -{name}: {why}", quote(&text))),
        (_, Some(text)) => raw
            .read(row, &text, Origin::Flag)
            .map_err(|why| format!("invalid value {} for flag -{name}: {why}", quote(&text))),
    }
}

fn advice(instead: &str) -> String {
    if instead.is_empty() {
        String::new()
    } else {
        format!(" (removed in 3.7; use {instead})")
    }
}

/// What reading the environment found out.
#[derive(Debug, Default)]
pub struct EnvReport {
    /// Values that could not be read.
    pub mistakes: Vec<String>,
    /// Variables of options that are also flags: fatal in etcd.
    pub conflicts: Vec<String>,
    /// What to log.
    pub notes: Vec<Note>,
}

impl RawConfig {
    /// Adds the options given by `ETCD_*` variables, in the order of their names.
    ///
    /// An empty variable is no value; it is reported as unrecognized, as in etcd, unless the same option is a flag, which is a
    /// conflict like any other. `ETCD_VERSION` is never honoured. Names alone are reported, never values of unknown
    /// variables: images put passwords there.
    pub fn read_env(&mut self, env: &[(String, String)]) -> EnvReport {
        let mut report = EnvReport::default();
        let mut sorted: Vec<_> = env
            .iter()
            .filter(|(key, _)| key.starts_with("ETCD_"))
            .collect();
        sorted.sort();
        for (key, text) in sorted {
            if key == "ETCD_VERSION" {
                if !text.is_empty() {
                    let note = Note::new(Level::Warn, "cannot set special environment variable");
                    report
                        .notes
                        .push(note.with("key", key.as_str()).with("value", text.as_str()));
                }
                continue;
            }
            let row = table::rows()
                .find(|row| row.env() == *key && !matches!(row.status, Status::Removed(_)));
            match row {
                Some(row) if self.is_given(row.name) => report.conflicts.push(key.clone()),
                Some(row) if !text.is_empty() => self.read_variable(row, key, text, &mut report),
                _ => {
                    let note = Note::new(Level::Warn, "unrecognized environment variable");
                    report
                        .notes
                        .push(note.with("environment-variable", key.as_str()));
                }
            }
        }
        report
    }

    fn read_variable(&mut self, row: &'static Row, key: &str, text: &str, report: &mut EnvReport) {
        let shown = if row.secret { NOT_SHOWN } else { text };
        match self.read(row, text, Origin::Env) {
            Ok(()) => {
                let note = Note::new(Level::Info, "recognized and used environment variable");
                report.notes.push(
                    note.with("variable-name", key)
                        .with("variable-value", shown),
                );
            }
            Err(why) => report
                .mistakes
                .push(format!("invalid value {} for {key}: {why}", quote(shown))),
        }
    }
}
