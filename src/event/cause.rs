//! Why frames are dropped, and why requests have no answer.

use serde::Serialize;

/// Why frames were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum DropCause {
    /// The queue of the connection they were for was full.
    Overflow,
    /// Nobody hears what comes from this connection.
    Unheard,
    /// They cannot be written in the framing of those who hear it.
    Unsendable,
    /// The node stopped, or a reload removed their target, before they could be written.
    Stopped,
    /// They are answers for a client that is not there.
    Unknown,
    /// The client that had asked has left: its requests that waited, or answers to it.
    Left,
    /// Answers that came after their request had failed.
    Late,
    /// Answers to which there was no request.
    Unasked,
    /// A filter of the relay let nothing of them through.
    Filtered,
    /// They are longer than allowed, and what is bad is left out (`bad_frame = "skip"`).
    FrameTooLong,
    /// They are not what the framing allows, or it is between frames; left out likewise.
    MalformedFrame,
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum RequestFault {
    /// It was sent, and no answer came in time; it may have been carried out.
    TimedOut,
    /// It was sent, and the connection ended before an answer came; it may have been carried out.
    LinkLost,
    /// It was not sent, because the target was not connected in time.
    NoLink,
}

impl DropCause {
    /// Every cause there is.
    pub const ALL: [Self; 11] = [
        Self::Overflow,
        Self::Unheard,
        Self::Unsendable,
        Self::Stopped,
        Self::Unknown,
        Self::Left,
        Self::Late,
        Self::Unasked,
        Self::Filtered,
        Self::FrameTooLong,
        Self::MalformedFrame,
    ];

    /// The word used in logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Unheard => "unheard",
            Self::Unsendable => "unsendable",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
            Self::Left => "left",
            Self::Late => "late",
            Self::Unasked => "unasked",
            Self::Filtered => "filtered",
            Self::FrameTooLong => "frame_too_long",
            Self::MalformedFrame => "malformed_frame",
        }
    }
}

impl RequestFault {
    /// Every fault there is.
    pub const ALL: [Self; 3] = [Self::TimedOut, Self::LinkLost, Self::NoLink];

    /// The word used in logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::LinkLost => "link_lost",
            Self::NoLink => "no_link",
        }
    }
}
