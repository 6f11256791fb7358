//! URLs to listen on and to advertise: `http`, `https`, `unix` and `unixs`, read with etcd's rules and error texts.
//!
//! Only what etcd accepts here is modelled: a scheme, a `host:port`, and a path for sockets. What Go's parser accepts beyond
//! that (user information, a query, a fragment) is refused, because it never means what its author thinks: the usual case is
//! a remark behind the value in an environment file.
//!
//! Source: upstream `client/pkg/types/urls.go`, Go `net/url`.

use super::value::quote;
use std::fmt;

/// A parsed URL. Ordering and equality are those of the text, as in etcd's sorted lists.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    text: String,
    scheme: Scheme,
    host: String,
    path: String,
}

/// The scheme of a [`Url`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// TCP in clear.
    Http,
    /// TCP with TLS.
    Https,
    /// A Unix socket in clear.
    Unix,
    /// A Unix socket with TLS.
    Unixs,
}

impl Url {
    /// Reads one URL, with etcd's error texts.
    pub fn parse(text: &str) -> Result<Url, String> {
        let text = text.trim();
        let go = split_like_go(text)?;
        let scheme = match go.scheme.as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => {
                return Err(format!(
                    "URL scheme must be http, https, unix, or unixs: {text}"
                ));
            }
        };
        let tcp = matches!(scheme, Scheme::Http | Scheme::Https);
        if tcp && split_host_port(&go.host).is_none() {
            return Err(format!(
                "URL address does not have the form \"host:port\": {text}"
            ));
        }
        if tcp && !go.path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        if go.extra {
            return Err(format!(
                "URL must not contain a user, a query or a fragment: {text}"
            ));
        }
        if !tcp && go.host.is_empty() && go.path.is_empty() {
            return Err(format!("URL must name a socket: {text}"));
        }
        let slashes = if go.authority { "//" } else { "" };
        let text = format!("{}:{slashes}{}{}", go.scheme, go.host, go.path);
        Ok(Url {
            text,
            scheme,
            host: go.host,
            path: go.path,
        })
    }

    /// The same URL at another `host:port`; for TCP only.
    pub(super) fn with_host(&self, host: String) -> Url {
        assert!(!self.is_socket(), "a socket has no host to replace");
        Url {
            text: format!("{}://{host}", self.scheme.name()),
            scheme: self.scheme,
            host,
            path: String::new(),
        }
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether the URL asks for TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// Whether both URLs name the same address or file, whatever is spoken there.
    pub fn names_place_of(&self, other: &Url) -> bool {
        match (self.socket_path(), other.socket_path()) {
            (None, None) => self.host == other.host,
            (own, others) => own == others,
        }
    }

    /// Whether the URL names a Unix socket.
    pub fn is_socket(&self) -> bool {
        matches!(self.scheme, Scheme::Unix | Scheme::Unixs)
    }

    /// `host:port` of a TCP URL as written; for a socket the part before the path.
    pub fn host_port(&self) -> &str {
        &self.host
    }

    /// The host without port and brackets; empty for a socket and for `http://:2379`.
    pub fn hostname(&self) -> &str {
        split_host_port(&self.host).map_or("", |(host, _)| host)
    }

    /// The port as written; empty if there is none.
    pub fn port_text(&self) -> &str {
        split_host_port(&self.host).map_or("", |(_, port)| port)
    }

    /// The port of a TCP URL. An empty port is 0, for which the system chooses; `None` if it is above 65535.
    pub fn port(&self) -> Option<u16> {
        match self.port_text() {
            "" => Some(0),
            digits => digits.parse().ok(),
        }
    }

    /// The file of a Unix socket, as etcd forms it: what stands for the host, followed by the path. `unix://localhost:1`
    /// is the file `localhost:1` in the working directory.
    pub fn socket_path(&self) -> Option<String> {
        self.is_socket()
            .then(|| format!("{}{}", self.host, self.path))
    }
}

