//! [`Signal`]: one emission point of one object, after Qt's signals. The verb
//! says where a slot runs: [`connect`](SignalRef::connect) in the emitting
//! task, [`connect_async`](SignalRef::connect_async) and
//! [`stream`](SignalRef::stream) behind a bounded queue. There is no automatic
//! choice, and emitting never waits.

mod connection;
mod queue;
mod slots;

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::sync::{Arc, OnceLock, Weak};

pub use self::connection::{BlockGuard, Connection};
pub use self::queue::{Delivery, Queue, SignalStream};
use self::slots::{Call, Table};

/// One emission point; its owner emits, others get a [`SignalRef`].
///
/// * Slots run in the order they were connected.
/// * A slot connected during an emission waits for the next one (an emission
///   inside the running one is a next one); a disconnected slot is never
///   called again; a single-shot slot is removed before its call.
/// * A slot that panics is caught, counted and announced
///   ([`SignalRef::slot_panicked`]); the others still run.
/// * Slots may connect, disconnect, emit, and drop anything, this signal's
///   owner included: the emission under way finishes with the slots it has.
/// * With no slot an emission is a load and a branch: nothing is allocated,
///   locked or copied.
///
/// ```
/// use signal_node::Signal;
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// static SUM: AtomicU32 = AtomicU32::new(0);
///
/// let measured = Signal::new();
/// let connection = measured.view().connect(|value: &u32| {
///     SUM.fetch_add(*value, Ordering::Relaxed);
/// });
/// measured.emit(&3);
/// drop(connection); // a guard: dropped, it disconnects
/// measured.emit(&4);
/// assert_eq!(SUM.load(Ordering::Relaxed), 3);
/// ```
pub struct Signal<T> {
    table: OnceLock<Arc<Table<T>>>,
    owner: Option<Weak<dyn Owner>>,
}

/// What an object wants to know of the slots of its signals.
pub(crate) trait Owner: Send + Sync {
    /// A slot was connected.
    fn slot_connected(&self);
    /// A slot panicked.
    fn slot_panicked(&self, panicked: SlotPanicked);
}

/// A slot panicked; the others still ran.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotPanicked {
    /// Where the slot was connected.
    pub slot: &'static Location<'static>,
    /// What the panic said, if it said it in text.
    pub message: Arc<str>,
}

/// A slot with this key is connected already; see [`SignalRef::connect_keyed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a slot with this key was connected at {slot} already; disconnect that one first")]
#[non_exhaustive]
pub struct AlreadyConnected {
    /// Where that one was connected.
    pub slot: &'static Location<'static>,
}

/// Something a slot may use without keeping it alive; see [`SignalRef::connect_weak`].
pub trait Context: Sized {
    /// What is kept instead.
    type Weak: Send + Sync + 'static;
    /// Lets go of it.
    fn downgrade(&self) -> Self::Weak;
    /// Takes hold of it again, if it still is.
    fn upgrade(weak: &Self::Weak) -> Option<Self>;
}

impl<R: Send + Sync + 'static> Context for Arc<R> {
    type Weak = Weak<R>;

    fn downgrade(&self) -> Weak<R> {
        Self::downgrade(self)
    }

    fn upgrade(weak: &Weak<R>) -> Option<Self> {
        weak.upgrade()
    }
}

impl<T: 'static> Signal<T> {
    /// A signal without slots. Allocates nothing, so it may be a `static`.
    pub const fn new() -> Self {
        Self { table: OnceLock::new(), owner: None }
    }

    /// A signal of an object, which hears of its slots.
    pub(crate) const fn of(owner: Weak<dyn Owner>) -> Self {
        Self { table: OnceLock::new(), owner: Some(owner) }
    }

    /// The view of this signal that others get: they connect, and cannot emit.
    pub const fn view(&self) -> SignalRef<'_, T> {
        SignalRef { signal: self }
    }

    /// Calls the slots in order.
    #[inline]
    pub fn emit(&self, value: &T) {
        if let Some(table) = self.listening() {
            table.emit(value);
        }
    }

    /// Calls the slots with what `make` makes, which is not run when nobody listens.
    #[inline]
    pub fn emit_with(&self, make: impl FnOnce() -> T) {
        if let Some(table) = self.listening() {
            table.emit(&make());
        }
    }

    /// Calls the slots and returns which panicked, unannounced.
    pub(crate) fn call(&self, value: &T) -> Vec<SlotPanicked> {
        self.listening().map_or_else(Vec::new, |table| table.call(value))
    }

    /// Tells whether any slot is connected.
    #[inline]
    pub fn is_connected(&self) -> bool {
        self.listening().is_some()
    }

    #[inline]
    fn listening(&self) -> Option<&Arc<Table<T>>> {
        self.table.get().filter(|table| table.is_connected())
    }

    fn table(&self) -> &Arc<Table<T>> {
        self.table.get_or_init(|| Arc::new(Table::new(self.owner.clone())))
    }

    /// Disconnects every slot.
    pub(crate) fn clear(&self) {
        if let Some(table) = self.table.get() {
            table.clear();
        }
    }
}

