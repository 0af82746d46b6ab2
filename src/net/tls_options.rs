//! [`TlsOptions`]: who we are in TLS, and whom we believe. Plain data, there
//! with and without the feature; files are named and never opened here.

use std::path::PathBuf;

/// How TLS is spoken, in versions 1.2 and 1.3.
///
/// Paths are those of PEM files, from where the process was started. They are read when the node
/// starts and at each reload; connections that live keep what they began with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Our certificate, and those of the authorities between it and the root. A listener needs
    /// one; a client shows it if it is asked.
    pub cert: Option<PathBuf>,
    /// The private key of `cert`.
    pub key: Option<PathBuf>,
    /// For clients: the authorities whose servers are believed. `None`: those of this machine.
    pub ca: Option<PathBuf>,
    /// For listeners: the authorities of which clients must show a certificate. `None`: they need none.
    pub client_ca: Option<PathBuf>,
    /// For clients: the name the server's certificate must be for. `None`: the host that is dialled.
    pub server_name: Option<String>,
}
