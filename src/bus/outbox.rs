//! The outbox: bounded queues from many tasks to the one dispatcher. Pushing
//! never waits. When it is full, accepting pauses and events without a
//! reserved place are counted as lost; those with one go in, since there are
//! at most a few per connection and no new connection begins.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use super::table::Record;
use crate::event::{Event, EventKind};

pub(super) struct Outbox {
    queues: Mutex<Queues>,
    filled: Notify,
    room: Notify,
    closed: AtomicBool,
}

#[derive(Default)]
struct Queues {
    main: VecDeque<Pending>,
    /// Level notices, which the dispatcher takes at its own pace. At most two per connection are outstanding;
    /// those that have been told otherwise are dropped when it looks.
    level: VecDeque<Level>,
}

/// What waits for its stamp.
pub(super) enum Pending {
    Discrete(Event, SystemTime),
    Level(Level),
    /// This many events found the outbox full.
    Lost(u64),
}

/// A connection with something to tell: the total is read when it is taken, not now.
pub(super) struct Level {
    pub(super) record: Arc<Record>,
    pub(super) kind: EventKind,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            queues: Mutex::default(),
            filled: Notify::new(),
            room: Notify::new(),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn push(&self, event: Event) {
        let mut queues = self.lock();
        let main = &mut queues.main;
        let was_empty = main.is_empty();
        // What levels tell at an end has a place too: at most two per connection come here.
        let has_place = event.kind().is_reserved() || event.kind().is_level();
        if main.len() < LIMIT || has_place {
            main.push_back(Pending::Discrete(event, SystemTime::now()));
        } else if let Some(Pending::Lost(count)) = main.back_mut() {
            *count += 1;
        } else {
            main.push_back(Pending::Lost(1));
        }
        drop(queues);
        if was_empty {
            self.filled.notify_one();
        }
    }

    pub(super) fn push_level(&self, level: Level) {
        let mut queues = self.lock();
        queues.level.push_back(level);
        let is_first = queues.level.len() == 1;
        drop(queues);
        if is_first {
            self.filled.notify_one();
        }
    }

    /// Moves the oldest entries into `batch`, up to its capacity; then level
    /// notices too, if they are due. Yields how many of those.
    pub(super) fn take(&self, batch: &mut Vec<Pending>, level_is_due: bool) -> usize {
        let mut queues = self.lock();
        let was_full = queues.main.len() >= LIMIT;
        let count = queues.main.len().min(batch.capacity() - batch.len());
        batch.extend(queues.main.drain(..count));
        let mut levels = 0;
        // Under the same lock, so that what a notice must follow is before it.
        if level_is_due && queues.main.is_empty() {
            let room = batch.capacity() - batch.len();
            while levels < room
                && let Some(level) = queues.level.pop_front()
            {
                if level.record.is_outstanding(level.kind) {
                    batch.push(Pending::Level(level));
                    levels += 1;
                }
            }
        }
        let is_full = queues.main.len() >= LIMIT;
        drop(queues);
        if was_full && !is_full {
            self.room.notify_waiters();
        }
        levels
    }

    /// How many wait, level notices not counted.
    pub(super) fn len(&self) -> usize {
        self.lock().main.len()
    }

    #[cfg(test)]
    pub(super) fn levels(&self) -> usize {
        self.lock().level.len()
    }

    pub(super) fn has_level(&self) -> bool {
        !self.lock().level.is_empty()
    }

    /// Waits until something was pushed, or the outbox was closed. For one waiter.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    pub(super) async fn room(&self) {
        while self.lock().main.len() >= LIMIT {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.lock().main.len() >= LIMIT {
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

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
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
        outbox.take(&mut all, true);
        assert_eq!(all.len(), LIMIT + 3);
        assert!(matches!(all[LIMIT], Pending::Lost(3)));
        assert!(matches!(all[LIMIT + 1], Pending::Discrete(Event::ConnectFailed { .. }, _)));
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
                outbox.take(&mut batch, true);
            });
        assert!(waited.is_ok());
    }
}
