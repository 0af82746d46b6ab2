//! What the tasks of an object look at, and slots change: the [`Door`] of a
//! listener, the [`Line`] of a client, the [`Clock`] of a timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;
use tokio::sync::watch;

use super::arrivals::Arrivals;
use super::places::Places;
use crate::event::Endpoint;

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

/// Whether a client that wires write to is to be connected.
#[derive(Debug)]
pub(crate) struct Line {
    wanted: watch::Sender<Wanted>,
}

/// What is wanted of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A connection, and another when that is gone.
    Open,
    /// None.
    Closed,
}

/// A timer as others see it.
#[derive(Debug)]
pub(crate) struct Clock {
    runs: watch::Sender<Run>,
    fired: AtomicU64,
}

/// Whether a timer runs, and since which start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) is_on: bool,
    pub(crate) start: u64,
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

impl Line {
    /// Of a client that is to be connected from the start.
    pub(crate) fn new() -> Self {
        Self { wanted: watch::Sender::new(Wanted::Open) }
    }

    /// Says what is wanted from now on.
    pub(crate) fn want(&self, wanted: Wanted) {
        self.wanted.send_replace(wanted);
    }

    /// Tells the client's task.
    pub(crate) fn watch(&self) -> watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }
}

impl Clock {
    /// Of a timer that runs from the start.
    pub(crate) fn new() -> Self {
        Self { runs: watch::Sender::new(Run { is_on: true, start: 0 }), fired: AtomicU64::new(0) }
    }

    /// Begins anew, also where it runs already.
    pub(crate) fn start(&self) {
        self.runs.send_modify(|run| *run = Run { is_on: true, start: run.start + 1 });
    }

    /// Does not fire until it is started again.
    pub(crate) fn stop(&self) {
        self.runs.send_modify(|run| run.is_on = false);
    }

    /// Tells the timer's task.
    pub(crate) fn watch(&self) -> watch::Receiver<Run> {
        self.runs.subscribe()
    }

    /// It has fired once more; yields how often that makes.
    pub(crate) fn fire(&self) -> u64 {
        self.fired.fetch_add(1, Relaxed) + 1
    }

    /// Whether it runs, and how often it has fired.
    pub(crate) fn now(&self) -> (bool, u64) {
        (self.runs.borrow().is_on, self.fired.load(Relaxed))
    }
}
