//! [`TcpServer`]: listens and hands out [`TcpSocket`]s, by a signal, by
//! `next_pending_connection().await`, or both. One task accepts for all of its
//! addresses; each socket has its own.

mod accept;
mod incoming;
mod signals;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use self::incoming::Incoming;
use self::signals::Signals;
pub use self::signals::{AcceptError, AcceptRejected, NewConnection};
use super::access::AccessList;
use super::changes::Changes;
use super::error::{SocketError, SocketErrorKind};
use super::inherited::Copy;
use super::listener::{BindError, Listener, bind, take_over};
use super::options::ListenOptions;
use super::socket::{SocketOptions, TcpSocket};
use crate::address::Address;
use crate::event::{ConnectionId, Endpoint};
use crate::signal::{Context, Owner, SignalRef, SlotPanicked};

/// Options of a [`TcpServer`].
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The backlog, keepalive until a socket's own options are applied, and
    /// `access` and `max_connections`, which hold beside those below.
    pub listen: ListenOptions,
    /// Clients accepted and not taken yet; at so many accepting stops, and
    /// others wait in the backlog. 30, at least 1.
    pub max_pending_connections: usize,
    /// Sockets at once, pending ones included; the smaller of this and that of `listen`.
    /// No limit but that of descriptors.
    pub max_connections: Option<usize>,
    /// Who may connect, where `listen` permits it too; others are reset. Clients of a
    /// Unix socket have no address, so there it is an error.
    pub access: AccessList,
    /// Options of the sockets it hands out. `source`, `connect_timeout` and
    /// `reconnect` matter only if such a socket is connected again.
    pub socket: SocketOptions,
}

/// Listens for clients, and hands each out as a [`TcpSocket`].
///
/// It is a handle: clones are the same server. When the last one is dropped
/// it stops to listen, and resets clients that were not taken; sockets that
/// were taken live on.
///
/// ```
/// use signal_node::{TcpServer, TcpSocket, testing::SignalSpy};
/// use std::time::Duration;
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let server = TcpServer::bind("127.0.0.1:0").await?;
/// // As with Qt: a slot of new_connection takes the socket, and connects slots of its own.
/// server.new_connection().connect(|client| {
///     let Some(socket) = client.take() else { return };
///     socket.ready_read().connect_weak(&socket, |socket, _| {
///         // An echo that gives up a client who does not read what it gets back.
///         if socket.try_write(&socket.read_all()).is_err() {
///             socket.abort();
///         }
///     }).detach();
///     // Owns the socket, and goes with its end.
///     socket.disconnected().connect({ let socket = socket.clone(); move |_| drop(socket.state()) }).detach();
/// }).detach();
///
/// let client = TcpSocket::connect(server.server_address().unwrap()).await?;
/// client.write(b"hello").await?;
/// client.wait_for_ready_read(Duration::from_secs(5)).await?;
/// assert_eq!(client.read_all(), b"hello");
/// client.close().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct TcpServer {
    handle: Arc<Handle>,
}

/// Dropped with the last [`TcpServer`] of its kind.
struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    options: ServerOptions,
    socket_options: Arc<SocketOptions>,
    inner: Mutex<Inner>,
    /// Woken whenever something changed that the accepting task or callers wait for.
    changed: Changes,
    places: Arc<Semaphore>,
    signals: OnceLock<Box<Signals>>,
    own: Weak<Self>,
    /// The accepting task, while it listens. Ended by `close` and by the last handle.
    task: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct Inner {
    addresses: Vec<Endpoint>,
    is_listening: bool,
    /// How often it has begun or stopped to listen.
    generation: u64,
    is_paused: bool,
    max_pending: usize,
    pending: VecDeque<TcpSocket>,
    /// Slots of `new_connection` run; what they take starts when they are done.
    is_announcing: bool,
    taken: Vec<TcpSocket>,
    runtime: Option<Runtime>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: ListenOptions::default(),
            max_pending_connections: 30,
            max_connections: None,
            access: AccessList::default(),
            socket: SocketOptions::default(),
        }
    }
}

