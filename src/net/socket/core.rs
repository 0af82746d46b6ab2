//! [`Core`]: what the handles of a socket and its task share. Its lock is held
//! for moments, and never while slots or other code of users run.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::buffer::Buffer;
use super::options::SocketOptions;
use super::received::Received;
use super::signals::{Signals, StateChanged};
use crate::event::{ConnectionId, Endpoint, State};
use crate::net::changes::Changes;
use crate::net::dial::Target;
use crate::net::error::{SocketError, SocketErrorKind};
use crate::net::transport::Stream;
use crate::signal::{Owner, SlotPanicked};

pub(super) struct Core {
    pub(super) options: Arc<SocketOptions>,
    inner: Mutex<Inner>,
    /// Woken whenever something changed that callers wait for.
    pub(super) changed: Changes,
    signals: OnceLock<Box<Signals>>,
    own: Weak<Self>,
    /// The socket's task. It ends by itself: with its connection, which ends
    /// within the time to drain once the last handle is gone.
    pub(super) task: Mutex<JoinSet<()>>,
}

pub(super) struct Inner {
    pub(super) id: ConnectionId,
    pub(super) state: State,
    pub(super) ends: Option<(Endpoint, Endpoint)>,
    pub(super) begun: Instant,
    pub(super) error: Option<SocketError>,

    pub(super) read: Received,
    pub(super) read_limit: usize,
    pub(super) received: u64,
    /// Bytes taken out of the read buffer.
    pub(super) taken: u64,
    /// Bytes received after we closed that found no room.
    pub(super) discarded: u64,
    pub(super) is_paused: bool,
    /// The task has stopped to read for want of room.
    pub(super) is_full: bool,
    /// The peer has finished, and all was received.
    pub(super) is_read_finished: bool,
    /// The peer has finished; the kernel may hold bytes from before.
    pub(super) is_peer_finished: bool,
    /// Who is told of the peer's end.
    pub(super) reader: Reader,
    /// Whoever reads knows that the peer has finished.
    pub(super) is_end_told: bool,

    pub(super) write: Buffer,
    pub(super) write_limit: usize,
    pub(super) sent: u64,
    /// Bytes that were written and lost with the connection.
    pub(super) unsent: u64,
    pub(super) is_write_high: bool,
    /// The most that was refused since the buffer is high; low is where it fits.
    pub(super) refused: usize,
    /// A writer waits for room.
    pub(super) is_write_awaited: bool,
    /// Somebody writes by awaiting.
    pub(super) is_writing: bool,
    /// They are still to be told that what they wrote last was for a connection that is over.
    pub(super) write_broke: Option<SocketError>,
    /// Our half shall end after what was written.
    pub(super) finishing: bool,
    /// It has.
    pub(super) is_write_finished: bool,

    /// What to connect to, kept from dial to dial: of a name with many addresses others are tried each time.
    pub(super) target: Option<Arc<Target>>,
    /// The task has not begun a dial that was asked for.
    pub(super) is_asked: bool,
    /// A dial follows by itself, until told otherwise.
    pub(super) reconnects: bool,
    /// An accepted stream, until the task starts.
    pub(super) accepted: Option<Stream>,
    /// It was accepted or taken over, so its slots go with its end.
    pub(super) is_accepted: bool,
    /// From the request until the dial has ended.
    pub(super) is_dialling: bool,
    /// The last connection or dial whose end its slots have heard of, and how it went.
    pub(super) last_end: Option<(ConnectionId, Result<(), SocketError>)>,
    /// The connection is over and its slots are being told.
    pub(super) is_ending: bool,
    pub(super) is_running: bool,
    pub(super) closing: Closing,
    /// A slot of `ready_read` was connected.
    pub(super) rearm: bool,
    /// `write_buffer_high` has to be emitted.
    pub(super) announce_high: bool,

    pub(super) task_waker: Option<Waker>,
    pub(super) read_waker: Option<Waker>,
    pub(super) write_waker: Option<Waker>,
    pub(super) place: Option<OwnedSemaphorePermit>,
}

/// Who is told of the peer's end, and so may still write in answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// Slots, or nobody yet.
    Unknown,
    /// Somebody awaits bytes, or has and will be back.
    Awaits,
    /// Somebody waits for the end, and so has nothing more to write.
    WaitsForEnd,
}

/// How the socket was asked to end, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Closing {
    No,
    /// The peer has finished, and whoever reads knows.
    Finished,
    /// Deliver what was written, then finish.
    Gracefully,
    /// Close at once.
    Abort,
    /// Close at once, with a reset.
    Reset,
}

