//! Bytes in and out of a [`TcpSocket`]: the calls that return at once and
//! those that wait.

use std::time::Duration;

use super::core::{Inner, Reader};
use super::{OnDrop, TcpSocket};
use crate::event::{ConnectionId, State};
use crate::net::error::{SocketError, SocketErrorKind};

/// # Reading
///
/// What the peer sent comes in pieces that are no messages. All of these take
/// from one bounded buffer, and what it holds can be read after the end, too.
impl TcpSocket {
    /// Waits for bytes and takes as many as fit into `buffer`; 0 says that the
    /// peer has finished and all was read, or that we closed. Of a socket that
    /// [`reconnect`](super::SocketOptions::reconnect)s that is said once, and more may follow.
    ///
    /// # Errors
    /// Why the connection broke, after all that had come before was read;
    /// [`TimedOut`](SocketErrorKind::TimedOut) after
    /// [`read_timeout`](super::SocketOptions::read_timeout), which changes nothing.
    ///
    /// Cancel safe: dropped, it has taken nothing.
    pub async fn read(&self, buffer: &mut [u8]) -> Result<usize, SocketError> {
        let limit = self.core().options.read_timeout;
        self.wait_within(limit, "ready to be read", |inner| inner.take_into(buffer)).await?
    }

    /// Takes all there is now, which may be nothing.
    pub fn read_all(&self) -> Vec<u8> {
        self.read_available(usize::MAX)
    }

    /// Takes at most `max` bytes of what there is now.
    pub fn read_available(&self, max: usize) -> Vec<u8> {
        let mut inner = self.core().lock();
        inner.read.pass_ends();
        let bytes = inner.read.take(max);
        inner.took(bytes.len());
        bytes
    }

    /// Takes the first line, with its `\n`, if all of it is there.
    ///
    /// Limits: of a line longer than `max`, or than the read buffer, the first
    /// part comes alone. What comes after the last line end before the peer
    /// finished comes at last.
    pub fn read_line(&self, max: usize) -> Option<Vec<u8>> {
        let mut inner = self.core().lock();
        let max = max.min(inner.read_limit).max(1);
        let piece = inner.look();
        let (all, line) = (piece.len(), line_end(piece));
        let len = match line {
            Some(end) => end.min(max),
            None if all >= max => max,
            None if all > 0 && (inner.read.next_end().is_some() || !inner.may_receive()) => all,
            None => return None,
        };
        let line = inner.read.take(len);
        inner.took(line.len());
        Some(line)
    }

    /// Tells whether [`read_line`](Self::read_line) would find a line end.
    pub fn can_read_line(&self) -> bool {
        let mut inner = self.core().lock();
        line_end(inner.look()).is_some()
    }

    /// A copy of at most `max` bytes, which stay to be read.
    pub fn peek(&self, max: usize) -> Vec<u8> {
        let mut inner = self.core().lock();
        let bytes = inner.look();
        bytes[..max.min(bytes.len())].to_vec()
    }

    /// Throws away at most `count` bytes and says how many there were.
    pub fn skip(&self, count: usize) -> usize {
        self.read_available(count).len()
    }

    /// How many bytes can be read now.
    pub fn bytes_available(&self) -> usize {
        let mut inner = self.core().lock();
        inner.look().len()
    }

    /// Waits for bytes that nobody has looked at yet, and says how many can be read.
    ///
    /// To look is any call that takes, copies or counts bytes. So
    /// `while !socket.can_read_line() { socket.wait_for_ready_read(limit).await? }`
    /// neither spins nor misses anything. Waits through a dial, too. No
    /// connection is harmed when `limit` passes.
    ///
    /// # Errors
    /// [`NotConnected`](SocketErrorKind::NotConnected) if no more can come, or
    /// why the connection broke; [`Full`](SocketErrorKind::Full) if the read buffer is, so that
    /// waiting would be in vain; [`TimedOut`](SocketErrorKind::TimedOut) after `limit`.
    ///
    /// Cancel safe.
    pub async fn wait_for_ready_read(&self, limit: Duration) -> Result<usize, SocketError> {
        let look = |inner: &mut Inner| {
            let piece = inner.read.piece().len();
            if piece > 0 && inner.read.look() {
                inner.reader = Reader::Awaits;
                return Some(Ok(piece));
            }
            let end = match inner.read.next_end() {
                _ if piece == 0 => inner.poll_end()?,
                Some(end) => end.clone(),
                None if inner.may_receive() => {
                    let text =
                        || format!("the read buffer of {} bytes is full; read some first", inner.read_limit);
                    let is_full = inner.read_room() == 0;
                    return is_full.then(|| Err(SocketError::new(SocketErrorKind::Full, text())));
                }
                None => {
                    inner.tell_end();
                    inner.read_outcome()
                }
            };
            let text = "the peer has finished; nothing more can be read";
            let finished = || SocketError::new(SocketErrorKind::NotConnected, text);
            Some(Err(end.err().unwrap_or_else(finished)))
        };
        self.wait_within(Some(limit), "ready to be read", look).await?
    }

