//! Large objects are kept in slices: under the object's own key lies its head and a note of how it was
//! cut, under keys derived from that the slices, each fetched when it is first needed.
//!
//! ```text
//!  edge.test/film                                  head, [`Sliced`]: generation, length, slice bytes
//!  edge.test/film NUL 0xff generation index        bytes index * slice .. of that generation
//! ```
//! A generation is one version of the object as it was found once. A new version, or the same one
//! after a purge, has another, so that slices of two versions are never under keys of one object.

use std::ops::Range;

use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE};
use http::{HeaderMap, HeaderValue};

use super::range::{self, Spec};

/// In [`crate::store::ObjectMeta::flags`]: the body is a [`Sliced`].
pub const SLICED: u32 = 1 << 8;

/// The same: this is a slice. Whether it may be served, the object says.
pub const SLICE: u32 = 1 << 9;

/// No value of a selecting field can be followed by these, see [`super::vary`].
const MARK: [u8; 2] = [0, 0xff];

/// Mark, generation and index.
const SUFFIX: usize = MARK.len() + 8 + 4;

/// How an object is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sliced {
    pub generation: u64,
    /// Bytes of the whole body.
    pub length: u64,
    /// Bytes of each slice but the last.
    pub slice: u32,
}

impl Sliced {
    /// Bytes that [`Self::encode`] writes.
    pub const ENCODED: usize = 20;

    pub fn encode(&self) -> [u8; Self::ENCODED] {
        let mut out = [0; Self::ENCODED];
        out[..8].copy_from_slice(&self.generation.to_be_bytes());
        out[8..16].copy_from_slice(&self.length.to_be_bytes());
        out[16..].copy_from_slice(&self.slice.to_be_bytes());
        out
    }

    /// `None`: it is not what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (generation, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let sliced = Self {
            generation: u64::from_be_bytes(*generation),
            length: u64::from_be_bytes(*length),
            slice: u32::from_be_bytes(rest.try_into().ok()?),
        };
        (sliced.slice > 0).then_some(sliced)
    }

    /// The slice that has the byte at an offset.
    pub fn index_of(&self, offset: u64) -> u32 {
        u32::try_from(offset / u64::from(self.slice)).unwrap_or(u32::MAX)
    }

    /// The bytes of a slice.
    pub fn range(&self, index: u32) -> Range<u64> {
        let start = u64::from(index) * u64::from(self.slice);
        let end = start.saturating_add(u64::from(self.slice));
        start.min(self.length)..end.min(self.length)
    }

    /// The key of a slice of the object under `whole`.
    pub fn key(&self, whole: &[u8], index: u32) -> Vec<u8> {
        let mut key = Vec::with_capacity(whole.len() + SUFFIX);
        key.extend_from_slice(whole);
        key.extend_from_slice(&MARK);
        key.extend_from_slice(&self.generation.to_be_bytes());
        key.extend_from_slice(&index.to_be_bytes());
        key
    }
}

/// The key of the object of which `key` is a slice; `key` itself if it is none.
pub fn whole(key: &[u8]) -> &[u8] {
    match key.len().checked_sub(SUFFIX) {
        Some(at) if key[at..].starts_with(&MARK) => &key[..at],
        _ => key,
    }
}

/// The range that a fetch asks for when a client wants a part of something not known yet.
pub fn probe(spec: Spec, slice: u32) -> Probe {
    let size = u64::from(slice);
    match spec {
        Spec::From { first, .. } => Probe::Slice(u32::try_from(first / size).unwrap_or(u32::MAX)),
        Spec::Suffix(_) => Probe::End,
    }
}

/// What a fetch asks for of an object that may be large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    Slice(u32),
    /// As many bytes at the end as a slice has.
    End,
}

impl Probe {
    /// The value of Range.
    pub fn field(self, slice: u32) -> String {
        match self {
            Self::Slice(index) => {
                let start = u64::from(index) * u64::from(slice);
                format!("bytes={start}-{}", start + u64::from(slice) - 1)
            }
            Self::End => format!("bytes=-{slice}"),
        }
    }
}

/// What a 206 to a [`Probe`] turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The whole object, of this length.
    Whole(u64),
    /// A slice of an object of this length.
    Slice(u32, u64),
    /// Other bytes of a large object of this length.
    Large(u64),
    /// Nothing to go by.
    Useless,
}

