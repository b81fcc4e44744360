//! Ranges of bytes (RFC 9110 section 14): what a request asks for, what of it an answer has, and how
//! an answer with several parts is framed.
//!
//! ```text
//!  Range ---parse---> Specs ---select(length)---> Whole | Unsatisfiable | ranges
//!                                                                          |
//!       before | body[range] | before | body[range] | closing  <--- Cut ---'
//! ```
//! What is not understood is ignored, as section 14.2 allows: the whole is always a right answer.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::freshness::unix_seconds;

/// One range as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spec {
    /// From an offset to another one (inclusive), or to the end.
    From { first: u64, last: Option<u64> },
    /// So many bytes at the end.
    Suffix(u64),
}

/// What a Range field says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Specs {
    /// Another unit, or no ranges at all: as if it was not there.
    Ignored,
    /// More ranges than are answered: as if it was not there.
    TooMany,
    /// At least one.
    Ranges(Vec<Spec>),
}

/// What a response of some length has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    Whole,
    /// Nothing: 416.
    Unsatisfiable,
    /// Not empty, none of them overlap or touch each other.
    Ranges(Vec<Range<u64>>),
}

/// Reads a Range field of at most `max` ranges.
pub fn parse(value: &[u8], max: usize) -> Specs {
    let Some((unit, set)) = split_once(value, b'=') else {
        return Specs::Ignored;
    };
    if !unit.trim_ascii().eq_ignore_ascii_case(b"bytes") {
        return Specs::Ignored;
    }
    let mut specs = Vec::new();
    for text in set.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
        // Section 5.6.1: empty list elements are passed over, but they are not for free.
        if text.is_empty() {
            continue;
        }
        match parse_spec(text) {
            None => return Specs::Ignored,
            Some(_) if specs.len() == max => return Specs::TooMany,
            Some(spec) => specs.push(spec),
        }
    }
    match specs.is_empty() {
        true => Specs::Ignored,
        false => Specs::Ranges(specs),
    }
}

fn parse_spec(text: &[u8]) -> Option<Spec> {
    let (first, last) = split_once(text, b'-')?;
    if first.is_empty() {
        return Some(Spec::Suffix(number(last)?));
    }
    let first = number(first)?;
    let last = match last {
        b"" => None,
        last => Some(number(last)?),
    };
    // Section 14.1.1: such a range is invalid, not unsatisfiable.
    let backwards = last.is_some_and(|last| last < first);
    (!backwards).then_some(Spec::From { first, last })
}

fn split_once(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&b| b == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

/// Digits only; a number too large for any body is the largest one.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        Some(value.saturating_mul(10).saturating_add(digit))
    })
}

/// What a response of `length` bytes has of the ranges. Ranges that overlap or touch are joined, and
/// then stand in the order of the body (section 15.3.7.2).
pub fn select(specs: &[Spec], length: u64) -> Selection {
    let mut ranges = Vec::with_capacity(specs.len());
    for spec in specs {
        let range = match *spec {
            Spec::From { first, last } => {
                first..last.map_or(length, |last| last.saturating_add(1).min(length))
            }
            // Of an empty body the last bytes are all there is, and no Content-Range can say so.
            Spec::Suffix(1..) if length == 0 => return Selection::Whole,
            Spec::Suffix(count) => length.saturating_sub(count)..length,
        };
        if range.start < range.end {
            ranges.push(range);
        }
    }
    match ranges.len() {
        0 => Selection::Unsatisfiable,
        1 => Selection::Ranges(ranges),
        _ => Selection::Ranges(joined(ranges)),
    }
}

fn joined(asked: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut ranges = asked.clone();
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    ranges.dedup_by(|next, range| {
        let touch = next.start <= range.end;
        range.end = if touch {
            range.end.max(next.end)
        } else {
            range.end
        };
        touch
    });
    match ranges.len() == asked.len() {
        true => asked,
        false => ranges,
    }
}

/// The validators of a response.
#[derive(Clone, Copy, Debug, Default)]
pub struct Validators<'a> {
    pub etag: Option<&'a [u8]>,
    pub last_modified: Option<&'a [u8]>,
    pub date: Option<&'a [u8]>,
}

