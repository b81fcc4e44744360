//! The form that an answer takes from a stored response or one on its way: whole, 304, parts of it, or
//! nothing but its head.

use std::borrow::Cow;

use http::StatusCode;

use super::Shard;
use crate::conn::h3::head::{self, Dynamic, Partial, PartialOf};
use crate::conn::stream::Asked;
use crate::http::cache_control::RequestDirectives;
use crate::http::conditional::Conditions;
use crate::http::range::{self, Cut, Selection, Spec, Specs, Validators};

/// Longest entity tag, date or media type that is looked at; a longer one counts as absent.
const MAX_VALUE: usize = 256;

/// A response that is there, or on its way.
#[derive(Clone, Copy)]
pub(super) struct Whole<'a> {
    pub head: &'a [u8],
    pub status: u16,
    /// Of its body. `None`: not known yet.
    pub length: Option<u64>,
}

/// What a request wants of it.
#[derive(Default)]
pub(super) struct Wish<'a> {
    pub head_only: bool,
    pub conditions: Conditions<'a>,
    /// Its Cache-Control, as far as it counts.
    pub directives: RequestDirectives,
    /// What Range asks for; empty for the whole.
    pub ranges: Vec<Spec>,
    /// Differs from answer to answer, for the boundary of several parts.
    pub nonce: u64,
    /// A stale response will do that may stand in for a failing origin.
    pub origin_fails: bool,
}

#[derive(Debug)]
pub(super) enum Shape {
    Whole,
    /// The head of the whole.
    Head,
    NotModified,
    Parts(Box<Parts>),
    /// 416, for a body of this length.
    Unsatisfiable(u64),
}

#[derive(Debug)]
pub(super) struct Parts {
    pub cut: Cut,
    /// Content-Range of the one, or Content-Type of several.
    of: Result<String, String>,
}

impl Shard {
    /// Reads what a request wants. Ranges are defined for GET alone (RFC 9110 section 14.2).
    pub(super) fn wish<'a>(
        &mut self,
        head_only: bool,
        conditions: Conditions<'a>,
        directives: RequestDirectives,
    ) -> Wish<'a> {
        let mut wish = Wish {
            head_only,
            conditions,
            directives,
            ..Wish::default()
        };
        let Some(field) = conditions.range.filter(|_| !head_only) else {
            return wish;
        };
        match range::parse(field, self.config.limits.max_ranges) {
            Specs::Ranges(specs) => wish.ranges = specs,
            Specs::TooMany => self.stats.ranges_ignored.inc(),
            Specs::Ignored => {}
        }
        if wish.ranges.len() > 1 {
            self.multiparts += 1;
            wish.nonce = self.store.hash(&self.multiparts.to_le_bytes()).0;
        }
        wish
    }

    /// What a request that waits wants.
    pub(super) fn wish_of<'a>(&mut self, head_only: bool, asked: Option<&'a Asked>) -> Wish<'a> {
        match asked {
            Some(asked) => self.wish(head_only, asked.conditions(), asked.wants),
            None => Wish {
                head_only,
                ..Wish::default()
            },
        }
    }

    pub(super) fn count_shape(&self, shape: &Shape) {
        match shape {
            Shape::NotModified => self.stats.not_modified.inc(),
            Shape::Parts(_) => self.stats.ranges.inc(),
            Shape::Unsatisfiable(_) => self.stats.ranges_unsatisfiable.inc(),
            Shape::Whole | Shape::Head => {}
        }
    }
}

/// Decides by RFC 9110 section 13.2.2: what makes a 304 comes before ranges.
pub(super) fn shape(whole: Whole<'_>, wish: &Wish<'_>) -> Shape {
    let conditions = &wish.conditions;
    if !conditions.is_empty() && is_not_modified(whole, conditions) {
        return Shape::NotModified;
    }
    let plain = match wish.head_only {
        true => Shape::Head,
        false => Shape::Whole,
    };
    let Some(length) = whole.length.filter(|_| !wish.ranges.is_empty()) else {
        return plain;
    };
    let in_force = |value| with_validators(whole.head, |own| own.if_range(value));
    if whole.status != 200 || !conditions.if_range.is_none_or(in_force) {
        return plain;
    }
    match range::select(&wish.ranges, length) {
        Selection::Whole => plain,
        Selection::Unsatisfiable => Shape::Unsatisfiable(length),
        Selection::Ranges(ranges) => {
            Shape::Parts(Box::new(parts(whole.head, &ranges, length, wish.nonce)))
        }
    }
}

