//! Everything the program says goes through here: a bounded queue to one
//! thread that writes stderr, so that a stopped terminal stalls nobody.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::config::LogFormat;

use tracing_subscriber::fmt::MakeWriter;

/// A handle to the queue.
#[derive(Clone)]
pub(super) struct LogQueue {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Output of `-x`, whose source waits for room; lines go first.
    blocks: VecDeque<Vec<u8>>,
    lost: u64,
    writing: bool,
}

impl LogQueue {
    /// Starts the thread.
    pub(super) fn start(format: LogFormat) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mine = Arc::clone(&shared);
        // Ends with the process: whoever stops the program waits for `flush`.
        thread::Builder::new().name("log".into()).spawn(move || mine.run(format))?;
        Ok(Self { shared })
    }

    /// Adds a line, or counts it as lost when the queue is full.
    pub(super) fn line(&self, line: Vec<u8>) {
        let mut state = self.shared.lock();
        if state.lines.len() < LINES {
            state.lines.push_back(line);
        } else {
            state.lost += 1;
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Tells whether a line would find room.
    pub(super) fn has_room(&self) -> bool {
        self.shared.lock().lines.len() < LINES
    }

    /// Counts a line as lost.
    pub(super) fn lose(&self) {
        self.shared.lock().lost += 1;
    }

    /// Adds a block, waiting for room. For threads, not for tasks.
    pub(super) fn block(&self, block: Vec<u8>) {
        let mut state = self.shared.lock();
        while state.blocks.len() >= BLOCKS {
            state = self.shared.wait(state);
        }
        state.blocks.push_back(block);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits until everything was written, at most for `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let give_up = Instant::now() + limit;
        let mut state = self.shared.lock();
        while !state.is_idle() {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn run(&self, format: LogFormat) {
        loop {
            let mut state = self.lock();
            let next = loop {
                if let Some(next) = state.take(format) {
                    break next;
                }
                state = self.wait(state);
            };
            state.writing = true;
            drop(state);
            self.changed.notify_all();
            // A closed stderr is nobody's fault and nowhere to report.
            let _ = io::stderr().lock().write_all(&next);
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, format: LogFormat) -> Option<Vec<u8>> {
        if let Some(line) = self.lines.pop_front() {
            return Some(line);
        }
        match std::mem::take(&mut self.lost) {
            0 => self.blocks.pop_front(),
            lost => Some(loss(lost, format).into_bytes()),
        }
    }

    fn is_idle(&self) -> bool {
        self.lines.is_empty() && self.blocks.is_empty() && self.lost == 0 && !self.writing
    }
}

fn loss(lost: u64, format: LogFormat) -> String {
    let now = humantime::format_rfc3339_micros(SystemTime::now());
    match format {
        LogFormat::Text => format!("{now}  WARN log lines were lost, because stderr is slow lines={lost}\n"),
        LogFormat::Json => format!(
            "{{\"timestamp\":\"{now}\",\"level\":\"WARN\",\
             \"message\":\"log lines were lost, because stderr is slow\",\"lines\":{lost}}}\n"
        ),
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter { queue: self }
    }
}

/// Takes what tracing writes, which is one whole line at a time.
pub(super) struct LineWriter<'a> {
    queue: &'a LogQueue,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.queue.line(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A few seconds of a busy node's log, about half a megabyte.
const LINES: usize = 4_096;
/// Each is a few kilobytes; the tap before it holds the rest.
const BLOCKS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_find_no_room_are_counted_and_said_after_those_that_did() {
        // Without its thread, as if stderr took nothing.
        let queue = LogQueue { shared: Arc::default() };
        for i in 0..LINES + 10 {
            queue.line(format!("{i}\n").into_bytes());
        }
        queue.shared.lock().blocks.push_back(b"dump".to_vec());
        let mut state = queue.shared.lock();
        for i in 0..LINES {
            assert_eq!(state.take(LogFormat::Text).unwrap(), format!("{i}\n").into_bytes());
        }
        let loss = String::from_utf8(state.take(LogFormat::Text).unwrap()).unwrap();
        assert!(loss.ends_with("lines=10\n"), "{loss}");
        assert_eq!(state.take(LogFormat::Text).unwrap(), b"dump");
        assert!(state.is_idle());
    }
}
