use super::super::error::{H3_MESSAGE_ERROR, Scope};
use super::super::samples::{CHROMIUM, CURL, PLAYER, Sample, section};
use super::*;
use bytes::Bytes;
use http::Method;

const LIMIT: usize = 16 << 10;

const BASE: Sample = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "edge.test"),
    (":path", "/a"),
];

fn read(fields: &[(&str, &str)]) -> Result<FieldSection, SectionError> {
    let mut scratch = FieldSection::new(LIMIT);
    scratch.read_request(&section(fields))?;
    Ok(scratch)
}

fn with(extra: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [BASE, extra].concat()
}

/// The reason why a request is malformed.
fn malformed(fields: &[(&str, &str)]) -> &'static str {
    match read(fields) {
        Err(SectionError::Invalid(error)) => {
            assert_eq!((error.code, error.scope), (H3_MESSAGE_ERROR, Scope::Stream));
            error.reason
        }
        other => panic!("{fields:?}: {other:?}"),
    }
}

#[test]
fn real_requests_come_out_as_they_went_in() {
    for sample in [CHROMIUM, CURL, PLAYER] {
        let request = read(sample).unwrap();
        let value = |name| sample.iter().find(|f| f.0 == name).unwrap().1.as_bytes();
        assert_eq!(request.method(), value(":method"));
        assert_eq!(request.scheme(), value(":scheme"));
        assert_eq!(request.authority(), value(":authority"));
        assert_eq!(request.path(), value(":path"));
        let regular: Vec<_> = sample
            .iter()
            .filter(|f| !f.0.starts_with(':'))
            .map(|f| (f.0.as_bytes(), f.1.as_bytes()))
            .collect();
        assert_eq!(request.fields().collect::<Vec<_>>(), regular);
        for (name, value) in regular {
            assert_eq!(request.get(name), Some(value));
        }
        assert_eq!(request.get(b"range"), None);
    }
}

#[test]
fn nothing_of_one_request_is_seen_in_the_next() {
    let mut scratch = FieldSection::new(LIMIT);
    let first = with(&[("host", "edge.test"), ("content-length", "3"), ("x", "y")]);
    scratch.read_request(&section(&first)).unwrap();
    scratch.read_request(&section(BASE)).unwrap();
    assert_eq!(scratch.fields().count(), 0);
    assert_eq!(scratch.content_length(), None);
    assert_eq!(scratch.get(b"x"), None);
    let host_only = [BASE[0], BASE[1], BASE[3], ("host", "other.test")];
    scratch.read_request(&section(&host_only)).unwrap();
    assert_eq!(scratch.authority(), b"other.test");
}

/// RFC 9114 section 4.3.1.
#[test]
fn pseudo_fields() {
    let cases: [(&[(&str, &str)], &str); 17] = [
        (&BASE[1..], ":method is missing or no token"),
        (
            &[BASE[0], BASE[2], BASE[3]],
            ":scheme is missing or not https",
        ),
        (&BASE[..3], ":path is missing or malformed"),
        (
            &[BASE[0], BASE[1], BASE[3]],
            "authority is missing or malformed",
        ),
        (&with(&[(":path", "/b")]), "pseudo-field appears twice"),
        (
            &with(&[("x", "y"), (":method", "GET")]),
            "pseudo-field after a regular field",
        ),
        (
            &[BASE[0], BASE[1], ("host", "edge.test"), BASE[3]],
            "pseudo-field after a regular field",
        ),
        (
            &with(&[(":status", "200")]),
            "pseudo-field not defined for requests",
        ),
        (
            &with(&[(":protocol", "websocket")]),
            "pseudo-field not defined for requests",
        ),
        (&with(&[(":", "")]), "pseudo-field not defined for requests"),
        (
            &[BASE[0], BASE[1], BASE[2], (":path", "")],
            ":path is missing or malformed",
        ),
        (
            &[BASE[0], BASE[1], BASE[2], (":path", "*")],
            ":path is missing or malformed",
        ),
        (
            &[BASE[0], BASE[1], BASE[2], (":path", "a")],
            ":path is missing or malformed",
        ),
        (
            &[BASE[0], BASE[1], BASE[2], (":path", "/a b")],
            ":path is missing or malformed",
        ),
        (
            &[BASE[0], (":scheme", "ftp"), BASE[2], BASE[3]],
            ":scheme is missing or not https",
        ),
        (
            &[(":method", "G T"), BASE[1], BASE[2], BASE[3]],
            ":method is missing or no token",
        ),
        (
            &[(":method", ""), BASE[1], BASE[2], BASE[3]],
            ":method is missing or no token",
        ),
    ];
    for (fields, reason) in cases {
        assert_eq!(malformed(fields), reason, "{fields:?}");
    }
    let options = [(":method", "OPTIONS"), BASE[1], BASE[2], (":path", "*")];
    assert_eq!(read(&options).unwrap().path(), b"*");
}

