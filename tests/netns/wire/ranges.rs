//! Parts of objects, small ones from memory and large ones from slices.

use crate::harness::{Backend, Edge, Fetched};

const SMALL: &str = "/size/5000";
const MIB: u64 = 1 << 20;
const FILM_BYTES: u64 = 40 * MIB + 17;
const FILM: &str = "/film/41943057";
const SHORT_FILM: &str = "/film/12582912";

on_both_backends! {
    parts_of_a_small_object,
    a_film_is_fetched_in_the_slices_that_are_asked_for,
    a_whole_film_travels_once,
    slices_of_two_editions_never_mix,
    an_origin_without_ranges_is_asked_once_for_the_whole,
    what_memory_has_no_room_for_is_passed_on_whole,
    many_clients_at_different_parts_make_each_slice_travel_once,
    a_slice_that_waits_too_long_is_refused,
}

/// A film as the origin has it now, which is not counted.
fn film(edge: &Edge, path: &str) -> Vec<u8> {
    let body = edge.origin.body(path);
    edge.origin.post("/__reset");
    body
}

fn ranged(edge: &Edge, range: &str, path: &str) -> Fetched {
    let option = format!("range: {range}");
    edge.curl_with(&["--header", &option], &[path]).remove(0)
}

#[track_caller]
fn assert_part(one: &Fetched, body: &[u8], content_range: &str) {
    assert_eq!((one.status, &one.error), (206, &None), "{one:?}");
    assert_eq!(one.header("content-range"), content_range, "{one:?}");
    one.assert_bytes(body);
}

fn parts_of_a_small_object(backend: Backend) {
    let edge = Edge::start(backend);
    let body = edge.origin.body(SMALL);
    // Not in the cache, then in it.
    for _ in 0..2 {
        assert_part(
            &ranged(&edge, "bytes=10-19", SMALL),
            &body[10..20],
            "bytes 10-19/5000",
        );
        assert_part(
            &ranged(&edge, "bytes=-7", SMALL),
            &body[4993..],
            "bytes 4993-4999/5000",
        );
        assert_part(
            &ranged(&edge, "bytes=4000-", SMALL),
            &body[4000..],
            "bytes 4000-4999/5000",
        );
    }
    let beyond = ranged(&edge, "bytes=5000-", SMALL);
    assert_eq!(beyond.status, 416, "{beyond:?}");
    assert_eq!(beyond.header("content-range"), "bytes */5000", "{beyond:?}");
    let several = ranged(&edge, "bytes=0-1,10-12", SMALL);
    assert_eq!(several.status, 206, "{several:?}");
    let kind = several.header("content-type");
    assert!(
        kind.starts_with("multipart/byteranges; boundary="),
        "{several:?}"
    );
    ranged(&edge, "lines=1-2", SMALL).assert_body(&body);
    let etag = ranged(&edge, "bytes=0-0", SMALL).header("etag").to_owned();
    for (if_range, status) in [(etag.as_str(), 206), ("\"another\"", 200)] {
        let condition = format!("if-range: {if_range}");
        let options = ["--header", "range: bytes=0-9", "--header", &condition];
        let one = edge.curl_with(&options, &[SMALL]).remove(0);
        assert_eq!(one.status, status, "{if_range}: {one:?}");
    }
    // Ours, and the one that told us what to expect.
    assert_eq!(edge.origin.requests(SMALL), 2);
}

fn a_film_is_fetched_in_the_slices_that_are_asked_for(backend: Backend) {
    let edge = Edge::start_with(backend, "[cache]\nslices_ahead = 0\n");
    let body = film(&edge, FILM);
    let (start, end) = (17 * MIB + 5, 18 * MIB + 9);
    let want = &body[start as usize..end as usize];
    let range = format!("bytes={start}-{}", end - 1);
    let says = format!("bytes {start}-{}/{FILM_BYTES}", end - 1);
    for _ in 0..2 {
        assert_part(&ranged(&edge, &range, FILM), want, &says);
    }
    let asked = edge.origin.asked_for(FILM);
    let slice = |index: u64| format!("{FILM} bytes={}-{}", index * MIB, (index + 1) * MIB - 1);
    assert_eq!(
        asked,
        [(slice(17), 1), (slice(18), 1)],
        "two slices, once each"
    );
    let last = &body[body.len() - 10..];
    let says = format!("bytes {}-{}/{FILM_BYTES}", FILM_BYTES - 10, FILM_BYTES - 1);
    assert_part(&ranged(&edge, "bytes=-10", FILM), last, &says);
    assert_eq!(edge.origin.asked_for(FILM).len(), 3);
}

