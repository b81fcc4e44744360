//! The load client against the baseline server, and the origin over plain HTTP, on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use popcache_bench::baseline::{self, Baseline, EarlyData};
use popcache_bench::load::herd::herd;
use popcache_bench::load::{self, Amount, Options, Report, expand};

/// Serves `paths` in a runtime of its own until the process ends.
fn serve(paths: &[String], max_streams: u32) -> SocketAddr {
    serve_with(paths, max_streams, EarlyData::Taken)
}

fn serve_with(paths: &[String], max_streams: u32, early_data: EarlyData) -> SocketAddr {
    let options = baseline::Options {
        listen: "127.0.0.1:0".parse().expect("an address"),
        name: "edge.test".into(),
        paths: paths.to_vec(),
        max_streams,
        early_data,
    };
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let server = Baseline::bind(&options).expect("a free port");
            tell.send(server.address().expect("bound"))
                .expect("the test waits");
            server.serve().await;
        });
    });
    told.recv().expect("a server")
}

fn options(server: SocketAddr, paths: Vec<String>, requests: u64) -> Options {
    Options {
        amount: Amount::Requests(requests),
        verify: true,
        timeout: Duration::from_secs(20),
        spin: Duration::ZERO,
        ..Options::new(server, "edge.test", paths)
    }
}

#[test]
fn a_closed_loop_gets_every_byte() {
    let mut paths = expand("/emotes/{}.png", 40);
    paths.extend(["/size/0".into(), "/size/300000".into(), "/size/1".into()]);
    let server = serve(&paths, 100);
    let report = load::run(&Options {
        connections: 5,
        streams: 9,
        sockets: 2,
        zipf: 0.5,
        watch: vec![std::process::id() as i32],
        ..options(server, paths, 1000)
    })
    .expect("a run");
    assert!(report.is_clean(), "{report}");
    assert!(
        report.requests >= 1000 && report.hits == report.requests,
        "{report}"
    );
    assert!(report.latency_us.count == report.requests && report.latency_us.p50 > 0.0);
    assert!(report.server_cpu_us_per_request.expect("watched") > 0.0);
    assert_eq!(report.handshake_us.count, 5);
}

/// At a time: more than a client of one server has tickets in the TLS library's own store.
const CLIENTS: usize = 16;

/// Each request on a connection of its own, in its first flight.
fn ask_early(server: SocketAddr, paths: Vec<String>) -> Report {
    let report = load::run(&Options {
        connections: CLIENTS,
        new_connections: 1.0,
        zero_rtt: 1.0,
        ..options(server, paths, 200)
    })
    .expect("a run");
    assert!(report.is_clean() && report.requests >= 200, "{report}");
    report
}

#[test]
fn new_connections_send_their_request_in_the_first_flight() {
    let paths = vec!["/size/1000".to_owned()];
    let server = serve(&paths, 100);
    let report = ask_early(server, paths);
    // All but the first of each, which no session was there for, and those that came before it was given.
    assert!(report.early_accepted > 100, "{report}");
    assert_eq!(report.early_rejected, 0, "{report}");
    let names: Vec<_> = report.curves.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["latency", "first byte", "handshake"]);
}

#[test]
fn what_the_server_forgot_is_asked_again() {
    let paths = vec!["/size/1000".to_owned()];
    let server = serve_with(&paths, 100, EarlyData::Forgotten);
    let report = ask_early(server, paths);
    assert!(report.early_rejected > 20, "{report}");
    assert_eq!(report.early_accepted, 0, "{report}");
}

#[test]
fn more_streams_than_the_server_grants_only_wait() {
    let paths = vec!["/size/1000".to_owned()];
    let server = serve(&paths, 4);
    let report = load::run(&Options {
        connections: 2,
        streams: 50,
        ..options(server, paths, 400)
    })
    .expect("a run");
    assert!(report.is_clean() && report.requests >= 400, "{report}");
}

#[test]
fn every_request_may_open_its_own_connection() {
    let paths = vec!["/size/1000".to_owned()];
    let server = serve(&paths, 100);
    let run = Options {
        streams: 3,
        new_connections: 1.0,
        ..options(server, paths, 30)
    };
    let report = load::run(&run).expect("a run");
    assert!(
        report.is_clean() && report.handshake_us.count >= 30,
        "{report}"
    );
}

#[test]
fn an_open_loop_sends_what_is_due() {
    let paths = vec!["/size/2000".to_owned()];
    let server = serve(&paths, 100);
    let report = load::run(&Options {
        connections: 3,
        streams: 20,
        rate: Some(500.0),
        amount: Amount::Time(Duration::from_millis(400)),
        ..options(server, paths, 0)
    })
    .expect("a run");
    assert!(report.is_clean(), "{report}");
    // 200 were due; the window's ends may cut off one each.
    assert!((190..=210).contains(&report.requests), "{report}");
}

#[test]
fn failures_are_counted_by_kind() {
    let paths = vec!["/size/1000".to_owned()];
    let server = serve(&paths, 100);
    // The server has only the first of them; the other is a 404.
    let asked = vec!["/size/1000".to_owned(), "/size/1001".to_owned()];
    let report = load::run(&options(server, asked, 40)).expect("a run");
    assert!(!report.is_clean());
    assert_eq!(
        report.errors.keys().collect::<Vec<_>>(),
        ["status 404"],
        "{report}"
    );
}

#[test]
fn a_herd_gets_identical_bodies() {
    let paths = vec!["/size/1024?v=7".to_owned()];
    let server = serve(&paths, 128);
    let run = Options {
        connections: 20,
        ..options(server, paths, 0)
    };
    let report = herd(&run, 2000, false).expect("a herd");
    assert_eq!((report.failed, report.identical), (0, 2000), "{report}");
    assert_eq!(report.wait_us.count, 2000);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let address = silent.local_addr().expect("bound");
    let run = Options {
        timeout: Duration::from_millis(300),
        ..options(address, vec!["/size/1".into()], 1)
    };
    let error = load::run(&run).expect_err("nobody answers").to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}
