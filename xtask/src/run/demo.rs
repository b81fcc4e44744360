//! Everything that runs while the demo does.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::Args;
use super::certificate::{self, Certificate};
use super::child::Background;
use super::signals::Signals;
use crate::net::{self, Net};
use crate::pages::Hugepages;
use crate::workspace::Workspace;

/// The host name that clients ask for.
pub const HOST: &str = "edge.test";
/// Sockets and pins of the running demo.
pub const STATE_DIR: &str = "/run/popcache-demo";

const RAM_MIB: u64 = 256;
/// 2 MB pages: the arenas, and as much again for the packet buffers of the AF_XDP sockets.
const HUGEPAGES: u64 = RAM_MIB / 2 * 2;
/// The first start draws the origin's pictures.
const ORIGIN_START: Duration = Duration::from_secs(120);
const SERVER_START: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(500);

/// The running demo. Fields are dropped in this order: the programs, then what they stand on.
pub struct Demo {
    popcache: Background,
    origin: Background,
    _state: State,
    _net: Net,
    _pages: Hugepages,
    pub origin_address: SocketAddr,
    pub certificate: Certificate,
    pub port: u16,
    /// What popcache said when it was ready: address and backend.
    pub ready: String,
}

impl Demo {
    pub fn start(workspace: &Workspace, args: &Args, signals: &Signals) -> anyhow::Result<Self> {
        let folder = workspace.run_dir();
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let certificate = certificate::ensure(&folder, HOST)?;
        let net = Net::up()?;
        let listen = SocketAddr::new(net::SERVER.parse()?, args.port);
        net::require_free_port(listen)?;
        let pages = Hugepages::reserve(HUGEPAGES)?;
        let state = State::make(Path::new(STATE_DIR))?;

        let (origin, origin_address) = start_origin(workspace, signals)?;
        let config = folder.join("popcache.toml");
        let text = configuration(args, listen, origin_address, &certificate);
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let (popcache, ready) = start_popcache(workspace, &config, signals)?;
        Ok(Self {
            popcache,
            origin,
            _state: state,
            _net: net,
            _pages: pages,
            origin_address,
            certificate,
            port: args.port,
            ready,
        })
    }

    /// Waits for Ctrl-C.
    ///
    /// # Errors
    /// popcache or the origin ended by itself.
    pub fn wait(&mut self, signals: &Signals) -> anyhow::Result<()> {
        while !signals.wait(TICK) {
            self.popcache.require_running()?;
            self.origin.require_running()?;
        }
        Ok(())
    }

    /// Prints what to try.
    pub fn explain(&self, workspace: &Workspace) {
        let Self {
            certificate, port, ..
        } = self;
        let netns = format!("ip netns exec {}", net::NAMESPACE);
        let server = net::SERVER;
        let url = format!("https://{HOST}{}", port_suffix(*port));
        let python = workspace.venv_python();
        let curl = workspace.clients_dir().join("curl.py");
        let popcache = workspace.release_bin("popcache");
        let bench = workspace.release_bin("popcache-bench");
        println!(
            "\n{ready}\norigin on http://{origin}, logs in {logs}\n\n\
             Try in another terminal:\n\n\
             # curl over HTTP/3, twice: a miss, then a hit\n\
             {netns} {python} {curl} --ca {ca} --resolve {HOST}:{port}:{server} {url}/emotes/1.png {url}/emotes/1.png\n\n\
             # a browser over HTTP/3\n\
             {netns} chromium --headless --no-sandbox --user-data-dir=/tmp/popcache-browser \
             --origin-to-force-quic-on={HOST}:{port} --host-resolver-rules=\"MAP {HOST} {server}\" \
             --ignore-certificate-errors-spki-list={pin} --screenshot=/tmp/popcache.png {url}/index\n\n\
             # what the node is doing\n\
             {popcache} status --socket {STATE_DIR}/admin.sock\n\n\
             # forget one object\n\
             {popcache} purge --socket {STATE_DIR}/admin.sock {url}/emotes/1.png\n\n\
             # load\n\
             {netns} {bench} load --connect {server}:{port} --name {HOST} --path-template '/emotes/{{}}.png' \
             --connections 16 --streams 32 --seconds 5 --verify\n\n\
             Ctrl-C ends it and puts everything back.",
            ready = self.ready,
            origin = self.origin_address,
            logs = workspace.run_dir().display(),
            python = python.display(),
            curl = curl.display(),
            ca = certificate.file.display(),
            popcache = popcache.display(),
            bench = bench.display(),
            pin = certificate.pin,
        );
    }
}

