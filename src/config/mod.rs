//! What a node is to do, as plain data: options of the node, and its listeners,
//! clients and relays by name. A file and the command line build the same;
//! nothing is opened here.

mod bridge;
mod check;
mod connect;
mod descriptors;
mod discovery;
mod expand;
mod file;
pub(crate) mod keys;
mod kinds;
mod layers;
mod loops;
mod messages;
mod origin;
mod peer;
mod requests;
mod script;
mod show;
mod syntax;
mod tags;
mod via;
mod wires;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use self::check::LONGEST;
pub use self::discovery::DiscoveryConfig;
pub use self::file::FileError;
pub(crate) use self::keys::Reload;
#[cfg(feature = "cli")]
pub(crate) use self::kinds::{size, socket_path};
pub(crate) use self::loops::Leads;
pub use self::origin::Origins;
pub use self::script::ScriptConfig;
use crate::address::Address;
use crate::flow::Tap;
use crate::net::{DialOptions, ListenOptions, TlsOptions, Via};
use crate::relay::{RelayMode, RelayOptions};
use crate::wiring::{Filter, StepOptions, TimerOptions, WireOptions};

/// A whole node.
///
/// A relay of one listener and one target is one line; everything can be
/// changed afterwards:
///
/// ```
/// use std::time::Duration;
/// use signal_node::Config;
///
/// let mut config = Config::relay(["127.0.0.1:0".parse()?], ["echo:".parse()?]);
/// config.node.shutdown_grace = Duration::from_secs(1);
/// for listener in config.listen.values_mut() {
///     listener.options.max_connections = Some(100);
/// }
/// assert!(config.check().is_empty());
/// # Ok::<(), signal_node::AddressError>(())
/// ```
///
/// [`Config::read`] reads one from files. The names are one name space. The order of listeners and targets is that of
/// the relays' lists.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// What holds for the node as a whole.
    pub node: NodeOptions,
    /// What holds for the program that runs the node; the library ignores it.
    pub program: ProgramOptions,
    /// The listeners.
    pub listen: BTreeMap<String, ListenConfig>,
    /// The targets.
    pub client: BTreeMap<String, ClientConfig>,
    /// How TLS is spoken, for the listeners and targets that name it.
    pub tls: BTreeMap<String, TlsOptions>,
    /// What joins the two.
    pub relay: BTreeMap<String, RelayConfig>,
    /// What tells where listeners are.
    pub discovery: BTreeMap<String, DiscoveryConfig>,
    /// The timers.
    pub timer: BTreeMap<String, TimerOptions>,
    /// The scripts.
    pub script: BTreeMap<String, ScriptConfig>,
    /// The wires, in their order.
    pub connect: Vec<WireOptions>,
    /// A scripted run, which begins when the node has started; a reload does not begin it again.
    pub step: Vec<StepOptions>,
    /// The scripts as the files have them, each with the number of wires that stand before it.
    pub(crate) between: Vec<(usize, String)>,
    /// Gets a copy of every byte. It is the node's for its life: a reload does not change it.
    pub tap: Option<Tap>,
}

/// What holds for a node as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOptions {
    /// Clients of all listeners at once. `None`: as many as the descriptors allow.
    pub max_connections: Option<usize>,
    /// Time for connections to end once the node is told to stop. Whoever
    /// stops it passes it on: [`Node::shutdown`](crate::Node::shutdown).
    pub shutdown_grace: Duration,
    /// Memory for bytes that wait for a destination, in bytes.
    pub budget: usize,
    /// The largest read, in bytes, from 4 KiB to 16 MiB. Larger ones move bulk
    /// with fewer system calls; smaller ones let a neighbour's message pass sooner,
    /// and keep less when a destination stalls.
    pub max_read: usize,
}

impl Default for NodeOptions {
    /// As many clients as fit, 10 s, 256 MiB, 4 MiB.
    fn default() -> Self {
        Self {
            max_connections: None,
            shutdown_grace: Duration::from_secs(10),
            budget: 256 << 20,
            max_read: 4 << 20,
        }
    }
}

/// How the program `node` runs a node, and what it says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramOptions {
    /// Threads that move bytes.
    pub threads: usize,
    /// Where others can ask and steer the node, by a socket that is made for this user alone.
    pub control: Option<PathBuf>,
    /// Shows every byte on stderr.
    pub hexdump: bool,
    /// What is logged, as a filter of tracing-subscriber.
    pub log: String,
    /// How stderr is written.
    pub log_format: LogFormat,
}

impl Default for ProgramOptions {
    /// One thread, no control socket, no dump, the usual log as text.
    fn default() -> Self {
        Self {
            threads: 1,
            control: None,
            hexdump: false,
            log: "signal_node=info".into(),
            log_format: LogFormat::Text,
        }
    }
}

