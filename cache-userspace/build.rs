//! Embeds the XDP program that `cargo xtask build-ebpf` made. Without it the daemon still builds, and
//! says what to run when it is asked to attach.

use std::{env, fs, path::Path};

fn main() -> std::io::Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let directory = workspace.join("target/bpf");
    // The directory is watched rather than the object: a missing file would never be fresh.
    fs::create_dir_all(&directory)?;
    println!("cargo::rerun-if-changed={}", directory.display());

    let object = fs::read(directory.join("popcache-xdp.o")).unwrap_or_default();
    let out = env::var_os("OUT_DIR").ok_or(std::io::ErrorKind::NotFound)?;
    fs::write(Path::new(&out).join("popcache-xdp.o"), object)
}
