//! One clock for all pairs: idle limits, half-closed limits, and a look at
//! those that are stuck. Pairs store nothing for it while bytes flow; the
//! sweep compares their totals with those it saw before.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::RelayOptions;
use crate::bus::Record;
use crate::event::{ConnectionId, Reason};

/// The pairs under watch.
pub(super) struct Sweep {
    entries: Mutex<HashMap<ConnectionId, Entry>>,
    /// Milliseconds until the next look.
    period: AtomicU64,
    sooner: Notify,
}

/// The time limits of a relay's pairs, in milliseconds. A reload changes them
/// for those that live.
#[derive(Debug)]
pub(crate) struct Limits {
    idle: AtomicU64,
    half_closed: AtomicU64,
}

impl Limits {
    pub(crate) fn new(options: &RelayOptions) -> Self {
        let limits = Self { idle: AtomicU64::new(0), half_closed: AtomicU64::new(0) };
        limits.set(options);
        limits
    }

    /// Holds for every pair from the next look on.
    pub(crate) fn set(&self, options: &RelayOptions) {
        let millis = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.idle.store(options.idle_timeout.map_or(u64::MAX, millis), Relaxed);
        self.half_closed.store(millis(options.half_closed_timeout), Relaxed);
    }

    /// How often they have to be looked at, in milliseconds.
    fn period(&self) -> u64 {
        let shortest = self.idle.load(Relaxed).min(self.half_closed.load(Relaxed));
        (shortest / 4).clamp(SHORTEST, PERIOD)
    }
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
    limits: Arc<Limits>,
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
    pub(super) fn add(&self, watch: Arc<Watch>, limits: &Arc<Limits>) {
        let total = watch.total();
        let limits = Arc::clone(limits);
        let period = limits.period();
        let entry = Entry { total, quiet_since: Instant::now(), is_new: true, watch, limits };
        self.lock().insert(entry.watch.client.id(), entry);
        if period < self.period.load(Relaxed) {
            self.period.store(period, Relaxed);
            self.sooner.notify_one();
        }
    }

    pub(super) fn remove(&self, client: ConnectionId) {
        self.lock().remove(&client);
    }

    /// Looks at all pairs, as often as the shortest of their limits asks for.
    pub(super) async fn run(&self) {
        loop {
            let period = self.period.load(Relaxed);
            tokio::select! {
                biased;
                () = self.sooner.notified() => continue,
                () = sleep(Duration::from_millis(period)) => {}
            }
            let now = Instant::now();
            let mut entries = self.lock();
            let mut next = PERIOD;
            for entry in entries.values_mut() {
                entry.look(now);
                next = next.min(entry.limits.period());
            }
            self.period.store(next, Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Sweep {
    fn default() -> Self {
        Self { entries: Mutex::default(), period: AtomicU64::new(PERIOD), sooner: Notify::new() }
    }
}

impl Entry {
    fn look(&mut self, now: Instant) {
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
        let quiet = now.duration_since(self.quiet_since).as_millis();
        if quiet >= u128::from(self.limits.idle.load(Relaxed)) {
            self.watch.cut.store(IDLE, Relaxed);
        } else if quiet >= u128::from(self.limits.half_closed.load(Relaxed))
            && self.watch.half_closed.load(Relaxed)
        {
            self.watch.cut.store(HALF_CLOSED, Relaxed);
        } else if self.watch.stuck.load(Relaxed) || self.watch.half_closed.load(Relaxed) {
            self.watch.look.store(true, Relaxed);
        } else {
            return;
        }
        self.watch.wake();
    }
}

/// Between two looks, in milliseconds.
const PERIOD: u64 = 250;
/// The same where a limit is short.
const SHORTEST: u64 = 10;
const GO_ON: u8 = 0;
const IDLE: u8 = 1;
const HALF_CLOSED: u8 = 2;
