//! What may be sent where, unless the operator says that the network is theirs.
//!
//! Packets leave only through the loopback interface or a veth, which ends on this machine, and both
//! their destination and the sources that they claim, to which servers answer, are addresses that
//! nobody on the internet has.

use std::ffi::CString;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail, ensure};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};

use super::frame::{Mac, Sources};

/// Networks that are loopback, private, link-local or kept for tests and documentation.
const OWN: [(&str, u8); 14] = [
    ("127.0.0.0", 8),
    ("10.0.0.0", 8),
    ("172.16.0.0", 12),
    ("192.168.0.0", 16),
    ("100.64.0.0", 10),
    ("169.254.0.0", 16),
    ("192.0.2.0", 24),
    ("198.51.100.0", 24),
    ("203.0.113.0", 24),
    ("198.18.0.0", 15),
    ("::1", 128),
    ("fc00::", 7),
    ("fe80::", 10),
    ("2001:db8::", 32),
];

/// An interface to send through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub index: u32,
    /// All zeros where it has none.
    pub mac: Mac,
    pub kind: LinkKind,
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    Loopback,
    Veth,
    /// By the name of its driver, where it has one.
    Other(Option<String>),
}

impl Link {
    /// The interface of this name in the namespace we are in.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> Result<Self> {
        let index =
            if_nametoindex(name).with_context(|| format!("there is no interface `{name}` here"))?;
        let mut link = Self {
            name: name.to_owned(),
            index,
            mac: [0; 6],
            kind: LinkKind::Other(None),
            addresses: Vec::new(),
        };
        let mut loopback = false;
        for entry in getifaddrs().context("cannot list interfaces")? {
            if entry.interface_name != name {
                continue;
            }
            loopback |= entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
            let Some(address) = entry.address else {
                continue;
            };
            if let Some(mac) = address.as_link_addr().and_then(|link| link.addr()) {
                link.mac = mac;
            }
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            let v6 = address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
            link.addresses.extend(v4.or(v6));
        }
        link.kind = match driver(name)? {
            _ if loopback => LinkKind::Loopback,
            Some(driver) if driver == "veth" => LinkKind::Veth,
            driver => LinkKind::Other(driver),
        };
        Ok(link)
    }

    /// The interface that the kernel would take to `to`.
    ///
    /// # Errors
    /// There is no way there.
    pub fn towards(to: SocketAddr) -> Result<Self> {
        let local = local_address(to)?;
        let mut entries = getifaddrs().context("cannot list interfaces")?;
        let holder = entries.find(|entry| {
            let address = entry.address.as_ref();
            let v4 = address.and_then(|a| a.as_sockaddr_in());
            let v6 = address.and_then(|a| a.as_sockaddr_in6());
            v4.is_some_and(|v4| IpAddr::V4(v4.ip()) == local)
                || v6.is_some_and(|v6| IpAddr::V6(v6.ip()) == local)
        });
        let holder = holder.with_context(|| format!("no interface has the address {local}"))?;
        // What we have ourselves is reached through the loopback interface.
        if local == to.ip() {
            return Self::named("lo");
        }
        Self::named(&holder.interface_name)
    }
}

/// The address of ours that the kernel would send from.
///
/// # Errors
/// There is no way there.
pub fn local_address(to: SocketAddr) -> Result<IpAddr> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).context("cannot open a UDP socket")?;
    socket
        .connect(to)
        .with_context(|| format!("there is no route to {to}"))?;
    Ok(socket.local_addr().context("a connected socket")?.ip())
}

/// Refuses what may reach others.
///
/// # Errors
/// Says what is not ours.
pub fn check(link: &Link, sources: &[Sources]) -> Result<()> {
    const OTHERWISE: &str =
        "if all of the network that this can reach is yours, add --i-own-this-network";
    if let LinkKind::Other(driver) = &link.kind {
        let name = &link.name;
        match driver {
            Some(driver) => bail!("{name} (driver {driver}) is neither lo nor a veth: {OTHERWISE}"),
            None => bail!("{name} is neither lo nor a veth: {OTHERWISE}"),
        }
    }
    for range in sources {
        let (first, last) = (range.first, range.last());
        ensure!(
            is_own(first, last),
            "{first} to {last} is not within one private or test network: {OTHERWISE}"
        );
    }
    Ok(())
}

