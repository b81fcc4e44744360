//! The bytes of a connection on their way between TLS and hyper, watched.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Registered;
use super::frames::Frames;
use super::heads::Heads;

/// What is looked for in the bytes of a client.
pub enum Lens {
    Http1(Rc<RefCell<Heads>>),
    Http2(Frames),
}

pub struct Meter<S> {
    stream: S,
    place: Rc<Registered>,
    lens: Lens,
}

impl<S> Meter<S> {
    pub fn new(stream: S, place: Rc<Registered>, lens: Lens) -> Self {
        Self {
            stream,
            place,
            lens,
        }
    }

    fn read(&mut self, data: &[u8]) {
        match &mut self.lens {
            Lens::Http1(heads) => {
                self.place.watch.read(self.place.core.now.get());
                heads.borrow_mut().read(data);
            }
            Lens::Http2(frames) => {
                let idle = frames.read(data);
                if idle > 0 {
                    self.place.watch.read_frames(idle);
                }
            }
        }
    }

    fn wrote(&mut self, result: &Poll<io::Result<usize>>) {
        let now = self.place.core.now.get();
        match result {
            Poll::Ready(Ok(_)) => {
                self.place.watch.wrote(now);
                if let Lens::Http2(frames) = &mut self.lens {
                    frames.sent();
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.place.watch.block(now),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Meter<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.read(&buf.filled()[before..]);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Meter<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        if result.is_pending() {
            self.place.watch.block(self.place.core.now.get());
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
