//! For tests of the library's sockets: raw peers, traces of signals, and tests
//! that need a process of their own.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use signal_node::{SocketOptions, TcpSocket};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::PATIENCE;
use super::process::run;

pub(crate) const MOMENT: Duration = Duration::from_millis(100);

/// What `future` yields, within the limit of every wait.
pub(crate) async fn value<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it takes too long")
}

/// A raw listener on a free port of loopback.
pub(crate) async fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A connected socket and its raw peer.
pub(crate) async fn joined() -> (TcpSocket, TcpStream) {
    joined_with(SocketOptions::default()).await
}

pub(crate) async fn joined_with(options: SocketOptions) -> (TcpSocket, TcpStream) {
    let (listener, address) = bound().await;
    let socket = TcpSocket::with_options(options);
    socket.connect_to_host(address).unwrap();
    let peer = value(listener.accept()).await.unwrap().0;
    socket.wait_for_connected(PATIENCE).await.unwrap();
    (socket, peer)
}

/// A listener whose backlog is full, so that nobody else gets an answer.
pub(crate) async fn stuck_listener() -> (socket2::Socket, Vec<TcpStream>, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    (socket, waiting, address)
}

/// The signals of a socket, in the order they were emitted.
#[derive(Clone, Default)]
pub(crate) struct Trace {
    lines: Arc<Mutex<Vec<String>>>,
    more: Arc<Notify>,
}

impl Trace {
    pub(crate) fn of(socket: &TcpSocket) -> Self {
        let trace = Self::default();
        let note = || {
            let trace = trace.clone();
            move |line: String| trace.note(line)
        };
        let state = |state| serde_json::to_value(state).unwrap().as_str().unwrap().to_owned();
        let n = note();
        socket.state_changed().connect(move |event| n(state(event.to))).detach();
        let n = note();
        socket.host_found().connect(move |event| n(format!("host_found {}", event.addresses.len()))).detach();
        let n = note();
        socket.connected().connect(move |_| n("connected()".into())).detach();
        let n = note();
        socket.connect_failed().connect(move |_| n("connect_failed()".into())).detach();
        let n = note();
        socket.ready_read().connect(move |event| n(format!("ready_read {}", event.available))).detach();
        let n = note();
        socket.bytes_written().connect(move |event| n(format!("bytes_written {}", event.bytes))).detach();
        let n = note();
        socket.read_finished().connect(move |event| n(format!("read_finished {}", event.received))).detach();
        let n = note();
        socket
            .error_occurred()
            .connect(move |event| n(format!("error_occurred {:?}", event.error.kind())))
            .detach();
        let n = note();
        socket.disconnected().connect(move |event| n(format!("disconnected {}", event.reason))).detach();
        let n = note();
        socket.reconnecting().connect(move |event| n(format!("reconnecting {}", event.attempt))).detach();
        trace
    }

    fn note(&self, line: String) {
        self.lines.lock().unwrap().push(line);
        self.more.notify_waiters();
    }

    /// Waits for a line that begins like this, and takes all up to it.
    pub(crate) async fn until(&self, line: &str) -> Vec<String> {
        let looking = async {
            loop {
                let more = self.more.notified();
                {
                    let mut lines = self.lines.lock().unwrap();
                    if let Some(at) = lines.iter().position(|seen| seen.starts_with(line)) {
                        return lines.drain(..=at).collect();
                    }
                }
                more.await;
            }
        };
        let found = timeout(PATIENCE, looking).await;
        found.unwrap_or_else(|_| panic!("no {line} in {:?}", self.lines.lock().unwrap()))
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }
}

/// Runs a test of this binary, which is ignored otherwise, in a process of its
/// own, with something to know in `TEST_INPUT`.
pub(crate) fn in_own_process(test: &str, input: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    let out = run(command.env("TEST_INPUT", input), &[]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("1 passed"), "{test} in its own process:\n{text}");
    text
}

/// Reads until as many bytes have come.
pub(crate) async fn read_count(socket: &TcpSocket, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        if socket.bytes_available() == 0 {
            socket.wait_for_ready_read(PATIENCE).await.unwrap();
        }
        bytes.extend(socket.read_all());
    }
    bytes
}

/// A socket that dials again from its own slot of `disconnected`, and who it dials.
pub(crate) async fn redialling() -> (TcpListener, TcpSocket) {
    let (listener, address) = bound().await;
    let socket = TcpSocket::new();
    let again = move |socket: &TcpSocket, _: &_| socket.connect_to_host(address).unwrap();
    socket.disconnected().connect_weak(&socket, again).detach();
    socket.connect_to_host(address).unwrap();
    (listener, socket)
}
