//! [`Clock`]: how long a function of a script has run since it was called or
//! last waited. The interpreter asks it at every call and every turn of a loop.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Stops a function that runs too long.
///
/// What counts is time of the processor: a machine that is busy elsewhere makes no script late. That clock
/// costs a system call, so a coarse one, which is read without, says when to look at it.
#[derive(Debug)]
pub(super) struct Clock {
    limit: Duration,
    /// By the coarse clock: when to look next.
    look: Cell<Duration>,
    /// What the function had used before this turn.
    used: Cell<Duration>,
    /// When this turn began, by the coarse clock.
    began: Cell<Duration>,
    /// The processor time of this thread at the last tick of the coarse clock before this turn.
    base: Cell<Duration>,
    tick: Cell<Duration>,
}

impl Clock {
    pub(super) fn new(limit: Duration) -> Self {
        let zero = || Cell::new(Duration::ZERO);
        Self { limit, look: zero(), used: zero(), began: zero(), base: zero(), tick: zero() }
    }

    /// How long a function may run.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// A function goes on that has used this much already.
    pub(super) fn begin(&self, used: Duration) {
        let now = time(COARSE);
        if self.tick.replace(now) != now {
            self.base.set(time(ClockId::ThreadCPUTime));
        }
        self.began.set(now);
        self.used.set(used);
        self.look.set(now + self.limit.saturating_sub(used));
    }

    /// What it has used by now.
    pub(super) fn used(&self) -> Duration {
        self.used.get() + time(COARSE).saturating_sub(self.began.get())
    }

    /// Waits for something outside. A function that had to begins anew.
    pub(super) async fn wait<T>(&self, outside: impl Future<Output = T>) -> T {
        let mut outside = pin!(outside);
        let mut had_to = false;
        let output = poll_fn(|cx| {
            let polled = outside.as_mut().poll(cx);
            had_to |= polled.is_pending();
            polled
        });
        let output = output.await;
        if had_to {
            self.begin(Duration::ZERO);
        }
        output
    }

    /// Whether it has used too much.
    pub(super) fn is_over(&self) -> bool {
        let now = time(COARSE);
        if now < self.look.get() {
            return false;
        }
        let used = self.used.get() + time(ClockId::ThreadCPUTime).saturating_sub(self.base.get());
        // The base may be a tick too early.
        let left = (self.limit + TICK).saturating_sub(used);
        self.look.set(now + left);
        left.is_zero()
    }
}

fn time(clock: ClockId) -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    Duration::new(tv_sec.try_into().unwrap_or(0), tv_nsec.try_into().unwrap_or(0))
}

#[cfg(target_os = "linux")]
const COARSE: ClockId = ClockId::MonotonicCoarse;
#[cfg(not(target_os = "linux"))]
const COARSE: ClockId = ClockId::Monotonic;
/// Between two readings of the coarse clock that differ, on a kernel of 250 Hz.
const TICK: Duration = Duration::from_millis(4);
