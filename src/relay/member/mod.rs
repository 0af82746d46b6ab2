//! [`Member`]: one connection of a group, from its beginning to its end. It
//! reads whole frames for the others and writes what they have put into its
//! queue; idle it holds no buffer.

mod fill;
mod leave;
mod look;
mod own;
mod part;
mod patience;

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::watch;

use self::fill::poll_fill;
use self::look::Look;
use self::own::Own;
use self::patience::Patience;
use super::group::{Group, Mailbox, Side};
use super::sweep::Watch;
use super::via::Passing;
use super::vigil::Vigil;
use super::{Limits, RelayOptions, Stop};
use crate::budget::PROMISE;
use crate::event::{ConnectionId, Endpoint, Reason};
use crate::flow::TapDirection;
use crate::framing::{Decoder, FrameError, Framing, Skipped, Ticket};
use crate::net::{Amount, Conn, MessageOptions, reason_of};
use crate::registry::Ending;

/// A connection, what arrives on it, and what waits for it.
pub(super) struct Member {
    pub(super) group: Arc<Group>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) options: Arc<RelayOptions>,
    watch: Arc<Watch>,
    limits: Arc<Limits>,
    conn: Conn,
    /// What is being written that is not from its queue.
    own: Option<Box<Own>>,
    decoder: Decoder,
    ticket: Ticket,
    /// We have dialled it: for a tap its bytes come from the target.
    is_dialled: bool,
    /// Its queue outlives it, for the next connection to the same target.
    keeps: bool,
    patience: Patience,
    look: Look,
    has_finished: bool,
    /// The node stops, and it stays only for answers.
    is_leaving: bool,
    /// In a group with filters.
    pub(super) passing: Option<Passing>,
    /// Another connection takes its place: it writes no more than what was begun.
    is_parting: bool,
    /// In a wired group: what it has sent is taken through once this place is.
    answered: Option<u64>,
    /// Our half was finished, since a slot has asked for that.
    has_shut: bool,
    /// In a wired group: it stays until that.
    allows_half_open: bool,
    /// Why it has ended, once it has.
    reason: Option<Reason>,
    unsent: u64,
    is_over: bool,
}

/// Why a member leaves.
pub(super) enum Leave {
    /// Its peer has finished and has got everything.
    Closed,
    /// Its peer has finished inside a frame, of which so many bytes had come.
    Truncated(usize),
    Limit(Reason),
    /// A request had no answer, and another could be taken for it; or there is nobody left to ask.
    Severed(Reason),
    /// A slot has asked for it, and it has got what waited.
    Asked,
    Broken(io::Error),
    Frame(FrameError),
    /// It did not say its name, or that of another.
    Unnamed(String),
    /// Too much waited for it, and it did not catch up.
    Slow,
    /// Memory for unfinished frames was needed, and its was the oldest.
    Stalled,
}

/// What ends the serving of a member.
enum Told {
    Leave(Leave),
    /// Another connection takes its place.
    Part,
    /// The node stops.
    Stop,
}

impl Member {
    pub(super) fn new(
        group: &Arc<Group>,
        limits: &Arc<Limits>,
        conn: Conn,
        side: Side,
        messages: &MessageOptions,
    ) -> Self {
        let framing = messages.framing();
        let endpoint = conn.record().endpoint();
        let limit = messages.queue.of_member();
        let mailbox = Mailbox::new(Some(conn.id()), endpoint, side, framing, messages.max_frame(), limit);
        Self::with(group, limits, conn, group.join(mailbox), messages)
    }

    /// A connection to a target whose queue outlives it.
    pub(super) fn of_uplink(
        group: &Arc<Group>,
        limits: &Arc<Limits>,
        conn: Conn,
        mailbox: &Arc<Mailbox>,
        messages: &MessageOptions,
    ) -> Self {
        mailbox.set_connection(Some(conn.id()));
        let mut member = Self::with(group, limits, conn, Arc::clone(mailbox), messages).of_target();
        member.keeps = true;
        if let Some(exchange) = &group.exchange {
            exchange.connected(group);
        }
        member
    }

