//! Dialling: one target, all its addresses raced (RFC 8305), one time limit.
//! A dial ends in exactly one of `connected` or `connect_failed`.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use super::conn::Conn;
use super::discovery::discover;
use super::error::SocketErrorKind;
use super::layers::Layers;
use super::options::DialOptions;
use super::resolve::{addresses, is_own};
use super::transport::Stream;
use crate::address::{Address, Host, connectable};
use crate::bus::{EventBus, Record};
use crate::event::{ConnectionId, Endpoint, State};

/// Something to dial, again and again.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) name: Arc<str>,
    pub(crate) address: Address,
    layers: Layers,
    dials: AtomicUsize,
}

/// Why a target could not be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The name could not be resolved.
    #[error("cannot resolve `{name}`: {source}")]
    Resolve {
        /// The name.
        name: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// There was no address to try.
    #[error("{0}")]
    NoAddress(String),
    /// The limit passed before any address had answered.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// Every address was tried and failed.
    #[error("{}", .texts.join("; "))]
    AllFailed {
        /// What happened at each address.
        texts: Vec<String>,
        /// What the kernel said of the first.
        source: io::Error,
    },
    /// The target is a listener of this node.
    #[error("{0} is this node's own listener")]
    OwnListener(SocketAddr),
    /// A proxy on the way did not make the connection.
    #[error("{0}")]
    Proxy(String),
    /// The target answered, and TLS with it failed.
    #[error("{0}")]
    Tls(String),
}

/// Whoever a dial is made for: hears how far it is, and has a say in its socket.
pub(super) trait Dialling {
    /// The dial is in another state.
    fn set_state(&self, state: State);
    /// These addresses will be raced.
    fn host_found(&self, addresses: &[SocketAddr]);
    /// Sets what must be set before the handshake.
    fn prepare(&self, _socket: &TcpSocket) -> io::Result<()> {
        Ok(())
    }
    /// The local port to connect from; 0 lets the kernel choose.
    fn source_port(&self) -> u16 {
        0
    }
}

impl Dialling for Record {
    fn set_state(&self, state: State) {
        self.set_state(state);
    }

    fn host_found(&self, addresses: &[SocketAddr]) {
        self.host_found(addresses.len());
    }
}

impl DialError {
    /// What kind of failure it is.
    pub fn kind(&self) -> SocketErrorKind {
        match self {
            Self::Resolve { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
                SocketErrorKind::TimedOut
            }
            Self::Resolve { .. } | Self::NoAddress(_) => SocketErrorKind::HostNotFound,
            Self::TimedOut(_) => SocketErrorKind::TimedOut,
            Self::AllFailed { source, .. } => SocketErrorKind::of(source),
            Self::OwnListener(_) => SocketErrorKind::InvalidAddress,
            Self::Proxy(_) | Self::Tls(_) => SocketErrorKind::HandshakeFailed,
        }
    }

    /// What the kernel or the resolver said.
    pub(super) fn into_io(self) -> Option<io::Error> {
        match self {
            Self::Resolve { source, .. } | Self::AllFailed { source, .. } => Some(source),
            Self::NoAddress(_) | Self::TimedOut(_) | Self::OwnListener(_) | Self::Proxy(_) | Self::Tls(_) => {
                None
            }
        }
    }
}

impl Target {
    pub(crate) fn new(name: Arc<str>, address: Address) -> Self {
        Self { name, address, layers: Layers::default(), dials: AtomicUsize::new(0) }
    }

    /// The same, spoken to through these.
    pub(crate) fn through(self, layers: Layers) -> Self {
        Self { layers, ..self }
    }
}

/// Connects to `target`, on behalf of `partner` if there is one.
///
/// `own` are the addresses of the node's listeners, which are never dialled.
/// Cancel safe: a dropped dial announces `connect_failed`.
pub(crate) async fn dial(
    target: &Target,
    options: &DialOptions,
    own: &[SocketAddr],
    bus: &EventBus,
    partner: Option<&Record>,
) -> Result<Conn, DialError> {
    let attempt = Attempt::new(bus, target, partner.map(Record::id));
    let client = partner.map(Record::ends);
    match connect(target, options, own, attempt.record(), client.as_ref()).await {
        Ok((stream, peer, local)) => Ok(attempt.succeed(stream, peer, local)),
        Err(error) => {
            attempt.fail(&error.to_string());
            Err(error)
        }
    }
}

