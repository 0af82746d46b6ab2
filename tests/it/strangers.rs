//! TcpServer and TcpSocket under many hands: descriptors shared with others,
//! peers that come and go as they like, thousands at once, and two that meet
//! on one pair of ports.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_node::server::NewConnection;
use signal_node::testing::SignalSpy;
use signal_node::{Reconnect, ServerOptions, SocketErrorKind, SocketOptions, TcpServer, TcpSocket};
use tokio::task::JoinSet;

use crate::support::{PATIENCE, hold_free_port, in_own_process, pattern, read_count, value};

#[tokio::test]
async fn a_mapped_address_reaches_a_listener_of_ipv4_and_its_family_only() {
    let server = TcpServer::bind("127.0.0.1:0").await.unwrap();
    let port = server.server_address().unwrap().port();
    let client = TcpSocket::connect(format!("[::ffff:127.0.0.1]:{port}")).await.unwrap();
    let accepted = value(server.next_pending_connection()).await.unwrap();
    let peer = accepted.peer_address().unwrap().to_string();
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
    client.write(b"x").await.unwrap();
    assert_eq!(read_count(&accepted, 1).await, b"x");
    let refused = TcpSocket::connect(format!("[::1]:{port}")).await.unwrap_err();
    assert_eq!(refused.kind(), SocketErrorKind::ConnectionRefused);
}

/// Two servers on one listening socket: both are woken for each client, and one finds nobody (EAGAIN).
#[tokio::test]
async fn a_client_that_another_has_accepted_stops_nobody() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let servers = [listener.try_clone().unwrap(), listener]
        .map(|listener| TcpServer::from_std(listener, ServerOptions::default()).unwrap());
    let errors = [&servers[0], &servers[1]].map(|server| SignalSpy::new(server.accept_error()));
    for _ in 0..50 {
        let client = TcpSocket::connect(address).await.unwrap();
        let accepted = tokio::select! {
            accepted = servers[0].next_pending_connection() => accepted,
            accepted = servers[1].next_pending_connection() => accepted,
            () = tokio::time::sleep(PATIENCE) => None,
        };
        accepted.unwrap().write(b"x").await.unwrap();
        assert_eq!(read_count(&client, 1).await, b"x");
    }
    assert!(errors.iter().all(|errors| errors.count() == 0));
}

/// `DISCONNECT_SECONDS` says for how long, `DISCONNECT_SEED` repeats a run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_leave_at_any_moment_harm_nobody() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("DISCONNECT_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    let until = Instant::now() + Duration::from_secs(number("DISCONNECT_SECONDS").unwrap_or(2));
    let server = TcpServer::bind("127.0.0.1:0").await.unwrap();
    let address = server.server_address().unwrap();
    let (begun, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (begins, ends) = (Arc::clone(&begun), Arc::clone(&ended));
    let serve = move |client: &NewConnection| {
        let Some(socket) = client.take() else { return };
        begins.fetch_add(1, Ordering::SeqCst);
        let echo = |socket: &TcpSocket, _: &_| {
            let bytes = socket.peek(1_000);
            if socket.try_write(&bytes).is_ok() {
                socket.skip(bytes.len());
            }
        };
        socket.ready_read().connect_weak(&socket, echo).detach();
        let (ends, owned) = (Arc::clone(&ends), socket.clone());
        let last = move |_: &_| {
            ends.fetch_add(1, Ordering::SeqCst);
            let _owned = &owned;
        };
        socket.disconnected().connect(last).detach();
    };
    server.new_connection().connect(serve).detach();
    let mut state = seed;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut clients = JoinSet::new();
    while Instant::now() < until {
        let (size, way, pause) = (random(40_000) as usize, random(5), random(500));
        clients.spawn(async move {
            let socket = TcpSocket::connect(address).await.unwrap();
            let _ = socket.try_write(&pattern(7, 0, size));
            tokio::time::sleep(Duration::from_micros(pause)).await;
            match way {
                0 => socket.abort(),
                1 => socket.abort_with_reset(),
                2 => socket.disconnect_from_host(),
                3 => socket.shutdown_write(),
                _ => {}
            }
        });
        // Some hundreds a second, so that the ports of the machine last for the other tests.
        tokio::time::sleep(Duration::from_micros(random(4_000))).await;
        if clients.len() >= 50 {
            clients.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let client = TcpSocket::connect(address).await.unwrap();
    client.write(b"still there").await.unwrap();
    assert_eq!(read_count(&client, 11).await, b"still there");
    client.abort();
    let all_ended = async {
        while ended.load(Ordering::SeqCst) < begun.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    value(all_ended).await;
    assert!(begun.load(Ordering::SeqCst) > 100, "seed {seed}");
}

#[test]
fn thousands_are_closed_cleanly_at_once() {
    in_own_process("strangers::thousands", "");
}

#[test]
#[ignore = "takes all descriptors of its process; run by the test above"]
fn thousands() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    // Both ends are here.
    let count = (maximum.unwrap_or(u64::MAX).saturating_sub(100) / 2).min(5_000) as usize;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    runtime.block_on(async {
        let server = TcpServer::bind("127.0.0.1:0").await.unwrap();
        let address = server.server_address().unwrap();
        let before = open();
        let (mut clients, mut accepted) = (Vec::new(), Vec::new());
        for _ in 0..count {
            clients.push(TcpSocket::connect(address).await.unwrap());
            accepted.push(value(server.next_pending_connection()).await.unwrap());
        }
        for socket in &accepted {
            socket.write(b"goodbye").await.unwrap();
        }
        assert_eq!(server.close().await, 0);
        let closes = accepted.into_iter().map(|socket| async move { socket.close().await });
        let closing = JoinSet::from_iter(closes);
        let ends = clients.iter().map(|client| {
            let client = client.clone();
            async move { client.wait_for_disconnected(PATIENCE * 2).await }
        });
        let ending = JoinSet::from_iter(ends);
        for outcome in closing.join_all().await.into_iter().chain(ending.join_all().await) {
            outcome.unwrap();
        }
        assert!(clients.iter().all(|client| client.read_all() == b"goodbye"));
        assert!(open() <= before, "{} of {before}", open());
        eprintln!("{count} closed");
    });
}

/// TCP's simultaneous open: neither listens, and the two SYNs meet on the way.
#[test]
fn two_that_dial_each_others_port_at_the_same_time_are_one_connection() {
    let ports = || {
        let (holder, address) = hold_free_port();
        (holder, SocketAddr::from(([127, 0, 0, 1], address.port())))
    };
    let ((left_held, left), (right_held, right)) = (ports(), ports());
    drop((left_held, right_held));
    let life = |own: SocketAddr, other: SocketAddr| {
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let reconnect = Reconnect { min: Duration::ZERO, max: Duration::ZERO, attempts: None };
                let socket = TcpSocket::with_options(SocketOptions {
                    source: Some(own),
                    reconnect: Some(reconnect),
                    ..SocketOptions::default()
                });
                socket.connect_to_host(other).unwrap();
                socket.wait_for_connected(PATIENCE).await.unwrap();
                socket.write(b"hello").await.unwrap();
                assert_eq!(read_count(&socket, 5).await, b"hello");
                let ends = (socket.local_address().unwrap(), socket.peer_address().unwrap());
                assert_eq!(ends, (own.into(), other.into()));
                let _ = socket.close().await;
            });
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(life(left, right));
        scope.spawn(life(right, left));
    });
}
