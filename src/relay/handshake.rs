//! [`Handshakes`]: connections of one listener that are not clients yet, since
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
use crate::registry::Door;

/// Those on their way in.
#[derive(Default)]
pub(super) struct Handshakes {
    tasks: JoinSet<Option<Through>>,
    /// The oldest first, those that are through included.
    order: VecDeque<(AbortHandle, Arc<AtomicBool>)>,
}

/// A client at last, by the entrance it came through.
pub(super) type Through = (Arc<Entrance>, Conn, Admission);

impl Handshakes {
    /// Hears a connection out.
    pub(super) fn add(
        &mut self,
        entrance: &Arc<Entrance>,
        door: &Arc<Door>,
        accepted: Accepted,
        places: Admission,
    ) {
        self.order.retain(|(task, _)| !task.is_finished());
        while self.order.len() >= most(&places) {
            let Some((oldest, gives_way)) = self.order.pop_front() else { break };
            gives_way.store(true, Ordering::Relaxed);
            oldest.abort();
        }
        let gives_way = Arc::new(AtomicBool::new(false));
        let handshake = Handshake {
            entrance: Arc::clone(entrance),
            door: Arc::clone(door),
            peer: accepted.1.clone(),
            gives_way: Arc::clone(&gives_way),
            is_over: false,
        };
        let task = self.tasks.spawn(handshake.hear(accepted, places));
        self.order.push_back((task, gives_way));
    }

    /// Waits for one that is through; `None` while nobody is on the way. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Through> {
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
fn most(places: &Admission) -> usize {
    (places.place.most().min(places.of_node.most()) / 2).clamp(1, MOST)
}

/// A connection on its way; dropped before its end it says why it was none.
struct Handshake {
    entrance: Arc<Entrance>,
    door: Arc<Door>,
    peer: Endpoint,
    gives_way: Arc<AtomicBool>,
    is_over: bool,
}

impl Handshake {
    async fn hear(mut self, accepted: Accepted, mut places: Admission) -> Option<Through> {
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
        if self.entrance.greeting.proxy.is_some() {
            match self.entrance.enter(&accepted.1, &self.door) {
                Ok(of_address) => places.of_address = of_address,
                Err(cause) => {
                    self.entrance.refuse(accepted, cause);
                    return None;
                }
            }
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

impl Drop for Handshake {
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
