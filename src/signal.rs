//! [`Signal`]: one emission point of one object, after Qt's signals. Slots are
//! called in the emitting task, in the order they were connected. What they
//! do there is short; anything longer subscribes to the bus instead.

use std::fmt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// One emission point.
///
/// A slot connected during an emit waits for the next one; a disconnected
/// slot is never called again; a slot that panics is caught and named, and
/// the others still run. With no slot an emit is one relaxed load.
pub struct Signal<T> {
    table: Arc<Table<T>>,
}

struct Table<T> {
    connected: AtomicUsize,
    slots: Mutex<Arc<Vec<Arc<Slot<T>>>>>,
}

struct Slot<T> {
    live: AtomicBool,
    place: &'static Location<'static>,
    call: Box<dyn Fn(&T) + Send + Sync>,
}

/// A slot's connection to its signal.
///
/// Dropping it disconnects the slot; [`detach`](Self::detach) keeps it for as
/// long as the signal lives.
#[must_use = "dropping the Connection disconnects the slot; use .detach() to keep it"]
pub struct Connection {
    disconnect: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl<T: 'static> Signal<T> {
    /// A signal without slots.
    pub fn new() -> Self {
        let slots = Mutex::new(Arc::new(Vec::new()));
        Self { table: Arc::new(Table { connected: AtomicUsize::new(0), slots }) }
    }

    /// Connects a slot, to be called in the emitting task.
    #[track_caller]
    pub fn connect(&self, slot: impl Fn(&T) + Send + Sync + 'static) -> Connection {
        let slot =
            Arc::new(Slot { live: AtomicBool::new(true), place: Location::caller(), call: Box::new(slot) });
        let mut slots = self.table.lock();
        Arc::make_mut(&mut slots).push(Arc::clone(&slot));
        self.table.connected.store(slots.len(), Ordering::Relaxed);
        drop(slots);
        let table: Weak<Table<T>> = Arc::downgrade(&self.table);
        Connection { disconnect: Some(Box::new(move || remove(&table, &slot))) }
    }

    /// Calls the slots in order and returns where those that panicked were connected.
    pub fn emit(&self, value: &T) -> Vec<&'static Location<'static>> {
        if !self.is_connected() {
            return Vec::new();
        }
        let slots = Arc::clone(&self.table.lock());
        let live = slots.iter().filter(|slot| slot.live.load(Ordering::Acquire));
        live.filter(|slot| catch_unwind(AssertUnwindSafe(|| (slot.call)(value))).is_err())
            .map(|slot| slot.place)
            .collect()
    }

    /// Tells whether any slot is connected.
    pub fn is_connected(&self) -> bool {
        self.table.connected.load(Ordering::Relaxed) > 0
    }
}

impl<T> Table<T> {
    fn lock(&self) -> MutexGuard<'_, Arc<Vec<Arc<Slot<T>>>>> {
        // No slot runs under this lock, so a panic cannot leave the list half changed.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove<T>(table: &Weak<Table<T>>, slot: &Arc<Slot<T>>) {
    slot.live.store(false, Ordering::Release);
    let Some(table) = table.upgrade() else { return };
    let mut slots = table.lock();
    Arc::make_mut(&mut slots).retain(|other| !Arc::ptr_eq(other, slot));
    table.connected.store(slots.len(), Ordering::Relaxed);
}

impl Connection {
    /// Disconnects the slot: no later emit calls it. One under way on another
    /// thread may still be about to.
    pub fn disconnect(mut self) {
        self.run();
    }

    /// Keeps the slot connected for as long as the signal lives.
    pub fn detach(mut self) {
        self.disconnect = None;
    }

    fn run(&mut self) {
        if let Some(disconnect) = self.disconnect.take() {
            disconnect();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.run();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl<T: 'static> Default for Signal<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Signal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal").field("connected", &self.table.connected).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type BoxedSlot = Box<dyn Fn(&u32) + Send + Sync>;

    fn recorder() -> (Arc<Mutex<Vec<String>>>, impl Fn(&str) -> BoxedSlot) {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&calls);
        let slot = move |name: &str| {
            let (sink, name) = (Arc::clone(&sink), name.to_owned());
            Box::new(move |value: &u32| sink.lock().unwrap().push(format!("{name}{value}"))) as BoxedSlot
        };
        (calls, slot)
    }

    #[test]
    fn slots_run_in_the_order_they_were_connected() {
        let (calls, slot) = recorder();
        let signal = Signal::new();
        let _a = signal.connect(slot("a"));
        let _b = signal.connect(slot("b"));
        signal.emit(&1);
        assert_eq!(*calls.lock().unwrap(), ["a1", "b1"]);
    }

    #[test]
    fn a_dropped_connection_is_never_called_again_and_a_detached_one_is() {
        let (calls, slot) = recorder();
        let signal = Signal::new();
        drop(signal.connect(slot("a")));
        signal.connect(slot("b")).detach();
        signal.connect(slot("c")).disconnect();
        signal.emit(&1);
        assert_eq!(*calls.lock().unwrap(), ["b1"]);
    }

    #[test]
    fn a_panicking_slot_is_named_and_the_others_still_run() {
        let (calls, slot) = recorder();
        let signal = Signal::new();
        let _a = signal.connect(|_: &u32| panic!("of this test"));
        let _b = signal.connect(slot("b"));
        let panicked = signal.emit(&1);
        assert_eq!(panicked.len(), 1);
        assert_eq!(panicked[0].file(), file!());
        assert_eq!(*calls.lock().unwrap(), ["b1"]);
    }

    #[test]
    fn a_slot_connected_during_an_emit_waits_for_the_next() {
        let (calls, slot) = recorder();
        let signal = Arc::new(Signal::new());
        let (inner, late) = (Arc::downgrade(&signal), Mutex::new(Some(slot("late"))));
        let _a = signal.connect(move |_| {
            if let (Some(signal), Some(late)) = (inner.upgrade(), late.lock().unwrap().take()) {
                signal.connect(late).detach();
            }
        });
        signal.emit(&1);
        assert!(calls.lock().unwrap().is_empty());
        signal.emit(&2);
        assert_eq!(*calls.lock().unwrap(), ["late2"]);
    }

    #[test]
    fn a_slot_disconnected_by_an_earlier_one_is_not_called() {
        let (calls, slot) = recorder();
        let signal = Signal::new();
        let victim: Arc<Mutex<Option<Connection>>> = Arc::default();
        let hand = Arc::clone(&victim);
        let _a = signal.connect(move |_: &u32| drop(hand.lock().unwrap().take()));
        *victim.lock().unwrap() = Some(signal.connect(slot("b")));
        signal.emit(&1);
        assert!(calls.lock().unwrap().is_empty());
    }
}
