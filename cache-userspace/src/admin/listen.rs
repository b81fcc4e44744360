//! Where the admin API listens. Bound before anything else at start, since the socket is also how
//! a second popcache notices the first.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::token::Token;
use crate::config::AdminConfig;

/// Owner and group may connect.
const SOCKET_MODE: u32 = 0o660;
const DIRECTORY_MODE: u32 = 0o755;

/// Bound, not yet answering. Dropping it removes the socket.
#[derive(Debug)]
pub struct Listeners {
    pub(super) unix: UnixListener,
    pub(super) tcp: Option<(TcpListener, Token)>,
    pub(super) socket: SocketFile,
}

/// Removes the socket's path at the end, unless another has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the admin socket");
        }
    }
}

impl Listeners {
    /// Where TCP really listens.
    pub fn tcp_address(&self) -> Option<std::net::SocketAddr> {
        self.tcp
            .as_ref()
            .and_then(|(listener, _)| listener.local_addr().ok())
    }
}

/// Takes the admin API's addresses.
///
/// # Errors
/// Another popcache answers on the socket, something else is in its place, or the address, the
/// directory or the token cannot be had. Each error says which, and what to do.
pub fn bind(config: &AdminConfig) -> anyhow::Result<Listeners> {
    bind_in_place_of(config, Former::Refused)
}

/// A process that answers on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Former {
    Refused,
    /// It hands over: its socket is replaced.
    Replaced,
}

/// [`bind`] where there may be another popcache.
///
/// # Errors
/// As of [`bind`].
pub fn bind_in_place_of(config: &AdminConfig, former: Former) -> anyhow::Result<Listeners> {
    let tcp = match (config.tcp, &config.token_file) {
        (None, _) => None,
        (Some(_), None) => bail!("admin.tcp needs admin.token_file"),
        (Some(address), Some(path)) => {
            let token = Token::load(path).context("admin.token_file")?;
            let listener = TcpListener::bind(address)
                .with_context(|| format!("cannot listen on admin.tcp {address}"))?;
            listener.set_nonblocking(true)?;
            Some((listener, token))
        }
    };
    let path = &config.socket;
    let bound = bind_unix(path, SOCKET_MODE, former);
    let (unix, socket) = bound.with_context(|| format!("admin.socket {}", path.display()))?;
    Ok(Listeners { unix, tcp, socket })
}

/// Listens on a path, for those that `mode` lets in.
///
/// # Errors
/// The path is taken, or the directory cannot be had.
pub fn bind_unix(
    path: &Path,
    mode: u32,
    former: Former,
) -> anyhow::Result<(UnixListener, SocketFile)> {
    make_directory(path)?;
    if former == Former::Refused {
        refuse_if_taken(path)?;
    }
    // Made under another name and moved, so that nobody meets it with wider permissions.
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let unborn = PathBuf::from(name);
    remove_if_there(&unborn)?;
    let listener =
        UnixListener::bind(&unborn).with_context(|| format!("cannot bind {}", unborn.display()))?;
    listener.set_nonblocking(true)?;
    let placed = fs::set_permissions(&unborn, fs::Permissions::from_mode(mode))
        .and_then(|()| fs::symlink_metadata(&unborn))
        .and_then(|meta| fs::rename(&unborn, path).map(|()| meta.ino()));
    match placed {
        Ok(inode) => {
            let path = path.to_owned();
            Ok((listener, SocketFile { path, inode }))
        }
        Err(error) => {
            let _ = fs::remove_file(&unborn);
            Err(error).context("cannot put the socket in its place")
        }
    }
}

fn make_directory(path: &Path) -> anyhow::Result<()> {
    let Some(directory) = path.parent().filter(|p| !p.as_os_str().is_empty()) else {
        return Ok(());
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)
        .with_context(|| format!("cannot create {}", directory.display()))
}

/// What a crash left behind is replaced; what lives is not.
fn refuse_if_taken(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("cannot look at it"),
        Ok(meta) if !meta.file_type().is_socket() => {
            bail!("is not a socket: remove it, or choose another path")
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(stream) => match getsockopt(&stream, PeerCredentials) {
            Ok(peer) => bail!("another popcache is running (pid {})", peer.pid()),
            Err(_) => bail!("another popcache is running"),
        },
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the admin socket of a run that crashed");
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).context("cannot find out whether another popcache is running"),
    }
}

fn remove_if_there(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(socket: PathBuf) -> AdminConfig {
        AdminConfig {
            socket,
            tcp: None,
            token_file: None,
        }
    }

    #[test]
    fn the_socket_is_for_owner_and_group_and_goes_away() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("run/popcache/admin.sock");
        let listeners = bind(&config(path.clone())).expect("bound");
        let mode = fs::metadata(&path).expect("socket").permissions().mode();
        assert_eq!(mode & 0o7777, 0o660);
        assert_eq!(
            fs::read_dir(path.parent().expect("directory"))
                .expect("list")
                .count(),
            1
        );
        UnixStream::connect(&path).expect("reachable");
        drop(listeners);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_one_is_refused_and_a_stale_one_replaced() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("admin.sock");
        let first = bind(&config(path.clone())).expect("bound");
        let error = format!("{:#}", bind(&config(path.clone())).expect_err("taken"));
        let pid = std::process::id();
        assert!(
            error.contains(&format!("another popcache is running (pid {pid})")),
            "{error}"
        );

        drop(first);
        drop(UnixListener::bind(&path).expect("a crashed run's socket"));
        assert!(path.exists());
        let again = bind(&config(path.clone())).expect("replaced");
        UnixStream::connect(&path).expect("reachable");
        drop(again);
    }

    #[test]
    fn a_file_in_its_place_is_kept() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("admin.sock");
        fs::write(&path, "precious").expect("write");
        let error = format!(
            "{:#}",
            bind(&config(path.clone())).expect_err("not a socket")
        );
        assert!(error.contains("is not a socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
    }

    #[test]
    fn a_successor_keeps_its_socket() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("admin.sock");
        let first = bind(&config(path.clone())).expect("bound");
        fs::remove_file(&path).expect("removed by hand");
        let second = bind(&config(path.clone())).expect("bound");
        drop(first);
        assert!(path.exists());
        drop(second);
    }
}
