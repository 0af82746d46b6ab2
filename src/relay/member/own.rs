//! What a member is told by us and not by the others: first a hello, and later
//! probes, each a whole message between theirs; and whether it answers.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};

use super::{Leave, Mailbox, Member};
use crate::event::{Event, EventKind, Reason};
use crate::framing::Run;
use crate::net::Conn;
use crate::relay::vigil::Vigil;

/// What is being written that is not from its queue, and is in no account.
pub(super) struct Own {
    bytes: Bytes,
    is_probe: bool,
}

impl Own {
    fn new(body: &[u8], is_probe: bool, mailbox: &Mailbox) -> Option<Box<Self>> {
        let mut wire = BytesMut::new();
        // It was checked that it can be.
        mailbox.framing.encode(body, mailbox.max_frame, &mut wire).ok()?;
        Some(Box::new(Self { bytes: wire.freeze(), is_probe }))
    }

    /// What a peer is told first, if anything.
    pub(super) fn hello(conn: &mut Conn, mailbox: &Mailbox) -> Option<Box<Self>> {
        Self::new(&conn.take_hello()?, false, mailbox)
    }
}

impl Member {
    pub(super) fn vigil(&self) -> Option<&Arc<Vigil>> {
        self.watch.vigil(true)
    }

    /// Writes what is not from its queue; ready when there is nothing.
    pub(super) fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let away = self.direction(false);
        let Some(own) = &mut self.own else { return Poll::Ready(Ok(())) };
        while !own.bytes.is_empty() {
            let offset = self.conn.sent();
            let count = ready!(self.conn.poll_write(cx, &own.bytes))?;
            if let Some(tap) = &self.group.shared.tap {
                tap.offer(self.conn.id(), away, offset, &own.bytes[..count]);
            }
            own.bytes.advance(count);
        }
        let was_probe = own.is_probe;
        self.own = None;
        if let Some(vigil) = self.vigil().filter(|_| was_probe) {
            vigil.asked();
            self.group.shared.sweep.keep(vigil);
        }
        Poll::Ready(Ok(()))
    }

    /// Has a probe written that is due. Only while nothing waits: one that does not take
    /// what waits for it has stopped reading, which is another matter.
    pub(super) fn asks(&mut self) -> bool {
        let is_parting = self.is_parting;
        let Some(heartbeat) =
            self.vigil().filter(|vigil| !is_parting && vigil.is_due()).and_then(|vigil| vigil.heartbeat())
        else {
            return false;
        };
        self.own = Own::new(&heartbeat.send, true, &self.mailbox);
        self.own.is_some()
    }

    /// Ready while the others have room for what it says.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>, was_called: bool) -> Poll<()> {
        let polled = self.group.poll_room(cx, &self.mailbox, was_called);
        if let Some(vigil) = self.vigil() {
            vigil.unread(polled.is_pending());
        }
        polled
    }

    /// Bytes have come, of whatever kind.
    pub(super) fn heard(&self) {
        if let Some(vigil) = self.vigil()
            && vigil.heartbeat().is_some_and(|heartbeat| heartbeat.expect.is_none())
        {
            vigil.answered();
        }
    }

    /// Passes on what it has sent, but for the answer to a probe.
    pub(super) fn take_in(&mut self, mut run: Run) -> Option<Leave> {
        if let Some(vigil) = self.vigil() {
            vigil.begun();
            if let Some((begin, end)) = self.answer_in(vigil, &run) {
                vigil.answered();
                let mut answer = run.wire.split_off(begin);
                let after = answer.split_off(end - begin);
                let frames = self.mailbox.framing.bodies(&run.wire).count() as u64;
                let rest = Run { wire: after, frames: run.frames - frames - 1 };
                run.frames = frames;
                for run in [run, rest].into_iter().filter(|run| run.frames > 0) {
                    if let Some(leave) = self.pass_on(run) {
                        return Some(leave);
                    }
                }
                return None;
            }
        }
        self.pass_on(run)
    }

    /// Where the answer to a probe is in what it has sent, if it is.
    fn answer_in(&self, vigil: &Vigil, run: &Run) -> Option<(usize, usize)> {
        let expect = vigil.heartbeat()?.expect.as_ref().filter(|_| vigil.awaits())?;
        let framing = self.mailbox.framing;
        let mut begin = 0;
        while begin < run.wire.len() {
            let frame = &run.wire[begin..];
            let end = begin + framing.first_end(frame);
            if framing.bodies(frame).next().is_some_and(|body| expect.is_met_by(body)) {
                return Some((begin, end));
            }
            begin = end;
        }
        None
    }

    /// Says whether bytes wait for it.
    pub(super) fn tell_vigil(&self, is_behind: bool) {
        if let Some(vigil) = self.vigil()
            && vigil.behind(is_behind)
        {
            self.group.shared.sweep.keep(vigil);
        }
    }

    /// Why it leaves when this limit has passed.
    pub(super) fn exceeds(&self, reason: Reason) -> Leave {
        if let Some(heartbeat) = self.vigil().and_then(|vigil| vigil.heartbeat())
            && reason == Reason::Heartbeat
        {
            let record = self.conn.record();
            let (peer, local) = record.ends();
            let (connection, endpoint) = (record.id(), Arc::clone(record.endpoint()));
            let (name, within) = (record.introduction().name, heartbeat.within);
            self.group.shared.bus.emit(EventKind::HeartbeatMissed, || Event::HeartbeatMissed {
                connection,
                endpoint,
                peer,
                local,
                name,
                within,
            });
            if let Some(wires) = &self.group.wires {
                wires.heartbeat_missed(&self.conn, within);
            }
        }
        Leave::Limit(reason)
    }
}
