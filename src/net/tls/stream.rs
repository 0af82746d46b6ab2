//! [`TlsStream`]: a TLS session over TCP with the behaviour of a socket: what
//! it takes is counted until the kernel has it, an end without close_notify
//! is an error, and an error is told once the bytes before it were read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::explain::{Side, explain};

/// A session after its handshake.
///
/// Memory: the session's own, of which what it has encrypted and the kernel has not taken is at
/// most [`MOST_HELD`] and some bytes per record, and what it is decrypting about one record (16 KiB).
#[derive(Debug)]
pub(crate) struct TlsStream {
    stream: tokio_rustls::TlsStream<TcpStream>,
    side: Side,
    /// Bytes that were taken since the kernel last had everything.
    held: usize,
    /// What ended reading, found after bytes that had to be told first.
    failure: Option<io::Error>,
}

impl TlsStream {
    pub(super) fn new(stream: tokio_rustls::TlsStream<TcpStream>, side: Side) -> Self {
        Self { stream, side, held: 0, failure: None }
    }

    /// Reads as many records as there are and fit; 0 says that the peer has said its end.
    pub(in crate::net) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Err(failure));
        }
        let mut buffer = ReadBuf::new(buffer);
        loop {
            let before = buffer.filled().len();
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
            let count = buffer.filled().len();
            match read {
                Poll::Ready(Ok(())) if count > before && buffer.remaining() > 0 => {}
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(count)),
                Poll::Pending if count > 0 => return Poll::Ready(Ok(count)),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => {
                    let error = self.explain(error);
                    if count == 0 {
                        return Poll::Ready(Err(error));
                    }
                    self.failure = Some(error);
                    return Poll::Ready(Ok(count));
                }
            }
        }
    }

    /// Tells, without taking them, whether there are bytes; `false` says that the peer has said its end.
    pub(in crate::net) fn poll_peek(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let there = ready!(Pin::new(&mut self.stream).poll_fill_buf(cx)).map(|bytes| !bytes.is_empty());
        Poll::Ready(there.map_err(|error| self.explain(error)))
    }

    /// Takes bytes to encrypt, and hands over what the kernel takes of it. What is left needs a flush.
    pub(in crate::net) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        let count = written.map_err(|error| self.explain(error))?;
        self.held =
            if self.stream.get_ref().1.wants_write() { (self.held + count).min(MOST_HELD) } else { 0 };
        Poll::Ready(Ok(count))
    }

    /// Waits until the kernel has everything.
    pub(in crate::net) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(|error| self.explain(error))?;
        self.held = 0;
        Poll::Ready(Ok(()))
    }

    /// Says our end (close_notify, then FIN); the peer may go on.
    pub(in crate::net) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx)).map_err(|error| self.explain(error))?;
        self.held = 0;
        Poll::Ready(Ok(()))
    }

    /// Bytes that were taken and that the peer cannot have: those since the kernel last had everything.
    pub(in crate::net) fn held(&self) -> usize {
        self.held
    }

    /// What it travels on.
    pub(in crate::net) fn socket(&self) -> &TcpStream {
        self.stream.get_ref().0
    }

    fn explain(&self, error: io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), TRUNCATED),
            io::ErrorKind::InvalidData => io::Error::new(error.kind(), explain(&error, self.side)),
            _ => error,
        }
    }
}

const TRUNCATED: &str =
    "it closed the connection without saying its end in TLS (close_notify), so something may be missing";
/// What the session keeps of encrypted bytes at most.
const MOST_HELD: usize = 64 << 10;
