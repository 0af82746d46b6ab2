//! The load of hubs: members that send lines as fast as they are taken, and
//! members that read them, on one level-triggered epoll. What is counted are
//! lines that have arrived whole.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::net::{RecvFlags, recv};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::load::{Load, listen};
use crate::meter::{Cpu, Percentiles, Sample};

/// One sends lines of 64 bytes to all others. Counts deliveries.
pub(crate) fn fan_out(load: &Load) -> Sample {
    crowd(load, &Crowd { senders: 1, readers: load.connections, line: 64, ahead: None, warm: WARM }, None)
}

/// The same, counted from the first line on: beside one more that never reads, if so, whose end is part of it.
pub(crate) fn fan_out_from_the_first(load: &Load, beside_a_stalled_one: bool) -> Sample {
    let _stalled = beside_a_stalled_one.then(|| TcpStream::connect(load.relay).expect("the hub accepts"));
    let warm = Duration::ZERO;
    crowd(load, &Crowd { senders: 1, readers: load.connections, line: 64, ahead: None, warm }, None)
}

/// The same, but who sends was dialled by the relay, which publishes what it says.
pub(crate) fn publish_from_the_first(load: &Load, beside_a_stalled_one: bool) -> Sample {
    let source = dialled(load);
    let _stalled = beside_a_stalled_one.then(|| TcpStream::connect(load.relay).expect("the relay accepts"));
    let warm = Duration::ZERO;
    let who = Crowd { senders: 1, readers: load.connections, line: 64, ahead: None, warm };
    crowd(load, &who, Some(source))
}

/// Many send lines of 100 bytes, and one more listens, whose lines are looked at. Counts those. Nobody sends far
/// ahead of that one: a hub that takes without a limit what it cannot pass on would be measured at taking.
pub(crate) fn fan_in(load: &Load) -> Sample {
    let who = Crowd { senders: load.connections, readers: 1, line: 100, ahead: Some(AHEAD), warm: WARM };
    crowd(load, &who, None)
}

/// The same, but who listens was dialled by the relay, which collects for it, and nobody else hears anything.
pub(crate) fn collect(load: &Load) -> Sample {
    let who = Crowd { senders: load.connections, readers: 1, line: 100, ahead: Some(AHEAD), warm: WARM };
    let target = dialled(load);
    crowd(load, &who, Some(target))
}

/// The connection that the relay dials.
fn dialled(load: &Load) -> TcpStream {
    let (stream, _) = listen(load.backend).accept().expect("the relay dials");
    stream.set_nodelay(true).expect("an option");
    stream.set_nonblocking(true).expect("an option");
    stream
}

/// One sends a line of 64 bytes every millisecond; each delivery is timed from when it was due.
pub(crate) fn fan_out_paced(load: &Load) -> Sample {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    let mut readers: Vec<_> = (0..load.connections).map(|_| (member(load), 0)).collect();
    let mut sender = member(load);
    std::thread::sleep(SETTLE);
    for (nth, (reader, _)) in readers.iter().enumerate() {
        let data = epoll::EventData::new_u64(nth as u64);
        epoll::add(&epoll, reader, data, epoll::EventFlags::IN).expect("an entry");
    }
    let every = Duration::from_millis(1);
    // A wait of epoll's own would be rounded up to whole milliseconds, and one that never sleeps could not go before
    // all else that the machine does (chrt -f).
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).expect("a timer");
    let tick = Timespec { tv_sec: 0, tv_nsec: every.as_nanos() as i64 };
    let ticks = Itimerspec { it_interval: tick, it_value: tick };
    epoll::add(&epoll, &timer, epoll::EventData::new_u64(TICK), epoll::EventFlags::IN).expect("an entry");
    let (mut due, mut took) = (Vec::new(), Vec::new());
    let mut line = [b'a'; 64];
    line[63] = b'\n';
    let mut buffer = [0; 1 << 16];
    let (cpu, begun) = (Cpu::of(load.relay_pid), Instant::now());
    // Before the timer, or each line would be due just after a tick and go with the next.
    let mut next = begun + every;
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &ticks).expect("a time");
    while begun.elapsed().as_secs_f64() < load.seconds {
        let mut events = Vec::with_capacity(256);
        if epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None).is_err() {
            continue;
        }
        for event in events {
            if event.data.u64() == TICK {
                rustix::io::read(&timer, &mut buffer).expect("it has ticked");
                while next <= Instant::now() {
                    sender.write_all(&line).expect("a hub takes a line");
                    due.push(next);
                    next += every;
                }
                continue;
            }
            let (reader, bytes) = &mut readers[event.data.u64() as usize];
            let count = reader.read(&mut buffer).expect("the hub goes on");
            assert!(count > 0, "the hub has closed");
            let before = *bytes / 64;
            *bytes += count;
            took.extend(due[before..*bytes / 64].iter().map(|due| due.elapsed()));
        }
    }
    Sample::new(took.len() as f64, begun.elapsed(), cpu.spent()).with(Percentiles::of(took))
}

/// Who sends and who reads, and what.
struct Crowd {
    senders: usize,
    readers: usize,
    /// Bytes of a line.
    line: usize,
    /// The first reader's lines are looked at, and all that is sent is at most so many bytes more than it has got.
    ahead: Option<u64>,
    /// How long before it is counted.
    warm: Duration,
}

