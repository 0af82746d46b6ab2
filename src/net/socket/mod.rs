//! [`TcpSocket`]: a connection with a task of its own, as Qt's people know it
//! (`connect_to_host`, `ready_read`, `disconnected`) and as tokio's do
//! (`connect(…).await`, `AsyncRead`, `AsyncWrite`). The handle asks, the task
//! acts, and what both see is in `core`.

mod buffer;
mod bytes;
mod core;
mod drive;
mod options;
mod received;
mod signals;
mod task;
mod traits;

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use socket2::SockRef;
use tokio::runtime::Handle as Runtime;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use self::core::{Closing, Core, Inner, Reader};
pub use self::options::{Reconnect, SocketOptions};
use self::signals::Signals;
pub use self::signals::{
    BytesWritten, ConnectFailed, Connected, Disconnected, ErrorOccurred, HostFound, ReadFinished, ReadyRead,
    Reconnecting, StateChanged, WriteBuffer,
};
use self::traits::Shown;
use super::dial::Target;
pub use super::error::Phase;
use super::error::{SocketError, SocketErrorKind};
use super::transport::Stream;
use crate::address::Address;
use crate::event::{ConnectionId, Endpoint, State};
use crate::signal::Context;

/// A connection to a peer, dialled or accepted.
///
/// It is a handle: clones are the same socket, usable from any thread. A task
/// of its own moves the bytes between two bounded buffers and the kernel and
/// emits the signals. A full read buffer makes the peer wait, a full write
/// buffer makes [`write`](Self::write) wait.
///
/// When the last handle is dropped the socket delivers what was written, as
/// with [`disconnect_from_host`](Self::disconnect_from_host), within
/// [`drain_timeout`](SocketOptions::drain_timeout); a dial with nothing to
/// deliver is given up.
///
/// When the peer has finished (FIN), what was written is still delivered and
/// the socket closes, as soon as whoever reads knows of it and nobody waits
/// for room to write: where reads are awaited, when [`read`](Self::read) has
/// returned 0; where the end is, in
/// [`wait_for_disconnected`](Self::wait_for_disconnected), at once; else when
/// nothing is left to be read, or slots of [`ready_read`](Self::ready_read)
/// have seen it and nothing is left to be written. A socket that nobody has
/// used yet waits for that, and all of this takes at most
/// [`drain_timeout`](SocketOptions::drain_timeout) in which nothing is read or
/// sent. With [`allow_half_open`](SocketOptions::allow_half_open) it stays open.
///
/// tokio's `AsyncRead`, `AsyncBufRead` and `AsyncWrite` are implemented, so
/// `lines`, `copy`, `read_to_end` and the rest work on it and on its clones.
///
/// The same type carries Unix sockets (`unix:/path`) and the built-in `echo:`.
///
/// ```
/// use signal_node::{TcpServer, TcpSocket};
/// use std::time::Duration;
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let server = TcpServer::bind("127.0.0.1:0").await?;
/// let client = TcpSocket::connect(server.server_address().unwrap()).await?;
/// let accepted = server.next_pending_connection().await.unwrap();
///
/// accepted.write(b"good morning\n").await?;
/// while !client.can_read_line() {
///     client.wait_for_ready_read(Duration::from_secs(5)).await?;
/// }
/// assert_eq!(client.read_line(100).unwrap(), b"good morning\n");
/// client.close().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TcpSocket {
    handle: Arc<Handle>,
    /// What [`AsyncBufRead`](tokio::io::AsyncBufRead) has shown of it.
    shown: Option<Box<Shown>>,
}

/// Dropped with the last [`TcpSocket`] of a connection.
struct Handle {
    core: Arc<Core>,
}

impl TcpSocket {
    /// A socket that is not connected.
    pub fn new() -> Self {
        Self::with_options(SocketOptions::default())
    }

    /// The same with other options, which hold for every connection of it.
    pub fn with_options(options: SocketOptions) -> Self {
        Self::of(Core::new(Arc::new(options), None))
    }

