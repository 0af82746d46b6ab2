//! Exactness: every byte in its place, over hundreds of connections that are
//! cut at random. The seed is printed, so that a failure can be run again.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::support::{Ending, NodeProcess, abort, accept_one, connect, listener, pattern, read_all};

/// How one connection of the plan goes.
struct Plan {
    seed: u64,
    length: u64,
    piece: usize,
    cut: bool,
}

/// A small generator, good enough to choose plans.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn plan(state: &mut u64) -> Plan {
    let seed = random(state);
    let length = match random(state) % 4 {
        0 => random(state) % 100,
        1 => random(state) % 70_000,
        _ => random(state) % 2_000_000,
    };
    let piece = 1 + (random(state) % 200_000) as usize;
    Plan { seed, length, piece, cut: random(state).is_multiple_of(3) }
}

/// Sends the stream of the plan after a header that says which it is, and cuts or finishes it.
fn send(stream: TcpStream, plan: &Plan) {
    let mut sent = 0;
    let mut sink = &stream;
    sink.write_all(&plan.seed.to_le_bytes()).unwrap();
    while sent < plan.length {
        let count = plan.piece.min((plan.length - sent) as usize);
        sink.write_all(&pattern(plan.seed, sent, count)).unwrap();
        sent += count as u64;
    }
    if plan.cut {
        abort(stream);
    } else {
        stream.shutdown(Shutdown::Write).unwrap();
        // The other side answers with the count it got.
        let (answer, ending) = read_all(&stream);
        assert_eq!((answer, ending), (plan.length.to_le_bytes().to_vec(), Ending::Fin));
    }
}

/// Checks one connection by position; yields how many bytes were right.
fn receive(mut stream: TcpStream, slowly: bool) -> u64 {
    let mut header = [0; 8];
    if stream.read_exact(&mut header).is_err() {
        return 0;
    }
    let seed = u64::from_le_bytes(header);
    let mut received = 0_u64;
    let mut buffer = vec![0; if slowly { 3_000 } else { 1 << 18 }];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => {
                stream.write_all(&received.to_le_bytes()).unwrap();
                return received;
            }
            Ok(count) => {
                assert!(
                    buffer[..count] == pattern(seed, received, count),
                    "wrong bytes at {received} of {seed:x}"
                );
                received += count as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return received,
            Err(error) => panic!("{error}"),
        }
    }
}

fn serve(upstream: &TcpListener, connections: usize, total: &AtomicU64) {
    thread::scope(|scope| {
        for i in 0..connections {
            let stream = accept_one(upstream);
            scope.spawn(move || total.fetch_add(receive(stream, i % 5 == 0), Ordering::Relaxed));
        }
    });
}

#[test]
fn hundreds_of_streams_with_random_cuts_arrive_byte_for_byte() {
    let mut state = std::env::var("STREAM_SEED").map_or_else(
        |_| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        |seed| seed.parse().unwrap(),
    );
    let connections = std::env::var("STREAM_CONNECTIONS").map_or(400, |count| count.parse().unwrap());
    eprintln!("STREAM_SEED={state} STREAM_CONNECTIONS={connections}");
    let (upstream, target) = listener();
    let threads = std::env::var("STREAM_THREADS").unwrap_or_else(|_| "2".into());
    let node = NodeProcess::start([
        "--listen",
        "127.0.0.1:0",
        "--connect",
        &target.to_string(),
        "--threads",
        &threads,
    ]);
    let address = node.address();
    let total = AtomicU64::new(0);
    let plans: Vec<_> = (0..connections).map(|_| plan(&mut state)).collect();
    thread::scope(|scope| {
        scope.spawn(|| serve(&upstream, connections, &total));
        for chunk in plans.chunks(connections.div_ceil(8)) {
            scope.spawn(move || {
                for plan in chunk {
                    let stream = connect(address);
                    send(stream, plan);
                }
            });
        }
    });
    eprintln!("{} bytes were in their place", total.into_inner());
    assert_eq!(node.stop().0, 0);
}
