//! Sockets that a service manager has opened for this process (`LISTEN_FDS`).
//! They are taken over once and kept, as the manager keeps them: a listener
//! gets a copy, so that one that closes and comes back finds its socket again.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use listenfd::ListenFd;
use socket2::SockRef;

/// A socket as it was passed.
struct Inherited {
    name: String,
    socket: Result<Socket, String>,
    is_used: AtomicBool,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A copy of a passed socket.
pub(super) enum Copy {
    Tcp(TcpListener),
    Unix(UnixListener),
}

static INHERITED: OnceLock<Vec<Inherited>> = OnceLock::new();

/// Takes over the sockets that a service manager has passed to this process,
/// for listeners at `systemd:NAME`.
///
/// Only the first call counts. It takes `LISTEN_FDS` and `LISTEN_PID` out of the
/// environment, and so belongs before the first thread; without it the first
/// listener at such an address does the same.
pub fn inherit_sockets() {
    INHERITED.get_or_init(take_over);
}

/// The sockets that were taken over and no listener has asked for, by name.
pub(crate) fn unused_sockets() -> Vec<&'static str> {
    let unused = INHERITED.get().into_iter().flatten().filter(|socket| !socket.is_used.load(Relaxed));
    unused.map(|socket| socket.name.as_str()).collect()
}

/// Copies of the sockets called `name`, or of the first if it is empty.
///
/// # Errors
/// `NotFound`, with what there is instead, or that one of them is no listening stream socket.
pub(super) fn copies(name: &str) -> io::Result<Vec<Copy>> {
    let all = inherited();
    let wanted: Vec<_> = match name {
        "" => all.iter().take(1).collect(),
        _ => all.iter().filter(|socket| socket.name == name).collect(),
    };
    if wanted.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, missing(all)));
    }
    wanted.into_iter().map(Inherited::copy).collect()
}

impl Inherited {
    fn copy(&self) -> io::Result<Copy> {
        self.is_used.store(true, Relaxed);
        match &self.socket {
            Ok(Socket::Tcp(listener)) => listener.try_clone().map(Copy::Tcp),
            Ok(Socket::Unix(listener)) => listener.try_clone().map(Copy::Unix),
            Err(problem) => Err(io::Error::new(io::ErrorKind::InvalidInput, problem.clone())),
        }
    }
}

fn inherited() -> &'static [Inherited] {
    INHERITED.get_or_init(take_over)
}

fn take_over() -> Vec<Inherited> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut passed = ListenFd::from_env();
    let count = passed.len().min(MOST);
    let take = |place| {
        // systemd's own word for a socket without a name.
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned();
        Inherited { name, socket: take(&mut passed, place), is_used: AtomicBool::new(false) }
    };
    (0..count).map(take).collect()
}

fn take(passed: &mut ListenFd, place: usize) -> Result<Socket, String> {
    let socket = match passed.take_tcp_listener(place) {
        Ok(Some(listener)) => Socket::Tcp(listener),
        _ => match passed.take_unix_listener(place) {
            Ok(Some(listener)) => Socket::Unix(listener),
            _ => return Err("what was passed is no stream socket; use ListenStream=".into()),
        },
    };
    let descriptor = match &socket {
        Socket::Tcp(listener) => listener.as_fd(),
        Socket::Unix(listener) => listener.as_fd(),
    };
    match SockRef::from(&descriptor).is_listener() {
        Ok(true) => Ok(socket),
        _ => Err("the socket that was passed does not listen; use Accept=no".into()),
    }
}

fn missing(all: &[Inherited]) -> String {
    if all.is_empty() {
        return "no socket was passed to this process".into();
    }
    let names: Vec<_> = all.iter().map(|socket| socket.name.escape_debug().to_string()).collect();
    format!("of the sockets that were passed none is called so, but {}", names.join(", "))
}

/// More than any unit has; a number from the environment is not trusted with memory.
const MOST: usize = 1_024;
