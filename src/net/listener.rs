//! Binding and accepting. Binding turns an [`Address`] into listeners or one
//! clear error; accepting yields streams and leaves policy to the caller.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::holder::holder;
use super::options::{ListenOptions, keep_alive};
use super::resolve::addresses;
use super::transport::Stream;
use crate::address::{Address, Host};
use crate::event::Endpoint;

/// A bound socket that accepts.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp { listener: TcpListener, bound: SocketAddr },
    Unix { listener: UnixListener, path: UnixPath },
}

/// An accepted stream, its peer, and our own address.
pub(crate) type Accepted = (Stream, Endpoint, Endpoint);

/// The path of a Unix listener, removed when it closes.
#[derive(Debug)]
pub(crate) struct UnixPath {
    path: PathBuf,
    /// Device and inode of what was bound: another's socket at the same path is not ours to remove.
    identity: Option<(u64, u64)>,
}

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for `{endpoint}`")]
pub struct BindError {
    /// The address that failed.
    pub address: String,
    /// The listener's name.
    pub endpoint: String,
    /// What to try, if anything is known.
    pub hint: Option<String>,
    /// What the kernel or the resolver said.
    pub source: io::Error,
}

impl Listener {
    /// Takes a client from the backlog, if one is there.
    ///
    /// # Errors
    /// Those of accept(2), raw: a client that left, or no descriptors.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        Poll::Ready(Ok(match self {
            Self::Tcp { listener, bound } => {
                let (stream, peer) = ready!(listener.poll_accept(cx))?;
                // Only a wildcard listener has to ask which of its addresses the client came to.
                let local = if bound.ip().is_unspecified() { stream.local_addr()? } else { *bound };
                (Stream::Tcp(stream), peer.into(), local.into())
            }
            Self::Unix { listener, path } => {
                let (stream, peer) = ready!(listener.poll_accept(cx))?;
                let peer = Endpoint::Unix(peer.as_pathname().map(Arc::from));
                (Stream::Unix(stream), peer, Endpoint::Unix(Some(Arc::from(path.path.as_path()))))
            }
        }))
    }

    /// Takes over a socket that listens already.
    pub(super) fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let bound = listener.local_addr()?;
        Ok(Self::Tcp { listener, bound })
    }

    /// What it is bound to, with its real port.
    pub(crate) fn local(&self) -> Endpoint {
        match self {
            // Not by `Endpoint::from`, which would show [::] as an IPv4 address it is not.
            Self::Tcp { bound, .. } => Endpoint::Tcp(*bound),
            Self::Unix { path, .. } => Endpoint::Unix(Some(Arc::from(path.path.as_path()))),
        }
    }

    /// Sets what can be set while it listens; later connections have it.
    ///
    /// # Errors
    /// The kernel's, which has no reason to refuse what it took before.
    pub(crate) fn set(&self, options: &ListenOptions) -> io::Result<()> {
        let socket = match self {
            Self::Tcp { listener, .. } => SockRef::from(listener),
            Self::Unix { listener, .. } => SockRef::from(listener),
        };
        if let Self::Tcp { .. } = self {
            keep_alive(&socket, &options.keepalive)?;
        }
        listen(&socket, options)
    }

    /// Its address, if it is a TCP listener.
    pub(crate) fn socket_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { bound, .. } => Some(*bound),
            Self::Unix { .. } => None,
        }
    }
}

/// Binds every address that `address` stands for.
///
/// # Errors
/// [`BindError`] for the first that fails; those bound before are closed.
pub(crate) async fn bind(
    endpoint: &str,
    address: &Address,
    options: &ListenOptions,
) -> Result<Vec<Listener>, BindError> {
    let fail = |shown: String, source: io::Error| BindError {
        hint: hint(&source, address, &shown),
        address: shown,
        endpoint: endpoint.to_owned(),
        source,
    };
    match address {
        Address::Tcp { host: Host::Any, port } => {
            let listener = bind_all_interfaces(*port, options);
            Ok(vec![listener.map_err(|error| fail(address.to_string(), error))?])
        }
        Address::Tcp { host, port } => {
            let found = addresses(host, *port).await.map_err(|error| fail(address.to_string(), error))?;
            bind_found(found, options).map_err(|(found, error)| fail(found.to_string(), error))
        }
        Address::Unix(path) => {
            let listener =
                bind_unix(path, options).await.map_err(|error| fail(address.to_string(), error))?;
            Ok(vec![listener])
        }
        Address::Stdio | Address::Echo => Ok(Vec::new()),
    }
}

/// All interfaces: one IPv6 socket that takes IPv4 too, or IPv4 alone where there is no IPv6.
fn bind_all_interfaces(port: u16, options: &ListenOptions) -> io::Result<Listener> {
    match bind_tcp((Ipv6Addr::UNSPECIFIED, port).into(), options) {
        Err(error) if is_missing(&error) => bind_tcp((Ipv4Addr::UNSPECIFIED, port).into(), options),
        bound => bound,
    }
}

