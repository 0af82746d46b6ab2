//! [`Wires`]: the objects whose bytes or signals go to wires, with the task of
//! each. A reload changes what is wired under connections that stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::scripts::Scripts;
use crate::bus::EventBus;
use crate::config::{ClientConfig, Config};
use crate::event::EventMask;
use crate::framing::Framing;
use crate::registry::{
    Arguments, Clock, Fact, Intake, Item, Ledger, Line, Object, Peers, Registry, Trail, Undone, Wired,
};
use crate::relay::{Ended, Group, Outlet, Plan, Shared, Side, Stop, Targets, Uplink, keep};
use crate::wiring::{
    Destination, Inbox, MemberName, Steps, Tap, Taps, TimerOptions, Wire, consume, pump, run_queue, run_timer,
};

/// What is wired.
pub(super) struct Wires {
    bus: EventBus,
    registry: Registry,
    shared: Arc<Shared>,
    undone: Undone,
    sources: BTreeMap<Arc<str>, Source>,
    groups: BTreeMap<Arc<str>, Joined>,
    timers: BTreeMap<Arc<str>, Timer>,
    wires: Vec<Arc<Wire>>,
    /// What tells the steps of the run, until that is over.
    steps: Vec<(Arc<str>, Tap)>,
    consumers: JoinSet<()>,
    queues: JoinSet<()>,
    pump: JoinSet<()>,
}

/// An object that tells something to wires.
#[derive(Debug)]
struct Source {
    intake: Arc<Intake>,
    taps: watch::Sender<Taps>,
}

/// The connections of a wired object.
struct Joined {
    group: Arc<Group>,
    /// Of a client: what it was made from, and its task for as long as this is there.
    target: Option<Target>,
}

struct Target {
    client: ClientConfig,
    line: Arc<Line>,
    ledger: Option<Arc<Ledger>>,
    /// How it is dialled, once it is; dropped, it is dialled no more.
    plan: Option<watch::Sender<Arc<Plan>>>,
}

#[derive(Debug)]
struct Timer {
    options: TimerOptions,
    clock: Arc<Clock>,
    /// Where its signal goes.
    intake: Option<Arc<Intake>>,
    /// Dropped, it fires no more.
    _alive: watch::Sender<()>,
}

impl fmt::Debug for Wires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.wires).finish()
    }
}

impl Wires {
    pub(super) fn new(bus: &EventBus, registry: &Registry, shared: Arc<Shared>) -> Self {
        Self {
            bus: bus.clone(),
            registry: registry.clone(),
            shared,
            undone: Undone::new(),
            sources: BTreeMap::new(),
            groups: BTreeMap::new(),
            timers: BTreeMap::new(),
            wires: Vec::new(),
            steps: Vec::new(),
            consumers: JoinSet::new(),
            queues: JoinSet::new(),
            pump: JoinSet::new(),
        }
    }

