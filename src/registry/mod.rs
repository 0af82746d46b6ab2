//! The running objects of a node by their names: what is true of them, and the
//! slots that can be called on them. The node enters and removes objects; whoever
//! has a [`Registry`] may look and call, and never holds anything up.

mod accounts;
mod arrivals;
mod condition;
mod places;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

pub use self::accounts::Accounts;
pub(crate) use self::accounts::Ledger;
pub(crate) use self::arrivals::{Arrival, Arrivals};
pub(crate) use self::condition::Condition;
pub(crate) use self::places::{Place, Places};
use crate::event::Endpoint;
use crate::nearest::{did_you_mean, quoted};

/// The objects of a running node. Cloning gives another handle to the same.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    objects: Arc<Mutex<BTreeMap<Arc<str>, Object>>>,
}

/// A running object, as the node enters it.
#[derive(Clone, Debug)]
pub(crate) enum Object {
    Listener(Arc<Door>),
    Client { to: String, condition: Arc<Condition>, ledger: Option<Arc<Ledger>> },
    Relay { from: Vec<String>, to: Vec<String> },
}

/// A listener as others see it: its state, and who is in.
#[derive(Debug)]
pub(crate) struct Door {
    addresses: Vec<Endpoint>,
    places: Arc<Places>,
    arrivals: Arc<Arrivals>,
    state: watch::Sender<ListenerState>,
}

/// What a listener does with clients that come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerState {
    /// It accepts them.
    Listening,
    /// It leaves them in the backlog, until it is told to resume.
    Paused,
    /// It is closed; those that were accepted stay.
    Closed,
}

/// What was true of an object at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct ObjectSnapshot {
    /// Its name.
    pub object: Arc<str>,
    /// What it is.
    #[serde(flatten)]
    pub kind: ObjectKind,
}

/// The kinds of objects, with what is known of each.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ObjectKind {
    /// Accepts clients.
    Listener {
        /// What it does with them.
        state: ListenerState,
        /// What it is bound to.
        addresses: Vec<Endpoint>,
        /// Clients it has accepted that are still there, pending ones included.
        connections: usize,
    },
    /// Is dialled: for each client of a pair anew; in publish and collect once, and kept connected.
    Client {
        /// The target as it is dialled.
        to: String,
        /// False once it could not be reached, until it is again.
        up: bool,
        /// Where every message is that was taken for it, in mode collect.
        #[serde(skip_serializing_if = "Option::is_none")]
        accounts: Option<Accounts>,
    },
    /// Joins listeners to clients.
    Relay {
        /// Its listeners.
        from: Vec<String>,
        /// Its clients, in the order in which they are tried.
        to: Vec<String>,
    },
}

/// What can be called on an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Of a listener: accept nobody until resumed; a reload does not change that.
    Pause,
    /// Of a listener: accept again.
    Resume,
    /// Of a listener: stop listening. Its connections stay; the next reload opens it again. A
    /// program that runs by its command line has no reload, and ends with its last listener and client.
    Close,
}

/// Why a call had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// There is no object of this name.
    #[error("no object is called `{object}`{hint}")]
    NoObject {
        /// The name that was asked for.
        object: String,
        /// What there is instead.
        hint: String,
    },
    /// The object has no such slot.
    #[error("`{object}` is no listener and has no slot `{slot}`; only listeners pause, resume and close")]
    NoSlot {
        /// The object.
        object: String,
        /// The slot.
        slot: &'static str,
    },
    /// The listener is closed for good.
    #[error("`{object}` is closed; reload the config to open it again")]
    Closed {
        /// The object.
        object: String,
    },
}

impl Registry {
    /// Every object, by name.
    pub fn objects(&self) -> Vec<ObjectSnapshot> {
        let snapshot = |(name, object): (&Arc<str>, &Object)| ObjectSnapshot {
            object: Arc::clone(name),
            kind: object.kind(),
        };
        self.lock().iter().map(snapshot).collect()
    }

    /// The object of this name.
    pub fn find(&self, name: &str) -> Option<ObjectSnapshot> {
        let objects = self.lock();
        let (name, object) = objects.get_key_value(name)?;
        Some(ObjectSnapshot { object: Arc::clone(name), kind: object.kind() })
    }