impl Core {
    pub(super) fn new(options: Arc<SocketOptions>, connected: Option<(Endpoint, Endpoint)>) -> Arc<Self> {
        let state = if connected.is_some() { State::Connected } else { State::Unconnected };
        let inner = Inner {
            id: ConnectionId::next(),
            state,
            ends: connected,
            begun: Instant::now(),
            error: None,
            read: Received::default(),
            read_limit: options.read_buffer_size.max(1),
            received: 0,
            taken: 0,
            discarded: 0,
            is_paused: false,
            is_full: false,
            is_read_finished: false,
            is_peer_finished: false,
            reader: Reader::Unknown,
            is_end_told: false,
            write: Buffer::default(),
            write_limit: options.write_buffer_size.max(1),
            sent: 0,
            unsent: 0,
            is_write_high: false,
            refused: 0,
            is_write_awaited: false,
            is_writing: false,
            write_broke: None,
            finishing: false,
            is_write_finished: false,
            target: None,
            is_asked: false,
            reconnects: options.reconnect.is_some(),
            accepted: None,
            is_accepted: false,
            is_dialling: false,
            last_end: None,
            is_ending: false,
            is_running: false,
            closing: Closing::No,
            rearm: false,
            announce_high: false,
            task_waker: None,
            read_waker: None,
            write_waker: None,
            place: None,
        };
        Arc::new_cyclic(|own| Self {
            options,
            inner: Mutex::new(inner),
            changed: Changes::default(),
            signals: OnceLock::new(),
            own: own.clone(),
            task: Mutex::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The signals, made now if they were not there.
    pub(super) fn signals(&self) -> &Signals {
        self.signals.get_or_init(|| {
            let own: Weak<dyn Owner> = self.own.clone();
            Box::new(Signals::new(&own, Arc::new(ReadyOwner(self.own.clone()))))
        })
    }

    /// The signals, if any slot was ever connected.
    pub(super) fn listening(&self) -> Option<&Signals> {
        self.signals.get().map(|signals| &**signals)
    }

    /// Asks for an end; only a stronger wish changes an earlier one.
    pub(super) fn close(&self, how: Closing) {
        let mut inner = self.lock();
        if inner.state == State::Unconnected && !inner.is_running {
            return;
        }
        if how >= Closing::Abort {
            inner.read.clear();
        }
        inner.closing = inner.closing.max(how);
        inner.wake_task();
        drop(inner);
        self.tell();
    }

    /// Wakes everyone who waits for a change.
    pub(super) fn tell(&self) {
        let mut inner = self.lock();
        let wakers = [inner.read_waker.take(), inner.write_waker.take()];
        drop(inner);
        wakers.into_iter().flatten().for_each(Waker::wake);
        self.changed.tell();
    }

    /// Of an accepted socket, which is not connected again: disconnects its slots, so that those that own
    /// it let go of it, and gives its place to another client.
    pub(super) fn let_go(&self) {
        let mut inner = self.lock();
        let is_last = inner.is_accepted && !inner.is_asked && !inner.comes_back();
        let place = inner.place.take();
        drop(inner);
        drop(place);
        if let Some(signals) = self.listening().filter(|_| is_last) {
            signals.clear();
        }
    }

    /// The slots have heard of the end.
    pub(super) fn has_ended(&self, connection: ConnectionId, outcome: Result<(), SocketError>) {
        let mut inner = self.lock();
        inner.is_ending = false;
        inner.last_end = Some((connection, outcome));
        drop(inner);
        self.tell();
    }

    /// Changes the state and announces it.
    pub(super) fn set_state(&self, to: State) {
        let mut inner = self.lock();
        let (connection, from) = (inner.id, std::mem::replace(&mut inner.state, to));
        drop(inner);
        self.tell();
        self.state_changed(connection, from, to);
    }

    pub(super) fn state_changed(&self, connection: ConnectionId, from: State, to: State) {
        if let Some(signals) = self.listening().filter(|_| from != to) {
            signals.state_changed.emit_with(|| StateChanged { connection, from, to });
        }
    }
}

impl Inner {
    /// Has the task look at what was asked of it.
    pub(super) fn wake_task(&self) {
        if let Some(waker) = &self.task_waker {
            waker.wake_by_ref();
        }
    }

    pub(super) fn read_room(&self) -> usize {
        self.read_limit.saturating_sub(self.read.total())
    }

    pub(super) fn write_room(&self) -> usize {
        self.write_limit.saturating_sub(self.write.len())
    }

    /// At so many bytes to write, or fewer, a high write buffer is low again.
    pub(super) fn low_mark(&self) -> usize {
        (self.write_limit / 2).min(self.write_limit.saturating_sub(self.refused))
    }

    /// Bytes left the read buffer: there may be room again, or the end to be told.
    pub(super) fn took(&mut self, count: usize) {
        self.taken += count as u64;
        if self.is_full || self.is_read_finished {
            self.wake_task();
        }
    }

    /// Why nothing can be read or written, where there is no connection.
    pub(super) fn gone(&self) -> SocketError {
        self.error.clone().unwrap_or_else(|| {
            let text = match (self.closing, &self.ends) {
                (Closing::Abort | Closing::Reset, _) => "the connection was aborted",
                (Closing::Gracefully, _) => "the connection was closed by this side",
                (_, Some(_)) => "the connection is over",
                (_, None) => "the socket is not connected; call connect_to_host first",
            };
            SocketError::new(SocketErrorKind::NotConnected, text)
        })
    }

    /// Whether bytes may be written, now or as soon as the dial succeeds.
    pub(super) fn check_writable(&self) -> Result<(), SocketError> {
        let refuse = |text: &str| Err(SocketError::new(SocketErrorKind::NotConnected, text));
        match self.state {
            _ if self.closing != Closing::No => {
                refuse("the socket is closing and takes nothing more to write")
            }
            // Writing failed, and what had come before is still read.
            State::Connected if self.error.is_some() => Err(self.gone()),
            _ if self.finishing => refuse("our half of the connection was shut down"),
            State::Unconnected if !self.is_dialling => Err(self.gone()),
            _ => Ok(()),
        }
    }

    /// How reading ends, or has ended.
    pub(super) fn read_outcome(&self) -> Result<(), SocketError> {
        let closed_by_us = self.closing == Closing::Gracefully && self.ends.is_some() && self.error.is_none();
        if self.is_read_finished || closed_by_us { Ok(()) } else { Err(self.gone()) }
    }

    /// How a connection went that is over.
    pub(super) fn outcome(&self) -> Result<(), SocketError> {
        match &self.error {
            Some(error) => Err(error.clone()),
            None if self.unsent > 0 => Err(self.gone()),
            None => Ok(()),
        }
    }

    /// Whether more may come to be read.
    pub(super) fn may_receive(&self) -> bool {
        !self.is_read_finished && (self.is_dialling || self.state != State::Unconnected)
    }

    /// Whether there will be another dial when this one, or its connection, is over.
    pub(super) fn comes_back(&self) -> bool {
        self.reconnects && self.target.is_some() && self.is_running && self.closing < Closing::Gracefully
    }

    /// Begins anew for a dial that was asked for: nothing is left of what was before.
    pub(super) fn begin(&mut self) {
        self.read.clear();
        self.write_broke = None;
        self.reset();
    }

    /// Begins anew for a dial of its own accord: what was received stays to be read, and those who
    /// read or write by awaiting are told once that it was for another connection.
    pub(super) fn begin_again(&mut self) {
        let is_awaited = self.reader == Reader::Awaits && !self.is_end_told;
        if self.ends.is_some() && (is_awaited || self.read.current() > 0) {
            let outcome = self.read_outcome();
            self.read.end(outcome);
        }
        if self.is_writing {
            self.write_broke = Some(self.gone());
        }
        self.reset();
    }

    fn reset(&mut self) {
        self.id = ConnectionId::next();
        self.ends = None;
        self.error = None;
        (self.received, self.taken, self.discarded) = (0, 0, 0);
        (self.sent, self.unsent) = (0, 0);
        (self.is_read_finished, self.is_peer_finished) = (false, false);
        self.reader = Reader::Unknown;
        self.is_end_told = false;
        self.finishing = false;
        self.is_write_finished = false;
        self.is_writing = false;
        self.is_write_awaited = false;
        self.is_dialling = true;
        self.closing = Closing::No;
    }
}

impl Owner for Core {
    fn slot_connected(&self) {}

    fn slot_panicked(&self, panicked: SlotPanicked) {
        if let Some(signals) = self.listening() {
            signals.slot_panicked.emit(&panicked);
        }
    }
}

/// Of `ready_read`: its slots are told of what can be read already, and read from now on.
#[derive(Debug)]
pub(super) struct ReadyOwner(Weak<Core>);

impl Owner for ReadyOwner {
    fn slot_connected(&self) {
        let Some(core) = self.0.upgrade() else { return };
        let mut inner = core.lock();
        inner.reader = Reader::Unknown;
        inner.rearm = true;
        if !inner.read.is_empty() || inner.is_read_finished {
            inner.wake_task();
        }
    }

    fn slot_panicked(&self, panicked: SlotPanicked) {
        self.0.upgrade().into_iter().for_each(|core| core.slot_panicked(panicked.clone()));
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("TcpSocket")
            .field("connection", &inner.id)
            .field("state", &inner.state)
            .field("peer", &inner.ends.as_ref().map(|(peer, _)| peer))
            .finish_non_exhaustive()
    }
}
