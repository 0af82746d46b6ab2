//! [`Exchange`]: requests and answers between the members of a group. It is
//! the lock, the clock and the events around [`Requests`], which decides; the
//! queues of the members carry the bytes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::group::{Group, Mailbox, Side};
use super::requests::{Answer, Failed, RequestOptions, Requests};
use crate::event::{ConnectionId, DropCause, Event, EventKind, Reason, RequestFault};
use crate::framing::{Framing, Run};
use crate::net::Amount;

/// Who asks, who answers, and when to look again.
pub(super) struct Exchange {
    state: Mutex<State>,
    /// Something is due earlier than [`run`](Self::run) expects.
    alarm: Notify,
}

struct State {
    requests: Requests,
    /// Who answers. A reload may replace it.
    target: Option<Target>,
    desks: HashMap<ConnectionId, Desk>,
    /// Failures of clients that have left.
    gone: Tallies,
    /// Clients that are not read, because too much of theirs waits.
    held_up: Vec<ConnectionId>,
    /// When `run` will look again.
    armed: Option<Instant>,
}

/// What is known of a client.
struct Desk {
    mailbox: Arc<Mailbox>,
    failures: Tallies,
}

#[derive(Clone)]
struct Target {
    mailbox: Arc<Mailbox>,
    /// What may wait for it, in bytes.
    max: usize,
}

/// How many requests failed, by fault, and when that was said last.
type Tallies = [Tally; RequestFault::ALL.len()];

#[derive(Clone, Copy, Default)]
struct Tally {
    requests: u64,
    said: Option<Instant>,
    is_unsaid: bool,
}

impl Exchange {
    pub(super) fn new(options: RequestOptions) -> Self {
        let state = State {
            requests: Requests::new(options, Instant::now()),
            target: None,
            desks: HashMap::new(),
            gone: Tallies::default(),
            held_up: Vec::new(),
            armed: None,
        };
        Self { state: Mutex::new(state), alarm: Notify::new() }
    }

    /// Says who answers, and how many bytes may wait for it. It is not connected.
    pub(super) fn leads_to(&self, group: &Group, mailbox: &Arc<Mailbox>, max: usize) {
        let mut state = self.lock();
        let target = Target { mailbox: Arc::clone(mailbox), max };
        if state.target.as_ref().is_some_and(|before| before.mailbox.framing != mailbox.framing) {
            // What waits is not in its language.
            let lost = state.requests.waiting().requests;
            let failed = state.requests.fail_all();
            self.give_up(group, &mut state, lost, failed);
        }
        state.requests.use_ids(mailbox.framing == Framing::Mbap);
        state.target = Some(target);
    }

    /// Options that follow a change.
    pub(super) fn set(&self, options: RequestOptions) {
        self.lock().requests.set(options);
        self.alarm.notify_one();
    }

    pub(super) fn join(&self, mailbox: &Arc<Mailbox>) {
        if let Some(client) = mailbox.connection() {
            let desk = Desk { mailbox: Arc::clone(mailbox), failures: Tallies::default() };
            self.lock().desks.insert(client, desk);
        }
    }

    /// A client has ended.
    pub(super) fn left(&self, group: &Group, mailbox: &Mailbox) {
        let Some(client) = mailbox.connection() else { return };
        let mut state = self.lock();
        let Some(mut desk) = state.desks.remove(&client) else { return };
        desk.say(group, true);
        let held = state.requests.left(client);
        if let Some(target) = state.target.as_ref().filter(|_| held.requests > 0) {
            target.ledger().gave_up(held.requests);
            let lost = Amount { frames: held.requests, bytes: held.bytes as u64 };
            mailbox.lose(&group.shared, DropCause::Left, lost);
        }
        self.go_on(group, &mut state);
    }

    /// Takes what a member says: a client asks, and the target answers.
    pub(super) fn carry(&self, group: &Group, from: &Mailbox, framing: Framing, run: Run) {
        let mut state = self.lock();
        let Some(target) = state.target.clone() else { return };
        match from.side() {
            Side::From => {
                let Some(client) = from.connection() else {
                    let lost = Amount { frames: run.frames, bytes: run.wire.len() as u64 };
                    return from.lose(&group.shared, DropCause::Left, lost);
                };
                let (wire, count) = group.form(from, framing, &run, &target.mailbox);
                target.ledger().held(count);
                let now = Instant::now();
                for frame in frames(target.mailbox.framing, group.charged(wire)) {
                    if let Some(failed) = state.requests.asked(client, frame, now) {
                        target.ledger().gave_up(1);
                        self.fail(group, &mut state, failed);
                    }
                }
            }
            Side::To => {
                // An answer is told by what stands around it, too.
                let wire = match framing == from.framing {
                    true => run.wire,
                    false => group.form(from, framing, &run, from).0,
                };
                for frame in frames(from.framing, wire) {
                    self.answered(group, &mut state, from, &frame);
                }
                let heard = state.requests.heard();
                target.ledger().arrived(heard);
                group.with_queue(&target.mailbox, |queue| (queue.answered(heard), ()));
            }
        }
        self.go_on(group, &mut state);
    }

