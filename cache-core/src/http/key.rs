//! Cache keys: the canonical bytes of an authority and a target.
//!
//! ```text
//!  Edge.Test:443 + /a%2fb?x=1   -->   edge.test/a%2Fb?x=1
//!  [2001:DB8::1]:8443 + /       -->   [2001:db8::1]:8443/
//! ```
//!
//! Two requests have the same key only if they name the same resource:
//! - an authority holds no `/` and a target begins with one, so a key splits in one way only;
//! - within the authority only the case of letters and the default port are dropped, which RFC
//!   9110 section 4.2.3 declares equivalent, and ports are written in one way only;
//! - within the target only the hexadecimal digits of percent-encodings change case (RFC 3986
//!   section 6.2.2.1). `%41` and `A` stay two keys: that costs a miss, never a wrong hit.
//!
//! What cannot be one resource to everybody is refused, not repaired: dot segments (which some
//! origins resolve and others do not), backslashes, fragments, controls, spaces and raw non-ASCII.
//! The scheme is not part of a key; all that is served is https.

use std::net::Ipv6Addr;

/// Why a request has no cache key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Answered with 400.
    #[error("bad authority: {0}")]
    Authority(&'static str),
    /// Answered with 400.
    #[error("bad target: {0}")]
    Target(&'static str),
    /// Answered with 414.
    #[error("the request target is longer than {limit} bytes")]
    TooLong { limit: usize },
}

/// Why a URL given by an operator has no cache key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("not a URL of the form https://host[:port]/path[?query]")]
    NotHttps,
    #[error(transparent)]
    Bad(#[from] BadRequest),
}

/// A DNS name in text, or an IPv6 address in brackets, is never longer.
const MAX_HOST: usize = 255;

/// Port of https, dropped from keys.
const DEFAULT_PORT: u16 = 443;

/// Clears `out` and writes the cache key of an authority (`host[:port]`) and a target (path and
/// query) to it. Allocates only if `out` must grow. After an error the content of `out` means
/// nothing.
pub fn write_key(
    authority: &[u8],
    target: &[u8],
    max_target: usize,
    out: &mut Vec<u8>,
) -> Result<(), BadRequest> {
    out.clear();
    if target.len() > max_target {
        return Err(BadRequest::TooLong { limit: max_target });
    }
    write_authority(authority, out).map_err(BadRequest::Authority)?;
    write_target(target, out).map_err(BadRequest::Target)
}

/// The key of `https://host[:port]/path[?query]`: the bytes [`write_key`] gives for a request of it.
pub fn key_of_url(url: &str) -> Result<Vec<u8>, KeyError> {
    const SCHEME: &[u8] = b"https://";
    let rest = match url.as_bytes().split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
        _ => return Err(KeyError::NotHttps),
    };
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#'));
    let (authority, rest) = rest.split_at(end.unwrap_or(rest.len()));
    let mut target = rest.to_vec();
    if target.first() != Some(&b'/') {
        target.insert(0, b'/');
    }
    let mut key = Vec::with_capacity(authority.len() + target.len());
    write_key(authority, &target, usize::MAX, &mut key)?;
    Ok(key)
}

/// Splits a key into its authority (with the port unless it is 443) and its target: what the
/// upstream is asked for.
pub fn split(key: &[u8]) -> (&[u8], &[u8]) {
    key.split_at(key.iter().position(|&b| b == b'/').unwrap_or(key.len()))
}

/// The host of a key, lower-case and without port: what [`crate::config::OriginRoute::hosts`]
/// names.
pub fn host(key: &[u8]) -> &[u8] {
    let authority = split(key).0;
    let end = match authority.first() {
        Some(b'[') => authority.iter().position(|&b| b == b']').map(|at| at + 1),
        _ => authority.iter().position(|&b| b == b':'),
    };
    &authority[..end.unwrap_or(authority.len())]
}

fn write_authority(authority: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let (host, port) = split_port(authority)?;
    check_host(host)?;
    out.extend_from_slice(host);
    out.make_ascii_lowercase();
    match port {
        Some(port) if parse_port(port)? != DEFAULT_PORT => {
            out.push(b':');
            out.extend_from_slice(port);
        }
        _ => {}
    }
    Ok(())
}

fn split_port(authority: &[u8]) -> Result<(&[u8], Option<&[u8]>), &'static str> {
    let host_len = match authority.first() {
        Some(b'[') => match authority.iter().position(|&b| b == b']') {
            Some(at) => at + 1,
            None => return Err("bracket is not closed"),
        },
        _ => authority
            .iter()
            .position(|&b| b == b':')
            .unwrap_or(authority.len()),
    };
    match authority.split_at(host_len) {
        (host, []) => Ok((host, None)),
        (host, [b':', port @ ..]) => Ok((host, Some(port))),
        _ => Err("bytes after the address"),
    }
}

