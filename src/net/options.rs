//! What is set on sockets, with its defaults.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use socket2::{SockRef, TcpKeepalive};

use super::access::AccessList;
use super::kernel::KernelOptions;
use super::overflow::{Overflow, QueueLimit};
use super::peer::PeerOptions;
use super::proxy_header::ProxyVersion;
use crate::framing::{BadFrame, Framing};

/// How a silent peer is found out: after `idle` without traffic, `probes`
/// probes `interval` apart. It is given up after `idle + probes × interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes that end the connection.
    pub probes: u32,
}

impl Default for Keepalive {
    /// 10 s, 4 s, 3 probes: a vanished peer is noticed within 22 s.
    fn default() -> Self {
        Self { idle: Duration::from_secs(10), interval: Duration::from_secs(4), probes: 3 }
    }
}

/// Options of listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenOptions {
    /// Who may connect.
    pub access: AccessList,
    /// Clients of this listener at once, those whose target is still being
    /// dialled included; more wait in the backlog. `None`: as many as the node allows.
    pub max_connections: Option<usize>,
    /// Clients of one address at once, or of one /64 of IPv6; more are reset. Those that came
    /// before there was a limit do not count. `None`: no limit.
    pub max_connections_per_address: Option<usize>,
    /// Clients accepted in a second, on average; more wait in the backlog. `None`: no limit.
    pub accept_rate: Option<u32>,
    /// Handshaken connections the kernel may hold until they are accepted.
    /// `None` asks for as many as the kernel allows (`net.core.somaxconn`).
    pub backlog: Option<u32>,
    /// Keepalive of accepted connections.
    pub keepalive: Keepalive,
    /// What else the kernel is asked for.
    pub kernel: KernelOptions,
    /// Messages, in a relay that joins many.
    pub messages: MessageOptions,
    /// What its peers are told first, and how long they may be silent.
    pub peer: PeerOptions,
    /// Every connection begins with a PROXY header (version 1 or 2, within 3 s), and is
    /// from then on the one announced: in events, to the lists of `access`, to its target.
    pub accept_proxy: bool,
    /// From where such headers are believed; others are reset. At least one network with `accept_proxy`.
    pub trusted: Vec<IpNet>,
}

/// Options of outbound connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialOptions {
    /// Time for one target: the lookup and all its addresses together.
    pub connect_timeout: Duration,
    /// The local address to connect from.
    pub source: Option<IpAddr>,
    /// Keepalive of the connection, set within a second of its beginning.
    pub keepalive: Keepalive,
    /// What else the kernel is asked for.
    pub kernel: KernelOptions,
    /// Messages, in a relay that joins many.
    pub messages: MessageOptions,
    /// What its peers are told first, and how long they may be silent.
    pub peer: PeerOptions,
    /// Begins the connection with a PROXY header that names the client it is made for.
    pub send_proxy: Option<ProxyVersion>,
}

impl Default for DialOptions {
    /// 5 s per target, from whichever address the kernel chooses.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            source: None,
            keepalive: Keepalive::default(),
            kernel: KernelOptions::default(),
            messages: MessageOptions::default(),
            peer: PeerOptions::default(),
            send_proxy: None,
        }
    }
}

/// How messages are told apart on a connection, and how many may wait for it.
///
/// Only for relays that join many: a pair passes bytes on as they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageOptions {
    /// How messages are told apart. `None`: as the relay's listener does, or not at all.
    pub framing: Option<Framing>,
    /// The most a message may have, in bytes. `None`: 1 MiB.
    pub max_frame: Option<usize>,
    /// What becomes of one that is longer, or not what the framing asks for.
    pub bad_frame: BadFrame,
    /// What may wait for the connection.
    pub queue: QueueOptions,
    /// Where it is wired: whether a connection whose peer has finished stays, to be written to, until a slot
    /// finishes or ends it or it has been half-closed for an hour. `false`: until what its messages led to is done.
    pub allow_half_open: bool,
}

/// How much may wait for a connection, and what happens then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueOptions {
    /// In bytes; each piece counts 64 more. `None`: 1 MiB, and 16 MiB for the target of mode collect and a wired client.
    pub max: Option<usize>,
    /// `None`: disconnect, and block for the target of mode collect and a wired client.
    pub overflow: Option<Overflow>,
}

impl MessageOptions {
    pub(crate) fn framing(&self) -> Framing {
        self.framing.unwrap_or(Framing::Raw)
    }

    pub(crate) fn max_frame(&self) -> usize {
        self.max_frame.unwrap_or(Framing::MAX_FRAME)
    }
}

impl QueueOptions {
    /// With the defaults of a target that many collect for.
    pub(crate) fn of_uplink(&self) -> QueueLimit {
        QueueLimit { max: self.max.unwrap_or(16 << 20), overflow: self.overflow.unwrap_or(Overflow::Block) }
    }

    /// With the defaults of a connection that is one of many.
    pub(crate) fn of_member(&self) -> QueueLimit {
        QueueLimit {
            max: self.max.unwrap_or(1 << 20),
            overflow: self.overflow.unwrap_or(Overflow::Disconnect),
        }
    }
}

/// Has the kernel look after silent peers. Listeners pass it on to what they accept.
pub(super) fn keep_alive(socket: &SockRef<'_>, keepalive: &Keepalive) -> io::Result<()> {
    let parameters = TcpKeepalive::new()
        .with_time(keepalive.idle)
        .with_interval(keepalive.interval)
        .with_retries(keepalive.probes);
    socket.set_tcp_keepalive(&parameters)
}
