//! Relays that join many, through the running program: who hears what, whole
//! frames, one bad client that does not hurt the others, and exact accounts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Ending, NodeProcess, PATIENCE, Running, abort, accept_one, connect, hold_free_port, listener, needs,
    read_all, wait_until,
};

pub(crate) fn hub(more: &[&str]) -> NodeProcess {
    let mut arguments = vec!["--listen", "127.0.0.1:0", "--mode", "hub"];
    arguments.extend(more);
    NodeProcess::start(arguments)
}

/// Joins, and is a member when this returns: `nth` of all that join.
pub(crate) fn join(node: &NodeProcess, nth: usize) -> TcpStream {
    let client = connect(node.address());
    node.nth_event("new_connection", nth);
    client
}

pub(crate) fn lines(stream: &TcpStream) -> impl Iterator<Item = String> {
    BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap)
}

pub(crate) fn disconnected(node: &NodeProcess, reason: &str) -> Value {
    let mut nth = 0;
    loop {
        let event = node.nth_event("disconnected", nth);
        if event["reason"] == reason {
            return event;
        }
        nth += 1;
    }
}

#[test]
fn each_member_of_a_hub_hears_the_others_and_not_itself() {
    let node = hub(&["--frame", "lines"]);
    let members: Vec<_> = (0..3).map(|nth| join(&node, nth)).collect();
    for (nth, mut member) in members.iter().enumerate() {
        writeln!(member, "from {nth}").unwrap();
        for (other, hears) in members.iter().enumerate().filter(|(other, _)| *other != nth) {
            assert_eq!(lines(hears).next().unwrap(), format!("from {nth}"), "{other}");
        }
    }
    for member in &members {
        member.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(member), (vec![], Ending::Fin), "nobody hears itself");
    }
    for nth in 0..3 {
        assert_eq!(node.client_gone(nth)["reason"], "closed");
    }
    assert_eq!(node.stop().0, 0);
}

#[test]
fn lines_of_many_members_arrive_whole_and_in_each_ones_order() {
    let node = hub(&["--frame", "lines", "--threads", "2"]);
    let listens = join(&node, 0);
    let (senders, each) = (8, 5_000);
    thread::scope(|scope| {
        for sender in 0..senders {
            let mut stream = join(&node, sender + 1);
            scope.spawn(move || {
                // In pieces that end anywhere but at the end of a line.
                let all: String =
                    (0..each).map(|nth| format!("{sender} {nth:06} {}\n", "x".repeat(nth % 50))).collect();
                for piece in all.as_bytes().chunks(997) {
                    stream.write_all(piece).unwrap();
                }
                stream.shutdown(Shutdown::Write).unwrap();
                // What the others say, which has to be read.
                read_all(&stream);
            });
        }
        let mut next = vec![0; senders];
        for line in lines(&listens).take(senders * each) {
            let mut words = line.split(' ');
            let sender: usize = words.next().unwrap().parse().unwrap();
            let nth: usize = words.next().unwrap().parse().unwrap();
            assert_eq!((nth, words.next().unwrap().len()), (next[sender], nth % 50), "{line}");
            next[sender] += 1;
        }
        assert_eq!(next, vec![each; senders]);
    });
}

#[test]
fn half_a_frame_is_not_passed_on_and_its_sender_is_told() {
    let node = hub(&["--frame", "length:2", "--max-frame", "10B"]);
    let mut hears = join(&node, 0);
    for (nth, (sent, reason)) in
        [(&b"\0\x01a\0\x05half"[..], "truncated_frame"), (b"\0\x01b\0\x0bhello", "frame_too_long")]
            .into_iter()
            .enumerate()
    {
        let mut sender = join(&node, nth + 1);
        sender.write_all(sent).unwrap();
        let mut frame = [0; 3];
        hears.read_exact(&mut frame).unwrap();
        assert_eq!(frame, sent[..3]);
        // It may have been reset already.
        let _ = sender.shutdown(Shutdown::Write);
        assert_eq!(read_all(&sender), (vec![], Ending::Reset));
        let gone = disconnected(&node, reason);
        let error = node.nth_event("error_occurred", nth);
        assert_eq!(error["connection"], gone["connection"]);
    }
    let malformed = hub(&["--frame", "delimited"]);
    let mut sender = join(&malformed, 0);
    sender.write_all(b"\x02a\x03noise").unwrap();
    assert_eq!(read_all(&sender).1, Ending::Reset);
    assert_eq!(malformed.event("error_occurred")["error"], "a frame begins with 6E where 02 is expected");
    assert_eq!(malformed.client_gone(0)["reason"], "malformed_frame");
    hears.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&hears), (vec![], Ending::Fin));
}

/// A reader in a process of its own that is stopped, and joins as the nth.
fn stalled(node: &NodeProcess, nth: usize) -> Running {
    let code = format!(
        "import socket,time\ns=socket.create_connection(('127.0.0.1',{}))\ntime.sleep(1000)",
        node.address().port()
    );
    let running = Running::start(Command::new("python3").args(["-c", &code]).stdin(Stdio::null()));
    node.nth_event("new_connection", nth);
    running.signal(Signal::STOP);
    running
}

