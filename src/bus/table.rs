//! The connection table: what is true now. A connection enters it before its
//! first event goes out and leaves it before its last.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::EventBus;
use super::outbox::Level;
use crate::address::Address;
use crate::event::{
    ConnectionId, ConnectionMap, DropCause, Endpoint, Event, EventKind, Introduction, Reason, State,
};

/// All listeners and connections of a node.
#[derive(Default)]
pub(super) struct Table {
    connections: Mutex<Connections>,
    listeners: Mutex<Vec<ListenerSnapshot>>,
    /// Apart, since it is taken while bytes move.
    dropped: Mutex<BTreeMap<Arc<str>, BTreeMap<DropCause, Dropped>>>,
}

/// Those that live, and what has become of all others.
#[derive(Default)]
struct Connections {
    live: ConnectionMap<Arc<Record>>,
    /// By the names of listeners and targets, of which a node has few.
    past: BTreeMap<Arc<str>, Totals>,
}

/// The facts of one connection, written by its task and read by anyone.
pub(crate) struct Record {
    id: ConnectionId,
    bus: EventBus,
    endpoint: Arc<str>,
    is_dialled: bool,
    partner: OnceLock<ConnectionId>,
    begun: Instant,
    ends: OnceLock<(Endpoint, Endpoint)>,
    state: AtomicU8,
    outstanding: AtomicU8,
    received: AtomicU64,
    sent: AtomicU64,
    /// The task whose end is the end of the connection, for those that were accepted.
    task: OnceLock<AbortHandle>,
    killed: AtomicBool,
    /// What an accepted one told before; few do.
    introduction: Option<Box<Introduction>>,
}

/// What was true of a node at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// Every event up to this `seq` is in it; later ones may be.
    pub seq: u64,
    /// Bound listeners.
    pub listeners: Vec<ListenerSnapshot>,
    /// Connections and dials, by id.
    pub connections: Vec<ConnectionSnapshot>,
    /// What each listener and target has done since the start, by name.
    pub totals: BTreeMap<Arc<str>, Totals>,
}

/// What a listener or a target has done since the start; what lives is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Clients accepted, or connections that were made to the target.
    pub connections: u64,
    /// Clients that the access list refused, or whose handshake failed; or dials that failed.
    pub failed: u64,
    /// Bytes received from its peers.
    pub received: u64,
    /// Bytes handed to the kernel for its peers.
    pub sent: u64,
    /// Bytes taken for its peers that were not handed to the kernel, of those that are over.
    pub unsent: u64,
    /// Messages that were dropped, by cause, as the events `frames_dropped` have them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped: BTreeMap<DropCause, Dropped>,
}

/// Messages that were dropped for one cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// How many; bytes that no message was made of are not in it.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A bound listener.
#[derive(Clone, Debug, Serialize)]
pub struct ListenerSnapshot {
    /// Its name.
    pub endpoint: Arc<str>,
    /// What it is bound to.
    pub address: Endpoint,
}

/// A connection, or a dial on its way to become one.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionSnapshot {
    /// Its id.
    pub connection: ConnectionId,
    /// The name of its listener or target.
    pub endpoint: Arc<str>,
    /// Whether we dialled it; otherwise it is a client.
    pub dialled: bool,
    /// The connection it was dialled for, or that waited for it in a bridge.
    pub partner: Option<ConnectionId>,
    /// The peer, once connected.
    pub peer: Option<Endpoint>,
    /// Our own address, once connected.
    pub local: Option<Endpoint>,
    /// The name in a client's certificate, if it had to show one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
    /// The proxy that has announced a client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<Endpoint>,
    /// Its state.
    pub state: State,
    /// Bytes received so far.
    pub received: u64,
    /// Bytes sent so far.
    pub sent: u64,
    /// Time since it was accepted or the dial began.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub age: Duration,
}