    /// Makes what the connections and signals of `config` go into, before there are any.
    pub(super) fn prepare(&mut self, config: &Config) {
        if self.pump.is_empty()
            && (!config.connect.is_empty() || !config.step.is_empty() || config.scripts().next().is_some())
        {
            self.pump.spawn(pump(self.bus.subscribe(EventMask::DISCRETE), self.registry.clone()));
        }
        let wired: BTreeSet<Arc<str>> = wired(config).map(Arc::from).collect();
        let tells = config.connect.iter().map(|wire| wire.signal.object.as_str());
        let tells =
            tells.chain(config.script_targets()).chain(self.steps.iter().map(|(object, _)| &**object));
        let tells: BTreeSet<Arc<str>> = tells.map(Arc::from).chain(wired.iter().cloned()).collect();
        self.sources.retain(|object, source| {
            let stays = tells.contains(object);
            if !stays {
                source.intake.close();
            }
            stays
        });
        for object in tells {
            if !self.sources.contains_key(&object) {
                let intake = Arc::new(Intake::of_object(&self.undone));
                let taps = watch::Sender::new(Taps::from([]));
                let consumer = consume(
                    Arc::clone(&object),
                    Arc::clone(&intake),
                    taps.subscribe(),
                    self.registry.clone(),
                );
                self.consumers.spawn(consumer);
                self.sources.insert(object, Source { intake, taps });
            }
        }
        self.groups.retain(|object, joined| {
            let same = |target: &Target| config.client.get(&**object) == Some(&target.client);
            wired.contains(object) && joined.target.as_ref().is_none_or(same)
        });
        for object in wired {
            let client = config.client.get(&*object);
            let known =
                self.groups.get(&object).is_some_and(|joined| joined.target.is_some() == client.is_some());
            if !known {
                let intake = &self.sources[&object].intake;
                let group = Group::wired(Arc::clone(&self.shared), client.is_some(), intake, &self.undone);
                let target = client.map(|client| Target {
                    client: client.clone(),
                    line: Arc::new(Line::new()),
                    ledger: None,
                    plan: None,
                });
                self.groups.insert(object, Joined { group: Arc::new(group), target });
            }
        }
        let sources = &self.sources;
        self.timers.retain(|id, timer| {
            let intake = sources.get(id).map(|source| Arc::as_ptr(&source.intake));
            config.timer.get(&**id) == Some(&timer.options)
                && timer.intake.as_ref().map(Arc::as_ptr) == intake
        });
        let intakes =
            self.sources.iter().map(|(object, source)| (Arc::clone(object), Arc::clone(&source.intake)));
        let entries = self.groups.iter().map(|(object, joined)| {
            let peers: Arc<dyn Peers> = joined.group.clone();
            let line = joined.target.as_ref().map(|target| Arc::clone(&target.line));
            (Arc::clone(object), Wired { peers, line })
        });
        self.registry.rewire(entries.collect(), intakes.collect());
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The group of a wired listener.
    pub(super) fn group(&self, object: &str) -> Option<&Arc<Group>> {
        self.groups.get(object).map(|joined| &joined.group)
    }

    /// Dials a wired client from now on, if it is not yet.
    pub(super) fn dial(
        &mut self,
        object: &str,
        outlet: Outlet,
        stop: &watch::Sender<Stop>,
        serving: &mut JoinSet<Ended>,
    ) {
        let Some(Joined { group, target: Some(target) }) = self.groups.get_mut(object) else { return };
        if target.plan.is_none() {
            let messages = target.client.options.messages;
            let targets = Arc::new(Targets::new(object.into(), vec![outlet], Default::default()));
            let plan = Arc::new(Plan { targets, side: Side::To, messages, options: Arc::default() });
            let uplink = Uplink::new(group, &plan).with_line(&target.line);
            target.ledger = uplink.ledger();
            let plan = watch::Sender::new(plan);
            serving.spawn(keep(uplink, plan.subscribe(), stop.subscribe()));
            target.plan = Some(plan);
        }
    }

    /// The accounts of a wired client.
    pub(super) fn ledger(&self, object: &str) -> Option<Arc<Ledger>> {
        self.groups.get(object)?.target.as_ref()?.ledger.clone()
    }

    /// Starts the timers that do not run yet, and yields all.
    pub(super) fn timers(
        &mut self,
        config: &Config,
        stop: &watch::Sender<Stop>,
        serving: &mut JoinSet<Ended>,
    ) -> Vec<(Arc<str>, Object)> {
        for (id, options) in &config.timer {
            let id = Arc::from(id.as_str());
            if !self.timers.contains_key(&id) {
                let clock = Arc::new(Clock::new());
                let alive = watch::Sender::new(());
                let intake = self.sources.get(&id).map(|source| Arc::clone(&source.intake));
                let runs = run_timer(*options, Arc::clone(&clock), intake.clone());
                let (mut stop, mut replaced) = (stop.subscribe(), alive.subscribe());
                serving.spawn(async move {
                    tokio::select! {
                        biased;
                        _ = stop.wait_for(|stop| *stop != Stop::No) => {}
                        Err(_replaced) = replaced.changed() => {}
                        () = runs => {}
                    }
                    Ended::default()
                });
                self.timers.insert(id, Timer { options: *options, clock, intake, _alive: alive });
            }
        }
        self.timers
            .iter()
            .map(|(id, timer)| (Arc::clone(id), Object::Timer(Arc::clone(&timer.clock))))
            .collect()
    }

    /// Has every object tell the wires that `config` has, once the slots can be called.
    pub(super) fn connect(&mut self, config: &Config, scripts: &Scripts) {
        let mut known = std::mem::take(&mut self.wires);
        for options in &config.connect {
            let wire = match known.iter().position(|wire| wire.options() == options) {
                Some(nth) => known.swap_remove(nth),
                None => {
                    let wire = Arc::new(Wire::new(options.clone(), &self.undone));
                    if options.has_queue() {
                        self.queues.spawn(run_queue(Arc::clone(&wire), self.registry.clone()));
                    }
                    wire
                }
            };
            self.wires.push(wire);
        }
        for gone in known {
            gone.close();
        }
        for (object, source) in &self.sources {
            let mut taps = Vec::new();
            let mut handlers = config.scripts_in_order().into_iter().peekable();
            for (nth, wire) in self.wires.iter().enumerate() {
                while let Some((_, script)) = handlers.next_if(|(wires, _)| *wires <= nth) {
                    taps.extend(scripts.taps(script, object));
                }
                if *wire.options().signal.object == **object {
                    let signal = wire.options().signal.name.as_str().into();
                    taps.push(Tap { signal, to: Destination::Wire(Arc::clone(wire)) });
                }
            }
            taps.extend(handlers.flat_map(|(_, script)| scripts.taps(script, object)));
            let steps = self.steps.iter().filter(|(of, _)| of == object);
            taps.extend(steps.map(|(_, tap)| tap.clone()));
            source.taps.send_replace(taps.into());
        }
    }

    /// The steps of a run, which is told from now on what it waits for. Comes before [`prepare`](Self::prepare).
    pub(super) fn steps(&mut self, config: &Config) -> Option<Steps> {
        let mut inboxes: BTreeMap<MemberName, Arc<Inbox>> = BTreeMap::new();
        for signal in config.step.iter().filter_map(|step| step.wait.as_ref()) {
            let inbox = inboxes.entry(signal.clone()).or_insert_with(|| {
                let inbox = Arc::new(Inbox::new(is_raw(config, &signal.object)));
                let tap =
                    Tap { signal: signal.name.as_str().into(), to: Destination::Steps(Arc::clone(&inbox)) };
                self.steps.push((signal.object.as_str().into(), tap));
                inbox
            });
            debug_assert!(Arc::strong_count(inbox) > 1);
        }
        (!config.step.is_empty()).then(|| Steps { steps: config.step.clone(), inboxes })
    }

    /// Tells what is about the node itself.
    pub(super) fn tell(&self, name: &str) {
        if let Some(source) = self.sources.get("node") {
            let (arguments, trail) = (Arguments::new(), Trail::default());
            source.intake.put(Item::Fact(Fact {
                name: name.into(),
                party: None,
                data: None,
                arguments,
                trail,
            }));
        }
    }

    /// Takes what is left through the wires, for a moment.
    pub(super) async fn finish(&mut self) {
        self.sources.values().for_each(|source| source.intake.close());
        let ended = async {
            while self.consumers.join_next().await.is_some() {}
            self.wires.iter().for_each(|wire| wire.close());
            while self.queues.join_next().await.is_some() {}
        };
        // Whoever could still be held up is gone, but a script that waits for something.
        let _ = timeout(LAST, ended).await;
        self.consumers.shutdown().await;
        self.queues.shutdown().await;
        self.pump.shutdown().await;
    }
}

/// The listeners and clients whose bytes wires have, listeners first.
pub(super) fn wired(config: &Config) -> impl Iterator<Item = &str> {
    let names = config.listen.keys().chain(config.client.keys()).map(String::as_str);
    names.filter(|object| config.is_wired(object))
}

fn is_raw(config: &Config, object: &str) -> bool {
    let listener = config.listen.get(object).map(|listener| listener.options.messages);
    let messages = listener.or_else(|| config.client.get(object).map(|client| client.options.messages));
    messages.is_some_and(|messages| messages.framing() == Framing::Raw)
}

/// For wires to be done once nobody is connected any more.
const LAST: Duration = Duration::from_secs(1);