impl TcpServer {
    /// A server that does not listen yet.
    pub fn new(options: ServerOptions) -> Self {
        let limits = [options.max_connections, options.listen.max_connections];
        let most = limits.into_iter().flatten().fold(Semaphore::MAX_PERMITS, usize::min);
        let max_pending = options.max_pending_connections.max(1);
        let shared = Arc::new_cyclic(|own| Shared {
            socket_options: Arc::new(options.socket.clone()),
            inner: Mutex::new(Inner { max_pending, ..Inner::default() }),
            changed: Changes::default(),
            places: Arc::new(Semaphore::new(most)),
            signals: OnceLock::new(),
            own: own.clone(),
            task: Mutex::default(),
            options,
        });
        Self { handle: Arc::new(Handle { shared }) }
    }

    /// A server with default options that listens on `address`.
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O.
    pub async fn bind(address: impl fmt::Display) -> Result<Self, BindError> {
        let server = Self::new(ServerOptions::default());
        server.listen(address).await?;
        Ok(server)
    }

    /// Begins to listen on `address`: `9000` or `[::]:9000` for all
    /// interfaces, `127.0.0.1:0` for a port the kernel chooses, a name for all
    /// its addresses, `unix:/path`.
    ///
    /// Whoever holds a port already is not pushed aside, and no second server
    /// can share it (SO_REUSEADDR is set, SO_REUSEPORT never).
    ///
    /// # Errors
    /// [`BindError`]; so it is for a server that listens already, which goes on.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O.
    pub async fn listen(&self, address: impl fmt::Display) -> Result<(), BindError> {
        let shown = address.to_string();
        let refuse = |source: io::Error, hint: Option<String>| BindError {
            address: shown.clone(),
            endpoint: "server".into(),
            hint,
            source,
        };
        let invalid = |error: String| refuse(io::Error::new(io::ErrorKind::InvalidInput, error), None);
        let address: Address = shown.parse().map_err(|error| invalid(format!("{error}")))?;
        address.check_listen().map_err(|error| invalid(error.to_string()))?;
        if address == Address::Stdio {
            return Err(invalid("a server cannot listen on standard input and output".into()));
        }
        let already = |error| refuse(error, Some("close it first".into()));
        if self.is_listening() {
            return Err(already(listens_already()));
        }
        let listeners = bind("server", &address, &self.shared().options.listen).await?;
        let options = &self.shared().options;
        let has_access = !(options.access.is_empty() && options.listen.access.is_empty());
        if has_access && listeners.iter().any(|listener| matches!(listener.local(), Endpoint::Unix(_))) {
            return Err(invalid("access knows networks, and clients of a Unix socket have none".into()));
        }
        self.serve(listeners).map_err(already)
    }

    /// Takes over a socket that listens already, of systemd for example.
    ///
    /// [`ServerOptions::listen`] holds as for [`listen`](Self::listen): its backlog
    /// and keepalive replace those that the socket had.
    ///
    /// # Errors
    /// Those of the kernel.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O.
    pub fn from_std(listener: std::net::TcpListener, options: ServerOptions) -> io::Result<Self> {
        let listener = take_over(Copy::Tcp(listener), &options.listen)?;
        let server = Self::new(options);
        server.serve(vec![listener])?;
        Ok(server)
    }

    fn serve(&self, listeners: Vec<Listener>) -> io::Result<()> {
        let shared = self.shared();
        let runtime = Runtime::current();
        // Held until the task is there, so that a close in between ends it.
        let mut task = shared.task.lock().unwrap_or_else(PoisonError::into_inner);
        let mut inner = shared.lock();
        if inner.is_listening {
            return Err(listens_already());
        }
        inner.is_listening = true;
        inner.generation += 1;
        inner.addresses = listeners.iter().map(Listener::local).collect();
        inner.runtime = Some(runtime.clone());
        drop(inner);
        task.spawn_on(accept::run(Arc::clone(shared), listeners), &runtime);
        Ok(())
    }

