//! Opening an AF_XDP socket: memory registration, rings, binding to a queue.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use hugepages::{BackingReport, PagePolicy};
use libc::{xdp_desc, xdp_mmap_offsets, xdp_ring_offset};

use super::ring::{Consumer, Layout, Producer};
use super::umem::{FRAME_BYTES, Frame, Umem};

/// How a socket is bound to its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The driver moves packets in and out of our memory itself.
    ZeroCopy,
    /// The kernel copies.
    Copy,
}

impl Mode {
    fn flag(self) -> u16 {
        match self {
            Self::ZeroCopy => libc::XDP_ZEROCOPY,
            Self::Copy => libc::XDP_COPY,
        }
    }
}

/// A bound socket and its rings. Not yet in the XSKMAP.
pub struct Xsk {
    pub umem: Umem,
    /// Frames that neither the kernel nor a packet has.
    pub free: Vec<Frame>,
    pub fill: Producer<u64>,
    pub completion: Consumer<u64>,
    pub receive: Consumer<xdp_desc>,
    pub transmit: Producer<xdp_desc>,
    pub fd: OwnedFd,
    pub mode: Mode,
    pub memory: BackingReport,
}

/// Opens a socket on `queue` of `interface` with rings of `depth` entries (a power of two).
///
/// # Errors
/// No such interface or queue, no privilege, no locked memory, another socket on the queue, or a
/// driver without zero-copy where that is asked for.
pub fn open(
    interface: &str,
    queue: u32,
    depth: u32,
    mode: Mode,
    pages: PagePolicy,
) -> anyhow::Result<Xsk> {
    let index = nix::net::if_::if_nametoindex(interface)
        .map_err(|_| anyhow!("interface {interface:?} does not exist"))?;
    let fd = new_socket()?;
    let (umem, free, memory) = Umem::map(2 * depth, pages)?;
    register(&fd, &umem)?;
    for option in [
        libc::XDP_UMEM_FILL_RING,
        libc::XDP_UMEM_COMPLETION_RING,
        libc::XDP_RX_RING,
        libc::XDP_TX_RING,
    ] {
        set(&fd, option, &depth).context("cannot set the size of an AF_XDP ring")?;
    }
    let offsets = offsets(&fd)?;
    let ring = |offset, entry, place: &xdp_ring_offset| -> anyhow::Result<_> {
        let layout = layout(place);
        let bytes = layout.entries + depth as usize * entry;
        let mapping = Mapping::ring(&fd, bytes, offset).context("cannot map an AF_XDP ring")?;
        Ok((Arc::new(mapping), layout))
    };
    let fill_at = libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t;
    let completion_at = libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t;
    let desc = size_of::<xdp_desc>();
    let (mapping, place) = ring(fill_at, 8, &offsets.fr)?;
    let fill = Producer::new(mapping, place, depth);
    let (mapping, place) = ring(completion_at, 8, &offsets.cr)?;
    let completion = Consumer::new(mapping, place, depth);
    let (mapping, place) = ring(libc::XDP_PGOFF_RX_RING, desc, &offsets.rx)?;
    let receive = Consumer::new(mapping, place, depth);
    let (mapping, place) = ring(libc::XDP_PGOFF_TX_RING, desc, &offsets.tx)?;
    let transmit = Producer::new(mapping, place, depth);
    bind(&fd, index, queue, mode).map_err(|error| explain_bind(&error, interface, queue, mode))?;
    Ok(Xsk {
        umem,
        free,
        fill,
        completion,
        receive,
        transmit,
        fd,
        mode,
        memory,
    })
}

fn new_socket() -> anyhow::Result<OwnedFd> {
    // SAFETY: no pointers are passed; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd >= 0 {
        // SAFETY: a fresh descriptor that nothing else owns.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => bail!("this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)"),
        Some(libc::EPERM) => {
            bail!("not allowed to open AF_XDP sockets: run as root or with CAP_NET_RAW")
        }
        _ => Err(error).context("cannot open an AF_XDP socket"),
    }
}

