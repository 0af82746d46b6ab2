//! [`Bridge`]: where connections of two listeners meet. Whoever comes first
//! waits, unread, until somebody comes to the other side; then the two are a
//! pair. Those of one side are served in the order in which they came.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use super::abort::abort;
use super::accept::Admission;
use super::group::Side;
use super::pair::{End, Pair};
use super::targets::Reached;
use super::{Relay, Stop};
use crate::event::{ConnectionId, Reason};
use crate::net::{Conn, reason_of};

/// How connections wait for each other, in mode bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeOptions {
    /// Clients of one listener that may wait at once; one more is reset.
    pub max_waiting: usize,
    /// Ends a connection that has waited for so long, by a reset. `None`: never.
    pub wait_timeout: Option<Duration>,
    /// When two dialled ends are joined.
    pub join_on: JoinOn,
}

/// When two dialled ends of a bridge are joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JoinOn {
    /// The first has something to say; only then is the second dialled.
    #[default]
    Data,
    /// The first is connected; then the second is dialled at once.
    Connection,
}

impl Default for BridgeOptions {
    /// 64 at once, for an hour, and the second dialled when the first has something to say.
    fn default() -> Self {
        Self { max_waiting: 64, wait_timeout: Some(Duration::from_secs(3_600)), join_on: JoinOn::Data }
    }
}

impl JoinOn {
    /// Every choice there is.
    pub const ALL: [Self; 2] = [Self::Data, Self::Connection];

    /// How it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Connection => "connection",
        }
    }
}

/// The meeting place of one relay.
pub(crate) struct Bridge {
    options: Mutex<BridgeOptions>,
    waiting: Mutex<Waiting>,
    /// Its other end is dropped when a reload replaces the relay.
    alive: watch::Receiver<()>,
}

/// Who waits. Never on both sides, since two would have met.
#[derive(Default)]
struct Waiting {
    side: Option<Side>,
    line: VecDeque<(ConnectionId, oneshot::Sender<Guest>)>,
}

/// Somebody who came, with the places that are theirs.
struct Guest {
    conn: Conn,
    places: Admission,
}

/// What becomes of a guest.
enum Met {
    /// Somebody waited, and goes on with both.
    Joined,
    Waits(Guest, Spot),
    Full(Guest),
}

/// A place in the line, given up when it is dropped.
struct Spot {
    bridge: Arc<Bridge>,
    id: ConnectionId,
    partner: oneshot::Receiver<Guest>,
}

impl Bridge {
    pub(crate) fn new(options: BridgeOptions, alive: watch::Receiver<()>) -> Self {
        Self { options: Mutex::new(options), waiting: Mutex::default(), alive }
    }

    /// Holds for those that come from now on.
    pub(crate) fn set_options(&self, options: BridgeOptions) {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
    }

    pub(super) fn options(&self) -> BridgeOptions {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is over: the node stops, or a reload has replaced the relay.
    pub(super) fn over(&self, mut stop: watch::Receiver<Stop>) -> impl Future<Output = ()> + use<> {
        let mut alive = self.alive.clone();
        async move {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop != Stop::No) => {}
                Err(_replaced) = alive.changed() => {}
            }
        }
    }

    pub(super) fn is_over(&self, stop: &watch::Receiver<Stop>) -> bool {
        *stop.borrow() != Stop::No || self.alive.has_changed().is_err()
    }

    /// Joins the guest to who has waited longest on the other side, or has it wait.
    fn meet(self: &Arc<Self>, side: Side, mut guest: Guest) -> Met {
        let most = self.options().max_waiting;
        let mut waiting = self.lock();
        if waiting.side != Some(side) {
            while let Some((_, partner)) = waiting.line.pop_front() {
                // Refused by one whose task has just ended.
                match partner.send(guest) {
                    Ok(()) => return Met::Joined,
                    Err(back) => guest = back,
                }
            }
        }
        if waiting.line.len() >= most {
            return Met::Full(guest);
        }
        let (sender, partner) = oneshot::channel();
        let id = guest.conn.id();
        waiting.side = Some(side);
        waiting.line.push_back((id, sender));
        Met::Waits(guest, Spot { bridge: Arc::clone(self), id, partner })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Spot {
    fn drop(&mut self) {
        self.bridge.lock().line.retain(|(id, _)| *id != self.id);
    }
}

/// Serves somebody who has come to a bridge, and whoever meets them.
pub(super) async fn attend(
    relay: Arc<Relay>,
    bridge: Arc<Bridge>,
    side: Side,
    conn: Conn,
    places: Admission,
    stop: watch::Receiver<Stop>,
) -> Reason {
    let (guest, mut spot) = match bridge.meet(side, Guest { conn, places }) {
        Met::Joined => return Reason::Closed,
        Met::Waits(guest, spot) => (guest, spot),
        Met::Full(mut guest) => {
            guest.conn.reset(Reason::NoPartner, None, 0);
            return Reason::NoPartner;
        }
    };
    let Guest { mut conn, places: _own } = guest;
    let wait = bridge.options().wait_timeout;
    let partner = tokio::select! {
        biased;
        Ok(partner) = &mut spot.partner => partner,
        () = bridge.over(stop) => return part(&mut conn, Reason::Shutdown),
        error = conn.leaves() => {
            return match error {
                None => part(&mut conn, Reason::Closed),
                Some(error) => {
                    conn.reset(reason_of(&error), Some(&error), 0);
                    reason_of(&error)
                }
            };
        }
        () = passes(wait) => return part(&mut conn, Reason::NoPartner),
    };
    drop(spot);
    let Guest { conn: other, places: _others } = partner;
    other.record().meets(conn.id());
    // Who came later ends first, as a target does, whichever side it is at.
    carry(Pair::new(relay, conn, Reached::alone(other))).await
}

/// Ends one that has waited in vain.
pub(super) fn part(conn: &mut Conn, reason: Reason) -> Reason {
    if reason == Reason::Closed {
        conn.read_finished();
        conn.finish(reason, None, 0);
    } else {
        conn.reset(reason, None, 0);
    }
    reason
}

/// Serves a pair to its end.
pub(super) async fn carry(mut pair: Pair) -> Reason {
    match poll_fn(|cx| pair.poll(cx)).await {
        End::Closed => pair.end(Reason::Closed),
        End::Limit(passed) => pair.end_at(passed),
        End::Broken(fault) => Box::pin(abort(pair, fault)).await,
    }
}

/// Waits for so long, if there is a limit.
pub(super) async fn passes(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => std::future::pending().await,
    }
}
