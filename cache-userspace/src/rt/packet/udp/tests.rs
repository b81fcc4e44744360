use std::net::{SocketAddr, UdpSocket as Client};
use std::time::Duration;

use cache_core::io::EcnCodepoint;
use cache_ebpf::cid::{CidKey, seal};

use super::super::{open_beside, open_sockets, steer};
use super::*;

/// One `UdpIo` a shard on an address of loopback.
fn shards(ip: &str, count: u8) -> Vec<UdpIo> {
    let listen = SocketAddr::new(ip.parse().expect("ip"), 0);
    let sockets = open_sockets(&[listen], count).expect("sockets");
    sockets
        .into_iter()
        .map(|s| UdpIo::new(s, Arc::default()))
        .collect()
}

fn address(io: &UdpIo) -> SocketAddr {
    io.sockets[0].address()
}

/// Receives until `count` datagrams came; hangs (and so fails) if they do not.
fn receive(io: &mut UdpIo, count: usize) -> Vec<Datagram> {
    let mut all = Vec::new();
    while all.len() < count {
        io.recv(64, |datagram| all.push(datagram));
    }
    assert_eq!(all.len(), count);
    all
}

fn send(io: &mut UdpIo, outbox: &mut Outbox, transmit: Transmit) {
    outbox.transmits.push(transmit);
    io.send(outbox);
    assert!(!io.is_blocked());
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

fn client_of(io: &UdpIo) -> Client {
    let ip = match address(io).is_ipv4() {
        true => "127.0.0.1:0",
        false => "[::1]:0",
    };
    let client = Client::bind(ip).expect("bind");
    client
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("timeout");
    client
}

#[test]
fn datagrams_go_both_ways_over_both_families() {
    for (listen, target) in [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("0.0.0.0", "127.0.0.2"),
        ("::", "::1"),
    ] {
        let mut io = shards(listen, 1).remove(0);
        let client = client_of(&io);
        let to = SocketAddr::new(target.parse().expect("ip"), address(&io).port());
        client.send_to(b"ping", to).expect("send");
        let got = receive(&mut io, 1).remove(0);
        assert_eq!(&got.data[..], b"ping");
        assert_eq!(got.remote, client.local_addr().expect("address"));
        assert_eq!(got.local_ip, Some(to.ip()), "listening on {listen}");

        let reply = Transmit {
            destination: got.remote,
            src_ip: got.local_ip,
            ecn: Some(EcnCodepoint::Ect0),
            segment_size: None,
            data: b"pong".to_vec(),
        };
        send(&mut io, &mut Outbox::default(), reply);
        let mut buffer = [0; 64];
        let (length, from) = client.recv_from(&mut buffer).expect("reply");
        assert_eq!((&buffer[..length], from), (&b"pong"[..], to));
    }
}

#[test]
fn a_train_of_segments_arrives_whole_and_marked() {
    for ip in ["127.0.0.1", "::1"] {
        for (segment, length) in [
            (1452, 44 * 1452),
            (1200, 1200 * 3 + 7),
            (1452, 100),
            (1000, 64_000 + 999),
        ] {
            let mut sender = shards(ip, 1).remove(0);
            let mut receiver = shards(ip, 1).remove(0);
            let mut outbox = Outbox::default();
            let transmit = Transmit {
                destination: address(&receiver),
                src_ip: Some(address(&sender).ip()),
                ecn: Some(EcnCodepoint::Ce),
                segment_size: Some(segment),
                data: pattern(length),
            };
            send(&mut sender, &mut outbox, transmit);
            let count = length.div_ceil(segment);
            let got = receive(&mut receiver, count);
            assert!(got.iter().all(|d| d.ecn == Some(EcnCodepoint::Ce)));
            assert!(got[..count - 1].iter().all(|d| d.data.len() == segment));
            let all: Vec<u8> = got.iter().flat_map(|d| d.data.to_vec()).collect();
            assert_eq!(all, pattern(length));
            assert_eq!(sender.stats.datagrams_sent.get(), count as u64);
            assert_eq!(outbox.buffer().capacity(), length, "the buffer came back");
        }
    }
}

#[test]
fn without_offload_the_same_bytes_are_sent_one_by_one() {
    let mut sender = shards("127.0.0.1", 1).remove(0);
    let mut receiver = shards("127.0.0.1", 1).remove(0);
    sender.unsegmented = true;
    let transmit = Transmit {
        destination: address(&receiver),
        src_ip: None,
        ecn: None,
        segment_size: Some(1200),
        data: pattern(60_000),
    };
    send(&mut sender, &mut Outbox::default(), transmit);
    let got = receive(&mut receiver, 50);
    assert!(got.iter().all(|d| d.ecn.is_none()));
    assert_eq!(
        got.iter()
            .flat_map(|d| d.data.to_vec())
            .collect::<Vec<u8>>(),
        pattern(60_000)
    );
}

#[test]
fn what_the_kernel_refuses_is_counted_and_the_rest_is_sent() {
    let mut sender = shards("127.0.0.1", 1).remove(0);
    let mut receiver = shards("127.0.0.1", 1).remove(0);
    let mut outbox = Outbox::default();
    let to = |destination, segment_size, data| Transmit {
        destination,
        src_ip: None,
        ecn: None,
        segment_size,
        data,
    };
    // A broadcast without leave, then datagrams as large as they may be, and a small one.
    outbox.transmits.push(to(
        "255.255.255.255:9".parse().expect("address"),
        None,
        vec![1],
    ));
    outbox
        .transmits
        .push(to(address(&receiver), Some(65_000), pattern(65_400)));
    outbox
        .transmits
        .push(to(address(&receiver), None, vec![2; 9]));
    sender.send(&mut outbox);
    assert!(!sender.is_blocked());
    let mut got = receive(&mut receiver, 3);
    assert_eq!(&got.remove(2).data[..], [2; 9]);
    assert!(sender.stats.send_refused.get() >= 1);
}

#[test]
fn a_connection_id_names_the_socket_of_its_shard() {
    let mut shards = shards("127.0.0.1", 2);
    let client = client_of(&shards[0]);
    let to = address(&shards[0]);
    let key = CidKey::from_bytes([7; 16]);
    for shard in [0, 1, 1, 0] {
        let cid = seal(&key, 0, shard, [9; 6]);
        let short = [&[0x40][..], &cid[..], &[0; 20]].concat();
        let handshake = [&[0xe0, 0, 0, 0, 1, 12][..], &cid[..], &[0; 20]].concat();
        for datagram in [short, handshake] {
            client.send_to(&datagram, to).expect("send");
            let got = receive(&mut shards[usize::from(shard)], 1).remove(0);
            assert_eq!(&got.data[..], &datagram[..]);
        }
    }
    // What a client made up stays together, and so does what names no shard.
    let initial = [&[0xc0, 0, 0, 0, 1, 8][..], &[1; 40]].concat();
    let stray = [&[0x40][..], &seal(&key, 0, 9, [9; 6])[..], &[0; 20]].concat();
    for datagram in [&initial, &initial, &stray] {
        client.send_to(datagram, to).expect("send");
        receive(&mut shards[1], 1);
    }
}

#[test]
fn ids_of_a_former_node_reach_its_sockets_and_all_others_the_new_ones() {
    let listen: SocketAddr = "127.0.0.1:0".parse().expect("address");
    let own = open_sockets(&[listen], 2).expect("sockets");
    let beside = open_beside(&own).expect("sockets beside");
    let clone = |sockets: &[Vec<UdpSocket>]| -> Vec<Vec<UdpSocket>> {
        let all = sockets.iter();
        all.map(|one| vec![one[0].try_clone().expect("a clone")])
            .collect()
    };
    let io = |sockets: Vec<Vec<UdpSocket>>| -> Vec<UdpIo> {
        let all = sockets.into_iter();
        all.map(|one| UdpIo::new(one, Arc::default())).collect()
    };
    let (mut new, mut former) = (io(clone(&own)), io(beside));
    let client = client_of(&new[0]);
    let to = address(&new[0]);
    let key = CidKey::from_bytes([7; 16]);
    let packets = |key_id: u8, shard: u8| {
        let cid = seal(&key, key_id, shard, [9; 6]);
        let long = [&[0xe0, 0, 0, 0, 1, 12][..], &cid[..], &[0; 20]].concat();
        [[&[0x40][..], &cid[..], &[0; 20]].concat(), long]
    };
    // The last key of the former node is 1: its others are 0, 255 and 254.
    steer(&own, Some(1)).expect("steered");
    for key_id in [1, 0, 255, 254, 2, 3, 253, 128] {
        for shard in [0, 1] {
            for packet in packets(key_id, shard) {
                client.send_to(&packet, to).expect("send");
                let is_former = [1, 0, 255, 254].contains(&key_id);
                let ios = if is_former { &mut former } else { &mut new };
                let got = receive(&mut ios[usize::from(shard)], 1).remove(0);
                assert_eq!(&got.data[..], &packet[..], "{key_id} {shard}");
            }
        }
    }
    let initial = [&[0xc0, 0, 0, 0, 1, 8][..], &[1; 40]].concat();
    client.send_to(&initial, to).expect("send");
    receive(&mut new[1], 1);

    // The former one ends: its sockets go, and everything is the new one's.
    steer(&own, None).expect("steered");
    drop(former);
    for shard in [0, 1] {
        for packet in packets(1, shard) {
            client.send_to(&packet, to).expect("send");
            receive(&mut new[usize::from(shard)], 1);
        }
    }
    // A shard lets go of its first sockets, or of its last.
    let mut both = UdpIo::new(clone(&own).remove(0), Arc::default());
    both.join(open_beside(&own).expect("sockets").remove(0));
    assert_eq!(both.fds().len(), 2);
    both.leave(Which::Last, 1);
    both.leave(Which::First, 1);
    assert_eq!(both.fds().len(), 1, "the last one stays");
}

#[test]
fn a_transmit_leaves_by_the_socket_of_its_source() {
    let listen = ["127.0.0.1:0", "[::1]:0", "127.0.0.2:0"].map(|a| a.parse().expect("address"));
    let sockets = open_sockets(&listen, 1).expect("sockets").remove(0);
    let addresses: Vec<SocketAddr> = sockets.iter().map(UdpSocket::address).collect();
    let mut io = UdpIo::new(sockets, Arc::default());
    let mut outbox = Outbox::default();
    let clients = ["127.0.0.1:0", "[::1]:0", "127.0.0.1:0"].map(|a| Client::bind(a).expect("bind"));
    for (client, address) in clients.iter().zip(&addresses) {
        outbox.transmits.push(Transmit {
            destination: client.local_addr().expect("address"),
            src_ip: Some(address.ip()),
            ecn: None,
            segment_size: None,
            data: vec![1],
        });
    }
    io.send(&mut outbox);
    for (client, address) in clients.iter().zip(&addresses) {
        assert_eq!(client.recv_from(&mut [0; 9]).expect("datagram").1, *address);
    }
}

#[test]
fn received_datagrams_share_buffers_that_are_used_again() {
    let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
    let start = buffer.as_ptr();
    let first = take(&mut buffer, &[1; 1000]);
    let second = take(&mut buffer, &[2; 1000]);
    assert_eq!(second.as_ptr() as usize, first.as_ptr() as usize + 1000);
    drop((first, second));
    while buffer.capacity() >= 1000 {
        drop(take(&mut buffer, &[3; 1000]));
    }
    let again = take(&mut buffer, &[4; 1000]);
    assert_eq!(
        again.as_ptr(),
        start,
        "the same memory, since nothing held it"
    );
    assert_eq!(&again[..], [4; 1000]);
}
