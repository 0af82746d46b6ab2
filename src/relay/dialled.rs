//! A bridge of two dialled ends, for a node that nobody can connect to. The
//! first is dialled and kept, unread; when the two are to be joined the second
//! is dialled, and they are a pair. After that the first is dialled again.

use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::bridge::{Bridge, BridgeOptions, JoinOn, carry, part, passes};
use super::pair::Pair;
use super::session::connect;
use super::targets::Reached;
use super::uplink::{again, cut};
use super::{Ended, Outlet, Relay, Stop};
use crate::bus::Record;
use crate::event::{Event, EventKind, Reason};
use crate::net::{Conn, Target, reason_of};

/// Joins the two again and again, until the node stops or a reload has replaced the bridge; a session that
/// has begun is finished first. The second is the one outlet of `relay`.
pub(crate) async fn join_dialled(
    relay: Arc<Relay>,
    bridge: Arc<Bridge>,
    first: Outlet,
    stop: watch::Receiver<Stop>,
) -> Ended {
    let Outlet { target, options, .. } = &first;
    let bus = &relay.shared.bus;
    let mut attempt = 0;
    let mut over = pin!(bridge.over(stop.clone()));
    let mut turns = JoinSet::new();
    loop {
        let dialled = tokio::select! {
            biased;
            () = &mut over => return Ended::default(),
            dialled = first.dial(bus, None) => dialled,
        };
        if let Ok(conn) = dialled {
            conn.keep_alive(&options.keepalive);
            let record = Arc::clone(conn.record());
            let turn = turn(Arc::clone(&relay), Arc::clone(&bridge), conn, stop.clone());
            record.belongs_to(turns.spawn(turn));
            let ended = tokio::select! {
                biased;
                ended = turns.join_next() => ended,
                () = cut(stop.clone()) => {
                    turns.shutdown().await;
                    return Ended { cut: 1, conversation: None };
                }
            };
            match ended {
                Some(Ok(true)) => attempt = 0,
                Some(Err(error)) if error.is_panic() => {
                    tracing::error!(%error, "a session panicked; its connections were reset");
                }
                _ => {}
            }
        }
        if bridge.is_over(&stop) {
            return Ended::default();
        }
        let pause = pause(&relay, target, &mut attempt);
        tokio::select! {
            biased;
            () = &mut over => return Ended::default(),
            () = sleep(pause) => {}
        }
    }
}

/// One connection of the first end: its wait, and the session it leads to. Tells whether there was one.
async fn turn(relay: Arc<Relay>, bridge: Arc<Bridge>, mut first: Conn, stop: watch::Receiver<Stop>) -> bool {
    let options = bridge.options();
    let waited = tokio::select! {
        biased;
        () = bridge.over(stop) => Waited::InVain(Reason::Shutdown),
        waited = wait(&relay, options, &mut first) => waited,
    };
    let pair = match waited {
        Waited::Speaks => connect(relay, first).await,
        Waited::Second(second) => Some(Pair::new(relay, first, Reached::alone(*second))),
        Waited::InVain(reason) => {
            part(&mut first, reason);
            None
        }
        Waited::Broke(error) => {
            first.reset(reason_of(&error), Some(&error), 0);
            None
        }
    };
    match pair {
        Some(pair) => {
            carry(pair).await;
            true
        }
        None => false,
    }
}

/// How the first one's wait has ended.
enum Waited {
    /// It has something to say.
    Speaks,
    /// The second is connected.
    Second(Box<Conn>),
    InVain(Reason),
    Broke(std::io::Error),
}

async fn wait(relay: &Relay, options: BridgeOptions, first: &mut Conn) -> Waited {
    if options.join_on == JoinOn::Data {
        return match first.speaks().await {
            Ok(true) => Waited::Speaks,
            Ok(false) => Waited::InVain(Reason::Closed),
            Err(error) => Waited::Broke(error),
        };
    }
    let record = Arc::clone(first.record());
    tokio::select! {
        biased;
        second = reach(relay, &record) => Waited::Second(Box::new(second)),
        error = first.leaves() => error.map_or(Waited::InVain(Reason::Closed), Waited::Broke),
        () = passes(options.wait_timeout) => Waited::InVain(Reason::NoTarget),
    }
}

/// Dials the second until it answers.
async fn reach(relay: &Relay, first: &Record) -> Conn {
    let mut attempt = 0;
    let outlet = relay.targets.outlet(0).expect("the second of two was left to the relay");
    loop {
        if let Ok(second) = outlet.dial(&relay.shared.bus, Some(first)).await {
            return second;
        }
        sleep(pause(relay, &outlet.target, &mut attempt)).await;
    }
}

/// Says that a target will be dialled again, and when.
fn pause(relay: &Relay, target: &Target, attempt: &mut u32) -> Duration {
    *attempt = attempt.saturating_add(1);
    let pause = again(*attempt, RandomState::new().hash_one(0));
    relay.shared.bus.emit(EventKind::Reconnecting, || Event::Reconnecting {
        endpoint: Arc::clone(&target.name),
        target: target.address.as_target(),
        attempt: *attempt,
        pause,
    });
    pause
}
