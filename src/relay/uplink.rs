//! A client that is a member of a group: dialled when the node starts, and
//! again, for ever, whenever the connection is gone.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::accept::passed;
use super::group::{Group, Mailbox, Side};
use super::member::Member;
use super::{Ended, Limits, Outlet, RelayOptions, Stop};
use crate::event::{DropCause, Event, EventKind};
use crate::net::{Amount, Conn, MessageOptions, dial};
use crate::registry::{Ending, Ledger, Line, Wanted};

/// A client of a group.
pub(crate) struct Uplink {
    group: Arc<Group>,
    limits: Arc<Limits>,
    outlet: Outlet,
    side: Side,
    messages: MessageOptions,
    /// What waits for the target across its connections, and is accounted for.
    kept: Option<Arc<Mailbox>>,
    /// Whether it is to be connected, if slots may change that.
    line: Option<Arc<Line>>,
}

/// How long to wait before the next dial.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
}

impl Uplink {
    pub(crate) fn new(group: &Arc<Group>, outlet: Outlet, side: Side, messages: MessageOptions) -> Self {
        let kept = group.keeps().then(|| {
            let (framing, limit) = (messages.framing(), messages.queue.of_uplink());
            let name = &outlet.target.name;
            group.join(Mailbox::of_uplink(name, framing, messages.max_frame(), limit, &Arc::default()))
        });
        // Nobody is served worse by a client that is silent, so it has no idle timeout.
        let limits = Arc::new(Limits::new(&RelayOptions::default()));
        Self { group: Arc::clone(group), limits, outlet, side, messages, kept, line: None }
    }

    /// One that slots open and close.
    pub(crate) fn with_line(self, line: &Arc<Line>) -> Self {
        Self { line: Some(Arc::clone(line)), ..self }
    }

    /// Waits until it is to be connected, or not to be. Cancel safe.
    async fn turned(&self, is_open: bool) {
        match &self.line {
            Some(line) => {
                let mut wanted = line.watch();
                // The sender is ours, so it is not gone.
                let _ = wanted.wait_for(|wanted| (*wanted == Wanted::Open) == is_open).await;
            }
            None if is_open => {}
            None => std::future::pending().await,
        }
    }

    /// Its accounts, if there are any.
    pub(crate) fn ledger(&self) -> Option<Arc<Ledger>> {
        self.kept.as_ref()?.ledger.clone()
    }

    fn member(&self, conn: Conn) -> Member {
        match &self.kept {
            Some(mailbox) => Member::of_uplink(&self.group, &self.limits, conn, mailbox),
            None => Member::new(&self.group, &self.limits, conn, self.side, &self.messages).of_target(),
        }
    }

    fn waiting(&self) -> Amount {
        self.kept.as_ref().map_or_else(Amount::default, |mailbox| mailbox.waiting())
    }

    /// Waits until there is nothing left to do: the node stops, and what waits has been written or is cut.
    async fn over(&self, mut stop: watch::Receiver<Stop>) {
        let _ = stop.wait_for(|stop| *stop != Stop::No).await;
        if self.waiting().frames > 0 {
            cut(stop).await;
        }
    }

    /// What still waits is lost with the node, or with the relay that a reload has replaced.
    fn ended(&self, cut: usize) -> Ended {
        let lost = self.waiting();
        if let Some(mailbox) = &self.kept {
            if lost.frames > 0 {
                mailbox.lose(&self.group.shared, DropCause::Stopped, lost);
            }
            self.group.retire(mailbox);
            if let Some(ledger) = &mailbox.ledger {
                ledger.took(0, lost.frames, 0);
            }
        }
        Ended { cut: cut.max(usize::from(lost.frames > 0)), conversation: None }
    }
}

