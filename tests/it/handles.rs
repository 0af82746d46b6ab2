//! TcpSocket: the life of its handles, its slots, its task, and its runtime.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use signal_node::signal::Queue;
use signal_node::testing::SignalSpy;
use signal_node::{Signal, SocketErrorKind, SocketOptions, State, TcpServer, TcpSocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::StreamExt;

use crate::support::{MOMENT, PATIENCE, Trace, bound, joined, joined_with, pattern, read_count, value};

/// Dials again as it goes, from wherever that is.
struct Redials {
    socket: Arc<Mutex<Option<TcpSocket>>>,
    done: Arc<Notify>,
}

impl Drop for Redials {
    fn drop(&mut self) {
        self.socket.lock().unwrap().take().unwrap().connect_to_host("echo:").unwrap();
        self.done.notify_one();
    }
}

/// The task of the connection before took the new dial for its own, and ended it.
#[tokio::test]
async fn a_socket_dialled_while_its_last_task_takes_its_leave_is_connected() {
    let server = TcpServer::bind("127.0.0.1:0").await.unwrap();
    let client = TcpSocket::connect(server.server_address().unwrap()).await.unwrap();
    let accepted = value(server.next_pending_connection()).await.unwrap();
    let done = Arc::new(Notify::new());
    let redials = Redials { socket: Arc::new(Mutex::new(Some(accepted.clone()))), done: Arc::clone(&done) };
    let slot = move |_: &_| {
        let _goes_with_the_slot = &redials;
    };
    accepted.disconnected().connect(slot).detach();
    client.abort();
    value(done.notified()).await;
    accepted.wait_for_connected(PATIENCE).await.unwrap();
    assert_eq!((accepted.state(), accepted.error()), (State::Connected, None));
}

/// As above, on two threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_may_be_dialled_again_as_soon_as_it_is_closed() {
    let socket = TcpSocket::new();
    for round in 0..3_000 {
        socket.connect_to_host("echo:").unwrap();
        if let Err(error) = socket.wait_for_connected(PATIENCE).await {
            panic!("{round}: {error}");
        }
        socket.close().await.unwrap();
    }
}

/// A slot that owned its socket kept it for ever where the runtime went first.
#[test]
fn an_accepted_socket_is_let_go_of_by_its_own_slots_when_its_runtime_goes() {
    struct Flag(Arc<AtomicBool>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let gone = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _peer = runtime.block_on(async {
        let server = TcpServer::bind("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::connect(server.server_address().unwrap()).await.unwrap();
        let accepted = value(server.next_pending_connection()).await.unwrap();
        let owned = (accepted.clone(), Flag(Arc::clone(&gone)));
        let slot = move |_: &_| {
            let _owns = &owned;
        };
        accepted.ready_read().connect(slot).detach();
        client
    });
    drop(runtime);
    assert!(gone.load(Ordering::SeqCst), "the socket keeps itself");
}

/// A writer that had given up was waited for after the peer's end.
#[tokio::test]
async fn a_writer_that_gave_up_does_not_keep_the_socket() {
    let options = SocketOptions { drain_timeout: PATIENCE * 100, ..SocketOptions::default() };
    let (socket, mut peer) = joined_with(options).await;
    timeout(MOMENT, socket.write(&[0; 64 << 20])).await.unwrap_err();
    peer.shutdown().await.unwrap();
    assert_eq!(value(socket.read(&mut [0])).await, Ok(0));
    value(peer.read_to_end(&mut Vec::new())).await.unwrap();
    socket.wait_for_disconnected(PATIENCE).await.unwrap();
}

/// Whoever had waited for the end in vain was taken for one who has nothing more to write.
#[tokio::test]
async fn a_wait_for_the_end_that_was_in_vain_changes_nothing() {
    let options = SocketOptions { drain_timeout: PATIENCE * 100, ..SocketOptions::default() };
    let (socket, mut peer) = joined_with(options).await;
    let error = socket.wait_for_disconnected(MOMENT).await.unwrap_err();
    assert_eq!(error.kind(), SocketErrorKind::TimedOut);
    peer.write_all(b"question").await.unwrap();
    peer.shutdown().await.unwrap();
    while !socket.is_peer_finished() {
        tokio::task::yield_now().await;
    }
    socket.write(b"answer").await.unwrap();
    let mut answer = [0; 6];
    value(peer.read_exact(&mut answer)).await.unwrap();
}

/// Tells whether another task of this thread has its turn before `busy` is through.
async fn leaves_others_their_turn(busy: impl Future<Output = ()> + Send + 'static) -> bool {
    let (had_turn, ends) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (turn, end) = (Arc::clone(&had_turn), Arc::clone(&ends));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        busy.await;
        end.store(true, Ordering::SeqCst);
    });
    tasks.spawn(async move { turn.store(!ends.load(Ordering::SeqCst), Ordering::SeqCst) });
    while value(tasks.join_next()).await.is_some_and(|joined| joined.is_ok()) {}
    had_turn.load(Ordering::SeqCst)
}

/// A `timeout` around a loop of such calls, too, has its turn only if they leave it one.
#[tokio::test]
async fn who_always_finds_something_leaves_others_their_turn() {
    let signal = Signal::<u32>::new();
    let mut stream = signal.view().stream(Queue::DropOldest(10_000));
    (0..10_000).for_each(|value| signal.emit(&value));
    drop(signal);
    assert!(
        leaves_others_their_turn(async move { while stream.next().await.is_some() {} }).await,
        "a stream"
    );

    let (socket, mut peer) = joined().await;
    let (reader, mut trait_reader) = (socket.clone(), socket.clone());
    peer.write_all(&pattern(1, 0, 20_000)).await.unwrap();
    while socket.bytes_available() < 20_000 {
        tokio::task::yield_now().await;
    }
    let reads = async move {
        for _ in 0..10_000 {
            reader.read(&mut [0]).await.unwrap();
        }
    };
    assert!(leaves_others_their_turn(reads).await, "read");
    let reads = async move {
        for _ in 0..10_000 {
            trait_reader.read_u8().await.unwrap();
        }
    };
    assert!(leaves_others_their_turn(reads).await, "AsyncRead");

    let (writer, mut trait_writer) = (socket.clone(), socket.clone());
    let writes = async move {
        for _ in 0..10_000 {
            writer.write(b"x").await.unwrap();
        }
    };
    assert!(leaves_others_their_turn(writes).await, "write");
    let writes = async move {
        for _ in 0..10_000 {
            trait_writer.write_u8(1).await.unwrap();
        }
    };
    assert!(leaves_others_their_turn(writes).await, "AsyncWrite");
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
    while let Ok(accepted) = timeout(MOMENT, listener.accept()).await {
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

#[test]
fn a_dial_whose_runtime_goes_before_it_began_is_over() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let socket = TcpSocket::new();
    // Nobody polls its task.
    let entered = runtime.enter();
    socket.connect_to_host("127.0.0.1:9").unwrap();
    drop(entered);
    drop(runtime);
    assert_eq!(socket.state(), State::Unconnected);
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    other.block_on(async {
        let error = socket.wait_for_connected(PATIENCE).await.unwrap_err();
        assert!(error.to_string().contains("runtime"), "{error}");
        // Another runtime takes it on.
        socket.connect_to_host("echo:").unwrap();
        socket.wait_for_connected(PATIENCE).await.unwrap();
    });
}
