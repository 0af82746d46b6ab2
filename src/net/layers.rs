//! What lies between a TCP connection and its bytes: a proxy on the way, a
//! PROXY header, TLS. A dial lays them in that order; a listener takes them
//! off what a client sends, before it is a client.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout_at};

use super::dial::DialError;
use super::listener::Accepted;
use super::options::DialOptions;
use super::proxy_header::{self, Announced};
use super::tls::Tls;
use super::transport::Stream;
use super::via::Via;
use crate::address::Host;
use crate::event::{Endpoint, Introduction};

/// What a dial adds to a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {
    pub(crate) via: Option<Arc<Via>>,
    pub(crate) tls: Option<Arc<Tls>>,
}

impl Layers {
    /// Tells whether a connection needs anything but to be made.
    pub(super) fn is_empty(&self, options: &DialOptions) -> bool {
        self.via.is_none() && self.tls.is_none() && options.send_proxy.is_none()
    }

    /// Makes a connection to the target, or to the proxy before it, one to the target. `client` are the
    /// ends of the connection it is made for.
    pub(super) async fn lay(
        &self,
        mut stream: TcpStream,
        (host, port): (&Host, u16),
        options: &DialOptions,
        client: Option<&(Endpoint, Endpoint)>,
        deadline: Instant,
    ) -> Result<Stream, DialError> {
        if let Some(via) = &self.via {
            let asked = timeout_at(deadline, via.ask(&mut stream, host, port)).await;
            asked
                .unwrap_or_else(|_| Err(format!("the proxy {via}: no answer in time")))
                .map_err(DialError::Proxy)?;
        }
        if let Some(version) = options.send_proxy {
            let header = version.header(client.map(|(peer, local)| (peer, local)));
            let written = timeout_at(deadline, stream.write_all(&header)).await;
            let written = written.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            written
                .map_err(|error| DialError::Proxy(format!("the PROXY header could not be sent: {error}")))?;
        }
        let Some(tls) = &self.tls else { return Ok(Stream::Tcp(stream)) };
        // A handshake is a conversation of small writes.
        let _ = stream.set_nodelay(true);
        let shaken = timeout_at(deadline, tls.connect(stream, host)).await;
        let shaken = shaken.unwrap_or_else(|_| Err("it did not finish the TLS handshake in time".into()));
        Ok(Stream::Tls(shaken.map_err(DialError::Tls)?))
    }
}

/// What a listener wants of a connection before it is a client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Greeting {
    /// A PROXY header, from these networks.
    pub(crate) proxy: Option<Arc<[IpNet]>>,
    pub(crate) tls: Option<Arc<Tls>>,
}

impl Greeting {
    /// Tells whether a connection is a client at once.
    pub(crate) fn is_empty(&self) -> bool {
        self.proxy.is_none() && self.tls.is_none()
    }

    /// Tells whether it may begin with a PROXY header, if it has to.
    pub(crate) fn trusts(&self, peer: &Endpoint) -> bool {
        match (&self.proxy, peer) {
            (Some(trusted), Endpoint::Tcp(address)) => {
                let ip = address.ip().to_canonical();
                trusted.iter().any(|network| network.contains(&ip))
            }
            (Some(_), _) => false,
            (None, _) => true,
        }
    }

    /// Hears the connection out. Cancel safe: dropped, it is closed.
    ///
    /// # Errors
    /// Why it is no client, in words.
    pub(crate) async fn hear(
        &self,
        (stream, peer, local): Accepted,
    ) -> Result<(Accepted, Introduction), String> {
        let Stream::Tcp(mut stream) = stream else {
            return Err(
                "it came by a socket that is not TCP, where there is no PROXY header and no TLS".into()
            );
        };
        let (mut peer, mut local) = (peer, local);
        let mut introduction = Introduction::default();
        if self.proxy.is_some() {
            let header = tokio::time::timeout(HEADER, proxy_header::read(&mut stream)).await;
            let header = header.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            let announced: Announced = header.map_err(|error| match error.kind() {
                std::io::ErrorKind::TimedOut => {
                    format!("its PROXY header was not there within {}", seconds(HEADER))
                }
                _ => error.to_string(),
            })?;
            if let Some((source, destination)) = announced {
                introduction.via = Some(std::mem::replace(&mut peer, announced_end(source)));
                local = announced_end(destination);
            }
        }
        let Some(tls) = &self.tls else { return Ok(((Stream::Tcp(stream), peer, local), introduction)) };
        let shaken = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await;
        let (stream, name) = shaken.unwrap_or_else(|_| {
            Err(format!("it did not finish the TLS handshake within {}", seconds(HANDSHAKE)))
        })?;
        introduction.name = name;
        Ok(((Stream::Tls(stream), peer, local), introduction))
    }
}

fn announced_end(address: SocketAddr) -> Endpoint {
    address.into()
}

fn seconds(limit: Duration) -> String {
    humantime::format_duration(limit).to_string()
}

/// For a PROXY header to be there, whole.
const HEADER: Duration = Duration::from_secs(3);
/// For the handshake of a client.
const HANDSHAKE: Duration = Duration::from_secs(5);
