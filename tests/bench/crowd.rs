//! The load of hubs: members that send lines as fast as they are taken, and
//! members that read them, on one level-triggered epoll. What is counted are
//! lines that have arrived whole.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::net::{RecvFlags, recv};

use crate::load::Load;
use crate::meter::{Cpu, Sample};

/// One sends lines of 64 bytes to all others. Counts deliveries.
pub(crate) fn fan_out(load: &Load) -> Sample {
    crowd(load, 1, load.connections, 64, false)
}

/// Many send lines of 100 bytes, and one more listens, whose lines are looked at. Counts those.
pub(crate) fn fan_in(load: &Load) -> Sample {
    crowd(load, load.connections, 1, 100, true)
}

struct Member {
    stream: TcpStream,
    sends: bool,
    /// How much of its piece was sent; then it begins again.
    sent: usize,
    piece: Vec<u8>,
}

fn crowd(load: &Load, senders: usize, readers: usize, line: usize, looks: bool) -> Sample {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    let mut members = Vec::new();
    for nth in 0..readers + senders {
        let stream = TcpStream::connect(load.relay).expect("the hub accepts");
        stream.set_nodelay(true).expect("an option");
        stream.set_nonblocking(true).expect("an option");
        let sends = nth >= readers;
        let mut text = vec![b'a' + (nth % 26) as u8; line];
        text[line - 1] = b'\n';
        let piece = if sends { text.repeat(PIECE / line) } else { Vec::new() };
        members.push(Member { stream, sends, sent: 0, piece });
    }
    // Nobody may miss the beginning: a hub has no memory.
    std::thread::sleep(Duration::from_millis(200));
    for (nth, member) in members.iter().enumerate() {
        let out = if member.sends { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
        let data = epoll::EventData::new_u64(nth as u64);
        epoll::add(&epoll, &member.stream, data, epoll::EventFlags::IN | out).expect("an entry");
    }
    let mut lines = Lines { line, partial: Vec::new(), whole: 0, torn: 0 };
    let mut buffer = vec![0; 1 << 20];
    let (mut arrived, mut before) = (0_u64, None);
    let mut begun = Instant::now();
    let warm = Duration::from_millis(100);
    loop {
        let mut events = Vec::with_capacity(256);
        let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        if epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&limit)).is_err() {
            continue;
        }
        for event in events {
            let nth = event.data.u64() as usize;
            let member = &mut members[nth];
            let flags = event.flags;
            if flags.contains(epoll::EventFlags::IN) {
                if looks && nth == 0 {
                    match member.stream.read(&mut buffer) {
                        Ok(count) => lines.look(&buffer[..count]),
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
                match member.stream.write(&member.piece[member.sent..]) {
                    Ok(count) => member.sent = (member.sent + count) % member.piece.len(),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => panic!("the hub broke: {error}"),
                }
            }
        }
        let done = if looks { lines.whole } else { arrived / line as u64 };
        match &before {
            None if begun.elapsed() >= warm => {
                begun = Instant::now();
                before = Some((Cpu::of(load.relay_pid), done));
            }
            Some((cpu, first)) if begun.elapsed().as_secs_f64() >= load.seconds => {
                if lines.torn > 0 {
                    eprintln!("{} lines were torn", lines.torn);
                }
                return Sample::new((done - first) as f64, begun.elapsed(), cpu.spent());
            }
            _ => {}
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
    fn look(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let mut end = 0;
        while let Some(length) = self.partial[end..].iter().position(|byte| *byte == b'\n') {
            let line = &self.partial[end..end + length];
            if length == self.line - 1 && line[0] == line[length - 1] && line[0] == line[length / 2] {
                self.whole += 1;
            } else {
                self.torn += 1;
            }
            end += length + 1;
        }
        self.partial.drain(..end);
    }
}

/// Bytes of lines that are sent at once.
const PIECE: usize = 64_000;
