use std::net::UdpSocket as Client;
use std::process::Command;
use std::time::Duration;

use cache_core::io::EcnCodepoint;
use hugepages::PagePolicy;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::super::open_sockets;
use super::*;
use crate::config::XdpMode;
use crate::xdp::{Xdp, XdpOptions};

/// The served end, whose addresses the kernel does not have; and the client's end.
const SERVED: &str = "pcrt0";
const PEER: &str = "pcrt1";
const MAC: &str = "02:00:00:00:0a:02";
const DEPTH: u32 = 64;

/// Runs `test` on a veth pair in network and mount namespaces of its own.
fn in_namespaces(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("these tests make namespaces and load XDP programs: run them as root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
        for command in [
            format!(
                "link add {SERVED} numrxqueues 1 numtxqueues 1 address {MAC} type veth peer name {PEER} numrxqueues 1 numtxqueues 1"
            ),
            format!("address add 192.0.2.1/24 dev {PEER}"),
            format!("address add 2001:db8::1/64 dev {PEER} nodad"),
            format!("link set {PEER} up"),
            format!("link set {SERVED} up"),
            "link set lo up".to_owned(),
            format!("neighbour replace 192.0.2.2 lladdr {MAC} dev {PEER}"),
            format!("neighbour replace 2001:db8::2 lladdr {MAC} dev {PEER}"),
        ] {
            let done = Command::new("ip")
                .args(command.split(' '))
                .output()
                .expect("iproute2");
            let complaint = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "ip {command}: {complaint}");
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn own() -> Vec<SocketAddr> {
    ["192.0.2.2:443", "[2001:db8::2]:443"]
        .map(|a| a.parse().expect("address"))
        .into()
}

/// The program on the served end with everything steered to one AF_XDP socket.
fn attached() -> (AfXdpIo, Xdp) {
    let mut xdp = Xdp::attach(&XdpOptions {
        interface: SERVED.to_owned(),
        mode: XdpMode::Native,
        pin_dir: "/sys/fs/bpf/popcache-rt-test".into(),
        ports: vec![443],
        tcp_ports: Vec::new(),
        shards: 1,
    })
    .expect("attached");
    let xsk = open(SERVED, 0, DEPTH, Mode::Copy, PagePolicy::Plain).expect("socket");
    xdp.register_xsk(0, xsk.fd.as_fd()).expect("registered");
    xdp.set_af_xdp(0, true).expect("steered");
    let listen = ["127.0.0.1:0".parse().expect("address")];
    let sockets = open_sockets(&listen, 1).expect("sockets").remove(0);
    let kernel = UdpIo::new(sockets, Arc::default());
    (AfXdpIo::new(xsk, own(), kernel, Arc::default()), xdp)
}

fn client(ip: &str) -> Client {
    let client = Client::bind((ip, 0)).expect("the peer's address is up");
    client
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("timeout");
    client
}

/// A client's first packet as the program wants it: a QUIC Initial of 1,200 bytes.
fn initial(fill: u8) -> Vec<u8> {
    let mut packet = vec![fill; 1200];
    packet[..6].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8]);
    packet[14..16].copy_from_slice(&[8, fill]);
    packet
}

fn receive(io: &mut AfXdpIo, count: usize) -> Vec<Datagram> {
    let mut all = Vec::new();
    while all.len() < count {
        io.recv(64, |datagram| all.push(datagram));
    }
    all
}

fn transmit(to: SocketAddr, from: IpAddr, segment: Option<usize>, data: Vec<u8>) -> Transmit {
    Transmit {
        destination: to,
        src_ip: Some(from),
        ecn: Some(EcnCodepoint::Ect0),
        segment_size: segment,
        data,
    }
}

