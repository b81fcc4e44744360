//! Debian packages.

use std::collections::HashSet;
use std::process::Command;

use anyhow::{Context, ensure};

use super::Purpose;
use crate::command::{output, run, succeeds};
use crate::host;

struct Package {
    name: &'static str,
    why: &'static str,
    /// Empty: every build needs it.
    purposes: &'static [Purpose],
    /// Not wanted where this program is there already from elsewhere.
    unless: Option<&'static str>,
}

const fn always(name: &'static str, why: &'static str) -> Package {
    Package {
        name,
        why,
        purposes: &[],
        unless: None,
    }
}

const fn for_purposes(
    name: &'static str,
    why: &'static str,
    purposes: &'static [Purpose],
) -> Package {
    Package {
        name,
        why,
        purposes,
        unless: None,
    }
}

const fn unless_there(
    name: &'static str,
    why: &'static str,
    purposes: &'static [Purpose],
    program: &'static str,
) -> Package {
    Package {
        name,
        why,
        purposes,
        unless: Some(program),
    }
}

use Purpose::{Bench, Run, Test};

const PACKAGES: &[Package] = &[
    always(
        "build-essential",
        "C compiler and make, for AWS-LC and liburing",
    ),
    always("ca-certificates", "trust roots for TLS to origins"),
    always(
        "rustc-web",
        "a Rust compiler whose LLVM matches bpf-linker, for the XDP program",
    ),
    always(
        "rust-web-src",
        "Rust's core library as source, built for BPF",
    ),
    always("cargo-web", "the cargo that belongs to that compiler"),
    always(
        "llvm-22-dev",
        "LLVM, which bpf-linker links the XDP program with",
    ),
    always(
        "libpolly-22-dev",
        "a part of LLVM that bpf-linker links against",
    ),
    always("libzstd-dev", "a library that LLVM links against"),
    always("zlib1g-dev", "a library that LLVM links against"),
    always("iproute2", "namespaces and virtual NICs"),
    always("ethtool", "queues and offloads of virtual NICs"),
    for_purposes(
        "openssl",
        "the demo's self-signed certificate",
        &[Run, Test],
    ),
    for_purposes(
        "python3-venv",
        "a private Python environment for curl and aioquic over HTTP/3",
        &[Run, Test],
    ),
    for_purposes("chromium", "a real browser over HTTP/3", &[Test]),
    unless_there("nodejs", "drives the browser", &[Test], "node"),
    unless_there("npm", "installs playwright-core", &[Test], "npm"),
    for_purposes(
        "debootstrap",
        "private roots: for Debian 13's nginx, the benchmark's peer, and to install the package in",
        &[Bench, Test],
    ),
    for_purposes(
        "xdp-tools",
        "xdp-filter, the peer of the XDP benchmark",
        &[Bench],
    ),
];

/// Installs the packages that are missing.
///
/// # Errors
/// Something is missing and this is not Debian, or not root, or apt-get fails.
pub fn ensure(purposes: &[Purpose]) -> anyhow::Result<()> {
    let installed = installed()?;
    let missing: Vec<_> = PACKAGES
        .iter()
        .filter(|package| wanted(package, purposes) && !installed.contains(package.name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        eprintln!(
            "xtask: needs the Debian package {}: {}",
            package.name, package.why
        );
    }
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    host::require_root(&format!("apt-get install {}", names.join(" ")))?;
    run(apt_get().arg("update"))?;
    run(apt_get()
        .args(["install", "--yes", "--no-install-recommends"])
        .args(names))
    .context("on another release than Debian 12, install these by hand under their names there")
}

fn wanted(package: &Package, purposes: &[Purpose]) -> bool {
    let for_us =
        package.purposes.is_empty() || package.purposes.iter().any(|one| purposes.contains(one));
    for_us
        && package
            .unless
            .is_none_or(|program| !succeeds(Command::new(program).arg("--version")))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Another apt-get may run: wait for it rather than fail.
        .args(["-o", "DPkg::Lock::Timeout=600", "--quiet=2"]);
    command
}

fn installed() -> anyhow::Result<HashSet<String>> {
    let list = output(
        Command::new("dpkg-query")
            .args(["--show", "--showformat=${db:Status-Status} ${Package}\n"]),
    )
    .context("this is not Debian: see README.md for what popcache is built with")?;
    ensure!(!list.is_empty(), "dpkg-query lists no package");
    Ok(list
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_wanted_for_its_purposes_only() {
        let browser = for_purposes("chromium", "", &[Test]);
        assert!(wanted(&browser, &[Test]));
        assert!(wanted(&browser, &[Run, Test]));
        assert!(!wanted(&browser, &[Run]));
        assert!(wanted(&always("iproute2", ""), &[Bench]));
    }

    #[test]
    fn a_program_from_elsewhere_makes_its_package_unneeded() {
        let shell = unless_there("dash", "", &[Test], "true");
        assert!(!wanted(&shell, &[Test]));
        let absent = unless_there("absent", "", &[Test], "popcache-no-such-program");
        assert!(wanted(&absent, &[Test]));
    }
}
