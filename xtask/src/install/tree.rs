//! What is installed, and where.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::command::output;
use crate::workspace::Workspace;

/// The configuration, which is the operator's once it is there.
pub const CONFIGURATION: &str = "/etc/popcache/popcache.toml";
pub const BINARY: &str = "/usr/bin/popcache";

const PROGRAM: u32 = 0o755;
const DOCUMENT: u32 = 0o644;

/// One file.
pub struct Item {
    /// Absolute, as on the running system.
    pub path: String,
    pub content: Content,
    pub mode: u32,
    /// Kept on an uninstallation or upgrade if it was changed.
    pub is_configuration: bool,
}

/// Where a file's bytes come from.
pub enum Content {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl Item {
    pub fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        match &self.content {
            Content::Bytes(bytes) => Ok(bytes.clone()),
            Content::File(path) => {
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))
            }
        }
    }

    fn document(path: &str, content: Content) -> Self {
        Self {
            path: path.to_owned(),
            content,
            mode: DOCUMENT,
            is_configuration: false,
        }
    }

    fn configuration(path: &str, text: String) -> Self {
        Self {
            is_configuration: true,
            ..Self::document(path, Content::Bytes(text.into_bytes()))
        }
    }
}

/// Everything, made with the binary at `popcache`.
///
/// # Errors
/// The binary is not there or does not run.
pub fn items(workspace: &Workspace, popcache: &Path) -> anyhow::Result<Vec<Item>> {
    ensure!(
        popcache.is_file(),
        "{} is not there: build it first, or leave --bin-dir out",
        popcache.display()
    );
    let mut items = vec![Item {
        mode: PROGRAM,
        ..Item::document(BINARY, Content::File(popcache.to_owned()))
    }];
    items.extend(deployed(workspace)?);
    items.extend(completions(popcache)?);
    items.extend(pages(workspace, popcache)?);
    Ok(items)
}

fn deployed(workspace: &Workspace) -> anyhow::Result<Vec<Item>> {
    let deploy = workspace.root().join("deploy");
    let mut items: Vec<Item> = [
        (
            "/usr/lib/systemd/system/popcache.service",
            "popcache.service",
        ),
        (
            "/usr/lib/systemd/system/popcache-tune.service",
            "popcache-tune.service",
        ),
        ("/usr/lib/sysusers.d/popcache.conf", "popcache.sysusers"),
    ]
    .map(|(path, name)| Item::document(path, Content::File(deploy.join(name))))
    .into();
    for (path, name) in [
        ("/usr/share/doc/popcache/copyright", "LICENSE"),
        ("/usr/share/doc/popcache/README.md", "README.md"),
        ("/usr/share/doc/popcache/changelog", "CHANGELOG.md"),
    ] {
        items.push(Item::document(
            path,
            Content::File(workspace.root().join(name)),
        ));
    }
    let text = |name: &str| {
        let path = deploy.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let example = "#user = \"popcache\"\n";
    let configuration = text("popcache.toml")?;
    ensure!(
        configuration.contains(example),
        "deploy/popcache.toml has no line {example:?}"
    );
    let configuration = configuration.replace(example, &example[1..]);
    items.push(Item::configuration(CONFIGURATION, configuration));
    let sysctl = text("popcache.sysctl")?;
    items.push(Item::configuration(
        "/etc/sysctl.d/60-popcache.conf",
        sysctl,
    ));
    Ok(items)
}

/// Where each shell looks for what it completes.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "/usr/share/bash-completion/completions/popcache"),
    ("zsh", "/usr/share/zsh/vendor-completions/_popcache"),
    ("fish", "/usr/share/fish/vendor_completions.d/popcache.fish"),
];

fn completions(popcache: &Path) -> anyhow::Result<Vec<Item>> {
    let script = |(shell, path): (&str, &str)| {
        let script = output(Command::new(popcache).args(["completions", shell]))?;
        Ok(Item::document(path, Content::Bytes(script.into_bytes())))
    };
    COMPLETIONS.into_iter().map(script).collect()
}

/// The manual: one page a command.
fn pages(workspace: &Workspace, popcache: &Path) -> anyhow::Result<Vec<Item>> {
    let folder = workspace
        .target()
        .join(format!("man-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let pages = output(Command::new(popcache).args(["man", "--dir"]).arg(&folder))
        .and_then(|_| read_pages(&folder));
    fs::remove_dir_all(&folder)?;
    pages
}

fn read_pages(folder: &Path) -> anyhow::Result<Vec<Item>> {
    let mut pages = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("/usr/share/man/man1/{}", entry.file_name().display());
        pages.push(Item::document(
            &path,
            Content::Bytes(fs::read(entry.path())?),
        ));
    }
    pages.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(pages)
}
