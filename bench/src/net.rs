//! The network of a benchmark: a namespace for the client, and a veth pair to it for each server.
//!
//! ```text
//!   server i: pcbPIDxi  198.18.N.(4i+1)/30 ---- 198.18.N.(4i+2)/30  eth.i :client, in netns pcbPID
//! ```
//!
//! Each server has its own pair, since an XDP program on an interface changes how the kernel takes
//! packets from it, and that is to touch only the server that it belongs to. The addresses are of
//! the range that RFC 2544 sets aside for benchmarks. Everything is gone once the value is dropped.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Servers of one network.
pub const MAX_SERVERS: usize = 8;
/// Queues of each pair, as many as shards that may be steered to.
const QUEUES: &str = "2";

pub struct Network {
    namespace: String,
    pairs: usize,
    /// The third byte of all addresses.
    net: u8,
}

impl Network {
    /// Makes the namespace and one pair for each of `servers`.
    ///
    /// # Errors
    /// Without the right to make namespaces (root), or without `ip`.
    pub fn make(servers: usize) -> Result<Self> {
        ensure!(
            servers <= MAX_SERVERS,
            "{servers} servers are too many: at most {MAX_SERVERS}"
        );
        ensure!(
            nix::unistd::geteuid().is_root(),
            "network namespaces need root: run it with sudo"
        );
        let pid = std::process::id();
        let namespace = format!("pcb{pid}");
        ip(&["netns", "add", &namespace])?;
        let mut network = Self {
            namespace,
            pairs: 0,
            net: (pid % 250) as u8,
        };
        for _ in 0..servers {
            network.add_pair()?;
        }
        Ok(network)
    }

    fn add_pair(&mut self) -> Result<()> {
        let server = self.pairs;
        let (outside, inside) = (self.interface(server), format!("eth.{server}"));
        let ns = self.namespace.clone();
        let queues = ["numrxqueues", QUEUES, "numtxqueues", QUEUES];
        let mut add = vec!["link", "add", &outside];
        add.extend(queues);
        add.extend(["type", "veth", "peer", "name", &inside]);
        add.extend(queues);
        add.extend(["netns", &ns]);
        ip(&add)?;
        self.pairs += 1;
        let own = format!("{}/30", self.server_ip(server));
        let peer = format!("{}/30", self.client_ip(server));
        // Without IPv6 there is no address detection that sends packets of its own.
        ip(&["link", "set", &outside, "addrgenmode", "none", "up"])?;
        ip(&["addr", "add", &own, "dev", &outside])?;
        ip(&[
            "-n",
            &ns,
            "link",
            "set",
            &inside,
            "addrgenmode",
            "none",
            "up",
        ])?;
        ip(&["-n", &ns, "addr", "add", &peer, "dev", &inside])
    }

    /// The server's end of its pair.
    pub fn interface(&self, server: usize) -> String {
        format!("{}x{server}", self.namespace)
    }

    pub fn server_ip(&self, server: usize) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.net, (4 * server + 1) as u8)
    }

    fn client_ip(&self, server: usize) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.net, (4 * server + 2) as u8)
    }

    /// A command that runs in the client's namespace.
    pub fn client(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(program);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for server in 0..self.pairs {
            // Gone already where the namespace took it along.
            let _ = ip(&["link", "del", &self.interface(server)]);
        }
        if let Err(error) = ip(&["netns", "del", &self.namespace]) {
            eprintln!("popcache-bench: {error:#}: remove it by hand");
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let done = Command::new("ip")
        .args(arguments)
        .output()
        .context("cannot run `ip`: install iproute2")?;
    if done.status.success() {
        return Ok(());
    }
    bail!(
        "`ip {}` failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&done.stderr).trim()
    )
}
