//! The life of a socket on its task: dial, converse, and perhaps dial again.

use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::time::{Instant, timeout};

use super::core::{Closing, Core, Inner};
use super::drive::converse;
use super::options::SocketOptions;
use super::signals::{ConnectFailed, Connected, ErrorOccurred, HostFound, Reconnecting};
use crate::address::Address;
use crate::event::{Endpoint, State};
use crate::net::dial::{DialError, Dialling, Target, connect};
use crate::net::error::{SocketError, SocketErrorKind};
use crate::net::transport::Stream;

/// Runs a socket until it rests: over, and not to be connected again.
pub(super) async fn run(core: Arc<Core>) {
    let _guard = Guard(&core);
    let mut stream = core.lock().accepted.take();
    let was_accepted = stream.is_some();
    let (mut target, mut attempt) = (None, 0);
    loop {
        if stream.is_none()
            && let Some(next) = core.lock().next.take()
        {
            target = Some(next);
        }
        let connected = match (stream.take(), &target) {
            (Some(accepted), _) => Some(accepted),
            // Its own allocation: an established socket does not carry the state of its dial along.
            (None, Some(target)) => Box::pin(dial(&core, target)).await,
            (None, None) => None,
        };
        if let Some(stream) = connected {
            let begun = Instant::now();
            converse(&core, stream).await;
            if core.options.reconnect.is_some_and(|reconnect| begun.elapsed() >= reconnect.max) {
                attempt = 0;
            }
        }
        attempt += 1;
        if !goes_on(&core, target.as_ref(), &mut attempt).await {
            break;
        }
    }
    if let Some(signals) = core.listening().filter(|_| was_accepted) {
        signals.clear();
    }
}

/// Has the socket end where its runtime drops the task on its way: no slot runs any more, but nobody waits for ever.
struct Guard<'a>(&'a Core);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        if !inner.is_running {
            return;
        }
        inner.state = State::Unconnected;
        (inner.is_dialling, inner.next) = (false, None);
        inner.unsent += inner.write.len() as u64;
        inner.write.clear();
        let text = "the runtime of the socket was shut down";
        inner.error = Some(SocketError::new(SocketErrorKind::Other, text));
        let (connection, outcome) = (inner.id, inner.outcome());
        inner.rest();
        drop(inner);
        self.0.has_ended(connection, outcome);
    }
}

/// Decides whether there is another dial, and waits until it is due.
async fn goes_on(core: &Core, target: Option<&Address>, attempt: &mut u32) -> bool {
    let delay = {
        let mut inner = core.lock();
        if inner.next.is_some() {
            *attempt = 0;
            return true;
        }
        let again =
            core.options.reconnect.filter(|_| target.is_some() && inner.closing < Closing::Gracefully);
        let random = RandomState::new().hash_one(inner.id);
        match again.and_then(|reconnect| reconnect.wait(*attempt, random)) {
            Some(delay) => delay,
            None => {
                inner.rest();
                drop(inner);
                core.tell();
                return false;
            }
        }
    };
    if let Some(signals) = core.listening() {
        signals.reconnecting.emit(&Reconnecting { attempt: *attempt, delay });
    }
    let ordered = poll_fn(|cx| {
        poll_order(core, cx, |inner| inner.closing >= Closing::Gracefully || inner.next.is_some())
    });
    let _ = timeout(delay, ordered).await;
    let mut inner = core.lock();
    if inner.next.is_some() {
        *attempt = 0;
        return true;
    }
    if inner.closing >= Closing::Gracefully {
        inner.rest();
        drop(inner);
        core.tell();
        return false;
    }
    inner.reset();
    true
}

impl Inner {
    /// The task ends; what is asked from now on starts another.
    fn rest(&mut self) {
        self.is_running = false;
        self.task_waker = None;
        self.place = None;
    }
}

/// Waits for something that the handles may ask for.
fn poll_order(core: &Core, cx: &mut Context<'_>, is_asked: impl Fn(&Inner) -> bool) -> Poll<()> {
    let mut inner = core.lock();
    inner.listen(cx.waker());
    if is_asked(&inner) { Poll::Ready(()) } else { Poll::Pending }
}

/// One dial, from its first state to `connected` or `connect_failed`.
async fn dial(core: &Core, address: &Address) -> Option<Stream> {
    let options = core.options.dial();
    let target = Target::new("socket".into(), address.clone());
    let told = ForSocket(core);
    let given_up = poll_fn(|cx| poll_order(core, cx, |inner| inner.closing >= Closing::Abort));
    let outcome = tokio::select! {
        biased;
        () = given_up => {
            Err(SocketError::new(SocketErrorKind::Aborted, format!("the dial of {} was given up", address.as_target())))
        }
        outcome = connect(&target, &options, &[], &told, None) => outcome.map_err(|error| explain(address, error)),
    };
    match outcome {
        Ok((stream, peer, local)) => {
            succeed(core, peer, local);
            Some(stream)
        }
        Err(error) => {
            fail(core, address, error);
            None
        }
    }
}

fn explain(address: &Address, error: DialError) -> SocketError {
    SocketError::new(error.kind(), format!("cannot connect to {}: {error}", address.as_target()))
}

fn succeed(core: &Core, peer: Endpoint, local: Endpoint) {
    let mut inner = core.lock();
    inner.ends = Some((peer.clone(), local.clone()));
    inner.begun = Instant::now();
    inner.is_dialling = false;
    let connection = inner.id;
    drop(inner);
    core.set_state(State::Connected);
    if let Some(signals) = core.listening() {
        signals.connected.emit_with(|| Connected { connection, peer, local });
    }
}

fn fail(core: &Core, address: &Address, error: SocketError) {
    let mut inner = core.lock();
    inner.is_dialling = false;
    inner.is_ending = true;
    inner.error = Some(error.clone());
    inner.unsent = inner.write.len() as u64;
    inner.write.clear();
    // At once, so that no write comes in between.
    let from = std::mem::replace(&mut inner.state, State::Unconnected);
    let (connection, unsent, outcome) = (inner.id, inner.unsent, inner.outcome());
    drop(inner);
    core.tell();
    core.state_changed(connection, from, State::Unconnected);
    if let Some(signals) = core.listening() {
        if error.kind() != SocketErrorKind::Aborted {
            signals.error_occurred.emit_with(|| ErrorOccurred { connection, error: error.clone() });
        }
        let target = || address.as_target().into();
        signals.connect_failed.emit_with(|| ConnectFailed { connection, target: target(), error, unsent });
    }
    core.has_ended(connection, outcome);
}

/// The dial of a socket: tells its slots, and sets its options.
struct ForSocket<'a>(&'a Core);

impl Dialling for ForSocket<'_> {
    fn set_state(&self, state: State) {
        self.0.set_state(state);
    }

    fn host_found(&self, addresses: &[SocketAddr]) {
        if let Some(signals) = self.0.listening() {
            let connection = self.0.lock().id;
            signals.host_found.emit_with(|| HostFound { connection, addresses: addresses.into() });
        }
    }

    fn prepare(&self, socket: &tokio::net::TcpSocket) -> io::Result<()> {
        let options: &SocketOptions = &self.0.options;
        let socket = SockRef::from(socket);
        if options.source.is_some_and(|source| source.port() != 0) {
            // The last connection from that port may not be forgotten yet.
            socket.set_reuse_address(true)?;
        }
        options.apply(&socket, socket.domain()? == socket2::Domain::IPV4)
    }

    fn source_port(&self) -> u16 {
        self.0.options.source.map_or(0, |source| source.port())
    }
}
