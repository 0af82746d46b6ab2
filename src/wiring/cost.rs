//! What a wire and a filter cost, without sockets. Measured, never asserted:
//!
//! ```text
//! cargo test --release --lib -- --ignored --nocapture cost_of_a_wire
//! ```

use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use super::*;
use crate::event::{ConnectionId, Endpoint, Introduction};
use crate::framing::Framing;
use crate::registry::{
    Door, Ending, INTAKE, Intake, Item, Object, Party, Peers, Places, Registry, SendError, To, Undone, Wired,
};

/// Takes messages, and does nothing with them.
#[derive(Debug)]
struct Nobody;

impl Peers for Nobody {
    fn send(&self, _: To, data: &[u8]) -> Result<(), SendError> {
        std::hint::black_box(data);
        Ok(())
    }

    fn has_room(&self, _: To) -> bool {
        true
    }

    fn room<'a>(&'a self, _: To) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }

    fn end(&self, _: Option<ConnectionId>, _: Ending) -> bool {
        false
    }

    fn parties(&self) -> Vec<Arc<Party>> {
        Vec::new()
    }
}

/// Frames of one run, and runs.
const FRAMES: usize = 500;
const RUNS: usize = 1_000;

#[test]
#[ignore = "measures; run it alone, in a release build, with --nocapture"]
fn cost_of_a_wire() {
    let mut out = std::io::stdout();
    writeln!(out, "filters                                ns a frame of 64 bytes").unwrap();
    let words = |words: &[&str]| words.iter().map(|word| Filter::word(word).unwrap()).collect::<Vec<_>>();
    let keyed = |key, text| vec![Filter::keyed(key, text).unwrap()];
    for (name, wires, via, args) in [
        ("no wire", 0, vec![], ""),
        ("a wire", 1, vec![], ""),
        ("a wire with args, {conn.peer} {data}", 1, vec![], "{conn.peer} {data}"),
        ("a wire, trim", 1, words(&["trim"]), ""),
        ("a wire, upper", 1, words(&["upper"]), ""),
        ("a wire, lower", 1, words(&["lower"]), ""),
        ("a wire, hex", 1, words(&["hex"]), ""),
        ("a wire, unhex", 1, words(&["unhex"]), ""),
        ("a wire, prefix", 1, keyed("prefix", "> "), ""),
        ("a wire, suffix", 1, keyed("suffix", " <"), ""),
        ("a wire, template, {conn.peer} {data}", 1, keyed("template", "{conn.peer} {data}"), ""),
        ("a wire, match", 1, keyed("match", "^[a-z]+$"), ""),
        ("a wire, split, into one", 1, keyed("split", ","), ""),
        ("a wire, trim upper", 1, words(&["trim", "upper"]), ""),
    ] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let nanoseconds = runtime.block_on(run(wires, &via, args));
        writeln!(out, "{name:38} {nanoseconds:10.0}").unwrap();
    }
}

async fn run(wires: usize, via: &[Filter], args: &str) -> f64 {
    let registry = Registry::default();
    let door = Door::new(Vec::new(), Arc::new(Places::new(1)));
    registry.replace([(Arc::from("a"), Object::Listener(Arc::new(door)))].into());
    let wired = Wired { peers: Arc::new(Nobody), line: None };
    registry.rewire([(Arc::from("a"), wired)].into(), Default::default());
    let undone = Undone::new();
    let mut options = WireOptions {
        signal: MemberName::parse("a.message_received").unwrap(),
        slot: MemberName::parse("a.write").unwrap(),
        via: via.to_vec(),
        ..WireOptions::default()
    };
    if !args.is_empty() {
        options.args.insert("data".into(), Template::parse(args).unwrap());
    }
    let tap = |_| Tap {
        signal: "message_received".into(),
        to: Destination::Wire(Arc::new(Wire::new(options.clone(), &undone))),
    };
    let taps: Taps = (0..wires).map(tap).collect();
    let taps = watch::Sender::new(taps);
    let intake = Arc::new(Intake::new(INTAKE, &undone));
    let ends = (Endpoint::Tcp(([127, 0, 0, 1], 9_000).into()), Endpoint::Echo);
    let party = Arc::new(Party::new(ConnectionId::next(), "a".into(), ends, Introduction::default()));
    let mut wire = BytesMut::new();
    for _ in 0..FRAMES {
        Framing::LINES.encode(&[b'a'; 64], 64, &mut wire).unwrap();
    }
    let wire: Bytes = wire.freeze();
    let begun = Instant::now();
    let source = async {
        for _ in 0..RUNS {
            intake.room().await;
            intake.put(Item::Frames {
                party: Arc::clone(&party),
                framing: Framing::LINES,
                wire: wire.clone(),
            });
        }
        intake.close();
    };
    tokio::join!(consume("a".into(), Arc::clone(&intake), taps.subscribe(), registry), source);
    begun.elapsed().as_secs_f64() * 1e9 / (FRAMES * RUNS) as f64
}
