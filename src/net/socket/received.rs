//! [`Received`]: bytes that wait to be read, of the connection there is and,
//! where a socket reconnects, of those before it. Between two connections
//! stands the end of the former, so that nobody takes both for one stream.

use std::collections::VecDeque;

use super::buffer::Buffer;
use crate::net::error::SocketError;

#[derive(Debug, Default)]
pub(super) struct Received {
    bytes: Buffer,
    /// Ends that a reader has not come to. At most one more than bytes: two with nothing between are one.
    ends: VecDeque<End>,
    /// How many bytes have left, read or thrown away: where in all that ever came the first one is.
    position: u64,
    /// Some of it nobody has looked at yet.
    is_unseen: bool,
}

/// Of a connection that is over.
#[derive(Debug)]
struct End {
    /// So many bytes come before it, behind the end before.
    bytes: usize,
    outcome: Result<(), SocketError>,
}

impl Received {
    /// Of all connections.
    pub(super) fn total(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Of the connection there is now.
    pub(super) fn current(&self) -> usize {
        self.total() - self.ends.iter().map(|end| end.bytes).sum::<usize>()
    }

    /// What can be read before the next end.
    pub(super) fn piece(&self) -> &[u8] {
        let bytes = self.bytes.as_slice();
        self.ends.front().map_or(bytes, |end| &bytes[..end.bytes])
    }

    /// How much a slot can read in one go: it knows of the ends by signals.
    pub(super) fn available(&self) -> usize {
        let pieces = self.ends.iter().map(|end| end.bytes);
        pieces.chain([self.current()]).find(|bytes| *bytes > 0).unwrap_or(0)
    }

    /// The end behind the piece, if it is not that of the connection there is now.
    pub(super) fn next_end(&self) -> Option<&Result<(), SocketError>> {
        self.ends.front().map(|end| &end.outcome)
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.push(bytes);
        self.is_unseen = true;
    }

    /// Takes the first `count` bytes of the piece, or as many as there are.
    pub(super) fn take(&mut self, count: usize) -> Vec<u8> {
        let taken = self.bytes.take(count.min(self.piece().len()));
        self.left(taken.len());
        taken
    }

    /// Lets go of the first `count` bytes of the piece.
    pub(super) fn consume(&mut self, count: usize) {
        self.bytes.consume(count);
        self.left(count);
    }

    fn left(&mut self, count: usize) {
        self.position += count as u64;
        self.is_unseen = false;
        if let Some(end) = self.ends.front_mut() {
            end.bytes -= count;
            // What is behind it has only now come to be looked at.
            self.is_unseen = end.bytes == 0 && !self.bytes.is_empty();
        }
    }

    pub(super) fn clear(&mut self) {
        let position = self.position + self.total() as u64;
        *self = Self { position, ..Self::default() };
    }

    /// The connection is over, and what comes now is of another.
    pub(super) fn end(&mut self, outcome: Result<(), SocketError>) {
        match (self.current(), self.ends.back_mut()) {
            (0, Some(end)) => end.outcome = outcome,
            (bytes, _) => self.ends.push_back(End { bytes, outcome }),
        }
    }

    /// The end that a reader has come to, which is told once.
    pub(super) fn pass_end(&mut self) -> Option<Result<(), SocketError>> {
        let is_next = self.ends.front()?.bytes == 0;
        if is_next { self.ends.pop_front().map(|end| end.outcome) } else { None }
    }

    /// Passes ends that whoever reads knows of by signals.
    pub(super) fn pass_ends(&mut self) {
        while self.pass_end().is_some() {}
    }

    /// Tells whether there is something nobody has looked at; from now on somebody has.
    pub(super) fn look(&mut self) -> bool {
        std::mem::take(&mut self.is_unseen) && !self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::error::SocketErrorKind;

    fn reset() -> Result<(), SocketError> {
        Err(SocketError::new(SocketErrorKind::ConnectionReset, "reset"))
    }

    #[test]
    fn an_end_stands_where_it_was_and_is_told_once() {
        let mut received = Received::default();
        received.push(b"old");
        received.end(Ok(()));
        received.push(b"new");
        assert_eq!(received.pass_end(), None);
        assert_eq!((received.piece(), received.current()), (b"old".as_slice(), 3));
        assert_eq!(received.take(100), b"old");
        assert!(received.piece().is_empty());
        assert_eq!(received.pass_end(), Some(Ok(())));
        assert!(received.look(), "what comes behind it is news");
        assert_eq!((received.pass_end(), received.take(2), received.position()), (None, b"ne".to_vec(), 5));
    }

    #[test]
    fn of_two_ends_with_nothing_between_the_last_is_told() {
        let mut received = Received::default();
        for outcome in [Ok(()), reset()] {
            received.end(outcome);
        }
        assert_eq!((received.pass_end(), received.pass_end()), (Some(reset()), None));
    }
}
