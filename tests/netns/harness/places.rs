//! Where the binaries and the clients are.

use std::path::{Path, PathBuf};

/// A binary of this workspace: from POPCACHE_BIN_DIR, else beside this test's own.
pub fn binary(name: &str) -> PathBuf {
    let folder = match std::env::var_os("POPCACHE_BIN_DIR") {
        // From the root of the checkout, as one types it; tests start in their crate's folder.
        Some(folder) => Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(folder),
        None => profile_folder(),
    };
    let binary = folder.join(name);
    assert!(
        binary.is_file(),
        "{} is not built: run `cargo xtask test`, or `cargo build --workspace --bins` before this",
        binary.display()
    );
    binary
}

/// The tasks of this checkout, which are built beside the tests.
pub fn xtask() -> PathBuf {
    let xtask = profile_folder().join("xtask");
    assert!(
        xtask.is_file(),
        "{} is not built: run `cargo xtask --help` first",
        xtask.display()
    );
    xtask
}

/// A client script.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("netns/clients")
        .join(name)
}

/// The Python interpreter with curl_cffi and aioquic.
pub fn python() -> PathBuf {
    installed("venv/bin/python")
}

/// The folder in which playwright-core is installed.
pub fn node_folder() -> PathBuf {
    installed("node")
}

fn installed(below_target: &str) -> PathBuf {
    let path = target_folder().join(below_target);
    assert!(
        path.exists(),
        "{} is not there: run `cargo xtask setup --for test`",
        path.display()
    );
    path
}

/// Where files on a disk may be made: `/run` and often `/tmp` lie in memory.
pub fn target_folder() -> PathBuf {
    let profile = profile_folder();
    profile
        .parent()
        .expect("a profile's folder is inside target")
        .to_owned()
}

/// `target/debug` of `target/debug/deps/netns-HASH`.
fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().expect("path of this test");
    let folder = test
        .ancestors()
        .nth(2)
        .expect("tests are built in PROFILE/deps");
    folder.to_owned()
}
