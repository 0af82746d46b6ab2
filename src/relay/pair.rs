//! [`Pair`]: two connections joined byte for byte. One future moves both
//! directions; idle it holds no buffer and no timer.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::Relay;
use super::sweep::Watch;
use super::targets::{Lead, Reached};
use crate::event::Reason;
use crate::flow::{Broken, Flow, Side, Surroundings, TapDirection};
use crate::net::{Conn, reason_of, reason_of_drop};

/// A client, its target, and a flow each way.
pub(super) struct Pair {
    relay: Arc<Relay>,
    watch: Arc<Watch>,
    /// Which of the relay's targets it is joined to; a relay has none whose ends both came to us.
    outlet: u16,
    /// It counts there, if there are others.
    _lead: Option<Lead>,
    client: Conn,
    upstream: Conn,
    to_target: Half,
    to_client: Half,
    client_first: bool,
    /// Why it is being aborted, if it is.
    fault: Option<Box<Fault>>,
    over: bool,
}

pub(super) struct Half {
    flow: Flow,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Flowing,
    /// The source has ended and everything was written; its end is being passed on.
    Finishing,
    Finished,
}

/// How a pair came to its end.
pub(super) enum End {
    /// Both sides have finished and everything was delivered.
    Closed,
    /// A limit has passed.
    Limit(Reason),
    /// One of the two broke; the other must be told.
    Broken(Fault),
}

/// Which of the two connections broke.
pub(super) struct Fault {
    pub(super) of_client: bool,
    pub(super) on_read: bool,
    pub(super) error: io::Error,
}

