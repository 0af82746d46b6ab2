//! What is measured: a count in a time, how long each took, and what the
//! relay's process paid, read from /proc.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

/// One run of a scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Bytes, answers, or KiB a pair, by scenario; in all.
    pub(crate) count: f64,
    pub(crate) seconds: f64,
    /// CPU seconds of the relay.
    pub(crate) cpu: f64,
    pub(crate) percentiles: Percentiles,
    /// Lines that did not arrive whole.
    pub(crate) torn: f64,
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Sample {
    pub(crate) fn new(count: f64, elapsed: Duration, cpu: f64) -> Self {
        Self { count, seconds: elapsed.as_secs_f64(), cpu, percentiles: Percentiles::default(), torn: 0.0 }
    }

    pub(crate) fn with(self, percentiles: Percentiles) -> Self {
        Self { percentiles, ..self }
    }

    pub(crate) fn to_json(self) -> Value {
        let Percentiles { p50, p99 } = self.percentiles;
        json!({ "count": self.count, "seconds": self.seconds, "cpu": self.cpu, "p50": p50, "p99": p99, "torn": self.torn })
    }

    pub(crate) fn from_json(value: &Value) -> Self {
        let number = |key: &str| value[key].as_f64().unwrap_or_else(|| panic!("no {key} in {value}"));
        let percentiles = Percentiles { p50: number("p50"), p99: number("p99") };
        Self {
            count: number("count"),
            seconds: number("seconds"),
            cpu: number("cpu"),
            percentiles,
            torn: number("torn"),
        }
    }
}

impl Percentiles {
    pub(crate) fn of(mut took: Vec<Duration>) -> Self {
        if took.is_empty() {
            return Self::default();
        }
        took.sort_unstable();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
        Self { p50: at(0.5), p99: at(0.99) }
    }
}

/// The CPU time of a process and its children, from when this was made.
pub(crate) struct Cpu {
    pid: u32,
    before: f64,
}

impl Cpu {
    pub(crate) fn of(pid: u32) -> Self {
        Self { pid, before: total(pid) }
    }

    pub(crate) fn spent(&self) -> f64 {
        total(self.pid) - self.before
    }

    /// Resident memory of a process and its children, in KiB, without what they share with files.
    pub(crate) fn resident(pid: u32) -> u64 {
        family(pid).into_iter().map(anonymous).sum()
    }
}

fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_ascii_whitespace().filter_map(|child| child.parse().ok());
    std::iter::once(pid).chain(children.flat_map(family)).collect()
}

fn anonymous(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap_or_default();
    line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

/// Nanosecond counts per thread, which the scheduler keeps.
fn total(pid: u32) -> f64 {
    let mut nanoseconds = 0;
    for pid in family(pid) {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            nanoseconds += stat.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    nanoseconds as f64 / 1e9
}
