//! `cargo bench --bench signals`: what an emission costs, in nanoseconds, with
//! 0, 1 and 4 slots, direct and queued, beside Qt's where Qt 6 is installed.
//! That nobody listening costs no allocation is asserted; times are printed.
//!
//! ```text
//! cargo bench --bench signals -- [--rounds N]
//! ```

#![allow(clippy::print_stdout, reason = "it prints a table")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use signal_node::signal::Queue;
use signal_node::{Connection, Signal};

/// Emissions between two looks of a queued slot, in both programs.
const BATCH: u64 = 1_000;
/// Of so many repetitions the best counts, in both programs.
const REPEATS: usize = 7;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut rounds = 1_000_000;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => {
                rounds = arguments.next().and_then(|text| text.parse().ok()).expect("a number of rounds")
            }
            other => panic!("{other}: not an option; there is --rounds N"),
        }
    }
    nobody_listening_allocates_nothing();
    let qt = qt(rounds);
    println!("{:<8} {:>5} {:>12} {:>12} {:>7}", "", "slots", "this, ns", "Qt, ns", "ratio");
    for (kind, slots) in [("direct", 0), ("direct", 1), ("direct", 4), ("queued", 1), ("queued", 4)] {
        let ours = if kind == "direct" { direct(slots, rounds) } else { queued(slots, rounds / 4) };
        let theirs = qt.as_ref().ok().and_then(|qt| qt.get(&(kind.to_owned(), slots)));
        let (theirs, ratio) = match theirs {
            Some(theirs) => (format!("{theirs:.1}"), format!("{:.2}", ours / theirs)),
            None => ("-".into(), "-".into()),
        };
        println!("{kind:<8} {slots:>5} {ours:>12.1} {theirs:>12} {ratio:>7}");
    }
    if let Err(why) = qt {
        println!("Qt is left out: {why}");
    }
}

fn nobody_listening_allocates_nothing() {
    let signal = Signal::<u64>::new();
    let connection = signal.view().connect(|_| {});
    signal.emit(&black_box(1));
    let counted = allocation_counter::measure(|| signal.emit(&black_box(1)));
    assert_eq!(
        counted.count_total, 0,
        "a direct slot costs no allocation, but for the first call after a change"
    );
    drop(connection);
    let counted = allocation_counter::measure(|| {
        signal.emit(&black_box(1));
        Signal::<u64>::new().emit(&black_box(1));
    });
    assert_eq!(counted.count_total, 0);
}

/// Nanoseconds for one emission, the best of some.
fn best(rounds: u64, mut repeat: impl FnMut()) -> f64 {
    let times = (0..REPEATS).map(|_| {
        let begun = Instant::now();
        repeat();
        begun.elapsed().as_nanos() as f64 / rounds as f64
    });
    times.fold(f64::INFINITY, f64::min)
}

fn direct(slots: usize, rounds: u64) -> f64 {
    let (signal, sum) = (Signal::<u64>::new(), Arc::new(AtomicU64::new(0)));
    let _connections: Vec<Connection> = (0..slots)
        .map(|_| {
            let sum = Arc::clone(&sum);
            signal
                .view()
                .connect(move |value| sum.store(sum.load(Ordering::Relaxed) + value, Ordering::Relaxed))
        })
        .collect();
    let signal = black_box(&signal);
    best(rounds, || (0..rounds).for_each(|i| signal.emit(black_box(&i))))
}

fn queued(slots: usize, rounds: u64) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (signal, sum) = (Signal::<u64>::new(), Arc::new(AtomicU64::new(0)));
    let _guard = runtime.enter();
    let _connections: Vec<Connection> = (0..slots)
        .map(|_| {
            let sum = Arc::clone(&sum);
            signal.view().connect_async(Queue::DropOldest(BATCH as usize), move |value| {
                sum.store(sum.load(Ordering::Relaxed) + value, Ordering::Relaxed);
                std::future::ready(())
            })
        })
        .collect();
    let (signal, mut handled) = (black_box(&signal), 0);
    let each = best(rounds / BATCH * BATCH, || {
        for _ in 0..rounds / BATCH {
            (0..BATCH).for_each(|i| signal.emit(black_box(&i)));
            // Everything is handled before the next batch, as with Qt.
            handled += (0..BATCH).sum::<u64>() * slots as u64;
            runtime.block_on(async {
                while sum.load(Ordering::Relaxed) < handled {
                    tokio::task::yield_now().await;
                }
            });
        }
    });
    assert_eq!(sum.load(Ordering::Relaxed), handled, "every value was handled once");
    each
}

/// Builds and runs the same in Qt, if Qt 6 is there.
fn qt(rounds: u64) -> Result<BTreeMap<(String, usize), f64>, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let program: PathBuf = folder.path().join("signals");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/qt/signals.cpp");
    let include =
        ["/usr/include/x86_64-linux-gnu/qt6", "/usr/include/aarch64-linux-gnu/qt6", "/usr/include/qt6"];
    let include =
        include.iter().find(|path| Path::new(path).exists()).ok_or("qt6-base-dev is not installed")?;
    let mut build = Command::new("g++");
    build.args(["-O2", "-std=c++17", "-fPIC"]).arg(format!("-I{include}")).arg(format!("-I{include}/QtCore"));
    build.arg(source).arg("-o").arg(&program).arg("-lQt6Core");
    let built = build.output().map_err(|error| error.to_string())?;
    if !built.status.success() {
        return Err(String::from_utf8_lossy(&built.stderr).into_owned());
    }
    let out = Command::new(&program).arg(rounds.to_string()).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout);
    let rows = text.lines().filter_map(|line| {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let [kind, slots, time] = words[..] else { return None };
        Some(((kind.to_owned(), slots.parse().ok()?), time.parse().ok()?))
    });
    Ok(rows.collect())
}
