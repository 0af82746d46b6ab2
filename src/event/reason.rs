//! Why connections end ([`Reason`]), and why a client is refused or has to
//! wait ([`Restriction`]).

use std::fmt;

use serde::Serialize;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Both sides had finished (FIN each way). The only clean end.
    Closed,
    /// The peer aborted (RST), or closed while bytes were still meant for it.
    Reset,
    /// The peer stopped answering: keepalive, or the kernel gave up sending.
    TimedOut,
    /// The socket failed in another way; `error_occurred` says how.
    Failed,
    /// The other connection of the pair ended abnormally; this one was reset.
    PartnerLost,
    /// No target could be reached; the client was reset.
    NoTarget,
    /// Nothing moved in either direction for the idle timeout; reset.
    Idle,
    /// One side had finished and the other did not within the limit; reset, if it was of a pair.
    HalfClosed,
    /// The node stopped before the connection did; reset.
    Shutdown,
    /// Its task ended early (a panic), and it was reset; or a socket's owner aborted it.
    Aborted,
    /// Somebody asked for it (`node call node.disconnect ID`); reset.
    Killed,
    /// Too much waited for it, and it did not catch up; reset.
    SlowConsumer,
    /// It sent a frame that is longer than allowed; reset.
    FrameTooLong,
    /// It sent what its framing does not allow; reset.
    MalformedFrame,
    /// It finished inside a frame, which was not passed on; reset.
    TruncatedFrame,
    /// Memory for unfinished frames was needed, and its was the oldest; reset.
    StalledFrame,
    /// It closed a TLS connection without saying its end in TLS, so something may be missing; reset.
    Truncated,
    /// It waited in a bridge for longer than it may, or as many as may wait did already; reset.
    NoPartner,
    /// A request had no answer, and another one could be taken for it; reset.
    Unanswered,
    /// It did not say its name, or said that of another; reset.
    Unnamed,
}

impl Reason {
    /// The word used in logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::TimedOut => "timed_out",
            Self::Failed => "failed",
            Self::PartnerLost => "partner_lost",
            Self::NoTarget => "no_target",
            Self::Idle => "idle",
            Self::HalfClosed => "half_closed",
            Self::Shutdown => "shutdown",
            Self::Aborted => "aborted",
            Self::Killed => "killed",
            Self::SlowConsumer => "slow_consumer",
            Self::FrameTooLong => "frame_too_long",
            Self::MalformedFrame => "malformed_frame",
            Self::TruncatedFrame => "truncated_frame",
            Self::StalledFrame => "stalled_frame",
            Self::Truncated => "truncated",
            Self::NoPartner => "no_partner",
            Self::Unanswered => "unanswered",
            Self::Unnamed => "unnamed",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What keeps a client out, for now or for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Restriction {
    /// The allow and deny lists.
    Access,
    /// So many connections at once.
    MaxConnections,
    /// So many connections of one address at once.
    MaxConnectionsPerAddress,
    /// So many connections a second.
    AcceptRate,
}

impl Restriction {
    /// The word used in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::MaxConnections => "max_connections",
            Self::MaxConnectionsPerAddress => "max_connections_per_address",
            Self::AcceptRate => "accept_rate",
        }
    }

    /// The same for people.
    #[cfg(feature = "cli")]
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Access => "the access list",
            Self::MaxConnections => "as many are connected as may be",
            Self::MaxConnectionsPerAddress => "as many of one address are connected as may be",
            Self::AcceptRate => "as many came in this second as may",
        }
    }
}