/// All addresses of a name. One of a family that this machine does not have is left out, if another is bound.
fn bind_found(
    mut found: Vec<SocketAddr>,
    options: &ListenOptions,
) -> Result<Vec<Listener>, (SocketAddr, io::Error)> {
    let mut seen = HashSet::new();
    found.retain(|address| seen.insert(*address));
    let (mut bound, mut missing) = (Vec::new(), None);
    for address in found {
        match bind_tcp(address, options) {
            Ok(listener) => bound.push(listener),
            Err(error) if is_missing(&error) => missing = missing.or(Some((address, error))),
            Err(error) => return Err((address, error)),
        }
    }
    match missing {
        Some(missing) if bound.is_empty() => Err(missing),
        _ => Ok(bound),
    }
}

/// The address, or its whole family, is not on this machine.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EADDRNOTAVAIL))
}

fn bind_tcp(address: SocketAddr, options: &ListenOptions) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Allows binding beside connections of an earlier run that are still closing; two listeners it does not allow.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_tcp_nodelay(true)?;
    keep_alive(&SockRef::from(&socket), &options.keepalive)?;
    socket.bind(&address.into())?;
    listen(&socket, options)?;
    let listener = TcpListener::from_std(socket.into())?;
    let bound = listener.local_addr()?;
    Ok(Listener::Tcp { listener, bound })
}

fn listen(socket: &Socket, options: &ListenOptions) -> io::Result<()> {
    // The kernel lowers it to net.core.somaxconn.
    let backlog = options.backlog.unwrap_or(u32::MAX).min(i32::MAX as u32);
    socket.listen(backlog as i32)
}

async fn bind_unix(path: &Path, options: &ListenOptions) -> io::Result<Listener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path).await => {
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    listen(&socket, options)?;
    let listener = UnixListener::from_std(socket.into())?;
    let path = UnixPath { path: path.to_owned(), identity: identity(path) };
    Ok(Listener::Unix { listener, path })
}

/// Tells whether `path` is a socket that nobody listens on any more.
async fn is_stale(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).await.is_err_and(refused)
}

impl Drop for UnixPath {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // Gone already is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).ok().map(|data| (data.dev(), data.ino()))
}

/// Tells errors that accept(2) reports for one connection from those of the listener.
pub(crate) fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::NotConnected
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::Interrupted
    )
}

/// Checks that connections can be made from `source`.
///
/// # Errors
/// The kernel's, when it is not an address of this machine.
pub(crate) fn check_source(source: IpAddr) -> io::Result<()> {
    UdpSocket::bind((source, 0)).map(drop)
}

fn hint(error: &io::Error, address: &Address, shown: &str) -> Option<String> {
    let hint = match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, Address::Tcp { port, .. }) => match holder(*port) {
            Some(holder) => format!("another port, or stop the process that holds it ({holder})"),
            None => "another port, or stop the process that holds it".into(),
        },
        (io::ErrorKind::AddrInUse, Address::Unix(path)) => match fs::symlink_metadata(path) {
            Ok(data) if !is_socket(&data) => "another path: a file that is no socket is there".into(),
            _ => "another path, or stop the process that listens there".into(),
        },
        (io::ErrorKind::AddrNotAvailable, _) => {
            let ip = shown.parse::<SocketAddr>().map_or_else(|_| shown.to_owned(), |a| a.ip().to_string());
            format!("an address of this machine (`ip address` lists them), which {ip} is not")
        }
        (io::ErrorKind::PermissionDenied, Address::Tcp { port, .. }) => {
            format!("a port from 1024 up, or give the program CAP_NET_BIND_SERVICE for port {port}")
        }
        (io::ErrorKind::NotFound, Address::Unix(_)) => "a path whose folder exists".into(),
        _ => return None,
    };
    Some(hint)
}

fn is_socket(data: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    data.file_type().is_socket()
}

const EAFNOSUPPORT: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
const EADDRNOTAVAIL: i32 = rustix::io::Errno::ADDRNOTAVAIL.raw_os_error();

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_sockets_inherit_no_delay_and_keepalive() {
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = bind("l", &address, &ListenOptions::default()).await.unwrap().remove(0);
        let _client = tokio::net::TcpStream::connect(listener.socket_address().unwrap()).await.unwrap();
        let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        let Stream::Tcp(stream) = accepted.0 else { panic!("not TCP") };
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), 10);
        assert_eq!(socket.tcp_keepalive_interval().unwrap().as_secs(), 4);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
    }

    #[tokio::test]
    async fn a_port_in_use_names_its_holder() {
        let first = bind_tcp("127.0.0.1:0".parse().unwrap(), &ListenOptions::default()).unwrap();
        let address: Address = first.socket_address().unwrap().to_string().parse().unwrap();
        let error = bind("l", &address, &ListenOptions::default()).await.unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(error.hint.unwrap().contains(&std::process::id().to_string()));
    }

    #[tokio::test]
    async fn a_unix_socket_left_by_a_dead_process_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let address = Address::Unix(path.clone());
        let live = bind("l", &address, &ListenOptions::default()).await.unwrap();
        let error = bind("l", &address, &ListenOptions::default()).await.unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        drop(live);
        assert!(!path.exists());
        // What another has put in its place meanwhile is not ours to remove.
        let replaced = bind("l", &address, &ListenOptions::default()).await.unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "data").unwrap();
        drop(replaced);
        assert!(bind("l", &address, &ListenOptions::default()).await.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }
}