    fn answered(&self, group: &Group, state: &mut State, target: &Mailbox, frame: &Bytes) {
        let dropped = match state.requests.answered(frame, Instant::now()) {
            Answer::For(client, answer) => {
                if let Some(desk) = state.desks.get(&client) {
                    self.deliver(group, target, &desk.mailbox, answer);
                }
                return;
            }
            Answer::Left => DropCause::Left,
            Answer::Late => DropCause::Late,
            Answer::Unasked => DropCause::Unasked,
        };
        target.lose(&group.shared, dropped, Amount { frames: 1, bytes: frame.len() as u64 });
    }

    fn deliver(&self, group: &Group, target: &Mailbox, client: &Mailbox, answer: Bytes) {
        let (wire, frames) = group.form(target, target.framing, &Run { wire: answer, frames: 1 }, client);
        if frames > 0 {
            let wire = group.charged(wire);
            group.with_queue(client, |queue| (queue.push(wire, frames), ()));
        }
    }

    /// Ready while a member may read: answers always, and a client while little of its own waits.
    pub(super) fn poll_room(&self, group: &Group, cx: &mut Context<'_>, own: &Mailbox) -> Poll<()> {
        own.wake_with(cx.waker());
        let Some(client) = own.connection().filter(|_| own.side() == Side::From) else {
            return Poll::Ready(());
        };
        let mut state = self.lock();
        if self.has_room(group, &state, client) {
            return Poll::Ready(());
        }
        if !state.held_up.contains(&client) {
            state.held_up.push(client);
        }
        Poll::Pending
    }

    fn has_room(&self, group: &Group, state: &State, client: ConnectionId) -> bool {
        let waiting = state.requests.waiting();
        let is_full = state.desks.get(&client).is_some_and(|desk| desk.mailbox.is_full());
        let no_memory = group.shared.has_no_budget() && waiting.requests > 0;
        let has_place = state.target.as_ref().is_none_or(|target| waiting.bytes < target.max);
        !is_full && !no_memory && has_place && state.requests.held(client) < SHARE
    }

    /// The target is connected.
    pub(super) fn connected(&self, group: &Group) {
        let mut state = self.lock();
        state.requests.connected(Instant::now());
        self.go_on(group, &mut state);
    }

    /// The target has finished: nothing more is sent to it.
    pub(super) fn closing(&self) {
        self.lock().requests.closing();
    }

    /// The target's connection is over.
    pub(super) fn disconnected(&self, group: &Group) {
        let mut state = self.lock();
        let Some(target) = state.target.clone() else { return };
        let unwritten = group.with_queue(&target.mailbox, |queue| {
            let left = queue.waiting().frames;
            let change = queue.clear();
            target.ledger().put_back(left);
            (change, left)
        });
        let (failed, again) = state.requests.disconnected(unwritten as usize, Instant::now());
        target.ledger().gave_up(unwritten - again);
        for failed in failed {
            self.fail(group, &mut state, failed);
        }
        self.go_on(group, &mut state);
    }

    /// The target will never be connected again. Yields how many requests that waited are lost.
    pub(super) fn gone(&self, group: &Group) -> u64 {
        let mut state = self.lock();
        let lost = state.requests.waiting().requests;
        let failed = state.requests.gone();
        self.give_up(group, &mut state, lost, failed);
        // They may come again, and be led to another target.
        state.desks.values().for_each(|desk| desk.mailbox.sever(Reason::NoTarget));
        lost
    }

    /// Everything has failed, of which so much was not sent.
    fn give_up(&self, group: &Group, state: &mut State, lost: u64, failed: Vec<Failed>) {
        let Some(target) = state.target.clone() else { return };
        target.ledger().gave_up(lost);
        for failed in failed {
            self.fail(group, state, failed);
        }
        state.say_gone(group, &target.mailbox, true);
    }

    /// Whether a member has to stay for an answer: its own, or all there are.
    pub(super) fn owes(&self, mailbox: &Mailbox) -> bool {
        let state = self.lock();
        match (mailbox.side(), mailbox.connection()) {
            (Side::From, Some(client)) => state.requests.owed(client) > 0,
            _ => state.requests.open() > 0,
        }
    }

    /// Whether something was sent that has no answer yet.
    pub(super) fn is_asking(&self) -> bool {
        let state = self.lock();
        let unwritten = state.target.as_ref().map_or(0, |target| target.mailbox.waiting().frames);
        state.requests.on_link() > unwritten
    }

    /// How long an answer is waited for.
    pub(super) fn timeout(&self) -> Duration {
        self.lock().requests.timeout()
    }

    /// Requests that have no answer yet.
    pub(super) fn open(&self) -> u64 {
        self.lock().requests.open()
    }

    /// Something has changed that requests may have waited for.
    pub(super) fn nudge(&self) {
        self.alarm.notify_one();
    }

