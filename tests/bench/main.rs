//! `cargo bench --bench relays`: this relay beside others, interleaved, as
//! ratios. Nothing is asserted about time; in CI every scenario runs for a
//! moment to see that it works.
//!
//! ```text
//! cargo bench --bench relays -- [--rounds N] [--seconds S] [--peers a,b] [--rows a,b] [--free] [--quartile]
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints a table")]

mod crowd;
mod load;
mod meter;
mod peers;
mod roles;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::load::Load;
use crate::meter::Sample;
use crate::peers::{Ground, Peer};

/// A row of the comparison: a scenario, with how many streams or connections.
struct Row {
    name: &'static str,
    scenario: &'static str,
    connections: usize,
    columns: &'static [Column],
}

#[derive(Clone, Copy)]
struct Column {
    name: &'static str,
    value: fn(&Sample) -> f64,
    /// Whether less is better.
    less: bool,
}

const GIGABYTES: Column = Column { name: "GB/s", value: |s| s.count / s.seconds / 1e9, less: false };
const CPU_PER_GB: Column = Column { name: "CPU s/GB", value: |s| s.cpu / (s.count / 1e9), less: true };
const RATE: Column = Column { name: "/s", value: |s| s.count / s.seconds, less: false };
const P50: Column = Column { name: "p50 us", value: |s| s.percentiles.p50, less: true };
const P99: Column = Column { name: "p99 us", value: |s| s.percentiles.p99, less: true };
const CPU_EACH: Column = Column { name: "CPU us each", value: |s| s.cpu / s.count * 1e6, less: true };
const CPU_NS: Column = Column { name: "CPU ns each", value: |s| s.cpu / s.count * 1e9, less: true };
const TORN: Column = Column { name: "torn", value: |s| s.torn, less: true };
const KIB: Column = Column { name: "KiB a pair", value: |s| s.count, less: true };

const ROWS: &[Row] = &[
    Row { name: "bulk-1", scenario: "bulk", connections: 1, columns: &[GIGABYTES, CPU_PER_GB] },
    Row { name: "bulk-8", scenario: "bulk", connections: 8, columns: &[GIGABYTES, CPU_PER_GB] },
    Row { name: "pingpong-1", scenario: "pingpong", connections: 1, columns: &[RATE, P50, P99, CPU_EACH] },
    Row { name: "pingpong-32", scenario: "pingpong", connections: 32, columns: &[RATE, P50, P99, CPU_EACH] },
    Row {
        name: "pingpong-256",
        scenario: "pingpong",
        connections: 256,
        columns: &[RATE, P50, P99, CPU_EACH],
    },
    Row { name: "connect-32", scenario: "connect", connections: 32, columns: &[RATE, P99, CPU_EACH] },
    Row { name: "idle-9000", scenario: "idle", connections: 9_000, columns: &[KIB] },
    Row { name: "beside-idle", scenario: "beside-idle", connections: 32, columns: &[RATE, P99, CPU_EACH] },
    Row {
        name: "beside-bulk",
        scenario: "mixed",
        connections: 8,
        columns: &[P50, P99, GIGABYTES, CPU_PER_GB],
    },
    Row { name: "fan-out-8", scenario: "fan-out", connections: 8, columns: &[RATE, CPU_NS] },
    Row {
        name: "fan-out-8-paced",
        scenario: "fan-out-paced",
        connections: 8,
        columns: &[P50, P99, CPU_EACH],
    },
    Row { name: "fan-out-100", scenario: "fan-out", connections: 100, columns: &[RATE, CPU_NS] },
    Row { name: "fan-out-1000", scenario: "fan-out", connections: 1_000, columns: &[RATE, CPU_NS] },
    Row { name: "fan-out-2", scenario: "fan-out-from-the-first", connections: 2, columns: &[RATE, CPU_NS] },
    Row { name: "fan-out-2-stalled", scenario: "fan-out-stalled", connections: 2, columns: &[RATE, CPU_NS] },
    Row { name: "publish-2", scenario: "publish-from-the-first", connections: 2, columns: &[RATE, CPU_NS] },
    Row { name: "publish-2-stalled", scenario: "publish-stalled", connections: 2, columns: &[RATE, CPU_NS] },
    Row { name: "collect-8", scenario: "collect", connections: 8, columns: &[RATE, CPU_NS, TORN] },
    Row { name: "fan-in-8", scenario: "fan-in", connections: 8, columns: &[RATE, CPU_NS, TORN] },
];

