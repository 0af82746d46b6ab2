//! The signals of a [`TcpSocket`]: what each carries, and where to connect.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::TcpSocket;
use super::core::ReadyOwner;
use crate::event::{ConnectionId, Endpoint, Reason, State};
use crate::net::error::{Phase, SocketError};
use crate::signal::{Owner, Signal, SignalRef, SlotPanicked};

/// The dial succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connected {
    /// The connection.
    pub connection: ConnectionId,
    /// The address that answered.
    pub peer: Endpoint,
    /// Our own address.
    pub local: Endpoint,
}

/// The dial failed: one target, with all its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectFailed {
    /// The connection that did not come to be.
    pub connection: ConnectionId,
    /// The target as it was given.
    pub target: Arc<str>,
    /// 0 for the dial that was asked for, then as in [`Reconnecting`].
    pub attempt: u32,
    /// What went wrong.
    pub error: SocketError,
    /// Bytes written for it in advance, which are lost.
    pub unsent: u64,
}

/// The connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disconnected {
    /// The connection.
    pub connection: ConnectionId,
    /// The peer.
    pub peer: Endpoint,
    /// Our own address.
    pub local: Endpoint,
    /// Why; only [`Reason::Closed`] is a clean end.
    pub reason: Reason,
    /// Bytes received from the peer.
    pub received: u64,
    /// Bytes handed to the kernel for the peer.
    pub sent: u64,
    /// Bytes written that were not handed to the kernel, and never will be.
    pub unsent: u64,
    /// Bytes received and not read. What the buffer held still can be.
    pub unread: u64,
    /// Time since it was connected.
    pub duration: Duration,
}

/// The socket went from one [`State`] to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateChanged {
    /// The connection.
    pub connection: ConnectionId,
    /// The state it left.
    pub from: State,
    /// The state it is in.
    pub to: State,
}

/// The dial failed or the connection broke.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorOccurred {
    /// The connection.
    pub connection: ConnectionId,
    /// What the socket was doing.
    pub phase: Phase,
    /// What happened.
    pub error: SocketError,
}

/// The addresses of the target are known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostFound {
    /// The connection being made.
    pub connection: ConnectionId,
    /// The addresses that will be raced, in order.
    pub addresses: Arc<[SocketAddr]>,
}

/// Bytes can be read that nobody was told of before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadyRead {
    /// The connection.
    pub connection: ConnectionId,
    /// Bytes that can be read now.
    pub available: usize,
}

/// Bytes were handed to the kernel for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BytesWritten {
    /// The connection.
    pub connection: ConnectionId,
    /// Bytes since the last of these signals.
    pub bytes: usize,
}

/// The peer has finished sending (FIN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadFinished {
    /// The connection.
    pub connection: ConnectionId,
    /// Bytes received in all.
    pub received: u64,
}

/// The write buffer is full, or has room again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteBuffer {
    /// The connection.
    pub connection: ConnectionId,
    /// Bytes that wait to be handed to the kernel.
    pub bytes_to_write: usize,
}

/// The socket will dial again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reconnecting {
    /// Which dial in a row it will be, from 1.
    pub attempt: u32,
    /// How long it waits until then.
    pub delay: Duration,
}

/// The slot table of one socket, made when its first slot is connected.
#[derive(Debug)]
pub(super) struct Signals {
    pub(super) connected: Signal<Connected>,
    pub(super) connect_failed: Signal<ConnectFailed>,
    pub(super) disconnected: Signal<Disconnected>,
    pub(super) state_changed: Signal<StateChanged>,
    pub(super) error_occurred: Signal<ErrorOccurred>,
    pub(super) host_found: Signal<HostFound>,
    pub(super) ready_read: Signal<ReadyRead>,
    pub(super) bytes_written: Signal<BytesWritten>,
    pub(super) read_finished: Signal<ReadFinished>,
    pub(super) write_buffer_high: Signal<WriteBuffer>,
    pub(super) write_buffer_low: Signal<WriteBuffer>,
    pub(super) reconnecting: Signal<Reconnecting>,
    pub(super) slot_panicked: Signal<SlotPanicked>,
    /// Keeps alive what `ready_read` holds weakly.
    _ready_owner: Arc<ReadyOwner>,
}

impl Signals {
    pub(super) fn new(owner: &Weak<dyn Owner>, ready_owner: Arc<ReadyOwner>) -> Self {
        let weak: Weak<ReadyOwner> = Arc::downgrade(&ready_owner);
        Self {
            connected: Signal::of(owner.clone()),
            connect_failed: Signal::of(owner.clone()),
            disconnected: Signal::of(owner.clone()),
            state_changed: Signal::of(owner.clone()),
            error_occurred: Signal::of(owner.clone()),
            host_found: Signal::of(owner.clone()),
            ready_read: Signal::of(weak),
            bytes_written: Signal::of(owner.clone()),
            read_finished: Signal::of(owner.clone()),
            write_buffer_high: Signal::of(owner.clone()),
            write_buffer_low: Signal::of(owner.clone()),
            reconnecting: Signal::of(owner.clone()),
            slot_panicked: Signal::new(),
            _ready_owner: ready_owner,
        }
    }

