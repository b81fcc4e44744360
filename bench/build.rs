//! Embeds the XDP programs that `cargo xtask build-ebpf` made. Without them the tools still build,
//! and those that need one say what to run.

use std::{env, fs, path::Path};

fn main() -> std::io::Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let directory = workspace.join("target/bpf");
    // The directory is watched rather than the objects: a missing file would never be fresh.
    fs::create_dir_all(&directory)?;
    println!("cargo::rerun-if-changed={}", directory.display());

    let out = env::var_os("OUT_DIR").ok_or(std::io::ErrorKind::NotFound)?;
    for name in ["popcache-xdp.o", "popcache-bench-xdp.o"] {
        let object = fs::read(directory.join(name)).unwrap_or_default();
        fs::write(Path::new(&out).join(name), object)?;
    }
    Ok(())
}