    /// Calls a slot of an object. It has taken effect for every client that
    /// comes later; one that is being accepted in this moment may still come in.
    ///
    /// # Errors
    /// [`CallError`], and nothing has changed.
    pub fn call(&self, name: &str, slot: Slot) -> Result<(), CallError> {
        let objects = self.lock();
        let Some(object) = objects.get(name) else {
            let names = objects.keys().map(|name| &**name);
            let hint =
                did_you_mean(name, names.clone()).unwrap_or_else(|| format!("; there are {}", quoted(names)));
            return Err(CallError::NoObject { object: name.escape_debug().to_string(), hint });
        };
        let Object::Listener(door) = object else {
            return Err(CallError::NoSlot { object: name.to_owned(), slot: slot.name() });
        };
        let to = match slot {
            Slot::Pause => ListenerState::Paused,
            Slot::Resume => ListenerState::Listening,
            Slot::Close => ListenerState::Closed,
        };
        if door.turn(to) { Ok(()) } else { Err(CallError::Closed { object: name.to_owned() }) }
    }

    /// Makes `objects` all there are.
    pub(crate) fn replace(&self, objects: BTreeMap<Arc<str>, Object>) {
        *self.lock() = objects;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object {
    fn kind(&self) -> ObjectKind {
        match self {
            Self::Listener(door) => ObjectKind::Listener {
                state: door.state(),
                addresses: door.addresses.clone(),
                connections: door.places.taken(),
            },
            Self::Client { to, condition, ledger } => ObjectKind::Client {
                to: to.clone(),
                up: condition.is_up(),
                accounts: ledger.as_ref().map(|ledger| ledger.accounts()),
            },
            Self::Relay { from, to } => ObjectKind::Relay { from: from.clone(), to: to.clone() },
        }
    }
}

impl Slot {
    /// Every slot there is.
    pub const ALL: [Self; 3] = [Self::Pause, Self::Resume, Self::Close];

    /// How it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Close => "close",
        }
    }
}

impl Door {
    /// A listener that accepts, with these places.
    pub(crate) fn new(addresses: Vec<Endpoint>, places: Arc<Places>) -> Self {
        let state = watch::Sender::new(ListenerState::Listening);
        Self { addresses, places, arrivals: Arc::default(), state }
    }

    /// What it is bound to.
    pub(crate) fn addresses(&self) -> &[Endpoint] {
        &self.addresses
    }

    /// Its own places.
    pub(crate) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Who has come, and how fast.
    pub(crate) fn arrivals(&self) -> &Arc<Arrivals> {
        &self.arrivals
    }

    /// What it does now.
    pub(crate) fn state(&self) -> ListenerState {
        *self.state.borrow()
    }

    /// Tells its task what it does, and when that changes.
    pub(crate) fn watch(&self) -> watch::Receiver<ListenerState> {
        self.state.subscribe()
    }

    /// Has it do something else. A closed one stays closed.
    pub(crate) fn turn(&self, to: ListenerState) -> bool {
        let mut was_closed = false;
        self.state.send_if_modified(|state| {
            was_closed = *state == ListenerState::Closed;
            let changes = !was_closed && *state != to;
            if changes {
                *state = to;
            }
            changes
        });
        !was_closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_called_by_name_and_a_closed_listener_stays_closed() {
        let registry = Registry::default();
        let door = Arc::new(Door::new(Vec::new(), Arc::new(Places::new(1))));
        let objects = [
            (Arc::from("front"), Object::Listener(Arc::clone(&door))),
            (
                Arc::from("back"),
                Object::Client { to: "host:1".into(), condition: Arc::default(), ledger: None },
            ),
        ];
        registry.replace(objects.into());
        registry.call("front", Slot::Pause).unwrap();
        assert_eq!(door.state(), ListenerState::Paused);
        registry.call("front", Slot::Resume).unwrap();
        assert_eq!(door.state(), ListenerState::Listening);
        registry.call("front", Slot::Close).unwrap();
        assert!(matches!(registry.call("front", Slot::Resume), Err(CallError::Closed { .. })));
        assert_eq!(door.state(), ListenerState::Closed);
        assert!(matches!(registry.call("back", Slot::Pause), Err(CallError::NoSlot { .. })));
        let text = registry.call("fornt", Slot::Pause).unwrap_err().to_string();
        assert_eq!(text, "no object is called `fornt`; did you mean `front`?");
        assert_eq!(registry.objects().len(), 2);
        assert!(registry.find("front").is_some() && registry.find("x").is_none());
    }
}
