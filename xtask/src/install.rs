//! `cargo xtask install`, `uninstall` and `deb`.
//!
//! ```text
//!  tree (what goes where) --> install: each file into the root, every step noted in the manifest first
//!                        '--> deb: the same files in a staged root, and dpkg-deb
//!  uninstall: the manifest backwards
//! ```
//!
//! With `--root DIR` nothing outside of DIR is touched: no user is made, no service manager told.

mod deb;
mod live;
mod manifest;
mod place;
mod tree;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::workspace::Workspace;
use crate::{build, host, setup};
use manifest::Manifest;
use tree::Item;

#[derive(clap::Args)]
pub struct Args {
    /// Install into this directory instead of the running system
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Take `popcache` from this directory instead of building it
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct UninstallArgs {
    /// Where it was installed
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Remove what was changed since the installation too, such as the configuration
    #[arg(long)]
    purge: bool,
}

#[derive(clap::Args)]
pub struct DebArgs {
    /// Take `popcache` from this directory instead of building it
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Where the package is written [default: target/deb]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Installs, and says what to do next.
pub fn install(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    let is_live = is_live(&args.root);
    if is_live {
        host::require_root("it writes to /usr and /etc")?;
    }
    let items = items(workspace, args.bin_dir.as_deref())?;
    let mut manifest = place::install(&args.root, &items)?;
    if is_live {
        live::installed(&mut manifest)?;
        manifest.write(&args.root)?;
    }
    eprintln!(
        "xtask: installed {} files in {}; `cargo xtask uninstall` puts everything back",
        items.len(),
        args.root.display()
    );
    if is_live {
        eprintln!("{}", live::NEXT);
    }
    Ok(())
}

/// Removes what was installed, and puts back what was there before.
pub fn uninstall(args: &UninstallArgs) -> anyhow::Result<()> {
    let Some(manifest) = Manifest::read(&args.root)? else {
        bail!(
            "{} is not there: nothing was installed in {}",
            Manifest::path(&args.root).display(),
            args.root.display()
        );
    };
    if is_live(&args.root) {
        host::require_root("it removes files from /usr and /etc")?;
        live::before_removal();
    }
    let kept = place::uninstall(&args.root, &manifest, args.purge)?;
    if is_live(&args.root) {
        live::removed(&manifest);
    }
    for path in &kept {
        eprintln!("xtask: {path} was changed and stays; --purge removes it");
    }
    eprintln!("xtask: uninstalled from {}", args.root.display());
    Ok(())
}

/// Builds the Debian package; the last line is its path.
pub fn deb(workspace: &Workspace, args: &DebArgs) -> anyhow::Result<()> {
    let items = items(workspace, args.bin_dir.as_deref())?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| workspace.target().join("deb"));
    let package = deb::build(&items, &out)?;
    println!("{}", package.display());
    Ok(())
}

fn items(workspace: &Workspace, bin_dir: Option<&Path>) -> anyhow::Result<Vec<Item>> {
    let popcache = match bin_dir {
        Some(directory) => directory.join("popcache"),
        None => {
            setup::ensure(workspace, setup::Purpose::Run)?;
            build::release(workspace)?;
            workspace.release_bin("popcache")
        }
    };
    tree::items(workspace, &popcache).context("gathering what is to be installed")
}

fn is_live(root: &Path) -> bool {
    root.canonicalize().is_ok_and(|root| root == Path::new("/"))
}
