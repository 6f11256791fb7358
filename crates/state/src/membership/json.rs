//! Members as JSON, byte for byte as Go's encoder writes them: these bytes are in raft entries, in bbolt files, and under `Hash`.
//!
//! ```text
//!   {"id":1,"peerURLs":["http://a:2380"],"isLearner":true,"name":"a","clientURLs":["http://a:2379"],"isPromote":false}
//! ```
//!
//! `id` and `peerURLs` are always there, `isPromote` always in a change's context and never in a table row, the others when not empty.

use std::fmt::Write;

use proto::raftpb::ConfState;
use serde_json::Value;

use super::{ChangeContext, Member};

pub(super) fn write_member(member: &Member, is_promote: Option<bool>) -> Vec<u8> {
    let mut out = format!("{{\"id\":{},\"peerURLs\":", member.id);
    match &member.peer_urls {
        Some(urls) => write_strings(&mut out, urls),
        None => out.push_str("null"),
    }
    if member.is_learner {
        out.push_str(",\"isLearner\":true");
    }
    if !member.name.is_empty() {
        out.push_str(",\"name\":");
        write_string(&mut out, &member.name);
    }
    if !member.client_urls.is_empty() {
        out.push_str(",\"clientURLs\":");
        write_strings(&mut out, &member.client_urls);
    }
    if let Some(is_promote) = is_promote {
        write!(out, ",\"isPromote\":{is_promote}").expect("writing to a string does not fail");
    }
    out.push('}');
    out.into_bytes()
}

pub(super) fn write_conf_state(conf_state: &ConfState) -> Vec<u8> {
    let mut out = String::from("{");
    let lists = [
        ("voters", &conf_state.voters),
        ("learners", &conf_state.learners),
        ("voters_outgoing", &conf_state.voters_outgoing),
        ("learners_next", &conf_state.learners_next),
    ];
    for (name, ids) in lists {
        if !ids.is_empty() {
            let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
            write!(out, "\"{name}\":[{}],", ids.join(","))
                .expect("writing to a string does not fail");
        }
    }
    write!(out, "\"auto_leave\":{}}}", conf_state.auto_leave())
        .expect("writing to a string does not fail");
    out.into_bytes()
}

/// Writes the downgrade record of the cluster table.
pub(super) fn write_downgrade(target: Option<&str>) -> Vec<u8> {
    let mut out = String::from("{\"target-version\":");
    write_string(&mut out, target.unwrap_or_default());
    write!(out, ",\"enabled\":{}}}", target.is_some()).expect("writing to a string does not fail");
    out.into_bytes()
}

pub(super) fn read_context(bytes: &[u8]) -> Result<ChangeContext, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let object = value.as_object().ok_or("not a JSON object")?;
    let id = match object.get("id") {
        Some(id) => id.as_u64().ok_or("\"id\" is not an unsigned number")?,
        None => 0,
    };
    let member = Member {
        id,
        peer_urls: strings(object.get("peerURLs"), "peerURLs")?,
        is_learner: flag(object.get("isLearner"), "isLearner")?,
        name: text(object.get("name"), "name")?,
        client_urls: strings(object.get("clientURLs"), "clientURLs")?.unwrap_or_default(),
    };
    Ok(ChangeContext {
        member,
        is_promote: flag(object.get("isPromote"), "isPromote")?,
    })
}

pub(super) fn read_conf_state(bytes: &[u8]) -> Result<ConfState, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let ids = |name: &str| match value.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(ids)) => ids
            .iter()
            .map(|id| id.as_u64().ok_or_else(|| format!("\"{name}\" holds {id}")))
            .collect::<Result<Vec<_>, _>>(),
        Some(other) => Err(format!("\"{name}\" is {other}")),
    };
    Ok(ConfState {
        voters: ids("voters")?,
        learners: ids("learners")?,
        voters_outgoing: ids("voters_outgoing")?,
        learners_next: ids("learners_next")?,
        auto_leave: Some(flag(value.get("auto_leave"), "auto_leave")?),
    })
}

pub(super) fn read_downgrade(bytes: &[u8]) -> Result<Option<String>, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let target = text(value.get("target-version"), "target-version")?;
    Ok(flag(value.get("enabled"), "enabled")?.then_some(target))
}

fn strings(value: Option<&Value>, name: &str) -> Result<Option<Vec<String>>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => {
            let item = |item: &Value| {
                item.as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| format!("\"{name}\" holds {item}"))
            };
            items.iter().map(item).collect::<Result<_, _>>().map(Some)
        }
        Some(other) => Err(format!("\"{name}\" is {other}")),
    }
}

fn text(value: Option<&Value>, name: &str) -> Result<String, String> {
    match value {
        None | Some(Value::Null) => Ok(String::new()),
        Some(value) => value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| format!("\"{name}\" is {value}")),
    }
}

fn flag(value: Option<&Value>, name: &str) -> Result<bool, String> {
    match value {
        None | Some(Value::Null) => Ok(false),
        Some(value) => value
            .as_bool()
            .ok_or_else(|| format!("\"{name}\" is {value}")),
    }
}

pub(super) fn write_strings(out: &mut String, strings: &[String]) {
    out.push('[');
    for (at, string) in strings.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_string(out, string);
    }
    out.push(']');
}

/// Go escapes what could end a script element, and the two line separators that JavaScript once tripped over.
pub(super) fn write_string(out: &mut String, string: &str) {
    out.push('"');
    for char in string.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                write!(out, "\\u{:04x}", u32::from(char))
                    .expect("writing to a string does not fail");
            }
            char => out.push(char),
        }
    }
    out.push('"');
}
