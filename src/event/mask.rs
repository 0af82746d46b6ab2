//! Sets of kinds of events, for subscriptions.

use super::EventKind;

/// A set of [`EventKind`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventMask(u32);

impl EventMask {
    /// No kind.
    pub const NONE: Self = Self(0);
    /// Every kind.
    pub const ALL: Self = Self((1 << EventKind::ALL.len()) - 1);
    /// The coalesced kinds, `ready_read` and `bytes_written`.
    pub const LEVEL: Self = Self(1 << EventKind::ReadyRead as u8 | 1 << EventKind::BytesWritten as u8);
    /// Every kind that is not coalesced.
    pub const DISCRETE: Self = Self(Self::ALL.0 & !Self::LEVEL.0);

    /// The set of these kinds.
    pub const fn of(kinds: &[EventKind]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < kinds.len() {
            bits |= 1 << kinds[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    /// Tells whether `kind` is in the set.
    pub const fn contains(self, kind: EventKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// Tells whether the two sets share a kind.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The kinds of this set whose bits are set in `bits`.
    pub(crate) const fn restrict(self, bits: u32) -> Self {
        Self(self.0 & bits)
    }
}
