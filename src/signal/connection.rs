//! The guards a signal gives out: a [`Connection`] for a slot, a [`BlockGuard`] for a block.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::task::JoinSet;

/// A slot's connection to its signal.
///
/// Dropping it disconnects the slot; [`detach`](Self::detach) keeps it for as
/// long as the signal lives. `let _ = signal.connect(…)` therefore
/// disconnects at once; write `let _connection =`.
#[must_use = "dropping the Connection disconnects the slot; use .detach() to keep it"]
pub struct Connection {
    link: Option<Box<dyn Link>>,
    worker: Option<Worker>,
}

/// One slot in one table, whatever it is called with.
pub(super) trait Link: Send + Sync {
    /// Disconnects; tells whether it was connected.
    fn cut(&self) -> bool;
    fn is_live(&self) -> bool;
}

/// The queue of a slot with a task.
pub(super) trait Backlog: Send + Sync {
    /// Ends the queue and throws away what is in it.
    fn discard(&self);
    /// How many values it could not hold.
    fn missed(&self) -> u64;
}

struct Worker {
    task: JoinSet<()>,
    backlog: Arc<dyn Backlog>,
}

impl Connection {
    pub(super) fn new(link: Box<dyn Link>) -> Self {
        Self { link: Some(link), worker: None }
    }

    pub(super) fn with_worker(
        mut self,
        work: impl Future<Output = ()> + Send + 'static,
        backlog: Arc<dyn Backlog>,
    ) -> Self {
        let mut task = JoinSet::new();
        task.spawn(work);
        self.worker = Some(Worker { task, backlog });
        self
    }

    /// Disconnects the slot: once this returns no further call of it begins,
    /// not even for what is queued. A call under way on another thread, or in
    /// its own task, may still end; and one there that has taken its value may still run. Tells whether the slot was connected.
    pub fn disconnect(&self) -> bool {
        let was_live = self.link.as_ref().is_some_and(|link| link.cut());
        if let Some(worker) = &self.worker {
            worker.backlog.discard();
        }
        was_live
    }

    /// Disconnects the slot and, if it runs in a task of its own, waits for
    /// the call that is under way. Of a slot in the emitting task it does not.
    pub async fn disconnect_and_wait(mut self) {
        self.disconnect();
        if let Some(mut worker) = self.worker.take() {
            while worker.task.join_next().await.is_some() {}
        }
    }

    /// Keeps the slot connected for as long as the signal lives. A task of its
    /// own ends when it has handled what the signal emitted last.
    pub fn detach(mut self) {
        self.link = None;
        if let Some(worker) = &mut self.worker {
            worker.task.detach_all();
        }
    }

    /// Tells whether the slot may still be called.
    pub fn is_connected(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_live())
    }

    /// How many values the queue of a [`connect_async`](super::SignalRef::connect_async)
    /// could not hold; 0 for slots without a queue.
    pub fn missed(&self) -> u64 {
        self.worker.as_ref().map_or(0, |worker| worker.backlog.missed())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.link.is_some() {
            self.disconnect();
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("connected", &self.is_connected()).finish_non_exhaustive()
    }
}

/// Blocks a signal until it is dropped; see [`SignalRef::block`](super::SignalRef::block).
#[must_use = "the signal is blocked for as long as the guard lives"]
pub struct BlockGuard {
    unblock: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl BlockGuard {
    pub(super) fn new(unblock: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self { unblock: Some(Box::new(unblock)) }
    }
}

impl Drop for BlockGuard {
    fn drop(&mut self) {
        self.unblock.take().into_iter().for_each(|unblock| unblock());
    }
}

impl fmt::Debug for BlockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockGuard").finish_non_exhaustive()
    }
}
