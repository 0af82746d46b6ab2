//! TcpServer: what Qt's users expect of QTcpServer, and what they wish it did.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_node::testing::SignalSpy;
use signal_node::{
    AccessList, Endpoint, ListenOptions, ServerOptions, SocketErrorKind, State, TcpServer, TcpSocket,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;

use crate::support::{PATIENCE, in_own_process, value};

/// Long enough to notice what must not happen.
const MOMENT: Duration = Duration::from_millis(100);

async fn server_with(options: ServerOptions) -> (TcpServer, SocketAddr) {
    let server = TcpServer::new(options);
    server.listen("127.0.0.1:0").await.unwrap();
    let address = server.server_address().unwrap();
    (server, address)
}

async fn server() -> (TcpServer, SocketAddr) {
    server_with(ServerOptions::default()).await
}

#[tokio::test]
async fn a_fresh_server_does_nothing() {
    let server = TcpServer::new(ServerOptions::default());
    assert!(!server.is_listening() && !server.has_pending_connections());
    assert_eq!((server.server_address(), server.addresses().len()), (None, 0));
    assert!(server.take_pending_connection().is_none());
    assert!(server.next_pending_connection().await.is_none());
    let error = server.wait_for_new_connection(PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), SocketErrorKind::NotConnected);
    assert_eq!(server.close().await, 0);
}

#[tokio::test]
async fn one_client_is_one_new_connection_and_bytes_go_both_ways() {
    let (server, address) = server().await;
    let spy = SignalSpy::new(server.new_connection());
    let client = TcpSocket::connect(address).await.unwrap();
    let accepted = value(server.next_pending_connection()).await.unwrap();
    client.write(b"ping").await.unwrap();
    accepted.wait_for_ready_read(PATIENCE).await.unwrap();
    assert_eq!(accepted.read_all(), b"ping");
    accepted.write(b"pong").await.unwrap();
    client.wait_for_ready_read(PATIENCE).await.unwrap();
    assert_eq!(client.read_all(), b"pong");
    assert_eq!(
        (accepted.peer_address(), client.peer_address()),
        (client.local_address(), accepted.local_address())
    );
    let seen = spy.take();
    assert_eq!((seen.len(), seen[0].connection), (1, accepted.connection()));
    assert_eq!(Some(seen[0].peer.clone()), client.local_address());
}

#[tokio::test]
async fn a_wildcard_takes_both_families_and_a_single_family_takes_one() {
    for (listen, v4, v6) in [("0", true, true), ("0.0.0.0:0", true, false), ("[::1]:0", false, true)] {
        let server = TcpServer::bind(listen).await.unwrap();
        let port = server.server_address().unwrap().port();
        for (host, expected) in [("127.0.0.1", v4), ("[::1]", v6)] {
            let dialled = TcpSocket::connect(format!("{host}:{port}")).await;
            assert_eq!(dialled.is_ok(), expected, "{host} to {listen}");
            if let Ok(client) = dialled {
                let accepted = value(server.next_pending_connection()).await.unwrap();
                let seen = accepted.peer_address();
                assert_eq!(seen, client.local_address(), "IPv4 clients are shown as such");
            }
        }
    }
}

