//! The log as a subscriber of the bus: each event becomes a line of text for
//! an operator, or a JSON object for a program. It can be slow, or lag, and
//! no connection notices.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamExt;
use tracing::{Level, debug, enabled, info, trace, warn};

use super::limiter::{Detail, Limiter, Line, OFTEN, SELDOM};
use super::recoveries::Recoveries;
use super::writer::LogQueue;
use crate::bus::{Delivery, Dropped, EventBus, Subscription};
use crate::config::LogFormat;
use crate::event::{
    ConnectionId, DropCause, Endpoint, Envelope, Event, EventKind, EventMask, Reason, Restriction,
};

/// Whether the node is one conversation with standard input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conversation {
    None,
    Piped,
    /// Somebody types, and wants to know when the other side has finished.
    Typed,
}

/// Turns events into log lines until the bus ends.
pub(super) struct Reporter {
    bus: EventBus,
    events: Subscription,
    log: LogQueue,
    format: LogFormat,
    /// Error texts, until the `disconnected` that follows names its reason.
    errors: HashMap<ConnectionId, String>,
    /// The target of a client, between the target's end and the client's.
    targets: HashMap<ConnectionId, String>,
    /// The connections to targets that are kept connected.
    uplinks: HashSet<ConnectionId>,
    /// What was told of dropped frames.
    told: BTreeMap<(Arc<str>, DropCause), Dropped>,
    limiter: Limiter,
    recoveries: Recoveries,
    conversation: Conversation,
    /// Of connections that end, only those are told that have lost something.
    is_quiet: bool,
}

impl Reporter {
    /// Subscribes to what the log level asks for.
    pub(super) fn new(bus: &EventBus, log: LogQueue, format: LogFormat, conversation: Conversation) -> Self {
        let mask = match format {
            _ if !enabled!(Level::WARN) => EventMask::NONE,
            _ if !enabled!(Level::INFO) => EventMask::of(FAULTS),
            LogFormat::Json if enabled!(Level::DEBUG) => EventMask::ALL,
            LogFormat::Json => EventMask::DISCRETE,
            LogFormat::Text if enabled!(Level::TRACE) => EventMask::ALL,
            LogFormat::Text if enabled!(Level::DEBUG) => EventMask::DISCRETE,
            LogFormat::Text if conversation != Conversation::None => EventMask::of(TALK),
            LogFormat::Text => EventMask::of(USUAL),
        };
        Self {
            bus: bus.clone(),
            events: bus.subscribe(mask),
            log,
            format,
            errors: HashMap::new(),
            targets: HashMap::new(),
            uplinks: HashSet::new(),
            told: BTreeMap::new(),
            limiter: Limiter::default(),
            recoveries: Recoveries::default(),
            conversation,
            is_quiet: !enabled!(Level::INFO),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let due = self.limiter.due().into_iter().chain(self.recoveries.due()).min();
            let delivery = tokio::select! {
                biased;
                delivery = self.events.next() => delivery,
                () = at(due) => {
                    self.limiter.report();
                    self.recoveries.report();
                    continue;
                }
            };
            match delivery {
                Some(Delivery::Event(envelope)) => self.event(&envelope),
                Some(Delivery::Lagged(missed)) => {
                    warn!(missed, "events came faster than they could be logged")
                }
                None => break,
            }
        }
        self.limiter.finish();
    }

