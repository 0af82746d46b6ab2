//! [`Joined`]: a relay that joins many, across reloads. Its members stay
//! members for as long as its mode stays; a client is dialled anew only when
//! something about it has changed, and what waits for it waits on.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{ClientConfig, Config, RelayConfig};
use crate::net::MessageOptions;
use crate::registry::{Ledger, Passage, Registry};
use crate::relay::{Ended, Group, Outlet, Plan, RelayMode, RelayOptions, Shared, Side, Stop, Uplink, keep};
use crate::wiring::Filtering;

/// The group of a relay, and its clients by their names.
pub(super) struct Joined {
    group: Arc<Group>,
    mode: RelayMode,
    clients: BTreeMap<String, Client>,
    filters: Filters,
    /// Takes messages through filters that wait.
    via: JoinSet<()>,
}

/// A client of a group, and what it was made from.
struct Client {
    config: ClientConfig,
    messages: MessageOptions,
    options: RelayOptions,
    side: Side,
    ledger: Option<Arc<Ledger>>,
    /// Dropped, it is dialled no more.
    plan: watch::Sender<Arc<Plan>>,
}

/// Its filters, for each of the two directions.
type Filters = [Option<Arc<Filtering>>; 2];

impl Joined {
    /// The group that is there, if neither the mode nor whether its members take turns has changed, or a new one.
    pub(super) fn new(old: Option<Self>, shared: &Arc<Shared>, relay: &RelayConfig) -> Self {
        let mode = relay.mode;
        let same = |old: &Self| old.mode == mode && old.group.fits(&relay.options);
        old.filter(same).unwrap_or_else(|| Self {
            group: Arc::new(Group::new(Arc::clone(shared), mode, &relay.options)),
            mode,
            clients: BTreeMap::new(),
            filters: Filters::default(),
            via: JoinSet::new(),
        })
    }

    /// Has messages go through the filters of the relay `name` from now on.
    pub(super) fn filter(&mut self, name: &str, relay: &RelayConfig, registry: &Registry) {
        let before = std::mem::take(&mut self.filters);
        let ways = [("via", &relay.via), ("via_back", &relay.via_back)];
        let mut ways = ways.into_iter().zip(before).map(|((key, filters), before)| {
            let made = || Arc::new(Filtering::new(format!("relay.{name}.{key}"), filters.clone(), registry));
            let same = |before: &Arc<Filtering>| before.filters() == filters;
            (!filters.is_empty()).then(|| before.filter(same).unwrap_or_else(made))
        });
        self.filters = std::array::from_fn(|_| ways.next().flatten());
        let passages = self.filters.clone().map(|way| way.map(|way| way as Arc<dyn Passage>));
        if self.via.is_empty() && passages.iter().flatten().any(|passage| !passage.is_prompt()) {
            self.via.spawn(Arc::clone(&self.group).run_via());
        }
        self.group.set_passages(passages);
    }

    pub(super) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// The accounts of one of its clients.
    pub(super) fn ledger(&self, client: &str) -> Option<&Arc<Ledger>> {
        self.clients.get(client)?.ledger.as_ref()
    }

    /// Has the clients be those of the relay, in the order of `outlets`.
    pub(super) fn follow(
        &mut self,
        config: &Config,
        relay: &RelayConfig,
        outlets: Vec<Outlet>,
        stop: &watch::Sender<Stop>,
        serving: &mut JoinSet<Ended>,
    ) {
        self.group.set(&relay.options);
        let mut before = std::mem::take(&mut self.clients);
        for (outlet, (name, client)) in outlets.into_iter().zip(config.to(relay)) {
            let messages = config.messages(relay, client);
            let side = side(relay, name);
            let options = relay.options.without_limits();
            let plan = Arc::new(Plan { outlet, side, messages, options: Arc::new(options.clone()) });
            let client = match before.remove(name) {
                // In publish its queue goes with its end of the relay.
                Some(known) if known.side == side => known.follow(client, messages, options, plan),
                _ => {
                    let uplink = Uplink::new(&self.group, &plan);
                    let ledger = uplink.ledger();
                    let plan = watch::Sender::new(plan);
                    serving.spawn(keep(uplink, plan.subscribe(), stop.subscribe()));
                    Client { config: client.clone(), messages, options, side, ledger, plan }
                }
            };
            self.clients.insert(name.to_owned(), client);
        }
    }
}

impl Client {
    /// Is dialled anew if it is not what it was; else it only learns which listeners are our own.
    fn follow(
        self,
        config: &ClientConfig,
        messages: MessageOptions,
        options: RelayOptions,
        plan: Arc<Plan>,
    ) -> Self {
        let is_another = self.config != *config || self.messages != messages || self.options != options;
        self.plan.send_if_modified(|now| {
            *now = plan;
            is_another
        });
        Self { config: config.clone(), messages, options, ..self }
    }
}

/// The end of a relay an object is at.
pub(super) fn side(relay: &RelayConfig, id: &str) -> Side {
    if relay.from.iter().any(|from| from == id) { Side::From } else { Side::To }
}
