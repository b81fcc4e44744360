//! Debian 13's nginx with HTTP/3, unpacked into a private root.
//!
//! The packages come from the mirror that this machine's own apt uses, checked by its keyring, and
//! are only unpacked: nothing is installed and no package script runs.
//!
//! ```text
//! target/peers/nginx/root      the unpacked packages; nginx runs in it by chroot
//!                   /apt       lists and packages as downloaded, removed at the end
//!                   /complete  written last
//! ```

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::identity::Identity;
use crate::process::{Process, on_cores};

const RELEASE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What a download may take where nobody is in a hurry.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The same of a quick benchmark.
const QUICK_PATIENCE: Duration = Duration::from_secs(6);
/// What the unpacked tree must be made by to be used again.
const FORMAT: &str = "nginx root 1\n";

/// What each download gets in a benchmark.
pub const fn patience(quick: bool) -> Duration {
    if quick { QUICK_PATIENCE } else { PATIENCE }
}

/// The private root, unpacked first where it is not there. Each of the two downloads may take
/// `patience`.
///
/// # Errors
/// Says which step failed and what it printed.
pub fn unpack(patience: Duration) -> Result<PathBuf> {
    let place = crate::place::target_dir().join("peers/nginx");
    let (root, complete) = (place.join("root"), place.join("complete"));
    if fs::read_to_string(&complete).is_ok_and(|text| text == FORMAT) {
        return Ok(root);
    }
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    eprintln!(
        "popcache-bench: unpacking Debian {RELEASE}'s nginx into {}",
        place.display()
    );
    let apt = Apt::prepare(&place.join("apt"), patience)?;
    let packages = apt.download("nginx")?;
    make_root(&root)?;
    for package in &packages {
        let mut dpkg = Command::new("dpkg-deb");
        run(dpkg.arg("-x").arg(package).arg(&root))?;
    }
    ensure!(
        root.join("usr/sbin/nginx").is_file(),
        "the packages hold no usr/sbin/nginx"
    );
    fs::remove_dir_all(place.join("apt")).context("cannot remove downloaded packages")?;
    fs::write(&complete, FORMAT).context("cannot mark the nginx root as complete")?;
    Ok(root)
}

/// The directories of a merged /usr, which Debian's packages count on, and two users.
fn make_root(root: &Path) -> Result<()> {
    for dir in [
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "etc",
        "dev",
        "run",
        "tmp",
        "var/log/nginx",
        "var/lib/nginx",
    ] {
        fs::create_dir_all(root.join(dir))
            .with_context(|| format!("cannot make {dir} in the nginx root"))?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name)).context("cannot link in the nginx root")?;
    }
    let users = "root:x:0:0:root:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    fs::write(root.join("etc/passwd"), users).context("cannot write users")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")
        .context("cannot write groups")
}

/// apt with lists, cache and state of its own, so that the machine's are not touched.
struct Apt {
    dir: PathBuf,
    options: Vec<String>,
    patience: Duration,
}

impl Apt {
    fn prepare(dir: &Path, patience: Duration) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(part))
                .with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let source = format!("deb [signed-by={KEYRING}] {} {RELEASE} main\n", mirror()?);
        fs::write(dir.join("sources.list"), source).context("cannot write a sources list")?;
        // An empty state makes every dependency one to download.
        fs::write(dir.join("status"), "").context("cannot write a state")?;
        let at = |name: &str| dir.join(name).display().to_string();
        let options = [
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::Cache={}", at("cache")),
            "APT::Install-Recommends=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ];
        let options = options
            .into_iter()
            .flat_map(|option| ["-o".to_owned(), option])
            .collect();
        Ok(Self {
            dir: dir.to_owned(),
            options,
            patience,
        })
    }

    fn download(&self, package: &str) -> Result<Vec<PathBuf>> {
        run(self.command().arg("update"))?;
        run(self
            .command()
            .args(["--yes", "--download-only", "install", package]))?;
        let archives = self.dir.join("cache/archives");
        let entries = fs::read_dir(&archives).context("apt left no archives")?;
        let packages: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "deb"))
            .collect();
        ensure!(!packages.is_empty(), "apt downloaded nothing for {package}");
        Ok(packages)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("timeout");
        command
            .arg(self.patience.as_secs().to_string())
            .arg("apt-get")
            .args(&self.options);
        command
    }
}