/// RFC 9114 section 4.3.1: one authority, the same in Host, no user information.
#[test]
fn authority_and_host() {
    let missing = "authority is missing or malformed";
    for bad in [
        "",
        "a@b",
        "a/b",
        "a b",
        "a\\b",
        "a?b",
        "a#b",
        "\u{e9}.test",
        "a\u{1}b",
    ] {
        let fields = [BASE[0], BASE[1], (":authority", bad), BASE[3]];
        let reason = malformed(&fields);
        assert!(
            reason == missing || reason == "field value has forbidden characters",
            "{bad}: {reason}"
        );
    }
    assert_eq!(
        malformed(&with(&[("host", "other.test")])),
        ":authority and Host differ"
    );
    assert_eq!(
        malformed(&with(&[("host", "edge.test"), ("host", "edge.test")])),
        "Host appears twice"
    );
    assert!(read(&with(&[("host", "edge.test")])).is_ok());
    let ipv6 = [
        BASE[0],
        BASE[1],
        (":authority", "[2001:db8::1]:4433"),
        BASE[3],
    ];
    assert_eq!(read(&ipv6).unwrap().authority(), b"[2001:db8::1]:4433");
}

/// RFC 9114 section 4.4.
#[test]
fn connect() {
    let connect = [(":method", "CONNECT"), (":authority", "edge.test:443")];
    let request = read(&connect).unwrap();
    assert_eq!(
        (request.method(), request.path()),
        (&b"CONNECT"[..], &b""[..])
    );
    let reason = "CONNECT takes :authority alone";
    assert_eq!(malformed(&[connect[0], connect[1], BASE[3]]), reason);
    assert_eq!(malformed(&[connect[0], BASE[1], connect[1]]), reason);
    assert_eq!(malformed(&[connect[0], ("host", "edge.test")]), reason);
}

/// RFC 9114 section 4.2.
#[test]
fn regular_fields() {
    let name = "field name is not a lower-case token";
    let value = "field value has forbidden characters";
    let cases = [
        (("Accept", "x"), name),
        (("", "x"), name),
        (("a b", "x"), name),
        (("a:b", "x"), name),
        (("a\r", "x"), name),
        (("\u{e9}", "x"), name),
        (("connection", "close"), "connection-specific field"),
        (("keep-alive", "1"), "connection-specific field"),
        (("proxy-connection", "1"), "connection-specific field"),
        (
            ("transfer-encoding", "chunked"),
            "connection-specific field",
        ),
        (("upgrade", "h2c"), "connection-specific field"),
        (("te", "gzip"), "TE is not trailers"),
        (("x", "a\r\nb"), value),
        (("x", "a\nb"), value),
        (("x", "a\0b"), value),
        (("x", "a\x7fb"), value),
        (("x", " a"), value),
        (("x", "a\t"), value),
        (("content-length", "1, 1"), "Content-Length is not a number"),
        (("content-length", "+1"), "Content-Length is not a number"),
        (("content-length", ""), "Content-Length is not a number"),
        (
            ("content-length", "99999999999999999999"),
            "Content-Length is not a number",
        ),
    ];
    for (field, reason) in cases {
        assert_eq!(malformed(&with(&[field])), reason, "{field:?}");
    }
    let twice = with(&[("content-length", "1"), ("content-length", "1")]);
    assert_eq!(malformed(&twice), "Content-Length appears twice");
    let static_twice = with(&[("content-length", "0"), ("content-length", "0")]);
    assert_eq!(malformed(&static_twice), "Content-Length appears twice");
    assert!(
        read(&with(&[
            ("te", "trailers"),
            ("x", "a\tb \u{e9}"),
            ("y", "")
        ]))
        .is_ok()
    );
}

