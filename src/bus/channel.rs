//! One of the two channels of the bus: async-broadcast in its one safe
//! setting. What goes out in one turn of the dispatcher is one item of it, so
//! that sending, waking and receiving are paid by the turn and not by the
//! event. How much is kept for a slow subscriber is counted in events.

use std::collections::VecDeque;
use std::sync::Arc;

use async_broadcast::{InactiveReceiver, Sender};

use super::Stamps;
use crate::event::Envelope;

/// What went out on one channel in one turn: at least one event.
pub(super) struct Batch {
    pub(super) events: Box<[Envelope]>,
    /// How many had been stamped when the turn was over, on either channel.
    pub(super) until: Stamps,
}

/// The sending end.
pub(super) struct Channel {
    sender: Sender<Arc<Batch>>,
    /// Events that are kept for a subscriber; with them go the others of their batch.
    capacity: usize,
    /// Sizes of the batches in the channel, the oldest first, and their sum.
    sizes: VecDeque<usize>,
    held: usize,
    /// The batch of this turn, so far.
    events: Vec<Envelope>,
}

impl Channel {
    /// A channel that drops its oldest and never waits. The inactive receiver keeps it open, and makes others.
    pub(super) fn new(capacity: usize) -> (Self, InactiveReceiver<Arc<Batch>>) {
        // Were every batch a single event, there would be as many.
        let (mut sender, receiver) = async_broadcast::broadcast(capacity);
        sender.set_overflow(true);
        sender.set_await_active(false);
        let channel = Self { sender, capacity, sizes: VecDeque::new(), held: 0, events: Vec::new() };
        (channel, receiver.deactivate())
    }

    /// Adds an event to the batch of this turn.
    pub(super) fn add(&mut self, envelope: Envelope) {
        self.events.push(envelope);
    }

    /// Sends the batch of this turn, if there is one.
    pub(super) fn send(&mut self, until: Stamps) {
        let count = self.events.len();
        if count == 0 {
            return;
        }
        // Of just its size: it may be kept for long.
        let events = self.events.drain(..).collect();
        // An error says that nobody has subscribed to this channel, which is no fault.
        if self.sender.try_broadcast(Arc::new(Batch { events, until })).is_ok() {
            self.sizes.push_back(count);
            self.held += count;
            self.drop_oldest();
        }
    }

    /// Drops the oldest batches without which enough is left.
    fn drop_oldest(&mut self) {
        let there = self.sender.len();
        while self.sizes.len() > there
            || self.sizes.front().is_some_and(|oldest| self.held - oldest >= self.capacity)
        {
            self.held -= self.sizes.pop_front().unwrap_or(0);
        }
        if self.sizes.len() < there {
            // async-broadcast drops the oldest of what does not fit any more.
            self.sender.set_capacity(self.sizes.len());
            self.sender.set_capacity(self.capacity);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::event::Event;

    #[test]
    fn a_channel_keeps_so_many_events_and_what_came_with_the_oldest_of_them() {
        let (mut channel, receiver) = Channel::new(100);
        let mut reader = receiver.activate_cloned();
        let mut seq = 0;
        for size in [1, 30, 30, 30, 39, 30, 1, 1, 10] {
            for _ in 0..size {
                seq += 1;
                let event = Event::Lagged { missed: 0 };
                channel.add(Envelope { seq, at: SystemTime::now(), nth: seq, event });
            }
            channel.send(Stamps::default());
        }
        assert!(matches!(reader.try_recv(), Err(async_broadcast::TryRecvError::Overflowed(3))));
        let kept: Vec<_> = std::iter::from_fn(|| reader.try_recv().ok()).map(|b| b.events.len()).collect();
        assert_eq!(kept, [30, 39, 30, 1, 1, 10]);
        assert_eq!(kept.iter().sum::<usize>(), channel.held);
    }
}
