//! A socket on its address: what listeners over TCP and sockets of datagrams have in common before a core has
//! them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// One shard's socket for one listen address.
#[derive(Debug)]
pub struct Bound {
    pub(super) fd: OwnedFd,
    pub(super) address: SocketAddr,
}

impl Bound {
    /// One that another node opened.
    pub fn adopt(fd: OwnedFd, address: SocketAddr) -> Self {
        Self { fd, address }
    }

    /// The same socket once more, to be handed to another node.
    pub fn try_clone(&self) -> io::Result<Self> {
        let fd = self.fd.try_clone()?;
        Ok(Self::adopt(fd, self.address))
    }

    /// The address it listens on, with the port it got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
