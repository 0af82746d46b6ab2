//! How a member leaves: what it is told, what waits for it still, and what its
//! target has got of what was written.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Leave, Member, READ};
use crate::event::{DropCause, Reason, State};
use crate::flow::with_scratch;
use crate::net::{Amount, Unacknowledged, reason_of, reason_of_drop};

impl Member {
    /// Ends it for this reason.
    pub(in crate::relay) fn end(mut self, leave: Leave) -> Reason {
        let reason = self.conclude(leave);
        self.reason = Some(reason);
        reason
    }

    fn conclude(&mut self, leave: Leave) -> Reason {
        let left = self.retire();
        let (reason, error) = match leave {
            Leave::Closed | Leave::Asked => {
                self.conn.finish(Reason::Closed, None, left.bytes);
                return Reason::Closed;
            }
            Leave::Truncated(bytes) => (
                Reason::TruncatedFrame,
                io::Error::other(format!("it ended inside a frame, of which {bytes} bytes had come")),
            ),
            Leave::Limit(reason) => {
                self.conn.reset(reason, None, left.bytes);
                return reason;
            }
            Leave::Severed(reason) => (reason, io::Error::other(severed(reason))),
            Leave::Broken(error) => (reason_of(&error), error),
            Leave::Frame(fault) if fault.is_of_length() => (Reason::FrameTooLong, io::Error::other(fault)),
            Leave::Frame(fault) => (Reason::MalformedFrame, io::Error::other(fault)),
            Leave::Unnamed(text) => (Reason::Unnamed, io::Error::other(text)),
            Leave::Slow => {
                let text = format!("{} bytes in {} frames waited for it", left.bytes, left.frames);
                (Reason::SlowConsumer, io::Error::other(text))
            }
            Leave::Stalled => {
                let text = format!(
                    "memory for unfinished frames was needed; {} bytes of its were the oldest",
                    self.decoder.remainder()
                );
                (Reason::StalledFrame, io::Error::other(text))
            }
        };
        self.conn.reset(reason, Some(&error), left.bytes);
        reason
    }

    /// The node stops: what waits is written, our half finished, and the peer
    /// given a moment to finish its own, so that nothing on its way to it is lost.
    pub(super) async fn drain(mut self, reason: Reason) -> Reason {
        if reason == Reason::Shutdown
            && let Err(error) = self.settle().await
        {
            let leave = self.broke(error);
            return self.end(leave);
        }
        if !self.keeps {
            self.group.leave(&self.mailbox);
        }
        self.conn.record().set_state(State::Closing);
        let flushed = poll_fn(|cx| {
            ready!(self.poll_flush(cx))?;
            self.conn.poll_shutdown(cx)
        });
        if let Err(error) = flushed.await {
            let leave = self.broke(error);
            return self.end(leave);
        }
        let is_terminal = self.is_terminal();
        let discarded = async {
            loop {
                let conn = &mut self.conn;
                let read = |cx: &mut Context<'_>| with_scratch(READ, |scratch| conn.poll_read(cx, scratch));
                match poll_fn(read).await {
                    Ok(count @ 1..) => {
                        let lost = Amount { frames: 0, bytes: count as u64 };
                        self.mailbox.lose(&self.group.shared, DropCause::Unheard, lost);
                    }
                    Ok(0) | Err(_) => return,
                }
            }
        };
        if !is_terminal {
            let _ = timeout(FAREWELL, discarded).await;
        }
        self.confirmed().await;
        let left = self.retire();
        self.conn.finish(reason, None, left.bytes);
        self.reason = Some(reason);
        reason
    }

