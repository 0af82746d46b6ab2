//! The signals that can be wired, and what each carries: facts of the bus, and
//! `message_received`, which is none of them.

use std::sync::Arc;

use crate::event::{ConnectionId, Endpoint, Event, EventKind, Introduction};
use crate::nearest::{did_you_mean, quoted};
use crate::registry::{Arguments, Fact, Of, Party, Registry, Trail};

/// A signal of objects of some kinds.
#[derive(Debug)]
pub(crate) struct Signal {
    pub(crate) name: &'static str,
    pub(crate) of: &'static [Of],
    /// The names of what it carries beside the connection.
    pub(crate) carries: &'static [&'static str],
    /// Whether it is about a connection.
    pub(crate) has_connection: bool,
}

const LISTENER: &[Of] = &[Of::Listener];
const CLIENT: &[Of] = &[Of::Client];
const BOTH: &[Of] = &[Of::Listener, Of::Client];
const ENDS: &[&str] = &["reason", "received", "sent", "unsent"];

/// All but those that scripts emit.
#[rustfmt::skip]
pub(crate) const SIGNALS: &[Signal] = &[
    signal("message_received", BOTH, &["data"], true),
    signal("new_connection", LISTENER, &[], true),
    signal("connected", CLIENT, &[], true),
    signal("read_finished", BOTH, &["received"], true),
    signal("disconnected", BOTH, ENDS, true),
    signal("error_occurred", BOTH, &["error"], false),
    signal("write_buffer_high", BOTH, &["waiting"], false),
    signal("write_buffer_low", BOTH, &["waiting"], false),
    signal("frames_dropped", BOTH, &["cause", "frames", "bytes"], false),
    signal("request_failed", BOTH, &["fault", "requests"], false),
    signal("listening", LISTENER, &["address"], false),
    signal("accept_error", LISTENER, &["error"], false),
    signal("accept_paused", LISTENER, &["connections"], false),
    signal("accept_rejected", LISTENER, &["peer", "cause"], false),
    signal("handshake_failed", LISTENER, &["peer", "error"], false),
    signal("state_changed", CLIENT, &["from", "to"], false),
    signal("host_found", CLIENT, &["addresses"], false),
    signal("connect_failed", CLIENT, &["target", "error"], false),
    signal("reconnecting", CLIENT, &["target", "attempt", "seconds"], false),
    signal("target_changed", &[Of::Relay], &["from", "to", "target"], false),
    signal("timeout", &[Of::Timer], &["n"], false),
    signal("started", &[Of::Node], &[], false),
    signal("lagged", &[Of::Node], &["missed"], false),
];

const fn signal(
    name: &'static str,
    of: &'static [Of],
    carries: &'static [&'static str],
    has_connection: bool,
) -> Signal {
    Signal { name, of, carries, has_connection }
}

impl Signal {
    /// The one of this name that objects of this kind have.
    ///
    /// # Errors
    /// What may have been meant, for the end of a sentence.
    pub(crate) fn find(of: Of, name: &str) -> Result<&'static Self, String> {
        let all = || SIGNALS.iter().filter(move |signal| signal.of.contains(&of));
        if let Some(found) = all().find(|signal| signal.name == name) {
            return Ok(found);
        }
        let snake = snake_case(name);
        Err(match snake.as_str() {
            // Qt's own names, for what is not a signal here or has another name.
            "ready_read" if BOTH.contains(&of) => {
                "; did you mean `message_received`, which carries the bytes?".into()
            }
            "bytes_written" if BOTH.contains(&of) => {
                "; it comes with every write, so it cannot be wired; `write_buffer_low` can".into()
            }
            "error" if BOTH.contains(&of) => "; did you mean `error_occurred`?".into(),
            "new_connection" if of == Of::Client => "; did you mean `connected`?".into(),
            "connected" if of == Of::Listener => "; did you mean `new_connection`?".into(),
            _ => {
                did_you_mean(&snake, all().map(|signal| signal.name)).unwrap_or_else(|| match all().next() {
                    Some(_) => format!("; there are {}", quoted(all().map(|signal| signal.name))),
                    None => "; it has none".into(),
                })
            }
        })
    }

    /// Whether it carries a frame.
    pub(crate) fn has_data(&self) -> bool {
        self.carries.contains(&"data")
    }
}

