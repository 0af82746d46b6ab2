//! [`Restriction`]: why a client is refused or has to wait.

use serde::Serialize;

/// What keeps a client out, for now or for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Restriction {
    /// The allow and deny lists.
    Access,
    /// So many connections at once.
    MaxConnections,
    /// So many connections of one address at once.
    MaxConnectionsPerAddress,
    /// So many connections a second.
    AcceptRate,
}

impl Restriction {
    /// The word used in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::MaxConnections => "max_connections",
            Self::MaxConnectionsPerAddress => "max_connections_per_address",
            Self::AcceptRate => "accept_rate",
        }
    }

    /// The same for people.
    #[cfg(feature = "cli")]
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Access => "the access list",
            Self::MaxConnections => "as many are connected as may be",
            Self::MaxConnectionsPerAddress => "as many of one address are connected as may be",
            Self::AcceptRate => "as many came in this second as may",
        }
    }
}
