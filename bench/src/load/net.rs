//! One UDP socket of the client: connected, with segmentation and receive offload, many datagrams
//! a system call.

use std::io;
use std::mem;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use anyhow::{Context, Result};
use bytes::BytesMut;
use nix::sys::socket::{setsockopt, sockopt};

/// Messages taken by one `recvmmsg`.
const RECEIVE_BATCH: usize = 16;
/// Bytes of one received message: the largest that receive offload makes.
const MESSAGE: usize = 65_536;
/// Messages given to one `sendmmsg`.
const SEND_BATCH: usize = 64;
/// Kernel buffer asked for in each direction, bytes; less where the system allows less.
const KERNEL_BUFFER: usize = 16 << 20;
/// Room for one control message of two or four bytes, in words so that it is aligned.
const CONTROL_WORDS: usize = 4;

pub(super) struct Socket {
    socket: UdpSocket,
    received: Box<[u8]>,
    /// Bytes to send, message after message.
    outgoing: Vec<u8>,
    messages: Vec<Message>,
}

/// A part of `outgoing`.
#[derive(Clone, Copy)]
struct Message {
    start: usize,
    length: usize,
    segment: Option<u16>,
}

type Control = [u64; CONTROL_WORDS];

impl Socket {
    pub(super) fn connect(remote: SocketAddr) -> Result<Self> {
        let any = if remote.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).context("cannot open a UDP socket")?;
        socket
            .connect(remote)
            .with_context(|| format!("cannot reach {remote}"))?;
        socket
            .set_nonblocking(true)
            .context("cannot make a socket non-blocking")?;
        setsockopt(&socket, sockopt::UdpGroSegment, &true)
            .context("no UDP receive offload: Linux 5.0 or newer is needed")?;
        // Only root may pass the system's limit; others get what the limit gives.
        if setsockopt(&socket, sockopt::RcvBufForce, &KERNEL_BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &KERNEL_BUFFER)
                .context("cannot size a receive buffer")?;
        }
        Ok(Self {
            socket,
            received: vec![0; RECEIVE_BATCH * MESSAGE].into_boxed_slice(),
            outgoing: Vec::with_capacity(SEND_BATCH * 1500),
            messages: Vec::with_capacity(SEND_BATCH),
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Hands every waiting datagram of one batch to `each`; says whether there may be more.
    pub(super) fn receive(&mut self, mut each: impl FnMut(BytesMut)) -> io::Result<bool> {
        let mut controls = [Control::default(); RECEIVE_BATCH];
        let mut lengths = [(0usize, 0usize); RECEIVE_BATCH];
        let count = self.receive_batch(&mut controls, &mut lengths)?;
        for (index, (length, segment)) in lengths.iter().take(count).enumerate() {
            let start = index * MESSAGE;
            let mut message = BytesMut::from(&self.received[start..start + length]);
            while message.len() > *segment {
                each(message.split_to(*segment));
            }
            each(message);
        }
        Ok(count == RECEIVE_BATCH)
    }

    /// Fills `lengths` with the length and the segment size of each message.
    fn receive_batch(
        &mut self,
        controls: &mut [Control; RECEIVE_BATCH],
        lengths: &mut [(usize, usize); RECEIVE_BATCH],
    ) -> io::Result<usize> {
        let mut parts: [libc::iovec; RECEIVE_BATCH] = std::array::from_fn(|index| libc::iovec {
            iov_base: self.received[index * MESSAGE..].as_mut_ptr().cast(),
            iov_len: MESSAGE,
        });
        let mut headers: [libc::mmsghdr; RECEIVE_BATCH] =
            std::array::from_fn(|index| header(&mut parts[index], Some(&mut controls[index])));
        // SAFETY: every header points to one iovec and one control buffer that outlive the call;
        // the iovecs cover disjoint parts of `received`, which is borrowed mutably; no name is asked.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                headers.as_mut_ptr(),
                RECEIVE_BATCH as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                // A refused datagram is reported on a connected socket; QUIC's own timers decide.
                io::ErrorKind::WouldBlock
                | io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionRefused => Ok(0),
                _ => Err(error),
            };
        }
        for (header, out) in headers.iter().zip(lengths.iter_mut()).take(count as usize) {
            let length = header.msg_len as usize;
            *out = (
                length,
                segment_size(&header.msg_hdr).unwrap_or(length).max(1),
            );
        }
        Ok(count as usize)
    }

    /// Queues `data` as datagrams of `segment` bytes (or as one); sends when the batch is full.
    pub(super) fn send(&mut self, data: &[u8], segment: Option<usize>) -> io::Result<()> {
        if self.messages.len() == SEND_BATCH {
            self.flush()?;
        }
        self.messages.push(Message {
            start: self.outgoing.len(),
            length: data.len(),
            segment: segment.and_then(|s| u16::try_from(s).ok()),
        });
        self.outgoing.extend_from_slice(data);
        Ok(())
    }

    /// Sends what is queued. A full kernel buffer loses datagrams, as a full link would.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        let mut result = Ok(());
        while sent < self.messages.len() {
            match self.send_batch(sent) {
                Ok(n) => sent += n.max(1),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_passing(&error) => sent += 1,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.messages.clear();
        self.outgoing.clear();
        result
    }

    fn send_batch(&mut self, from: usize) -> io::Result<usize> {
        let messages = &self.messages[from..];
        let mut parts = [EMPTY; SEND_BATCH];
        let mut controls = [Control::default(); SEND_BATCH];
        // SAFETY: a `mmsghdr` is plain data for which all zeroes is a valid, empty value.
        let mut headers: [libc::mmsghdr; SEND_BATCH] = unsafe { mem::zeroed() };
        for (index, message) in messages.iter().enumerate() {
            parts[index] = libc::iovec {
                iov_base: self.outgoing[message.start..].as_mut_ptr().cast(),
                iov_len: message.length,
            };
            let control = message.segment.map(|_| &mut controls[index]);
            headers[index] = header(&mut parts[index], control);
            if let Some(segment) = message.segment {
                write_segment_size(&mut headers[index].msg_hdr, segment);
            }
        }
        // SAFETY: the first `messages.len()` headers point to one iovec each and at most one control
        // buffer, all of which outlive the call; the kernel only reads the data.
        let count = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                headers.as_mut_ptr(),
                messages.len() as u32,
                libc::MSG_DONTWAIT,
            )
        };
        if count < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(count as usize)
        }
    }
}

