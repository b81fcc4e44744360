//! Field sections without a dynamic table (RFC 9204).
//!
//! Requests are encoded once per target without Huffman. Of a response only the status, the length
//! and Cache-Status are read. Most heads of a run are alike, so a head equal to the one before is not
//! decoded again.

use super::h3::Malformed;
use super::huffman::Huffman;

/// What the cache said of a response in Cache-Status (RFC 9211).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheStatus {
    #[default]
    Absent,
    Hit,
    /// `fwd`: the request went, or waited for one that went, to the origin.
    Forwarded,
}

/// What is kept of a response head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub length: Option<u64>,
    pub cache: CacheStatus,
}

/// The field section of a GET.
pub(super) fn encode_section(authority: &str, target: &str, range: Option<&str>) -> Vec<u8> {
    let mut section = vec![0, 0];
    // :method GET and :scheme https, whole, from the static table.
    section.extend_from_slice(&[0xc0 | 17, 0xc0 | 23]);
    for (index, value) in [(0u8, authority), (1, target)] {
        section.push(0x50 | index);
        encode_prefixed(value.len() as u64, 7, &mut section);
        section.extend_from_slice(value.as_bytes());
    }
    if let Some(range) = range {
        // A literal with the name `range`.
        section.extend_from_slice(b"\x25range");
        encode_prefixed(range.len() as u64, 7, &mut section);
        section.extend_from_slice(range.as_bytes());
    }
    section
}

/// Decodes heads and remembers the last one.
pub(super) struct Heads {
    huffman: Huffman,
    last: Vec<u8>,
    decoded: Head,
}

impl Heads {
    pub(super) fn new() -> Self {
        Self {
            huffman: Huffman::new(),
            last: Vec::new(),
            decoded: Head::default(),
        }
    }

    pub(super) fn decode(&mut self, section: &[u8]) -> Result<Head, Malformed> {
        if self.last != section {
            self.decoded = self.decode_fields(section).ok_or(Malformed::Fields)?;
            self.last.clear();
            self.last.extend_from_slice(section);
        }
        Ok(self.decoded)
    }

    fn decode_fields(&self, section: &[u8]) -> Option<Head> {
        let mut rest = section;
        if decode_prefixed(8, &mut rest)? != 0 {
            return None; // Needs a dynamic table, which we did not allow.
        }
        decode_prefixed(7, &mut rest)?;
        let mut head = Head::default();
        while let Some(&first) = rest.first() {
            self.field(first, &mut rest, &mut head)?;
        }
        (head.status != 0).then_some(head)
    }

    fn field(&self, first: u8, rest: &mut &[u8], head: &mut Head) -> Option<()> {
        if first & 0xc0 == 0xc0 {
            let index = decode_prefixed(6, rest)?;
            if let Some(status) = static_status(index) {
                head.status = status;
            } else if index == STATIC_CONTENT_LENGTH {
                head.length = Some(0);
            }
            return (index < STATIC_ENTRIES).then_some(());
        }
        let name = if first & 0xd0 == 0x50 {
            Name::from_static(decode_prefixed(4, rest)?)?
        } else if first & 0xe0 == 0x20 {
            Name::from_literal(&self.string(3, rest)?)
        } else {
            return None;
        };
        let value = self.string(7, rest)?;
        name.note(&value, head)
    }

    /// A string whose Huffman flag is the bit above the length's prefix.
    fn string(&self, prefix: u32, rest: &mut &[u8]) -> Option<Vec<u8>> {
        let coded = rest.first()? & 1 << prefix != 0;
        let length = usize::try_from(decode_prefixed(prefix, rest)?).ok()?;
        let (bytes, tail) = rest.split_at_checked(length)?;
        *rest = tail;
        if !coded {
            return Some(bytes.to_vec());
        }
        let mut out = Vec::with_capacity(length * 2);
        self.huffman.decode(bytes, &mut out)?;
        Some(out)
    }
}

const STATIC_ENTRIES: u64 = 99;
const STATIC_CONTENT_LENGTH: u64 = 4;

/// The `:status` entries of the static table (RFC 9204 appendix A).
fn static_status(index: u64) -> Option<u16> {
    const LOW: [u16; 5] = [103, 200, 304, 404, 503];
    const HIGH: [u16; 9] = [100, 204, 206, 302, 400, 403, 421, 425, 500];
    match index {
        24..=28 => Some(LOW[(index - 24) as usize]),
        63..=71 => Some(HIGH[(index - 63) as usize]),
        _ => None,
    }
}

