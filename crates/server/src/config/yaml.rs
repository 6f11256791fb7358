//! The configuration file: YAML whose keys are names of flags, TLS and v3 discovery in sections of their own.
//!
//! Differences from etcd, all in the direction of accepting or saying more: durations may also be Go durations (`10m`), not
//! only integer nanoseconds; lists may be written as lists or as comma separated text wherever either is expected; keys that
//! nobody knows are ignored as in etcd, but with a warning.
//!
//! Source: upstream `server/embed/config.go`, `configFromFile`, `configJSON`, `securityConfig`.

use super::raw::{Origin, RawConfig, default_of};
use super::table::{self, Row, Status};
use super::url;
use super::value::{Kind, Value, quote, read_duration, split};
use super::{Level, Note};
use serde_yaml_ng::Value as Yaml;

/// Reads the text of a file. Errors are all mistakes.
pub fn read(text: &str, notes: &mut Vec<Note>) -> Result<RawConfig, Vec<String>> {
    let root: Yaml = match serde_yaml_ng::from_str(text) {
        Ok(root) => root,
        Err(why) => return Err(vec![format!("error converting YAML to JSON: yaml: {why}")]),
    };
    let mut reader = Reader {
        raw: RawConfig::default(),
        mistakes: Vec::new(),
        notes,
    };
    match &root {
        Yaml::Null => {}
        Yaml::Mapping(_) => reader.level("", &root),
        _ => reader
            .mistakes
            .push("the configuration file must be a mapping of options".into()),
    }
    if reader.mistakes.is_empty() {
        Ok(reader.raw)
    } else {
        Err(reader.mistakes)
    }
}

struct Reader<'a> {
    raw: RawConfig,
    mistakes: Vec<String>,
    notes: &'a mut Vec<Note>,
}

impl Reader<'_> {
    /// One mapping, whose keys continue `prefix`. The depth is that of the table's keys, not of the file.
    fn level(&mut self, prefix: &str, mapping: &Yaml) {
        let Yaml::Mapping(entries) = mapping else {
            self.mistakes
                .push(format!("invalid {}", prefix.trim_end_matches('.')));
            return;
        };
        for (key, value) in entries {
            let path = format!("{prefix}{}", scalar(key).unwrap_or_default());
            let section = format!("{path}.").to_ascii_lowercase();
            if let Some(row) = table::rows()
                .find(|row| !row.yaml.is_empty() && row.yaml.eq_ignore_ascii_case(&path))
            {
                self.option(row, value);
            } else if table::rows().any(|row| row.yaml.starts_with(&section)) {
                if !value.is_null() {
                    self.level(&section, value);
                }
            } else {
                let note = Note::new(
                    Level::Warn,
                    "unknown key in the configuration file is ignored",
                );
                self.notes.push(note.with("key", path));
            }
        }
    }

    /// One option. A key without a value leaves the default, as in Go's JSON.
    fn option(&mut self, row: &'static Row, yaml: &Yaml) {
        if yaml.is_null() || matches!(row.status, Status::Removed(_)) {
            return;
        }
        match convert(row, yaml) {
            Ok(value) => self.raw.set(row, value, Origin::File),
            Err(why) => self.mistakes.push(why),
        }
    }
}

fn convert(row: &'static Row, yaml: &Yaml) -> Result<Value, String> {
    let wrong = |wanted: &str| format!("{}: expected {wanted}, found {}", row.yaml, found(yaml));
    match row.kind {
        Kind::Bool => boolean(yaml)
            .map(Value::Bool)
            .ok_or_else(|| wrong("true or false")),
        Kind::Int => yaml
            .as_i64()
            .map(Value::Int)
            .ok_or_else(|| wrong("an integer")),
        Kind::Uint => yaml
            .as_u64()
            .map(Value::Uint)
            .ok_or_else(|| wrong("an integer that is not negative")),
        Kind::Uint32 => {
            let number = yaml
                .as_u64()
                .filter(|number| u32::try_from(*number).is_ok());
            number
                .map(Value::Uint)
                .ok_or_else(|| wrong("an integer from 0 to 4294967295"))
        }
        Kind::Duration => match yaml {
            Yaml::String(text) => read_duration(text)
                .map(Value::Duration)
                .map_err(|why| format!("{}: {why}", row.yaml)),
            _ => yaml
                .as_i64()
                .map(Value::Duration)
                .ok_or_else(|| wrong("nanoseconds or a duration such as 10m")),
        },
        Kind::Urls | Kind::Origins | Kind::Strings | Kind::List => {
            let items = items(yaml).ok_or_else(|| wrong("a text or a list of texts"))?;
            list(row, items)
        }
        Kind::Text | Kind::Choice(_) | Kind::Gates | Kind::Any => {
            let text = scalar(yaml).ok_or_else(|| wrong("a text"))?;
            word(row, &text)
        }
    }
}

fn list(row: &'static Row, items: Vec<String>) -> Result<Value, String> {
    let joined = items.join(",");
    match row.kind {
        Kind::List => Ok(Value::List(items)),
        _ if joined.is_empty() => Ok(default_of(row)),
        Kind::Urls => url::read_list(&joined)
            .map(Value::Urls)
            .map_err(|why| format!("unexpected error setting up {}: {why}", row.name)),
        kind => kind
            .read(&joined)
            .map_err(|why| format!("unexpected error setting up {}: {why}", row.name)),
    }
}

fn word(row: &'static Row, text: &str) -> Result<Value, String> {
    if matches!(row.kind, Kind::Choice(_)) && text.is_empty() {
        return Ok(default_of(row));
    }
    row.kind.read(text).map_err(|why| match row.name {
        "initial-cluster-state" => format!("unexpected clusterState {}", quote(text)),
        "feature-gates" => why,
        _ => format!("{}: {why} {}", row.yaml, quote(text)),
    })
}

/// Booleans of YAML 1.1, which Go's YAML reads.
fn boolean(yaml: &Yaml) -> Option<bool> {
    match yaml {
        Yaml::Bool(flag) => Some(*flag),
        Yaml::String(word) => match word.to_ascii_lowercase().as_str() {
            "y" | "yes" | "on" => Some(true),
            "n" | "no" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn scalar(yaml: &Yaml) -> Option<String> {
    match yaml {
        Yaml::String(text) => Some(text.clone()),
        Yaml::Number(number) => Some(number.to_string()),
        Yaml::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn items(yaml: &Yaml) -> Option<Vec<String>> {
    match yaml {
        Yaml::Sequence(items) => items.iter().map(scalar).collect(),
        other => scalar(other).map(|text| split(&text)),
    }
}

fn found(yaml: &Yaml) -> String {
    match yaml {
        Yaml::Sequence(_) => "a list".into(),
        Yaml::Mapping(_) => "a mapping".into(),
        other => scalar(other).map_or_else(|| "something else".into(), |text| quote(&text)),
    }
}