#[test]
fn datagrams_go_both_ways_past_the_kernel_byte_for_byte() {
    in_namespaces(|| {
        let (mut io, _xdp) = attached();
        let mut outbox = Outbox::default();
        for (ip, own) in ["192.0.2.1", "2001:db8::1"].iter().zip(own()) {
            let client = client(ip);
            for fill in 0..3 * DEPTH as u8 {
                client.send_to(&initial(fill), own).expect("send");
                let got = receive(&mut io, 1).remove(0);
                assert_eq!(&got.data[..], initial(fill));
                assert_eq!(got.remote, client.local_addr().expect("address"));
                assert_eq!(got.local_ip, Some(own.ip()));

                let reply: Vec<u8> = (0..5000u32).map(|n| (n % 251) as u8 ^ fill).collect();
                outbox
                    .transmits
                    .push(transmit(got.remote, own.ip(), Some(1452), reply.clone()));
                io.send(&mut outbox);
                let mut back = Vec::new();
                while back.len() < reply.len() {
                    let mut buffer = [0; 2048];
                    let (length, from) = client.recv_from(&mut buffer).expect("reply");
                    assert_eq!(from, own);
                    back.extend_from_slice(&buffer[..length]);
                }
                assert_eq!(back, reply, "the kernel found the checksums right");
            }
        }
        assert_eq!(io.stats.receive_errors.get(), 0);
        assert_eq!(
            io.kernel.stats().datagrams_sent.get(),
            0,
            "nothing went through the kernel"
        );
    });
}

#[test]
fn more_than_the_ring_holds_waits_and_is_sent_in_order() {
    in_namespaces(|| {
        let (mut io, _xdp) = attached();
        let (client, own) = (client("192.0.2.1"), own()[0]);
        client.send_to(&initial(1), own).expect("send");
        let got = receive(&mut io, 1).remove(0);
        let mut outbox = Outbox::default();
        let count = 3 * DEPTH as usize;
        for n in 0..count {
            outbox
                .transmits
                .push(transmit(got.remote, own.ip(), None, vec![n as u8; 100]));
        }
        io.send(&mut outbox);
        assert!(io.is_blocked() && io.blocked_fd().is_some());
        for n in 0..count {
            while io.is_blocked() && n % 16 == 0 {
                io.send(&mut outbox);
            }
            let mut buffer = [0; 200];
            let length = client.recv(&mut buffer).expect("reply");
            assert_eq!(buffer[..length], [n as u8; 100]);
        }
        assert!(!io.is_blocked());
        assert_eq!(io.stats.send_dropped.get(), 0);
    });
}

#[test]
fn what_is_not_for_us_is_dropped_and_unknown_peers_are_answered_through_the_kernel() {
    in_namespaces(|| {
        let (mut io, _xdp) = attached();
        io.own.remove(0);
        let client = client("192.0.2.1");
        client.send_to(&initial(1), own()[0]).expect("send");
        while io.stats.receive_dropped.get() == 0 {
            assert_eq!(io.recv(64, |_| ()), 0);
        }
        let kernel = io.kernel.fds().len();
        assert_eq!(io.fds().len(), kernel + 1);
        let to = Client::bind("127.0.0.1:0").expect("bind");
        let mut outbox = Outbox::default();
        let address = to.local_addr().expect("address");
        outbox.transmits.push(transmit(
            address,
            "127.0.0.1".parse().expect("ip"),
            None,
            vec![7; 9],
        ));
        io.send(&mut outbox);
        let mut buffer = [0; 20];
        assert_eq!(to.recv(&mut buffer).expect("datagram"), 9);
        assert!(!io.is_blocked());
    });
}

#[test]
fn what_the_machine_lacks_is_named() {
    in_namespaces(|| {
        let complaint =
            |interface, queue, mode| match open(interface, queue, DEPTH, mode, PagePolicy::Plain) {
                Ok(_) => "none".to_owned(),
                Err(error) => format!("{error:#}"),
            };
        assert!(complaint("nosuch0", 0, Mode::Copy).contains("does not exist"));
        assert!(complaint(SERVED, 1, Mode::Copy).contains("no queue 1"));
        assert!(complaint(SERVED, 0, Mode::ZeroCopy).contains("no AF_XDP zero-copy"));
    });
}
