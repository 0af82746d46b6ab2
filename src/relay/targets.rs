//! [`Targets`]: where the clients of a relay are led, each for itself or all by
//! the connection that is kept for them. Which target is offered first follows
//! from a strategy, and from which targets have failed.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{Outlet, Shared};
use crate::bus::{EventBus, Record};
use crate::event::{Event, EventKind};
use crate::net::{Conn, DialError, dial, probe};
use crate::registry::Condition;

/// Which of several targets a new client gets, or the connection that is kept for all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The first that is up.
    #[default]
    Failover,
    /// Each in turn; for a connection that is kept, the next whenever it is dialled.
    RoundRobin,
    /// The one with the fewest connections of this node.
    LeastConnections,
}

/// How a relay chooses among its targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetOptions {
    /// Which one a new client gets.
    pub strategy: Strategy,
    /// A target that has failed is not offered for so long, unless all have failed; if targets
    /// are checked, it has to be reachable for so long before it is offered again.
    pub hold: Duration,
    /// Each target is tried so often, by a connection that is closed at once. `None`: never.
    pub check: Option<Duration>,
}

/// The targets of one relay.
pub(crate) struct Targets {
    relay: Arc<str>,
    outlets: Vec<Outlet>,
    options: TargetOptions,
    /// Round robin: whose turn it is.
    turn: AtomicUsize,
    /// Which one clients get now, or the connection that is kept leads to.
    current: AtomicUsize,
}

/// A target that has answered.
pub(super) struct Reached {
    pub(super) upstream: Conn,
    /// Which of the relay's it is.
    pub(super) nth: usize,
    pub(super) lead: Option<Lead>,
}

/// One connection of a target, for as long as it lives.
pub(super) struct Lead(Arc<Condition>);

impl Strategy {
    /// Every strategy there is.
    pub const ALL: [Self; 3] = [Self::Failover, Self::RoundRobin, Self::LeastConnections];

    /// How it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
        }
    }
}

impl Default for TargetOptions {
    /// Failover, 10 s, no checks.
    fn default() -> Self {
        Self { strategy: Strategy::Failover, hold: Duration::from_secs(10), check: None }
    }
}

impl Targets {
    pub(crate) fn new(relay: Arc<str>, outlets: Vec<Outlet>, options: TargetOptions) -> Self {
        Self { relay, outlets, options, turn: AtomicUsize::new(0), current: AtomicUsize::new(0) }
    }

    /// One of them, by its place in the config.
    pub(super) fn outlet(&self, nth: usize) -> Option<&Outlet> {
        self.outlets.get(nth)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.outlets.len()
    }

    /// Dials them in their order until one answers, on behalf of a client if there is one.
    pub(super) async fn dial(&self, shared: &Shared, client: Option<&Record>) -> Option<Reached> {
        let order = match self.has_choice() {
            true => self.order(self.turn.fetch_add(1, Relaxed)),
            false => Vec::new(),
        };
        let mut order = order.into_iter();
        for turn in 0..self.outlets.len() {
            let nth = order.next().unwrap_or(turn);
            if let Some(reached) = self.reach(shared, nth, client).await {
                // Clients that have one each are led to another only by a failover.
                if client.is_none() || self.options.strategy == Strategy::Failover {
                    self.lead_to(shared, nth);
                }
                return Some(reached);
            }
        }
        None
    }

    fn has_choice(&self) -> bool {
        self.outlets.len() > 1
    }

    /// Dials one of them.
    async fn reach(&self, shared: &Shared, nth: usize, client: Option<&Record>) -> Option<Reached> {
        let Outlet { target, options, own, condition } = &self.outlets[nth];
        let lead = self.has_choice().then(|| Lead::new(condition));
        match dial(target, options, own, &shared.bus, client).await {
            Ok(upstream) => {
                if self.options.check.is_none() {
                    condition.reached();
                }
                Some(Reached { upstream, nth, lead })
            }
            Err(error) => {
                // A name that leads to the node itself says nothing about a target.
                if !matches!(error, DialError::OwnListener(_)) {
                    condition.failed(self.options.hold);
                }
                None
            }
        }
    }

