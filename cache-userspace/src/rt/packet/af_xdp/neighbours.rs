//! Which link header a reply to an address needs: the one that its datagrams came with, turned
//! round. There is no ARP or neighbour discovery here; whoever has not sent anything lately is
//! answered through the kernel.
//!
//! A host on the same link can therefore draw the replies to an address that it sends from, as it
//! can by forging ARP; the replies are encrypted to the real peer.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use super::frame::LinkHeader;

/// Addresses remembered; a power of two. One place an address: of two that share a place, the
/// later one stays.
const PLACES: usize = 16 << 10;

pub struct Neighbours {
    places: Box<[Option<(IpAddr, LinkHeader)>]>,
    hasher: RandomState,
}

impl Neighbours {
    pub fn new() -> Self {
        Self {
            places: vec![None; PLACES].into(),
            hasher: RandomState::new(),
        }
    }

    pub fn learn(&mut self, address: IpAddr, link: LinkHeader) {
        let place = self.place(address);
        if self.places[place] != Some((address, link)) {
            self.places[place] = Some((address, link));
        }
    }

    pub fn get(&self, address: IpAddr) -> Option<LinkHeader> {
        let (known, link) = self.places[self.place(address)]?;
        (known == address).then_some(link)
    }

    fn place(&self, address: IpAddr) -> usize {
        self.hasher.hash_one(address) as usize % PLACES
    }
}
