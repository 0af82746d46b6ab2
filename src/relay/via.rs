//! [`Via`]: the filters that messages of a group go through, before anything else
//! becomes of them. Those that answer at once are asked where the message was
//! read. One that asks a script may wait: its messages go by an intake and a
//! task of the group, which holds up nobody but the connection they came from.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::RelayOptions;
use super::group::{Group, Mailbox, Side};
use super::member::{Leave, Member};
use crate::event::{ConnectionId, ConnectionMap, DropCause};
use crate::framing::{Framing, LengthSize, Run};
use crate::net::{Amount, Conn};
use crate::registry::{Arguments, Call, Fact, Intake, Item, Party, Passage, Trail, Undone, in_lanes};

/// The filters of a group, and what is on its way through them.
pub(super) struct Via {
    /// For what comes from each side.
    passages: RwLock<[Option<Arc<dyn Passage>>; 2]>,
    /// Whether there have ever been any.
    is_used: AtomicBool,
    intake: Arc<Intake>,
    undone: Undone,
    /// Whose messages are on their way.
    senders: Mutex<ConnectionMap<Sender>>,
    /// Somebody who was full has room.
    room: Notify,
    /// Whether anyone has ever waited for that.
    is_awaited: AtomicBool,
}

struct Sender {
    mailbox: Arc<Mailbox>,
    options: Arc<RelayOptions>,
    /// Why it has to leave, once it has.
    leave: Option<Leave>,
}

/// What a member with filters remembers: how it is called by them, and the place of the last message that
/// waited.
pub(super) struct Passing {
    party: Arc<Party>,
    signal: Arc<str>,
    last: u64,
}

impl Via {
    pub(super) fn new() -> Self {
        let undone = Undone::new();
        Self {
            passages: RwLock::default(),
            is_used: AtomicBool::new(false),
            intake: Arc::new(Intake::of_object(&undone)),
            undone,
            senders: Mutex::default(),
            room: Notify::new(),
            is_awaited: AtomicBool::new(false),
        }
    }

    /// Whether anything may be on its way.
    pub(super) fn is_used(&self) -> bool {
        self.is_used.load(Relaxed)
    }

    fn passage(&self, side: Side) -> Option<Arc<dyn Passage>> {
        self.passages.read().unwrap_or_else(PoisonError::into_inner)[side as usize].clone()
    }