/// The Debian mirror of this machine's apt configuration.
fn mirror() -> Result<String> {
    let mut command = Command::new("apt-get");
    let output = run(command.args([
        "indextargets",
        "--format",
        "$(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mirror = text.lines().find_map(|line| line.strip_prefix("Debian "));
    mirror
        .map(str::to_owned)
        .context("apt's configuration names no Debian mirror")
}

fn run(command: &mut Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!(
        "{name} failed ({}): {}",
        output.status,
        said.lines().last().unwrap_or("it said nothing")
    )
}

/// How nginx is to run.
pub struct Setup<'a> {
    pub listen: SocketAddr,
    pub origin: SocketAddr,
    pub name: &'a str,
    /// One worker each.
    pub cores: &'a [usize],
    pub max_streams: u32,
}

/// Starts it with an empty cache and waits until it answers UDP.
///
/// # Errors
/// With its last words.
pub fn start(root: &Path, setup: &Setup<'_>, dir: &Path) -> Result<Process> {
    let identity = Identity::new(setup.name)?;
    let home = root.join("bench");
    if home.exists() {
        fs::remove_dir_all(&home).context("cannot remove the last nginx cache")?;
    }
    fs::create_dir_all(home.join("cache")).context("cannot make an nginx cache")?;
    for (name, text) in [
        ("cert.pem", identity.certificate_pem),
        ("key.pem", identity.key_pem),
        ("nginx.conf", configuration(setup)),
    ] {
        fs::write(home.join(name), text).with_context(|| format!("cannot write nginx's {name}"))?;
    }
    let mut command = on_cores(Path::new("chroot"), setup.cores);
    command
        .arg(root)
        .args(["/usr/sbin/nginx", "-e", "stderr", "-c", "/bench/nginx.conf"]);
    // Its sockets are bound before the workers start, so from then on no datagram is lost.
    Process::start("nginx", command, dir, "start worker process")
}

/// A cache in front of the origin, with the settings that its documentation advises for load.
fn configuration(setup: &Setup<'_>) -> String {
    let Setup {
        listen,
        origin,
        cores,
        max_streams,
        ..
    } = setup;
    let workers = cores.len();
    format!(
        "daemon off;
user root;
worker_processes {workers};
worker_rlimit_nofile 524288;
pid /run/nginx.pid;
error_log stderr notice;
events {{ worker_connections 262144; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    open_file_cache max=20000 inactive=300s;
    quic_gso on;
    http3 on;
    http3_max_concurrent_streams {max_streams};
    http2_max_concurrent_streams {max_streams};
    proxy_cache_path /bench/cache levels=1:2 keys_zone=bench:64m max_size=4g inactive=1h use_temp_path=off;
    map $upstream_cache_status $cache_status {{ HIT \"nginx; hit\"; default \"nginx; fwd=miss\"; }}
    upstream origin {{ server {origin}; keepalive 32; }}
    server {{
        listen {listen} quic reuseport;
        listen {listen} ssl reuseport;
        http2 on;
        ssl_certificate /bench/cert.pem;
        ssl_certificate_key /bench/key.pem;
        ssl_protocols TLSv1.3;
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_cache bench;
            proxy_cache_key $uri$is_args$args;
            proxy_cache_lock on;
            proxy_cache_lock_timeout 120s;
            proxy_cache_lock_age 120s;
            add_header cache-status $cache_status;
        }}
        location /film/ {{
            slice 1m;
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Range $slice_range;
            proxy_cache bench;
            proxy_cache_key $uri$is_args$args$slice_range;
            proxy_cache_valid 200 206 1h;
            proxy_cache_lock on;
            proxy_cache_lock_timeout 120s;
            proxy_cache_lock_age 120s;
            add_header cache-status $cache_status;
        }}
    }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_follows_the_setup() {
        let text = configuration(&Setup {
            listen: "198.18.0.1:443".parse().expect("an address"),
            origin: "127.0.0.1:8080".parse().expect("an address"),
            name: "edge.test",
            cores: &[0, 1],
            max_streams: 256,
        });
        for line in [
            "worker_processes 2;",
            "listen 198.18.0.1:443 quic reuseport;",
            "proxy_cache_lock on;",
            "quic_gso on;",
        ] {
            assert!(text.contains(line), "{line}");
        }
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
