//! Request and response heads: what is added, what is taken away, and what is refused.
//!
//! An origin sees the client's authority, Via and CDN-Loop with this node's name, and no field that
//! belonged to another hop. A shard sees end-to-end fields only.

use std::sync::Arc;

use bytes::Bytes;
use cache_core::http::loops;
use cache_core::io::{FetchError, FetchErrorKind, FetchRequest, RequestBody};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};

use super::config::UpstreamError;
use super::connect::MAX_HEAD_FIELDS;
use super::failure::Place;
use super::upload::{Sending, Upload};

/// How this node names itself to origins.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    via: HeaderValue,
    cdn_loop: HeaderValue,
    /// That Surrogate-Control is understood (W3C Edge Architecture section 2.1).
    capability: HeaderValue,
}

impl Identity {
    /// `name` must be a pseudonym for both Via (RFC 9110 section 7.6.3) and CDN-Loop (RFC 8586).
    /// `id` tells this node from others of that name.
    pub(super) fn new(name: &str, id: &str) -> Result<Self, UpstreamError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let refused = || UpstreamError::NodeName(name.to_owned());
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(refused());
        }
        // One fetch answers clients of several HTTP versions, so there is no single received
        // protocol to name; 1.1 is what origins expect of a cache.
        let via = HeaderValue::try_from(format!("1.1 {name}")).map_err(|_| refused())?;
        let cdn_loop = loops::cdn_info(name, id).ok_or_else(refused)?;
        let capability = HeaderValue::try_from(format!("{name}=\"Surrogate/1.0\""));
        Ok(Self {
            via,
            cdn_loop,
            capability: capability.map_err(|_| refused())?,
        })
    }
}

/// The two forms of a request head (RFC 9112 section 3.2.1, RFC 9113 section 8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// HTTP/1.1: origin-form and Host.
    Origin,
    /// HTTP/2: scheme and authority as pseudo-fields.
    Pseudo,
}

/// A request ready to go out on any connection of its origin, more than once if need be and its body is
/// here as a whole.
#[derive(Debug)]
pub(super) struct Outgoing {
    method: Method,
    authority: Authority,
    host: HeaderValue,
    target: PathAndQuery,
    headers: HeaderMap,
    body: OutgoingBody,
}

#[derive(Debug)]
enum OutgoingBody {
    Whole(Bytes),
    Streamed(Arc<Upload>),
}

impl Drop for OutgoingBody {
    /// The connection must not wait for the rest of a body that nobody brings.
    fn drop(&mut self) {
        if let Self::Streamed(upload) = self {
            upload.give_up();
        }
    }
}