fn register(fd: &OwnedFd, umem: &Umem) -> anyhow::Result<()> {
    let (addr, len) = umem.range();
    let registration = libc::xdp_umem_reg {
        addr,
        len,
        chunk_size: FRAME_BYTES,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set(fd, libc::XDP_UMEM_REG, &registration).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOBUFS | libc::ENOMEM) => anyhow!(
            "cannot lock {} MiB of packet memory: raise `ulimit -l`, grant CAP_IPC_LOCK, or lower \
             packet.queue_depth",
            len >> 20
        ),
        _ => anyhow!("cannot register packet memory: {error}"),
    })
}

fn bind(fd: &OwnedFd, index: u32, queue: u32, mode: Mode) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: mode.flag() | libc::XDP_USE_NEED_WAKEUP,
        sxdp_ifindex: index,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    let length = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `address`.
    match unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn explain_bind(error: &io::Error, interface: &str, queue: u32, mode: Mode) -> anyhow::Error {
    let place = format!("queue {queue} of {interface}");
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) if mode == Mode::ZeroCopy => {
            anyhow!("the driver of {interface} has no AF_XDP zero-copy")
        }
        Some(libc::EINVAL) => anyhow!(
            "{interface} has no queue {queue}: it has fewer queues than there are shards; set more \
             (`ethtool -L {interface} combined {}`) or use fewer server.cores",
            queue + 1
        ),
        Some(libc::EBUSY) => Busy { place }.into(),
        Some(libc::ENETDOWN) => anyhow!("{interface} is down; `ip link set {interface} up`"),
        _ => anyhow!("cannot bind an AF_XDP socket to {place}: {error}"),
    }
}

/// The queue is another socket's, or was until a moment ago.
#[derive(Debug, thiserror::Error)]
#[error("{place} has an AF_XDP socket of another program")]
pub struct Busy {
    place: String,
}

fn offsets(fd: &OwnedFd) -> anyhow::Result<xdp_mmap_offsets> {
    // SAFETY: plain integers, for which zero is a value.
    let mut offsets: xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut length = size_of::<xdp_mmap_offsets>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `offsets`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            (&raw mut offsets).cast(),
            &raw mut length,
        )
    };
    if result != 0 || length as usize != size_of::<xdp_mmap_offsets>() {
        bail!("this kernel's AF_XDP rings have no flags; Linux 5.4 or newer is needed");
    }
    Ok(offsets)
}

fn layout(place: &xdp_ring_offset) -> Layout {
    Layout {
        producer: place.producer as usize,
        consumer: place.consumer as usize,
        flags: place.flags as usize,
        entries: place.desc as usize,
    }
}

fn set<T>(fd: &impl AsFd, option: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel reads `length` bytes of `value`, a plain structure.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_XDP,
            option,
            ptr::from_ref(value).cast(),
            length,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Tells the kernel that there is something to send. `Ok(false)`: not everything was taken.
pub fn kick(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: a message without data or address.
    let result = unsafe { libc::sendto(fd.as_raw_fd(), ptr::null(), 0, flags, ptr::null(), 0) };
    if result >= 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => Ok(false),
        _ => Err(error),
    }
}

/// Tells the kernel that there are frames to receive into again.
pub fn kick_fill(fd: BorrowedFd<'_>) {
    let (flags, none) = (libc::MSG_DONTWAIT, ptr::null_mut());
    // SAFETY: a receive without buffer or address. There is nothing to do about an error: the next
    // packet tries again.
    unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            none,
            0,
            flags,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
}

/// Mapped memory, unmapped at the end.
pub struct Mapping {
    start: *mut u8,
    len: usize,
}

// SAFETY: the mapping belongs to no thread; its users say how they share it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn ring(fd: &OwnedFd, len: usize, offset: libc::off_t) -> io::Result<Self> {
        Self::map(
            len,
            libc::MAP_SHARED | libc::MAP_POPULATE,
            fd.as_raw_fd(),
            offset,
        )
    }

    /// Zeroed memory that is no ring of the kernel's.
    #[cfg(test)]
    pub fn anonymous(len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    fn map(len: usize, flags: i32, fd: i32, offset: libc::off_t) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, fd, offset) };
        match start {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            start => Ok(Self {
                start: start.cast(),
                len,
            }),
        }
    }

    pub fn start(&self) -> *mut u8 {
        self.start
    }

    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and nothing borrows from it any more. A failure
        // would leave it mapped, which harms nothing.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}
