//! The event bus: one per node, the only module that knows async-broadcast.
//! Connection tasks append facts to a bounded outbox and go on; one
//! dispatcher stamps them and hands them to the subscribers, as many in one
//! batch as came about together.
//! Nothing here ever waits for a subscriber.
//!
//! ```text
//! task ── outbox ──► dispatcher (seq) ──► discrete channel, 4,096 ──► subscription ──► Event | Lagged(n)
//!                                    └──► level channel,    1,024 ──┘
//!                                    └──► direct slots
//! ```

mod channel;
#[cfg(test)]
mod cost;
mod dispatcher;
mod outbox;
mod subscription;
mod table;

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use self::dispatcher::Dispatcher;
pub use self::subscription::{Counts, Delivery, Received, Subscription};
pub(crate) use self::table::Record;
pub use self::table::{ConnectionSnapshot, Dropped, ListenerSnapshot, Snapshot, Totals};

use self::channel::{Batch, Channel};
use self::outbox::Outbox;
use self::table::Table;
use crate::event::{ConnectionId, DropCause, Envelope, Event, EventKind, EventMask, Restriction};
use crate::signal::{Connection, Signal};

/// Carries [`Event`]s from the parts of a node to whoever listens.
///
/// Cloning gives another handle to the same bus. Without listeners an event
/// is not even built: the price is one relaxed load.
#[derive(Clone)]
pub struct EventBus {
    shared: Arc<Shared>,
}

struct Shared {
    interest: Interest,
    outbox: Outbox,
    table: Table,
    stamps: Mutex<Stamps>,
    slots: Signal<Envelope>,
    discrete: async_broadcast::InactiveReceiver<Arc<Batch>>,
    level: async_broadcast::InactiveReceiver<Arc<Batch>>,
    dispatcher: Mutex<Option<dispatcher::Senders>>,
}

/// How many events were stamped, in all and per channel.
#[derive(Clone, Copy, Default)]
struct Stamps {
    seq: u64,
    discrete: u64,
    level: u64,
}

