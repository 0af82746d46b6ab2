//! [`Intake`]: what an object has received and has to tell, in the order in
//! which it came, for the one task that takes it through its wires and scripts.
//! Whoever puts frames in asks for room first, so that a slot that stalls holds
//! back who speaks to it: each connection has a share of the room, and no other
//! object is concerned.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use super::call::{Arguments, Party, Trail};
use crate::event::{ConnectionId, ConnectionMap};
use crate::framing::Framing;

/// What one object has for its consumer.
#[derive(Debug)]
pub(crate) struct Intake {
    state: Mutex<State>,
    filled: Notify,
    undone: Undone,
    /// In bytes, with [`PLACE`] for each item. An empty one takes an item of any size.
    most: usize,
    /// The same for one connection that asks for room.
    share: usize,
}

/// What has to be given back once an item was taken through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipt {
    place: u64,
    size: usize,
    connection: Option<ConnectionId>,
}

/// How many items of all intakes of a node nobody is done with yet. Cloning
/// gives another handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct Undone(Arc<watch::Sender<u64>>);

#[derive(Debug, Default)]
struct State {
    items: VecDeque<(u64, Item)>,
    /// What counts towards the limit; items that are being taken through do, too.
    held: usize,
    /// The part of each connection that has any.
    shares: ConnectionMap<usize>,
    /// The item that [`next`](Intake::next) has yielded last.
    current: Option<Receipt>,
    /// How many were put in.
    put: u64,
    /// Everything up to this place is done with,
    done: u64,
    /// and these are, too.
    ahead: BTreeSet<u64>,
    /// Who must not go on, by a number of its own: that of the connection, if it is one.
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
        Self { state: Mutex::default(), filled: Notify::new(), undone: undone.clone(), most, share: SHARE }
    }

    /// That of an object with connections.
    pub(crate) fn of_object(undone: &Undone) -> Self {
        Self::new(OBJECT, undone)
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
            && let Some((place, oldest)) = state.items.pop_front()
        {
            // Its place counts as done, since nothing comes of it.
            state.settle(&Receipt::of(place, &oldest));
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
        let place = state.put;
        state.held += item.size();
        if let Some(connection) = item.connection() {
            *state.shares.entry(connection).or_default() += item.size();
        }
        state.items.push_back((place, item));
        self.undone.add();
        place
    }

    /// Ready when there is room for a connection, which has its share of it.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>, connection: ConnectionId) -> Poll<()> {
        self.poll_place(cx, connection.get(), self.share)
    }

    /// Ready when there is room. `who` tells those apart that wait; nobody else uses that number.
    fn poll_place(&self, cx: &mut Context<'_>, who: u64, share: usize) -> Poll<()> {
        let mut state = self.lock();
        if state.held < self.most && state.share(who) < share || state.is_closed {
            return Poll::Ready(());
        }
        state.full.insert(who, cx.waker().clone());
        Poll::Pending
    }

    /// Whether anything of a connection has not been taken through yet.
    pub(crate) fn has_some_of(&self, connection: ConnectionId) -> bool {
        self.lock().shares.contains_key(&connection)
    }

    /// Waits for room. Cancel safe.
    pub(crate) async fn room(&self) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Counted down, so that none is that of a connection.
        let waits = Waits { intake: self, who: u64::MAX - NEXT.fetch_add(1, Relaxed) };
        poll_fn(|cx| self.poll_place(cx, waits.who, usize::MAX)).await;
    }

    /// Ready when the consumer is done with what stands at this place, and with what the same connection has
    /// put in before.
    pub(crate) fn poll_done(&self, cx: &mut Context<'_>, connection: ConnectionId, place: u64) -> Poll<()> {
        let mut state = self.lock();
        if state.is_done(place) {
            return Poll::Ready(());
        }
        state.waiting.insert(connection.get(), (place, cx.waker().clone()));
        Poll::Pending
    }

    /// Whether the consumer is done with what stands at this place.
    pub(crate) fn is_done(&self, place: u64) -> bool {
        self.lock().is_done(place)
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
        let before = self.lock().current.take();
        if let Some(before) = before {
            self.finish(before);
        }
        let (receipt, item) = self.take().await?;
        self.lock().current = Some(receipt);
        Some(item)
    }

    /// The next item, and what says later that it is done with; `None` once it was closed and is empty.
    /// Cancel safe. For one consumer.
    pub(crate) async fn take(&self) -> Option<(Receipt, Item)> {
        loop {
            {
                let mut state = self.lock();
                if let Some((place, item)) = state.items.pop_front() {
                    return Some((Receipt::of(place, &item), item));
                }
                if state.is_closed {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// An item is done with.
    pub(crate) fn finish(&self, receipt: Receipt) {
        let mut state = self.lock();
        let was_held = state.held;
        state.settle(&receipt);
        self.undone.subtract();
        self.go_on(&mut state, was_held, receipt.connection);
    }

    /// Whether it takes nothing more.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Takes nothing more; what is in it is still yielded.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        std::mem::take(&mut state.full).into_values().for_each(Waker::wake);
        drop(state);
        self.filled.notify_one();
    }

    /// Wakes those that may go on, at half so that they are not woken for every frame. One more of this
    /// connection is done.
    fn go_on(&self, state: &mut State, was_held: usize, connection: Option<ConnectionId>) {
        if state.held <= self.most / 2 && !state.full.is_empty() {
            let most = self.share / 2;
            if was_held > self.most / 2 {
                let full = std::mem::take(&mut state.full);
                let (still, free): (BTreeMap<_, _>, BTreeMap<_, _>) =
                    full.into_iter().partition(|(who, _)| state.share(*who) > most);
                state.full = still;
                free.into_values().for_each(Waker::wake);
            } else if let Some(who) = connection.map(ConnectionId::get)
                && state.share(who) <= most
                && let Some(waker) = state.full.remove(&who)
            {
                waker.wake();
            }
        }
        if !state.waiting.is_empty() {
            let State { waiting, done, ahead, .. } = state;
            waiting.retain(|_, (place, waker)| {
                let waits = *place > *done && !ahead.contains(place);
                if !waits {
                    waker.wake_by_ref();
                }
                waits
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        let state = self.lock();
        for _ in state.done + state.ahead.len() as u64..state.put {
            self.undone.subtract();
        }
    }
}

impl State {
    /// What a connection has in it.
    fn share(&self, who: u64) -> usize {
        ConnectionId::of(who).and_then(|connection| self.shares.get(&connection)).copied().unwrap_or(0)
    }

    fn is_done(&self, place: u64) -> bool {
        self.done >= place || self.ahead.contains(&place)
    }

    fn settle(&mut self, receipt: &Receipt) {
        self.held -= receipt.size;
        if let Some(connection) = receipt.connection
            && let Entry::Occupied(mut share) = self.shares.entry(connection)
        {
            *share.get_mut() -= receipt.size;
            if *share.get() == 0 {
                share.remove();
            }
        }
        self.ahead.insert(receipt.place);
        while self.ahead.remove(&(self.done + 1)) {
            self.done += 1;
        }
    }
}

impl Receipt {
    fn of(place: u64, item: &Item) -> Self {
        Self { place, size: item.size(), connection: item.connection() }
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
    /// The connection it is about.
    pub(crate) fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Frames { party, .. } => Some(party.id),
            Self::Fact(fact) => fact.party.as_ref().map(|party| party.id),
        }
    }

    fn size(&self) -> usize {
        PLACE
            + match self {
                Self::Frames { wire, .. } => wire.len(),
                Self::Fact(fact) => fact.data.as_ref().map_or(0, Bytes::len),
            }
    }
}

/// What a queue of a wire may have where nothing else is said, in bytes.
pub(crate) const INTAKE: usize = 1 << 20;
/// What an object may have for its consumer, in bytes: this bounds how many of its connections can wait.
const OBJECT: usize = 16 << 20;
/// What one connection may have there before it is not read, in bytes; one read goes beyond it.
const SHARE: usize = 64 << 10;
/// What an item costs beside its bytes.
const PLACE: usize = 256;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::event::{Endpoint, Introduction};

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
        let one = ConnectionId::of(1).unwrap();
        assert_eq!(intake.put(fact(2_000)), 1);
        let poll_room = |cx: &mut Context<'_>| intake.poll_place(cx, 1, usize::MAX);
        assert!(poll_room(&mut cx).is_pending());
        assert!(intake.offer(fact(1)).is_err());
        assert!(intake.next().await.is_some());
        assert!(poll_room(&mut cx).is_pending(), "it is being taken through");
        assert!(intake.poll_done(&mut cx, one, 1).is_pending());
        assert_eq!(intake.put(fact(1)), 2);
        assert!(intake.next().await.is_some());
        assert!(intake.poll_done(&mut cx, one, 1).is_ready());
        assert!(poll_room(&mut cx).is_ready());
        intake.close();
        assert!(intake.next().await.is_none());
        undone.none().await;
        assert_eq!(intake.put(fact(1)), 2, "nothing comes after the end");
        assert!(intake.lock().full.is_empty() && intake.lock().waiting.is_empty());
    }

    #[test]
    fn a_connection_has_its_share_and_is_woken_when_half_of_it_is_free() {
        let undone = Undone::new();
        let intake = Intake::of_object(&undone);
        let party = |number| {
            let id = ConnectionId::of(number).unwrap();
            Arc::new(Party::new(id, "a".into(), (Endpoint::Echo, Endpoint::Echo), Introduction::default()))
        };
        let (one, other) = (party(1), party(2));
        let of = |party: &Arc<Party>| {
            let Item::Fact(fact) = fact(SHARE / 4) else { unreachable!() };
            Item::Fact(Fact { party: Some(Arc::clone(party)), ..fact })
        };
        let (waker, woken) = counted();
        let mut cx = Context::from_waker(&waker);
        for _ in 0..4 {
            assert!(intake.poll_room(&mut cx, one.id).is_ready());
            intake.put(of(&one));
        }
        intake.put(of(&other));
        assert!(intake.poll_room(&mut cx, one.id).is_pending());
        assert!(intake.poll_room(&mut cx, other.id).is_ready(), "another has its own");
        let receipts: Vec<_> = {
            let mut state = intake.lock();
            std::mem::take(&mut state.items).iter().map(|(place, item)| Receipt::of(*place, item)).collect()
        };
        intake.finish(receipts[4]);
        intake.finish(receipts[1]);
        intake.finish(receipts[0]);
        assert_eq!(woken.load(Relaxed), 0);
        intake.finish(receipts[2]);
        assert_eq!(woken.load(Relaxed), 1);
        assert!(intake.poll_room(&mut cx, one.id).is_ready());
        intake.finish(receipts[3]);
        assert!(intake.is_done(5) && !intake.has_some_of(one.id) && intake.lock().held == 0);
    }

    /// A waker that counts.
    fn counted() -> (Waker, Arc<AtomicU64>) {
        struct Count(Arc<AtomicU64>);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Relaxed);
            }
        }
        let count = Arc::<AtomicU64>::default();
        (Arc::new(Count(Arc::clone(&count))).into(), count)
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
