//! The running objects of a node by their names: what is true of them, and the
//! slots that can be called on them. The node enters and removes objects; whoever
//! has a [`Registry`] may look and call, and never holds anything up.

mod accounts;
mod arrivals;
mod call;
mod condition;
mod door;
mod error;
mod intake;
mod lanes;
mod passage;
mod peers;
mod places;
mod slots;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

pub use self::accounts::Accounts;
pub(crate) use self::accounts::{Books, Ledger};
pub(crate) use self::arrivals::Arrival;
#[cfg_attr(not(feature = "script"), allow(unused_imports, reason = "for those who implement it"))]
pub(crate) use self::call::Called;
pub use self::call::{Arguments, Value};
pub(crate) use self::call::{Call, Frame, Functions, Party, Trail};
pub(crate) use self::condition::Condition;
pub use self::door::ListenerState;
pub(crate) use self::door::{Clock, Door, Line, Wanted};
pub use self::error::CallError;
pub(crate) use self::intake::{Fact, INTAKE, Intake, Item, Undone};
pub(crate) use self::lanes::in_lanes;
pub(crate) use self::passage::{Passage, Passed};
pub(crate) use self::peers::{Ending, Peers, SendError, To};
pub(crate) use self::places::{Place, Places};
#[cfg(test)]
pub(crate) use self::slots::SLOTS;
pub(crate) use self::slots::{Of, Slot};
use crate::event::Endpoint;
use crate::net::{DiscoveryCounts, Tally};

/// The objects of a running node. Cloning gives another handle to the same.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    state: Arc<Mutex<State>>,
    quit: Arc<watch::Sender<Option<u8>>>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Arc<str>, Object>,
    /// What slots write to, of listeners and clients that no relay has.
    wired: BTreeMap<Arc<str>, Wired>,
    /// What slots called by hand write to, of listeners whose clients are members of a relay.
    members: BTreeMap<Arc<str>, Arc<dyn Peers>>,
    /// Where the signals of an object go, if anyone wants them.
    intakes: BTreeMap<Arc<str>, Arc<Intake>>,
}

/// What a listener or client has that belongs to wires and scripts.
#[derive(Clone, Debug)]
pub(crate) struct Wired {
    pub(crate) peers: Arc<dyn Peers>,
    /// Of a client.
    pub(crate) line: Option<Arc<Line>>,
}

/// A running object, as the node enters it.
#[derive(Clone, Debug)]
pub(crate) enum Object {
    Listener(Arc<Door>),
    Client {
        to: String,
        condition: Arc<Condition>,
        books: Option<Books>,
    },
    Relay {
        from: Vec<String>,
        to: Vec<String>,
        books: Option<Books>,
    },
    Discovery {
        address: SocketAddr,
        listener: String,
        tally: Arc<Tally>,
    },
    Timer(Arc<Clock>),
    /// By the name `script.ID`.
    Script(Arc<dyn Functions>),
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
        /// Where every message is that was taken for it, in mode collect; of several targets, those that were
        /// handed to it.
        #[serde(skip_serializing_if = "Option::is_none")]
        accounts: Option<Accounts>,
    },
    /// Joins listeners to clients.
    Relay {
        /// Its listeners.
        from: Vec<String>,
        /// Its clients, in the order in which they are tried.
        to: Vec<String>,
        /// Where every message is that was taken for its clients, in mode collect with several of them.
        #[serde(skip_serializing_if = "Option::is_none")]
        accounts: Option<Accounts>,
    },
    /// Tells who asks where a listener is.
    Discovery {
        /// The UDP address at which it is asked.
        address: SocketAddr,
        /// The listener.
        #[serde(rename = "for")]
        listener: String,
        /// What became of the requests.
        requests: DiscoveryCounts,
    },
    /// Fires after a time, once or again and again.
    Timer {
        /// Whether it will fire.
        running: bool,
        /// How often it has.
        fired: u64,
    },
    /// Runs handlers.
    Script {
        /// The functions that can be called.
        functions: Vec<Arc<str>>,
    },
}

impl Registry {
    /// Every object, by name.
    pub fn objects(&self) -> Vec<ObjectSnapshot> {
        let snapshot = |(name, object): (&Arc<str>, &Object)| ObjectSnapshot {
            object: Arc::clone(name),
            kind: object.kind(),
        };
        self.lock().objects.iter().map(snapshot).collect()
    }

    /// The object of this name.
    pub fn find(&self, name: &str) -> Option<ObjectSnapshot> {
        let state = self.lock();
        let (name, object) = state.objects.get_key_value(name)?;
        Some(ObjectSnapshot { object: Arc::clone(name), kind: object.kind() })
    }

