//! [`Vigil`]: what the sweep watches of one connection beside what it watches
//! of every pair: silence, stalls, the first message, and the answers to
//! probes. The connection's task says what it is about; the sweep says when
//! time has passed. Without such options there is no vigil.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::sweep::period;
use crate::bus::Record;
use crate::event::Reason;
use crate::net::{Conn, Heartbeat, PeerOptions};

/// What is expected of one peer, and how it has kept to it.
#[derive(Debug)]
pub(super) struct Vigil {
    record: Arc<Record>,
    terms: Arc<PeerOptions>,
    /// A byte of it is as much as a message.
    is_stream: bool,
    /// What it says is not read, since there is no room for it.
    is_unread: AtomicBool,
    /// Bytes wait for it.
    is_behind: AtomicBool,
    /// A whole message has come.
    has_begun: AtomicBool,
    /// It has finished, and nothing more is expected of it.
    has_finished: AtomicBool,
    state: Mutex<State>,
}

/// What was seen last, and when.
#[derive(Debug)]
struct State {
    begun: Instant,
    received: u64,
    heard: Instant,
    sent: u64,
    took: Instant,
    beat: Beat,
}

/// How far a heartbeat is.
#[derive(Clone, Copy, Debug)]
enum Beat {
    /// The next probe is due then.
    Rests(Instant),
    /// It is to be written as soon as nothing else waits.
    Due,
    /// It was written then, and has no answer.
    Asked(Instant),
    /// Nothing is asked, or nothing more.
    Over,
}

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Nothing,
    /// A probe is to be written.
    Due,
    /// A limit has passed.
    Passed(Reason),
}

impl Vigil {
    /// Over a connection, if anything is expected of it. `is_stream`: it has no messages.
    pub(super) fn over(conn: &Conn, is_stream: bool) -> Option<Arc<Self>> {
        let terms = conn.terms().filter(|terms| terms.has_limits())?;
        Some(Arc::new(Self::new(conn.record(), terms, is_stream)))
    }

