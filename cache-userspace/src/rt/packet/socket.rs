//! The UDP sockets of all shards: opened together, before the shards start.
//!
//! Each listen address has one reuseport group with one socket a shard, bound in the order of the
//! shards, so that [`super::steer`] can name a socket by its shard.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libc::{
    IP_MTU_DISCOVER, IP_PKTINFO, IP_PMTUDISC_PROBE, IP_RECVTOS, IP_TOS, IPPROTO_IP, IPPROTO_IPV6,
    IPV6_MTU_DISCOVER, IPV6_RECVPKTINFO, IPV6_RECVTCLASS, IPV6_TCLASS, IPV6_V6ONLY, SO_RCVBUF,
    SO_RCVBUFFORCE, SO_REUSEPORT, SO_SNDBUF, SO_SNDBUFFORCE, SOL_SOCKET, SOL_UDP, UDP_GRO,
};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, getsockname, socket,
};

use super::steer as program;
use super::udp::UdpSocket;

/// Receive buffer of one socket: 20 ms at 1.6 Gbit/s a shard, in case it is held up.
const RECEIVE_BUFFER: i32 = 4 << 20;
/// Send buffer of one socket.
const SEND_BUFFER: i32 = 4 << 20;

/// ECT(0), RFC 3168: what QUIC sends nearly always, so it is the sockets' default.
pub const DEFAULT_TOS: u8 = 0b10;

/// Why a listen address cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error(
        "{address} (UDP) is in use already; stop what listens there (`ss -ulpn`) or change server.listen"
    )]
    InUse { address: SocketAddr },
    #[error(
        "{address} is not an address of this machine; see `ip -brief address`, or change server.listen"
    )]
    NotLocal { address: SocketAddr },
    #[error(
        "not allowed to listen on {address}: ports below 1024 need root or CAP_NET_BIND_SERVICE"
    )]
    NotAllowed { address: SocketAddr },
    #[error("{0} is listed twice in server.listen; an IP address can have one port only")]
    SameIp(IpAddr),
    #[error("cannot set {option} on the UDP socket for {address}: {source}")]
    Option {
        option: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot open a UDP socket for {address}: {source}")]
    Other {
        address: SocketAddr,
        source: io::Error,
    },
}

/// Opens the sockets of `shards` shards: the outer vector has one entry a shard, the inner one a
/// listen address.
pub fn open_sockets(listen: &[SocketAddr], shards: u8) -> Result<Vec<Vec<UdpSocket>>, SocketError> {
    require_distinct_ips(listen)?;
    let mut all: Vec<Vec<UdpSocket>> = (0..shards).map(|_| Vec::new()).collect();
    for address in listen {
        for (shard, socket) in all.iter_mut().zip(open_group(*address, shards)?) {
            shard.push(socket);
        }
    }
    Ok(all)
}

/// A transmit names its source by IP alone.
fn require_distinct_ips(listen: &[SocketAddr]) -> Result<(), SocketError> {
    for (n, address) in listen.iter().enumerate() {
        if listen[..n].iter().any(|other| other.ip() == address.ip()) {
            return Err(SocketError::SameIp(address.ip()));
        }
    }
    Ok(())
}

fn open_group(mut address: SocketAddr, shards: u8) -> Result<Vec<UdpSocket>, SocketError> {
    require_free(address)?;
    let mut group = Vec::new();
    for _ in 0..shards {
        let fd = open_one(address)?;
        // Port 0 was chosen by the kernel; the others of the group must share it.
        address = local_address(&fd, address)?;
        group.push(UdpSocket { fd, address });
    }
    if let Some(first) = group.first() {
        attach(first, shards, None)?;
    }
    Ok(group)
}

/// Opens sockets in the groups of `sockets`, one for each, for a node whose connections end: they follow those of
/// the group that are there. Nothing arrives on them before [`steer`] says so.
pub fn open_beside(sockets: &[Vec<UdpSocket>]) -> Result<Vec<Vec<UdpSocket>>, SocketError> {
    let beside = |socket: &UdpSocket| {
        let address = socket.address;
        open_one(address).map(|fd| UdpSocket { fd, address })
    };
    let of_shard = |shard: &Vec<UdpSocket>| shard.iter().map(beside).collect();
    sockets.iter().map(of_shard).collect()
}

/// Has the groups of `sockets` steered by shard, and what has a connection id of the key `former` or of one just
/// before it to the sockets of [`open_beside`].
pub fn steer(sockets: &[Vec<UdpSocket>], former: Option<u8>) -> Result<(), SocketError> {
    let shards = sockets.len() as u8;
    let mut first = sockets.iter().take(1).flatten();
    first.try_for_each(|socket| attach(socket, shards, former))
}

fn attach(socket: &UdpSocket, shards: u8, former: Option<u8>) -> Result<(), SocketError> {
    let failed = |e: nix::Error| option_error("SO_ATTACH_REUSEPORT_CBPF", socket.address, e.into());
    program::attach(&socket.fd, shards, former).map_err(failed)
}

