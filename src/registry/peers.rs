//! [`Peers`]: the connections of a listener or client that wires and scripts
//! write to, as the registry knows them. Whoever owns the connections
//! implements it; nothing in it waits but [`room`](Peers::room).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::call::Party;
use crate::event::ConnectionId;

/// The connections of one object.
pub(crate) trait Peers: Send + Sync + fmt::Debug {
    /// Puts one message into the queues of those that are meant, in the framing of the object. What their
    /// overflow policies drop is counted and said there.
    ///
    /// # Errors
    /// [`SendError`], and nobody gets it.
    fn send(&self, to: To, data: &[u8]) -> Result<(), SendError>;

    /// Whether nobody that is meant is full and blocks.
    fn has_room(&self, to: To) -> bool;

    /// Waits for that. Ready too when those have gone. Cancel safe.
    fn room<'a>(&'a self, to: To) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

    /// Ends a connection; none stands for the one of a client. `false`: there is none.
    fn end(&self, connection: Option<ConnectionId>, how: Ending) -> bool;

    /// Those that are there, oldest first.
    fn parties(&self) -> Vec<Arc<Party>>;
}

/// Who is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// This one.
    One(ConnectionId),
    /// All, or all others. Of a client: its target, also while it is not connected.
    All { but: Option<ConnectionId> },
}

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// What waits is written, then both halves are finished.
    Close,
    /// At once, by a reset.
    Abort,
    /// What waits is written, then our half is finished; the other one goes on.
    ShutdownWrite,
}

/// Why something was sent to nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    /// There is no such connection.
    NoConnection,
    /// It cannot be put into a frame; why.
    Unsendable(String),
}
