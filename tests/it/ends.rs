//! Every way a connection can end, as its partner sees it: {FIN, RST, RST
//! after data} × {client, target} × {idle, mid-transfer, blocked writer}. The
//! black holes of the matrix are in `networks`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::{
    Ending, NodeProcess, abort, accept_one, connect, listener, pattern, read_all, wait_until,
};

/// The two ends of a relayed connection: the one that ends it, and the one that watches.
struct Ends {
    node: NodeProcess,
    ender: TcpStream,
    watcher: TcpStream,
    client_ends: bool,
}

fn relayed(client_ends: bool) -> Ends {
    let (upstream, target) = listener();
    let node = NodeProcess::start(["-v", "--listen", "127.0.0.1:0", "--connect", &target.to_string()]);
    let client = connect(node.address());
    let server = accept_one(&upstream);
    // Until the node has seen its handshake end, a reset would be a failed dial.
    node.event("connected");
    let (ender, watcher) = if client_ends { (client, server) } else { (server, client) };
    Ends { node, ender, watcher, client_ends }
}

impl Ends {
    /// Waits until the node has handed `bytes` to the watcher's kernel.
    fn delivered(&self, bytes: u64) {
        let watchers_connection = u64::from(self.client_ends) + 1;
        let is = |line: &String| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            event["event"] == "bytes_written"
                && event["connection"] == watchers_connection
                && event["sent"].as_u64() >= Some(bytes)
        };
        wait_until("bytes are delivered", Duration::from_secs(20), || self.node.lines().iter().any(is));
    }

    /// What the node says of the connection to the ender.
    fn reason(&self) -> String {
        let enders_connection = 2 - u64::from(self.client_ends);
        let gone = (0..2).map(|nth| self.node.nth_event("disconnected", nth));
        let gone = gone.into_iter().find(|event| event["connection"] == enders_connection);
        gone.expect("both disconnect")["reason"].as_str().unwrap().to_owned()
    }
}

/// Sends until nothing more is taken for a second, and says how much was.
fn fill(mut stream: &TcpStream) -> u64 {
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut sent = 0;
    loop {
        match stream.write(&pattern(1, sent, 1 << 16)) {
            Ok(count) => sent += count as u64,
            Err(_full) => return sent,
        }
    }
}

fn is_prefix(bytes: &[u8], most: u64) {
    assert!(bytes.len() as u64 <= most, "{} bytes of {most}", bytes.len());
    assert!(bytes == pattern(1, 0, bytes.len()), "bytes are out of place");
}

fn both(case: impl Fn(bool) + Sync) {
    thread::scope(|scope| {
        scope.spawn(|| case(true));
        scope.spawn(|| case(false));
    });
}

#[test]
fn idle_fin_is_seen_as_fin_and_the_other_way_stays_open() {
    both(|client_ends| {
        let mut ends = relayed(client_ends);
        ends.ender.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&ends.watcher), (vec![], Ending::Fin));
        ends.watcher.write_all(b"still here").unwrap();
        ends.watcher.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&ends.ender), (b"still here".to_vec(), Ending::Fin));
        assert_eq!(ends.reason(), "closed");
    });
}

#[test]
fn idle_reset_is_seen_as_reset() {
    both(|client_ends| {
        let ends = relayed(client_ends);
        abort(ends.ender.try_clone().unwrap());
        // The clone shares the socket; the reset comes with the last of the two.
        let Ends { node, ender, watcher, client_ends } = ends;
        drop(ender);
        assert_eq!(read_all(&watcher), (vec![], Ending::Reset));
        let enders_connection = 2 - u64::from(client_ends);
        let reasons: Vec<_> = (0..2).map(|nth| node.nth_event("disconnected", nth)).collect();
        for event in &reasons {
            let expected = if event["connection"] == enders_connection { "reset" } else { "partner_lost" };
            assert_eq!(event["reason"], expected, "{event}");
        }
    });
}

#[test]
fn idle_reset_after_data_is_seen_after_the_data() {
    both(|client_ends| {
        let Ends { node, mut ender, watcher, .. } = {
            let ends = relayed(client_ends);
            (&ends.ender).write_all(&pattern(1, 0, 100_000)).unwrap();
            ends.delivered(100_000);
            ends
        };
        ender.flush().unwrap();
        abort(ender);
        let (bytes, ending) = read_all(&watcher);
        assert_eq!((bytes.len(), ending), (100_000, Ending::Reset));
        is_prefix(&bytes, 100_000);
        drop(node);
    });
}

