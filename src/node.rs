//! [`Node`]: the one place where the parts are wired, and the order in which
//! they stop.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::address::{Address, Host};
use crate::budget::Budget;
use crate::bus::{Dispatcher, EventBus};
use crate::config::{Config, Fault, Place};
use crate::event::Reason;
use crate::net::{BindError, Listener, Target, addresses, bind, check_source, is_own};
use crate::relay::{Ended, Relay, Stop, serve, serve_stdio};

/// A running node.
///
/// It owns every task it started: dropping it ends them at once.
///
/// ```
/// use signal_node::{Config, Node};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let node = Node::bind(Config {
///     from: vec!["127.0.0.1:0".parse()?],
///     to: vec!["echo:".parse()?],
///     ..Config::default()
/// })
/// .await?;
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
    addresses: Vec<SocketAddr>,
    stop: Arc<watch::Sender<Stop>>,
    serving: JoinSet<Ended>,
    dispatcher: JoinSet<()>,
    sweep: JoinSet<()>,
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
}

/// Why a node did not start. Nothing is left open.
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
        let dispatcher = bus.dispatcher();
        let mut faults = config.check();
        if faults.is_empty() {
            faults = loops(&config).await;
        }
        if !faults.is_empty() {
            return Err(NodeError::Config(faults));
        }
        if let Some(address) = config.relay.dial.source {
            check_source(address).map_err(|source| NodeError::Source { address, source })?;
        }
        let mut listeners = Vec::new();
        for (i, address) in config.from.iter().enumerate() {
            let name = name("listen", i, address);
            let bound = bind(&name, address, &config.relay.listen).await?;
            listeners.extend(bound.into_iter().map(|listener| (Arc::clone(&name), listener)));
        }
        Ok(Self::start(config, bus, dispatcher, listeners))
    }

    fn start(
        config: Config,
        bus: EventBus,
        events: Dispatcher,
        listeners: Vec<(Arc<str>, Listener)>,
    ) -> Self {
        let addresses: Vec<_> =
            listeners.iter().filter_map(|(_, listener)| listener.socket_address()).collect();
        let named = |(i, address)| Target::new(name("connect", i, &address), address);
        let targets: Vec<_> = config.to.into_iter().enumerate().map(named).collect();
        let from_stdio = config.from.contains(&Address::Stdio);
        let once = from_stdio || targets.iter().any(|target| target.address == Address::Stdio);
        let budget = Arc::new(Budget::new(config.budget));
        let relay = Relay::new(bus.clone(), budget, targets, addresses.clone(), config.relay, once);
        let relay = Arc::new(relay);

        let (stop, stopped) = watch::channel(Stop::No);
        let (mut serving, mut dispatcher, mut sweep) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
        dispatcher.spawn(events.run());
        let swept = Arc::clone(&relay);
        sweep.spawn(async move { swept.run_sweep().await });
        for (name, listener) in listeners {
            bus.listening(Arc::clone(&name), listener.local());
            serving.spawn(serve(Arc::clone(&relay), name, listener, stopped.clone()));
        }
        if from_stdio {
            serving.spawn(serve_stdio(relay, name("listen", 0, &Address::Stdio), stopped));
        }
        Self { bus, addresses, stop: Arc::new(stop), serving, dispatcher, sweep }
    }

    /// The bus of this node.
    pub fn bus(&self) -> &EventBus {
        &self.bus
    }

    /// The TCP addresses it listens on, with their real ports, in the order of the config.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Something to stop it with, while [`join`](Self::join) waits.
    pub fn stopper(&self) -> Stopper {
        Stopper { stop: Arc::clone(&self.stop) }
    }

    /// Waits until it has stopped: because it was told to, or because the
    /// conversation of standard input and output is over.
    ///
    /// The order: listeners close, sessions end, the sweep ends, the last
    /// events are dispatched, subscriptions end.
    pub async fn join(mut self) -> Outcome {
        let mut outcome = Outcome::default();
        while let Some(ended) = self.serving.join_next().await {
            let ended = ended.expect("listener tasks neither panic nor are aborted");
            outcome.cut += ended.cut;
            if ended.conversation.is_some() {
                outcome.conversation = outcome.conversation.or(ended.conversation);
                self.stopper().now();
            }
        }
        self.sweep.shutdown().await;
        self.bus.close();
        while self.dispatcher.join_next().await.is_some() {}
        outcome
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
    /// A later call can only shorten the time.
    pub fn drain(&self, grace: Duration) {
        let at = Instant::now() + grace.min(LONGEST);
        self.stop.send_modify(|stop| {
            *stop = match *stop {
                Stop::At(earlier) if earlier < at => Stop::At(earlier),
                _ => Stop::At(at),
            };
        });
    }

    /// Stops at once.
    pub fn now(&self) {
        self.drain(Duration::ZERO);
    }
}

/// The name of the `i`th listener or target: `listen1`, `connect2`, `stdio`.
fn name(role: &str, i: usize, address: &Address) -> Arc<str> {
    match address {
        Address::Stdio => "stdio".into(),
        _ => format!("{role}{}", i + 1).into(),
    }
}

/// Targets that are our own listeners, which would relay to themselves without end.
async fn loops(config: &Config) -> Vec<Fault> {
    let mut faults = Vec::new();
    for target in &config.to {
        let Address::Tcp { host, port } = target else { continue };
        let same_port =
            |address: &&Address| matches!(address, Address::Tcp { port: bound, .. } if bound == port);
        let mut own = Vec::new();
        for listener in config.from.iter().filter(same_port) {
            own.extend(listening(listener).await);
        }
        if own.is_empty() {
            continue;
        }
        // A name that does not resolve now is looked up again for every dial.
        let found = addresses(host, *port).await.unwrap_or_default();
        if found.iter().any(|found| is_own(*found, &own)) {
            let text =
                format!("{target} would connect to itself, since the node listens there; name another port");
            faults.push(Fault { place: Place::To, text });
        }
    }
    faults
}

/// The socket addresses a listener would be bound to.
async fn listening(address: &Address) -> Vec<SocketAddr> {
    match address {
        Address::Tcp { host: Host::Any, port } => vec![SocketAddr::from(([0u16; 8], *port))],
        Address::Tcp { host, port } => addresses(host, *port).await.unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// As good as for ever, and far from the end of the clock.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
