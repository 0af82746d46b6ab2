//! Standard input and output as one stream, so that a lone `--listen` or
//! `--connect` is a relay like any other.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, Stdin, Stdout};

/// Both standard streams of the process. Reading and writing happen on the
/// runtime's blocking threads, since a terminal cannot be polled safely.
#[derive(Debug)]
pub(crate) struct Stdio {
    input: Stdin,
    output: Stdout,
}

impl Stdio {
    pub(super) fn new() -> Self {
        Self { input: tokio::io::stdin(), output: tokio::io::stdout() }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.input).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.output).poll_write(cx, bytes)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_flush(cx)
    }
}