/// Reads the Content-Range of a 206 with a strong validator or without.
pub fn found(probe: Probe, headers: &HeaderMap, slice: u32, is_strong: bool) -> Found {
    let value = headers.get(CONTENT_RANGE);
    let Some((range, Some(length))) =
        value.and_then(|value| range::parse_content_range(value.as_bytes()))
    else {
        return Found::Useless;
    };
    if range == (0..length) {
        return Found::Whole(length);
    }
    if !is_strong || length <= u64::from(slice) {
        return Found::Useless;
    }
    let sliced = Sliced {
        generation: 0,
        length,
        slice,
    };
    match probe {
        Probe::Slice(index) if sliced.range(index) == range => Found::Slice(index, length),
        _ => Found::Large(length),
    }
}

/// The fields of the whole, of which `headers` came with a part.
pub fn fields_of_whole(headers: &HeaderMap, length: u64) -> HeaderMap {
    let mut whole = headers.clone();
    whole.remove(CONTENT_RANGE);
    whole.insert(CONTENT_LENGTH, HeaderValue::from(length));
    whole
}

/// Whether an origin says that it answers ranges of this.
pub fn is_offered(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_RANGES).iter();
    let mut units = values.flat_map(|value| value.as_bytes().split(|&b| b == b','));
    units.any(|unit| unit.trim_ascii().eq_ignore_ascii_case(b"bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::vary;
    use proptest::prelude::*;

    const FILM: Sliced = Sliced {
        generation: 0x0000_01a0_1234_5678,
        length: 2_500,
        slice: 1_000,
    };

    #[test]
    fn an_object_is_cut_from_its_beginning() {
        let ranges = [0, 1, 2, 3].map(|index| FILM.range(index));
        assert_eq!(ranges, [0..1_000, 1_000..2_000, 2_000..2_500, 2_500..2_500]);
        assert_eq!(
            [0, 999, 1_000, 2_499].map(|at| FILM.index_of(at)),
            [0, 0, 1, 2]
        );
    }

    #[test]
    fn keys_of_slices_name_their_object_and_its_generation() {
        for object in [
            &b"edge.test/film"[..],
            b"edge.test/a\0\0\0\x01\xa0\0\0\0\0de\0",
        ] {
            let key = FILM.key(object, 7);
            assert_eq!(whole(&key), object);
            assert_eq!(whole(object), object);
            assert_eq!(vary::base(&key), vary::base(object));
            let again = Sliced {
                generation: FILM.generation + 1,
                ..FILM
            };
            assert_ne!(again.key(object, 7), key);
            assert_ne!(FILM.key(object, 8), key);
        }
    }

    fn with_range(value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_RANGE, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn what_a_probe_finds() {
        let cases = [
            (Probe::Slice(0), "bytes 0-9/10", true, Found::Whole(10)),
            (Probe::End, "bytes 0-9/10", false, Found::Whole(10)),
            (
                Probe::Slice(0),
                "bytes 0-999/2500",
                true,
                Found::Slice(0, 2_500),
            ),
            (
                Probe::Slice(2),
                "bytes 2000-2499/2500",
                true,
                Found::Slice(2, 2_500),
            ),
            (
                Probe::Slice(1),
                "bytes 1000-1998/2500",
                true,
                Found::Large(2_500),
            ),
            (
                Probe::End,
                "bytes 1500-2499/2500",
                true,
                Found::Large(2_500),
            ),
            (Probe::Slice(0), "bytes 0-999/2500", false, Found::Useless),
            (Probe::Slice(0), "bytes 0-999/*", true, Found::Useless),
            (Probe::Slice(0), "bytes 1-9/10", true, Found::Useless),
            (Probe::Slice(0), "bytes", true, Found::Useless),
        ];
        for (probe, value, is_strong, want) in cases {
            assert_eq!(
                found(probe, &with_range(value), 1_000, is_strong),
                want,
                "{value}"
            );
        }
        assert_eq!(
            found(Probe::End, &HeaderMap::new(), 1_000, true),
            Found::Useless
        );
    }

    #[test]
    fn probes_ask_for_whole_slices() {
        let spec = |first| Spec::From { first, last: None };
        assert_eq!(probe(spec(0), 1_000).field(1_000), "bytes=0-999");
        assert_eq!(probe(spec(2_345), 1_000).field(1_000), "bytes=2000-2999");
        assert_eq!(probe(Spec::Suffix(3), 1_000).field(1_000), "bytes=-1000");
        probe(spec(u64::MAX), 1).field(1);
    }

    proptest! {
        #[test]
        fn notes_are_read_back(generation: u64, length: u64, slice in 1_u32..) {
            let sliced = Sliced { generation, length, slice };
            prop_assert_eq!(Sliced::decode(&sliced.encode()), Some(sliced));
        }

        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>) {
            if let Some(sliced) = Sliced::decode(&bytes) {
                prop_assert_eq!(&sliced.encode()[..], &bytes[..]);
            }
            whole(&bytes);
        }
    }
}
