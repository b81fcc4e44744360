//! The sockets that go from node to node.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::rt::packet::UdpSocket;
use crate::rt::tcp::Listener;

use super::Offer;

/// Each by shard, then by address.
pub struct Sockets {
    pub udp: Vec<Vec<UdpSocket>>,
    pub tls: Vec<Vec<Listener>>,
    pub clear: Vec<Vec<Listener>>,
}

impl Sockets {
    /// The same once more.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            udp: clones(&self.udp, UdpSocket::try_clone)?,
            tls: clones(&self.tls, Listener::try_clone)?,
            clear: clones(&self.clear, Listener::try_clone)?,
        })
    }

    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let udp = self.udp.iter().flatten().map(UdpSocket::fd);
        let tcp = self.tls.iter().chain(&self.clear).flatten();
        udp.chain(tcp.map(Listener::fd)).collect()
    }

    /// What [`Self::fds`] of the one who made `offer` are.
    pub fn adopt(offer: &Offer, fds: Vec<OwnedFd>) -> Self {
        let mut fds = fds.into_iter();
        let shards = offer.shards;
        Self {
            udp: by_shard(shards, &offer.udp, &mut fds, UdpSocket::adopt),
            tls: by_shard(shards, &offer.tls, &mut fds, Listener::adopt),
            clear: by_shard(shards, &offer.clear, &mut fds, Listener::adopt),
        }
    }
}

impl Offer {
    /// How many sockets come with it.
    pub fn sockets(&self) -> usize {
        usize::from(self.shards) * (self.udp.len() + self.tls.len() + self.clear.len())
    }
}

fn clones<T>(all: &[Vec<T>], clone: impl Fn(&T) -> io::Result<T>) -> io::Result<Vec<Vec<T>>> {
    let of_shard = |shard: &Vec<T>| shard.iter().map(&clone).collect();
    all.iter().map(of_shard).collect()
}

pub(super) fn by_shard<T>(
    shards: u8,
    addresses: &[SocketAddr],
    fds: &mut impl Iterator<Item = OwnedFd>,
    adopt: impl Fn(OwnedFd, SocketAddr) -> T,
) -> Vec<Vec<T>> {
    let mut of_shard = || {
        let adopted = addresses.iter().zip(&mut *fds);
        adopted.map(|(address, fd)| adopt(fd, *address)).collect()
    };
    (0..shards).map(|_| of_shard()).collect()
}