/// RFC 9114 section 4.2.2: name, value and 32 for each field.
#[test]
fn the_limit_is_exact() {
    let size: usize = BASE.iter().map(|(n, v)| n.len() + v.len() + 32).sum();
    let encoded = section(BASE);
    assert_eq!(FieldSection::new(size).read_request(&encoded), Ok(()));
    for limit in 0..size {
        assert_eq!(
            FieldSection::new(limit).read_request(&encoded),
            Err(SectionError::TooLarge),
            "{limit}"
        );
    }
}

#[test]
fn trailers() {
    let check = |fields: &[(&str, &str)]| check_trailers(&section(fields), LIMIT);
    assert_eq!(check(&[]), Ok(()));
    assert_eq!(
        check(&[("server-timing", "a;dur=1"), ("etag", "\"x\"")]),
        Ok(())
    );
    let huffman_status = [("x", "y"), (":status", "418")];
    for pseudo in [
        &[(":path", "/")][..],
        &[(":pathological", "")],
        &huffman_status,
    ] {
        assert_eq!(
            check(pseudo),
            Err(H3Error::message("pseudo-field in trailers").into())
        );
    }
    assert_eq!(
        check(&[("Upper", "x")]),
        Err(H3Error::message("field name is not a lower-case token").into())
    );
    let long = "v".repeat(LIMIT);
    assert_eq!(check(&[("x", &long)]), Err(SectionError::TooLarge));
}

#[test]
fn the_default_holds_nothing() {
    let mut empty = FieldSection::default();
    assert_eq!((empty.buf.capacity(), empty.fields.capacity()), (0, 0));
    assert_eq!((empty.method(), empty.authority()), (&b""[..], &b""[..]));
    assert_eq!(
        empty.read_request(&section(BASE)),
        Err(SectionError::TooLarge)
    );
}
fn plain(method: Method, target: &str, fields: &[(&str, &str)]) -> Result<(), Option<H3Error>> {
    let mut headers = http::HeaderMap::new();
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().expect("a name");
        headers.append(name, value.parse().expect("a value"));
    }
    let request = ClientRequest {
        method,
        secure: true,
        authority: Bytes::from_static(b"edge.test"),
        target: Bytes::copy_from_slice(target.as_bytes()),
        headers,
        body: crate::io::RequestBody::default(),
    };
    FieldSection::new(1024).read_plain(&request)
}

/// What smuggles requests in HTTP/1.1 is refused here too, whichever protocol has let it through.
#[test]
fn plain_requests_are_held_to_the_same_rules() {
    assert_eq!(plain(Method::GET, "/a?b", &[("accept", "*/*")]), Ok(()));
    let shapes: [&[(&str, &str)]; 7] = [
        &[("transfer-encoding", "chunked")],
        &[("content-length", "3"), ("content-length", "4")],
        &[("content-length", "3, 3")],
        &[("content-length", "+3")],
        &[("connection", "x-forwarded-for")],
        &[("upgrade", "h2c")],
        &[("host", "edge.test"), ("host", "evil.test")],
    ];
    for fields in shapes {
        let refused = plain(Method::POST, "/a", fields);
        assert!(matches!(refused, Err(Some(_))), "{fields:?}");
    }
    for target in [
        "https://evil.test/a",
        "//evil.test/\u{1}",
        "a",
        "",
        "/a b",
        "*",
    ] {
        assert!(
            matches!(plain(Method::GET, target, &[]), Err(Some(_))),
            "{target:?}"
        );
    }
    let long = "x".repeat(1024);
    assert_eq!(plain(Method::GET, "/a", &[("x", &long)]), Err(None));
}
