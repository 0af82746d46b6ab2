//! One clock for all pairs: idle limits, half-closed limits, and a look at
//! those that are stuck. Pairs store nothing for it while bytes flow; the
//! sweep compares their totals with those it saw before. While no pair needs
//! it there is no timer, so that a thread that waits for bytes waits for
//! nothing else: a timer costs 3 % of the time of a lone message.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::RelayOptions;
use super::vigil::{Finding, Vigil};
use crate::bus::Record;
use crate::event::{ConnectionId, ConnectionMap, Reason};

/// The pairs under watch.
pub(super) struct Sweep {
    entries: Mutex<ConnectionMap<Entry>>,
    /// Milliseconds until the next look, or [`NEVER`].
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

    /// The limit that passes next, in milliseconds, and why it is one.
    fn of(&self, half_closed: bool) -> (u64, Reason) {
        let idle = self.idle.load(Relaxed);
        let half_closed = if half_closed { self.half_closed.load(Relaxed) } else { u64::MAX };
        if idle <= half_closed { (idle, Reason::Idle) } else { (half_closed, Reason::HalfClosed) }
    }
}

/// What a pair and the sweep say to each other.
#[derive(Debug)]
pub(super) struct Watch {
    client: Arc<Record>,
    upstream: Arc<Record>,
    /// What more is expected of the client, and of the other.
    vigils: [Option<Arc<Vigil>>; 2],
    /// A task's waker stays good for its life, so it is stored once.
    waker: OnceLock<Waker>,
    half_closed: AtomicBool,
    stuck: AtomicBool,
    look: AtomicBool,
    /// Seen by the sweep for the first time, so it lives long enough to be worth some options.
    settled: AtomicBool,
    passed: OnceLock<Passed>,
}

/// A limit that has passed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    pub(super) reason: Reason,
    /// Whether it is the client that it was set for; nothing, if it is of both.
    pub(super) of_client: Option<bool>,
}

struct Entry {
    watch: Arc<Watch>,
    limits: Arc<Limits>,
    total: u64,
    quiet_since: Instant,
    half_closed: bool,
    is_new: bool,
}

impl Watch {
    pub(super) fn new(client: &Arc<Record>, upstream: &Arc<Record>, vigils: [Option<Arc<Vigil>>; 2]) -> Self {
        Self {
            client: Arc::clone(client),
            upstream: Arc::clone(upstream),
            vigils,
            waker: OnceLock::new(),
            half_closed: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            look: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            passed: OnceLock::new(),
        }
    }

    /// Says whom to wake. Only the first call counts.
    pub(super) fn wake_with(&self, waker: &Waker) {
        if self.waker.get().is_none() {
            let _ = self.waker.set(waker.clone());
        }
    }

    /// One side has finished. Tells whether that is new, and the sweep to be told.
    pub(super) fn half_closed(&self) -> bool {
        !self.half_closed.swap(true, Relaxed)
    }