/// `:PORT`, or nothing for the port that HTTPS implies.
pub fn port_suffix(port: u16) -> String {
    if port == 443 {
        String::new()
    } else {
        format!(":{port}")
    }
}

/// The folder of sockets, with a BPF file system of its own below it for the pins: unmounting it
/// unpins, and the XDP program goes with its link.
struct State(PathBuf);

impl State {
    fn make(folder: &Path) -> anyhow::Result<Self> {
        remove_state(folder);
        let bpf = folder.join("bpf");
        fs::create_dir_all(&bpf).with_context(|| format!("cannot create {}", bpf.display()))?;
        let state = Self(folder.to_owned());
        mount(
            Some("bpf"),
            &bpf,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("cannot mount a BPF file system on {}", bpf.display()))?;
        Ok(state)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        remove_state(&self.0);
    }
}

/// Unmounts and removes the folder. Returns whether it was there.
pub fn remove_state(folder: &Path) -> bool {
    // Several mounts can be stacked after crashes.
    while umount2(&folder.join("bpf"), MntFlags::MNT_DETACH).is_ok() {}
    fs::remove_dir_all(folder).is_ok()
}

fn start_origin(
    workspace: &Workspace,
    signals: &Signals,
) -> anyhow::Result<(Background, SocketAddr)> {
    const READY: &str = "popcache-bench: origin ready on ";
    let args = ["origin", "--listen", "127.0.0.1:0"].map(str::to_owned);
    let program = workspace.release_bin("popcache-bench");
    let log = workspace.run_dir().join("origin.log");
    let mut origin = Background::start("the demo origin", &program, &args, log)?;
    let ready = origin.wait_for_line(READY, ORIGIN_START, signals)?;
    let address = ready.trim_start_matches(READY).trim();
    let address = address
        .parse()
        .with_context(|| format!("the demo origin says it listens on `{address}`"))?;
    Ok((origin, address))
}

fn start_popcache(
    workspace: &Workspace,
    config: &Path,
    signals: &Signals,
) -> anyhow::Result<(Background, String)> {
    let args = [
        "serve".to_owned(),
        "--config".to_owned(),
        config.display().to_string(),
    ];
    let program = workspace.release_bin("popcache");
    let log = workspace.run_dir().join("popcache.log");
    let mut popcache = Background::start("popcache", &program, &args, log)?;
    let ready = popcache.wait_for_line("popcache: ready", SERVER_START, signals)?;
    Ok((popcache, ready))
}

fn configuration(
    args: &Args,
    listen: SocketAddr,
    origin: SocketAddr,
    certificate: &Certificate,
) -> String {
    format!(
        "# Written by `cargo xtask run`.\n\
         [server]\nlisten = [\"{listen}\"]\n\n\
         [packet]\nbackend = \"{backend}\"\ninterface = \"{interface}\"\npin_dir = \"{STATE_DIR}/bpf/popcache\"\n\n\
         [tls]\ncertificate = \"{cert}\"\nkey = \"{key}\"\n\n\
         [memory]\nram = \"{RAM_MIB} MiB\"\n\n\
         [[origin]]\nname = \"demo\"\nhosts = [\"{HOST}\"]\nurl = \"http://{origin}\"\n\n\
         [admin]\nsocket = \"{STATE_DIR}/admin.sock\"\n",
        backend = args.backend.name(),
        interface = net::INTERFACE,
        cert = certificate.file.display(),
        key = certificate.key.display(),
    )
}