/// The fields that matter here.
enum Name {
    Status,
    Length,
    CacheStatus,
    Other,
}

impl Name {
    fn from_static(index: u64) -> Option<Self> {
        match index {
            STATIC_CONTENT_LENGTH => Some(Self::Length),
            _ if static_status(index).is_some() => Some(Self::Status),
            _ => (index < STATIC_ENTRIES).then_some(Self::Other),
        }
    }

    fn from_literal(name: &[u8]) -> Self {
        match name {
            b":status" => Self::Status,
            b"content-length" => Self::Length,
            b"cache-status" => Self::CacheStatus,
            _ => Self::Other,
        }
    }

    fn note(&self, value: &[u8], head: &mut Head) -> Option<()> {
        let text = std::str::from_utf8(value);
        match self {
            Self::Status => head.status = text.ok()?.parse().ok()?,
            Self::Length => head.length = Some(text.ok()?.parse().ok()?),
            Self::CacheStatus => head.cache = cache_status(text.ok()?),
            Self::Other => {}
        }
        Some(())
    }
}

fn cache_status(value: &str) -> CacheStatus {
    let parameters = || value.split(';').skip(1).map(str::trim);
    if parameters().any(|p| p == "hit") {
        CacheStatus::Hit
    } else if parameters().any(|p| p.starts_with("fwd")) {
        CacheStatus::Forwarded
    } else {
        CacheStatus::Absent
    }
}

/// An integer with a prefix of `bits` bits (RFC 7541 section 5.1); the flags above it must be in
/// the last byte already written.
fn encode_prefixed(n: u64, bits: u32, out: &mut Vec<u8>) {
    let most = (1u64 << bits) - 1;
    if n < most {
        out.push(n as u8);
        return;
    }
    out.push(most as u8);
    let mut rest = n - most;
    while rest >= 128 {
        out.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    out.push(rest as u8);
}

fn decode_prefixed(bits: u32, rest: &mut &[u8]) -> Option<u64> {
    let most = (1u64 << bits) - 1;
    let (&first, mut tail) = rest.split_first()?;
    let mut n = u64::from(first) & most;
    if n == most {
        for shift in (0..28).step_by(7) {
            let (&byte, next) = tail.split_first()?;
            tail = next;
            n += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *rest = tail;
                return Some(n);
            }
        }
        return None;
    }
    *rest = tail;
    Some(n)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A field with a literal name, as it appears in a section.
    pub(in super::super) fn literal(name: &str, value: &str) -> Vec<u8> {
        let mut field = Vec::new();
        encode_prefixed(name.len() as u64, 3, &mut field);
        field[0] |= 0x20;
        field.extend_from_slice(name.as_bytes());
        encode_prefixed(value.len() as u64, 7, &mut field);
        field.extend_from_slice(value.as_bytes());
        field
    }

    #[test]
    fn integers_survive_a_round_trip() {
        for n in [0u64, 5, 6, 7, 126, 127, 128, 255, 1337, 20_000] {
            for bits in [3, 4, 6, 7, 8] {
                let mut bytes = Vec::new();
                encode_prefixed(n, bits, &mut bytes);
                assert_eq!(decode_prefixed(bits, &mut &bytes[..]), Some(n));
            }
        }
        assert_eq!(
            decode_prefixed(7, &mut &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0][..]),
            None
        );
    }

    #[test]
    fn heads_are_read_in_every_encoding() {
        let huffman_302 = [0, 0, 0x5f, 9, 0x82, 0x64, 0x02];
        let literal_404 = [
            &[0, 0][..],
            &literal(":status", "404"),
            &literal("x-other", "y"),
        ]
        .concat();
        let forwarded = [
            &[0, 0, 0xc0 | 25][..],
            &literal("cache-status", "popcache; fwd=uri-miss; stored"),
        ]
        .concat();
        let mut heads = Heads::new();
        assert_eq!(heads.decode(&huffman_302).map(|h| h.status), Ok(302));
        assert_eq!(heads.decode(&literal_404).map(|h| h.status), Ok(404));
        assert_eq!(
            heads.decode(&forwarded).map(|h| h.cache),
            Ok(CacheStatus::Forwarded)
        );
        for broken in [
            &[0, 0][..],
            &[0, 0, 0x80],
            &[0, 0, 0xff, 0xff],
            &[0, 0, 0x51, 9, b'x'],
        ] {
            assert_eq!(heads.decode(broken), Err(Malformed::Fields), "{broken:?}");
        }
    }
}
