//! [`Node`]: the one place where the parts are wired, and the order in which
//! they stop.

mod bridges;
mod discovery;
mod joined;
mod material;
mod reload;
mod scripts;
mod wires;
mod wiring;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use self::discovery::{Discoveries, New};
#[cfg(feature = "cli")]
pub(crate) use self::material::{Material, Speakers, read_at_once as read_material};
pub use self::reload::Changes;
use self::scripts::{Scripts, Started};
use self::wires::Wires;
#[cfg(feature = "cli")]
pub(crate) use self::wiring::leads;
use self::wiring::{Bound, Doors, Wiring};
use crate::bus::EventBus;
use crate::config::{Config, Fault, LONGEST, Leads};
use crate::event::{ConnectionId, Reason};
use crate::net::{BindError, unused_sockets};
use crate::registry::Registry;
use crate::relay::{Ended, Stop};

/// A running node.
///
/// It owns every task it started: dropping it ends them at once.
///
/// ```
/// use signal_node::{Config, Node};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let config = Config::relay(["127.0.0.1:0".parse()?], ["echo:".parse()?]);
/// let node = Node::bind(config).await?;
///
/// let mut client = tokio::net::TcpStream::connect(node.addresses()[0]).await?;
/// client.write_all(b"hello").await?;
/// client.shutdown().await?;
/// let mut answer = String::new();
/// client.read_to_string(&mut answer).await?;
/// assert_eq!(answer, "hello");
///
/// let outcome = node.shutdown(std::time::Duration::from_secs(10)).await;
/// assert_eq!(outcome.cut, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Node {
    bus: EventBus,
    registry: Registry,
    config: Config,
    wiring: Wiring,
    wires: Wires,
    scripts: Scripts,
    discoveries: Discoveries,
    stop: Arc<watch::Sender<Stop>>,
    serving: JoinSet<Ended>,
    dispatcher: JoinSet<()>,
    sweep: JoinSet<()>,
    /// The steps of a run; tells whether all have passed.
    run: JoinSet<bool>,
    outcome: Outcome,
}

/// Stops a node from elsewhere, made by [`Node::stopper`].
#[derive(Clone, Debug)]
pub struct Stopper {
    stop: Arc<watch::Sender<Stop>>,
}

/// How a node ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    /// Clients whose connections were cut because the time to drain was over.
    pub cut: usize,
    /// How the conversation of standard input and output ended, in a node that has one.
    pub conversation: Option<Reason>,
    /// What the slot `node.quit` was called with; 1, if a step has failed.
    pub exit: Option<u8>,
}

/// Why a node did not start, or did not follow another config. Nothing is left open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The config asks for something that cannot be.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config(Vec<Fault>),
    /// A listener could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The source address is not one of this machine.
    #[error("cannot connect from {address}")]
    Source {
        /// The address.
        address: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// It was told to stop, so it does not follow another config.
    #[error("the node is stopping")]
    Stopping,
}

impl Node {
    /// Checks the config, binds every listener, and starts to serve.
    ///
    /// # Errors
    /// [`NodeError`]; whatever was bound before it is closed again.
    pub async fn bind(config: Config) -> Result<Self, NodeError> {
        Self::bind_with(config, EventBus::new()).await
    }

    /// Like [`bind`](Self::bind), with a bus that was subscribed to before.
    ///
    /// # Errors
    /// [`NodeError`]; whatever was bound before it is closed again.
    ///
    /// # Panics
    /// If the bus has served another node.
    pub async fn bind_with(config: Config, bus: EventBus) -> Result<Self, NodeError> {
        // Taken first: if the node does not start it goes, and subscriptions end.
        let events = bus.dispatcher();
        let leads = wiring::check(&config).await?;
        let material = material::read(&config).await?;
        let mut wiring = Wiring::new(&config, &bus);
        wiring.speakers.follow(material);
        let bound = wiring.bind_new(&config, &Default::default()).await?;
        let discoveries = Discoveries::default();
        let told = discoveries.bind_new(&config)?;
        for name in unused_sockets() {
            warn!(name, "no listener uses this socket of the service manager; clients wait there in vain");
        }

        let (mut dispatcher, mut sweep) = (JoinSet::new(), JoinSet::new());
        dispatcher.spawn(events.run());
        let shared = wiring.shared();
        sweep.spawn(async move { shared.run_sweep().await });
        let stop = Arc::new(watch::Sender::new(Stop::No));
        let registry = Registry::default();
        let scripts = Scripts::default();
        let started = scripts.start_new(&config, &registry).await?;
        let outcome = Outcome::default();
        let serving = JoinSet::new();
        let wires = Wires::new(&bus, &registry, wiring.shared());
        let run = JoinSet::new();
        let mut node = Self {
            bus,
            registry,
            config,
            wiring,
            wires,
            scripts,
            discoveries,
            stop,
            serving,
            dispatcher,
            sweep,
            run,
            outcome,
        };
        let steps = node.wires.steps(&node.config);
        node.open(bound, told, Doors::new(), started, &leads);
        if let Some(steps) = steps {
            node.run.spawn(steps.run(node.registry.clone()));
        }
        node.wires.tell("started");
        Ok(node)
    }