#[test]
fn a_stalled_reader_is_cut_and_the_others_get_everything() {
    if !needs(&["python3"]) {
        return;
    }
    let (upstream, target) = listener();
    for mode in ["hub", "publish"] {
        let mut arguments = vec!["--listen".to_owned(), "127.0.0.1:0".into(), "--mode".into(), mode.into()];
        arguments.extend(["--frame", "lines"].map(str::to_owned));
        if mode == "publish" {
            arguments.extend(["--connect".into(), target.to_string()]);
        }
        let node = NodeProcess::start(&arguments);
        let mut source = if mode == "hub" { join(&node, 0) } else { accept_one(&upstream) };
        let first = usize::from(mode == "hub");
        let healthy = [join(&node, first), join(&node, first + 1)];
        let _stalled = stalled(&node, first + 2);
        let lines_sent = 1_000_000;
        let begun = std::time::Instant::now();
        let (node, source) = (&node, &mut source);
        thread::scope(|scope| {
            for reader in &healthy {
                scope.spawn(move || {
                    let mut next = 0;
                    for line in lines(reader).take(lines_sent) {
                        assert_eq!(line[..10].parse(), Ok(next));
                        next += 1;
                    }
                    assert_eq!(next, lines_sent);
                });
            }
            scope.spawn(move || {
                let mut piece = String::new();
                for nth in 0..lines_sent {
                    piece.push_str(&format!("{nth:010} {}\n", "x".repeat(52)));
                    if piece.len() > 1 << 16 {
                        source.write_all(piece.as_bytes()).unwrap();
                        piece.clear();
                    }
                }
                source.write_all(piece.as_bytes()).unwrap();
                // Kept open until the readers have everything.
                node.nth_event("disconnected", 0);
                let gone = disconnected(node, "slow_consumer");
                assert!(gone["unsent"].as_u64().unwrap() > 0, "{gone}");
                let peak = node.memory("VmHWM");
                assert!(peak < 100_000, "{peak} KiB");
            });
        });
        eprintln!(
            "{mode}: {lines_sent} lines of 64 bytes to two beside a stalled one in {:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn of_many_that_say_more_than_one_takes_each_has_its_turn() {
    let node = hub(&["--frame", "lines", "--overflow", "block", "--queue", "64KiB", "--threads", "1"]);
    let mut reader = join(&node, 0);
    let speakers: Vec<_> = (1..=6).map(|nth| join(&node, nth)).collect();
    let mut counts = [0_usize; 6];
    thread::scope(|scope| {
        for (nth, speaker) in speakers.iter().enumerate() {
            scope.spawn(move || while (&*speaker).read(&mut [0; 1 << 16]).is_ok_and(|count| count > 0) {});
            let lines = [&[b'a' + nth as u8; 99][..], b"\n"].concat().repeat(640);
            scope.spawn(move || while (&*speaker).write_all(&lines).is_ok() {});
        }
        let mut piece = vec![0; 1 << 18];
        while counts.iter().sum::<usize>() < 96 << 20 {
            let count = reader.read(&mut piece).unwrap();
            for byte in piece[..count].iter().filter(|byte| **byte != b'\n') {
                counts[usize::from(byte - b'a')] += 1;
            }
            // It is the one that all wait for.
            thread::sleep(Duration::from_millis(3));
        }
        for speaker in &speakers {
            speaker.shutdown(Shutdown::Both).unwrap();
        }
    });
    // A sixth of it, if all were equally fast.
    assert!(counts.iter().all(|count| *count > 2 << 20), "{counts:?}");
}

#[test]
fn the_drop_policies_lose_whole_lines_by_count_and_nobody_waits() {
    for policy in ["drop_oldest", "drop_newest"] {
        let node = hub(&["--frame", "lines", "--queue", "64KiB", "--overflow", policy]);
        let (mut source, late) = (join(&node, 0), join(&node, 1));
        let total = 600_000;
        // Nobody reads meanwhile, and the source is never held up.
        for first in (0..total).step_by(1_000) {
            let piece: String = (first..first + 1_000).map(|nth| format!("{nth:020}\n")).collect();
            source.write_all(piece.as_bytes()).unwrap();
        }
        source.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&source), (vec![], Ending::Fin));
        node.event("write_buffer_high");
        node.event("frames_dropped");
        late.shutdown(Shutdown::Write).unwrap();
        let (bytes, ending) = read_all(&late);
        assert_eq!(ending, Ending::Fin);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.ends_with('\n'));
        let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        if policy == "drop_oldest" {
            assert_eq!(numbers.last(), Some(&(total - 1)));
        } else {
            assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]) || numbers[0] == 0);
        }
        node.client_gone(1);
        let (code, log) = node.stop();
        assert_eq!(code, 0);
        let events = log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let dropped: Vec<_> = events.filter(|event| event["event"] == "frames_dropped").collect();
        let last = dropped.last().unwrap();
        assert_eq!(last["cause"], "overflow");
        assert_eq!(last["frames"].as_u64().unwrap() + numbers.len() as u64, total);
        assert!(dropped.len() < 60, "{} events", dropped.len());
    }
}

