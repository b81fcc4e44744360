//! Every core that a connection id can name, on every queue that it can come in on.

use std::fs;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use cache_ebpf::cid::{CID_LEN, Cid};

use crate::harness::flood::{self, initials};
use crate::harness::{Backend, Edge, SERVER, within};

on_both_backends! { every_core_is_reached_from_every_queue }

const CORES: usize = 2;
/// Datagrams of each pair: fewer than any ring on the way holds.
const COUNT: u64 = 100;
/// Connections that are begun at most until every core has made an id.
const MOST_BEGUN: usize = 64;
const PATIENCE: Duration = Duration::from_secs(20);

/// What a shard and the program have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    home: u64,
    away: u64,
    received: [u64; CORES],
    handed_over: [u64; CORES],
}

fn every_core_is_reached_from_every_queue(backend: Backend) {
    let edge = Edge::start(backend);
    let ids = ids_of_every_core(&edge);
    for (core, id) in ids.iter().enumerate() {
        for queue in 0..CORES {
            let before = counted(&edge);
            send(&edge, queue, id);
            let expected = expected(backend, core, queue);
            let moved = wait_for(&edge, before, expected.received[core]);
            assert_eq!(moved, expected, "core {core}, queue {queue}");
        }
    }
    assert_eq!(edge.counter("datagrams_forged"), 0);
    edge.curl(&["/emotes/1.png"])[0].assert_body(&edge.origin.body("/emotes/1.png"));
}

fn expected(backend: Backend, core: usize, queue: usize) -> Counted {
    let mut expected = Counted::default();
    expected.received[core] = COUNT;
    if core == queue {
        expected.home = COUNT;
        return expected;
    }
    expected.away = COUNT;
    // By UDP the kernel gives it to the right core; by AF_XDP it comes to that of its queue first.
    if backend == Backend::AfXdp {
        expected.received[queue] = COUNT;
        expected.handed_over[queue] = COUNT;
    }
    expected
}

/// An id that each core has made, of a handshake that went no further.
fn ids_of_every_core(edge: &Edge) -> [Cid; CORES] {
    let mut ids = [None; CORES];
    within(edge.network().client(), || {
        for initial in initials(MOST_BEGUN) {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            socket.send_to(&initial, SERVER).expect("sent");
            let mut answer = [0; 1500];
            let (length, _) = socket.recv_from(&mut answer).expect("an answer");
            let id = source_id(&answer[..length]);
            ids[usize::from(id[1])] = Some(id);
            if ids.iter().all(Option::is_some) {
                break;
            }
        }
    });
    ids.map(|id| id.expect("every core has begun a connection"))
}

/// The server's own id in its long header (RFC 9000 section 17.2).
fn source_id(datagram: &[u8]) -> Cid {
    const IDS: usize = 5;
    let destination = usize::from(datagram[IDS]);
    let (length, rest) = datagram[IDS + 1 + destination..]
        .split_first()
        .expect("ids");
    assert_eq!(usize::from(*length), CID_LEN);
    *rest.first_chunk().expect("an id")
}

/// Sends short headers with `id` so that they arrive on `queue`.
fn send(edge: &Edge, queue: usize, id: &Cid) {
    let payload = [&[0x41], &id[..], &[7; 30]].concat();
    let frame = flood::frame(mac(edge), &payload);
    let file = edge.scratch("steered.pcap");
    fs::write(&file, capture(&frame)).expect("written");
    let (queue, count) = (queue.to_string(), COUNT.to_string());
    let report = edge.generate(&[
        "--way",
        "af-xdp",
        "--queue",
        &queue,
        "--count",
        &count,
        "--rate",
        "5000",
        "--pcap",
        &file.display().to_string(),
    ]);
    assert_eq!(report["packets"], COUNT, "{report:#}");
}

/// The Ethernet address of the appliance.
fn mac(edge: &Edge) -> [u8; 6] {
    let link = edge.network().interface();
    let mut words = link.split_whitespace();
    words.find(|word| *word == "link/ether").expect("Ethernet");
    let text = words.next().expect("an address");
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().expect("hexadecimal");
    bytes.try_into().expect("six bytes")
}

/// A capture file of one Ethernet frame.
fn capture(frame: &[u8]) -> Vec<u8> {
    let length = frame.len() as u32;
    let header = [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 0xffff, 1];
    let record = [0, 0, length, length];
    let words = header.into_iter().chain(record);
    words
        .flat_map(u32::to_le_bytes)
        .chain(frame.iter().copied())
        .collect()
}

fn counted(edge: &Edge) -> Counted {
    let status = edge.status();
    let program = |name: &str| status["xdp"]["counters"][name].as_u64().expect(name);
    let of = |name: &str| {
        std::array::from_fn(|core| {
            let value = &status["shards"][core]["counters"][name];
            value.as_u64().expect("a counter")
        })
    };
    Counted {
        home: program("cid_home"),
        away: program("cid_away"),
        received: of("datagrams_received"),
        handed_over: of("datagrams_handed_over"),
    }
}

/// What has moved since `before`, once `core` has received what it is to get.
fn wait_for(edge: &Edge, before: Counted, least: u64) -> Counted {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = counted(edge);
        let since = |now: [u64; CORES], before: [u64; CORES]| {
            std::array::from_fn(|core| now[core] - before[core])
        };
        let moved = Counted {
            home: now.home - before.home,
            away: now.away - before.away,
            received: since(now.received, before.received),
            handed_over: since(now.handed_over, before.handed_over),
        };
        let whole = moved
            .received
            .iter()
            .max()
            .is_some_and(|most| *most >= least)
            && moved.home + moved.away >= COUNT
            && moved.received.iter().sum::<u64>() >= COUNT + moved.handed_over.iter().sum::<u64>();
        if whole || Instant::now() > deadline {
            return moved;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