#[test]
fn mid_transfer_fin_comes_after_the_last_byte() {
    both(|client_ends| {
        let ends = relayed(client_ends);
        let size = 20 << 20;
        let mut sender = ends.ender.try_clone().unwrap();
        let writing = thread::spawn(move || {
            sender.write_all(&pattern(1, 0, size)).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        let (bytes, ending) = read_all(&ends.watcher);
        writing.join().unwrap();
        assert_eq!((bytes.len(), ending), (size, Ending::Fin));
        is_prefix(&bytes, size as u64);
    });
}

#[test]
fn mid_transfer_reset_leaves_a_prefix_and_a_reset() {
    both(|client_ends| {
        let Ends { node, ender, watcher, .. } = relayed(client_ends);
        let writing = thread::spawn(move || {
            (&ender).write_all(&pattern(1, 0, 5 << 20)).unwrap();
            abort(ender);
        });
        let (bytes, ending) = read_all(&watcher);
        writing.join().unwrap();
        assert_eq!(ending, Ending::Reset);
        is_prefix(&bytes, 5 << 20);
        drop(node);
    });
}

#[test]
fn mid_transfer_reset_of_the_receiver_stops_the_sender() {
    both(|client_ends| {
        let Ends { node, mut ender, mut watcher, .. } = relayed(client_ends);
        let reading = thread::spawn(move || {
            ender.read_exact(&mut vec![0; 1 << 20]).unwrap();
            abort(ender);
        });
        let mut sent = 0;
        let error = loop {
            match watcher.write(&pattern(1, sent, 1 << 16)) {
                Ok(count) => sent += count as u64,
                Err(error) => break error,
            }
        };
        reading.join().unwrap();
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
        assert!(matches!(error.kind(), ConnectionReset | BrokenPipe), "{error}");
        // Its end was a reset, however it was noticed, and is not told as a finish.
        let finished = node.lines().iter().any(|line| line.contains("read_finished"));
        assert!(!finished, "{:?}", node.lines());
        // Every byte is accounted for: what the node took from us went on, or is called unsent.
        let gone: Vec<_> = (0..2).map(|nth| node.nth_event("disconnected", nth)).collect();
        let (a, b) = (&gone[0], &gone[1]);
        for (from, to) in [(a, b), (b, a)] {
            let total = to["sent"].as_u64().unwrap() + to["unsent"].as_u64().unwrap();
            assert_eq!(from["received"].as_u64().unwrap(), total, "{from} {to}");
        }
    });
}

#[test]
fn blocked_writer_fin_arrives_when_everything_was_read() {
    both(|client_ends| {
        let ends = relayed(client_ends);
        let sent = fill(&ends.ender);
        ends.ender.shutdown(Shutdown::Write).unwrap();
        let (bytes, ending) = read_all(&ends.watcher);
        assert_eq!((bytes.len() as u64, ending), (sent, Ending::Fin));
        is_prefix(&bytes, sent);
    });
}

#[test]
fn blocked_writer_reset_does_not_wait_for_the_reader() {
    both(|client_ends| {
        let Ends { node, ender, watcher, .. } = relayed(client_ends);
        let sent = fill(&ender);
        abort(ender);
        // The watcher reads nothing until the node has given up on it.
        let gone = node.nth_event("disconnected", 1);
        assert!(gone["seconds"].as_f64().unwrap() < 20.0, "{gone}");
        let (bytes, ending) = read_all(&watcher);
        assert_eq!(ending, Ending::Reset);
        is_prefix(&bytes, sent);
    });
}

#[test]
fn blocked_writer_reset_after_data_gives_a_slow_reader_a_prefix_and_a_reset() {
    both(|client_ends| {
        let Ends { node, ender, mut watcher, .. } = relayed(client_ends);
        let sent = fill(&ender);
        abort(ender);
        // Only once the node has found the reset, with bytes in its hands, does the watcher go on.
        node.line("\"to\":\"closing\"");
        let mut first = vec![0; 1 << 20];
        watcher.read_exact(&mut first).unwrap();
        let (rest, ending) = read_all(&watcher);
        first.extend(rest);
        assert_eq!(ending, Ending::Reset);
        is_prefix(&first, sent);
        // Whoever goes on reading gets all that the node had read.
        let gone: Vec<_> = (0..2).map(|nth| node.nth_event("disconnected", nth)).collect();
        let to_watcher = gone.iter().find(|event| event["reason"] == "partner_lost").unwrap();
        assert_eq!((&to_watcher["sent"], &to_watcher["unsent"]), (&first.len().into(), &0.into()));
    });
}

/// Nobody read a side that had finished, so that its death went unseen until
/// the half-closed limit.
#[test]
fn the_death_of_a_side_that_had_finished_is_passed_on() {
    both(|client_ends| {
        let Ends { node, ender, watcher, .. } = relayed(client_ends);
        ender.shutdown(Shutdown::Write).unwrap();
        node.event("read_finished");
        abort(ender);
        assert_eq!(read_all(&watcher), (vec![], Ending::Fin), "its end was passed on before");
        let gone = node.nth_event("disconnected", 1);
        assert!(gone["seconds"].as_f64().unwrap() < 10.0, "{gone}");
        // Our end of the stream to the watcher is gone with a reset.
        wait_until("the watcher cannot write any more", Duration::from_secs(5), || {
            (&watcher).write(b"x").is_err()
        });
    });
}
