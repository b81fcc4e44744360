//! What must hold for an answer to a request for parts, found out apart from the code that cuts them.

use std::ops::Range;

use crate::client::Answer;
use crate::plan::RangePlan;

/// The parts of a 206 are of this body, and are those that were asked for.
pub fn parts_hold(asked: RangePlan, answer: &Answer, body: &[u8]) -> Result<(), String> {
    let parts = match (&answer.content_range, &answer.boundary) {
        (Some(range), None) => vec![(span(range)?, &answer.body[..])],
        (None, Some(boundary)) => multipart(&answer.body, boundary)?,
        _ => return Err("a 206 that does not say which part it is".to_owned()),
    };
    let mut got = vec![0_u8; body.len()];
    for ((range, length), bytes) in parts {
        if length != body.len() || body.get(range.clone()) != Some(bytes) {
            return Err(format!("bytes {range:?} of {length} are not the origin's"));
        }
        got[range].iter_mut().for_each(|count| *count += 1);
    }
    for (at, &count) in got.iter().enumerate() {
        let wanted = covers(asked, at as u64, body.len() as u64);
        if count != u8::from(wanted) {
            return Err(format!("byte {at} came {count} times for {asked:?}"));
        }
    }
    Ok(())
}

/// Whether nothing that was asked for is there.
pub fn is_unsatisfiable(asked: RangePlan, length: usize) -> bool {
    (0..length).all(|at| !covers(asked, at as u64, length as u64))
}

fn covers(asked: RangePlan, at: u64, length: u64) -> bool {
    match asked {
        RangePlan::From(first) => at >= first,
        RangePlan::Span(first, last) => (first..=last).contains(&at),
        RangePlan::Suffix(count) => at + count >= length,
        RangePlan::Two(spans) => spans.iter().any(|&(a, b)| (a..=b).contains(&at)),
    }
}

/// Reads `bytes 0-9/10`.
fn span(text: &str) -> Result<(Range<usize>, usize), String> {
    let read = || {
        let (range, length) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some((first..last + 1, length.parse().ok()?))
    };
    read().ok_or_else(|| format!("Content-Range: {text}"))
}

type Part<'a> = ((Range<usize>, usize), &'a [u8]);

fn multipart<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<Part<'a>>, String> {
    let delimiter = format!("\r\n--{boundary}");
    let mut parts = Vec::new();
    let mut rest = body;
    loop {
        rest = rest
            .strip_prefix(delimiter.as_bytes())
            .ok_or("a part that does not begin with the boundary")?;
        if rest == b"--\r\n" {
            return Ok(parts);
        }
        let end = find(rest, b"\r\n\r\n").ok_or("a part without the end of its fields")?;
        let fields = String::from_utf8_lossy(&rest[..end]).into_owned();
        let range = fields
            .lines()
            .find_map(|line| line.strip_prefix("Content-Range: "));
        let range = span(range.ok_or("a part without Content-Range")?)?;
        let bytes = &rest[end + 4..];
        let length = range.0.len();
        let bytes = bytes.get(..length).ok_or("a part that is cut off")?;
        rest = &rest[end + 4 + length..];
        parts.push((range, bytes));
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