    /// Connects, within [`connect_timeout`](SocketOptions::connect_timeout).
    ///
    /// # Errors
    /// As [`connect_to_host`](Self::connect_to_host), and those of the dial.
    ///
    /// Cancel safe: dropped, the dial is given up.
    pub async fn connect(target: impl fmt::Display) -> Result<Self, SocketError> {
        let socket = Self::new();
        socket.connect_to_host(target)?;
        socket.wait_within(None, "", socket.look_for_connected()).await??;
        Ok(socket)
    }

    /// Takes over a connected stream.
    ///
    /// # Errors
    /// Those of the kernel; a stream that is not connected has no peer.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O.
    pub fn from_std(stream: TcpStream, options: SocketOptions) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        options.apply(&SockRef::from(&stream), local.is_ipv4())?;
        let stream = Stream::Tcp(tokio::net::TcpStream::from_std(stream)?);
        let socket = Self::accepted(Arc::new(options), stream, peer.into(), local.into(), None);
        socket.start(&Runtime::current());
        Ok(socket)
    }

    /// An accepted connection, whose task has to be started.
    pub(super) fn accepted(
        options: Arc<SocketOptions>,
        stream: Stream,
        peer: Endpoint,
        local: Endpoint,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let core = Core::new(options, Some((peer, local)));
        {
            let mut inner = core.lock();
            inner.accepted = Some(stream);
            inner.is_accepted = true;
            inner.place = place;
        }
        Self::of(core)
    }

    /// Starts the task, unless it runs.
    pub(super) fn start(&self, runtime: &Runtime) {
        let is_running = std::mem::replace(&mut self.core().lock().is_running, true);
        if !is_running {
            self.spawn(runtime);
        }
    }

    fn spawn(&self, runtime: &Runtime) {
        let core = self.core();
        let mut task = core.task.lock().unwrap_or_else(PoisonError::into_inner);
        // Of an earlier task, which has ended.
        while task.try_join_next().is_some() {}
        task.spawn_on(task::run(Arc::clone(core)), runtime);
    }

    fn of(core: Arc<Core>) -> Self {
        Self { handle: Arc::new(Handle { core }), shown: None }
    }

    fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }

    fn signals(&self) -> &Signals {
        self.core().signals()
    }

    /// Begins to connect and returns; signals say how it goes, and
    /// [`wait_for_connected`](Self::wait_for_connected) waits for it.
    ///
    /// `target` is anything that reads as an [`Address`]: `host:9000`, a
    /// [`SocketAddr`](std::net::SocketAddr), `unix:/path`. A name is looked up
    /// for each dial and all its addresses are raced. What is written from now
    /// on is sent when the socket is connected; what is left unread of an earlier
    /// connection is thrown away. Legal from any slot, `disconnected` and
    /// `connect_failed` included.
    ///
    /// # Errors
    /// [`InvalidAddress`](SocketErrorKind::InvalidAddress);
    /// [`Busy`](SocketErrorKind::Busy) if the socket is not unconnected, which changes nothing;
    /// [`Other`](SocketErrorKind::Other) outside a tokio runtime.
    pub fn connect_to_host(&self, target: impl fmt::Display) -> Result<(), SocketError> {
        let text = target.to_string();
        let invalid = |error: &dyn fmt::Display| {
            SocketError::new(SocketErrorKind::InvalidAddress, format!("cannot connect to `{text}`: {error}"))
        };
        let address: Address = text.parse().map_err(|error| invalid(&error))?;
        address.check_connect().map_err(|error| invalid(&error))?;
        if address == Address::Stdio {
            return Err(invalid(&"a socket cannot be joined with standard input and output"));
        }
        let runtime = Runtime::try_current().map_err(|error| {
            SocketError::new(SocketErrorKind::Other, format!("cannot connect to `{text}`: {error}"))
        })?;
        let mut inner = self.core().lock();
        if inner.is_dialling || inner.state != State::Unconnected {
            let text =
                format!("cannot connect to `{text}`: the socket is connected or connecting; close it first");
            return Err(SocketError::new(SocketErrorKind::Busy, text));
        }
        inner.begin();
        if inner.target.as_ref().is_none_or(|target| target.address != address) {
            inner.target = Some(Arc::new(Target::new("socket".into(), address)));
        }
        inner.is_asked = true;
        inner.wake_task();
        // Under the same lock: a task that runs now may do what was asked and rest before the next line.
        let is_running = std::mem::replace(&mut inner.is_running, true);
        drop(inner);
        if !is_running {
            self.spawn(&runtime);
        }
        Ok(())
    }

    /// Begins to close: nothing more can be written, what was is delivered,
    /// then our half is finished and the peer's end awaited, both within
    /// [`drain_timeout`](SocketOptions::drain_timeout). On a dial it waits for
    /// that first. Ends [`reconnect`](SocketOptions::reconnect)ing.
    ///
    /// Bytes that could not be delivered in time are counted as `unsent`, and
    /// the peer sees a reset.
    pub fn disconnect_from_host(&self) {
        self.core().close(Closing::Gracefully);
    }

    /// [`disconnect_from_host`](Self::disconnect_from_host), and waits for its end.
    ///
    /// # Errors
    /// If what was written was not all handed to the kernel, or the connection broke.
    ///
    /// Cancel safe: closing goes on.
    pub async fn close(&self) -> Result<(), SocketError> {
        self.disconnect_from_host();
        self.wait_within(None, "", self.look_for_end()).await?
    }

    /// Closes at once and forgets both buffers. A peer that does not get all
    /// that was written sees a reset, otherwise a clean end.
    pub fn abort(&self) {
        self.core().close(Closing::Abort);
    }

    /// Closes at once, and the peer sees a reset (RST), which also throws away
    /// what its kernel and ours still held.
    pub fn abort_with_reset(&self) {
        self.core().close(Closing::Reset);
    }

    /// Finishes our half after what was written; reading goes on.
    ///
    /// [`AsyncWriteExt::shutdown`](tokio::io::AsyncWriteExt::shutdown) does the same and waits for it.
    pub fn shutdown_write(&self) {
        let mut inner = self.core().lock();
        inner.finishing = true;
        inner.wake_task();
    }

    /// Waits until it is connected; with [`reconnect`](SocketOptions::reconnect)
    /// through as many dials as that takes.
    ///
    /// # Errors
    /// Why it is not, or [`TimedOut`](SocketErrorKind::TimedOut) after `limit`; the dial then goes on.
    pub async fn wait_for_connected(&self, limit: Duration) -> Result<(), SocketError> {
        let mut connected = self.look_for_connected();
        let look = move |inner: &mut Inner| {
            let outcome = connected(inner).filter(|outcome| outcome.is_ok() || !inner.comes_back());
            // Whoever waits for the connection there is knows that it is not the last one.
            outcome.inspect(|_| inner.write_broke = None)
        };
        self.wait_within(Some(limit), "connected", look).await?
    }

    /// Waits until the connection is over and its slots have heard of it.
    /// Whoever does expects nothing more of it, so it closes when the peer finishes meanwhile.
    ///
    /// # Errors
    /// If it broke, or not all that was written was sent;
    /// [`TimedOut`](SocketErrorKind::TimedOut) after `limit`, which changes nothing.
    pub async fn wait_for_disconnected(&self, limit: Duration) -> Result<(), SocketError> {
        let before = {
            let mut inner = self.core().lock();
            inner.wake_task();
            std::mem::replace(&mut inner.reader, Reader::WaitsForEnd)
        };
        let _no_longer = OnDrop(|| {
            let mut inner = self.core().lock();
            if inner.reader == Reader::WaitsForEnd {
                inner.reader = before;
            }
        });
        self.wait_within(Some(limit), "disconnected", self.look_for_end()).await?
    }

    /// What it is doing now.
    pub fn state(&self) -> State {
        self.core().lock().state
    }

    /// The id of the connection, which every signal carries. Each dial has its own.
    pub fn connection(&self) -> ConnectionId {
        self.core().lock().id
    }

    /// The peer; stays after the end, until the next dial.
    pub fn peer_address(&self) -> Option<Endpoint> {
        self.core().lock().ends.as_ref().map(|(peer, _)| peer.clone())
    }

    /// Our own address; stays after the end, until the next dial.
    pub fn local_address(&self) -> Option<Endpoint> {
        self.core().lock().ends.as_ref().map(|(_, local)| local.clone())
    }

    /// Why the last dial failed or the last connection broke.
    pub fn error(&self) -> Option<SocketError> {
        self.core().lock().error.clone()
    }

    /// Its options.
    pub fn options(&self) -> &SocketOptions {
        &self.core().options
    }

    /// Finds that a dial has succeeded, even where the connection is over already, or failed.
    fn look_for_connected(&self) -> impl FnMut(&mut Inner) -> Option<Result<(), SocketError>> + use<> {
        let was_dialling = self.core().lock().is_dialling;
        move |inner| match inner.state {
            State::Connected | State::Closing => Some(Ok(())),
            State::HostLookup | State::Connecting => None,
            State::Unconnected if inner.is_dialling => None,
            State::Unconnected if was_dialling && inner.ends.is_some() => Some(Ok(())),
            State::Unconnected => Some(Err(inner.gone())),
        }
    }

    /// Finds the end of the connection or dial that there is now, even where another has begun since.
    fn look_for_end(&self) -> impl FnMut(&mut Inner) -> Option<Result<(), SocketError>> + use<> {
        let id = self.core().lock().id;
        move |inner| match &inner.last_end {
            _ if inner.is_ending => None,
            Some((ended, outcome)) if *ended == id || inner.id != id => Some(outcome.clone()),
            _ if inner.is_dialling || inner.state != State::Unconnected => None,
            _ => Some(inner.outcome()),
        }
    }

    /// Looks again and again, as things change, until `look` finds something.
    async fn wait_within<T>(
        &self,
        limit: Option<Duration>,
        what: &str,
        mut look: impl FnMut(&mut Inner) -> Option<T>,
    ) -> Result<T, SocketError> {
        let core = self.core();
        let looking = core.changed.until(|| look(&mut core.lock()));
        match limit {
            None => Ok(looking.await),
            Some(limit) => timeout(limit, looking).await.map_err(|_elapsed| {
                let text = format!("not {what} within {}", humantime::format_duration(limit));
                SocketError::new(SocketErrorKind::TimedOut, text)
            }),
        }
    }
}

