//! TcpSocket: bytes in its two bounded buffers, and who waits for whom.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use signal_node::signal::{Delivery, Queue};
use signal_node::testing::SignalSpy;
use signal_node::{ServerOptions, SocketErrorKind, SocketOptions, State, TcpServer, TcpSocket};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

use crate::support::{MOMENT, PATIENCE, joined, joined_with, pattern, read_count, value};

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

#[tokio::test]
async fn a_peers_end_is_noticed_though_nothing_is_read() {
    for pauses in [false, true] {
        let options = SocketOptions { read_buffer_size: 4, ..SocketOptions::default() };
        let (socket, mut peer) = joined_with(options).await;
        let finished = SignalSpy::new(socket.read_finished());
        peer.write_all(b"full").await.unwrap();
        while socket.bytes_available() < 4 {
            socket.wait_for_ready_read(PATIENCE).await.unwrap();
        }
        if pauses {
            socket.pause_reading();
            assert_eq!(socket.read_all(), b"full");
        }
        drop(peer);
        assert!(finished.wait_for(1, PATIENCE).await, "{pauses}");
        socket.wait_for_disconnected(PATIENCE).await.unwrap();
        assert_eq!(socket.read_all().len(), if pauses { 0 } else { 4 });
    }
}

#[tokio::test]
async fn a_peers_end_behind_bytes_that_find_no_room_is_known_and_loses_none() {
    let options = SocketOptions { read_buffer_size: 4, ..SocketOptions::default() };
    let (socket, mut peer) = joined_with(options).await;
    let finished = SignalSpy::new(socket.read_finished());
    peer.write_all(b"more than fits").await.unwrap();
    drop(peer);
    let looks = async {
        while !socket.is_peer_finished() {
            tokio::time::sleep(MOMENT).await;
        }
    };
    value(looks).await;
    assert_eq!((socket.state(), finished.count()), (State::Connected, 0), "there is more to read");
    assert_eq!(read_count(&socket, 14).await, b"more than fits");
    assert_eq!(socket.read(&mut [0]).await, Ok(0));
}

#[tokio::test]
async fn what_is_shown_to_a_buffered_reader_stays_until_it_is_consumed() {
    let (socket, mut peer) = joined().await;
    let mut reader = socket.clone();
    peer.write_all(b"abcdef").await.unwrap();
    assert_eq!(value(reader.fill_buf()).await.unwrap(), b"abcdef");
    assert_eq!(socket.peek(100), b"abcdef");
    reader.consume(1);
    // What another handle takes is not taken twice, and not shown again.
    assert_eq!(socket.read_available(2), b"bc");
    assert_eq!(value(reader.fill_buf()).await.unwrap(), b"def");
    assert_eq!(socket.read_available(1), b"d");
    reader.consume(2);
    assert_eq!((socket.bytes_available(), socket.read_all()), (1, b"f".to_vec()));
}

#[tokio::test]
async fn lines_of_any_length_come_by_the_trait() {
    let (socket, mut peer) =
        joined_with(SocketOptions { read_buffer_size: 100, ..SocketOptions::default() }).await;
    let expected: Vec<String> = (0..200).map(|i| "x".repeat(i * 7 % 500)).collect();
    let text = expected.join("\n");
    let mut writing = JoinSet::from_iter([async move {
        peer.write_all(text.as_bytes()).await.unwrap();
    }]);
    let (mut lines, mut got) = (AsyncBufReadExt::lines(socket), Vec::new());
    while let Some(line) = value(lines.next_line()).await.unwrap() {
        got.push(line);
    }
    assert_eq!(got, expected);
    writing.join_next().await.unwrap().unwrap();
}