    /// Ready when a member may read more.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>, connection: Option<ConnectionId>) -> Poll<()> {
        match connection {
            Some(connection) if self.is_used() => self.intake.poll_room(cx, connection),
            _ => Poll::Ready(()),
        }
    }

    /// Somebody who was full may have room again.
    pub(super) fn go_on(&self) {
        if self.is_awaited.load(SeqCst) {
            self.room.notify_waiters();
        }
    }

    /// Waits until there is room, which changes with that of members. Cancel safe.
    pub(super) async fn room(&self, has_room: impl Fn() -> bool) {
        // Whoever makes room looks at this after, and we look for room after.
        self.is_awaited.store(true, SeqCst);
        loop {
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            if has_room() {
                return;
            }
            room.await;
        }
    }

    /// Counts what is on its way.
    pub(super) fn undone(&self) -> Undone {
        self.undone.clone()
    }

    /// Why a member has to leave, if what became of its messages says so.
    pub(super) fn leave(&self, connection: ConnectionId) -> Option<Leave> {
        if !self.is_used() {
            return None;
        }
        self.lock().get_mut(&connection)?.leave.take()
    }

    /// Nothing more comes of what a connection has sent.
    fn forget(&self, party: &Party) {
        party.end();
        for side in [Side::From, Side::To] {
            if let Some(passage) = self.passage(side) {
                passage.forget(party.id);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionMap<Sender>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passing {
    pub(super) fn new(conn: &Conn) -> Self {
        let record = conn.record();
        let object = Arc::clone(record.endpoint());
        let signal = format!("{object}.message_received").into();
        let party = Party::new(conn.id(), object, record.ends(), record.introduction());
        Self { party: Arc::new(party), signal, last: 0 }
    }

    /// Ready when all that its connection has sent was passed on.
    pub(super) fn poll_done(&self, group: &Group, cx: &mut Context<'_>) -> Poll<()> {
        group.via.intake.poll_done(cx, self.party.id, self.last)
    }

    /// Its connection is over; what is on its way goes on.
    pub(super) fn left(&self, group: &Group) {
        group.via.intake.forget(self.party.id.get());
        if self.last == 0 {
            return group.via.forget(&self.party);
        }
        let (party, data, arguments) = (Some(Arc::clone(&self.party)), None, Arguments::new());
        let fact = Fact { name: "disconnected".into(), party, data, arguments, trail: Trail::default() };
        group.via.intake.put(Item::Fact(fact));
    }
}

impl Member {
    /// Passes on what it has sent, by way of the filters; yields why it has to leave, if it has.
    pub(super) fn pass_on(&mut self, run: Run) -> Option<Leave> {
        let (group, mailbox) = (Arc::clone(&self.group), Arc::clone(&self.mailbox));
        let framing = mailbox.framing;
        if !group.via.is_used() {
            return group.pass_on(&mailbox, &self.options, framing, run);
        }
        let passage = group.via.passage(mailbox.side);
        let connection = self.id();
        let is_behind = group.via.intake.has_some_of(connection);
        if !is_behind && passage.is_none() {
            return group.pass_on(&mailbox, &self.options, framing, run);
        }
        let options = Arc::clone(&self.options);
        let passing = self.passing();
        match passage.filter(|passage| !is_behind && passage.is_prompt()) {
            Some(passage) => {
                let run = now(filtered(&group, &*passage, &mailbox, passing, run.wire));
                group.pass_on(&mailbox, &options, PLAIN, run)
            }
            None => {
                let wire = group.charged(run.wire);
                let sender = Sender { mailbox, options, leave: None };
                group.via.lock().entry(connection).or_insert(sender);
                passing.last =
                    group.via.intake.put(Item::Frames { party: Arc::clone(&passing.party), framing, wire });
                None
            }
        }
    }
}

impl Group {
    /// Has messages from each side go through filters from now on.
    pub(crate) fn set_passages(&self, passages: [Option<Arc<dyn Passage>>; 2]) {
        if passages.iter().any(Option::is_some) {
            self.via.is_used.store(true, Relaxed);
        }
        *self.via.passages.write().unwrap_or_else(PoisonError::into_inner) = passages;
    }

    /// Takes messages through filters that may wait. Never ends.
    pub(crate) async fn run_via(self: Arc<Self>) {
        let intake = Arc::clone(&self.via.intake);
        in_lanes(intake, move |item| take(Arc::clone(&self), item)).await;
    }

    /// What a filter says to who has sent.
    fn reply(&self, to: &Mailbox, data: &[u8]) {
        let one = Amount { frames: 1, bytes: data.len() as u64 };
        if to.side == Side::To && self.exchange.is_some() {
            // It would be taken for a request, and its answer for another's.
            return to.lose(&self.shared, DropCause::Filtered, one);
        }
        let mut wire = BytesMut::new();
        match to.framing.encode(data, to.max_frame, &mut wire) {
            Ok(()) => self.put(to, self.charged(wire.freeze()), 1, 1, 0),
            Err(_unsendable) => to.lose(&self.shared, DropCause::Unsendable, one),
        }
    }
}

/// Takes the messages of one connection through.
async fn take(group: Arc<Group>, item: Item) {
    match item {
        Item::Frames { party, framing, wire } => {
            let sender = group
                .via
                .lock()
                .get(&party.id)
                .map(|sender| (Arc::clone(&sender.mailbox), Arc::clone(&sender.options)));
            let Some((mailbox, options)) = sender else { return };
            let (framing, run) = match group.via.passage(mailbox.side) {
                Some(passage) => {
                    let signal = format!("{}.message_received", party.object).into();
                    let passing = Passing { party: Arc::clone(&party), signal, last: 0 };
                    (PLAIN, filtered(&group, &*passage, &mailbox, &passing, wire).await)
                }
                // A reload has taken the filters away.
                None => (framing, Run { frames: framing.bodies(&wire).count() as u64, wire }),
            };
            group.via.room(|| group.others_have_room(&mailbox)).await;
            if let Some(leave) = group.pass_on(&mailbox, &options, framing, run) {
                if let Some(sender) = group.via.lock().get_mut(&party.id) {
                    sender.leave = Some(leave);
                }
                mailbox.wake();
            }
        }
        Item::Fact(Fact { party: Some(party), .. }) => {
            group.via.lock().remove(&party.id);
            group.via.forget(&party);
        }
        Item::Fact(_) => {}
    }
}

/// What becomes of messages, one after the other.
async fn filtered(
    group: &Group,
    passage: &dyn Passage,
    from: &Mailbox,
    passing: &Passing,
    wire: Bytes,
) -> Run {
    let (mut out, mut frames, mut dropped) = (BytesMut::new(), 0, Amount::default());
    for body in from.framing.bodies(&wire) {
        let call = Call {
            signal: Arc::clone(&passing.signal),
            connection: Some(Arc::clone(&passing.party)),
            data: Some(wire.slice_ref(body)),
            arguments: Arguments::new(),
            trail: Trail::default(),
            as_filter: false,
        };
        let passed = passage.pass(call).await;
        if passed.is_empty() {
            dropped.frames += 1;
            dropped.bytes += body.len() as u64;
        }
        for frame in passed {
            if frame.to_sender {
                group.reply(from, &frame.data);
                continue;
            }
            match PLAIN.encode(&frame.data, from.max_frame, &mut out) {
                Ok(()) => frames += 1,
                Err(_too_long) => {
                    let one = Amount { frames: 1, bytes: frame.data.len() as u64 };
                    from.lose(&group.shared, DropCause::Unsendable, one);
                }
            }
        }
    }
    if dropped.frames > 0 {
        from.lose(&group.shared, DropCause::Filtered, dropped);
    }
    Run { wire: out.freeze(), frames }
}

/// The output of a future that does not wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("these filters answer at once"),
    }
}

/// Messages between the filters and those they are for: whatever bytes they have.
const PLAIN: Framing = Framing::Length { size: LengthSize::Four, little_endian: false, inclusive: false };
