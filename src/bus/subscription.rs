//! A subscription: the two channels of the bus merged back into one order,
//! with every loss counted.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_broadcast::{Receiver, RecvError};
use tokio_stream::Stream;

use super::{InterestGuard, Shared};
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
    Event(Arc<Envelope>),
    /// This many events came and went unseen; the node's
    /// [snapshot](super::EventBus::snapshot) tells what is true now. Events
    /// outside the mask count too, if their channel was subscribed.
    Lagged(u64),
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

/// One channel of the bus, with the event that was taken from it and not yet yielded.
struct Side {
    receiver: Receiver<Arc<Envelope>>,
    head: Option<Arc<Envelope>>,
    /// Place of the event that comes next if none is missed.
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

    /// Fills both heads and returns the side whose head comes first; `None` when both have ended.
    fn poll_side(&mut self, cx: &mut Context<'_>) -> Poll<Option<&mut Side>> {
        let mut discrete = poll_head(&mut self.discrete, cx);
        let level = poll_head(&mut self.level, cx);
        if discrete.is_pending() && matches!(level, Poll::Ready(Some(_))) {
            // The level event may be younger than a discrete one that came after the first look.
            discrete = poll_head(&mut self.discrete, cx);
        }
        let (discrete_seq, level_seq) = match (discrete, level) {
            (Poll::Ready(None), Poll::Ready(None)) => return Poll::Ready(None),
            (Poll::Ready(discrete), Poll::Ready(level)) => (discrete, level),
            (Poll::Ready(Some(seq)), Poll::Pending) => (Some(seq), None),
            (Poll::Pending, Poll::Ready(Some(seq))) => (None, Some(seq)),
            _ => return Poll::Pending,
        };
        let first = match (discrete_seq, level_seq) {
            (Some(discrete), Some(level)) if level < discrete => &mut self.level,
            (Some(_), _) => &mut self.discrete,
            (None, _) => &mut self.level,
        };
        Poll::Ready(first.as_mut())
    }
}

impl Side {
    fn new(channel: &async_broadcast::InactiveReceiver<Arc<Envelope>>, before: u64) -> Self {
        Self { receiver: channel.activate_cloned(), head: None, next: before + 1, before }
    }
}

/// Makes sure there is a head; yields its `seq`, or `None` when the channel has ended.
fn poll_head(side: &mut Option<Side>, cx: &mut Context<'_>) -> Poll<Option<u64>> {
    let Some(side) = side else { return Poll::Ready(None) };
    loop {
        if let Some(head) = &side.head {
            return Poll::Ready(Some(head.seq));
        }
        match ready!(Pin::new(&mut side.receiver).poll_recv(cx)) {
            Some(Ok(envelope)) => side.head = Some(envelope),
            // How many were missed is read off the next one's place.
            Some(Err(RecvError::Overflowed(_))) => {}
            Some(Err(RecvError::Closed)) | None => return Poll::Ready(None),
        }
    }
}

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
        loop {
            let Some(side) = ready!(this.poll_side(cx)) else { return Poll::Ready(None) };
            let nth = side.head.as_ref().expect("poll_side yields a side with a head").nth;
            let missed = nth - side.next;
            if missed > 0 {
                side.next = nth;
                this.lagged += missed;
                this.prepaid -= 1;
                return Poll::Ready(Some(Delivery::Lagged(missed)));
            }
            side.next += 1;
            let envelope = side.head.take().expect("poll_side yields a side with a head");
            if this.interest.mask.contains(envelope.event.kind()) {
                this.received += 1;
                this.prepaid -= 1;
                return Poll::Ready(Some(Delivery::Event(envelope)));
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
