//! [`Targets`]: where the clients of a relay are led. Which target a client is
//! offered first follows from a strategy, and from which targets have failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Outlet, Shared};
use crate::bus::{EventBus, Record};
use crate::event::{Event, EventKind};
use crate::net::{Conn, DialError, dial, probe};
use crate::registry::Condition;

/// Which of several targets a new client gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The first that is up.
    #[default]
    Failover,
    /// Each in turn.
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
    /// Failover: which one clients get now.
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

    /// Dials them in their order until one answers, on behalf of a client.
    pub(super) async fn dial(&self, shared: &Shared, client: &Conn) -> Option<Reached> {
        let is_one_of_many = self.outlets.len() > 1;
        let order = if is_one_of_many { self.order() } else { Vec::new() };
        let mut order = order.into_iter();
        for turn in 0..self.outlets.len() {
            let nth = order.next().unwrap_or(turn);
            let Outlet { target, options, own, condition } = &self.outlets[nth];
            let lead = is_one_of_many.then(|| Lead::new(condition));
            match dial(target, options, own, &shared.bus, Some(client.record())).await {
                Ok(upstream) => {
                    self.reached(shared, nth);
                    return Some(Reached { upstream, nth, lead });
                }
                Err(error) => self.failed(nth, &error),
            }
        }
        None
    }

    /// In which order a client tries them: by the strategy, and those that have failed last.
    fn order(&self) -> Vec<usize> {
        let count = self.outlets.len();
        let mut order: Vec<_> = (0..count).collect();
        match self.options.strategy {
            Strategy::Failover => {}
            Strategy::RoundRobin => order.rotate_left(self.turn.fetch_add(1, Relaxed) % count.max(1)),
            Strategy::LeastConnections => {
                order.sort_by_key(|nth| self.outlets[*nth].condition.connections());
            }
        }
        let now = Instant::now();
        // Of those that have failed, the one that is over it first comes first.
        order.sort_by_key(|nth| self.outlets[*nth].condition.held_until(now));
        order
    }

    fn failed(&self, nth: usize, error: &DialError) {
        // A name that leads to the node itself says nothing about a target.
        if !matches!(error, DialError::OwnListener(_)) {
            self.outlets[nth].condition.failed(self.options.hold);
        }
    }

    /// A client has got this one.
    fn reached(&self, shared: &Shared, nth: usize) {
        if self.options.check.is_none() {
            self.outlets[nth].condition.reached();
        }
        if self.options.strategy != Strategy::Failover {
            return;
        }
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

/// Until a check succeeds.
const LONG: Duration = Duration::from_secs(366 * 86_400);
