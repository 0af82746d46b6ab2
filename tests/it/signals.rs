//! Signals and slots: the behaviours Qt's users rely on, in our own words,
//! and those where we promise more than Qt does.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock, Weak};
use std::time::Duration;

use signal_node::testing::SignalSpy;
use signal_node::{Connection, Signal};

use crate::support::{Calls, PATIENCE};

/// Something whose end can be seen.
struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn flag() -> (Flag, Arc<AtomicBool>) {
    let gone = Arc::new(AtomicBool::new(false));
    (Flag(Arc::clone(&gone)), gone)
}

type Hand = Arc<Mutex<Option<Connection>>>;

#[test]
fn slots_run_in_the_order_they_were_connected_and_a_reconnected_one_comes_last() {
    let (signal, calls) = (Signal::new(), Calls::default());
    let first = signal.view().connect(calls.slot("a"));
    let _second = signal.view().connect(calls.slot("b"));
    signal.emit(&1);
    assert!(first.disconnect());
    let _again = signal.view().connect(calls.slot("a"));
    signal.emit(&2);
    assert_eq!(calls.take(), ["a1", "b1", "b2", "a2"]);
}

#[test]
fn a_second_disconnect_says_that_there_was_nothing_to_do() {
    let signal = Signal::<u32>::new();
    let connection = signal.view().connect(|_| {});
    assert!(connection.is_connected());
    assert!(connection.disconnect());
    assert!(!connection.disconnect());
    assert!(!connection.is_connected());
}

#[test]
fn a_dropped_connection_is_never_called_again_and_a_detached_one_is() {
    let (signal, calls) = (Signal::new(), Calls::default());
    drop(signal.view().connect(calls.slot("a")));
    signal.view().connect(calls.slot("b")).detach();
    signal.emit(&1);
    assert_eq!(calls.take(), ["b1"]);
}

#[test]
fn a_slot_that_disconnects_itself_or_the_next_one_is_obeyed_at_once() {
    let (signal, calls) = (Signal::new(), Calls::default());
    let (own, next): (Hand, Hand) = Default::default();
    let (own_hand, next_hand, noted) = (Arc::clone(&own), Arc::clone(&next), calls.clone());
    let slot = move |value: &u32| {
        noted.note(&format!("a{value}"));
        drop(own_hand.lock().unwrap().take());
        drop(next_hand.lock().unwrap().take());
    };
    *own.lock().unwrap() = Some(signal.view().connect(slot));
    *next.lock().unwrap() = Some(signal.view().connect(calls.slot("b")));
    let _last = signal.view().connect(calls.slot("c"));
    signal.emit(&1);
    signal.emit(&2);
    assert_eq!(calls.take(), ["a1", "c1", "c2"]);
    assert_eq!(signal.view().receiver_count(), 1);
}

#[test]
fn a_slot_connected_during_an_emission_waits_for_the_next_and_a_nested_one_is_a_next() {
    let (signal, calls) = (Arc::new(Signal::new()), Calls::default());
    let (inner, noted, done) = (Arc::downgrade(&signal), calls.clone(), AtomicBool::new(false));
    let _a = signal.view().connect(move |value: &u32| {
        noted.note(&format!("a{value}"));
        let signal: Arc<Signal<u32>> = inner.upgrade().unwrap();
        if !done.swap(true, Ordering::SeqCst) {
            signal.view().connect(noted.slot("late")).detach();
            signal.emit(&(value + 10));
        }
    });
    signal.emit(&1);
    assert_eq!(calls.take(), ["a1", "a11", "late11"]);
    signal.emit(&2);
    assert_eq!(calls.take(), ["a2", "late2"]);
}

