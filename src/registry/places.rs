//! [`Places`]: a limit on how many there may be at once, which can be changed
//! while they are there.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// So many places, each taken until its [`Place`] is dropped.
pub(crate) struct Places {
    state: Mutex<State>,
    freed: Notify,
}

struct State {
    taken: usize,
    most: usize,
}

/// One of the [`Places`], taken.
pub(crate) struct Place(Arc<Places>);

impl Places {
    /// `most` places, all free.
    pub(crate) fn new(most: usize) -> Self {
        Self { state: Mutex::new(State { taken: 0, most }), freed: Notify::new() }
    }

    /// Takes a place, if one is free.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Place> {
        let mut state = self.lock();
        if state.taken >= state.most {
            return None;
        }
        state.taken += 1;
        Some(Place(Arc::clone(self)))
    }

    /// Waits until a place is free, which another may take first. Cancel safe.
    pub(crate) async fn room(&self) {
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.taken() < self.most() {
                return;
            }
            freed.await;
        }
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.lock().taken
    }

    /// How many there are.
    pub(crate) fn most(&self) -> usize {
        self.lock().most
    }

    /// Changes how many there are. Whoever has one keeps it.
    pub(crate) fn set_most(&self, most: usize) {
        self.lock().most = most;
        self.freed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// How many there are of its kind.
    pub(crate) fn most(&self) -> usize {
        self.0.most()
    }

    /// Lets nobody follow, ever: for a conversation there is one of.
    pub(crate) fn be_the_last(&self) {
        self.0.lock().most = 0;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().taken -= 1;
        // All, since the one that is woken may have no client to give it to.
        self.0.freed.notify_waiters();
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        write!(f, "{} of {} places taken", state.taken, state.most)
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn a_limit_can_be_lowered_below_what_is_taken_and_raised_again() {
        let places = Arc::new(Places::new(2));
        let (first, second) = (places.take().unwrap(), places.take().unwrap());
        assert!(places.take().is_none());
        places.set_most(1);
        drop(first);
        assert!(places.take().is_none(), "one is still taken");
        let waiter = Arc::clone(&places);
        let mut waiting = JoinSet::from_iter([async move { waiter.room().await }]);
        tokio::task::yield_now().await;
        drop(second);
        waiting.join_next().await.unwrap().unwrap();
        assert_eq!((places.taken(), places.most()), (0, 1));
        places.take().unwrap().be_the_last();
        assert!(places.take().is_none());
    }
}
