//! [`Patience`]: how long the others wait for a member that is behind.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// What is known of a member's being behind; nothing while it keeps up.
#[derive(Default)]
pub(super) struct Patience {
    /// Since when its peer has taken nothing of what waits, known from before its queue was full.
    stands_still: Option<Instant>,
    /// Since when its queue is full.
    is_full: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Notes whether its peer has taken something, or everything.
    pub(super) fn note(&mut self, has_taken: bool, is_flushed: bool) {
        if is_flushed {
            self.stands_still = None;
        } else if has_taken || self.stands_still.is_none() {
            self.stands_still = Some(Instant::now());
        }
    }

    /// Ready when the others have waited for long enough, while its queue is full.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>, is_full: bool) -> Poll<()> {
        if !is_full {
            (self.is_full, self.timer) = (None, None);
            return Poll::Pending;
        }
        let full = *self.is_full.get_or_insert_with(Instant::now);
        let still = self.stands_still.unwrap_or(full);
        let over = (still.max(full) + STILL).min(still + KNOWN).min(full + PATIENCE);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(over)));
        if timer.deadline() != over {
            timer.as_mut().reset(over);
        }
        timer.as_mut().poll(cx)
    }
}

/// How long a member that is behind has to catch up while its peer takes something.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long its peer may take nothing. For half of that a healthy one seems to, when TCP has to send again (the
/// shortest time it waits before is 200 ms), or when a busy machine does not give it its turn.
const STILL: Duration = Duration::from_millis(400);
/// One whose peer has taken nothing for so long, before its queue was full too, is not waited for at all.
const KNOWN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn waits(patience: &mut Patience) -> Duration {
        let begun = Instant::now();
        poll_fn(|cx| patience.poll_over(cx, true)).await;
        begun.elapsed()
    }

    fn is_over(patience: &mut Patience, is_full: bool) -> bool {
        patience.poll_over(&mut Context::from_waker(std::task::Waker::noop()), is_full).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_taken_nothing_for_long_is_not_waited_for() {
        let mut patience = Patience::default();
        patience.note(true, false);
        assert_eq!(waits(&mut patience).await, STILL);
        let mut patience = Patience::default();
        patience.note(true, false);
        tokio::time::sleep(KNOWN - STILL / 2).await;
        patience.note(false, false);
        assert!(!is_over(&mut patience, false), "there is room");
        assert_eq!(waits(&mut patience).await, STILL / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_something_has_its_time_and_no_more() {
        let mut patience = Patience::default();
        for _ in 0..10 {
            patience.note(true, false);
            assert!(!is_over(&mut patience, true));
            tokio::time::sleep(PATIENCE / 10).await;
        }
        assert!(is_over(&mut patience, true));
        assert!(!is_over(&mut patience, false), "it has caught up");
        patience.note(true, true);
        assert_eq!(waits(&mut patience).await, STILL);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_taking_has_as_long_as_one_that_never_took_anything() {
        let mut patience = Patience::default();
        patience.note(true, false);
        assert!(!is_over(&mut patience, true));
        tokio::time::sleep(STILL / 2).await;
        patience.note(true, false);
        assert!(!is_over(&mut patience, true));
        patience.note(false, false);
        assert_eq!(waits(&mut patience).await, STILL);
    }
}