    /// Bytes wait for a destination, so their source is not being read. Tells
    /// whether that is new, and the sweep to be told.
    pub(super) fn stuck(&self, stuck: bool) -> bool {
        // A load costs less than a store, and nearly always nothing has changed.
        let changes = self.stuck.load(Relaxed) != stuck;
        if changes {
            self.stuck.store(stuck, Relaxed);
        }
        changes && stuck
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
    pub(super) fn limit(&self) -> Option<Passed> {
        self.passed.get().copied()
    }

    /// What more is expected of the client, or of the other.
    pub(super) fn vigil(&self, of_client: bool) -> Option<&Arc<Vigil>> {
        self.vigils[usize::from(!of_client)].as_ref()
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
        let entry = Entry {
            total: watch.total(),
            limits: Arc::clone(limits),
            quiet_since: Instant::now(),
            half_closed: false,
            is_new: true,
            watch,
        };
        let period = entry.period(entry.quiet_since).unwrap_or(NEVER);
        self.lock().insert(entry.watch.client.id(), entry);
        self.within(period);
    }

    /// A pair with these limits has come to need looks, or the limits have changed.
    pub(super) fn attend(&self, limits: &Limits) {
        let (limit, _) = limits.of(true);
        self.within(period(limit));
    }

    /// The same of a connection with a vigil.
    pub(super) fn keep(&self, vigil: &Vigil) {
        if let Some(period) = vigil.next(Instant::now()) {
            self.within(period.max(SHORTEST));
        }
    }

    /// Has the next look come within so many milliseconds.
    fn within(&self, period: u64) {
        if period < self.period.load(Relaxed) && period < self.period.fetch_min(period, Relaxed) {
            self.sooner.notify_one();
        }
    }

    pub(super) fn remove(&self, client: ConnectionId) {
        self.lock().remove(&client);
    }

    /// Looks at all pairs, as often as any of them needs it.
    pub(super) async fn run(&self) {
        let mut last = Instant::now();
        loop {
            let period = self.period.load(Relaxed);
            if period == NEVER {
                self.sooner.notified().await;
                last = Instant::now();
                continue;
            }
            tokio::select! {
                biased;
                () = self.sooner.notified() => continue,
                () = sleep_until(last + Duration::from_millis(period)) => {}
            }
            last = Instant::now();
            // Before the look: what changes during it asks for another one.
            self.period.store(NEVER, Relaxed);
            let mut next = NEVER;
            for entry in self.lock().values_mut() {
                entry.look(last);
                next = next.min(entry.period(last).unwrap_or(NEVER));
            }
            self.period.fetch_min(next, Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionMap<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Sweep {
    fn default() -> Self {
        Self { entries: Mutex::default(), period: AtomicU64::new(NEVER), sooner: Notify::new() }
    }
}

impl Entry {
    fn look(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_new) {
            self.watch.settled.store(true, Relaxed);
            self.watch.wake();
        }
        let (total, half_closed) = (self.watch.total(), self.watch.half_closed.load(Relaxed));
        if (total, half_closed) != (self.total, self.half_closed) {
            (self.total, self.half_closed) = (total, half_closed);
            self.quiet_since = now;
        }
        let quiet = now.duration_since(self.quiet_since).as_millis();
        let (limit, reason) = self.limits.of(half_closed);
        let mut is_news = true;
        if quiet >= u128::from(limit) {
            self.watch.passed.get_or_init(|| Passed { reason, of_client: None });
        } else if half_closed || self.watch.stuck.load(Relaxed) {
            self.watch.look.store(true, Relaxed);
        } else {
            is_news = false;
        }
        for of_client in [true, false] {
            match self.watch.vigil(of_client).map_or(Finding::Nothing, |vigil| vigil.look(now)) {
                Finding::Nothing => continue,
                Finding::Due => {}
                Finding::Passed(reason) => {
                    self.watch.passed.get_or_init(|| Passed { reason, of_client: Some(of_client) });
                }
            }
            is_news = true;
        }
        if is_news {
            self.watch.wake();
        }
    }

    /// Milliseconds within which it has to be looked at; `None` for as long as nothing changes.
    fn period(&self, now: Instant) -> Option<u64> {
        let needs_a_look =
            self.is_new || self.watch.half_closed.load(Relaxed) || self.watch.stuck.load(Relaxed);
        let (limit, _) = self.limits.of(self.watch.half_closed.load(Relaxed));
        let own = match limit {
            u64::MAX => needs_a_look.then_some(PERIOD),
            limit => Some(period(limit)),
        };
        let vigils = self.watch.vigils.iter().flatten().filter_map(|vigil| vigil.next(now));
        vigils.map(|next| next.max(SHORTEST)).chain(own).min()
    }
}

/// How often to look for a limit to be kept.
pub(super) fn period(limit: u64) -> u64 {
    (limit / 4).clamp(SHORTEST, PERIOD)
}

/// Between two looks, in milliseconds.
const PERIOD: u64 = 1_000;
/// While nobody needs one.
const NEVER: u64 = u64::MAX;
/// The same where a limit is short.
const SHORTEST: u64 = 10;
