//! The facts that ride the bus: one closed list, each variant with its
//! contract. Payload never does. Adding an event means adding a variant here,
//! its line in [`EventKind`], and the place that emits it.

mod cause;
mod ends;
mod mask;
mod reason;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

pub use self::cause::{DropCause, RequestFault};
pub use self::ends::{ConnectionId, Endpoint};
pub(crate) use self::ends::{ConnectionMap, Introduction};
pub use self::mask::EventMask;
pub use self::reason::{Reason, Restriction};

/// The life of a connection, in Qt's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum State {
    /// Not begun, or over.
    Unconnected,
    /// The name is being looked up.
    HostLookup,
    /// Addresses are being tried.
    Connecting,
    /// Bytes can flow.
    Connected,
    /// What is left is being delivered; then it ends.
    Closing,
}

/// A fact about the node or one of its connections.
///
/// Per connection the order is `new_connection` or `connected`, then
/// `ready_read`*, then at most one `read_finished`, then exactly one
/// `disconnected`, which is last. `bytes_written` comes anywhere between the
/// first and the last. Between connections only [`Envelope::seq`] orders.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A listener is bound and accepts.
    ///
    /// From: the node's start, once per bound address; and a reload, for what
    /// it has bound and what has another name since.
    /// Carries: the address with its real port.
    Listening {
        /// The listener's name.
        endpoint: Arc<str>,
        /// What it is bound to.
        address: Endpoint,
    },
    /// Accepting failed; it goes on after a pause.
    ///
    /// From: the listener's task, after each failure that is not one client's.
    AcceptError {
        /// The listener's name.
        endpoint: Arc<str>,
        /// What the kernel said.
        error: String,
    },
    /// As many clients are connected, or came in this second, as may; more wait in the backlog.
    ///
    /// From: the listener's task, each time it finds no place and before it
    /// accepts again; for the rate at most once a second.
    AcceptPaused {
        /// The listener's name.
        endpoint: Arc<str>,
        /// Which limit it is.
        cause: Restriction,
        /// How many may be connected, or come in a second.
        connections: usize,
    },
    /// A client was reset because it may not connect, or has too many connections.
    ///
    /// From: the listener's task. No `new_connection` follows, and no target
    /// was contacted.
    AcceptRejected {
        /// The listener's name.
        endpoint: Arc<str>,
        /// Who it was.
        peer: Endpoint,
        /// What speaks against it.
        cause: Restriction,
    },
    /// A connection ended before it was a client: its PROXY header or its TLS handshake was
    /// wrong, or not there in time.
    ///
    /// From: the listener's task. No `new_connection` follows, and no target was contacted.
    HandshakeFailed {
        /// The listener's name.
        endpoint: Arc<str>,
        /// Where it came from.
        peer: Endpoint,
        /// What went wrong.
        error: String,
    },
    /// A failover: later clients of a relay get another of its targets, or its one connection leads there.
    ///
    /// From: the session of the first of them, or the task of that connection. Each target is named by its client object.
    TargetChanged {
        /// The relay's name.
        endpoint: Arc<str>,
        /// The target that clients got before.
        from: Arc<str>,
        /// The target that they get now.
        to: Arc<str>,
        /// The same as it is dialled.
        target: String,
    },
    /// A client was accepted.
    ///
    /// From: the listener's task. Order: first of its connection.
    NewConnection {
        /// The accepted connection.
        connection: ConnectionId,
        /// The listener's name.
        endpoint: Arc<str>,
        /// The client; where a proxy has announced it, as announced.
        peer: Endpoint,
        /// The address it came to; where a proxy has announced it, as announced.
        local: Endpoint,
        /// The name in its certificate, if it had to show one.
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<Arc<str>>,
        /// The proxy that has announced it.
        #[serde(skip_serializing_if = "Option::is_none")]
        via: Option<Endpoint>,
    },
    /// A connection went from one [`State`] to another.
    ///
    /// From: the connection's task. An accepted connection starts as
    /// `connected` without saying so.
    StateChanged {
        /// The connection.
        connection: ConnectionId,
        /// The name of its listener or target.
        endpoint: Arc<str>,
        /// The state it left.
        from: State,
        /// The state it is in.
        to: State,
    },
    /// The addresses of a target are known.
    ///
    /// From: the dial. Order: between the states `connecting` and `connected`.
    HostFound {
        /// The connection being made.
        connection: ConnectionId,
        /// The name of its listener or target.
        endpoint: Arc<str>,
        /// How many addresses will be raced.
        addresses: usize,
    },
    /// A dial succeeded.
    ///
    /// From: the dial. Order: first of its connection, after its states.
    Connected {
        /// The dialled connection.
        connection: ConnectionId,
        /// The target's name.
        endpoint: Arc<str>,
        /// The accepted connection it was made for.
        partner: Option<ConnectionId>,
        /// The address that answered.
        peer: Endpoint,
        /// Our own address.
        local: Endpoint,
    },
    /// A dial failed: one target, with all its addresses.
    ///
    /// From: the dial; failover is the next dial. No `disconnected` follows.
    ConnectFailed {
        /// The connection that did not come to be.
        connection: ConnectionId,
        /// The target's name.
        endpoint: Arc<str>,
        /// The target as configured.
        target: String,
        /// The accepted connection it was meant for.
        partner: Option<ConnectionId>,
        /// What went wrong.
        error: String,
    },
    /// Bytes from a peer arrived.
    ///
    /// From: the connection's task; coalesced, at most one outstanding.
    /// Carries: the total received so far, in bytes.
    ReadyRead {
        /// The connection.
        connection: ConnectionId,
        /// The name of its listener or target.
        endpoint: Arc<str>,
        /// Bytes received since it began.
        received: u64,
    },
    /// Bytes were handed to the kernel for a peer.
    ///
    /// From: the connection's task; coalesced, at most one outstanding.
    /// Carries: the total sent so far, in bytes.
    BytesWritten {
        /// The connection.
        connection: ConnectionId,
        /// The name of its listener or target.
        endpoint: Arc<str>,
        /// Bytes sent since it began.
        sent: u64,
    },
    /// The peer has finished sending (FIN); we may still send to it.
    ///
    /// From: the connection's task, at most once. Not an error.
    ReadFinished {
        /// The connection.
        connection: ConnectionId,
        /// The name of its listener or target.
        endpoint: Arc<str>,
        /// Bytes received in all.
        received: u64,
    },
    /// The connection broke.
    ///
    /// Order: after its last `state_changed`, before its `disconnected`.
    ErrorOccurred {
        /// The connection.
        connection: ConnectionId,
        /// The name of its listener or target.
        endpoint: Arc<str>,
        /// What the kernel said.
        error: String,
    },
    /// The connection is over.
    ///
    /// From: whoever owned it, exactly once, always last of its connection.
    Disconnected {
        /// The connection.
        connection: ConnectionId,
        /// The listener's or target's name.
        endpoint: Arc<str>,
        /// The connection this one was made for, if it was dialled.
        partner: Option<ConnectionId>,
        /// The peer.
        peer: Endpoint,
        /// Our own address.
        local: Endpoint,
        /// The name in its certificate, if it had to show one.
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<Arc<str>>,
        /// Why.
        reason: Reason,
        /// Bytes received from the peer.
        received: u64,
        /// Bytes handed to the kernel for the peer. After a reset, ours
        /// included, the peer may have got less.
        sent: u64,
        /// Bytes taken for the peer that were not handed to the kernel.
        unsent: u64,
        /// Time since it was accepted, or since its dial began.
        #[serde(rename = "seconds", serialize_with = "seconds")]
        duration: Duration,
    },
    /// A peer has not answered a probe in time, and is given up.
    ///
    /// From: the connection's task. Order: its `disconnected`, with the reason `heartbeat`, is next.
    HeartbeatMissed {
        /// The connection.
        connection: ConnectionId,
        /// Its listener's or target's name.
        endpoint: Arc<str>,
        /// The peer.
        peer: Endpoint,
        /// Our own address.
        local: Endpoint,
        /// The name in its certificate, if it had to show one.
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<Arc<str>>,
        /// How long was waited.
        #[serde(rename = "seconds", serialize_with = "seconds")]
        within: Duration,
    },
    /// Events were lost for everyone, because the outbox was full.
    ///
    /// From: the dispatcher. Each subscription also counts them as
    /// [`Delivery::Lagged`](crate::bus::Delivery::Lagged).
    Lagged {
        /// How many.
        missed: u64,
    },
    /// A direct slot panicked; the others still ran.
    ///
    /// From: the dispatcher.
    SlotPanicked {
        /// Where the slot was connected, as `file:line:column`.
        slot: String,
    },
    /// Half of what may wait for a connection does.
    ///
    /// From: whoever put it there. Order: a `write_buffer_low` comes before the next one.
    WriteBufferHigh {
        /// The connection; none while a target that is kept connected is not.
        connection: Option<ConnectionId>,
        /// Its listener's or target's name.
        endpoint: Arc<str>,
        /// Bytes that wait for it.
        waiting: u64,
    },
    /// It is down to a quarter again.
    WriteBufferLow {
        /// The connection; none while a target that is kept connected is not.
        connection: Option<ConnectionId>,
        /// Its listener's or target's name.
        endpoint: Arc<str>,
        /// Bytes that wait for it.
        waiting: u64,
    },
    /// Frames were dropped.
    ///
    /// From: whoever dropped them, at most once a second for a connection and a cause, and at its end.
    /// Carries: the totals of the connection and the cause.
    FramesDropped {
        /// The connection they were for, or with the causes `unheard`, `unsendable`,
        /// `frame_too_long` and `malformed_frame` the one they came from. None while a target that is kept
        /// connected is not.
        connection: Option<ConnectionId>,
        /// Its listener's or target's name.
        endpoint: Arc<str>,
        /// Why.
        cause: DropCause,
        /// How many since it began; bytes that no frame was made of are not in it.
        frames: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// Requests have no answer and will have none.
    ///
    /// From: whoever found out, at most once a second for a connection and a fault, and at its end.
    /// Carries: the total of the connection and the fault.
    RequestFailed {
        /// The client that had asked; none for those that have left.
        connection: Option<ConnectionId>,
        /// Its listener's name; for those that have left, the target's.
        endpoint: Arc<str>,
        /// Why.
        fault: RequestFault,
        /// How many since it began.
        requests: u64,
    },
    /// A target that is kept connected will be dialled again.
    ///
    /// From: the client's task, after a `connect_failed` or a `disconnected`.
    Reconnecting {
        /// The target's name.
        endpoint: Arc<str>,
        /// The target as configured.
        target: String,
        /// Attempts since it was last connected for a while, this one included.
        attempt: u32,
        /// Time until then.
        #[serde(rename = "seconds", serialize_with = "seconds")]
        pause: Duration,
    },
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e6)
}