/// A signal as its users see it: to connect to, not to emit.
pub struct SignalRef<'a, T> {
    signal: &'a Signal<T>,
}

impl<T: 'static> SignalRef<'_, T> {
    /// Connects a slot that runs in the emitting task, before the emission returns.
    ///
    /// It must be short and must not block: while it runs, that task does
    /// nothing else. What takes longer belongs behind
    /// [`connect_async`](Self::connect_async) or [`stream`](Self::stream).
    #[track_caller]
    pub fn connect(&self, slot: impl Fn(&T) + Send + Sync + 'static) -> Connection {
        self.add(Call::always(move |value| {
            slot(value);
            true
        }))
    }

    /// Connects a slot for one emission. It is disconnected before it is
    /// called, so that it may connect itself again.
    #[track_caller]
    pub fn connect_once(&self, slot: impl FnOnce(&T) + Send + 'static) -> Connection {
        self.add(Call::once(slot))
    }

    /// Connects a slot unless another with the same `key` is connected: what
    /// `Qt::UniqueConnection` does, for closures too. A key is this signal's own.
    ///
    /// # Errors
    /// [`AlreadyConnected`]; the other slot stays, and this one is dropped.
    ///
    /// ```
    /// use signal_node::Signal;
    ///
    /// let measured = Signal::new();
    /// let first = measured.view().connect_keyed("log", |_: &u32| {});
    /// let second = measured.view().connect_keyed("log", |_: &u32| {});
    /// assert!(first.is_ok() && second.is_err());
    /// drop(first);
    /// assert!(measured.view().connect_keyed("log", |_: &u32| {}).is_ok());
    /// ```
    #[track_caller]
    pub fn connect_keyed(
        &self,
        key: impl Into<Arc<str>>,
        slot: impl Fn(&T) + Send + Sync + 'static,
    ) -> Result<Connection, AlreadyConnected> {
        let call = Call::always(move |value| {
            slot(value);
            true
        });
        let place = Location::caller();
        self.signal.table().add_keyed(Some(key.into()), call, place).map(Connection::new)
    }

    /// Connects a slot that uses `context` and does not keep it alive: with
    /// the last owner of `context` the slot goes too.
    ///
    /// `context` is an [`Arc`], a [`TcpSocket`](crate::TcpSocket), or a
    /// [`TcpServer`](crate::TcpServer). This is the way for a slot to use the
    /// object whose signal it is connected to; a slot that owns that object
    /// would keep it alive, and itself with it.
    ///
    /// ```
    /// use signal_node::Signal;
    /// use std::sync::{Arc, Mutex};
    ///
    /// let spoke = Signal::new();
    /// let minutes = Arc::new(Mutex::new(Vec::new()));
    /// let slot = |minutes: &Arc<Mutex<Vec<_>>>, said: &&'static str| minutes.lock().unwrap().push(*said);
    /// spoke.view().connect_weak(&minutes, slot).detach();
    /// spoke.emit(&"good morning");
    /// assert_eq!(*minutes.lock().unwrap(), ["good morning"]);
    /// drop(minutes);
    /// spoke.emit(&"nobody is here");
    /// assert!(!spoke.is_connected());
    /// ```
    #[track_caller]
    pub fn connect_weak<C: Context>(
        &self,
        context: &C,
        slot: impl Fn(&C, &T) + Send + Sync + 'static,
    ) -> Connection {
        let weak = context.downgrade();
        self.add(Call::always(move |value| {
            let context = C::upgrade(&weak);
            context.inspect(|context| slot(context, value)).is_some()
        }))
    }