/// Does something as it goes: where a wait ends, and where it is given up.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// Keeps nothing alive; made by [`Context::downgrade`].
#[derive(Clone)]
pub struct WeakTcpSocket(Weak<Handle>);

impl Context for TcpSocket {
    type Weak = WeakTcpSocket;

    fn downgrade(&self) -> WeakTcpSocket {
        WeakTcpSocket(Arc::downgrade(&self.handle))
    }

    fn upgrade(weak: &WeakTcpSocket) -> Option<Self> {
        weak.0.upgrade().map(|handle| Self { handle, shown: None })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut inner = self.core.lock();
        let unserved = if inner.is_running { None } else { inner.accepted.take() };
        let delivers = !inner.write.is_empty() || matches!(inner.state, State::Connected | State::Closing);
        drop(inner);
        if let Some(stream) = unserved {
            // Never handed out: its client shall not take that for an answer.
            stream.reset_on_drop();
        }
        self.core.close(if delivers { Closing::Gracefully } else { Closing::Abort });
    }
}

impl Clone for TcpSocket {
    fn clone(&self) -> Self {
        Self { handle: Arc::clone(&self.handle), shown: None }
    }
}

impl Default for TcpSocket {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TcpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core().fmt(f)
    }
}

impl fmt::Debug for WeakTcpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakTcpSocket")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new target for each dial would try the same eight of many addresses again and again.
    #[tokio::test]
    async fn a_target_that_is_dialled_again_is_the_same_one() {
        let socket = TcpSocket::new();
        let target = |socket: &TcpSocket| Arc::clone(socket.core().lock().target.as_ref().unwrap());
        let mut seen = Vec::new();
        for address in ["echo:", "echo:", "127.0.0.1:9"] {
            socket.connect_to_host(address).unwrap();
            seen.push(target(&socket));
            let _ = socket.close().await;
        }
        assert!(Arc::ptr_eq(&seen[0], &seen[1]) && !Arc::ptr_eq(&seen[1], &seen[2]));
    }
}
