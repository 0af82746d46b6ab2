//! TcpSocket: how it comes to be connected, is not, and comes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use signal_node::testing::SignalSpy;
use signal_node::{Keepalive, Reconnect, SocketErrorKind, SocketOptions, State, TcpServer, TcpSocket};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::support::{
    MOMENT, PATIENCE, bound, hold_free_port, joined, pattern, read_count, redialling, stuck_listener, value,
};

#[tokio::test]
async fn a_fresh_socket_has_nothing_and_takes_nothing() {
    let socket = TcpSocket::new();
    assert_eq!(socket.state(), State::Unconnected);
    assert_eq!((socket.peer_address(), socket.local_address(), socket.error()), (None, None, None));
    assert_eq!((socket.bytes_available(), socket.bytes_to_write(), socket.read_all().len()), (0, 0, 0));
    for error in [
        socket.try_write(b"x").unwrap_err(),
        socket.write(b"x").await.unwrap_err(),
        socket.read(&mut [0]).await.unwrap_err(),
        socket.wait_for_connected(PATIENCE).await.unwrap_err(),
        socket.wait_for_ready_read(PATIENCE).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), SocketErrorKind::NotConnected, "{error}");
    }
    // Harmless all.
    socket.disconnect_from_host();
    socket.abort();
    socket.close().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_connected_to_is_said_at_once() {
    for bad in ["", "127.0.0.1:0", "0.0.0.0:9", "http://host", "stdio:", "224.0.0.1:9"] {
        let error = TcpSocket::new().connect_to_host(bad).unwrap_err();
        assert_eq!(error.kind(), SocketErrorKind::InvalidAddress, "{bad}");
        assert!(error.to_string().contains(&format!("`{bad}`")), "{error}");
    }
}

#[test]
fn outside_a_runtime_a_dial_is_an_error_and_no_panic() {
    let error = TcpSocket::new().connect_to_host("127.0.0.1:9").unwrap_err();
    assert_eq!(error.kind(), SocketErrorKind::Other);
}

#[tokio::test]
async fn connect_returns_at_once_whatever_the_network_does() {
    let (_listener, _waiting, address) = stuck_listener().await;
    let socket = TcpSocket::new();
    let begun = Instant::now();
    socket.connect_to_host(address).unwrap();
    assert!(begun.elapsed() < MOMENT);
    let error = socket.wait_for_connected(MOMENT).await.unwrap_err();
    assert_eq!(
        (error.kind(), socket.state()),
        (SocketErrorKind::TimedOut, State::Connecting),
        "the dial goes on"
    );
    socket.abort();
    socket.wait_for_disconnected(PATIENCE).await.unwrap_err();
    assert_eq!(socket.state(), State::Unconnected);
}

#[tokio::test]
async fn a_refusal_and_a_missing_road_are_different_errors() {
    let (_held, address) = hold_free_port();
    let refused = TcpSocket::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), SocketErrorKind::ConnectionRefused);
    let socket = TcpSocket::with_options(SocketOptions {
        source: Some("192.0.2.7:0".parse().unwrap()),
        ..SocketOptions::default()
    });
    socket.connect_to_host(address).unwrap();
    let error = socket.wait_for_connected(PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), SocketErrorKind::AddressNotAvailable, "{error}");
    assert!(error.to_string().contains("192.0.2.7"), "{error}");
    assert!(matches!(std::io::Error::from(refused).kind(), std::io::ErrorKind::ConnectionRefused));
}

#[tokio::test]
async fn a_name_with_a_dead_address_reaches_the_living_one() {
    // localhost is ::1 and 127.0.0.1; only the second listens.
    let (listener, address) = bound().await;
    let socket = TcpSocket::connect(format!("localhost:{}", address.port())).await.unwrap();
    value(listener.accept()).await.unwrap();
    assert_eq!(socket.peer_address().unwrap().to_string(), address.to_string());
}

