//! [`Discoveries`]: what tells where listeners are, across reloads. A port that
//! stays is not bound anew, and whoever is answered follows the config.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use crate::address::Address;
use crate::config::{Config, DiscoveryConfig};
use crate::event::Endpoint;
use crate::net::{BindError, DiscoveryOptions, Responder, Tally};
use crate::registry::{ListenerState, Object, ObjectKind, Registry};
use crate::relay::Stop;

/// What runs, by name.
#[derive(Debug, Default)]
pub(super) struct Discoveries {
    running: BTreeMap<String, Running>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Running {
    bind: Address,
    bound: SocketAddr,
    tally: Arc<Tally>,
    listener: watch::Sender<String>,
    /// Dropped, it answers no more.
    options: watch::Sender<DiscoveryOptions>,
}

/// Those that were bound for a config and do not answer yet, by name.
pub(super) type New = BTreeMap<String, Responder>;

impl Discoveries {
    /// Binds those of the config that are not there; if one fails nothing stays.
    pub(super) fn bind_new(&self, config: &Config) -> Result<New, BindError> {
        let is_there =
            |id: &String, bind: &Address| self.running.get(id).is_some_and(|known| known.bind == *bind);
        let new = config.discovery.iter().filter(|(id, discovery)| !is_there(id, &discovery.bind));
        let bind = |(id, discovery): (&String, &DiscoveryConfig)| {
            let bound = Responder::bind(id, &discovery.bind).map_err(|mut error| {
                if let Some(holder) = self.holder(&discovery.bind) {
                    error.hint = Some(format!(
                        "to take it from `{holder}` of this node in one reload, and to bind it in the next"
                    ));
                }
                error
            });
            Ok((id.clone(), bound?))
        };
        new.map(bind).collect()
    }

    /// The one that holds the port of this address.
    fn holder(&self, address: &Address) -> Option<&str> {
        let Address::Tcp { port, .. } = address else { return None };
        let mut running = self.running.iter();
        running.find(|(_, running)| running.bound.port() == *port).map(|(id, _)| id.as_str())
    }

    /// Has those of the config answer, as it says, and no others.
    pub(super) fn follow(
        &mut self,
        config: &Config,
        mut new: New,
        registry: &Registry,
        stop: &watch::Sender<Stop>,
    ) {
        while self.tasks.try_join_next().is_some() {}
        let mut before = std::mem::take(&mut self.running);
        for (id, discovery) in &config.discovery {
            let running = match (new.remove(id), before.remove(id)) {
                (Some(responder), _) => self.start(id, responder, &discovery.bind, registry, stop),
                (None, Some(known)) => known,
                (None, None) => unreachable!("what was not there was bound"),
            };
            running.listener.send_replace(discovery.listener.clone());
            running.options.send_if_modified(|options| {
                let changes = *options != discovery.options;
                options.clone_from(&discovery.options);
                changes
            });
            self.running.insert(id.clone(), running);
        }
    }

    fn start(
        &mut self,
        id: &str,
        responder: Responder,
        bind: &Address,
        registry: &Registry,
        stop: &watch::Sender<Stop>,
    ) -> Running {
        let (bound, tally) = (responder.bound(), Arc::new(Tally::default()));
        let (listener, listeners) = watch::channel(String::new());
        let (options, changes) = watch::channel(DiscoveryOptions::default());
        let (registry, mut stop) = (registry.clone(), stop.subscribe());
        let port = move |from: IpAddr| port_of(&registry, &listeners.borrow(), from);
        let answers = responder.run(id.into(), changes, Arc::clone(&tally), port);
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop != Stop::No) => {}
                () = answers => {}
            }
        });
        info!(discovery = id, address = %bound, "tells by UDP where to connect");
        Running { bind: bind.clone(), bound, tally, listener, options }
    }

    /// All of them.
    pub(super) fn objects(&self) -> impl Iterator<Item = (Arc<str>, Object)> {
        self.running.iter().map(|(id, running)| {
            let (address, tally) = (running.bound, Arc::clone(&running.tally));
            let listener = running.listener.borrow().clone();
            (id.as_str().into(), Object::Discovery { address, listener, tally })
        })
    }

    /// Waits until nobody is answered any more.
    pub(super) async fn finish(&mut self) {
        self.running.clear();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The TCP port of a listener that accepts, for those who come from an address like this.
fn port_of(registry: &Registry, listener: &str, from: IpAddr) -> Option<u16> {
    let ObjectKind::Listener { state: ListenerState::Listening, addresses, .. } =
        registry.find(listener)?.kind
    else {
        return None;
    };
    let fits = |bound: &SocketAddr| {
        let is_both = bound.is_ipv6() && bound.ip().is_unspecified();
        is_both || bound.is_ipv4() == from.to_canonical().is_ipv4()
    };
    let bound = addresses.iter().filter_map(|address| match address {
        Endpoint::Tcp(bound) => Some(bound),
        _ => None,
    });
    bound.filter(|bound| fits(bound)).map(SocketAddr::port).next()
}
