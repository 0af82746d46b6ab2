//! What an event costs whoever emits it, and whoever runs the dispatcher and
//! the readers. Measured, never asserted:
//!
//! ```text
//! cargo test --release --lib -- --ignored --nocapture cost_of_an_event
//! ```

use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_stream::StreamExt;

use super::*;
use crate::event::{ConnectionId, Endpoint};

/// Events in one run: as many as the outbox takes without losing any.
const BURST: u32 = 2_000;
const BURSTS: u32 = 500;

#[test]
#[ignore = "measures; run it alone, in a release build, with --nocapture"]
fn cost_of_an_event() {
    let mut out = std::io::stdout();
    writeln!(out, "subscribers  read  ns to emit  ns from emit to the last subscriber").unwrap();
    for (subscribers, read) in [(0, true), (1, true), (4, true), (1, false)] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (emitting, all) = runtime.block_on(run(subscribers, read));
        let each = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(BURST * BURSTS);
        writeln!(out, "{subscribers:11}  {read:5} {:10.1} {:10.1}", each(emitting), each(all)).unwrap();
    }
}

async fn run(subscribers: usize, read: bool) -> (Duration, Duration) {
    let bus = EventBus::new();
    let mut readers = JoinSet::new();
    let mut unread = Vec::new();
    for _ in 0..subscribers {
        let mut events = bus.subscribe(EventMask::DISCRETE);
        if read {
            readers.spawn(async move { while black_box(events.next().await).is_some() {} });
        } else {
            unread.push(events);
        }
    }
    let mut dispatcher = JoinSet::from_iter([bus.dispatcher().run()]);
    let (id, name) = (ConnectionId::next(), Arc::<str>::from("listen1"));
    let peer = Endpoint::Tcp(([127, 0, 0, 1], 9_000).into());
    let (mut emitting, begun) = (Duration::ZERO, Instant::now());
    for _ in 0..BURSTS {
        let burst = Instant::now();
        for _ in 0..BURST {
            black_box(&bus).emit(EventKind::NewConnection, || Event::NewConnection {
                name: None,
                via: None,
                connection: id,
                endpoint: Arc::clone(&name),
                peer: peer.clone(),
                local: peer.clone(),
            });
        }
        emitting += burst.elapsed();
        while subscribers > 0 && bus.shared.outbox.len() > 0 {
            tokio::task::yield_now().await;
        }
    }
    bus.close();
    dispatcher.join_next().await.unwrap().unwrap();
    drop(unread);
    while readers.join_next().await.is_some() {}
    (emitting, begun.elapsed())
}
