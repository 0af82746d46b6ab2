//! [`Buffer`]: bytes that wait, in order. An empty one holds no memory.

use std::fmt;

#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// Where the first byte that still waits is.
    start: usize,
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > self.bytes.capacity() && self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Lets go of the first `count` bytes.
    pub(super) fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.start += count;
        if self.is_empty() {
            // Nine thousand idle sockets hold nothing.
            *self = Self::default();
        }
    }

    /// Takes the first `count` bytes, or as many as there are.
    pub(super) fn take(&mut self, count: usize) -> Vec<u8> {
        if self.start == 0 && count >= self.bytes.len() {
            return std::mem::take(&mut self.bytes);
        }
        let taken = self.as_slice()[..count.min(self.len())].to_vec();
        self.consume(taken.len());
        taken
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_comes_out_is_what_went_in(steps in proptest::collection::vec((0usize..40, 0usize..40), 0..60)) {
            let (mut buffer, mut next_in, mut next_out) = (Buffer::default(), 0u8, 0u8);
            for (push, take) in steps {
                let bytes: Vec<u8> = (0..push).map(|_| { next_in = next_in.wrapping_add(1); next_in }).collect();
                buffer.push(&bytes);
                for byte in buffer.take(take) {
                    next_out = next_out.wrapping_add(1);
                    prop_assert_eq!(byte, next_out);
                }
                prop_assert!(!buffer.is_empty() || buffer.bytes.capacity() == 0);
            }
            prop_assert_eq!(buffer.len(), usize::from(next_in.wrapping_sub(next_out)) + buffer.len() / 256 * 256);
        }
    }
}