/// Connects to `target`, on behalf of a `client` with these ends if there is one, without
/// announcing the outcome. Cancel safe.
pub(super) async fn connect(
    target: &Target,
    options: &DialOptions,
    own: &[SocketAddr],
    dialling: &impl Dialling,
    client: Option<&(Endpoint, Endpoint)>,
) -> Result<(Stream, Endpoint, Endpoint), DialError> {
    let limit = options.connect_timeout;
    let begun = Instant::now();
    let reached = timeout(limit, reach(target, options, own, dialling)).await;
    let (stream, peer, local) = reached.unwrap_or(Err(DialError::TimedOut(limit)))?;
    let found;
    let (tcp, (host, port)) = match (stream, &target.address, &peer) {
        (stream, _, _) if target.layers.is_empty(options) => return Ok((stream, peer, local)),
        (Stream::Tcp(tcp), Address::Tcp { host, port }, _) => (tcp, (host, *port)),
        (Stream::Tcp(tcp), Address::Discover { .. }, Endpoint::Tcp(address)) => {
            found = Host::Ip(address.ip());
            (tcp, (&found, address.port()))
        }
        (stream, _, _) => return Ok((stream, peer, local)),
    };
    // Its own allocation, so that plain dials do not carry its state along.
    let laid = Box::pin(target.layers.lay(tcp, (host, port), options, client, begun + limit)).await;
    Ok((laid?, peer, local))
}

/// Connects to `target` itself, or to the proxy before it.
async fn reach(
    target: &Target,
    options: &DialOptions,
    own: &[SocketAddr],
    dialling: &impl Dialling,
) -> Result<(Stream, Endpoint, Endpoint), DialError> {
    match &target.address {
        Address::Stdio => Ok((Stream::stdio(), Endpoint::Stdio, Endpoint::Stdio)),
        Address::Echo => Ok((Stream::echo(), Endpoint::Echo, Endpoint::Echo)),
        Address::Unix(path) => connect_unix(path, dialling).await,
        Address::Systemd(_) => {
            Err(DialError::NoAddress("a socket that was passed to listen on is no target".into()))
        }
        Address::Discover { host, port } => {
            dialling.set_state(State::HostLookup);
            // Its own allocation, so that other dials do not carry its state along.
            let found = Box::pin(discover(host, *port, options, own)).await?;
            dialling.set_state(State::Connecting);
            dialling.host_found(&[found]);
            let connected = connect_tcp(found, options, dialling).await;
            let (stream, peer, local) = connected.map_err(|error| all_failed(vec![error]))?;
            Ok((Stream::Tcp(stream), peer.into(), local.into()))
        }
        Address::Tcp { host, port } => {
            dialling.set_state(State::HostLookup);
            let (host, port) = target.layers.via.as_ref().map_or((host, *port), |via| via.place());
            let found = addresses(host, port).await.map_err(|source| {
                let name = target
                    .layers
                    .via
                    .as_ref()
                    .map_or_else(|| target.address.as_target(), ToString::to_string);
                DialError::Resolve { name, source }
            })?;
            let turn = target.dials.fetch_add(1, Ordering::Relaxed);
            let chosen = choose(found, turn, options.source, own)?;
            dialling.set_state(State::Connecting);
            dialling.host_found(&chosen);
            let (stream, peer, local) = match chosen[..] {
                [address] => connect_tcp(address, options, dialling).await.map_err(|error| vec![error]),
                _ => race(&chosen, |address| connect_tcp(address, options, dialling)).await,
            }
            .map_err(all_failed)?;
            Ok((Stream::Tcp(stream), peer.into(), local.into()))
        }
    }
}

