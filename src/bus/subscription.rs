//! A subscription: the two channels of the bus merged back into one order,
//! with every loss counted.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_broadcast::{Receiver, RecvError};
use tokio_stream::Stream;

use super::channel::Batch;
use super::{InterestGuard, Shared, Stamps};
use crate::event::{Envelope, EventMask};

/// A stream of events, made by [`EventBus::subscribe`](super::EventBus::subscribe).
///
/// Cancel safe: a dropped `next()` loses nothing. It ends when the node ended
/// and everything was read.
#[must_use = "a subscription that is not read only counts what it misses"]
pub struct Subscription {
    shared: Arc<Shared>,
    interest: InterestGuard,
    discrete: Option<Side>,
    level: Option<Side>,
    received: u64,
    filtered: u64,
    lagged: u64,
    /// Deliveries until the task's budget is charged again.
    prepaid: u8,
}

/// What a subscription yields.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// The next event of the mask.
    Event(Received),
    /// This many events came and went unseen; the node's
    /// [snapshot](super::EventBus::snapshot) tells what is true now. Events
    /// outside the mask count too, if their channel was subscribed.
    Lagged(u64),
}

/// An event as a subscription yields it: its [`Envelope`], by reference.
///
/// Cloning it costs a count. Events that came about together are one piece of
/// memory, at most 256 of them, which lives as long as any of them: clone the
/// envelope of one that is kept for long.
#[derive(Clone)]
pub struct Received {
    batch: Arc<Batch>,
    at: usize,
}

impl Deref for Received {
    type Target = Envelope;

    fn deref(&self) -> &Envelope {
        &self.batch.events[self.at]
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Envelope::fmt(self, f)
    }
}

/// The accounts of a subscription: `received + filtered + lagged + unread = emitted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Events stamped on the subscribed channels since it began.
    pub emitted: u64,
    /// Events it yielded.
    pub received: u64,
    /// Events it passed over because they were outside the mask.
    pub filtered: u64,
    /// Events it was told it had missed.
    pub lagged: u64,
}

impl Counts {
    /// Events still to be read, or to be counted as missed.
    pub const fn unread(&self) -> u64 {
        self.emitted - self.received - self.filtered - self.lagged
    }
}

/// One channel of the bus, with the batch that was taken from it and is not yet used up.
struct Side {
    receiver: Receiver<Arc<Batch>>,
    batch: Option<Arc<Batch>>,
    /// Place in the batch of the event that comes next.
    at: usize,
    /// Place in the channel of the event that comes next if none is missed.
    next: u64,
    /// Events stamped before the subscription began.
    before: u64,
}

impl Subscription {
    pub(super) fn new(shared: Arc<Shared>, mask: EventMask) -> Self {
        let interest = InterestGuard::new(&shared, mask);
        let stamps = shared.stamps();
        let discrete =
            mask.intersects(EventMask::DISCRETE).then(|| Side::new(&shared.discrete, stamps.discrete));
        let level = mask.intersects(EventMask::LEVEL).then(|| Side::new(&shared.level, stamps.level));
        drop(stamps);
        Self { shared, interest, discrete, level, received: 0, filtered: 0, lagged: 0, prepaid: 0 }
    }

    /// The accounts so far.
    pub fn counts(&self) -> Counts {
        let stamps = *self.shared.stamps();
        let since = |side: &Option<Side>, now: u64| side.as_ref().map_or(0, |side| now - side.before);
        Counts {
            emitted: since(&self.discrete, stamps.discrete) + since(&self.level, stamps.level),
            received: self.received,
            filtered: self.filtered,
            lagged: self.lagged,
        }
    }

