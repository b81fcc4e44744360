//! Sending through the kernel's UDP: many messages a call (`sendmmsg`), or one that the kernel cuts
//! up (segmentation offload). Sources are the machine's own; ports are those of the sockets.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use cache_ebpf::vary::{Variation, vary};
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, setsockopt, sockopt::UdpGsoSegment,
};

use super::Sent;
use super::frame::{Ports, Template};
use super::mix::Traffic;

/// Sockets, and so source ports, that are used of a range.
const MAX_SOCKETS: u16 = 64;
/// Messages of one `sendmmsg`.
const BATCH: usize = 64;
/// Segments of one send: the kernel's limit is 64, and 64 KiB.
const SEGMENTS: usize = 44;
const MAX_BYTES: usize = 65_000;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    None,
    Segmentation,
}

pub struct Udp {
    sockets: Vec<UdpSocket>,
    next: usize,
    offload: Offload,
    seed: u64,
    made: u64,
    scratch: Vec<Made>,
    /// Payloads in a row, to be segmented.
    row: Vec<u8>,
}

impl Udp {
    /// Sockets from the first `ports` to `to`.
    ///
    /// # Errors
    /// Ports that are taken, or no way to `to`.
    pub fn new(
        from: Option<IpAddr>,
        ports: Ports,
        to: SocketAddr,
        offload: Offload,
        seed: u64,
    ) -> Result<Self> {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => [0; 4].into(),
            SocketAddr::V6(_) => [0; 16].into(),
        };
        let open = |n: u16| -> Result<UdpSocket> {
            let from = SocketAddr::new(from.unwrap_or(any), ports.first + n);
            let socket =
                UdpSocket::bind(from).with_context(|| format!("cannot send from {from}"))?;
            socket
                .connect(to)
                .with_context(|| format!("cannot reach {to}"))?;
            Ok(socket)
        };
        let sockets = (0..ports.count.min(MAX_SOCKETS))
            .map(open)
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            sockets,
            next: 0,
            offload,
            seed,
            made: 0,
            scratch: vec![Made::default(); BATCH],
            row: Vec::with_capacity(MAX_BYTES),
        })
    }

    /// Sends at most `most` packets.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send(&mut self, traffic: &mut Traffic, most: u64) -> Result<Sent> {
        self.next = (self.next + 1) % self.sockets.len();
        match self.offload {
            Offload::None => self.send_batch(traffic, most),
            Offload::Segmentation => self.send_row(traffic, most),
        }
    }

    fn send_batch(&mut self, traffic: &mut Traffic, most: u64) -> Result<Sent> {
        let count = BATCH.min(usize::try_from(most).unwrap_or(BATCH));
        let mut sent = Sent::default();
        for made in &mut self.scratch[..count] {
            let chosen = traffic.choose();
            let template = traffic.template(chosen);
            made.refill(template);
            made.vary(template, self.seed, self.made)?;
            self.made += 1;
            sent.bytes += template.frame.len() as u64;
            traffic.sent(chosen, 1);
        }
        let mut done = 0;
        while done < count {
            let slices: Vec<[IoSlice<'_>; 1]> = self.scratch[done..count]
                .iter()
                .map(|made| [IoSlice::new(made.payload())])
                .collect();
            let nobody = [None::<SockaddrStorage>; BATCH];
            let mut headers = MultiHeaders::preallocate(slices.len(), None);
            let fd = self.sockets[self.next].as_raw_fd();
            let result = sendmmsg(
                fd,
                &mut headers,
                &slices,
                &nobody[..slices.len()],
                [],
                MsgFlags::empty(),
            );
            match result {
                Ok(messages) => done += messages.count().max(1),
                Err(error) if is_passing(error as i32) => {}
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        sent.packets = count as u64;
        Ok(sent)
    }

    fn send_row(&mut self, traffic: &mut Traffic, most: u64) -> Result<Sent> {
        let chosen = traffic.choose();
        let template = traffic.template(chosen);
        let segment = template.frame.len() - template.payload_at;
        ensure!(segment > 0, "an empty payload cannot be segmented");
        let fit = SEGMENTS.min(MAX_BYTES / segment).max(1) as u64;
        let count = fit.min(most);
        self.row.clear();
        let made = &mut self.scratch[0];
        made.refill(template);
        for _ in 0..count {
            made.vary(template, self.seed, self.made)?;
            self.made += 1;
            self.row.extend(made.payload());
        }
        let bytes = count * template.frame.len() as u64;
        let socket = &self.sockets[self.next];
        setsockopt(socket, UdpGsoSegment, &(segment as i32))
            .context("no UDP segmentation offload: Linux 4.18 or newer is needed")?;
        loop {
            match socket.send(&self.row) {
                Ok(_) => break,
                Err(error) if is_passing(error.raw_os_error().unwrap_or(0)) => {}
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        traffic.sent(chosen, count);
        Ok(Sent {
            packets: count,
            bytes,
        })
    }
}

/// A frame of which the payload is sent.
#[derive(Clone, Default)]
struct Made {
    frame: Vec<u8>,
    payload_at: usize,
}

impl Made {
    fn refill(&mut self, template: &Template) {
        self.frame.clear();
        self.frame.extend(&template.frame);
        self.payload_at = template.payload_at;
    }

    fn vary(&mut self, template: &Template, seed: u64, n: u64) -> Result<()> {
        let variation = Variation {
            seed,
            ..template.variation
        };
        vary(&mut self.frame[..], &variation, n).context("a frame is too short for what varies")
    }

    fn payload(&self) -> &[u8] {
        &self.frame[self.payload_at..]
    }
}

/// Whether the next attempt may succeed: a full queue, a signal, or the report that nobody listened
/// to an earlier datagram.
fn is_passing(error: i32) -> bool {
    let kind = io::Error::from_raw_os_error(error).kind();
    matches!(
        kind,
        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused
    ) || error == libc::ENOBUFS
}
