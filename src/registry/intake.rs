//! [`Intake`]: what an object has received and has to tell, in the order in
//! which it came, for the one task that takes it through its wires and scripts.
//! Whoever puts frames in asks for room first, so that a slot that stalls holds
//! back the sources of this object, and no others.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::Notify;

use super::call::{Arguments, Party, Trail};
use crate::framing::Framing;

/// What one object has for its consumer.
#[derive(Debug)]
pub(crate) struct Intake {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    /// In bytes, with [`PLACE`] for each item; the one that is being taken through counts, too.
    held: usize,
    /// What the item that was taken last counts.
    current: usize,
    /// How many were put in.
    put: u64,
    /// How many the consumer is done with.
    done: u64,
    /// Who must not go on, by a number of its own.
    full: BTreeMap<u64, Waker>,
    /// Who waits until the consumer is done with what it has put in.
    waiting: BTreeMap<u64, (u64, Waker)>,
    is_closed: bool,
}

/// One thing to take through.
#[derive(Debug)]
pub(crate) enum Item {
    /// Whole frames of one connection, as they came over the wire.
    Frames {
        /// Whose.
        party: Arc<Party>,
        /// How to find their bodies.
        framing: Framing,
        /// The frames.
        wire: Bytes,
    },
    /// Anything else.
    Fact(Fact),
}

/// A signal of the object, with what it carries.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    /// Its name without the object: `new_connection`.
    pub(crate) name: Arc<str>,
    pub(crate) party: Option<Arc<Party>>,
    pub(crate) data: Option<Bytes>,
    pub(crate) arguments: Arguments,
    pub(crate) trail: Trail,
}

impl Intake {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), filled: Notify::new() }
    }

    /// Puts something in, and yields its place, by which [`poll_done`](Self::poll_done) knows it.
    pub(crate) fn put(&self, item: Item) -> u64 {
        let mut state = self.lock();
        state.put += 1;
        let place = state.put;
        if state.is_closed {
            state.done = place;
            return place;
        }
        state.held += item.size();
        state.items.push_back(item);
        drop(state);
        self.filled.notify_one();
        place
    }

    /// The same for a fact that nobody may hold up: it is left out where there is no room.
    ///
    /// # Errors
    /// The fact.
    #[allow(clippy::result_large_err, reason = "it is put in later, and seldom")]
    pub(crate) fn offer(&self, fact: Fact) -> Result<(), Fact> {
        let mut state = self.lock();
        if state.is_closed {
            return Ok(());
        }
        if state.held >= MOST {
            return Err(fact);
        }
        let item = Item::Fact(fact);
        state.put += 1;
        state.held += item.size();
        state.items.push_back(item);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for room. Cancel safe.
    pub(crate) async fn room(&self) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Counted down, so that none is that of a connection.
        let who = u64::MAX - NEXT.fetch_add(1, Relaxed);
        let guard = Waits { intake: self, who };
        poll_fn(|cx| self.poll_room(cx, guard.who)).await;
    }

    /// Ready when there is room. An intake that is empty takes anything. `who` tells those apart that
    /// wait; nobody else uses that number.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>, who: u64) -> Poll<()> {
        let mut state = self.lock();
        if state.held < MOST || state.is_closed {
            return Poll::Ready(());
        }
        state.full.insert(who, cx.waker().clone());
        Poll::Pending
    }

    /// Ready when the consumer is done with everything up to this place.
    pub(crate) fn poll_done(&self, cx: &mut Context<'_>, who: u64, place: u64) -> Poll<()> {
        let mut state = self.lock();
        if state.done >= place {
            return Poll::Ready(());
        }
        state.waiting.insert(who, (place, cx.waker().clone()));
        Poll::Pending
    }

    /// Forgets who waited.
    pub(crate) fn forget(&self, who: u64) {
        let mut state = self.lock();
        state.full.remove(&who);
        state.waiting.remove(&who);
    }

    /// The place of what was put in last.
    pub(crate) fn last(&self) -> u64 {
        self.lock().put
    }

    /// The next item; `None` once it was closed and is empty. To ask for it says that the one before is
    /// done with. Cancel safe. For one consumer.
    pub(crate) async fn next(&self) -> Option<Item> {
        loop {
            let mut state = self.lock();
            if state.current > 0 {
                state.held -= state.current;
                state.current = 0;
                state.done += 1;
                state.go_on();
            }
            if let Some(item) = state.items.pop_front() {
                state.current = item.size();
                return Some(item);
            }
            if state.is_closed {
                return None;
            }
            drop(state);
            self.filled.notified().await;
        }
    }

    /// Takes nothing more; what is in it is still yielded.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.go_on();
        drop(state);
        self.filled.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for room, and may stop waiting.
struct Waits<'a> {
    intake: &'a Intake,
    who: u64,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.intake.forget(self.who);
    }
}

impl State {
    /// Wakes those that may go on.
    fn go_on(&mut self) {
        // At half, so that they are not woken for every frame.
        if self.held <= MOST / 2 || self.is_closed {
            std::mem::take(&mut self.full).into_values().for_each(Waker::wake);
        }
        if !self.waiting.is_empty() {
            let done = self.done;
            self.waiting.retain(|_, (place, waker)| {
                let waits = *place > done;
                if !waits {
                    waker.wake_by_ref();
                }
                waits
            });
        }
    }
}
impl Item {
    fn size(&self) -> usize {
        PLACE
            + match self {
                Self::Frames { wire, .. } => wire.len(),
                Self::Fact(fact) => fact.data.as_ref().map_or(0, Bytes::len),
            }
    }
}

/// What an object may have for its consumer, in bytes.
pub(crate) const MOST: usize = 1 << 20;
/// What an item costs beside its bytes.
const PLACE: usize = 256;
