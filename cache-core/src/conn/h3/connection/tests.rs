use super::super::error::Scope;
use super::super::error::{
    H3_FRAME_ERROR, H3_FRAME_UNEXPECTED, H3_ID_ERROR, H3_MISSING_SETTINGS, H3_SETTINGS_ERROR,
};
use super::super::frame::MAX_VARINT;
use super::super::samples::frame;
use super::*;
use proptest::prelude::*;

fn connection() -> Connection {
    Connection::new(Limits {
        max_field_section: 16 << 10,
    })
}

/// A control stream with empty SETTINGS and what follows.
fn control(after: &[u8]) -> Vec<u8> {
    [&[0x00, 0x04, 0x00], after].concat()
}

fn varint(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    write_varint(&mut out, value);
    out
}

/// Events of one stream, which must not depend on how it was split.
fn events(stream: &[u8]) -> Result<Vec<Event>, H3Error> {
    let mut whole = Vec::new();
    let result = connection().on_uni(2, stream, false, &mut whole);
    let mut connection = connection();
    let mut split = Vec::new();
    let split_result = stream
        .chunks(1)
        .try_for_each(|byte| connection.on_uni(2, byte, false, &mut split));
    assert_eq!((&result, &whole), (&split_result, &split));
    result.map(|()| whole)
}

fn code(stream: &[u8]) -> u64 {
    let error = events(stream).unwrap_err();
    assert_eq!(error.scope, Scope::Connection);
    error.code
}

#[test]
fn our_preamble_is_a_control_stream_that_we_accept() {
    let mut preamble = Vec::new();
    connection().preamble(&mut preamble);
    let settings = Event::Settings {
        max_field_section: Some(16 << 10),
    };
    assert_eq!(events(&preamble), Ok(vec![settings]));
    assert_eq!(setting::GREASE % 0x1f, 0x21 % 0x1f);
}

#[test]
fn goaway_is_a_frame_that_we_accept() {
    let mut goaway = Vec::new();
    goaway_frame(400, &mut goaway);
    assert_eq!(goaway, [0x07, 0x02, 0x41, 0x90]);
    let all = events(&control(&goaway)).unwrap();
    assert_eq!(all[1], Event::GoAway { push_id: 400 });
}

/// RFC 9114 section 7.2.4.
#[test]
fn settings() {
    let settings = |payload: &[u8]| [&[0x00][..], &frame(0x4, payload)].concat();
    for http2 in [0x0, 0x2, 0x3, 0x4, 0x5] {
        assert_eq!(code(&settings(&[http2, 1])), H3_SETTINGS_ERROR);
    }
    assert_eq!(code(&settings(&[0x1, 0, 0x1, 0])), H3_SETTINGS_ERROR);
    assert_eq!(code(&settings(&[0x33, 2])), H3_SETTINGS_ERROR);
    assert_eq!(code(&settings(&[0x8, 2])), H3_SETTINGS_ERROR);
    assert_eq!(code(&settings(&[0x1])), H3_FRAME_ERROR);
    assert_eq!(code(&settings(&[0x1, 0x40])), H3_FRAME_ERROR);
    assert_eq!(code(&settings(&[0; 1025])), H3_EXCESSIVE_LOAD);
    let chromium = [
        vec![0x01, 0x80, 0x01, 0x00, 0x00, 0x06, 0x80, 0x04, 0x00, 0x00],
        vec![0x07, 0x40, 0x64, 0x33, 0x01],
        [varint(0x1f * 7 + 0x21), varint(MAX_VARINT)].concat(),
    ]
    .concat();
    let want = Event::Settings {
        max_field_section: Some(0x40000),
    };
    assert_eq!(events(&settings(&chromium)), Ok(vec![want]));
}

/// RFC 9114 section 6.2.1.
#[test]
fn settings_come_first_and_once() {
    assert_eq!(code(&[0x00, 0x07, 0x01, 0x00]), H3_MISSING_SETTINGS);
    assert_eq!(code(&[0x00, 0x21, 0x00]), H3_MISSING_SETTINGS);
    assert_eq!(code(&control(&[0x04, 0x00])), H3_FRAME_UNEXPECTED);
}

/// RFC 9114 section 7.2.
#[test]
fn frames_out_of_place() {
    for kind in [0x0, 0x1, 0x2, 0x5, 0x6, 0x8, 0x9] {
        let stream = control(&frame(kind, &[0]));
        assert_eq!(code(&stream), H3_FRAME_UNEXPECTED, "{kind}");
    }
    assert!(events(&control(&frame(0x21, b"grease"))).is_ok());
    let endless = frame(0x21, b"").repeat(40_000);
    assert_eq!(code(&control(&endless)), H3_EXCESSIVE_LOAD);
}

/// RFC 9114 sections 5.2, 7.2.3 and 7.2.7.
#[test]
fn push_ids() {
    let two = |kind, a, b| control(&[frame(kind, &[a]), frame(kind, &[b])].concat());
    assert_eq!(code(&two(0x7, 1, 2)), H3_ID_ERROR);
    assert!(events(&two(0x7, 2, 2)).is_ok());
    assert_eq!(code(&two(0xd, 2, 1)), H3_ID_ERROR);
    assert!(events(&two(0xd, 1, 2)).is_ok());
    assert_eq!(code(&control(&frame(0x3, &[0]))), H3_ID_ERROR);
    for kind in [0x3, 0x7, 0xd] {
        for payload in [&[][..], &[0x40], &[0, 0]] {
            assert_eq!(code(&control(&frame(kind, payload))), H3_FRAME_ERROR);
        }
    }
}

