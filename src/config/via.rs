//! What cannot be among the filters of relays: those of a mode that has no
//! messages, or no way back.

use super::{Config, Fault, Place};
use crate::framing::Framing;
use crate::relay::RelayMode;

impl Config {
    /// What is wrong with `via` and `via_back` of all relays.
    pub(super) fn check_via(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (id, relay) in &self.relay {
            for (key, filters) in [("via", &relay.via), ("via_back", &relay.via_back)] {
                if filters.is_empty() {
                    continue;
                }
                let place = |key| Place::new("relay", id, key);
                let mode = relay.mode.name();
                let whole = match relay.mode {
                    RelayMode::Pair | RelayMode::Echo | RelayMode::Bridge => Some(format!(
                        "mode {mode} moves bytes and has no messages to filter; write mode = \"collect\" and a \
                         framing, or no relay, and wires with via both ways"
                    )),
                    RelayMode::Hub if key == "via_back" => {
                        Some("in mode hub nothing goes back; write the filters in via".into())
                    }
                    RelayMode::Publish if key == "via_back" => {
                        Some("in mode publish nothing goes back; leave it out".into())
                    }
                    _ => None,
                };
                if let Some(text) = whole {
                    faults.push(Fault { place: place(key), text });
                    continue;
                }
                for (nth, filter) in filters.iter().enumerate() {
                    let object = relay.ends().next().unwrap_or_default();
                    if let Err(text) = self.message_filter(filter, object) {
                        faults.push(Fault { place: place(key).element(nth), text });
                    }
                }
                let listeners = self
                    .from(relay)
                    .map(|(name, listener)| ("listen", name, listener.options.messages.framing()));
                let clients = self
                    .to(relay)
                    .map(|(name, client)| ("client", name, self.messages(relay, client).framing()));
                for (table, name, _) in
                    listeners.chain(clients).filter(|(.., framing)| *framing == Framing::Raw)
                {
                    let text = format!(
                        "`{table}.{name}` has no messages to filter; give it a framing, for example lines"
                    );
                    faults.push(Fault { place: place(key), text });
                }
            }
        }
        faults
    }
}
