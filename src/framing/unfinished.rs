//! [`Unfinished`]: one memory for all frames of which only a part has come.
//! When it is used up the oldest of them pays: whoever sends the beginning of
//! a frame and stalls makes room for those who go on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// What all unfinished frames of a node may hold together.
#[derive(Debug)]
pub(crate) struct Unfinished {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    begun: u64,
    /// By age.
    parts: BTreeMap<u64, Part>,
}

#[derive(Debug)]
struct Part {
    bytes: usize,
    overdue: Arc<AtomicBool>,
    waker: Waker,
}

/// A connection's share. Dropped, it is given back.
#[derive(Debug)]
pub(crate) struct Ticket {
    all: Arc<Unfinished>,
    age: Option<u64>,
    overdue: Arc<AtomicBool>,
}

impl Unfinished {
    /// At most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    pub(crate) fn new(all: &Arc<Unfinished>) -> Self {
        Self { all: Arc::clone(all), age: None, overdue: Arc::default() }
    }

    /// Says how many bytes are held for an unfinished frame, and whether it is
    /// another one than the last time. `waker` is woken if it is to pay.
    pub(crate) fn hold(&mut self, bytes: usize, is_another: bool, waker: &Waker) {
        if bytes == 0 && self.age.is_none() {
            return;
        }
        let mut state = self.all.lock();
        if is_another || bytes == 0 {
            state.remove(self.age.take());
        }
        if bytes == 0 {
            return;
        }
        let age = *self.age.get_or_insert_with(|| {
            state.begun += 1;
            state.begun
        });
        // Charged for its place here too, which is more than many a part.
        let bytes = bytes + PLACE;
        let before = match state.parts.get_mut(&age) {
            Some(part) => std::mem::replace(&mut part.bytes, bytes),
            None => {
                let part = Part { bytes, overdue: Arc::clone(&self.overdue), waker: waker.clone() };
                state.parts.insert(age, part);
                0
            }
        };
        state.held = state.held - before + bytes;
        while state.held > self.all.limit {
            let Some((_, part)) = state.parts.pop_first() else { break };
            state.held -= part.bytes;
            part.overdue.store(true, Relaxed);
            part.waker.wake();
        }
    }

    /// Tells whether this one is to pay: its connection ends.
    pub(crate) fn is_overdue(&self) -> bool {
        self.overdue.load(Relaxed)
    }
}

impl State {
    fn remove(&mut self, age: Option<u64>) {
        if let Some(part) = age.and_then(|age| self.parts.remove(&age)) {
            self.held -= part.bytes;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.age.is_some() {
            self.all.lock().remove(self.age);
        }
    }
}

/// What a part costs beside its bytes.
const PLACE: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unfinished_frame_makes_room_for_the_others() {
        let all = Arc::new(Unfinished::new(3 * (PLACE + 100)));
        let waker = Waker::noop();
        let mut tickets: Vec<_> = (0..4).map(|_| Ticket::new(&all)).collect();
        for ticket in &mut tickets[..3] {
            ticket.hold(100, false, waker);
        }
        // The first one goes on with another frame, so the second is the oldest now.
        tickets[0].hold(100, true, waker);
        tickets[3].hold(100, false, waker);
        let overdue: Vec<_> = tickets.iter().map(Ticket::is_overdue).collect();
        assert_eq!(overdue, [false, true, false, false]);
        drop(tickets);
        assert_eq!(all.lock().held, 0);
    }

    #[test]
    fn one_that_is_larger_than_everything_pays_itself() {
        let all = Arc::new(Unfinished::new(1_000));
        let mut ticket = Ticket::new(&all);
        ticket.hold(2_000, false, Waker::noop());
        assert!(ticket.is_overdue());
        ticket.hold(0, true, Waker::noop());
        assert_eq!(all.lock().held, 0);
    }

    #[test]
    fn ten_thousand_that_stall_stay_within_the_limit() {
        let all = Arc::new(Unfinished::new(1 << 20));
        let tickets: Vec<_> = (0..10_000)
            .map(|_| {
                let mut ticket = Ticket::new(&all);
                ticket.hold(4, false, Waker::noop());
                ticket
            })
            .collect();
        assert!(all.lock().held <= 1 << 20);
        let cut = tickets.iter().take_while(|ticket| ticket.is_overdue()).count();
        assert!(cut > 0 && tickets[cut..].iter().all(|ticket| !ticket.is_overdue()), "the oldest {cut}");
    }
}
