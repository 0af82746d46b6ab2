//! The slot table: what an emission walks and what connecting changes.
//!
//! A list that an emission holds is never changed, only replaced, so slots may
//! connect, disconnect and emit as they like; one that nobody holds is changed
//! where it is, so that the thousandth slot costs no more than the first.
//! A disconnected slot is marked dead at once and left out of the next list;
//! what it owns goes with the last list that has it.
//!
//! To get at the slots costs an emission one atomic operation: a copy of the list
//! is kept behind a lock that is only ever *tried*, made anew by the first
//! emission after a change. Whoever does not get it, an emission within an
//! emission for example, takes the slower road to the list itself. So nobody
//! waits for a slot. (The lock is spin's, for its `try_lock` alone: that of the
//! standard library does the same and takes 11 ns more, which is more than a whole
//! emission.)

use std::any::Any;
use std::mem::{replace, take};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use spin::mutex::SpinMutex;

use super::connection::{BlockGuard, Link};
use super::{AlreadyConnected, Owner, Signal, SlotPanicked};

pub(super) struct Table<T> {
    /// How many slots are live: all that an emission without slots looks at.
    connected: AtomicUsize,
    blocked: AtomicUsize,
    slots: Mutex<List<T>>,
    /// The slots as the last emission found them; only ever tried.
    cached: SpinMutex<Vec<Arc<Slot<T>>>>,
    /// The list was changed since `cached` was made of it.
    is_stale: AtomicBool,
    /// Slots connected so far.
    added: AtomicU64,
    panics: AtomicU64,
    panicked: Signal<SlotPanicked>,
    owner: Option<Weak<dyn Owner>>,
}

type List<T> = Arc<Vec<Arc<Slot<T>>>>;

/// A connected slot.
pub(super) struct Slot<T> {
    /// By which it is found again: the list is in this order.
    number: u64,
    /// No other live slot has the same.
    key: Option<Arc<str>>,
    live: AtomicBool,
    call: Call<T>,
    place: &'static Location<'static>,
}

/// What a slot does; `false` says that it has lost its context.
pub(super) struct Call<T> {
    call: Box<dyn Fn(&T) -> bool + Send + Sync>,
    once: bool,
}

impl<T> Slot<T> {
    fn is_called(&self, key: &Arc<str>) -> bool {
        self.key.as_ref() == Some(key) && self.live.load(Ordering::Acquire)
    }
}

impl<T> Call<T> {
    pub(super) fn always(call: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        Self { call: Box::new(call), once: false }
    }

    pub(super) fn once(call: impl FnOnce(&T) + Send + 'static) -> Self {
        let call = Mutex::new(Some(call));
        let take = move |value: &T| {
            let call = lock(&call).take();
            call.into_iter().for_each(|call| call(value));
            true
        };
        Self { call: Box::new(take), once: true }
    }
}

