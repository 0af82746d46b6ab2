//! The connection table: what is true now. A connection enters it before its
//! first event goes out and leaves it before its last.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::EventBus;
use super::outbox::Level;
use crate::address::Address;
use crate::event::{ConnectionId, ConnectionMap, Endpoint, Event, EventKind, Reason, State};

/// All listeners and connections of a node.
#[derive(Default)]
pub(super) struct Table {
    connections: Mutex<ConnectionMap<Arc<Record>>>,
    listeners: Mutex<Vec<ListenerSnapshot>>,
}

/// The facts of one connection, written by its task and read by anyone.
pub(crate) struct Record {
    id: ConnectionId,
    bus: EventBus,
    endpoint: Arc<str>,
    partner: Option<ConnectionId>,
    begun: Instant,
    ends: OnceLock<(Endpoint, Endpoint)>,
    state: AtomicU8,
    outstanding: AtomicU8,
    received: AtomicU64,
    sent: AtomicU64,
}

/// What was true of a node at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Every event up to this `seq` is in it; later ones may be.
    pub seq: u64,
    /// Bound listeners.
    pub listeners: Vec<ListenerSnapshot>,
    /// Connections and dials, by id.
    pub connections: Vec<ConnectionSnapshot>,
}

/// A bound listener.
#[derive(Clone, Debug)]
pub struct ListenerSnapshot {
    /// Its name.
    pub endpoint: Arc<str>,
    /// What it is bound to.
    pub address: Endpoint,
}

/// A connection, or a dial on its way to become one.
#[derive(Clone, Debug)]
pub struct ConnectionSnapshot {
    /// Its id.
    pub connection: ConnectionId,
    /// The name of its listener or target.
    pub endpoint: Arc<str>,
    /// The accepted connection it was dialled for.
    pub partner: Option<ConnectionId>,
    /// The peer, once connected.
    pub peer: Option<Endpoint>,
    /// Our own address, once connected.
    pub local: Option<Endpoint>,
    /// Its state.
    pub state: State,
    /// Bytes received so far.
    pub received: u64,
    /// Bytes sent so far.
    pub sent: u64,
    /// Time since it was accepted or the dial began.
    pub age: Duration,
}

