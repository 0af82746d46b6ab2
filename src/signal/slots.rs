//! The slot table: what an emission walks and what connecting changes.
//!
//! Slots run under a read lock that nobody ever waits for: changes only *try*
//! to get the write lock. What cannot be done while an emission is under way
//! is left in `late` or marked dead, and done when that emission ends. So an
//! emission costs two atomic operations whatever it calls, slots may do what
//! they like, and no closure is dropped under a lock.

use std::any::Any;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError, Weak};

use super::connection::{BlockGuard, Link};
use super::{Owner, Signal, SlotPanicked};

pub(super) struct Table<T> {
    /// How many slots are live: all that an emission without slots looks at.
    connected: AtomicUsize,
    blocked: AtomicUsize,
    /// Something waits to be done to `slots`.
    dirty: AtomicBool,
    slots: RwLock<Vec<Arc<Slot<T>>>>,
    /// Slots connected while an emission was under way, in order.
    late: Mutex<Vec<Arc<Slot<T>>>>,
    panics: AtomicU64,
    panicked: Signal<SlotPanicked>,
    owner: Option<Weak<dyn Owner>>,
}

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
            dirty: AtomicBool::new(false),
            slots: RwLock::default(),
            late: Mutex::default(),
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
        {
            let mut late = lock(&self.late);
            late.push(slot);
            self.dirty.store(true, Ordering::SeqCst);
            self.connected.fetch_add(1, Ordering::Release);
        }
        self.settle();
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
        if self.dirty.load(Ordering::Acquire) {
            self.settle();
        }
        {
            // Nobody waits to write, so a read inside a read cannot be stuck.
            let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
            // Still there only while an emission around this one keeps them out of the list.
            let late = if self.dirty.load(Ordering::Acquire) { lock(&self.late).clone() } else { Vec::new() };
            self.run(&slots, value, &mut panicked);
            self.run(&late, value, &mut panicked);
        }
        if self.dirty.load(Ordering::SeqCst) {
            self.settle();
        }
        panicked
    }

    fn run(&self, slots: &[Arc<Slot<T>>], value: &T, panicked: &mut Vec<SlotPanicked>) {
        let mut slots = slots.iter();
        loop {
            let mut current: Option<&Slot<T>> = None;
            let ended = catch_unwind(AssertUnwindSafe(|| {
                for slot in slots.by_ref() {
                    // Of two emissions at once only one has a single-shot slot.
                    if !slot.live.load(Ordering::Acquire) || slot.call.once && !self.retire(slot) {
                        continue;
                    }
                    current = Some(slot);
                    if !(slot.call.call)(value) {
                        self.retire(slot);
                    }
                }
            }));
            let Err(payload) = ended else { return };
            self.panics.fetch_add(1, Ordering::Relaxed);
            let slot = current.expect("only a slot can panic here").place;
            panicked.push(SlotPanicked { slot, message: text_of(&*payload) });
        }
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
            self.dirty.store(true, Ordering::SeqCst);
        }
        was_live
    }

    /// Does what waits to be done, unless an emission is under way, which
    /// then does it when it ends. (Should both just miss each other, the next
    /// emission does it.)
    fn settle(&self) {
        let mut slots = match self.slots.try_write() {
            Ok(slots) => slots,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        // First, so that what comes meanwhile is not forgotten.
        self.dirty.store(false, Ordering::SeqCst);
        slots.append(&mut lock(&self.late));
        let dead: Vec<_> = slots.extract_if(.., |slot| !slot.live.load(Ordering::Acquire)).collect();
        drop(slots);
        // What a slot owned may connect, emit or panic as it goes.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(dead)));
    }

    /// Disconnects every slot.
    pub(super) fn clear(&self) {
        let late = lock(&self.late).clone();
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner).clone();
        for slot in slots.iter().chain(&late) {
            self.retire(slot);
        }
        self.settle();
        let _ = catch_unwind(AssertUnwindSafe(|| drop((slots, late))));
    }

    pub(super) fn block(self: &Arc<Self>) -> BlockGuard {
        self.blocked.fetch_add(1, Ordering::AcqRel);
        let table = Arc::clone(self);
        BlockGuard::new(move || {
            table.blocked.fetch_sub(1, Ordering::AcqRel);
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
        table.settle();
        // The table may have let go of it, so this may be the last hold on what the slot owned.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(slot)));
        was_live
    }

    fn is_live(&self) -> bool {
        self.table.strong_count() > 0
            && self.slot.upgrade().is_some_and(|slot| slot.live.load(Ordering::Acquire))
    }
}

fn text_of(payload: &(dyn Any + Send)) -> Arc<str> {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("not a text").into()
}

/// No code of users runs under these locks, so a panic cannot leave them half changed.
fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
