//! What an installation on the running system does beside writing files: the service user, and telling the
//! service manager. Nothing is started.

use std::path::Path;
use std::process::Command;

use super::manifest::Manifest;
use super::tree::CONFIGURATION;
use crate::command::{run, run_quietly, succeeds};

pub const USER: &str = "popcache";

/// What an operator does next.
pub const NEXT: &str = "\
xtask: next:
  edit /etc/popcache/popcache.toml           # `popcache check` explains it
  sysctl --system                            # reserves hugepages; /etc/sysctl.d/60-popcache.conf
  popcache tune                              # what would be changed on the NIC; `popcache tune apply`
  systemctl enable --now popcache";

/// Makes the user and lets it read the configuration's folder, where keys belong.
pub fn installed(manifest: &mut Manifest) -> anyhow::Result<()> {
    if !has_user() {
        make_user()?;
        manifest.made_user = true;
    }
    let folder = Path::new(CONFIGURATION).parent().unwrap_or(Path::new("/"));
    run_quietly(Command::new("chgrp").arg(USER).arg(folder))?;
    run_quietly(Command::new("chmod").arg("0750").arg(folder))?;
    reload_units();
    Ok(())
}

/// Stops and disables the services, where there is a service manager.
pub fn before_removal() {
    if has_systemd() {
        tolerate(Command::new("systemctl").args(["disable", "--now", "popcache", "popcache-tune"]));
    }
}

/// Takes the user back if the installation made it.
pub fn removed(manifest: &Manifest) {
    reload_units();
    if manifest.made_user && has_user() {
        tolerate(Command::new("userdel").arg(USER));
    }
}

fn has_user() -> bool {
    succeeds(Command::new("id").arg(USER))
}

fn make_user() -> anyhow::Result<()> {
    let mut useradd = Command::new("useradd");
    useradd.args(["--system", "--user-group", "--no-create-home"]);
    useradd.args(["--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]);
    run(useradd.arg(USER))
}

fn reload_units() {
    if has_systemd() {
        tolerate(Command::new("systemctl").arg("daemon-reload"));
    }
}

fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// What fails here does not make the rest of an uninstallation wrong; it is said.
fn tolerate(command: &mut Command) {
    if let Err(error) = run(command) {
        eprintln!("xtask: {error:#}");
    }
}