#[test]
fn with_block_the_slowest_reader_sets_the_pace_and_nothing_is_lost() {
    let node = hub(&["--frame", "raw", "--overflow", "block", "--queue", "64KiB"]);
    let (mut source, slow) = (join(&node, 0), join(&node, 1));
    let total = 64 << 20;
    thread::scope(|scope| {
        scope.spawn(|| {
            for piece in 0..total >> 16 {
                source.write_all(&[piece as u8; 1 << 16]).unwrap();
            }
        });
        // Held up for long before anything is read.
        wait_until("the reader's queue is full", PATIENCE, || {
            node.lines().iter().any(|line| line.contains("write_buffer_high"))
        });
        let mut bytes = vec![0; total];
        (&slow).read_exact(&mut bytes).unwrap();
        assert!(
            bytes.chunks(1 << 16).enumerate().all(|(nth, piece)| piece.iter().all(|byte| *byte == nth as u8))
        );
    });
    node.event("write_buffer_low");
    assert!(!node.lines().iter().any(|line| line.contains("slow_consumer")));
}

#[test]
fn what_a_target_says_is_published_to_every_client_and_what_they_say_is_discarded() {
    let (held, target) = hold_free_port();
    let node = NodeProcess::start([
        "--listen",
        "127.0.0.1:0",
        "--connect",
        &target.to_string(),
        "--mode",
        "publish",
        "--frame",
        "lines",
    ]);
    // It may come later than the node, and come back.
    let failed = node.nth_event("reconnecting", 1);
    assert_eq!((&failed["attempt"], &failed["endpoint"]), (&2.into(), &"connect1".into()));
    held.listen(16).unwrap();
    let upstream: TcpListener = held.into();
    let mut source = accept_one(&upstream);
    let clients = [join(&node, 0), join(&node, 1)];
    // One of them only ever listens, and says so at once.
    clients[0].shutdown(Shutdown::Write).unwrap();
    node.event("read_finished");
    (&clients[1]).write_all(b"is anybody there?\n").unwrap();
    let lost = node.event("frames_dropped");
    assert_eq!((&lost["cause"], &lost["frames"], &lost["bytes"]), (&"unheard".into(), &1.into(), &18.into()));
    source.write_all(b"one\ntwo\nhal").unwrap();
    for client in &clients {
        assert_eq!(lines(client).next().unwrap(), "one");
    }
    abort(source);
    let mut source = accept_one(&upstream);
    source.write_all(b"three\n").unwrap();
    for client in &clients {
        let rest: Vec<_> = lines(client).take(1).collect();
        assert_eq!(rest, ["three"], "the rest of the first read was taken by the first reader of lines");
    }
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_file_may_publish_what_listeners_hear_and_change_the_framing_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("publish.toml");
    std::fs::write(
        &file,
        r#"
[listen.sensors]
bind = "127.0.0.1:0"
framing = "length:1"
[listen.viewers]
bind = "127.0.0.1:0"
framing = "lines:crlf"
queue_max = "64KiB"
queue_overflow = "drop_oldest"
[relay.live]
from = "sensors"
to = "viewers"
mode = "publish"
"#,
    )
    .unwrap();
    let mut command = Command::new(crate::support::binary());
    let node = NodeProcess::spawn(command.args(["run", "--log-format", "json"]).arg(&file));
    let mut sensor = connect(node.address_of(0));
    let viewer = connect(node.address_of(1));
    node.nth_event("new_connection", 1);
    sensor.write_all(b"\x0520.5C\x03a\nb\x0521.0C").unwrap();
    let mut text = [0; 14];
    (&viewer).read_exact(&mut text).unwrap();
    assert_eq!(&text, b"20.5C\r\n21.0C\r\n");
    let lost = node.event("frames_dropped");
    assert_eq!((&lost["cause"], &lost["frames"]), (&"unsendable".into(), &1.into()));
}

#[test]
fn an_idle_member_is_ended_and_what_waits_is_written_when_the_node_stops() {
    let node = hub(&["--frame", "lines", "--idle-timeout", "300ms"]);
    let idle = join(&node, 0);
    assert_eq!(read_all(&idle), (vec![], Ending::Reset));
    assert_eq!(node.client_gone(0)["reason"], "idle");

    let node = hub(&["--frame", "lines", "--overflow", "block", "--queue", "8MiB"]);
    let (mut source, slow) = (join(&node, 0), join(&node, 1));
    let line = format!("{}\n", "x".repeat(1_023));
    let total = 6_000;
    for _ in 0..total {
        source.write_all(line.as_bytes()).unwrap();
    }
    node.event("write_buffer_high");
    // All of it has been read by the node when it hears of the end.
    source.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&source).1, Ending::Fin);
    node.signal(Signal::TERM);
    node.line("stopping");
    let (bytes, ending) = read_all(&slow);
    assert_eq!((bytes.len(), ending), (total * 1_024, Ending::Fin));
    drop(slow);
    assert_eq!(node.wait().0, 0);
}