/// What was asked for.
struct Plan {
    rounds: usize,
    seconds: f64,
    peers: Vec<String>,
    rows: Vec<&'static Row>,
    free: bool,
    /// Shows the better quartile and not the median.
    quartile: bool,
    pairs: Option<usize>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    raise_descriptor_limit();
    match words[..] {
        ["--role", role, listen, backend] => roles::play(role, address(listen), address(backend)),
        ["--load", scenario, relay, backend, pid, seconds, connections] => {
            let load = Load {
                scenario: scenario.into(),
                relay: address(relay),
                backend: address(backend),
                relay_pid: pid.parse().expect("a process"),
                seconds: seconds.parse().expect("seconds"),
                connections: connections.parse().expect("a number"),
            };
            println!("{}", load::run(&load).to_json());
        }
        _ => {
            let failures = compare(&plan(&words));
            if failures > 0 {
                eprintln!("{failures} runs failed");
                std::process::exit(1);
            }
        }
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn plan(words: &[&str]) -> Plan {
    let mut plan = Plan {
        rounds: 5,
        seconds: 1.0,
        peers: [&peers::ALL[..11], peers::HUBS, peers::PUBLISHERS, peers::COLLECTORS]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect(),
        rows: ROWS.iter().collect(),
        free: false,
        quartile: false,
        pairs: None,
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().copied().unwrap_or_else(|| panic!("{word} needs a value"));
        match *word {
            "--rounds" => plan.rounds = value().parse().expect("a number of rounds"),
            "--seconds" => plan.seconds = value().parse().expect("a number of seconds"),
            "--pairs" => plan.pairs = Some(value().parse().expect("a number of pairs")),
            "--peers" => plan.peers = value().split(',').map(str::to_owned).collect(),
            "--rows" => {
                let row = |name: &str| ROWS.iter().find(|row| row.name == name);
                plan.rows = value()
                    .split(',')
                    .map(|name| row(name).unwrap_or_else(|| panic!("no row {name}")))
                    .collect();
            }
            "--free" => plan.free = true,
            "--quartile" => plan.quartile = true,
            other => panic!("{other} is not known; see the top of tests/bench/main.rs"),
        }
    }
    plan
}

/// Prints the table, and yields how many runs failed.
fn compare(plan: &Plan) -> usize {
    let mut failures = 0;
    let folder = tempfile::tempdir().expect("a folder");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let mut ground = Ground {
        folder: folder.path().into(),
        backend: port,
        core: (!plan.free).then_some(1),
        threads: if plan.free { 2 } else { 1 },
        blocks: false,
    };
    println!(
        "{} rounds of {} s, interleaved, {}; {}, and ratios to the best other relay",
        plan.rounds,
        plan.seconds,
        if plan.free { "no pinning" } else { "relay on core 1, load and backend on core 0" },
        if plan.quartile { "better quartiles" } else { "medians" }
    );
    for row in &plan.rows {
        let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        ground.blocks = row.connections >= 1_000;
        // A relay that has looked for its target in vain looks again later and later.
        let fresh = ["idle", "collect"].contains(&row.scenario) || row.scenario.starts_with("publish");
        let mut running = if fresh { Vec::new() } else { start_all(plan, row, &ground) };
        for round in 0..if fresh { plan.rounds.min(3) } else { plan.rounds } {
            if fresh {
                running.clear();
                running = start_all(plan, row, &ground);
            }
            // Another one begins each time, so that none always follows the same.
            for i in 0..running.len() {
                let peer = &running[(i + round) % running.len()];
                match measure(plan, row, peer) {
                    Ok(Some(sample)) => samples.entry(peer.name.clone()).or_default().push(sample),
                    Ok(None) => {}
                    Err(why) => {
                        failures += 1;
                        eprintln!("{} failed at {}: {why}", peer.name, row.name);
                    }
                }
            }
        }
        drop(running);
        print_row(plan, row, &samples);
    }
    failures
}

fn start_all(plan: &Plan, row: &Row, ground: &Ground) -> Vec<Peer> {
    let start =
        |name: &String| peers::start(name, ground).map_err(|why| eprintln!("without {name}: {why}")).ok();
    let is_for_it = |name: &&String| {
        let (kind, _build) = peers::parts(name);
        match row.scenario.split('-').next() {
            Some("fan") => peers::HUBS.contains(&kind),
            Some("publish") => peers::PUBLISHERS.contains(&kind),
            Some("collect") => peers::COLLECTORS.contains(&kind),
            _ => ![peers::HUBS, peers::PUBLISHERS, peers::COLLECTORS].concat().contains(&kind),
        }
    };
    plan.peers.iter().filter(is_for_it).filter_map(start).collect()
}

/// Runs the load in a process of its own, so that relays and load share nothing.
fn measure(plan: &Plan, row: &Row, peer: &Peer) -> Result<Option<Sample>, String> {
    // A process each would not fit, and is not what socat is for.
    // Nor do the pipes of the bare splice.
    if ["socat", "splice"].contains(&peer.name.as_str()) && row.connections > 256
        || peer.name == "direct" && row.scenario == "idle"
        // It waits with select(2), which knows 1,024 descriptors.
        || peer.name == "ncat" && row.connections > 900
    {
        return Ok(None);
    }
    let own = std::env::current_exe().expect("this program has a path");
    let mut command = if plan.free { Command::new(&own) } else { Command::new("taskset") };
    if !plan.free {
        command.args(["-c", "0"]).arg(&own);
    }
    let connections =
        if row.scenario == "idle" { plan.pairs.unwrap_or(row.connections) } else { row.connections };
    command.args(["--load", row.scenario, &peer.address.to_string(), &peer.backend.to_string()]);
    command.args([peer.pid().to_string(), plan.seconds.to_string(), connections.to_string()]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the load runs");
    let (pid, (done, ended)) = (Pid::from_child(&child), mpsc::sync_channel(1));
    let watch = thread::spawn(move || {
        let limit = Duration::from_secs(60);
        if let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(limit) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    let out = child.wait_with_output().expect("the load ends");
    let _ = done.send(());
    watch.join().expect("the watch does not panic");
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).trim().to_owned());
    }
    let value: Value = serde_json::from_slice(&out.stdout).expect("the load prints JSON");
    Ok(Some(Sample::from_json(&value)))
}

/// The median, or the quartile on the better side.
fn typical(plan: &Plan, column: &Column, mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len() - 1;
    match (plan.quartile, column.less) {
        (false, _) => values[values.len() / 2],
        (true, true) => values[last / 4],
        (true, false) => values[last - last / 4],
    }
}

fn print_row(plan: &Plan, row: &Row, samples: &BTreeMap<String, Vec<Sample>>) {
    let value = |name: &str, column: &Column| {
        samples.get(name).map(|samples| typical(plan, column, samples.iter().map(column.value).collect()))
    };
    let ours = |name: &str| name.starts_with("node");
    let real = |name: &&String| !ours(name) && !["direct", "naive", "splice"].contains(&name.as_str());
    let bests: Vec<Option<f64>> = row
        .columns
        .iter()
        .map(|column| {
            let others = plan.peers.iter().filter(real).filter_map(|name| value(name, column));
            others.reduce(if column.less { f64::min } else { f64::max })
        })
        .collect();
    println!("\n## {}\n", row.name);
    print!("| relay |");
    row.columns.iter().for_each(|column| print!(" {} | ratio |", column.name));
    println!("\n| --- |{}", " ---: | ---: |".repeat(row.columns.len()));
    for name in &plan.peers {
        if !samples.contains_key(name) {
            continue;
        }
        print!("| {name} |");
        for (column, best) in row.columns.iter().zip(&bests) {
            let value = value(name, column).expect("it has samples");
            let ratio = best
                .filter(|best| *best > 0.0)
                .map_or_else(|| "-".into(), |best| format!("{:.2}", value / best));
            let digits = if value < 100.0 { 2 } else { 0 };
            print!(" {value:.digits$} | {ratio} |");
        }
        println!();
    }
}