impl<'a> Validators<'a> {
    /// The one that tells any two versions apart, byte by byte: what If-Range is sent with. An entity
    /// tag that is not weak, or a date of modification that was over for at least a second when
    /// the response was made (RFC 9110 section 8.8.2.2).
    pub fn strong(&self) -> Option<&'a [u8]> {
        match self.etag {
            Some(etag) => is_strong(etag).then_some(etag),
            None => self
                .last_modified
                .filter(|modified| self.is_settled(modified)),
        }
    }

    /// Whether If-Range lets the Range be answered (section 13.1.5): the same strong entity tag, or
    /// exactly the same date where that is strong.
    pub fn if_range(&self, value: &[u8]) -> bool {
        let value = value.trim_ascii();
        if value.starts_with(b"\"") || value.starts_with(b"W/") {
            return is_strong(value) && self.etag.map(<[u8]>::trim_ascii) == Some(value);
        }
        let (Some(asked), Some(modified)) = (unix_seconds(value), self.last_modified) else {
            return false;
        };
        unix_seconds(modified) == Some(asked) && self.is_settled(modified)
    }

    fn is_settled(&self, modified: &[u8]) -> bool {
        let times = (unix_seconds(modified), self.date.and_then(unix_seconds));
        matches!(times, (Some(modified), Some(date)) if modified < date)
    }
}

fn is_strong(etag: &[u8]) -> bool {
    etag.len() >= 2 && etag.starts_with(b"\"") && etag.ends_with(b"\"")
}

/// A Content-Range of a 206: which bytes, and of how many (`None`: not said).
pub fn parse_content_range(value: &[u8]) -> Option<(Range<u64>, Option<u64>)> {
    let (unit, rest) = split_once(value.trim_ascii(), b' ')?;
    let (span, total) = split_once(rest, b'/')?;
    let (first, last) = split_once(span, b'-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = match total {
        b"*" => None,
        total => Some(number(total)?),
    };
    let end = last.checked_add(1)?;
    let sound = unit.eq_ignore_ascii_case(b"bytes")
        && first < end
        && total.is_none_or(|total| end <= total);
    sound.then_some((first..end, total))
}

/// The value of Content-Range for a part of a body of `length` bytes.
pub fn content_range(range: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end - 1)
}

/// The value of Content-Range in a 416.
pub fn unsatisfied_range(length: u64) -> String {
    format!("bytes */{length}")
}

/// What of a body goes into an answer, and what stands before each part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    parts: VecDeque<Part>,
    closing: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    before: Bytes,
    range: Range<u64>,
}

impl Cut {
    /// One part and nothing else.
    pub fn one(range: Range<u64>) -> Self {
        let before = Bytes::new();
        Self {
            parts: VecDeque::from([Part { before, range }]),
            closing: Bytes::new(),
        }
    }

    /// multipart/byteranges (section 14.6), of a body of `length` bytes.
    pub fn multipart(
        ranges: &[Range<u64>],
        length: u64,
        content_type: Option<&[u8]>,
        boundary: &str,
    ) -> Self {
        let part = |range: &Range<u64>| {
            let mut before = format!("\r\n--{boundary}\r\n").into_bytes();
            if let Some(content_type) = content_type {
                before.extend_from_slice(b"Content-Type: ");
                before.extend_from_slice(content_type);
                before.extend_from_slice(b"\r\n");
            }
            let which = content_range(range, length);
            before.extend_from_slice(format!("Content-Range: {which}\r\n\r\n").as_bytes());
            Part {
                before: before.into(),
                range: range.clone(),
            }
        };
        Self {
            parts: ranges.iter().map(part).collect(),
            closing: format!("\r\n--{boundary}--\r\n").into_bytes().into(),
        }
    }

    /// Bytes that are still to come.
    pub fn len(&self) -> u64 {
        let of_part = |part: &Part| part.before.len() as u64 + part.range.end - part.range.start;
        self.parts.iter().map(of_part).sum::<u64>() + self.closing.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The offset in the body of the byte that comes next. `None`: no more is needed of the body.
    pub fn wants(&self) -> Option<u64> {
        self.parts.front().map(|part| part.range.start)
    }

    /// The last offset in the body, exclusive, up to which it goes on from there.
    pub fn until(&self) -> Option<u64> {
        self.parts.front().map(|part| part.range.end)
    }

    /// Takes what it wants of a piece of the body that begins at offset `at`, and of those parts that
    /// follow in the same piece. False when the piece does not have what comes next.
    pub fn take(&mut self, at: u64, piece: &Bytes, into: &mut VecDeque<Bytes>) -> bool {
        let end = at + piece.len() as u64;
        let mut taken = false;
        while let Some(part) = self.parts.front_mut() {
            if part.range.start < at || part.range.start >= end {
                return taken;
            }
            taken = true;
            if !part.before.is_empty() {
                into.push_back(std::mem::take(&mut part.before));
            }
            let until = part.range.end.min(end);
            let (from, to) = (part.range.start - at, until - at);
            into.push_back(piece.slice(from as usize..to as usize));
            part.range.start = until;
            if until < part.range.end {
                return true;
            }
            self.parts.pop_front();
            if self.parts.is_empty() && !self.closing.is_empty() {
                into.push_back(std::mem::take(&mut self.closing));
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests;
