//! The protocol gateway of `config/`: a scale that frames and checks what it
//! says, desks that speak lines, and bytes that look like the end and are none.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::support::{ANY, NodeProcess, abort, accept_one, connect, hold_free_port, listener};

/// STX, the payload, its XOR, ETX.
fn frame(payload: &str) -> Vec<u8> {
    [b"\x02", payload.as_bytes(), &[payload.bytes().fold(0, |sum, byte| sum ^ byte)], b"\x03"].concat()
}

/// The same with one bit of the payload turned.
fn turned(payload: &str, at: usize, bit: u8) -> Vec<u8> {
    let mut frame = frame(payload);
    frame[at + 1] ^= bit;
    frame
}

struct Desk {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Desk {
    fn of(node: &NodeProcess) -> Self {
        let stream = connect(node.address());
        let lines = BufReader::new(stream.try_clone().unwrap());
        Self { stream, lines }
    }

    fn hears(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "{line:?}");
        line.trim_end_matches('\n').to_owned()
    }

    fn says(&mut self, line: &str) {
        writeln!(self.stream, "{line}").unwrap();
    }
}

fn gateway(scale: SocketAddr) -> NodeProcess {
    NodeProcess::shipped("scale", &[("SCALE", scale), ("DESKS", ANY)])
}

/// A gateway that is connected to a scale, and a desk it knows of.
fn joined() -> (NodeProcess, TcpListener, TcpStream, Desk) {
    let (scale, address) = listener();
    let node = gateway(address);
    let link = accept_one(&scale);
    link.set_nodelay(true).unwrap();
    let mut desk = Desk::of(&node);
    node.event("connected");
    // What it does not understand it says, so the desk is there from now on.
    desk.says("\t");
    assert!(desk.hears().starts_with('?'));
    (node, scale, link, desk)
}

/// How many frames were dropped, and how many were good, as the log said last.
fn totals(log: &[String]) -> (u32, u32) {
    let line = log.iter().rev().find(|line| line.contains("a frame was dropped")).unwrap();
    let (_, totals) = line.split_once(" (").unwrap();
    let mut numbers = totals.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Every checksum that printable bytes can have, ETX and STX among them.
#[test]
fn a_checksum_may_be_any_byte_and_reads_may_end_anywhere() {
    let printable = 0x20..0x7Fu8;
    let two = |sum: u8| {
        let first = printable.clone().find(|first| printable.contains(&(first ^ sum))).unwrap();
        String::from_utf8(vec![first, first ^ sum]).unwrap()
    };
    let payloads: Vec<_> = (0..128).map(two).chain(["  12.50 kg", "0", " "].map(str::to_owned)).collect();
    assert!(payloads.iter().any(|payload| frame(payload).ends_with(b"\x03\x03")));
    assert!(payloads.iter().any(|payload| frame(payload).ends_with(b"\x02\x03")));
    let (node, _scale, mut link, mut desk) = joined();
    let stream: Vec<u8> = payloads.iter().flat_map(|payload| frame(payload)).collect();
    // All at once, and byte by byte.
    link.write_all(&stream).unwrap();
    for byte in &stream {
        link.write_all(&[*byte]).unwrap();
    }
    for payload in payloads.iter().chain(&payloads) {
        assert_eq!(desk.hears(), *payload);
    }
    drop((link, desk));
    let (code, log) = node.stop();
    assert_eq!(code, 0);
    assert!(!log.iter().any(|line| line.contains("a frame was dropped")), "{log:#?}");
}

#[test]
fn what_fails_the_checksum_is_dropped_counted_and_said_and_the_next_good_frame_passes() {
    let (node, _scale, mut link, mut desk) = joined();
    let bad = [
        turned("12.50", 2, 0x10),
        // Its checksum is an ETX.
        turned("12", 0, 0x04),
        // Cut short, so that the next one begins inside it.
        b"\x0217".to_vec(),
        // The same, and what has come has the XOR of an STX.
        b"\x0213".to_vec(),
        // No payload, no checksum; too long.
        b"\x02\x03".to_vec(),
        b"\x02\x00\x03".to_vec(),
        [b"\x02", &[b'x'; 200][..], b"\x00\x03"].concat(),
        [b"\x02", &[b'x'; 2_000][..]].concat(),
    ];
    for (nth, bad) in bad.iter().enumerate() {
        link.write_all(bad).unwrap();
        // What is outside of frames is nothing.
        link.write_all(&frame(&format!("good {nth}"))).unwrap();
        link.write_all(b"\r\n").unwrap();
        assert_eq!(desk.hears(), format!("good {nth}"), "after {bad:02X?}");
    }
    node.line("its checksum is wrong: 0231323e35302803 (1 in all, 1 were good)");
    drop((link, desk));
    let (code, log) = node.stop();
    assert_eq!((code, totals(&log).0), (0, bad.len() as u32), "{log:#?}");
}

#[test]
fn many_frames_of_which_each_tenth_is_damaged_lose_only_those() {
    let (node, _scale, mut link, mut desk) = joined();
    let count = 5_000;
    let sent = |nth: u32| {
        let payload = format!("{nth:6} g");
        if nth % 10 == 3 { turned(&payload, 5, 0x08) } else { frame(&payload) }
    };
    // At once, so that one read may bring them all.
    link.write_all(&(0..count).flat_map(sent).collect::<Vec<_>>()).unwrap();
    for nth in (0..count).filter(|nth| nth % 10 != 3) {
        assert_eq!(desk.hears(), format!("{nth:6} g"));
    }
    drop((link, desk));
    let (code, log) = node.stop();
    assert_eq!((code, totals(&log).0), (0, count / 10));
}

#[test]
fn a_line_of_a_desk_becomes_a_frame_with_its_checksum() {
    let (node, _scale, mut link, mut desk) = joined();
    for line in ["T", "SET 12.50", "12", "20"] {
        desk.says(line);
        let expected = frame(line);
        let mut came = vec![0; expected.len()];
        link.read_exact(&mut came).unwrap();
        assert_eq!(came, expected, "{line}");
    }
    // The CR of a terminal is none of the command; a control character is refused, not sent.
    desk.says("T\r");
    desk.says("T\u{2}");
    assert_eq!(desk.hears(), "? up to 128 printable characters");
    let mut came = [0; 4];
    link.read_exact(&mut came).unwrap();
    assert_eq!(came, *b"\x02TT\x03");
    drop((link, desk));
    assert_eq!(node.stop().0, 0);
}

/// The scale is switched off and on; half a frame of before is nothing then.
#[test]
fn a_scale_that_is_away_is_said_to_be_and_gets_nothing_that_was_meant_for_it_before() {
    let (held, address) = hold_free_port();
    let node = gateway(address);
    let mut desk = Desk::of(&node);
    desk.says("T");
    assert_eq!(desk.hears(), "? the scale is away");
    held.listen(4).unwrap();
    let scale = TcpListener::from(held);
    for end in [b"".as_slice(), b"\x02half of"] {
        let mut link = accept_one(&scale);
        link.write_all(&frame("on")).unwrap();
        assert_eq!(desk.hears(), "on");
        desk.says("Z");
        let mut came = [0; 4];
        link.read_exact(&mut came).unwrap();
        assert_eq!(came, *b"\x02ZZ\x03");
        link.write_all(end).unwrap();
        if end.is_empty() { abort(link) } else { drop(link) }
    }
    let mut link = accept_one(&scale);
    link.write_all(&frame("again")).unwrap();
    assert_eq!(desk.hears(), "again");
    drop((link, desk));
    assert_eq!(node.stop().0, 0);
}
