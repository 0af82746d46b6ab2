//! From a [`Config`] to what runs: binds listeners, makes relays, and gives
//! each listener's task what it is to do. Following another config leaves
//! alone what is the same in both.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::NodeError;
use super::bridges::Bridged;
use super::joined::{Joined, side};
use super::material::Speakers;
use super::wires::{Wires, wired};
use crate::address::{Address, Host};
use crate::bus::EventBus;
use crate::config::{ClientConfig, Config, Leads, ListenConfig, RelayConfig};
use crate::event::Endpoint;
use crate::net::{Listener, Target, addresses, bind, check_source, is_own, no_networks};
use crate::registry::{Books, Condition, Door, ListenerState, Object, Peers, Places};
use crate::relay::{
    Clients, Ended, Entrance, Limits, Outlet, Relay, RelayMode, RelayOptions, Shared, Side, Stop, Targets,
    serve, serve_stdio,
};

/// What runs.
pub(super) struct Wiring {
    bus: EventBus,
    shared: Arc<Shared>,
    /// By the names of their relays, so that what lives follows a change.
    limits: BTreeMap<String, Arc<Limits>>,
    /// Those of relays that join many, by their names.
    groups: BTreeMap<String, Joined>,
    /// Those in which two meet.
    bridges: BTreeMap<String, Bridged>,
    open: Vec<Open>,
    /// What is known of each client's target.
    conditions: BTreeMap<String, (Address, Arc<Condition>)>,
    /// The checks of targets; the next config has others.
    checks: JoinSet<()>,
    /// Who speaks TLS, and with which certificates.
    pub(super) speakers: Speakers,
}

/// A listener whose tasks run.
struct Open {
    id: String,
    bind: Address,
    bound: Vec<SocketAddr>,
    door: Arc<Door>,
    entrance: watch::Sender<Arc<Entrance>>,
}

/// For listeners of a config that are open, their places in [`Wiring`]'s list.
pub(super) type Matches = BTreeMap<String, usize>;

/// How a listener is recognised.
#[derive(Clone, Copy)]
enum By {
    Name,
    Address,
    Socket,
}

/// What goes on of a listener when it is bound elsewhere: its places, and what it did last.
type Held = (Arc<Places>, ListenerState);
/// The same of those that a reload has closed, by name.
pub(super) type Doors = BTreeMap<String, Held>;

/// A listener of the config that was bound and does not accept yet.
pub(super) struct Bound {
    id: String,
    listeners: Vec<Listener>,
}

/// Finds everything that is wrong, now with the resolver's help, and yields
/// which clients lead to listeners of the node.
pub(super) async fn check(config: &Config) -> Result<Leads, NodeError> {
    let faults = config.check();
    if !faults.is_empty() {
        return Err(NodeError::Config(faults));
    }
    let leads = leads(config).await;
    let circles = config.circles(&leads);
    if !circles.is_empty() {
        return Err(NodeError::Config(circles));
    }
    let sources: BTreeSet<_> = config.client.values().filter_map(|client| client.options.source).collect();
    for address in sources {
        check_source(address).map_err(|source| NodeError::Source { address, source })?;
    }
    Ok(leads)
}

/// Asks what the names of the targets stand for now. One that does not
/// resolve is looked up again for every dial.
pub(crate) async fn leads(config: &Config) -> Leads {
    let mut leads = Leads::new();
    for (client, target) in &config.client {
        let Address::Tcp { host, port } = &target.to else { continue };
        let mut found = None;
        for (listener, listening) in &config.listen {
            if !matches!(&listening.bind, Address::Tcp { port: bound, .. } if bound == port) {
                continue;
            }
            if found.is_none() {
                found = addresses(host, *port).await.ok();
            }
            let own = bound_to(&listening.bind).await;
            if found.iter().flatten().any(|found| is_own(*found, &own)) {
                leads.insert((client.clone(), listener.clone()));
            }
        }
    }
    leads
}