/// How stderr is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for a person.
    #[default]
    Text,
    /// An object for a program.
    Json,
}

impl LogFormat {
    /// Every format there is.
    pub const ALL: [Self; 2] = [Self::Text, Self::Json];

    /// How it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenConfig {
    /// Where it listens; a name stands for all its addresses. Or `stdio:`.
    pub bind: Address,
    /// How.
    pub options: ListenOptions,
    /// Which of [`Config::tls`] it speaks.
    pub tls: Option<String>,
}

/// A target. In a pair it is dialled anew for each client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// What is dialled. Or `stdio:`.
    pub to: Address,
    /// How.
    pub options: DialOptions,
    /// Which of [`Config::tls`] is spoken with it.
    pub tls: Option<String>,
    /// The proxy that makes the connection.
    pub proxy: Option<Via>,
}

/// A relay from listeners to targets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RelayConfig {
    /// The names of its listeners; in mode publish, of those who are heard; in mode bridge, of one end.
    pub from: Vec<String>,
    /// The names of its targets: the first is dialled for each client, the
    /// next when it fails. In mode publish, of those who hear; in mode bridge, of the other end.
    pub to: Vec<String>,
    /// How they are joined.
    pub mode: RelayMode,
    /// What messages go through on their way from `from`.
    pub via: Vec<Filter>,
    /// What messages go through on their way back.
    pub via_back: Vec<Filter>,
    /// Its limits.
    pub options: RelayOptions,
}

impl RelayConfig {
    /// The names of all it joins.
    pub(crate) fn ends(&self) -> impl Iterator<Item = &str> {
        self.from.iter().chain(&self.to).map(String::as_str)
    }
}

impl Config {
    /// The relay `relay` from listeners `listen1`, `listen2`, … to targets
    /// `connect1`, `connect2`, …, with the default of every option. `stdio:` is
    /// called `stdio`.
    pub fn relay(from: impl IntoIterator<Item = Address>, to: impl IntoIterator<Item = Address>) -> Self {
        let mut config = Self::default();
        let mut relay = RelayConfig::default();
        for (nth, bind) in from.into_iter().enumerate() {
            let id = name("listen", nth, &bind);
            relay.from.push(id.clone());
            config.listen.insert(id, ListenConfig::new(bind));
        }
        for (nth, to) in to.into_iter().enumerate() {
            let role = name("connect", nth, &to);
            // Both ends cannot be it; the check says so.
            let id = if config.listen.contains_key(&role) { format!("connect{}", nth + 1) } else { role };
            relay.to.push(id.clone());
            config.client.insert(id, ClientConfig::new(to));
        }
        config.relay.insert("relay".into(), relay);
        config
    }

    /// The listeners of a relay, at whichever end, in its order, with their names.
    pub(crate) fn from<'a>(
        &'a self,
        relay: &'a RelayConfig,
    ) -> impl Iterator<Item = (&'a str, &'a ListenConfig)> {
        relay.ends().filter_map(|id| Some((id, self.listen.get(id)?)))
    }

    /// The targets of a relay, at whichever end, in its order, with their names.
    pub(crate) fn to<'a>(
        &'a self,
        relay: &'a RelayConfig,
    ) -> impl Iterator<Item = (&'a str, &'a ClientConfig)> {
        relay.ends().filter_map(|id| Some((id, self.client.get(id)?)))
    }

    /// Tells whether a relay is one conversation with standard input and output.
    pub(crate) fn is_conversation(&self, relay: &RelayConfig) -> bool {
        self.from(relay).any(|(_, listener)| listener.bind == Address::Stdio)
            || self.to(relay).any(|(_, client)| client.to == Address::Stdio)
    }
}

fn name(role: &str, nth: usize, address: &Address) -> String {
    match address {
        Address::Stdio => "stdio".into(),
        _ => format!("{role}{}", nth + 1),
    }
}

/// Something in a [`Config`] that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What, and what to try.
    pub text: String,
}

/// The part of a [`Config`] that a fault is about, as a path in a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The table: `node`, `listen`, `client`, `relay`, `tls`, `discovery`, `timer`, `script`, `connect` or `step`.
    pub table: &'static str,
    /// The object in it; empty for `node`, and counted from 1 in lists.
    pub id: String,
    /// The key, or nothing for the object as a whole.
    pub key: &'static str,
    /// Which element, if the key has a list.
    pub element: Option<usize>,
}

impl Place {
    pub(crate) fn new(table: &'static str, id: &str, key: &'static str) -> Self {
        Self { table, id: id.to_owned(), key, element: None }
    }

    pub(crate) fn element(self, element: usize) -> Self {
        Self { element: Some(element), ..self }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.table)?;
        for part in [&self.id, self.key].into_iter().filter(|part| !part.is_empty()) {
            write!(f, ".{}", part.escape_debug())?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}