async fn connect_unix(
    path: &PathBuf,
    dialling: &impl Dialling,
) -> Result<(Stream, Endpoint, Endpoint), DialError> {
    dialling.set_state(State::Connecting);
    let stream = loop {
        match UnixStream::connect(path).await {
            // A full backlog, where TCP would wait.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(UNIX_PAUSE).await,
            connected => break connected,
        }
    };
    let stream = stream.map_err(|error| {
        let text = match error.kind() {
            io::ErrorKind::NotFound => "there is no such socket".to_owned(),
            io::ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
            _ => error.to_string(),
        };
        let text = format!("unix:{}: {text}", path.display());
        all_failed(vec![Failure { text, error }])
    })?;
    let peer = Endpoint::Unix(Some(path.as_path().into()));
    Ok((Stream::Unix(stream), peer, Endpoint::Unix(None)))
}

/// Connects to one address; a failure is explained.
async fn connect_tcp(
    address: SocketAddr,
    options: &DialOptions,
    dialling: &impl Dialling,
) -> Result<(TcpStream, SocketAddr, SocketAddr), Failure> {
    let fail = |error: io::Error| Failure { text: explain(address, &error), error };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(fail)?;
    options.kernel.apply(&SockRef::from(&socket), address.is_ipv4()).map_err(fail)?;
    dialling.prepare(&socket).map_err(fail)?;
    if let Some(source) = options.source {
        let bound = socket.bind((source, dialling.source_port()).into());
        bound.map_err(|error| Failure { text: explain_source(source, address, &error), error })?;
    }
    let stream = socket.connect(address).await.map_err(fail)?;
    let local = stream.local_addr().map_err(fail)?;
    if local == address {
        // The kernel chose the target's own port, nobody listened, and TCP let the socket meet itself.
        return Err(fail(io::ErrorKind::ConnectionRefused.into()));
    }
    // The peer is not asked who it is: it may have reset the connection by now.
    Ok((stream, address, local))
}

/// What happened at one address, and how it reads.
struct Failure {
    text: String,
    error: io::Error,
}

fn all_failed(failures: Vec<Failure>) -> DialError {
    let (texts, mut errors): (_, Vec<_>) =
        failures.into_iter().map(|Failure { text, error }| (text, error)).unzip();
    DialError::AllFailed { texts, source: errors.swap_remove(0) }
}

/// Picks the addresses to race: possible ones, of the source's family, at
/// most [`MOST`]; of a longer list another part each time.
fn choose(
    mut found: Vec<SocketAddr>,
    turn: usize,
    source: Option<IpAddr>,
    own: &[SocketAddr],
) -> Result<Vec<SocketAddr>, DialError> {
    if found.is_empty() {
        return Err(DialError::NoAddress("the name has no address".into()));
    }
    if let Some(source) = source {
        found.retain(|address| address.is_ipv4() == source.is_ipv4());
        if found.is_empty() {
            let family = if source.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(DialError::NoAddress(format!("no {family} address, which source {source} needs")));
        }
    }
    if let Some(address) = found.iter().find(|address| is_own(**address, own)) {
        return Err(DialError::OwnListener(*address));
    }
    if let Some(Err(error)) = found.iter().map(|address| connectable(address.ip())).find(Result::is_err) {
        return Err(DialError::NoAddress(error.to_string()));
    }
    if found.len() > MOST {
        let start = turn * MOST % found.len();
        found.rotate_left(start);
        found.truncate(MOST);
    }
    Ok(interleave(found))
}

/// Alternates the families, beginning with the one the resolver put first.
fn interleave(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    if found.len() < 2 {
        return found;
    }
    let first_is_v4 = found.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = found.into_iter().partition(|a| a.is_ipv4() == first_is_v4);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::with_capacity(first.len() + second.len());
    while let Some(address) = first.next().or_else(|| second.next()) {
        mixed.push(address);
        std::mem::swap(&mut first, &mut second);
    }
    mixed
}

