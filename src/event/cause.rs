//! Why frames are dropped.

use serde::Serialize;

/// Why frames were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
}

impl DropCause {
    /// Every cause there is.
    pub const ALL: [Self; 5] =
        [Self::Overflow, Self::Unheard, Self::Unsendable, Self::Stopped, Self::Unknown];

    /// The word used in logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Unheard => "unheard",
            Self::Unsendable => "unsendable",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        }
    }
}
