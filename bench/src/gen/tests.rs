//! The whole generator without root: options, refusals, and real datagrams over loopback.

use super::*;

fn options(way: Way, to: &str, mix: &str) -> Options {
    Options {
        way,
        interface: None,
        to: Some(to.parse().expect("valid")),
        destination_mac: None,
        sources: None,
        ports: Ports {
            first: 41_000,
            count: 4,
        },
        what: What::Mix {
            mix: Mix::parse(mix).expect("valid"),
            size: 64,
        },
        rate: None,
        count: Some(200),
        time: Duration::from_secs(10),
        owned: false,
        queue: 0,
        core: None,
        seed: 1,
        progress: false,
    }
}

/// Runs `options` towards a socket of ours and returns what it got, a datagram each.
fn received(mut options: Options) -> (Report, Vec<(SocketAddr, Vec<u8>)>) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    options.to = Some(socket.local_addr().expect("bound"));
    let count = options.count.expect("counted");
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        let mut buffer = [0; 2048];
        while (got.len() as u64) < count {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                break;
            };
            got.push((from, buffer[..length].to_vec()));
        }
        got
    });
    let report = run(&options).expect("sent");
    (report, reader.join().expect("read"))
}

fn arrives(way: Way, first: u16) {
    let mut options = options(way, "127.0.0.1:1", "initial=1,short=3");
    options.ports.first = first;
    // No more than a socket's buffer takes while its reader waits for a processor.
    options.count = Some(120);
    let (report, got) = received(options);
    assert_eq!((report.packets, got.len()), (120, 120));
    assert_eq!(report.kinds.values().sum::<u64>(), 120);
    let initials = got.iter().filter(|(_, bytes)| bytes[0] & 0x80 != 0).count();
    assert_eq!(report.kinds["initial"], initials as u64);
    assert!(
        got.iter()
            .all(|(_, bytes)| [64, 1200].contains(&bytes.len()))
    );
    assert!(
        got.iter()
            .all(|(from, _)| (first..first + 4).contains(&from.port()))
    );
    let mut shorts: Vec<_> = got.iter().filter(|(_, bytes)| bytes.len() == 64).collect();
    let all = shorts.len();
    shorts.sort();
    shorts.dedup();
    assert_eq!(shorts.len(), all, "each has an id of its own");
}

#[test]
fn sendmmsg_arrives() {
    arrives(Way::Sendmmsg, 41_000);
}

#[test]
fn segmentation_arrives() {
    arrives(Way::UdpGso, 41_100);
}

#[test]
fn a_rate_is_kept_and_a_capture_sent() {
    let captures =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../cache-ebpf/tests/captures");
    let file = captures.join("curl.pcap");
    let mut options = options(Way::Sendmmsg, "127.0.0.1:1", "short");
    options.ports.first = 41_200;
    options.what = What::Capture(file.clone());
    options.rate = Some(2000.0);
    options.count = Some(40);
    let (report, got) = received(options);
    assert_eq!((report.packets, got.len()), (40, 40));
    // The last of them was not due earlier, however slow the machine is.
    assert!(report.seconds >= 39.0 / 2000.0);
    let frames = pcap::read(&file).expect("frames");
    assert_eq!(got[0].1, frames[0][frames[0].len() - got[0].1.len()..]);
}

#[test]
fn the_internet_is_not_sent_to() {
    for (way, to) in [
        (Way::Sendmmsg, "127.0.0.1:9"),
        (Way::LiveFrames, "127.0.0.1:9"),
    ] {
        let mut options = options(way, to, "short");
        options.sources = Some(Sources::parse("8.8.8.8").expect("valid"));
        let error = run(&options).expect_err("not ours").to_string();
        assert!(
            error.contains("8.8.8.8") && error.contains("--i-own-this-network"),
            "{error}"
        );
    }
}

#[test]
fn options_that_cannot_be_are_refused() {
    let good = options(Way::Sendmmsg, "127.0.0.1:9", "short");
    let cases: [(Options, &str); 5] = [
        (
            Options {
                rate: Some(0.0),
                ..good.clone()
            },
            "rate is 0",
        ),
        (
            Options {
                to: None,
                ..good.clone()
            },
            "--to",
        ),
        (
            options(Way::UdpGso, "127.0.0.1:9", "amplification"),
            "reflectors' ports",
        ),
        (
            Options {
                sources: Some(Sources::parse("10.0.0.0/8").expect("valid")),
                ..good.clone()
            },
            "own address",
        ),
        (
            Options {
                interface: Some("no-such".into()),
                ..good
            },
            "not no-such",
        ),
    ];
    for (options, reason) in cases {
        let error = run(&options).expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn neighbours_are_found_where_they_are_complete() {
    let table = "\
IP address       HW type     Flags       HW address            Mask     Device
192.0.2.7        0x1         0x2         02:00:00:00:00:0a     *        eth.0
192.0.2.8        0x1         0x0         00:00:00:00:00:00     *        eth.0
";
    let find = |interface, address: &str| {
        find_neighbour(table, interface, address.parse().expect("valid"))
    };
    assert_eq!(find("eth.0", "192.0.2.7"), Some([2, 0, 0, 0, 0, 10]));
    assert_eq!(find("eth.1", "192.0.2.7"), None);
    assert_eq!(find("eth.0", "192.0.2.8"), None);
    for bad in [
        "",
        "02:00",
        "02:00:00:00:00:00:00",
        "2:0:0:0:0:0",
        "zz:00:00:00:00:00",
    ] {
        assert_eq!(parse_mac(bad), None, "{bad}");
    }
}
