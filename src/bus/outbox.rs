//! The outbox: a bounded queue from many tasks to the one dispatcher. Pushing
//! never waits. When it is full, accepting pauses and events without a
//! reserved place are counted as lost; those with one go in, since there are
//! at most a few per connection and no new connection begins.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::table::Record;
use crate::event::{Event, EventKind};

pub(super) struct Outbox {
    queue: Mutex<VecDeque<Pending>>,
    filled: Notify,
    room: Notify,
    closed: AtomicBool,
}

/// What waits for its stamp.
pub(super) enum Pending {
    Discrete(Event),
    /// A level notice: the totals are read when it is taken, not now.
    Level(Arc<Record>, EventKind),
    /// This many events found the outbox full.
    Lost(u64),
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            queue: Mutex::default(),
            filled: Notify::new(),
            room: Notify::new(),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn push(&self, event: Event) {
        let mut queue = self.lock();
        if queue.len() < LIMIT || event.kind().is_reserved() {
            queue.push_back(Pending::Discrete(event));
        } else if let Some(Pending::Lost(count)) = queue.back_mut() {
            *count += 1;
        } else {
            queue.push_back(Pending::Lost(1));
        }
        self.wake(&queue);
    }

    /// Adds a level notice. There are at most two per connection, since each
    /// is outstanding until it is taken, so it always has a place.
    pub(super) fn push_level(&self, record: &Arc<Record>, kind: EventKind) {
        let mut queue = self.lock();
        queue.push_back(Pending::Level(Arc::clone(record), kind));
        self.wake(&queue);
    }

    fn wake(&self, queue: &VecDeque<Pending>) {
        if queue.len() == 1 {
            self.filled.notify_one();
        }
    }

    /// Moves the oldest entries into `batch`, up to its capacity.
    pub(super) fn take(&self, batch: &mut Vec<Pending>) {
        let mut queue = self.lock();
        let was_full = queue.len() >= LIMIT;
        let count = queue.len().min(batch.capacity() - batch.len());
        batch.extend(queue.drain(..count));
        let waiting = !queue.is_empty();
        let is_full = queue.len() >= LIMIT;
        drop(queue);
        if was_full && !is_full {
            self.room.notify_waiters();
        }
        if waiting {
            self.filled.notify_one();
        }
    }

    /// Waits until something was pushed, or the outbox was closed. For one waiter.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    pub(super) async fn room(&self) {
        while self.lock().len() >= LIMIT {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.lock().len() >= LIMIT {
                room.await;
            }
        }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.filled.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Pending>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As many as the discrete channel holds: more would be lost to a slow subscriber anyway.
pub(super) const LIMIT: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    fn ordinary() -> Event {
        Event::Lagged { missed: 0 }
    }

    fn reserved() -> Event {
        Event::ConnectFailed {
            connection: crate::event::ConnectionId::next(),
            endpoint: "t".into(),
            target: String::new(),
            partner: None,
            error: String::new(),
        }
    }

    #[tokio::test]
    async fn a_full_outbox_loses_ordinary_events_by_count_and_keeps_reserved_ones() {
        let outbox = Outbox::new();
        for _ in 0..LIMIT + 3 {
            outbox.push(ordinary());
        }
        outbox.push(reserved());
        outbox.push(ordinary());
        let mut all = Vec::with_capacity(2 * LIMIT);
        outbox.take(&mut all);
        assert_eq!(all.len(), LIMIT + 3);
        assert!(matches!(all[LIMIT], Pending::Lost(3)));
        assert!(matches!(all[LIMIT + 1], Pending::Discrete(Event::ConnectFailed { .. })));
        assert!(matches!(all[LIMIT + 2], Pending::Lost(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_room_goes_on_when_there_is_some() {
        let outbox = Outbox::new();
        outbox.room().await;
        for _ in 0..LIMIT {
            outbox.push(ordinary());
        }
        let mut batch = Vec::with_capacity(1);
        let (waited, ()) =
            tokio::join!(tokio::time::timeout(std::time::Duration::from_secs(5), outbox.room()), async {
                tokio::task::yield_now().await;
                outbox.take(&mut batch);
            });
        assert!(waited.is_ok());
    }
}