/// Whether all from `first` to `last` lie in one of [`OWN`].
fn is_own(first: IpAddr, last: IpAddr) -> bool {
    OWN.iter().any(|(network, length)| {
        let network = network.parse().expect("an address");
        holds(network, *length, first) && holds(network, *length, last)
    })
}

fn holds(network: IpAddr, length: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (network.to_bits() ^ address.to_bits()) >> (32 - length) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            (network.to_bits() ^ address.to_bits()) >> (128 - length) == 0
        }
        _ => false,
    }
}

/// The driver of an interface, if it says (ETHTOOL_GDRVINFO).
fn driver(name: &str) -> Result<Option<String>> {
    const GET_DRIVER: u32 = 3;
    /// `struct ethtool_drvinfo`: the command, then the driver's name.
    #[repr(C)]
    struct Info {
        command: u32,
        driver: [u8; 32],
        rest: [u8; 160],
    }
    let socket = UdpSocket::bind("127.0.0.1:0")
        .or_else(|_| UdpSocket::bind("0.0.0.0:0"))
        .context("cannot open a UDP socket")?;
    let mut info = Info {
        command: GET_DRIVER,
        driver: [0; 32],
        rest: [0; 160],
    };
    // SAFETY: zeros are a valid request, which names no interface yet.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let terminated = CString::new(name).context("a name with a zero byte")?;
    let bytes = terminated.as_bytes_with_nul();
    ensure!(
        bytes.len() <= request.ifr_name.len(),
        "`{name}` is too long for an interface"
    );
    for (place, byte) in request.ifr_name.iter_mut().zip(bytes) {
        *place = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: the request points to a structure of the size that the command writes, which outlives
    // the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if done < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Ok(None),
            _ => Err(error).with_context(|| format!("cannot ask for the driver of {name}")),
        };
    }
    let text = info.driver.split(|byte| *byte == 0).next().unwrap_or(&[]);
    Ok(Some(String::from_utf8_lossy(text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: LinkKind) -> Link {
        Link {
            name: "x0".into(),
            index: 7,
            mac: [0; 6],
            kind,
            addresses: vec![],
        }
    }

    fn sources(text: &str) -> [Sources; 1] {
        [Sources::parse(text).expect("valid")]
    }

    #[test]
    fn test_networks_behind_a_veth_are_allowed() {
        for text in [
            "198.18.0.1",
            "10.0.0.0/8",
            "127.0.0.1",
            "192.0.2.0/24",
            "fd00::/96",
            "2001:db8::1",
            "::1",
        ] {
            check(&link(LinkKind::Veth), &sources(text)).expect(text);
            check(&link(LinkKind::Loopback), &sources(text)).expect(text);
        }
    }

    #[test]
    fn the_internet_is_refused() {
        for text in [
            "8.8.8.8",
            "0.0.0.0/0",
            "198.16.0.0/12",
            "11.0.0.0",
            "2606::1",
            "::/96",
        ] {
            let error = check(&link(LinkKind::Veth), &sources(text)).expect_err(text);
            assert!(error.to_string().contains("--i-own-this-network"));
        }
    }

    #[test]
    fn a_real_nic_is_refused_by_its_name() {
        let nic = link(LinkKind::Other(Some("virtio_net".into())));
        let error = check(&nic, &sources("10.0.0.1")).expect_err("a NIC");
        assert!(error.to_string().contains("x0 (driver virtio_net)"));
    }

    #[test]
    fn loopback_is_known_for_what_it_is() {
        let link = Link::towards("127.0.0.1:9".parse().expect("valid")).expect("lo is up");
        assert_eq!((link.name.as_str(), link.kind), ("lo", LinkKind::Loopback));
        Link::named("no-such-thing").expect_err("not there");
    }
}
