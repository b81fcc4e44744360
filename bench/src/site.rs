//! Everything a benchmark runs on: network, origin, and the servers under test.
//!
//! All servers of a site live at once, so that their measurements can take turns within seconds of
//! each other; those whose turn it is not are stopped by SIGSTOP and cost nothing.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::figures::POPCACHE;
use crate::net::Network;
use crate::nginx;
use crate::process::{Process, check_interrupt, on_cores};

/// The name in certificates, SNI and `:authority`.
const NAME: &str = "edge.test";
/// The port of every server, each on its own address.
const PORT: u16 = 443;
/// Request streams that every server grants a connection.
const MAX_STREAMS: u32 = 256;
/// Time in which tens of thousands of connections can be made before the first of them ends.
pub(crate) const IDLE_SECONDS: u64 = 180;

/// The servers in the order in which they take turns.
pub const SERVERS: [Kind; 3] = [Kind::Popcache, Kind::Baseline, Kind::Nginx];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Popcache,
    Baseline,
    Nginx,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Popcache => POPCACHE,
            Self::Baseline => "quinn-h3-tokio",
            Self::Nginx => "nginx",
        }
    }

    /// Its place in [`SERVERS`], and so its veth pair.
    fn place(self) -> usize {
        self as usize
    }
}

/// What the servers get.
pub struct Plan<'a> {
    pub kinds: &'a [Kind],
    /// One shard or worker on each.
    pub server_cores: &'a [usize],
    /// The client's core; `None`: anywhere.
    pub client_core: Option<usize>,
    /// What the baseline holds: templates and how many keys each has.
    pub templates: &'a [&'a str],
    pub keys: usize,
    /// Memory of popcache.
    pub ram: &'a str,
    /// What a download of a peer may take.
    pub patience: Duration,
}

/// The order of the fields is the order of their end: servers, origin, mounts, network.
pub struct Site {
    servers: Vec<(Kind, Process)>,
    /// Servers that are not there, and why. Those that had to be there are also in `broken`.
    pub absent: Vec<(Kind, String)>,
    pub broken: bool,
    _origin: Process,
    origin: SocketAddr,
    _pins: PinDir,
    network: Network,
    dir: TempDir,
    client_core: Option<usize>,
    own: PathBuf,
}

impl Site {
    /// Builds it all. A server that does not start is noted and left out.
    ///
    /// # Errors
    /// Where there can be no site at all: no right to make namespaces, no origin.
    pub fn build(plan: &Plan<'_>) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find this program's own file")?;
        let dir = tempfile::Builder::new()
            .prefix("popcache-bench")
            .tempdir()
            .context("cannot make a directory")?;
        let network = Network::make(SERVERS.len())?;
        let mut command = on_cores(&own, &[plan.client_core.unwrap_or(0)]);
        command.args(["origin", "--listen", "127.0.0.1:0", "--emotes", "0"]);
        let process = Process::start("origin", command, dir.path(), "origin ready on ")?;
        let line = process.ready_line("origin ready on ").unwrap_or_default();
        let origin = line
            .rsplit(' ')
            .next()
            .and_then(|address| address.parse().ok());
        let origin =
            origin.with_context(|| format!("the origin did not say where it listens: `{line}`"))?;
        let mut site = Self {
            servers: Vec::new(),
            absent: Vec::new(),
            broken: false,
            _origin: process,
            origin,
            _pins: PinDir::mount(dir.path())?,
            network,
            dir,
            client_core: plan.client_core,
            own,
        };
        for kind in plan.kinds {
            site.add(*kind, plan)?;
        }
        Ok(site)
    }

    fn add(&mut self, kind: Kind, plan: &Plan<'_>) -> Result<()> {
        check_interrupt()?;
        let root = match kind {
            Kind::Nginx => match nginx::unpack(plan.patience) {
                Ok(root) => Some(root),
                // A machine without Debian's packages still compares the others.
                Err(error) => {
                    self.absent
                        .push((kind, format!("cannot be had: {error:#}")));
                    return Ok(());
                }
            },
            _ => None,
        };
        let started = match (kind, root) {
            (Kind::Popcache, _) => self.start_popcache(plan),
            (Kind::Baseline, _) => self.start_baseline(plan),
            (Kind::Nginx, root) => self.start_nginx(plan, &root.unwrap_or_default()),
        };
        match started {
            Ok(process) => {
                process.pause();
                self.servers.push((kind, process));
            }
            Err(error) => {
                self.broken = true;
                self.absent.push((kind, format!("{error:#}")));
            }
        }
        Ok(())
    }

    /// The servers that run.
    pub fn running(&self) -> Vec<Kind> {
        self.servers.iter().map(|(kind, _)| *kind).collect()
    }

    fn address(&self, kind: Kind) -> SocketAddr {
        SocketAddr::from((self.network.server_ip(kind.place()), PORT))
    }

    fn start_popcache(&self, plan: &Plan<'_>) -> Result<Process> {
        let binary = self.own.with_file_name("popcache");
        ensure!(
            binary.is_file(),
            "{} is not there: build it with `cargo build --release -p cache-userspace`",
            binary.display()
        );
        let file = self.dir.path().join("popcache.toml");
        std::fs::write(&file, self.popcache_configuration(plan))
            .context("cannot write popcache's configuration")?;
        let mut command = on_cores(&binary, plan.server_cores);
        command.args(["serve", "--config"]).arg(&file);
        Process::start(POPCACHE, command, self.dir.path(), "popcache: ready on ")
    }

