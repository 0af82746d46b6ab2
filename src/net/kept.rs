//! [`Kept`]: what was written to a destination and is not known to have
//! arrived. An acknowledgement ends anywhere; here it is cut into frames.

use std::collections::VecDeque;

use bytes::Buf;

use super::queue::Piece;
use crate::framing::Framing;

/// Pieces of whole frames, in the order in which they were written.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pieces: VecDeque<Piece>,
    /// All bytes of these.
    bytes: u64,
    /// Frames of this connection that have arrived.
    arrived: u64,
    /// They are for the next connection if this one ends too early, and count towards the limit until then.
    resends: bool,
}

/// What need not be kept any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Released {
    pub(super) pieces: usize,
    pub(super) bytes: usize,
}

impl Kept {
    pub(super) fn new(resends: bool) -> Self {
        Self { resends, ..Self::default() }
    }

    /// Whether it is for the next connection too.
    pub(super) fn resends(&self) -> bool {
        self.resends
    }

    pub(super) fn push(&mut self, piece: Piece) {
        self.bytes += piece.bytes.len() as u64;
        self.pieces.push_back(piece);
    }

    /// Takes back the piece that was written last.
    pub(super) fn pop_back(&mut self) -> Option<Piece> {
        let piece = self.pieces.pop_back()?;
        self.bytes -= piece.bytes.len() as u64;
        Some(piece)
    }

    /// How many frames of this connection have arrived.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// All bytes of the connection but so many have arrived; `begun` more were written of a frame that is not here yet.
    pub(super) fn acknowledged(&mut self, unacknowledged: u64, begun: u64, framing: Framing) -> Released {
        let mut arrived = (self.bytes + begun).saturating_sub(unacknowledged);
        self.release(|piece| {
            if arrived >= piece.bytes.len() as u64 {
                arrived -= piece.bytes.len() as u64;
                return (piece.bytes.len(), piece.frames);
            }
            let cut = whole(framing, &piece.bytes, arrived as usize);
            arrived = 0;
            cut
        })
    }

    /// The first so many frames of the connection have arrived.
    pub(super) fn answered(&mut self, first: u64, framing: Framing) -> Released {
        let mut left = first.saturating_sub(self.arrived);
        self.release(|piece| {
            let frames = left.min(piece.frames);
            left -= frames;
            match frames == piece.frames {
                true => (piece.bytes.len(), frames),
                false => ((0..frames).fold(0, |end, _| end + framing.first_end(&piece.bytes[end..])), frames),
            }
        })
    }

    /// Drops so much from the front of each piece, up to the first that stays.
    fn release(&mut self, mut done: impl FnMut(&Piece) -> (usize, u64)) -> Released {
        let mut released = Released::default();
        while let Some(piece) = self.pieces.front_mut() {
            let (bytes, frames) = done(piece);
            piece.bytes.advance(bytes);
            piece.frames -= frames;
            self.bytes -= bytes as u64;
            self.arrived += frames;
            released.bytes += bytes;
            if piece.frames > 0 {
                break;
            }
            self.pieces.pop_front();
            released.pieces += 1;
        }
        released
    }

    /// The connection is over.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.resends);
    }
}

/// The whole frames among the first so many bytes: where they end, and how many they are.
pub(super) fn whole(framing: Framing, bytes: &[u8], within: usize) -> (usize, u64) {
    let (mut end, mut frames) = (0, 0);
    while end < within {
        let next = end + framing.first_end(&bytes[end..]);
        if next > within {
            break;
        }
        (end, frames) = (next, frames + 1);
    }
    (end, frames)
}
