//! The line between two nodes: messages in JSON with their length before them, and descriptors.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of one message.
const MAX_MESSAGE: usize = 64 << 10;
/// Descriptors of one message; the kernel takes 253.
const MAX_FDS: usize = 64;
/// Descriptors of all messages of one kind.
const MAX_SOCKETS: usize = 16_384;

pub struct Line {
    stream: UnixStream,
}

impl Line {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Self { stream })
    }

    /// How long each message may take.
    pub fn patience(&self, limit: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(limit))?;
        self.stream.set_write_timeout(Some(limit))
    }

    /// User and process at the other end.
    pub fn peer(&self) -> io::Result<(u32, i32)> {
        let peer = getsockopt(&self.stream, PeerCredentials)?;
        Ok((peer.uid(), peer.pid()))
    }

    pub fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = body.len() as u32;
        let bytes = [&length.to_le_bytes()[..], &body].concat();
        let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL;
        let parts = [IoSlice::new(&bytes)];
        let sent = sendmsg::<()>(self.stream.as_raw_fd(), &parts, rights, flags, None)?;
        (&self.stream).write_all(&bytes[sent..])
    }

    /// A message, and the descriptors that came with it.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<(T, Vec<OwnedFd>)> {
        let mut length = [0; 4];
        let (count, fds) = self.receive_first(&mut length)?;
        (&self.stream).read_exact(&mut length[count..])?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_MESSAGE {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "a message is too long",
            ));
        }
        let mut body = vec![0; length];
        (&self.stream).read_exact(&mut body)?;
        Ok((serde_json::from_slice(&body)?, fds))
    }

    /// Descriptors arrive with the first byte of the message that they were sent with.
    fn receive_first(&self, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut space = cmsg_space!([RawFd; MAX_FDS]);
        let mut parts = [IoSliceMut::new(bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let fd = self.stream.as_raw_fd();
        let message = recvmsg::<()>(fd, &mut parts, Some(&mut space), flags)?;
        let mut fds = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
                fds.extend(
                    raw.into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
        }
        match message.bytes {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            count => Ok((count, fds)),
        }
    }

    /// Sends any number of descriptors.
    pub fn send_fds(&self, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        for some in fds.chunks(MAX_FDS) {
            self.send(&some.len(), some)?;
        }
        Ok(())
    }

    /// As many as [`Self::send_fds`] sends.
    pub fn receive_fds(&self, count: usize) -> io::Result<Vec<OwnedFd>> {
        let mut all = Vec::new();
        while all.len() < count.min(MAX_SOCKETS) {
            let (announced, fds) = self.receive::<usize>()?;
            if announced != fds.len() || fds.is_empty() {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    "sockets are missing",
                ));
            }
            all.extend(fds);
        }
        match all.len() == count {
            true => Ok(all),
            false => Err(io::Error::new(
                ErrorKind::InvalidData,
                "not as many sockets as were announced",
            )),
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn lines() -> (Line, Line) {
        let (a, b) = UnixStream::pair().expect("a pair");
        (Line::new(a).expect("a line"), Line::new(b).expect("a line"))
    }

    #[test]
    fn messages_and_descriptors_arrive_together_and_in_their_order() {
        let (a, b) = lines();
        let null = File::open("/dev/null").expect("null");
        a.send(&"first", &[]).expect("sent");
        a.send(&7, &[null.as_fd(), null.as_fd()]).expect("sent");
        a.send_fds(&vec![null.as_fd(); 150]).expect("sent");
        a.send(&"last", &[]).expect("sent");
        let (first, fds): (String, _) = b.receive().expect("first");
        assert_eq!((first.as_str(), fds.len()), ("first", 0));
        let (seven, fds): (u32, _) = b.receive().expect("second");
        assert_eq!((seven, fds.len()), (7, 2));
        assert_eq!(b.receive_fds(150).expect("sockets").len(), 150);
        assert_eq!(b.receive::<String>().expect("last").0, "last");
        drop(a);
        let ended = b.receive::<String>().expect_err("the end");
        assert_eq!(ended.kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn nonsense_is_an_error() {
        let (a, b) = lines();
        (&a.stream)
            .write_all(&u32::MAX.to_le_bytes())
            .expect("sent");
        assert!(b.receive::<String>().is_err());
        let (a, b) = lines();
        a.send(&"text", &[]).expect("sent");
        assert!(b.receive::<u32>().is_err());
        let (a, b) = lines();
        a.send(&3, &[]).expect("sent");
        assert!(b.receive_fds(3).is_err());
        b.patience(Duration::from_millis(10)).expect("a limit");
        assert!(b.receive::<u32>().is_err(), "nothing comes");
    }
}
