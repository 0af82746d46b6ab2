//! Binding and accepting. Binding turns an [`Address`] into listeners or one
//! clear error; accepting yields streams and leaves policy to the caller.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::fs::FlockOperation;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::holder::{holder, named};
use super::inherited::{self, Copy};
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
    /// `None` for one that was passed to us.
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
                (Stream::Unix(stream), peer, path.endpoint())
            }
        }))
    }

    /// What it is bound to, with its real port.
    pub(crate) fn local(&self) -> Endpoint {
        match self {
            // Not by `Endpoint::from`, which would show [::] as an IPv4 address it is not.
            Self::Tcp { bound, .. } => Endpoint::Tcp(*bound),
            Self::Unix { path, .. } => path.endpoint(),
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
        if let Self::Tcp { bound, .. } = self {
            keep_alive(&socket, &options.keepalive)?;
            options.kernel.apply_again(&socket, *bound)?;
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
            let listener = bind_unix(path, options).map_err(|error| fail(address.to_string(), error))?;
            Ok(vec![listener])
        }
        Address::Systemd(name) => {
            let taken = inherited::copies(name)
                .and_then(|copies| copies.into_iter().map(|copy| take_over(copy, options)).collect());
            taken.map_err(|error| fail(address.to_string(), error))
        }
        Address::Discover { .. } | Address::Stdio | Address::Echo => Ok(Vec::new()),
    }
}

/// A socket that somebody else listens on already, with our options.
pub(super) fn take_over(socket: Copy, options: &ListenOptions) -> io::Result<Listener> {
    let listener = match socket {
        Copy::Tcp(socket) => {
            SockRef::from(&socket).set_tcp_nodelay(true)?;
            tcp(socket)?
        }
        Copy::Unix(_) if !options.access.is_empty() => {
            return Err(no_network());
        }
        Copy::Unix(socket) => {
            socket.set_nonblocking(true)?;
            let path = socket.local_addr()?.as_pathname().map(Path::to_owned).unwrap_or_default();
            // Its file is the manager's, and stays.
            let path = UnixPath { path, identity: None };
            Listener::Unix { listener: UnixListener::from_std(socket)?, path }
        }
    };
    listener.set(options)?;
    Ok(listener)
}

fn tcp(socket: std::net::TcpListener) -> io::Result<Listener> {
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from_std(socket)?;
    let bound = listener.local_addr()?;
    Ok(Listener::Tcp { listener, bound })
}

/// For an open listener that is to have a list of networks, and whose clients have none.
pub(crate) fn no_networks(endpoint: &str, address: &Address) -> BindError {
    let (address, endpoint) = (address.to_string(), endpoint.to_owned());
    BindError { address, endpoint, hint: None, source: no_network() }
}

fn no_network() -> io::Error {
    let problem = "allow and deny know networks, and clients of a Unix socket have none";
    io::Error::new(io::ErrorKind::InvalidInput, problem)
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
    // Allows binding beside connections of an earlier run that are still closing; two listeners it does not allow.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_tcp_nodelay(true)?;
    keep_alive(&SockRef::from(&socket), &options.keepalive)?;
    options.kernel.apply(&SockRef::from(&socket), address.is_ipv4())?;
    socket.bind(&address.into())?;
    listen(&SockRef::from(&socket), options)?;
    tcp(socket.into())
}

fn listen(socket: &SockRef<'_>, options: &ListenOptions) -> io::Result<()> {
    socket.listen(backlog(options))
}

/// What is asked for; the kernel lowers it to net.core.somaxconn.
fn backlog(options: &ListenOptions) -> i32 {
    options.backlog.unwrap_or(u32::MAX).min(i32::MAX as u32) as i32
}

fn bind_unix(path: &Path, options: &ListenOptions) -> io::Result<Listener> {
    let (socket, path) = open(path, None, backlog(options))?;
    let listener = UnixListener::from_std(socket.into())?;
    Ok(Listener::Unix { listener, path })
}

/// A socket that listens at `path`, in the place of one that nobody listens on any more.
pub(super) fn open(path: &Path, mode: Option<u32>, backlog: i32) -> io::Result<(Socket, UnixPath)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    // Until it listens: or two who find the same stale socket would each remove it, and one of them the
    // other's new one, which looks as stale until then.
    let _turn = lock_folder(path);
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    let guard = UnixPath { path: path.to_owned(), identity: identity(path) };
    if let Some(mode) = mode {
        // Nobody can connect before it listens.
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    }
    socket.listen(backlog)?;
    Ok((socket, guard))
}

