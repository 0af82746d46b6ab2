//! The log as a subscriber of the bus: each event becomes a line of text for
//! an operator, or a JSON object for a program. It can be slow, or lag, and
//! no connection notices.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamExt;
use tracing::{Level, debug, enabled, info, trace, warn};

use super::args::LogFormat;
use super::writer::LogQueue;
use crate::bus::{Delivery, EventBus, Subscription};
use crate::event::{ConnectionId, Endpoint, Envelope, Event, EventKind, EventMask, Reason};

/// Turns events into log lines until the bus ends.
pub(super) struct Reporter {
    bus: EventBus,
    events: Subscription,
    log: LogQueue,
    format: LogFormat,
    /// Error texts, until the `disconnected` that follows names its reason.
    errors: HashMap<ConnectionId, String>,
    limiter: Limiter,
    /// Somebody types into this conversation and wants to know when the other side has finished.
    typing: bool,
}

impl Reporter {
    /// Subscribes to what the log level asks for.
    pub(super) fn new(bus: &EventBus, log: LogQueue, format: LogFormat, typing: bool) -> Self {
        let mask = match format {
            _ if !enabled!(Level::WARN) => EventMask::NONE,
            _ if !enabled!(Level::INFO) => EventMask::of(FAULTS),
            LogFormat::Json if enabled!(Level::DEBUG) => EventMask::ALL,
            LogFormat::Json => EventMask::DISCRETE,
            LogFormat::Text if enabled!(Level::TRACE) => EventMask::ALL,
            LogFormat::Text if enabled!(Level::DEBUG) => EventMask::DISCRETE,
            LogFormat::Text if typing => EventMask::of(TYPING),
            LogFormat::Text => EventMask::of(USUAL),
        };
        Self {
            bus: bus.clone(),
            events: bus.subscribe(mask),
            log,
            format,
            errors: HashMap::new(),
            limiter: Limiter::default(),
            typing,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let due = self.limiter.due();
            let delivery = tokio::select! {
                biased;
                delivery = self.events.next() => delivery,
                () = at(due) => {
                    self.limiter.report();
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
        self.limiter.report();
    }

    fn event(&mut self, envelope: &Envelope) {
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

    /// Tells whether `connection` is the one with this terminal.
    fn is_our_own(&self, connection: ConnectionId) -> bool {
        let connections = self.bus.snapshot().connections;
        connections.iter().any(|c| c.connection == connection && c.peer == Some(Endpoint::Stdio))
    }

    fn text(&mut self, event: &Event) {
        match event {
            Event::Listening { endpoint, address } => listening(endpoint, address),
            Event::AcceptError { endpoint, error } => {
                if self.limiter.permits(EventKind::AcceptError, endpoint, SELDOM) {
                    warn!(%endpoint, error, "cannot accept; clients wait in the backlog");
                }
            }
            Event::AcceptRejected { endpoint, peer } => {
                if self.limiter.permits(EventKind::AcceptRejected, endpoint, OFTEN) {
                    info!(%endpoint, %peer, "client refused by the access list");
                }
            }
            Event::ConnectFailed { endpoint, target, error, .. } => {
                if self.limiter.permits(EventKind::ConnectFailed, endpoint, OFTEN) {
                    warn!(%endpoint, target, error, "cannot connect");
                }
            }
            Event::NewConnection { connection, endpoint, peer, local } => {
                debug!(%connection, %endpoint, %peer, %local, "new connection");
            }
            Event::Connected { connection, endpoint, partner, peer, local } => {
                debug!(%connection, %endpoint, partner = number(*partner), %peer, %local, "connected");
            }
            Event::StateChanged { connection, from, to } => {
                debug!(%connection, ?from, ?to, "state changed");
            }
            Event::HostFound { connection, addresses } => debug!(%connection, addresses, "host found"),
            Event::ReadyRead { connection, received } => trace!(%connection, received, "ready to read"),
            Event::BytesWritten { connection, sent } => trace!(%connection, sent, "bytes written"),
            Event::ReadFinished { connection, received } => {
                if self.typing && !self.is_our_own(*connection) {
                    info!(%connection, received, "the other side has finished; end yours with Ctrl-D");
                } else {
                    debug!(%connection, received, "read finished");
                }
            }
            Event::ErrorOccurred { connection, error } => {
                self.errors.insert(*connection, error.clone());
            }
            Event::Disconnected { connection, .. } => {
                let error = self.errors.remove(connection);
                disconnected(event, error.as_deref());
            }
            // Counted by the subscription too, which says so.
            Event::Lagged { .. } => {}
            Event::SlotPanicked { slot } => warn!(slot, "a slot panicked"),
        }
    }
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

fn disconnected(event: &Event, error: Option<&str>) {
    let Event::Disconnected {
        connection,
        endpoint,
        partner,
        peer,
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
    let duration = format!("{:.3}s", duration.as_secs_f64());
    let unsent = (*unsent > 0).then_some(*unsent);
    // The target's end is news only if it is the cause; the client's line tells the rest.
    let cause = matches!(reason, Reason::Reset | Reason::TimedOut | Reason::Failed | Reason::Aborted);
    if partner.is_none() || cause {
        info!(%connection, %endpoint, partner = number(*partner), %peer, %duration, received, sent, unsent, %reason, error, "disconnected");
    } else {
        debug!(%connection, %endpoint, partner = number(*partner), %peer, %duration, received, sent, unsent, %reason, "disconnected");
    }
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

/// Lets a kind of line through once in a while, and counts the rest.
#[derive(Default)]
struct Limiter {
    kinds: HashMap<(EventKind, Arc<str>), Limited>,
}

struct Limited {
    again: Instant,
    suppressed: u64,
}

impl Limiter {
    fn permits(&mut self, kind: EventKind, endpoint: &Arc<str>, every: Duration) -> bool {
        let now = Instant::now();
        let limited = self
            .kinds
            .entry((kind, Arc::clone(endpoint)))
            .or_insert_with(|| Limited { again: now, suppressed: 0 });
        if limited.suppressed > 0 || limited.again > now {
            limited.suppressed += 1;
            return false;
        }
        limited.again = now + every;
        true
    }

    /// When the next count of suppressed lines is due.
    fn due(&self) -> Option<Instant> {
        self.kinds.values().filter(|limited| limited.suppressed > 0).map(|limited| limited.again).min()
    }

    /// Says how many lines were suppressed.
    fn report(&mut self) {
        for ((kind, endpoint), limited) in &mut self.kinds {
            if limited.suppressed > 0 {
                let times = std::mem::take(&mut limited.suppressed);
                limited.again = Instant::now() + OFTEN;
                match kind {
                    EventKind::AcceptError => warn!(%endpoint, times, "cannot accept, again"),
                    EventKind::AcceptRejected => {
                        info!(%endpoint, times, "clients refused by the access list")
                    }
                    _ => warn!(%endpoint, times, "cannot connect, again"),
                }
            }
        }
    }
}

const FAULTS: &[EventKind] =
    &[EventKind::AcceptError, EventKind::ConnectFailed, EventKind::Lagged, EventKind::SlotPanicked];
const USUAL: &[EventKind] = &[
    EventKind::Listening,
    EventKind::AcceptError,
    EventKind::AcceptRejected,
    EventKind::ConnectFailed,
    EventKind::ErrorOccurred,
    EventKind::Disconnected,
    EventKind::Lagged,
    EventKind::SlotPanicked,
];
const TYPING: &[EventKind] = &[
    EventKind::Listening,
    EventKind::AcceptError,
    EventKind::AcceptRejected,
    EventKind::ConnectFailed,
    EventKind::ReadFinished,
    EventKind::ErrorOccurred,
    EventKind::Disconnected,
    EventKind::Lagged,
    EventKind::SlotPanicked,
];
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_repeated_line_comes_once_a_second_and_its_repetitions_as_a_count() {
        let mut limiter = Limiter::default();
        let endpoint: Arc<str> = "connect1".into();
        let permits = |limiter: &mut Limiter| limiter.permits(EventKind::ConnectFailed, &endpoint, OFTEN);
        assert!(permits(&mut limiter));
        assert_eq!(limiter.due(), None);
        assert!(!permits(&mut limiter));
        assert!(!permits(&mut limiter));
        let due = limiter.due().unwrap();
        assert_eq!(due - Instant::now(), OFTEN);
        sleep_until(due).await;
        // Even now: what is counted is said first.
        assert!(!permits(&mut limiter));
        limiter.report();
        assert_eq!(limiter.due(), None);
        assert!(!permits(&mut limiter));
        tokio::time::sleep(2 * OFTEN).await;
        limiter.report();
        tokio::time::sleep(2 * OFTEN).await;
        assert!(permits(&mut limiter));
    }
}
