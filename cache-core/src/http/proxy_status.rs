//! Proxy-Status (RFC 9209): why an answer of our own stands in the place of the origin's.

use http::HeaderValue;

use crate::io::FetchErrorKind;

/// The error type of RFC 9209 section 2.3.
pub fn error(kind: FetchErrorKind) -> &'static str {
    match kind {
        FetchErrorKind::DnsError => "dns_error",
        FetchErrorKind::ConnectionRefused => "connection_refused",
        FetchErrorKind::ConnectionTimeout => "connection_timeout",
        FetchErrorKind::ConnectionTerminated => "connection_terminated",
        FetchErrorKind::TlsError => "tls_protocol_error",
        FetchErrorKind::TlsCertificate => "tls_certificate_error",
        FetchErrorKind::ResponseTimeout | FetchErrorKind::BodyTimeout => "http_response_timeout",
        FetchErrorKind::ResponseIncomplete => "http_response_incomplete",
        FetchErrorKind::ProtocolError => "http_protocol_error",
        FetchErrorKind::LimitReached => "connection_limit_reached",
        FetchErrorKind::Unavailable => "destination_unavailable",
        FetchErrorKind::LoopDetected => "proxy_loop_detected",
        FetchErrorKind::RequestStalled => "http_request_error",
    }
}

/// The field of the node called `name`, a token.
pub fn value(name: &str, kind: FetchErrorKind) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{name}; error={}", error(kind))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9209 section 2: a list of one item, a token with parameters.
    #[test]
    fn a_structured_field() {
        let value = value("popcache", FetchErrorKind::ConnectionRefused).unwrap();
        assert_eq!(value, "popcache; error=connection_refused");
        let list: sfv::List = sfv::Parser::new(value.as_bytes()).parse().unwrap();
        assert_eq!(list.len(), 1);
    }
}