impl Outgoing {
    /// Refuses an authority or target that cannot stand in a request head.
    pub(super) fn new(
        request: FetchRequest,
        upload: Option<&Arc<Upload>>,
        identity: &Identity,
        place: &Place,
    ) -> Result<Self, FetchError> {
        let unusable = |what: &str, bytes: &[u8]| {
            place.error(
                FetchErrorKind::ProtocolError,
                format_args!(
                    "the client's {what} {:?} cannot be sent on",
                    bytes.escape_ascii().to_string()
                ),
            )
        };
        let authority = Authority::try_from(request.authority.as_ref())
            .ok()
            .filter(|authority| !authority.as_str().contains('@'))
            .ok_or_else(|| unusable("authority", &request.authority))?;
        let host = HeaderValue::try_from(authority.as_str())
            .map_err(|_| unusable("authority", &request.authority))?;
        let target = Some(&request.target)
            .filter(|target| target.starts_with(b"/"))
            .and_then(|target| PathAndQuery::try_from(target.as_ref()).ok())
            .ok_or_else(|| unusable("target", &request.target))?;
        let mut headers = request_fields(request.headers, identity);
        let length = match &request.body {
            RequestBody::Whole(body) if body.is_empty() && request.method.is_safe() => None,
            RequestBody::Whole(body) => Some(body.len() as u64),
            RequestBody::Streamed { length } => *length,
        };
        if let Some(length) = length {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        let body = match (request.body, upload) {
            (RequestBody::Whole(body), _) => OutgoingBody::Whole(body),
            (_, Some(upload)) => OutgoingBody::Streamed(Arc::clone(upload)),
            (_, None) => OutgoingBody::Whole(Bytes::new()),
        };
        Ok(Self {
            method: request.method,
            authority,
            host,
            target,
            headers,
            body,
        })
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// Its body, if that comes in pieces.
    pub(super) fn upload(&self) -> Option<&Upload> {
        match &self.body {
            OutgoingBody::Whole(_) => None,
            OutgoingBody::Streamed(upload) => Some(upload),
        }
    }

    /// It may be sent a second time.
    pub(super) fn is_repeatable(&self) -> bool {
        self.upload().is_none()
    }

    /// The head in one of its forms.
    pub(super) fn request(&self, form: Form, scheme: &Scheme) -> Request<Sending> {
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = Some(self.target.clone());
        let mut headers = self.headers.clone();
        match form {
            Form::Origin => {
                headers.insert(header::HOST, self.host.clone());
            }
            Form::Pseudo => {
                parts.scheme = Some(scheme.clone());
                parts.authority = Some(self.authority.clone());
            }
        }
        let body = match &self.body {
            OutgoingBody::Whole(body) => Sending::Whole(body.clone()),
            OutgoingBody::Streamed(upload) => Sending::Streamed(Arc::clone(upload)),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        // Both combinations of parts are complete, so the default is never taken.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        *request.headers_mut() = headers;
        request
    }
}

fn request_fields(mut headers: HeaderMap, identity: &Identity) -> HeaderMap {
    remove_hop_by_hop(&mut headers);
    // The body's length and Host are written anew: none of these may say otherwise.
    for name in [header::HOST, header::CONTENT_LENGTH, header::EXPECT] {
        headers.remove(name);
    }
    headers.append(header::VIA, identity.via.clone());
    headers.append(CDN_LOOP, identity.cdn_loop.clone());
    headers.append(SURROGATE_CAPABILITY, identity.capability.clone());
    headers
        .entry(header::ACCEPT_ENCODING)
        .or_insert(HeaderValue::from_static("identity"));
    headers
}

/// A response head as the shard gets it.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// The declared length of the body that follows. `None` where none was declared, and where the
    /// answer has no body whatever it declares (HEAD, 204, 304).
    pub(super) length: Option<u64>,
}

/// Takes the head of a final response apart, or says why it cannot be trusted.
pub(super) fn response_head<B>(
    response: Response<B>,
    method: &Method,
    place: &Place,
) -> Result<(ResponseHead, B), FetchError> {
    let (parts, body) = response.into_parts();
    let mut headers = parts.headers;
    if headers.len() > MAX_HEAD_FIELDS {
        return Err(place.head_too_large());
    }
    let invalid = |what: String| Err(place.error(FetchErrorKind::ProtocolError, what));
    if parts.status.is_informational() {
        return invalid(format!(
            "answered {} where a final response was due; nothing was asked to be upgraded",
            parts.status
        ));
    }
    let coded = headers.contains_key(header::TRANSFER_ENCODING);
    if coded && parts.version < Version::HTTP_2 {
        if !only_chunked(&headers) {
            return invalid(
                "used a Transfer-Encoding other than chunked, which was not asked for".to_owned(),
            );
        }
        // Chunked wins, and the other must not be sent on (RFC 9112 section 6.3).
        headers.remove(header::CONTENT_LENGTH);
    }
    let Ok(declared) = content_length(&headers) else {
        return invalid("sent a Content-Length that is not one number".to_owned());
    };
    remove_hop_by_hop(&mut headers);
    let head = ResponseHead {
        status: parts.status,
        headers,
        length: declared.filter(|_| has_body(method, parts.status)),
    };
    Ok((head, body))
}

/// RFC 9112 section 6.3, items 1 and 2 (CONNECT is never sent).
fn has_body(method: &Method, status: StatusCode) -> bool {
    method != Method::HEAD && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

fn only_chunked(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = values.next();
    values.next().is_none()
        && first.is_some_and(|value| {
            value
                .as_bytes()
                .trim_ascii()
                .eq_ignore_ascii_case(b"chunked")
        })
}

/// The one length that all Content-Length fields agree on.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, ()> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for number in value.to_str().map_err(drop)?.split(',') {
            let number = number.trim();
            if !number.bytes().all(|b| b.is_ascii_digit()) {
                return Err(());
            }
            let number: u64 = number.parse().map_err(drop)?;
            if length.replace(number).is_some_and(|other| other != number) {
                return Err(());
            }
        }
    }
    Ok(length)
}

const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
const SURROGATE_CAPABILITY: HeaderName = HeaderName::from_static("surrogate-capability");

