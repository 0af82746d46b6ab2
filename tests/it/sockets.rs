//! TcpSocket: what Qt's users expect of QTcpSocket, what they wish it did, and
//! what those who know tokio expect.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use signal_node::signal::{Delivery, Queue};
use signal_node::testing::SignalSpy;
use signal_node::{
    Reason, Reconnect, ServerOptions, SocketErrorKind, SocketOptions, State, TcpServer, TcpSocket,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

use crate::support::{
    PATIENCE, Trace, bound, hold_free_port, joined, joined_with, pattern, stuck_listener, value,
};

const MOMENT: Duration = Duration::from_millis(100);

/// Reads until as many bytes have come.
async fn read_count(socket: &TcpSocket, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        if socket.bytes_available() == 0 {
            socket.wait_for_ready_read(PATIENCE).await.unwrap();
        }
        bytes.extend(socket.read_all());
    }
    bytes
}

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
    assert_ne!(error.kind(), SocketErrorKind::ConnectionRefused, "{error}");
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
async fn what_was_written_is_what_bytes_written_says() {
    let (socket, mut peer) = joined().await;
    let spy = SignalSpy::new(socket.bytes_written());
    let mut expected = Vec::new();
    for size in [1, 100, 40_000] {
        let bytes = pattern(1, expected.len() as u64, size);
        socket.write(&bytes).await.unwrap();
        expected.extend(bytes);
    }
    let mut bytes = vec![0; expected.len()];
    value(peer.read_exact(&mut bytes)).await.unwrap();
    socket.flush().await.unwrap();
    assert!(bytes == expected && socket.bytes_to_write() == 0);
    while spy.values().iter().map(|written| written.bytes).sum::<usize>() < expected.len() {
        assert!(spy.wait_more(PATIENCE).await);
    }
    assert_eq!(spy.take().iter().map(|written| written.bytes).sum::<usize>(), expected.len());
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
async fn what_is_left_to_write_is_delivered_in_the_closing_state() {
    let options = SocketOptions {
        kernel_send_buffer: Some(4_096),
        write_buffer_size: 4 << 20,
        ..SocketOptions::default()
    };
    let (socket, mut peer) = joined_with(options).await;
    let bytes = pattern(3, 0, 4 << 20);
    socket.write(&bytes).await.unwrap();
    socket.disconnect_from_host();
    while socket.state() != State::Closing {
        tokio::task::yield_now().await;
    }
    assert!(socket.bytes_to_write() > 0);
    assert_eq!(socket.try_write(b"x").unwrap_err().kind(), SocketErrorKind::NotConnected);
    let mut got = Vec::new();
    value(peer.read_to_end(&mut got)).await.unwrap();
    assert!(got == bytes);
    drop(peer);
    socket.wait_for_disconnected(PATIENCE).await.unwrap();
    assert_eq!(socket.state(), State::Unconnected);
}

#[tokio::test]
async fn after_an_abort_there_is_nothing_left_to_read() {
    let (socket, mut peer) = joined().await;
    peer.write_all(b"hello").await.unwrap();
    socket.wait_for_ready_read(PATIENCE).await.unwrap();
    socket.abort();
    socket.wait_for_disconnected(PATIENCE).await.unwrap();
    assert_eq!((socket.bytes_available(), socket.read_all().len()), (0, 0));
    assert_eq!(value(peer.read(&mut [0])).await.unwrap(), 0, "with nothing unsent it is a clean end");
}

#[tokio::test]
async fn an_abort_that_loses_bytes_is_a_reset_for_the_peer() {
    let options = SocketOptions {
        kernel_send_buffer: Some(4_096),
        write_buffer_size: 4 << 20,
        ..SocketOptions::default()
    };
    let (socket, mut peer) = joined_with(options).await;
    let spy = SignalSpy::new(socket.disconnected());
    socket.write(&[7; 4 << 20]).await.unwrap();
    socket.abort();
    assert!(spy.wait_for(1, PATIENCE).await);
    let end = spy.take().remove(0);
    assert_eq!((end.reason, end.sent + end.unsent), (Reason::Aborted, 4 << 20));
    assert!(end.unsent > 0);
    let error = value(peer.read_to_end(&mut Vec::new())).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn abort_with_reset_is_a_reset_in_any_case() {
    let (socket, mut peer) = joined().await;
    socket.abort_with_reset();
    let error = value(peer.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn bytes_come_before_the_end_and_the_end_is_not_an_error() {
    let (socket, mut peer) = joined().await;
    assert!(socket.read_all().is_empty(), "open, and nothing yet");
    peer.write_all(b"hello").await.unwrap();
    drop(peer);
    let mut buffer = [0; 3];
    assert_eq!(socket.read(&mut buffer).await, Ok(3));
    assert_eq!(socket.read(&mut buffer).await, Ok(2));
    assert_eq!(socket.read(&mut buffer).await, Ok(0));
    assert_eq!(socket.read(&mut buffer).await, Ok(0), "and again");
    socket.wait_for_disconnected(PATIENCE).await.unwrap();
    assert_eq!(socket.write(b"x").await.unwrap_err().kind(), SocketErrorKind::NotConnected);
    let error = socket.wait_for_ready_read(PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), SocketErrorKind::NotConnected);
}

#[tokio::test]
async fn a_reset_and_a_clean_end_read_differently() {
    let (socket, mut peer) = joined().await;
    peer.write_all(b"hello").await.unwrap();
    socket.wait_for_ready_read(PATIENCE).await.unwrap();
    peer.set_zero_linger().unwrap();
    drop(peer);
    let mut buffer = [0; 9];
    assert_eq!(socket.read(&mut buffer).await, Ok(5), "what had come is not lost");
    assert_eq!(socket.read(&mut buffer).await.unwrap_err().kind(), SocketErrorKind::ConnectionReset);
}

/// Qt throws away what was written when the peer has finished.
#[tokio::test]
async fn the_peers_end_does_not_cancel_what_was_written() {
    let options = SocketOptions {
        kernel_send_buffer: Some(4_096),
        write_buffer_size: 4 << 20,
        ..SocketOptions::default()
    };
    let (socket, mut peer) = joined_with(options).await;
    let finished = SignalSpy::new(socket.read_finished());
    let bytes = pattern(4, 0, 4 << 20);
    socket.write(&bytes).await.unwrap();
    peer.shutdown().await.unwrap();
    assert!(finished.wait_for(1, PATIENCE).await);
    let mut got = Vec::new();
    value(peer.read_to_end(&mut got)).await.unwrap();
    assert!(got == bytes);
    socket.wait_for_disconnected(PATIENCE).await.unwrap();
}

/// An echo as every example of tokio writes it; the client finishes first.
#[tokio::test]
async fn a_reader_that_awaits_can_answer_after_the_peers_end() {
    let server = TcpServer::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(server.server_address().unwrap()).await.unwrap();
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut socket = value(server.next_pending_connection()).await.unwrap();
    let mut question = Vec::new();
    let mut buffer = [0; 3];
    loop {
        match value(AsyncReadExt::read(&mut socket, &mut buffer)).await.unwrap() {
            0 => break,
            count => {
                question.extend_from_slice(&buffer[..count]);
                socket.write_all(&buffer[..count]).await.unwrap();
            }
        }
    }
    let mut answer = Vec::new();
    value(client.read_to_end(&mut answer)).await.unwrap();
    assert_eq!((question, answer), (b"question".to_vec(), b"question".to_vec()));
    socket.wait_for_disconnected(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_half_open_socket_answers_as_late_as_it_likes() {
    let options = SocketOptions { allow_half_open: true, ..SocketOptions::default() };
    let (socket, mut peer) = joined_with(options).await;
    let finished = SignalSpy::new(socket.read_finished());
    peer.shutdown().await.unwrap();
    assert!(finished.wait_for(1, PATIENCE).await);
    assert_eq!(value(socket.read(&mut [0])).await, Ok(0));
    assert_eq!(socket.state(), State::Connected);
    socket.write(b"late").await.unwrap();
    socket.disconnect_from_host();
    let mut got = Vec::new();
    value(peer.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"late");
    socket.wait_for_disconnected(PATIENCE).await.unwrap();
    assert_eq!(finished.count(), 1);
}

#[tokio::test]
async fn one_half_can_be_finished_and_the_answer_read() {
    let (mut socket, mut peer) = joined().await;
    socket.write(b"question").await.unwrap();
    socket.shutdown().await.unwrap();
    assert_eq!(socket.write(b"x").await.unwrap_err().kind(), SocketErrorKind::NotConnected);
    let mut question = Vec::new();
    value(peer.read_to_end(&mut question)).await.unwrap();
    assert_eq!((question.as_slice(), socket.state()), (b"question".as_slice(), State::Connected));
    peer.write_all(b"answer").await.unwrap();
    drop(peer);
    let mut answer = Vec::new();
    value(socket.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"answer");
}

/// Qt leaves such a slot sitting on the second line until more comes.
#[tokio::test]
async fn a_slot_that_reads_one_line_at_a_time_gets_them_all() {
    let (socket, mut peer) = joined().await;
    let lines: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let sink = Arc::clone(&lines);
    let slot = move |socket: &TcpSocket, _: &_| sink.lock().unwrap().extend(socket.read_line(100));
    socket.ready_read().connect_weak(&socket, slot).detach();
    let spy = SignalSpy::new(socket.ready_read());
    peer.write_all(b"a\nb\nc\nrest").await.unwrap();
    assert!(spy.wait_for(4, PATIENCE).await);
    assert_eq!(*lines.lock().unwrap(), [b"a\n", b"b\n", b"c\n"]);
    // What is left is no line: asked once, and not again and again.
    assert!(!spy.wait_for(5, MOMENT).await);
    assert_eq!(socket.read_all(), b"rest");
}

#[tokio::test]
async fn bytes_nobody_reads_are_announced_as_they_come_and_not_twice() {
    let (socket, mut peer) = joined().await;
    let spy = SignalSpy::new(socket.ready_read());
    for (nth, all) in [b"abc".as_slice(), b"abcdef", b"abcdefghi"].into_iter().enumerate() {
        peer.write_all(&all[all.len() - 3..]).await.unwrap();
        assert!(spy.wait_for(nth + 1, PATIENCE).await);
        assert_eq!(socket.peek(100), all);
    }
    assert_eq!(socket.wait_for_ready_read(MOMENT).await.unwrap_err().kind(), SocketErrorKind::TimedOut);
    assert_eq!(spy.count(), 3);
    assert_eq!(
        (socket.skip(3), socket.read_available(2), socket.read_all()),
        (3, b"de".to_vec(), b"fghi".to_vec())
    );
}

#[tokio::test]
async fn a_slot_connected_while_bytes_are_unread_hears_of_them() {
    let (socket, mut peer) = joined().await;
    peer.write_all(b"early").await.unwrap();
    socket.wait_for_ready_read(PATIENCE).await.unwrap();
    let spy = SignalSpy::new(socket.ready_read());
    assert!(spy.wait_for(1, PATIENCE).await);
    assert_eq!(spy.take()[0].available, 5);
}

#[tokio::test]
async fn the_read_buffer_holds_exactly_what_it_may() {
    let options = SocketOptions { read_buffer_size: 256, ..SocketOptions::default() };
    let (socket, mut peer) = joined_with(options).await;
    let bytes = pattern(5, 0, 4_096);
    peer.write_all(&bytes).await.unwrap();
    for limit in [256, 384, 1_024] {
        socket.set_read_buffer_size(limit);
        while socket.bytes_available() < limit {
            socket.wait_for_ready_read(PATIENCE).await.unwrap();
        }
        let error = socket.wait_for_ready_read(PATIENCE).await.unwrap_err();
        assert_eq!((error.kind(), socket.bytes_available()), (SocketErrorKind::Full, limit));
    }
    socket.set_read_buffer_size(1 << 20);
    assert!(read_count(&socket, bytes.len()).await == bytes);
}

#[tokio::test]
async fn a_full_read_buffer_does_not_stop_writing() {
    let options = SocketOptions { read_buffer_size: 1, ..SocketOptions::default() };
    let (socket, mut peer) = joined_with(options).await;
    peer.write_all(b"unread").await.unwrap();
    socket.wait_for_ready_read(PATIENCE).await.unwrap();
    socket.write(b"hello").await.unwrap();
    value(peer.read_exact(&mut [0; 5])).await.unwrap();
    assert_eq!(read_count(&socket, 6).await, b"unread");
}

/// Qt does not notice until somebody reads.
#[tokio::test]
async fn an_abort_is_noticed_though_nothing_is_read() {
    for pauses in [true, false] {
        let options = SocketOptions { read_buffer_size: 4, ..SocketOptions::default() };
        let (socket, mut peer) = joined_with(options).await;
        let spy = SignalSpy::new(socket.disconnected());
        if pauses {
            socket.pause_reading();
        }
        peer.write_all(b"unread bytes").await.unwrap();
        if !pauses {
            socket.wait_for_ready_read(PATIENCE).await.unwrap();
        }
        peer.set_zero_linger().unwrap();
        drop(peer);
        assert!(spy.wait_for(1, PATIENCE).await, "paused: {pauses}");
        assert_eq!(spy.take()[0].reason, Reason::Reset);
    }
}

#[tokio::test]
async fn reading_can_be_paused() {
    let (socket, mut peer) = joined().await;
    socket.pause_reading();
    peer.write_all(b"hello").await.unwrap();
    // What was asked of the kernel before the pause may still come; this is asked after it.
    let error = socket.wait_for_ready_read(MOMENT).await;
    assert!(error.is_err_and(|error| error.kind() == SocketErrorKind::TimedOut));
    socket.resume_reading();
    assert_eq!(read_count(&socket, 5).await, b"hello");
}

#[tokio::test]
async fn lines_come_whole_and_none_is_longer_than_allowed() {
    let (socket, mut peer) = joined().await;
    peer.write_all(b"one\ntwo").await.unwrap();
    while !socket.can_read_line() {
        socket.wait_for_ready_read(PATIENCE).await.unwrap();
    }
    assert_eq!(socket.read_line(100).unwrap(), b"one\n");
    while socket.bytes_available() < 3 {
        socket.wait_for_ready_read(PATIENCE).await.unwrap();
    }
    assert_eq!((socket.can_read_line(), socket.read_line(100)), (false, None));
    assert_eq!(socket.read_line(2).unwrap(), b"tw", "a part, since no more was allowed");
    peer.write_all(b"\nlast").await.unwrap();
    drop(peer);
    while socket.wait_for_ready_read(PATIENCE).await.is_ok() {}
    assert_eq!(socket.read_line(100).unwrap(), b"o\n");
    assert_eq!(socket.read_line(100).unwrap(), b"last", "without its end, which will not come");
    assert_eq!(socket.read_line(100), None);
}

#[tokio::test]
async fn a_full_write_buffer_makes_writers_wait_and_says_so() {
    let options = SocketOptions { kernel_send_buffer: Some(4_096), ..SocketOptions::default() };
    let (socket, mut peer) = joined_with(options).await;
    let (high, low) = (SignalSpy::new(socket.write_buffer_high()), SignalSpy::new(socket.write_buffer_low()));
    let bytes = pattern(6, 0, 8 << 20);
    let (writer, copy) = (socket.clone(), bytes.clone());
    let mut tasks = JoinSet::from_iter([async move { writer.write(&copy).await }]);
    assert!(high.wait_for(1, PATIENCE).await);
    assert!(socket.bytes_to_write() <= socket.options().write_buffer_size);
    assert_eq!(low.count(), 0);
    // Nothing of what does not fit is taken.
    let refused = socket.try_write(&[0; 64 << 10]).unwrap_err();
    assert_eq!(refused.kind(), SocketErrorKind::Full);
    let mut got = vec![0; bytes.len()];
    value(peer.read_exact(&mut got)).await.unwrap();
    assert!(got == bytes);
    tasks.join_next().await.unwrap().unwrap().unwrap();
    assert!(low.wait_for(1, PATIENCE).await);
}

#[tokio::test]
async fn a_write_that_takes_too_long_says_so_and_harms_nothing() {
    let options = SocketOptions {
        kernel_send_buffer: Some(4_096),
        write_timeout: Some(MOMENT),
        read_timeout: Some(MOMENT),
        ..SocketOptions::default()
    };
    let (socket, mut peer) = joined_with(options).await;
    assert_eq!(socket.write(&[0; 16 << 20]).await.unwrap_err().kind(), SocketErrorKind::TimedOut);
    assert_eq!(socket.read(&mut [0]).await.unwrap_err().kind(), SocketErrorKind::TimedOut);
    assert_eq!(socket.flush().await.unwrap_err().kind(), SocketErrorKind::TimedOut);
    assert_eq!(socket.state(), State::Connected);
    peer.write_all(b"x").await.unwrap();
    assert_eq!(socket.read(&mut [0]).await, Ok(1));
}

#[tokio::test]
async fn a_peer_that_does_not_take_what_is_left_is_given_up() {
    let options = SocketOptions {
        kernel_send_buffer: Some(4_096),
        write_buffer_size: 16 << 20,
        drain_timeout: MOMENT,
        ..SocketOptions::default()
    };
    let (socket, mut peer) = joined_with(options).await;
    let spy = SignalSpy::new(socket.disconnected());
    socket.write(&[7; 16 << 20]).await.unwrap();
    let error = socket.close().await.unwrap_err();
    assert_eq!(error.kind(), SocketErrorKind::TimedOut, "{error}");
    let end = spy.take().remove(0);
    assert_eq!((end.reason, end.sent + end.unsent), (Reason::TimedOut, 16 << 20));
    assert!(end.unsent > 0 && error.to_string().contains(&end.unsent.to_string()), "{error}");
    let error = value(peer.read_to_end(&mut Vec::new())).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the peer does not take it for all");
}

#[tokio::test]
async fn a_peer_that_has_all_and_does_not_finish_is_left_after_the_time_to_drain() {
    let options = SocketOptions { drain_timeout: MOMENT, ..SocketOptions::default() };
    let (socket, mut peer) = joined_with(options).await;
    let spy = SignalSpy::new(socket.disconnected());
    socket.write(b"all").await.unwrap();
    socket.close().await.unwrap();
    let end = spy.take().remove(0);
    assert_eq!((end.reason, end.sent, end.unsent), (Reason::HalfClosed, 3, 0));
    let mut got = Vec::new();
    value(peer.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"all");
}

#[tokio::test]
async fn what_the_peer_sends_after_we_closed_keeps_nobody() {
    let options = SocketOptions { read_buffer_size: 10, ..SocketOptions::default() };
    let (socket, mut peer) = joined_with(options).await;
    let spy = SignalSpy::new(socket.disconnected());
    socket.disconnect_from_host();
    peer.write_all(&[1; 1 << 20]).await.unwrap();
    drop(peer);
    assert!(spy.wait_for(1, PATIENCE).await);
    let end = spy.take().remove(0);
    assert_eq!((end.reason, end.received, end.unread), (Reason::Closed, 1 << 20, 1 << 20));
    assert_eq!(socket.read_all().len(), 10);
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

#[tokio::test]
async fn a_wait_whose_time_passed_leaves_no_trace() {
    let (socket, peer) = joined().await;
    let error = socket.wait_for_ready_read(Duration::from_millis(1)).await.unwrap_err();
    assert_eq!((error.kind(), socket.error()), (SocketErrorKind::TimedOut, None));
    let error = socket.wait_for_disconnected(Duration::from_millis(1)).await.unwrap_err();
    assert_eq!((error.kind(), socket.state()), (SocketErrorKind::TimedOut, State::Connected));
    peer.set_zero_linger().unwrap();
    drop(peer);
    let error = socket.wait_for_disconnected(PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), SocketErrorKind::ConnectionReset, "the real one");
}

#[tokio::test]
async fn wait_for_bytes_written_sees_progress() {
    let (socket, mut peer) = joined().await;
    assert_eq!(socket.wait_for_bytes_written(PATIENCE).await, Ok(0), "nothing to wait for");
    socket.try_write(b"hello").unwrap();
    assert_eq!(socket.wait_for_bytes_written(PATIENCE).await, Ok(0));
    value(peer.read_exact(&mut [0; 5])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn megabytes_both_ways_at_once_are_exact() {
    // Either half ends when it is done, whatever the other does.
    let options = SocketOptions { allow_half_open: true, ..SocketOptions::default() };
    let server = TcpServer::new(ServerOptions { socket: options.clone(), ..ServerOptions::default() });
    server.listen("127.0.0.1:0").await.unwrap();
    let client = TcpSocket::with_options(options);
    client.connect_to_host(server.server_address().unwrap()).unwrap();
    let accepted = value(server.next_pending_connection()).await.unwrap();
    const SIZE: usize = 8 << 20;
    let mut tasks = JoinSet::new();
    for (socket, own, other) in [(client, 1, 2), (accepted, 2, 1)] {
        let mut writer = socket.clone();
        tasks.spawn(async move {
            for piece in 0..SIZE >> 16 {
                writer.write(&pattern(own, (piece << 16) as u64, 1 << 16)).await.unwrap();
            }
            writer.shutdown().await.unwrap();
        });
        let mut reader = socket;
        tasks.spawn(async move {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).await.unwrap();
            assert!(bytes == pattern(other, 0, SIZE));
            reader.wait_for_disconnected(PATIENCE).await.unwrap();
        });
    }
    while let Some(done) = value(tasks.join_next()).await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_slot_may_drop_the_last_handle_of_its_socket() {
    for signal in ["connected", "ready_read", "error_occurred", "disconnected"] {
        let (listener, address) = bound().await;
        let socket = TcpSocket::new();
        let trace = Trace::of(&socket);
        let hand = Arc::new(Mutex::new(Some(socket.clone())));
        let drops = move || drop(hand.lock().unwrap().take());
        match signal {
            "connected" => socket.connected().connect(move |_| drops()).detach(),
            "ready_read" => socket.ready_read().connect(move |_| drops()).detach(),
            "error_occurred" => socket.error_occurred().connect(move |_| drops()).detach(),
            _ => socket.disconnected().connect(move |_| drops()).detach(),
        }
        socket.connect_to_host(address).unwrap();
        drop(socket);
        let mut peer = value(listener.accept()).await.unwrap().0;
        peer.write_all(b"x").await.unwrap();
        if signal != "connected" {
            trace.until("ready_read").await;
        }
        if signal == "error_occurred" || signal == "disconnected" {
            peer.set_zero_linger().unwrap();
        }
        drop(peer);
        trace.until("disconnected").await;
    }
}

#[tokio::test]
async fn a_slot_that_panics_harms_neither_its_socket_nor_the_other_slots() {
    let (socket, mut peer) = joined().await;
    let panicked = SignalSpy::new(socket.slot_panicked());
    socket.ready_read().connect(|_| panic!("of this test")).detach();
    let spy = SignalSpy::new(socket.ready_read());
    for count in 1..=2 {
        peer.write_all(b"x").await.unwrap();
        assert!(spy.wait_for(count, PATIENCE).await && panicked.wait_for(count, PATIENCE).await);
    }
    assert_eq!(socket.read_all(), b"xx");
    assert_eq!(&*panicked.take()[0].message, "of this test");
}

#[tokio::test]
async fn a_subscriber_that_reads_nothing_slows_nothing_and_learns_what_it_missed() {
    let (socket, mut peer) = joined().await;
    let mut stream = socket.ready_read().stream(Queue::DropOldest(1));
    for _ in 0..50 {
        peer.write_all(b"x").await.unwrap();
        assert_eq!(value(socket.read(&mut [0])).await, Ok(1));
    }
    let missed = stream.missed();
    assert!(missed > 0);
    assert_eq!(stream.next().await, Some(Delivery::Lagged(missed)));
    assert!(matches!(stream.next().await, Some(Delivery::Item(_))));
}

#[tokio::test]
async fn an_accepted_socket_is_kept_by_its_own_slots_until_its_end_and_no_longer() {
    let server = TcpServer::bind("127.0.0.1:0").await.unwrap();
    let gone = Arc::new(AtomicUsize::new(0));
    struct Owned(Arc<AtomicUsize>);
    impl Drop for Owned {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let count = Arc::clone(&gone);
    let slot = move |client: &signal_node::server::NewConnection| {
        let socket = client.take().unwrap();
        let (own, owned) = (socket.clone(), Owned(Arc::clone(&count)));
        let echo = move |_: &_| {
            let _owned = &owned;
            own.try_write(&own.read_all()).unwrap();
        };
        socket.ready_read().connect(echo).detach();
    };
    server.new_connection().connect(slot).detach();
    let mut client = TcpStream::connect(server.server_address().unwrap()).await.unwrap();
    for _ in 0..3 {
        client.write_all(b"hello").await.unwrap();
        value(client.read_exact(&mut [0; 5])).await.unwrap();
    }
    assert_eq!(gone.load(Ordering::SeqCst), 0);
    client.shutdown().await.unwrap();
    value(client.read_to_end(&mut Vec::new())).await.unwrap();
    while gone.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_thousand_sockets_dropped_on_their_way_leave_nothing() {
    let (listener, address) = bound().await;
    for _ in 0..1_000 {
        let socket = TcpSocket::new();
        socket.connected().connect(|_| {}).detach();
        socket.connect_to_host(address).unwrap();
    }
    // Whoever still comes is gone at once.
    while let Ok(accepted) = tokio::time::timeout(MOMENT, listener.accept()).await {
        let mut peer = accepted.unwrap().0;
        let _ = value(peer.read(&mut [0])).await;
    }
    let metrics = tokio::runtime::Handle::current().metrics();
    while metrics.num_alive_tasks() > 0 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn sockets_may_be_used_from_any_thread() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(TcpServer::bind("127.0.0.1:0")).unwrap();
    let address = server.server_address().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let socket = runtime.block_on(TcpSocket::connect(address)).unwrap();
                let (said, heard) = std::sync::mpsc::sync_channel(1);
                socket
                    .ready_read()
                    .connect_weak(&socket, move |socket, _| {
                        let _ = said.try_send(socket.read_all());
                    })
                    .detach();
                // No runtime on this thread, only the handle.
                socket.try_write(b"from a thread").unwrap();
                assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), b"welcome");
            });
            let accepted = runtime.block_on(value(server.next_pending_connection())).unwrap();
            runtime.block_on(accepted.write(b"welcome")).unwrap();
            assert_eq!(runtime.block_on(read_count(&accepted, 13)), b"from a thread");
        }
    });
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
    let socket = TcpSocket::from_std(stream, SocketOptions::default()).unwrap();
    std::io::Write::write_all(&mut peer, b"hello").unwrap();
    assert_eq!(read_count(&socket, 5).await, b"hello");
}

#[tokio::test]
async fn a_slot_that_retries_a_large_write_when_there_is_room_gets_it_in() {
    let options = SocketOptions { kernel_send_buffer: Some(4_096), ..SocketOptions::default() };
    let (socket, mut peer) = joined_with(options).await;
    let (high, low) = (SignalSpy::new(socket.write_buffer_high()), SignalSpy::new(socket.write_buffer_low()));
    let never = socket.try_write(&[0; (64 << 10) + 1]).unwrap_err();
    assert!(never.kind() == SocketErrorKind::Full && never.to_string().contains("never"), "{never}");
    // More than half of the buffer, so that it does not fit where the buffer is half empty.
    let chunk = pattern(1, 0, 60 << 10);
    let again = chunk.clone();
    let retry = move |socket: &TcpSocket, _: &_| socket.try_write(&again).unwrap();
    let retrying = socket.write_buffer_low().connect_weak(&socket, retry);
    socket.try_write(&chunk).unwrap();
    assert_eq!(socket.try_write(&chunk).unwrap_err().kind(), SocketErrorKind::Full);
    let mut got = vec![0; 2 * chunk.len()];
    value(peer.read_exact(&mut got)).await.unwrap();
    assert!(got == [&chunk[..], &chunk].concat());
    assert_eq!((high.count(), low.count(), socket.slot_panicked().panics()), (1, 1, 0));
    assert!(retrying.is_connected());
}

#[tokio::test]
async fn a_slot_that_answers_the_echo_for_ever_leaves_others_their_turn() {
    let socket = TcpSocket::connect("echo:").await.unwrap();
    let rounds = SignalSpy::new(socket.bytes_written());
    let answer = |socket: &TcpSocket, _: &_| drop(socket.try_write(&socket.read_all()));
    socket.ready_read().connect_weak(&socket, answer).detach();
    socket.try_write(b"x").unwrap();
    assert!(rounds.wait_for(100, PATIENCE).await);
    socket.abort();
    let _ = value(socket.wait_for_disconnected(PATIENCE)).await;
}

/// Never within the time of a test.
fn patient() -> SocketOptions {
    SocketOptions { drain_timeout: PATIENCE * 100, ..SocketOptions::default() }
}

#[tokio::test]
async fn a_socket_that_was_awaited_once_and_is_read_by_slots_now_ends_with_its_peer() {
    let (socket, mut peer) = joined_with(patient()).await;
    peer.write_all(b"x").await.unwrap();
    socket.wait_for_ready_read(PATIENCE).await.unwrap();
    let spy = SignalSpy::new(socket.disconnected());
    socket.ready_read().connect_weak(&socket, |socket, _| drop(socket.read_all())).detach();
    drop(peer);
    assert!(spy.wait_for(1, PATIENCE).await);
}

#[tokio::test]
async fn who_waits_for_the_end_after_an_answer_gets_it() {
    let (socket, mut peer) = joined_with(patient()).await;
    socket.write(b"question").await.unwrap();
    value(peer.read_exact(&mut [0; 8])).await.unwrap();
    peer.write_all(b"answer").await.unwrap();
    assert_eq!(read_count(&socket, 6).await, b"answer");
    drop(peer);
    socket.wait_for_disconnected(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_peers_end_that_nobody_asks_for_ends_the_socket_after_the_time_to_drain() {
    let options = SocketOptions { drain_timeout: MOMENT, ..SocketOptions::default() };
    let (socket, mut peer) = joined_with(options).await;
    let spy = SignalSpy::new(socket.disconnected());
    peer.write_all(b"xy").await.unwrap();
    assert_eq!(value(socket.read(&mut [0])).await, Ok(1));
    drop(peer);
    assert!(spy.wait_for(1, PATIENCE).await);
    assert_eq!((spy.take()[0].reason, socket.read_all()), (Reason::Closed, b"y".to_vec()));
}

#[tokio::test]
async fn a_reset_after_the_peers_end_is_noticed() {
    let options = SocketOptions { allow_half_open: true, ..SocketOptions::default() };
    let (socket, mut peer) = joined_with(options).await;
    let (finished, ended) = (SignalSpy::new(socket.read_finished()), SignalSpy::new(socket.disconnected()));
    peer.shutdown().await.unwrap();
    assert!(finished.wait_for(1, PATIENCE).await);
    peer.set_zero_linger().unwrap();
    drop(peer);
    assert!(ended.wait_for(1, PATIENCE).await);
    assert_eq!(ended.take()[0].reason, Reason::Reset);
}

#[tokio::test]
async fn slots_that_answer_as_there_is_room_answer_all_to_a_peer_that_has_finished() {
    fn pump(socket: &TcpSocket) {
        loop {
            let chunk = socket.peek(4_096);
            if chunk.is_empty() || socket.try_write(&chunk).is_err() {
                return;
            }
            socket.skip(chunk.len());
        }
    }
    let options = SocketOptions {
        kernel_send_buffer: Some(4_096),
        write_buffer_size: 8 << 10,
        read_buffer_size: 4 << 20,
        ..patient()
    };
    let (socket, mut peer) = joined_with(options).await;
    let finished = SignalSpy::new(socket.read_finished());
    socket.ready_read().connect_weak(&socket, |socket, _| pump(socket)).detach();
    socket.write_buffer_low().connect_weak(&socket, |socket, _| pump(socket)).detach();
    let bytes = pattern(8, 0, 2 << 20);
    value(peer.write_all(&bytes)).await.unwrap();
    peer.shutdown().await.unwrap();
    assert!(finished.wait_for(1, PATIENCE).await, "before anything of the answer was read");
    let mut got = Vec::new();
    value(peer.read_to_end(&mut got)).await.unwrap();
    assert!(got == bytes, "{} of {}", got.len(), bytes.len());
    socket.wait_for_disconnected(PATIENCE).await.unwrap();
}

/// As `nc -N host port </dev/null` does.
#[tokio::test]
async fn a_client_that_finishes_before_it_is_served_is_served() {
    let server = TcpServer::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(server.server_address().unwrap()).await.unwrap();
    client.shutdown().await.unwrap();
    let socket = value(server.next_pending_connection()).await.unwrap();
    for _ in 0..1_000 {
        // Its task sees the end meanwhile.
        tokio::task::yield_now().await;
    }
    socket.write(b"You will learn a new word.\n").await.unwrap();
    socket.close().await.unwrap();
    let mut text = String::new();
    value(client.read_to_string(&mut text)).await.unwrap();
    assert!(text.contains("word"));
}

#[tokio::test]
async fn an_end_is_not_missed_when_a_slot_dials_again_at_once() {
    let (listener, address) = bound().await;
    let socket = TcpSocket::new();
    let again = move |socket: &TcpSocket, _: &_| socket.connect_to_host(address).unwrap();
    socket.disconnected().connect_weak(&socket, again).detach();
    socket.connect_to_host(address).unwrap();
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

#[tokio::test]
async fn a_write_that_fails_loses_nothing_of_what_had_come() {
    let options = SocketOptions { read_buffer_size: 10, ..patient() };
    let (socket, mut peer) = joined_with(options).await;
    let bytes = pattern(9, 0, 1_000);
    peer.write_all(&bytes).await.unwrap();
    socket.wait_for_ready_read(PATIENCE).await.unwrap();
    peer.set_zero_linger().unwrap();
    drop(peer);
    while socket.try_write(b"x").is_ok() {
        tokio::task::yield_now().await;
    }
    let (mut got, mut buffer) = (Vec::new(), [0; 7]);
    let error = loop {
        match value(socket.read(&mut buffer)).await {
            Ok(count) => got.extend_from_slice(&buffer[..count]),
            Err(error) => break error,
        }
    };
    assert!(got == bytes, "{} of {}", got.len(), bytes.len());
    assert_eq!(error.kind(), SocketErrorKind::ConnectionReset);
}

#[test]
fn a_socket_whose_runtime_is_gone_is_over() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (socket, _peer) = runtime.block_on(joined());
    drop(runtime);
    assert_eq!(socket.state(), State::Unconnected);
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = other.block_on(socket.wait_for_disconnected(PATIENCE)).unwrap_err();
    assert!(error.to_string().contains("runtime"), "{error}");
    assert_eq!(socket.try_write(b"x").unwrap_err(), error);
}
