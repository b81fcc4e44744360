//! A whole small world for one test: origin, appliance, NIC, clients. All of it goes when it is
//! dropped; on a failing test the logs are printed first.

mod certificate;
mod clients;
pub mod flood;
mod network;
mod origin;
pub mod places;
mod process;
pub mod questions;
pub mod scripted;
pub mod shield;

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};

pub use clients::{Fetched, Head, Outcome, Shown};
pub use network::{Network, within};
pub use origin::Origin;
pub use process::Process;
use process::{Orphan, wait_for_end};

/// The host name that clients ask for.
pub const HOST: &str = "edge.test";
/// Another one, of the certificate in `other.pem`; it is for the test to configure.
pub const OTHER_HOST: &str = "other.test";
/// Where popcache serves.
pub const SERVER: &str = "10.77.0.1:443";

const READY: &str = "popcache: ready on ";
const START: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(20);

/// How packets reach popcache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Udp,
    AfXdp,
}

impl Backend {
    /// Its name in the configuration, in the ready line and in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::AfXdp => "af_xdp",
        }
    }
}

/// A running appliance with its origin and its network.
pub struct Edge {
    popcache: Option<Process>,
    /// What has taken over from it.
    successor: Mutex<Option<Orphan>>,
    pub origin: Origin,
    network: Network,
    backend: Backend,
    folder: Folder,
    /// Of popcache, beside what it inherits.
    environment: Vec<(String, String)>,
    _alone: Flock<File>,
}

impl Edge {
    /// Starts everything with the defaults.
    pub fn start(backend: Backend) -> Self {
        Self::start_with(backend, "")
    }

    /// Starts everything with more configuration: whole sections other than packet, tls, origin and
    /// admin. What follows a `[server]` in the first line is added to that section.
    pub fn start_with(backend: Backend, more: &str) -> Self {
        Self::start_whole(backend, more, &[])
    }

    /// Starts everything with the defaults, and popcache with these variables in its environment.
    pub fn start_among(backend: Backend, environment: &[(&str, &str)]) -> Self {
        Self::start_whole(backend, "", environment)
    }

    fn start_whole(backend: Backend, more: &str, environment: &[(&str, &str)]) -> Self {
        let alone = lock();
        let network = Network::make();
        let folder = Folder::make(network.name());
        certificate::write(folder.path(), "cert", HOST);
        certificate::write(folder.path(), "other", OTHER_HOST);
        let origin = Origin::start(network.server(), &folder.path().join("origin.log"));
        fs::write(folder.config(), configuration(&folder, backend, more))
            .expect("write the configuration");
        let mut edge = Self {
            popcache: None,
            successor: Mutex::default(),
            origin,
            network,
            backend,
            folder,
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            _alone: alone,
        };
        edge.start_popcache();
        edge
    }

    /// Starts popcache (again) and waits until it is ready on the backend that was asked for.
    pub fn start_popcache(&mut self) {
        assert!(self.popcache.is_none(), "popcache runs already");
        let mut popcache = Process::start(
            self.network.server(),
            Command::new(places::binary("popcache"))
                .envs(self.environment.iter().cloned())
                .arg("serve")
                .arg("--config")
                .arg(self.folder.config()),
            &self.folder.path().join("popcache.log"),
        );
        let ready = popcache.wait_for_line(READY, START);
        let expected = format!("backend {}", self.backend.name());
        assert!(
            ready.ends_with(&expected),
            "`{ready}` does not end with `{expected}`"
        );
        self.popcache = Some(popcache);
    }

    /// Starts a shield between popcache and the origin; popcache's configuration has to name it
    /// ([`shield::section`]).
    pub fn start_shield(&self) -> shield::Shield {
        self.start_shield_of(shield::Kind::Plain)
    }

    /// The same over TLS, for [`shield::secure_section`].
    pub fn start_secure_shield(&self) -> shield::Shield {
        self.start_shield_of(shield::Kind::Secure)
    }

    /// The same of one that is its own origin.
    pub fn start_looped_shield(&self) -> shield::Shield {
        self.start_shield_of(shield::Kind::Looped)
    }

    fn start_shield_of(&self, kind: shield::Kind) -> shield::Shield {
        shield::Shield::start(self.network.server(), self.folder.path(), kind)
    }