impl EventBus {
    /// A bus for one node. Subscribe before the node starts to miss nothing.
    pub fn new() -> Self {
        let (discrete_in, discrete) = Channel::new(DISCRETE);
        let (level_in, level) = Channel::new(LEVEL);
        let senders = dispatcher::Senders { discrete: discrete_in, level: level_in };
        let shared = Shared {
            interest: Interest::default(),
            outbox: Outbox::new(),
            table: Table::default(),
            stamps: Mutex::default(),
            slots: Signal::new(),
            discrete,
            level,
            dispatcher: Mutex::new(Some(senders)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Listens to the kinds in `mask`, from the next event on.
    ///
    /// The subscription is a stream. It never slows the node: what it does
    /// not take in time is dropped from its oldest end and counted as
    /// [`Delivery::Lagged`]. It ends when the node has ended.
    pub fn subscribe(&self, mask: EventMask) -> Subscription {
        Subscription::new(Arc::clone(&self.shared), mask)
    }

    /// Calls `slot` for each event of the kinds in `mask`, in the dispatcher.
    ///
    /// While it runs no event is dispatched to anyone, so it must be short;
    /// anything that waits belongs behind [`subscribe`](Self::subscribe). A
    /// panic is caught and announced as `slot_panicked`.
    #[track_caller]
    pub fn connect(&self, mask: EventMask, slot: impl Fn(&Envelope) + Send + Sync + 'static) -> Connection {
        let interest = InterestGuard::new(&self.shared, mask);
        self.shared.slots.view().connect(move |envelope: &Envelope| {
            // Named as a whole, so that the closure keeps the guard and not just a copy of its mask.
            let InterestGuard { mask, .. } = &interest;
            if mask.contains(envelope.event.kind()) {
                slot(envelope);
            }
        })
    }

    /// What is true now: listeners and connections with their totals.
    ///
    /// To follow a node without a gap, subscribe first, take the snapshot
    /// second, and apply events as facts that may already be in it.
    pub fn snapshot(&self) -> Snapshot {
        let seq = self.shared.stamps().seq;
        self.shared.table.snapshot(seq)
    }

    /// Tells whether anyone listens to `kind`.
    pub(crate) fn wants(&self, kind: EventKind) -> bool {
        self.shared.interest.mask().contains(kind)
    }

    /// Puts an event into the outbox, if anyone listens to its kind.
    pub(crate) fn emit(&self, kind: EventKind, make: impl FnOnce() -> Event) {
        if self.wants(kind) {
            self.shared.outbox.push(make());
        }
    }

    /// Waits until the outbox has a place for events that have none reserved.
    ///
    /// Accepting waits here; data never does. Cancel safe.
    pub(crate) async fn room(&self) {
        self.shared.outbox.room().await;
    }

    /// Adds a listener to the table and announces it.
    pub(crate) fn listening(&self, endpoint: Arc<str>, address: crate::event::Endpoint) {
        self.shared.table.add_listener(&endpoint, &address);
        self.emit(EventKind::Listening, || Event::Listening { endpoint, address });
    }

    /// Takes a listener that was closed out of the table.
    pub(crate) fn not_listening(&self, address: &crate::event::Endpoint) {
        self.shared.table.remove_listener(address);
    }

    /// Counts what was dropped, which whoever dropped it says now and then.
    pub(crate) fn dropped(&self, endpoint: Arc<str>, cause: DropCause, new: Dropped) {
        self.shared.table.dropped(endpoint, cause, new);
    }

    /// What was dropped at an endpoint for one cause since the node began.
    #[cfg(feature = "cli")]
    pub(crate) fn dropped_so_far(&self, endpoint: &Arc<str>, cause: DropCause) -> Dropped {
        self.shared.table.dropped_so_far(endpoint, cause)
    }

    /// Counts a client that was refused, and says so.
    pub(crate) fn refused(&self, endpoint: &Arc<str>, peer: crate::event::Endpoint, cause: Restriction) {
        self.shared.table.refused(endpoint);
        self.emit(EventKind::AcceptRejected, || Event::AcceptRejected {
            endpoint: Arc::clone(endpoint),
            peer,
            cause,
        });
    }

    /// Counts a connection that never became a client, and says why.
    pub(crate) fn handshake_failed(&self, endpoint: &Arc<str>, peer: crate::event::Endpoint, error: String) {
        self.shared.table.refused(endpoint);
        self.emit(EventKind::HandshakeFailed, || Event::HandshakeFailed {
            endpoint: Arc::clone(endpoint),
            peer,
            error,
        });
    }

    /// Ends a connection and the one it is joined to, by resets. `false`: there is none that could be ended.
    pub(crate) fn disconnect(&self, connection: ConnectionId) -> bool {
        self.shared.table.disconnect(connection)
    }

    /// The dispatcher, which the node runs.
    ///
    /// # Panics
    /// When called twice: a bus serves one node.
    pub(crate) fn dispatcher(&self) -> Dispatcher {
        let senders = self.shared.dispatcher.lock().unwrap_or_else(PoisonError::into_inner).take();
        Dispatcher::new(Arc::clone(&self.shared), senders.expect("a bus serves one node"))
    }

    /// Lets the dispatcher end once the outbox is empty, and with it every subscription.
    pub(crate) fn close(&self) {
        self.shared.outbox.close();
    }
}

impl Default for EventBus {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for EventBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBus").field("seq", &self.shared.stamps().seq).finish_non_exhaustive()
    }
}

impl Shared {
    fn stamps(&self) -> std::sync::MutexGuard<'_, Stamps> {
        self.stamps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who wants what: a count per kind, and the mask that emitters load.
#[derive(Default)]
struct Interest {
    mask: AtomicU32,
    counts: Mutex<[u32; EventKind::ALL.len()]>,
}

impl Interest {
    fn mask(&self) -> EventMask {
        EventMask::ALL.restrict(self.mask.load(Relaxed))
    }

    fn change(&self, mask: EventMask, by: impl Fn(u32) -> u32) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bits = 0;
        for kind in EventKind::ALL {
            let count = &mut counts[kind as usize];
            if mask.contains(kind) {
                *count = by(*count);
            }
            bits |= u32::from(*count > 0) << kind as u8;
        }
        self.mask.store(bits, Relaxed);
    }
}

/// Keeps a listener's interest counted for as long as it lives.
struct InterestGuard {
    shared: std::sync::Weak<Shared>,
    mask: EventMask,
}

impl InterestGuard {
    fn new(shared: &Arc<Shared>, mask: EventMask) -> Self {
        shared.interest.change(mask, |count| count + 1);
        // Weak: a slot's guard lives inside the bus itself.
        Self { shared: Arc::downgrade(shared), mask }
    }
}

impl Drop for InterestGuard {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.interest.change(self.mask, |count| count - 1);
        }
    }
}

