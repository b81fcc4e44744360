//! Where things are in the checkout.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// The root of the checkout, and the paths below it that more than one task names.
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace that this xtask was built from.
    ///
    /// # Errors
    /// The checkout was moved or removed since xtask was built.
    pub fn find() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask's folder has no parent")?
            .to_path_buf();
        anyhow::ensure!(
            root.join("Cargo.toml").is_file(),
            "no Cargo.toml in {}: run `cargo xtask` from inside the checkout",
            root.display()
        );
        Ok(Self { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where cargo writes.
    pub fn target(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => self.root.join(dir),
            None => self.root.join("target"),
        }
    }

    /// A release binary.
    pub fn release_bin(&self, name: &str) -> PathBuf {
        self.target().join("release").join(name)
    }

    /// State of `cargo xtask run`: configuration, certificate, logs, origin's files.
    pub fn run_dir(&self) -> PathBuf {
        self.target().join("run")
    }

    /// The Python interpreter with the HTTP/3 test clients.
    pub fn venv_python(&self) -> PathBuf {
        self.target().join("venv/bin/python")
    }

    /// Where playwright-core is installed.
    pub fn node_dir(&self) -> PathBuf {
        self.target().join("node")
    }

    /// The scripts of the real clients (curl, aioquic, Chromium).
    pub fn clients_dir(&self) -> PathBuf {
        self.root.join("tests/netns/clients")
    }
}