/// RFC 3986 section 3.2.2, less what no host name has: percent-encodings and most punctuation.
fn check_host(host: &[u8]) -> Result<(), &'static str> {
    match host {
        [] => Err("host is empty"),
        _ if host.len() > MAX_HOST => Err("host is longer than 255 bytes"),
        [b'[', address @ .., b']'] => {
            let text = std::str::from_utf8(address).map_err(|_| "not an IPv6 address")?;
            let address: Result<Ipv6Addr, _> = text.parse();
            address.map(drop).map_err(|_| "not an IPv6 address")
        }
        name if name.iter().all(|&b| is_host_byte(b)) => Ok(()),
        _ => Err("host has forbidden characters"),
    }
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

fn parse_port(port: &[u8]) -> Result<u16, &'static str> {
    let canonical = matches!(port, [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit));
    let text = std::str::from_utf8(port).unwrap_or_default();
    match text.parse() {
        Ok(number) if canonical => Ok(number),
        _ => Err("port is not a number from 1 to 65535"),
    }
}

fn write_target(target: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    if target.first() != Some(&b'/') {
        return Err("does not begin with /");
    }
    let path_len = target.iter().position(|&b| b == b'?');
    let path = &target[..path_len.unwrap_or(target.len())];
    if path.split(|&b| b == b'/').any(is_dot_segment) {
        return Err("path has dot segments");
    }
    let start = out.len();
    out.extend_from_slice(target);
    canonicalise(&mut out[start..])
}

/// `.` or `..`, in any spelling.
fn is_dot_segment(segment: &[u8]) -> bool {
    let mut rest = segment;
    for dots in 0.. {
        rest = match rest {
            [] => return dots == 1 || dots == 2,
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return false,
        };
    }
    false
}

/// Checks every byte of a target and writes percent-encodings with capital digits.
fn canonicalise(target: &mut [u8]) -> Result<(), &'static str> {
    let mut at = 0;
    while let Some(&byte) = target.get(at) {
        match TARGET[byte as usize] {
            Class::Plain => at += 1,
            Class::Percent => {
                let Some(digits) = target.get_mut(at + 1..at + 3) else {
                    return Err("percent sign without two digits");
                };
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err("percent sign without two digits");
                }
                digits.make_ascii_uppercase();
                at += 3;
            }
            Class::Fragment => return Err("has a fragment"),
            Class::Forbidden => return Err("has forbidden characters"),
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Percent,
    Fragment,
    Forbidden,
}