    /// The line of a finished client names the target it reached, whose own end came just before.
    fn disconnected(&mut self, event: &Event) {
        let Event::Disconnected {
            connection,
            endpoint,
            partner,
            peer,
            name,
            reason,
            received,
            sent,
            unsent,
            duration,
            ..
        } = event
        else {
            return;
        };
        let error = self.errors.remove(connection);
        let error = error.as_deref();
        let duration = format!("{:.3}s", duration.as_secs_f64());
        let unsent = (*unsent > 0).then_some(*unsent);
        if self.uplinks.remove(connection) && is_unexpected(*reason) {
            warn!(%connection, %endpoint, %peer, %duration, received, sent, unsent, %reason, error, "disconnected");
            return;
        }
        if self.is_quiet {
            let line = Line { what: "a connection ended with a loss", endpoint, cause: reason.name() };
            self.limiter.say(line, Detail::of(peer), OFTEN);
            return;
        }
        if let Some(client) = partner {
            self.targets.insert(*client, peer.to_string());
            // The target's end is news only if it is the cause.
            if matches!(
                reason,
                Reason::Reset | Reason::TimedOut | Reason::Failed | Reason::Aborted | Reason::Truncated
            ) {
                info!(%connection, %endpoint, partner = client.get(), %peer, %duration, received, sent, unsent, %reason, error, "target disconnected");
            } else {
                debug!(%connection, %endpoint, partner = client.get(), %peer, %duration, received, sent, unsent, %reason, "target disconnected");
            }
            return;
        }
        let target = self.targets.remove(connection);
        if *reason == Reason::NoTarget && self.conversation == Conversation::None {
            debug!(%connection, %endpoint, %peer, %duration, %reason, "disconnected");
            let line = Line { what: "clients reset", endpoint, cause: "no target could be reached" };
            self.limiter.say(line, Detail::of(peer), OFTEN);
            return;
        }
        let name = name.as_deref();
        info!(%connection, %endpoint, %peer, name, target, %duration, received, sent, unsent, %reason, error, "disconnected");
    }

    /// Tells whether this is the far end of the one conversation.
    fn talks(&self, peer: &Endpoint) -> bool {
        self.conversation != Conversation::None && *peer != Endpoint::Stdio
    }

    fn event(&mut self, envelope: &Envelope) {
        if self.is_quiet && !is_fault(&envelope.event) {
            return;
        }
        if self.format == LogFormat::Json {
            if !self.log.has_room() {
                // Not worth being put into words.
                self.log.lose();
                return;
            }
            let mut line = serde_json::to_vec(envelope).expect("an event is plain data");
            line.push(b'\n');
            self.log.line(line);
        } else {
            self.text(&envelope.event);
        }
    }

    /// Remembers a connection that is kept for its own sake, and whoever was away and is back.
    fn connected(&mut self, connection: ConnectionId, endpoint: &Arc<str>, partner: Option<ConnectionId>) {
        if self.conversation == Conversation::None {
            self.recoveries.connected(endpoint);
            if partner.is_none() {
                self.uplinks.insert(connection);
            }
        }
    }

    /// Says how many frames an endpoint has lost since that was said last. An event has the totals of one
    /// connection, which may be another one by now.
    fn frames_dropped(&mut self, endpoint: &Arc<str>, cause: DropCause) {
        let now = self.bus.dropped_so_far(endpoint, cause);
        let told = self.told.entry((Arc::clone(endpoint), cause)).or_default();
        let new = Dropped { frames: now.frames - told.frames, bytes: now.bytes - told.bytes };
        *told = now;
        // Those that came between were told with the event before.
        if new != Dropped::default() {
            let line = Line { what: "frames dropped", endpoint, cause: cause.name() };
            self.limiter.say(line, Detail::lost(new), OFTEN);
        }
    }

    /// Tells whether `connection` is the one with this terminal.
    fn is_our_own(&self, connection: ConnectionId) -> bool {
        let connections = self.bus.snapshot().connections;
        connections.iter().any(|c| c.connection == connection && c.peer == Some(Endpoint::Stdio))
    }

