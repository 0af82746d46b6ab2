//! Relays: ready-made topologies. This one is `pair`: each client gets an
//! outbound connection of its own, and bytes and ends are carried through.

mod abort;
mod accept;
mod pair;
mod session;
mod sweep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

pub(crate) use self::accept::{serve, serve_stdio};
use self::sweep::Sweep;
use crate::budget::Budget;
use crate::bus::EventBus;
use crate::event::Reason;
use crate::flow::{Tap, Turns};
use crate::net::{AccessList, DialOptions, ListenOptions, Target};

/// What a relay does beside moving bytes.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// Who may connect.
    pub access: AccessList,
    /// Clients at once, those whose target is still being dialled included;
    /// more wait in the backlog. `None`: as many as the descriptors allow.
    pub max_connections: Option<usize>,
    /// Ends a pair in which nothing has moved for so long. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Ends a pair in which one side has finished and nothing has moved for so long.
    pub half_closed_timeout: Duration,
    /// Options of the listeners.
    pub listen: ListenOptions,
    /// Options of the outbound connections.
    pub dial: DialOptions,
    /// Gets a copy of every byte.
    pub tap: Option<Tap>,
}

impl Default for RelayOptions {
    /// Everyone, as many as fit, no idle timeout, one hour half-closed.
    fn default() -> Self {
        Self {
            access: AccessList::default(),
            max_connections: None,
            idle_timeout: None,
            half_closed_timeout: Duration::from_secs(3_600),
            listen: ListenOptions::default(),
            dial: DialOptions::default(),
            tap: None,
        }
    }
}

/// A running relay, shared by its listeners and sessions.
pub(crate) struct Relay {
    bus: EventBus,
    targets: Vec<Target>,
    /// Our own listeners, which are never dialled.
    own: Vec<SocketAddr>,
    options: RelayOptions,
    budget: Arc<Budget>,
    turns: Turns,
    /// One permit per client that may be accepted.
    places: Arc<Semaphore>,
    most: usize,
    sweep: Sweep,
    /// Ends with its first conversation, because it speaks to standard input and output.
    once: bool,
}

/// What the node tells its relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Go on.
    No,
    /// Accept no more, and cut what is left at this time.
    At(Instant),
}

/// How a listener's share of the relay ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended {
    /// Clients whose connections were cut because the node stopped.
    pub(crate) cut: usize,
    /// The end of the one conversation, in a relay with standard input and output.
    pub(crate) conversation: Option<Reason>,
}

impl Relay {
    pub(crate) fn new(
        bus: EventBus,
        budget: Arc<Budget>,
        targets: Vec<Target>,
        own: Vec<SocketAddr>,
        options: RelayOptions,
        once: bool,
    ) -> Self {
        let most = if once { 1 } else { options.max_connections.unwrap_or_else(most_connections) };
        let most = most.min(Semaphore::MAX_PERMITS);
        let places = Arc::new(Semaphore::new(most));
        Self {
            bus,
            targets,
            own,
            options,
            budget,
            turns: Turns::default(),
            places,
            most,
            sweep: Sweep::default(),
            once,
        }
    }

    /// Looks after the limits that have no timer of their own. Never ends.
    pub(crate) async fn run_sweep(&self) {
        self.sweep.run(self.options.idle_timeout, self.options.half_closed_timeout).await;
    }
}

/// How many pairs the descriptors of this process allow.
pub(crate) fn most_connections() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let descriptors = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    (descriptors.saturating_sub(DESCRIPTORS_KEPT) / 2).max(1)
}

/// Listeners, the standard streams, the runtime's own, and some for name lookups.
const DESCRIPTORS_KEPT: usize = 64;
