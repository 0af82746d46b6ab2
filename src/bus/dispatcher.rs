//! The dispatcher: takes facts from the outbox, gives each its place in the
//! one order, and broadcasts it. It never waits for a receiver.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, timeout_at};

use super::channel::Channel;
use super::outbox::{Level, Outbox, Pending};
use super::{Shared, Stamps};
use crate::event::{Envelope, Event, EventKind};

/// Runs the bus until it is closed and its outbox is empty.
pub(crate) struct Dispatcher {
    shared: Arc<Shared>,
    senders: Senders,
}

/// The sending ends; when they are dropped every subscription ends.
pub(super) struct Senders {
    pub(super) discrete: Channel,
    pub(super) level: Channel,
}

impl Dispatcher {
    pub(super) fn new(shared: Arc<Shared>, senders: Senders) -> Self {
        Self { shared, senders }
    }

    pub(crate) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let outbox = &shared.outbox;
        let mut batch = Vec::with_capacity(BATCH);
        let mut level_due = Instant::now();
        loop {
            gather(outbox).await;
            let now = Instant::now();
            let levels = outbox.take(&mut batch, now >= level_due || outbox.is_closed());
            if levels > 0 {
                level_due = now + LEVEL_PACE * levels as u32;
            }
            if !batch.is_empty() {
                self.publish(&mut batch);
            } else if outbox.is_closed() {
                return;
            } else if outbox.has_level() {
                // What is pushed meanwhile goes out at once; level notices wait for their time.
                let _ = timeout_at(level_due, outbox.filled()).await;
            } else {
                outbox.filled().await;
            }
        }
    }

    fn publish(&mut self, batch: &mut Vec<Pending>) {
        let now = SystemTime::now();
        let has_slots = self.shared.slots.is_connected();
        let mut for_slots = Vec::new();
        {
            // Under the lock, so that a subscription begins between two turns and never within one.
            let mut stamps = self.shared.stamps();
            for pending in batch.drain(..) {
                let Some((event, at)) = fact(&self.shared, pending, now, &mut stamps) else { continue };
                let envelope = stamp(event, at, &mut stamps);
                if has_slots {
                    for_slots.push(envelope.clone());
                }
                let is_level = envelope.event.kind().is_level();
                let channel = if is_level { &mut self.senders.level } else { &mut self.senders.discrete };
                channel.add(envelope);
            }
            self.senders.level.send(*stamps);
            self.senders.discrete.send(*stamps);
        }
        for envelope in for_slots {
            self.call_slots(&envelope);
        }
    }

    fn call_slots(&self, envelope: &Envelope) {
        for panicked in self.shared.slots.call(envelope) {
            // A slot that panics at this very event is not announced again, or it would go on for ever.
            if envelope.event.kind() != EventKind::SlotPanicked {
                self.shared.outbox.push(Event::SlotPanicked { slot: panicked.slot.to_string() });
            }
        }
    }
}

/// Lets others go first, as long as each time brings more, so that what comes
/// about together goes out together; subscribers on this thread go too.
async fn gather(outbox: &Outbox) {
    let mut waiting = outbox.len();
    if waiting == 0 {
        return;
    }
    let give_up = Instant::now() + PATIENCE;
    loop {
        tokio::task::yield_now().await;
        let before = std::mem::replace(&mut waiting, outbox.len());
        if waiting == before || waiting >= BATCH || Instant::now() >= give_up {
            return;
        }
    }
}

/// What a pending entry says now; `None` if nobody wants to know any more.
fn fact(
    shared: &Shared,
    pending: Pending,
    now: SystemTime,
    stamps: &mut Stamps,
) -> Option<(Event, SystemTime)> {
    match pending {
        Pending::Discrete(event, at) => Some((event, at)),
        Pending::Level(Level { record, kind }) => {
            let event = record.take_level(kind).filter(|_| shared.interest.mask().contains(kind));
            event.map(|event| (event, now))
        }
        Pending::Lost(missed) => {
            stamps.seq += missed;
            stamps.discrete += missed;
            Some((Event::Lagged { missed }, now))
        }
    }
}

fn stamp(event: Event, at: SystemTime, stamps: &mut Stamps) -> Envelope {
    stamps.seq += 1;
    let nth = if event.kind().is_level() { &mut stamps.level } else { &mut stamps.discrete };
    *nth += 1;
    Envelope { seq: stamps.seq, at, nth: *nth, event }
}

/// Few enough that subscribers on the same thread run often, many enough to pay the lock once.
const BATCH: usize = 256;
/// Nobody notices that an event was told so much later.
const PATIENCE: Duration = Duration::from_micros(250);
/// Time for each level notice: ten thousand a second, so that watching busy connections costs them
/// little. The first after a silence goes out at once; the others carry totals, and can wait.
const LEVEL_PACE: Duration = Duration::from_micros(100);
