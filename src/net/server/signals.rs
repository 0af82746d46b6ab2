//! What the signals of a [`TcpServer`](super::TcpServer) carry.

use std::fmt;
use std::sync::Weak;
use std::time::SystemTime;

use super::Shared;
use crate::event::{ConnectionId, Endpoint};
use crate::net::error::SocketError;
use crate::net::socket::TcpSocket;
use crate::signal::{Owner, Signal, SlotPanicked};

/// A client was accepted, and waits to be taken.
#[derive(Clone)]
#[non_exhaustive]
pub struct NewConnection {
    /// The connection.
    pub connection: ConnectionId,
    /// The client.
    pub peer: Endpoint,
    /// The address it came to.
    pub local: Endpoint,
    /// When.
    pub at: SystemTime,
    pub(super) server: Weak<Shared>,
}

/// Accepting failed; it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcceptError {
    /// What the kernel said.
    pub error: SocketError,
    /// How often in a row.
    pub count: u64,
}

/// A client was reset because it may not connect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcceptRejected {
    /// Who it was.
    pub peer: Endpoint,
}

#[derive(Debug)]
pub(super) struct Signals {
    pub(super) new_connection: Signal<NewConnection>,
    pub(super) accept_error: Signal<AcceptError>,
    pub(super) accept_rejected: Signal<AcceptRejected>,
    pub(super) slot_panicked: Signal<SlotPanicked>,
}

impl Signals {
    pub(super) fn new(owner: &Weak<dyn Owner>) -> Self {
        Self {
            new_connection: Signal::of(owner.clone()),
            accept_error: Signal::of(owner.clone()),
            accept_rejected: Signal::of(owner.clone()),
            slot_panicked: Signal::new(),
        }
    }
}

impl NewConnection {
    /// Takes the client's socket out of the pending ones, unless somebody else has.
    pub fn take(&self) -> Option<TcpSocket> {
        self.server.upgrade()?.take(self.connection)
    }
}

impl fmt::Debug for NewConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewConnection")
            .field("connection", &self.connection)
            .field("peer", &self.peer)
            .field("local", &self.local)
            .field("at", &self.at)
            .finish()
    }
}