#[tokio::test]
async fn what_is_written_while_connecting_and_closing_arrives_whole() {
    for size in [0, 1, 60_000] {
        let (listener, address) = bound().await;
        let socket = TcpSocket::new();
        socket.connect_to_host(address).unwrap();
        let bytes = pattern(2, 0, size);
        socket.write(&bytes).await.unwrap();
        socket.disconnect_from_host();
        let mut peer = value(listener.accept()).await.unwrap().0;
        let mut got = Vec::new();
        value(peer.read_to_end(&mut got)).await.unwrap();
        assert!(got == bytes, "{size}");
        drop(peer);
        socket.wait_for_disconnected(PATIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn the_source_that_was_asked_for_is_the_one_the_peer_sees() {
    let (holder, free) = hold_free_port();
    drop(holder);
    let source = SocketAddr::from(([127, 0, 0, 9], free.port()));
    for _ in 0..2 {
        // The second time the port is still known to the kernel.
        let (listener, address) = bound().await;
        let socket =
            TcpSocket::with_options(SocketOptions { source: Some(source), ..SocketOptions::default() });
        socket.connect_to_host(address).unwrap();
        let (peer, seen) = value(listener.accept()).await.unwrap();
        assert_eq!(seen, source);
        socket.wait_for_connected(PATIENCE).await.unwrap();
        assert_eq!(socket.local_address().unwrap().to_string(), source.to_string());
        socket.disconnect_from_host();
        drop(peer);
        socket.wait_for_disconnected(PATIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn one_can_wait_for_bytes_while_still_connecting() {
    let (listener, address) = bound().await;
    let socket = TcpSocket::new();
    socket.connect_to_host(address).unwrap();
    let reader = socket.clone();
    let mut tasks = JoinSet::from_iter([async move { reader.wait_for_ready_read(PATIENCE).await }]);
    let mut peer = value(listener.accept()).await.unwrap().0;
    peer.write_all(b"hi").await.unwrap();
    assert_eq!(tasks.join_next().await.unwrap().unwrap(), Ok(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stuck_dial_one_unread_peer_and_one_sleeping_slot_delay_nobody() {
    let (_listener, _waiting, stuck) = stuck_listener().await;
    let dialling = TcpSocket::new();
    dialling.connect_to_host(stuck).unwrap();
    let (unread, _silent) = joined().await;
    let writer = unread.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { writer.write(&[0; 64 << 20]).await });
    let (sleeper, mut waker) = joined().await;
    let begun = Arc::new(tokio::sync::Notify::new());
    let says = Arc::clone(&begun);
    // Dropped at the end of the test, however that comes.
    let (release, waits) = std::sync::mpsc::sync_channel::<()>(0);
    sleeper
        .ready_read()
        .connect_once(move |_| {
            says.notify_one();
            let _ = waits.recv();
        })
        .detach();
    waker.write_all(b"x").await.unwrap();
    value(begun.notified()).await;

    let server = TcpServer::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..20 {
        let client = TcpSocket::connect(server.server_address().unwrap()).await.unwrap();
        let accepted = value(server.next_pending_connection()).await.unwrap();
        client.write(b"hello").await.unwrap();
        assert_eq!(read_count(&accepted, 5).await, b"hello");
        accepted.close().await.unwrap();
    }
    assert_eq!(dialling.state(), State::Connecting);
    assert_eq!(tasks.len(), 1, "the unread peer still keeps its writer waiting");
    drop(release);
}

#[tokio::test]
async fn two_that_dial_each_other_at_once_both_get_through() {
    let (left, right) =
        (TcpServer::bind("127.0.0.1:0").await.unwrap(), TcpServer::bind("127.0.0.1:0").await.unwrap());
    let (a, b) = (TcpSocket::new(), TcpSocket::new());
    a.connect_to_host(right.server_address().unwrap()).unwrap();
    b.connect_to_host(left.server_address().unwrap()).unwrap();
    let (from_a, from_b) = (
        value(right.next_pending_connection()).await.unwrap(),
        value(left.next_pending_connection()).await.unwrap(),
    );
    for (one, other) in [(&a, &from_a), (&from_b, &b)] {
        one.wait_for_connected(PATIENCE).await.unwrap();
        one.write(b"x").await.unwrap();
        assert_eq!(read_count(other, 1).await, b"x");
    }
}

#[tokio::test]
async fn a_client_comes_back_when_its_server_does() {
    let (holder, address) = hold_free_port();
    let reconnect = Reconnect { max: Duration::from_millis(20), ..Reconnect::default() };
    let socket =
        TcpSocket::with_options(SocketOptions { reconnect: Some(reconnect), ..SocketOptions::default() });
    let spy = SignalSpy::new(socket.reconnecting());
    socket.connect_to_host(address).unwrap();
    assert!(spy.wait_for(3, PATIENCE).await, "refused again and again");
    assert_eq!(spy.values()[2].attempt, 3);
    assert!(spy.take().iter().all(|reconnecting| reconnecting.delay <= reconnect.max));
    drop(holder);
    let server = TcpServer::bind(address).await.unwrap();
    socket.wait_for_connected(PATIENCE).await.unwrap();
    let first = value(server.next_pending_connection()).await.unwrap();
    first.abort_with_reset();
    let second = value(server.next_pending_connection()).await.unwrap();
    second.disconnect_from_host();
    let third = value(server.next_pending_connection()).await.unwrap();
    socket.wait_for_connected(PATIENCE).await.unwrap();
    socket.close().await.unwrap();
    assert!(!spy.wait_more(MOMENT).await, "told to stop, it stays away");
    drop(third);
    socket.connect_to_host(address).unwrap();
    socket.wait_for_connected(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn reconnecting_can_be_given_up_while_it_waits() {
    let (_held, address) = hold_free_port();
    let reconnect = Reconnect { min: PATIENCE * 100, max: PATIENCE * 100, attempts: None };
    let options = SocketOptions { reconnect: Some(reconnect), ..SocketOptions::default() };
    for gives_up in [TcpSocket::disconnect_from_host, TcpSocket::abort, |_: &TcpSocket| {}] {
        let socket = TcpSocket::with_options(options.clone());
        let spy = SignalSpy::new(socket.reconnecting());
        socket.connect_to_host(address).unwrap();
        assert!(spy.wait_for(1, PATIENCE).await);
        gives_up(&socket);
        drop(socket);
        let metrics = tokio::runtime::Handle::current().metrics();
        while metrics.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn the_echo_in_the_node_is_a_peer_like_any_other() {
    let socket = TcpSocket::connect("echo:").await.unwrap();
    socket.write(b"hello").await.unwrap();
    assert_eq!(read_count(&socket, 5).await, b"hello");
    socket.close().await.unwrap();
}

#[tokio::test]
async fn a_stream_of_the_standard_library_is_taken_over() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut peer = listener.accept().unwrap().0;
    let same = stream.try_clone().unwrap();
    let keepalive = Keepalive { probes: 7, ..Keepalive::default() };
    let options = SocketOptions { keepalive: Some(keepalive), ..SocketOptions::default() };
    let socket = TcpSocket::from_std(stream, options).unwrap();
    let kernel = SockRef::from(&same);
    assert!(kernel.keepalive().unwrap());
    assert_eq!(
        (kernel.tcp_keepalive_time().unwrap(), kernel.tcp_keepalive_retries().unwrap()),
        (keepalive.idle, 7)
    );
    assert_eq!(kernel.tcp_keepalive_interval().unwrap(), keepalive.interval);
    std::io::Write::write_all(&mut peer, b"hello").unwrap();
    assert_eq!(read_count(&socket, 5).await, b"hello");
}

#[tokio::test]
async fn an_end_is_not_missed_when_a_slot_dials_again_at_once() {
    let (listener, socket) = redialling().await;
    for _ in 0..3 {
        socket.wait_for_connected(PATIENCE).await.unwrap();
        let first = socket.connection();
        drop(value(listener.accept()).await.unwrap());
        value(socket.close()).await.unwrap();
        assert_ne!(socket.connection(), first, "it dials again");
    }
    let peer = value(listener.accept()).await.unwrap().0;
    socket.wait_for_connected(PATIENCE).await.unwrap();
    peer.set_zero_linger().unwrap();
    drop(peer);
    let error = socket.wait_for_disconnected(PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), SocketErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_dial_that_succeeded_did_so_though_the_connection_is_over_already() {
    let (_listener, address) = bound().await;
    let socket = TcpSocket::new();
    // On the task of the socket, before anybody else can look.
    socket.connected().connect_weak(&socket, |socket, _| socket.abort()).detach();
    socket.connect_to_host(address).unwrap();
    socket.wait_for_connected(PATIENCE).await.unwrap();
    assert_eq!(socket.state(), State::Unconnected);
    socket.wait_for_connected(PATIENCE).await.unwrap_err();
}