impl Snapshot {
    /// How many clients there are: connections that were accepted.
    pub fn clients(&self) -> usize {
        self.connections.iter().filter(|connection| !connection.dialled).count()
    }
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
        let table = self.lock();
        let mut totals: BTreeMap<_, _> =
            table.past.iter().map(|(endpoint, totals)| (Arc::clone(endpoint), totals.clone())).collect();
        let mut connections = Vec::with_capacity(table.live.len());
        for record in table.live.values() {
            let connection = record.snapshot();
            // A dial counts when it is over.
            if connection.peer.is_some() {
                let totals = totals.entry(Arc::clone(&record.endpoint)).or_default();
                totals.add(connection.received, connection.sent, 0);
            }
            connections.push(connection);
        }
        drop(table);
        for (endpoint, dropped) in &*self.lock_dropped() {
            totals.entry(Arc::clone(endpoint)).or_default().dropped.clone_from(dropped);
        }
        connections.sort_unstable_by_key(|connection| connection.connection);
        Snapshot { seq, listeners, connections, totals }
    }

    /// Ends a connection, and what it is joined to. `false`: there is none, or it has no task of its own.
    pub(super) fn disconnect(&self, connection: ConnectionId) -> bool {
        let table = self.lock();
        let Some(record) = table.live.get(&connection) else { return false };
        // A target's connection lives in the task of its client.
        let owner = match record.partner() {
            Some(client) => table.live.get(&client),
            None => Some(record),
        };
        let Some(task) = owner.and_then(|owner| owner.task.get()).cloned() else { return false };
        for record in table.live.values().filter(|other| {
            let of = owner.map(|owner| owner.id);
            Some(other.id) == of || other.partner() == of
        }) {
            record.killed.store(true, Ordering::Relaxed);
        }
        drop(table);
        task.abort();
        true
    }

    /// Counts a client that was refused.
    pub(super) fn refused(&self, endpoint: &Arc<str>) {
        self.lock().past_of(endpoint).failed += 1;
    }

    /// Counts what was dropped.
    pub(super) fn dropped(&self, endpoint: Arc<str>, cause: DropCause, new: Dropped) {
        let mut dropped = self.lock_dropped();
        let known = dropped.entry(endpoint).or_default().entry(cause).or_default();
        known.frames += new.frames;
        known.bytes += new.bytes;
    }

    #[cfg(feature = "cli")]
    pub(super) fn dropped_so_far(&self, endpoint: &Arc<str>, cause: DropCause) -> Dropped {
        let dropped = self.lock_dropped();
        dropped.get(endpoint).and_then(|causes| causes.get(&cause)).copied().unwrap_or_default()
    }

    fn lock_dropped(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, BTreeMap<DropCause, Dropped>>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    fn past_of(&mut self, endpoint: &Arc<str>) -> &mut Totals {
        if !self.past.contains_key(endpoint) {
            self.past.insert(Arc::clone(endpoint), Totals::default());
        }
        self.past.get_mut(endpoint).expect("it was entered above")
    }
}

impl Totals {
    fn add(&mut self, received: u64, sent: u64, unsent: u64) {
        self.connections += 1;
        self.received += received;
        self.sent += sent;
        self.unsent += unsent;
    }
}

impl Record {
    /// Enters an accepted connection into the table and announces it.
    pub(crate) fn accepted(
        bus: &EventBus,
        endpoint: &Arc<str>,
        peer: Endpoint,
        local: Endpoint,
        introduction: Introduction,
    ) -> Arc<Self> {
        let introduction = (introduction != Introduction::default()).then(|| Box::new(introduction));
        let ends = OnceLock::from((peer, local));
        let record = Self::enter(bus, endpoint, None, State::Connected, ends, introduction);
        bus.emit(EventKind::NewConnection, || {
            let (peer, local) = record.ends();
            let endpoint = Arc::clone(&record.endpoint);
            let Introduction { name, via } = record.introduction();
            Event::NewConnection { connection: record.id, endpoint, peer, local, name, via }
        });
        record
    }

    /// Enters a dial into the table. It must end in `connected` or `connect_failed`.
    pub(crate) fn dialling(bus: &EventBus, endpoint: &Arc<str>, partner: Option<ConnectionId>) -> Arc<Self> {
        Self::enter(bus, endpoint, partner, State::Unconnected, OnceLock::new(), None)
    }

    fn enter(
        bus: &EventBus,
        endpoint: &Arc<str>,
        partner: Option<ConnectionId>,
        state: State,
        ends: OnceLock<(Endpoint, Endpoint)>,
        introduction: Option<Box<Introduction>>,
    ) -> Arc<Self> {
        let record = Arc::new(Self {
            id: ConnectionId::next(),
            bus: bus.clone(),
            endpoint: Arc::clone(endpoint),
            // An accepted connection is there from the first.
            is_dialled: state != State::Connected,
            partner: partner.map_or_else(OnceLock::new, OnceLock::from),
            begun: Instant::now(),
            ends,
            state: AtomicU8::new(state as u8),
            outstanding: AtomicU8::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            task: OnceLock::new(),
            killed: AtomicBool::new(false),
            introduction,
        });
        bus.shared.table.lock().live.insert(record.id, Arc::clone(&record));
        record
    }

    /// The dial found its addresses.
    pub(crate) fn host_found(&self, addresses: usize) {
        self.bus.emit(EventKind::HostFound, || Event::HostFound {
            connection: self.id,
            endpoint: Arc::clone(&self.endpoint),
            addresses,
        });
    }

    /// The dial succeeded.
    pub(crate) fn connected(&self, peer: Endpoint, local: Endpoint) {
        self.ends.set((peer, local)).expect("a dial connects once");
        self.set_state(State::Connected);
        self.bus.emit(EventKind::Connected, || {
            let (peer, local) = self.ends();
            let endpoint = Arc::clone(&self.endpoint);
            Event::Connected { connection: self.id, endpoint, partner: self.partner(), peer, local }
        });
    }

    /// The dial failed.
    pub(crate) fn connect_failed(&self, target: &Address, error: &str) {
        self.leave(0);
        self.set_state(State::Unconnected);
        self.bus.emit(EventKind::ConnectFailed, || Event::ConnectFailed {
            connection: self.id,
            endpoint: Arc::clone(&self.endpoint),
            target: target.as_target(),
            partner: self.partner(),
            error: error.to_owned(),
        });
    }

