//! Requests that come back: CDN-Loop (RFC 8586) and Via (RFC 9110 section 7.6.3).
//!
//! The nodes of a fleet may share one name, edge and shield among them, so a node adds to CDN-Loop
//! who of that name it is: `popcache; node=5f3a`. A request has been here before if
//! - CDN-Loop has this node's own id, or its name without any id; or
//! - Via names it more often than CDN-Loop: somebody on the way takes CDN-Loop away; or
//! - more nodes of its name have passed it on than a chain of tiers has.

use http::{HeaderMap, HeaderName, HeaderValue, header};

pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// Nodes of one name that a request may pass: edge, shield, and a spare.
const MAX_HOPS: usize = 3;
/// Entries of Via and CDN-Loop together, whoever made them.
const MAX_ENTRIES: usize = 32;

/// What this node adds to CDN-Loop. `None`: `name` or `id` cannot stand there.
pub fn cdn_info(name: &str, id: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{name}; node={id}")).ok()
}

/// Whether a request with these fields (names in lower case) has been at the node `id` of this
/// name, or at too many others.
pub fn is_loop<'a>(
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    name: &str,
    id: &str,
) -> bool {
    let (mut entries, mut passed, mut via) = (0, 0, 0);
    for (field, value) in fields {
        match field {
            b"cdn-loop" => {
                for info in entries_of(value) {
                    entries += 1;
                    match read_info(info, name) {
                        Some(Info::Ours(node)) if node != id.as_bytes() => passed += 1,
                        Some(_) => return true,
                        None => {}
                    }
                }
            }
            b"via" => {
                for entry in entries_of(value) {
                    entries += 1;
                    via += usize::from(is_received_by(entry, name));
                }
            }
            _ => {}
        }
    }
    via > passed || passed > MAX_HOPS || entries > MAX_ENTRIES
}

/// Copies what says where a request has been: a fetch for it carries that on.
pub fn copy_trace<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>, headers: &mut HeaderMap) {
    for (field, value) in fields {
        let name = match field {
            b"cdn-loop" => CDN_LOOP,
            b"via" => header::VIA,
            _ => continue,
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
}

enum Info<'a> {
    /// Of our name, with a node's id.
    Ours(&'a [u8]),
    /// Of our name, and nothing more.
    Bare,
}

fn read_info<'a>(info: &'a [u8], name: &str) -> Option<Info<'a>> {
    let mut parts = split(info, b';');
    let id = parts.next()?.trim_ascii();
    if !id.eq_ignore_ascii_case(name.as_bytes()) {
        return None;
    }
    let node = parts.find_map(|parameter| {
        let (key, value) = split_once(parameter.trim_ascii(), b'=')?;
        key.eq_ignore_ascii_case(b"node")
            .then(|| unquoted(value.trim_ascii()))
    });
    Some(node.map_or(Info::Bare, Info::Ours))
}

/// `[protocol/]version received-by [comment]`
fn is_received_by(entry: &[u8], name: &str) -> bool {
    let mut words = entry
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    words
        .nth(1)
        .is_some_and(|by| by.eq_ignore_ascii_case(name.as_bytes()))
}

fn entries_of(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    split(value, b',')
        .map(<[u8]>::trim_ascii)
        .filter(|entry| !entry.is_empty())
}

/// Splits outside of quoted strings and comments.
fn split(value: &[u8], by: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped, mut depth) = (false, false, 0_usize);
    value.split(move |&byte| {
        if std::mem::take(&mut escaped) {
            return false;
        }
        match byte {
            b'\\' if quoted || depth > 0 => escaped = true,
            b'"' if depth == 0 => quoted = !quoted,
            b'(' if !quoted => depth += 1,
            b')' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        byte == by && !quoted && depth == 0
    })
}

fn split_once(value: &[u8], by: u8) -> Option<(&[u8], &[u8])> {
    let at = value.iter().position(|&byte| byte == by)?;
    Some((value[..at].trim_ascii(), &value[at + 1..]))
}

fn unquoted(value: &[u8]) -> &[u8] {
    let inner = value.strip_prefix(b"\"");
    inner
        .and_then(|inner| inner.strip_suffix(b"\""))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looped(fields: &[(&str, &str)]) -> bool {
        let fields = fields
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        is_loop(fields, "popcache", "a1")
    }

    #[test]
    fn our_own_mark_is_a_loop() {
        for fields in [
            [("cdn-loop", "popcache; node=a1")],
            [("cdn-loop", "other; x=\"a,b\" , PopCache ;node=\"a1\"")],
            [("cdn-loop", "popcache")],
            [("cdn-loop", "popcache; x=y")],
            [("via", "1.1 popcache")],
            [("via", "2 front, HTTP/1.1 popcache (a, comment)")],
        ] {
            assert!(looped(&fields), "{fields:?}");
        }
    }

    #[test]
    fn others_are_not() {
        for fields in [
            &[("cdn-loop", "popcache2, other; node=a1")][..],
            &[("via", "1.1 other (popcache), 1.1 x (1.1, popcache y)")],
            &[("via", "1.1 popcache"), ("cdn-loop", "popcache; node=b2")],
            &[("accept", "popcache")],
            &[("via", "popcache"), ("cdn-loop", ", ,")],
        ] {
            assert!(!looped(fields), "{fields:?}");
        }
    }

    #[test]
    fn a_chain_of_our_name_is_bounded() {
        let chain = |nodes: usize| vec![("cdn-loop", "popcache; node=b"); nodes];
        assert!(!looped(&chain(3)));
        assert!(looped(&chain(4)));
    }

    #[test]
    fn so_are_all_entries() {
        assert!(!looped(&[("via", "1.1 x,".repeat(32).as_str())]));
        assert!(looped(&[("via", "1.1 x,".repeat(33).as_str())]));
    }

    #[test]
    fn the_trace_is_carried_on() {
        let fields = [("via", "1.1 a"), ("cookie", "x"), ("cdn-loop", "b")];
        let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let mut headers = HeaderMap::new();
        copy_trace(fields.into_iter(), &mut headers);
        assert_eq!(headers.len(), 2);
        assert_eq!(
            (&headers["via"], &headers["cdn-loop"]),
            (
                &HeaderValue::from_static("1.1 a"),
                &HeaderValue::from_static("b"),
            )
        );
    }
}