    /// In which order they are tried: by the strategy, and those that have failed last.
    fn order(&self, turn: usize) -> Vec<usize> {
        let count = self.outlets.len();
        let mut order: Vec<_> = (0..count).collect();
        match self.options.strategy {
            Strategy::Failover => {}
            Strategy::RoundRobin => order.rotate_left(turn % count.max(1)),
            Strategy::LeastConnections => {
                order.sort_by_key(|nth| self.outlets[*nth].condition.connections());
            }
        }
        let now = Instant::now();
        // Of those that have failed, the one that is over it first comes first.
        order.sort_by_key(|nth| self.outlets[*nth].condition.held_until(now));
        order
    }

    /// The one that would be tried first now.
    pub(super) fn next(&self) -> &Outlet {
        &self.outlets[self.order(self.turn.load(Relaxed))[0]]
    }

    /// A connection that was kept to this one has ended: if there is another, that is preferred for a while.
    pub(super) fn lost(&self, nth: usize) {
        if self.has_choice() {
            self.outlets[nth].condition.failed(self.options.hold);
        }
    }

    /// Waits until one can be reached again that is preferred to this one. Never ready if there is none.
    /// Cancel safe.
    pub(super) async fn back(&self, shared: &Shared, nth: usize) -> Reached {
        if self.options.strategy != Strategy::Failover || nth == 0 {
            return pending().await;
        }
        loop {
            let now = Instant::now();
            // A check may find one at any time, and one that fails again is held back again.
            let mut look = now + self.options.check.unwrap_or(self.options.hold).max(SHORTEST);
            for preferred in 0..nth {
                match self.outlets[preferred].condition.held_until(now) {
                    Some(until) => look = look.min(until),
                    None => {
                        if let Some(reached) = self.reach(shared, preferred, None).await {
                            return reached;
                        }
                    }
                }
            }
            sleep_until(look).await;
        }
    }

    /// This one is used from now on.
    pub(super) fn lead_to(&self, shared: &Shared, nth: usize) {
        let before = self.current.swap(nth, Relaxed);
        if before != nth {
            let (from, to) = (&self.outlets[before].target, &self.outlets[nth].target);
            shared.bus.emit(EventKind::TargetChanged, || Event::TargetChanged {
                endpoint: Arc::clone(&self.relay),
                from: Arc::clone(&from.name),
                to: Arc::clone(&to.name),
                target: to.address.as_target(),
            });
        }
    }

    /// Goes on where these have led, if that is one of its own.
    pub(super) fn succeed(&self, before: &Self) {
        let name =
            |targets: &Self| Some(Arc::clone(&targets.outlet(targets.current.load(Relaxed))?.target.name));
        let used = name(before);
        if let Some(nth) = self.outlets.iter().position(|outlet| Some(&outlet.target.name) == used.as_ref()) {
            self.current.store(nth, Relaxed);
        }
    }

    /// Tries all of them again and again, if that is asked for. Never ends then.
    pub(crate) async fn check(&self) {
        let Some(every) = self.options.check else { return };
        let mut due = interval(every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            let checks = self.outlets.iter().map(|outlet| async {
                let mut options = outlet.options.clone();
                options.connect_timeout = options.connect_timeout.min(every);
                match probe(&outlet.target, &options, &outlet.own).await {
                    Ok(()) => outlet.condition.answered(self.options.hold),
                    Err(error) => {
                        tracing::debug!(target = %outlet.target.name, %error, "a check failed");
                        outlet.condition.failed(LONG);
                    }
                }
            });
            all(checks).await;
        }
    }
}

/// Runs these to their ends, side by side.
async fn all(checks: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut running: Vec<_> = checks.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        running.retain_mut(|check| check.as_mut().poll(cx).is_pending());
        if running.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

impl Outlet {
    /// Dials it, and notes whether it could be reached.
    pub(super) async fn dial(&self, bus: &EventBus, partner: Option<&Record>) -> Result<Conn, DialError> {
        let dialled = dial(&self.target, &self.options, &self.own, bus, partner).await;
        match &dialled {
            Ok(_) => self.condition.reached(),
            Err(_) => self.condition.failed(Duration::ZERO),
        }
        dialled
    }
}

impl Reached {
    /// Where there was nothing to choose.
    pub(super) fn alone(upstream: Conn) -> Self {
        Self { upstream, nth: 0, lead: None }
    }
}

impl Lead {
    fn new(condition: &Arc<Condition>) -> Self {
        condition.begin();
        Self(Arc::clone(condition))
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Between two looks, however short the times are that were chosen.
const SHORTEST: Duration = Duration::from_millis(10);
/// Until a check succeeds.
const LONG: Duration = Duration::from_secs(366 * 86_400);
