//! TLS over TCP. [`Tls`] is what a listener or a client speaks it with, and
//! can be given other certificates while it runs; what it makes is a stream
//! like any other. Nothing here waits with a limit of its own: callers have one.

mod explain;
mod load;
mod name;
mod stream;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use self::explain::{Side, explain};
pub(crate) use self::load::{Loaded, Roles, load};
pub(crate) use self::stream::TlsStream;
use crate::address::Host;

/// The identity of a listener or client, as it is now.
#[derive(Debug)]
pub(crate) struct Tls {
    now: Mutex<Arc<Loaded>>,
}

impl Tls {
    pub(crate) fn new(loaded: Loaded) -> Self {
        Self { now: Mutex::new(Arc::new(loaded)) }
    }

    /// Has later handshakes use these certificates. Tells whether they are others.
    pub(crate) fn replace(&self, loaded: Loaded) -> bool {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let differs = now.fingerprint != loaded.fingerprint;
        // Others even when they read the same: roles may have been added.
        *now = Arc::new(loaded);
        differs
    }

    fn now(&self) -> Arc<Loaded> {
        Arc::clone(&self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The handshake with a client. Yields the name in its certificate, if it has shown one.
    ///
    /// # Errors
    /// What went wrong, in words; the client has been told as far as TLS has words for it.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> Result<(Box<TlsStream>, Option<Arc<str>>), String> {
        let now = self.now();
        let server = now.server.as_ref().expect("loaded for a listener");
        let accepted = TlsAcceptor::from(Arc::clone(server)).accept(stream).await;
        let stream = accepted.map_err(|error| explain(&error, Side::Listener))?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let name = shown.and_then(|certificate| name::of(certificate));
        Ok((Box::new(TlsStream::new(stream.into(), Side::Listener)), name))
    }

    /// The handshake with a server that was dialled as `host`.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub(super) async fn connect(&self, stream: TcpStream, host: &Host) -> Result<Box<TlsStream>, String> {
        let now = self.now();
        let (config, name) = now.client.as_ref().expect("loaded for a client");
        let name = match name {
            Some(name) => name.clone(),
            None => server_name(host).map_err(|error| error.to_string())?,
        };
        let connected = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
        let stream = connected.map_err(|error| explain(&error, Side::Client))?;
        Ok(Box::new(TlsStream::new(stream.into(), Side::Client)))
    }
}

/// The name a server's certificate must be for.
fn server_name(host: &Host) -> io::Result<ServerName<'static>> {
    match host {
        Host::Any => named("localhost"),
        Host::Ip(ip) => Ok(ServerName::from(ip.to_canonical())),
        Host::Scoped(ip, _) => Ok(ServerName::from(std::net::IpAddr::from(*ip))),
        Host::Name(name) => named(name.strip_suffix('.').unwrap_or(name)),
    }
}

fn named(name: &str) -> io::Result<ServerName<'static>> {
    let problem =
        |_| io::Error::other(format!("`{}` is no name a certificate can be for", name.escape_debug()));
    ServerName::try_from(name.to_owned()).map_err(problem)
}
