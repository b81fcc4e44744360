//! A veth pair in namespaces of the calling thread's own: network, so that nothing else is
//! touched, and mounts, so that the pins are gone with the thread.

use std::{
    io, mem,
    net::UdpSocket,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    process::Command,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// The side that the XDP program is attached to.
pub const INTERFACE: &str = "pcxdp0";
const PEER: &str = "pcxdp1";
pub const PEER_ADDRESS: &str = "192.0.2.1";
pub const OTHER_PEER_ADDRESS: &str = "192.0.2.3";
const ADDRESS: &str = "192.0.2.2";

/// Runs `test` in fresh namespaces.
pub fn in_namespaces(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .expect("these tests make namespaces and load XDP programs: run them as root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
        make_pair();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Both ends up, and the peer knows where to send without asking.
pub fn make_pair() {
    ip(&format!(
        "link add {INTERFACE} numrxqueues 2 numtxqueues 2 address 02:00:00:00:00:02 type veth \
         peer name {PEER} numrxqueues 2 numtxqueues 2"
    ));
    ip(&format!("address add {PEER_ADDRESS}/24 dev {PEER}"));
    ip(&format!("address add {OTHER_PEER_ADDRESS}/24 dev {PEER}"));
    ip(&format!("link set {PEER} up"));
    ip(&format!("link set {INTERFACE} up"));
    ip(&format!(
        "neighbour replace {ADDRESS} lladdr 02:00:00:00:00:02 dev {PEER}"
    ));
}

pub fn delete_pair() {
    ip(&format!("link delete {INTERFACE}"));
}

/// What `ip -details` says about the interface.
pub fn describe() -> String {
    let output = Command::new("ip")
        .args(["-details", "link", "show", "dev", INTERFACE])
        .output();
    String::from_utf8_lossy(&output.expect("ip runs").stdout).into_owned()
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' ').filter(|word| !word.is_empty()))
        .output();
    let output = output.expect("iproute2 is installed");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {complaint}");
}

/// Sends one UDP datagram from the peer to `port` of the interface.
pub fn send(port: u16, payload: &[u8]) {
    send_from(PEER_ADDRESS, port, payload);
}

/// The same from an address of the peer.
pub fn send_from(source: &str, port: u16, payload: &[u8]) {
    let socket = UdpSocket::bind((source, 0)).expect("the peer's address is up");
    let sent = socket.send_to(payload, (ADDRESS, port)).expect("sent");
    assert_eq!(sent, payload.len());
}

/// An AF_XDP socket that is bound to a queue of the interface, with an empty fill ring: it drops
/// what it gets and counts it.
pub struct DroppingXsk {
    socket: OwnedFd,
    // Registered with the kernel for as long as the socket lives.
    _frames: Vec<u8>,
}

impl DroppingXsk {
    const FRAME: usize = 4096;
    const FRAMES: usize = 2;
    const RING: u32 = 8;

    pub fn bind(queue: u32) -> Self {
        // SAFETY: no pointers are passed; the result is checked before it is owned.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "AF_XDP socket: {}", io::Error::last_os_error());
        // SAFETY: a fresh descriptor that nothing else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let frames = vec![0; Self::FRAME * (Self::FRAMES + 1)];
        let registration = libc::xdp_umem_reg {
            addr: (frames.as_ptr() as u64).next_multiple_of(Self::FRAME as u64),
            len: (Self::FRAME * Self::FRAMES) as u64,
            chunk_size: Self::FRAME as u32,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        set_option(&socket, libc::XDP_UMEM_REG, &registration);
        for ring in [
            libc::XDP_UMEM_FILL_RING,
            libc::XDP_UMEM_COMPLETION_RING,
            libc::XDP_RX_RING,
        ] {
            set_option(&socket, ring, &Self::RING);
        }
        bind(&socket, queue);
        Self {
            socket,
            _frames: frames,
        }
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.socket
    }

    /// Packets that reached the socket.
    pub fn reached(&self) -> u64 {
        // SAFETY: plain integers, for which zero is a value.
        let mut statistics: libc::xdp_statistics = unsafe { mem::zeroed() };
        let mut length = size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes into `statistics`.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_XDP,
                libc::XDP_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        assert_eq!(result, 0, "XDP_STATISTICS: {}", io::Error::last_os_error());
        statistics.rx_dropped
    }
}

fn set_option<T>(socket: &OwnedFd, name: i32, value: &T) {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `value`, a plain structure.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            name,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    assert_eq!(
        result,
        0,
        "AF_XDP option {name}: {}",
        io::Error::last_os_error()
    );
}

fn bind(socket: &OwnedFd, queue: u32) {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: libc::XDP_COPY,
        sxdp_ifindex: nix::net::if_::if_nametoindex(INTERFACE).expect("the interface exists"),
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    // SAFETY: the kernel reads `size_of` bytes of `address`.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    assert_eq!(
        result,
        0,
        "bind to queue {queue}: {}",
        io::Error::last_os_error()
    );
}
