//! A client that is a member of a group: dialled when the node starts, and
//! again, for ever, whenever the connection is gone. Of several that take turns
//! one is connected, and what waits goes over whichever that is.

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
use super::targets::Reached;
use super::{Ended, Limits, RelayOptions, Stop, Targets};
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
    /// One, or those that take turns.
    pub(crate) targets: Arc<Targets>,
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

    fn member(&self, plan: &Plan, target: &Arc<str>, conn: Conn) -> Member {
        match &self.kept {
            Some(mailbox) => {
                mailbox.lead_to(target);
                // What was lost while it was away is known now.
                mailbox.say_losses(&self.group.shared, true);
                Member::of_uplink(&self.group, &self.limits, conn, mailbox, &plan.messages)
            }
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
            &self.targets.next().target.name,
            framing,
            self.messages.max_frame(),
            limit,
            ledger,
            self.options.resend,
        )
    }
}

/// Keeps one connection to the client's target, or to one of several, until the node stops, or
/// the other end of its plan is dropped because a reload has removed it.
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
    // Targets lost since one was good: until all are, the next is dialled at once.
    let mut lost = 0;
    // One that is preferred to the one that was served, and can be reached again.
    let mut back: Option<Reached> = None;
    while plan.has_changed().is_ok() {
        let next = Arc::clone(&plan.borrow_and_update());
        if !Arc::ptr_eq(&now, &next) {
            back = None;
            next.targets.succeed(&now.targets);
        }
        uplink.follow(&now, &next);
        now = next;
        let targets = &now.targets;
        let shared = &uplink.group.shared;
        if let Some(mailbox) = &uplink.kept {
            mailbox.say_losses(shared, false);
        }
        tokio::select! {
            biased;
            () = uplink.turned(true) => {}
            () = stopped(stop.clone()) => return uplink.ended(0),
            _replaced = plan.changed() => continue,
        }
        let reached = async {
            match back.take() {
                Some(reached) => {
                    targets.lead_to(shared, reached.nth);
                    Some(reached)
                }
                None => targets.dial(shared, None).await,
            }
        };
        let reached = tokio::select! {
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
            reached = reached => reached,
        };
        let mut reached_nth = None;
        if let Some(Reached { upstream: conn, nth, lead: _lead }) = reached {
            let outlet = targets.outlet(nth).expect("it is one of them");
            conn.keep_alive(&outlet.options.keepalive);
            reached_nth = Some(nth);
            let begun = Instant::now();
            let is_ours;
            let mut told = plan.clone();
            let replaced = async {
                tokio::select! {
                    biased;
                    _replaced = told.changed() => {}
                    reached = targets.back(shared, nth) => back = Some(reached),
                }
            };
            let member = uplink.member(&now, &outlet.target.name, conn);
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
            if let Some(line) = uplink.line.as_ref().filter(|_| outlet.target.address == Address::Stdio) {
                line.want(Wanted::Closed);
            }
            // One that we have closed for want of an answer was none that failed.
            if is_ours || begun.elapsed() >= HEALTHY {
                (attempt, lost) = (0, 0);
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
        if back.is_some() {
            continue;
        }
        if let Some(nth) = reached_nth {
            targets.lost(nth);
            lost += 1;
            if lost < targets.count() {
                continue;
            }
        }
        lost = 0;
        attempt = attempt.saturating_add(1);
        let pause = again(attempt, RandomState::new().hash_one(0));
        shared.bus.emit(EventKind::Reconnecting, || {
            let target = &targets.next().target;
            Event::Reconnecting {
                endpoint: Arc::clone(&target.name),
                target: target.address.as_target(),
                attempt,
                pause,
            }
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

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    /// A server for a thousand nodes goes down for two minutes, and all dial again until it is back.
    #[tokio::test(start_paused = true)]
    async fn a_thousand_that_lost_the_same_server_do_not_come_back_as_a_herd() {
        let lost = Instant::now();
        let back = lost + Duration::from_secs(120);
        let mut nodes = JoinSet::new();
        for _ in 0..1_000 {
            nodes.spawn(async move {
                let mut dials = Vec::new();
                for attempt in 1.. {
                    sleep(again(attempt, RandomState::new().hash_one(0))).await;
                    dials.push(lost.elapsed());
                    if Instant::now() >= back {
                        break;
                    }
                }
                dials
            });
        }
        let all = nodes.join_all().await;
        // The most of these that fall into one slice of time.
        let most = |times: &mut dyn Iterator<Item = Duration>, slice: Duration| {
            let mut counts = std::collections::HashMap::new();
            times.for_each(|time| *counts.entry(time.as_nanos() / slice.as_nanos()).or_insert(0) += 1);
            counts.into_values().max().unwrap()
        };
        let firsts = most(&mut all.iter().map(|dials| dials[0]), Duration::from_millis(10));
        let mut late = all.iter().flatten().copied().filter(|time| (60..120).contains(&time.as_secs()));
        let late = most(&mut late, Duration::from_millis(100));
        let last = all.iter().map(|dials| *dials.last().unwrap());
        let returns = most(&mut last.clone(), Duration::from_millis(100));
        let slowest = last.max().unwrap() - Duration::from_secs(120);
        let dials = all.iter().map(Vec::len).max().unwrap();
        // Evenly spread these would be 40, twice that at first, 7 and 3.
        assert!(firsts < 150 && late < 30 && returns < 30, "{firsts} {late} {returns}");
        assert!(slowest <= Duration::from_secs(30) && dials < 200, "{slowest:?} {dials}");
    }
}
