//! Sockets: options, streams, listeners, dials, and [`Conn`], which counts
//! and announces. Nothing here decides where bytes go.

mod access;
mod conn;
mod dial;
mod echo;
mod holder;
mod inherited;
mod listener;
mod options;
mod resolve;
mod stdio;
mod transport;

pub(crate) use self::access::network;
pub use self::access::{AccessList, CidrError};
pub(crate) use self::conn::{Conn, reason_of, reason_of_drop};
pub use self::dial::DialError;
pub(crate) use self::dial::{Target, dial};
pub(crate) use self::inherited::{inherit_sockets, unused_sockets};
pub use self::listener::BindError;
pub(crate) use self::listener::{Accepted, Listener, UnixPath, bind, bind_private, check_source};
pub use self::options::{DialOptions, Keepalive, ListenOptions};
pub(crate) use self::resolve::{addresses, is_own};
#[cfg(test)]
pub(crate) use self::transport::Stream;
