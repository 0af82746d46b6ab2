//! [`Group`]: connections that hear each other by a rule. Whoever speaks puts
//! whole frames into the queues of those who hear; each of them writes its own.
//! Nothing here waits: a source that must not go on is told so before it reads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use tokio::time::{Duration, Instant};

use super::exchange::Exchange;
use super::readers::{Call, Readers};
use super::via::Via;
use super::wired::Wires;
use super::{RelayMode, RelayOptions, Reply, Shared};
use crate::bus::Dropped;
use crate::event::{ConnectionId, DropCause, Event, EventKind, Reason};
use crate::framing::{Framing, Run};
use crate::net::{Amount, Change, Level, Overflow, Queue, QueueLimit};
use crate::registry::{Intake, Ledger, Undone};

/// Which end of the relay a member is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    From,
    To,
}

/// The members of one relay.
pub(crate) struct Group {
    pub(super) shared: Arc<Shared>,
    mode: RelayMode,
    /// Takes what they send, if that goes to wires and scripts and not by the rule of the mode.
    pub(super) wires: Option<Wires>,
    /// What they send goes through this first.
    pub(super) via: Via,
    members: RwLock<Vec<Arc<Mailbox>>>,
    /// Those that have a name, by it.
    pub(super) names: RwLock<HashMap<Vec<u8>, Arc<Mailbox>>>,
    /// Members that are full, and whose sources wait for that.
    full: AtomicUsize,
    /// What waits in all queues, in bytes.
    held: AtomicUsize,
    /// Members that have something to read and must not yet.
    readers: Readers,
    /// Who asks and who answers, where answers go to those who asked.
    pub(super) exchange: Option<Exchange>,
}

/// A member as the others see it: what waits for it, and how to wake it.
pub(super) struct Mailbox {
    /// None while a target that is kept connected is not.
    connection: Mutex<Option<ConnectionId>>,
    /// Of several targets, the one that is or was connected.
    endpoint: Mutex<Arc<str>>,
    pub(super) side: Side,
    pub(super) framing: Framing,
    pub(super) max_frame: usize,
    pub(super) overflow: Overflow,
    queue: Mutex<Queue>,
    /// Where every message is that was taken for it, if that is accounted for.
    pub(super) ledger: Option<Arc<Ledger>>,
    pub(super) is_full: AtomicBool,
    /// What a slot has asked for, as bits.
    pub(super) asked: AtomicU8,
    /// A task's waker stays good for its life, so it is stored once.
    waker: OnceLock<Waker>,
    /// When it waits to read.
    pub(super) call: Call,
    /// Why it has to end, as [`SEVERED`] has it, from 1.
    severed: AtomicU8,
    /// What it is called, and what therefore stands before all that it sends to a target.
    name: OnceLock<(Vec<u8>, Vec<u8>)>,
    losses: Mutex<[Loss; DropCause::ALL.len()]>,
}

/// What was lost for one cause, and when that was said last.
#[derive(Clone, Copy, Default)]
struct Loss {
    amount: Amount,
    said: Option<Instant>,
    is_unsaid: bool,
}

impl Group {
    pub(crate) fn new(shared: Arc<Shared>, mode: RelayMode, options: &RelayOptions) -> Self {
        Self {
            exchange: (options.reply == Reply::Request).then(|| Exchange::new(options.request)),
            shared,
            mode,
            wires: None,
            via: Via::new(),
            members: RwLock::default(),
            names: RwLock::default(),
            full: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            readers: Readers::default(),
        }
    }

    /// The clients of a listener, or the target of a client that is kept connected, of which wires and scripts
    /// are told by the intake.
    pub(crate) fn wired(shared: Arc<Shared>, is_target: bool, intake: &Arc<Intake>, undone: &Undone) -> Self {
        let mode = if is_target { RelayMode::Collect } else { RelayMode::Hub };
        Self { wires: Some(Wires::new(intake, undone)), ..Self::new(shared, mode, &RelayOptions::default()) }
    }

    /// Waits until wires and scripts can be told of another connection. Cancel safe.
    pub(super) async fn room(&self) {
        if let Some(wires) = &self.wires {
            wires.room().await;
        }
    }

