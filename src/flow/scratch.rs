//! The scratch buffer of a worker thread: data is read into it and written
//! from it within one poll, so no connection owns a buffer while it waits.

use std::cell::RefCell;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends the first `size` bytes of this thread's scratch buffer.
///
/// Limits: `size` ≤ [`SIZE`]. The pages are touched only as far as reads
/// reach, so an idle node does not pay for them.
pub(crate) fn with<R>(size: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.is_empty() {
            *scratch = vec![0; SIZE];
        }
        work(&mut scratch[..size])
    })
}

/// As large as a read can be asked to be. A receive queue on loopback holds about 4 MiB.
pub(crate) const SIZE: usize = 16 << 20;