#[test]
fn a_slot_disconnected_by_a_nested_emission_is_not_called_by_the_outer_one() {
    let (signal, calls) = (Arc::new(Signal::new()), Calls::default());
    let victim: Hand = Arc::default();
    let (inner, hand) = (Arc::downgrade(&signal), Arc::clone(&victim));
    let _a = signal.view().connect(move |value: &u32| {
        let signal: Arc<Signal<u32>> = inner.upgrade().unwrap();
        match value {
            1 => signal.emit(&2),
            _ => drop(hand.lock().unwrap().take()),
        }
    });
    *victim.lock().unwrap() = Some(signal.view().connect(calls.slot("b")));
    signal.emit(&1);
    assert!(calls.take().is_empty());
}

#[test]
fn a_single_shot_slot_is_gone_before_it_runs_and_may_connect_itself_again() {
    fn again(signal: &Arc<Signal<u32>>, calls: &Calls) {
        let (weak, calls) = (Arc::downgrade(signal), calls.clone());
        let slot = move |value: &u32| {
            let signal: Arc<Signal<u32>> = weak.upgrade().unwrap();
            calls.note(&format!("{value} with {} connected", signal.view().receiver_count()));
            again(&signal, &calls);
        };
        signal.view().connect_once(slot).detach();
    }
    let (signal, calls) = (Arc::new(Signal::new()), Calls::default());
    again(&signal, &calls);
    signal.emit(&1);
    signal.emit(&2);
    assert_eq!(calls.take(), ["1 with 0 connected", "2 with 0 connected"]);
}

#[test]
fn of_many_threads_that_emit_at_once_one_calls_a_single_shot_slot() {
    for _ in 0..200 {
        let (signal, calls) = (Signal::new(), AtomicUsize::new(0));
        let calls = Arc::new(calls);
        let count = Arc::clone(&calls);
        let slot = move |_: &u32| {
            count.fetch_add(1, Ordering::SeqCst);
        };
        let connection = signal.view().connect_once(slot);
        let barrier = Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    barrier.wait();
                    signal.emit(&1);
                });
            }
        });
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        assert!(!connection.is_connected());
    }
}

#[test]
fn what_happens_while_a_signal_is_blocked_is_not_made_up_for_and_blocks_count() {
    let (signal, calls) = (Signal::new(), Calls::default());
    let _a = signal.view().connect(calls.slot("a"));
    let outer = signal.view().block();
    let inner = signal.view().block();
    drop(inner);
    signal.emit(&1);
    drop(outer);
    signal.emit(&2);
    assert_eq!(calls.take(), ["a2"]);
}

#[test]
fn a_slot_that_panics_is_named_and_counted_and_the_later_ones_run() {
    let (signal, calls) = (Signal::new(), Calls::default());
    let panicked = SignalSpy::new(signal.view().slot_panicked());
    let _a = signal.view().connect(calls.slot("a"));
    let _b = signal.view().connect(|_| panic!("of this test"));
    let _c = signal.view().connect(calls.slot("c"));
    signal.emit(&1);
    assert_eq!(calls.take(), ["a1", "c1"]);
    let named = panicked.take();
    assert_eq!((named.len(), signal.view().panics()), (1, 1));
    assert_eq!((named[0].slot.file(), &*named[0].message), (file!(), "of this test"));
}

#[test]
fn what_a_slot_owns_goes_when_it_is_disconnected_and_may_do_what_it_likes_then() {
    struct Busy(Weak<Signal<u32>>);
    impl Drop for Busy {
        fn drop(&mut self) {
            let signal = self.0.upgrade().unwrap();
            drop(signal.view().connect(|_| {}));
            signal.emit(&7);
        }
    }
    let signal = Arc::new(Signal::<u32>::new());
    let (flag, gone) = flag();
    let busy = Busy(Arc::downgrade(&signal));
    let connection = signal.view().connect(move |_| {
        let _owned = (&flag, &busy);
    });
    signal.emit(&1);
    connection.disconnect();
    assert!(gone.load(Ordering::SeqCst), "the closure is still there");
}

