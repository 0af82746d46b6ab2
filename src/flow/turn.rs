//! How long a flow may go on before others get their turn. A large turn makes
//! bulk cheap, since the cost of a byte follows the bytes of a system call; a
//! small one keeps a neighbour's messages quick. So turns are large among
//! bulk flows alone, and share a fixed amount as soon as anyone sends little.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What the flows of a node know of each other.
#[derive(Debug)]
pub(crate) struct Turns {
    /// The largest read, in bytes.
    max_read: usize,
    /// Flows that had more to move than their last turn allowed.
    bulk: AtomicU32,
    /// Turns of bulk flows since the last message of another.
    calm: AtomicU32,
}

impl Turns {
    pub(crate) const fn new(max_read: usize) -> Self {
        Self { max_read, bulk: AtomicU32::new(0), calm: AtomicU32::new(0) }
    }

    /// The largest read, in bytes.
    pub(crate) const fn max_read(&self) -> usize {
        self.max_read
    }

    /// Bytes a flow may read in a turn that begins now; no limit among bulk flows alone.
    pub(super) fn bytes(&self) -> usize {
        if self.calm.load(Relaxed) >= CALM {
            return usize::MAX;
        }
        let flows = self.bulk.load(Relaxed).max(1) as usize;
        (SHARED / flows).max(LEAST)
    }

    /// A bulk flow has used its turn.
    pub(super) fn bulk_turn(&self) {
        if self.calm.load(Relaxed) < CALM {
            self.calm.fetch_add(1, Relaxed);
        }
    }

    /// A flow that sends little has done so.
    pub(super) fn message(&self) {
        // Nearly always so already; a load costs less than a store that all cores would have to see.
        if self.calm.load(Relaxed) != 0 {
            self.calm.store(0, Relaxed);
        }
    }

    /// A flow has become one of the bulk flows, or is none any more.
    pub(super) fn count(&self, is_bulk: bool) {
        if is_bulk {
            self.bulk.fetch_add(1, Relaxed);
        } else {
            self.bulk.fetch_sub(1, Relaxed);
        }
    }
}

/// Turns without a message, after which bulk flows are among themselves: some tenths of a second.
const CALM: u32 = 1_024;
/// What bulk flows read in one round beside others. A message waits for about two such rounds.
const SHARED: usize = 4 << 20;
/// Below this, system calls cost more than a neighbour gains.
const LEAST: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_shrink_for_a_neighbour_and_grow_when_it_is_silent() {
        let turns = Turns::new(4 << 20);
        for _ in 0..8 {
            turns.count(true);
        }
        assert_eq!(turns.bytes(), SHARED / 8);
        for _ in 0..CALM {
            turns.bulk_turn();
        }
        assert_eq!(turns.bytes(), usize::MAX);
        turns.message();
        assert_eq!(turns.bytes(), SHARED / 8);
        (0..7).for_each(|_| turns.count(false));
        assert_eq!(turns.bytes(), SHARED);
        (0..2_000).for_each(|_| turns.count(true));
        assert_eq!(turns.bytes(), LEAST);
    }
}