const EMPTY: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused
    ) || error.raw_os_error() == Some(libc::ENOBUFS)
}

fn header(part: &mut libc::iovec, control: Option<&mut Control>) -> libc::mmsghdr {
    // SAFETY: a `mmsghdr` is plain data for which all zeroes is a valid, empty value.
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_iov = part;
    header.msg_hdr.msg_iovlen = 1;
    if let Some(control) = control {
        header.msg_hdr.msg_control = control.as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = mem::size_of::<Control>() as _;
    }
    header
}

/// The segment size that receive offload reports.
fn segment_size(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel filled the control buffer and its length; the macros stay inside it, and
    // the value of a UDP_GRO message is an int, read unaligned.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(header).as_ref()?;
        let ours = first.cmsg_level == libc::SOL_UDP && first.cmsg_type == libc::UDP_GRO;
        let value = || {
            libc::CMSG_DATA(first)
                .cast::<libc::c_int>()
                .read_unaligned()
        };
        ours.then(|| usize::try_from(value()).ok()).flatten()
    }
}

fn write_segment_size(header: &mut libc::msghdr, segment: u16) {
    // SAFETY: the control buffer has room for one message with two bytes of data (24 of its 32
    // bytes), so the first header is not null and its data lies inside.
    unsafe {
        header.msg_controllen = libc::CMSG_SPACE(mem::size_of::<u16>() as u32) as _;
        let first = libc::CMSG_FIRSTHDR(header);
        (*first).cmsg_level = libc::SOL_UDP;
        (*first).cmsg_type = libc::UDP_SEGMENT;
        (*first).cmsg_len = libc::CMSG_LEN(mem::size_of::<u16>() as u32) as _;
        libc::CMSG_DATA(first)
            .cast::<u16>()
            .write_unaligned(segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segmented_message_arrives_as_its_datagrams() {
        let peer = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let mut socket = Socket::connect(peer.local_addr().expect("bound")).expect("connected");
        let data: Vec<u8> = (0..2500u32).map(|n| n as u8).collect();
        socket.send(&data, Some(1000)).expect("queued");
        socket.send(b"single", None).expect("queued");
        socket.flush().expect("sent");
        let mut buffer = [0; 2000];
        let mut lengths = Vec::new();
        for _ in 0..4 {
            lengths.push(peer.recv(&mut buffer).expect("arrived"));
        }
        assert_eq!(lengths, [1000, 1000, 500, 6]);
    }

    #[test]
    fn coalesced_datagrams_are_split_again() {
        let peer = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let mut socket = Socket::connect(peer.local_addr().expect("bound")).expect("connected");
        let mut back =
            Socket::connect(socket.socket.local_addr().expect("bound")).expect("connected");
        socket
            .socket
            .connect(back.socket.local_addr().expect("bound"))
            .expect("connected");
        let data: Vec<u8> = (0..4400u32).map(|n| (n / 7) as u8).collect();
        back.send(&data, Some(1200)).expect("queued");
        back.flush().expect("sent");
        let mut got = Vec::new();
        while got.iter().map(BytesMut::len).sum::<usize>() < data.len() {
            socket.receive(|datagram| got.push(datagram)).expect("read");
        }
        assert_eq!(
            got.iter().map(BytesMut::len).collect::<Vec<_>>(),
            [1200, 1200, 1200, 800]
        );
        assert_eq!(got.concat(), data);
    }
}
