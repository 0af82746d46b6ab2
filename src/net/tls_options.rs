//! [`TlsOptions`]: who we are in TLS, and whom we believe. Plain data, there
//! with and without the feature; files are named and never opened here.

use std::path::{Path, PathBuf};

/// How TLS is spoken, in versions 1.2 and 1.3.
///
/// Paths are those of PEM files; those that are not absolute are seen from the working directory of
/// the process, and in a config file from its folder. They are read when the node starts and at each
/// reload; connections that live keep what they began with.
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

impl TlsOptions {
    /// With the paths as a file in `folder` means them.
    pub(crate) fn seen_from(&mut self, folder: &Path) {
        let here = Path::new(".");
        let folder = if folder.as_os_str().is_empty() { here } else { folder };
        // Absolute, so that what is said of them, and a config that is shown, is right in any other folder.
        let folder = std::path::absolute(folder).unwrap_or_else(|_gone| folder.to_owned());
        for path in [&mut self.cert, &mut self.key, &mut self.ca, &mut self.client_ca].into_iter().flatten() {
            *path = folder.join(&*path);
        }
    }
}