    /// Has the wiring follow the config, with listeners that were bound for it.
    fn open(&mut self, bound: Vec<Bound>, told: New, closed: Doors, started: Started, leads: &Leads) {
        self.wires.prepare(&self.config);
        let Self { config, wires, stop, serving, .. } = self;
        let mut objects = self.wiring.follow(config, bound, closed, leads, wires, stop, serving);
        self.scripts.follow(&self.config, started);
        objects.extend(self.scripts.objects());
        self.discoveries.follow(&self.config, told, &self.registry, &self.stop);
        objects.extend(self.discoveries.objects());
        self.registry.replace(objects);
        self.wires.connect(&self.config, &self.scripts);
    }

    /// The bus of this node.
    pub fn bus(&self) -> &EventBus {
        &self.bus
    }

    /// The TCP addresses it listens on, with their real ports, in the order of the config.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.wiring.addresses(&self.config)
    }

    /// The config it follows.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its objects by name, and their slots.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Ends a connection and the one it is joined to, by resets, with the reason `killed`.
    ///
    /// `false`: there is no such connection, or it is ending already.
    pub fn disconnect(&self, connection: ConnectionId) -> bool {
        self.bus.disconnect(connection)
    }

    /// Something to stop it with from elsewhere.
    pub fn stopper(&self) -> Stopper {
        Stopper { stop: Arc::clone(&self.stop) }
    }

    /// Waits until nobody is served any more: because the node was told to
    /// stop, because the conversation of standard input and output is over, or
    /// because its last listener was closed and the last client has left.
    ///
    /// Cancel safe. Call [`join`](Self::join) then, which stops the rest.
    pub async fn served(&mut self) {
        let mut quit = self.registry.watch_quit();
        while !(self.serving.is_empty() && self.run.is_empty()) {
            tokio::select! {
                biased;
                Ok(code) = quit.wait_for(Option::is_some), if self.outcome.exit.is_none() => {
                    self.outcome.exit = *code;
                    drop(code);
                    info!("stopping, since `node.quit` was called");
                    self.stopper().drain(self.config.node.shutdown_grace);
                }
                Some(passed) = self.run.join_next() => {
                    if !passed.expect("a run neither panics nor is aborted") {
                        self.outcome.exit = Some(1);
                        self.stopper().now();
                    }
                }
                Some(ended) = self.serving.join_next() => {
                    let ended = ended.expect("listener tasks neither panic nor are aborted");
                    self.outcome.cut += ended.cut;
                    if ended.conversation.is_some() {
                        self.outcome.conversation = self.outcome.conversation.or(ended.conversation);
                        self.stopper().now();
                    }
                }
            }
            if self.is_stopping() && self.serving.is_empty() {
                // What it still waits for does not come any more.
                self.run.shutdown().await;
            }
        }
    }

    /// Whether it was told to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow() != Stop::No
    }

    /// Waits until it has [served](Self::served), and then stops.
    ///
    /// The order: listeners close and are not announced any more, sessions end, wires and
    /// scripts end, the sweep ends, the
    /// last events are dispatched, subscriptions end.
    pub async fn join(mut self) -> Outcome {
        self.served().await;
        self.discoveries.finish().await;
        self.wires.finish().await;
        self.scripts.finish().await;
        self.sweep.shutdown().await;
        self.bus.close();
        while self.dispatcher.join_next().await.is_some() {}
        self.outcome
    }

    /// Stops accepting, gives connections `grace` to end, cuts the rest.
    pub async fn shutdown(self, grace: Duration) -> Outcome {
        self.stopper().drain(grace);
        self.join().await
    }
}

impl Stopper {
    /// Stops accepting; what is still connected after `grace` is cut.
    ///
    /// A later call can only shorten the time. Yields the time that holds.
    pub fn drain(&self, grace: Duration) -> Duration {
        let now = Instant::now();
        let mut holds = grace.min(LONGEST);
        let at = now + holds;
        self.stop.send_modify(|stop| {
            *stop = match *stop {
                Stop::At(earlier) if earlier < at => {
                    holds = earlier.saturating_duration_since(now);
                    Stop::At(earlier)
                }
                _ => Stop::At(at),
            };
        });
        holds
    }

    /// Stops at once.
    pub fn now(&self) {
        self.drain(Duration::ZERO);
    }
}