impl Table {
    pub(super) fn add_listener(&self, endpoint: &Arc<str>, address: &Endpoint) {
        let listener = ListenerSnapshot { endpoint: Arc::clone(endpoint), address: address.clone() };
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    pub(super) fn remove_listener(&self, address: &Endpoint) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.address != *address);
    }

    pub(super) fn snapshot(&self, seq: u64) -> Snapshot {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut connections: Vec<_> = self.lock().values().map(|record| record.snapshot()).collect();
        connections.sort_unstable_by_key(|connection| connection.connection);
        Snapshot { seq, listeners, connections }
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionMap<Arc<Record>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// Enters an accepted connection into the table and announces it.
    pub(crate) fn accepted(
        bus: &EventBus,
        endpoint: &Arc<str>,
        peer: Endpoint,
        local: Endpoint,
    ) -> Arc<Self> {
        let record = Self::enter(bus, endpoint, None, State::Connected, OnceLock::from((peer, local)));
        bus.emit(EventKind::NewConnection, || {
            let (peer, local) = record.ends();
            let endpoint = Arc::clone(&record.endpoint);
            Event::NewConnection { connection: record.id, endpoint, peer, local }
        });
        record
    }

    /// Enters a dial into the table. It must end in `connected` or `connect_failed`.
    pub(crate) fn dialling(bus: &EventBus, endpoint: &Arc<str>, partner: Option<ConnectionId>) -> Arc<Self> {
        Self::enter(bus, endpoint, partner, State::Unconnected, OnceLock::new())
    }

    fn enter(
        bus: &EventBus,
        endpoint: &Arc<str>,
        partner: Option<ConnectionId>,
        state: State,
        ends: OnceLock<(Endpoint, Endpoint)>,
    ) -> Arc<Self> {
        let record = Arc::new(Self {
            id: ConnectionId::next(),
            bus: bus.clone(),
            endpoint: Arc::clone(endpoint),
            partner,
            begun: Instant::now(),
            ends,
            state: AtomicU8::new(state as u8),
            outstanding: AtomicU8::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        bus.shared.table.lock().insert(record.id, Arc::clone(&record));
        record
    }

    /// The dial found its addresses.
    pub(crate) fn host_found(&self, addresses: usize) {
        self.bus.emit(EventKind::HostFound, || Event::HostFound { connection: self.id, addresses });
    }

    /// The dial succeeded.
    pub(crate) fn connected(&self, peer: Endpoint, local: Endpoint) {
        self.ends.set((peer, local)).expect("a dial connects once");
        self.set_state(State::Connected);
        self.bus.emit(EventKind::Connected, || {
            let (peer, local) = self.ends();
            let endpoint = Arc::clone(&self.endpoint);
            Event::Connected { connection: self.id, endpoint, partner: self.partner, peer, local }
        });
    }

    /// The dial failed.
    pub(crate) fn connect_failed(&self, target: &Address, error: &str) {
        self.leave();
        self.set_state(State::Unconnected);
        self.bus.emit(EventKind::ConnectFailed, || Event::ConnectFailed {
            connection: self.id,
            endpoint: Arc::clone(&self.endpoint),
            target: target.as_target(),
            partner: self.partner,
            error: error.to_owned(),
        });
    }

    /// The connection is over.
    pub(crate) fn disconnected(self: &Arc<Self>, reason: Reason, error: Option<&str>, unsent: u64) {
        self.leave();
        self.flush_levels(&[EventKind::ReadyRead, EventKind::BytesWritten]);
        self.set_state(State::Unconnected);
        if let Some(error) = error {
            self.bus.emit(EventKind::ErrorOccurred, || Event::ErrorOccurred {
                connection: self.id,
                error: error.to_owned(),
            });
        }
        self.bus.emit(EventKind::Disconnected, || {
            let (peer, local) = self.ends();
            Event::Disconnected {
                connection: self.id,
                endpoint: Arc::clone(&self.endpoint),
                partner: self.partner,
                peer,
                local,
                reason,
                received: self.received(),
                sent: self.sent(),
                unsent,
                duration: self.begun.elapsed(),
            }
        });
    }

    fn leave(&self) {
        self.bus.shared.table.lock().remove(&self.id);
    }

    /// Moves to `state` and says so.
    pub(crate) fn set_state(&self, to: State) {
        let from = self.state();
        if from != to {
            self.state.store(to as u8, Ordering::Relaxed);
            self.bus.emit(EventKind::StateChanged, || Event::StateChanged { connection: self.id, from, to });
        }
    }

    /// Counts bytes that came from the peer.
    pub(crate) fn add_received(self: &Arc<Self>, bytes: usize) {
        // One task writes, so this is a load and a store, without a locked instruction.
        self.received.store(self.received() + bytes as u64, Ordering::Relaxed);
        self.notice(EventKind::ReadyRead);
    }

    /// Counts bytes that went to the peer's kernel queue.
    pub(crate) fn add_sent(self: &Arc<Self>, bytes: usize) {
        self.sent.store(self.sent() + bytes as u64, Ordering::Relaxed);
        self.notice(EventKind::BytesWritten);
    }

    /// The peer has finished sending.
    pub(crate) fn read_finished(self: &Arc<Self>) {
        self.flush_levels(&[EventKind::ReadyRead]);
        self.bus.emit(EventKind::ReadFinished, || Event::ReadFinished {
            connection: self.id,
            received: self.received(),
        });
    }

    /// Sends outstanding notices ahead, where an event follows that must not be overtaken by them.
    fn flush_levels(self: &Arc<Self>, levels: &[EventKind]) {
        let outstanding = self.outstanding.load(Ordering::Acquire);
        for level in levels.iter().filter(|level| outstanding & bit(**level) != 0) {
            self.bus.shared.outbox.push_now(Level { record: Arc::clone(self), kind: *level });
        }
    }

    fn notice(self: &Arc<Self>, kind: EventKind) {
        if self.bus.wants(kind) && self.outstanding.fetch_or(bit(kind), Ordering::AcqRel) & bit(kind) == 0 {
            self.bus.shared.outbox.push_level(Level { record: Arc::clone(self), kind });
        }
    }

    /// Turns an outstanding notice into its event, if it still is: first the
    /// bit, then the total, so that bytes counted in between raise a new notice.
    pub(super) fn take_level(&self, kind: EventKind) -> Option<Event> {
        let outstanding = self.outstanding.fetch_and(!bit(kind), Ordering::AcqRel);
        if outstanding & bit(kind) == 0 {
            return None;
        }
        Some(match kind {
            EventKind::ReadyRead => Event::ReadyRead { connection: self.id, received: self.received() },
            _ => Event::BytesWritten { connection: self.id, sent: self.sent() },
        })
    }

    /// The connection's id.
    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    /// Bytes received so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Unconnected,
            1 => State::HostLookup,
            2 => State::Connecting,
            3 => State::Connected,
            _ => State::Closing,
        }
    }

    fn ends(&self) -> (Endpoint, Endpoint) {
        self.ends.get().expect("a connection that was announced has its addresses").clone()
    }

    fn snapshot(&self) -> ConnectionSnapshot {
        let (peer, local) = self.ends.get().cloned().unzip();
        ConnectionSnapshot {
            connection: self.id,
            endpoint: Arc::clone(&self.endpoint),
            partner: self.partner,
            peer,
            local,
            state: self.state(),
            received: self.received(),
            sent: self.sent(),
            age: self.begun.elapsed(),
        }
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("id", &self.id)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

const fn bit(kind: EventKind) -> u8 {
    match kind {
        EventKind::ReadyRead => 1,
        _ => 2,
    }
}