    fn text(&mut self, event: &Event) {
        match event {
            Event::Listening { endpoint, address } => listening(endpoint, address),
            Event::AcceptError { endpoint, error } => {
                let line =
                    Line { what: "cannot accept; clients wait in the backlog", endpoint, cause: error };
                self.limiter.say(line, Detail::default(), SELDOM);
            }
            Event::AcceptPaused { endpoint, cause, connections } => {
                let cause = match cause {
                    Restriction::AcceptRate => format!("{connections} in a second are the most allowed"),
                    _ => format!("{connections} connections are the most allowed"),
                };
                let line =
                    Line { what: "accepting paused; clients wait in the backlog", endpoint, cause: &cause };
                self.limiter.say(line, Detail::default(), SELDOM);
            }
            Event::AcceptRejected { endpoint, peer, cause } => {
                debug!(%endpoint, %peer, cause = cause.name(), "client refused");
                let line = Line { what: "clients refused", endpoint, cause: cause.words() };
                self.limiter.say(line, Detail::of(peer), OFTEN);
            }
            Event::HandshakeFailed { endpoint, peer, error } => {
                debug!(%endpoint, %peer, error, "handshake failed");
                let line = Line { what: "clients with a failed handshake", endpoint, cause: error };
                self.limiter.say(line, Detail::of(peer), OFTEN);
            }
            Event::ConnectFailed { endpoint, target, error, .. } => {
                let names_it = error.starts_with(target.as_str());
                let cause = if names_it { error.clone() } else { format!("{target}: {error}") };
                let line = Line { what: "cannot connect", endpoint, cause: &cause };
                self.limiter.say(line, Detail::default(), OFTEN);
                self.recoveries.failed(endpoint);
            }
            Event::NewConnection { connection, endpoint, peer, local, .. } if self.talks(peer) => {
                info!(%connection, %endpoint, %peer, %local, "somebody connected");
            }
            Event::Connected { connection, endpoint, peer, local, .. } if self.talks(peer) => {
                info!(%connection, %endpoint, %peer, %local, "connected");
            }
            Event::NewConnection { connection, endpoint, peer, local, name, via } => {
                let (name, via) = (name.as_deref(), via.as_ref().map(ToString::to_string));
                debug!(%connection, %endpoint, %peer, %local, name, via, "new connection");
            }
            Event::Connected { connection, endpoint, partner, peer, local } => {
                self.connected(*connection, endpoint, *partner);
                debug!(%connection, %endpoint, partner = number(*partner), %peer, %local, "connected");
            }
            Event::StateChanged { connection, from, to, .. } => {
                debug!(%connection, ?from, ?to, "state changed");
            }
            Event::HostFound { connection, addresses, .. } => debug!(%connection, addresses, "host found"),
            Event::ReadyRead { connection, received, .. } => trace!(%connection, received, "ready to read"),
            Event::BytesWritten { connection, sent, .. } => trace!(%connection, sent, "bytes written"),
            Event::ReadFinished { connection, received, .. } => {
                if self.conversation == Conversation::Typed && !self.is_our_own(*connection) {
                    info!(%connection, received, "the other side has finished; end yours with Ctrl-D");
                } else {
                    debug!(%connection, received, "read finished");
                }
            }
            Event::ErrorOccurred { connection, error, .. } => {
                self.errors.insert(*connection, error.clone());
            }
            Event::Disconnected { .. } => self.disconnected(event),
            // Counted by the subscription too, which says so.
            Event::Lagged { .. } => {}
            Event::SlotPanicked { slot } => warn!(slot, "a slot panicked"),
            Event::WriteBufferHigh { connection, endpoint, waiting } => {
                debug!(connection = number(*connection), %endpoint, waiting, "write buffer high");
            }
            Event::WriteBufferLow { connection, endpoint, waiting } => {
                debug!(connection = number(*connection), %endpoint, waiting, "write buffer low");
            }
            Event::FramesDropped { connection, endpoint, cause: dropped_for, frames, bytes } => {
                let cause = dropped_for.name();
                debug!(connection = number(*connection), %endpoint, cause, frames, bytes, "frames dropped, in all");
                self.frames_dropped(endpoint, *dropped_for);
            }
            Event::RequestFailed { connection, endpoint, fault, requests } => {
                let cause = fault.name();
                debug!(connection = number(*connection), %endpoint, cause, requests, "requests failed, in all");
                self.limiter.say(Line { what: "requests failed", endpoint, cause }, Detail::default(), OFTEN);
            }
            Event::HeartbeatMissed { connection, endpoint, peer, within, .. } => {
                let within = format!("{:.3}s", within.as_secs_f64());
                debug!(%connection, %endpoint, %peer, within, "heartbeat missed");
                let line = Line { what: "a peer is gone", endpoint, cause: "a probe had no answer" };
                self.limiter.say(line, Detail::of(peer), OFTEN);
            }
            Event::TargetChanged { endpoint, from, to, target } => {
                warn!(%endpoint, %from, %to, target, "target changed; what comes later goes to this one");
            }
            Event::Reconnecting { endpoint, target, attempt, pause } => {
                let pause = format!("{:.3}s", pause.as_secs_f64());
                debug!(%endpoint, target, attempt, pause, "reconnecting");
            }
        }
    }
}