    /// Tells whether the peer has finished (FIN), even where bytes from before
    /// that are still to be received, for which the read buffer has no room or
    /// reading is paused: that is looked for each second then.
    pub fn is_peer_finished(&self) -> bool {
        self.core().lock().is_peer_finished
    }

    /// How many bytes may wait to be read. Takes effect at once; what has come already stays.
    pub fn set_read_buffer_size(&self, bytes: usize) {
        let mut inner = self.core().lock();
        inner.read_limit = bytes.max(1);
        inner.wake_task();
    }

    /// Stops to read from the kernel, whose window then fills. What the read
    /// buffer holds can still be read.
    pub fn pause_reading(&self) {
        self.core().lock().is_paused = true;
    }

    /// Reads from the kernel again.
    pub fn resume_reading(&self) {
        let mut inner = self.core().lock();
        inner.is_paused = false;
        inner.wake_task();
    }
}

/// # Writing
///
/// Bytes go into a bounded buffer, which the task hands to the kernel.
/// `bytes_written` and `flush` speak of the kernel, never of the peer.
impl TcpSocket {
    /// Writes all of `bytes`, waiting for room as often as needed. While the
    /// socket connects it is sent as soon as it is connected.
    ///
    /// # Errors
    /// [`NotConnected`](SocketErrorKind::NotConnected) before, while closing,
    /// and after; why the connection broke; [`TimedOut`](SocketErrorKind::TimedOut) after
    /// [`write_timeout`](super::SocketOptions::write_timeout). A part may have been taken.
    ///
    /// Not cancel safe: dropped, a part may have been taken.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), SocketError> {
        let (mut rest, id) = (bytes, self.core().lock().id);
        // Given up, it is no longer waited for when the peer has finished.
        let _no_longer = OnDrop(|| {
            let mut inner = self.core().lock();
            if std::mem::take(&mut inner.is_write_awaited) {
                inner.wake_task();
            }
        });
        let look = |inner: &mut Inner| match inner.check_same(id).and_then(|()| inner.put(rest)) {
            Ok(count) => {
                inner.is_writing = true;
                rest = &rest[count..];
                rest.is_empty().then_some(Ok(()))
            }
            Err(error) => Some(Err(error)),
        };
        self.wait_within(self.core().options.write_timeout, "all written", look).await?
    }

    /// Writes all of `bytes` or nothing, without waiting: the way to write in a slot.
    ///
    /// # Errors
    /// [`Full`](SocketErrorKind::Full) if there is no room for all of it;
    /// `write_buffer_low` says when there is, unless it is more than the whole
    /// buffer holds, as the error then says. Otherwise as [`write`](Self::write).
    pub fn try_write(&self, bytes: &[u8]) -> Result<(), SocketError> {
        let mut inner = self.core().lock();
        inner.check_writable()?;
        if bytes.len() > inner.write_limit {
            let text = format!(
                "{} bytes never fit into the write buffer of {}; write them in parts",
                bytes.len(),
                inner.write_limit
            );
            return Err(SocketError::new(SocketErrorKind::Full, text));
        }
        if bytes.len() > inner.write_room() {
            inner.is_write_now_high(bytes.len());
            let text = format!(
                "{} bytes do not fit into the write buffer, which holds {} of {}",
                bytes.len(),
                inner.write.len(),
                inner.write_limit
            );
            return Err(SocketError::new(SocketErrorKind::Full, text));
        }
        inner.put(bytes).map(drop)
    }

    /// Waits until all that was written has been handed to the kernel.
    ///
    /// # Errors
    /// Why it never will be; [`TimedOut`](SocketErrorKind::TimedOut) after
    /// [`write_timeout`](super::SocketOptions::write_timeout). Cancel safe.
    pub async fn flush(&self) -> Result<(), SocketError> {
        let limit = self.core().options.write_timeout;
        let id = self.core().lock().id;
        let look = |inner: &mut Inner| match inner.check_same(id) {
            Ok(()) => inner.flushed(),
            Err(error) => Some(Err(error)),
        };
        self.wait_within(limit, "all written", look).await?
    }

    /// Waits until some of what was written has been handed to the kernel, and
    /// says how many bytes still wait. With nothing to write it returns at once.
    ///
    /// # Errors
    /// As [`flush`](Self::flush), with a limit of its own. Cancel safe.
    pub async fn wait_for_bytes_written(&self, limit: Duration) -> Result<usize, SocketError> {
        let (id, sent) = {
            let inner = self.core().lock();
            (inner.id, inner.sent)
        };
        let look = |inner: &mut Inner| match (inner.check_same(id), inner.flushed()) {
            (Err(error), _) | (_, Some(Err(error))) => Some(Err(error)),
            (_, None) if inner.sent == sent => None,
            _ => Some(Ok(inner.write.len())),
        };
        self.wait_within(Some(limit), "any of it written", look).await?
    }

    /// How many bytes wait to be handed to the kernel.
    pub fn bytes_to_write(&self) -> usize {
        self.core().lock().write.len()
    }

    /// How many bytes may wait to be handed to the kernel. What waits already stays.
    pub fn set_write_buffer_size(&self, bytes: usize) {
        self.core().lock().write_limit = bytes.max(1);
        self.core().tell();
    }
}

