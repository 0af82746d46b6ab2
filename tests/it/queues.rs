//! Slots behind a queue, and signals as streams: what is delivered, in which
//! order, and what is said of the rest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use signal_node::Signal;
use signal_node::signal::{Delivery, Queue};
use signal_node::testing::SignalSpy;
use tokio::sync::{Notify, mpsc};
use tokio_stream::{Stream, StreamExt};

use crate::support::Calls;

#[test]
fn a_stream_disconnected_in_a_slot_ends_at_once_with_what_it_has() {
    let signal = Signal::<u32>::new();
    let (stream, ends) =
        (Mutex::new(signal.view().stream(Queue::DropOldest(1))), Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&ends);
    let slot = move |_: &u32| {
        let mut stream = stream.lock().unwrap();
        assert!(stream.disconnect());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut next = || std::pin::Pin::new(&mut *stream).poll_next(&mut cx);
        let (first, second) = (next(), next());
        let has_it = matches!(first, std::task::Poll::Ready(Some(Delivery::Item(7))));
        seen.store(has_it && matches!(second, std::task::Poll::Ready(None)), Ordering::SeqCst);
    };
    signal.view().connect(slot).detach();
    signal.emit(&7);
    assert!(ends.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_queued_slot_has_every_value_in_order_and_its_emitter_does_not_wait() {
    let signal = Signal::new();
    let (results, mut received) = mpsc::channel(100);
    let connection = signal.view().connect_async(Queue::DropOldest(100), move |value: u32| {
        let results = results.clone();
        async move { results.send(value).await.unwrap() }
    });
    (0..100).for_each(|value| signal.emit(&value));
    for value in 0..100 {
        assert_eq!(received.recv().await, Some(value));
    }
    assert_eq!(connection.missed(), 0);
}

/// Qt still delivers what was posted before.
#[tokio::test]
async fn a_disconnected_slot_is_not_called_for_what_was_queued() {
    let (signal, calls) = (Signal::new(), Calls::default());
    let noted = calls.clone();
    let connection = signal.view().connect_async(Queue::DropOldest(10), move |value: u32| {
        let noted = noted.clone();
        async move { noted.note(&format!("{value}")) }
    });
    signal.emit(&1);
    connection.disconnect();
    connection.disconnect_and_wait().await;
    assert!(calls.take().is_empty());
}

#[tokio::test]
async fn disconnect_and_wait_waits_for_the_call_under_way() {
    let (signal, calls) = (Signal::new(), Calls::default());
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (noted, says, waits) = (calls.clone(), Arc::clone(&begun), Arc::clone(&go));
    let connection = signal.view().connect_async(Queue::DropOldest(10), move |value: u32| {
        let (noted, says, waits) = (noted.clone(), Arc::clone(&says), Arc::clone(&waits));
        async move {
            says.notify_one();
            waits.notified().await;
            noted.note(&format!("{value}"));
        }
    });
    signal.emit(&1);
    signal.emit(&2);
    begun.notified().await;
    go.notify_one();
    connection.disconnect_and_wait().await;
    assert_eq!(calls.take(), ["1"]);
}

/// The last value is often the one that matters: `disconnected`.
#[tokio::test]
async fn a_detached_slot_handles_what_was_emitted_last_before_the_signal_went() {
    let signal = Signal::new();
    let (results, mut received) = mpsc::channel(1);
    let slot = move |value: u32| {
        let results = results.clone();
        async move { results.send(value).await.unwrap() }
    };
    signal.view().connect_async(Queue::DropOldest(10), slot).detach();
    (0..3).for_each(|value| signal.emit(&value));
    drop(signal);
    for value in 0..3 {
        assert_eq!(received.recv().await, Some(value));
    }
    assert_eq!(received.recv().await, None, "its task has ended");
}

#[tokio::test]
async fn an_asynchronous_slot_that_panics_is_announced_and_goes_on() {
    let signal = Signal::new();
    let panicked = SignalSpy::new(signal.view().slot_panicked());
    let (results, mut received) = mpsc::channel(1);
    let _connection = signal.view().connect_async(Queue::DropOldest(10), move |value: u32| {
        let results = results.clone();
        async move {
            assert!(value != 1, "of this test");
            results.send(value).await.unwrap();
        }
    });
    signal.emit(&1);
    signal.emit(&2);
    assert_eq!(received.recv().await, Some(2));
    assert_eq!((panicked.count(), signal.view().panics()), (1, 1));
}

#[tokio::test]
async fn a_stream_says_what_is_missing_and_where() {
    use Delivery::{Item, Lagged};
    let signal = Signal::<u32>::new();
    let oldest = signal.view().stream(Queue::DropOldest(2));
    let mut newest = signal.view().stream(Queue::DropNewest(2));
    let mut latest = signal.view().stream(Queue::Latest);
    (1..=5).for_each(|value| signal.emit(&value));
    assert_eq!(newest.next().await, Some(Item(1)));
    signal.emit(&6);
    drop(signal);
    assert_eq!(oldest.missed(), 4);
    assert_eq!(oldest.collect::<Vec<_>>().await, [Lagged(4), Item(5), Item(6)]);
    assert_eq!(newest.collect::<Vec<_>>().await, [Item(2), Lagged(3), Item(6)]);
    assert_eq!(latest.missed(), 5);
    assert_eq!(latest.next().await, Some(Item(6)));
    assert_eq!(latest.next().await, None);
}

proptest::proptest! {
    /// Whatever is emitted and taken in whatever order: nothing is lost uncounted.
    #[test]
    fn received_and_missed_and_unread_are_all_that_was_emitted(
        steps in proptest::collection::vec(proptest::bool::ANY, 0..200),
        capacity in 0usize..5,
        drops_oldest: bool,
    ) {
        let signal = Signal::<u64>::new();
        let queue = if drops_oldest { Queue::DropOldest(capacity) } else { Queue::DropNewest(capacity) };
        let mut stream = signal.view().stream(queue);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (mut emitted, mut next) = (0, 0);
        let mut take = |delivery: Delivery<u64>| match delivery {
            Delivery::Item(value) => {
                assert_eq!(value, next, "the gap before it was not announced");
                next += 1;
            }
            Delivery::Lagged(count) => next += count,
        };
        for emit in steps {
            if emit {
                signal.emit(&emitted);
                emitted += 1;
            } else {
                let taken = runtime.block_on(async { tokio::time::timeout(Duration::ZERO, stream.next()).await });
                taken.into_iter().for_each(|delivery| take(delivery.unwrap()));
            }
        }
        drop(signal);
        while let Some(delivery) = runtime.block_on(stream.next()) {
            take(delivery);
        }
        proptest::prop_assert_eq!(next, emitted);
    }
}

#[tokio::test]
async fn next_sees_the_first_emission_after_the_call_and_the_end() {
    let signal = Signal::<u32>::new();
    let next = signal.view().next();
    signal.emit(&1);
    signal.emit(&2);
    assert_eq!(next.await, Some(1));
    let end = signal.view().next();
    drop(signal);
    assert_eq!(end.await, None);
}
