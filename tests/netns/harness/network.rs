//! Two namespaces with a virtual NIC of two queues between them.

use std::fs::File;
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// The appliance's end of the NIC.
pub const INTERFACE: &str = "pc0";
const PEER: &str = "pc1";

static MADE: AtomicU32 = AtomicU32::new(0);

/// The namespaces `NAME-s` (appliance and origin) and `NAME-c` (clients).
pub struct Network {
    name: String,
    server: String,
    client: String,
}

impl Network {
    pub fn make() -> Self {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("popcache-test-{}-{number}", std::process::id());
        let network = Self {
            server: format!("{name}-s"),
            client: format!("{name}-c"),
            name,
        };
        let (server, client) = (network.server(), network.client());
        for namespace in [server, client] {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        ip(&[
            "-n",
            server,
            "link",
            "add",
            INTERFACE,
            "numrxqueues",
            "2",
            "numtxqueues",
            "2",
            "type",
            "veth",
            "peer",
            "name",
            PEER,
            "numrxqueues",
            "2",
            "numtxqueues",
            "2",
            "netns",
            client,
        ]);
        for (namespace, device, v4, v6) in [
            (server, INTERFACE, "10.77.0.1/24", "fd77::1/64"),
            (client, PEER, "10.77.0.2/24", "fd77::2/64"),
        ] {
            // XDP redirects on a veth work while its peer has GRO on.
            run(Command::new("ip").args([
                "netns", "exec", namespace, "ethtool", "-K", device, "gro", "on",
            ]));
            ip(&["-n", namespace, "addr", "add", v4, "dev", device]);
            ip(&["-n", namespace, "addr", "add", v6, "dev", device, "nodad"]);
            ip(&["-n", namespace, "link", "set", device, "up"]);
        }
        network
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace of the appliance and the origin.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The namespace of the clients.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// What the kernel says about the appliance's interface.
    pub fn interface(&self) -> String {
        let output = run(Command::new("ip").args([
            "-n",
            self.server(),
            "-details",
            "link",
            "show",
            INTERFACE,
        ]));
        String::from_utf8(output.stdout).expect("ip prints UTF-8")
    }

    /// What the driver of the appliance's interface has counted.
    pub fn device_counters(&self) -> String {
        self.ask(&["ethtool", "-S", INTERFACE])
    }

    /// A counter of the appliance's kernel: of `/proc/net/FILE`, in the pair of lines that begin with `group`.
    pub fn kernel_counter(&self, file: &str, group: &str, name: &str) -> u64 {
        let text = self.ask(&["cat", &format!("/proc/net/{file}")]);
        let prefix = format!("{group}:");
        let mut lines = text.lines().filter(|line| line.starts_with(&prefix));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let mut pairs = names.split(' ').zip(values.split(' '));
        let found = pairs.find(|(known, _)| *known == name);
        found.expect("a counter").1.parse().expect("a number")
    }

    /// What a program says that runs at the appliance.
    fn ask(&self, program: &[&str]) -> String {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.server()]).args(program);
        let output = run(&mut command);
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [self.server(), self.client()] {
            let status = Command::new("ip")
                .args(["netns", "del", namespace])
                .status();
            if !status.is_ok_and(|status| status.success()) {
                eprintln!("could not remove the namespace {namespace}");
            }
        }
    }
}

/// Runs `work` in a thread inside a namespace: sockets that it opens belong there.
pub fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let path = format!("/run/netns/{namespace}");
    let result = thread::scope(|scope| {
        scope
            .spawn(move || {
                let file = File::open(&path).expect("open the namespace");
                setns(file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                work()
            })
            .join()
    });
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

fn ip(args: &[&str]) {
    run(Command::new("ip").args(args));
}

fn run(command: &mut Command) -> std::process::Output {
    let output = command.output().expect("start ip");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    output
}