/// Keeps one connection to the client's target until the node stops, or the
/// other end of `alive` is dropped because a reload has replaced it.
pub(crate) async fn keep(
    uplink: Uplink,
    stop: watch::Receiver<Stop>,
    mut alive: watch::Receiver<()>,
) -> Ended {
    let Uplink { group, outlet: Outlet { target, options, own, condition }, .. } = &uplink;
    let mut backoff = Backoff::default();
    loop {
        tokio::select! {
            biased;
            () = uplink.turned(true) => {}
            () = stopped(stop.clone()) => return uplink.ended(0),
            Err(_replaced) = alive.changed() => return uplink.ended(0),
        }
        let dialled = tokio::select! {
            biased;
            () = uplink.over(stop.clone()) => return uplink.ended(0),
            Err(_replaced) = alive.changed() => return uplink.ended(0),
            () = uplink.turned(false) => {
                backoff = Backoff::default();
                continue;
            }
            dialled = dial(target, options, own, &group.shared.bus, None) => dialled,
        };
        match &dialled {
            Ok(_) => condition.reached(),
            Err(_) => condition.failed(Duration::ZERO),
        }
        if let Ok(conn) = dialled {
            conn.keep_alive(&options.keepalive);
            let begun = Instant::now();
            let member = uplink.member(conn);
            // It may have been closed since, and nobody was there to be told.
            if let (Some(line), Some(mailbox)) = (&uplink.line, &uplink.kept)
                && *line.watch().borrow() != Wanted::Open
            {
                mailbox.ask(Ending::Close);
            }
            tokio::select! {
                biased;
                () = cut(stop.clone()) => return uplink.ended(1),
                Err(_replaced) = alive.changed() => return uplink.ended(0),
                _reason = member.serve(stop.clone()) => {}
            }
            if begun.elapsed() >= HEALTHY {
                backoff = Backoff::default();
            }
        }
        if *stop.borrow() != Stop::No && uplink.waiting().frames == 0 {
            return uplink.ended(0);
        }
        if uplink.line.as_ref().is_some_and(|line| *line.watch().borrow() != Wanted::Open) {
            backoff = Backoff::default();
            continue;
        }
        let pause = backoff.next(RandomState::new().hash_one(0));
        group.shared.bus.emit(EventKind::Reconnecting, || Event::Reconnecting {
            endpoint: Arc::clone(&target.name),
            target: target.address.as_target(),
            attempt: backoff.failures,
            pause,
        });
        tokio::select! {
            biased;
            () = uplink.over(stop.clone()) => return uplink.ended(0),
            Err(_replaced) = alive.changed() => return uplink.ended(0),
            () = uplink.turned(false) => {}
            () = sleep(pause) => {}
        }
    }
}

/// Waits until the node stops.
async fn stopped(mut stop: watch::Receiver<Stop>) {
    let _ = stop.wait_for(|stop| *stop != Stop::No).await;
}

/// Waits until the node cuts what has not ended.
async fn cut(mut stop: watch::Receiver<Stop>) {
    loop {
        let at = *stop.borrow_and_update();
        tokio::select! {
            biased;
            () = passed(at) => return,
            changed = stop.changed() => if changed.is_err() { return },
        }
    }
}

impl Backoff {
    /// Twice as long at most each time, and any part of that (full jitter), so
    /// that many nodes do not come back all at once.
    fn next(&mut self, random: u64) -> Duration {
        let most = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let share = (random >> 32) as f64 / f64::from(u32::MAX);
        most.mul_f64(share).max(LEAST)
    }
}

/// The most that is waited before the first dial after a failure.
const FIRST: Duration = Duration::from_millis(250);
/// The most that is ever waited.
const LONGEST: Duration = Duration::from_secs(30);
/// However the dice fall.
const LEAST: Duration = Duration::from_millis(10);
/// A connection that has lasted so long was a good one.
const HEALTHY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute_and_any_part_of_them_is_possible() {
        let mut backoff = Backoff::default();
        let longest: Vec<_> = (0..10).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        assert_eq!(longest, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(backoff.next(0), LEAST);
        assert_eq!(backoff.next(1 << 63).as_secs(), 15);
        for _ in 0..100_000 {
            backoff.next(0);
        }
        assert_eq!(backoff.next(u64::MAX), LONGEST);
    }
}
