//! RFC 9110 section 14, case by case, and what holds for any bytes.

use proptest::prelude::*;

use super::*;

fn from(first: u64, last: impl Into<Option<u64>>) -> Spec {
    Spec::From {
        first,
        last: last.into(),
    }
}

#[test]
fn range_fields() {
    let cases: [(&str, &[Spec]); 12] = [
        ("bytes=0-499", &[from(0, 499)]),
        ("bytes=500-", &[from(500, None)]),
        ("bytes=-500", &[Spec::Suffix(500)]),
        ("bytes=-0", &[Spec::Suffix(0)]),
        ("BYTES=7-7", &[from(7, 7)]),
        ("bytes=0-0,-1", &[from(0, 0), Spec::Suffix(1)]),
        ("bytes= 0-0 , ,5-6,", &[from(0, 0), from(5, 6)]),
        ("bytes=99999999999999999999999-", &[from(u64::MAX, None)]),
        ("bytes=1-99999999999999999999999", &[from(1, u64::MAX)]),
        ("bytes=2-3,2-3", &[from(2, 3), from(2, 3)]),
        ("bytes=00-01", &[from(0, 1)]),
        (
            "bytes=0-1,2-3,4-5,6-7",
            &[from(0, 1), from(2, 3), from(4, 5), from(6, 7)],
        ),
    ];
    for (value, specs) in cases {
        let want = Specs::Ranges(specs.to_vec());
        assert_eq!(parse(value.as_bytes(), 4), want, "{value}");
    }
}

#[test]
fn what_is_not_understood_is_ignored() {
    for value in [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-4",
        "bytes=1",
        "items=0-1",
        "bytes=0-1,x",
        "bytes=+1-2",
        "bytes=1-2-3",
        "bytes=0x1-2",
        "bytes 0-1",
        "bytes=--1",
        "bytes=1 - 2",
    ] {
        assert_eq!(parse(value.as_bytes(), 4), Specs::Ignored, "{value}");
    }
    assert_eq!(parse(b"bytes=0-0,2-2,4-4,6-6,8-8", 4), Specs::TooMany);
}

#[test]
fn ranges_of_ten_bytes() {
    let cases: [(&str, &[(u64, u64)]); 12] = [
        ("bytes=0-", &[(0, 10)]),
        ("bytes=9-", &[(9, 10)]),
        ("bytes=2-4", &[(2, 5)]),
        ("bytes=2-400", &[(2, 10)]),
        ("bytes=-3", &[(7, 10)]),
        ("bytes=-30", &[(0, 10)]),
        ("bytes=10-,0-0", &[(0, 1)]),
        ("bytes=8-9,0-1", &[(8, 10), (0, 2)]),
        // Joined, and so in order.
        ("bytes=8-9,0-1,2-3", &[(0, 4), (8, 10)]),
        ("bytes=0-5,3-7", &[(0, 8)]),
        ("bytes=-1,0-0,-1", &[(0, 1), (9, 10)]),
        ("bytes=0-8,2-3,5-", &[(0, 10)]),
    ];
    for (value, ranges) in cases {
        let Specs::Ranges(specs) = parse(value.as_bytes(), 8) else {
            panic!("{value}");
        };
        let ranges = ranges.iter().map(|&(start, end)| start..end);
        let want = Selection::Ranges(ranges.collect());
        assert_eq!(select(&specs, 10), want, "{value}");
    }
    assert_eq!(select(&[from(10, None)], 10), Selection::Unsatisfiable);
    assert_eq!(select(&[Spec::Suffix(0)], 10), Selection::Unsatisfiable);
    assert_eq!(select(&[from(0, None)], 0), Selection::Unsatisfiable);
    assert_eq!(select(&[Spec::Suffix(5)], 0), Selection::Whole);
}

const MODIFIED: &[u8] = b"Sun, 22 Nov 2026 12:00:00 GMT";
const LATER: &[u8] = b"Sun, 22 Nov 2026 12:00:01 GMT";

/// RFC 9110 sections 8.8.2.2 and 13.1.5.
#[test]
fn if_range() {
    let of = |etag: &'static str, date| Validators {
        etag: (!etag.is_empty()).then_some(etag.as_bytes()),
        last_modified: Some(MODIFIED),
        date,
    };
    assert!(of("\"a\"", None).if_range(b"\"a\""));
    assert!(!of("\"a\"", None).if_range(b"\"b\""));
    assert!(!of("W/\"a\"", None).if_range(b"W/\"a\""));
    assert!(!of("\"a\"", None).if_range(b"W/\"a\""));
    assert!(!of("", None).if_range(b"\"a\""));
    assert!(of("", Some(LATER)).if_range(MODIFIED));
    assert!(
        !of("", Some(MODIFIED)).if_range(MODIFIED),
        "it may have changed since"
    );
    assert!(!of("", None).if_range(MODIFIED));
    assert!(!of("", Some(LATER)).if_range(LATER));
    assert!(!of("", Some(LATER)).if_range(b"soon"));
    assert!(!of("", Some(LATER)).if_range(b""));
}