/// `pchar`, `/` and `?` of RFC 3986, and the six others that browsers leave as they are.
const TARGET: [Class; 256] = {
    let mut table = [Class::Forbidden; 256];
    let plain = b"-._~!$&'()*+,;=:@/?[]^|{}";
    let mut i = 0;
    while i < plain.len() {
        table[plain[i] as usize] = Class::Plain;
        i += 1;
    }
    let mut byte = 0u8;
    while byte < 128 {
        if byte.is_ascii_alphanumeric() {
            table[byte as usize] = Class::Plain;
        }
        byte += 1;
    }
    table[b'%' as usize] = Class::Percent;
    table[b'#' as usize] = Class::Fragment;
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(authority: &str, target: &str) -> Result<String, BadRequest> {
        let mut out = b"left over".to_vec();
        write_key(authority.as_bytes(), target.as_bytes(), 64, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// RFC 9110 section 4.2.3, RFC 3986 section 6.2.2.1.
    #[test]
    fn canonical_forms() {
        let cases = [
            ("edge.test", "/", "edge.test/"),
            ("Edge.TEST", "/Path", "edge.test/Path"),
            ("edge.test:443", "/a", "edge.test/a"),
            ("edge.test:4433", "/a", "edge.test:4433/a"),
            ("[2001:DB8::1]:443", "/a", "[2001:db8::1]/a"),
            ("[::1]:80", "/a", "[::1]:80/a"),
            (
                "a_b-c.test",
                "/a%2fb%C3%a9?q=%e2",
                "a_b-c.test/a%2Fb%C3%A9?q=%E2",
            ),
            ("a", "/?", "a/?"),
            ("a", "//b//", "a//b//"),
            ("a", "/...", "a/..."),
            (
                "a",
                "/.well-known/x..y/%2e%2e%2e",
                "a/.well-known/x..y/%2E%2E%2E",
            ),
            ("a", "/x?/../y", "a/x?/../y"),
            ("a", "/[x]^|{y}'\u{27}(z)", "a/[x]^|{y}''(z)"),
        ];
        for (authority, target, want) in cases {
            assert_eq!(key(authority, target).as_deref(), Ok(want));
        }
    }

    #[test]
    fn bad_authorities() {
        let long = "a".repeat(256);
        for bad in [
            "",
            ":80",
            "a:",
            "a:0",
            "a:080",
            "a:65536",
            "a:+1",
            "a:1:2",
            "a b",
            "u@a",
            "a/b",
            "a%41",
            "[::1",
            "[]",
            "[::g]",
            "[::1]x",
            "[1.2.3.4]",
            "\u{e9}",
            "a\0",
            "[fe80::1%25eth0]",
            &long,
        ] {
            let got = key(bad, "/");
            assert!(
                matches!(got, Err(BadRequest::Authority(_))),
                "{bad}: {got:?}"
            );
        }
    }

    #[test]
    fn bad_targets() {
        for bad in [
            "",
            "*",
            "a",
            "?x",
            "https://a/",
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/%2e",
            "/%2E%2e/x",
            "/.%2e",
            "/a/..?x",
            "/a#b",
            "/a?b#c",
            "/a b",
            "/a\\b",
            "/a\tb",
            "/a\x7f",
            "/\u{e9}",
            "/%",
            "/%4",
            "/%zz",
            "/%4g",
            "/a\"b",
            "/<",
            "/>",
            "/`",
            "/a\0",
        ] {
            let got = key("a", bad);
            assert!(matches!(got, Err(BadRequest::Target(_))), "{bad}: {got:?}");
        }
        let long = format!("/{}", "a".repeat(64));
        assert_eq!(key("a", &long), Err(BadRequest::TooLong { limit: 64 }));
        assert!(key("a", &long[..64]).is_ok());
    }

    #[test]
    fn urls_give_the_keys_of_their_requests() {
        let cases = [
            ("https://Edge.test/a%2fb?x=1", "edge.test", "/a%2Fb?x=1"),
            ("HTTPS://edge.test:443", "edge.test", "/"),
            ("https://edge.test?x", "edge.test", "/?x"),
            ("https://[::1]:4433/a", "[::1]:4433", "/a"),
        ];
        for (url, authority, target) in cases {
            let url = key_of_url(url).unwrap();
            assert_eq!(url, key(authority, target).unwrap().into_bytes());
        }
        for bad in [
            "",
            "edge.test/a",
            "/a",
            "http://edge.test/a",
            "https:/a",
            "ftp://a/",
            "\u{e9}",
        ] {
            assert_eq!(key_of_url(bad), Err(KeyError::NotHttps), "{bad}");
        }
        for bad in [
            "https://",
            "https:///a",
            "https://a/b#c",
            "https://u@a/",
            "https://a/../b",
        ] {
            assert!(matches!(key_of_url(bad), Err(KeyError::Bad(_))), "{bad}");
        }
    }

    #[test]
    fn a_key_comes_apart_again() {
        for (authority, target, name) in [
            ("edge.test", "/a:b/c", "edge.test"),
            ("edge.test:4433", "/", "edge.test"),
            ("[::1]:4433", "/x", "[::1]"),
            ("[::1]", "/x", "[::1]"),
        ] {
            let key = key(authority, target).unwrap();
            assert_eq!(
                split(key.as_bytes()),
                (authority.as_bytes(), target.as_bytes())
            );
            assert_eq!(host(key.as_bytes()), name.as_bytes());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        /// A small alphabet, so that pairs come close to each other.
        #[test]
        fn keys_are_equal_only_for_equivalent_requests(
            a in ("[aA.:4\\[\\]]{1,7}(:443)?", "/[a%2fF/?.]{0,6}"),
            b in ("[aA.:4\\[\\]]{1,7}(:443)?", "/[a%2fF/?.]{0,6}"),
        ) {
            let equivalent = |(authority, target): &(String, String)| {
                let host = authority.to_ascii_lowercase();
                let host = host.strip_suffix(":443").unwrap_or(&host).to_owned();
                // In this alphabet a hexadecimal digit that is a letter is an f.
                let target = target.replace("%2f", "%2F").replace("%ff", "%FF");
                let target = target.replace("%fF", "%FF").replace("%Ff", "%FF");
                let target = ["2", "a", "A"].iter().fold(target, |t, d| {
                    t.replace(&format!("%f{d}"), &format!("%F{}", d.to_uppercase()))
                        .replace(&format!("%F{d}"), &format!("%F{}", d.to_uppercase()))
                        .replace(&format!("%a{d}"), &format!("%A{}", d.to_uppercase()))
                        .replace(&format!("%2{d}"), &format!("%2{}", d.to_uppercase()))
                });
                let target = target.replace("%af", "%AF").replace("%aF", "%AF");
                (host, target)
            };
            if let (Ok(key_a), Ok(key_b)) = (key(&a.0, &a.1), key(&b.0, &b.1)) {
                prop_assert_eq!(key_a == key_b, equivalent(&a) == equivalent(&b));
            }
        }

        #[test]
        fn any_bytes_are_refused_or_canonical(
            authority in prop::collection::vec(any::<u8>(), 0..20),
            target in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut once = Vec::new();
            if write_key(&authority, &target, 64, &mut once).is_ok() {
                let (authority, target) = split(&once);
                let mut twice = Vec::new();
                prop_assert_eq!(write_key(authority, target, 64, &mut twice), Ok(()));
                prop_assert_eq!(&twice, &once);
            }
        }
    }
}
