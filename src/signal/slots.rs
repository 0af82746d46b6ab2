//! The slot table: what an emission walks and what connecting changes.
//!
//! The list of slots is never changed, only replaced: an emission holds the
//! one it began with, so slots may connect, disconnect and emit as they like.
//! A disconnected slot is marked dead at once and left out of the next list;
//! what it owns goes with the last list that has it.
//!
//! To get at the list costs an emission one atomic operation: a copy of it is
//! kept behind a lock that is only ever *tried*. Whoever does not get it, an
//! emission within an emission for example, takes the slower road to the list
//! itself. So nobody waits for a slot. (The lock is spin's, for its `try_lock`
//! alone: that of the standard library does the same and takes 19 ns where this
//! takes 8, which is more than all the rest of an emission.)

use std::any::Any;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use spin::mutex::SpinMutex;

use super::connection::{BlockGuard, Link};
use super::{Owner, Signal, SlotPanicked};

pub(super) struct Table<T> {
    /// How many slots are live: all that an emission without slots looks at.
    connected: AtomicUsize,
    blocked: AtomicUsize,
    slots: Mutex<List<T>>,
    /// The list as it was when somebody last looked; only ever tried.
    cached: SpinMutex<List<T>>,
    is_stale: AtomicBool,
    panics: AtomicU64,
    panicked: Signal<SlotPanicked>,
    owner: Option<Weak<dyn Owner>>,
}

type List<T> = Arc<Vec<Arc<Slot<T>>>>;

/// A connected slot.
pub(super) struct Slot<T> {
    live: AtomicBool,
    call: Call<T>,
    place: &'static Location<'static>,
}

/// What a slot does; `false` says that it has lost its context.
pub(super) struct Call<T> {
    call: Box<dyn Fn(&T) -> bool + Send + Sync>,
    once: bool,
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
            is_stale: AtomicBool::new(false),
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
        let slot = Arc::new(Slot { live: AtomicBool::new(true), call, place });
        let link = TableLink { table: Arc::downgrade(self), slot: Arc::downgrade(&slot) };
        self.replace(|slots| {
            slots.push(slot);
            self.connected.fetch_add(1, Ordering::Release);
        });
        if let Some(owner) = self.owner.as_ref().and_then(Weak::upgrade) {
            owner.slot_connected();
        }
        Box::new(link)
    }

    pub(super) fn emit(&self, value: &T) {
        for panicked in self.call(value) {
            self.announce(panicked);
        }
    }

    /// Calls the live slots in order and returns which panicked.
    pub(super) fn call(&self, value: &T) -> Vec<SlotPanicked> {
        let mut panicked = Vec::new();
        if self.blocked.load(Ordering::Acquire) > 0 {
            return panicked;
        }
        if let Some(mut slots) = self.cached.try_lock() {
            let before = self.refresh(&mut slots);
            self.run(&slots, value, &mut panicked);
            let after = self.refresh(&mut slots);
            drop(slots);
            if before.is_some() || after.is_some() {
                drop_whatever_it_does((before, after));
            }
        } else {
            let slots = Arc::clone(&lock(&self.slots));
            self.run(&slots, value, &mut panicked);
            drop_whatever_it_does(slots);
        }
        panicked
    }

    /// Calls the live ones of `slots`; those that shall not be called again are gone afterwards.
    #[inline]
    fn run(&self, slots: &[Arc<Slot<T>>], value: &T, panicked: &mut Vec<SlotPanicked>) {
        let (mut left, mut gone) = (slots.iter(), false);
        loop {
            let mut current: Option<&Slot<T>> = None;
            let ended = catch_unwind(AssertUnwindSafe(|| {
                for slot in left.by_ref() {
                    // Of two emissions at once only one has a single-shot slot.
                    if !slot.live.load(Ordering::Acquire) || slot.call.once && !self.retire(slot) {
                        continue;
                    }
                    current = Some(slot);
                    let has_context = (slot.call.call)(value);
                    gone |= slot.call.once || !has_context && self.retire(slot);
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
    fn refresh(&self, cached: &mut List<T>) -> Option<List<T>> {
        if !self.is_stale.load(Ordering::SeqCst) {
            return None;
        }
        // First, so that what changes meanwhile is not missed.
        self.is_stale.store(false, Ordering::SeqCst);
        let slots = Arc::clone(&lock(&self.slots));
        Some(std::mem::replace(cached, slots))
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
        self.replace(|slots| slots.retain(|slot| slot.live.load(Ordering::Acquire)));
    }

    fn replace(&self, change: impl FnOnce(&mut Vec<Arc<Slot<T>>>)) {
        let old = {
            let mut slots = lock(&self.slots);
            let mut changed = Vec::clone(&slots);
            change(&mut changed);
            std::mem::replace(&mut *slots, Arc::new(changed))
        };
        self.is_stale.store(true, Ordering::SeqCst);
        // An emission under way does this when it ends. Should the two just miss each other the
        // next one does, so that only what a dead slot owned stays a little longer.
        let cached = self.cached.try_lock().and_then(|mut cached| self.refresh(&mut cached));
        drop_whatever_it_does((old, cached));
    }

    /// Disconnects every slot.
    pub(super) fn clear(&self) {
        let slots = Arc::clone(&lock(&self.slots));
        for slot in slots.iter() {
            self.retire(slot);
        }
        self.sweep();
        drop_whatever_it_does(slots);
        // Nobody may emit any more, so what the slots owned shall not wait for the next emission.
        for _ in 0..CLEAR_TRIES {
            if !self.is_stale.load(Ordering::SeqCst) {
                break;
            }
            let cached = self.cached.try_lock().and_then(|mut cached| self.refresh(&mut cached));
            drop_whatever_it_does(cached);
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
}

impl<T: 'static> Link for TableLink<T> {
    fn cut(&self) -> bool {
        let (Some(table), Some(slot)) = (self.table.upgrade(), self.slot.upgrade()) else { return false };
        let was_live = table.retire(&slot);
        table.sweep();
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
