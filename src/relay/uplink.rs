//! A client that is a member of a group: dialled when the node starts, and
//! again, for ever, whenever the connection is gone.

use std::future::pending;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::accept::passed;
use super::exchange::Exchange;
use super::group::{Group, Mailbox, Side};
use super::member::Member;
use super::{Ended, Limits, Outlet, RelayOptions, Stop};
use crate::address::Address;
use crate::event::{DropCause, Event, EventKind, Reason};
use crate::net::{Amount, Conn, MessageOptions, Reconnect};
use crate::registry::{Ending, Ledger, Line, Wanted};

/// A client of a group, for as long as its relay has it.
pub(crate) struct Uplink {
    group: Arc<Group>,
    limits: Arc<Limits>,
    /// What waits for the target across its connections, and is accounted for.
    kept: Option<Arc<Mailbox>>,
    /// Whether it is to be connected, if slots may change that.
    line: Option<Arc<Line>>,
}

/// How a client of a group is dialled, and what it is to the others. A reload replaces it.
pub(crate) struct Plan {
    pub(crate) outlet: Outlet,
    pub(crate) side: Side,
    /// After what it takes over from the relay's listener.
    pub(crate) messages: MessageOptions,
    /// Those of the relay that do not follow a change while it runs.
    pub(crate) options: Arc<RelayOptions>,
}

