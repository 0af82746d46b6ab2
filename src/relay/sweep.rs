//! One clock for all pairs: idle limits, half-closed limits, and a look at
//! those that are stuck. Pairs store nothing for it while bytes flow; the
//! sweep compares their totals with those it saw before.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::bus::Record;
use crate::event::{ConnectionId, Reason};

/// The pairs under watch.
#[derive(Default)]
pub(super) struct Sweep {
    entries: Mutex<HashMap<ConnectionId, Entry>>,
}

/// What a pair and the sweep say to each other.
#[derive(Debug)]
pub(super) struct Watch {
    client: Arc<Record>,
    upstream: Arc<Record>,
    /// A task's waker stays good for its life, so it is stored once.
    waker: OnceLock<Waker>,
    half_closed: AtomicBool,
    stuck: AtomicBool,
    look: AtomicBool,
    /// Seen by the sweep for the first time, so it lives long enough to be worth some options.
    settled: AtomicBool,
    cut: AtomicU8,
}

struct Entry {
    watch: Arc<Watch>,
    total: u64,
    quiet_since: Instant,
    is_new: bool,
}

impl Watch {
    pub(super) fn new(client: &Arc<Record>, upstream: &Arc<Record>) -> Self {
        Self {
            client: Arc::clone(client),
            upstream: Arc::clone(upstream),
            waker: OnceLock::new(),
            half_closed: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            look: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            cut: AtomicU8::new(GO_ON),
        }
    }

    /// Says whom to wake. Only the first call counts.
    pub(super) fn wake_with(&self, waker: &Waker) {
        if self.waker.get().is_none() {
            let _ = self.waker.set(waker.clone());
        }
    }

    /// One side has finished.
    pub(super) fn half_closed(&self) {
        self.half_closed.store(true, Relaxed);
    }

    /// Bytes wait for a destination, so their source is not being read.
    pub(super) fn stuck(&self, stuck: bool) {
        self.stuck.store(stuck, Relaxed);
    }

    /// Asks whether the sockets are to be looked at for errors, once.
    pub(super) fn take_look(&self) -> bool {
        self.look.load(Relaxed) && self.look.swap(false, Relaxed)
    }

    /// Tells once that the pair has lived for a while.
    pub(super) fn take_settled(&self) -> bool {
        self.settled.load(Relaxed) && self.settled.swap(false, Relaxed)
    }

    /// The limit that has passed, if one has.
    pub(super) fn limit(&self) -> Option<Reason> {
        match self.cut.load(Relaxed) {
            GO_ON => None,
            IDLE => Some(Reason::Idle),
            _ => Some(Reason::HalfClosed),
        }
    }

    fn total(&self) -> u64 {
        let moved = |record: &Record| record.received() + record.sent();
        moved(&self.client) + moved(&self.upstream)
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

impl Sweep {
    pub(super) fn add(&self, watch: Arc<Watch>) {
        let entry = Entry { total: watch.total(), quiet_since: Instant::now(), is_new: true, watch };
        self.lock().insert(entry.watch.client.id(), entry);
    }

    pub(super) fn remove(&self, client: ConnectionId) {
        self.lock().remove(&client);
    }

    pub(super) async fn run(&self, idle: Option<Duration>, half_closed: Duration) {
        let period = idle.unwrap_or(PERIOD).min(half_closed) / 4;
        let mut ticks = interval(period.clamp(Duration::from_millis(10), PERIOD));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await;
            for entry in self.lock().values_mut() {
                entry.look(now, idle, half_closed);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn look(&mut self, now: Instant, idle: Option<Duration>, half_closed: Duration) {
        if std::mem::take(&mut self.is_new) {
            self.watch.settled.store(true, Relaxed);
            self.watch.wake();
        }
        let total = self.watch.total();
        if total != self.total {
            self.total = total;
            self.quiet_since = now;
            return;
        }
        let quiet = now.duration_since(self.quiet_since);
        if idle.is_some_and(|idle| quiet >= idle) {
            self.watch.cut.store(IDLE, Relaxed);
        } else if quiet >= half_closed && self.watch.half_closed.load(Relaxed) {
            self.watch.cut.store(HALF_CLOSED, Relaxed);
        } else if self.watch.stuck.load(Relaxed) || self.watch.half_closed.load(Relaxed) {
            self.watch.look.store(true, Relaxed);
        } else {
            return;
        }
        self.watch.wake();
    }
}

const PERIOD: Duration = Duration::from_secs(1);
const GO_ON: u8 = 0;
const IDLE: u8 = 1;
const HALF_CLOSED: u8 = 2;
