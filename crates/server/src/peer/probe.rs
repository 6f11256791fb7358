//! Asking a peer now and then how long an answer takes, and what time it has.
//!
//! Source: upstream `server/etcdserver/api/rafthttp/probing_status.go`.

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Request;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use super::body::Body;
use super::client::{Connection, Failure, read_short};
use super::running::Peer;
use crate::logging::timestamp;

/// Shorter than the read timeout, so that the connection stays.
const INTERVAL: Duration = Duration::from_secs(4);
/// A clock that is further off is told.
const DRIFT: Duration = Duration::from_secs(1);
/// How often the same thing is told.
const TELL: Duration = Duration::from_secs(30);

/// The answer to a probe.
#[derive(Debug, Serialize, Deserialize)]
struct Health {
    #[serde(rename = "OK")]
    ok: bool,
    #[serde(rename = "Now")]
    now: String,
}

/// What this member answers.
pub fn answer() -> Bytes {
    let health = Health {
        ok: true,
        now: timestamp(SystemTime::now()),
    };
    let text = serde_json::to_string(&health).expect("two plain fields");
    format!("{text}\n").into()
}

/// Asks for as long as the peer is one.
pub async fn probe_for_ever(peer: Rc<Peer>) {
    let mut connection = None;
    let mut told: Option<Instant> = None;
    loop {
        sleep(INTERVAL).await;
        let began = Instant::now();
        let outcome = probe(&peer, &mut connection).await;
        let rtt = began.elapsed();
        let may_tell = told.is_none_or(|told| told.elapsed() >= TELL);
        let (_, remote) = peer.ids();
        match outcome {
            Err(why) => {
                connection = None;
                if may_tell {
                    told = Some(began);
                    tracing::warn!(
                        "round-tripper-name" = "ROUND_TRIPPER_RAFT_MESSAGE",
                        "remote-peer-id" = remote,
                        error = %why,
                        "prober detected unhealthy status"
                    );
                }
            }
            Ok(drift) => {
                peer.metrics.round_trip.observe(rtt);
                // Half of the way there and back is where the other clock was read, give or take the other half.
                if drift > DRIFT + rtt && may_tell {
                    told = Some(began);
                    tracing::warn!(
                        "round-tripper-name" = "ROUND_TRIPPER_RAFT_MESSAGE",
                        "remote-peer-id" = remote,
                        "clock-drift" = format!("{drift:?}"),
                        rtt = format!("{rtt:?}"),
                        "prober found high clock drift"
                    );
                }
            }
        }
    }
}

/// How far the peer's clock is from this one's.
async fn probe(peer: &Peer, kept: &mut Option<Connection>) -> Result<Duration, Failure> {
    let usable = kept
        .take()
        .filter(|connection| connection.is_usable() && peer.is_current(&connection.url));
    let mut connection = match usable {
        Some(connection) => connection,
        None => peer.connect().await?,
    };
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = http::Uri::from_static("/raft/probing");
    let within = peer.context.timeouts.read;
    let answer = timeout(within, connection.request(request))
        .await
        .unwrap_or(Err(Failure::Late("the peer did not answer in time")))?;
    let body = read_short(answer.into_body(), within).await?;
    let health: Health =
        serde_json::from_slice(&body).map_err(|why| Failure::Content(why.to_string()))?;
    if !health.ok {
        return Err(Failure::Content("the peer says that it is not well".into()));
    }
    *kept = Some(connection);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let theirs = seconds_of(&health.now).unwrap_or_default();
    let ours = now.unwrap_or_default().as_secs_f64();
    Ok(Duration::from_secs_f64((theirs - ours).abs().min(1e9)))
}

/// Seconds since 1970 of a time in RFC 3339.
fn seconds_of(text: &str) -> Option<f64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let day = days_of(number(0..4)?, number(5..7)?, number(8..10)?);
    let clock = number(11..13)? * 3_600 + number(14..16)? * 60 + number(17..19)?;
    let rest = text.get(19..)?;
    let zone_at = rest.find(['Z', '+', '-'])?;
    let fraction: f64 = match &rest[..zone_at] {
        "" => 0.0,
        digits => format!("0{digits}").parse().ok()?,
    };
    let zone = &rest[zone_at..];
    let offset = match zone {
        "Z" => 0,
        _ => {
            let part = |range: std::ops::Range<usize>| zone.get(range)?.parse::<i64>().ok();
            let seconds = part(1..3)? * 3_600 + part(4..6)? * 60;
            if zone.starts_with('-') {
                -seconds
            } else {
                seconds
            }
        }
    };
    Some((day * 86_400 + clock - offset) as f64 + fraction)
}

/// Days since 1970 of a date. The calendar is that of March to February, so that the odd day comes last.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = if month > 2 { month - 3 } else { month + 9 };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them_and_read_back() {
        let at = Duration::from_micros(1_700_000_000_500_000);
        assert_eq!(timestamp(UNIX_EPOCH + at), "2023-11-14T22:13:20.500000Z");
        assert_eq!(
            seconds_of(&timestamp(UNIX_EPOCH + at)),
            Some(1_700_000_000.5)
        );
        for text in [
            "2023-11-14T22:13:20Z",
            "2023-11-14T23:13:20+01:00",
            "2023-11-14T16:43:20-05:30",
        ] {
            assert_eq!(seconds_of(text), Some(1_700_000_000.0), "{text}");
        }
        for text in ["1970-01-01", "2000-02-29", "2100-02-28", "2100-03-01"] {
            let at = seconds_of(&format!("{text}T00:00:00Z")).expect("a time");
            let at = UNIX_EPOCH + Duration::from_secs_f64(at);
            assert!(timestamp(at).starts_with(text));
        }
    }

    #[test]
    fn whatever_a_peer_says_for_a_time_is_read_or_not() {
        for text in [
            "",
            "now",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-1é-14T22:13:20Z",
        ] {
            assert_eq!(seconds_of(text), None, "{text}");
        }
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let health: Health = serde_json::from_slice(&answer()).expect("JSON");
        assert!(health.ok && seconds_of(&health.now).is_some());
        assert!(answer().starts_with(b"{\"OK\":true,\"Now\":\""));
    }
}