fn a_whole_film_travels_once(backend: Backend) {
    let edge = Edge::start(backend);
    let body = film(&edge, FILM);
    for one in edge.curl(&[FILM, FILM]) {
        one.assert_body(&body);
    }
    // The first answer was begun as a whole and ended as a slice: what was on its way is all that came
    // for nothing.
    let sent = edge.origin.film_bytes();
    assert!(sent < FILM_BYTES + 8 * MIB, "{sent} bytes for {FILM_BYTES}");
    // A purge of its URL is one of its slices.
    edge.control(&["purge", &format!("https://edge.test{FILM}")]);
    edge.curl(&[FILM])[0].assert_body(&body);
    assert!(edge.origin.film_bytes() >= sent + FILM_BYTES);
}

fn slices_of_two_editions_never_mix(backend: Backend) {
    let edge = Edge::start_with(backend, "[cache]\nslices_ahead = 0\n");
    let old = film(&edge, SHORT_FILM);
    let first = ranged(&edge, "bytes=0-99", SHORT_FILM);
    first.assert_bytes(&old[..100]);
    edge.origin.post("/__edition");
    let new = film(&edge, SHORT_FILM);
    // Fresh: the slice that is there is served as it is.
    ranged(&edge, "bytes=0-99", SHORT_FILM).assert_bytes(&old[..100]);
    // One that is not there shows that there is another edition.
    let start = 9 * MIB as usize;
    let range = format!("bytes={start}-{}", start + 99);
    let one = ranged(&edge, &range, SHORT_FILM);
    one.assert_bytes(&new[start..start + 100]);
    ranged(&edge, "bytes=0-99", SHORT_FILM).assert_bytes(&new[..100]);
    let whole = edge.curl(&[SHORT_FILM]).remove(0);
    whole.assert_body(&new);
    assert_ne!(first.header("etag"), whole.header("etag"));
}

fn an_origin_without_ranges_is_asked_once_for_the_whole(backend: Backend) {
    let edge = Edge::start(backend);
    let path = "/film/3000000?ranges=0";
    let body = film(&edge, path);
    for _ in 0..2 {
        let one = ranged(&edge, "bytes=2500000-2500009", path);
        assert_part(
            &one,
            &body[2_500_000..2_500_010],
            "bytes 2500000-2500009/3000000",
        );
    }
    edge.curl(&[path])[0].assert_body(&body);
    let asked = edge.origin.asked_for(path);
    assert_eq!(
        asked.iter().map(|(_, count)| count).sum::<u64>(),
        1,
        "{asked:?}"
    );
}

fn what_memory_has_no_room_for_is_passed_on_whole(backend: Backend) {
    let edge = Edge::start_with(backend, "[memory]\nram = \"64 MiB\"\n");
    let path = "/film/60000000?ranges=0";
    let body = film(&edge, path);
    for _ in 0..2 {
        edge.curl(&[path])[0].assert_body(&body);
    }
}

fn many_clients_at_different_parts_make_each_slice_travel_once(backend: Backend) {
    const CLIENTS: u64 = 200;
    const BYTES: u64 = 64 * MIB;
    let path = "/film/67108864";
    // Few enough at a time that most wait.
    let edge = Edge::start_with(backend, "[limits]\nmax_slice_fetches = 3\n");
    let report = edge.herd_of_parts(path, CLIENTS);
    assert_eq!(report["identical"], CLIENTS, "{report:#}");
    assert_eq!(report["failed"], 0, "{report:#}");
    let asked = edge.origin.asked_for(path);
    let twice: Vec<_> = asked.iter().filter(|(_, count)| *count > 1).collect();
    assert_eq!(
        (asked.len() as u64, twice.len()),
        (BYTES / MIB, 0),
        "{twice:?}"
    );
    assert_eq!(edge.origin.film_bytes(), BYTES);
    assert!(edge.counter("slices_queued") > 0);
    assert_eq!(edge.counter("slices_waiting"), 0);
}

fn a_slice_that_waits_too_long_is_refused(backend: Backend) {
    let limits = "[limits]\nmax_slice_fetches = 1\nslice_wait = \"300ms\"\n";
    let edge = Edge::start_with(backend, &format!("{limits}[cache]\nslices_ahead = 0\n"));
    // Each slice takes longer than the others may wait.
    let report = edge.herd_of_parts("/film/4194304?delay=1000", 4);
    assert_eq!(
        report["errors"]["status 503"], report["failed"],
        "{report:#}"
    );
    assert!(edge.counter("slices_refused") > 0, "{report:#}");
    assert_eq!(edge.counter("slices_waiting"), 0);
}