/// RFC 9218 section 7.
#[test]
fn priority_updates() {
    let update = |id: u64, value: &[u8]| {
        let payload = [&varint(id)[..], value].concat();
        events(&control(&frame(kind::PRIORITY_UPDATE_REQUEST, &payload)))
    };
    let priority = Priority {
        urgency: Some(1),
        incremental: true,
    };
    let want = Event::Priority {
        stream: 1000,
        priority,
    };
    assert_eq!(update(1000, b"u=1, i").unwrap()[1], want);
    assert_eq!(update(1001, b"u=1").unwrap_err().code, H3_ID_ERROR);
    let push = frame(kind::PRIORITY_UPDATE_PUSH, &[0]);
    assert_eq!(code(&control(&push)), H3_ID_ERROR);
    let empty = frame(kind::PRIORITY_UPDATE_REQUEST, &[]);
    assert_eq!(code(&control(&empty)), H3_FRAME_ERROR);
    let long = frame(kind::PRIORITY_UPDATE_REQUEST, &[0; 2000]);
    assert_eq!(code(&control(&long)), H3_EXCESSIVE_LOAD);
}

/// RFC 9204 section 4.3.
#[test]
fn encoder_stream() {
    assert_eq!(events(&[0x02, 0x20, 0x20]), Ok(vec![]));
    for instruction in [0x21, 0x3f, 0x80, 0xc0, 0x40, 0x60, 0x00, 0x1f] {
        assert_eq!(code(&[0x02, instruction]), QPACK_ENCODER_STREAM_ERROR);
    }
}

/// RFC 9204 section 4.4.
#[test]
fn decoder_stream() {
    assert_eq!(events(&[0x03, 0x44, 0x7f, 0x81, 0x01, 0x40]), Ok(vec![]));
    for instruction in [0x80, 0xff, 0x00, 0x01, 0x3f] {
        assert_eq!(code(&[0x03, instruction]), QPACK_DECODER_STREAM_ERROR);
    }
    let endless = [&[0x03, 0x7f][..], &[0x80; 20]].concat();
    assert_eq!(code(&endless), QPACK_DECODER_STREAM_ERROR);
}

/// RFC 9114 sections 6.2 to 6.2.3.
#[test]
fn stream_types() {
    assert_eq!(code(&[0x01]), H3_STREAM_CREATION_ERROR);
    let stop = Event::StopSending {
        stream: 2,
        code: H3_STREAM_CREATION_ERROR,
    };
    assert_eq!(
        connection_events(&[(2, &[0x21, 1, 2], false)]),
        Ok(vec![stop])
    );
    assert_eq!(connection_events(&[(2, &[0x21], true)]), Ok(vec![stop]));
    let long = varint(0x1f * 1_000_000 + 0x21);
    let (a, b) = long.split_at(1);
    assert_eq!(
        connection_events(&[(2, a, false), (2, b, false)]),
        Ok(vec![stop])
    );
    for kind in [0x00, 0x02, 0x03] {
        let twice = connection_events(&[(2, &[kind], false), (6, &[kind], false)]);
        assert_eq!(twice.unwrap_err().code, H3_STREAM_CREATION_ERROR);
    }
    let three: [(u64, &[u8], bool); 3] = [(2, &[0], false), (6, &[2], false), (10, &[3], false)];
    assert_eq!(connection_events(&three), Ok(vec![]));
}

/// RFC 9114 section 6.2.1, RFC 9204 section 4.2.
#[test]
fn critical_streams_stay_open() {
    for kind in [0x00, 0x02, 0x03] {
        let finished = connection_events(&[(2, &[kind], true)]);
        assert_eq!(finished.unwrap_err().code, H3_CLOSED_CRITICAL_STREAM);
        let mut connection = connection();
        connection
            .on_uni(2, &[kind], false, &mut Vec::new())
            .unwrap();
        assert_eq!(connection.on_uni_reset(6), Ok(()));
        let error = connection.on_uni_reset(2).unwrap_err();
        assert_eq!(error.code, H3_CLOSED_CRITICAL_STREAM);
    }
    assert_eq!(connection_events(&[(2, b"", true)]), Ok(vec![]));
}

#[test]
fn streams_without_a_type_are_bounded() {
    let mut connection = connection();
    let mut events = Vec::new();
    for round in 0..100 {
        connection
            .on_uni(round * 4 + 2, &[0xc0], false, &mut events)
            .unwrap();
        connection.on_uni_reset(round * 4 + 2).unwrap();
    }
    let error = (0..100)
        .find_map(|i| {
            connection
                .on_uni(i * 4 + 2, &[0xc0], false, &mut events)
                .err()
        })
        .unwrap();
    assert_eq!(error.code, H3_EXCESSIVE_LOAD);
}

fn connection_events(chunks: &[(u64, &[u8], bool)]) -> Result<Vec<Event>, H3Error> {
    let mut connection = connection();
    let mut events = Vec::new();
    for (stream, data, fin) in chunks {
        connection.on_uni(*stream, data, *fin, &mut events)?;
    }
    Ok(events)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// The helper compares whole against byte by byte.
    #[test]
    fn random_streams_never_panic(
        kind in 0u8..4,
        begin in any::<bool>(),
        data in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let stream = match begin {
            true => control(&data),
            false => [&[kind][..], &data].concat(),
        };
        let _ = events(&stream);
    }
}