fn member(load: &Load) -> TcpStream {
    let stream = TcpStream::connect(load.relay).expect("the hub accepts");
    stream.set_nodelay(true).expect("an option");
    stream.set_nonblocking(true).expect("an option");
    stream
}

struct Member {
    stream: TcpStream,
    sends: bool,
    /// How much of its piece was sent; then it begins again.
    sent: usize,
    piece: Vec<u8>,
}

/// With the stream that the relay has dialled, if it does: it sends to all, or hears all.
fn crowd(load: &Load, crowd: &Crowd, mut dialled: Option<TcpStream>) -> Sample {
    let Crowd { senders, readers, line, ahead, warm } = *crowd;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    let mut members = Vec::new();
    for nth in 0..readers + senders {
        let sends = nth >= readers;
        let stream = dialled.take_if(|_| sends == ahead.is_none()).unwrap_or_else(|| member(load));
        let mut text = vec![b'a' + (nth % 26) as u8; line];
        text[line - 1] = b'\n';
        let piece = if sends { text.repeat(PIECE / line) } else { Vec::new() };
        members.push(Member { stream, sends, sent: 0, piece });
    }
    // Nobody may miss the beginning: a hub has no memory.
    std::thread::sleep(SETTLE);
    for (nth, member) in members.iter().enumerate() {
        let is_told = member.sends && ahead.is_none();
        let out = if is_told { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
        let data = epoll::EventData::new_u64(nth as u64);
        epoll::add(&epoll, &member.stream, data, epoll::EventFlags::IN | out).expect("an entry");
    }
    let mut lines = Lines { line, partial: Vec::new(), whole: 0, torn: 0 };
    let mut buffer = vec![0; 1 << 20];
    let (mut arrived, mut sent, mut before) = (0_u64, 0_u64, None);
    let mut begun = Instant::now();
    loop {
        let mut events = Vec::with_capacity(256);
        let limit = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        if epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&limit)).is_err() {
            continue;
        }
        for event in events {
            let nth = event.data.u64() as usize;
            let member = &mut members[nth];
            let flags = event.flags;
            if flags.contains(epoll::EventFlags::IN) {
                if ahead.is_some() && nth == 0 {
                    match member.stream.read(&mut buffer) {
                        Ok(count) => {
                            arrived += count as u64;
                            lines.look(&buffer[..count]);
                        }
                        Err(error) => panic!("the hub broke: {error}"),
                    }
                } else {
                    // Taken from the queue without being copied, which TCP allows.
                    match recv(&member.stream, &mut buffer[..], RecvFlags::TRUNC) {
                        Ok((_, count @ 1..)) if !member.sends => arrived += count as u64,
                        Ok((_, 1..)) => {}
                        other => panic!("the hub broke: {other:?}"),
                    }
                }
            }
            if flags.contains(epoll::EventFlags::OUT) {
                member.send();
            }
        }
        for member in members.iter_mut().filter(|member| member.sends) {
            if ahead.is_some_and(|ahead| sent - arrived + (PIECE as u64) < ahead) {
                sent += member.send();
            }
        }
        let done = if ahead.is_some() { lines.whole } else { arrived / line as u64 };
        match &before {
            None if begun.elapsed() >= warm => {
                begun = Instant::now();
                before = Some((Cpu::of(load.relay_pid), done));
            }
            Some((cpu, first)) if begun.elapsed().as_secs_f64() >= load.seconds => {
                let sample = Sample::new((done - first) as f64, begun.elapsed(), cpu.spent());
                return Sample { torn: lines.torn as f64, ..sample };
            }
            _ => {}
        }
    }
}

impl Member {
    /// Sends of its piece what is taken, and yields how many bytes that is.
    fn send(&mut self) -> u64 {
        match self.stream.write(&self.piece[self.sent..]) {
            Ok(count) => {
                self.sent = (self.sent + count) % self.piece.len();
                count as u64
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(error) => panic!("the hub broke: {error}"),
        }
    }
}

/// Lines as they arrive at one reader; each is one letter again and again.
struct Lines {
    line: usize,
    partial: Vec<u8>,
    whole: u64,
    torn: u64,
}

impl Lines {
    fn look(&mut self, mut bytes: &[u8]) {
        if !self.partial.is_empty() {
            let Some(end) = memchr::memchr(b'\n', bytes) else { return self.partial.extend(bytes) };
            self.partial.extend(&bytes[..end]);
            let first = std::mem::take(&mut self.partial);
            self.count(&first);
            bytes = &bytes[end + 1..];
        }
        let mut begun = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            self.count(&bytes[begun..end]);
            begun = end + 1;
        }
        self.partial.extend(&bytes[begun..]);
    }

    fn count(&mut self, line: &[u8]) {
        let is_whole =
            line.len() == self.line - 1 && line[0] == line[line.len() - 1] && line[0] == line[line.len() / 2];
        if is_whole { self.whole += 1 } else { self.torn += 1 }
    }
}

/// What the timer is called among the readers.
const TICK: u64 = u64::MAX;
/// How long a hub has to accept all, which nobody may miss the beginning of.
const SETTLE: Duration = Duration::from_millis(200);
/// How long a crowd sends before it is counted.
const WARM: Duration = Duration::from_millis(100);
/// Bytes of lines that are sent at once.
const PIECE: usize = 64_000;
/// Bytes on their way to one reader: more than any queue here, so that it never waits for the senders.
const AHEAD: u64 = 4 << 20;
