//! [`Stream`]: the one closed list of what bytes travel on.

use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::echo::Echo;
use super::options::{Keepalive, keep_alive};
use super::stdio::Stdio;
use super::tls::TlsStream;

/// A connected byte stream with two halves that end separately.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Stdio(Box<Stdio>),
    Echo(Box<Echo>),
    Tls(Box<TlsStream>),
}

impl Stream {
    pub(super) fn stdio() -> Self {
        Self::Stdio(Box::new(Stdio::new()))
    }

    pub(super) fn echo() -> Self {
        Self::Echo(Box::default())
    }

    /// Reads into `buffer`; 0 says that the peer has finished.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => read(Pin::new(stream), cx, buffer),
            Self::Unix(stream) => read(Pin::new(stream), cx, buffer),
            Self::Stdio(stream) => stream.poll_read(cx, buffer),
            Self::Echo(stream) => stream.poll_read(cx, buffer),
            Self::Tls(stream) => stream.poll_read(cx, buffer),
        }
    }

    /// The same behind what `buffer` holds, at most so many bytes; nothing where it is no bare socket.
    pub(super) fn poll_read_buf(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        most: usize,
    ) -> Option<Poll<io::Result<usize>>> {
        let mut buffer = buffer.limit(most);
        match self {
            Self::Tcp(stream) => Some(pin!(stream.read_buf(&mut buffer)).poll(cx)),
            Self::Unix(stream) => Some(pin!(stream.read_buf(&mut buffer)).poll(cx)),
            Self::Stdio(_) | Self::Echo(_) | Self::Tls(_) => None,
        }
    }

    /// Writes from `bytes` and says how many were taken.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Stdio(stream) => stream.poll_write(cx, bytes),
            Self::Echo(stream) => stream.poll_write(cx, bytes),
            Self::Tls(stream) => stream.poll_write(cx, bytes),
        }
    }

    /// The same from several pieces at once, where that is one system call.
    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Stdio(_) | Self::Echo(_) | Self::Tls(_) => {
                self.poll_write(cx, pieces.first().map_or(&[], |piece| piece))
            }
        }
    }

    /// Waits until what was written has left the process; with bare sockets it always has.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Stdio(stream) => stream.poll_flush(cx),
            Self::Tls(stream) => stream.poll_flush(cx),
            Self::Tcp(_) | Self::Unix(_) | Self::Echo(_) => Poll::Ready(Ok(())),
        }
    }

    /// Finishes our half; the peer sees its end of file.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Stdio(stream) => stream.poll_flush(cx),
            Self::Tls(stream) => stream.poll_shutdown(cx),
            Self::Echo(stream) => {
                stream.shutdown();
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Finishes our half of a connection that will be closed at once. Closing says the same with
    /// one system call less, but not in TLS.
    pub(super) fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(stream) => stream.poll_shutdown(cx),
            _ => self.poll_flush(cx),
        }
    }

    /// Says our end where closing does not, as far as that can be done at once.
    pub(super) fn say_end(&mut self) {
        if let Self::Tls(stream) = self {
            // Whoever had to be sure has waited for it before.
            let _ = stream.poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// Bytes that were taken and have not left the process.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::Tls(stream) => stream.held(),
            _ => 0,
        }
    }

    /// The TCP socket under it, if there is one.
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.socket()),
            Self::Unix(_) | Self::Stdio(_) | Self::Echo(_) => None,
        }
    }

    /// Takes the error that has ended this socket, if one has, without reading.
    pub(super) fn take_error(&self) -> Option<io::Error> {
        match self {
            Self::Unix(stream) if is(stream, PollFlags::ERR) => stream.take_error().ok().flatten(),
            _ => {
                let stream = self.tcp().filter(|stream| is(stream, PollFlags::ERR))?;
                stream.take_error().ok().flatten()
            }
        }
    }

    /// Tells, without reading, whether the peer has finished, and whether bytes come before that.
    pub(super) fn peer_end(&self) -> Option<PeerEnd> {
        match self {
            Self::Tcp(stream) => peer_end(stream),
            Self::Unix(stream) => peer_end(stream),
            // In TLS the socket does not tell.
            Self::Stdio(_) | Self::Echo(_) | Self::Tls(_) => None,
        }
    }

    /// Makes the coming drop an abort. Only TCP can say that to its peer: a
    /// Unix peer sees an end of file, or a reset if it had sent unread bytes.
    pub(crate) fn reset_on_drop(&self) {
        if let Some(stream) = self.tcp() {
            // Fails only on a socket that is gone already.
            let _ = stream.set_zero_linger();
        }
    }

    /// Has the kernel hold back no small write until earlier ones are acknowledged.
    pub(super) fn send_at_once(&self) {
        if let Some(stream) = self.tcp() {
            // Fails only on a socket that is gone already.
            let _ = stream.set_nodelay(true);
        }
    }

    /// Has the kernel look after a silent peer, where that is done by probes.
    pub(super) fn keep_alive(&self, keepalive: &Keepalive) {
        if let Some(stream) = self.tcp() {
            // Fails only on a socket that is gone already.
            let _ = keep_alive(&SockRef::from(stream), keepalive);
        }
    }

    /// Bounds what the kernel holds without having sent it, in bytes.
    pub(super) fn limit_unsent(&self, bytes: u32) {
        if let Some(stream) = self.tcp() {
            // Fails only on a socket that is gone already.
            let _ = SockRef::from(stream).set_tcp_notsent_lowat(bytes);
        }
    }

    /// Has the kernel give up a peer that acknowledges nothing, or makes no room, for so long while data waits for it.
    pub(super) fn limit_silence(&self, limit: Duration) {
        if let Some(stream) = self.tcp() {
            // Fails only on a socket that is gone already.
            let _ = SockRef::from(stream).set_tcp_user_timeout(Some(limit));
        }
    }

    /// Asks the kernel to report the socket as writable only when it has sent everything.
    pub(super) fn report_drained(&self) {
        if let Some(stream) = self.tcp() {
            let _ = SockRef::from(stream).set_tcp_notsent_lowat(1);
        }
    }

    /// Tells whether the kernel has sent everything, after [`report_drained`](Self::report_drained).
    pub(super) fn is_drained(&self) -> bool {
        self.tcp().is_none_or(|stream| is(stream, PollFlags::OUT | PollFlags::ERR | PollFlags::HUP))
    }
}

/// The peer of a socket has finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerEnd {
    /// The kernel holds bytes that come before.
    Behind,
    /// It is all there is to read.
    Next,
}

fn peer_end(socket: &impl AsFd) -> Option<PeerEnd> {
    if !is(socket, PollFlags::RDHUP) {
        return None;
    }
    // Unknown counts as more: that costs time and no byte.
    let left = rustix::io::ioctl_fionread(socket).unwrap_or(1);
    Some(if left == 0 { PeerEnd::Next } else { PeerEnd::Behind })
}

/// Asks the kernel now: readiness that tokio has cached may be old, and
/// SO_ERROR alone would also yield errors the kernel only noted in passing.
fn is(socket: &impl AsFd, flags: PollFlags) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(socket.as_fd(), flags)];
    let asked = rustix::event::poll(&mut polled, Some(&Timespec::default()));
    asked.is_ok() && polled[0].revents().intersects(flags)
}

fn read<S: AsyncRead>(
    stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    ready!(stream.poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}