impl Pair {
    pub(super) fn new(relay: Arc<Relay>, client: Conn, reached: Reached) -> Self {
        let Reached { upstream, nth, lead } = reached;
        let watch = Arc::new(Watch::new(client.record(), upstream.record()));
        relay.shared.sweep.add(Arc::clone(&watch), &relay.limits);
        let outlet = u16::try_from(nth).expect("a relay has at most 65,536 targets");
        let half = || Half { flow: Flow::new(), stage: Stage::Flowing };
        Self {
            relay,
            watch,
            outlet,
            _lead: lead,
            client,
            upstream,
            to_target: half(),
            to_client: half(),
            client_first: true,
            fault: None,
            over: false,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.watch.wake_with(cx.waker());
        if let Some(reason) = self.watch.limit() {
            return Poll::Ready(End::Limit(reason));
        }
        if self.watch.take_settled() {
            // Not at once: most connections are over before it could matter, and it takes four system calls.
            if let Some(outlet) = self.relay.targets.outlet(self.outlet.into()) {
                self.upstream.keep_alive(&outlet.options.keepalive);
            }
        }
        // In turns, so that neither direction is always served second.
        self.client_first = !self.client_first;
        let order = [self.client_first, !self.client_first];
        let mut finished = 0;
        for of_client in order {
            match self.poll_half(cx, of_client) {
                Poll::Ready(Ok(())) => finished += 1,
                Poll::Ready(Err(fault)) => return Poll::Ready(End::Broken(fault)),
                Poll::Pending => {}
            }
        }
        if finished == 2 {
            return Poll::Ready(End::Closed);
        }
        let mut is_news = self.watch.stuck(self.to_target.flow.unsent() + self.to_client.flow.unsent() > 0);
        if finished == 1 {
            is_news |= self.watch.half_closed();
        }
        if is_news {
            self.relay.shared.sweep.attend(&self.relay.limits);
        }
        match self.watch.take_look().then(|| self.take_error()).flatten() {
            Some(fault) => Poll::Ready(End::Broken(fault)),
            None => Poll::Pending,
        }
    }

    /// Moves the bytes that come from the client, or those that come from the target.
    fn poll_half(&mut self, cx: &mut Context<'_>, of_client: bool) -> Poll<Result<(), Fault>> {
        let other_finished = self.half(!of_client).stage == Stage::Finished;
        let (half, source, destination, around) = self.parts(of_client);
        loop {
            match half.stage {
                Stage::Flowing => {
                    let flowed = ready!(half.flow.poll(cx, source, destination, &around));
                    flowed.map_err(|broken| Fault::new(of_client, broken))?;
                    half.stage = Stage::Finishing;
                }
                Stage::Finishing => {
                    let passed_on = if other_finished {
                        destination.poll_last(cx)
                    } else {
                        destination.poll_shutdown(cx)
                    };
                    let fault = |error| Fault::new(of_client, Broken { side: Side::Destination, error });
                    ready!(passed_on).map_err(fault)?;
                    half.stage = Stage::Finished;
                }
                Stage::Finished => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Asks the kernel for errors of connections that are not being read.
    fn take_error(&self) -> Option<Fault> {
        let of = |conn: &Conn, of_client| {
            conn.take_error().map(|error| Fault { of_client, on_read: false, error })
        };
        of(&self.client, true).or_else(|| of(&self.upstream, false))
    }

    /// The half that comes from the client or the target, with its two ends.
    pub(super) fn parts(&mut self, of_client: bool) -> (&mut Half, &mut Conn, &mut Conn, Surroundings<'_>) {
        let direction = if of_client { TapDirection::ToTarget } else { TapDirection::ToClient };
        let around = Surroundings {
            budget: &self.relay.shared.budget,
            turns: &self.relay.shared.turns,
            tap: self.relay.shared.tap.as_ref().map(|tap| (tap, direction)),
            tapped: self.client.id(),
        };
        if of_client {
            (&mut self.to_target, &mut self.client, &mut self.upstream, around)
        } else {
            (&mut self.to_client, &mut self.upstream, &mut self.client, around)
        }
    }

    fn half(&self, of_client: bool) -> &Half {
        if of_client { &self.to_target } else { &self.to_client }
    }

    /// Ends a pair that was not broken, and says why.
    pub(super) fn end(mut self, reason: Reason) -> Reason {
        // Anything but both having finished must not look like it.
        self.end_both(reason == Reason::Closed, (reason, None), (reason, None));
        reason
    }

    /// Begins an abort; if it is cut short, the pair still ends by its cause.
    pub(super) fn set_fault(&mut self, fault: Fault) {
        self.fault = Some(Box::new(fault));
    }

    /// Ends a broken pair: the one that broke with its error, the other by a reset.
    pub(super) fn end_broken(&mut self) -> Option<Reason> {
        let fault = self.fault.take()?;
        let broke = (reason_of(&fault.error), Some(&fault.error));
        let lost = (Reason::PartnerLost, None);
        if fault.of_client {
            self.end_both(false, broke, lost);
            Some(broke.0)
        } else {
            self.end_both(false, lost, broke);
            Some(lost.0)
        }
    }

    fn end_both(
        &mut self,
        clean: bool,
        client: (Reason, Option<&io::Error>),
        upstream: (Reason, Option<&io::Error>),
    ) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.relay.shared.sweep.remove(self.client.id());
        for of_client in [true, false] {
            let (half, source, _, around) = self.parts(of_client);
            half.flow.end_tap(source, &around);
        }
        let for_target = self.to_target.flow.unsent();
        let for_client = self.to_client.flow.unsent();
        for of_client in [true, false] {
            let (half, _, _, around) = self.parts(of_client);
            half.flow.retire(&around);
        }
        let close = if clean { Conn::finish } else { Conn::reset };
        close(&mut self.upstream, upstream.0, upstream.1, for_target);
        close(&mut self.client, client.0, client.1, for_client);
    }
}

impl Half {
    pub(super) fn flow(&mut self) -> &mut Flow {
        &mut self.flow
    }
}

impl Fault {
    /// What a break of the half that comes from the client, or the target, means for the pair.
    fn new(half_of_client: bool, broken: Broken) -> Self {
        let on_read = broken.side == Side::Source;
        Self { of_client: half_of_client == on_read, on_read, error: broken.error }
    }
}

impl Drop for Pair {
    /// A pair dropped before its end was stopped with the node, or panicked. After an end this does nothing.
    fn drop(&mut self) {
        if self.end_broken().is_some() {
            return;
        }
        let reason = reason_of_drop(self.client.record());
        self.end_both(false, (reason, None), (reason, None));
    }
}
