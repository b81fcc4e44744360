//! What this machine must be: Linux with the features that popcache stands on, and root.

use std::fs;

use anyhow::{bail, ensure};
use nix::unistd::Uid;

/// Refuses an operating system that popcache cannot run on.
pub fn require_linux() -> anyhow::Result<()> {
    ensure!(
        cfg!(target_os = "linux"),
        "popcache runs on Linux alone (developed on Debian 12, kernel 6.1 or newer); this is {}",
        std::env::consts::OS
    );
    Ok(())
}

/// Refuses to go on without root; `why` completes "needs root: ...".
pub fn require_root(why: &str) -> anyhow::Result<()> {
    ensure!(
        Uid::effective().is_root(),
        "needs root: {why}. Try: sudo -E env \"PATH=$PATH\" cargo xtask ..."
    );
    Ok(())
}

/// Refuses a kernel that lacks what `cargo xtask run` and the end-to-end tests use.
pub fn require_kernel() -> anyhow::Result<()> {
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let missing = missing_features(&symbols, &|path| fs::read_to_string(path).ok());
    if let Some(feature) = missing.first() {
        bail!("this kernel lacks {feature}");
    }
    Ok(())
}

/// A kernel feature: what the user reads, and the kernel function that exists where it does.
const FEATURES: [(&str, &str); 4] = [
    ("BPF system calls (CONFIG_BPF_SYSCALL)", "bpf_prog_load"),
    (
        "XDP redirection (CONFIG_BPF_SYSCALL, CONFIG_NET)",
        "xdp_do_redirect",
    ),
    ("io_uring (CONFIG_IO_URING)", "io_uring_setup"),
    ("network namespaces (CONFIG_NET_NS)", "copy_net_ns"),
];

fn missing_features(symbols: &str, read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut missing = Vec::new();
    // An empty list means that the kernel does not show its symbols: then nothing can be concluded.
    if !symbols.is_empty() {
        let has = |function: &str| symbols.contains(function);
        missing.extend(
            FEATURES
                .iter()
                .filter(|(_, function)| !has(function))
                .map(|(name, _)| (*name).to_owned()),
        );
    }
    if let Some(setting) = read("/proc/sys/kernel/io_uring_disabled")
        && setting.trim() == "2"
    {
        missing.push("io_uring: it is switched off (sysctl kernel.io_uring_disabled=0)".into());
    }
    if let Some(protocols) = read("/proc/net/protocols")
        && !protocols.lines().any(|line| line.starts_with("XDP "))
    {
        missing.push("AF_XDP sockets (CONFIG_XDP_SOCKETS)".into());
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYMBOLS: &str =
        "0 T bpf_prog_load\n0 T xdp_do_redirect\n0 t io_uring_setup\n0 T copy_net_ns\n";

    fn files(path: &str) -> Option<String> {
        match path {
            "/proc/sys/kernel/io_uring_disabled" => Some("0\n".into()),
            "/proc/net/protocols" => Some("protocol size\nXDP  1152\nUDP 1088\n".into()),
            _ => None,
        }
    }

    #[test]
    fn a_whole_kernel_lacks_nothing() {
        assert_eq!(missing_features(SYMBOLS, &files), Vec::<String>::new());
    }

    #[test]
    fn each_absent_feature_is_named() {
        let symbols = SYMBOLS.replace("io_uring_setup", "other");
        let no_xsk = |path: &str| files(path).map(|text| text.replace("XDP ", "RAW "));
        let missing = missing_features(&symbols, &no_xsk);
        assert_eq!(missing.len(), 2);
        assert!(missing[0].contains("CONFIG_IO_URING"));
        assert!(missing[1].contains("CONFIG_XDP_SOCKETS"));
    }

    #[test]
    fn a_kernel_that_hides_its_symbols_is_given_the_benefit_of_the_doubt() {
        assert_eq!(missing_features("", &files), Vec::<String>::new());
    }
}