    /// Stops to listen and says how many clients that were accepted but not
    /// taken were reset. The server may listen again.
    ///
    /// Cancel safe once polled.
    pub async fn close(&self) -> usize {
        let (mut task, dropped) = {
            // Held until it no longer listens, so that no listen comes in between.
            let mut held = self.shared().task.lock().unwrap_or_else(PoisonError::into_inner);
            held.abort_all();
            (std::mem::take(&mut *held), self.shared().stop(None))
        };
        while task.join_next().await.is_some() {}
        dropped
    }

    /// Waits for a client and takes its socket, the oldest first; `None` says
    /// that the server does not listen and none is left.
    ///
    /// Several callers share the clients. Cancel safe.
    pub async fn next_pending_connection(&self) -> Option<TcpSocket> {
        self.shared()
            .until(|inner| match inner.pending.pop_front() {
                Some(socket) => Some(Some(socket)),
                None if inner.is_listening => None,
                None => Some(None),
            })
            .await
            .inspect(|socket| self.shared().start(socket))
    }

    /// The clients from now on, as a stream of their sockets that ends when the
    /// server does: [`next_pending_connection`](Self::next_pending_connection) again and again.
    ///
    /// It holds a handle, so the server listens at least as long as it lives.
    ///
    /// ```
    /// use signal_node::{TcpServer, TcpSocket};
    /// use tokio_stream::StreamExt;
    ///
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// let server = TcpServer::bind("127.0.0.1:0").await?;
    /// # let mut client = TcpSocket::connect(server.server_address().unwrap()).await?;
    /// let mut clients = server.incoming();
    /// while let Some(socket) = clients.next().await {
    ///     socket.write(b"good morning\n").await?;
    ///     server.close().await; // one is enough
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn incoming(&self) -> Incoming {
        Incoming::new(self.clone())
    }

    /// Takes the oldest client that waits to be taken, if there is one.
    pub fn take_pending_connection(&self) -> Option<TcpSocket> {
        let socket = self.shared().lock().pending.pop_front();
        socket.inspect(|socket| self.shared().start(socket))
    }

    /// Waits until a client can be taken.
    ///
    /// # Errors
    /// [`TimedOut`](SocketErrorKind::TimedOut) after `limit`;
    /// [`NotConnected`](SocketErrorKind::NotConnected) if the server does not listen. Cancel safe.
    pub async fn wait_for_new_connection(&self, limit: Duration) -> Result<(), SocketError> {
        let waiting = self.shared().until(|inner| match inner.pending.is_empty() {
            false => Some(Ok(())),
            true if inner.is_listening => None,
            true => Some(Err(SocketError::new(SocketErrorKind::NotConnected, "the server does not listen"))),
        });
        timeout(limit, waiting).await.unwrap_or_else(|_elapsed| {
            let text = format!("no client within {}", humantime::format_duration(limit));
            Err(SocketError::new(SocketErrorKind::TimedOut, text))
        })
    }

    /// Tells whether a client waits to be taken.
    pub fn has_pending_connections(&self) -> bool {
        !self.shared().lock().pending.is_empty()
    }

    /// Sets how many clients may wait to be taken. Those that do stay.
    pub fn set_max_pending_connections(&self, count: usize) {
        self.shared().lock().max_pending = count.max(1);
        self.shared().changed.tell();
    }

    /// Stops to accept until [`resume_accepting`](Self::resume_accepting):
    /// nothing else undoes it, not taking a client and not listening anew.
    /// Clients wait in the backlog and believe that they are connected.
    pub fn pause_accepting(&self) {
        self.shared().lock().is_paused = true;
        self.shared().changed.tell();
    }

    /// Accepts again.
    pub fn resume_accepting(&self) {
        self.shared().lock().is_paused = false;
        self.shared().changed.tell();
    }

    /// Tells whether it listens.
    pub fn is_listening(&self) -> bool {
        self.shared().lock().is_listening
    }

    /// What it listens on, with its real port; the first, if `address` stood for several.
    pub fn server_address(&self) -> Option<SocketAddr> {
        self.addresses().into_iter().find_map(|address| match address {
            Endpoint::Tcp(address) => Some(address),
            _ => None,
        })
    }

    /// All it listens on.
    pub fn addresses(&self) -> Vec<Endpoint> {
        self.shared().lock().addresses.clone()
    }

