//! Builds the XDP programs: `target/bpf/popcache-xdp.o`, and `popcache-bench-xdp.o` for the benchmarks.
//!
//! The BPF target has no prebuilt `core`, so the compiler must bring the library's source. Two kinds
//! of machine have one: rustup with a nightly and its `rust-src` component, and Debian with
//! `rust-web-src`. The stable toolchain that builds everything else is not touched.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context, bail, ensure};

const BPF_TARGET: &str = "bpfel-unknown-none";
const BPF_LINKER: &str = "bpf-linker";

const INSTALL_COMPILER: &str = "\
no Rust compiler with the source of its library was found. Install one of:
  rustup toolchain install nightly --component rust-src
  apt-get install rustc-web rust-web-src cargo-web";

const INSTALL_LINKER: &str = "\
bpf-linker was found neither in PATH nor in ~/.cargo/bin. Install it:
  apt-get install llvm-22-dev libpolly-22-dev libzstd-dev zlib1g-dev
  LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --no-default-features --features llvm-22";

/// The programs of `cache-ebpf`, the daemon's first.
const PROGRAMS: [&str; 2] = ["popcache-xdp", "popcache-bench-xdp"];

/// Builds the objects unless they are newer than everything they are made of. Returns the path of the
/// daemon's.
///
/// # Errors
/// A compiler or linker is missing (the message says what to install) or the build fails.
pub fn build(root: &Path) -> anyhow::Result<PathBuf> {
    let objects = PROGRAMS.map(|program| root.join("target/bpf").join(format!("{program}.o")));
    let stamp = root.join("target/bpf-build/stamp");
    let [daemons, _] = &objects;
    if objects.iter().all(|object| object.exists()) && is_fresh(root, &stamp)? {
        return Ok(daemons.clone());
    }
    let started = SystemTime::now();
    let compiler = find_compiler().context(INSTALL_COMPILER)?;
    let linker = find_linker().context(INSTALL_LINKER)?;
    let built = compile(root, &compiler, &linker)?;
    for (program, object) in PROGRAMS.iter().zip(&objects) {
        install(&built.join(program), object)?;
    }
    write_stamp(&stamp, started)?;
    Ok(daemons.clone())
}

/// A compiler that has the library's source, and the cargo of the same version.
struct Compiler {
    rustc: PathBuf,
    cargo: PathBuf,
}

fn find_compiler() -> Option<Compiler> {
    rustup_nightly().or_else(debian)
}

fn rustup_nightly() -> Option<Compiler> {
    let sysroot = sysroot(Command::new("rustup").args(["run", "nightly", "rustc"]))?;
    let compiler = Compiler {
        rustc: sysroot.join("bin/rustc"),
        cargo: sysroot.join("bin/cargo"),
    };
    has_library(&sysroot).then_some(compiler)
}

fn debian() -> Option<Compiler> {
    let compiler = Compiler {
        rustc: "/usr/bin/rustc".into(),
        cargo: "/usr/bin/cargo".into(),
    };
    let sysroot = sysroot(&mut Command::new(&compiler.rustc))?;
    (has_library(&sysroot) && compiler.cargo.exists()).then_some(compiler)
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    let output = rustc.args(["--print", "sysroot"]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| path.trim().into())
}

fn has_library(sysroot: &Path) -> bool {
    let library = sysroot.join("lib/rustlib/src/rust/library");
    library.join("core/src/lib.rs").exists()
}

/// The directory that holds bpf-linker.
fn find_linker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let home = env::var_os("HOME").unwrap_or_default();
    env::split_paths(&path)
        .chain([Path::new(&home).join(".cargo/bin")])
        .find(|directory| directory.join(BPF_LINKER).is_file())
}