    /// Makes `objects` all there are.
    pub(crate) fn replace(&self, objects: BTreeMap<Arc<str>, Object>) {
        self.lock().objects = objects;
    }

    /// Says whom slots called by hand write to, of listeners that relays have.
    pub(crate) fn join(&self, members: BTreeMap<Arc<str>, Arc<dyn Peers>>) {
        self.lock().members = members;
    }

    /// The clients of a listener that are members of a relay.
    fn members(&self, object: &str) -> Option<Wired> {
        let peers = Arc::clone(self.lock().members.get(object)?);
        Some(Wired { peers, line: None })
    }

    /// Says what slots write to, and where signals go.
    pub(crate) fn rewire(&self, wired: BTreeMap<Arc<str>, Wired>, intakes: BTreeMap<Arc<str>, Arc<Intake>>) {
        let mut state = self.lock();
        (state.wired, state.intakes) = (wired, intakes);
    }

    /// Where the signals of an object go, if anyone wants them.
    pub(crate) fn intake(&self, object: &str) -> Option<Arc<Intake>> {
        self.lock().intakes.get(object).cloned()
    }

    /// What slots of a listener or client write to.
    pub(crate) fn wired(&self, object: &str) -> Option<Wired> {
        self.lock().wired.get(object).cloned()
    }

    /// Changes when somebody has asked for the end of the node, with its exit code.
    pub(crate) fn watch_quit(&self) -> watch::Receiver<Option<u8>> {
        self.quit.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object {
    fn kind(&self) -> ObjectKind {
        match self {
            Self::Listener(door) => ObjectKind::Listener {
                state: door.state(),
                addresses: door.addresses().to_vec(),
                connections: door.places().taken(),
            },
            Self::Client { to, condition, books } => ObjectKind::Client {
                to: to.clone(),
                up: condition.is_up(),
                accounts: books.as_ref().map(Books::accounts),
            },
            Self::Relay { from, to, books } => ObjectKind::Relay {
                from: from.clone(),
                to: to.clone(),
                accounts: books.as_ref().map(Books::accounts),
            },
            Self::Discovery { address, listener, tally } => {
                ObjectKind::Discovery { address: *address, listener: listener.clone(), requests: tally.now() }
            }
            Self::Timer(clock) => {
                let (running, fired) = clock.now();
                ObjectKind::Timer { running, fired }
            }
            Self::Script(script) => ObjectKind::Script { functions: script.names() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slots_are_called_by_name_and_a_closed_listener_stays_closed() {
        let registry = Registry::default();
        let door = Arc::new(Door::new(Vec::new(), Arc::new(Places::new(1))));
        let objects = [
            (Arc::from("front"), Object::Listener(Arc::clone(&door))),
            (
                Arc::from("back"),
                Object::Client { to: "host:1".into(), condition: Arc::default(), books: None },
            ),
        ];
        registry.replace(objects.into());
        let call = |object: &'static str, slot: &'static str| registry.call(object, slot, Arguments::new());
        call("front", "pause").await.unwrap();
        assert_eq!(door.state(), ListenerState::Paused);
        call("front", "resume").await.unwrap();
        assert_eq!(door.state(), ListenerState::Listening);
        call("front", "close").await.unwrap();
        assert!(matches!(call("front", "resume").await, Err(CallError::Closed { .. })));
        assert_eq!(door.state(), ListenerState::Closed);
        for (object, slot, expected) in [
            (
                "back",
                "pause",
                "`back` has no slot `pause`; there are `write`, `open`, `close`, `abort`, `shutdown_write`",
            ),
            ("front", "puase", "`front` has no slot `puase`; did you mean `pause`?"),
            ("fornt", "pause", "no object is called `fornt`; did you mean `front`?"),
            ("node", "quti", "`node` has no slot `quti`; did you mean `quit`?"),
            ("log", "info", "`log.info` needs `text`"),
        ] {
            assert_eq!(call(object, slot).await.unwrap_err().to_string(), expected);
        }
        let wrong = Arguments::new().with("dta", "x");
        let text = registry.call("back", "write", wrong).await.unwrap_err().to_string();
        assert_eq!(text, "`back.write` takes no `dta`; did you mean `data`?");
        assert!(matches!(call("back", "write").await, Err(CallError::NotWired { .. })));
        assert_eq!(registry.objects().len(), 2);
        assert!(registry.find("front").is_some() && registry.find("x").is_none());
        let quit = registry.watch_quit();
        registry.call("node", "quit", Arguments::new().with("code", 3)).await.unwrap();
        assert_eq!(*quit.borrow(), Some(3));
    }
}
