//! [`Limiter`]: warnings that come too often come once in a while, and their
//! repetitions as a count, with whom the last was about and the sum of what was lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::field::display;
use tracing::warn;

use crate::bus::Dropped;
use crate::event::Endpoint;

/// A line that may come too often.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) what: &'static str,
    pub(super) endpoint: &'a Arc<str>,
    pub(super) cause: &'a str,
}

/// What a line tells beside, which makes no other line of it.
#[derive(Default)]
pub(super) struct Detail {
    peer: Option<Endpoint>,
    lost: Option<Dropped>,
}

impl Detail {
    pub(super) fn of(peer: &Endpoint) -> Self {
        Self { peer: Some(peer.clone()), lost: None }
    }

    pub(super) const fn lost(lost: Dropped) -> Self {
        Self { peer: None, lost: Some(lost) }
    }

    fn add(&mut self, other: Self) {
        self.peer = other.peer.or_else(|| self.peer.take());
        if let Some(new) = other.lost {
            let lost = self.lost.get_or_insert_default();
            lost.frames += new.frames;
            lost.bytes += new.bytes;
        }
    }
}

/// Lets each line through once in a while, and counts the rest. A line with
/// another cause is another line.
#[derive(Default)]
pub(super) struct Limiter {
    lines: HashMap<(&'static str, Arc<str>, String), Limited>,
}

struct Limited {
    again: Instant,
    suppressed: u64,
    /// Of those that were suppressed.
    detail: Detail,
}

impl Limiter {
    pub(super) fn say(&mut self, line: Line<'_>, detail: Detail, every: Duration) {
        if let Some(Detail { peer, lost }) = self.permits(line, detail, every) {
            let peer = peer.as_ref().map(display);
            let (frames, bytes) = (lost.map(|lost| lost.frames), lost.map(|lost| lost.bytes));
            warn!(endpoint = %line.endpoint, cause = line.cause, peer, frames, bytes, "{}", line.what);
        }
    }

    /// Yields the detail of a line that may be said now.
    fn permits(&mut self, line: Line<'_>, detail: Detail, every: Duration) -> Option<Detail> {
        let now = Instant::now();
        if self.lines.len() >= CAUSES {
            // Those that have been silent are new when they come again.
            self.lines.retain(|_, limited| limited.suppressed > 0 || limited.again > now);
        }
        let key = (line.what, Arc::clone(line.endpoint), line.cause.to_owned());
        if self.lines.len() >= CAUSES && !self.lines.contains_key(&key) {
            return None;
        }
        let new = || Limited { again: now, suppressed: 0, detail: Detail::default() };
        let limited = self.lines.entry(key).or_insert_with(new);
        if limited.suppressed > 0 || limited.again > now {
            limited.suppressed += 1;
            limited.detail.add(detail);
            return None;
        }
        limited.again = now + every;
        Some(detail)
    }

    /// When the next count of suppressed lines is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.lines.values().filter(|limited| limited.suppressed > 0).map(|limited| limited.again).min()
    }

    /// Says how often the lines came whose time it is.
    pub(super) fn report(&mut self) {
        let now = Instant::now();
        for ((what, endpoint, cause), limited) in &mut self.lines {
            if limited.suppressed > 0 && limited.again <= now {
                let times = std::mem::take(&mut limited.suppressed);
                limited.again = now + OFTEN;
                let Detail { peer, lost } = std::mem::take(&mut limited.detail);
                let last_peer = peer.as_ref().map(display);
                match lost {
                    // How often it was said of them tells nothing.
                    Some(Dropped { frames, bytes }) => {
                        warn!(%endpoint, cause, frames, bytes, "{what}, again")
                    }
                    None => warn!(%endpoint, cause, last_peer, times, "{what}, again"),
                }
            }
        }
    }

    /// Says everything that is left.
    pub(super) fn finish(&mut self) {
        self.lines.values_mut().for_each(|limited| limited.again = Instant::now());
        self.report();
    }
}

pub(super) const OFTEN: Duration = Duration::from_secs(1);
pub(super) const SELDOM: Duration = Duration::from_secs(5);
/// Different lines that are counted at once; more than any node has things to say.
const CAUSES: usize = 256;

#[cfg(test)]
mod tests {
    use tokio::time::sleep_until;

    use super::*;

    fn permits(limiter: &mut Limiter, line: Line<'_>) -> bool {
        limiter.permits(line, Detail::default(), OFTEN).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeated_line_comes_once_a_second_and_its_repetitions_as_a_count() {
        let mut limiter = Limiter::default();
        let endpoint: Arc<str> = "connect1".into();
        let refused = Line { what: "cannot connect", endpoint: &endpoint, cause: "refused" };
        assert!(permits(&mut limiter, refused));
        assert_eq!(limiter.due(), None);
        assert!(!permits(&mut limiter, refused));
        assert!(!permits(&mut limiter, refused));
        let due = limiter.due().unwrap();
        assert_eq!(due - Instant::now(), OFTEN);
        sleep_until(due).await;
        // Even now: what is counted is said first.
        assert!(!permits(&mut limiter, refused));
        limiter.report();
        assert_eq!(limiter.due(), None);
        assert!(!permits(&mut limiter, refused));
        tokio::time::sleep(2 * OFTEN).await;
        limiter.report();
        tokio::time::sleep(2 * OFTEN).await;
        assert!(permits(&mut limiter, refused));
    }

    #[tokio::test(start_paused = true)]
    async fn another_cause_is_said_at_once_and_causes_without_number_are_not_kept() {
        let mut limiter = Limiter::default();
        let endpoint: Arc<str> = "connect1".into();
        let mut permits = |cause: &str| permits(&mut limiter, Line { what: "w", endpoint: &endpoint, cause });
        assert!(permits("refused"));
        assert!(permits("unreachable"));
        assert!(!permits("refused"));
        let said = (0..1_000).filter(|i| permits(&i.to_string())).count();
        assert_eq!(said, CAUSES - 2);
        tokio::time::sleep(2 * OFTEN).await;
        assert!(permits("later"));
    }

    #[tokio::test(start_paused = true)]
    async fn of_repetitions_the_losses_are_added_and_the_last_peer_is_kept() {
        let mut limiter = Limiter::default();
        let endpoint: Arc<str> = "connect1".into();
        let line = Line { what: "frames dropped", endpoint: &endpoint, cause: "overflow" };
        for frames in 1..=4 {
            let detail = Detail::lost(Dropped { frames, bytes: 10 * frames });
            assert_eq!(limiter.permits(line, detail, OFTEN).is_some(), frames == 1);
        }
        for peer in [Endpoint::Stdio, Endpoint::Echo] {
            assert!(limiter.permits(line, Detail::of(&peer), OFTEN).is_none());
        }
        let limited = limiter.lines.values().next().unwrap();
        assert_eq!(limited.detail.lost, Some(Dropped { frames: 9, bytes: 90 }));
        assert_eq!(limited.detail.peer, Some(Endpoint::Echo));
    }
}
