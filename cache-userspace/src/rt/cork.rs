//! A TCP connection that keeps what is written to it until it is told to send: what one turn of a
//! connection's task has to say leaves in one system call, however many writes it was.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::tcp::Stream;

/// Bytes that are kept; with more they are sent at once.
pub const MAX_KEPT: usize = 64 << 10;

/// Empty buffers of a core that wait for their next use.
const MAX_SPARE: usize = 32;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The end that is read from and written to.
pub struct Corked {
    line: Rc<RefCell<Line>>,
}

/// The end that sends.
pub struct Cork {
    line: Rc<RefCell<Line>>,
}

struct Line {
    stream: Stream,
    kept: Vec<u8>,
    /// How much of it was sent.
    sent: usize,
    /// Bytes sent of all that was kept.
    total: u64,
    /// Nothing is kept: every write is sent.
    open: bool,
}

/// Splits a connection. What is written goes out at once until [`Cork::put_in`].
pub fn cork(stream: Stream) -> (Corked, Cork) {
    let line = Rc::new(RefCell::new(Line {
        stream,
        kept: Vec::new(),
        sent: 0,
        total: 0,
        open: true,
    }));
    let corked = Corked {
        line: Rc::clone(&line),
    };
    (corked, Cork { line })
}

impl Cork {
    /// From now on writes are kept.
    pub fn put_in(&self) {
        self.line.borrow_mut().open = false;
    }

    /// Bytes sent since it was put in.
    pub fn sent(&self) -> u64 {
        self.line.borrow().total
    }

    /// Sends what was kept; pending while the socket takes no more.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.borrow_mut().poll_send(cx)
    }
}

impl Line {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.kept.len() {
            let rest = &self.kept[self.sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => {
                    self.sent += len;
                    self.total += len as u64;
                }
            }
        }
        self.empty();
        Poll::Ready(Ok(()))
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.kept.capacity() == 0 {
            let spare = SPARE.with_borrow_mut(Vec::pop);
            self.kept = spare.unwrap_or_else(|| Vec::with_capacity(MAX_KEPT));
        }
        self.kept.extend_from_slice(bytes);
    }

    /// Gives the buffer back: a quiet connection has none.
    fn empty(&mut self) {
        self.sent = 0;
        let mut kept = std::mem::take(&mut self.kept);
        kept.clear();
        if kept.capacity() > 0 {
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < MAX_SPARE {
                    spare.push(kept);
                }
            });
        }
    }
}

impl AsyncRead for Corked {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut line = self.line.borrow_mut();
        Pin::new(&mut line.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Corked {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut line = self.line.borrow_mut();
        if line.open {
            return Pin::new(&mut line.stream).poll_write_vectored(cx, bufs);
        }
        if line.kept.len() >= MAX_KEPT {
            ready!(line.poll_send(cx))?;
        }
        let mut len = 0;
        for buf in bufs {
            line.keep(buf);
            len += buf.len();
        }
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is kept is not this end's to send.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut line = self.line.borrow_mut();
        ready!(line.poll_send(cx))?;
        Pin::new(&mut line.stream).poll_shutdown(cx)
    }
}
