//! What is at the ends of a connection, and its name.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Serialize, Serializer};

/// Names one connection, accepted or dialled, for the life of the process.
///
/// Never used twice, and given at the start of a dial, so that
/// `connect_failed` and `connected` carry it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ConnectionId(NonZeroU64);

impl ConnectionId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NonZeroU64::new(NEXT.fetch_add(1, Ordering::Relaxed)).expect("2^64 connections were not made"))
    }

    /// The one of this number, whether or not there is such a connection. None is 0.
    pub(crate) fn of(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number, which is what logs show.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// A map by connection. The ids are our own and count upwards, so they need no hash that strangers cannot guess.
pub(crate) type ConnectionMap<T> = HashMap<ConnectionId, T, BuildHasherDefault<CountedHasher>>;

/// Spreads a counter over all bits by one multiplication.
#[derive(Default)]
pub(crate) struct CountedHasher(u64);

impl Hasher for CountedHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a ConnectionId hashes as one u64");
    }

    fn write_u64(&mut self, id: u64) {
        // An odd number near 2^64 / the golden ratio: consecutive ids fall far apart, high bits included.
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a client has told about itself before it was one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Introduction {
    /// The name in its certificate.
    pub(crate) name: Option<Arc<str>>,
    /// The proxy that has announced it, and which the connection comes from.
    pub(crate) via: Option<Endpoint>,
}

/// One end of a connection, or what a listener is bound to.
///
/// IPv4 addresses seen through an IPv6 socket are shown as IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket, with its path if it has one.
    Unix(Option<Arc<Path>>),
    /// Standard input and output.
    Stdio,
    /// The built-in echo service.
    Echo,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
                Self::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port()))
            }
            _ => Self::Tcp(address),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(Some(path)) => write!(f, "unix:{}", path.display().to_string().escape_debug()),
            Self::Unix(None) => f.write_str("unix:"),
            Self::Stdio => f.write_str("stdio:"),
            Self::Echo => f.write_str("echo:"),
        }
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
