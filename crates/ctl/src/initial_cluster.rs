//! Who is in the cluster that a restore founds: `--initial-cluster` and `--initial-advertise-peer-urls`, with etcd's rules and
//! error texts. The server has the same rules for its own flags; what is read here ends in the ids of the members, so both
//! must come to the same ones.
//!
//! Source: upstream `client/pkg/types/urls.go`, `urlsmap.go`; `server/config/config.go`, `VerifyBootstrap`.

use std::collections::BTreeMap;
use std::net::ToSocketAddrs;

use state::membership::{self, Member};

/// URLs by member name, sorted.
type Cluster = BTreeMap<String, Vec<String>>;

/// The members of `cluster`, by ascending id, and the id of the one called `name`, whose URLs are those it advertises.
pub(crate) fn members(
    cluster: &str,
    token: &str,
    name: &str,
    advertised: &str,
) -> Result<(Vec<Member>, u64), String> {
    let advertised = urls(&advertised.split(',').collect::<Vec<_>>())?;
    let cluster = parse(cluster)?;
    let own = cluster.get(name).ok_or_else(|| {
        format!("couldn't find local name {name:?} in the initial cluster configuration")
    })?;
    compare(name, own, &advertised)?;
    let mut all: Vec<&String> = cluster.values().flatten().collect();
    all.sort_unstable();
    if all.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(format!(
            "initial cluster {} has duplicate url",
            shown(&cluster)
        ));
    }
    let member = |(name, urls): (&String, &Vec<String>)| Member {
        id: membership::member_id(urls, token, None),
        name: name.clone(),
        peer_urls: Some(urls.clone()),
        ..Member::default()
    };
    let mut members: Vec<Member> = cluster.iter().map(member).collect();
    members.sort_by_key(|member| member.id);
    let own = members.iter().find(|member| member.name == name);
    let own = own.expect("it was found above").id;
    Ok((members, own))
}

fn parse(text: &str) -> Result<Cluster, String> {
    let mut named: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        named.entry(name).or_default().push(url);
    }
    let checked = |(name, given): (&str, Vec<&str>)| Ok((name.to_owned(), urls(&given)?));
    named.into_iter().map(checked).collect()
}

/// Checks URLs and sorts them.
fn urls(given: &[&str]) -> Result<Vec<String>, String> {
    let mut urls: Vec<String> = given
        .iter()
        .map(|url| checked(url))
        .collect::<Result<_, _>>()?;
    urls.sort_unstable();
    Ok(urls)
}

fn checked(url: &str) -> Result<String, String> {
    let url = url.trim();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    match scheme {
        "http" | "https" => {}
        "unix" | "unixs" if !rest.is_empty() => return Ok(url.to_owned()),
        _ => {
            return Err(format!(
                "URL scheme must be http, https, unix, or unixs: {url}"
            ));
        }
    }
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_host_port = host.rsplit_once(':').is_some_and(|(name, port)| {
        let is_bare = !name.contains(':') || (name.starts_with('[') && name.ends_with(']'));
        is_bare && port.bytes().all(|digit| digit.is_ascii_digit())
    });
    if !is_host_port {
        return Err(format!(
            "URL address does not have the form \"host:port\": {url}"
        ));
    }
    if !path.is_empty() {
        return Err(format!("URL must not contain a path: {url}"));
    }
    Ok(url.to_owned())
}

/// Refuses a member whose URLs in the cluster are not those it advertises, also after looking up their names.
fn compare(name: &str, own: &[String], advertised: &[String]) -> Result<(), String> {
    let Err(why) = is_same(advertised, own) else {
        return Ok(());
    };
    let lacking = |of: &[String], from: &[String]| -> Vec<String> {
        of.iter()
            .filter(|url| !from.contains(url))
            .cloned()
            .collect()
    };
    let named = |urls: &[String]| {
        let pairs: Vec<String> = urls.iter().map(|url| format!("{name}={url}")).collect();
        pairs.join(",")
    };
    let missing = lacking(own, advertised);
    if !missing.is_empty() {
        return Err(format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={} ({why})",
            named(&missing),
            advertised.join(",")
        ));
    }
    Err(format!(
        "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
        lacking(advertised, own).join(","),
        named(own)
    ))
}

