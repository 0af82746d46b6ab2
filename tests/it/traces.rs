//! The life of a socket as exact sequences of signals: those of Qt, with its
//! order at an end made one, and with an end for every dial.

use std::time::Duration;

use signal_node::{Reconnect, SocketErrorKind, SocketOptions, State, TcpServer, TcpSocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{PATIENCE, Trace, bound, hold_free_port, joined, redialling, stuck_listener, value};

const DIAL: [&str; 5] = ["host_lookup", "connecting", "host_found 1", "connected", "connected()"];

/// A traced socket, its raw peer, and the trace up to `connected` checked.
async fn traced() -> (TcpSocket, tokio::net::TcpStream, Trace) {
    let (listener, address) = bound().await;
    let socket = TcpSocket::new();
    let trace = Trace::of(&socket);
    socket.connect_to_host(address).unwrap();
    assert_eq!(trace.take(), [""; 0], "nothing is emitted before the call returns");
    let peer = value(listener.accept()).await.unwrap().0;
    assert_eq!(trace.until("connected()").await, DIAL);
    (socket, peer, trace)
}

#[tokio::test]
async fn a_dial_that_succeeds() {
    let (socket, _peer, trace) = traced().await;
    assert_eq!(socket.state(), State::Connected);
    assert!(trace.take().is_empty());
}

#[tokio::test]
async fn disconnect_from_host_delivers_first() {
    let (socket, mut peer, trace) = traced().await;
    socket.try_write(b"hello").unwrap();
    socket.disconnect_from_host();
    let mut bytes = Vec::new();
    value(peer.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(bytes, b"hello");
    drop(peer);
    let seen = trace.until("disconnected").await;
    assert_eq!(seen, ["closing", "bytes_written 5", "read_finished 0", "unconnected", "disconnected closed"]);
}

#[tokio::test]
async fn abort_knows_no_closing() {
    let (socket, _peer, trace) = traced().await;
    socket.abort();
    assert_eq!(trace.until("disconnected").await, ["unconnected", "disconnected aborted"]);
}

#[tokio::test]
async fn the_peer_finishes() {
    let (socket, mut peer, trace) = traced().await;
    peer.write_all(b"bye").await.unwrap();
    drop(peer);
    let seen = trace.until("disconnected").await;
    let expected = ["ready_read 3", "read_finished 3", "closing", "unconnected", "disconnected closed"];
    assert_eq!(seen, expected, "and no error");
    assert_eq!(socket.read_all(), b"bye", "what had come can be read after the end");
}

#[tokio::test]
async fn the_peer_aborts() {
    let (socket, peer, trace) = traced().await;
    peer.set_zero_linger().unwrap();
    drop(peer);
    let seen = trace.until("disconnected").await;
    assert_eq!(seen, ["unconnected", "error_occurred ConnectionReset", "disconnected reset"]);
    assert_eq!(socket.error().unwrap().kind(), SocketErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_dial_that_is_refused() {
    let (_held, address) = hold_free_port();
    let socket = TcpSocket::new();
    let trace = Trace::of(&socket);
    socket.connect_to_host(address).unwrap();
    let seen = trace.until("connect_failed").await;
    let expected = [
        "host_lookup",
        "connecting",
        "host_found 1",
        "unconnected",
        "error_occurred ConnectionRefused",
        "connect_failed()",
    ];
    assert_eq!(seen, expected);
    assert!(trace.take().is_empty(), "no disconnected for what never was connected");
}

#[tokio::test]
async fn a_name_that_is_not_found() {
    let socket = TcpSocket::new();
    let trace = Trace::of(&socket);
    socket.connect_to_host(format!("{}.invalid:9", "label".repeat(12))).unwrap();
    let mut seen = trace.until("connect_failed").await;
    // Without a resolver that answers it is a lookup that took too long.
    let error = seen.remove(2);
    assert!(["error_occurred HostNotFound", "error_occurred TimedOut"].contains(&&*error), "{error}");
    assert_eq!(seen, ["host_lookup", "unconnected", "connect_failed()"]);
}

#[tokio::test]
async fn a_dial_that_nobody_answers() {
    let (_listener, _waiting, address) = stuck_listener().await;
    let socket = TcpSocket::with_options(SocketOptions {
        connect_timeout: Duration::from_millis(100),
        ..SocketOptions::default()
    });
    let trace = Trace::of(&socket);
    socket.connect_to_host(address).unwrap();
    let seen = trace.until("connect_failed").await;
    let end = ["unconnected", "error_occurred TimedOut", "connect_failed()"];
    assert_eq!(seen, [&DIAL[..3], &end].concat());
}

#[tokio::test]
async fn a_second_dial_on_a_busy_socket_is_refused_and_changes_nothing() {
    let (socket, _peer, trace) = traced().await;
    let error = socket.connect_to_host("127.0.0.1:9").unwrap_err();
    assert_eq!(error.kind(), SocketErrorKind::Busy);
    assert_eq!((socket.state(), trace.take().len()), (State::Connected, 0));
}

#[tokio::test]
async fn disconnect_while_connecting_waits_for_the_dial() {
    let (listener, address) = bound().await;
    let socket = TcpSocket::new();
    let trace = Trace::of(&socket);
    socket.connect_to_host(address).unwrap();
    socket.try_write(b"in advance").unwrap();
    socket.disconnect_from_host();
    assert!(socket.try_write(b"too late").is_err());
    let mut peer = value(listener.accept()).await.unwrap().0;
    let mut bytes = Vec::new();
    value(peer.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(bytes, b"in advance");
    drop(peer);
    let end = ["closing", "bytes_written 10", "read_finished 0", "unconnected", "disconnected closed"];
    assert_eq!(trace.until("disconnected").await, [&DIAL[..], &end].concat());
}

#[tokio::test]
async fn abort_while_connecting_is_a_failed_dial_and_no_error() {
    let (_listener, _waiting, address) = stuck_listener().await;
    let socket = TcpSocket::new();
    let trace = Trace::of(&socket);
    socket.connect_to_host(address).unwrap();
    trace.until("host_found").await;
    socket.abort();
    assert_eq!(trace.until("connect_failed").await, ["unconnected", "connect_failed()"]);
    socket.wait_for_disconnected(PATIENCE).await.unwrap_err();
    assert_eq!(socket.error().unwrap().kind(), SocketErrorKind::Aborted);
}

#[tokio::test]
async fn an_accepted_socket_starts_as_connected_without_saying_so() {
    let server = TcpServer::bind("127.0.0.1:0").await.unwrap();
    let (hand, mut accepted) = tokio::sync::mpsc::channel(1);
    let _slot = server.new_connection().connect(move |client| {
        let socket = client.take().unwrap();
        let trace = Trace::of(&socket);
        assert_eq!(socket.state(), State::Connected);
        hand.try_send((socket, trace)).unwrap();
    });
    let mut client = tokio::net::TcpStream::connect(server.server_address().unwrap()).await.unwrap();
    client.write_all(b"hi").await.unwrap();
    let (socket, trace) = value(accepted.recv()).await.unwrap();
    trace.until("ready_read 2").await;
    drop(client);
    let expected = ["read_finished 2", "closing", "unconnected", "disconnected closed"];
    assert_eq!(trace.until("disconnected").await, expected);
    assert_eq!(socket.read_all(), b"hi");
}

#[tokio::test]
async fn a_socket_dropped_while_connected_closes_as_if_told_to() {
    let (socket, mut peer, trace) = traced().await;
    socket.try_write(b"last words").unwrap();
    drop(socket);
    let mut bytes = Vec::new();
    value(peer.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(bytes, b"last words");
    drop(peer);
    let expected = ["closing", "bytes_written 10", "read_finished 0", "unconnected", "disconnected closed"];
    assert_eq!(trace.until("disconnected").await, expected);
}

#[tokio::test]
async fn a_peer_that_aborts_while_we_write_is_one_error() {
    let (socket, mut peer, trace) = traced().await;
    peer.write_all(b"unread").await.unwrap();
    trace.until("ready_read").await;
    peer.set_zero_linger().unwrap();
    drop(peer);
    // Until the kernel has told the task, it takes everything.
    while socket.try_write(b"x").is_ok() {
        tokio::task::yield_now().await;
    }
    let seen = trace.until("disconnected").await;
    let end: Vec<_> = seen.iter().filter(|line| !line.starts_with("bytes_written")).collect();
    assert_eq!(end, ["unconnected", "error_occurred ConnectionReset", "disconnected reset"]);
    assert_eq!(socket.read_all(), b"unread");
    assert!(trace.take().is_empty());
}

#[tokio::test]
async fn a_client_that_reconnects_says_when() {
    let (listener, address) = bound().await;
    let reconnect =
        Reconnect { min: Duration::from_millis(1), max: Duration::from_secs(60), attempts: Some(3) };
    let socket =
        TcpSocket::with_options(SocketOptions { reconnect: Some(reconnect), ..SocketOptions::default() });
    let trace = Trace::of(&socket);
    socket.connect_to_host(address).unwrap();
    let first = value(listener.accept()).await.unwrap().0;
    trace.until("connected()").await;
    drop(first);
    let end = ["read_finished 0", "closing", "unconnected", "disconnected closed", "reconnecting 1"];
    assert_eq!(trace.until("reconnecting").await, end);
    let second = value(listener.accept()).await.unwrap().0;
    assert_eq!(trace.until("connected()").await, DIAL);
    drop(listener);
    second.set_zero_linger().unwrap();
    drop(second);
    trace.until("disconnected reset").await;
    let failed = ["unconnected", "error_occurred ConnectionRefused", "connect_failed()"];
    // Neither connection lasted, so the count goes on.
    for attempt in ["reconnecting 2", "reconnecting 3"] {
        trace.until(attempt).await;
        assert_eq!(trace.until("connect_failed").await, [&DIAL[..3], &failed].concat(), "{attempt}");
    }
    let error = socket.wait_for_connected(PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), SocketErrorKind::ConnectionRefused, "and gives up");
    assert!(trace.take().is_empty());
}

#[tokio::test]
async fn three_lives_of_one_socket_are_alike() {
    let (listener, address) = bound().await;
    let socket = TcpSocket::new();
    let trace = Trace::of(&socket);
    let mut ids = Vec::new();
    for _ in 0..3 {
        socket.connect_to_host(address).unwrap();
        let mut peer = value(listener.accept()).await.unwrap().0;
        assert_eq!(trace.until("connected()").await, DIAL);
        ids.push(socket.connection());
        socket.write(b"x").await.unwrap();
        value(peer.read_exact(&mut [0])).await.unwrap();
        peer.write_all(b"answer").await.unwrap();
        drop(peer);
        let end = trace.until("disconnected").await;
        assert_eq!(end[..2], ["bytes_written 1", "ready_read 6"]);
        assert_eq!((socket.read_all().len(), socket.bytes_to_write()), (6, 0));
    }
    ids.dedup();
    assert_eq!(ids.len(), 3, "each dial has an id of its own");
}

#[tokio::test]
async fn a_slot_of_disconnected_may_dial_again_at_once() {
    let (listener, _socket) = redialling().await;
    for _ in 0..3 {
        drop(value(listener.accept()).await.unwrap());
    }
    drop(joined().await);
}
