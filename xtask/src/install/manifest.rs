//! The manifest: what an installation did to a root, so that it can be undone.

use std::fs;
use std::hash::Hasher as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

const PATH: &str = "var/lib/popcache/install.json";
const REPLACED: &str = "var/lib/popcache/replaced";

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub files: Vec<Installed>,
    /// That were not there before, parents first; absolute, as on the running system.
    pub directories: Vec<String>,
    /// The service user was made.
    pub made_user: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Installed {
    /// Absolute, as on the running system.
    pub path: String,
    /// Of what was written: tells whether it was changed since.
    pub digest: String,
    /// Something else was there, and is kept under `replaced`.
    pub replaced: bool,
    pub is_configuration: bool,
}

impl Manifest {
    pub fn path(root: &Path) -> PathBuf {
        root.join(PATH)
    }

    /// `None` where nothing was installed.
    pub fn read(root: &Path) -> anyhow::Result<Option<Self>> {
        let path = Self::path(root);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("{} is damaged", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub fn write(&self, root: &Path) -> anyhow::Result<()> {
        let path = Self::path(root);
        fs::write(&path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    pub fn file(&self, path: &str) -> Option<&Installed> {
        self.files.iter().find(|file| file.path == path)
    }
}

/// Where what was at `path` before is kept.
pub fn replaced(root: &Path, path: &str) -> PathBuf {
    root.join(REPLACED).join(below(path))
}

/// A path of the running system as one below a root.
pub fn below(path: &str) -> &str {
    path.trim_start_matches('/')
}

pub fn digest(bytes: &[u8]) -> String {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    let hash = hasher.finish128();
    format!("{:016x}{:016x}", hash.h1, hash.h2)
}
