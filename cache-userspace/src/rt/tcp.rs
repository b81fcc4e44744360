//! TCP on glommio: listeners, streams as rustls and hyper want them, and tasks of a core.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_io::{AsyncRead as _, AsyncWrite as _};
use glommio::net::{TcpListener, TcpStream};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{ReusePort, TcpNoDelay};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, getsockname,
    listen, sendmsg, setsockopt, socket,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::bound::Bound;

/// Connections that may wait to be accepted on one socket.
const BACKLOG: i32 = 1024;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("{address} (TCP) is in use already; see who listens there with `ss -ltnp`")]
    InUse { address: SocketAddr },
    #[error("{address} (TCP) is not an address of this machine; see `ip -brief address`")]
    NotLocal { address: SocketAddr },
    #[error(
        "not allowed to listen on {address}: ports below 1024 need root or CAP_NET_BIND_SERVICE"
    )]
    NotAllowed { address: SocketAddr },
    #[error("cannot listen on {address} (TCP): {source}")]
    Other {
        address: SocketAddr,
        source: io::Error,
    },
}

/// A listening socket of one shard, not yet on its core.
pub type Listener = Bound;

/// One socket a shard on the same address; the kernel spreads connections over them.
pub fn listen_group(mut address: SocketAddr, shards: u8) -> Result<Vec<Listener>, ListenError> {
    // A reuseport group admits another popcache's sockets too: is anybody there without the option?
    let probe = new_socket(address)?;
    bind_to(&probe, address)?;
    drop(probe);
    let mut group = Vec::new();
    for _ in 0..shards {
        let fd = new_socket(address)?;
        setsockopt(&fd, ReusePort, &true).map_err(|e| trouble(e, address))?;
        bind_to(&fd, address)?;
        let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
        listen(&fd, backlog).map_err(|e| trouble(e, address))?;
        // Port 0 was chosen by the kernel; the others of the group must share it.
        address = local_address(&fd, address)?;
        group.push(Listener { fd, address });
    }
    Ok(group)
}

fn new_socket(address: SocketAddr) -> Result<OwnedFd, ListenError> {
    let family = match address.is_ipv4() {
        true => AddressFamily::Inet,
        false => AddressFamily::Inet6,
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| trouble(e, address))?;
    // Connections of a former run that linger do not keep the address.
    setsockopt(&fd, nix::sys::socket::sockopt::ReuseAddr, &true)
        .map_err(|e| trouble(e, address))?;
    if address.is_ipv6() {
        setsockopt(&fd, nix::sys::socket::sockopt::Ipv6V6Only, &true)
            .map_err(|e| trouble(e, address))?;
    }
    Ok(fd)
}

fn bind_to(fd: &OwnedFd, address: SocketAddr) -> Result<(), ListenError> {
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).map_err(|e| trouble(e, address))
}

fn local_address(fd: &OwnedFd, asked: SocketAddr) -> Result<SocketAddr, ListenError> {
    let name: SockaddrStorage = getsockname(fd.as_raw_fd()).map_err(|e| trouble(e, asked))?;
    let v4 = name
        .as_sockaddr_in()
        .map(|&a| SocketAddr::from((a.ip(), a.port())));
    let v6 = name
        .as_sockaddr_in6()
        .map(|a| SocketAddr::from((a.ip(), a.port())));
    Ok(v4.or(v6).unwrap_or(asked))
}

fn trouble(error: Errno, address: SocketAddr) -> ListenError {
    match error {
        Errno::EADDRINUSE => ListenError::InUse { address },
        Errno::EADDRNOTAVAIL => ListenError::NotLocal { address },
        Errno::EACCES | Errno::EPERM => ListenError::NotAllowed { address },
        error => ListenError::Other {
            address,
            source: error.into(),
        },
    }
}

impl Listener {
    /// Brings it onto this core. Must be called inside an executor.
    pub fn open(self) -> Accepting {
        // SAFETY: the descriptor is a listening socket that nobody else owns from here on.
        let listener = unsafe { TcpListener::from_raw_fd(self.fd.into_raw_fd()) };
        Accepting { listener }
    }
}

/// A listening socket on its core.
pub struct Accepting {
    listener: TcpListener,
}

impl Accepting {
    pub async fn accept(&self) -> io::Result<Stream> {
        let stream = self.listener.accept().await.map_err(io::Error::from)?;
        Ok(Stream { stream })
    }
}

/// A connection of this core.
pub struct Stream {
    stream: TcpStream,
}

impl Stream {
    /// Answers leave at once: each is written in one go.
    pub fn send_at_once(&self) -> io::Result<()> {
        // SAFETY: the stream owns the descriptor and outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) };
        setsockopt(&fd, TcpNoDelay, &true).map_err(io::Error::from)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buf.initialize_unfilled();
        let read = Pin::new(&mut self.stream).poll_read(cx, room);
        read.map_ok(|len| buf.advance(len))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    /// One system call for all pieces; when there is no room, glommio waits for it.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let bufs = &bufs[..bufs.len().min(libc::UIO_MAXIOV as usize)];
        match sendmsg::<()>(self.stream.as_raw_fd(), bufs, &[], flags, None) {
            Ok(len) => Poll::Ready(Ok(len)),
            Err(Errno::EAGAIN) => {
                let first = bufs.iter().find(|buf| !buf.is_empty());
                let first = first.map_or(&[][..], |buf| buf);
                Pin::new(&mut self.stream).poll_write(cx, first)
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// Runs a task on this core. It ends with the executor at the latest.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(task).detach();
}

pub async fn pause(duration: Duration) {
    glommio::timer::sleep(duration).await;
}
