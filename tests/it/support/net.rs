//! Sockets that do as they are told, and networks of namespaces.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::PATIENCE;
use super::process::{NodeProcess, Running, binary, run};

/// A listener on a free port of loopback.
pub(crate) fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A port that nobody listens on, kept from others for as long as the guard lives.
pub(crate) fn hold_free_port() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Connects, with limits on every later call.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect(address).unwrap())
}

/// Accepts one connection, with limits on every later call.
pub(crate) fn accept_one(listener: &TcpListener) -> TcpStream {
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    let listener = listener.try_clone().unwrap();
    thread::spawn(move || send.send(listener.accept()));
    patient(receive.recv_timeout(PATIENCE).expect("nobody connected").unwrap().0)
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Closes with a reset.
pub(crate) fn abort(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// How a stream of bytes came to its end, as a reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Fin,
    Reset,
    /// Nothing more came within the limit.
    Open,
}

/// Reads until the end.
pub(crate) fn read_all(mut stream: &TcpStream) -> (Vec<u8>, Ending) {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (bytes, Ending::Fin),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return (bytes, Ending::Reset),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return (bytes, Ending::Open);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Bytes that tell their place: the `count` from `offset` on of the stream `seed`.
pub(crate) fn pattern(seed: u64, offset: u64, count: usize) -> Vec<u8> {
    (offset..offset + count as u64)
        .map(|i| {
            let mut x = (i / 8).wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (x ^ (x >> 31)).to_le_bytes()[(i % 8) as usize]
        })
        .collect()
}

/// Looks again and again until `what` is true.
pub(crate) fn wait_until(what: &str, limit: Duration, mut is: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
    begun.elapsed()
}

/// A network namespace of this test, with loopback up.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    pub(crate) fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sn{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Runs `ip` in it.
    pub(crate) fn ip(&self, arguments: &[&str]) {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments);
        ip(&all);
    }

    /// A command that will run in it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// A node in it, with JSON events.
    pub(crate) fn node(&self, arguments: &[&str]) -> NodeProcess {
        NodeProcess::spawn(self.command(binary()).args(["--log-format", "json"]).args(arguments))
    }

    /// A Python program in it, which talks over its standard streams.
    pub(crate) fn python(&self, code: &str) -> Running {
        let mut command = self.command("python3");
        Running::start(command.args(["-u", "-c", code]).stdin(Stdio::piped()).stdout(Stdio::piped()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    let out = run(Command::new("ip").args(arguments), &[]);
    assert!(out.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Two networks that only a third namespace joins: clients in 10.81.1.0/24,
/// servers in 10.81.2.0/24, the node at .1 of both.
pub(crate) fn two_networks() -> (Namespace, Namespace, Namespace) {
    let (clients, node, servers) = (Namespace::new("a"), Namespace::new("n"), Namespace::new("b"));
    for (other, end, net) in [(&clients, "left", "10.81.1"), (&servers, "right", "10.81.2")] {
        node.ip(&["link", "add", end, "type", "veth", "peer", "name", "eth", "netns", &other.name]);
        node.ip(&["address", "add", &format!("{net}.1/24"), "dev", end]);
        node.ip(&["link", "set", end, "up"]);
        other.ip(&["address", "add", &format!("{net}.2/24"), "dev", "eth"]);
        other.ip(&["link", "set", "eth", "up"]);
    }
    (clients, node, servers)
}

/// The port a process listens on, asked of the kernel.
pub(crate) fn listening_port(pid: u32) -> u16 {
    let mut port = None;
    wait_until("it listens", PATIENCE, || {
        let sockets: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .map(|links| links.flatten().filter_map(|link| std::fs::read_link(link.path()).ok()).collect())
            .unwrap_or_default();
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        port = table.lines().skip(1).find_map(|row| {
            let fields: Vec<_> = row.split_ascii_whitespace().collect();
            let owned =
                sockets.iter().any(|socket| socket.as_os_str() == format!("socket:[{}]", fields[9]).as_str());
            let listens = fields[3] == "0A" && owned;
            listens.then(|| u16::from_str_radix(fields[1].split_once(':').unwrap().1, 16).unwrap())
        });
        port.is_some()
    });
    port.unwrap()
}