    fn with(
        group: &Arc<Group>,
        limits: &Arc<Limits>,
        mut conn: Conn,
        mailbox: Arc<Mailbox>,
        messages: &MessageOptions,
    ) -> Self {
        if let Some(wires) = &group.wires {
            wires.entered(&conn, &mailbox, group.keeps());
        }
        // One record at both ends: the sweep only asks whether anything moved.
        let vigils = [Vigil::over(&conn, false), None];
        let watch = Arc::new(Watch::new(conn.record(), conn.record(), vigils));
        group.shared.sweep.add(Arc::clone(&watch), limits);
        // So that the kernel does not hide megabytes behind the queue's limit.
        conn.limit_unsent(UNSENT);
        if mailbox.framing != Framing::Raw {
            conn.limit_silence(SILENCE);
        }
        Self {
            own: Own::hello(&mut conn, &mailbox),
            decoder: Decoder::new(mailbox.framing, mailbox.max_frame).on_bad_frame(messages.bad_frame),
            mailbox,
            ticket: Ticket::new(&group.shared.unfinished),
            group: Arc::clone(group),
            options: Arc::default(),
            watch,
            limits: Arc::clone(limits),
            conn,
            is_dialled: false,
            keeps: false,
            look: Look::default(),
            patience: Patience::default(),
            has_finished: false,
            is_leaving: false,
            passing: None,
            is_parting: false,
            answered: None,
            has_shut: false,
            allows_half_open: messages.allow_half_open,
            reason: None,
            unsent: 0,
            is_over: false,
        }
    }

    /// With the options of its relay: how it is called, and who gets its answers.
    pub(super) fn with_options(mut self, options: &Arc<RelayOptions>) -> Self {
        self.options = Arc::clone(options);
        self
    }

    pub(super) fn id(&self) -> ConnectionId {
        self.conn.id()
    }

    pub(super) fn peer(&self) -> Endpoint {
        self.conn.record().ends().0
    }

    /// A member that we have dialled.
    pub(super) fn of_target(mut self) -> Self {
        self.is_dialled = true;
        self
    }

