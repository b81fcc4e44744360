use super::super::error::{H3_MESSAGE_ERROR, QPACK_DECOMPRESSION_FAILED, Scope};
use super::super::samples::{CHROMIUM, CURL, PLAYER, Sample, frame, headers, section};
use super::*;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const LIMIT: usize = 16 << 10;

const POST: Sample = &[
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", "edge.test"),
    (":path", "/upload"),
    ("content-length", "11"),
];

/// Reads chunks and then, when asked, the end; gives every progress there was.
fn read(chunks: &[&[u8]], fin: bool) -> Result<(Vec<Progress>, FieldSection), H3Error> {
    let mut reader = RequestReader::new();
    let mut scratch = FieldSection::new(LIMIT);
    let mut all = Vec::new();
    for (i, chunk) in chunks.iter().enumerate() {
        let last = fin && i + 1 == chunks.len();
        all.push(reader.push(chunk, last, &mut scratch)?);
    }
    assert_eq!(reader.is_finished(), fin);
    Ok((all, scratch))
}

fn error(stream: &[u8], fin: bool) -> (u64, Scope) {
    let whole = read(&[stream], fin).map(|(all, _)| all).unwrap_err();
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    let split = read(&bytes, fin).map(|(all, _)| all).unwrap_err();
    assert_eq!(
        whole, split,
        "the error depends on how the stream was split"
    );
    (whole.code, whole.scope)
}

fn upload() -> Vec<u8> {
    [
        frame(0x21, b"grease"),
        headers(POST),
        frame(kind::DATA, b"hello "),
        frame(0x40, b""),
        frame(kind::DATA, b""),
        frame(kind::DATA, b"world"),
        headers(&[("server-timing", "a")]),
        frame(0x5f, b"more grease"),
    ]
    .concat()
}

#[test]
fn one_chunk_is_read_without_buffering() {
    let mut reader = RequestReader::new();
    let mut scratch = FieldSection::new(LIMIT);
    let progress = reader.push(&headers(CHROMIUM), true, &mut scratch);
    assert_eq!(progress, Ok(Progress::Request));
    assert!(reader.is_finished());
    assert_eq!(reader.section.capacity(), 0);
    assert_eq!(scratch.path(), b"/emotes/v2/305954156/default/dark/2.0");
}

#[test]
fn the_end_may_come_later_and_alone() {
    let stream = headers(CURL);
    let (all, _) = read(&[&stream, b"", b""], true).unwrap();
    assert_eq!(all, [Progress::Request, Progress::More, Progress::End]);
}

#[test]
fn body_and_trailers_are_read_over() {
    let mut reader = RequestReader::new();
    let mut scratch = FieldSection::new(LIMIT);
    assert_eq!(
        reader.push(&upload(), true, &mut scratch),
        Ok(Progress::Request)
    );
    assert_eq!(reader.body_bytes(), 11);
    let split = [&headers(POST)[..], &frame(kind::DATA, b"hello world")];
    let (all, _) = read(&split, true).unwrap();
    assert_eq!(all, [Progress::Request, Progress::Body(11)]);
}