impl Inner {
    /// Moves bytes to a waiting reader, or tells it how it ended; `None`: not yet.
    pub(super) fn take_into(&mut self, buffer: &mut [u8]) -> Option<Result<usize, SocketError>> {
        if buffer.is_empty() {
            return Some(Ok(0));
        }
        Some(self.poll_bytes()?.map(|has_bytes| {
            let count = if has_bytes { buffer.len().min(self.read.piece().len()) } else { 0 };
            buffer[..count].copy_from_slice(&self.read.piece()[..count]);
            if count > 0 {
                self.read.consume(count);
                self.took(count);
            }
            count
        }))
    }

    /// Whether whoever reads by awaiting can go on: there are bytes, or it is told how it ended.
    pub(super) fn poll_bytes(&mut self) -> Option<Result<bool, SocketError>> {
        self.reader = Reader::Awaits;
        match self.read.piece().is_empty() {
            false => Some(Ok(true)),
            true => Some(self.poll_end()?.map(|()| false)),
        }
    }

    /// How it ended, for whoever has read all there was; `None`: more may come. The end of a
    /// connection that another follows is told once.
    fn poll_end(&mut self) -> Option<Result<(), SocketError>> {
        self.reader = Reader::Awaits;
        if let Some(end) = self.read.pass_end() {
            return Some(end);
        }
        let is_known = self.is_end_told || self.ends.is_none();
        if self.may_receive() || self.comes_back() && is_known {
            return None;
        }
        self.tell_end();
        Some(self.read_outcome())
    }

    /// What is before the next end, for whoever looks at it without waiting.
    fn look(&mut self) -> &[u8] {
        self.read.pass_ends();
        self.read.look();
        self.read.piece()
    }

    /// Whether this is still the connection `id`, and whoever writes by awaiting knows that there is another.
    fn check_same(&mut self, id: ConnectionId) -> Result<(), SocketError> {
        match self.write_broke.take() {
            Some(broke) => Err(broke),
            None if self.id != id => Err(match &self.last_end {
                Some((ended, Err(error))) if *ended == id => error.clone(),
                _ => SocketError::new(
                    SocketErrorKind::NotConnected,
                    "the connection is over, and another was begun",
                ),
            }),
            None => Ok(()),
        }
    }

    /// Whoever reads has been told that nothing more comes.
    fn tell_end(&mut self) {
        self.is_end_told = true;
        self.wake_task();
    }

    /// Takes as much of `bytes` as there is room for.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<usize, SocketError> {
        if let Err(error) = self.check_writable() {
            // So they know.
            self.is_writing = false;
            return Err(error);
        }
        let count = bytes.len().min(self.write_room());
        self.is_write_awaited = count < bytes.len();
        if self.is_write_awaited {
            self.is_write_now_high(0);
        }
        if count > 0 {
            self.write.push(&bytes[..count]);
            self.wake_task();
        }
        Ok(count)
    }

    fn is_write_now_high(&mut self, refused: usize) {
        self.refused = self.refused.max(refused);
        if !std::mem::replace(&mut self.is_write_high, true) {
            self.announce_high = true;
            self.wake_task();
        }
    }

    /// Whether all was handed to the kernel; `None`: not yet.
    pub(super) fn flushed(&self) -> Option<Result<(), SocketError>> {
        match self.write.is_empty() {
            true if self.unsent > 0 => Some(Err(self.gone())),
            true => Some(Ok(())),
            false if self.error.is_some() => Some(Err(self.gone())),
            false => None,
        }
    }

    /// Whether our half has ended; `None`: not yet.
    pub(super) fn write_finished(&self) -> Option<Result<(), SocketError>> {
        match self.state {
            _ if self.is_write_finished => Some(Ok(())),
            State::Unconnected if !self.is_dialling => Some(Err(self.gone())),
            _ => None,
        }
    }
}

/// Where the first line ends, its `\n` included.
fn line_end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes).map(|at| at + 1)
}
