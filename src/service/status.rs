//! What is true of a node now, as a control client gets it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::Instant;

use super::control::Phase;
use crate::bus::{ConnectionSnapshot, EventBus, Snapshot, Totals};
use crate::registry::{ObjectKind, ObjectSnapshot, Registry};

/// The answer to `status`.
#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    pid: u32,
    state: Phase,
    /// RFC 3339.
    started: String,
    uptime: f64,
    control_clients: usize,
    /// Every event up to this one is in it.
    seq: u64,
    clients: usize,
    objects: Vec<Object>,
    /// What was there before a reload, and is not any more.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    removed: BTreeMap<Arc<str>, Totals>,
    connections: Vec<ConnectionSnapshot>,
    connections_omitted: usize,
}

#[derive(Serialize)]
struct Object {
    #[serde(flatten)]
    object: ObjectSnapshot,
    /// Of a target; what a listener has is in its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    totals: Option<Totals>,
}

/// When a node began.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    at: SystemTime,
    clock: Instant,
}

impl Begun {
    pub(super) fn now() -> Self {
        Self { at: SystemTime::now(), clock: Instant::now() }
    }
}

impl Status {
    /// Asks the node, for at most `most` connections: the oldest clients with their targets.
    pub(super) fn of(
        bus: &EventBus,
        registry: &Registry,
        begun: Begun,
        phase: Phase,
        control_clients: usize,
        most: usize,
    ) -> Self {
        let objects = registry.objects();
        let snapshot = bus.snapshot();
        let clients = snapshot.clients();
        let Snapshot { seq, mut connections, mut totals, .. } = snapshot;
        let mut live = HashMap::new();
        for connection in connections.iter().filter(|connection| connection.peer.is_some()) {
            *live.entry(Arc::clone(&connection.endpoint)).or_default() += 1;
        }
        let connections_omitted = connections.len().saturating_sub(most);
        oldest(&mut connections, most);
        let with_counts = |object: ObjectSnapshot| {
            let is_client = matches!(object.kind, ObjectKind::Client { .. });
            let connections = is_client.then(|| live.get(&object.object).copied().unwrap_or(0));
            Object { connections, totals: totals.remove(&object.object), object }
        };
        let objects = objects.into_iter().map(with_counts).collect();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            state: phase,
            started: humantime::format_rfc3339_seconds(begun.at).to_string(),
            uptime: whole_milliseconds(begun.clock.elapsed()),
            control_clients,
            seq,
            clients,
            objects,
            removed: totals,
            connections,
            connections_omitted,
        }
    }
}

/// Keeps the oldest clients, each with its target behind it, up to `most` connections.
fn oldest(connections: &mut Vec<ConnectionSnapshot>, most: usize) {
    connections.sort_unstable_by_key(|one| (one.partner.unwrap_or(one.connection), one.connection));
    connections.truncate(most);
}

fn whole_milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}

/// Connections in one answer, some 3 MB; it says how many it has left out.
pub(crate) const MOST_CONNECTIONS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ConnectionId, State};

    #[test]
    fn clients_that_came_at_once_are_shown_with_their_targets() {
        let ids: Vec<_> = (0..6).map(|_| ConnectionId::next()).collect();
        let snapshot = |nth: usize, partner: Option<usize>| ConnectionSnapshot {
            name: None,
            via: None,
            connection: ids[nth],
            endpoint: "x".into(),
            dialled: partner.is_some(),
            partner: partner.map(|nth| ids[nth]),
            peer: None,
            local: None,
            state: State::Connected,
            received: 0,
            sent: 0,
            age: Duration::ZERO,
        };
        let mut all: Vec<_> = (0..3).map(|nth| snapshot(nth, None)).collect();
        all.extend((0..3).map(|nth| snapshot(3 + nth, Some(nth))));
        oldest(&mut all, 4);
        let kept: Vec<_> = all.iter().map(|one| one.connection).collect();
        assert_eq!(kept, [0, 3, 1, 4].map(|nth: usize| ids[nth]));
    }
}
