//! [`PeerOptions`]: what a peer is told first, and how long it may be silent.

use std::time::Duration;

use bytes::Bytes;

use crate::framing::Expect;

/// What is said to the peers of a listener or client, and how long they may be silent. Off as a whole.
///
/// While we do not read a peer, since there is no room for what it says, the
/// time of that does not count; nor does it once the peer has finished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerOptions {
    /// Sent after each connect, before anything else: one message where there
    /// is a framing, which adds what tells messages apart, and these bytes
    /// otherwise. At most 64 KiB.
    pub hello: Option<Bytes>,
    /// Asks every peer whether it is alive. Only where messages have a framing.
    pub heartbeat: Option<Heartbeat>,
    /// Ends a connection from which nothing has come for so long.
    pub read_timeout: Option<Duration>,
    /// Ends a connection for which bytes wait and that has taken none for so long.
    pub write_timeout: Option<Duration>,
    /// Ends a connection that has not sent a whole message so long after its
    /// beginning; without a framing, a byte.
    pub first_frame_timeout: Option<Duration>,
}

/// Probes, and what answers them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The probe: the body of one message.
    pub send: Bytes,
    /// Time from one probe to the next.
    pub every: Duration,
    /// Time for the answer, from when the probe was written; at most `every`.
    pub within: Duration,
    /// The answer. The first message that is it after a probe goes no further.
    /// `None`: any byte is an answer, and all go on.
    pub expect: Option<Expect>,
}

impl PeerOptions {
    /// The most bytes a hello may have.
    pub(crate) const MOST_HELLO: usize = 64 << 10;

    /// Tells whether any time is watched.
    pub(crate) fn has_limits(&self) -> bool {
        let Self { hello: _, heartbeat, read_timeout, write_timeout, first_frame_timeout } = self;
        heartbeat.is_some()
            || read_timeout.is_some()
            || write_timeout.is_some()
            || first_frame_timeout.is_some()
    }
}
