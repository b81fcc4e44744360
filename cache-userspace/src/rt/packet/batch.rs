//! recvmmsg and sendmmsg with their control messages: the only place that lays out their memory.
//!
//! Both keep their buffers between calls. Pointers are written afresh before each call, so nothing
//! depends on where the structures lie.

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use cache_core::io::EcnCodepoint;
use libc::{c_int, cmsghdr, in_pktinfo, in6_pktinfo, iovec, mmsghdr, msghdr, sockaddr_storage};

/// Messages of one receive call.
const RECEIVE_SLOTS: usize = 32;
/// Room for one message: all the datagrams that GRO put together.
const SLOT_BYTES: usize = 1 << 16;
/// Messages of one send call.
pub const SEND_SLOTS: usize = 32;
/// Room for the control messages of one message: segment size, packet info, traffic class.
const CONTROL_BYTES: usize = 128;

/// `cmsghdr` wants its alignment.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// What one message of a receive call carries.
pub struct Received<'a> {
    pub remote: SocketAddr,
    /// Where it was sent to, on sockets that listen on every address.
    pub local_ip: Option<IpAddr>,
    pub ecn: Option<EcnCodepoint>,
    /// One datagram, or several of `segment` bytes each (the last may be shorter).
    pub data: &'a [u8],
    pub segment: usize,
}

pub struct ReceiveBatch {
    scratch: Box<[u8]>,
    names: Box<[sockaddr_storage; RECEIVE_SLOTS]>,
    controls: Box<[Control; RECEIVE_SLOTS]>,
    iovecs: Box<[iovec; RECEIVE_SLOTS]>,
    headers: Box<[mmsghdr; RECEIVE_SLOTS]>,
    received: usize,
}

impl ReceiveBatch {
    pub const SLOTS: usize = RECEIVE_SLOTS;

    pub fn new() -> Self {
        // SAFETY: sockaddr_storage, iovec and mmsghdr are plain C structures for which all zeroes
        // (null pointers of length 0) is a valid value.
        let (name, iov, header) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            scratch: vec![0; RECEIVE_SLOTS * SLOT_BYTES].into_boxed_slice(),
            names: Box::new([name; RECEIVE_SLOTS]),
            controls: Box::new([Control([0; CONTROL_BYTES]); RECEIVE_SLOTS]),
            iovecs: Box::new([iov; RECEIVE_SLOTS]),
            headers: Box::new([header; RECEIVE_SLOTS]),
            received: 0,
        }
    }

    /// Receives what is there, without waiting. Returns how many messages; read them by
    /// [`ReceiveBatch::get`].
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.received = 0;
        let slots = self.scratch.chunks_exact_mut(SLOT_BYTES);
        for (n, slot) in slots.enumerate() {
            self.iovecs[n] = iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: SLOT_BYTES,
            };
            let header = &mut self.headers[n].msg_hdr;
            header.msg_name = (&raw mut self.names[n]).cast();
            header.msg_namelen = size_of::<sockaddr_storage>() as u32;
            header.msg_iov = &raw mut self.iovecs[n];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut self.controls[n]).cast();
            header.msg_controllen = CONTROL_BYTES;
            header.msg_flags = 0;
        }
        // SAFETY: the first RECEIVE_SLOTS headers were just pointed at buffers of the lengths
        // given; all of them are owned by `self`, distinct, and not touched during the call.
        let n = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                RECEIVE_SLOTS as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        self.received = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        Ok(self.received)
    }

    /// Message `n` of the last call; `None` if it was cut off or came from no Internet address.
    pub fn get(&self, n: usize) -> Option<Received<'_>> {
        assert!(n < self.received, "message {n} of {}", self.received);
        let header = &self.headers[n];
        let length = header.msg_len as usize;
        if header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 || length == 0 {
            return None;
        }
        let mut received = Received {
            remote: address(&self.names[n])?,
            local_ip: None,
            ecn: None,
            data: &self.scratch[n * SLOT_BYTES..][..length],
            segment: length,
        };
        read_control(&header.msg_hdr, &mut received);
        Some(received)
    }
}

