//! What sockets and signals cost when nothing happens: counted allocations and
//! measured memory. Times are a matter of the bench.

use std::net::TcpListener;

use signal_node::{Signal, TcpSocket};

use crate::support::{in_own_process, joined};

/// How many idle sockets; the peers of all of them are in another process.
const SOCKETS: usize = 9_000;
/// Memory of an idle connected socket without slots, in this build without optimization.
const MOST_KIB: f64 = 4.0;

#[tokio::test]
async fn emitting_to_nobody_allocates_nothing_and_neither_does_a_direct_slot() {
    let signal = Signal::<u64>::new();
    let counted = allocation_counter::measure(|| signal.emit(&1));
    assert_eq!(counted.count_total, 0);
    let connection = signal.view().connect(|_| {});
    // The first after a change takes the list anew.
    signal.emit(&1);
    let counted = allocation_counter::measure(|| signal.emit(&1));
    assert_eq!(counted.count_total, 0);
    drop(connection);
    let counted = allocation_counter::measure(|| signal.emit(&1));
    assert_eq!(counted.count_total, 0);
}

#[tokio::test]
async fn the_slot_table_of_a_socket_is_made_when_a_signal_is_first_asked_for() {
    let (socket, _peer) = joined().await;
    let first = allocation_counter::measure(|| assert!(!socket.ready_read().is_connected()));
    let second = allocation_counter::measure(|| assert!(!socket.disconnected().is_connected()));
    assert_eq!((first.count_total > 0, second.count_total), (true, 0));
}

#[test]
fn nine_thousand_idle_sockets_are_held_in_a_bounded_memory() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    if limit.is_some_and(|limit| limit < SOCKETS as u64 + 100) {
        assert!(std::env::var_os("CI").is_none(), "the limit of descriptors is too low");
        eprintln!("SKIPPED: the limit of descriptors is too low for {SOCKETS} sockets");
        return;
    }
    raise();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let peers = std::thread::spawn(move || {
        (0..SOCKETS + WARM).map(|_| listener.accept().unwrap().0).collect::<Vec<_>>()
    });
    let text = in_own_process("cost::idle_sockets", &address.to_string());
    assert_eq!(peers.join().unwrap().len(), SOCKETS + WARM);
    eprintln!("{}", text.lines().find(|line| line.contains("KiB")).unwrap());
}

/// Sockets made before the first look, so that pools and buffers of the runtime are there.
const WARM: usize = 200;

/// As many descriptors as may be.
fn raise() {
    let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let limit = rustix::process::Rlimit { current: maximum, maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
}

fn resident_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let row = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    row.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "measures its process; run by the test above"]
fn idle_sockets() {
    raise();
    let address = std::env::var("TEST_INPUT").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut sockets = Vec::with_capacity(SOCKETS + WARM);
        for _ in 0..WARM {
            sockets.push(TcpSocket::connect(&address).await.unwrap());
        }
        let before = resident_kib();
        for _ in 0..SOCKETS {
            sockets.push(TcpSocket::connect(&address).await.unwrap());
        }
        let each = (resident_kib() - before) / SOCKETS as f64;
        eprintln!("{each:.2} KiB for each of {SOCKETS} idle sockets");
        assert!(each < MOST_KIB, "{each:.2} KiB each");
    });
}
