//! [`Condition`]: what has been learnt of a target by dialling it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Whether a target was last reached, and how many connections it has.
#[derive(Debug, Default)]
pub(crate) struct Condition {
    connections: AtomicUsize,
    has_failed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// It has failed, and others are preferred until then.
    held: Option<Instant>,
    /// Checks have found it reachable since.
    reachable: Option<Instant>,
}

impl Condition {
    /// One more connection is dialled.
    pub(crate) fn begin(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// One of them has ended.
    pub(crate) fn end(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    /// Connections it has, those being dialled included; counted only by relays that have a choice.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Tells whether the last that was learnt of it is not that it cannot be reached.
    pub(crate) fn is_up(&self) -> bool {
        !self.has_failed.load(Relaxed)
    }

    /// Until when others are preferred, if that is in the future.
    pub(crate) fn held_until(&self, now: Instant) -> Option<Instant> {
        if self.is_up() {
            return None;
        }
        self.lock().held.filter(|held| *held > now)
    }

    /// It could not be reached: others are preferred for so long.
    pub(crate) fn failed(&self, hold: Duration) {
        *self.lock() = State { held: Instant::now().checked_add(hold), reachable: None };
        self.has_failed.store(true, Relaxed);
    }

    /// It was reached.
    pub(crate) fn reached(&self) {
        if self.is_up() {
            return;
        }
        *self.lock() = State::default();
        self.has_failed.store(false, Relaxed);
    }

    /// A check has reached it: it is up once that has been so for so long.
    pub(crate) fn answered(&self, hold: Duration) {
        if self.is_up() {
            return;
        }
        let mut state = self.lock();
        let since = *state.reachable.get_or_insert_with(Instant::now);
        drop(state);
        if since.elapsed() >= hold {
            self.reached();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_has_failed_is_held_back_until_its_time_is_over_or_checks_have_found_it_long_enough() {
        let condition = Condition::default();
        let hold = Duration::from_secs(10);
        let held = || condition.held_until(Instant::now()).is_some();
        assert!(condition.is_up() && !held());
        condition.failed(hold);
        assert!(!condition.is_up() && held());
        tokio::time::advance(hold).await;
        assert!(!condition.is_up() && !held(), "it may be tried, and is not known to be back");
        condition.reached();
        assert!(condition.is_up());
        condition.failed(Duration::from_secs(1_000));
        condition.answered(hold);
        tokio::time::advance(hold / 2).await;
        condition.answered(hold);
        assert!(held());
        condition.failed(Duration::from_secs(1_000));
        condition.answered(hold);
        tokio::time::advance(hold / 2).await;
        condition.answered(hold);
        assert!(held(), "it failed in between");
        tokio::time::advance(hold / 2).await;
        condition.answered(hold);
        assert!(condition.is_up() && !held());
    }
}
