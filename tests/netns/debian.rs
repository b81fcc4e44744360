//! The package on a fresh Debian. `cargo xtask test --install` runs it; it downloads about 40 MB.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::harness::{Network, Origin, Process, places, within};

const RELEASE: &str = "bookworm";
const PATIENCE: Duration = Duration::from_secs(30);

/// What dpkg itself keeps, and what it makes for any package.
const OF_DPKG: [&str; 6] = [
    "var/lib/dpkg",
    "var/log",
    "var/cache",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
];

/// A Debian that is unpacked and configured, in a directory that goes when it is dropped.
struct Debian(PathBuf);

impl Debian {
    fn make() -> Self {
        let debian = Self(places::target_folder().join(format!("debian-{}", std::process::id())));
        run(Command::new("cp")
            .arg("--archive")
            .arg(fresh())
            .arg(&debian.0));
        debian
    }

    fn inside(&self, program: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.arg(&self.0).args(program);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// Every path with what tells one file from another, but for what dpkg keeps.
    fn everything(&self) -> BTreeMap<PathBuf, String> {
        let script = format!(
            "find . -xdev {} -printf '%P %y %m %U %G ' \\( -type f -exec sha256sum {{}} \\; -o -printf '%l\\n' \\)",
            OF_DPKG
                .map(|path| format!("-path ./{path} -prune -o"))
                .join(" ")
        );
        let output = run(Command::new("sh")
            .args(["-c", &script])
            .current_dir(&self.0));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = |line: &str| {
            let (path, about) = line.split_once(' ').unwrap_or((line, ""));
            (PathBuf::from(path), about.to_owned())
        };
        text.lines().map(line).collect()
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        // Nothing is mounted in it by these tests.
        if fs::remove_dir_all(&self.0).is_err() {
            eprintln!("could not remove {}", self.0.display());
        }
    }
}

/// A Debian that nothing was done to; downloaded once, and kept below `target`.
fn fresh() -> PathBuf {
    let fresh = places::target_folder().join("peers/debian");
    let complete = fresh.with_extension("complete");
    if complete.exists() {
        return fresh;
    }
    if fresh.exists() {
        fs::remove_dir_all(&fresh).expect("remove what was interrupted");
    }
    fs::create_dir_all(&fresh).expect("make a folder");
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", RELEASE]);
    run(debootstrap.arg(&fresh).arg(mirror()));
    fs::write(&complete, RELEASE).expect("note that it is whole");
    fresh
}

/// The mirror of this machine's own apt.
fn mirror() -> String {
    let output = run(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mirror = text.lines().find_map(|line| line.strip_prefix("Debian "));
    mirror
        .expect("apt's configuration names a Debian mirror")
        .to_owned()
}

fn run(command: &mut Command) -> Output {
    let output = command.output().expect("start a program");
    let (said, errors) = (&output.stdout, &output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        String::from_utf8_lossy(said),
        String::from_utf8_lossy(errors)
    );
    output
}

fn package(folder: &Path) -> PathBuf {
    let binary = places::binary("popcache");
    let mut xtask = Command::new(places::xtask());
    xtask
        .arg("deb")
        .arg("--bin-dir")
        .arg(binary.parent().expect("a folder"));
    let made = run(xtask.arg("--out").arg(folder));
    PathBuf::from(String::from_utf8_lossy(&made.stdout).trim())
}

#[test]
fn the_package_serves_on_a_fresh_debian_and_goes_without_a_trace() {
    let debian = Debian::make();
    let network = Network::make();
    let origin = Origin::start(network.server(), &debian.0.join("tmp/origin.log"));
    let out = tempfile::tempdir().expect("a folder");
    let package = package(out.path());
    fs::copy(&package, debian.0.join("tmp/popcache.deb")).expect("copy the package");
    let before = debian.everything();

    run(&mut debian.inside(&["dpkg", "--install", "/tmp/popcache.deb"]));
    let check = run(&mut debian.inside(&["id", "popcache"]));
    assert!(!check.stdout.is_empty());
    let configuration = debian.0.join("etc/popcache/popcache.toml");
    let mut file = File::options()
        .append(true)
        .open(&configuration)
        .expect("the configuration");
    file.write_all(
        b"\n[[origin]]\nname = \"fresh\"\nhosts = [\"edge.test\"]\nurl = \"http://127.0.0.1:8080\"\n",
    )
    .expect("name an origin");
    drop(file);
    let text = fs::read_to_string(&configuration).expect("the configuration");
    let text = text
        .replace(
            "#listen = [\"0.0.0.0:443\"]",
            "listen = [\"10.77.0.1:443\"]",
        )
        .replace("#listen_clear = []", "listen_clear = [\"10.77.0.1:80\"]");
    assert!(text.contains("\nuser = \"popcache\"\n") && text.contains("listen_clear = [\"10"));
    fs::write(&configuration, text).expect("edit the configuration");
    run(&mut debian.inside(&["popcache", "check"]));

    // In a mount namespace of its own.
    let script = "mount -t proc proc /proc && mount -t sysfs sysfs /sys && exec popcache serve";
    let mut serve = Command::new("unshare");
    serve
        .args(["--mount", "chroot"])
        .arg(&debian.0)
        .args(["sh", "-c", script]);
    let log = out.path().join("popcache.log");
    let mut popcache = Process::start(network.server(), &serve, &log);
    popcache.wait_for_line("popcache: ready on", PATIENCE);
    let body = origin.body("/emotes/1.png");
    for expected in ["fwd=uri-miss; stored", "hit; ttl="] {
        let answer = within(network.client(), get);
        assert!(
            answer.starts_with(b"HTTP/1.1 200 "),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        let head_end = answer
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .expect("a head")
            + 4;
        let head = String::from_utf8_lossy(&answer[..head_end]).into_owned();
        assert!(head.contains(expected), "{head}");
        assert_eq!(answer[head_end..], body);
    }
    let status = run(&mut debian.inside(&["popcache", "status"]));
    let page = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        page.contains("rights    user popcache, no capabilities, system calls filtered"),
        "{page}"
    );
    assert!(popcache.stop().success());

    run(&mut debian.inside(&["dpkg", "--purge", "popcache"]));
    let after = debian.everything();
    let differ = |path: &&PathBuf| before.get(*path) != after.get(*path);
    let changed: Vec<_> = before.keys().chain(after.keys()).filter(differ).collect();
    let ours: Vec<_> = changed
        .into_iter()
        // The package and the origin's log.
        .filter(|path| !path.starts_with("tmp"))
        .collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

/// One request over HTTP/1.1, to the end of the connection.
fn get() -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    let mut stream = loop {
        match TcpStream::connect("10.77.0.1:80") {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
        .write_all(b"GET /emotes/1.png HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n")
        .expect("ask");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    answer
}
