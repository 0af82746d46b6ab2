//! Relays: ready-made topologies. In a pair each client of a listener gets an
//! outbound connection of its own, and bytes and ends are carried through; in
//! a group messages go from each to many, and in a bridge two meet that both
//! came to us, or that were both dialled.

mod abort;
mod accept;
mod bridge;
mod by_hand;
mod charged;
mod dialled;
mod exchange;
mod group;
mod handshake;
mod member;
mod named;
mod pair;
mod readers;
mod reply;
mod requests;
mod session;
mod sweep;
mod tag;
mod targets;
mod uplink;
mod via;
mod vigil;
mod wired;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::accept::{Entrance, serve, serve_stdio};
pub(crate) use self::bridge::Bridge;
pub use self::bridge::{BridgeOptions, JoinOn};
pub(crate) use self::by_hand::Clients;
pub(crate) use self::dialled::join_dialled;
pub(crate) use self::group::{Group, Side};
pub use self::reply::Reply;
pub use self::requests::RequestOptions;
pub(crate) use self::sweep::Limits;
use self::sweep::Sweep;
pub use self::tag::{NameFrame, Naming, Pattern, Tag, TagError, TagOptions, Unknown};
pub(crate) use self::targets::Targets;
pub use self::targets::{Strategy, TargetOptions};
pub(crate) use self::uplink::{Plan, Uplink, keep};
use crate::budget::Budget;
use crate::bus::EventBus;
use crate::event::Reason;
use crate::flow::{Tap, Turns};
use crate::framing::Unfinished;
use crate::net::{DialOptions, Target};
use crate::registry::{Condition, Place, Places};

/// How a relay joins connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RelayMode {
    /// Each client gets a connection of its own to the first target that answers.
    #[default]
    Pair,
    /// Each client gets back what it sends; there is no target.
    Echo,
    /// Every client hears what the others send, message by message; there is no target.
    Hub,
    /// Those at one end hear what those at the other send, and nothing goes back.
    Publish,
    /// What all clients send goes over one connection to the first target that answers, which is kept; and
    /// its answers to all of them.
    Collect,
    /// Clients of two listeners are joined in the order in which they came; or two targets, which are both dialled.
    Bridge,
}

/// What a relay does beside moving bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayOptions {
    /// Ends a pair in which nothing has moved for so long. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Ends a pair in which one side has finished and nothing has moved for so long.
    pub half_closed_timeout: Duration,
    /// How clients of a pair, or the connection of mode collect, are led to one of several targets.
    pub targets: TargetOptions,
    /// Where the answers of the target go, in mode collect.
    pub reply: Reply,
    /// How connections wait for each other, in mode bridge.
    pub bridge: BridgeOptions,
    /// How requests take turns, where answers go to those who asked.
    pub request: RequestOptions,
    /// The names of clients, in mode collect.
    pub tags: TagOptions,
    /// Sends again, in mode collect, what was unconfirmed when a connection
    /// ended. It is kept until then, within the queue's limit; the target may
    /// get some of it twice.
    pub resend: bool,
}

impl Default for RelayOptions {
    /// No idle timeout, one hour half-closed, failover, answers to every client.
    fn default() -> Self {
        Self {
            idle_timeout: None,
            half_closed_timeout: Duration::from_secs(3_600),
            targets: TargetOptions::default(),
            reply: Reply::default(),
            bridge: BridgeOptions::default(),
            request: RequestOptions::default(),
            tags: TagOptions::default(),
            resend: false,
        }
    }
}

impl RelayOptions {
    /// Without what follows a change while it runs.
    pub(crate) fn without_limits(&self) -> Self {
        let Self { idle_timeout, half_closed_timeout, request, .. } = Self::default();
        Self { idle_timeout, half_closed_timeout, request, ..self.clone() }
    }
}

impl RelayMode {
    /// Every mode there is.
    pub const ALL: [Self; 6] =
        [Self::Pair, Self::Echo, Self::Hub, Self::Publish, Self::Collect, Self::Bridge];

    /// How it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pair => "pair",
            Self::Echo => "echo",
            Self::Hub => "hub",
            Self::Publish => "publish",
            Self::Collect => "collect",
            Self::Bridge => "bridge",
        }
    }

    /// Tells whether its connections are members of a group, in which messages have more than one destination.
    pub const fn is_group(self) -> bool {
        matches!(self, Self::Hub | Self::Publish | Self::Collect)
    }
}

/// What all relays of a node share.
pub(crate) struct Shared {
    bus: EventBus,
    budget: Budget,
    turns: Turns,
    /// One place per client of the node.
    places: Arc<Places>,
    sweep: Sweep,
    tap: Option<Tap>,
    /// What frames hold of which only a part has come.
    unfinished: Arc<Unfinished>,
}

/// Where the clients of some listeners go. It never changes; a reload makes
/// another one, to which later clients go.
pub(crate) struct Relay {
    shared: Arc<Shared>,
    targets: Arc<Targets>,
    limits: Arc<Limits>,
    options: Arc<RelayOptions>,
    /// What its clients are members of, in a mode that joins many.
    group: Option<Arc<Group>>,
    /// Where they meet, in mode bridge.
    bridge: Option<Arc<Bridge>>,
    /// Ends with its first conversation, because it speaks to standard input and output.
    once: bool,
}

/// A target, and how it is dialled.
pub(crate) struct Outlet {
    pub(crate) target: Target,
    pub(crate) options: DialOptions,
    /// Listeners of our own, to which it must not lead.
    pub(crate) own: Arc<[SocketAddr]>,
    /// What is known of it, whichever relay leads there.
    pub(crate) condition: Arc<Condition>,
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

impl Shared {
    pub(crate) fn new(
        bus: EventBus,
        budget: usize,
        max_read: usize,
        places: usize,
        tap: Option<Tap>,
    ) -> Self {
        Self {
            bus,
            budget: Budget::new(budget),
            turns: Turns::new(max_read),
            places: Arc::new(Places::new(places)),
            sweep: Sweep::default(),
            tap,
            unfinished: Arc::new(Unfinished::new(budget / 4)),
        }
    }

    /// Tells whether all memory for bytes that wait is in use.
    fn has_no_budget(&self) -> bool {
        self.budget.left() == 0
    }

    /// A place of a client, if there is one.
    pub(crate) fn take_place(&self) -> Option<Place> {
        self.places.take()
    }

    /// Changes how many clients the node has places for.
    pub(crate) fn set_places(&self, most: usize) {
        self.places.set_most(most);
    }

    /// The limits of pairs that live have changed.
    pub(crate) fn limits_changed(&self, limits: &Limits) {
        self.sweep.attend(limits);
    }

    /// Looks after the limits that have no timer of their own. Never ends.
    pub(crate) async fn run_sweep(&self) {
        self.sweep.run().await;
    }
}

impl Relay {
    pub(crate) fn new(
        shared: Arc<Shared>,
        targets: Arc<Targets>,
        limits: Arc<Limits>,
        options: RelayOptions,
        group: Option<Arc<Group>>,
        once: bool,
    ) -> Self {
        Self { shared, targets, limits, options: Arc::new(options), group, bridge: None, once }
    }

    /// One whose clients meet there.
    pub(crate) fn with_bridge(self, bridge: Option<Arc<Bridge>>) -> Self {
        Self { bridge, ..self }
    }

    /// Tries its targets again and again, if that is asked for. Never ends then.
    pub(crate) async fn check_targets(&self) {
        self.targets.check().await;
    }
}