impl Event {
    /// The name of the listener or target it is about, if it is about one.
    pub fn endpoint(&self) -> Option<&Arc<str>> {
        match self {
            Self::Listening { endpoint, .. }
            | Self::AcceptError { endpoint, .. }
            | Self::AcceptPaused { endpoint, .. }
            | Self::AcceptRejected { endpoint, .. }
            | Self::HandshakeFailed { endpoint, .. }
            | Self::NewConnection { endpoint, .. }
            | Self::StateChanged { endpoint, .. }
            | Self::HostFound { endpoint, .. }
            | Self::Connected { endpoint, .. }
            | Self::ConnectFailed { endpoint, .. }
            | Self::ReadyRead { endpoint, .. }
            | Self::BytesWritten { endpoint, .. }
            | Self::ReadFinished { endpoint, .. }
            | Self::ErrorOccurred { endpoint, .. }
            | Self::HeartbeatMissed { endpoint, .. }
            | Self::Disconnected { endpoint, .. }
            | Self::WriteBufferHigh { endpoint, .. }
            | Self::WriteBufferLow { endpoint, .. }
            | Self::FramesDropped { endpoint, .. }
            | Self::RequestFailed { endpoint, .. }
            | Self::Reconnecting { endpoint, .. }
            | Self::TargetChanged { endpoint, .. } => Some(endpoint),
            Self::Lagged { .. } | Self::SlotPanicked { .. } => None,
        }
    }