/// Fields of one hop (RFC 9110 section 7.6.1). Proxy-Status (RFC 9209) is end to end and stays.
const HOP_BY_HOP: [HeaderName; 11] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Fields that Connection must not name (RFC 9110 section 7.6.1): taking them away would turn what
/// may not be stored into what may.
const NEVER_HOP_BY_HOP: [HeaderName; 4] = [
    header::CACHE_CONTROL,
    header::VARY,
    header::SET_COOKIE,
    header::AUTHORIZATION,
];

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in connection_options(headers) {
        if !NEVER_HOP_BY_HOP.contains(&name) {
            headers.remove(name);
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use cache_core::io::OriginId;

    use super::*;

    fn place() -> Place {
        Place::new("origin \"demo\" at http://o")
    }

    fn outgoing(
        authority: &'static [u8],
        target: &'static [u8],
        headers: HeaderMap,
    ) -> Result<Outgoing, FetchError> {
        let request = FetchRequest {
            origin: OriginId(0),
            method: Method::GET,
            authority: Bytes::from_static(authority),
            target: Bytes::from_static(target),
            headers,
            compress: false,
            body: cache_core::io::RequestBody::default(),
            window: 0,
        };
        let identity = Identity::new("popcache", "7f").expect("a token");
        Outgoing::new(request, None, &identity, &place())
    }

    fn fields(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    fn head(list: &[(&'static str, &'static str)]) -> Result<ResponseHead, FetchError> {
        let mut response = Response::new(());
        for (name, value) in list {
            response
                .headers_mut()
                .append(*name, HeaderValue::from_static(value));
        }
        response_head(response, &Method::GET, &place()).map(|(head, ())| head)
    }

    #[test]
    fn both_forms_carry_the_clients_authority() {
        let outgoing = outgoing(b"edge.test:8443", b"/a?b=c", HeaderMap::new()).unwrap();
        let origin = outgoing.request(Form::Origin, &Scheme::HTTP);
        assert_eq!(origin.uri(), "/a?b=c");
        assert_eq!(origin.headers()["host"], "edge.test:8443");
        let pseudo = outgoing.request(Form::Pseudo, &Scheme::HTTP);
        assert_eq!(pseudo.uri(), "http://edge.test:8443/a?b=c");
        assert!(!pseudo.headers().contains_key("host"));
    }

    #[test]
    fn only_end_to_end_request_fields_go_out() {
        let client = fields(&[
            ("connection", "x-hop, keep-alive, Cache-Control"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("host", "evil"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("cache-control", "no-cache"),
            ("via", "2 front"),
            ("cdn-loop", "other"),
            ("x-end", "1"),
        ]);
        let sent = outgoing(b"edge.test", b"/", client)
            .unwrap()
            .request(Form::Origin, &Scheme::HTTP);
        let headers = sent.headers();
        for gone in [
            "connection",
            "x-hop",
            "te",
            "content-length",
            "transfer-encoding",
        ] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        assert_eq!(headers["host"], "edge.test");
        assert_eq!(headers["cache-control"], "no-cache");
        assert_eq!(headers["accept-encoding"], "identity");
        assert_eq!(headers["x-end"], "1");
        let via: Vec<_> = headers.get_all("via").iter().collect();
        assert_eq!(via, ["2 front", "1.1 popcache"]);
        let cdn_loop: Vec<_> = headers.get_all("cdn-loop").iter().collect();
        assert_eq!(cdn_loop, ["other", "popcache; node=7f"]);
    }

    #[test]
    fn an_accept_encoding_of_the_client_stays() {
        let client = fields(&[("accept-encoding", "br")]);
        let sent = outgoing(b"edge.test", b"/", client)
            .unwrap()
            .request(Form::Origin, &Scheme::HTTP);
        assert_eq!(sent.headers()["accept-encoding"], "br");
    }

    #[test]
    fn unusable_authorities_and_targets_are_refused() {
        for authority in [b"".as_slice(), b"a b", b"user@host", b"a/b", b"a\r\nx: y"] {
            let error = outgoing(authority, b"/", HeaderMap::new()).unwrap_err();
            assert_eq!(error.kind, FetchErrorKind::ProtocolError, "{error}");
        }
        for target in [b"".as_slice(), b"*", b"http://x/", b"/a b", b"/\r\n"] {
            let error = outgoing(b"edge.test", target, HeaderMap::new()).unwrap_err();
            assert_eq!(error.kind, FetchErrorKind::ProtocolError, "{error}");
        }
    }

    #[test]
    fn a_node_name_must_be_a_plain_token() {
        assert!(Identity::new("pop-1.fra", "0").is_ok());
        for name in ["", "a b", "a,b", "p\u{f6}p", "a;b"] {
            assert!(Identity::new(name, "0").is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_response_head_loses_its_hop_by_hop_fields_and_keeps_proxy_status() {
        let head = head(&[
            ("connection", "close, x-hop, vary"),
            ("x-hop", "1"),
            ("vary", "accept"),
            ("keep-alive", "timeout=5"),
            ("trailer", "x"),
            ("proxy-authenticate", "Basic"),
            ("proxy-status", "shield; error=dns_error"),
            ("content-length", "7"),
        ])
        .unwrap();
        let mut left: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "proxy-status", "vary"]);
        assert_eq!(head.length, Some(7));
    }

    #[test]
    fn lengths_must_agree_and_chunked_overrules_them() {
        assert_eq!(head(&[("content-length", "5, 5")]).unwrap().length, Some(5));
        for bad in [
            &[("content-length", "5"), ("content-length", "6")][..],
            &[("content-length", "+5")],
            &[("content-length", "")],
        ] {
            // "" has only digits, but is no number either.
            assert_eq!(head(bad).unwrap_err().kind, FetchErrorKind::ProtocolError);
        }
        let chunked = head(&[("content-length", "5"), ("transfer-encoding", "chunked")]).unwrap();
        assert_eq!(chunked.length, None);
        assert!(chunked.headers.is_empty());
        let coded = head(&[("transfer-encoding", "gzip, chunked")]).unwrap_err();
        assert_eq!(coded.kind, FetchErrorKind::ProtocolError);
    }
}
