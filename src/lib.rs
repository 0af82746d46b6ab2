#![doc = include_str!("guide/map.md")]

pub mod address;
pub mod bus;
pub mod event;
pub mod framing;
pub mod signal;

mod budget;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
mod flow;
pub mod guide;
mod nearest;
mod net;
mod node;
pub mod registry;
mod relay;
mod script;
#[cfg(feature = "cli")]
mod service;
pub mod testing;
pub mod wiring;

pub use self::address::{Address, AddressError, Host};
pub use self::bus::{EventBus, Subscription};
pub use self::config::Config;
pub use self::event::{
    ConnectionId, DropCause, Endpoint, Envelope, Event, EventKind, EventMask, Reason, RequestFault,
    Restriction, State,
};
pub use self::flow::{Tap, TapChunk, TapDirection, TapReader};
pub use self::framing::{BadFrame, Framing};
pub use self::net::{
    AccessList, BindError, CidrError, DialError, DialOptions, DiscoveryCounts, DiscoveryOptions, Heartbeat,
    Keepalive, KernelOptions, ListenOptions, MessageOptions, Overflow, PeerOptions, ProxyVersion,
    QueueOptions, Reconnect, ServerOptions, SocketError, SocketErrorKind, SocketOptions, TcpServer,
    TcpSocket, TlsOptions, Via, ViaError, inherit_sockets, server, socket,
};
pub use self::node::{Changes, Node, NodeError, Outcome, Stopper};
pub use self::registry::Registry;
pub use self::relay::{
    BridgeOptions, JoinOn, NameFrame, Naming, Pattern, RelayMode, RelayOptions, Reply, RequestOptions,
    Strategy, Tag, TagError, TagOptions, TargetOptions, Unknown,
};
pub use self::script::{OnError, ScriptError, ScriptOptions, Setting, Source as ScriptSource};
pub use self::signal::{Connection, Signal, SignalRef};
