//! `/health`, `/livez` and `/readyz`. Source: upstream `server/etcdserver/api/etcdhttp/health.go`.

use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use proto::etcdserverpb::{AlarmType, RangeRequest};

use super::{Query, error, with_type};
use crate::grpc::body::Body;
use crate::grpc::session::{Session, read_failed};
use crate::grpc::status::Status;

/// How long a check may take. Source: upstream `ReqTimeout` with the default election timeout.
const PATIENCE: Duration = Duration::from_secs(7);

/// Whether the member serves: no alarm, a leader, and a read that comes back.
pub async fn health(session: &Session, query: &Query) -> Response<Body> {
    let serializable = query.get("serializable") == "true";
    let outcome = match alarm(session, query) {
        Some(reason) => Err(reason),
        None if !serializable && !session.member.raft.has_leader() => {
            Err("RAFT NO LEADER".to_owned())
        }
        None => read(session, serializable)
            .await
            .map_err(|why| format!("RANGE ERROR:{why}")),
    };
    match outcome {
        Ok(()) => {
            session.member.metrics.health_success.inc();
            with_type(
                "text/plain; charset=utf-8",
                r#"{"health":"true","reason":""}"#,
            )
        }
        Err(reason) => {
            session.member.metrics.health_failures.inc();
            let reason = serde_json::Value::String(reason);
            error(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!(r#"{{"health":"false","reason":{reason}}}"#),
            )
        }
    }
}

/// The first alarm that the question does not exclude.
fn alarm(session: &Session, query: &Query) -> Option<String> {
    let alarms = session.member.view.load().alarms().get(0);
    let named = alarms
        .into_iter()
        .map(|alarm| AlarmType::try_from(alarm.alarm));
    let mut left =
        named.filter(|kind| !kind.is_ok_and(|kind| query.includes("exclude", kind.as_str_name())));
    left.next().map(|kind| match kind {
        Ok(AlarmType::Nospace) => "ALARM NOSPACE".to_owned(),
        Ok(AlarmType::Corrupt) => "ALARM CORRUPT".to_owned(),
        _ => "ALARM UNKNOWN".to_owned(),
    })
}

const LIVEZ: &[&str] = &["serializable_read"];
const READYZ: &[&str] = &[
    "data_corruption",
    "serializable_read",
    "linearizable_read",
    "non_learner",
];

/// Whether a path is one of the checks, alone or together.
pub fn is_check(path: &str) -> bool {
    checks(path).is_some()
}

/// The checks that a path asks for, and whether it asks for all of its kind.
fn checks(path: &str) -> Option<(Vec<&'static str>, bool)> {
    for (root, all) in [("/livez", LIVEZ), ("/readyz", READYZ)] {
        let Some(rest) = path.strip_prefix(root) else {
            continue;
        };
        if rest.is_empty() {
            return Some((all.to_vec(), true));
        }
        let name = rest.strip_prefix('/')?;
        return all
            .iter()
            .find(|check| **check == name)
            .map(|check| (vec![*check], false));
    }
    None
}

/// Runs the checks of a path.
pub async fn check(session: &Session, path: &str, query: &Query) -> Response<Body> {
    let (names, is_all) = checks(path).unwrap_or_default();
    let kind = if path.starts_with("/livez") {
        "livez"
    } else {
        "readyz"
    };
    let mut lines = String::new();
    let mut is_well = true;
    for name in names {
        if is_all && query.includes("exclude", name) {
            continue;
        }
        let outcome = run(session, name).await;
        let metrics = &session.member.metrics;
        metrics.checked(kind, name, outcome.is_ok());
        match outcome {
            Ok(()) => lines += &format!("[+]{name} ok\n"),
            Err(why) => {
                is_well = false;
                lines += &format!("[-]{name} failed: {why}\n");
            }
        }
    }
    if !is_well {
        return error(StatusCode::SERVICE_UNAVAILABLE, &lines);
    }
    let detail = if query.has("verbose") {
        lines
    } else {
        String::new()
    };
    let mut response = with_type("text/plain; charset=utf-8", format!("{detail}ok\n"));
    let nosniff = HeaderValue::from_static("nosniff");
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

async fn run(session: &Session, name: &str) -> Result<(), String> {
    let member = &session.member;
    match name {
        "data_corruption" if member.view.load().alarms().is_on(AlarmType::Corrupt) => {
            Err("alarm activated: CORRUPT".to_owned())
        }
        "serializable_read" => read(session, true).await,
        "linearizable_read" => read(session, false).await,
        "non_learner" if member.raft.get().is_learner => {
            Err("not supported for learner".to_owned())
        }
        _ => Ok(()),
    }
}

/// The cheapest read there is.
async fn read(session: &Session, serializable: bool) -> Result<(), String> {
    let outcome = tokio::time::timeout(PATIENCE, async {
        let view = session.view(serializable).await?;
        let request = RangeRequest {
            key: "a".into(),
            keys_only: true,
            limit: 1,
            ..Default::default()
        };
        view.range(&request).map(|_| ()).map_err(read_failed)
    });
    match outcome.await {
        Ok(outcome) => outcome.map_err(|status: Status| status.message.into_owned()),
        Err(_) => Err("context deadline exceeded".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_have_the_paths_of_etcd() {
        assert_eq!(checks("/livez"), Some((LIVEZ.to_vec(), true)));
        assert_eq!(
            checks("/readyz/non_learner"),
            Some((vec!["non_learner"], false))
        );
        for none in ["/livez/non_learner", "/readyzz", "/readyz/", "/health"] {
            assert!(!is_check(none), "{none}");
        }
    }
}