/// Says what is different.
fn is_same(a: &[String], b: &[String]) -> Result<(), String> {
    if a.len() != b.len() {
        let quoted = |urls: &[String]| {
            let quoted: Vec<String> = urls.iter().map(|url| format!("{url:?}")).collect();
            quoted.join(" ")
        };
        return Err(format!("len([{}]) != len([{}])", quoted(a), quoted(b)));
    }
    if a == b {
        return Ok(());
    }
    let resolved = |urls: &[String]| {
        let mut urls: Vec<String> = urls.iter().map(|url| resolved(url)).collect();
        urls.sort_unstable();
        urls
    };
    let (a, b) = (resolved(a), resolved(b));
    match a.iter().zip(&b).find(|(a, b)| a != b) {
        Some((a, b)) => Err(format!("resolved urls: {a:?} != {b:?}")),
        None => Ok(()),
    }
}

/// The URL with the address of its host. `localhost` stays a name, as in etcd: it may mean either of two addresses.
fn resolved(url: &str) -> String {
    let address = url
        .split_once("://")
        .filter(|(scheme, host)| scheme.starts_with("http") && !host.starts_with("localhost:"))
        .and_then(|(scheme, host)| Some((scheme, host.to_socket_addrs().ok()?.next()?)));
    match address {
        Some((scheme, address)) => format!("{scheme}://{address}"),
        None => url.to_owned(),
    }
}

fn shown(cluster: &Cluster) -> String {
    let mut pairs: Vec<String> = cluster
        .iter()
        .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
        .collect();
    pairs.sort_unstable();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(cluster: &str, name: &str, advertised: &str, because: &str) {
        let why = members(cluster, "t", name, advertised).expect_err("a mistake");
        assert_eq!(why, because);
    }

    #[test]
    fn mistakes_have_the_texts_of_etcd() {
        let one = "http://127.0.0.1:1";
        let scheme = "URL scheme must be http, https, unix, or unixs: ";
        refused("x", "x", one, scheme);
        refused(
            "",
            "x",
            one,
            "couldn't find local name \"x\" in the initial cluster configuration",
        );
        refused("x=127.0.0.1:1", "x", one, &format!("{scheme}127.0.0.1:1"));
        refused("x=http://127.0.0.1:1", "x", "", scheme);
        refused(
            "x=http://127.0.0.1",
            "x",
            one,
            "URL address does not have the form \"host:port\": http://127.0.0.1",
        );
        refused(
            "x=http://127.0.0.1:1/",
            "x",
            one,
            "URL must not contain a path: http://127.0.0.1:1/",
        );
        refused(
            "x=http://127.0.0.1:2",
            "x",
            one,
            "--initial-cluster has x=http://127.0.0.1:2 but missing from --initial-advertise-peer-urls=http://127.0.0.1:1 \
             (resolved urls: \"http://127.0.0.1:1\" != \"http://127.0.0.1:2\")",
        );
        refused(
            "x=http://127.0.0.1:1",
            "x",
            "http://127.0.0.1:1,http://127.0.0.1:2",
            "--initial-advertise-peer-urls has http://127.0.0.1:2 but missing from --initial-cluster=x=http://127.0.0.1:1",
        );
        refused(
            "x=http://127.0.0.1:1,y=http://127.0.0.1:1",
            "x",
            one,
            "initial cluster x=http://127.0.0.1:1,y=http://127.0.0.1:1 has duplicate url",
        );
    }

    #[test]
    fn members_come_by_id_and_the_own_one_by_its_name() {
        let cluster = "b=http://127.0.0.1:2,a=http://127.0.0.1:1,a=http://127.0.0.1:3";
        let (members, own) = members(cluster, "t", "a", "http://127.0.0.1:3,http://127.0.0.1:1")
            .expect("a sound cluster");
        assert!(members.windows(2).all(|pair| pair[0].id < pair[1].id));
        let a = members
            .iter()
            .find(|member| member.id == own)
            .expect("a member");
        assert_eq!(
            (a.name.as_str(), a.peer_urls()),
            (
                "a",
                &[
                    "http://127.0.0.1:1".to_owned(),
                    "http://127.0.0.1:3".to_owned()
                ][..]
            )
        );
        let ipv6 = super::members("x=http://[::1]:1", "t", "x", "http://[::1]:1");
        assert_eq!(ipv6.expect("brackets").0.len(), 1);
    }
}
