//! Processes: the node itself, with its log read as it is written, and other
//! programs. All are killed when the test lets go of them.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::PATIENCE;

/// The program under test. Never called by a bare `node`, which is another program on many machines.
pub(crate) fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_node")
}

/// Runs a command to its end, within the limit.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |mut pipe: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            bytes
        })
    };
    let (stdout, stderr) = (read(Box::new(stdout)), read(Box::new(stderr)));
    let input = input.to_vec();
    let writer = thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let status = Running { child }.wait();
    writer.join().unwrap();
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    Output { status, stdout, stderr }
}

/// A program that runs beside the test.
pub(crate) struct Running {
    pub(crate) child: Child,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self { child: command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")) }
    }

    /// Waits for its end; kills it and fails when that takes too long.
    pub(crate) fn wait(mut self) -> ExitStatus {
        let give_up = Instant::now() + 4 * PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < give_up, "a program did not end");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running node whose events are read as JSON.
pub(crate) struct NodeProcess {
    running: Option<Running>,
    log: Arc<Log>,
    pub(crate) stdin: Option<ChildStdin>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

impl NodeProcess {
    /// Starts the node with JSON events.
    pub(crate) fn start<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(arguments: I) -> Self {
        let mut command = Command::new(binary());
        command.args(["--log-format", "json"]).args(arguments);
        Self::spawn(&mut command)
    }

    /// Starts a prepared command, whose last program is the node.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self::spawn_as_is(command)
    }

    /// The same, with the standard streams the caller has chosen.
    pub(crate) fn spawn_as_is(command: &mut Command) -> Self {
        let mut running = Running::start(command.env_remove("SIGNAL_NODE_LOG").stderr(Stdio::piped()));
        let log = Arc::new(Log::default());
        let (stderr, sink) = (running.child.stderr.take().unwrap(), Arc::clone(&log));
        // Ends with the pipe, which ends with the process.
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                sink.lines.lock().unwrap().0.push(line);
                sink.more.notify_all();
            }
            sink.lines.lock().unwrap().1 = true;
            sink.more.notify_all();
        });
        let stdin = running.child.stdin.take();
        Self { running: Some(running), log, stdin }
    }

    /// The address it listens on, as soon as it does.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address_of(0)
    }

    /// The address of its nth listener.
    pub(crate) fn address_of(&self, nth: usize) -> SocketAddr {
        let bound: SocketAddr =
            self.nth_event("listening", nth)["address"].as_str().unwrap().parse().unwrap();
        match bound {
            SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
                (std::net::Ipv4Addr::LOCALHOST, v6.port()).into()
            }
            other => other,
        }
    }

    /// Waits for an event of this kind.
    pub(crate) fn event(&self, kind: &str) -> Value {
        self.nth_event(kind, 0)
    }

    pub(crate) fn nth_event(&self, kind: &str, nth: usize) -> Value {
        let found = self.wait_for(|lines| {
            let mut events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            events.by_ref().filter(|event| event["event"] == kind).nth(nth)
        });
        found.unwrap_or_else(|| panic!("no {kind} #{nth} in:\n{}", self.lines().join("\n")))
    }

    /// The `disconnected` of the nth client.
    pub(crate) fn client_gone(&self, nth: usize) -> Value {
        let found = self.wait_for(|lines| {
            let mut events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            events
                .by_ref()
                .filter(|event| event["event"] == "disconnected" && event["partner"].is_null())
                .nth(nth)
        });
        found.unwrap_or_else(|| panic!("client #{nth} is not gone:\n{}", self.lines().join("\n")))
    }

    /// Waits for a line that contains `text`.
    pub(crate) fn line(&self, text: &str) -> String {
        let found = self.wait_for(|lines| lines.iter().find(|line| line.contains(text)).cloned());
        found.unwrap_or_else(|| panic!("no line with {text:?} in:\n{}", self.lines().join("\n")))
    }

    /// What it has logged so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().0.clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().child.id()
    }

    /// A row of its status in /proc, in KiB: `VmRSS` for what it has in memory, `VmHWM` for the most it has had.
    pub(crate) fn memory(&self, row: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(row)).unwrap();
        value.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.running.as_ref().unwrap().signal(signal);
    }

    pub(crate) fn stdout(&mut self) -> std::process::ChildStdout {
        self.running.as_mut().unwrap().child.stdout.take().unwrap()
    }

    /// Waits for its end and for the end of its log.
    pub(crate) fn wait(mut self) -> (i32, Vec<String>) {
        drop(self.stdin.take());
        let status = self.running.take().unwrap().wait();
        self.wait_for::<()>(|_| None);
        (status.code().unwrap_or(-1), self.lines())
    }

    /// Asks it to stop, and waits.
    pub(crate) fn stop(self) -> (i32, Vec<String>) {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Looks at the log until `find` finds something, the log ends, or patience does.
    fn wait_for<T>(&self, find: impl Fn(&[String]) -> Option<T>) -> Option<T> {
        let give_up = Instant::now() + PATIENCE;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(found) = find(&lines.0) {
                return Some(found);
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if lines.1 || left.is_zero() {
                return None;
            }
            lines = self.log.more.wait_timeout(lines, left).unwrap().0;
        }
    }
}
