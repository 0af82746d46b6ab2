//! The task of one listener: admits clients, owns their sessions, and drains
//! them at the end.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, sleep_until};

use super::session::Session;
use super::{Ended, Relay, Stop};
use crate::event::{Endpoint, Event, EventKind, Reason};
use crate::net::{Accepted, Conn, Listener, is_of_the_client};

/// Serves a listener until the node stops, or, in a relay with standard input
/// and output, until the first conversation is over.
pub(crate) async fn serve(
    relay: Arc<Relay>,
    endpoint: Arc<str>,
    listener: Listener,
    mut stop: watch::Receiver<Stop>,
) -> Ended {
    let mut sessions = JoinSet::new();
    let mut conversation = None;
    while conversation.is_none() {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop != Stop::No) => break,
            Some(ended) = sessions.join_next() => conversation = end_of(ended).filter(|_| relay.once),
            (client, place) = relay.admit(&endpoint, &listener) => {
                sessions.spawn(Session::new(&relay, client, place));
            }
        }
    }
    relay.bus.not_listening(&listener.local());
    drop(listener);
    drain(&relay, sessions, conversation, stop).await
}

/// Serves standard input and output, as the one client of its relay.
pub(crate) async fn serve_stdio(relay: Arc<Relay>, endpoint: Arc<str>, stop: watch::Receiver<Stop>) -> Ended {
    let place = Arc::clone(&relay.places).acquire_owned().await.expect("the places are never closed");
    let client = Conn::stdio(&relay.bus, &endpoint);
    let mut sessions = JoinSet::new();
    sessions.spawn(Session::new(&relay, client, place));
    drain(&relay, sessions, None, stop).await
}

/// Waits for the sessions to end, and cuts those that are left when their time is up.
async fn drain(
    relay: &Relay,
    mut sessions: JoinSet<Reason>,
    mut conversation: Option<Reason>,
    mut stop: watch::Receiver<Stop>,
) -> Ended {
    while !sessions.is_empty() {
        let at = *stop.borrow_and_update();
        tokio::select! {
            biased;
            () = passed(at) => break,
            changed = stop.changed() => if changed.is_err() { break },
            Some(ended) = sessions.join_next() => conversation = end_of(ended).filter(|_| relay.once).or(conversation),
        }
    }
    let cut = sessions.len();
    sessions.shutdown().await;
    let was_cut = (relay.once && cut > 0).then_some(Reason::Shutdown);
    Ended { cut, conversation: conversation.or(was_cut) }
}

async fn passed(stop: Stop) {
    match stop {
        Stop::No => std::future::pending().await,
        Stop::At(time) => sleep_until(time).await,
    }
}

/// How a session ended, or that it panicked; then its connections have said so.
fn end_of(ended: Result<Reason, JoinError>) -> Option<Reason> {
    match ended {
        Ok(reason) => Some(reason),
        Err(error) if error.is_panic() => {
            tracing::error!(%error, "a session panicked; its connections were reset");
            Some(Reason::Aborted)
        }
        Err(_cancelled) => Some(Reason::Shutdown),
    }
}

impl Relay {
    /// Waits for a client who may connect, and for a place for it. Cancel safe.
    async fn admit(&self, endpoint: &Arc<str>, listener: &Listener) -> (Conn, OwnedSemaphorePermit) {
        loop {
            self.bus.room().await;
            match self.accept(endpoint, listener).await {
                Ok(((stream, peer, local), place)) if self.permits(&peer) => {
                    return (Conn::accepted(&self.bus, endpoint, stream, peer, local), place);
                }
                Ok(((stream, peer, _), _)) => {
                    stream.reset_on_drop();
                    drop(stream);
                    let endpoint = Arc::clone(endpoint);
                    self.bus.emit(EventKind::AcceptRejected, || Event::AcceptRejected { endpoint, peer });
                }
                // One client left before it was accepted, or its network did.
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    let endpoint = Arc::clone(endpoint);
                    let error = error.to_string();
                    self.bus.emit(EventKind::AcceptError, || Event::AcceptError { endpoint, error });
                    // The backlog keeps the clients; trying again at once would only burn a core.
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Accepts only while there is a place, and holds none while nobody comes:
    /// the places are those of all listeners.
    async fn accept(
        &self,
        endpoint: &Arc<str>,
        listener: &Listener,
    ) -> io::Result<(Accepted, OwnedSemaphorePermit)> {
        let mut place = None;
        loop {
            let accepted = poll_fn(|cx| {
                let free = place.take().or_else(|| Arc::clone(&self.places).try_acquire_owned().ok());
                match free {
                    None => Poll::Ready(None),
                    Some(free) => {
                        listener.poll_accept(cx).map(|client| Some(client.map(|client| (client, free))))
                    }
                }
            });
            if let Some(accepted) = accepted.await {
                return accepted;
            }
            if !self.once {
                let (endpoint, connections) = (Arc::clone(endpoint), self.most);
                self.bus.emit(EventKind::AcceptPaused, || Event::AcceptPaused { endpoint, connections });
            }
            let free = Arc::clone(&self.places).acquire_owned().await;
            place = Some(free.expect("the places are never closed"));
        }
    }

    fn permits(&self, peer: &Endpoint) -> bool {
        match peer {
            Endpoint::Tcp(address) => self.options.access.permits(address.ip()),
            Endpoint::Unix(_) | Endpoint::Stdio | Endpoint::Echo => true,
        }
    }
}

/// Long enough to cost nothing, short enough that nobody notices when descriptors are free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
