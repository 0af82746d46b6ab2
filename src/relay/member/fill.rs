//! How what a member sends comes to its decoder: read behind what is held of a
//! frame already, so that of much that comes at once nothing is copied. Where
//! that is not possible it is read elsewhere first.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;

use crate::flow::with_scratch;
use crate::framing::Decoder;
use crate::net::Conn;

thread_local! {
    /// Of this worker thread, and empty between two polls.
    static ROOM: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Reads at most `size` bytes, of which `see` is told; 0 says that the peer has finished.
pub(super) fn poll_fill(
    conn: &mut Conn,
    decoder: &mut Decoder,
    size: usize,
    cx: &mut Context<'_>,
    see: impl Fn(&[u8]),
) -> Poll<io::Result<usize>> {
    let before = decoder.held().len();
    if before <= SHORT {
        let read = ROOM.with_borrow_mut(|room| {
            if room.capacity() < before + size {
                *room = BytesMut::with_capacity(SHORT + size);
            }
            room.extend_from_slice(decoder.held());
            let read = conn.poll_read_buf(cx, room, size);
            if let Some(Poll::Ready(Ok(1..))) = read {
                see(&room[before..]);
                take(decoder, room, before);
            }
            room.clear();
            read
        });
        if let Some(read) = read {
            return read;
        }
    }
    with_scratch(size, |scratch| {
        let count = ready!(conn.poll_read(cx, scratch))?;
        if count > 0 {
            see(&scratch[..count]);
        }
        decoder.feed(&scratch[..count]);
        Poll::Ready(Ok(count))
    })
}

/// With the memory, unless that is much for little.
fn take(decoder: &mut Decoder, room: &mut BytesMut, before: usize) {
    if room.len() >= room.capacity() / 4 * 3 {
        decoder.replace(std::mem::take(room));
    } else {
        decoder.feed(&room[before..]);
    }
}

/// Bytes of an unfinished frame that may be copied for every read.
const SHORT: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::Framing;

    #[test]
    fn much_is_taken_with_its_memory_and_little_without() {
        let mut decoder = Decoder::new(Framing::LINES, 1 << 20);
        decoder.feed(b"begun ");
        let mut room = BytesMut::with_capacity(SHORT + READ);
        room.extend_from_slice(b"begun and not ended");
        take(&mut decoder, &mut room, 6);
        assert_eq!(decoder.held(), b"begun and not ended");
        assert!(decoder.memory() < 1_024 && room.capacity() > READ);
        room.clear();
        room.extend_from_slice(b"begun and not ended");
        room.resize(READ, b'.');
        let place = room.as_ptr();
        take(&mut decoder, &mut room, 19);
        assert_eq!((decoder.held().as_ptr(), decoder.held().len()), (place, READ));
    }

    const READ: usize = 56 << 10;
}
