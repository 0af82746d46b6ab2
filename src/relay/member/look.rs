//! [`Look`]: when to ask how much of what was written has arrived. Now and then
//! is often enough for the accounts; sooner where much is written, since all of
//! it is kept until then.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Of one connection.
#[derive(Default)]
pub(super) struct Look {
    /// Runs while something is unconfirmed.
    timer: Option<Pin<Box<Sleep>>>,
    /// What had been written at the last one, in bytes.
    sent: u64,
    /// The next may not come before that, however much is written.
    rests_until: Option<Instant>,
}

impl Look {
    /// Ready when it is time, with so many bytes written. Then [`looked`](Self::looked) is to be called.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>, sent: u64) -> Poll<()> {
        let is_much = sent - self.sent >= MUCH;
        if is_much && self.rests_until.is_none_or(|until| Instant::now() >= until) {
            return Poll::Ready(());
        }
        self.timer.get_or_insert_with(|| Box::pin(sleep(OFTEN))).as_mut().poll(cx)
    }

    /// It was done, with so many bytes written, from then to now.
    pub(super) fn looked(&mut self, sent: u64, begun: Instant) {
        let now = Instant::now();
        *self = Self { timer: None, sent, rests_until: Some(now + (now - begun) * REST) };
    }

    /// There is nothing to look for.
    pub(super) fn stop(&mut self) {
        self.timer = None;
    }
}

/// How often: what it does not know yet of an end is what may be told or sent wrongly.
const OFTEN: Duration = Duration::from_millis(50);
/// Bytes after which it is time in any case: as many as stay in a processor's cache.
const MUCH: u64 = 2 << 20;
/// For how many times as long as it took it is not done again, so that it never takes more than a part of the time.
const REST: u32 = 20;
