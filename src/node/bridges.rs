//! What relays of mode bridge need beside their listeners: a meeting place,
//! or a task that dials both ends.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{ClientConfig, Config, RelayConfig};
use crate::relay::{Bridge, Ended, Outlet, Relay, RelayMode, RelayOptions, Stop, join_dialled};

/// A bridge that runs, and what it was made from.
pub(super) struct Bridged {
    bridge: Arc<Bridge>,
    relay: RelayConfig,
    clients: Vec<ClientConfig>,
    /// Dropped, nobody waits there any longer. A session goes on.
    _alive: watch::Sender<()>,
}

impl Bridged {
    /// The bridge of a relay, if it is one: the one there is if that was made from the same.
    pub(super) fn of(before: Option<Self>, config: &Config, relay: &RelayConfig) -> Option<(Self, bool)> {
        if relay.mode != RelayMode::Bridge {
            return None;
        }
        let clients: Vec<_> = config.to(relay).map(|(_, client)| client.clone()).collect();
        let options = relay.options.bridge;
        // Its limits follow a change by themselves.
        let relay = RelayConfig { options: RelayOptions::default(), ..relay.clone() };
        if let Some(bridged) = before
            && bridged.relay == relay
            && bridged.clients == clients
        {
            bridged.bridge.set_options(options);
            return Some((bridged, false));
        }
        let (alive, watched) = watch::channel(());
        let bridge = Arc::new(Bridge::new(options, watched));
        Some((Self { bridge, relay, clients, _alive: alive }, true))
    }

    pub(super) fn bridge(&self) -> Arc<Bridge> {
        Arc::clone(&self.bridge)
    }

    /// Has both ends dialled, if they are to be; `first` is that of the relay's two targets which it does not have.
    pub(super) fn dial(
        &self,
        first: Outlet,
        relay: &Arc<Relay>,
        stop: &watch::Sender<Stop>,
        serving: &mut JoinSet<Ended>,
    ) {
        serving.spawn(join_dialled(Arc::clone(relay), self.bridge(), first, stop.subscribe()));
    }
}
