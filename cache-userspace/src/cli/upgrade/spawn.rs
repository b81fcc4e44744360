//! Starts a process where another one lives: in its control group, namespaces and environment, as if its
//! service manager had started it.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};
use nix::unistd::setsid;

/// What the service manager tells a node of itself.
const VARIABLES: [&str; 2] = ["NOTIFY_SOCKET", "WATCHDOG_USEC"];

/// Starts `program` with `arguments` and `last`, beside process `former`. Its errors can be read from the child.
///
/// # Errors
/// The process is not to be seen (root is needed), or the program cannot be started.
pub(super) fn beside(
    former: u32,
    program: &Path,
    arguments: &[&str],
    last: &Path,
) -> anyhow::Result<Child> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg(last)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let environment = fs::read(format!("/proc/{former}/environ"))
        .with_context(|| format!("cannot read the environment of process {former}; be root"))?;
    for (name, value) in variables(&environment) {
        command.env(name, std::ffi::OsStr::from_bytes(value));
    }
    let namespaces = [namespace(former, "net")?, namespace(former, "mnt")?];
    let mut group = control_group(former)?;
    let enter = move || {
        setsid()?;
        if let Some(group) = &mut group {
            // 0 is who writes.
            group.write_all(b"0")?;
        }
        for namespace in namespaces.iter().flatten() {
            setns(namespace, CloneFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec `enter` makes system calls on descriptors that are open, and allocates nothing.
    unsafe { command.pre_exec(enter) };
    command
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

fn variables(environment: &[u8]) -> impl Iterator<Item = (&'static str, &[u8])> {
    environment.split(|&byte| byte == 0).filter_map(|variable| {
        let at = variable.iter().position(|&byte| byte == b'=')?;
        let name = VARIABLES
            .iter()
            .find(|name| name.as_bytes() == &variable[..at])?;
        Some((*name, &variable[at + 1..]))
    })
}

/// `None`: we are in it.
fn namespace(of: u32, kind: &str) -> anyhow::Result<Option<File>> {
    let path = format!("/proc/{of}/ns/{kind}");
    let there = fs::read_link(&path).with_context(|| format!("cannot read {path}; be root"))?;
    if there == fs::read_link(format!("/proc/self/ns/{kind}"))? {
        return Ok(None);
    }
    let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    Ok(Some(file))
}

/// `None`: we are in it, or there are none.
fn control_group(of: u32) -> anyhow::Result<Option<File>> {
    let read = |of: &str| fs::read_to_string(format!("/proc/{of}/cgroup")).unwrap_or_default();
    let (there, here) = (read(&of.to_string()), read("self"));
    let unified = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("0::/"));
        line.map(str::to_owned)
    };
    let (Some(there), here) = (unified(&there), unified(&here)) else {
        return Ok(None);
    };
    if Some(&there) == here.as_ref() {
        return Ok(None);
    }
    let path = Path::new("/sys/fs/cgroup").join(there).join("cgroup.procs");
    let file = File::options().write(true).open(&path);
    let file =
        file.with_context(|| format!("cannot enter the control group {}", path.display()))?;
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_service_manager_said_is_passed_on_and_nothing_else() {
        let environment =
            b"PATH=/bin\0NOTIFY_SOCKET=/run/n=1\0X\0WATCHDOG_PID=7\0WATCHDOG_USEC=30\0";
        let found: Vec<_> = variables(environment).collect();
        let expected: [(&str, &[u8]); 2] =
            [("NOTIFY_SOCKET", b"/run/n=1"), ("WATCHDOG_USEC", b"30")];
        assert_eq!(found, expected);
    }
}