/// Events kept for a subscriber that is behind: the bursts of a few hundred connections that begin or end at once.
const DISCRETE: usize = 4_096;
/// Level notices repeat with newer totals, so a lost one costs little.
const LEVEL: usize = 1_024;

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use tokio::task::JoinSet;
    use tokio_stream::{Stream, StreamExt};

    use super::*;
    use crate::event::{ConnectionId, Endpoint, Restriction};

    /// A burst used to be published faster than a reader on the same thread was let read.
    #[tokio::test]
    async fn a_reader_on_the_dispatchers_own_thread_keeps_up_with_a_burst() {
        let bus = EventBus::new();
        let mut events = bus.subscribe(EventMask::ALL);
        let mut dispatcher = JoinSet::from_iter([bus.dispatcher().run()]);
        let failed = || Event::ConnectFailed {
            connection: ConnectionId::next(),
            endpoint: "t".into(),
            target: String::new(),
            partner: None,
            error: String::new(),
        };
        for _ in 0..50_000 {
            bus.emit(EventKind::ConnectFailed, failed);
        }
        bus.close();
        let mut reader = JoinSet::from_iter([async move {
            while let Some(delivery) = events.next().await {
                assert!(matches!(delivery, Delivery::Event(_)), "{delivery:?}");
            }
            events.counts()
        }]);
        let counts = reader.join_next().await.unwrap().unwrap();
        assert_eq!((counts.received, counts.emitted), (50_000, 50_000));
        dispatcher.join_next().await.unwrap().unwrap();
    }

    /// Both channels are looked at in turn; what comes between the looks must not be overtaken.
    #[tokio::test]
    async fn two_channels_are_read_as_one_order() {
        let bus = EventBus::new();
        let mut events = bus.subscribe(EventMask::ALL);
        let mut dispatcher = JoinSet::from_iter([bus.dispatcher().run()]);
        let record = Record::accepted(&bus, &"t".into(), Endpoint::Echo, Endpoint::Echo, Default::default());
        // Looks again and again on a thread of its own, so that events come between two looks.
        let reader = std::thread::spawn(move || {
            let mut last = 0;
            loop {
                match Pin::new(&mut events).poll_next(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(Some(Delivery::Event(envelope))) => {
                        assert!(envelope.seq > last, "{} after {last}", envelope.seq);
                        last = envelope.seq;
                    }
                    Poll::Ready(Some(Delivery::Lagged(_))) | Poll::Pending => {}
                    Poll::Ready(None) => return,
                }
            }
        });
        for _ in 0..30_000 {
            bus.emit(EventKind::AcceptRejected, rejected);
            record.add_received(1);
            // The dispatcher's turn, with these two.
            tokio::task::yield_now().await;
        }
        bus.close();
        dispatcher.join_next().await.unwrap().unwrap();
        reader.join().unwrap();
    }

    /// The notices of connections that were over stayed until their time came, faster than it did: ten
    /// thousand a second are told, and each short connection left two.
    #[tokio::test]
    async fn connections_that_are_over_leave_no_notices_behind() {
        let bus = EventBus::new();
        let _events = bus.subscribe(EventMask::ALL);
        let mut dispatcher = JoinSet::from_iter([bus.dispatcher().run()]);
        for _ in 0..50_000 {
            let record =
                Record::accepted(&bus, &"t".into(), Endpoint::Echo, Endpoint::Echo, Default::default());
            record.add_received(1);
            record.add_sent(1);
            record.disconnected(crate::event::Reason::Closed, None, 0);
            tokio::task::yield_now().await;
        }
        assert!(bus.shared.outbox.levels() < 10_000, "{} are left", bus.shared.outbox.levels());
        bus.close();
        dispatcher.join_next().await.unwrap().unwrap();
    }

    #[test]
    fn an_event_that_nobody_listens_to_is_not_even_built() {
        let bus = EventBus::new();
        let other = bus.subscribe(EventMask::of(&[EventKind::Listening]));
        bus.emit(EventKind::AcceptRejected, || unreachable!("nobody listens to it"));
        let mut built = false;
        bus.emit(EventKind::Listening, || {
            built = true;
            Event::Listening { endpoint: "t".into(), address: Endpoint::Echo }
        });
        drop(other);
        assert!(built);
        bus.emit(EventKind::Listening, || unreachable!("nobody listens to it any more"));
    }

    #[tokio::test]
    async fn what_the_outbox_lost_is_counted_by_everyone() {
        let bus = EventBus::new();
        let mut events = bus.subscribe(EventMask::of(&[EventKind::AcceptRejected, EventKind::Lagged]));
        for _ in 0..5_000 {
            bus.emit(EventKind::AcceptRejected, rejected);
        }
        bus.close();
        bus.dispatcher().run().await;
        let (mut seen, mut lagged, mut told) = (0, 0, 0);
        while let Some(delivery) = events.next().await {
            match delivery {
                Delivery::Lagged(missed) => lagged += missed,
                Delivery::Event(envelope) => match envelope.event {
                    Event::Lagged { missed } => told += missed,
                    _ => seen += 1,
                },
            }
        }
        // The announcement itself may push the oldest of a full channel out.
        assert_eq!((seen + lagged, told), (5_000, 904));
        let counts = events.counts();
        assert_eq!((counts.emitted, counts.unread()), (5_001, 0));
        assert_eq!(bus.snapshot().seq, 5_001);
    }

    fn rejected() -> Event {
        Event::AcceptRejected { endpoint: "t".into(), peer: Endpoint::Echo, cause: Restriction::Access }
    }
}
