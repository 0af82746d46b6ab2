//! The far end of `echo:`: a stream that gives back what was written to it.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, Waker};

/// A bounded queue with the behaviour of a socket to an echo server.
///
/// Limits: it holds [`CAPACITY`] bytes; a writer then waits for a reader.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    bytes: VecDeque<u8>,
    finished: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Echo {
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.bytes.is_empty() {
            if self.finished {
                return Poll::Ready(Ok(0));
            }
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = io::Read::read(&mut self.bytes, buffer)?;
        wake(&mut self.writer);
        Poll::Ready(Ok(count))
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = bytes.len().min(CAPACITY - self.bytes.len());
        if count == 0 {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.bytes.extend(&bytes[..count]);
        wake(&mut self.reader);
        Poll::Ready(Ok(count))
    }

    pub(super) fn shutdown(&mut self) {
        self.finished = true;
        wake(&mut self.reader);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// As much as a read of the relay starts with.
const CAPACITY: usize = 64 * 1024;