impl<T: 'static> Table<T> {
    pub(super) fn new(owner: Option<Weak<dyn Owner>>) -> Self {
        Self {
            connected: AtomicUsize::new(0),
            blocked: AtomicUsize::new(0),
            slots: Mutex::default(),
            cached: SpinMutex::default(),
            is_stale: AtomicBool::new(true),
            added: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            panicked: Signal::new(),
            owner,
        }
    }

    #[inline]
    pub(super) fn is_connected(&self) -> bool {
        self.count() > 0
    }

    pub(super) fn panicked(&self) -> &Signal<SlotPanicked> {
        &self.panicked
    }

    pub(super) fn add(self: &Arc<Self>, call: Call<T>, place: &'static Location<'static>) -> Box<dyn Link> {
        self.add_keyed(None, call, place).expect("without a key it is like no other")
    }

    /// Connects a slot, unless another with this key is connected.
    pub(super) fn add_keyed(
        self: &Arc<Self>,
        key: Option<Arc<str>>,
        call: Call<T>,
        place: &'static Location<'static>,
    ) -> Result<Box<dyn Link>, AlreadyConnected> {
        let number = self.added.fetch_add(1, Ordering::Relaxed);
        let slot = Arc::new(Slot { number, key, live: AtomicBool::new(true), call, place });
        let link = TableLink { table: Arc::downgrade(self), slot: Arc::downgrade(&slot), number };
        let kept = self.change(|slots| {
            let same = slot.key.as_ref().and_then(|key| slots.iter().find(|other| other.is_called(key)));
            if let Some(other) = same {
                return Err((AlreadyConnected { slot: other.place }, slot));
            }
            // Numbers are given out before the lock is taken.
            let at = slots.partition_point(|other| other.number < number);
            slots.insert(at, slot);
            self.connected.fetch_add(1, Ordering::Release);
            Ok(())
        });
        if let Err((refusal, slot)) = kept {
            drop_whatever_it_does(slot);
            return Err(refusal);
        }
        if let Some(owner) = self.owner.as_ref().and_then(Weak::upgrade) {
            owner.slot_connected();
        }
        Ok(Box::new(link))
    }

    // Not within its callers, where it would cost also an emission that calls nobody.
    #[inline(never)]
    pub(super) fn emit(&self, value: &T) {
        let panicked = self.call(value);
        if !panicked.is_empty() {
            panicked.into_iter().for_each(|panicked| self.announce(panicked));
        }
    }

    /// Calls the live slots in order and returns which panicked.
    #[inline]
    pub(super) fn call(&self, value: &T) -> Vec<SlotPanicked> {
        let mut panicked = Vec::new();
        if self.blocked.load(Ordering::Acquire) > 0 {
            return panicked;
        }
        let Some(mut cached) = self.cached.try_lock() else {
            self.call_beside(value, &mut panicked);
            return panicked;
        };
        let before = self.refresh(&mut cached);
        self.run(&cached, value, &mut panicked);
        let after = self.refresh(&mut cached);
        drop(cached);
        if before.is_some() || after.is_some() {
            drop_whatever_it_does((before, after));
        }
        panicked
    }

    /// The same, while another emission has the copy.
    #[cold]
    #[inline(never)]
    fn call_beside(&self, value: &T, panicked: &mut Vec<SlotPanicked>) {
        let slots = Arc::clone(&lock(&self.slots));
        self.run(&slots, value, panicked);
        drop_whatever_it_does(slots);
    }

    /// Calls the live ones of `slots`; those that shall not be called again are gone afterwards.
    #[inline(always)]
    fn run(&self, slots: &[Arc<Slot<T>>], value: &T, panicked: &mut Vec<SlotPanicked>) {
        let (mut left, mut gone) = (slots.iter(), false);
        loop {
            let mut current: Option<&Slot<T>> = None;
            let ended = catch_unwind(AssertUnwindSafe(|| {
                for slot in left.by_ref() {
                    // Of two emissions at once only one has a single-shot slot.
                    let once = slot.call.once;
                    if !slot.live.load(Ordering::Acquire) || once && !self.retire(slot) {
                        continue;
                    }
                    current = Some(slot);
                    let has_context = (slot.call.call)(value);
                    if once || !has_context {
                        gone |= once || self.retire(slot);
                    }
                }
            }));
            let Err(payload) = ended else { break };
            self.panics.fetch_add(1, Ordering::Relaxed);
            let slot = current.expect("only a slot can panic here");
            gone |= slot.call.once;
            panicked.push(SlotPanicked { slot: slot.place, message: text_of(&*payload) });
        }
        if gone {
            self.sweep();
        }
    }

    /// Brings the copy up to date and returns the old one, to be dropped without the lock.
    #[inline]
    fn refresh(&self, cached: &mut Vec<Arc<Slot<T>>>) -> Option<Vec<Arc<Slot<T>>>> {
        self.is_stale.load(Ordering::SeqCst).then(|| self.renew(cached))
    }

    #[cold]
    #[inline(never)]
    fn renew(&self, cached: &mut Vec<Arc<Slot<T>>>) -> Vec<Arc<Slot<T>>> {
        // First, so that what changes meanwhile is not missed.
        self.is_stale.store(false, Ordering::SeqCst);
        let slots = Arc::clone(&lock(&self.slots));
        replace(cached, slots.to_vec())
    }

    /// Counts a panic elsewhere than in an emission, and announces it.
    pub(super) fn panicked_in_queue(&self, slot: &'static Location<'static>, payload: &(dyn Any + Send)) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        self.announce(SlotPanicked { slot, message: text_of(payload) });
    }

    fn announce(&self, panicked: SlotPanicked) {
        match &self.owner {
            Some(owner) => {
                owner.upgrade().into_iter().for_each(|owner| owner.slot_panicked(panicked.clone()))
            }
            None => self.panicked.emit(&panicked),
        }
    }

    /// Has `slot` never called again; tells whether it was live.
    fn retire(&self, slot: &Slot<T>) -> bool {
        let was_live = slot.live.swap(false, Ordering::AcqRel);
        if was_live {
            self.connected.fetch_sub(1, Ordering::Release);
        }
        was_live
    }

    /// Leaves out the dead slots.
    fn sweep(&self) {
        let is_dead = |slot: &mut Arc<Slot<T>>| !slot.live.load(Ordering::Acquire);
        let dead: Vec<_> = self.change(|slots| slots.extract_if(.., is_dead).collect());
        drop_whatever_it_does(dead);
    }

    /// Leaves out one slot.
    fn remove(&self, number: u64) {
        let slot = self.change(|slots| {
            let at = slots.binary_search_by_key(&number, |slot| slot.number).ok()?;
            Some(slots.remove(at))
        });
        drop_whatever_it_does(slot);
    }

    /// Changes the list: where it is, if no emission holds it.
    fn change<R>(&self, change: impl FnOnce(&mut Vec<Arc<Slot<T>>>) -> R) -> R {
        let mut slots = lock(&self.slots);
        let changed = change(Arc::make_mut(&mut slots));
        self.is_stale.store(true, Ordering::SeqCst);
        drop(slots);
        // It may have the last of what a dead slot owned. An emission under way looks when it ends; should the
        // two just miss each other, that stays a little longer, until the next one.
        self.forget_cached();
        changed
    }

    /// Empties the copy; tells whether no emission had it.
    fn forget_cached(&self) -> bool {
        let cached = self.cached.try_lock().map(|mut cached| take(&mut *cached));
        let had_it = cached.is_some();
        drop_whatever_it_does(cached);
        had_it
    }

    /// Disconnects every slot.
    pub(super) fn clear(&self) {
        let slots = Arc::clone(&lock(&self.slots));
        for slot in slots.iter() {
            self.retire(slot);
        }
        drop_whatever_it_does(slots);
        self.sweep();
        // Nobody may emit any more, so what the slots owned shall not wait for the next emission.
        for _ in 0..CLEAR_TRIES {
            if self.forget_cached() {
                break;
            }
            std::thread::yield_now();
        }
    }

    pub(super) fn block(self: &Arc<Self>) -> BlockGuard {
        self.blocked.fetch_add(1, Ordering::AcqRel);
        let table = Arc::downgrade(self);
        BlockGuard::new(move || {
            if let Some(table) = table.upgrade() {
                table.blocked.fetch_sub(1, Ordering::AcqRel);
            }
        })
    }
}

impl<T> Table<T> {
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }

    pub(super) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }
}

/// What a [`Connection`](super::Connection) holds of its slot: neither the
/// table nor the slot is kept alive, so that a slot may own its connection.
struct TableLink<T> {
    table: Weak<Table<T>>,
    slot: Weak<Slot<T>>,
    number: u64,
}

impl<T: 'static> Link for TableLink<T> {
    fn cut(&self) -> bool {
        let (Some(table), Some(slot)) = (self.table.upgrade(), self.slot.upgrade()) else { return false };
        let was_live = table.retire(&slot);
        table.remove(self.number);
        drop_whatever_it_does(slot);
        was_live
    }

    fn is_live(&self) -> bool {
        self.table.strong_count() > 0
            && self.slot.upgrade().is_some_and(|slot| slot.live.load(Ordering::Acquire))
    }
}

/// As often does a clear try to get at the copy of the list.
const CLEAR_TRIES: usize = 16;

/// What a slot owned may connect, emit or panic as it goes; nobody else shall suffer from that.
fn drop_whatever_it_does<V>(value: V) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

fn text_of(payload: &(dyn Any + Send)) -> Arc<str> {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("not a text").into()
}

/// No code of users runs under these locks, so a panic cannot leave them half changed.
fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
