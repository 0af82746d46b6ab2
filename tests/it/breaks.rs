//! TcpSocket with `reconnect`: what readers and writers learn of a connection
//! that broke, and what the next one does not get.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use signal_node::testing::SignalSpy;
use signal_node::{Reconnect, SocketErrorKind, SocketOptions, TcpSocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::{MOMENT, PATIENCE, bound, hold_free_port, value};

/// A socket that comes back, its listener, and its first peer.
async fn coming_back() -> (TcpSocket, TcpListener, TcpStream) {
    let (listener, address) = bound().await;
    let reconnect = Reconnect { max: Duration::from_millis(20), ..Reconnect::default() };
    let socket =
        TcpSocket::with_options(SocketOptions { reconnect: Some(reconnect), ..SocketOptions::default() });
    socket.connect_to_host(address).unwrap();
    let peer = value(listener.accept()).await.unwrap().0;
    socket.wait_for_connected(PATIENCE).await.unwrap();
    (socket, listener, peer)
}

async fn next(socket: &TcpSocket, listener: &TcpListener) -> TcpStream {
    let connected = SignalSpy::new(socket.connected());
    let peer = value(listener.accept()).await.unwrap().0;
    assert!(connected.wait_for(1, PATIENCE).await);
    peer
}

fn abort(peer: TcpStream) {
    peer.set_zero_linger().unwrap();
    drop(peer);
}

#[tokio::test]
async fn what_came_before_the_break_is_read_before_its_end_and_what_came_after_behind_it() {
    for resets in [false, true] {
        let (mut socket, listener, mut peer) = coming_back().await;
        peer.write_all(b"old").await.unwrap();
        socket.wait_for_ready_read(PATIENCE).await.unwrap();
        if resets {
            abort(peer)
        } else {
            drop(peer)
        }
        let mut peer = next(&socket, &listener).await;
        let news = SignalSpy::new(socket.ready_read());
        assert!(news.wait_for(1, PATIENCE).await, "of what is unread already");
        peer.write_all(b"new").await.unwrap();
        assert!(news.wait_for(2, PATIENCE).await);
        let mut buffer = [0; 100];
        assert_eq!(value(AsyncReadExt::read(&mut socket, &mut buffer)).await.unwrap(), 3);
        assert_eq!(&buffer[..3], b"old");
        match value(socket.read(&mut buffer)).await {
            Ok(count) => assert!(count == 0 && !resets),
            Err(error) => assert!(resets && error.kind() == SocketErrorKind::ConnectionReset, "{error}"),
        }
        assert_eq!(value(socket.read(&mut buffer)).await.unwrap(), 3);
        assert_eq!(&buffer[..3], b"new");
    }
}

#[tokio::test]
async fn a_reader_that_waits_is_told_of_the_break_once_and_of_no_failed_dial() {
    let (socket, listener, peer) = coming_back().await;
    let address = listener.local_addr().unwrap();
    let (failed, reader) = (SignalSpy::new(socket.connect_failed()), socket.clone());
    let reads = async move {
        let mut buffer = [0; 100];
        let mut seen = Vec::new();
        for _ in 0..2 {
            seen.push(reader.read(&mut buffer).await.map(|count| buffer[..count].to_vec()));
        }
        seen
    };
    let mut reading = JoinSet::from_iter([reads]);
    drop(listener);
    drop(peer);
    assert!(failed.wait_for(2, PATIENCE).await);
    assert_eq!((failed.values()[0].attempt, failed.values()[1].attempt), (1, 2));
    let listener = TcpListener::bind(address).await.unwrap();
    let mut peer = next(&socket, &listener).await;
    peer.write_all(b"new").await.unwrap();
    let seen = value(reading.join_next()).await.unwrap().unwrap();
    assert_eq!(seen, [Ok(Vec::new()), Ok(b"new".to_vec())]);
}

#[tokio::test]
async fn when_it_does_not_come_back_a_reader_learns_why() {
    let (_held, address) = hold_free_port();
    let reconnect = Reconnect { min: Duration::from_millis(1), attempts: Some(2), ..Reconnect::default() };
    let socket =
        TcpSocket::with_options(SocketOptions { reconnect: Some(reconnect), ..SocketOptions::default() });
    socket.connect_to_host(address).unwrap();
    let failed = SignalSpy::new(socket.connect_failed());
    let error = value(socket.read(&mut [0])).await.unwrap_err();
    assert_eq!((error.kind(), failed.count()), (SocketErrorKind::ConnectionRefused, 3));
}

/// The rest of a message used to be sent to the next connection.
#[tokio::test]
async fn what_the_break_cut_is_not_finished_on_the_next_connection() {
    for by_trait in [false, true] {
        let (socket, listener, peer) = coming_back().await;
        let (ended, full) =
            (SignalSpy::new(socket.disconnected()), SignalSpy::new(socket.write_buffer_high()));
        let mut writer = socket.clone();
        let mut writing = JoinSet::from_iter([async move {
            let bytes = vec![b'x'; 64 << 20];
            match by_trait {
                true => writer.write_all(&bytes).await.map_err(|error| error.kind()),
                false => writer.write(&bytes).await.map_err(|error| std::io::Error::from(error).kind()),
            }
        }]);
        assert!(full.wait_for(1, PATIENCE).await);
        abort(peer);
        let mut peer = next(&socket, &listener).await;
        let error = value(writing.join_next()).await.unwrap().unwrap().unwrap_err();
        assert_eq!(error, std::io::ErrorKind::ConnectionReset);
        assert!(ended.values()[0].unsent > 0);
        socket.write(b"fresh").await.unwrap();
        let mut got = [0; 5];
        value(peer.read_exact(&mut got)).await.unwrap();
        assert_eq!(&got, b"fresh");
    }
}

#[tokio::test]
async fn the_next_write_by_awaiting_tells_of_the_break_unless_its_end_was_awaited() {
    for waits in [false, true] {
        let (mut socket, listener, mut peer) = coming_back().await;
        AsyncWriteExt::write_all(&mut socket, b"half a mess").await.unwrap();
        value(peer.read_exact(&mut [0; 11])).await.unwrap();
        abort(peer);
        let mut peer = next(&socket, &listener).await;
        if waits {
            socket.wait_for_connected(PATIENCE).await.unwrap();
        } else {
            let error = AsyncWriteExt::write_all(&mut socket, b"age").await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        AsyncWriteExt::write_all(&mut socket, b"fresh").await.unwrap();
        let mut got = [0; 5];
        value(peer.read_exact(&mut got)).await.unwrap();
        assert_eq!(&got, b"fresh");
    }
}

#[tokio::test]
async fn slots_read_one_connection_after_the_other_and_no_line_spans_both() {
    let (socket, listener, mut peer) = coming_back().await;
    peer.write_all(b"a\nhalf").await.unwrap();
    while socket.bytes_available() < 6 {
        socket.wait_for_ready_read(PATIENCE).await.unwrap();
    }
    drop(peer);
    let mut peer = next(&socket, &listener).await;
    let lines: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let sink = Arc::clone(&lines);
    let ready = SignalSpy::new(socket.ready_read());
    let slot = move |socket: &TcpSocket, _: &_| sink.lock().unwrap().extend(socket.read_line(100));
    socket.ready_read().connect_weak(&socket, slot).detach();
    peer.write_all(b"line\n").await.unwrap();
    while lines.lock().unwrap().len() < 3 {
        assert!(ready.wait_more(PATIENCE).await);
    }
    assert_eq!(*lines.lock().unwrap(), [b"a\n".as_slice(), b"half", b"line\n"]);
    assert!(!ready.wait_more(MOMENT).await);
}

#[tokio::test]
async fn a_dial_that_is_asked_for_begins_with_nothing_of_what_was() {
    let (listener, address) = bound().await;
    let socket = TcpSocket::new();
    for _ in 0..2 {
        socket.connect_to_host(address).unwrap();
        let mut peer = value(listener.accept()).await.unwrap().0;
        peer.write_all(b"unread").await.unwrap();
        socket.wait_for_ready_read(PATIENCE).await.unwrap();
        assert_eq!(socket.bytes_available(), 6);
        drop(peer);
        socket.wait_for_disconnected(PATIENCE).await.unwrap();
        assert_eq!(socket.peek(100), b"unread");
    }
}
