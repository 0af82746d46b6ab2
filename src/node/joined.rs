//! [`Joined`]: a relay that joins many, across reloads. Its members stay
//! members for as long as its mode stays; a client is dialled anew only when
//! something about it has changed, and what waits for it waits on.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{ClientConfig, Config, RelayConfig};
use crate::net::MessageOptions;
use crate::registry::{Books, Ledger, Passage, Registry};
use crate::relay::{
    Ended, Group, Outlet, Plan, RelayMode, RelayOptions, Shared, Side, Stop, Targets, Uplink, keep,
};
use crate::wiring::Filtering;

/// The group of a relay, and its clients.
pub(super) struct Joined {
    group: Arc<Group>,
    mode: RelayMode,
    clients: Vec<Client>,
    filters: Filters,
    /// Takes messages through filters that wait.
    via: JoinSet<()>,
}

/// A client of a group, or some that take turns, and what it was made from.
struct Client {
    /// With their names.
    configs: Vec<(String, ClientConfig)>,
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
            clients: Vec::new(),
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

    /// What one of its clients shows of the accounts: all there is, or its own part if others take turns with it.
    pub(super) fn books(&self, client: &str) -> Option<Books> {
        let found = self.clients.iter().find(|known| known.leads_to(client))?;
        let of = (found.configs.len() > 1).then(|| client.into());
        Some(Books { ledger: found.ledger.clone()?, of })
    }

    /// The accounts of all its clients, if these take turns.
    pub(super) fn common_books(&self) -> Option<Books> {
        let common = self.clients.iter().find(|client| client.configs.len() > 1)?;
        Some(Books { ledger: common.ledger.clone()?, of: None })
    }

    /// Has the clients be those of the relay, in the order of `outlets`. Yields the targets that take turns.
    #[allow(clippy::too_many_arguments, reason = "what it follows, and who is served")]
    pub(super) fn follow(
        &mut self,
        config: &Config,
        name: &str,
        relay: &RelayConfig,
        outlets: Vec<Outlet>,
        stop: &watch::Sender<Stop>,
        serving: &mut JoinSet<Ended>,
    ) -> Option<Arc<Targets>> {
        self.group.set(&relay.options);
        let mut before = std::mem::take(&mut self.clients);
        let mut each: Vec<_> = outlets.into_iter().zip(config.to(relay)).map(|one| vec![one]).collect();
        if relay.mode == RelayMode::Collect {
            // There is one connection, and what waits for it is the same wherever it leads.
            each = vec![each.into_iter().flatten().collect()];
        }
        let mut common = None;
        for clients in each.into_iter().filter(|clients| !clients.is_empty()) {
            let (outlets, clients): (Vec<_>, Vec<_>) = clients.into_iter().unzip();
            let (first, client) = clients[0];
            let (messages, side) = (config.messages(relay, client), side(relay, first));
            let options = relay.options.without_limits();
            let targets = Arc::new(Targets::new(name.into(), outlets, relay.options.targets));
            if clients.len() > 1 {
                common = Some(Arc::clone(&targets));
            }
            let plan = Arc::new(Plan { targets, side, messages, options: Arc::new(options.clone()) });
            let configs: Vec<_> =
                clients.iter().map(|(id, client)| ((*id).to_owned(), (*client).clone())).collect();
            // In publish its queue goes with its end of the relay.
            let known = before
                .iter()
                .position(|known| known.side == side && configs.iter().any(|(id, _)| known.leads_to(id)));
            let client = match known.map(|nth| before.swap_remove(nth)) {
                Some(known) => known.follow(configs, messages, options, plan),
                None => {
                    let uplink = Uplink::new(&self.group, &plan);
                    let ledger = uplink.ledger();
                    let plan = watch::Sender::new(plan);
                    serving.spawn(keep(uplink, plan.subscribe(), stop.subscribe()));
                    Client { configs, messages, options, side, ledger, plan }
                }
            };
            self.clients.push(client);
        }
        common
    }
}

impl Client {
    fn leads_to(&self, client: &str) -> bool {
        self.configs.iter().any(|(id, _)| id == client)
    }

    /// Is dialled anew if it is not what it was; else it only learns which listeners are our own.
    fn follow(
        self,
        configs: Vec<(String, ClientConfig)>,
        messages: MessageOptions,
        options: RelayOptions,
        plan: Arc<Plan>,
    ) -> Self {
        let is_another = self.configs != configs || self.messages != messages || self.options != options;
        self.plan.send_if_modified(|now| {
            *now = plan;
            is_another
        });
        Self { configs, messages, options, ..self }
    }
}

/// The end of a relay an object is at.
pub(super) fn side(relay: &RelayConfig, id: &str) -> Side {
    if relay.from.iter().any(|from| from == id) { Side::From } else { Side::To }
}
