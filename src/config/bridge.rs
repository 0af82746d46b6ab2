//! What only makes sense in a relay of mode bridge, and what that needs.

use std::time::Duration;

use super::check::{LONGEST, TOO_LONG};
use super::{Config, Fault, Place, RelayConfig};
use crate::address::Address;
use crate::relay::{BridgeOptions, JoinOn, RelayMode};

impl Config {
    /// What is wrong with the ends of a bridge.
    pub(super) fn check_bridge(&self, id: &str, relay: &RelayConfig) -> Vec<Fault> {
        let fault = |key, text: &str| Fault { place: Place::new("relay", id, key), text: text.into() };
        let ([from], [to]) = (&relay.from[..], &relay.to[..]) else {
            let text = "mode bridge joins exactly two ends; name two listeners, or two to connect to";
            return vec![fault("mode", text)];
        };
        let mut faults = Vec::new();
        let listens = |name: &String| self.listen.contains_key(name);
        if from == to {
            faults.push(fault("to", "a bridge with both ends the same leads nowhere; name another"));
        } else if listens(from) != listens(to) {
            let text = "mode bridge joins two of a kind; for a listener and a target write mode = \"pair\"";
            faults.push(fault("mode", text));
        }
        if self.client.get(from).is_some_and(|client| client.to == Address::Echo) {
            let text = "echo: never has anything to say first; name it second".into();
            faults.push(Fault { place: Place::new("client", from, "to"), text });
        }
        let waits = listens(from) && listens(to);
        if let Some(most) = self.node.max_connections
            && waits
            && relay.options.bridge.max_waiting >= most
        {
            let text = "those that wait could take every place of the node; write less than max_connections";
            faults.push(fault("max_waiting", text));
        }
        faults
    }

    /// The options of bridges, wherever they are written.
    pub(super) fn check_waiting(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (id, relay) in &self.relay {
            let mut add =
                |key, text: String| faults.push(Fault { place: Place::new("relay", id, key), text });
            let BridgeOptions { max_waiting, wait_timeout, join_on } = relay.options.bridge;
            let usual = BridgeOptions::default();
            let is_bridge = relay.mode == RelayMode::Bridge;
            let dials = relay.from.iter().any(|name| self.client.contains_key(name));
            let given = [
                (max_waiting != usual.max_waiting, "max_waiting", is_bridge && !dials),
                (
                    wait_timeout != usual.wait_timeout,
                    "wait_timeout",
                    is_bridge && !(dials && join_on == JoinOn::Data),
                ),
                (join_on != usual.join_on, "join_on", is_bridge && dials),
            ];
            for (_, key, _) in given.into_iter().filter(|(is_given, _, fits)| *is_given && !fits) {
                let text = match (is_bridge, dials) {
                    (false, _) => "only connections of mode bridge wait for each other; remove it",
                    (true, true) if key == "max_waiting" => {
                        "only clients of listeners wait in a line; remove it"
                    }
                    (true, true) => "with join_on = \"data\" the first waits as long as it takes; remove it",
                    (true, false) => "nothing is dialled here; remove it",
                };
                add(key, text.into());
            }
            if max_waiting == 0 {
                add(
                    "max_waiting",
                    "0 would let nobody wait, and two never come at once; write at least 1".into(),
                );
            }
            match wait_timeout {
                Some(limit) if limit < Duration::from_millis(1) => {
                    add("wait_timeout", "must be at least 1ms; write `off` for no limit".into());
                }
                Some(limit) if limit > LONGEST => add("wait_timeout", TOO_LONG.into()),
                _ => {}
            }
        }
        faults
    }
}