    /// Which of the kinds this is.
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::Listening { .. } => EventKind::Listening,
            Self::AcceptError { .. } => EventKind::AcceptError,
            Self::AcceptPaused { .. } => EventKind::AcceptPaused,
            Self::AcceptRejected { .. } => EventKind::AcceptRejected,
            Self::HandshakeFailed { .. } => EventKind::HandshakeFailed,
            Self::NewConnection { .. } => EventKind::NewConnection,
            Self::StateChanged { .. } => EventKind::StateChanged,
            Self::HostFound { .. } => EventKind::HostFound,
            Self::Connected { .. } => EventKind::Connected,
            Self::ConnectFailed { .. } => EventKind::ConnectFailed,
            Self::ReadyRead { .. } => EventKind::ReadyRead,
            Self::BytesWritten { .. } => EventKind::BytesWritten,
            Self::ReadFinished { .. } => EventKind::ReadFinished,
            Self::ErrorOccurred { .. } => EventKind::ErrorOccurred,
            Self::Disconnected { .. } => EventKind::Disconnected,
            Self::Lagged { .. } => EventKind::Lagged,
            Self::SlotPanicked { .. } => EventKind::SlotPanicked,
            Self::WriteBufferHigh { .. } => EventKind::WriteBufferHigh,
            Self::WriteBufferLow { .. } => EventKind::WriteBufferLow,
            Self::FramesDropped { .. } => EventKind::FramesDropped,
            Self::RequestFailed { .. } => EventKind::RequestFailed,
            Self::Reconnecting { .. } => EventKind::Reconnecting,
            Self::TargetChanged { .. } => EventKind::TargetChanged,
            Self::HeartbeatMissed { .. } => EventKind::HeartbeatMissed,
        }
    }
}