#[test]
fn what_a_slot_owns_outlives_its_own_call_when_it_disconnects_itself() {
    let signal = Signal::<u32>::new();
    let (flag, gone) = flag();
    let hand: Hand = Arc::default();
    let (own, seen) = (Arc::clone(&hand), Arc::clone(&gone));
    *hand.lock().unwrap() = Some(signal.view().connect(move |_| {
        let _owned = &flag;
        drop(own.lock().unwrap().take());
        assert!(!seen.load(Ordering::SeqCst), "freed while it runs");
    }));
    signal.emit(&1);
    assert_eq!(signal.view().panics(), 0);
    assert!(gone.load(Ordering::SeqCst));
}

#[test]
fn a_slot_that_owns_its_own_connection_does_not_leak() {
    let signal = Signal::<u32>::new();
    let (flag, gone) = flag();
    let hand: Arc<OnceLock<Connection>> = Arc::default();
    let own = Arc::clone(&hand);
    let connection = signal.view().connect(move |_| {
        let _owned = &flag;
        own.get().unwrap().disconnect();
    });
    assert!(hand.set(connection).is_ok());
    drop(hand);
    signal.emit(&1);
    assert!(gone.load(Ordering::SeqCst));
}

#[test]
fn a_slot_goes_with_its_context() {
    let (signal, calls) = (Signal::new(), Calls::default());
    let (flag, gone) = flag();
    let context = Arc::new(calls.clone());
    let slot = move |calls: &Arc<Calls>, value: &u32| {
        let _owned = &flag;
        calls.note(&format!("{value}"));
    };
    let connection = signal.view().connect_weak(&context, slot);
    signal.emit(&1);
    drop(context);
    signal.emit(&2);
    assert_eq!(calls.take(), ["1"]);
    assert!(!connection.is_connected() && gone.load(Ordering::SeqCst) && !signal.is_connected());
}

#[test]
fn a_context_that_dies_in_its_own_slot_is_not_used_again() {
    let (signal, calls) = (Signal::new(), Calls::default());
    let context = Arc::new(Mutex::new(calls.clone()));
    let hand = Arc::new(Mutex::new(Some(Arc::clone(&context))));
    let slot = move |calls: &Arc<Mutex<Calls>>, value: &u32| {
        drop(hand.lock().unwrap().take());
        calls.lock().unwrap().note(&format!("{value}"));
    };
    signal.view().connect_weak(&context, slot).detach();
    drop(context);
    signal.emit(&1);
    signal.emit(&2);
    assert_eq!(calls.take(), ["1"]);
}

#[test]
fn an_emission_whose_signal_goes_meanwhile_still_reaches_every_slot() {
    let (signal, calls) = (Arc::new(Signal::new()), Calls::default());
    let hand = Arc::new(Mutex::new(Some(Arc::clone(&signal))));
    let _a = signal.view().connect(move |_: &u32| drop(hand.lock().unwrap().take()));
    let b = signal.view().connect(calls.slot("b"));
    signal.emit(&1);
    assert_eq!(calls.take(), ["b1"]);
    drop(signal);
    assert!(!b.is_connected() && !b.disconnect());
}

#[test]
fn signals_can_be_chained_mapped_and_filtered() {
    let (celsius, fahrenheit, calls) = (Signal::new(), Signal::new(), Calls::default());
    let even = |value: &u32| value.is_multiple_of(2).then_some(value * 9 / 5 + 32);
    let _chain = celsius.view().forward_to(&fahrenheit, even);
    let _slot = fahrenheit.view().connect(calls.slot("F"));
    celsius.emit(&100);
    celsius.emit(&99);
    assert_eq!(calls.take(), ["F212"]);
    drop(fahrenheit);
    celsius.emit(&100);
    assert!(!celsius.is_connected(), "a chain to nowhere is taken down");
}

