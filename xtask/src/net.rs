//! The demo's network: a namespace for clients, and a virtual NIC with two queues into it.
//!
//! ```text
//!   this machine                        namespace popcache-client
//!   pc0  10.77.0.1/24  ==== veth ====  pc1  10.77.0.2/24
//!        fd77::1/64      (2 queues)         fd77::2/64
//! ```

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::command::output;

/// The namespace in which clients run.
pub const NAMESPACE: &str = "popcache-client";
/// The end of the virtual NIC that popcache serves on.
pub const INTERFACE: &str = "pc0";
/// The address that popcache listens on.
pub const SERVER: &str = "10.77.0.1";

const PEER: &str = "pc1";
const QUEUES: &str = "2";

/// The namespace and the virtual NIC, until dropped.
pub struct Net(());

impl Net {
    /// Makes both; what a crashed run left under the same names is removed first.
    ///
    /// # Errors
    /// The kernel cannot make one of them; the error says which, and what is missing.
    pub fn up() -> anyhow::Result<Self> {
        remove();
        let net = Self(());
        ip(&["netns", "add", NAMESPACE]).context("cannot make a network namespace")?;
        add_veth()?;
        // Redirecting from XDP into AF_XDP on a veth works while its peer has GRO on.
        ethtool(&["-K", INTERFACE, "gro", "on"])?;
        ethtool(&["-K", PEER, "gro", "on"])?;
        ip(&["link", "set", PEER, "netns", NAMESPACE])?;
        for (place, device, v4, v6) in [
            (None, INTERFACE, "10.77.0.1/24", "fd77::1/64"),
            (Some(NAMESPACE), PEER, "10.77.0.2/24", "fd77::2/64"),
        ] {
            ip_in(place, &["addr", "add", v4, "dev", device])?;
            ip_in(place, &["addr", "add", v6, "dev", device, "nodad"])?;
            ip_in(place, &["link", "set", device, "up"])?;
        }
        ip_in(Some(NAMESPACE), &["link", "set", "lo", "up"])?;
        Ok(net)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        remove();
    }
}

/// Removes the namespace and the virtual NIC. Returns whether any of them was there.
pub fn remove() -> bool {
    // The interface first: it goes at once, a namespace only when its last process has.
    let link = ip(&["link", "del", INTERFACE]).is_ok();
    let namespace = ip(&["netns", "del", NAMESPACE]).is_ok();
    link || namespace
}

/// Refuses to start when something else answers on the port.
pub fn require_free_port(address: SocketAddr) -> anyhow::Result<()> {
    match UdpSocket::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => bail!(
            "UDP port {} is taken by another program (see `ss -ulpn`): stop it, or use --port N",
            address.port()
        ),
        Err(error) => Err(error).with_context(|| format!("cannot bind {address}")),
    }
}

/// A command line that runs in the clients' namespace.
pub fn client_command(program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", NAMESPACE]).arg(program);
    command
}

fn add_veth() -> anyhow::Result<()> {
    ip(&[
        "link",
        "add",
        INTERFACE,
        "numrxqueues",
        QUEUES,
        "numtxqueues",
        QUEUES,
        "type",
        "veth",
        "peer",
        "name",
        PEER,
        "numrxqueues",
        QUEUES,
        "numtxqueues",
        QUEUES,
    ])
    .map_err(|error| {
        let text = format!("{error:#}");
        if text.contains("Unknown device type") || text.contains("not supported") {
            anyhow::anyhow!("this kernel lacks virtual Ethernet pairs (CONFIG_VETH): {text}")
        } else {
            error.context("cannot make a virtual NIC")
        }
    })
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    ip_in(None, args)
}

fn ip_in(namespace: Option<&str>, args: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    if let Some(name) = namespace {
        command.args(["-n", name]);
    }
    output(command.args(args)).map(drop)
}

fn ethtool(args: &[&str]) -> anyhow::Result<()> {
    output(Command::new("ethtool").args(args)).map(drop)
}