    pub(super) fn members(&self) -> Vec<Arc<Mailbox>> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts one frame into the queue of one.
    pub(super) fn give(&self, member: &Mailbox, wire: Bytes) {
        self.with_queue(member, |queue| {
            let change = queue.push(wire, 1);
            if let Some(ledger) = &member.ledger {
                ledger.took(1, change.dropped.frames, queue.waiting().frames);
            }
            (change, ())
        });
    }

    pub(super) fn join(&self, mailbox: Mailbox) -> Arc<Mailbox> {
        let mailbox = Arc::new(mailbox);
        if let Some(exchange) = &self.exchange {
            exchange.join(&mailbox);
        }
        self.members.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&mailbox));
        mailbox
    }

    /// Puts another in its place, which gets what waits for it, in its own framing.
    pub(super) fn replace(&self, old: &Arc<Mailbox>, new: Mailbox) -> Arc<Mailbox> {
        let new = Arc::new(new);
        // Nobody puts anything into either meanwhile.
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        for member in members.iter_mut().filter(|member| Arc::ptr_eq(member, old)) {
            *member = Arc::clone(&new);
        }
        let waiting = self.with_queue(old, |queue| queue.take());
        for (wire, frames) in waiting {
            let (wire, kept) = match old.framing == new.framing {
                true => (wire, frames),
                false => {
                    let (wire, kept) = self.form(old, old.framing, &Run { wire, frames }, &new);
                    (self.charged(wire), kept)
                }
            };
            self.put(&new, wire, kept, 0, frames - kept);
        }
        drop(members);
        old.say_losses(&self.shared, true);
        self.go_on();
        new
    }

    /// Puts frames into a queue. So many of them are new, and so many were lost on the way.
    pub(super) fn put(&self, member: &Mailbox, wire: Bytes, frames: u64, new: u64, lost: u64) {
        self.with_queue(member, |queue| {
            let change = queue.push(wire, frames);
            if let Some(ledger) = &member.ledger {
                ledger.took(new, change.dropped.frames + lost, queue.waiting().frames);
            }
            (change, ())
        });
    }

    /// Nothing more is put into its queue.
    pub(super) fn leave(&self, mailbox: &Arc<Mailbox>) {
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = members.iter().position(|member| Arc::ptr_eq(member, mailbox)) {
            members.swap_remove(place);
        }
        drop(members);
        self.forget(mailbox);
    }

    /// Empties the queue of one that has ended, and yields what it did not get.
    pub(super) fn retire(&self, mailbox: &Arc<Mailbox>) -> Amount {
        self.leave(mailbox);
        if let Some(exchange) = &self.exchange {
            exchange.left(self, mailbox);
        }
        let left = self.with_queue(mailbox, |queue| {
            let left = queue.waiting();
            (queue.clear(), left)
        });
        mailbox.say_losses(&self.shared, true);
        self.go_on();
        left
    }

    /// Whether one hears the other.
    fn hears(&self, member: &Mailbox, from: &Mailbox) -> bool {
        match self.mode {
            RelayMode::Hub => !std::ptr::eq(member, from),
            RelayMode::Collect => member.side != from.side,
            RelayMode::Publish => (from.side, member.side) == (Side::From, Side::To),
            RelayMode::Pair | RelayMode::Echo | RelayMode::Bridge => unreachable!("these have no group"),
        }
    }

    /// Whether what waits for a target waits for its next connection too.
    pub(super) fn keeps(&self) -> bool {
        self.mode == RelayMode::Collect
    }

    /// Whether a member never says anything to the others.
    pub(super) fn only_hears(&self, member: &Mailbox) -> bool {
        !self.is_heard(member)
    }

    /// Whether anyone could hear a member at this end.
    fn is_heard(&self, from: &Mailbox) -> bool {
        self.mode != RelayMode::Publish || from.side == Side::From
    }

    /// Tells whether a relay with these options can go on with it.
    pub(crate) fn fits(&self, options: &RelayOptions) -> bool {
        self.exchange.is_some() == (options.reply == Reply::Request)
    }

    /// What follows a change of the relay.
    pub(crate) fn set(&self, options: &RelayOptions) {
        if let Some(exchange) = &self.exchange {
            exchange.set(options.request);
        }
    }

    /// Whether a member has to stay for an answer.
    pub(super) fn owes(&self, member: &Mailbox) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.owes(member))
    }

    /// Puts frames of one member, in this framing, into the queues of those who hear it.
    pub(super) fn distribute(&self, from: &Mailbox, framing: Framing, run: Run) {
        if let Some(wires) = &self.wires {
            let amount = Amount { frames: run.frames, bytes: run.wire.len() as u64 };
            let run = Run { wire: self.charged(run.wire), ..run };
            if !wires.take(from.connection(), from, run) {
                // A reload has taken its wires away.
                from.lose(&self.shared, DropCause::Unheard, amount);
            }
            return;
        }
        if let Some(exchange) = &self.exchange {
            return exchange.carry(self, from, framing, run);
        }
        if !self.is_heard(from) {
            let amount = Amount { frames: run.frames, bytes: run.wire.len() as u64 };
            from.lose(&self.shared, DropCause::Unheard, amount);
            return;
        }
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        // One for each framing that hears it: nearly always one in all.
        let mut forms: Vec<(Framing, Bytes, u64)> = Vec::new();
        for member in members.iter().filter(|member| self.hears(member, from)) {
            let form = forms.iter().position(|(framing, ..)| *framing == member.framing);
            let form = form.unwrap_or_else(|| {
                let (wire, frames) = self.form(from, framing, &run, member);
                forms.push((member.framing, self.charged(wire), frames));
                forms.len() - 1
            });
            let (_, wire, frames) = &forms[form];
            if *frames > 0 {
                self.put(member, wire.clone(), *frames, *frames, 0);
            }
        }
        if forms.is_empty() && self.keeps() {
            // A reload has removed the target; or the target speaks, and no client is there.
            let amount = Amount { frames: run.frames, bytes: run.wire.len() as u64 };
            from.lose(&self.shared, DropCause::Unheard, amount);
        }
    }

    /// Frames of one member, in this framing, as another reads them.
    pub(super) fn form(&self, from: &Mailbox, framing: Framing, run: &Run, to: &Mailbox) -> (Bytes, u64) {
        let tag = from.name.get().filter(|_| to.side == Side::To).map(|(_, tag)| tag.as_slice());
        if tag.is_none() && framing == to.framing && framing.is_exact() {
            return (run.wire.clone(), run.frames);
        }
        let (mut wire, mut frames) = (BytesMut::with_capacity(run.wire.len() + 64), 0);
        let mut tagged = Vec::new();
        for mut body in framing.bodies(&run.wire) {
            if let Some(tag) = tag {
                tagged.clear();
                tagged.extend_from_slice(tag);
                tagged.extend_from_slice(body);
                body = &tagged;
            }
            match to.framing.encode(body, to.max_frame, &mut wire) {
                Ok(()) => frames += 1,
                Err(_unsendable) => {
                    let amount = Amount { frames: 1, bytes: body.len() as u64 };
                    from.lose(&self.shared, DropCause::Unsendable, amount);
                }
            }
        }
        (wire.freeze(), frames)
    }

    /// Ready when a member may read: nobody who hears it is full, and there is
    /// memory, or nothing that waits could give some back. One that was called and has not read since is the
    /// next to be called if it has to wait.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>, own: &Arc<Mailbox>, was_called: bool) -> Poll<()> {
        ready!(self.via.poll_room(cx, own.connection()));
        if let Some(exchange) = &self.exchange {
            return exchange.poll_room(self, cx, own);
        }
        own.wake_with(cx.waker());
        if let Some(wires) = &self.wires {
            return wires.poll_room(cx, own.connection());
        }
        for is_second in [false, true] {
            if self.others_have_room(own) {
                return Poll::Ready(());
            }
            // Looked at again once it is in the list, since there may have been room just before.
            if !is_second {
                self.readers.wait(own, was_called);
            }
        }
        Poll::Pending
    }

    /// How many bytes wait for a member, on the average.
    pub(super) fn each_holds(&self) -> usize {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner).len();
        self.held.load(Relaxed) / members.max(1)
    }

    /// Whether nobody else is full, and there is memory. Who takes turns has its own limit.
    pub(super) fn others_have_room(&self, own: &Mailbox) -> bool {
        let own_full = usize::from(own.is_full.load(Relaxed));
        let others_full = self.full.load(Relaxed) > own_full;
        !others_full && (self.shared.budget.left() > 0 || self.held.load(Relaxed) <= own.lock().held())
    }

    /// Changes a queue, and tells everyone whom that concerns.
    pub(super) fn with_queue<R>(
        &self,
        mailbox: &Mailbox,
        change: impl FnOnce(&mut Queue) -> (Change, R),
    ) -> R {
        let mut queue = mailbox.lock();
        let before = queue.held();
        let (change, result) = change(&mut queue);
        let (after, waiting) = (queue.held(), queue.waiting().bytes);
        // Adds a negative difference too.
        self.held.fetch_add(after.wrapping_sub(before), Relaxed);
        if let Some(full) = change.full {
            mailbox.is_full.store(full, Relaxed);
            if !mailbox.overflow.drops() {
                if full {
                    self.full.fetch_add(1, Relaxed)
                } else {
                    self.full.fetch_sub(1, Relaxed)
                };
            }
        }
        drop(queue);
        if change.dropped.frames > 0 {
            mailbox.lose(&self.shared, DropCause::Overflow, change.dropped);
        }
        if let Some(level) = change.level {
            mailbox.say_level(&self.shared, level, waiting);
        }
        if change.was_empty || change.full == Some(true) {
            mailbox.wake();
        }
        if change.full == Some(false) || after == 0 && before > 0 {
            self.go_on();
        }
        result
    }

    /// Lets those read who had to wait.
    fn go_on(&self) {
        if let Some(exchange) = &self.exchange {
            exchange.nudge();
        }
        if let Some(wires) = &self.wires {
            wires.go_on();
        }
        self.via.go_on();
        self.call_next();
    }

    /// Lets the next one read, if it may.
    pub(super) fn call_next(&self) {
        self.readers.call(|member| self.others_have_room(member));
    }

    /// One that will not read any more does not stand before the others.
    pub(super) fn reads_no_more(&self, member: &Arc<Mailbox>) {
        self.readers.leave(member);
        if member.call.take() {
            self.call_next();
        }
    }
}