    /// Takes batches until it is certain which side has the next event; `None` when both have ended.
    fn poll_side(&mut self, cx: &mut Context<'_>) -> Poll<Option<&mut Side>> {
        let (discrete, level) = (&mut self.discrete, &mut self.level);
        if head(discrete).is_none() && head(level).is_none() {
            // Both are asked, so that either wakes it.
            let asked = (poll_batch(discrete, cx), poll_batch(level, cx));
            if head(discrete).is_none() && head(level).is_none() {
                return if asked == (ENDED, ENDED) { Poll::Ready(None) } else { Poll::Pending };
            }
        }
        // What a batch was stamped together with, or after, has been sent by now or is about to be.
        let owed = head(discrete).map(|(_, until)| until.level);
        if owed.is_some_and(|owed| owes(level, owed)) {
            let _ended = ready!(poll_batch(level, cx));
        }
        let owed = head(level).map(|(_, until)| until.discrete);
        if owed.is_some_and(|owed| owes(discrete, owed)) {
            let _ended = ready!(poll_batch(discrete, cx));
        }
        let first = match (head(discrete), head(level)) {
            (Some((discrete, _)), Some((level, _))) if level < discrete => &mut self.level,
            (Some(_), _) => &mut self.discrete,
            (None, _) => &mut self.level,
        };
        Poll::Ready(first.as_mut())
    }
}

impl Side {
    fn new(channel: &async_broadcast::InactiveReceiver<Arc<Batch>>, before: u64) -> Self {
        Self { receiver: channel.activate_cloned(), batch: None, at: 0, next: before + 1, before }
    }

    /// How many were missed before the next event.
    fn missed(&self) -> u64 {
        self.batch.as_ref().map_or(0, |batch| batch.events[self.at].nth - self.next)
    }

    /// Takes the next event, if there is a batch and the event is of the mask; else passes over it.
    fn take(&mut self, mask: EventMask) -> Option<Received> {
        let batch = self.batch.as_ref()?;
        let at = self.at;
        self.at += 1;
        self.next += 1;
        let is_last = self.at == batch.events.len();
        let received = mask.contains(batch.events[at].event.kind());
        match (received, is_last) {
            (true, true) => self.batch.take().map(|batch| Received { batch, at }),
            (true, false) => Some(Received { batch: Arc::clone(batch), at }),
            (false, true) => {
                self.batch = None;
                None
            }
            (false, false) => None,
        }
    }
}

/// The `seq` of a side's next event, and what had been stamped when it was sent.
fn head(side: &Option<Side>) -> Option<(u64, Stamps)> {
    let side = side.as_ref()?;
    side.batch.as_ref().map(|batch| (batch.events[side.at].seq, batch.until))
}

/// Tells whether a side has yet to take some of the first `stamped` events of its channel.
fn owes(side: &Option<Side>, stamped: u64) -> bool {
    side.as_ref().is_some_and(|side| side.batch.is_none() && side.next <= stamped)
}

/// Takes a batch, if there is none; `false` when the channel has ended.
fn poll_batch(side: &mut Option<Side>, cx: &mut Context<'_>) -> Poll<bool> {
    let Some(side) = side else { return ENDED };
    while side.batch.is_none() {
        match ready!(Pin::new(&mut side.receiver).poll_recv(cx)) {
            Some(Ok(batch)) => (side.batch, side.at) = (Some(batch), 0),
            // How many were missed is read off the next one's place.
            Some(Err(RecvError::Overflowed(_))) => {}
            Some(Err(RecvError::Closed)) | None => return ENDED,
        }
    }
    Poll::Ready(true)
}

const ENDED: Poll<bool> = Poll::Ready(false);

impl Stream for Subscription {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        let this = &mut *self;
        // async-broadcast knows no budget: without this a busy bus would starve its neighbours.
        // Charged once in a while, so that a reader takes more in a turn than the dispatcher publishes.
        if this.prepaid == 0 {
            ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
            this.prepaid = PREPAID;
        }
        let mask = this.interest.mask;
        loop {
            let Some(side) = ready!(this.poll_side(cx)) else { return Poll::Ready(None) };
            let missed = side.missed();
            if missed > 0 {
                side.next += missed;
                this.lagged += missed;
                this.prepaid -= 1;
                return Poll::Ready(Some(Delivery::Lagged(missed)));
            }
            if let Some(received) = side.take(mask) {
                this.received += 1;
                this.prepaid -= 1;
                return Poll::Ready(Some(Delivery::Event(received)));
            }
            this.filtered += 1;
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// Deliveries for one unit of the 128 that a tokio task has in a turn.
const PREPAID: u8 = 32;
