//! What a node said last, though it takes no more.
//!
//! A node may answer before it has read a request's body and close at once (RFC 9112 section 9.6 asks it not to).
//! Writing fails from then on, while its answer lies in the socket. hyper gives a connection up with the first write
//! that fails, so failed writes are hidden from it: it goes on to read, and finds the answer, or the error.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that is read to its end, whatever becomes of writes.
pub(super) struct LastWord<S> {
    stream: S,
    /// The node takes no more.
    deaf: bool,
}

impl<S> LastWord<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            deaf: false,
        }
    }

    /// Where the node has gone, `done` is said instead of the error.
    fn hide<T>(&mut self, result: io::Result<T>, done: T) -> io::Result<T> {
        match result {
            Err(error) if is_gone(&error) => {
                self.deaf = true;
                Ok(done)
            }
            result => result,
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset
    )
}

impl<S: AsyncRead + Unpin> AsyncRead for LastWord<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        // The error was told to a write, and the end of what was sent is not the end of an answer.
        if self.deaf && buf.filled().len() == before && buf.remaining() > 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LastWord<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(data.len()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, data));
        Poll::Ready(self.hide(written, data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        Poll::Ready(self.hide(flushed, ()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = parts.iter().map(|part| part.len()).sum();
        if self.deaf {
            return Poll::Ready(Ok(all));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, parts));
        Poll::Ready(self.hide(written, all))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Takes `takes` bytes, then has gone; what it says is read then.
    struct Rude {
        takes: usize,
        says: &'static [u8],
    }

    impl AsyncRead for Rude {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.takes > 0 {
                return Poll::Pending;
            }
            let (now, later) = self.says.split_at(self.says.len().min(buf.remaining()));
            buf.put_slice(now);
            self.says = later;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Rude {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = data.len().min(self.takes);
            self.takes -= taken;
            Poll::Ready(match taken {
                0 => Err(io::ErrorKind::ConnectionReset.into()),
                taken => Ok(taken),
            })
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn an_answer_is_read_though_nothing_more_is_taken() {
        let says = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno\n";
        let node = Rude { takes: 60, says };
        let mut stream = LastWord::new(node);
        stream.write_all(&[7; 100]).await.expect("hidden");
        stream.flush().await.expect("hidden");
        let mut answer = vec![0; says.len()];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(answer, says);
    }

    /// Or half an answer without a length would be taken for a whole one.
    #[tokio::test]
    async fn the_end_of_one_that_has_gone_is_an_error() {
        let node = Rude {
            takes: 1,
            says: b"half",
        };
        let mut stream = LastWord::new(node);
        stream.write_all(b"ab").await.expect("hidden");
        let mut read = Vec::new();
        let error = stream.read_to_end(&mut read).await.expect_err("an error");
        assert_eq!(
            (&*read, error.kind()),
            (&b"half"[..], io::ErrorKind::ConnectionReset)
        );
    }
}
