//! The bus: order per connection, exact accounts for every subscriber, and no
//! subscriber that can hold up the node.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use signal_node::bus::{Delivery, Received};
use signal_node::{Config, ConnectionId, Event, EventBus, EventKind, EventMask, Node, Reason, Subscription};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;

async fn echo_node(bus: &EventBus) -> Node {
    let config = Config::relay(["127.0.0.1:0".parse().unwrap()], ["echo:".parse().unwrap()]);
    Node::bind_with(config, bus.clone()).await.unwrap()
}

/// A client that says something, hears it back, and leaves: cleanly, or by a reset.
async fn visit(node: &Node, bytes: usize, abort: bool) {
    let mut client = TcpStream::connect(node.addresses()[0]).await.unwrap();
    client.write_all(&vec![7; bytes]).await.unwrap();
    client.read_exact(&mut vec![0; bytes]).await.unwrap();
    if abort {
        client.set_zero_linger().unwrap();
    } else {
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }
}

/// Everything a subscription still has to say.
async fn rest(events: &mut Subscription) -> (Vec<Received>, u64) {
    let (mut all, mut lagged) = (Vec::new(), 0);
    while let Some(delivery) = events.next().await {
        match delivery {
            Delivery::Event(envelope) => all.push(envelope),
            Delivery::Lagged(missed) => lagged += missed,
        }
    }
    (all, lagged)
}

fn connection_of(event: &Event) -> Option<ConnectionId> {
    match event {
        Event::NewConnection { connection, .. }
        | Event::StateChanged { connection, .. }
        | Event::HostFound { connection, .. }
        | Event::Connected { connection, .. }
        | Event::ConnectFailed { connection, .. }
        | Event::ReadyRead { connection, .. }
        | Event::BytesWritten { connection, .. }
        | Event::ReadFinished { connection, .. }
        | Event::ErrorOccurred { connection, .. }
        | Event::Disconnected { connection, .. } => Some(*connection),
        _ => None,
    }
}

/// The contract of `Event`, for every connection in the list.
fn check_order(all: &[Received]) -> HashMap<ConnectionId, Vec<EventKind>> {
    let mut per_connection: HashMap<ConnectionId, Vec<&Event>> = HashMap::new();
    for pair in all.windows(2) {
        assert!(pair[0].seq < pair[1].seq);
    }
    for envelope in all {
        if let Some(connection) = connection_of(&envelope.event) {
            per_connection.entry(connection).or_default().push(&envelope.event);
        }
    }
    let kinds = |events: &[&Event]| events.iter().map(|event| event.kind()).collect::<Vec<_>>();
    for (connection, events) in &per_connection {
        let kinds = kinds(events);
        let count = |kind| kinds.iter().filter(|k| **k == kind).count();
        let place = |kind| kinds.iter().position(|k| *k == kind);
        let begins = count(EventKind::NewConnection) + count(EventKind::Connected);
        let ends = count(EventKind::Disconnected) + count(EventKind::ConnectFailed);
        assert_eq!(ends, 1, "{connection}: {kinds:?}");
        assert_eq!(begins, count(EventKind::Disconnected), "{connection}: {kinds:?}");
        assert!(count(EventKind::ReadFinished) <= 1);
        let end = place(EventKind::Disconnected).or_else(|| place(EventKind::ConnectFailed));
        assert_eq!(end, Some(kinds.len() - 1), "{connection}: {kinds:?}");
        if let Some(error) = place(EventKind::ErrorOccurred) {
            assert_eq!(error, kinds.len() - 2);
            assert_eq!(kinds[error - 1], EventKind::StateChanged);
        }
        let begin = place(EventKind::NewConnection).or_else(|| place(EventKind::Connected));
        for (i, kind) in kinds.iter().enumerate() {
            match kind {
                EventKind::ReadyRead => {
                    assert!(Some(i) > begin);
                    assert!(place(EventKind::ReadFinished).is_none_or(|finished| i < finished), "{kinds:?}");
                }
                EventKind::BytesWritten | EventKind::ReadFinished => assert!(Some(i) > begin),
                EventKind::HostFound => assert!(begin.is_none_or(|begin| i < begin)),
                _ => {}
            }
        }
        let totals = events.iter().filter_map(|event| match event {
            Event::ReadyRead { received, .. } => Some(*received),
            _ => None,
        });
        assert!(totals.is_sorted());
    }
    per_connection.into_iter().map(|(id, events)| (id, kinds(&events))).collect()
}

