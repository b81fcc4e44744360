//! The XDP program: reads the maps, asks [`cache_ebpf::verdict`], counts, and steers.
//!
//! It is only that when it is built for the BPF virtual machine (`cargo xtask build-ebpf`).
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod program;

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("popcache-xdp runs in the kernel: build it with `cargo xtask build-ebpf`");
    std::process::exit(2);
}