#[tokio::test]
async fn a_server_can_be_closed_at_any_time_and_listen_again() {
    let server = TcpServer::new(ServerOptions::default());
    server.close().await;
    for _ in 0..3 {
        server.listen("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::connect(server.server_address().unwrap()).await.unwrap();
        let accepted = value(server.next_pending_connection()).await.unwrap();
        assert_eq!(server.close().await, 0);
        assert!(!server.is_listening());
        // What was handed out lives on.
        accepted.write(b"x").await.unwrap();
        client.wait_for_ready_read(PATIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn at_the_cap_of_pending_clients_accepting_stops() {
    let (server, address) =
        server_with(ServerOptions { max_pending_connections: 2, ..Default::default() }).await;
    let spy = SignalSpy::new(server.new_connection());
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(TcpSocket::connect(address).await.unwrap());
    }
    assert!(spy.wait_for(2, PATIENCE).await);
    assert!(!spy.wait_for(3, MOMENT).await, "a third was accepted");
    let _first = server.take_pending_connection().unwrap();
    assert!(spy.wait_for(3, PATIENCE).await);
    let _others = [server.take_pending_connection().unwrap(), server.take_pending_connection().unwrap()];
    assert!(server.take_pending_connection().is_none());
    server.set_max_pending_connections(1);
    let _more = [TcpSocket::connect(address).await.unwrap(), TcpSocket::connect(address).await.unwrap()];
    assert!(spy.wait_for(4, PATIENCE).await);
    assert!(!spy.wait_for(5, MOMENT).await);
}

#[tokio::test]
async fn a_foreign_address_is_refused_with_its_reason() {
    let error = TcpServer::bind("192.0.2.1:0").await.unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::AddrNotAvailable);
    assert!(error.to_string().contains("192.0.2.1:0") && error.hint.is_some(), "{error}");
    for (bad, word) in [("nonsense::", "cannot"), ("echo:", "cannot"), ("stdio:", "cannot")] {
        let error = TcpServer::bind(bad).await.unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn a_second_listen_fails_and_the_first_goes_on() {
    let (server, address) = server().await;
    server.listen("127.0.0.1:0").await.unwrap_err();
    assert_eq!(server.server_address(), Some(address));
    let _client = TcpSocket::connect(address).await.unwrap();
    assert!(value(server.next_pending_connection()).await.is_some());
}

#[tokio::test]
async fn two_servers_cannot_have_one_port() {
    let (_server, address) = server().await;
    let error = TcpServer::bind(address).await.unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn a_port_is_free_again_at_once_though_a_connection_lives_on() {
    let (server, address) = server().await;
    let client = TcpSocket::connect(address).await.unwrap();
    let accepted = value(server.next_pending_connection()).await.unwrap();
    server.close().await;
    let again = TcpServer::bind(address).await.unwrap();
    let _second = TcpSocket::connect(address).await.unwrap();
    assert!(value(again.next_pending_connection()).await.is_some());
    drop((client, accepted));
}

#[tokio::test]
async fn waiting_for_a_client_ends_with_its_time_or_with_a_client() {
    let (server, address) = server().await;
    let error = server.wait_for_new_connection(Duration::from_millis(10)).await.unwrap_err();
    assert_eq!(error.kind(), SocketErrorKind::TimedOut);
    let _client = TcpSocket::connect(address).await.unwrap();
    server.wait_for_new_connection(PATIENCE).await.unwrap();
    assert!(server.has_pending_connections());
}

#[tokio::test]
async fn a_socket_that_listens_already_is_taken_over() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = TcpServer::from_std(listener, ServerOptions::default()).unwrap();
    assert_eq!(server.server_address(), Some(address));
    let _client = TcpSocket::connect(address).await.unwrap();
    assert!(value(server.next_pending_connection()).await.is_some());
}

/// Qt undoes a pause when the next client is fetched.
#[tokio::test]
async fn a_pause_lasts_until_it_is_ended() {
    let (server, address) = server().await;
    let spy = SignalSpy::new(server.new_connection());
    let _first = TcpSocket::connect(address).await.unwrap();
    assert!(spy.wait_for(1, PATIENCE).await);
    server.pause_accepting();
    let mut clients = Vec::new();
    for _ in 0..5 {
        // The kernel answers them; they believe that they are connected.
        clients.push(TcpSocket::connect(address).await.unwrap());
    }
    assert!(server.take_pending_connection().is_some());
    assert!(!spy.wait_for(2, MOMENT).await, "accepted while paused");
    server.resume_accepting();
    assert!(spy.wait_for(6, PATIENCE).await);
}

#[tokio::test]
async fn a_pause_before_listening_holds() {
    let server = TcpServer::new(ServerOptions::default());
    server.pause_accepting();
    server.listen("127.0.0.1:0").await.unwrap();
    let spy = SignalSpy::new(server.new_connection());
    let _client = TcpSocket::connect(server.server_address().unwrap()).await.unwrap();
    assert!(!spy.wait_for(1, MOMENT).await);
    server.resume_accepting();
    assert!(spy.wait_for(1, PATIENCE).await);
}

#[tokio::test]
async fn a_client_taken_in_a_slot_is_not_pending_and_is_taken_once() {
    let (server, address) = server().await;
    let taken: Arc<Mutex<Vec<TcpSocket>>> = Arc::default();
    let sink = Arc::clone(&taken);
    let _first = server.new_connection().connect(move |client| sink.lock().unwrap().extend(client.take()));
    let _second = server.new_connection().connect(|client| assert!(client.take().is_none()));
    let spy = SignalSpy::new(server.new_connection());
    let _client = TcpSocket::connect(address).await.unwrap();
    assert!(spy.wait_for(1, PATIENCE).await);
    assert_eq!((taken.lock().unwrap().len(), server.has_pending_connections()), (1, false));
    assert_eq!(server.new_connection().panics(), 0);
}

/// Qt deletes them without a word, and they see a clean end.
#[tokio::test]
async fn closing_says_how_many_were_not_served_and_they_are_reset() {
    let (server, address) = server().await;
    let spy = SignalSpy::new(server.new_connection());
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(TcpStream::connect(address).await.unwrap());
    }
    assert!(spy.wait_for(3, PATIENCE).await);
    assert_eq!(server.close().await, 3);
    for mut client in clients {
        let error = value(client.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn no_more_than_the_allowed_number_live_at_once() {
    let options = ServerOptions { max_connections: Some(2), ..Default::default() };
    let (server, address) = server_with(options).await;
    let spy = SignalSpy::new(server.new_connection());
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(TcpStream::connect(address).await.unwrap());
    }
    let first = value(server.next_pending_connection()).await.unwrap();
    let _second = value(server.next_pending_connection()).await.unwrap();
    assert!(!spy.wait_for(3, MOMENT).await);
    first.abort();
    assert!(spy.wait_for(3, PATIENCE).await);
}

#[tokio::test]
async fn who_may_not_connect_is_reset_and_named() {
    let mut options = ServerOptions::default();
    options.access.deny("127.0.0.2").unwrap();
    let (server, address) = server_with(options).await;
    let (rejected, accepted) =
        (SignalSpy::new(server.accept_rejected()), SignalSpy::new(server.new_connection()));
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut client = socket.connect(address).await.unwrap();
    let error = value(client.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(rejected.wait_for(1, PATIENCE).await);
    let Endpoint::Tcp(peer) = rejected.take()[0].peer.clone() else { panic!("not TCP") };
    assert_eq!((peer, accepted.count()), (client.local_addr().unwrap_or(peer), 0));
    let _welcome = TcpStream::connect(address).await.unwrap();
    assert!(accepted.wait_for(1, PATIENCE).await);
}

#[tokio::test]
async fn a_slot_that_panics_takes_neither_the_server_nor_its_clients_down() {
    let (server, address) = server().await;
    let panicked = SignalSpy::new(server.slot_panicked());
    let _slot = server.new_connection().connect(|_| panic!("of this test"));
    for count in 1..=2 {
        let _client = TcpSocket::connect(address).await.unwrap();
        assert!(value(server.next_pending_connection()).await.is_some());
        assert!(panicked.wait_for(count, PATIENCE).await);
    }
}

#[tokio::test]
async fn a_unix_socket_is_served_by_the_same_code() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix:{}/door", folder.path().display());
    let server = TcpServer::bind(&address).await.unwrap();
    let client = TcpSocket::connect(&address).await.unwrap();
    let accepted = value(server.next_pending_connection()).await.unwrap();
    client.write(b"hello").await.unwrap();
    client.shutdown_write();
    let mut bytes = Vec::new();
    let mut reader = accepted.clone();
    value(reader.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(bytes, b"hello");
    server.close().await;
    assert!(!folder.path().join("door").exists());
}

#[tokio::test]
async fn a_server_dropped_in_its_own_slot_stops() {
    let (server, address) = server().await;
    let hand = Arc::new(Mutex::new(Some(server.clone())));
    server.new_connection().connect(move |_| drop(hand.lock().unwrap().take())).detach();
    drop(server);
    let mut client = TcpStream::connect(address).await.unwrap();
    // Reset, or closed, but not left hanging.
    let _ = value(client.read(&mut [0])).await;
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_is_gone_before_it_is_accepted_harms_nobody() {
    let (server, address) = server().await;
    let errors = SignalSpy::new(server.accept_error());
    server.pause_accepting();
    for _ in 0..20 {
        let client = TcpStream::connect(address).await.unwrap();
        client.set_zero_linger().unwrap();
    }
    server.resume_accepting();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"x").await.unwrap();
    loop {
        let accepted = value(server.next_pending_connection()).await.unwrap();
        if matches!(accepted.read(&mut [0]).await, Ok(1)) {
            break;
        }
    }
    assert_eq!(errors.count(), 0);
}

#[test]
fn running_out_of_descriptors_stops_nobody_for_good() {
    in_own_process("server::out_of_descriptors", "");
}

#[test]
#[ignore = "changes the limits of its process; run by the test above"]
fn out_of_descriptors() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (server, address) = server().await;
        let errors = SignalSpy::new(server.accept_error());
        let client = TcpSocket::connect(address).await.unwrap();
        let accepted = value(server.next_pending_connection()).await.unwrap();
        let maximum = getrlimit(Resource::Nofile).maximum;
        let limit =
            |current| setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).unwrap();
        server.pause_accepting();
        let _late = TcpSocket::connect(address).await.unwrap();
        // Fewer than are open already: every accept fails, and every dial.
        limit(3);
        server.resume_accepting();
        let failed = TcpSocket::connect(address).await.unwrap_err();
        assert_eq!(failed.kind(), SocketErrorKind::ResourceLimit, "{failed}");
        assert!(errors.wait_for(2, PATIENCE).await);
        let seen = errors.take();
        assert_eq!((seen[0].error.kind(), seen[1].count), (SocketErrorKind::ResourceLimit, 2));
        client.write(b"x").await.unwrap();
        accepted.wait_for_ready_read(PATIENCE).await.unwrap();
        limit(1_000);
        assert!(value(server.next_pending_connection()).await.is_some());
    });
}

#[tokio::test]
async fn what_the_listener_allows_holds_as_what_the_server_does() {
    let mut options = ServerOptions { max_connections: Some(9), ..Default::default() };
    options.listen.max_connections = Some(1);
    options.listen.access.deny("127.0.0.2").unwrap();
    options.access.deny("127.0.0.3").unwrap();
    let (server, address) = server_with(options.clone()).await;
    let spy = SignalSpy::new(server.new_connection());
    for denied in ["127.0.0.2:0", "127.0.0.3:0"] {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(denied.parse().unwrap()).unwrap();
        let mut client = socket.connect(address).await.unwrap();
        let error = value(client.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{denied}");
    }
    let _clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    assert!(spy.wait_for(1, PATIENCE).await);
    assert!(!spy.wait_for(2, MOMENT).await, "only one at once");

    let folder = tempfile::tempdir().unwrap();
    let path = format!("unix:{}/door", folder.path().display());
    let error = TcpServer::new(options).listen(&path).await.unwrap_err();
    assert!(error.source.to_string().contains("Unix"), "{error}: {}", error.source);
    assert!(!folder.path().join("door").exists());
}

#[tokio::test]
async fn the_clients_are_a_stream_that_ends_with_the_server() {
    let (server, address) = server().await;
    let mut clients = server.incoming();
    let mut dialled = Vec::new();
    for _ in 0..3 {
        dialled.push(TcpSocket::connect(address).await.unwrap());
    }
    for _ in 0..3 {
        assert_eq!(value(clients.next()).await.unwrap().state(), State::Connected);
    }
    server.close().await;
    assert!(value(clients.next()).await.is_none());
    server.listen(address).await.unwrap();
    let _late = TcpSocket::connect(address).await.unwrap();
    assert!(value(clients.next()).await.is_some(), "it listens again");
    drop(server);
    let _later = TcpSocket::connect(address).await.unwrap();
    assert!(value(clients.next()).await.is_some(), "the stream is a handle too");
}

#[tokio::test]
async fn a_socket_that_is_taken_over_gets_the_options_of_the_listener() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut access = AccessList::default();
    access.allow("127.0.0.2").unwrap();
    let listen = ListenOptions { backlog: Some(1), access, ..ListenOptions::default() };
    let server = TcpServer::from_std(listener, ServerOptions { listen, ..ServerOptions::default() }).unwrap();
    let rejected = SignalSpy::new(server.accept_rejected());
    server.pause_accepting();
    let connects = || tokio::time::timeout(MOMENT, TcpStream::connect(address));
    let mut waiting = Vec::new();
    while let Ok(stream) = connects().await {
        waiting.push(stream.unwrap());
        assert!(waiting.len() < 10, "the standard library asks for more");
    }
    server.resume_accepting();
    assert!(rejected.wait_for(waiting.len(), PATIENCE).await);
}

#[test]
fn a_server_whose_runtime_is_gone_does_not_listen() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (server, address) = runtime.block_on(server());
    drop(runtime);
    assert_eq!((server.is_listening(), server.server_address()), (false, None));
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    other.block_on(async {
        assert!(value(server.next_pending_connection()).await.is_none());
        server.listen(address).await.unwrap();
        let _client = TcpSocket::connect(address).await.unwrap();
        assert!(value(server.next_pending_connection()).await.is_some());
    });
}
