//! What the origin answers under each path, as a function of the path alone.
//!
//! Clients call [`body`] to know the right bytes without asking the origin, which is what makes a
//! byte-for-byte check of a cache possible. Bodies with no fixed content (the live status, the
//! counts) are not here.

use bytes::Bytes;

use super::emotes;

/// Largest `/size/BYTES`; a larger one is answered 400.
pub const MAX_SIZE: u64 = 256 << 20;
/// Length of `/media/20mb.bin`.
pub const MEDIA_BYTES: u64 = 20 << 20;
/// Length of the bodies that only carry a name (`/slow`, `/private`, `/no-store`, ...).
pub const NAMED_BYTES: u64 = 4096;

/// The body under `target` (path and optional query), where it is a function of the target.
///
/// `None` for an unknown path, for a body that changes with time or counts (`/live/status.json`,
/// `/__counts`, `/headers`), and past [`MAX_SIZE`]. `/stall` and `/truncate` give the body that
/// was promised, of which the origin sends less. The query decides only through `v`.
pub fn body(target: &str) -> Option<Bytes> {
    let (path, query) = split(target);
    if let Some(n) = emote_number(path) {
        return (n < emotes::MAX_EMOTES).then(|| Bytes::from(emotes::draw(n)));
    }
    if path == "/index" || path == "/" {
        return Some(Bytes::from(index_page()));
    }
    let length = length_of(path)?;
    Some(fill(seed(path, parameter(query, "v")), length))
}

/// Path and query of a request target; the query is empty where there is none.
pub fn split(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

/// The value of `name` in a query, not percent-decoded.
pub fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(k, _)| *k == name))
        .map(|(_, v)| v)
}

/// `N` of `/emotes/N.png`.
pub fn emote_number(path: &str) -> Option<u32> {
    let digits = path.strip_prefix("/emotes/")?.strip_suffix(".png")?;
    let canonical = digits == "0" || !digits.starts_with('0');
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    (canonical && plain).then(|| digits.parse().ok()).flatten()
}

/// How many bytes the deterministic filler under `path` has.
fn length_of(path: &str) -> Option<u64> {
    let mut parts = path.strip_prefix('/')?.split('/');
    let first = parts.next()?;
    let argument = parts.next();
    match (first, argument) {
        ("media", Some("20mb.bin")) => Some(MEDIA_BYTES),
        ("size" | "chunked" | "drip", Some(n)) => n.parse().ok().filter(|n| *n <= MAX_SIZE),
        ("slow", Some(_)) => Some(NAMED_BYTES),
        ("status", Some(_)) => Some(64),
        ("private" | "no-store" | "stall" | "truncate", _) => Some(NAMED_BYTES),
        _ => None,
    }
}

fn index_page() -> String {
    let pictures: String = (0..200)
        .map(|n| format!("<img src=\"/emotes/{n}.png\" alt=\"emote {n}\" loading=\"eager\">\n"))
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>popcache demo</title>\n\
         <style>body{{font:16px system-ui;background:#18181b;color:#efeff1}}img{{margin:4px}}</style></head>\n\
         <body><h1>popcache demo</h1>\n<p id=\"pictures\">\n{pictures}</p></body></html>\n"
    )
}

/// FNV-1a over the path and the variant: equal targets give equal bytes on every machine.
pub(super) fn seed(path: &str, variant: Option<&str>) -> u64 {
    let bytes = path
        .bytes()
        .chain([b'?'])
        .chain(variant.unwrap_or("").bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// `length` bytes of a SplitMix64 stream: incompressible, and each offset has its own value.
fn fill(seed: u64, length: u64) -> Bytes {
    fill_from(seed, 0..length)
}

/// Bytes of such a stream from one offset to another.
pub(super) fn fill_from(seed: u64, range: std::ops::Range<u64>) -> Bytes {
    let length = usize::try_from(range.end - range.start).expect("as much as fits memory");
    let skip = (range.start % 8) as usize;
    let mut out = Vec::with_capacity(skip + length + 8);
    let mut word = range.start / 8;
    while out.len() < skip + length {
        out.extend_from_slice(&mix(seed.wrapping_add(word)).to_le_bytes());
        word += 1;
    }
    Bytes::from(out).slice(skip..skip + length)
}

/// The output step of SplitMix64.
pub(super) fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_always_gives_the_same_bytes() {
        for target in [
            "/size/5000",
            "/media/20mb.bin",
            "/slow/500/a",
            "/emotes/17.png",
            "/index",
        ] {
            assert_eq!(body(target), body(target), "{target}");
        }
        let first = &body("/size/16").expect("known path")[..];
        assert_eq!(first, &body("/size/16?delay=9").expect("known path")[..]);
        assert_eq!(first.len(), 16);
    }

    #[test]
    fn the_variant_and_the_path_choose_the_bytes() {
        assert_ne!(body("/size/100?v=1"), body("/size/100?v=2"));
        assert_ne!(body("/size/100?v=1"), body("/size/100"));
        assert_ne!(body("/slow/1/a"), body("/slow/1/b"));
        assert_eq!(body("/size/100?x=3&v=1"), body("/size/100?v=1"));
    }

    #[test]
    fn lengths_are_as_asked_and_bounded() {
        for n in [0u64, 1, 7, 8, 9, 4096, 65_537] {
            assert_eq!(
                body(&format!("/size/{n}")).expect("known path").len() as u64,
                n
            );
        }
        assert_eq!(
            body("/media/20mb.bin").expect("known path").len() as u64,
            MEDIA_BYTES
        );
        assert_eq!(body(&format!("/size/{}", MAX_SIZE + 1)), None);
        assert_eq!(body("/size/-1"), None);
    }

    #[test]
    fn unknown_paths_have_no_body() {
        for target in [
            "/nope",
            "",
            "/emotes/01.png",
            "/emotes/+1.png",
            "/emotes/x.png",
            "/live/status.json",
        ] {
            assert_eq!(body(target), None, "{target}");
        }
    }
}