impl Mailbox {
    pub(super) fn new(
        connection: Option<ConnectionId>,
        endpoint: &Arc<str>,
        side: Side,
        framing: Framing,
        max_frame: usize,
        limit: QueueLimit,
    ) -> Self {
        Self {
            connection: Mutex::new(connection),
            endpoint: Mutex::new(Arc::clone(endpoint)),
            side,
            framing,
            max_frame,
            overflow: limit.overflow,
            queue: Mutex::new(Queue::new(limit, framing)),
            ledger: None,
            is_full: AtomicBool::new(false),
            asked: AtomicU8::new(0),
            waker: OnceLock::new(),
            call: Call::default(),
            severed: AtomicU8::new(0),
            name: OnceLock::new(),
            losses: Mutex::default(),
        }
    }

    /// The same for a target whose messages are accounted for and outlive its connections.
    pub(super) fn of_uplink(
        endpoint: &Arc<str>,
        framing: Framing,
        max_frame: usize,
        limit: QueueLimit,
        ledger: &Arc<Ledger>,
        resends: bool,
    ) -> Self {
        let ledger = Some(Arc::clone(ledger));
        let queue = Mutex::new(Queue::new(limit, framing).accounted(resends));
        Self { ledger, queue, ..Self::new(None, endpoint, Side::To, framing, max_frame, limit) }
    }