/// `ready_read` of Qt's `readyRead`.
pub(crate) fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// What a fact of the bus is to wires, and of which object; nothing, if it is none of their business.
pub(super) fn fact(event: &Event, registry: &Registry) -> Option<(Arc<str>, Fact)> {
    let none = Arguments::new;
    let party = |id: ConnectionId, object: &Arc<str>, (peer, local): (&Endpoint, &Endpoint), introduction| {
        let ends = (peer.clone(), local.clone());
        Some(Arc::new(Party::new(id, Arc::clone(object), ends, introduction)))
    };
    let (party, arguments) = match event {
        Event::Listening { address, .. } => (None, none().with("address", address.to_string())),
        Event::AcceptError { error, .. } => (None, none().with("error", error.as_str())),
        Event::AcceptPaused { connections, .. } => {
            (None, none().with("connections", number(*connections as u64)))
        }
        Event::AcceptRejected { peer, cause, .. } => {
            (None, none().with("peer", peer.to_string()).with("cause", cause.name()))
        }
        Event::HandshakeFailed { peer, error, .. } => {
            (None, none().with("peer", peer.to_string()).with("error", error.as_str()))
        }
        Event::NewConnection { connection, endpoint, peer, local, name, via } => {
            let introduction = Introduction { name: name.clone(), via: via.clone() };
            (party(*connection, endpoint, (peer, local), introduction), none())
        }
        Event::Connected { connection, endpoint, peer, local, .. } => {
            (party(*connection, endpoint, (peer, local), Introduction::default()), none())
        }
        Event::ReadFinished { received, .. } => (None, none().with("received", number(*received))),
        Event::Disconnected {
            connection,
            endpoint,
            peer,
            local,
            name,
            reason,
            received,
            sent,
            unsent,
            ..
        } => {
            let introduction = Introduction { name: name.clone(), via: None };
            let arguments = none()
                .with("reason", reason.name())
                .with("received", number(*received))
                .with("sent", number(*sent))
                .with("unsent", number(*unsent));
            (party(*connection, endpoint, (peer, local), introduction), arguments)
        }
        Event::StateChanged { from, to, .. } => {
            (None, none().with("from", state(*from)).with("to", state(*to)))
        }
        Event::HostFound { addresses, .. } => (None, none().with("addresses", number(*addresses as u64))),
        Event::ConnectFailed { target, error, .. } => {
            (None, none().with("target", target.as_str()).with("error", error.as_str()))
        }
        Event::ErrorOccurred { error, .. } => (None, none().with("error", error.as_str())),
        Event::WriteBufferHigh { waiting, .. } | Event::WriteBufferLow { waiting, .. } => {
            (None, none().with("waiting", number(*waiting)))
        }
        Event::FramesDropped { cause, frames, bytes, .. } => {
            let arguments = none().with("cause", cause.name());
            (None, arguments.with("frames", number(*frames)).with("bytes", number(*bytes)))
        }
        Event::RequestFailed { fault, requests, .. } => {
            (None, none().with("fault", fault.name()).with("requests", number(*requests)))
        }
        Event::Reconnecting { target, attempt, pause, .. } => {
            let arguments = none().with("target", target.as_str()).with("attempt", i64::from(*attempt));
            let seconds = (pause.as_secs_f64() * 1e3).round() / 1e3;
            (None, arguments.with("seconds", seconds))
        }
        Event::TargetChanged { from, to, target, .. } => {
            let arguments = none().with("from", &**from).with("to", &**to);
            (None, arguments.with("target", target.as_str()))
        }
        Event::Lagged { missed } => (None, none().with("missed", number(*missed))),
        Event::ReadyRead { .. } | Event::BytesWritten { .. } | Event::SlotPanicked { .. } => return None,
    };
    let object = event.endpoint().cloned().unwrap_or_else(|| "node".into());
    // Those come with the frames, in their order.
    let is_with_frames = matches!(
        event.kind(),
        EventKind::NewConnection | EventKind::Connected | EventKind::ReadFinished | EventKind::Disconnected
    );
    if is_with_frames && registry.wired(&object).is_some() {
        return None;
    }
    let name = event.kind().name().into();
    Some((object, Fact { name, party, data: None, arguments, trail: Trail::default() }))
}

fn state(state: crate::event::State) -> &'static str {
    use crate::event::State;
    match state {
        State::Unconnected => "unconnected",
        State::HostLookup => "host_lookup",
        State::Connecting => "connecting",
        State::Connected => "connected",
        State::Closing => "closing",
    }
}

/// Counts fit, since no machine lives that long.
fn number(count: u64) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_is_none_is_answered_with_what_may_have_been_meant() {
        for (of, name, expected) in [
            (Of::Listener, "readyRead", "did you mean `message_received`"),
            (Of::Listener, "newConnection", "did you mean `new_connection`?"),
            (Of::Client, "errorOccurred", "did you mean `error_occurred`?"),
            (Of::Client, "error", "did you mean `error_occurred`?"),
            (Of::Client, "bytesWritten", "cannot be wired"),
            (Of::Client, "disconected", "did you mean `disconnected`?"),
            (Of::Timer, "tick", "there are `timeout`"),
            (Of::Log, "x", "it has none"),
        ] {
            let hint = Signal::find(of, name).unwrap_err();
            assert!(hint.contains(expected), "{name}: {hint}");
        }
        assert!(Signal::find(Of::Listener, "message_received").unwrap().has_data());
    }
}
