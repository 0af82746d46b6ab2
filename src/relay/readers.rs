//! [`Readers`]: members that have something to read and wait for room, in the
//! order in which they came. One is called at a time, and when it has read the
//! next: were all of them woken, whoever happens to be first would take the room
//! again and again, and the others none.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::group::Mailbox;

/// Those of a group.
#[derive(Default)]
pub(super) struct Readers {
    waiting: Mutex<VecDeque<Arc<Mailbox>>>,
}

/// What one of them is told.
#[derive(Default)]
pub(super) struct Call {
    waits: AtomicBool,
    is_called: AtomicBool,
}

impl Readers {
    /// One waits: behind the others, or before them if it was called and somebody was faster.
    pub(super) fn wait(&self, member: &Arc<Mailbox>, was_called: bool) {
        let mut waiting = self.lock();
        if member.call.waits.swap(true, Relaxed) {
            return;
        }
        match was_called {
            true => waiting.push_front(Arc::clone(member)),
            false => waiting.push_back(Arc::clone(member)),
        }
    }

    /// Calls the first that may read.
    pub(super) fn call(&self, may_read: impl Fn(&Mailbox) -> bool) {
        let mut waiting = self.lock();
        let first = waiting.iter().position(|member| may_read(member));
        let Some(member) = first.and_then(|place| waiting.remove(place)) else { return };
        member.call.waits.store(false, Relaxed);
        member.call.is_called.store(true, Relaxed);
        drop(waiting);
        member.wake();
    }

    /// One waits no more.
    pub(super) fn leave(&self, member: &Arc<Mailbox>) {
        let mut waiting = self.lock();
        if member.call.waits.swap(false, Relaxed) {
            waiting.retain(|other| !Arc::ptr_eq(other, member));
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Mailbox>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    /// Whether it was called. Then the next is to be, when it has read.
    pub(super) fn take(&self) -> bool {
        self.is_called.swap(false, Relaxed)
    }
}