#[tokio::test]
async fn a_visit_is_told_in_this_order() {
    let bus = EventBus::new();
    let mut events = bus.subscribe(EventMask::DISCRETE);
    let node = echo_node(&bus).await;
    visit(&node, 10, false).await;
    let _ = node.shutdown(Duration::from_secs(10)).await;
    let (all, lagged) = rest(&mut events).await;
    assert_eq!(lagged, 0);
    use EventKind::*;
    let kinds: Vec<_> = all.iter().map(|envelope| envelope.event.kind()).collect();
    assert_eq!(
        kinds,
        [
            Listening,
            NewConnection,
            StateChanged,
            Connected,
            ReadFinished,
            ReadFinished,
            StateChanged,
            Disconnected,
            StateChanged,
            Disconnected
        ]
    );
    let partner = all.iter().find_map(|envelope| match &envelope.event {
        Event::Connected { partner, .. } => *partner,
        _ => None,
    });
    assert_eq!(partner, connection_of(&all[1].event));
}

#[tokio::test]
async fn a_reset_is_told_as_state_error_and_end() {
    let bus = EventBus::new();
    let mut events = bus.subscribe(EventMask::DISCRETE);
    let node = echo_node(&bus).await;
    visit(&node, 10, true).await;
    let _ = node.shutdown(Duration::from_secs(10)).await;
    let (all, _) = rest(&mut events).await;
    let orders = check_order(&all);
    let client = connection_of(&all[1].event).unwrap();
    let end = &orders[&client][orders[&client].len() - 3..];
    assert_eq!(end, [EventKind::StateChanged, EventKind::ErrorOccurred, EventKind::Disconnected]);
    let reasons: Vec<_> = all
        .iter()
        .filter_map(|envelope| match &envelope.event {
            Event::Disconnected { reason, .. } => Some(*reason),
            _ => None,
        })
        .collect();
    assert_eq!(reasons, [Reason::PartnerLost, Reason::Reset]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_for_hundreds_of_connections_at_once() {
    let bus = EventBus::new();
    let mut events = bus.subscribe(EventMask::ALL);
    let reader = tokio::task::JoinSet::from_iter([async move { rest(&mut events).await }]);
    let node = Arc::new(echo_node(&bus).await);
    let mut visitors = tokio::task::JoinSet::new();
    for i in 0..300_usize {
        let node = Arc::clone(&node);
        visitors.spawn(async move { visit(&node, 1 + i * 37 % 50_000, i % 3 == 0).await });
    }
    visitors.join_all().await;
    let _ = Arc::into_inner(node).unwrap().shutdown(Duration::from_secs(20)).await;
    let (all, lagged) = reader.join_all().await.remove(0);
    // A reader that keeps up misses nothing discrete; were it to lag, order could not be judged.
    if lagged == 0 {
        assert_eq!(check_order(&all).len(), 600);
    } else {
        assert!(all.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    }
}

#[tokio::test]
async fn a_subscriber_that_never_reads_costs_others_nothing_and_is_told_exactly() {
    let bus = EventBus::new();
    let mut never_reads = bus.subscribe(EventMask::ALL);
    let mut reads = bus.subscribe(EventMask::of(&[EventKind::Disconnected]));
    let node = echo_node(&bus).await;
    let mut seen = 0;
    for i in 0..600 {
        visit(&node, 100, i % 2 == 0).await;
        while seen < 2 * (i + 1) {
            match reads.next().await.unwrap() {
                Delivery::Event(_) => seen += 1,
                Delivery::Lagged(missed) => panic!("{missed} missed by a subscriber that reads"),
            }
        }
    }
    let _ = node.shutdown(Duration::from_secs(10)).await;
    let (all, lagged) = rest(&mut never_reads).await;
    let counts = never_reads.counts();
    assert!(lagged > 0);
    assert_eq!((counts.received, counts.lagged), (all.len() as u64, lagged));
    assert_eq!(counts.unread(), 0);
    assert_eq!(counts.received + counts.filtered + counts.lagged, counts.emitted);
    // What it did get are the newest, with the end of everything among them.
    assert!(matches!(all.last().unwrap().event, Event::Disconnected { .. }));
    let (_, lagged) = rest(&mut reads).await;
    assert_eq!((lagged, reads.counts().unread()), (0, 0));
}

#[tokio::test]
async fn a_subscriber_that_sleeps_slows_nobody() {
    let bus = EventBus::new();
    let mut sleepy = bus.subscribe(EventMask::ALL);
    let node = echo_node(&bus).await;
    let asleep = tokio::task::JoinSet::from_iter([async move {
        let _first = sleepy.next().await;
        std::future::pending::<()>().await;
    }]);
    for _ in 0..50 {
        visit(&node, 1_000, false).await;
    }
    assert_eq!(node.shutdown(Duration::from_secs(10)).await.cut, 0);
    drop(asleep);
}

#[tokio::test]
async fn a_slot_that_panics_is_named_and_the_node_goes_on() {
    let bus = EventBus::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let _bad = bus.connect(EventMask::of(&[EventKind::NewConnection]), |_| panic!("of this test"));
    let _good = bus.connect(EventMask::of(&[EventKind::NewConnection]), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let mut panics = bus.subscribe(EventMask::of(&[EventKind::SlotPanicked]));
    let node = echo_node(&bus).await;
    visit(&node, 1, false).await;
    visit(&node, 1, false).await;
    assert_eq!(node.shutdown(Duration::from_secs(10)).await.cut, 0);
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let (all, _) = rest(&mut panics).await;
    assert_eq!(all.len(), 2);
    let Event::SlotPanicked { slot } = &all[0].event else { panic!("another event") };
    assert!(slot.contains("events.rs"), "{slot}");
}

#[tokio::test]
async fn a_disconnected_slot_is_not_called() {
    let bus = EventBus::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let slot = bus.connect(EventMask::ALL, move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    slot.disconnect();
    let node = echo_node(&bus).await;
    visit(&node, 1, false).await;
    let _ = node.shutdown(Duration::from_secs(10)).await;
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_snapshot_knows_what_the_events_told() {
    let bus = EventBus::new();
    let mut events = bus.subscribe(EventMask::of(&[EventKind::Connected]));
    let node = echo_node(&bus).await;
    let mut client = TcpStream::connect(node.addresses()[0]).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    client.read_exact(&mut [0; 5]).await.unwrap();
    let Some(Delivery::Event(connected)) = events.next().await else { panic!("not connected") };
    let snapshot = bus.snapshot();
    assert!(snapshot.seq >= connected.seq);
    assert_eq!(snapshot.listeners.len(), 1);
    let [accepted, dialled] = &snapshot.connections[..] else { panic!("{snapshot:?}") };
    assert_eq!((accepted.received, accepted.sent), (5, 5));
    assert_eq!(dialled.partner, Some(accepted.connection));
    assert_eq!(accepted.peer.as_ref().unwrap().to_string(), client.local_addr().unwrap().to_string());
    drop(client);
    let _ = node.shutdown(Duration::from_secs(10)).await;
    let snapshot = bus.snapshot();
    assert!(snapshot.connections.is_empty() && snapshot.listeners.is_empty());
}

/// What the property test does, one step at a time.
#[derive(Clone, Debug)]
enum Step {
    Visit { bytes: usize, abort: bool },
    Subscribe { mask: u32 },
    Read { who: usize, count: usize },
    Unsubscribe { who: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..5_000_usize, any::<bool>()).prop_map(|(bytes, abort)| Step::Visit { bytes, abort }),
        2 => any::<u32>().prop_map(|mask| Step::Subscribe { mask }),
        3 => (any::<usize>(), 0..40_usize).prop_map(|(who, count)| Step::Read { who, count }),
        1 => any::<usize>().prop_map(|who| Step::Unsubscribe { who }),
    ];
    prop::collection::vec(step, 1..40)
}

fn mask_of(bits: u32) -> EventMask {
    let chosen = EventKind::ALL.into_iter().filter(|kind| bits >> (*kind as u8) & 1 == 1);
    EventMask::of(&chosen.collect::<Vec<_>>())
}

/// A subscription with what was seen of it, counted apart from its own accounts.
struct Watched {
    events: Subscription,
    mask: EventMask,
    received: u64,
    lagged: u64,
    last: u64,
}

impl Watched {
    fn take(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Event(envelope) => {
                assert!(self.mask.contains(envelope.event.kind()));
                assert!(envelope.seq > self.last);
                self.last = envelope.seq;
                self.received += 1;
            }
            Delivery::Lagged(missed) => self.lagged += missed,
        }
    }

    fn check(&self) {
        let counts = self.events.counts();
        assert_eq!((counts.received, counts.lagged), (self.received, self.lagged));
        assert_eq!(counts.received + counts.filtered + counts.lagged + counts.unread(), counts.emitted);
    }
}

async fn follow(steps: Vec<Step>) {
    let bus = EventBus::new();
    let node = echo_node(&bus).await;
    let mut watched: Vec<Watched> = Vec::new();
    for step in steps {
        match step {
            Step::Visit { bytes, abort } => visit(&node, bytes, abort).await,
            Step::Subscribe { mask } => {
                let mask = mask_of(mask);
                let events = bus.subscribe(mask);
                watched.push(Watched { events, mask, received: 0, lagged: 0, last: 0 });
            }
            Step::Unsubscribe { who } if !watched.is_empty() => {
                watched.swap_remove(who % watched.len());
            }
            Step::Read { who, count } if !watched.is_empty() => {
                let who = who % watched.len();
                for _ in 0..count {
                    // Reads what is there and does not wait for more.
                    let next = tokio::time::timeout(Duration::ZERO, watched[who].events.next()).await;
                    let Ok(Some(delivery)) = next else { break };
                    watched[who].take(delivery);
                    watched[who].check();
                }
            }
            _ => {}
        }
        watched.iter().for_each(Watched::check);
    }
    let _ = node.shutdown(Duration::from_secs(10)).await;
    for mut watched in watched {
        while let Some(delivery) = watched.events.next().await {
            watched.take(delivery);
        }
        watched.check();
        // Read to its end, nothing is left: this is what makes the sum more than a definition.
        assert_eq!(watched.events.counts().unread(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn received_filtered_lagged_and_unread_are_what_was_emitted(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(follow(steps));
    }
}

#[tokio::test]
async fn a_level_notice_comes_again_for_bytes_after_it() {
    let bus = EventBus::new();
    let mut events = bus.subscribe(EventMask::of(&[EventKind::NewConnection, EventKind::ReadyRead]));
    let node = echo_node(&bus).await;
    let mut client = TcpStream::connect(node.addresses()[0]).await.unwrap();
    let mut accepted = None;
    for total in [5, 10, 15] {
        client.write_all(b"again").await.unwrap();
        loop {
            let Some(Delivery::Event(envelope)) = events.next().await else { panic!("lagged") };
            match envelope.event {
                Event::NewConnection { connection, .. } => accepted = Some(connection),
                Event::ReadyRead { connection, received, .. } if Some(connection) == accepted => {
                    assert!(received <= total);
                    if received == total {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    drop(client);
    let _ = node.shutdown(Duration::from_secs(10)).await;
}
