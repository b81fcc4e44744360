//! Sending through an AF_XDP socket: frames are made in memory that is shared with the kernel.
//!
//! ```text
//!  free frames -> template, varied -> transmit ring -> kernel -> completion ring -> free frames
//! ```

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cache_ebpf::vary::{Variation, vary};
use libc::{
    c_int, c_void, sockaddr_xdp, xdp_desc, xdp_mmap_offsets, xdp_ring_offset, xdp_umem_reg_v1,
};
use memmap2::{MmapMut, MmapOptions, MmapRaw};

use super::mix::Traffic;
use super::{Sent, permit::Link};

/// Frames, and entries of each ring; a power of two.
const FRAMES: u32 = 4096;
const FRAME: usize = 2048;
/// Packets made before the kernel is told.
const BATCH: u64 = 512;
/// Rounds without any progress after which the kernel is believed to be stuck.
const MAX_IDLE: u32 = 100_000;
/// How often a queue that is taken is asked for again, and how long is waited before that: the kernel gives a
/// queue back some time after the socket that had it was closed.
const BIND_ATTEMPTS: u32 = 100;
const BIND_PAUSE: Duration = Duration::from_millis(20);

pub struct AfXdp {
    socket: OwnedFd,
    area: MmapMut,
    transmit: Ring<xdp_desc>,
    completion: Ring<u64>,
    free: Vec<u64>,
    seed: u64,
    made: u64,
}

impl AfXdp {
    /// A socket that sends through queue `queue` of `link`.
    ///
    /// # Errors
    /// The kernel's: not root, a queue that is not there, or AF_XDP is not built in.
    pub fn new(link: &Link, queue: u32, seed: u64) -> Result<Self> {
        let area = MmapMut::map_anon(FRAMES as usize * FRAME).context("no memory for frames")?;
        // SAFETY: takes numbers and gives a descriptor or -1.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        checked(fd)
            .context("cannot open an AF_XDP socket: root and CONFIG_XDP_SOCKETS are needed")?;
        // SAFETY: just opened, and owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let memory = xdp_umem_reg_v1 {
            addr: area.as_ptr() as u64,
            len: area.len() as u64,
            chunk_size: FRAME as u32,
            headroom: 0,
        };
        set(&socket, libc::XDP_UMEM_REG, &memory).context("cannot register memory for frames")?;
        for ring in [
            libc::XDP_UMEM_FILL_RING,
            libc::XDP_UMEM_COMPLETION_RING,
            libc::XDP_TX_RING,
        ] {
            set(&socket, ring, &FRAMES).context("cannot size a ring")?;
        }
        let offsets = offsets(&socket)?;
        let at = libc::XDP_PGOFF_TX_RING as u64;
        let transmit = Ring::map(&socket, at, &offsets.tx)?;
        let at = libc::XDP_UMEM_PGOFF_COMPLETION_RING;
        let completion = Ring::map(&socket, at, &offsets.cr)?;
        bind(&socket, link, queue)?;
        Ok(Self {
            socket,
            area,
            transmit,
            completion,
            free: (0..u64::from(FRAMES)).map(|n| n * FRAME as u64).collect(),
            seed,
            made: 0,
        })
    }

    /// Sends at most `most` packets, some of which may still be on their way to the kernel.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send(&mut self, traffic: &mut Traffic, most: u64) -> Result<Sent> {
        let mut sent = Sent::default();
        while sent.packets < most.min(BATCH) {
            let Some(address) = self.free.pop() else {
                break;
            };
            let chosen = traffic.choose();
            let template = traffic.template(chosen);
            let length = template.frame.len();
            let frame = &mut self.area[address as usize..][..length];
            frame.copy_from_slice(&template.frame);
            let variation = Variation {
                seed: self.seed,
                ..template.variation
            };
            vary(frame, &variation, self.made).context("a frame is too short for what varies")?;
            self.made += 1;
            self.transmit.push(xdp_desc {
                addr: address,
                len: length as u32,
                options: 0,
            });
            traffic.sent(chosen, 1);
            sent.packets += 1;
            sent.bytes += length as u64;
        }
        self.transmit.publish();
        self.kick()?;
        self.reclaim();
        Ok(sent)
    }

    /// Waits until the kernel has taken everything.
    ///
    /// # Errors
    /// The kernel's, or it takes nothing any more.
    pub fn finish(&mut self) -> Result<()> {
        for _ in 0..MAX_IDLE {
            if self.free.len() == FRAMES as usize {
                return Ok(());
            }
            self.kick()?;
            self.reclaim();
        }
        bail!("the kernel does not send: is the interface up?")
    }

    fn kick(&self) -> Result<()> {
        // SAFETY: sends no buffer and names no address.
        let done = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        if done >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // It has done a share of its work, or waits for room; what is left stays in the ring.
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => Ok(()),
            Some(libc::ENETDOWN) => Err(error).context("the interface is down"),
            _ => Err(error).context("the kernel does not send"),
        }
    }

    fn reclaim(&mut self) {
        while let Some(address) = self.completion.take() {
            self.free.push(address);
        }
        self.completion.release();
    }
}

