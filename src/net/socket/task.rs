//! The life of a socket on its task: dial, converse, and perhaps dial again.

use std::future::{Future, poll_fn};
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
use crate::event::{Endpoint, State};
use crate::net::dial::{Dialling, Target, connect};
use crate::net::error::{Phase, SocketError, SocketErrorKind};
use crate::net::transport::Stream;

/// Runs a socket until it rests: over, and not to be connected again.
pub(super) fn run(core: Arc<Core>) -> impl Future<Output = ()> + Send {
    // From now on, and not from the first poll, to which a runtime that goes may not come.
    let guard = Guard { core, is_over: false };
    async move {
        let mut guard = guard;
        live(&guard.core).await;
        guard.is_over = true;
    }
}

async fn live(core: &Core) {
    let mut stream = core.lock().accepted.take();
    let mut attempt = 0;
    loop {
        let connected = match stream.take() {
            Some(accepted) => Some(accepted),
            None => match next(core) {
                // Its own allocation: an established socket does not carry the state of its dial along.
                Some(target) => Box::pin(dial(core, &target, attempt)).await,
                None => None,
            },
        };
        if let Some(stream) = connected {
            let begun = Instant::now();
            converse(core, stream).await;
            if core.options.reconnect.is_some_and(|reconnect| begun.elapsed() >= reconnect.max) {
                attempt = 0;
            }
        }
        attempt += 1;
        if !goes_on(core, &mut attempt).await {
            break;
        }
    }
}

/// What to dial now.
fn next(core: &Core) -> Option<Arc<Target>> {
    let mut inner = core.lock();
    inner.is_asked = false;
    inner.target.clone()
}

/// Has the socket end where its runtime drops the task on its way: no slot runs any more, but nobody waits for ever.
struct Guard {
    core: Arc<Core>,
    /// The task has come to its own end. Another one may be at work by now.
    is_over: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut inner = self.core.lock();
        inner.state = State::Unconnected;
        (inner.is_dialling, inner.is_asked) = (false, false);
        inner.unsent += inner.write.len() as u64;
        inner.write.clear();
        let text = "the runtime of the socket was shut down";
        inner.error = Some(SocketError::new(SocketErrorKind::Other, text));
        // Of a client that no task has come to.
        let unserved = inner.accepted.take();
        let (connection, outcome) = (inner.id, inner.outcome());
        inner.rest();
        drop(inner);
        drop(unserved);
        self.core.let_go();
        self.core.has_ended(connection, outcome);
    }
}

/// Decides whether there is another dial, and waits until it is due.
async fn goes_on(core: &Core, attempt: &mut u32) -> bool {
    let delay = {
        let mut inner = core.lock();
        if inner.is_asked {
            *attempt = 0;
            return true;
        }
        let again = core.options.reconnect.filter(|_| inner.comes_back());
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
    let ordered =
        poll_fn(|cx| poll_order(core, cx, |inner| inner.closing >= Closing::Gracefully || inner.is_asked));
    let _ = timeout(delay, ordered).await;
    let mut inner = core.lock();
    if inner.is_asked {
        *attempt = 0;
        return true;
    }
    if inner.closing >= Closing::Gracefully {
        inner.rest();
        drop(inner);
        core.tell();
        return false;
    }
    inner.begin_again();
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
async fn dial(core: &Core, target: &Target, attempt: u32) -> Option<Stream> {
    let options = core.options.dial();
    let shown = target.address.as_target();
    let told = ForSocket(core);
    let given_up = poll_fn(|cx| poll_order(core, cx, |inner| inner.closing >= Closing::Abort));
    let outcome = tokio::select! {
        biased;
        () = given_up => {
            Err(SocketError::new(SocketErrorKind::Aborted, format!("the dial of {shown} was given up")))
        }
        outcome = connect(target, &options, &[], &told, None) => {
            outcome.map_err(|error| SocketError::of_dial(&shown, error))
        }
    };
    match outcome {
        Ok((stream, peer, local)) => {
            succeed(core, peer, local);
            Some(stream)
        }
        Err(error) => {
            fail(core, shown, attempt, error);
            None
        }
    }
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

fn fail(core: &Core, target: String, attempt: u32, error: SocketError) {
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
            let phase = Phase::of_dial(from);
            signals.error_occurred.emit_with(|| ErrorOccurred { connection, phase, error: error.clone() });
        }
        let target = target.into();
        signals.connect_failed.emit_with(|| ConnectFailed { connection, target, attempt, error, unsent });
    }
    core.let_go();
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