/// Tries the addresses in order, the next one [`STAGGER`] after the last or
/// as soon as all that were begun have failed; the first success wins.
async fn race<T, E, F: Future<Output = Result<T, E>>>(
    addresses: &[SocketAddr],
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, Vec<E>> {
    let mut waiting = addresses.iter().copied();
    let mut running: Vec<Pin<Box<F>>> = Vec::new();
    let mut failed = Vec::new();
    loop {
        match waiting.next() {
            Some(address) => running.push(Box::pin(connect(address))),
            None if running.is_empty() => return Err(failed),
            None => {}
        }
        let mut next_is_due = std::pin::pin!(sleep(STAGGER));
        let more = waiting.len() > 0;
        let winner = poll_fn(|cx| {
            let mut i = 0;
            while i < running.len() {
                match running[i].as_mut().poll(cx) {
                    Poll::Ready(Ok(connected)) => return Poll::Ready(Some(connected)),
                    Poll::Ready(Err(error)) => {
                        failed.push(error);
                        drop(running.swap_remove(i));
                    }
                    Poll::Pending => i += 1,
                }
            }
            if running.is_empty() || more && next_is_due.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        });
        if let Some(connected) = winner.await {
            return Ok(connected);
        }
    }
}

fn explain(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("{address} refused the connection"),
        io::ErrorKind::ConnectionReset => format!("{address} reset the connection during the handshake"),
        io::ErrorKind::TimedOut => format!("{address} did not answer"),
        io::ErrorKind::HostUnreachable => format!("{address} is unreachable: no route to the host"),
        io::ErrorKind::NetworkUnreachable => format!("{address} is unreachable: no route to its network"),
        io::ErrorKind::AddrNotAvailable => format!("no local address or free local port to reach {address}"),
        _ if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
            format!("no descriptor left to connect to {address}; raise the limit with `ulimit -n`")
        }
        _ => format!("{address}: {error}"),
    }
}

/// Why the source address cannot be used.
fn explain_source(source: IpAddr, target: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("no free local port from {source}"),
        io::ErrorKind::AddrNotAvailable => format!("{source} is not an address of this machine any more"),
        _ => format!("cannot connect to {target} from {source}: {error}"),
    }
}

/// A dial on its way: announces its failure if nothing else was said.
struct Attempt<'a> {
    record: Option<Arc<Record>>,
    target: &'a Target,
}

impl<'a> Attempt<'a> {
    fn new(bus: &EventBus, target: &'a Target, partner: Option<ConnectionId>) -> Self {
        let record = Record::dialling(bus, &target.name, partner);
        Self { record: Some(record), target }
    }

    fn record(&self) -> &Record {
        self.record.as_ref().expect("taken only when the dial ends")
    }

    fn succeed(mut self, stream: Stream, peer: Endpoint, local: Endpoint) -> Conn {
        let record = self.record.take().expect("taken only when the dial ends");
        record.connected(peer, local);
        Conn::dialled(stream, record)
    }

    fn fail(mut self, error: &str) {
        self.end(error);
    }