    fn new(record: &Arc<Record>, terms: &Arc<PeerOptions>, is_stream: bool) -> Self {
        let now = Instant::now();
        let rests = |heartbeat: &Heartbeat| Beat::Rests(now + heartbeat.every);
        let state = State {
            begun: now,
            received: record.received(),
            heard: now,
            sent: record.sent(),
            took: now,
            beat: terms.heartbeat.as_ref().map_or(Beat::Over, rests),
        };
        Self {
            record: Arc::clone(record),
            terms: Arc::clone(terms),
            is_stream,
            is_unread: AtomicBool::new(false),
            is_behind: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            has_finished: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    pub(super) fn heartbeat(&self) -> Option<&Heartbeat> {
        self.terms.heartbeat.as_ref()
    }

    /// Whether what it says is not being read now.
    pub(super) fn unread(&self, is_unread: bool) {
        if self.is_unread.load(Relaxed) != is_unread {
            // As long as it was not read it could not be heard.
            self.look(Instant::now());
            self.is_unread.store(is_unread, Relaxed);
        }
    }

    /// Whether bytes wait for it. Tells whether the sweep is to be told.
    pub(super) fn behind(&self, is_behind: bool) -> bool {
        if self.is_behind.load(Relaxed) == is_behind {
            return false;
        }
        self.look(Instant::now());
        self.is_behind.store(is_behind, Relaxed);
        is_behind && self.terms.write_timeout.is_some()
    }

    /// A whole message has come.
    pub(super) fn begun(&self) {
        self.has_begun.store(true, Relaxed);
    }

    /// It will say nothing more.
    pub(super) fn finished(&self) {
        if !self.has_finished.swap(true, Relaxed) {
            self.lock().beat = Beat::Over;
        }
    }

    /// Whether a probe is to be written.
    pub(super) fn is_due(&self) -> bool {
        matches!(self.lock().beat, Beat::Due)
    }

    /// A probe was written whole.
    pub(super) fn asked(&self) {
        let mut state = self.lock();
        if let Beat::Due = state.beat {
            state.beat = Beat::Asked(Instant::now());
        }
    }

    /// Whether a probe has no answer yet.
    pub(super) fn awaits(&self) -> bool {
        matches!(self.lock().beat, Beat::Asked(_))
    }

    /// That has come.
    pub(super) fn answered(&self) {
        let mut state = self.lock();
        if let (Beat::Asked(at), Some(heartbeat)) = (state.beat, self.heartbeat()) {
            state.beat = Beat::Rests(at + heartbeat.every);
        }
    }

    /// Looks at the time.
    pub(super) fn look(&self, now: Instant) -> Finding {
        let mut state = self.lock();
        let (received, sent) = (self.record.received(), self.record.sent());
        let is_unread = self.is_unread.load(Relaxed);
        if received != state.received || is_unread {
            (state.received, state.heard) = (received, now);
        }
        if sent != state.sent || !self.is_behind.load(Relaxed) {
            (state.sent, state.took) = (sent, now);
        }
        if is_unread {
            state.begun = now;
            if let Beat::Asked(at) = &mut state.beat {
                *at = now;
            }
        }
        if let Beat::Rests(due) = state.beat
            && due <= now
        {
            state.beat = Beat::Due;
        }
        let passed = self.limits(&state).find(|(due, _)| *due <= now);
        match passed {
            Some((_, reason)) => Finding::Passed(reason),
            None if matches!(state.beat, Beat::Due) => Finding::Due,
            None => Finding::Nothing,
        }
    }

    /// When it is to be looked at next, in milliseconds.
    pub(super) fn next(&self, now: Instant) -> Option<u64> {
        let state = self.lock();
        // Whether anything has moved is only seen by looking.
        let looks = [
            self.terms.read_timeout.filter(|_| !self.has_finished.load(Relaxed)),
            self.terms.write_timeout.filter(|_| self.is_behind.load(Relaxed)),
        ];
        let looks = looks.into_iter().flatten().map(|limit| period(millis(limit)));
        let rests = match state.beat {
            Beat::Rests(due) => Some(due),
            _ => None,
        };
        let dues = self.limits(&state).map(|(due, _)| due).chain(rests);
        let dues = dues.map(|due| millis(due.saturating_duration_since(now)).saturating_add(1));
        looks.chain(dues).min()
    }

    /// What is running, and when it will have passed.
    fn limits(&self, state: &State) -> impl Iterator<Item = (Instant, Reason)> {
        let is_heard = !self.has_finished.load(Relaxed);
        let has_begun = self.has_begun.load(Relaxed) || self.is_stream && state.received > 0;
        let terms = &self.terms;
        let asked = match state.beat {
            Beat::Asked(at) => self.heartbeat().map(|heartbeat| at + heartbeat.within),
            _ => None,
        };
        let first = terms.first_frame_timeout.filter(|_| is_heard && !has_begun);
        let write = terms.write_timeout.filter(|_| self.is_behind.load(Relaxed));
        [
            (asked, Reason::Heartbeat),
            (first.map(|limit| state.begun + limit), Reason::FirstFrameTimeout),
            (terms.read_timeout.filter(|_| is_heard).map(|limit| state.heard + limit), Reason::ReadTimeout),
            (write.map(|limit| state.took + limit), Reason::WriteTimeout),
        ]
        .into_iter()
        .filter_map(|(due, reason)| Some((due?, reason)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::bus::EventBus;
    use crate::event::{Endpoint, Introduction};

    const LIMIT: Duration = Duration::from_secs(5);

    fn watched(terms: PeerOptions, is_stream: bool) -> (Arc<Record>, Vigil) {
        let (endpoint, nobody) = ("room".into(), Introduction::default());
        let record = Record::accepted(&EventBus::new(), &endpoint, Endpoint::Stdio, Endpoint::Stdio, nobody);
        let vigil = Vigil::new(&record, &Arc::new(terms), is_stream);
        (record, vigil)
    }

    async fn after(vigil: &Vigil, time: Duration) -> Finding {
        advance(time).await;
        vigil.look(Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_nothing_to_take_is_not_behind_and_who_only_speaks_takes_nothing() {
        let terms = PeerOptions { write_timeout: Some(LIMIT), ..PeerOptions::default() };
        let (record, vigil) = watched(terms, false);
        assert_eq!(after(&vigil, 4 * LIMIT).await, Finding::Nothing);
        // Its kernel was full to the byte: nothing more was written when it fell behind.
        advance(4 * LIMIT).await;
        assert!(vigil.behind(true) && !vigil.behind(true));
        assert_eq!(after(&vigil, LIMIT / 2).await, Finding::Nothing);
        record.add_sent(1);
        assert_eq!(after(&vigil, LIMIT / 2).await, Finding::Nothing);
        record.add_received(1);
        assert_eq!(after(&vigil, LIMIT / 2).await, Finding::Nothing);
        record.add_received(1);
        assert_eq!(after(&vigil, LIMIT / 2).await, Finding::Passed(Reason::WriteTimeout));
        assert!(!vigil.behind(false));
        assert_eq!(after(&vigil, 4 * LIMIT).await, Finding::Nothing);
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_message_is_whole_or_a_byte_of_a_stream_and_is_not_due_while_nobody_reads() {
        for is_stream in [false, true] {
            let terms = PeerOptions { first_frame_timeout: Some(LIMIT), ..PeerOptions::default() };
            let (record, vigil) = watched(terms.clone(), is_stream);
            vigil.unread(true);
            assert_eq!(after(&vigil, 4 * LIMIT).await, Finding::Nothing);
            vigil.unread(false);
            assert_eq!(after(&vigil, LIMIT / 2).await, Finding::Nothing);
            record.add_received(1);
            let begun = if is_stream { Finding::Nothing } else { Finding::Passed(Reason::FirstFrameTimeout) };
            assert_eq!(after(&vigil, LIMIT).await, begun, "{is_stream}");
            vigil.begun();
            assert_eq!(after(&vigil, LIMIT).await, Finding::Nothing);
            let (_record, vigil) = watched(terms, is_stream);
            assert_eq!(after(&vigil, LIMIT).await, Finding::Passed(Reason::FirstFrameTimeout));
            vigil.finished();
            assert_eq!(after(&vigil, LIMIT).await, Finding::Nothing);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn probes_come_at_even_times_and_their_answers_are_due_from_when_they_were_written() {
        let heartbeat = Heartbeat { send: "PING".into(), every: 2 * LIMIT, within: LIMIT, expect: None };
        let terms = PeerOptions { heartbeat: Some(heartbeat), ..PeerOptions::default() };
        let (_record, vigil) = watched(terms, false);
        assert_eq!(after(&vigil, LIMIT).await, Finding::Nothing);
        for _ in 0..3 {
            assert_eq!(after(&vigil, LIMIT).await, Finding::Due);
            vigil.asked();
            assert_eq!(after(&vigil, LIMIT / 2).await, Finding::Nothing);
            vigil.answered();
            assert_eq!(after(&vigil, LIMIT / 2).await, Finding::Nothing, "from probe to probe");
        }
        assert_eq!(after(&vigil, LIMIT).await, Finding::Due);
        // It cannot be written for long.
        assert_eq!(after(&vigil, 9 * LIMIT).await, Finding::Due);
        vigil.asked();
        assert_eq!(after(&vigil, LIMIT / 2).await, Finding::Nothing);
        vigil.unread(true);
        assert_eq!(after(&vigil, 9 * LIMIT).await, Finding::Nothing);
        vigil.unread(false);
        assert_eq!(after(&vigil, LIMIT / 2).await, Finding::Nothing);
        assert_eq!(after(&vigil, LIMIT / 2).await, Finding::Passed(Reason::Heartbeat));
        vigil.finished();
        assert_eq!(after(&vigil, 9 * LIMIT).await, Finding::Nothing);
        vigil.asked();
        assert!(!vigil.awaits() && !vigil.is_due() && vigil.next(Instant::now()).is_none());
    }
}
