//! From a request as hyper read it to what the shard is asked, and what is refused before that.

use bytes::Bytes;
use cache_core::io::ClientRequest;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, StatusCode, Version};

/// A request that is answered here, with why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub why: &'static str,
}

/// RFC 9112 sections 3.2 and 6.1, RFC 9113 section 8.3.1.
pub fn read(parts: Parts, secure: bool) -> Result<ClientRequest, Refusal> {
    let authority = authority(&parts)?;
    check_coding(&parts)?;
    let target = match parts.method {
        Method::CONNECT => Bytes::new(),
        _ => target(parts.uri.path_and_query()),
    };
    Ok(ClientRequest {
        method: parts.method,
        secure,
        authority,
        target,
        headers: end_to_end(parts.headers),
        body: cache_core::io::RequestBody::default(),
    })
}

/// Host, or the target's authority. Where both are there they must be the same.
fn authority(parts: &Parts) -> Result<Bytes, Refusal> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err(bad("Host appears twice"));
    }
    match (parts.uri.authority(), host) {
        (Some(target), Some(host)) if !same(target, host.as_bytes()) => {
            Err(bad("Host differs from the target's authority"))
        }
        (Some(_), None) if parts.version == Version::HTTP_11 => Err(bad("Host is missing")),
        (Some(target), _) => Ok(Bytes::copy_from_slice(target.as_str().as_bytes())),
        (None, Some(host)) => Ok(Bytes::copy_from_slice(host.as_bytes())),
        (None, None) => Err(bad("Host is missing")),
    }
}

fn same(target: &Authority, host: &[u8]) -> bool {
    target.as_str().as_bytes().eq_ignore_ascii_case(host)
}

/// RFC 9112 section 6.1: a coding that we do not know is not guessed.
fn check_coding(parts: &Parts) -> Result<(), Refusal> {
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Refusal {
            status: StatusCode::NOT_IMPLEMENTED,
            why: "transfer coding other than chunked",
        }),
    }
}

fn target(target: Option<&PathAndQuery>) -> Bytes {
    match target.map(PathAndQuery::as_str) {
        None | Some("") => Bytes::from_static(b"/"),
        // An absolute form without a path (RFC 9112 section 3.2.2).
        Some(query) if query.starts_with('?') => Bytes::from(format!("/{query}")),
        Some(target) => Bytes::copy_from_slice(target.as_bytes()),
    }
}

/// Leaves out what concerns only this hop (RFC 9110 section 7.6.1).
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    let keep_alive = HeaderName::from_static("keep-alive");
    let proxy_connection = HeaderName::from_static("proxy-connection");
    let ours = [
        CONNECTION,
        CONTENT_LENGTH,
        EXPECT,
        HOST,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        keep_alive,
        proxy_connection,
    ];
    for name in named.iter().chain(&ours) {
        headers.remove(name);
    }
    headers
}

fn bad(why: &'static str) -> Refusal {
    Refusal {
        status: StatusCode::BAD_REQUEST,
        why,
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(uri: &str, version: Version, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri).version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("request").into_parts().0
    }

    fn asked(uri: &str, fields: &[(&str, &str)]) -> Result<String, &'static str> {
        let request = read(parts(uri, Version::HTTP_11, fields), true);
        let request = request.map_err(|refusal| refusal.why)?;
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("text");
        Ok(format!(
            "{} {}",
            text(&request.authority),
            text(&request.target)
        ))
    }

    /// RFC 9112 section 3.2.
    #[test]
    fn one_host_and_no_other_authority() {
        let host = ("host", "edge.test");
        assert_eq!(asked("/a?b", &[host]), Ok("edge.test /a?b".to_owned()));
        assert_eq!(asked("/a", &[]), Err("Host is missing"));
        assert_eq!(asked("/a", &[host, host]), Err("Host appears twice"));
        let absolute = "http://edge.test/a";
        assert_eq!(asked(absolute, &[host]), Ok("edge.test /a".to_owned()));
        assert_eq!(
            asked("http://EDGE.test", &[host]),
            Ok("EDGE.test /".to_owned())
        );
        assert_eq!(
            asked("http://edge.test?q", &[host]),
            Ok("edge.test /?q".to_owned())
        );
        assert_eq!(asked(absolute, &[]), Err("Host is missing"));
        let differs = Err("Host differs from the target's authority");
        assert_eq!(asked(absolute, &[("host", "other.test")]), differs);
        assert_eq!(asked("http://edge.test:81/", &[host]), differs);
    }

    /// RFC 9113 section 8.3.1: `:authority` stands alone.
    #[test]
    fn http2_needs_no_host() {
        let request = read(parts("https://edge.test/a", Version::HTTP_2, &[]), true);
        assert_eq!(request.expect("request").authority, "edge.test");
    }

    /// RFC 9112 section 6.1.
    #[test]
    fn no_coding_but_chunked() {
        let coded = |codings: &[&'static str]| {
            let mut fields = vec![("host", "edge.test")];
            fields.extend(codings.iter().map(|coding| ("transfer-encoding", *coding)));
            read(parts("/", Version::HTTP_11, &fields), true).map_err(|refusal| refusal.status)
        };
        assert!(coded(&["chunked"]).is_ok() && coded(&["Chunked"]).is_ok());
        for codings in [
            &["gzip, chunked"][..],
            &["identity"],
            &["chunked, chunked"],
            &["chunked", "chunked"],
            &["\tchunked"],
            &[""],
        ] {
            let status = coded(codings).map(|_| ());
            assert_eq!(status, Err(StatusCode::NOT_IMPLEMENTED), "{codings:?}");
        }
    }

    #[test]
    fn what_concerns_the_hop_stays_here() {
        let fields = [
            ("host", "edge.test"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("content-length", "0"),
            ("x-end", "kept"),
        ];
        let request = read(parts("/", Version::HTTP_11, &fields), true).expect("request");
        let names: Vec<_> = request.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-end"]);
    }
}
