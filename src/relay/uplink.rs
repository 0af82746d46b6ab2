//! A client that is a member of a group: dialled when the node starts, and
//! again, for ever, whenever the connection is gone.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::accept::passed;
use super::exchange::Exchange;
use super::group::{Group, Mailbox, Side};
use super::member::Member;
use super::{Ended, Limits, Outlet, RelayOptions, Stop};
use crate::event::{DropCause, Event, EventKind, Reason};
use crate::net::{Amount, Conn, MessageOptions, dial};
use crate::registry::Ledger;

/// A client of a group.
pub(crate) struct Uplink {
    group: Arc<Group>,
    limits: Arc<Limits>,
    outlet: Outlet,
    side: Side,
    messages: MessageOptions,
    /// What waits for the target across its connections, and is accounted for.
    kept: Option<Arc<Mailbox>>,
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
            let ledger = Arc::default();
            let kept = group.join(Mailbox::of_uplink(name, framing, messages.max_frame(), limit, &ledger));
            if let Some(exchange) = &group.exchange {
                exchange.leads_to(&kept, limit.max);
            }
            kept
        });
        // Nobody is served worse by a client that is silent, so it has no idle timeout.
        let limits = Arc::new(Limits::new(&RelayOptions::default()));
        Self { group: Arc::clone(group), limits, outlet, side, messages, kept }
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

    /// Whether anyone still waits for it to be connected.
    fn is_wanted(&self) -> bool {
        let open = self.group.exchange.as_ref().map_or(0, Exchange::open);
        open > 0 || self.waiting().frames > 0
    }

    /// Waits until there is nothing left to do: the node stops, and what waits has been written or is cut.
    async fn over(&self, mut stop: watch::Receiver<Stop>) {
        let _ = stop.wait_for(|stop| *stop != Stop::No).await;
        while self.is_wanted() {
            tokio::select! {
                biased;
                () = cut(stop.clone()) => return,
                () = sleep(LOOK) => {}
            }
        }
    }

    /// What still waits is lost with the node, or with the relay that a reload has replaced.
    fn ended(&self, cut: usize) -> Ended {
        let asked = self.group.exchange.as_ref().map_or(0, |exchange| exchange.gone(&self.group));
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
        Ended { cut: cut.max(usize::from(lost.frames + asked > 0)), conversation: None }
    }
}

/// Keeps one connection to the client's target until the node stops, or the
/// other end of `alive` is dropped because a reload has replaced it.
pub(crate) async fn keep(
    uplink: Uplink,
    stop: watch::Receiver<Stop>,
    mut alive: watch::Receiver<()>,
) -> Ended {
    let Uplink { group, outlet: Outlet { target, options, own }, .. } = &uplink;
    let mut backoff = Backoff::default();
    let exchange = async {
        match &group.exchange {
            Some(exchange) => exchange.run(group).await,
            None => std::future::pending().await,
        }
    };
    let mut exchange = std::pin::pin!(exchange);
    loop {
        let dialled = tokio::select! {
            biased;
            () = uplink.over(stop.clone()) => return uplink.ended(0),
            Err(_replaced) = alive.changed() => return uplink.ended(0),
            never = &mut exchange => match never {},
            dialled = dial(target, options, own, &group.shared.bus, None) => dialled,
        };
        if let Ok(conn) = dialled {
            conn.keep_alive(&options.keepalive);
            let begun = Instant::now();
            let is_ours;
            tokio::select! {
                biased;
                () = cut(stop.clone()) => return uplink.ended(1),
                Err(_replaced) = alive.changed() => return uplink.ended(0),
                never = &mut exchange => match never {},
                reason = uplink.member(conn).serve(stop.clone()) => is_ours = reason == Reason::Unanswered,
            }
            // One that we have closed for want of an answer was none that failed.
            if is_ours || begun.elapsed() >= HEALTHY {
                backoff = Backoff::default();
            }
        }
        if *stop.borrow() != Stop::No && !uplink.is_wanted() {
            return uplink.ended(0);
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
            never = &mut exchange => match never {},
            () = sleep(pause) => {}
        }
    }
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
/// How often a node that stops looks whether anyone still waits.
const LOOK: Duration = Duration::from_millis(20);
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
