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
use tokio::sync::{Notify, watch};

use super::call::{Arguments, Party, Trail};
use crate::framing::Framing;

/// What one object has for its consumer.
#[derive(Debug)]
pub(crate) struct Intake {
    state: Mutex<State>,
    filled: Notify,
    undone: Undone,
    /// In bytes, with [`PLACE`] for each item. An empty one takes an item of any size.
    most: usize,
}

/// How many items of all intakes of a node nobody is done with yet. Cloning
/// gives another handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct Undone(Arc<watch::Sender<u64>>);

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    /// What counts towards the limit; the item that is being taken through does, too.
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
#[derive(Clone, Debug)]
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

impl Undone {
    /// Nothing.
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// Waits until everything that was put in has been taken through. Cancel safe.
    pub(crate) async fn none(&self) {
        let mut count = self.0.subscribe();
        // The sender is ours, so it is not gone.
        let _ = count.wait_for(|count| *count == 0).await;
    }

    fn add(&self) {
        self.0.send_if_modified(|count| {
            *count += 1;
            false
        });
    }

    fn subtract(&self) {
        self.0.send_if_modified(|count| {
            *count -= 1;
            *count == 0
        });
    }
}

impl Intake {
    /// An empty one of so many bytes.
    pub(crate) fn new(most: usize, undone: &Undone) -> Self {
        Self { state: Mutex::default(), filled: Notify::new(), undone: undone.clone(), most }
    }

    /// Puts something in, also where there is no room, and yields its place, by which
    /// [`poll_done`](Self::poll_done) knows it.
    pub(crate) fn put(&self, item: Item) -> u64 {
        let mut state = self.lock();
        if state.is_closed {
            return state.done;
        }
        let place = self.push(&mut state, item);
        drop(state);
        self.filled.notify_one();
        place
    }

    /// Puts something in that nobody may hold up, if there is room.
    ///
    /// # Errors
    /// The item, if there is none.
    #[allow(clippy::result_large_err, reason = "it is put in later, and seldom")]
    pub(crate) fn offer(&self, item: Item) -> Result<(), Item> {
        let mut state = self.lock();
        if state.is_closed {
            return Ok(());
        }
        if state.held >= self.most {
            return Err(item);
        }
        self.push(&mut state, item);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// The same, and the oldest go where there is no room. Yields how many went.
    pub(crate) fn force(&self, item: Item) -> u64 {
        let mut state = self.lock();
        if state.is_closed {
            return 0;
        }
        let mut gone = 0;
        while state.held >= self.most
            && let Some(oldest) = state.items.pop_front()
        {
            state.held -= oldest.size();
            // Its place counts as done, since nothing comes of it.
            state.done += 1;
            self.undone.subtract();
            gone += 1;
        }
        self.push(&mut state, item);
        drop(state);
        self.filled.notify_one();
        gone
    }

    fn push(&self, state: &mut State, item: Item) -> u64 {
        state.put += 1;
        state.held += item.size();
        state.items.push_back(item);
        self.undone.add();
        state.put
    }

    /// Ready when there is room. `who` tells those apart that wait; nobody else uses that number.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>, who: u64) -> Poll<()> {
        let mut state = self.lock();
        if state.held < self.most || state.is_closed {
            return Poll::Ready(());
        }
        state.full.insert(who, cx.waker().clone());
        Poll::Pending
    }

    /// Waits for room. Cancel safe.
    pub(crate) async fn room(&self) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Counted down, so that none is that of a connection.
        let waits = Waits { intake: self, who: u64::MAX - NEXT.fetch_add(1, Relaxed) };
        poll_fn(|cx| self.poll_room(cx, waits.who)).await;
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

    /// Whether the consumer is done with everything up to this place.
    pub(crate) fn is_done(&self, place: u64) -> bool {
        self.lock().done >= place
    }

    /// Forgets who waited.
    pub(crate) fn forget(&self, who: u64) {
        let mut state = self.lock();
        state.full.remove(&who);
        state.waiting.remove(&who);
    }

    /// The next item; `None` once it was closed and is empty. To ask for it says that the one before is
    /// done with. Cancel safe. For one consumer.
    pub(crate) async fn next(&self) -> Option<Item> {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.filled.notified().await;
        }
    }

    /// The next item if there is one, or that there will be none.
    fn take(&self) -> Option<Option<Item>> {
        let mut state = self.lock();
        if state.current > 0 {
            state.held -= std::mem::take(&mut state.current);
            state.done += 1;
            self.undone.subtract();
            self.go_on(&mut state);
        }
        match state.items.pop_front() {
            Some(item) => {
                state.current = item.size();
                Some(Some(item))
            }
            None => state.is_closed.then_some(None),
        }
    }

    /// Whether it takes nothing more.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Takes nothing more; what is in it is still yielded.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        self.go_on(&mut state);
        drop(state);
        self.filled.notify_one();
    }

    /// Wakes those that may go on.
    fn go_on(&self, state: &mut State) {
        // At half, so that they are not woken for every frame.
        if state.held <= self.most / 2 || state.is_closed {
            std::mem::take(&mut state.full).into_values().for_each(Waker::wake);
        }
        let done = state.done;
        state.waiting.retain(|_, (place, waker)| {
            let waits = *place > done;
            if !waits {
                waker.wake_by_ref();
            }
            waits
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        let state = self.lock();
        for _ in state.done..state.put {
            self.undone.subtract();
        }
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

impl Item {
    fn size(&self) -> usize {
        PLACE
            + match self {
                Self::Frames { wire, .. } => wire.len(),
                Self::Fact(fact) => fact.data.as_ref().map_or(0, Bytes::len),
            }
    }
}

/// What an object may have for its consumer where nothing else is said, in bytes.
pub(crate) const INTAKE: usize = 1 << 20;
/// What an item costs beside its bytes.
const PLACE: usize = 256;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn fact(bytes: usize) -> Item {
        Item::Fact(Fact {
            name: "x".into(),
            party: None,
            data: Some(vec![0; bytes].into()),
            arguments: Arguments::new(),
            trail: Trail::default(),
        })
    }

    #[tokio::test]
    async fn what_is_put_in_counts_until_the_next_is_asked_for() {
        let undone = Undone::new();
        let intake = Intake::new(1_000, &undone);
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(intake.put(fact(2_000)), 1);
        assert!(intake.poll_room(&mut cx, 1).is_pending());
        assert!(intake.offer(fact(1)).is_err());
        assert!(intake.next().await.is_some());
        assert!(intake.poll_room(&mut cx, 1).is_pending(), "it is being taken through");
        assert!(intake.poll_done(&mut cx, 1, 1).is_pending());
        assert_eq!(intake.put(fact(1)), 2);
        assert!(intake.next().await.is_some());
        assert!(intake.poll_done(&mut cx, 1, 1).is_ready());
        assert!(intake.poll_room(&mut cx, 1).is_ready());
        intake.close();
        assert!(intake.next().await.is_none());
        undone.none().await;
        assert_eq!(intake.put(fact(1)), 2, "nothing comes after the end");
        assert!(intake.lock().full.is_empty() && intake.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn the_oldest_make_room_where_that_is_asked_for() {
        let undone = Undone::new();
        let intake = Intake::new(1_000, &undone);
        let gone: u64 = (0..10).map(|_| intake.force(fact(100))).sum();
        assert_eq!(gone, 7);
        assert_eq!(*undone.0.borrow(), 3);
        drop(intake);
        undone.none().await;
    }
}