impl Scheme {
    /// The word before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Unix => "unix",
            Scheme::Unixs => "unixs",
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads comma separated URLs, sorted and without repetition.
pub fn read_list(text: &str) -> Result<Vec<Url>, String> {
    let mut urls = text
        .split(',')
        .map(Url::parse)
        .collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

/// The URLs separated by commas.
pub fn show_list(urls: &[Url]) -> String {
    urls.iter()
        .map(Url::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// Host and port of `host:port`, `[host]:port` or `:port`; `None` for anything else. Go's `net.SplitHostPort`.
fn split_host_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(inner) => inner
            .strip_suffix(']')
            .filter(|h| !h.contains(['[', ']']))
            .map(|h| (h, port)),
        None => {
            (!host.contains([':', '[', ']']) && !port.contains(['[', ']'])).then_some((host, port))
        }
    }
}

struct GoUrl {
    scheme: String,
    host: String,
    path: String,
    /// Whether `//` was written.
    authority: bool,
    /// Whether there was a user, a query or a fragment.
    extra: bool,
}

/// The steps of Go's `url.Parse` that matter for these URLs, with its errors.
fn split_like_go(text: &str) -> Result<GoUrl, String> {
    let (before_fragment, fragment) = text
        .split_once('#')
        .map_or((text, false), |(before, _)| (before, true));
    let fail = |why: String| Err(format!("parse {}: {why}", quote(before_fragment)));
    if before_fragment.chars().any(|c| c.is_ascii_control()) {
        return fail("net/url: invalid control character in URL".into());
    }
    let Ok((scheme, rest)) = split_scheme(before_fragment) else {
        return fail("missing protocol scheme".into());
    };
    let (rest, query) = rest
        .split_once('?')
        .map_or((rest, false), |(before, _)| (before, true));
    let mut go = GoUrl {
        scheme: scheme.to_ascii_lowercase(),
        host: String::new(),
        path: String::new(),
        authority: false,
        extra: fragment || query,
    };
    if !rest.starts_with('/') {
        let first = rest.split('/').next().unwrap_or("");
        if go.scheme.is_empty() && first.contains(':') {
            return fail("first path segment in URL cannot contain colon".into());
        }
        // With a scheme this is an "opaque" URL, which has neither host nor path for us.
        return Ok(go);
    }
    let Some(after) = rest.strip_prefix("//") else {
        go.path = rest.to_owned();
        return Ok(go);
    };
    go.authority = true;
    let (authority, path) = after.find('/').map_or((after, ""), |at| after.split_at(at));
    let (user, host) = authority
        .rsplit_once('@')
        .map_or((false, authority), |(_, host)| (true, host));
    if let Err(why) = check_host(host) {
        return fail(why);
    }
    go.extra |= user;
    go.host = host.to_owned();
    go.path = path.to_owned();
    Ok(go)
}

/// Scheme and rest; the scheme is empty if there is none, the error is for a leading colon.
fn split_scheme(text: &str) -> Result<(&str, &str), ()> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err(()),
            ':' => return Ok((&text[..at], &text[at + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

fn check_host(host: &str) -> Result<(), String> {
    let port = match host.strip_prefix('[') {
        Some(_) => match host.rfind(']') {
            Some(end) => &host[end + 1..],
            None => return Err("missing ']' in host".into()),
        },
        None => host.rfind(':').map_or("", |at| &host[at..]),
    };
    let valid = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    if !valid {
        return Err(format!("invalid port {} after host", quote(port)));
    }
    if let Some(at) = host.find('%').filter(|_| !host.starts_with('[')) {
        let escape: String = host[at..].chars().take(3).collect();
        return Err(format!("invalid URL escape {}", quote(&escape)));
    }
    // What Go does not let stand in a host: everything in ASCII but these.
    let allowed = |c: char| {
        !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c)
    };
    match host.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(format!(
            "invalid character {} in host name",
            quote(&c.to_string())
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_url() {
        let url = Url::parse(" HTTP://[::1]:2379 ").expect("valid");
        assert_eq!(
            (url.hostname(), url.port(), url.to_string().as_str()),
            ("::1", Some(2379), "http://[::1]:2379")
        );
        let url = Url::parse("https://127.0.0.1:").expect("valid");
        assert_eq!((url.port(), url.is_tls()), (Some(0), true));
        assert_eq!(Url::parse("http://h:70000").expect("valid").port(), None);
        assert_eq!(
            Url::parse("unix:///run/etcd.sock")
                .expect("valid")
                .socket_path()
                .as_deref(),
            Some("/run/etcd.sock")
        );
        assert_eq!(
            Url::parse("unix:/run/etcd.sock")
                .expect("valid")
                .to_string(),
            "unix:/run/etcd.sock"
        );
        assert_eq!(
            Url::parse("unixs://localhost:12345")
                .expect("valid")
                .socket_path()
                .as_deref(),
            Some("localhost:12345")
        );
    }

    #[test]
    fn errors_are_those_of_etcd() {
        for (text, error) in [
            (
                "127.0.0.1:2379",
                "parse \"127.0.0.1:2379\": first path segment in URL cannot contain colon",
            ),
            (
                "localhost:2379",
                "URL scheme must be http, https, unix, or unixs: localhost:2379",
            ),
            (
                "tcp://h:1",
                "URL scheme must be http, https, unix, or unixs: tcp://h:1",
            ),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            (":80", "parse \":80\": missing protocol scheme"),
            (
                "http://h",
                "URL address does not have the form \"host:port\": http://h",
            ),
            (
                "http:h:1",
                "URL address does not have the form \"host:port\": http:h:1",
            ),
            (
                "http://::1:80",
                "URL address does not have the form \"host:port\": http://::1:80",
            ),
            ("http://h:1/", "URL must not contain a path: http://h:1/"),
            (
                "http://h:x",
                "parse \"http://h:x\": invalid port \":x\" after host",
            ),
            (
                "http://a b:1",
                "parse \"http://a b:1\": invalid character \" \" in host name",
            ),
            (
                "http://[::1:1",
                "parse \"http://[::1:1\": missing ']' in host",
            ),
            (
                "http://h:1#remark",
                "URL must not contain a user, a query or a fragment: http://h:1#remark",
            ),
            (
                "http://u@h:1",
                "URL must not contain a user, a query or a fragment: http://u@h:1",
            ),
            ("unix://", "URL must name a socket: unix://"),
        ] {
            assert_eq!(
                Url::parse(text).map(|u| u.to_string()),
                Err(error.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_remark_behind_the_value_is_an_error() {
        assert_eq!(
            read_list("http://192.168.126.135:2380 ##peers").map(|_| ()),
            Err(
                "parse \"http://192.168.126.135:2380 \": invalid port \":2380 \" after host".into()
            )
        );
    }

    #[test]
    fn lists_are_sorted_and_without_repetition() {
        let urls = read_list("http://b:1,http://a:1, http://b:1").expect("valid");
        assert_eq!(show_list(&urls), "http://a:1,http://b:1");
    }
}
