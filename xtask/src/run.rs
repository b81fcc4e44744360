//! `cargo xtask run`: the appliance on a virtual NIC, with a demo origin and clients in a namespace.
//!
//! ```text
//!   popcache-bench origin          popcache                        namespace popcache-client
//!   127.0.0.1:PORT  <-- HTTP/1.1 --  10.77.0.1:443 (pc0, XDP)  <-- HTTP/3 -- curl, Chromium, load
//! ```
//!
//! Everything that is made here is put back when [`demo::Demo`] is dropped: on Ctrl-C, on an error,
//! on a panic.

mod certificate;
pub mod child;
mod demo;
pub mod signals;
mod smoke;

use std::path::Path;

use crate::lock::{Lock, RUN_LOCK};
use crate::workspace::Workspace;
use crate::{build, host, net, setup};

use demo::Demo;
use signals::Signals;

#[derive(clap::Args)]
pub struct Args {
    /// Fetch one object twice over HTTP/3, compare its bytes with the origin's, and end
    #[arg(long)]
    smoke: bool,
    /// How packets reach popcache
    #[arg(long, value_enum, default_value = "auto")]
    backend: Backend,
    /// UDP port that popcache serves on
    #[arg(long, default_value_t = 443)]
    port: u16,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Backend {
    Auto,
    Udp,
    AfXdp,
}

impl Backend {
    /// Its name in popcache's configuration.
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Udp => "udp",
            Self::AfXdp => "af_xdp",
        }
    }
}

/// Installs, builds and starts everything; ends on Ctrl-C, or after the smoke test.
pub fn run(workspace: &Workspace, args: &Args) -> anyhow::Result<()> {
    host::require_linux()?;
    host::require_root("the demo makes a network namespace, attaches XDP and reserves hugepages")?;
    let _lock = Lock::take(RUN_LOCK.as_ref())?;
    host::require_kernel()?;
    setup::ensure(workspace, setup::Purpose::Run)?;
    build::release(workspace)?;

    let signals = Signals::watch()?;
    let mut demo = Demo::start(workspace, args, &signals)?;
    if args.smoke {
        return smoke::run(workspace, &demo);
    }
    demo.explain(workspace);
    let ended = demo.wait(&signals);
    eprintln!("xtask: putting everything back");
    ended
}

/// Removes what a run left behind that was killed.
pub fn clean(_workspace: &Workspace) -> anyhow::Result<()> {
    host::require_linux()?;
    host::require_root("removing namespaces and interfaces")?;
    let _lock = Lock::take(RUN_LOCK.as_ref())?;
    let network = net::remove();
    let state = demo::remove_state(Path::new(demo::STATE_DIR));
    let found = if network || state {
        "removed"
    } else {
        "nothing was left"
    };
    eprintln!("xtask: {found}");
    Ok(())
}
