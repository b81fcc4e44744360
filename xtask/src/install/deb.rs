//! The Debian package: the tree in a staged root, four short scripts, and `dpkg-deb`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::manifest::below;
use super::tree::{BINARY, Item};
use crate::command::{output, run};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Writes the package into `out` and returns its path.
///
/// # Errors
/// A file cannot be staged, or `strip` or `dpkg-deb` fails.
pub fn build(items: &[Item], out: &Path) -> anyhow::Result<PathBuf> {
    let stage = out.join(format!("stage-{}", std::process::id()));
    let built = stage_and_pack(items, out, &stage);
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    built
}

fn stage_and_pack(items: &[Item], out: &Path, stage: &Path) -> anyhow::Result<PathBuf> {
    for item in items {
        put(&stage.join(below(&item.path)), &item.bytes()?, item.mode)?;
    }
    let binary = stage.join(below(BINARY));
    // Line tables are two thirds of the file; the checkout's own binary keeps them.
    run(Command::new("strip").arg("--strip-debug").arg(&binary))?;
    let libc = newest_glibc(&fs::read(&binary)?);
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    let architecture = architecture.trim();
    let control = stage.join("DEBIAN");
    let size = installed_kib(stage)?;
    put(
        &control.join("control"),
        control_file(architecture, &libc, size).as_bytes(),
        0o644,
    )?;
    let configurations = items.iter().filter(|item| item.is_configuration);
    let configurations: String = configurations
        .map(|item| format!("{}\n", item.path))
        .collect();
    put(&control.join("conffiles"), configurations.as_bytes(), 0o644)?;
    for (name, script) in SCRIPTS {
        put(&control.join(name), script.as_bytes(), 0o755)?;
    }
    let package = out.join(format!("popcache_{VERSION}_{architecture}.deb"));
    output(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zgzip", "--build"])
            .args([stage, package.as_path()]),
    )?;
    Ok(package)
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let parent = path.parent().context("a path without a directory")?;
    fs::create_dir_all(parent)?;
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(())
}

fn installed_kib(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => installed_kib(&entry.path())? << 10,
            false => entry.metadata()?.len(),
        };
    }
    Ok(bytes.div_ceil(1 << 10))
}

fn control_file(architecture: &str, libc: &str, installed_kib: u64) -> String {
    format!(
        "Package: popcache\n\
         Version: {VERSION}\n\
         Architecture: {architecture}\n\
         Maintainer: popcache developers <popcache@localhost>\n\
         Installed-Size: {installed_kib}\n\
         Depends: libc6 (>= {libc}), libgcc-s1\n\
         Recommends: systemd\n\
         Section: web\n\
         Priority: optional\n\
         Description: L1 edge cache for HTTP/3, HTTP/2 and HTTP/1.1\n \
         Serves small, very hot objects from hugepages, one shard a core and NIC queue,\n \
         steered by XDP. The XDP program is inside the binary.\n"
    )
}

/// The newest version of glibc's symbols that a binary names, such as `2.34`.
fn newest_glibc(binary: &[u8]) -> String {
    const NAME: &[u8] = b"GLIBC_2.";
    let mut newest = 0;
    for (at, _) in binary
        .windows(NAME.len())
        .enumerate()
        .filter(|(_, w)| *w == NAME)
    {
        let digits: Vec<u8> = binary[at + NAME.len()..]
            .iter()
            .copied()
            .take_while(u8::is_ascii_digit)
            .take(3)
            .collect();
        let minor = String::from_utf8_lossy(&digits).parse().unwrap_or(0);
        newest = newest.max(minor);
    }
    format!("2.{newest}")
}

/// Nothing is started by an installation: the configuration names no origin yet.
const SCRIPTS: [(&str, &str); 3] = [
    (
        "postinst",
        "#!/bin/sh
set -e
if [ \"$1\" = configure ]; then
    if ! id popcache >/dev/null 2>&1; then
        useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin popcache
    fi
    # Keys of certificates belong here.
    chgrp popcache /etc/popcache
    chmod 0750 /etc/popcache
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        # An upgrade: the XDP program stays attached meanwhile.
        if [ -n \"$2\" ]; then systemctl try-restart popcache.service; fi
    fi
fi
",
    ),
    (
        "prerm",
        "#!/bin/sh
set -e
if [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then
    systemctl disable --now popcache.service popcache-tune.service || true
fi
",
    ),
    (
        "postrm",
        "#!/bin/sh
set -e
# A node that no service manager started left it, empty.
rmdir /run/popcache 2>/dev/null || true
if [ \"$1\" = purge ]; then
    if id popcache >/dev/null 2>&1; then userdel popcache || true; fi
    # What a node kept; a tier's files in here are a cache too.
    rm -rf /var/lib/popcache
    rmdir /etc/popcache 2>/dev/null || true
fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_is_found() {
        let binary = b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.17\0GLIBC_PRIVATE\0GLIBC_2.";
        assert_eq!(newest_glibc(binary), "2.34");
    }

    #[test]
    fn the_control_file_has_one_field_a_line() {
        let text = control_file("amd64", "2.36", 12);
        for line in text.lines() {
            assert!(line.contains(": ") || line.starts_with(' '), "{line:?}");
        }
        assert!(text.contains("\nDepends: libc6 (>= 2.36), libgcc-s1\n"));
    }
}
