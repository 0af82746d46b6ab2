//! The task of one listener: admits clients, owns their sessions, and drains
//! them at the end.

use std::future::{pending, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::bridge::attend;
use super::group::Side;
use super::handshake::Handshakes;
use super::member::Member;
use super::session::Session;
use super::{Ended, Relay, Stop};
use crate::bus::EventBus;
use crate::event::{Endpoint, Event, EventKind, Reason, Restriction};
use crate::net::{ACCEPT_PAUSE, Accepted, Conn, Greeting, ListenOptions, Listener, is_of_the_client};
use crate::registry::{Arrival, Door, ListenerState, Place, Places};

/// What a listener's task does with its clients. A reload replaces it, and
/// later clients are treated by the new one.
pub(crate) struct Entrance {
    /// The listener's name.
    pub(crate) endpoint: Arc<str>,
    pub(crate) options: ListenOptions,
    /// What its clients have to say first.
    pub(crate) greeting: Greeting,
    pub(crate) relay: Arc<Relay>,
    /// Its end of a relay that joins many.
    pub(crate) side: Side,
}

/// What a client takes up: a place of its listener, one of the node, and one of its address.
pub(super) struct Admission {
    pub(super) place: Place,
    pub(super) of_node: Place,
    pub(super) of_address: Option<Box<Arrival>>,
}

/// Serves a listener until it is closed or the node stops, or, in a relay with
/// standard input and output, until the first conversation is over.
pub(crate) async fn serve(
    listener: Listener,
    door: Arc<Door>,
    mut entrance: watch::Receiver<Arc<Entrance>>,
    mut stop: watch::Receiver<Stop>,
) -> Ended {
    let mut state = door.watch();
    let told = stop.clone();
    let mut sessions = JoinSet::new();
    let mut handshakes = Handshakes::default();
    let mut conversation = None;
    let mut now = Arc::clone(&entrance.borrow_and_update());
    // These wait for what the others look at.
    let mut woken = (stop.clone(), state.clone(), entrance.clone());
    while conversation.is_none() {
        let does = *state.borrow_and_update();
        if does == ListenerState::Closed || *stop.borrow_and_update() != Stop::No {
            break;
        }
        if entrance.has_changed().unwrap_or(false) {
            let before = std::mem::replace(&mut now, Arc::clone(&entrance.borrow_and_update()));
            if before.options != now.options
                && let Err(error) = listener.set(&now.options)
            {
                tracing::warn!(endpoint = %now.endpoint, %error, "a listener keeps some options as they were");
            }
        }
        let is_news = || {
            let changed = |changed: Result<bool, _>| changed.unwrap_or(false);
            changed(stop.has_changed()) || changed(state.has_changed()) || changed(entrance.has_changed())
        };
        tokio::select! {
            biased;
            // A look before each client; to wait costs more, and comes where nobody is there.
            () = poll_fn(|_| if is_news() { Poll::Ready(()) } else { Poll::Pending }) => {}
            (accepted, places) = now.admit(&listener, &door), if does == ListenerState::Listening => {
                if now.greeting.is_empty() {
                    let client = now.announce(accepted);
                    enter(&mut sessions, &now, client, places, &told);
                } else {
                    handshakes.add(&now, &door, accepted, places);
                }
            }
            Some((entrance, client, places)) = handshakes.next() => {
                enter(&mut sessions, &entrance, client, places, &told);
            }
            _ = woken.0.wait_for(|stop| *stop != Stop::No) => break,
            Ok(()) = woken.1.changed() => {}
            Ok(()) = woken.2.changed() => {}
            Some(ended) = sessions.join_next() => conversation = end_of(ended).filter(|_| now.relay.once),
        }
        while let Some(ended) = sessions.try_join_next() {
            conversation = end_of(ended).filter(|_| now.relay.once).or(conversation);
        }
    }
    drop(handshakes);
    now.relay.shared.bus.not_listening(&listener.local());
    drop(listener);
    // Also when the node, and not its door, has ended it.
    door.turn(ListenerState::Closed);
    drain(now.relay.once, sessions, conversation, stop).await
}

/// Serves standard input and output, as the one client of its relay.
pub(crate) async fn serve_stdio(
    entrance: Arc<Entrance>,
    door: Arc<Door>,
    place: Place,
    stop: watch::Receiver<Stop>,
) -> Ended {
    let relay = &entrance.relay;
    let own = door.places().take().expect("nobody else comes by this door");
    let client = Conn::stdio(&relay.shared.bus, &entrance.endpoint);
    let mut sessions = JoinSet::new();
    let admission = Admission { place: own, of_node: place, of_address: None };
    enter(&mut sessions, &entrance, client, admission, &stop);
    drain(relay.once, sessions, None, stop).await
}

/// Starts the session of a client, by which the client can be ended.
fn enter(
    sessions: &mut JoinSet<Reason>,
    entrance: &Entrance,
    client: Conn,
    places: Admission,
    stop: &watch::Receiver<Stop>,
) {
    let record = Arc::clone(client.record());
    let relay = &entrance.relay;
    let task = match (&relay.group, &relay.bridge) {
        (None, None) => sessions.spawn(Session::new(relay, client, places)),
        (_, Some(bridge)) => {
            let (relay, bridge, side) = (Arc::clone(relay), Arc::clone(bridge), entrance.side);
            sessions.spawn(attend(relay, bridge, side, client, places, stop.clone()))
        }
        (Some(group), None) => {
            let (options, stop) = (&entrance.options.messages, stop.clone());
            let member = Member::new(group, &relay.limits, client, entrance.side, options)
                .with_options(&relay.options);
            sessions.spawn(async move {
                let _places = places;
                member.serve(stop, pending()).await
            })
        }
    };
    record.belongs_to(task);
}

/// Waits for the sessions to end, and cuts those that are left when their time is up.
async fn drain(
    once: bool,
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
            Some(ended) = sessions.join_next() => conversation = end_of(ended).filter(|_| once).or(conversation),
        }
    }
    let cut = sessions.len();
    sessions.shutdown().await;
    let was_cut = (once && cut > 0).then_some(Reason::Shutdown);
    Ended { cut, conversation: conversation.or(was_cut) }
}

