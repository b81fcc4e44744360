//! The XDP programs of `popcache-bench`: a packet generator, a sink, and what the guard is compared with.
//!
//! They are only that when they are built for the BPF virtual machine (`cargo xtask build-ebpf`).
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs;

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("popcache-bench-xdp runs in the kernel: build it with `cargo xtask build-ebpf`");
    std::process::exit(2);
}
