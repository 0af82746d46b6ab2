//! What a call of a script costs. Run it by
//! `cargo test --release --lib -- --ignored --nocapture script::cost`.

use std::hint::black_box;
use std::io::{self, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::clock::Clock;
use super::options::{ScriptOptions, Source};
use super::task::Script;
use super::vm::Vm;
use crate::registry::{Arguments, Call, Functions, Registry, Trail};

const CODE: &str = "
function nothing() end
function frame(data) return '<' .. data .. '>' end
function route(data) return data:byte(1) == 35 end
function parse(data) local k, v = data:match('(%w+)=(%w+)') return v end
";

fn call(data: &Bytes) -> Call {
    Call {
        signal: "room.message_received".into(),
        connection: None,
        data: Some(data.clone()),
        arguments: Arguments::new(),
        trail: Trail::default(),
        as_filter: true,
    }
}

#[test]
#[ignore = "a measurement"]
fn a_call_and_the_hop_to_the_thread() {
    let mut out = io::stderr();
    let options = ScriptOptions::default();
    let clock = Rc::new(Clock::new(options.max_time));
    let vm =
        Vm::new(&options, &clock, |_, _| {}, |_| Ok(())).unwrap().load(&Source::new("c.luau", CODE)).unwrap();
    let data = Bytes::from(format!("key=value {}", "x".repeat(54)));
    for name in ["nothing", "frame", "route", "parse"] {
        let function = vm.function(name).unwrap().clone();
        const TIMES: u32 = 300_000;
        let begin = Instant::now();
        for _ in 0..TIMES {
            let text = vm.lua().create_string(&data).unwrap();
            let mut turn = vm.call(&function, text).unwrap();
            match Pin::new(&mut turn).poll_once() {
                Poll::Ready(value) => black_box(value.unwrap()),
                Poll::Pending => unreachable!(),
            };
        }
        writeln!(out, "VM call alone, 64 bytes, {name}: {:?}", begin.elapsed() / TIMES).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let source = Source::new("c.luau", CODE);
        let script = Script::start("c", &source, &options, &Registry::default()).await.unwrap();
        let mut times = Vec::new();
        for _ in 0..20_000 {
            let begin = Instant::now();
            script.call("frame", call(&data)).await.unwrap();
            times.push(begin.elapsed());
        }
        times.sort();
        writeln!(
            out,
            "call and answer across threads, one at a time: p50 {:?}, p99 {:?}",
            times[10_000], times[19_800]
        )
        .unwrap();
        let begin = Instant::now();
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let (script, data) = (Arc::clone(&script), data.clone());
            callers.spawn(async move {
                for _ in 0..4_000 {
                    script.call("frame", call(&data)).await.unwrap();
                }
            });
        }
        callers.join_all().await;
        let seconds = begin.elapsed().max(Duration::from_nanos(1)).as_secs_f64();
        writeln!(out, "messages per second through one script, 64 callers: {:.0}", 64.0 * 4_000.0 / seconds)
            .unwrap();
        script.stop().await;
    });
}

trait PollOnce: Future + Unpin {
    fn poll_once(mut self: Pin<&mut Self>) -> Poll<Self::Output> {
        self.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }
}

impl<F: Future + Unpin> PollOnce for F {}