    fn popcache_configuration(&self, plan: &Plan<'_>) -> String {
        let dir = self.dir.path().display();
        format!(
            r#"[server]
listen = ["{listen}"]
cores = {cores:?}
name = "popcache"
[packet]
backend = "udp"
interface = "{interface}"
xdp_mode = "native"
pin_dir = "{dir}/bpf/popcache"
[tls]
names = ["{NAME}"]
[memory]
ram = "{ram}"
pages = "auto"
[[origin]]
name = "demo"
hosts = ["*"]
url = "http://{origin}"
[admin]
socket = "{dir}/admin.sock"
[limits]
max_streams_per_connection = {MAX_STREAMS}
idle_timeout = "{IDLE_SECONDS}s"
[log]
level = "info"
"#,
            listen = self.address(Kind::Popcache),
            cores = plan.server_cores,
            ram = plan.ram,
            interface = self.network.interface(Kind::Popcache.place()),
            origin = self.origin,
        )
    }

    fn start_baseline(&self, plan: &Plan<'_>) -> Result<Process> {
        let cores: Vec<String> = plan.server_cores.iter().map(ToString::to_string).collect();
        let mut command = on_cores(&self.own, plan.server_cores);
        command.args([
            "baseline",
            "--listen",
            &self.address(Kind::Baseline).to_string(),
        ]);
        command.args(["--name", NAME, "--max-streams", &MAX_STREAMS.to_string()]);
        command.args([
            "--cores",
            &cores.join(","),
            "--keys",
            &plan.keys.to_string(),
        ]);
        for template in plan.templates {
            command.args(["--path-template", template]);
        }
        Process::start("baseline", command, self.dir.path(), "baseline ready on ")
    }

    fn start_nginx(&self, plan: &Plan<'_>, root: &Path) -> Result<Process> {
        let setup = nginx::Setup {
            listen: self.address(Kind::Nginx),
            origin: self.origin,
            name: NAME,
            cores: plan.server_cores,
            max_streams: MAX_STREAMS,
        };
        nginx::start(root, &setup, self.dir.path())
    }

    /// Runs the load client against one server, with the others paused, and reads its report.
    ///
    /// # Errors
    /// With the server's and the client's last words where the client cannot report.
    pub fn load<T: DeserializeOwned>(&self, kind: Kind, arguments: &[String]) -> Result<T> {
        check_interrupt()?;
        let (_, server) = self
            .servers
            .iter()
            .find(|(k, _)| *k == kind)
            .context("that server does not run")?;
        server.resume();
        let done = self.client_command(kind, server).args(arguments).output();
        let family_alive = Path::new(&format!("/proc/{}", server.family()[0])).exists();
        server.pause();
        check_interrupt()?;
        let output = done.context("cannot run the load client: is iproute2 installed?")?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "{}: no report from the client ({}); the server {} and last said: {}",
                String::from_utf8_lossy(&output.stderr).trim(),
                output.status,
                if family_alive { "runs" } else { "is gone" },
                server.last_words()
            )
        })
    }

    fn client_command(&self, kind: Kind, server: &Process) -> Command {
        let mut command = self.network.client(&self.own);
        command.args(["load", "--json", "--allow-errors", "--name", NAME]);
        command.args(["--connect", &self.address(kind).to_string()]);
        if let Some(core) = self.client_core {
            command.args(["--core", &core.to_string()]);
        }
        for pid in server.servers() {
            command.args(["--watch", &pid.to_string()]);
        }
        command
    }

    /// Requests that the origin has counted, by target.
    ///
    /// # Errors
    /// Where the origin does not answer.
    pub fn origin_counts(&self) -> Result<BTreeMap<String, u64>> {
        let answer = self.ask_origin("GET /__counts")?;
        serde_json::from_str(&answer).context("the origin's counts are not JSON")
    }

    fn ask_origin(&self, request: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.origin).context("cannot reach the origin")?;
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .context("cannot set a timeout")?;
        let text = format!("{request} HTTP/1.1\r\nhost: origin\r\nconnection: close\r\n\r\n");
        stream
            .write_all(text.as_bytes())
            .context("cannot ask the origin")?;
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .context("the origin does not answer")?;
        let body = answer
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned());
        body.context("the origin's answer has no end of its head")
    }
}

/// A BPF file system of our own for pinned programs; what is pinned goes with it.
struct PinDir(PathBuf);

impl PinDir {
    fn mount(dir: &Path) -> Result<Self> {
        use nix::mount::{MsFlags, mount};
        let path = dir.join("bpf");
        std::fs::create_dir(&path).context("cannot make a directory for pins")?;
        mount(
            Some("bpf"),
            &path,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .context("cannot mount a BPF file system: does this kernel have one?")?;
        Ok(Self(path))
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        if let Err(error) = nix::mount::umount(&self.0) {
            eprintln!(
                "popcache-bench: cannot unmount {}: {error}",
                self.0.display()
            );
        }
    }
}