fn address(name: &sockaddr_storage) -> Option<SocketAddr> {
    let family = c_int::from(name.ss_family);
    let name = ptr::from_ref(name);
    match family {
        libc::AF_INET => {
            // SAFETY: the kernel wrote a sockaddr_in; sockaddr_storage has room and alignment for it.
            let v4 = unsafe { &*name.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above, with a sockaddr_in6.
            let v6 = unsafe { &*name.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn read_control(header: &msghdr, received: &mut Received<'_>) {
    // SAFETY: the kernel filled msg_control and set msg_controllen to the bytes it wrote; the
    // CMSG functions stay within that.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: not null, so it names a whole header within the control buffer.
        let cmsg = unsafe { &*next };
        match (cmsg.cmsg_level, cmsg.cmsg_type) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                received.segment = usize::try_from(data::<c_int>(cmsg)).unwrap_or(0).max(1);
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                received.ecn = EcnCodepoint::from_bits(data::<u8>(cmsg));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                received.ecn = EcnCodepoint::from_bits(data::<c_int>(cmsg) as u8);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let info: in_pktinfo = data(cmsg);
                let ip = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
                received.local_ip = Some(ip.into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let info: in6_pktinfo = data(cmsg);
                received.local_ip = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
            }
            _ => {}
        }
        // SAFETY: `next` came from the same header.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
}

/// The payload of a control message that the kernel wrote.
fn data<T: Copy>(cmsg: &cmsghdr) -> T {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: only called with the integer or C structure that the kernel documents for the
    // message's type, all of them valid when zero; no more than the message holds is copied, and
    // the data may be unaligned, so bytes are.
    unsafe {
        let length = cmsg.cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
        let bytes = length.min(size_of::<T>());
        ptr::copy_nonoverlapping(libc::CMSG_DATA(cmsg), value.as_mut_ptr().cast(), bytes);
        value.assume_init()
    }
}

/// One message to send.
pub struct Outgoing<'a> {
    pub destination: SocketAddr,
    /// For sockets that listen on every address.
    pub source: Option<IpAddr>,
    /// Differs from the socket's default.
    pub tos: Option<u8>,
    pub data: &'a [u8],
    /// `data` is several datagrams of this size (the last may be shorter).
    pub segment: Option<u16>,
}

pub struct SendBatch {
    names: Box<[sockaddr_storage; SEND_SLOTS]>,
    controls: Box<[Control; SEND_SLOTS]>,
    iovecs: Box<[iovec; SEND_SLOTS]>,
    headers: Box<[mmsghdr; SEND_SLOTS]>,
}

impl SendBatch {
    pub fn new() -> Self {
        // SAFETY: as in ReceiveBatch::new.
        let (name, iov, header) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            names: Box::new([name; SEND_SLOTS]),
            controls: Box::new([Control([0; CONTROL_BYTES]); SEND_SLOTS]),
            iovecs: Box::new([iov; SEND_SLOTS]),
            headers: Box::new([header; SEND_SLOTS]),
        }
    }

    /// Sends as many of `messages` (at most [`SEND_SLOTS`]) as there is room for, in order. An
    /// error is about the first.
    pub fn send<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        messages: impl Iterator<Item = Outgoing<'a>>,
    ) -> io::Result<usize> {
        let mut count = 0;
        for message in messages.take(SEND_SLOTS) {
            self.write(count, &message);
            count += 1;
        }
        // SAFETY: the first `count` headers were just pointed at a name, a control buffer and
        // data that all outlive the call; the kernel only reads them, and writes msg_len.
        let n = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as u32,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    fn write(&mut self, n: usize, message: &Outgoing<'_>) {
        let base = message.data.as_ptr().cast_mut().cast();
        self.iovecs[n] = iovec {
            iov_base: base,
            iov_len: message.data.len(),
        };
        let header = &mut self.headers[n].msg_hdr;
        header.msg_name = (&raw mut self.names[n]).cast();
        header.msg_namelen = write_address(&mut self.names[n], message.destination);
        header.msg_iov = &raw mut self.iovecs[n];
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut self.controls[n]).cast();
        header.msg_controllen = CONTROL_BYTES;
        header.msg_controllen = write_control(header, message);
        if header.msg_controllen == 0 {
            header.msg_control = ptr::null_mut();
        }
    }
}

fn write_address(name: &mut sockaddr_storage, address: SocketAddr) -> u32 {
    let name = ptr::from_mut(name);
    match address {
        SocketAddr::V4(v4) => {
            let value = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage has room and alignment for every address.
            unsafe { name.cast::<libc::sockaddr_in>().write(value) };
            size_of::<libc::sockaddr_in>() as u32
        }
        SocketAddr::V6(v6) => {
            let value = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { name.cast::<libc::sockaddr_in6>().write(value) };
            size_of::<libc::sockaddr_in6>() as u32
        }
    }
}

/// Writes the control messages; the result is their length.
fn write_control(header: &msghdr, message: &Outgoing<'_>) -> usize {
    // SAFETY: the control buffer is CONTROL_BYTES long, room for a header.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    let mut used = 0;
    let v4 = message.destination.is_ipv4();
    if let Some(segment) = message.segment {
        next = push(
            header,
            next,
            &mut used,
            (libc::SOL_UDP, libc::UDP_SEGMENT),
            segment,
        );
    }
    if let Some(tos) = message.tos {
        let kind = match v4 {
            true => (libc::IPPROTO_IP, libc::IP_TOS),
            false => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        next = push(header, next, &mut used, kind, c_int::from(tos));
    }
    match message.source {
        Some(IpAddr::V4(ip)) => {
            let s_addr = u32::from_ne_bytes(ip.octets());
            let info = in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            push(
                header,
                next,
                &mut used,
                (libc::IPPROTO_IP, libc::IP_PKTINFO),
                info,
            );
        }
        Some(IpAddr::V6(ip)) => {
            let s6_addr = ip.octets();
            let info = in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr },
                ipi6_ifindex: 0,
            };
            push(
                header,
                next,
                &mut used,
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO),
                info,
            );
        }
        None => {}
    }
    used
}

/// Writes one control message at `at` and returns where the next one goes.
fn push<T: Copy>(
    header: &msghdr,
    at: *mut cmsghdr,
    used: &mut usize,
    (level, kind): (c_int, c_int),
    value: T,
) -> *mut cmsghdr {
    let length = size_of::<T>() as u32;
    // SAFETY: CMSG_SPACE only computes.
    let space = unsafe { libc::CMSG_SPACE(length) } as usize;
    assert!(
        !at.is_null() && *used + space <= CONTROL_BYTES,
        "control messages outgrew their buffer"
    );
    *used += space;
    // SAFETY: `at` lies within the control buffer that `header` names, with `space` bytes left, as
    // was just checked; the payload is written unaligned. CMSG_NXTHDR reads the length written
    // here and stays within the buffer.
    unsafe {
        (*at).cmsg_level = level;
        (*at).cmsg_type = kind;
        (*at).cmsg_len = libc::CMSG_LEN(length) as usize;
        libc::CMSG_DATA(at).cast::<T>().write_unaligned(value);
        libc::CMSG_NXTHDR(header, at)
    }
}
