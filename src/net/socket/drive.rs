//! A connection on the task of its socket: bytes in and out of the buffers,
//! and signals about it, in the order that is promised.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::core::{Closing, Core, Inner, Reader};
use super::signals::{BytesWritten, Disconnected, ErrorOccurred, ReadFinished, ReadyRead, WriteBuffer};
use crate::event::{Reason, State};
use crate::net::conn::reason_of;
use crate::net::error::{Phase, SocketError, SocketErrorKind};
use crate::net::transport::{PeerEnd, Stream};

/// Carries a connection from its first byte to its `disconnected`.
pub(super) async fn converse(core: &Core, stream: Stream) {
    let mut driver = Driver { core, stream, deadline: None, check: None, idle: None, broken: None };
    let end = poll_fn(|cx| driver.poll(cx)).await;
    driver.end(end);
}

struct Driver<'a> {
    core: &'a Core,
    stream: Stream,
    /// When a closing socket is given up.
    deadline: Option<Pin<Box<Sleep>>>,
    /// After the peer's end: what was read and sent, and since when that is all.
    idle: Option<(u64, Pin<Box<Sleep>>)>,
    /// Writing failed; what the kernel still holds for us is read, and then this is the end.
    broken: Option<End>,
    /// While nothing is read: when to look whether the peer has aborted or finished.
    check: Option<Pin<Box<Sleep>>>,
}

/// What happened in one turn, to be announced without the lock.
#[derive(Default)]
struct Turn {
    closing: bool,
    ready: bool,
    finished: bool,
    written: usize,
    low: bool,
    high: bool,
    /// Something else changed for those who wait.
    other: bool,
}

/// How a connection ends.
struct End {
    reason: Reason,
    error: Option<(Phase, SocketError)>,
    reset: bool,
}

