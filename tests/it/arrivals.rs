//! Who comes to a listener: so many of one address, so many a second, by one
//! interface; and crowds.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Ending, Namespace, NodeProcess, binary, connect, needs_two_networks, read_all, two_networks, wait_until,
};

/// A node that runs this file.
fn running(command: &mut Command, toml: &str) -> (NodeProcess, tempfile::NamedTempFile) {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), toml).unwrap();
    let node = NodeProcess::spawn(command.arg("run").arg(file.path()).args(["--log-format", "json"]));
    (node, file)
}

fn echo(options: &str) -> String {
    format!("[listen.a]\nbind = \"0.0.0.0:0\"\n{options}\n[relay.r]\nfrom = \"a\"\nmode = \"echo\"\n")
}

fn from(source: [u8; 4], port: u16) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket.into()
}

fn visit(stream: &mut TcpStream) {
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

#[test]
fn so_many_connections_of_one_address_and_the_next_is_reset() {
    let (node, _file) = running(&mut Command::new(binary()), &echo("max_connections_per_address = 2"));
    let port = node.address().port();
    let mut first: Vec<_> = (0..2).map(|_| from([127, 0, 0, 1], port)).collect();
    first.iter_mut().for_each(visit);
    assert_eq!(read_all(&from([127, 0, 0, 1], port)), (vec![], Ending::Reset));
    let refused = node.event("accept_rejected");
    assert_eq!(refused["cause"], "max_connections_per_address");
    assert!(refused["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    visit(&mut from([127, 0, 0, 2], port));
    drop(first);
    // Free again once the node has noticed.
    wait_until("it is let in again", Duration::from_secs(10), || {
        let mut stream = from([127, 0, 0, 1], port);
        let _ = stream.write_all(b"x");
        matches!(stream.read(&mut [0]), Ok(1))
    });
}

#[test]
fn those_who_come_too_fast_wait_and_nobody_is_refused() {
    let (node, _file) = running(&mut Command::new(binary()), &echo("accept_rate = 20"));
    let begun = Instant::now();
    let mut clients: Vec<_> = (0..30).map(|_| connect(node.address())).collect();
    clients.iter_mut().for_each(visit);
    // Three can have come at once, and each of the others a twentieth of a second after the one before.
    assert!(begun.elapsed() >= Duration::from_millis(27 * 50 - 50), "{:?}", begun.elapsed());
    let paused = node.event("accept_paused");
    assert_eq!((&paused["cause"], &paused["connections"]), (&"accept_rate".into(), &20.into()));
    assert!(node.lines().iter().all(|line| !line.contains("accept_rejected")));
}

#[test]
fn a_listener_of_one_interface_cannot_be_reached_by_another() {
    if !needs_two_networks() {
        return;
    }
    let (left, middle, right) = two_networks();
    let (node, _file) = running(
        middle.command(binary()).env("RUST_BACKTRACE", "0"),
        "[listen.a]\nbind = \"0.0.0.0:7\"\ninterface = \"left\"\n[relay.r]\nfrom = \"a\"\nmode = \"echo\"\n\
         [listen.b]\nbind = \"0.0.0.0:8\"\n[client.c]\nto = \"10.81.1.2:9\"\ninterface = \"right\"\n\
         connect_timeout = \"2s\"\n[relay.s]\nfrom = \"b\"\nto = \"c\"\n",
    );
    node.event("listening");
    let reach = |whence: &Namespace, address: &str, port: u16| {
        let code = format!(
            "import socket\ns = socket.create_connection(({address:?}, {port}), 10)\n\
             s.sendall(b'hello')\nprint(s.recv(5).decode())"
        );
        let out = whence.command("python3").args(["-c", &code]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(reach(&left, "10.81.1.1", 7), "hello\n");
    assert_eq!(reach(&right, "10.81.2.1", 7), "");
    // And a target that is not on that side is not reached.
    assert_eq!(reach(&left, "10.81.1.1", 8), "");
    node.event("connect_failed");
}

#[test]
fn an_interface_that_is_not_there_is_said() {
    let (node, _file) = running(&mut Command::new(binary()), &echo("interface = \"nosuch0\""));
    let (code, lines) = node.wait();
    let last = lines.last().unwrap();
    assert_eq!(code, 1, "{last}");
    assert!(last.contains("cannot use interface nosuch0: there is none of this name"), "{last}");
}

#[test]
fn a_crowd_at_once_is_served_and_nobody_refused() {
    let (node, _file) = running(&mut Command::new(binary()), &echo(""));
    let port = node.address().port();
    thread::scope(|scope| {
        for source in 1..=3 {
            scope.spawn(move || {
                let mut clients: Vec<_> = (0..250).map(|_| from([127, 0, 1, source], port)).collect();
                clients.iter_mut().for_each(visit);
            });
        }
    });
    node.client_gone(749);
    assert!(node.lines().iter().all(|line| !line.contains("accept_rejected")));
}
