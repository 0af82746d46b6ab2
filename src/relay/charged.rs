//! Bytes that are charged to the node's budget until the last who has them drops them.

use std::sync::Arc;

use bytes::Bytes;

use super::Shared;
use super::group::Group;

/// Bytes that hold a part of the node's budget for as long as anyone has them.
struct Charged {
    bytes: Bytes,
    charge: usize,
    shared: Arc<Shared>,
}

impl Group {
    pub(super) fn charged(&self, bytes: Bytes) -> Bytes {
        let charge = self.shared.budget.take(bytes.len());
        Bytes::from_owner(Charged { bytes, charge, shared: Arc::clone(&self.shared) })
    }
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.shared.budget.give_back(self.charge);
    }
}
