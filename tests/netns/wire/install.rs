//! Installing into a root, and taking it out again: every file of it compared.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::places;

/// A directory that goes when it is dropped.
struct Root(tempfile::TempDir);

impl Root {
    fn make() -> Self {
        Self(tempfile::tempdir().expect("make a root"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.path().join(path.trim_start_matches('/'))
    }
}

/// Runs xtask, which must succeed.
pub fn xtask(arguments: &[&str]) -> Output {
    let output = Command::new(places::xtask())
        .args(arguments)
        .output()
        .expect("start xtask");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "xtask {arguments:?}: {errors}");
    output
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// What is in a root: each path with its mode and, of a file, its bytes.
fn everything(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("read a folder") {
            let path = entry.expect("an entry").path();
            let about = fs::symlink_metadata(&path).expect("about a file");
            let bytes = match about.is_file() {
                true => fs::read(&path).expect("read a file"),
                false => Vec::new(),
            };
            if about.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path, (about.permissions().mode(), bytes));
        }
    }
    found
}

#[test]
fn a_root_is_as_it_was_after_an_uninstallation() {
    let root = Root::make();
    // Something is there already: another popcache, and an operator's own completions.
    for (path, content) in [
        ("/usr/bin/popcache", "#!/bin/sh\necho another\n"),
        ("/usr/share/man/man1/ls.1", ".TH ls\n"),
    ] {
        let path = root.at(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        fs::write(path, content).expect("write a file");
    }
    let before = everything(root.path());
    let folder = places::binary("popcache");
    let folder = text(folder.parent().expect("a folder"));
    let install = ["install", "--root", text(root.path()), "--bin-dir", folder];
    xtask(&install);

    for path in [
        "/etc/popcache/popcache.toml",
        "/etc/sysctl.d/60-popcache.conf",
        "/usr/lib/systemd/system/popcache.service",
        "/usr/lib/sysusers.d/popcache.conf",
        "/usr/share/bash-completion/completions/popcache",
        "/usr/share/zsh/vendor-completions/_popcache",
        "/usr/share/fish/vendor_completions.d/popcache.fish",
        "/usr/share/man/man1/popcache.1",
        "/usr/share/man/man1/popcache-tune.1",
    ] {
        let found = fs::read_to_string(root.at(path));
        assert!(found.is_ok_and(|text| text.contains("popcache")), "{path}");
    }
    let said = Command::new(root.at("/usr/bin/popcache"))
        .arg("--version")
        .output();
    let said = said.expect("start what was installed").stdout;
    assert!(
        said.starts_with(b"popcache 0."),
        "{}",
        String::from_utf8_lossy(&said)
    );
    the_units_are_sound(&root);

    // What an operator wrote stays, and is said.
    let configuration = root.at("/etc/popcache/popcache.toml");
    let shipped = fs::read(&configuration).expect("the configuration");
    fs::write(&configuration, "# mine\n").expect("edit it");
    let uninstall = ["uninstall", "--root", text(root.path())];
    let said = xtask(&uninstall).stderr;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(
        said.contains("/etc/popcache/popcache.toml was changed and stays"),
        "{said}"
    );
    assert_eq!(fs::read(&configuration).expect("still there"), b"# mine\n");
    fs::remove_dir_all(root.at("/etc")).expect("the operator removes it");
    assert_eq!(everything(root.path()), before);

    // Purged, it goes as well.
    xtask(&install);
    assert_eq!(fs::read(&configuration).expect("there"), shipped);
    fs::write(&configuration, "# mine\n").expect("edit it");
    xtask(&[&uninstall[..], &["--purge"]].concat());
    assert_eq!(everything(root.path()), before);
}

/// By systemd's own tool, where it is.
fn the_units_are_sound(root: &Root) {
    let mut verify = Command::new("systemd-analyze");
    let units = ["popcache.service", "popcache-tune.service"];
    let files = units.map(|unit| root.at("/usr/lib/systemd/system").join(unit));
    let Ok(output) = verify.args(["verify", "--man=no"]).args(&files).output() else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // It looks for the programs on this machine, where they are not installed.
    let ours = said.lines().filter(|line| line.contains("popcache"));
    let faults: Vec<_> = ours
        .filter(|line| !line.contains("is not executable"))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_package_has_what_an_installation_has() {
    let out = Root::make();
    let folder = places::binary("popcache");
    let folder = text(folder.parent().expect("a folder"));
    let made = xtask(&["deb", "--bin-dir", folder, "--out", text(out.path())]);
    let package = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    let dpkg = |arguments: &[&str]| {
        let output = Command::new("dpkg-deb")
            .args(arguments)
            .arg(&package)
            .output();
        String::from_utf8_lossy(&output.expect("start dpkg-deb").stdout).into_owned()
    };
    let contents = dpkg(&["--contents"]);
    for path in [
        "./usr/bin/popcache\n",
        "./etc/popcache/popcache.toml\n",
        "./usr/lib/systemd/system/popcache.service\n",
        "./usr/share/man/man1/popcache-serve.1\n",
    ] {
        assert!(contents.contains(path), "{path:?} is not in\n{contents}");
    }
    assert!(
        contents.lines().all(|line| line.contains(" root/root ")),
        "{contents}"
    );
    let conffiles = dpkg(&["--info"]);
    assert!(conffiles.contains("Package: popcache"), "{conffiles}");
    assert_eq!(
        dpkg(&["--field"])
            .lines()
            .filter(|line| line.starts_with("Depends: libc6 (>= 2."))
            .count(),
        1
    );
    let only_package = fs::read_dir(out.path()).expect("the folder").count();
    assert_eq!(only_package, 1, "the staged root was left behind");
}
