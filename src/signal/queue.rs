//! Bounded queues between a signal and slots that take their time: the
//! emitter puts a value in, or counts it as missed, and goes on.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};

use tokio::task::coop::poll_proceed;
use tokio_stream::Stream;

use super::connection::{Backlog, Connection};
use super::slots::{Call, Table};

/// What a queue does when it is full. A capacity of 0 counts as 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Holds so many values, and drops its oldest for a new one.
    DropOldest(usize),
    /// Holds so many values, and does not take another.
    DropNewest(usize),
    /// Holds the newest value, for those who want to know what is true now.
    /// Values it replaces are counted, and not announced.
    Latest,
}

/// What comes out of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery<T> {
    /// What was emitted.
    Item(T),
    /// So many emissions are missing here, because the queue was full.
    Lagged(u64),
}

/// The emissions of a signal; made by [`SignalRef::stream`](super::SignalRef::stream).
///
/// Dropped, it disconnects.
#[derive(Debug)]
pub struct SignalStream<T> {
    channel: Arc<Channel<T>>,
    connection: Connection,
}

#[derive(Debug)]
pub(super) struct Channel<T> {
    queue: Queue,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    entries: VecDeque<Delivery<T>>,
    /// How many of the entries are items.
    items: usize,
    missed: u64,
    ended: bool,
    reader: Option<Waker>,
}

/// The emitter's end. Dropped, it ends the queue.
pub(super) struct Sender<T>(Arc<Channel<T>>);

pub(super) fn channel<T>(queue: Queue) -> (Sender<T>, Arc<Channel<T>>) {
    let state = State { entries: VecDeque::new(), items: 0, missed: 0, ended: false, reader: None };
    let channel = Arc::new(Channel { queue, state: Mutex::new(state) });
    (Sender(Arc::clone(&channel)), channel)
}

impl<T: Clone + Send + 'static> Sender<T> {
    pub(super) fn into_call(self) -> Call<T> {
        Call::always(move |value: &T| {
            self.0.push(value.clone());
            true
        })
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<T> Channel<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A clone or drop of a value may panic, but not under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes nothing more; what is in it stays.
    fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }

    fn push(&self, value: T) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        let dropped = state.push(self.queue, value);
        let reader = state.reader.take();
        drop(state);
        // First: the drop of a value may panic.
        reader.into_iter().for_each(Waker::wake);
        drop(dropped);
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Delivery<T>>> {
        // Whoever always finds a value leaves the other tasks their turn all the same.
        let turn = ready!(poll_proceed(cx));
        let mut state = self.lock();
        if let Some(entry) = state.entries.pop_front() {
            turn.made_progress();
            state.items -= usize::from(matches!(entry, Delivery::Item(_)));
            return Poll::Ready(Some(entry));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        let known = state.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker()));
        if !known {
            state.reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl<T> State<T> {
    /// Takes the value, or counts it; returns what has to be dropped.
    fn push(&mut self, queue: Queue, value: T) -> Option<T> {
        match queue {
            Queue::Latest => {
                let replaced = self.entries.pop_front();
                self.missed += u64::from(replaced.is_some());
                self.entries.push_back(Delivery::Item(value));
                self.items = 1;
                replaced.and_then(Delivery::item)
            }
            Queue::DropNewest(capacity) if self.items >= capacity.max(1) => {
                self.missed += 1;
                match self.entries.back_mut() {
                    Some(Delivery::Lagged(count)) => *count += 1,
                    _ => self.entries.push_back(Delivery::Lagged(1)),
                }
                Some(value)
            }
            Queue::DropOldest(capacity) if self.items >= capacity.max(1) => {
                self.missed += 1;
                let (mut count, mut oldest) = (1, self.entries.pop_front());
                if let Some(Delivery::Lagged(earlier)) = oldest {
                    count += earlier;
                    oldest = self.entries.pop_front();
                }
                self.entries.push_front(Delivery::Lagged(count));
                self.entries.push_back(Delivery::Item(value));
                oldest.and_then(Delivery::item)
            }
            Queue::DropOldest(_) | Queue::DropNewest(_) => {
                self.entries.push_back(Delivery::Item(value));
                self.items += 1;
                None
            }
        }
    }
}

impl<T> Delivery<T> {
    /// The value, if this is one.
    pub fn item(self) -> Option<T> {
        match self {
            Self::Item(value) => Some(value),
            Self::Lagged(_) => None,
        }
    }
}

impl<T: Send> Backlog for Channel<T> {
    fn discard(&self) {
        let mut state = self.lock();
        state.ended = true;
        let entries = std::mem::take(&mut state.entries);
        let reader = state.reader.take();
        drop(state);
        // First: the drop of a value may panic.
        reader.into_iter().for_each(Waker::wake);
        drop(entries);
    }

    fn missed(&self) -> u64 {
        self.lock().missed
    }
}

impl<T> SignalStream<T> {
    pub(super) fn new(channel: Arc<Channel<T>>, connection: Connection) -> Self {
        Self { channel, connection }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery<T>>> {
        self.channel.poll(cx)
    }

    /// Disconnects; what is queued may still be taken, then the stream ends.
    pub fn disconnect(&self) -> bool {
        let was_live = self.connection.disconnect();
        // Not left to the slot, which an emission under way may keep.
        self.channel.end();
        was_live
    }

    /// How many emissions the queue could not hold so far.
    pub fn missed(&self) -> u64 {
        self.channel.lock().missed
    }
}

impl<T> Stream for SignalStream<T> {
    type Item = Delivery<T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery<T>>> {
        self.channel.poll(cx)
    }
}

/// Calls `slot` for one value after the other, until the queue ends.
pub(super) async fn work<T, F, R>(
    channel: Arc<Channel<T>>,
    table: Weak<Table<T>>,
    place: &'static Location<'static>,
    mut slot: F,
) where
    T: Send + 'static,
    F: FnMut(T) -> R + Send,
    R: Future<Output = ()> + Send,
{
    while let Some(entry) = poll_fn(|cx| channel.poll(cx)).await {
        let Delivery::Item(value) = entry else { continue };
        let ended = match catch_unwind(AssertUnwindSafe(|| slot(value))) {
            Ok(call) => {
                let mut call = pin!(call);
                poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
                    Ok(poll) => poll.map(Ok),
                    Err(payload) => Poll::Ready(Err(payload)),
                })
                .await
            }
            Err(payload) => Err(payload),
        };
        if let (Err(payload), Some(table)) = (ended, table.upgrade()) {
            table.panicked_in_queue(place, &*payload);
        }
    }
}