pub(super) async fn passed(stop: Stop) {
    match stop {
        Stop::No => pending().await,
        Stop::At(time) => sleep_until(time).await,
    }
}

impl Admission {
    /// Nobody is admitted after this one.
    pub(super) fn be_the_last(&self) {
        self.place.be_the_last();
    }
}

/// Why nobody can be accepted now.
enum Full<'a> {
    Places(&'a Places),
    Until(Instant, u32),
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

impl Entrance {
    pub(super) fn bus(&self) -> &EventBus {
        &self.relay.shared.bus
    }

    /// A client that has nothing more to say first.
    fn announce(&self, (stream, peer, local): Accepted) -> Conn {
        Conn::accepted(&self.relay.shared.bus, &self.endpoint, stream, peer, local)
    }

    /// Resets one that may not come in.
    pub(super) fn refuse(&self, (stream, peer, _): Accepted, cause: Restriction) {
        stream.reset_on_drop();
        drop(stream);
        self.bus().refused(&self.endpoint, peer, cause);
    }

    /// Waits for a client who may connect, and for places for it. Cancel safe.
    async fn admit(&self, listener: &Listener, door: &Door) -> (Accepted, Admission) {
        let bus = &self.relay.shared.bus;
        loop {
            bus.room().await;
            if let Some(group) = &self.relay.group {
                group.room().await;
            }
            match self.accept(listener, door).await {
                Ok((accepted, (place, of_node))) => {
                    // One that a proxy is to announce is judged by what that says.
                    let is_announced = self.greeting.proxy.is_some();
                    match if is_announced { Ok(None) } else { self.enter(&accepted.1, door) } {
                        Ok(of_address) => return (accepted, Admission { place, of_node, of_address }),
                        Err(cause) => self.refuse(accepted, cause),
                    }
                }
                // One client left before it was accepted, or its network did.
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    let endpoint = Arc::clone(&self.endpoint);
                    let error = error.to_string();
                    bus.emit(EventKind::AcceptError, || Event::AcceptError { endpoint, error });
                    // The backlog keeps the clients; trying again at once would only burn a core.
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Accepts only while there is a place and the pace allows it, and holds no place while nobody
    /// comes: the places are those of all listeners.
    async fn accept(&self, listener: &Listener, door: &Door) -> io::Result<(Accepted, (Place, Place))> {
        let mut said = false;
        loop {
            let accepted = poll_fn(|cx| match self.places(door) {
                Err(full) => Poll::Ready(Err(full)),
                Ok(places) => {
                    listener.poll_accept(cx).map(|client| Ok(client.map(|client| (client, places))))
                }
            });
            match accepted.await {
                Ok(accepted) => {
                    if let Some(rate) = self.options.accept_rate.filter(|_| accepted.is_ok()) {
                        door.arrivals().came(rate);
                    }
                    return accepted;
                }
                Err(Full::Places(full)) => {
                    if !self.relay.once && !std::mem::replace(&mut said, true) {
                        self.paused(Restriction::MaxConnections, full.most());
                    }
                    full.room().await;
                }
                Err(Full::Until(due, rate)) => {
                    if door.arrivals().is_news() {
                        self.paused(Restriction::AcceptRate, rate as usize);
                    }
                    sleep_until(due).await;
                }
            }
        }
    }

    fn paused(&self, cause: Restriction, connections: usize) {
        let endpoint = Arc::clone(&self.endpoint);
        let event = || Event::AcceptPaused { endpoint, cause, connections };
        self.relay.shared.bus.emit(EventKind::AcceptPaused, event);
    }

    /// A place of the listener and one of the node, or what there is to wait for.
    fn places<'a>(&'a self, door: &'a Door) -> Result<(Place, Place), Full<'a>> {
        if let Some(rate) = self.options.accept_rate {
            let due = door.arrivals().due(rate);
            if due > Instant::now() {
                return Err(Full::Until(due, rate));
            }
        }
        let own = door.places();
        let place = own.take().ok_or(Full::Places(own))?;
        let all = &self.relay.shared.places;
        Ok((place, all.take().ok_or(Full::Places(all))?))
    }

    /// Counts a client for its address, if that is limited, unless something speaks against it.
    pub(super) fn enter(&self, peer: &Endpoint, door: &Door) -> Result<Option<Box<Arrival>>, Restriction> {
        if !self.permits(peer) {
            return Err(Restriction::Access);
        }
        match (self.options.max_connections_per_address, peer) {
            (Some(most), Endpoint::Tcp(address)) => match door.arrivals().enter(address.ip(), most) {
                Some(arrival) => Ok(Some(Box::new(arrival))),
                None => Err(Restriction::MaxConnectionsPerAddress),
            },
            _ => Ok(None),
        }
    }

    fn permits(&self, peer: &Endpoint) -> bool {
        match peer {
            Endpoint::Tcp(address) => self.options.access.permits(address.ip()),
            // No list of networks can permit one that has none.
            Endpoint::Unix(_) | Endpoint::Stdio | Endpoint::Echo => self.options.access.is_empty(),
        }
    }
}
