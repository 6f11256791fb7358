//! Who may ask by plain HTTP: host names against DNS rebinding, origins for browsers.
//!
//! Source: upstream `server/embed/serve.go`, `accessController`.

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};

use super::error;
use crate::grpc::body::Body;
use crate::member::Settings;

/// Refuses an HTTP/1.1 request that names no host, or two. Source of the texts: Go `net/http`, `server.go`.
pub fn need_host<B>(request: &Request<B>) -> Result<(), Box<Response<Body>>> {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    let why = match hosts {
        0 if request.version() == Version::HTTP_11 => "missing required Host header",
        0 | 1 => return Ok(()),
        _ => "too many Host headers",
    };
    let mut refusal = error(StatusCode::BAD_REQUEST, &format!("400 Bad Request: {why}"));
    let close = HeaderValue::from_static("close");
    refusal.headers_mut().insert(header::CONNECTION, close);
    Err(Box::new(refusal))
}

/// Refuses a request for a host name that is not on the list.
pub fn check_host<B>(settings: &Settings, request: &Request<B>) -> Result<(), Box<Response<Body>>> {
    let listed = &settings.host_whitelist;
    if listed.is_empty() || listed.iter().any(|host| host == "*") {
        return Ok(());
    }
    let host = request.headers().get(header::HOST).map(HeaderValue::to_str);
    let host = match host {
        Some(Ok(host)) => host,
        _ => request
            .uri()
            .authority()
            .map_or("", |authority| authority.as_str()),
    };
    let host = without_port(host);
    if listed.iter().any(|known| known == host) {
        return Ok(());
    }
    Err(Box::new(error(
        StatusCode::MISDIRECTED_REQUEST,
        &format!(
            "\netcd received your request, but the Host header was unrecognized.\n\n\
             To fix this, choose one of the following options:\n\
             - Enable TLS, then any HTTPS request will be allowed.\n\
             - Add the hostname you want to use to the whitelist in settings.\n  \
             - e.g. etcd --host-whitelist {host:?}\n\n\
             This requirement has been added to help prevent \"DNS Rebinding\" attacks (CVE-2018-5702).\n"
        ),
    )))
}

/// Tells a browser that the page it shows may read the answer.
pub fn add_cors(settings: &Settings, request: &HeaderMap, response: &mut HeaderMap) {
    let any = settings.cors.is_empty() || settings.cors.iter().any(|origin| origin == "*");
    let origin = if any {
        HeaderValue::from_static("*")
    } else {
        let origin = request.get(header::ORIGIN);
        match origin.filter(|origin| settings.cors.iter().any(|known| *origin == known.as_str())) {
            Some(origin) => origin.clone(),
            None => return,
        }
    };
    let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
    let headers = HeaderValue::from_static("accept, content-type, authorization");
    response.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    response.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, headers);
}

/// The host of `host:port`, `[::1]:port` or either alone.
fn without_port(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(hosts: &[&str], cors: &[&str]) -> Settings {
        let own = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
        Settings {
            host_whitelist: own(hosts),
            cors: own(cors),
            ..Settings::default()
        }
    }

    #[test]
    fn a_host_must_be_listed_unless_all_are() {
        let request = |host: &str| {
            Request::builder()
                .header("host", host)
                .body(())
                .expect("a request")
        };
        let listed = settings(&["localhost", "::1"], &[]);
        assert!(check_host(&listed, &request("localhost:2379")).is_ok());
        assert!(check_host(&listed, &request("[::1]:2379")).is_ok());
        let refused = check_host(&listed, &request("evil.example:2379")).expect_err("not listed");
        assert_eq!(refused.status(), StatusCode::MISDIRECTED_REQUEST);
        assert!(check_host(&settings(&["*"], &[]), &request("evil.example")).is_ok());
    }

    #[test]
    fn a_request_names_one_host() {
        let request = |version, hosts: &[&str]| {
            let request = Request::builder().version(version);
            let request = hosts
                .iter()
                .fold(request, |request, host| request.header("host", *host));
            need_host(&request.body(()).expect("a request")).is_ok()
        };
        assert!(request(Version::HTTP_11, &["a"]));
        assert!(request(Version::HTTP_10, &[]));
        assert!(request(Version::HTTP_2, &[]));
        assert!(!request(Version::HTTP_11, &[]));
        assert!(!request(Version::HTTP_11, &["a", "b"]));
    }

    #[test]
    fn an_origin_is_named_only_when_it_is_listed() {
        let allowed = |cors: &[&str], origin: &str| {
            let mut request = HeaderMap::new();
            request.insert("origin", HeaderValue::from_str(origin).expect("a value"));
            let mut response = HeaderMap::new();
            add_cors(&settings(&[], cors), &request, &mut response);
            response.get("access-control-allow-origin").cloned()
        };
        assert_eq!(
            allowed(&["*"], "http://a"),
            Some(HeaderValue::from_static("*"))
        );
        assert_eq!(
            allowed(&["http://a"], "http://a"),
            Some(HeaderValue::from_static("http://a"))
        );
        assert_eq!(allowed(&["http://a"], "http://b"), None);
    }
}
