//! [`Overflow`]: what happens when as much waits for a destination as may.

/// What happens when as much waits for a destination as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Its sources are not read until there is room: they wait for the slowest.
    Block,
    /// Its sources wait for a moment (a second, 0.4 s while it takes nothing, and
    /// not at all if it has taken nothing for a second); if it has not caught up
    /// then, it is disconnected as a slow consumer.
    Disconnect,
    /// The oldest frames are dropped, and counted.
    DropOldest,
    /// The new frames are dropped, and counted.
    DropNewest,
}

impl Overflow {
    /// Every policy there is.
    pub const ALL: [Self; 4] = [Self::Block, Self::Disconnect, Self::DropOldest, Self::DropNewest];

    /// How it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Disconnect => "disconnect",
            Self::DropOldest => "drop_oldest",
            Self::DropNewest => "drop_newest",
        }
    }

    /// Tells whether frames may be lost, which needs frames.
    pub const fn drops(self) -> bool {
        matches!(self, Self::DropOldest | Self::DropNewest)
    }
}

/// How much may wait for a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueLimit {
    /// In bytes, with [`QUEUE_PLACE`](super::QUEUE_PLACE) for each piece. An empty queue takes a piece of any size.
    pub(crate) max: usize,
    pub(crate) overflow: Overflow,
}