    /// Ends popcache as an operator does (SIGTERM). Its XDP program stays attached.
    pub fn stop_popcache(&mut self) {
        let successor = self.successor.get_mut().expect("no panic").take();
        if let Some(successor) = successor {
            successor.stop();
        }
        let popcache = self.popcache.take().expect("popcache runs");
        let status = popcache.stop();
        assert!(status.success(), "popcache ended with {status}");
    }

    /// Has a new process take over, as an operator does, and waits until it is alone.
    pub fn upgrade(&self) -> String {
        let former = self.pid();
        let said = self.control(&["upgrade"]);
        let pid = self.status()["pid"].as_i64().expect("a process id");
        let pid = i32::try_from(pid).expect("a process id");
        assert_ne!(pid, former, "{said}");
        let orphan = Some(Orphan::new(pid));
        let before = std::mem::replace(&mut *self.successor.lock().expect("no panic"), orphan);
        wait_for_end(former, START);
        drop(before);
        let deadline = Instant::now() + START;
        while !self.status()["predecessor"].is_null() {
            assert!(Instant::now() < deadline, "{:#}", self.status());
            thread::sleep(TICK);
        }
        said
    }

    /// The process id of popcache.
    pub fn pid(&self) -> i32 {
        let successor = self.successor.lock().expect("no panic");
        if let Some(successor) = &*successor {
            return successor.pid();
        }
        self.popcache.as_ref().expect("popcache runs").pid()
    }

    /// Makes a new certificate for a host in `STEM.pem` and `STEM.key`; its SHA-256.
    pub fn certify(&self, stem: &str, host: &str) -> String {
        certificate::write(self.folder.path(), stem, host)
    }

    /// A file beside the configuration.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a client script's counterpart in popcache's namespace and waits until it is ready.
    pub fn start_origin(&self, script: &str, args: &[&str]) -> Process {
        let mut process = Process::start(
            self.network.server(),
            Command::new(places::python())
                .arg(places::script(script))
                .args(args),
            &self.folder.path().join("other-origin.log"),
        );
        process.wait_for_line("ready", START);
        process
    }