    /// Which connection it is for now.
    pub(super) fn set_connection(&self, connection: Option<ConnectionId>) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = connection;
        self.severed.store(0, Relaxed);
    }

    /// Has it end, for one of the reasons in [`SEVERED`].
    pub(super) fn sever(&self, reason: Reason) {
        let nth = SEVERED.iter().position(|known| *known == reason).expect("these are all there are");
        self.severed.store(nth as u8 + 1, Relaxed);
        self.wake();
    }

    /// Why it has to end, if it has to.
    pub(super) fn severed(&self) -> Option<Reason> {
        let nth = self.severed.load(Relaxed).checked_sub(1)?;
        Some(SEVERED[usize::from(nth)])
    }

    /// Its listener's or target's name.
    pub(super) fn endpoint(&self) -> Arc<str> {
        Arc::clone(&self.endpoint.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// It leads to this target from now on, whose accounts say so.
    pub(super) fn lead_to(&self, target: &Arc<str>) {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).clone_from(target);
        if let Some(ledger) = &self.ledger {
            ledger.lead_to(target);
        }
    }

    /// Which end it is at.
    pub(super) fn side(&self) -> Side {
        self.side
    }

    /// Tells whether as much waits for it as may.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Relaxed)
    }

    /// What it is called.
    pub(super) fn name(&self) -> Option<&Vec<u8>> {
        self.name.get().map(|(name, _)| name)
    }

    /// Is called so from now on, with this before what it sends. Only the first call counts.
    pub(super) fn set_name(&self, name: Vec<u8>, tag: Vec<u8>) {
        let _ = self.name.set((name, tag));
    }

    pub(super) fn connection(&self) -> Option<ConnectionId> {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits for it.
    pub(super) fn waiting(&self) -> Amount {
        self.lock().waiting()
    }

    /// Tells whether something was written to it of which it is not known that it has arrived.
    pub(super) fn is_unconfirmed(&self) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.is_waiting() || self.lock().has_begun())
    }

    /// Tells whether its peer has a moment left to catch up before it is cut.
    pub(super) fn is_behind(&self) -> bool {
        self.overflow == Overflow::Disconnect && self.is_full.load(Relaxed)
    }

    /// Says whom to wake. Only the first call counts.
    pub(super) fn wake_with(&self, waker: &Waker) {
        if self.waker.get().is_none() {
            let _ = self.waker.set(waker.clone());
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what was lost, and says so at most once a second.
    pub(super) fn lose(&self, shared: &Shared, cause: DropCause, lost: Amount) {
        let Amount { frames, bytes } = lost;
        shared.bus.dropped(self.endpoint(), cause, Dropped { frames, bytes });
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        let loss = &mut losses[cause as usize];
        loss.amount.frames += lost.frames;
        loss.amount.bytes += lost.bytes;
        loss.is_unsaid = true;
        drop(losses);
        self.say_losses(shared, false);
    }

    /// Says what was lost and not said yet; unless it is the last time, only where a second has passed.
    pub(super) fn say_losses(&self, shared: &Shared, is_last: bool) {
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        for cause in DropCause::ALL {
            let loss = &mut losses[cause as usize];
            let is_due = is_last || loss.said.is_none_or(|said| said.elapsed() >= OFTEN);
            if !loss.is_unsaid || !is_due {
                continue;
            }
            (loss.said, loss.is_unsaid) = (Some(Instant::now()), false);
            let Amount { frames, bytes } = loss.amount;
            let (connection, endpoint) = (self.connection(), self.endpoint());
            shared.bus.emit(EventKind::FramesDropped, || Event::FramesDropped {
                connection,
                endpoint,
                cause,
                frames,
                bytes,
            });
        }
    }

    fn say_level(&self, shared: &Shared, level: Level, waiting: u64) {
        let (connection, endpoint) = (self.connection(), self.endpoint());
        match level {
            Level::High => {
                let high = || Event::WriteBufferHigh { connection, endpoint, waiting };
                shared.bus.emit(EventKind::WriteBufferHigh, high);
            }
            Level::Low => {
                let low = || Event::WriteBufferLow { connection, endpoint, waiting };
                shared.bus.emit(EventKind::WriteBufferLow, low);
            }
        }
    }
}

/// How often a member's losses are said.
const OFTEN: Duration = Duration::from_secs(1);
/// Why others have a member end.
const SEVERED: [Reason; 2] = [Reason::Unanswered, Reason::NoTarget];
