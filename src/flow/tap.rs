//! [`Tap`]: a droppable, counted copy of the bytes of a relay. It holds a
//! bounded amount; what finds no room is skipped, and whoever reads the tap
//! sees the gap in the offsets.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::event::ConnectionId;

/// The writing end, which a relay feeds.
#[derive(Clone, Debug)]
pub struct Tap {
    shared: Arc<Shared>,
}

/// The reading end, for a thread of its own.
#[derive(Debug)]
pub struct TapReader {
    shared: Arc<Shared>,
}

/// A piece of one direction of one connection.
#[derive(Clone, Debug)]
pub struct TapChunk {
    /// The accepted connection.
    pub connection: ConnectionId,
    /// Which way the bytes went.
    pub direction: TapDirection,
    /// How many bytes of this direction came before. More than the end of
    /// the chunk before it says that the bytes between were skipped.
    pub offset: u64,
    /// When they were read.
    pub at: SystemTime,
    /// The bytes; empty when the direction is over.
    pub bytes: Vec<u8>,
}

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TapDirection {
    /// From the client to the target.
    ToTarget,
    /// From the target to the client.
    ToClient,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<TapChunk>,
    held: usize,
    readers_gone: bool,
    writers_gone: bool,
}

impl Tap {
    /// A tap and its reader.
    pub fn new() -> (Self, TapReader) {
        let shared = Arc::new(Shared::default());
        (Self { shared: Arc::clone(&shared) }, TapReader { shared })
    }

    /// Copies as much of `bytes` as there is room for.
    pub(crate) fn offer(&self, connection: ConnectionId, direction: TapDirection, offset: u64, bytes: &[u8]) {
        let mut state = self.shared.lock();
        let room = DATA_LIMIT.saturating_sub(state.held + PER_CHUNK).min(bytes.len());
        if state.readers_gone || room == 0 && !bytes.is_empty() || state.held + PER_CHUNK > LIMIT {
            return;
        }
        let bytes = bytes[..room].to_vec();
        state.held += bytes.len() + PER_CHUNK;
        state.chunks.push_back(TapChunk { connection, direction, offset, at: SystemTime::now(), bytes });
        drop(state);
        self.shared.filled.notify_one();
    }

    /// Ends the reader once it has read what is held. Later offers are dropped.
    pub fn close(&self) {
        self.shared.lock().writers_gone = true;
        self.shared.filled.notify_all();
    }
}

impl TapReader {
    /// Waits for the next chunk; `None` after [`Tap::close`]. Blocks its thread.
    pub fn next(&self) -> Option<TapChunk> {
        let mut state = self.shared.lock();
        loop {
            if let Some(chunk) = state.chunks.pop_front() {
                state.held -= chunk.bytes.len() + PER_CHUNK;
                return Some(chunk);
            }
            if state.writers_gone {
                return None;
            }
            state = self.shared.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for TapReader {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.readers_gone = true;
        state.chunks.clear();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes a tap holds, with what each chunk costs beside its bytes.
const LIMIT: usize = 5 << 20;
/// Data stops here, so that ends of connections find a place for their offsets.
const DATA_LIMIT: usize = 4 << 20;
const PER_CHUNK: usize = size_of::<TapChunk>();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_skipped_and_the_end_tells_how_much() {
        let (tap, reader) = Tap::new();
        let id = ConnectionId::next();
        let megabyte = vec![7; 1 << 20];
        for i in 0..8 {
            tap.offer(id, TapDirection::ToTarget, i << 20, &megabyte);
        }
        tap.offer(id, TapDirection::ToTarget, 8 << 20, &[]);
        tap.close();
        let mut seen = 0;
        let mut end = None;
        while let Some(chunk) = reader.next() {
            assert_eq!(chunk.offset, if chunk.bytes.is_empty() { 8 << 20 } else { seen });
            seen += chunk.bytes.len() as u64;
            end = Some(chunk.offset);
        }
        assert!(seen > 3 << 20 && seen < 5 << 20, "{seen}");
        assert_eq!(end, Some(8 << 20));
    }
}