    /// A client was accepted, and waits to be taken. Emitted once for each, by
    /// the server's task, before it accepts another.
    ///
    /// A slot that wants the client [takes](NewConnection::take) it. Its socket
    /// begins to work when all slots have run, so that slots connected to the
    /// socket in there miss nothing.
    pub fn new_connection(&self) -> SignalRef<'_, NewConnection> {
        self.shared().signals().new_connection.view()
    }

    /// Accepting failed, for want of descriptors for example; it is tried
    /// again every 100 ms. That one client was gone again is not among these.
    pub fn accept_error(&self) -> SignalRef<'_, AcceptError> {
        self.shared().signals().accept_error.view()
    }

    /// A client was reset because of [`ServerOptions::access`].
    pub fn accept_rejected(&self) -> SignalRef<'_, AcceptRejected> {
        self.shared().signals().accept_rejected.view()
    }

    /// A slot of this server panicked; the others still ran.
    pub fn slot_panicked(&self) -> SignalRef<'_, SlotPanicked> {
        self.shared().signals().slot_panicked.view()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signals(&self) -> &Signals {
        self.signals.get_or_init(|| {
            let own: Weak<dyn Owner> = self.own.clone();
            Box::new(Signals::new(&own))
        })
    }

    fn listening(&self) -> Option<&Signals> {
        self.signals.get().map(|signals| &**signals)
    }

    /// Looks again after each change, until `look` finds something.
    async fn until<T>(&self, mut look: impl FnMut(&mut Inner) -> Option<T>) -> T {
        self.changed.until(|| look(&mut self.lock())).await
    }

    /// Takes the client with this id, if it has not been taken.
    fn take(&self, connection: ConnectionId) -> Option<TcpSocket> {
        let mut inner = self.lock();
        let at = inner.pending.iter().position(|socket| socket.connection() == connection)?;
        let socket = inner.pending.remove(at);
        drop(inner);
        socket.inspect(|socket| self.start(socket))
    }

    /// Starts a socket that was taken: now, or when the slots of `new_connection` have run.
    fn start(&self, socket: &TcpSocket) {
        let mut inner = self.lock();
        if inner.is_announcing {
            inner.taken.push(socket.clone());
        } else if let Some(runtime) = inner.runtime.clone() {
            drop(inner);
            socket.start(&runtime);
        }
        // There is room for another pending client.
        self.changed.tell();
    }

    /// Is no longer listening, if that is the listening meant; resets whoever was not taken and says how many.
    fn stop(&self, only: Option<u64>) -> usize {
        let mut inner = self.lock();
        if only.is_some_and(|generation| generation != inner.generation) {
            return 0;
        }
        inner.is_listening = false;
        inner.generation += 1;
        inner.addresses.clear();
        inner.is_announcing = false;
        let (pending, taken) = (std::mem::take(&mut inner.pending), std::mem::take(&mut inner.taken));
        let runtime = inner.runtime.clone();
        drop(inner);
        if let Some(runtime) = runtime {
            taken.iter().for_each(|socket| socket.start(&runtime));
        }
        self.changed.tell();
        pending.len()
    }
}

impl Owner for Shared {
    fn slot_connected(&self) {}

    fn slot_panicked(&self, panicked: SlotPanicked) {
        if let Some(signals) = self.listening() {
            signals.slot_panicked.emit(&panicked);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.task.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        self.shared.stop(None);
    }
}

fn listens_already() -> io::Error {
    io::Error::other("this server listens already")
}

/// Keeps nothing alive; made by [`Context::downgrade`].
#[derive(Clone)]
pub struct WeakTcpServer(Weak<Handle>);

impl Context for TcpServer {
    type Weak = WeakTcpServer;

    fn downgrade(&self) -> WeakTcpServer {
        WeakTcpServer(Arc::downgrade(&self.handle))
    }

    fn upgrade(weak: &WeakTcpServer) -> Option<Self> {
        weak.0.upgrade().map(|handle| Self { handle })
    }
}

impl fmt::Debug for TcpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.shared().lock();
        f.debug_struct("TcpServer")
            .field("addresses", &inner.addresses)
            .field("pending", &inner.pending.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WeakTcpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakTcpServer")
    }
}
