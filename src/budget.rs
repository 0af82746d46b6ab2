//! The node's memory for bytes that were read and could not be written yet.
//! A read shrinks to the credit there is, and what it leaves behind is charged
//! until the bytes have left; nobody waits here.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A shared credit of bytes.
///
/// Limits: the sum of all charges never exceeds what the budget was made
/// with; beside it each flow may always hold [`PROMISE`] bytes, so that
/// stalled connections cannot starve healthy ones, and each thread the part of
/// one read that another thread's took the credit for.
#[derive(Debug)]
pub(crate) struct Budget {
    credit: AtomicUsize,
}

/// What a flow may read even when the credit is used up, in bytes.
pub(crate) const PROMISE: usize = 16 * 1024;

impl Budget {
    /// A budget of `bytes`.
    pub(crate) const fn new(bytes: usize) -> Self {
        Self { credit: AtomicUsize::new(bytes) }
    }

    /// Takes up to `wanted` bytes of credit and returns how many were taken.
    pub(crate) fn take(&self, wanted: usize) -> usize {
        let mut credit = self.credit.load(Relaxed);
        loop {
            let taken = wanted.min(credit);
            match self.credit.compare_exchange_weak(credit, credit - taken, Relaxed, Relaxed) {
                Ok(_) => return taken,
                Err(now) => credit = now,
            }
        }
    }

    /// Gives `bytes` back.
    pub(crate) fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.credit.fetch_add(bytes, Relaxed);
        }
    }

    /// The credit that is left, in bytes.
    pub(crate) fn left(&self) -> usize {
        self.credit.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_shrinks_to_the_credit_and_comes_back_whole() {
        let budget = Budget::new(100);
        assert_eq!(budget.take(60), 60);
        assert_eq!(budget.take(60), 40);
        assert_eq!(budget.take(60), 0);
        budget.give_back(100);
        assert_eq!(budget.left(), 100);
    }
}