/// Tells whether it is worth a line in a log of nothing but faults. An end
/// is only if something was lost with it.
fn is_fault(event: &Event) -> bool {
    match event {
        Event::Disconnected { reason, unsent, .. } => {
            let is_of_messages = matches!(
                reason,
                Reason::SlowConsumer
                    | Reason::FrameTooLong
                    | Reason::MalformedFrame
                    | Reason::TruncatedFrame
                    | Reason::StalledFrame
                    | Reason::Truncated
            );
            *unsent > 0 || is_of_messages
        }
        _ => true,
    }
}

/// Tells whether nobody has asked for the end of a connection that is to last.
const fn is_unexpected(reason: Reason) -> bool {
    !matches!(reason, Reason::Closed | Reason::Shutdown | Reason::Killed)
}

fn listening(endpoint: &Arc<str>, address: &Endpoint) {
    info!(%endpoint, %address, "listening");
    if let Endpoint::Tcp(bound) = address
        && bound.ip().is_unspecified()
    {
        info!(%endpoint, addresses = reachable(*bound), "open on all interfaces, reachable at");
    }
}

/// The addresses by which a wildcard listener can be reached.
fn reachable(bound: SocketAddr) -> String {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let own = interfaces.iter().map(if_addrs::Interface::ip).filter(|ip| {
        let link_local = matches!(ip, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
        (bound.is_ipv6() || ip.is_ipv4()) && !link_local
    });
    own.map(|ip| SocketAddr::new(ip, bound.port()).to_string()).collect::<Vec<_>>().join(" ")
}

fn number(connection: Option<ConnectionId>) -> Option<u64> {
    connection.map(ConnectionId::get)
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

const FAULTS: &[EventKind] = &[
    EventKind::AcceptError,
    EventKind::AcceptPaused,
    EventKind::ConnectFailed,
    EventKind::Disconnected,
    EventKind::Lagged,
    EventKind::SlotPanicked,
    EventKind::FramesDropped,
    EventKind::RequestFailed,
    EventKind::TargetChanged,
    EventKind::HeartbeatMissed,
];
const USUAL: &[EventKind] = &[
    EventKind::Listening,
    EventKind::AcceptError,
    EventKind::AcceptPaused,
    EventKind::AcceptRejected,
    EventKind::HandshakeFailed,
    EventKind::Connected,
    EventKind::ConnectFailed,
    EventKind::ErrorOccurred,
    EventKind::Disconnected,
    EventKind::Lagged,
    EventKind::SlotPanicked,
    EventKind::FramesDropped,
    EventKind::RequestFailed,
    EventKind::TargetChanged,
    EventKind::HeartbeatMissed,
];
const TALK: &[EventKind] = &[
    EventKind::Listening,
    EventKind::AcceptError,
    EventKind::AcceptRejected,
    EventKind::HandshakeFailed,
    EventKind::NewConnection,
    EventKind::Connected,
    EventKind::ConnectFailed,
    EventKind::ReadFinished,
    EventKind::ErrorOccurred,
    EventKind::Disconnected,
    EventKind::Lagged,
    EventKind::SlotPanicked,
    EventKind::HeartbeatMissed,
];
