//! The accepting task of a server: waits for room, accepts, announces.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use socket2::SockRef;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::{AcceptError, AcceptRejected, Inner, NewConnection, Shared};
use crate::event::Endpoint;
use crate::net::error::SocketError;
use crate::net::listener::{ACCEPT_PAUSE, Accepted, Listener, is_of_the_client};
use crate::net::socket::TcpSocket;
use crate::net::transport::Stream;

/// Accepts until the task is ended. Where its runtime ends it, the server listens no more.
pub(super) fn run(shared: Arc<Shared>, listeners: Vec<Listener>) -> impl Future<Output = ()> + Send {
    let generation = shared.lock().generation;
    let guard = Guard { shared, generation };
    async move { accept(&guard.shared, listeners).await }
}

struct Guard {
    shared: Arc<Shared>,
    generation: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Unless it was closed, and perhaps listens again.
        self.shared.stop(Some(self.generation));
    }
}

async fn accept(shared: &Arc<Shared>, listeners: Vec<Listener>) {
    let (mut failures, mut turn) = (0, 0);
    loop {
        let place = shared.room().await;
        let accepted = tokio::select! {
            biased;
            () = shared.until(|inner| (!inner.has_room()).then_some(())) => continue,
            accepted = poll_fn(|cx| poll_accept(&listeners, &mut turn, cx)) => accepted,
        };
        match accepted {
            Ok(accepted) => {
                failures = 0;
                shared.admit(accepted, place);
            }
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                failures += 1;
                if let Some(signals) = shared.listening() {
                    let error =
                        || SocketError::with_source(format!("cannot accept a client: {error}"), error);
                    signals.accept_error.emit_with(|| AcceptError { error: error(), count: failures });
                }
                // The backlog keeps the clients; trying again at once would only burn a core.
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Takes a client from whichever listener has one, beginning after the last.
fn poll_accept(listeners: &[Listener], turn: &mut usize, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
    for _ in listeners {
        *turn = (*turn + 1) % listeners.len();
        if let Poll::Ready(accepted) = listeners[*turn].poll_accept(cx) {
            return Poll::Ready(accepted);
        }
    }
    Poll::Pending
}

impl Shared {
    /// Waits until another client may be accepted.
    async fn room(&self) -> OwnedSemaphorePermit {
        self.until(|inner| inner.has_room().then_some(())).await;
        Arc::clone(&self.places).acquire_owned().await.expect("the places are never closed")
    }

    fn admit(&self, (stream, peer, local): Accepted, place: OwnedSemaphorePermit) {
        if !self.permits(&peer) {
            stream.reset_on_drop();
            drop(stream);
            if let Some(signals) = self.listening() {
                signals.accept_rejected.emit_with(|| AcceptRejected { peer });
            }
            return;
        }
        if let Stream::Tcp(tcp) = &stream {
            let is_ipv4 = matches!(local, Endpoint::Tcp(address) if address.is_ipv4());
            // Fails on a connection that is gone already, which its socket will find out.
            let _ = self.socket_options.apply(&SockRef::from(tcp), is_ipv4);
        }
        let options = Arc::clone(&self.socket_options);
        let socket = TcpSocket::accepted(options, stream, peer.clone(), local.clone(), Some(place));
        let connection = socket.connection();
        {
            let mut inner = self.lock();
            if !inner.is_listening {
                // Closed since the client was accepted. Dropped, its socket resets it.
                drop(inner);
                return;
            }
            inner.pending.push_back(socket);
            inner.is_announcing = true;
        }
        if let Some(signals) = self.listening() {
            let server = || self.own.clone();
            signals.new_connection.emit_with(|| NewConnection {
                connection,
                peer,
                local,
                at: SystemTime::now(),
                server: server(),
            });
        }
        let (taken, runtime) = {
            let mut inner = self.lock();
            inner.is_announcing = false;
            (std::mem::take(&mut inner.taken), inner.runtime.clone())
        };
        if let Some(runtime) = runtime {
            taken.iter().for_each(|socket| socket.start(&runtime));
        }
        drop(taken);
        self.changed.tell();
    }

    fn permits(&self, peer: &Endpoint) -> bool {
        match peer {
            Endpoint::Tcp(address) => {
                let (lists, ip) = ([&self.options.access, &self.options.listen.access], address.ip());
                lists.iter().all(|access| access.permits(ip))
            }
            Endpoint::Unix(_) | Endpoint::Stdio | Endpoint::Echo => true,
        }
    }
}

impl Inner {
    fn has_room(&self) -> bool {
        !self.is_paused && self.pending.len() < self.max_pending
    }
}
