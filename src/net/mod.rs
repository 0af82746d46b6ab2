//! Sockets: options, streams, listeners, dials, and [`Conn`], which counts
//! and announces; and for users of the library [`TcpServer`] and
//! [`TcpSocket`]. Nothing here decides where bytes go.

mod access;
mod changes;
mod conn;
mod diagnosis;
mod dial;
mod echo;
mod error;
mod holder;
mod inherited;
mod kept;
mod kernel;
mod listener;
mod options;
#[cfg(feature = "cli")]
mod private;
mod queue;
mod resolve;
pub mod server;
pub mod socket;
mod stdio;
mod transport;
mod unacknowledged;
mod unread;

pub(crate) use self::access::network;
pub use self::access::{AccessList, CidrError};
pub(crate) use self::conn::{Conn, reason_of, reason_of_drop};
pub use self::dial::DialError;
pub(crate) use self::dial::{Target, dial, probe};
pub use self::error::{SocketError, SocketErrorKind};
pub use self::inherited::inherit_sockets;
pub(crate) use self::inherited::unused_sockets;
pub use self::kernel::KernelOptions;
pub use self::listener::BindError;
#[cfg(feature = "cli")]
pub(crate) use self::listener::UnixPath;
pub(crate) use self::listener::{
    ACCEPT_PAUSE, Accepted, Listener, bind, check_source, is_of_the_client, no_networks,
};
pub use self::options::{DialOptions, Keepalive, ListenOptions, MessageOptions, QueueOptions};
#[cfg(feature = "cli")]
pub(crate) use self::private::bind_private;
pub use self::queue::Overflow;
pub(crate) use self::queue::{Amount, Change, Level, PLACE as QUEUE_PLACE, Queue, QueueLimit};
pub(crate) use self::resolve::{addresses, is_own};
pub use self::server::{ServerOptions, TcpServer};
pub use self::socket::{Reconnect, SocketOptions, TcpSocket};
#[cfg(test)]
pub(crate) use self::transport::Stream;
pub(crate) use self::unacknowledged::Unacknowledged;
