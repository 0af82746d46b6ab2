//! Why a slot was not called, or could not do what it was called for.

use crate::event::ConnectionId;

/// Why a call had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// There is no object of this name.
    #[error("no object is called `{object}`{hint}")]
    NoObject {
        /// The name that was asked for.
        object: String,
        /// What there is instead.
        hint: String,
    },
    /// The object has no such slot.
    #[error("`{object}` has no slot `{slot}`{hint}")]
    NoSlot {
        /// The object.
        object: String,
        /// The slot.
        slot: String,
        /// What there is instead.
        hint: String,
    },
    /// An argument is missing, unknown, or not what the slot takes.
    #[error("{0}")]
    Argument(String),
    /// The bytes of the object are not for slots.
    #[error("`{object}` cannot be written to: {why}")]
    NotWired {
        /// The object.
        object: String,
        /// Why, and what to try.
        why: String,
    },
    /// The listener is closed for good.
    #[error("`{object}` is closed; reload the config to open it again")]
    Closed {
        /// The object.
        object: String,
    },
    /// There is no such connection.
    #[error("`{object}` has no connection {connection} any more; `node status` shows those there are")]
    NoConnection {
        /// The object.
        object: String,
        /// The connection.
        connection: ConnectionId,
    },
    /// The client is not connected.
    #[error("`{object}` is not connected")]
    NotConnected {
        /// The client.
        object: String,
    },
    /// The data cannot be put into a frame.
    #[error("cannot be sent to `{object}`: {why}")]
    Unsendable {
        /// The object.
        object: String,
        /// Why.
        why: String,
    },
    /// A signal would be emitted by what it has led to.
    #[error("cut, since it would go on for ever: {way}; emit another signal, or remove one of its wires")]
    Loop {
        /// The signals, with arrows between them.
        way: String,
    },
    /// There was no room within the limit of a wait.
    #[error("`{object}` had no room within {limit}; it is not emptied")]
    Full {
        /// The object.
        object: String,
        /// The limit, in words.
        limit: String,
    },
    /// A script failed; the text names file, line and traceback.
    #[error("{0}")]
    Script(String),
}