#[test]
fn strong_validators() {
    let of = |etag, date| Validators {
        etag,
        last_modified: Some(MODIFIED),
        date,
    };
    assert_eq!(of(Some(b"\"a\""), None).strong(), Some(&b"\"a\""[..]));
    assert_eq!(of(Some(b"W/\"a\""), Some(LATER)).strong(), None);
    assert_eq!(of(Some(b"a"), Some(LATER)).strong(), None);
    assert_eq!(of(None, Some(LATER)).strong(), Some(MODIFIED));
    assert_eq!(of(None, Some(MODIFIED)).strong(), None);
}

#[test]
fn content_ranges() {
    assert_eq!(
        parse_content_range(b"bytes 0-9/10"),
        Some((0..10, Some(10)))
    );
    assert_eq!(parse_content_range(b"bytes 4-4/*"), Some((4..5, None)));
    for value in [
        "bytes */10",
        "bytes 0-9",
        "bytes 9-0/10",
        "bytes 0-10/10",
        "items 0-1/2",
        "0-1/2",
        "",
        "bytes 0-x/2",
    ] {
        assert_eq!(parse_content_range(value.as_bytes()), None, "{value}");
    }
    assert_eq!(content_range(&(0..10), 10), "bytes 0-9/10");
    assert_eq!(unsatisfied_range(10), "bytes */10");
}

/// Section 14.6, and the example there.
#[test]
fn several_parts_are_framed() {
    let body = Bytes::from_static(b"0123456789");
    let mut cut = Cut::multipart(&[8..10, 0..2], 10, Some(b"text/plain"), "X");
    let (length, mut out) = (cut.len(), VecDeque::new());
    assert_eq!(cut.wants(), Some(8));
    assert!(!cut.take(0, &body.slice(0..5), &mut out));
    while cut.wants().is_some() {
        assert!(cut.take(0, &body, &mut out));
    }
    let text: Vec<u8> = out.iter().flatten().copied().collect();
    assert_eq!(text.len() as u64, length);
    assert_eq!(
        String::from_utf8_lossy(&text),
        "\r\n--X\r\nContent-Type: text/plain\r\nContent-Range: bytes 8-9/10\r\n\r\n89\
         \r\n--X\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01\r\n--X--\r\n"
    );
}

proptest! {
    /// Whatever a client sends.
    #[test]
    fn any_field_is_read(value: Vec<u8>, length: u64) {
        if let Specs::Ranges(specs) = parse(&value, 4) {
            prop_assert!(!specs.is_empty() && specs.len() <= 4);
            select(&specs, length);
        }
        parse_content_range(&value);
        Validators { etag: Some(&value), ..Validators::default() }.if_range(&value);
    }

    /// Nothing is sent twice and nothing beyond the end; nothing asked for is left out.
    #[test]
    fn ranges_are_apart_and_inside(asked in proptest::collection::vec((0_u64..40, 0_u64..40), 1..9), length in 0_u64..32) {
        let specs: Vec<Spec> = asked.iter().map(|&(a, b)| from(a.min(b), a.max(b))).collect();
        let mut bytes = vec![0; 64];
        if let Selection::Ranges(ranges) = select(&specs, length) {
            for range in ranges {
                prop_assert!(range.start < range.end && range.end <= length);
                bytes[range.start as usize..range.end as usize].iter_mut().for_each(|count| *count += 1);
            }
        }
        for at in 0..length {
            let wanted = asked.iter().any(|&(a, b)| (a.min(b)..=a.max(b)).contains(&at));
            prop_assert_eq!(bytes[at as usize], u32::from(wanted));
        }
    }

    /// However the body is cut into pieces, the answer is the same.
    #[test]
    fn pieces_do_not_matter(size in 1_usize..9, bounds in proptest::collection::vec((0_u64..50, 0_u64..50), 1..5)) {
        let body: Bytes = (0..50).collect::<Vec<u8>>().into();
        let specs: Vec<Spec> = bounds.iter().map(|&(a, b)| from(a.min(b), a.max(b))).collect();
        let Selection::Ranges(ranges) = select(&specs, 50) else { return Ok(()) };
        let mut cut = Cut::multipart(&ranges, 50, None, "b");
        let (mut whole, mut pieces) = (VecDeque::new(), VecDeque::new());
        let mut again = cut.clone();
        while again.wants().is_some() {
            prop_assert!(again.take(0, &body, &mut whole));
        }
        while let Some(at) = cut.wants() {
            let start = at as usize / size * size;
            let piece = body.slice(start..50.min(start + size));
            prop_assert!(cut.take(start as u64, &piece, &mut pieces));
        }
        let flat = |list: &VecDeque<Bytes>| list.iter().flatten().copied().collect::<Vec<u8>>();
        prop_assert_eq!(flat(&whole), flat(&pieces));
    }
}