    /// Disconnects every slot, so that those that own their socket let go of it.
    pub(super) fn clear(&self) {
        self.connected.clear();
        self.connect_failed.clear();
        self.disconnected.clear();
        self.state_changed.clear();
        self.error_occurred.clear();
        self.host_found.clear();
        self.ready_read.clear();
        self.bytes_written.clear();
        self.read_finished.clear();
        self.write_buffer_high.clear();
        self.write_buffer_low.clear();
        self.reconnecting.clear();
        self.slot_panicked.clear();
    }
}

/// # Signals
///
/// All are emitted by the socket's own task, one after the other, so direct
/// slots of one socket never run at the same time. Of one connection the
/// order is: [`state_changed`](Self::state_changed)`*` and
/// [`host_found`](Self::host_found) of the dial, then
/// [`connected`](Self::connected) or [`connect_failed`](Self::connect_failed)
/// (an accepted socket starts as connected and says neither), then
/// [`ready_read`](Self::ready_read) and [`bytes_written`](Self::bytes_written),
/// among which there is at most one [`read_finished`](Self::read_finished),
/// after what was received and perhaps before what is still written, then exactly one
/// [`disconnected`](Self::disconnected), which is last. A bad end is
/// `state_changed`, [`error_occurred`](Self::error_occurred), then
/// `disconnected` or `connect_failed`.
///
/// A slot that uses its own socket is connected with
/// [`connect_weak`](SignalRef::connect_weak). (One that owns a clone keeps
/// the socket alive. Slots of an accepted socket are dropped when it is
/// disconnected, which ends that; those of a dialled one stay, since it may
/// be connected again.)
impl TcpSocket {
    /// The dial succeeded.
    pub fn connected(&self) -> SignalRef<'_, Connected> {
        self.signals().connected.view()
    }

    /// The dial failed, or was given up. No `disconnected` follows.
    pub fn connect_failed(&self) -> SignalRef<'_, ConnectFailed> {
        self.signals().connect_failed.view()
    }

    /// The connection is over: exactly once for each that was connected, and its last signal.
    pub fn disconnected(&self) -> SignalRef<'_, Disconnected> {
        self.signals().disconnected.view()
    }

    /// The socket is in another [`State`]. What it is in now says [`state`](Self::state).
    pub fn state_changed(&self) -> SignalRef<'_, StateChanged> {
        self.signals().state_changed.view()
    }

    /// The dial failed or the connection broke. A peer that has finished is no error.
    pub fn error_occurred(&self) -> SignalRef<'_, ErrorOccurred> {
        self.signals().error_occurred.view()
    }

    /// The addresses of the target are known, between the states `connecting` and `connected`.
    pub fn host_found(&self) -> SignalRef<'_, HostFound> {
        self.signals().host_found.view()
    }

    /// Bytes can be read.
    ///
    /// Emitted when bytes have come; again when the slots have read some and
    /// left some; and again for a slot that is connected while bytes are
    /// unread. So a slot that reads one message at a time is not left sitting
    /// on the next. One emission is not one message.
    pub fn ready_read(&self) -> SignalRef<'_, ReadyRead> {
        self.signals().ready_read.view()
    }

    /// Bytes were handed to the kernel. That is not to say that the peer has them.
    pub fn bytes_written(&self) -> SignalRef<'_, BytesWritten> {
        self.signals().bytes_written.view()
    }

    /// The peer has finished, after the last of its bytes. Not an error.
    pub fn read_finished(&self) -> SignalRef<'_, ReadFinished> {
        self.signals().read_finished.view()
    }

    /// The write buffer did not have room for what was written; the writer waits or was refused.
    pub fn write_buffer_high(&self) -> SignalRef<'_, WriteBuffer> {
        self.signals().write_buffer_high.view()
    }

    /// After [`write_buffer_high`](Self::write_buffer_high): at most half of it is full, and what
    /// [`try_write`](Self::try_write) refused fits.
    pub fn write_buffer_low(&self) -> SignalRef<'_, WriteBuffer> {
        self.signals().write_buffer_low.view()
    }

    /// The socket will dial again, with [`SocketOptions::reconnect`](super::SocketOptions::reconnect).
    pub fn reconnecting(&self) -> SignalRef<'_, Reconnecting> {
        self.signals().reconnecting.view()
    }

    /// A slot of this socket panicked; the others still ran.
    pub fn slot_panicked(&self) -> SignalRef<'_, SlotPanicked> {
        self.signals().slot_panicked.view()
    }
}
