//! [`Arrivals`]: connections of one listener that are not clients yet, since
//! they owe a PROXY header or a TLS handshake. They are few at once: when
//! another comes the oldest gives way, so that whoever is slow on purpose
//! keeps nobody out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::{AbortHandle, JoinSet};

use super::accept::{Admission, Entrance};
use crate::event::{Endpoint, Introduction};
use crate::net::{Accepted, Conn};

/// Those on their way in.
#[derive(Default)]
pub(super) struct Arrivals {
    tasks: JoinSet<Option<Arrived>>,
    /// The oldest first, those that are through included.
    order: VecDeque<(AbortHandle, Arc<AtomicBool>)>,
}

/// A client at last, by the entrance it came through.
pub(super) type Arrived = (Arc<Entrance>, Conn, Admission);

impl Arrivals {
    /// Hears a connection out.
    pub(super) fn add(&mut self, entrance: &Arc<Entrance>, accepted: Accepted, places: Admission) {
        self.order.retain(|(task, _)| !task.is_finished());
        while self.order.len() >= most(&places) {
            let Some((oldest, gives_way)) = self.order.pop_front() else { break };
            gives_way.store(true, Ordering::Relaxed);
            oldest.abort();
        }
        let gives_way = Arc::new(AtomicBool::new(false));
        let arrival = Arrival {
            entrance: Arc::clone(entrance),
            peer: accepted.1.clone(),
            gives_way: Arc::clone(&gives_way),
            is_over: false,
        };
        let task = self.tasks.spawn(arrival.hear(accepted, places));
        self.order.push_back((task, gives_way));
    }

    /// Waits for one that is through; `None` while nobody is on the way. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Arrived> {
        loop {
            match self.tasks.join_next().await? {
                Ok(Some(arrived)) => return Some(arrived),
                Ok(None) => {}
                Err(error) if error.is_panic() => {
                    tracing::error!(%error, "a handshake panicked; its connection was closed");
                }
                Err(_gave_way) => {}
            }
        }
    }
}

/// How many may be on their way: half of the places, so that some are left for clients.
fn most((own, all): &Admission) -> usize {
    (own.most().min(all.most()) / 2).clamp(1, MOST)
}

/// A connection on its way; dropped before its end it says why it was none.
struct Arrival {
    entrance: Arc<Entrance>,
    peer: Endpoint,
    gives_way: Arc<AtomicBool>,
    is_over: bool,
}

impl Arrival {
    async fn hear(mut self, accepted: Accepted, places: Admission) -> Option<Arrived> {
        let greeting = &self.entrance.greeting;
        if !greeting.trusts(&self.peer) {
            accepted.0.reset_on_drop();
            drop(accepted);
            self.fail("it is in none of the networks in `trusted`, whose PROXY headers are believed".into());
            return None;
        }
        let (accepted, introduction) = match greeting.hear(accepted).await {
            Ok(heard) => heard,
            Err(problem) => {
                self.fail(problem);
                return None;
            }
        };
        self.is_over = true;
        let bus = self.entrance.bus();
        if !self.entrance.permits(&accepted.1) {
            accepted.0.reset_on_drop();
            bus.refused(&self.entrance.endpoint, accepted.1);
            return None;
        }
        bus.room().await;
        Some((Arc::clone(&self.entrance), self.announce(accepted, introduction), places))
    }

    fn announce(&self, accepted: Accepted, introduction: Introduction) -> Conn {
        Conn::introduced(self.entrance.bus(), &self.entrance.endpoint, accepted, introduction)
    }

    fn fail(&mut self, problem: String) {
        self.is_over = true;
        self.entrance.bus().handshake_failed(&self.entrance.endpoint, self.peer.clone(), problem);
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let problem = match self.gives_way.load(Ordering::Relaxed) {
            true => "it was slow with its handshake, and others came",
            false => "given up, because the listener has closed",
        };
        self.fail(problem.into());
    }
}

/// Handshakes of a listener at once.
const MOST: usize = 1_000;
