//! Puts files into a root, and takes them out again.
//!
//! The manifest is written before the first file: whatever interrupts an installation, `uninstall` finds
//! all of it.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context;

use super::manifest::{Installed, Manifest, below, digest, replaced};
use super::tree::Item;

/// Writes every item below `root`. A configuration that was changed stays, and the new one is put beside it.
pub fn install(root: &Path, items: &[Item]) -> anyhow::Result<Manifest> {
    let before = Manifest::read(root)?.unwrap_or_default();
    let mut manifest = Manifest {
        directories: before.directories.clone(),
        made_user: before.made_user,
        ..Manifest::default()
    };
    let mut writes = Vec::new();
    for item in items {
        let (installed, bytes) = plan(root, item, &before)?;
        note_directories(root, &installed.path, &mut manifest.directories);
        manifest.files.push(installed);
        writes.push((item, bytes));
    }
    note_directories(
        root,
        "/var/lib/popcache/install.json",
        &mut manifest.directories,
    );
    let gone = before
        .files
        .iter()
        .filter(|file| manifest.file(&file.path).is_none());
    let gone: Vec<Installed> = gone.cloned().collect();
    create_parent(&Manifest::path(root))?;
    let mut planned = Manifest {
        files: [&manifest.files[..], &gone[..]].concat(),
        directories: manifest.directories.clone(),
        made_user: manifest.made_user,
    };
    planned.write(root)?;
    for file in &gone {
        take_out(root, file, false)?;
    }
    for (installed, (item, bytes)) in manifest.files.iter().zip(writes) {
        keep_replaced(root, installed)?;
        put(root, &installed.path, &bytes, item.mode)?;
    }
    planned = manifest;
    planned.write(root)?;
    Ok(planned)
}

/// What is to be written for an item, and under which path.
fn plan(root: &Path, item: &Item, before: &Manifest) -> anyhow::Result<(Installed, Vec<u8>)> {
    let bytes = item.bytes()?;
    let mut path = item.path.clone();
    let mut there = read(&root.join(below(&path)))?;
    let mut ours = before.file(&path);
    if item.is_configuration
        && let Some(there_now) = &there
        && ours.is_none_or(|file| file.digest != digest(there_now))
        && *there_now != bytes
    {
        path.push_str(".new");
        eprintln!(
            "xtask: {} has changes of its own and stays; the new one is {path}",
            item.path
        );
        there = read(&root.join(below(&path)))?;
        ours = before.file(&path);
    }
    let installed = Installed {
        replaced: ours.map_or(there.is_some(), |file| file.replaced),
        digest: digest(&bytes),
        is_configuration: item.is_configuration,
        path,
    };
    Ok((installed, bytes))
}

/// Keeps what is at the path, unless it is kept already (or is what an earlier installation wrote).
fn keep_replaced(root: &Path, file: &Installed) -> anyhow::Result<()> {
    let kept = replaced(root, &file.path);
    if !file.replaced || kept.exists() {
        return Ok(());
    }
    create_parent(&kept)?;
    // A copy keeps the mode.
    fs::copy(root.join(below(&file.path)), &kept)
        .map(drop)
        .with_context(|| format!("cannot keep {}", file.path))
}

/// Writes a file whole or not at all.
fn put(root: &Path, path: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let place = root.join(below(path));
    create_parent(&place)?;
    let mut unborn = place.as_os_str().to_owned();
    unborn.push(".unborn");
    fs::write(&unborn, bytes)
        .and_then(|()| fs::set_permissions(&unborn, Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&unborn, &place))
        .with_context(|| format!("cannot write {}", place.display()))
}

/// Undoes an installation. Returns what stays because it was changed since.
pub fn uninstall(root: &Path, manifest: &Manifest, purge: bool) -> anyhow::Result<Vec<String>> {
    let mut kept = Vec::new();
    for file in &manifest.files {
        if !take_out(root, file, purge)? {
            kept.push(file.path.clone());
        }
    }
    let own = Manifest::path(root);
    remove(&own)?;
    let backups = replaced(root, "");
    if backups.exists() {
        fs::remove_dir_all(&backups).with_context(|| format!("{}", backups.display()))?;
    }
    for directory in manifest.directories.iter().rev() {
        remove_if_empty(&root.join(below(directory)))?;
    }
    Ok(kept)
}

/// Removes a file and puts back what it replaced. False when it was changed since and stays.
fn take_out(root: &Path, file: &Installed, purge: bool) -> anyhow::Result<bool> {
    let place = root.join(below(&file.path));
    let is_changed = match read(&place)? {
        None => false,
        Some(bytes) => digest(&bytes) != file.digest,
    };
    let backup = replaced(root, &file.path);
    // Interrupted before it was written: what is there is what was there before.
    let is_untouched = file.replaced && !backup.exists();
    if is_untouched || (is_changed && !purge) {
        return Ok(is_untouched);
    }
    remove(&place)?;
    if file.replaced {
        fs::copy(&backup, &place)
            .and_then(|_| fs::remove_file(&backup))
            .with_context(|| format!("cannot put back {}", file.path))?;
    }
    Ok(true)
}