impl Uplink {
    pub(crate) fn new(group: &Arc<Group>, plan: &Plan) -> Self {
        let kept = group.keeps().then(|| group.join(plan.mailbox(&Arc::default())));
        if let Some((exchange, kept)) = group.exchange.as_ref().zip(kept.as_ref()) {
            exchange.leads_to(group, kept, plan.messages.queue.of_uplink().max);
        }
        // Nobody is served worse by a client that is silent, so it has no idle timeout.
        let limits = Arc::new(Limits::new(&RelayOptions::default()));
        Self { group: Arc::clone(group), limits, kept, line: None }
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
            None => pending().await,
        }
    }

    /// Its accounts, if there are any.
    pub(crate) fn ledger(&self) -> Option<Arc<Ledger>> {
        self.kept.as_ref()?.ledger.clone()
    }

    /// Puts what waits into the framing and the limit of another plan.
    fn follow(&mut self, before: &Plan, plan: &Plan) {
        if let Some(mailbox) = self.kept.take_if(|_| plan.waits_otherwise(before)) {
            let ledger = mailbox.ledger.as_ref().expect("whatever is kept is accounted for");
            let kept = self.group.replace(&mailbox, plan.mailbox(ledger));
            if let Some(exchange) = &self.group.exchange {
                exchange.leads_to(&self.group, &kept, plan.messages.queue.of_uplink().max);
            }
            self.kept = Some(kept);
        }
    }

    fn member(&self, plan: &Plan, conn: Conn) -> Member {
        match &self.kept {
            Some(mailbox) => Member::of_uplink(&self.group, &self.limits, conn, mailbox),
            None => Member::new(&self.group, &self.limits, conn, plan.side, &plan.messages).of_target(),
        }
        .with_options(&plan.options)
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

    /// What still waits is lost with the node, or with the client that a reload has removed.
    fn ended(&self, cut: usize) -> Ended {
        if let Some(mailbox) = &self.kept {
            // Nothing more may come to what is counted now.
            self.group.leave(mailbox);
        }
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

impl Plan {
    /// Whether what waits has to be kept in another way than before.
    fn waits_otherwise(&self, before: &Self) -> bool {
        self.messages != before.messages || self.options.resend != before.options.resend
    }

    /// For what waits across connections.
    fn mailbox(&self, ledger: &Arc<Ledger>) -> Mailbox {
        let (framing, limit) = (self.messages.framing(), self.messages.queue.of_uplink());
        Mailbox::of_uplink(
            &self.outlet.target.name,
            framing,
            self.messages.max_frame(),
            limit,
            ledger,
            self.options.resend,
        )
    }
}

/// Keeps one connection to the client's target until the node stops, or the
/// other end of its plan is dropped because a reload has removed it.
pub(crate) async fn keep(
    mut uplink: Uplink,
    mut plan: watch::Receiver<Arc<Plan>>,
    stop: watch::Receiver<Stop>,
) -> Ended {
    let mut now = Arc::clone(&plan.borrow_and_update());
    let mut attempt = 0u32;
    let group = Arc::clone(&uplink.group);
    let mut exchange = pin!(async {
        match &group.exchange {
            Some(exchange) => exchange.run(&group).await,
            None => pending().await,
        }
    });
    while plan.has_changed().is_ok() {
        let next = Arc::clone(&plan.borrow_and_update());
        uplink.follow(&now, &next);
        now = next;
        let Outlet { target, .. } = &now.outlet;
        let bus = &uplink.group.shared.bus;
        tokio::select! {
            biased;
            () = uplink.turned(true) => {}
            () = stopped(stop.clone()) => return uplink.ended(0),
            _replaced = plan.changed() => continue,
        }
        let dialled = tokio::select! {
            biased;
            () = uplink.over(stop.clone()) => return uplink.ended(0),
            never = &mut exchange => match never {},
            _replaced = plan.changed() => {
                attempt = 0;
                continue;
            }
            () = uplink.turned(false) => {
                attempt = 0;
                continue;
            }
            dialled = now.outlet.dial(bus, None) => dialled,
        };
        if let Ok(conn) = dialled {
            conn.keep_alive(&now.outlet.options.keepalive);
            let begun = Instant::now();
            let is_ours;
            let mut told = plan.clone();
            let replaced = async { drop(told.changed().await) };
            let member = uplink.member(&now, conn);
            // It may have been closed since, and nobody was there to be told.
            if let (Some(line), Some(mailbox)) = (&uplink.line, &uplink.kept)
                && *line.watch().borrow() != Wanted::Open
            {
                mailbox.ask(Ending::Close);
            }
            tokio::select! {
                biased;
                () = cut(stop.clone()) => return uplink.ended(1),
                never = &mut exchange => match never {},
                reason = member.serve(stop.clone(), replaced) => is_ours = reason == Reason::Unanswered,
            }
            // A terminal that is gone does not come back by itself.
            if let Some(line) = uplink.line.as_ref().filter(|_| target.address == Address::Stdio) {
                line.want(Wanted::Closed);
            }
            // One that we have closed for want of an answer was none that failed.
            if is_ours || begun.elapsed() >= HEALTHY {
                attempt = 0;
            }
        }
        if *stop.borrow() != Stop::No && !uplink.is_wanted() {
            return uplink.ended(0);
        }
        if plan.has_changed().unwrap_or(true)
            || uplink.line.as_ref().is_some_and(|line| *line.watch().borrow() != Wanted::Open)
        {
            attempt = 0;
            continue;
        }
        attempt = attempt.saturating_add(1);
        let pause = again(attempt, RandomState::new().hash_one(0));
        bus.emit(EventKind::Reconnecting, || Event::Reconnecting {
            endpoint: Arc::clone(&target.name),
            target: target.address.as_target(),
            attempt,
            pause,
        });
        tokio::select! {
            biased;
            () = uplink.over(stop.clone()) => return uplink.ended(0),
            never = &mut exchange => match never {},
            _replaced = plan.changed() => attempt = 0,
            () = uplink.turned(false) => {}
            () = sleep(pause) => {}
        }
    }
    uplink.ended(0)
}

/// Waits until the node stops.
async fn stopped(mut stop: watch::Receiver<Stop>) {
    let _ = stop.wait_for(|stop| *stop != Stop::No).await;
}

/// Waits until the node cuts what has not ended.
pub(super) async fn cut(mut stop: watch::Receiver<Stop>) {
    loop {
        let at = *stop.borrow_and_update();
        tokio::select! {
            biased;
            () = passed(at) => return,
            changed = stop.changed() => if changed.is_err() { return },
        }
    }
}

/// How long to wait before the `attempt`th dial in a row, as a socket of the library does.
pub(super) fn again(attempt: u32, random: u64) -> Duration {
    Reconnect::default().wait(attempt, random).expect("the number of attempts has no limit").max(LEAST)
}

/// However the dice fall.
const LEAST: Duration = Duration::from_millis(10);
/// How often a node that stops looks whether anyone still waits.
const LOOK: Duration = Duration::from_millis(20);
/// A connection that has lasted so long was a good one.
const HEALTHY: Duration = Duration::from_secs(10);
