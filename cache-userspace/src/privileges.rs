//! What the node gives up once everything is open, and what it then still is.
//!
//! ```text
//!  root -> sockets, tier, XDP program, AF_XDP -> surrender -> shards and every other thread
//! ```
//! Credentials belong to threads and are inherited, so this happens while there is only one. Afterwards no capability
//! is left: maps are used by descriptors that are open, the tier's devices are open, and listening is done. `serve`
//! may still read files (certificates) as the user it has become.

mod seccomp;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

use anyhow::{Context as _, anyhow, ensure};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::unistd::{Uid, User, initgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};

use crate::config::Config;
pub use seccomp::Seccomp;

/// What the process is allowed, over all of its threads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivilegeStatus {
    /// Effective user id.
    pub uid: u32,
    /// Its name, where it has one.
    pub user: String,
    /// Permitted to any thread, such as `CAP_BPF`.
    pub capabilities: Vec<String>,
    /// No thread gains anything by executing a program.
    pub no_new_privileges: bool,
    /// Every thread's system calls are filtered.
    pub seccomp: bool,
}

/// Gives up user id, capabilities and system calls, as the configuration says.
///
/// # Errors
/// The user does not exist, or one of the steps is refused: a node that cannot give up what it should does not start.
pub fn surrender(config: &Config) -> anyhow::Result<()> {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        tracing::warn!(threads, "not alone: other threads keep their rights");
    }
    unbind_locked_memory();
    bound().context("cannot give up capabilities for good")?;
    if let Some(name) = &config.server.user {
        become_user(name, config)?;
    }
    drop_capabilities().context("cannot give up capabilities")?;
    prctl::set_no_new_privs().context("cannot set no_new_privs")?;
    seccomp::apply(config.server.seccomp).context("server.seccomp")
}

/// That there is somebody to become, while an error costs nothing.
///
/// # Errors
/// There is no such user.
pub fn require_user(config: &Config) -> anyhow::Result<()> {
    match &config.server.user {
        Some(name) => user_of(name).map(drop),
        None => Ok(()),
    }
}

fn user_of(name: &str) -> anyhow::Result<User> {
    let user = User::from_name(name).context("cannot read the users of this machine")?;
    let none = || anyhow!("there is no such user; `cargo xtask install` makes popcache");
    let user = user.ok_or_else(none);
    user.with_context(|| format!("server.user = {name:?}"))
}

/// Rings lock memory; without CAP_IPC_LOCK that counts against a limit, which root may still raise.
fn unbind_locked_memory() {
    let raised = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of locked memory stays");
    }
}

fn become_user(name: &str, config: &Config) -> anyhow::Result<()> {
    let user = user_of(name)?;
    if Uid::effective() == user.uid {
        return Ok(());
    }
    ensure!(
        Uid::effective().is_root(),
        "only root can become another user; start as root, or leave it out"
    );
    give_files(config, &user)?;
    let name = std::ffi::CString::new(name)?;
    initgroups(&name, user.gid).context("cannot take the user's groups")?;
    setresgid(user.gid, user.gid, user.gid).context("cannot take the user's group")?;
    setresuid(user.uid, user.uid, user.uid).context("cannot become the user")?;
    for path in unreadable(config) {
        tracing::warn!(path, user = %user.name, "cannot be read by the user: certificates cannot be read again");
    }
    Ok(())
}

/// The admin API is for the user's group from now on, and what `popcache guard` changes is kept by the user.
fn give_files(config: &Config, user: &User) -> anyhow::Result<()> {
    let (socket, state) = (&config.admin.socket, &config.guard.state_file);
    give(socket, user)?;
    if state.exists() {
        give(state, user)?;
    }
    for file in [socket, state] {
        give_own_directory(file, user)?;
    }
    Ok(())
}

/// Files in it are made and replaced, if it is the node's own: `/run/popcache`, `/var/lib/popcache`.
fn give_own_directory(file: &Path, user: &User) -> anyhow::Result<()> {
    let Some(directory) = file.parent() else {
        return Ok(());
    };
    let is_own = directory.file_name().is_some_and(|name| name == "popcache")
        && directory.metadata().is_ok_and(|meta| meta.uid() == 0);
    match is_own {
        true => give(directory, user),
        false => Ok(()),
    }
}

fn give(path: &Path, user: &User) -> anyhow::Result<()> {
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .with_context(|| format!("cannot give {} to the user", path.display()))
}

/// Files of certificates that this user cannot read.
fn unreadable(config: &Config) -> Vec<String> {
    let files = config.tls.files.iter().chain(&config.tls.others);
    files
        .flat_map(|files| [&files.certificate, &files.key])
        .filter(|path| fs::File::open(path).is_err())
        .map(|path| path.display().to_string())
        .collect()
}

/// Leaves nothing that could be had again, where that is allowed.
fn bound() -> Result<(), caps::errors::CapsError> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        return Ok(());
    }
    for capability in caps::read(None, CapSet::Bounding)? {
        caps::drop(None, CapSet::Bounding, capability)?;
    }
    Ok(())
}

/// All that this thread has.
fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    caps::clear(None, CapSet::Ambient)?;
    for set in [CapSet::Effective, CapSet::Inheritable, CapSet::Permitted] {
        caps::set(None, set, &CapsHashSet::new())?;
    }
    Ok(())
}

/// What is left, as the kernel says it: the most that any thread has.
pub fn status() -> PrivilegeStatus {
    let uid = Uid::effective();
    let user = User::from_uid(uid).ok().flatten();
    let mut status = PrivilegeStatus {
        uid: uid.as_raw(),
        user: user.map(|user| user.name).unwrap_or_default(),
        capabilities: Vec::new(),
        no_new_privileges: true,
        seccomp: true,
    };
    let mut permitted = 0;
    for text in threads() {
        let field = |name: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map_or("", str::trim).to_owned()
        };
        permitted |= u64::from_str_radix(&field("CapPrm"), 16).unwrap_or(u64::MAX);
        status.no_new_privileges &= field("NoNewPrivs") == "1";
        status.seccomp &= field("Seccomp") == "2";
    }
    let mut names: Vec<String> = caps::all()
        .into_iter()
        .filter(|capability| permitted & capability.bitmask() != 0)
        .map(|capability| capability.to_string())
        .collect();
    names.sort();
    status.capabilities = names;
    status
}

/// The kernel's account of each thread.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    // A thread that has ended meanwhile has nothing any more.
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .collect()
}

impl PrivilegeStatus {
    /// For people, in one line.
    pub fn line(&self) -> String {
        let user = match self.user.as_str() {
            "" => format!("uid {}", self.uid),
            name => format!("user {name}"),
        };
        let capabilities = match self.capabilities.len() {
            0 => "no capabilities".to_owned(),
            // Nothing was given up: nobody reads forty names.
            n if n > 8 => format!("{n} capabilities"),
            _ => self.capabilities.join(", "),
        };
        let seccomp = match self.seccomp {
            true => "system calls filtered",
            false => "system calls not filtered",
        };
        format!("{user}, {capabilities}, {seccomp}")
    }
}
