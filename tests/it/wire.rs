//! What arrives on the wire and should not, or oddly: cases of every framing,
//! through the running program. (Every split of any stream is a property test
//! of the decoder.)

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use socket2::SockRef;

use crate::support::{Ending, NodeProcess, PATIENCE, connect, read_all};

fn hub(framing: &str, more: &[&str]) -> NodeProcess {
    let mut arguments = vec!["--listen", "127.0.0.1:0", "--mode", "hub", "--frame", framing];
    arguments.extend(more);
    NodeProcess::start(arguments)
}

/// Somebody who sends and somebody who hears it.
fn two(node: &NodeProcess, nth: usize) -> (TcpStream, TcpStream) {
    let ends = (connect(node.address()), connect(node.address()));
    node.nth_event("new_connection", nth + 1);
    ends.0.set_nodelay(true).unwrap();
    ends
}

/// A Modbus TCP request.
fn adu(transaction: u8) -> Vec<u8> {
    vec![0, transaction, 0, 0, 0, 6, 1, 3, 0, 0, 0, 1]
}

#[test]
fn bytes_one_at_a_time_are_the_same_messages_as_at_once() {
    for (framing, stream) in [
        ("lines", &b"a\r\n\n\rb\n\xff\0\r\r\n"[..]),
        ("lines:616162", b"aaabab!aab"),
        ("delimited", b"\x02one\x03\x02\x03"),
        ("length:1", b"\x03one\0\x01x"),
        ("length:4,little,inclusive", b"\x07\0\0\0one\x04\0\0\0"),
        ("fixed:4", b"fourfour"),
        // Two in one segment, and each in many; the same transaction twice.
        ("mbap", &[adu(1), adu(1)].concat()),
    ] {
        let node = hub(framing, &[]);
        let (mut sender, mut hears) = two(&node, 0);
        let mut bytes = vec![0; stream.len()];
        sender.write_all(stream).unwrap();
        hears.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, stream, "{framing} at once");
        for byte in stream {
            sender.write_all(&[*byte]).unwrap();
        }
        hears.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, stream, "{framing} one at a time");
        sender.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&sender).1, Ending::Fin, "{framing}: nothing was left over");
    }
}

#[test]
fn what_is_no_message_ends_its_sender_and_is_named() {
    for (framing, stream, reason, said) in [
        ("delimited", &b"\x03"[..], "malformed_frame", "begins with 03 where 02 is expected"),
        ("delimited", b"\x02a\x02b\x03", "malformed_frame", "before the one before it has ended"),
        ("length:4", b"\xff\xff\xff\xff", "frame_too_long", "4294967295 bytes is longer"),
        ("length:4", b"\x05\0\0\0hello", "frame_too_long", "little-endian it would be 5"),
        ("length:2,inclusive", b"\0\x01", "malformed_frame", "does not even count its own 2 bytes"),
        ("mbap", b"\0\x01\0\x07\0\x02", "malformed_frame", "not Modbus: its protocol is 7"),
        ("mbap", b"\0\x01\0\0\0\0", "malformed_frame", "a length of 0"),
        ("mbap", b"\0\x01\0\0\xff\xff", "malformed_frame", "a length of 65535"),
        ("lines", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\n", "malformed_frame", "begins as TLS does"),
        ("length:4", b"\x16\x03\x01\x02\0\x01\0\x01\xfc", "malformed_frame", "begins as TLS does"),
        ("mbap", b"\x16\x03\x01\x02\0\x01\0\x01\xfc", "malformed_frame", "begins as TLS does"),
    ] {
        let node = hub(framing, &[]);
        let (mut sender, hears) = two(&node, 0);
        sender.write_all(stream).unwrap();
        assert_eq!(read_all(&sender), (vec![], Ending::Reset), "{framing} {said}");
        assert_eq!(node.event("disconnected")["reason"], reason, "{framing} {said}");
        let error = node.event("error_occurred")["error"].as_str().unwrap().to_owned();
        assert!(error.contains(said), "{framing}: {error}");
        hears.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&hears).0, b"", "{framing}: nothing of it was passed on");
    }
}

#[test]
fn an_end_inside_a_body_ends_the_message_and_what_follows_is_none() {
    let node = hub("delimited", &[]);
    let (mut sender, mut hears) = two(&node, 0);
    sender.write_all(b"\x02a\x03b\x03").unwrap();
    assert_eq!(read_all(&sender), (vec![], Ending::Reset));
    let mut bytes = [0; 3];
    hears.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"\x02a\x03");
    assert_eq!(node.event("disconnected")["reason"], "malformed_frame");
}

#[test]
fn a_line_that_never_ends_is_cut_at_the_limit() {
    let node = hub("lines", &["--max-frame", "64KiB"]);
    let (mut sender, hears) = two(&node, 0);
    let piece = [b'x'; 1 << 16];
    let mut sent = 0;
    while sent < 64 << 20 && sender.write_all(&piece).is_ok() {
        sent += piece.len();
    }
    assert!(sent < 64 << 20, "it was never cut");
    let gone = node.event("disconnected");
    assert_eq!(gone["reason"], "frame_too_long");
    // One read may go beyond it, and nothing more is read.
    assert!(gone["received"].as_u64().unwrap() < 4 << 20, "{gone}");
    hears.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&hears).0, b"");
}

#[test]
fn urgent_data_is_left_out_and_moves_nothing() {
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", "echo:"]);
    let mut client = connect(node.address());
    client.write_all(b"before").unwrap();
    SockRef::from(&client).send_out_of_band(b"!").unwrap();
    client.write_all(b"after").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client), (b"beforeafter".to_vec(), Ending::Fin));
}

/// A member that had finished its half, and then breaks with bytes unread: the others notice nothing.
#[test]
fn a_member_that_breaks_after_its_end_disturbs_nobody() {
    let node = hub("lines", &["--queue", "64KiB", "--overflow", "block"]);
    let (mut source, half_open) = two(&node, 0);
    let hears = connect(node.address());
    node.nth_event("new_connection", 2);
    for _ in 0..200 {
        source.write_all(format!("{}\n", "x".repeat(999)).as_bytes()).unwrap();
    }
    half_open.shutdown(Shutdown::Write).unwrap();
    node.event("read_finished");
    // Closed with what it has not read, which is a reset.
    drop(half_open);
    node.event("disconnected");
    source.write_all(b"last\n").unwrap();
    hears.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = vec![0; 200 * 1_000 + 5];
    (&hears).read_exact(&mut bytes).unwrap();
    assert!(bytes.ends_with(b"x\nlast\n"));
}