/// Adds those directories above `path` that are not there yet, the outermost first.
fn note_directories(root: &Path, path: &str, directories: &mut Vec<String>) {
    let mut missing: Vec<String> = Path::new(path)
        .ancestors()
        .skip(1)
        .map(|directory| directory.display().to_string())
        .filter(|directory| !root.join(below(directory)).exists())
        .filter(|directory| !directories.contains(directory))
        .collect();
    missing.reverse();
    directories.extend(missing);
}

fn create_parent(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().context("a path without a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))
}

fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn remove_if_empty(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir(path) {
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tree::Content;
    use super::*;

    fn item(path: &str, text: &str, is_configuration: bool) -> Item {
        Item {
            path: path.to_owned(),
            content: Content::Bytes(text.as_bytes().to_vec()),
            mode: 0o640,
            is_configuration,
        }
    }

    fn items(version: &str) -> Vec<Item> {
        vec![
            item("/usr/bin/popcache", version, false),
            item("/etc/popcache/popcache.toml", &format!("# {version}"), true),
        ]
    }

    /// Every path below a root: what a file says, and its mode.
    fn everything(root: &Path) -> BTreeMap<String, (Option<String>, u32)> {
        let mut found = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("folder") {
                let path = entry.expect("entry").path();
                let mode = path.metadata().expect("mode").permissions().mode();
                let text = path
                    .is_file()
                    .then(|| fs::read_to_string(&path).expect("text"));
                found.insert(path.display().to_string(), (text, mode));
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        found
    }

    fn removed(root: &Path, purge: bool) -> Vec<String> {
        let manifest = Manifest::read(root).expect("read").expect("installed");
        uninstall(root, &manifest, purge).expect("uninstalled")
    }

    fn put_text(root: &Path, path: &str, text: &str) {
        put(root, path, text.as_bytes(), 0o600).expect("written");
    }

    #[test]
    fn what_was_there_before_is_there_again() {
        let root = tempfile::tempdir().expect("directory");
        let root = root.path();
        put_text(root, "/usr/bin/popcache", "another one");
        put_text(root, "/etc/hosts", "localhost");
        let before = everything(root);
        install(root, &items("1")).expect("installed");
        let installed = everything(root);
        let binary = root.join("usr/bin/popcache").display().to_string();
        assert_eq!(installed[&binary], (Some("1".to_owned()), 0o100_640));
        // Twice changes nothing, and an upgrade keeps what was first replaced.
        install(root, &items("1")).expect("again");
        assert_eq!(everything(root), installed);
        install(root, &items("2")).expect("upgraded");
        assert_eq!(removed(root, false), Vec::<String>::new());
        assert_eq!(everything(root), before);
    }

    #[test]
    fn a_changed_configuration_stays_unless_it_is_purged() {
        let root = tempfile::tempdir().expect("directory");
        let root = root.path();
        let path = "/etc/popcache/popcache.toml";
        install(root, &items("1")).expect("installed");
        put_text(root, path, "mine");
        install(root, &items("2")).expect("upgraded");
        let text = |path: &str| fs::read_to_string(root.join(below(path))).expect("text");
        assert_eq!(text(path), "mine");
        assert_eq!(text(&format!("{path}.new")), "# 2");
        assert_eq!(removed(root, false), Vec::<String>::new());
        assert_eq!(text(path), "mine");

        // It is an operator's from now on: what is put beside it goes again.
        install(root, &items("3")).expect("installed");
        removed(root, true);
        assert_eq!(text(path), "mine");
    }

    #[test]
    fn a_purge_removes_what_was_changed() {
        let root = tempfile::tempdir().expect("directory");
        let root = root.path();
        let path = "/etc/popcache/popcache.toml";
        install(root, &items("1")).expect("installed");
        put_text(root, path, "mine");
        assert_eq!(removed(root, false), [path]);
        assert!(root.join(below(path)).exists());
        fs::remove_file(root.join(below(path))).expect("removed");

        install(root, &items("1")).expect("installed");
        put_text(root, path, "mine");
        assert_eq!(removed(root, true), Vec::<String>::new());
        assert!(!root.join(below(path)).exists());
    }

    #[test]
    fn an_installation_that_was_interrupted_is_undone() {
        let root = tempfile::tempdir().expect("directory");
        let root = root.path();
        put_text(root, "/usr/bin/popcache", "another one");
        let before = everything(root);
        // A folder stands where the configuration goes: the binary is written, the rest is not.
        let broken = [
            item("/usr/bin/popcache", "1", false),
            item("/usr/bin/popcache/below", "", false),
        ];
        install(root, &broken).expect_err("a file has nothing below it");
        if Manifest::read(root).expect("read").is_some() {
            removed(root, false);
        }
        assert_eq!(everything(root), before);
    }
}