#[test]
fn the_books_on_who_listens_are_exact() {
    let signal = Signal::<u32>::new();
    assert!(!signal.is_connected());
    let slots: Vec<_> = (0..100).map(|_| signal.view().connect(|_| {})).collect();
    assert_eq!(signal.view().receiver_count(), 100);
    drop(slots);
    assert_eq!((signal.is_connected(), signal.view().receiver_count()), (false, 0));
}

#[test]
fn a_value_nobody_waits_for_is_not_even_made() {
    let signal = Signal::<u32>::new();
    signal.emit_with(|| panic!("nobody listens"));
    let spy = SignalSpy::new(signal.view());
    signal.emit_with(|| 5);
    assert_eq!(spy.take(), [5]);
}

#[test]
fn threads_may_connect_disconnect_and_emit_as_they_like() {
    let (signal, gone, stop) = (Signal::<u32>::new(), Arc::new(AtomicUsize::new(0)), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    signal.emit(&1);
                }
            });
        }
        let changers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let owned = Counted(Arc::clone(&gone));
                        let connection = signal.view().connect(move |_| {
                            let _still_there = &owned;
                        });
                        assert!(connection.disconnect() && !connection.is_connected());
                    }
                })
            })
            .collect();
        changers.into_iter().for_each(|changer| changer.join().unwrap());
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!((signal.view().receiver_count(), signal.view().panics()), (0, 0));
    drop(signal);
    assert_eq!(gone.load(Ordering::SeqCst), 2 * 20_000, "what slots owned goes once each");
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_spy_waits_for_what_is_new_and_hears_other_threads() {
    let signal = Arc::new(Signal::<u32>::new());
    let spy = SignalSpy::new(signal.view());
    signal.emit(&1);
    assert!(!spy.wait_more(Duration::from_millis(1)).await, "an old emission was taken for a new one");
    let emitter = Arc::clone(&signal);
    let thread = std::thread::spawn(move || (2..=100).for_each(|value| emitter.emit(&value)));
    assert!(spy.wait_for(100, PATIENCE).await);
    thread.join().unwrap();
    assert_eq!(spy.take(), (1..=100).collect::<Vec<_>>());
    assert_eq!((spy.count(), spy.values().len()), (100, 0));
}

#[test]
fn a_key_is_connected_once_at_a_time() {
    let (signal, calls) = (Signal::new(), Calls::default());
    let view = signal.view();
    let a = view.connect_keyed("a", calls.slot("a")).unwrap();
    let b = view.connect_keyed("b", calls.slot("b")).unwrap();
    let (drops, dropped) = flag();
    let refused = view
        .connect_keyed("a", move |_: &u32| {
            let _keeps = &drops;
        })
        .unwrap_err();
    assert!(refused.to_string().contains("signals.rs"), "{refused}");
    assert!(dropped.load(Ordering::Relaxed), "what was refused is not kept");
    signal.emit(&1);
    assert_eq!(calls.take(), ["a1", "b1"]);
    a.disconnect();
    let _again = view.connect_keyed("a", calls.slot("again")).unwrap();
    signal.emit(&2);
    assert_eq!((calls.take(), view.receiver_count()), (vec!["b2".into(), "again2".into()], 2));
    drop(b);
}

/// To connect a slot used to copy the list of all before it.
#[test]
fn the_last_of_many_slots_costs_no_more_than_the_first() {
    let signal = Signal::<u32>::new();
    let mut connections = Vec::with_capacity(20_000);
    let half = |connections: &mut Vec<_>| {
        allocation_counter::measure(|| {
            connections.extend((0..10_000).map(|_| signal.view().connect(|_| {})));
        })
    };
    let (first, second) = (half(&mut connections), half(&mut connections));
    assert!(second.bytes_total < 2 * first.bytes_total, "{} {}", first.bytes_total, second.bytes_total);
    signal.emit(&1);
    let ended = allocation_counter::measure(|| connections.clear());
    assert!(ended.bytes_total < first.bytes_total, "{}", ended.bytes_total);
    assert!(!signal.is_connected());
}