    /// Emits `to` for each emission of this signal for which `map` makes a value.
    ///
    /// Within the same emission; it does not keep `to` alive. A ring of such
    /// connections goes round until `map` returns `None`.
    #[track_caller]
    pub fn forward_to<U: 'static>(
        &self,
        to: &Signal<U>,
        map: impl Fn(&T) -> Option<U> + Send + Sync + 'static,
    ) -> Connection {
        let to = Arc::downgrade(to.table());
        self.add(Call::always(move |value| {
            let table = to.upgrade();
            if let Some(table) = table.as_ref().filter(|table| table.is_connected())
                && let Some(mapped) = map(value)
            {
                table.emit(&mapped);
            }
            table.is_some()
        }))
    }

    /// Connects an asynchronous slot: a task of its own calls it for one value
    /// after the other, from a queue that never makes the emitter wait.
    ///
    /// What the queue could not hold is counted ([`Connection::missed`]). The
    /// task belongs to the [`Connection`]: dropping that aborts a call under
    /// way at its next `await`. After [`detach`](Connection::detach) the task
    /// ends with the signal, when it has called the slot for what was queued.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// ```
    /// use signal_node::{Signal, signal::Queue};
    /// use tokio::sync::mpsc;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let measured = Signal::new();
    /// let (results, mut received) = mpsc::channel(1);
    /// let _connection = measured.view().connect_async(Queue::DropOldest(100), move |value: u32| {
    ///     let results = results.clone();
    ///     async move { results.send(value * 2).await.unwrap_or_default() }
    /// });
    /// measured.emit(&21);
    /// assert_eq!(received.recv().await, Some(42));
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn connect_async<F, R>(&self, queue: Queue, slot: F) -> Connection
    where
        T: Clone + Send,
        F: FnMut(T) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let (sender, channel) = queue::channel(queue);
        let place = Location::caller();
        let table = Arc::downgrade(self.signal.table());
        let connection = self.add(sender.into_call());
        connection.with_worker(queue::work(Arc::clone(&channel), table, place, slot), channel)
    }

    /// The emissions from now on, as a stream behind a bounded queue.
    ///
    /// What the queue could not hold is an item of the stream,
    /// [`Delivery::Lagged`], at the place where it is missing. The stream ends
    /// after the last value when the signal is gone.
    #[track_caller]
    pub fn stream(&self, queue: Queue) -> SignalStream<T>
    where
        T: Clone + Send,
    {
        let (sender, channel) = queue::channel(queue);
        SignalStream::new(channel, self.add(sender.into_call()))
    }

    /// Waits for the next emission from this call on, not from the first poll;
    /// `None` says that the signal is gone.
    ///
    /// Cancel safe: dropped, it disconnects.
    #[track_caller]
    pub fn next(&self) -> impl Future<Output = Option<T>> + Send + use<T>
    where
        T: Clone + Send,
    {
        let mut stream = self.stream(Queue::DropNewest(1));
        async move {
            loop {
                match std::future::poll_fn(|cx| stream.poll(cx)).await? {
                    Delivery::Item(value) => return Some(value),
                    Delivery::Lagged(_) => {}
                }
            }
        }
    }

    /// Blocks the signal until the guard is dropped: emissions meanwhile call
    /// nobody and are not made up for. Blocks count.
    pub fn block(&self) -> BlockGuard {
        self.signal.table().block()
    }

    /// Announces the slots of this signal that panic. Signals of a socket or
    /// a server do that in its own `slot_panicked` instead.
    pub fn slot_panicked(&self) -> SignalRef<'_, SlotPanicked> {
        self.signal.table().panicked().view()
    }

    /// How many calls of slots have panicked.
    pub fn panics(&self) -> u64 {
        self.signal.table.get().map_or(0, |table| table.panics())
    }

    /// Tells whether any slot is connected.
    pub fn is_connected(&self) -> bool {
        self.signal.is_connected()
    }

    /// How many slots are connected.
    pub fn receiver_count(&self) -> usize {
        self.signal.table.get().map_or(0, |table| table.count())
    }

    #[track_caller]
    fn add(&self, call: Call<T>) -> Connection {
        Connection::new(self.signal.table().add(call, Location::caller()))
    }
}

impl<T> Clone for SignalRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SignalRef<'_, T> {}

impl<T> fmt::Debug for SignalRef<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.signal.fmt(f)
    }
}

impl<T: 'static> Default for Signal<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Signal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connected = self.table.get().map_or(0, |table| table.count());
        f.debug_struct("Signal").field("connected", &connected).finish_non_exhaustive()
    }
}
