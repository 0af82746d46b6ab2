//! Sockets: options, streams, listeners, dials, and [`Conn`], which counts
//! and announces; the UDP port on which a TCP port is asked for; and for users of the library [`TcpServer`] and
//! [`TcpSocket`]. Nothing here decides where bytes go.

mod access;
mod changes;
mod conn;
mod diagnosis;
mod dial;
mod discovery;
mod echo;
mod error;
mod holder;
mod inherited;
mod kept;
mod kernel;
mod layers;
mod listener;
mod options;
mod overflow;
mod peer;
#[cfg(feature = "cli")]
mod private;
mod probe;
mod proxy_header;
mod queue;
mod resolve;
mod responder;
pub mod server;
pub mod socket;
mod stdio;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls_absent.rs"]
mod tls;
mod tls_options;
mod transport;
mod unacknowledged;
mod unread;
mod via;

pub use self::access::{AccessList, CidrError};
pub(crate) use self::access::{network, origin};
pub(crate) use self::conn::{Conn, reason_of, reason_of_drop};
pub use self::dial::DialError;
pub(crate) use self::dial::{Target, dial};
pub use self::error::{SocketError, SocketErrorKind};
pub use self::inherited::inherit_sockets;
pub(crate) use self::inherited::unused_sockets;
pub use self::kernel::KernelOptions;
pub(crate) use self::layers::{Greeting, Layers};
pub use self::listener::BindError;
#[cfg(feature = "cli")]
pub(crate) use self::listener::UnixPath;
pub(crate) use self::listener::{
    ACCEPT_PAUSE, Accepted, Listener, bind, check_source, is_of_the_client, no_networks,
};
pub use self::options::{DialOptions, Keepalive, ListenOptions, MessageOptions, QueueOptions};
pub use self::overflow::Overflow;
pub(crate) use self::overflow::QueueLimit;
pub use self::peer::{Heartbeat, PeerOptions};
#[cfg(feature = "cli")]
pub(crate) use self::private::bind_private;
pub(crate) use self::probe::probe;
pub use self::proxy_header::ProxyVersion;
pub(crate) use self::queue::{Amount, Change, Level, PLACE as QUEUE_PLACE, Queue};
pub(crate) use self::resolve::{addresses, is_own};
pub use self::responder::{DiscoveryCounts, DiscoveryOptions};
pub(crate) use self::responder::{Responder, Tally};
pub use self::server::{ServerOptions, TcpServer};
pub use self::socket::{Reconnect, SocketOptions, TcpSocket};
pub(crate) use self::tls::{Loaded, Roles, Tls, load as load_tls};
pub use self::tls_options::TlsOptions;
#[cfg(test)]
pub(crate) use self::transport::Stream;
pub(crate) use self::unacknowledged::Unacknowledged;
pub use self::via::{Via, ViaError};

/// What a config that wants TLS is told where it is not built.
pub(crate) const NO_TLS: &str = "this program was built without TLS; build it with the feature `tls`";