    /// Asks popcache to read its configuration again, as an operator does by SIGHUP.
    pub fn reload_by_signal(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// Asks popcache to end (SIGTERM), and does not wait for it.
    pub fn begin_to_stop(&self) {
        self.signal(Signal::SIGTERM);
    }

    fn signal(&self, signal: Signal) {
        kill(nix::unistd::Pid::from_raw(self.pid()), signal).expect("signal popcache");
    }

    /// Writes another configuration, as [`Self::start_with`] does; popcache has not read it yet.
    pub fn configure(&self, more: &str) {
        let text = configuration(&self.folder, self.backend, more);
        fs::write(self.folder.config(), text).expect("write the configuration");
    }

    /// Ends popcache as a crash does (SIGKILL).
    pub fn kill_popcache(&mut self) {
        let popcache = self.popcache.take().expect("popcache runs");
        popcache.kill();
    }

    /// Asserts that popcache has not ended by itself.
    pub fn assert_alive(&mut self) {
        let popcache = self.popcache.as_mut().expect("popcache was started");
        popcache.assert_running();
    }

    /// Runs `popcache ARGS --socket ...` and returns its standard output.
    pub fn control(&self, args: &[&str]) -> String {
        let output = self.ask(args);
        assert!(
            output.status.success(),
            "popcache {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("popcache prints UTF-8")
    }

    /// Runs `popcache ARGS --socket ...`, which must fail, and returns what it says.
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.ask(args);
        assert!(!output.status.success(), "popcache {args:?} did not fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs `popcache ARGS --socket ...`; whether it did what it was asked.
    pub fn try_control(&self, args: &[&str]) -> bool {
        self.ask(args).status.success()
    }

    fn ask(&self, args: &[&str]) -> Output {
        Command::new(places::binary("popcache"))
            .args(args)
            .arg("--socket")
            .arg(self.folder.socket())
            .output()
            .expect("start popcache")
    }

    /// Waits until a counter of the status has a value.
    pub fn wait_for(&self, counter: &str, value: u64) {
        self.wait_until(counter, |have| have == value);
    }

    /// Waits until a counter of the status is as wanted.
    pub fn wait_until(&self, counter: &str, is_wanted: impl Fn(u64) -> bool) {
        let deadline = Instant::now() + START;
        while !is_wanted(self.counter(counter)) {
            assert!(
                Instant::now() < deadline,
                "{counter} is {} and stays so",
                self.counter(counter)
            );
            thread::sleep(TICK);
        }
    }

    /// The node's status as it reports it.
    pub fn status(&self) -> serde_json::Value {
        let text = self.control(&["status", "--json"]);
        serde_json::from_str(&text).expect("status --json prints JSON")
    }

    /// The text of `GET /metrics`.
    pub fn metrics(&self) -> String {
        self.admin("GET", "/metrics")
    }

    /// Asks the admin API to do something that it must not refuse.
    pub fn post(&self, path: &str) -> String {
        self.admin("POST", path)
    }

    fn admin(&self, method: &str, path: &str) -> String {
        use std::io::{Read as _, Write as _};
        let mut socket = UnixStream::connect(self.folder.socket()).expect("the admin socket");
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: popcache\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).expect("asked");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }

    /// The most memory that popcache has had resident, in bytes.
    pub fn memory_peak(&self) -> u64 {
        self.popcache.as_ref().expect("popcache runs").memory_peak()
    }

    /// A counter of the status, added up over the shards.
    pub fn counter(&self, name: &str) -> u64 {
        let status = self.status();
        let shards = status["shards"].as_array().expect("status has shards");
        let value = |shard: &serde_json::Value| {
            let value = shard["counters"][name].as_u64();
            value.unwrap_or_else(|| panic!("no counter {name} in {shard:#}"))
        };
        shards.iter().map(value).sum()
    }

    /// A path for a file of the test's own.
    pub fn scratch(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub fn network(&self) -> &Network {
        &self.network
    }
}

/// Dropped, it tells clients of other threads that it is over: also where the test fails.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One end-to-end test at a time on this machine.
fn lock() -> Flock<File> {
    let file = File::create("/run/popcache-tests.lock")
        .expect("end-to-end tests need root: sudo -E env PATH=$PATH cargo xtask test");
    Flock::lock(file, FlockArg::LockExclusive).expect("lock /run/popcache-tests.lock")
}

/// Files of one test, with a BPF file system of their own for the pins.
struct Folder(PathBuf);

impl Folder {
    fn make(name: &str) -> Self {
        let folder = Self(Path::new("/run").join(name));
        fs::create_dir_all(folder.bpf()).expect("make the test's folder in /run");
        mount(
            Some("bpf"),
            &folder.bpf(),
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .expect("mount a BPF file system");
        folder
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn bpf(&self) -> PathBuf {
        self.0.join("bpf")
    }

    fn config(&self) -> PathBuf {
        self.0.join("popcache.toml")
    }

    fn socket(&self) -> PathBuf {
        self.0.join("admin.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let unmounted = umount2(&self.bpf(), MntFlags::MNT_DETACH);
        let removed = fs::remove_dir_all(&self.0);
        if unmounted.is_err() || removed.is_err() {
            eprintln!("could not remove {}", self.0.display());
        }
    }
}

fn configuration(folder: &Folder, backend: Backend, more: &str) -> String {
    let path = folder.path().display();
    let (server, more) = match more.strip_prefix("[server]\n") {
        Some(rest) => rest.split_at(rest.find('[').unwrap_or(rest.len())),
        None => ("", more),
    };
    let memory = match more.contains("[memory]") {
        true => "",
        false => "[memory]\nram = \"256 MiB\"\n",
    };
    format!(
        "[server]\nlisten = \"{SERVER}\"\ncores = [0, 1]\n{server}\
         [packet]\nbackend = \"{}\"\ninterface = \"{}\"\npin_dir = \"{path}/bpf/popcache\"\n\
         [tls]\ncertificate = \"{path}/cert.pem\"\nkey = \"{path}/cert.key\"\n\
         {memory}\
         [[origin]]\nname = \"demo\"\nhosts = [\"{HOST}\"]\nurl = \"http://{}\"\n\
         [admin]\nsocket = \"{path}/admin.sock\"\n{more}\n",
        backend.name(),
        network::INTERFACE,
        origin::ADDRESS,
    )
}
