//! Qt itself: a QTcpSocket and a QTcpServer, compiled here, against ours and
//! through the relay.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use signal_node::testing::SignalSpy;
use signal_node::{Reason, TcpServer, TcpSocket};
use tokio::io::AsyncReadExt;

use crate::support::{NodeProcess, PATIENCE, Running, Trace, pattern, qt_peer, value};

const SIZE: usize = 300_000;

fn client(program: &Path, address: SocketAddr) -> (Running, BufReader<std::process::ChildStdout>) {
    let mut command = Command::new(program);
    command.args(["client", &address.port().to_string(), &SIZE.to_string()]);
    started(&mut command)
}

fn server(program: &Path) -> (Running, BufReader<std::process::ChildStdout>, SocketAddr) {
    let (running, mut lines) = started(Command::new(program).arg("server"));
    let port = line(&mut lines).parse().unwrap();
    (running, lines, SocketAddr::from(([127, 0, 0, 1], port)))
}

fn started(command: &mut Command) -> (Running, BufReader<std::process::ChildStdout>) {
    let mut running = Running::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let lines = BufReader::new(running.child.stdout.take().unwrap());
    (running, lines)
}

fn line(lines: &mut impl BufRead) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Waits for a Qt program, off the runtime's thread.
async fn ended(running: Running) -> i32 {
    let ended = tokio::task::spawn_blocking(move || running.wait().code().unwrap());
    value(ended).await.unwrap()
}

#[tokio::test]
async fn a_qt_client_is_served_by_slots_and_ends_cleanly() {
    let Some(program) = qt_peer() else { return };
    let server = TcpServer::bind("127.0.0.1:0").await.unwrap();
    let (hand, mut ends) = tokio::sync::mpsc::channel(1);
    let slot = move |client: &signal_node::server::NewConnection| {
        let socket = client.take().unwrap();
        // What does not fit now waits in the read buffer for bytes_written.
        let echo = |socket: &TcpSocket| {
            let room = socket.options().write_buffer_size - socket.bytes_to_write();
            socket.try_write(&socket.read_available(room)).unwrap();
        };
        socket.ready_read().connect_weak(&socket, move |socket, _| echo(socket)).detach();
        socket.bytes_written().connect_weak(&socket, move |socket, _| echo(socket)).detach();
        let (hand, own) = (hand.clone(), socket.clone());
        socket.disconnected().connect(move |end| hand.try_send((end.clone(), own.clone())).unwrap()).detach();
    };
    server.new_connection().connect(slot).detach();
    let (running, mut lines) = client(&program, server.server_address().unwrap());
    let (end, _socket) = value(ends.recv()).await.unwrap();
    assert_eq!(
        (end.reason, end.received, end.sent, end.unsent),
        (Reason::Closed, SIZE as u64, SIZE as u64, 0)
    );
    assert_eq!(ended(running).await, 0);
    assert_eq!(line(&mut lines), "exact");
}

#[tokio::test]
async fn a_qt_client_is_served_by_awaiting() {
    let Some(program) = qt_peer() else { return };
    let server = TcpServer::bind("127.0.0.1:0").await.unwrap();
    let (running, mut lines) = client(&program, server.server_address().unwrap());
    let socket = value(server.next_pending_connection()).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(socket.clone());
    assert_eq!(value(tokio::io::copy(&mut reader, &mut writer)).await.unwrap(), SIZE as u64);
    assert_eq!(ended(running).await, 0);
    assert_eq!(line(&mut lines), "exact");
    socket.wait_for_disconnected(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn our_client_and_a_qt_server_have_the_whole_life_of_a_connection() {
    let Some(program) = qt_peer() else { return };
    let (running, mut lines, address) = server(&program);
    let socket = TcpSocket::new();
    let (trace, disconnected) = (Trace::of(&socket), SignalSpy::new(socket.disconnected()));
    socket.connect_to_host(address).unwrap();
    let sent = pattern(9, 0, SIZE);
    let writer = socket.clone();
    let bytes = sent.clone();
    let mut writing = tokio::task::JoinSet::from_iter([async move { writer.write(&bytes).await }]);
    let mut got = vec![0; SIZE];
    value(socket.clone().read_exact(&mut got)).await.unwrap();
    assert!(got == sent);
    writing.join_next().await.unwrap().unwrap().unwrap();
    socket.close().await.unwrap();
    let seen = trace.until("disconnected").await;
    assert_eq!(seen[..5], ["host_lookup", "connecting", "host_found 1", "connected", "connected()"]);
    let end = ["closing", &format!("read_finished {SIZE}"), "unconnected", "disconnected closed"];
    assert_eq!(seen[seen.len() - 4..], end);
    assert_eq!(disconnected.take()[0].reason, Reason::Closed);
    assert_eq!(ended(running).await, 0);
    // What is no error with us is one with Qt: number 1, RemoteHostClosedError.
    assert_eq!((line(&mut lines), line(&mut lines)), ("error 1".into(), "disconnected".into()));
}

#[test]
fn a_qt_client_and_a_qt_server_meet_through_the_relay() {
    let Some(program) = qt_peer() else { return };
    let (serving, mut served, backend) = server(&program);
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", &backend.to_string()]);
    let (dialling, mut lines) = client(&program, node.address());
    assert_eq!(dialling.wait().code(), Some(0));
    assert_eq!(line(&mut lines), "exact");
    assert_eq!(serving.wait().code(), Some(0));
    assert_eq!((line(&mut served), line(&mut served)), ("error 1".into(), "disconnected".into()));
    let gone = node.client_gone(0);
    assert_eq!((gone["reason"].as_str(), gone["received"].as_u64()), (Some("closed"), Some(SIZE as u64)));
}
