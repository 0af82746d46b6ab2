//! [`Known`]: the connections a script has values of, and how others tell it
//! that one is over.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mlua::AnyUserData;
use tokio::sync::Notify;

use crate::event::{ConnectionId, ConnectionMap};
use crate::registry::{Party, Registry};

/// Those a script has been told of.
#[derive(Debug)]
pub(super) struct Known {
    connections: RefCell<ConnectionMap<Entry>>,
    /// How many there were when those that are gone were looked for.
    looked: Cell<usize>,
    endings: Arc<Endings>,
}

#[derive(Debug)]
struct Entry {
    conn: AnyUserData,
    party: Arc<Party>,
    /// It was found to be over; what is still to be told of it comes soon.
    over: Option<Instant>,
}

/// What other threads say of them.
#[derive(Debug, Default)]
pub(super) struct Endings {
    state: Mutex<State>,
    told: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Those the script knows, so that the list of those that are over is no longer than that.
    known: ConnectionMap<()>,
    over: Vec<ConnectionId>,
}

impl Endings {
    /// A connection is over, and nothing more is told of it.
    pub(super) fn tell(&self, connection: ConnectionId) {
        let mut state = self.lock();
        if state.known.remove(&connection).is_some() {
            state.over.push(connection);
            drop(state);
            self.told.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    pub(super) fn new(endings: &Arc<Endings>) -> Self {
        let endings = Arc::clone(endings);
        Self { connections: RefCell::default(), looked: Cell::new(0), endings }
    }

    /// The value of a connection.
    pub(super) fn find(&self, connection: ConnectionId) -> Option<AnyUserData> {
        self.connections.borrow().get(&connection).map(|entry| entry.conn.clone())
    }

    /// Keeps the value of a connection, until that is over.
    pub(super) fn keep(&self, party: &Arc<Party>, conn: &AnyUserData, registry: &Registry) {
        if party.is_over() {
            return;
        }
        self.drop_those_gone(registry);
        self.endings.lock().known.insert(party.id, ());
        let entry = Entry { conn: conn.clone(), party: Arc::clone(party), over: None };
        self.connections.borrow_mut().insert(party.id, entry);
    }

    /// Waits until some are over, and drops their values. Cancel safe.
    pub(super) async fn drop_ended(&self) {
        self.endings.told.notified().await;
        let over = std::mem::take(&mut self.endings.lock().over);
        let mut connections = self.connections.borrow_mut();
        for connection in over {
            connections.remove(&connection);
        }
    }

    /// For ends that nobody told, since a reload has taken the wires away.
    fn drop_those_gone(&self, registry: &Registry) {
        let mut connections = self.connections.borrow_mut();
        if connections.len() < 2 * self.looked.get() + FIRST_LOOK {
            return;
        }
        let mut there = std::collections::HashMap::new();
        let now = Instant::now();
        let mut endings = self.endings.lock();
        connections.retain(|id, entry| {
            let ids = there.entry(Arc::clone(&entry.party.object)).or_insert_with_key(|object: &Arc<str>| {
                let parties = registry.wired(object)?.peers.parties();
                Some(parties.iter().map(|party| (party.id, ())).collect::<ConnectionMap<()>>())
            });
            // Of a connection that a relay has, only its end is told.
            let is_there = ids.as_ref().is_none_or(|ids| ids.contains_key(id));
            if is_there {
                entry.over = None;
            }
            let stays = is_there || now.duration_since(*entry.over.get_or_insert(now)) < KEPT;
            if !stays {
                endings.known.remove(id);
            }
            stays
        });
        self.looked.set(connections.len());
    }
}

/// So many connections are no matter.
const FIRST_LOOK: usize = 256;
/// For what a script is still told of a connection that is over.
const KEPT: Duration = Duration::from_secs(60);