/// A reuseport group admits later sockets of the same user, another popcache's too. So an address
/// that is in use is looked for without that option first.
fn require_free(address: SocketAddr) -> Result<(), SocketError> {
    let probe = new_socket(address)?;
    bind_to(&probe, address)
}

fn open_one(address: SocketAddr) -> Result<OwnedFd, SocketError> {
    let fd = new_socket(address)?;
    let must = |level, option, value, name| {
        set(&fd, level, option, value).map_err(|e| option_error(name, address, e))
    };
    must(SOL_SOCKET, SO_REUSEPORT, 1, "SO_REUSEPORT")?;
    must(SOL_UDP, UDP_GRO, 1, "UDP_GRO (Linux 5.0)")?;
    let tos = i32::from(DEFAULT_TOS);
    if address.is_ipv4() {
        must(
            IPPROTO_IP,
            IP_MTU_DISCOVER,
            IP_PMTUDISC_PROBE,
            "IP_MTU_DISCOVER",
        )?;
        must(IPPROTO_IP, IP_RECVTOS, 1, "IP_RECVTOS")?;
        must(IPPROTO_IP, IP_TOS, tos, "IP_TOS")?;
        must(
            IPPROTO_IP,
            IP_PKTINFO,
            i32::from(address.ip().is_unspecified()),
            "IP_PKTINFO",
        )?;
    } else {
        // The value for "probe" is the same for both families.
        must(IPPROTO_IPV6, IPV6_V6ONLY, 1, "IPV6_V6ONLY")?;
        must(
            IPPROTO_IPV6,
            IPV6_MTU_DISCOVER,
            IP_PMTUDISC_PROBE,
            "IPV6_MTU_DISCOVER",
        )?;
        must(IPPROTO_IPV6, IPV6_RECVTCLASS, 1, "IPV6_RECVTCLASS")?;
        must(IPPROTO_IPV6, IPV6_TCLASS, tos, "IPV6_TCLASS")?;
        let unspecified = i32::from(address.ip().is_unspecified());
        must(
            IPPROTO_IPV6,
            IPV6_RECVPKTINFO,
            unspecified,
            "IPV6_RECVPKTINFO",
        )?;
    }
    grow_buffer(&fd, SO_RCVBUFFORCE, SO_RCVBUF, RECEIVE_BUFFER);
    grow_buffer(&fd, SO_SNDBUFFORCE, SO_SNDBUF, SEND_BUFFER);
    bind_to(&fd, address)?;
    Ok(fd)
}

fn new_socket(address: SocketAddr) -> Result<OwnedFd, SocketError> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Datagram, flags, SockProtocol::Udp).map_err(|e| SocketError::Other {
        address,
        source: e.into(),
    })
}

fn bind_to(fd: &OwnedFd, address: SocketAddr) -> Result<(), SocketError> {
    use nix::errno::Errno;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).map_err(|errno| match errno {
        Errno::EADDRINUSE => SocketError::InUse { address },
        Errno::EADDRNOTAVAIL => SocketError::NotLocal { address },
        Errno::EACCES | Errno::EPERM => SocketError::NotAllowed { address },
        other => SocketError::Other {
            address,
            source: other.into(),
        },
    })
}

fn local_address(fd: &OwnedFd, asked: SocketAddr) -> Result<SocketAddr, SocketError> {
    if asked.port() != 0 {
        return Ok(asked);
    }
    let bound: SockaddrStorage = getsockname(fd.as_raw_fd()).map_err(|e| SocketError::Other {
        address: asked,
        source: e.into(),
    })?;
    let port = match (bound.as_sockaddr_in(), bound.as_sockaddr_in6()) {
        (Some(v4), _) => v4.port(),
        (_, Some(v6)) => v6.port(),
        _ => 0,
    };
    Ok(SocketAddr::new(asked.ip(), port))
}

/// Past the system's limit where that is allowed, up to it elsewhere.
fn grow_buffer(fd: &OwnedFd, force: i32, plain: i32, bytes: i32) {
    if set(fd, SOL_SOCKET, force, bytes).is_err() {
        // The kernel lowers this to its limit; a smaller buffer only drops earlier.
        let _ = set(fd, SOL_SOCKET, plain, bytes);
    }
}

fn set(fd: &impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the pointer names an i32 of `length` bytes that outlives the call.
    match unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn option_error(option: &'static str, address: SocketAddr, source: io::Error) -> SocketError {
    SocketError::Option {
        option,
        address,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().expect("address")
    }

    #[test]
    fn an_address_in_use_or_not_ours_is_named() {
        let sockets = open_sockets(&[any()], 2).expect("sockets");
        let taken = sockets[0][0].address;
        assert_eq!(taken, sockets[1][0].address, "one port for the whole group");
        let error = open_sockets(&[taken], 2).expect_err("in use");
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
        let foreign = "192.0.2.1:443".parse().expect("address");
        assert!(matches!(
            open_sockets(&[foreign], 1),
            Err(SocketError::NotLocal { .. })
        ));
    }

    #[test]
    fn one_ip_with_two_ports_is_refused() {
        assert!(matches!(
            open_sockets(&[any(), any()], 1),
            Err(SocketError::SameIp(_))
        ));
    }
}