impl Driver<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..TURNS {
            let mut turn = Turn::default();
            let mut inner = self.core.lock();
            inner.listen(cx.waker());
            let turned = self.turn(cx, &mut inner, &mut turn);
            drop(inner);
            let is_quiet = turn.is_empty();
            self.announce(turn);
            match turned {
                Err(end) => return Poll::Ready(end),
                // Everything was asked, and whatever comes next wakes this task.
                Ok(()) if is_quiet => return Poll::Pending,
                Ok(()) => {}
            }
        }
        // Slots that always find something to do are not alone on their thread.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn turn(&mut self, cx: &mut Context<'_>, inner: &mut Inner, turn: &mut Turn) -> Result<(), End> {
        if inner.closing >= Closing::Abort {
            // A peer that does not get everything shall not take this for a clean end.
            let reset = inner.closing == Closing::Reset || !inner.write.is_empty();
            return Err(End { reason: Reason::Aborted, error: None, reset });
        }
        if inner.is_read_finished && inner.closing == Closing::No && self.is_end_known(inner) {
            inner.closing = Closing::Finished;
        }
        if inner.closing != Closing::No && inner.state == State::Connected {
            inner.state = State::Closing;
            turn.closing = true;
            return Ok(());
        }
        self.read(cx, inner, turn)?;
        self.write(cx, inner, turn)?;
        if inner.is_read_finished && inner.is_write_finished {
            return Err(End { reason: Reason::Closed, error: None, reset: false });
        }
        self.look_at_the_clock(cx, inner, turn)
    }

    /// Whether the peer's end is known to whoever reads, so that nothing more will be written in answer.
    fn is_end_known(&self, inner: &Inner) -> bool {
        // Whoever found no room to write will be told when there is, and write then.
        if self.core.options.allow_half_open || inner.is_write_high || inner.is_write_awaited {
            return false;
        }
        let signals = self.core.listening();
        match inner.reader {
            _ if inner.is_end_told => true,
            Reader::Awaits => false,
            Reader::WaitsForEnd => true,
            // Just accepted, or just connected: it has not even begun.
            Reader::Unknown if signals.is_none() && !inner.is_used() => false,
            Reader::Unknown if inner.read.is_empty() => true,
            // Slots that left something for want of room to answer will be back.
            Reader::Unknown => {
                inner.write.is_empty() && signals.is_some_and(|signals| signals.ready_read.is_connected())
            }
        }
    }

    fn read(&mut self, cx: &mut Context<'_>, inner: &mut Inner, turn: &mut Turn) -> Result<(), End> {
        if std::mem::take(&mut inner.rearm) && !inner.read.is_empty() {
            turn.ready = true;
        }
        let (is_closing, room) = (inner.closing != Closing::No, inner.read_room());
        // Once we close, what finds no room is thrown away: behind it comes the peer's end.
        let discards = is_closing && room == 0;
        inner.is_full = room == 0 && !is_closing;
        if inner.is_read_finished || inner.is_full || inner.is_paused && !is_closing {
            return Ok(());
        }
        let read = SCRATCH.with_borrow_mut(|scratch| {
            if scratch.is_empty() {
                *scratch = vec![0; SCRATCH_SIZE];
            }
            let space = if discards { scratch.len() } else { room.min(scratch.len()) };
            let read = self.stream.poll_read(cx, &mut scratch[..space]);
            if let (Poll::Ready(Ok(count)), false) = (&read, discards) {
                inner.read.push(&scratch[..*count]);
            }
            read
        });
        match read {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) if self.broken.is_some() => return self.broken.take().map_or(Ok(()), Err),
            Poll::Ready(Ok(0)) => {
                (inner.is_read_finished, inner.is_peer_finished) = (true, true);
                turn.finished = true;
            }
            Poll::Ready(Ok(count)) => {
                inner.received += count as u64;
                inner.discarded += if discards { count as u64 } else { 0 };
                turn.ready |= !discards;
                turn.other = true;
            }
            Poll::Ready(Err(error)) => {
                return Err(self.broken.take().unwrap_or_else(|| broken(inner, Phase::Read, error)));
            }
        }
        Ok(())
    }

    fn write(&mut self, cx: &mut Context<'_>, inner: &mut Inner, turn: &mut Turn) -> Result<(), End> {
        if self.broken.is_some() {
            return Ok(());
        }
        turn.high = std::mem::take(&mut inner.announce_high);
        if !inner.write.is_empty() {
            match self.stream.poll_write(cx, inner.write.as_slice()) {
                Poll::Pending => {}
                Poll::Ready(Ok(count)) => {
                    inner.write.consume(count);
                    inner.sent += count as u64;
                    turn.written = count;
                }
                Poll::Ready(Err(error)) if inner.is_read_finished => {
                    return Err(broken(inner, Phase::Write, error));
                }
                Poll::Ready(Err(error)) => {
                    let end = broken(inner, Phase::Write, error);
                    inner.error = end.error.as_ref().map(|(_, error)| error.clone());
                    self.broken = Some(end);
                    turn.other = true;
                    return Ok(());
                }
            }
        }
        if inner.is_write_high && inner.write.len() <= inner.low_mark() {
            inner.is_write_high = false;
            inner.refused = 0;
            turn.low = true;
        }
        let finishes = inner.finishing || inner.closing != Closing::No;
        if finishes && inner.write.is_empty() && !inner.is_write_finished {
            match self.stream.poll_shutdown(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => {
                    inner.is_write_finished = true;
                    turn.other = true;
                }
                Poll::Ready(Err(error)) => {
                    let error = self.stream.take_error().unwrap_or(error);
                    return Err(broken(inner, Phase::Write, error));
                }
            }
        }
        Ok(())
    }

    fn look_at_the_clock(
        &mut self,
        cx: &mut Context<'_>,
        inner: &mut Inner,
        turn: &mut Turn,
    ) -> Result<(), End> {
        if self.broken.is_some() || inner.closing != Closing::No {
            let limit = self.core.options.drain_timeout;
            let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(limit)));
            if deadline.as_mut().poll(cx).is_ready() {
                return Err(self.broken.take().unwrap_or_else(|| undrained(inner, limit)));
            }
            return Ok(());
        }
        if inner.is_read_finished && !self.core.options.allow_half_open {
            self.end_when_idle(cx, inner, turn);
        }
        if !inner.is_full && !inner.is_paused && !inner.is_read_finished {
            self.check = None;
            return Ok(());
        }
        let check = self.check.get_or_insert_with(|| Box::pin(sleep(CHECK)));
        while check.as_mut().poll(cx).is_ready() {
            if let Some(error) = self.stream.take_error() {
                return Err(broken(inner, Phase::Read, error));
            }
            if !inner.is_peer_finished
                && let Some(end) = self.stream.peer_end()
            {
                inner.is_peer_finished = true;
                turn.other = true;
                if end == PeerEnd::Next {
                    inner.is_read_finished = true;
                    turn.finished = true;
                    return Ok(());
                }
            }
            check.as_mut().reset(Instant::now() + CHECK);
        }
        Ok(())
    }

    /// A peer's end that nobody wants to know of ends the socket all the same, after a while.
    fn end_when_idle(&mut self, cx: &mut Context<'_>, inner: &mut Inner, turn: &mut Turn) {
        let (limit, moved) = (self.core.options.drain_timeout, inner.taken + inner.sent);
        let idle = self.idle.take().filter(|(before, _)| *before == moved);
        let mut idle = idle.unwrap_or_else(|| (moved, Box::pin(sleep(limit))));
        if idle.1.as_mut().poll(cx).is_ready() {
            inner.closing = Closing::Finished;
            turn.other = true;
        }
        self.idle = Some(idle);
    }

    fn announce(&self, turn: Turn) {
        if turn.is_empty() {
            return;
        }
        self.core.tell();
        let Some(signals) = self.core.listening() else { return };
        let connection = self.core.lock().id;
        if turn.closing {
            self.core.state_changed(connection, State::Connected, State::Closing);
        }
        if turn.ready && signals.ready_read.is_connected() {
            self.announce_ready();
        }
        if turn.finished {
            let received = || self.core.lock().received;
            signals.read_finished.emit_with(|| ReadFinished { connection, received: received() });
        }
        if turn.high {
            signals.write_buffer_high.emit_with(|| self.write_buffer());
        }
        if turn.written > 0 {
            signals.bytes_written.emit(&BytesWritten { connection, bytes: turn.written });
        }
        if turn.low {
            signals.write_buffer_low.emit_with(|| self.write_buffer());
        }
    }

    fn write_buffer(&self) -> WriteBuffer {
        let inner = self.core.lock();
        WriteBuffer { connection: inner.id, bytes_to_write: inner.write.len() }
    }

    /// Emits `ready_read`, and again as long as the slots read some and leave some.
    fn announce_ready(&self) {
        loop {
            let (taken, ready) = {
                let inner = self.core.lock();
                (inner.taken, ReadyRead { connection: inner.id, available: inner.read.available() })
            };
            if ready.available == 0 {
                return;
            }
            self.core.signals().ready_read.emit(&ready);
            if self.core.lock().taken == taken {
                return;
            }
        }
    }

    fn end(self, End { reason, error, reset }: End) {
        if reset {
            self.stream.reset_on_drop();
        }
        // Closed first: whoever hears of the end may rely on it.
        drop(self.stream);
        let mut inner = self.core.lock();
        let from = std::mem::replace(&mut inner.state, State::Unconnected);
        inner.is_ending = true;
        inner.error = error.as_ref().map(|(_, error)| error.clone());
        inner.unsent = inner.write.len() as u64;
        inner.write.clear();
        let (connection, outcome) = (inner.id, inner.outcome());
        let (peer, local) = inner.ends.clone().expect("a connection has its addresses");
        let disconnected = Disconnected {
            connection,
            peer,
            local,
            reason,
            received: inner.received,
            sent: inner.sent,
            unsent: inner.unsent,
            unread: inner.read.current() as u64 + inner.discarded,
            duration: inner.begun.elapsed(),
        };
        drop(inner);
        self.core.tell();
        self.core.state_changed(connection, from, State::Unconnected);
        if let Some(signals) = self.core.listening() {
            if let Some((phase, error)) = error {
                signals.error_occurred.emit(&ErrorOccurred { connection, phase, error });
            }
            signals.disconnected.emit(&disconnected);
        }
        self.core.let_go();
        self.core.has_ended(connection, outcome);
    }
}