    fn end(&mut self, error: &str) {
        if let Some(record) = self.record.take() {
            record.connect_failed(&self.target.address, error);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let killed = self.record.as_ref().is_some_and(|record| record.is_killed());
        let cause = if killed { "the client was disconnected" } else { "the node is stopping" };
        self.end(&format!("given up, because {cause}"));
    }
}

/// Time one address has before the next one is tried beside it (RFC 8305 §8).
const STAGGER: Duration = Duration::from_millis(250);
/// Between attempts at a Unix socket whose backlog is full.
const UNIX_PAUSE: Duration = Duration::from_millis(10);
/// Addresses of one name that are tried in one dial.
const MOST: usize = 8;
const EMFILE: i32 = rustix::io::Errno::MFILE.raw_os_error();
const ENFILE: i32 = rustix::io::Errno::NFILE.raw_os_error();

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate_beginning_with_the_first() {
        let found = list(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]);
        let mixed = list(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]);
        assert_eq!(interleave(found), mixed);
    }

    #[test]
    fn a_long_list_is_tried_in_parts() {
        let found: Vec<SocketAddr> = (1..=20).map(|i| format!("10.0.0.{i}:1").parse().unwrap()).collect();
        let mut seen = std::collections::HashSet::new();
        for turn in 0..20 {
            let chosen = choose(found.clone(), turn, None, &[]).unwrap();
            assert_eq!(chosen.len(), MOST);
            seen.extend(chosen);
        }
        assert_eq!(seen.len(), 20);
    }

    #[test]
    fn impossible_targets_are_named() {
        let fails = |texts: &[&str], source: Option<&str>, own: &[&str]| {
            choose(list(texts), 0, source.map(|s| s.parse().unwrap()), &list(own)).unwrap_err()
        };
        assert!(matches!(fails(&[], None, &[]), DialError::NoAddress(_)));
        assert!(matches!(fails(&["[::1]:1"], Some("127.0.0.1"), &[]), DialError::NoAddress(_)));
        assert!(matches!(fails(&["0.0.0.0:1"], None, &[]), DialError::NoAddress(_)));
        assert!(matches!(fails(&["224.0.0.1:1"], None, &[]), DialError::NoAddress(_)));
        assert!(matches!(fails(&["127.0.0.1:1"], None, &["[::]:1"]), DialError::OwnListener(_)));
    }

    /// Connects after `ok` or fails after `err`, in milliseconds, by the last number of the address.
    async fn scripted(address: SocketAddr, script: &[(u64, bool)]) -> Result<SocketAddr, SocketAddr> {
        let (delay, works) = script[usize::from(address.port()) - 1];
        sleep(Duration::from_millis(delay)).await;
        if works { Ok(address) } else { Err(address) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_is_overtaken_after_a_quarter_second() {
        let begun = Instant::now();
        let script = [(60_000, true), (10, true)];
        let won = race(&list(&["[::1]:1", "1.1.1.1:2"]), |a| scripted(a, &script)).await.unwrap();
        assert_eq!(won.port(), 2);
        assert_eq!(begun.elapsed().as_millis(), 260);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_does_not_wait_for_the_stagger() {
        let begun = Instant::now();
        let script = [(5, false), (5, false), (5, true)];
        let won =
            race(&list(&["1.1.1.1:1", "1.1.1.1:2", "1.1.1.1:3"]), |a| scripted(a, &script)).await.unwrap();
        assert_eq!((won.port(), begun.elapsed().as_millis()), (3, 15));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_address_can_still_win() {
        let script = [(300, true), (200, true)];
        let won = race(&list(&["1.1.1.1:1", "1.1.1.1:2"]), |a| scripted(a, &script)).await.unwrap();
        assert_eq!(won.port(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_each_is_named() {
        let script = [(400, false), (5, false)];
        let failed = race(&list(&["1.1.1.1:1", "1.1.1.1:2"]), |a| scripted(a, &script)).await.unwrap_err();
        assert_eq!(failed.len(), 2);
    }

    #[test]
    fn each_way_to_fail_has_its_own_words() {
        use rustix::io::Errno;
        let address = "192.0.2.1:9".parse().unwrap();
        let errors = [
            Errno::CONNREFUSED,
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
            Errno::TIMEDOUT,
            Errno::CONNRESET,
            Errno::ADDRNOTAVAIL,
            Errno::MFILE,
        ];
        let texts: std::collections::HashSet<_> =
            errors.iter().map(|errno| explain(address, &(*errno).into())).collect();
        assert_eq!(texts.len(), errors.len());
        assert!(texts.iter().all(|text| text.contains("192.0.2.1:9") && !text.contains("os error")));
    }

    #[tokio::test(start_paused = true)]
    async fn one_limit_holds_for_the_lookup_and_all_addresses() {
        // A listener whose queue is full drops what comes, as a black hole does.
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        silent.listen(0).unwrap();
        let address = silent.local_addr().unwrap().as_socket().unwrap();
        let _fills_it = std::net::TcpStream::connect(address).unwrap();
        let bus = EventBus::new();
        let target = Target::new("t".into(), address.to_string().parse().unwrap());
        let begun = Instant::now();
        let options = DialOptions { connect_timeout: Duration::from_secs(2), ..DialOptions::default() };
        let error = dial(&target, &options, &[], &bus, None).await.unwrap_err();
        assert!(matches!(error, DialError::TimedOut(_)), "{error}");
        assert!(begun.elapsed() <= Duration::from_millis(2_001));
        assert!(bus.snapshot().connections.is_empty());
    }
}