fn parts(head: &[u8], ranges: &[std::ops::Range<u64>], length: u64, nonce: u64) -> Parts {
    if let [range] = ranges {
        return Parts {
            cut: Cut::one(range.clone()),
            of: Ok(range::content_range(range, length)),
        };
    }
    let mut scratch = [0; MAX_VALUE];
    let content_type = head::find_field(head, b"content-type", &mut scratch);
    let boundary = format!("part-{nonce:016x}");
    Parts {
        cut: Cut::multipart(ranges, length, content_type, &boundary),
        of: Err(format!("multipart/byteranges; boundary={boundary}")),
    }
}

impl Shape {
    /// What goes into the answer of a body of this length that is not at hand as a whole. `None`:
    /// nothing of it.
    pub(super) fn cut(&self, length: u64) -> Option<Cut> {
        match self {
            Self::Whole => Some(Cut::one(0..length)),
            Self::Parts(parts) => Some(parts.cut.clone()),
            Self::Head | Self::NotModified | Self::Unsatisfiable(_) => None,
        }
    }
}

/// The fields of an answer, and how long its body is. `None` where there is none, or it is not known.
pub(super) fn fields<'a>(whole: Whole<'a>, shape: &Shape) -> (Cow<'a, [u8]>, Option<u64>) {
    let mut fields = Vec::new();
    let body = match shape {
        Shape::Whole => return (whole.head.into(), whole.length),
        Shape::Head => return (whole.head.into(), None),
        Shape::NotModified => {
            head::write_not_modified(whole.head, &mut fields);
            None
        }
        Shape::Parts(parts) => {
            let what = match &parts.of {
                Ok(range) => PartialOf::Range(range.as_bytes()),
                Err(content_type) => PartialOf::Ranges(content_type.as_bytes()),
            };
            let length = parts.cut.len();
            head::write_partial(whole.head, Partial { length, what }, &mut fields);
            Some(length)
        }
        Shape::Unsatisfiable(length) => {
            fields = unsatisfiable(*length);
            None
        }
    };
    (fields.into(), body)
}

/// The frames before the body, with room for `behind` bytes of it, and how long that is. `None` where there
/// is none.
pub(super) fn head_of(
    whole: Whole<'_>,
    shape: &Shape,
    dynamic: Dynamic<'_>,
    behind: usize,
) -> (Vec<u8>, Option<u64>) {
    let (fields, body) = fields(whole, shape);
    let body = body.filter(|&len| len > 0);
    (head::response(&fields, dynamic, body, behind), body)
}

fn unsatisfiable(length: u64) -> Vec<u8> {
    use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
    let mut headers = http::HeaderMap::with_capacity(2);
    if let Ok(value) = range::unsatisfied_range(length).try_into() {
        headers.insert(CONTENT_RANGE, value);
    }
    headers.insert(CONTENT_LENGTH, http::HeaderValue::from_static("0"));
    head::encode_static(StatusCode::RANGE_NOT_SATISFIABLE, &headers)
}

fn is_not_modified(whole: Whole<'_>, conditions: &Conditions<'_>) -> bool {
    let (mut etag, mut modified) = ([0; MAX_VALUE], [0; MAX_VALUE]);
    let etag = head::find_field(whole.head, b"etag", &mut etag);
    // RFC 9111 section 4.3.2: Date stands in for Last-Modified.
    let modified = match head::find_field(whole.head, b"last-modified", &mut modified) {
        Some(len) => Some(len.len()),
        None => head::find_field(whole.head, b"date", &mut modified).map(<[u8]>::len),
    }
    .map(|len| &modified[..len]);
    StatusCode::from_u16(whole.status)
        .is_ok_and(|status| conditions.not_modified(status, etag, modified))
}

/// Looks at the validators of a static head.
pub(super) fn with_validators<T>(head: &[u8], look: impl FnOnce(Validators<'_>) -> T) -> T {
    let mut scratch = [[0; MAX_VALUE]; 3];
    let [etag, modified, date] = &mut scratch;
    look(Validators {
        etag: head::find_field(head, b"etag", etag),
        last_modified: head::find_field(head, b"last-modified", modified),
        date: head::find_field(head, b"date", date),
    })
}