impl Turn {
    fn is_empty(&self) -> bool {
        let Self { closing, ready, finished, written, low, high, other } = self;
        !(*closing || *ready || *finished || *written > 0 || *low || *high || *other)
    }
}

impl Inner {
    /// Whether a byte of this connection was received or written.
    fn is_used(&self) -> bool {
        self.received > 0 || self.sent > 0 || !self.write.is_empty()
    }

    /// Has changes wake this task.
    pub(super) fn listen(&mut self, waker: &Waker) {
        if !self.task_waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.task_waker = Some(waker.clone());
        }
    }
}

fn broken(inner: &Inner, phase: Phase, error: io::Error) -> End {
    let reason = match error.kind() {
        io::ErrorKind::NotConnected => Reason::Reset,
        _ => reason_of(&error),
    };
    let (peer, _) = inner.ends.as_ref().expect("a connection has its addresses");
    End { reason, error: Some((phase, SocketError::of_peer(peer, error))), reset: false }
}

/// The time to drain is over.
fn undrained(inner: &Inner, limit: Duration) -> End {
    if inner.write.is_empty() {
        // The peer has everything, and does not finish. The kernel goes on delivering.
        return End { reason: Reason::HalfClosed, error: None, reset: false };
    }
    let (peer, _) = inner.ends.as_ref().expect("a connection has its addresses");
    let text = format!(
        "{peer} had still not taken {} bytes {} after the socket was closed",
        inner.write.len(),
        humantime::format_duration(limit)
    );
    let error = SocketError::new(SocketErrorKind::TimedOut, text);
    End { reason: Reason::TimedOut, error: Some((Phase::Drain, error)), reset: true }
}

thread_local! {
    /// Read into first, so that a socket's buffer is as large as what it holds.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// As much as a read buffer holds by default.
const SCRATCH_SIZE: usize = 64 << 10;
/// So many turns in a row, then other tasks have theirs.
const TURNS: usize = 32;
/// How often a socket that does not read looks whether its peer has aborted or finished.
const CHECK: Duration = Duration::from_secs(1);
