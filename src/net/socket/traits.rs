//! tokio's traits on a [`TcpSocket`]. They are the same reading and writing as
//! the calls beside them: what one handle takes is gone for all.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::poll_proceed;

use super::TcpSocket;
use super::core::Inner;
use crate::net::error::SocketError;

impl AsyncRead for TcpSocket {
    /// Of several tasks that wait in this way only the last is woken.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let turn = ready!(poll_proceed(cx));
        let mut inner = self.core().lock();
        match inner.take_into(buffer.initialize_unfilled()) {
            Some(Ok(count)) => {
                turn.made_progress();
                buffer.advance(count);
                Poll::Ready(Ok(()))
            }
            Some(Err(error)) => Poll::Ready(Err(error.into())),
            None => {
                inner.read_waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A copy of bytes that wait to be read, by where they are in all that ever came.
pub(super) struct Shown {
    bytes: Vec<u8>,
    start: u64,
    /// Where the reader is with it.
    at: u64,
}

impl Shown {
    fn from(&self, position: u64) -> &[u8] {
        let skip = position.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| self.bytes.get(skip..)).unwrap_or_default()
    }
}

impl AsyncBufRead for TcpSocket {
    /// Shows bytes that stay to be read, by other handles too, until they are consumed.
    ///
    /// Of several tasks that wait in this way only the last is woken.
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let turn = ready!(poll_proceed(cx));
        let Self { handle, shown } = self.get_mut();
        let mut inner = handle.core.lock();
        let told = inner.poll_bytes();
        let position = inner.read.position();
        match told {
            Some(Ok(true)) => {
                if shown.as_ref().is_none_or(|shown| shown.from(position).is_empty()) {
                    let piece = inner.read.piece();
                    let bytes = piece[..piece.len().min(MOST_SHOWN)].to_vec();
                    *shown = Some(Box::new(Shown { bytes, start: position, at: position }));
                }
            }
            Some(Ok(false)) => *shown = None,
            Some(Err(error)) => return Poll::Ready(Err(error.into())),
            None => {
                inner.read_waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        turn.made_progress();
        Poll::Ready(Ok(shown.as_mut().map_or(&[], |shown| {
            shown.at = position;
            shown.from(position)
        })))
    }

    fn consume(self: Pin<&mut Self>, count: usize) {
        let Self { handle, shown } = self.get_mut();
        let Some(seen) = shown else { return };
        let mut inner = handle.core.lock();
        // What another handle has taken meanwhile is not taken twice.
        let end = seen.at + count as u64;
        let count = end.saturating_sub(inner.read.position()).min(inner.read.piece().len() as u64) as usize;
        if count > 0 {
            inner.read.consume(count);
            inner.took(count);
        }
        if seen.from(end).is_empty() {
            *shown = None;
        }
    }
}

impl TcpSocket {
    /// Waits for the writing side; of several tasks that wait in this way only the last is woken.
    fn poll_write_side<T>(
        &self,
        cx: &mut Context<'_>,
        look: impl FnOnce(&mut Inner) -> Option<Result<T, SocketError>>,
    ) -> Poll<io::Result<T>> {
        let turn = ready!(poll_proceed(cx));
        let mut inner = self.core().lock();
        if let Some(broke) = inner.write_broke.take() {
            return Poll::Ready(Err(broke.into()));
        }
        inner.is_writing = true;
        match look(&mut inner) {
            Some(outcome) => {
                turn.made_progress();
                // Who is told of it once knows.
                inner.is_writing &= outcome.is_ok();
                Poll::Ready(outcome.map_err(Into::into))
            }
            None => {
                inner.write_waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for TcpSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_side(cx, |inner| match inner.put(bytes) {
            Ok(0) if !bytes.is_empty() => None,
            outcome => Some(outcome),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_side(cx, |inner| inner.flushed())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_side(cx, |inner| {
            inner.finishing = true;
            inner.wake_task();
            inner.write_finished()
        })
    }
}

/// A copy at a time; more is shown when that was consumed.
const MOST_SHOWN: usize = 8 << 10;
