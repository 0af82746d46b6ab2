//! TcpSocket: its ends.

use std::error::Error;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use signal_node::socket::Phase;
use signal_node::testing::SignalSpy;
use signal_node::{
    Endpoint, Reason, ServerOptions, SocketErrorKind, SocketOptions, State, TcpServer, TcpSocket,
};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{MOMENT, PATIENCE, hold_free_port, joined, joined_with, pattern, read_count, value};

/// Never within the time of a test.
fn patient() -> SocketOptions {
    SocketOptions { drain_timeout: PATIENCE * 100, ..SocketOptions::default() }
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

/// Copies the descriptor of a socket out of this very process.
fn descriptor(socket: &TcpSocket) -> std::os::fd::OwnedFd {
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
    let is = |end: Option<Endpoint>, address: std::io::Result<socket2::SockAddr>| {
        let address = address.ok().and_then(|address| address.as_socket()).map(Endpoint::from);
        address.is_some() && end == address
    };
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = numbers.map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap());
    let copies = numbers.filter_map(|number| pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).ok());
    let found = copies.into_iter().find(|copy| {
        let raw = SockRef::from(copy);
        is(socket.local_address(), raw.local_addr()) && is(socket.peer_address(), raw.peer_addr())
    });
    found.expect("it is open")
}

#[tokio::test]
async fn small_writes_go_at_once_unless_told_otherwise_on_dialled_and_accepted_sockets() {
    for no_delay in [true, false] {
        let socket = SocketOptions { no_delay, ..SocketOptions::default() };
        let server = TcpServer::new(ServerOptions { socket: socket.clone(), ..ServerOptions::default() });
        server.listen("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::with_options(socket);
        client.connect_to_host(server.server_address().unwrap()).unwrap();
        client.wait_for_connected(PATIENCE).await.unwrap();
        let accepted = value(server.next_pending_connection()).await.unwrap();
        for socket in [&client, &accepted] {
            assert_eq!(SockRef::from(&descriptor(socket)).tcp_nodelay().unwrap(), no_delay);
        }
    }
}

#[tokio::test]
async fn an_error_says_with_whom_in_which_phase_and_what_the_kernel_said() {
    let (socket, peer) = joined().await;
    let errors = SignalSpy::new(socket.error_occurred());
    let shown = socket.peer_address().unwrap().to_string();
    peer.set_zero_linger().unwrap();
    drop(peer);
    socket.wait_for_disconnected(PATIENCE).await.unwrap_err();
    let event = errors.take().remove(0);
    assert_eq!(
        (event.phase, event.error.to_string()),
        (Phase::Read, format!("{shown} reset the connection"))
    );
    let source = event.error.source().unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(source.kind(), std::io::ErrorKind::ConnectionReset);
    let (_held, address) = hold_free_port();
    socket.connect_to_host(address).unwrap();
    let error = socket.wait_for_connected(PATIENCE).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot connect to {address}: {address} refused the connection"));
    assert!(error.source().is_some());
    assert_eq!(errors.take()[0].phase, Phase::Connect);
}