    /// Looks after the time. Never ends.
    pub(super) async fn run(&self, group: &Group) -> Infallible {
        loop {
            let due = self.expire(group);
            let due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.alarm.notified() => {}
                () = due => {}
            }
        }
    }

    fn expire(&self, group: &Group) -> Option<Instant> {
        let mut state = self.lock();
        let target = state.target.clone()?;
        let unwritten = target.mailbox.waiting().frames as usize;
        let before = state.requests.waiting().requests;
        let expired = state.requests.expire(Instant::now(), unwritten);
        target.ledger().gave_up(before - state.requests.waiting().requests);
        if expired.closes {
            target.mailbox.sever(Reason::Unanswered);
        }
        let any = !expired.failed.is_empty();
        for failed in expired.failed {
            self.fail(group, &mut state, failed);
        }
        if any {
            target.mailbox.wake();
        }
        self.send(group, &mut state);
        state.armed = state.requests.deadline(Instant::now());
        state.armed
    }

    /// Sends what may be sent, and has `run` look again if that is due before it would.
    fn go_on(&self, group: &Group, state: &mut State) {
        self.send(group, state);
        if let Some(due) = state.requests.deadline(Instant::now())
            && state.armed.is_none_or(|armed| due < armed)
        {
            state.armed = Some(due);
            self.alarm.notify_one();
        }
    }

    /// Sends what may be sent, and lets those read who have room again.
    fn send(&self, group: &Group, state: &mut State) {
        let now = Instant::now();
        let State { requests, desks, target, .. } = state;
        let Some(target) = target else { return };
        let is_full = |client| desks.get(&client).is_some_and(|desk: &Desk| desk.mailbox.is_full());
        while let Some(frame) = requests.next(now, is_full) {
            group.with_queue(&target.mailbox, |queue| {
                let change = queue.push(frame, 1);
                target.ledger().moved(1, queue.waiting().frames);
                (change, ())
            });
        }
        if !state.held_up.is_empty() {
            let held_up = std::mem::take(&mut state.held_up);
            let has_room = |client: &ConnectionId| self.has_room(group, state, *client);
            let (free, held_up): (Vec<_>, Vec<_>) = held_up.into_iter().partition(has_room);
            state.held_up = held_up;
            free.iter().filter_map(|client| state.desks.get(client)).for_each(|desk| desk.mailbox.wake());
        }
    }

    /// Tells everyone whom it concerns that a request has failed.
    fn fail(&self, group: &Group, state: &mut State, failed: Failed) {
        let Some(target) = state.target.clone() else { return };
        match failed.client.and_then(|client| state.desks.get_mut(&client)) {
            Some(desk) => {
                desk.failures[failed.fault as usize].count();
                desk.say(group, false);
                let mailbox = Arc::clone(&desk.mailbox);
                if let Some(reply) = failed.reply {
                    self.deliver(group, &target.mailbox, &mailbox, reply);
                }
                if failed.confuses {
                    mailbox.sever(Reason::Unanswered);
                }
                // It may have waited for nothing else.
                mailbox.wake();
            }
            None => {
                state.gone[failed.fault as usize].count();
                state.say_gone(group, &target.mailbox, false);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn say_gone(&mut self, group: &Group, target: &Mailbox, is_last: bool) {
        say(&mut self.gone, group, None, target, is_last);
    }
}

impl Desk {
    fn say(&mut self, group: &Group, is_last: bool) {
        let client = self.mailbox.connection();
        say(&mut self.failures, group, client, &self.mailbox, is_last);
    }
}

impl Target {
    fn ledger(&self) -> &crate::registry::Ledger {
        self.mailbox.ledger.as_ref().expect("what is kept connected is accounted for")
    }
}

impl Tally {
    fn count(&mut self) {
        self.requests += 1;
        self.is_unsaid = true;
    }
}

/// Says what is new, at most once a second for each fault.
fn say(tallies: &mut Tallies, group: &Group, connection: Option<ConnectionId>, of: &Mailbox, is_last: bool) {
    for fault in RequestFault::ALL {
        let tally = &mut tallies[fault as usize];
        let is_due = is_last || tally.said.is_none_or(|said| said.elapsed() >= OFTEN);
        if !tally.is_unsaid || !is_due {
            continue;
        }
        (tally.said, tally.is_unsaid) = (Some(Instant::now()), false);
        let (endpoint, requests) = (of.endpoint(), tally.requests);
        let event = || Event::RequestFailed { connection, endpoint, fault, requests };
        group.shared.bus.emit(EventKind::RequestFailed, event);
    }
}

/// Whole frames, one by one.
fn frames(framing: Framing, mut wire: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let end = framing.first_end(&wire);
        (!wire.is_empty()).then(|| wire.split_to(end))
    })
}

/// What may wait of one client before it is read no more, in bytes; one read goes beyond it.
const SHARE: usize = 64 << 10;
/// How often a client's failures are said.
const OFTEN: Duration = Duration::from_secs(1);