/// A ring that is shared with the kernel: of its two indices one is ours to write, the other the
/// kernel's. Entry `i` lies at `i mod FRAMES`.
struct Ring<T> {
    mapping: MmapRaw,
    producer: usize,
    consumer: usize,
    entries: usize,
    /// Our index, not yet published.
    next: u32,
    entry: std::marker::PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    fn map(socket: &OwnedFd, at: u64, offsets: &xdp_ring_offset) -> Result<Self> {
        let length = offsets.desc as usize + FRAMES as usize * size_of::<T>();
        let mapping = MmapOptions::new()
            .offset(at)
            .len(length)
            .map_raw(socket.as_raw_fd())
            .context("cannot map a ring")?;
        Ok(Self {
            mapping,
            producer: offsets.producer as usize,
            consumer: offsets.consumer as usize,
            entries: offsets.desc as usize,
            next: 0,
            entry: std::marker::PhantomData,
        })
    }

    fn index(&self, at: usize) -> &AtomicU32 {
        // SAFETY: the kernel laid an aligned index out there, within the mapping, and both sides
        // access it atomically.
        unsafe { &*self.mapping.as_ptr().add(at).cast::<AtomicU32>() }
    }

    fn entry(&self, index: u32) -> *mut T {
        let slot = (index % FRAMES) as usize;
        // SAFETY: the mapping was made long enough for all entries.
        unsafe {
            self.mapping
                .as_mut_ptr()
                .add(self.entries)
                .cast::<T>()
                .add(slot)
        }
    }

    /// Adds an entry. There are no more entries than frames, so there is room.
    fn push(&mut self, entry: T) {
        // SAFETY: the kernel does not read the entry before `publish`, and has given back the one
        // that lay there, since there is one for each frame.
        unsafe { self.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
    }

    fn publish(&self) {
        self.index(self.producer)
            .store(self.next, Ordering::Release);
    }

    fn take(&mut self) -> Option<T> {
        if self.index(self.producer).load(Ordering::Acquire) == self.next {
            return None;
        }
        // SAFETY: the kernel has published it, and does not write there again before `release`.
        let entry = unsafe { self.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    fn release(&self) {
        self.index(self.consumer)
            .store(self.next, Ordering::Release);
    }
}

fn set<T>(socket: &OwnedFd, option: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the value is readable for its size for the length of the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            option,
            (&raw const *value).cast::<c_void>(),
            size_of::<T>() as u32,
        )
    };
    checked(done)
}

fn offsets(socket: &OwnedFd) -> Result<xdp_mmap_offsets> {
    // SAFETY: integers, which may be zero.
    let mut offsets: xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut length = size_of::<xdp_mmap_offsets>() as u32;
    // SAFETY: the kernel writes at most `length` bytes, which is the structure's size.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            (&raw mut offsets).cast(),
            &raw mut length,
        )
    };
    checked(done).context("cannot ask where the rings are")?;
    Ok(offsets)
}

fn bind(socket: &OwnedFd, link: &Link, queue: u32) -> Result<()> {
    let mut bound = bind_once(socket, link, queue);
    for _ in 1..BIND_ATTEMPTS {
        match &bound {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                thread::sleep(BIND_PAUSE);
                bound = bind_once(socket, link, queue);
            }
            _ => break,
        }
    }
    bound.with_context(|| format!("cannot send through queue {queue} of {}", link.name))
}

fn bind_once(socket: &OwnedFd, link: &Link, queue: u32) -> io::Result<()> {
    let address = sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        // Zero-copy where the driver has it.
        sxdp_flags: 0,
        sxdp_ifindex: link.index,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    // SAFETY: the address is readable for the size that is given.
    let done = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<sockaddr_xdp>() as u32,
        )
    };
    checked(done)
}

fn checked(done: c_int) -> io::Result<()> {
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
