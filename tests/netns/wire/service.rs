//! What the node is to the machine that it runs on: its rights, and what its service manager hears.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::harness::{Backend, Edge};

on_both_backends! {
    a_node_keeps_no_rights_that_it_does_not_need,
    a_node_of_root_keeps_no_capabilities,
}

const WHOLE_CAPABILITIES: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// A field of each of the node's threads, as the kernel says it.
fn of_threads(pid: i32, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the node's threads");
    let mut values = Vec::new();
    for task in tasks {
        let status = task.expect("a thread").path().join("status");
        let text = fs::read_to_string(status).expect("its status");
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        values.push(value.expect("the field").trim().to_owned());
    }
    values
}

fn assert_threads(pid: i32, field: &str, expected: &str) {
    let values = of_threads(pid, field);
    assert!(values.len() > 2, "only {} threads", values.len());
    assert!(
        values.iter().all(|value| value == expected),
        "{field}: {values:?}"
    );
}

fn a_node_keeps_no_rights_that_it_does_not_need(backend: Backend) {
    let edge = Edge::start_with(
        backend,
        "[server]\nuser = \"nobody\"\n[guard]\nstate_file = \"/run/popcache-nobody/guard.json\"\n\
         [memory]\nram = \"64 MiB\"\npages = \"plain\"\n",
    );
    let path = "/emotes/1.png";
    let fetched = edge.curl(&[path, path]);
    fetched[1].assert_body(&edge.origin.body(path));
    assert!(fetched[1].is_hit(), "{fetched:?}");
    edge.control(&["purge", "https://edge.test/emotes/1.png"]);
    assert!(!edge.curl(&[path])[0].is_hit());

    let pid = edge.pid();
    assert_threads(pid, "Uid", "65534\t65534\t65534\t65534");
    for set in WHOLE_CAPABILITIES {
        assert_threads(pid, set, "0000000000000000");
    }
    assert_threads(pid, "NoNewPrivs", "1");
    assert_threads(pid, "Seccomp", "2");
    let rights = edge.status()["privileges"].clone();
    assert_eq!(rights["user"], "nobody", "{rights:#}");
    assert_eq!(rights["capabilities"].as_array().map(Vec::len), Some(0));
    let page = edge.control(&["status"]);
    let line = "rights    user nobody, no capabilities, system calls filtered";
    assert!(page.contains(line), "{page}");

    // What it serves with can be read again as long as it may read the files.
    let said = edge.control(&["reload-tls"]);
    assert!(said.contains('1'), "{said}");
}

fn a_node_of_root_keeps_no_capabilities(backend: Backend) {
    let edge = Edge::start(backend);
    let path = "/emotes/2.png";
    edge.curl(&[path])[0].assert_body(&edge.origin.body(path));
    let pid = edge.pid();
    assert_threads(pid, "Uid", "0\t0\t0\t0");
    for set in WHOLE_CAPABILITIES {
        assert_threads(pid, set, "0000000000000000");
    }
    assert_threads(pid, "Seccomp", "2");
    edge.control(&["reload-tls"]);
}

/// What a service manager hears.
struct Manager {
    socket: UnixDatagram,
    path: std::path::PathBuf,
}

impl Manager {
    fn listen() -> Self {
        let path = std::env::temp_dir().join(format!("popcache-notify-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).expect("bind the manager's socket");
        let patience = Some(Duration::from_millis(100));
        socket.set_read_timeout(patience).expect("a timeout");
        Self { socket, path }
    }

    fn hear(&self) -> Option<String> {
        let mut message = [0; 4_096];
        match self.socket.recv(&mut message) {
            Ok(length) => Some(String::from_utf8_lossy(&message[..length]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("the manager's socket: {error}"),
        }
    }

    /// Waits for a message with this line.
    fn expect(&self, line: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            let heard = self.hear().unwrap_or_default();
            if heard.lines().any(|one| one == line) {
                return;
            }
        }
        panic!("the manager never heard {line}");
    }

    fn forget(&self) {
        while self.hear().is_some() {}
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if fs::remove_file(&self.path).is_err() {
            eprintln!("could not remove {}", self.path.display());
        }
    }
}

#[test]
fn the_manager_hears_that_it_is_ready_alive_and_stopping() {
    let manager = Manager::listen();
    let socket = manager.path.display().to_string();
    let mut edge = Edge::start_among(
        Backend::Udp,
        &[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", "4000000")],
    );
    manager.expect("READY=1");
    manager.expect("WATCHDOG=1");

    // One shard's thread is held; the rest of the process goes on.
    let pid = edge.pid();
    let shard = shard_of(pid);
    trace(libc::PTRACE_SEIZE, shard);
    trace(libc::PTRACE_INTERRUPT, shard);
    waitpid(shard, Some(WaitPidFlag::__WALL)).expect("it is held");
    // The tick that is on its way may still find that it had turned.
    std::thread::sleep(Duration::from_millis(1_500));
    manager.forget();
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(manager.hear(), None, "a stuck shard was not noticed");
    trace(libc::PTRACE_DETACH, shard);
    manager.expect("WATCHDOG=1");

    edge.reload_by_signal();
    manager.expect("READY=1");
    edge.stop_popcache();
    manager.expect("STOPPING=1");
}

fn trace(request: libc::c_uint, thread: Pid) {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests take neither address nor data, and the thread is another process's.
    let done = unsafe { libc::ptrace(request, thread.as_raw(), nothing, nothing) };
    assert_eq!(
        done,
        0,
        "ptrace {request}: {}",
        std::io::Error::last_os_error()
    );
}

fn shard_of(pid: i32) -> Pid {
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("threads") {
        let task = task.expect("a thread").path();
        let name = fs::read_to_string(task.join("comm")).expect("its name");
        if name.starts_with("shard-1") {
            let number = task
                .file_name()
                .expect("a number")
                .to_string_lossy()
                .into_owned();
            return Pid::from_raw(number.parse().expect("a number"));
        }
    }
    panic!("no thread shard-1");
}
