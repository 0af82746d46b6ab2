//! From names to socket addresses, within a limit, and the question whether
//! an address is our own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::address::{Address, Host};

/// The addresses of a TCP target, asked anew each time.
///
/// # Errors
/// What the resolver said, or [`io::ErrorKind::TimedOut`] after [`LOOKUP_LIMIT`].
pub(crate) async fn addresses(host: &Host, port: u16) -> io::Result<Vec<SocketAddr>> {
    match host {
        Host::Any => Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]),
        Host::Name(name) => lookup(name.clone(), port).await,
        Host::Ip(_) | Host::Scoped(..) => {
            let address = Address::Tcp { host: host.clone(), port };
            Ok(address.literal().into_iter().collect())
        }
    }
}

async fn lookup(name: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    let silent = || io::Error::new(io::ErrorKind::TimedOut, "the resolver did not answer");
    let found = timeout(LOOKUP_LIMIT, async {
        let permit = LOOKUPS.acquire().await.map_err(io::Error::other)?;
        // getaddrinfo cannot be cancelled: the permit stays with the thread, so that silent
        // servers can hold LOOKUPS threads and no more.
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            (name.as_str(), port).to_socket_addrs().map(Iterator::collect)
        });
        task.await.map_err(io::Error::other)?
    });
    found.await.unwrap_or_else(|_elapsed| Err(silent()))
}

/// Tells whether connecting to `target` would reach one of `listeners`.
pub(crate) fn is_own(target: SocketAddr, listeners: &[SocketAddr]) -> bool {
    let ip = target.ip().to_canonical();
    listeners.iter().any(|listener| {
        let bound = listener.ip().to_canonical();
        listener.port() == target.port()
            && (bound == ip || bound.is_unspecified() && (bound.is_ipv6() || ip.is_ipv4()) && is_local(ip))
    })
}

/// Tells whether `ip` belongs to this machine: the kernel then chooses it as
/// the source of its own packets. Nothing is sent.
fn is_local(ip: IpAddr) -> bool {
    let ask = || -> io::Result<bool> {
        let any: IpAddr =
            if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?;
        Ok(socket.local_addr()?.ip() == ip)
    };
    ip.is_loopback() || ask().unwrap_or(false)
}

/// How long one lookup may take.
pub(crate) const LOOKUP_LIMIT: Duration = Duration::from_secs(3);
/// Lookups at once; more wait their turn within their limit.
static LOOKUPS: Semaphore = Semaphore::const_new(32);

#[cfg(test)]
mod tests {
    use super::*;

    fn own(target: &str, listeners: &[&str]) -> bool {
        let listeners: Vec<_> = listeners.iter().map(|text| text.parse().unwrap()).collect();
        is_own(target.parse().unwrap(), &listeners)
    }

    #[test]
    fn a_wildcard_listener_owns_every_address_of_the_machine_and_no_other() {
        assert!(own("127.0.0.1:9", &["[::]:9"]));
        assert!(own("127.0.0.1:9", &["0.0.0.0:9"]));
        assert!(own("[::1]:9", &["[::]:9"]));
        assert!(own("127.0.0.7:9", &["127.0.0.7:9"]));
        assert!(!own("[::1]:9", &["0.0.0.0:9"]));
        assert!(!own("127.0.0.1:9", &["[::]:8"]));
        assert!(!own("127.0.0.1:9", &["127.0.0.2:9"]));
        assert!(!own("192.0.2.1:9", &["[::]:9"]));
    }
}
