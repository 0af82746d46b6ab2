//! [`SocketError`]: what went wrong with a socket, in a form that can be
//! handed to a slot and to a waiting caller alike.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use super::dial::DialError;
use crate::event::{Endpoint, State};

/// What went wrong with a socket: what was attempted, on what, and why.
///
/// Its [`source`](Error::source) is what the kernel or the
/// resolver said, an [`io::Error`], where one of them said something. Two are
/// equal if they have the same kind and text.
#[derive(Clone, Debug)]
pub struct SocketError {
    kind: SocketErrorKind,
    text: Arc<str>,
    source: Option<Arc<io::Error>>,
}

/// What a socket was doing when something went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Looking up a name.
    Lookup,
    /// Connecting to its addresses.
    Connect,
    /// Reading, or waiting for something to read.
    Read,
    /// Writing, or finishing our half.
    Write,
    /// Delivering what was left after it was told to close.
    Drain,
}

/// What kind of failure a [`SocketError`] or a [`DialError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketErrorKind {
    /// Nobody listens there.
    ConnectionRefused,
    /// The peer aborted (RST), or was gone when we wrote.
    ConnectionReset,
    /// The name has no address that can be used.
    HostNotFound,
    /// There is no way to the peer.
    Unreachable,
    /// A limit passed: of a dial, of a wait, of the time to drain, or the kernel's for a silent peer.
    TimedOut,
    /// The kernel does not allow it.
    AccessDenied,
    /// Descriptors, memory or ports have run out.
    ResourceLimit,
    /// The local address is taken.
    AddressInUse,
    /// The local address is not one of this machine.
    AddressNotAvailable,
    /// The text is not an address that can be connected to.
    InvalidAddress,
    /// The socket is connected, or on its way, and cannot be connected again.
    Busy,
    /// There is no connection, or no longer one that takes this.
    NotConnected,
    /// The write buffer has no room for it, or the read buffer none for more.
    Full,
    /// There was a connection, and the TLS handshake, or the proxy on the way, failed.
    HandshakeFailed,
    /// Given up at our own request.
    Aborted,
    /// Something else; the text says what.
    Other,
}

impl SocketError {
    pub(super) fn new(kind: SocketErrorKind, text: impl Into<Arc<str>>) -> Self {
        Self { kind, text: text.into(), source: None }
    }

    /// With what the kernel said, of which `text` tells all that a reader needs.
    pub(super) fn with_source(text: impl Into<Arc<str>>, source: io::Error) -> Self {
        let kind = SocketErrorKind::of(&source);
        Self { kind, text: text.into(), source: Some(Arc::new(source)) }
    }

    /// Of the connection with `peer`.
    pub(super) fn of_peer(peer: &Endpoint, error: io::Error) -> Self {
        let text = match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
                format!("{peer} reset the connection")
            }
            io::ErrorKind::BrokenPipe => format!("{peer} is gone and takes nothing more"),
            io::ErrorKind::TimedOut => format!("{peer} is silent, and the kernel has given it up"),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                format!("there is no road to {peer} any more")
            }
            _ => format!("the connection with {peer} failed: {error}"),
        };
        Self::with_source(text, error)
    }

    /// Of a dial of `target`.
    pub(super) fn of_dial(target: &str, error: DialError) -> Self {
        let (kind, text) = (error.kind(), format!("cannot connect to {target}: {error}"));
        Self { kind, text: text.into(), source: error.into_io().map(Arc::new) }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> SocketErrorKind {
        self.kind
    }
}

impl SocketErrorKind {
    pub(super) fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused | Kind::NotFound => Self::ConnectionRefused,
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => Self::ConnectionReset,
            Kind::TimedOut => Self::TimedOut,
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => Self::Unreachable,
            Kind::PermissionDenied => Self::AccessDenied,
            Kind::AddrInUse => Self::AddressInUse,
            Kind::AddrNotAvailable => Self::AddressNotAvailable,
            Kind::NotConnected => Self::NotConnected,
            Kind::OutOfMemory => Self::ResourceLimit,
            _ if error.raw_os_error().is_some_and(|code| EXHAUSTED.contains(&code)) => Self::ResourceLimit,
            _ => Self::Other,
        }
    }

    const fn io_kind(self) -> io::ErrorKind {
        match self {
            Self::ConnectionRefused => io::ErrorKind::ConnectionRefused,
            Self::ConnectionReset => io::ErrorKind::ConnectionReset,
            Self::HostNotFound => io::ErrorKind::NotFound,
            Self::Unreachable => io::ErrorKind::HostUnreachable,
            Self::TimedOut => io::ErrorKind::TimedOut,
            Self::AccessDenied => io::ErrorKind::PermissionDenied,
            Self::AddressInUse => io::ErrorKind::AddrInUse,
            Self::AddressNotAvailable => io::ErrorKind::AddrNotAvailable,
            Self::InvalidAddress => io::ErrorKind::InvalidInput,
            Self::NotConnected => io::ErrorKind::NotConnected,
            Self::Full => io::ErrorKind::WouldBlock,
            Self::Aborted => io::ErrorKind::ConnectionAborted,
            Self::Busy | Self::ResourceLimit | Self::HandshakeFailed | Self::Other => io::ErrorKind::Other,
        }
    }
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for SocketError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // Itself, and not the Arc around it, so that it can be told what it is.
        self.source.as_deref().map(|source| source as _)
    }
}

impl PartialEq for SocketError {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.text) == (other.kind, &other.text)
    }
}

impl Eq for SocketError {}

impl Phase {
    /// The phase of a dial that is in this state.
    pub(super) fn of_dial(state: State) -> Self {
        if state == State::HostLookup { Self::Lookup } else { Self::Connect }
    }
}

impl From<SocketError> for io::Error {
    fn from(error: SocketError) -> Self {
        Self::new(error.kind.io_kind(), error)
    }
}

/// EMFILE, ENFILE, ENOBUFS.
const EXHAUSTED: [i32; 3] = [
    rustix::io::Errno::MFILE.raw_os_error(),
    rustix::io::Errno::NFILE.raw_os_error(),
    rustix::io::Errno::NOBUFS.raw_os_error(),
];