    /// Waits until nothing is on its way through wires, scripts and filters, which may be for it.
    async fn settle(&mut self) -> io::Result<()> {
        let undone = match &self.group.wires {
            Some(wires) => wires.undone(),
            None => self.group.via.undone(),
        };
        let mut none = pin!(undone.none());
        poll_fn(|cx| {
            // Or a slot that waits for room here would be waited for.
            if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            none.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Its target has finished: so do we, and wait a little to hear that it has got what was written.
    pub(super) async fn part(mut self) -> Reason {
        if let Some(exchange) = self.group.exchange.as_ref().filter(|_| self.keeps) {
            exchange.closing();
        }
        // Fails only on a connection that has broken, which the end tells.
        let _ = poll_fn(|cx| self.conn.poll_shutdown(cx)).await;
        self.confirmed().await;
        self.end(Leave::Closed)
    }

    /// Waits until everything written has been acknowledged, for a few seconds.
    async fn confirmed(&mut self) {
        let give_up = Instant::now() + CONFIRMATION;
        while self.confirm(true) && Instant::now() < give_up {
            sleep(LOOK).await;
        }
    }

    /// Looks at what is unconfirmed when it is time, while anything is.
    pub(super) fn poll_confirm(&mut self, cx: &mut Context<'_>) {
        if !self.mailbox.is_unconfirmed() {
            self.look.stop();
            return;
        }
        let sent = self.conn.sent();
        while self.look.poll_due(cx, sent).is_ready() {
            let begun = Instant::now();
            let is_left = self.confirm(false);
            self.look.looked(sent, begun);
            if !is_left {
                return;
            }
        }
    }

    /// Counts as sent what the peer's kernel has acknowledged; tells whether some is left.
    pub(super) fn confirm(&self, is_shut: bool) -> bool {
        let Some(ledger) = self.mailbox.ledger.as_ref().filter(|_| self.mailbox.is_unconfirmed()) else {
            return false;
        };
        let unacknowledged = match self.conn.unacknowledged() {
            Unacknowledged::Bytes(bytes) => bytes,
            // Both ends have finished and been acknowledged, unless it broke.
            Unacknowledged::Gone if is_shut && self.conn.take_error().is_none() => 0,
            Unacknowledged::Gone | Unacknowledged::Unknown => return ledger.is_waiting(),
        };
        self.group.with_queue(&self.mailbox, |queue| {
            let before = queue.waiting().frames;
            let change = queue.acknowledged(unacknowledged);
            let queued = queue.waiting().frames;
            ledger.wrote(before - queued, queued);
            ledger.arrived(queue.arrived());
            (change, ())
        });
        ledger.is_waiting()
    }

    /// Takes it out of the group, and yields what it will never get.
    fn retire(&mut self) -> Amount {
        self.is_over = true;
        self.group.reads_no_more(&self.mailbox);
        self.group.shared.sweep.remove(self.conn.id());
        let Some(ledger) = self.mailbox.ledger.as_ref().filter(|_| self.keeps) else {
            let left = self.group.retire(&self.mailbox);
            self.unsent = left.bytes;
            return left;
        };
        self.confirm(false);
        self.group.with_queue(&self.mailbox, |queue| {
            let (change, out, again) = queue.restart();
            let queued = queue.waiting().frames;
            ledger.wrote(out, queued - again);
            ledger.resend(again, queued);
            (change, ())
        });
        ledger.ended();
        self.mailbox.set_connection(None);
        if let Some(exchange) = &self.group.exchange {
            exchange.disconnected(&self.group);
        }
        Amount::default()
    }
}

impl Drop for Member {
    /// A member dropped before its end was cut with the node, or panicked. After an end this does nothing.
    fn drop(&mut self) {
        if !self.is_over {
            let left = self.retire();
            self.conn.reset(reason_of_drop(self.conn.record()), None, left.bytes);
        }
        if let Some(passing) = &self.passing {
            if !self.keeps {
                // What is on its way is told of no connection any more.
                self.mailbox.set_connection(None);
            }
            passing.left(&self.group);
        }
        if let Some(wires) = &self.group.wires {
            let reason = self.reason.unwrap_or_else(|| reason_of_drop(self.conn.record()));
            wires.left(&self.conn, reason, self.unsent);
        }
    }
}

/// What a peer that others have had end is told of in the log.
fn severed(reason: Reason) -> &'static str {
    match reason {
        Reason::NoTarget => "its target was taken away; it may connect anew",
        _ => "a request had no answer, and the next answer could be taken for it",
    }
}

/// How long a target that has finished has to acknowledge what was written.
pub(super) const CONFIRMATION: Duration = Duration::from_secs(5);
/// How often that is looked at then.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// How long a peer has to finish its half after ours at the stop of the node.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);