/// Runs cargo in a target directory of its own and returns where it put what it made.
fn compile(root: &Path, compiler: &Compiler, linker: &Path) -> anyhow::Result<PathBuf> {
    let target_dir = root.join("target/bpf-build");
    let inherited = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(
        [linker.to_path_buf()]
            .into_iter()
            .chain(env::split_paths(&inherited)),
    )
    .context("a directory in PATH has a colon in its name")?;

    let mut cargo = Command::new(&compiler.cargo);
    forget_outer_cargo(&mut cargo);
    let status = cargo
        .current_dir(root)
        .args(["build", "--quiet", "--locked", "--release"])
        .args(["--package", "cache-ebpf"])
        .args(PROGRAMS.iter().flat_map(|program| ["--bin", program]))
        .args(["--target", BPF_TARGET, "-Z", "build-std=core"])
        .env("PATH", path)
        .env("RUSTC", &compiler.rustc)
        // Debian's compiler is a release build; -Z options and build-std need the bootstrap switch.
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "RUSTFLAGS",
            "-C target-cpu=v3 -C debuginfo=2 -C link-arg=--btf -C link-arg=--cpu-features=+allows-misaligned-mem-access",
        )
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .status()
        .with_context(|| format!("cannot run {}", compiler.cargo.display()))?;
    if !status.success() {
        bail!(
            "the XDP programs did not build with {} and {}/{BPF_LINKER} ({status})",
            compiler.rustc.display(),
            linker.display()
        );
    }
    Ok(target_dir.join(BPF_TARGET).join("release"))
}

/// Removes what the cargo that runs xtask has set for itself: it would choose another toolchain.
fn forget_outer_cargo(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let outer = text.starts_with("CARGO") && text != "CARGO_HOME";
        if outer || text.starts_with("RUST") && text != "RUSTUP_HOME" {
            command.env_remove(&name);
        }
    }
}

/// Copies the object to where the daemon's build looks, and leaves it alone when nothing changed,
/// so that the daemon is not rebuilt for nothing.
fn install(built: &Path, object: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    ensure!(!bytes.is_empty(), "{} is empty", built.display());
    if fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(directory) = object.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    fs::write(object, bytes).with_context(|| format!("cannot write {}", object.display()))
}

/// Whether the last build began after the last change of a source.
fn is_fresh(root: &Path, stamp: &Path) -> anyhow::Result<bool> {
    let Ok(built) = fs::metadata(stamp).and_then(|stamp| stamp.modified()) else {
        return Ok(false);
    };
    let sources = [
        "cache-ebpf/Cargo.toml",
        "cache-ebpf/src",
        "xtask/src/build_ebpf.rs",
    ];
    for source in sources {
        if newest(&root.join(source))? >= built {
            return Ok(false);
        }
    }
    Ok(true)
}

/// When `path`, or a file somewhere under it, was last changed.
fn newest(path: &Path) -> anyhow::Result<SystemTime> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut newest = metadata.modified()?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            newest = newest.max(self::newest(&entry?.path())?);
        }
    }
    Ok(newest)
}

fn write_stamp(stamp: &Path, started: SystemTime) -> anyhow::Result<()> {
    let file =
        fs::File::create(stamp).with_context(|| format!("cannot write {}", stamp.display()))?;
    file.set_modified(started)
        .with_context(|| format!("cannot set the time of {}", stamp.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_newer_than_the_stamp_makes_it_stale() {
        let root = env::temp_dir().join(format!("popcache-build-ebpf-{}", std::process::id()));
        for directory in ["cache-ebpf/src/deep", "xtask/src"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for file in [
            "cache-ebpf/Cargo.toml",
            "cache-ebpf/src/deep/a.rs",
            "xtask/src/build_ebpf.rs",
        ] {
            fs::write(root.join(file), "").unwrap();
        }
        let stamp = root.join("stamp");
        assert!(!is_fresh(&root, &stamp).unwrap(), "never built");

        let hour = std::time::Duration::from_secs(3600);
        write_stamp(&stamp, SystemTime::now() + hour).unwrap();
        assert!(is_fresh(&root, &stamp).unwrap());

        let deep = fs::File::create(root.join("cache-ebpf/src/deep/a.rs")).unwrap();
        deep.set_modified(SystemTime::now() + 2 * hour).unwrap();
        assert!(!is_fresh(&root, &stamp).unwrap());
        fs::remove_dir_all(&root).unwrap();
    }
}
