//! `/film/BYTES`: a large object that is answered in parts, made as it is sent.
//!
//! Its bytes follow from its path and its edition, which `POST /__edition` counts up. `?ranges=0` answers every
//! request with the whole and offers no ranges; `?etag=0` leaves the entity tag out.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue,
    IF_NONE_MATCH, IF_RANGE, RANGE,
};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};

use super::body::{fill_from, parameter, seed, split};
use super::respond::{Body, empty};

/// Largest `/film/BYTES`.
pub const MAX_FILM: u64 = 64 << 30;

/// Bytes made at a time.
const PART: u64 = 64 << 10;

/// What the origin knows of all its films.
#[derive(Debug, Default)]
pub struct Films {
    edition: AtomicU64,
    /// Body bytes taken by connections.
    sent: Arc<AtomicU64>,
}

impl Films {
    pub fn edition(&self) -> u64 {
        self.edition.load(Ordering::Relaxed)
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn next_edition(&self) {
        self.edition.fetch_add(1, Ordering::Relaxed);
    }

    pub fn reset(&self) {
        self.sent.store(0, Ordering::Relaxed);
    }

    /// Answers for `/film/BYTES`; `None` for a length that is none.
    pub(super) fn answer(
        &self,
        target: &str,
        method: &Method,
        fields: &HeaderMap,
    ) -> Option<Response<Body>> {
        let length = length_of(target)?;
        let (_, query) = split(target);
        let edition = self.edition();
        let etag = format!("\"{length:x}-{edition:x}\"");
        let offered = parameter(query, "ranges") != Some("0");
        let mut response = Response::new(empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("video/mp4"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
        if parameter(query, "etag") != Some("0") {
            headers.insert(ETAG, etag.parse().ok()?);
        }
        if offered {
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        let field = |name| fields.get(name).and_then(|value| value.to_str().ok());
        if field(IF_NONE_MATCH) == Some(&etag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Some(response);
        }
        let in_force = offered && field(IF_RANGE).is_none_or(|value| value == etag);
        let asked = field(RANGE).filter(|_| in_force);
        let range = match asked.map(|range| part_of(range, length)) {
            None => 0..length,
            Some(Some(range)) => {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let value = format!("bytes {}-{}/{length}", range.start, range.end - 1);
                response
                    .headers_mut()
                    .insert(CONTENT_RANGE, value.parse().ok()?);
                range
            }
            Some(None) => {
                *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
                let value = format!("bytes */{length}");
                response
                    .headers_mut()
                    .insert(CONTENT_RANGE, value.parse().ok()?);
                0..0
            }
        };
        let declared = HeaderValue::from(range.end - range.start);
        response.headers_mut().insert(CONTENT_LENGTH, declared);
        if *method != Method::HEAD && !range.is_empty() {
            *response.body_mut() = self.body(film_seed(target, edition), range);
        }
        Some(response)
    }

    fn body(&self, seed: u64, range: Range<u64>) -> Body {
        let (sender, channel) = Channel::<Bytes, io::Error>::new(1);
        tokio::spawn(send(sender, seed, range, Arc::clone(&self.sent)));
        BodyExt::boxed(channel)
    }
}

async fn send(
    mut sender: Sender<Bytes, io::Error>,
    seed: u64,
    range: Range<u64>,
    sent: Arc<AtomicU64>,
) {
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at + PART);
        // A failed send means that the client left.
        if sender.send_data(fill_from(seed, at..end)).await.is_err() {
            return;
        }
        sent.fetch_add(end - at, Ordering::Relaxed);
        at = end;
    }
}

/// What a film has at these offsets in an edition.
pub fn film(target: &str, edition: u64, range: Range<u64>) -> Bytes {
    fill_from(film_seed(target, edition), range)
}

fn film_seed(target: &str, edition: u64) -> u64 {
    let (path, _) = split(target);
    seed(path, None).wrapping_add(edition << 48)
}

/// Bytes of a film; `None`: the target is none.
pub fn length_of(target: &str) -> Option<u64> {
    let (path, _) = split(target);
    let length = path.strip_prefix("/film/")?.split('/').next()?;
    length.parse().ok().filter(|length| *length <= MAX_FILM)
}

/// One range of bytes; of several the first counts.
fn part_of(field: &str, length: u64) -> Option<Range<u64>> {
    let (first, last) = field
        .strip_prefix("bytes=")?
        .split(',')
        .next()?
        .split_once('-')?;
    let range = if first.is_empty() {
        length.saturating_sub(last.parse().ok()?)..length
    } else {
        let last: u64 = last.parse().unwrap_or(u64::MAX - 1);
        first.parse().ok()?..length.min(last + 1)
    };
    (range.start < range.end).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_of_the_whole() {
        let whole = film("/film/1000", 3, 0..1_000);
        assert_eq!(film("/film/1000", 3, 13..999), whole.slice(13..999));
        assert_ne!(film("/film/1000", 4, 0..1_000), whole);
        assert_eq!(part_of("bytes=990-", 1_000), Some(990..1_000));
        assert_eq!(part_of("bytes=-10", 1_000), Some(990..1_000));
        assert_eq!(part_of("bytes=5-7", 1_000), Some(5..8));
        assert_eq!(part_of("bytes=1000-", 1_000), None);
    }
}