/// Takes turns with other nodes in the folder of `path`, for as long as the file lives. Without a lock
/// things go on, since whoever holds it for long is no node.
fn lock_folder(path: &Path) -> Option<fs::File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = fs::File::open(folder.unwrap_or_else(|| Path::new("."))).ok()?;
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(folder),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(_unlockable) => return None,
        }
    }
    None
}

/// Tells whether `path` is a socket that nobody listens on any more.
fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|data| is_socket(&data));
    is_socket && knock(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Connects to `path` and leaves again. A full backlog is an error too, but not that nobody is there.
fn knock(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

impl UnixPath {
    fn endpoint(&self) -> Endpoint {
        let path = self.path.as_path();
        Endpoint::Unix((!path.as_os_str().is_empty()).then(|| Arc::from(path)))
    }
}

impl Drop for UnixPath {
    fn drop(&mut self) {
        if self.identity.is_none() {
            return;
        }
        // Or another node could listen there between the look and the removal.
        let _turn = lock_folder(&self.path);
        if identity(&self.path) == self.identity {
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

pub(super) fn hint(error: &io::Error, address: &Address, shown: &str) -> Option<String> {
    let hint = match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, Address::Tcp { port, .. }) => match holder(*port) {
            Some(holder) => format!("another port, or stop the process that holds it ({holder})"),
            None => "another port, or stop the process that holds it".into(),
        },
        (io::ErrorKind::AddrInUse, Address::Unix(path)) => match fs::symlink_metadata(path) {
            Ok(data) if !is_socket(&data) => "another path: a file that is no socket is there".into(),
            _ => {
                let holder =
                    knock(path).and_then(|socket| Ok(rustix::net::sockopt::socket_peercred(&socket)?));
                match holder {
                    Ok(peer) => {
                        let holder = named(peer.pid.as_raw_pid().unsigned_abs());
                        format!("another path, or stop the process that listens there ({holder})")
                    }
                    Err(_busy) => "another path, or stop the process that listens there".into(),
                }
            }
        },
        (io::ErrorKind::AddrNotAvailable, _) => {
            let ip = shown.parse::<SocketAddr>().map_or_else(|_| shown.to_owned(), |a| a.ip().to_string());
            format!("an address of this machine (`ip address` lists them), which {ip} is not")
        }
        (io::ErrorKind::PermissionDenied, Address::Tcp { port, .. }) => {
            format!("a port from 1024 up, or give the program CAP_NET_BIND_SERVICE for port {port}")
        }
        (io::ErrorKind::NotFound, Address::Unix(_)) => "a path whose folder exists".into(),
        (io::ErrorKind::NotFound, Address::Systemd(name)) => {
            let name = if name.is_empty() { "NAME" } else { name };
            format!(
                "a .socket unit with FileDescriptorName={name}, or systemd-socket-activate --fdname={name}"
            )
        }
        _ => return None,
    };
    Some(hint)
}

fn is_socket(data: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    data.file_type().is_socket()
}

/// How long to wait when descriptors have run out: long enough to cost nothing, short enough that
/// nobody notices when some are free again.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Binding takes less than a millisecond; a tenth of a second for those before us.
const LOCK_TRIES: usize = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(5);
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
    async fn a_changed_keepalive_holds_for_those_who_come() {
        let address = "127.0.0.1:0".parse().unwrap();
        let mut options = ListenOptions::default();
        let listener = bind("l", &address, &options).await.unwrap().remove(0);
        options.keepalive.idle = Duration::from_secs(11);
        options.backlog = Some(7);
        listener.set(&options).unwrap();
        let _client = tokio::net::TcpStream::connect(listener.socket_address().unwrap()).await.unwrap();
        let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        let Stream::Tcp(stream) = accepted.0 else { panic!("not TCP") };
        assert_eq!(SockRef::from(&stream).tcp_keepalive_time().unwrap().as_secs(), 11);
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

    #[test]
    fn of_many_who_find_a_stale_socket_at_once_exactly_one_gets_it() {
        const MANY: usize = 8;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        for _ in 0..50 {
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let start = std::sync::Barrier::new(MANY);
            let attempt = || {
                start.wait();
                open(&path, None, MANY as i32)
            };
            let attempts: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..MANY).map(|_| scope.spawn(attempt)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(attempts.iter().filter(|attempt| attempt.is_ok()).count(), 1);
            knock(&path).unwrap();
        }
    }
}