/// The socket addresses a listener would be bound to.
async fn bound_to(address: &Address) -> Vec<SocketAddr> {
    match address {
        Address::Tcp { host: Host::Any, port } => vec![SocketAddr::from(([0u16; 8], *port))],
        Address::Tcp { host, port } => addresses(host, *port).await.unwrap_or_default(),
        Address::Unix(_)
        | Address::Systemd(_)
        | Address::Discover { .. }
        | Address::Stdio
        | Address::Echo => Vec::new(),
    }
}

/// The listeners in the order of the relays that begin there, and those that are wired.
fn in_order(config: &Config) -> impl Iterator<Item = (&str, &ListenConfig)> {
    let relayed = config.relay.values().flat_map(|relay| config.from(relay));
    relayed.chain(wired(config).filter_map(|id| Some((id, config.listen.get(id)?))))
}

impl Wiring {
    pub(super) fn new(config: &Config, bus: &EventBus) -> Self {
        let places = config.most_clients();
        let shared =
            Shared::new(bus.clone(), config.node.budget, config.node.max_read, places, config.tap.clone());
        Self {
            bus: bus.clone(),
            shared: Arc::new(shared),
            limits: BTreeMap::new(),
            groups: BTreeMap::new(),
            bridges: BTreeMap::new(),
            open: Vec::new(),
            conditions: BTreeMap::new(),
            checks: JoinSet::new(),
            speakers: Speakers::default(),
        }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Which listeners of `config` are open already: by name and address, else
    /// by address, as it is written or as it is bound.
    pub(super) async fn match_listeners(&self, config: &Config) -> Matches {
        let mut matches = Matches::new();
        for by in [By::Name, By::Address, By::Socket] {
            for (id, listener) in in_order(config) {
                if matches.contains_key(id) {
                    continue;
                }
                let sockets = match by {
                    By::Socket => bound_to(&listener.bind).await,
                    By::Name | By::Address => Vec::new(),
                };
                let same = |open: &Open| match by {
                    By::Name => open.id == id && open.bind == listener.bind,
                    By::Address => open.bind == listener.bind,
                    By::Socket => !sockets.is_empty() && open.bound == sockets,
                };
                let is_free = |nth: &usize| matches.values().all(|taken| taken != nth);
                // Standard input cannot be opened twice.
                let is_open =
                    |open: &Open| open.bind == Address::Stdio || open.door.state() != ListenerState::Closed;
                let mut known = self.open.iter().enumerate().filter(|(_, open)| is_open(open) && same(open));
                if let Some((nth, _)) = known.find(|(nth, _)| is_free(nth)) {
                    matches.insert(id.to_owned(), nth);
                }
            }
        }
        matches
    }

    /// Open listeners that would get a list of networks and have clients without any are refused, as when
    /// they are bound. What was passed tells its kind only by the socket.
    pub(super) fn check_access(&self, config: &Config, matches: &Matches) -> Result<(), NodeError> {
        for (id, nth) in matches {
            let (open, listener) = (&self.open[*nth], &config.listen[id]);
            let is_unix = open.door.addresses().iter().any(|address| matches!(address, Endpoint::Unix(_)));
            if is_unix && !listener.options.access.is_empty() {
                return Err(no_networks(id, &listener.bind).into());
            }
        }
        Ok(())
    }

    /// Binds the listeners of the config that are not open; if one fails nothing stays.
    pub(super) async fn bind_new(&self, config: &Config, matches: &Matches) -> Result<Vec<Bound>, NodeError> {
        let mut all = Vec::new();
        for (id, listener) in in_order(config).filter(|(id, _)| !matches.contains_key(*id)) {
            let listeners = bind(id, &listener.bind, &listener.options).await.map_err(|mut error| {
                if let Some(holder) = self.holder(&listener.bind) {
                    error.hint = Some(format!(
                        "to take it from `{holder}` of this node in one reload, and to listen on it in the next"
                    ));
                }
                error
            })?;
            all.push(Bound { id: id.to_owned(), listeners });
        }
        Ok(all)
    }

    /// The listener that holds the port of this address.
    fn holder(&self, address: &Address) -> Option<&str> {
        let Address::Tcp { port, .. } = address else { return None };
        let holds = |open: &&Open| open.bound.iter().any(|bound| bound.port() == *port);
        self.open.iter().find(holds).map(|open| open.id.as_str())
    }

    /// Closes what the new config does not have, and gives the rest its names. Yields the doors that were
    /// closed: a listener that is bound elsewhere goes on with its clients and its pause.
    pub(super) fn close_unmatched(&mut self, matches: &Matches, config: &Config) -> Doors {
        let mut closed = Doors::new();
        let mut ids: BTreeMap<_, _> = matches.iter().map(|(id, nth)| (*nth, id)).collect();
        let mut nth = 0;
        let bus = &self.bus;
        self.open.retain_mut(|open| {
            let id = ids.remove(&nth);
            nth += 1;
            let Some(id) = id else {
                closed.insert(open.id.clone(), (Arc::clone(open.door.places()), open.door.state()));
                open.door.turn(ListenerState::Closed);
                return false;
            };
            open.bind = config.listen[id].bind.clone();
            if open.id != *id {
                open.id.clone_from(id);
                for address in open.door.addresses() {
                    bus.not_listening(address);
                    bus.listening(id.as_str().into(), address.clone());
                }
            }
            true
        });
        closed
    }

    /// The TCP addresses that are listened on.
    pub(super) fn addresses(&self, config: &Config) -> Vec<SocketAddr> {
        let of = |id: &str| self.open.iter().find(|open| open.id == id).map(|open| open.bound.clone());
        in_order(config).filter_map(|(id, _)| of(id)).flatten().collect()
    }

    /// Opens what was bound for `config`, and has everything that is open
    /// already treat its later clients as `config` says.
    #[allow(clippy::too_many_arguments, reason = "what was bound and closed for it, and who is served")]
    pub(super) fn follow(
        &mut self,
        config: &Config,
        bound: Vec<Bound>,
        mut closed: Doors,
        leads: &Leads,
        wires: &mut Wires,
        stop: &watch::Sender<Stop>,
        serving: &mut JoinSet<Ended>,
    ) -> BTreeMap<Arc<str>, Object> {
        self.shared.set_places(config.most_clients());
        let mut own: BTreeMap<String, Vec<SocketAddr>> =
            self.open.iter().map(|open| (open.id.clone(), open.bound.clone())).collect();
        for Bound { id, listeners } in &bound {
            own.insert(id.clone(), listeners.iter().filter_map(Listener::socket_address).collect());
        }
        let all: Arc<[SocketAddr]> = own.values().flatten().copied().collect();
        self.remember_targets(config);
        self.checks = JoinSet::new();
        let mut limits = BTreeMap::new();
        let mut groups = BTreeMap::new();
        let mut bridges = BTreeMap::new();
        let mut members = BTreeMap::new();
        let mut bound: BTreeMap<_, _> = bound.into_iter().map(|bound| (bound.id, bound.listeners)).collect();
        // Before any listener takes clients, who could have all the places.
        let mut relays: Vec<_> = config.relay.iter().collect();
        relays.sort_by_key(|(_, relay)| !config.is_conversation(relay));
        for (name, relay) in relays {
            let limit = match self.limits.remove(name) {
                Some(limit) => {
                    limit.set(&relay.options);
                    self.shared.limits_changed(&limit);
                    limit
                }
                None => Arc::new(Limits::new(&relay.options)),
            };
            limits.insert(name.clone(), Arc::clone(&limit));
            let mut outlets = self.outlets(config, name, relay, leads, &own, &all);
            let once = config.is_conversation(relay);
            let mut common = None;
            let joined = relay.mode.is_group().then(|| {
                let outlets = std::mem::take(&mut outlets);
                let mut joined = Joined::new(self.groups.remove(name), &self.shared, relay);
                joined.filter(name, relay, wires.registry());
                common = joined.follow(config, name, relay, outlets, stop, serving);
                joined
            });
            let group = joined.as_ref().map(|joined| Arc::clone(joined.group()));
            groups.extend(joined.map(|joined| (name.clone(), joined)));
            let bridged = Bridged::of(self.bridges.remove(name), config, relay);
            // Of two targets a bridge keeps the first, and leads it to the second.
            let first = (bridged.is_some() && !outlets.is_empty()).then(|| outlets.remove(0));
            let bridge = bridged.as_ref().map(|(bridged, _)| bridged.bridge());
            let own = || Arc::new(Targets::new(name.as_str().into(), outlets, relay.options.targets));
            let targets = common.unwrap_or_else(own);
            let options = relay.options.clone();
            let running = Relay::new(Arc::clone(&self.shared), targets, limit, options, group, once);
            let running = Arc::new(running.with_bridge(bridge));
            if let Some((bridged, is_new)) = bridged {
                if let Some(first) = first.filter(|_| is_new) {
                    bridged.dial(first, &running, stop, serving);
                }
                bridges.insert(name.clone(), bridged);
            }
            if relay.options.targets.check.is_some() {
                let relay = Arc::clone(&running);
                self.checks.spawn(async move { relay.check_targets().await });
            }
            let one = once.then(|| Arc::new(Places::new(1)));
            for (id, listener) in config.from(relay) {
                let (relay, side) = (Arc::clone(&running), side(relay, id));
                let (options, greeting) = (listener.options.clone(), self.speakers.greeting(listener));
                let entrance = Entrance { endpoint: id.into(), options, greeting, relay, side };
                if let Some(group) = groups.get(name) {
                    let clients: Arc<dyn Peers> = Arc::new(Clients::new(group.group(), id));
                    members.insert(Arc::from(id), clients);
                }
                let (bound, held) = (bound.remove(id), closed.remove(id));
                self.admit(listener, entrance, bound, held, one.as_ref(), stop, serving);
            }
        }
        wires.registry().join(members);
        for id in wired(config) {
            if let Some((listener, group)) = config.listen.get(id).zip(wires.group(id)) {
                let limit = Arc::new(Limits::new(&RelayOptions::default()));
                let group = Some(Arc::clone(group));
                let targets = Arc::new(Targets::new(id.into(), Vec::new(), Default::default()));
                let relay = Arc::new(Relay::new(
                    Arc::clone(&self.shared),
                    targets,
                    limit,
                    RelayOptions::default(),
                    group,
                    false,
                ));
                let (options, greeting) = (listener.options.clone(), self.speakers.greeting(listener));
                let entrance = Entrance { endpoint: id.into(), options, greeting, relay, side: Side::From };
                let (bound, held) = (bound.remove(id), closed.remove(id));
                self.admit(listener, entrance, bound, held, None, stop, serving);
            } else {
                let relay = RelayConfig {
                    to: vec![id.to_owned()],
                    mode: RelayMode::Collect,
                    ..RelayConfig::default()
                };
                for outlet in self.outlets(config, id, &relay, leads, &own, &all) {
                    wires.dial(id, outlet, stop, serving);
                }
            }
        }
        self.limits = limits;
        // Dropping the old ones ends their clients.
        self.groups = groups;
        self.bridges = bridges;
        let mut objects = self.objects(config, wires);
        objects.extend(wires.timers(config, stop, serving));
        objects
    }

    /// Has a listener take its clients by this entrance from now on. `one` is the place of a conversation.
    #[allow(clippy::too_many_arguments, reason = "what was bound and what goes on of one listener")]
    fn admit(
        &mut self,
        listener: &ListenConfig,
        entrance: Entrance,
        bound: Option<Vec<Listener>>,
        held: Option<Held>,
        one: Option<&Arc<Places>>,
        stop: &watch::Sender<Stop>,
        serving: &mut JoinSet<Ended>,
    ) {
        let places = listener.options.max_connections.unwrap_or(usize::MAX);
        if let Some(open) = self.open.iter().find(|open| *open.id == *entrance.endpoint) {
            if one.is_none() {
                open.door.places().set_most(places);
            }
            open.entrance.send_replace(Arc::new(entrance));
            return;
        }
        let held = match (one, held) {
            (Some(one), _) => (Arc::clone(one), ListenerState::Listening),
            (None, Some(held)) => {
                held.0.set_most(places);
                held
            }
            (None, None) => (Arc::new(Places::new(places)), ListenerState::Listening),
        };
        let bind = listener.bind.clone();
        let open = self.start(bind, bound.unwrap_or_default(), held, entrance, stop, serving);
        self.open.push(open);
    }

    /// Starts the tasks of a listener.
    fn start(
        &self,
        bind: Address,
        listeners: Vec<Listener>,
        (places, state): Held,
        entrance: Entrance,
        stop: &watch::Sender<Stop>,
        serving: &mut JoinSet<Ended>,
    ) -> Open {
        let id = entrance.endpoint.to_string();
        let bound = listeners.iter().filter_map(Listener::socket_address).collect();
        let addresses = match bind {
            Address::Stdio => vec![Endpoint::Stdio],
            _ => listeners.iter().map(Listener::local).collect(),
        };
        let door = Arc::new(Door::new(addresses, places));
        if state == ListenerState::Paused {
            door.turn(state);
        }
        let entrance = Arc::new(entrance);
        if bind == Address::Stdio {
            let place = self.shared.take_place().expect("nobody is served before the conversation");
            serving.spawn(serve_stdio(Arc::clone(&entrance), Arc::clone(&door), place, stop.subscribe()));
        }
        let entrance = watch::Sender::new(entrance);
        for listener in listeners {
            self.bus.listening(Arc::clone(&entrance.borrow().endpoint), listener.local());
            serving.spawn(serve(listener, Arc::clone(&door), entrance.subscribe(), stop.subscribe()));
        }
        Open { id, bind, bound, door, entrance }
    }

    /// What was learnt of a target holds for as long as its client leads there.
    fn remember_targets(&mut self, config: &Config) {
        let mut known = std::mem::take(&mut self.conditions);
        for (id, client) in &config.client {
            let condition = known.remove(id).filter(|(to, _)| *to == client.to);
            let condition = condition.unwrap_or_else(|| (client.to.clone(), Arc::default()));
            self.conditions.insert(id.clone(), condition);
        }
    }

    /// The targets of a relay. None may lead to a listener of ours, unless the
    /// config says so: then it is a chain, which was checked not to be a circle.
    fn outlets(
        &self,
        config: &Config,
        name: &str,
        relay: &RelayConfig,
        leads: &Leads,
        own: &BTreeMap<String, Vec<SocketAddr>>,
        all: &Arc<[SocketAddr]>,
    ) -> Vec<Outlet> {
        if relay.mode == RelayMode::Echo {
            let target = Target::new(name.into(), Address::Echo);
            return vec![Outlet {
                target,
                options: Default::default(),
                own: [].into(),
                condition: Arc::default(),
            }];
        }
        let outlet = |(id, client): (&str, &ClientConfig)| {
            let led = |listener: &String| leads.contains(&(id.to_owned(), listener.clone()));
            let own = match leads.iter().any(|(client, _)| client == id) {
                false => Arc::clone(all),
                true => own
                    .iter()
                    .filter(|(listener, _)| !led(listener))
                    .flat_map(|(_, bound)| bound)
                    .copied()
                    .collect(),
            };
            let (_, condition) = &self.conditions[id];
            Outlet {
                target: Target::new(id.into(), client.to.clone()).through(self.speakers.layers(client)),
                options: client.options.clone(),
                own,
                condition: Arc::clone(condition),
            }
        };
        config.to(relay).map(outlet).collect()
    }

    /// Everything that has a name.
    fn objects(&self, config: &Config, wires: &Wires) -> BTreeMap<Arc<str>, Object> {
        let listeners =
            self.open.iter().map(|open| (open.id.as_str().into(), Object::Listener(Arc::clone(&open.door))));
        let clients = config.client.iter().map(|(id, client)| {
            let books = self.groups.values().find_map(|joined| joined.books(id));
            let books = books.or_else(|| Some(Books { ledger: wires.ledger(id)?, of: None }));
            let condition = Arc::clone(&self.conditions[id].1);
            (id.as_str().into(), Object::Client { to: client.to.as_target(), condition, books })
        });
        let relays = config.relay.iter().map(|(id, relay)| {
            let books = self.groups.get(id).and_then(Joined::common_books);
            (id.as_str().into(), Object::Relay { from: relay.from.clone(), to: relay.to.clone(), books })
        });
        listeners.chain(clients).chain(relays).collect()
    }
}

impl fmt::Debug for Wiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.open.iter().map(|open| &open.id)).finish()
    }
}