    /// Serves it to its end, or until the node stops; then what waits for it is
    /// written, and it is closed. When `replaced` is ready, what waits is left
    /// to whoever comes after it. Whoever drops it cuts it.
    pub(super) async fn serve(
        mut self,
        mut stop: watch::Receiver<Stop>,
        replaced: impl Future<Output = ()>,
    ) -> Reason {
        let is_told = {
            let mut stopped = pin!(stop.wait_for(|stop| *stop != Stop::No));
            let mut replaced = pin!(replaced);
            poll_fn(|cx| {
                if replaced.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Told::Part);
                }
                self.is_leaving = self.is_leaving || stopped.as_mut().poll(cx).is_ready();
                if self.is_leaving && !self.group.owes(&self.mailbox) {
                    return Poll::Ready(Told::Stop);
                }
                match self.poll(cx) {
                    Poll::Pending if self.is_leaving && !self.group.owes(&self.mailbox) => {
                        Poll::Ready(Told::Stop)
                    }
                    polled => polled.map(Told::Leave),
                }
            })
            .await
        };
        self.group.reads_no_more(&self.mailbox);
        match is_told {
            Told::Leave(Leave::Closed) if self.keeps => self.part().await,
            Told::Leave(Leave::Asked) => self.drain(Reason::Closed).await,
            Told::Leave(leave) => self.end(leave),
            Told::Part if self.keeps => self.make_way().await,
            Told::Part => self.part().await,
            Told::Stop => self.drain(Reason::Shutdown).await,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Leave> {
        self.watch.wake_with(cx.waker());
        self.mailbox.wake_with(cx.waker());
        if let Some(passed) = self.watch.limit() {
            return Poll::Ready(self.exceeds(passed.reason));
        }
        if self.ticket.is_overdue() {
            return Poll::Ready(Leave::Stalled);
        }
        if let Some(leave) = self.call_by_address() {
            return Poll::Ready(leave);
        }
        if let Some(leave) = self.group.via.leave(self.conn.id()) {
            return Poll::Ready(leave);
        }
        let before = self.conn.sent();
        let is_flushed = match self.poll_flush(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => return Poll::Ready(self.broke(error)),
            Poll::Pending => false,
        };
        self.patience.note(self.conn.sent() > before, is_flushed);
        if let Some(reason) = self.mailbox.severed() {
            return Poll::Ready(Leave::Severed(reason));
        }
        if let Poll::Ready(leave) = self.poll_asked(cx, is_flushed) {
            return Poll::Ready(leave);
        }
        if !self.has_finished
            && (!self.is_leaving || self.keeps)
            && let Poll::Ready(leave) = self.poll_read(cx)
        {
            match leave {
                Some(leave) => return Poll::Ready(leave),
                None => self.finished(),
            }
        }
        // A target that finishes is not waited for: what it cannot get now the next connection gets.
        if self.has_finished
            && (is_flushed || self.keeps && self.answered.is_none())
            && !self.stays(cx)
            && !self.is_owed()
            && self.has_nothing_left()
        {
            return Poll::Ready(self.farewell());
        }
        self.poll_confirm(cx);
        if self.patience.poll_over(cx, self.mailbox.is_behind()).is_ready() {
            return Poll::Ready(Leave::Slow);
        }
        if self.watch.stuck(!is_flushed) {
            self.group.shared.sweep.attend(&self.limits);
        }
        self.tell_vigil(!is_flushed);
        match self.watch.take_look().then(|| self.conn.take_error()).flatten() {
            Some(error) => Poll::Ready(self.broke(error)),
            None => Poll::Pending,
        }
    }

    /// Does what a slot has asked for, once what waits is written.
    fn poll_asked(&mut self, cx: &mut Context<'_>, is_flushed: bool) -> Poll<Leave> {
        if !self.mailbox.is_shut() {
            return Poll::Pending;
        }
        if !self.has_shut && self.group.wires.is_none() {
            // What the others say from now on is not for it; or its queue would fill, and hold them up.
            self.group.leave(&self.mailbox);
        }
        if self.mailbox.is_asked(Ending::Abort) {
            return Poll::Ready(Leave::Limit(Reason::Aborted));
        }
        if !is_flushed {
            return Poll::Pending;
        }
        if self.mailbox.is_asked(Ending::Close) {
            return Poll::Ready(Leave::Asked);
        }
        if !self.has_shut && self.conn.poll_shutdown(cx).is_ready() {
            self.has_shut = true;
            if self.watch.half_closed() {
                self.group.shared.sweep.attend(&self.limits);
            }
        }
        Poll::Pending
    }

    /// Writes what waits; ready when nothing does.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_shut {
            return Poll::Ready(Ok(()));
        }
        loop {
            // What was begun of it is not mixed with anything.
            ready!(self.poll_own(cx))?;
            ready!(self.poll_queue(cx))?;
            if !self.asks() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Writes what waits in its queue.
    fn poll_queue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (away, is_parting) = (self.direction(false), self.is_parting);
        let Self { group, mailbox, conn, .. } = self;
        loop {
            let written = group.with_queue(mailbox, |queue| {
                if queue.is_empty() || is_parting && queue.begun().is_empty() {
                    return (Default::default(), None);
                }
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = if is_parting {
                    slices[0] = IoSlice::new(queue.begun());
                    1
                } else {
                    queue.slices(&mut slices)
                };
                let offset = conn.sent();
                let written = conn.poll_write_vectored(cx, &slices[..count]);
                let Poll::Ready(Ok(bytes)) = written else { return (Default::default(), Some(written)) };
                if let Some(tap) = &group.shared.tap {
                    let mut offset = offset;
                    for slice in taken(&slices[..count], bytes) {
                        tap.offer(conn.id(), away, offset, slice);
                        offset += slice.len() as u64;
                    }
                }
                let before = queue.waiting().frames;
                let change = queue.advance(bytes);
                if let Some(ledger) = &mailbox.ledger {
                    let queued = queue.waiting().frames;
                    ledger.wrote(before - queued, queued);
                }
                (change, Some(written))
            });
            match written {
                // A terminal shows also what is no whole line.
                None => return conn.poll_flush(cx),
                Some(written) => ready!(written)?,
            };
        }
    }

    /// Reads when it is its turn, and has the next one called then. Ready with nothing when the peer has finished.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Leave>> {
        let was_called = self.mailbox.call.take();
        let polled = self.poll_turn(cx, was_called);
        if was_called {
            self.group.call_next();
        }
        polled
    }

    /// Reads for as long as the others have room.
    fn poll_turn(&mut self, cx: &mut Context<'_>, was_called: bool) -> Poll<Option<Leave>> {
        let (mut moved, most) = (0, TURN.saturating_sub(self.group.each_holds()));
        let direction = self.direction(true);
        loop {
            ready!(self.poll_room(cx, was_called && moved == 0));
            if moved > 0 && moved >= most {
                // Unlike a plain wake this lets the sockets be looked at first.
                let _ = pin!(tokio::task::yield_now()).poll(cx);
                return Poll::Pending;
            }
            let shared = &self.group.shared;
            let size = READ.min(shared.turns.max_read()).min(shared.budget.left().max(PROMISE));
            let (id, offset) = (self.conn.id(), self.conn.received());
            let read = poll_fill(&mut self.conn, &mut self.decoder, size, cx, |bytes| {
                if let Some(tap) = &shared.tap {
                    tap.offer(id, direction, offset, bytes);
                }
            });
            let count = match ready!(read) {
                Ok(0) => return Poll::Ready(None),
                Ok(count) => count,
                Err(error) => return Poll::Ready(Some(self.broke(error))),
            };
            moved += count;
            self.heard();
            let mut is_another = false;
            loop {
                let run = self.decoder.run();
                is_another |= self.count_skipped();
                match run {
                    Ok(Some(run)) => {
                        is_another = true;
                        if let Some(leave) = self.take_in(run) {
                            return Poll::Ready(Some(leave));
                        }
                    }
                    Ok(None) => break,
                    Err(fault) => return Poll::Ready(Some(Leave::Frame(fault))),
                }
            }
            self.ticket.hold(self.decoder.memory(), is_another, cx.waker());
            if self.ticket.is_overdue() {
                return Poll::Ready(Some(Leave::Stalled));
            }
        }
    }

    /// Counts what was left out of what it has sent; tells whether anything was.
    fn count_skipped(&mut self) -> bool {
        let mut is_any = false;
        while let Some(Skipped { cause, frames, bytes }) = self.decoder.skipped() {
            self.mailbox.lose(&self.group.shared, cause, Amount { frames, bytes });
            is_any = true;
        }
        is_any
    }

    /// The peer has finished: it leaves, unless all it ever does is listen.
    fn finished(&mut self) {
        self.has_finished = true;
        self.group.reads_no_more(&self.mailbox);
        let is_terminal = self.is_terminal();
        if is_terminal {
            self.take_last_line();
        }
        self.conn.read_finished();
        if let Some(vigil) = self.vigil() {
            vigil.finished();
        }
        if let Some(wires) = &self.group.wires {
            self.answered = Some(wires.read_finished(&self.conn));
            if !is_terminal && self.watch.half_closed() {
                self.group.shared.sweep.attend(&self.limits);
            }
        } else if !self.only_listens() {
            if self.watch.half_closed() {
                self.group.shared.sweep.attend(&self.limits);
            }
            if !self.keeps {
                self.group.leave(&self.mailbox);
            }
        }
    }

    /// Whoever has asked and finished waits for the answers.
    fn is_owed(&self) -> bool {
        !self.keeps && self.group.owes(&self.mailbox)
    }

    /// Standard input and output: the screen is there also when nothing more is typed.
    fn is_terminal(&self) -> bool {
        self.peer() == Endpoint::Stdio
    }

    /// What is typed before the end of input is a line, also without its end.
    fn take_last_line(&mut self) {
        if let Framing::Lines { end } = self.mailbox.framing
            && self.decoder.remainder() > 0
        {
            self.decoder.feed(end.as_bytes());
            let run = self.decoder.run();
            self.count_skipped();
            if let Ok(Some(run)) = run {
                // Nobody in a wired group has to say its name.
                let _ = self.pass_on(run);
            }
        }
    }

    /// Whether nothing has come into its queue since that was written.
    fn has_nothing_left(&self) -> bool {
        self.has_shut || self.keeps && self.answered.is_none() || self.mailbox.waiting().frames == 0
    }

    /// What its group knows it by, if messages go through filters.
    pub(super) fn passing(&mut self) -> &mut Passing {
        self.passing.get_or_insert_with(|| Passing::new(&self.conn))
    }

    /// Whether it stays after its peer has finished. In a wired group it does until it is answered, or a slot
    /// has finished our half.
    fn stays(&self, cx: &mut Context<'_>) -> bool {
        match (&self.group.wires, self.answered) {
            (Some(_), _) if self.is_terminal() && self.decoder.remainder() == 0 => true,
            (Some(_), Some(_)) if self.allows_half_open => !self.has_shut,
            (Some(wires), Some(place)) => wires.poll_answered(cx, self.conn.id(), place).is_pending(),
            _ => self.only_listens() || self.is_passing(cx),
        }
    }

    /// Whether messages of its are on their way through filters, which may answer it.
    fn is_passing(&self, cx: &mut Context<'_>) -> bool {
        let passing = self.passing.as_ref().filter(|_| !self.keeps);
        passing.is_some_and(|passing| passing.poll_done(&self.group, cx).is_pending())
    }

    /// Who subscribes to what others publish may finish its own half at once, and stays.
    /// One that we have dialled is gone then, and dialled again.
    fn only_listens(&self) -> bool {
        !self.is_dialled && self.group.only_hears(&self.mailbox)
    }

    /// Which way the bytes go that it sends, or gets, as a tap calls it.
    fn direction(&self, sends: bool) -> TapDirection {
        if sends == self.is_dialled { TapDirection::ToClient } else { TapDirection::ToTarget }
    }

    fn farewell(&self) -> Leave {
        match self.decoder.remainder() {
            0 => Leave::Closed,
            bytes => Leave::Truncated(bytes),
        }
    }

    fn broke(&self, error: io::Error) -> Leave {
        // It had finished before, so that this is only how its going was noticed.
        if self.has_finished && reason_of(&error) == Reason::Reset {
            Leave::Closed
        } else {
            Leave::Broken(error)
        }
    }
}

/// The first so many bytes of these slices.
fn taken<'a>(slices: &'a [IoSlice<'_>], mut bytes: usize) -> impl Iterator<Item = &'a [u8]> {
    slices.iter().map_while(move |slice| {
        let taken = &slice[..slice.len().min(bytes)];
        bytes -= taken.len();
        (!taken.is_empty()).then_some(taken)
    })
}

/// Bytes of one read: some hundred short frames, which then share one piece.
const READ: usize = 56 << 10;
/// Bytes a member may read before others get their turn, less what waits for each of them: what is written
/// while it is still in the cache costs half.
const TURN: usize = 256 << 10;
/// Pieces of one write.
const SLICES: usize = 32;
/// Bytes the kernel may hold for a member without having sent them.
const UNSENT: u32 = 128 << 10;
/// How long a peer may leave what was sent to it unacknowledged, or unread so that there is no room for more.
const SILENCE: Duration = Duration::from_secs(20);