    /// The connection is over.
    pub(crate) fn disconnected(&self, reason: Reason, error: Option<&str>, unsent: u64) {
        self.leave(unsent);
        self.flush_levels(&[EventKind::ReadyRead, EventKind::BytesWritten]);
        self.set_state(State::Unconnected);
        if let Some(error) = error {
            self.bus.emit(EventKind::ErrorOccurred, || Event::ErrorOccurred {
                connection: self.id,
                endpoint: Arc::clone(&self.endpoint),
                error: error.to_owned(),
            });
        }
        self.bus.emit(EventKind::Disconnected, || {
            let (peer, local) = self.ends();
            Event::Disconnected {
                connection: self.id,
                endpoint: Arc::clone(&self.endpoint),
                partner: self.partner(),
                peer,
                local,
                name: self.name(),
                reason,
                received: self.received(),
                sent: self.sent(),
                unsent,
                duration: self.begun.elapsed(),
            }
        });
    }

    fn leave(&self, unsent: u64) {
        let mut table = self.bus.shared.table.lock();
        table.live.remove(&self.id);
        let totals = table.past_of(&self.endpoint);
        match self.ends.get() {
            Some(_) => totals.add(self.received(), self.sent(), unsent),
            None => totals.failed += 1,
        }
    }

    /// Joins it to one that has waited for it, whose task it lives in from now on.
    pub(crate) fn meets(&self, partner: ConnectionId) {
        // It can meet only once.
        let _ = self.partner.set(partner);
    }

    fn partner(&self) -> Option<ConnectionId> {
        self.partner.get().copied()
    }

    /// Names the task that an accepted connection lives and ends with.
    pub(crate) fn belongs_to(&self, task: AbortHandle) {
        // Only the first call counts; there is none before it.
        let _ = self.task.set(task);
    }

    /// Tells whether somebody asked for its end.
    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// Moves to `state` and says so.
    pub(crate) fn set_state(&self, to: State) {
        let from = self.state();
        if from != to {
            self.state.store(to as u8, Ordering::Relaxed);
            self.bus.emit(EventKind::StateChanged, || Event::StateChanged {
                connection: self.id,
                endpoint: Arc::clone(&self.endpoint),
                from,
                to,
            });
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

    /// Counts bytes that had been counted as sent as not sent after all, at the end.
    pub(crate) fn take_back_sent(&self, bytes: u64) {
        self.sent.store(self.sent().saturating_sub(bytes), Ordering::Relaxed);
    }

    /// The peer has finished sending.
    pub(crate) fn read_finished(&self) {
        self.flush_levels(&[EventKind::ReadyRead]);
        self.bus.emit(EventKind::ReadFinished, || Event::ReadFinished {
            connection: self.id,
            endpoint: Arc::clone(&self.endpoint),
            received: self.received(),
        });
    }

    /// Tells outstanding notices now, where an event follows that must not be overtaken by them.
    fn flush_levels(&self, levels: &[EventKind]) {
        for level in levels.iter().filter(|level| self.is_outstanding(**level)) {
            if let Some(event) = self.take_level(*level) {
                self.bus.emit(*level, || event);
            }
        }
    }

    /// Tells whether there is something to tell that was not taken yet.
    pub(super) fn is_outstanding(&self, kind: EventKind) -> bool {
        self.outstanding.load(Ordering::Acquire) & bit(kind) != 0
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
        let (connection, endpoint) = (self.id, Arc::clone(&self.endpoint));
        Some(match kind {
            EventKind::ReadyRead => Event::ReadyRead { connection, endpoint, received: self.received() },
            _ => Event::BytesWritten { connection, endpoint, sent: self.sent() },
        })
    }

    /// The connection's id.
    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    /// The name of its listener or target.
    pub(crate) fn endpoint(&self) -> &Arc<str> {
        &self.endpoint
    }

    fn name(&self) -> Option<Arc<str>> {
        self.introduction.as_ref()?.name.clone()
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

    /// The peer, and our own address.
    pub(crate) fn ends(&self) -> (Endpoint, Endpoint) {
        self.ends.get().expect("a connection that was announced has its addresses").clone()
    }

    /// What a client has told about itself.
    pub(crate) fn introduction(&self) -> Introduction {
        self.introduction.as_deref().cloned().unwrap_or_default()
    }

    fn snapshot(&self) -> ConnectionSnapshot {
        let (peer, local) = self.ends.get().cloned().unzip();
        ConnectionSnapshot {
            connection: self.id,
            endpoint: Arc::clone(&self.endpoint),
            dialled: self.is_dialled,
            partner: self.partner(),
            peer,
            local,
            name: self.name(),
            via: self.introduction.as_ref().and_then(|introduction| introduction.via.clone()),
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

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e3).round() / 1e3)
}

const fn bit(kind: EventKind) -> u8 {
    match kind {
        EventKind::ReadyRead => 1,
        _ => 2,
    }
}