#[test]
fn every_split_reads_the_same() {
    for stream in [headers(CHROMIUM), headers(CURL), headers(PLAYER), upload()] {
        for cut in 0..=stream.len() {
            let (a, b) = stream.split_at(cut);
            let (all, scratch) = read(&[a, b], true).unwrap();
            let requests = all.iter().filter(|p| **p == Progress::Request).count();
            assert_eq!(requests, 1, "cut at {cut}");
            let (_, whole) = read(&[&stream], true).unwrap();
            assert_eq!(scratch.path(), whole.path());
            assert!(scratch.fields().eq(whole.fields()));
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert!(read(&bytes, true).is_ok());
    }
}

/// RFC 9114 sections 4.1 and 7.2.
#[test]
fn frames_out_of_place() {
    let unexpected = (H3_FRAME_UNEXPECTED, Scope::Connection);
    let request = headers(CURL);
    let trailers = headers(&[]);
    assert_eq!(error(&frame(kind::DATA, b"x"), false), unexpected);
    for after_trailers in [frame(kind::DATA, b"x"), trailers.clone()] {
        let stream = [&request[..], &trailers, &after_trailers].concat();
        assert_eq!(error(&stream, false), unexpected);
    }
    for kind in [
        0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0x9, 0xd, 0xf0700, 0xf0701,
    ] {
        assert_eq!(error(&frame(kind, b""), false), unexpected, "{kind:#x}");
        let later = [&request[..], &frame(kind, b"")].concat();
        assert_eq!(error(&later, false), unexpected, "{kind:#x}");
    }
}

/// RFC 9114 sections 4.1 and 7.1.
#[test]
fn streams_that_end_early() {
    let incomplete = (H3_REQUEST_INCOMPLETE, Scope::Stream);
    let truncated = (H3_FRAME_ERROR, Scope::Connection);
    assert_eq!(
        read(&[b""], true).map(|(all, _)| all).unwrap_err().code,
        H3_REQUEST_INCOMPLETE
    );
    assert_eq!(error(&frame(0x21, b"grease"), true), incomplete);
    let request = headers(CURL);
    for cut in 1..request.len() {
        assert_eq!(error(&request[..cut], true), truncated, "{cut}");
    }
    let data = [&request[..], &frame(kind::DATA, b"abc")].concat();
    assert_eq!(error(&data[..data.len() - 1], true), truncated);
    let unknown = [&request[..], &frame(0x21, b"abc")].concat();
    assert_eq!(error(&unknown[..unknown.len() - 1], true), truncated);
}

/// RFC 9114 section 4.1.2.
#[test]
fn the_body_keeps_to_its_declared_length() {
    let message = (H3_MESSAGE_ERROR, Scope::Stream);
    let short = [headers(POST), frame(kind::DATA, b"hello")].concat();
    assert_eq!(error(&short, true), message);
    let long = [headers(POST), frame(kind::DATA, b"hello world!")].concat();
    assert_eq!(error(&long, false), message);
    assert_eq!(error(&headers(POST), true), message);
}

#[test]
fn compression_errors_end_the_connection() {
    let failed = (QPACK_DECOMPRESSION_FAILED, Scope::Connection);
    assert_eq!(error(&frame(kind::HEADERS, b""), false), failed);
    assert_eq!(error(&frame(kind::HEADERS, &[2, 0, 0x80]), false), failed);
    let trailers = frame(kind::HEADERS, &[0, 0, 0x80]);
    assert_eq!(error(&[headers(CURL), trailers].concat(), false), failed);
}

/// RFC 9114 section 4.2.2: 431 is for the caller to send.
#[test]
fn a_section_past_the_limit_is_told_once_and_the_rest_ignored() {
    let long = "v".repeat(LIMIT);
    let big = [POST, &[("x", long.as_str())]].concat();
    let declared = [0x01, 0x80, 0x00, 0x40, 0x01];
    // Two bytes each as a frame, 105 when decoded: static entry 85.
    let bomb = [section(POST), [0xff, 85 - 63].repeat(300)].concat();
    for stream in [
        headers(&big),
        declared.to_vec(),
        frame(kind::HEADERS, &bomb),
    ] {
        let mut reader = RequestReader::new();
        let mut scratch = FieldSection::new(LIMIT);
        let mut news = Vec::new();
        for byte in stream.chunks(1) {
            news.push(reader.push(byte, false, &mut scratch).unwrap());
        }
        news.push(reader.push(&[0xff; 100], false, &mut scratch).unwrap());
        let told = news.iter().filter(|p| **p == Progress::TooLarge).count();
        assert_eq!(told, 1);
        assert!(!news.contains(&Progress::Request));
        assert_eq!(reader.push(b"", true, &mut scratch), Ok(Progress::End));
    }
}

#[test]
fn buffering_is_bounded() {
    let load = (H3_EXCESSIVE_LOAD, Scope::Stream);
    assert_eq!(
        error(&frame(0x21, &vec![0; MAX_IGNORED as usize]), false),
        load
    );
    let empty = frame(0x21, b"").repeat(MAX_IGNORED as usize / 2 + 1);
    assert_eq!(error(&empty, false), load);
    let long = "v".repeat(LIMIT);
    let trailers = headers(&[("x", &long)]);
    assert_eq!(error(&[headers(CURL), trailers].concat(), false), load);
    let mut reader = RequestReader::new();
    let mut scratch = FieldSection::new(LIMIT);
    let declared = [0x01, 0x7f, 0xff];
    assert_eq!(
        reader.push(&declared, false, &mut scratch),
        Ok(Progress::More)
    );
    assert!(
        reader.section.capacity() < 64,
        "room is taken for what arrived"
    );
}

/// Mutations of real requests: never a panic, never an answer that depends on the chunks.
#[test]
fn mutated_requests_are_judged_the_same_however_they_are_split() {
    let originals = [headers(CHROMIUM), headers(CURL), headers(PLAYER), upload()];
    let mut rng = SmallRng::seed_from_u64(9114);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..20_000 {
        let mut stream = originals[round % originals.len()].clone();
        for _ in 0..rng.random_range(1..4) {
            mutate(&mut stream, &mut rng);
        }
        let cut = rng.random_range(0..=stream.len());
        let (a, b) = stream.split_at(cut);
        let whole = outcome(&[&stream]);
        assert_eq!(whole, outcome(&[a, b]), "round {round}, cut {cut}");
        match whole {
            Ok(_) => accepted += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(accepted > 100 && refused > 10_000, "{accepted} {refused}");
}

/// A request's path and field count, or the error.
fn outcome(chunks: &[&[u8]]) -> Result<Option<(Vec<u8>, usize)>, H3Error> {
    let (all, scratch) = read(chunks, true)?;
    let request = all.contains(&Progress::Request);
    Ok(request.then(|| (scratch.path().to_vec(), scratch.fields().count())))
}

fn mutate(stream: &mut Vec<u8>, rng: &mut SmallRng) {
    let at = rng.random_range(0..stream.len().max(1)).min(stream.len());
    match rng.random_range(0..5) {
        0 if at < stream.len() => stream[at] ^= 1 << rng.random_range(0..8),
        1 if at < stream.len() => stream[at] = rng.random(),
        2 => stream.truncate(at),
        3 => stream.insert(at, rng.random()),
        _ => {
            let end = rng.random_range(at..=stream.len());
            stream.drain(at..end);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn random_bytes_never_panic(
        stream in prop::collection::vec(any::<u8>(), 0..300),
        cut in 0usize..300,
        in_frame in any::<bool>(),
    ) {
        let stream = match in_frame {
            true => frame(kind::HEADERS, &[&[0, 0], &stream[..]].concat()),
            false => stream,
        };
        let (a, b) = stream.split_at(cut.min(stream.len()));
        prop_assert_eq!(outcome(&[&stream]), outcome(&[a, b]));
    }
}