/// The kinds of [`Event`], for masks and filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "each variant is documented at the event of its name")]
#[non_exhaustive]
pub enum EventKind {
    Listening,
    AcceptError,
    AcceptPaused,
    AcceptRejected,
    HandshakeFailed,
    NewConnection,
    StateChanged,
    HostFound,
    Connected,
    ConnectFailed,
    ReadyRead,
    BytesWritten,
    ReadFinished,
    ErrorOccurred,
    Disconnected,
    Lagged,
    SlotPanicked,
    WriteBufferHigh,
    WriteBufferLow,
    FramesDropped,
    RequestFailed,
    Reconnecting,
    TargetChanged,
    HeartbeatMissed,
}

impl EventKind {
    /// The word used in logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::AcceptError => "accept_error",
            Self::AcceptPaused => "accept_paused",
            Self::AcceptRejected => "accept_rejected",
            Self::HandshakeFailed => "handshake_failed",
            Self::NewConnection => "new_connection",
            Self::StateChanged => "state_changed",
            Self::HostFound => "host_found",
            Self::Connected => "connected",
            Self::ConnectFailed => "connect_failed",
            Self::ReadyRead => "ready_read",
            Self::BytesWritten => "bytes_written",
            Self::ReadFinished => "read_finished",
            Self::ErrorOccurred => "error_occurred",
            Self::Disconnected => "disconnected",
            Self::Lagged => "lagged",
            Self::SlotPanicked => "slot_panicked",
            Self::WriteBufferHigh => "write_buffer_high",
            Self::WriteBufferLow => "write_buffer_low",
            Self::FramesDropped => "frames_dropped",
            Self::RequestFailed => "request_failed",
            Self::Reconnecting => "reconnecting",
            Self::TargetChanged => "target_changed",
            Self::HeartbeatMissed => "heartbeat_missed",
        }
    }

    /// All kinds, in the order of declaration.
    pub const ALL: [Self; 24] = [
        Self::Listening,
        Self::AcceptError,
        Self::AcceptPaused,
        Self::AcceptRejected,
        Self::HandshakeFailed,
        Self::NewConnection,
        Self::StateChanged,
        Self::HostFound,
        Self::Connected,
        Self::ConnectFailed,
        Self::ReadyRead,
        Self::BytesWritten,
        Self::ReadFinished,
        Self::ErrorOccurred,
        Self::Disconnected,
        Self::Lagged,
        Self::SlotPanicked,
        Self::WriteBufferHigh,
        Self::WriteBufferLow,
        Self::FramesDropped,
        Self::RequestFailed,
        Self::Reconnecting,
        Self::TargetChanged,
        Self::HeartbeatMissed,
    ];

    /// Tells whether notices of this kind are coalesced and carry totals.
    pub const fn is_level(self) -> bool {
        matches!(self, Self::ReadyRead | Self::BytesWritten)
    }

    /// Tells whether the outbox always has a place for it.
    pub(crate) const fn is_reserved(self) -> bool {
        matches!(self, Self::NewConnection | Self::Connected | Self::ConnectFailed | Self::Disconnected)
    }
}

/// An event with the stamp of the dispatcher.
#[derive(Clone, Debug, Serialize)]
pub struct Envelope {
    /// Place in the one order of all events of the node, from 1.
    pub seq: u64,
    /// When it happened; for the coalesced kinds, when they were told.
    #[serde(rename = "timestamp", serialize_with = "timestamp")]
    pub at: SystemTime,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// Place among the events of the same channel, by which loss is counted.
    #[serde(skip)]
    pub(crate) nth: u64,
}

fn timestamp<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_micros(*at))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn the_list_of_kinds_is_the_list_of_bits() {
        for (i, kind) in EventKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, i);
            assert!(EventMask::ALL.contains(kind));
            assert_eq!(EventMask::LEVEL.contains(kind), kind.is_level());
            assert_eq!(EventMask::DISCRETE.contains(kind), !kind.is_level());
        }
    }

    #[test]
    fn mapped_addresses_are_shown_as_ipv4() {
        let seen: SocketAddr = "[::ffff:192.0.2.1]:5".parse().unwrap();
        assert_eq!(Endpoint::from(seen).to_string(), "192.0.2.1:5");
    }
}
