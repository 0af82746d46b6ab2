//! [`Changes`]: how those who wait for shared state to change are woken.

use tokio::sync::Notify;
use tokio::task::coop::consume_budget;

#[derive(Debug, Default)]
pub(super) struct Changes(Notify);

impl Changes {
    /// Something changed. Call it without the lock of what changed.
    pub(super) fn tell(&self) {
        self.0.notify_waiters();
    }

    /// Looks again after each change, until `look` finds something. Cancel safe.
    pub(super) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        // Who always finds something at once leaves the other tasks their turn all the same.
        consume_budget().await;
        loop {
            // Made before the look, so that a change in between wakes it.
            let changed = self.0.notified();
            if let Some(found) = look() {
                return found;
            }
            changed.await;
        }
    }
}
