//! The pair relay through the running program: what it promises of half-close,
//! order of dialling, and targets that are not there.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Ending, NodeProcess, accept_one, connect, hold_free_port, listener, pattern, read_all, wait_until,
};

#[test]
fn bytes_cross_both_ways_at_once() {
    both_ways(&[]);
}

#[test]
fn bytes_cross_both_ways_at_once_on_four_threads() {
    both_ways(&["--threads", "4"]);
}

#[test]
fn bytes_cross_both_ways_by_the_smallest_and_the_largest_reads() {
    both_ways(&["--max-read", "4KiB"]);
    both_ways(&["--max-read", "16MiB"]);
}

fn both_ways(options: &[&str]) {
    let (upstream, target) = listener();
    let target = target.to_string();
    let arguments = [&["--listen", "127.0.0.1:0", "--connect", &target], options].concat();
    let node = NodeProcess::start(arguments);
    let (client, server) = (connect(node.address()), accept_one(&upstream));
    let size = 64 << 20;
    thread::scope(|scope| {
        for (seed, sender, receiver) in [(1, &client, &server), (2, &server, &client)] {
            scope.spawn(move || {
                let mut sender = sender;
                for offset in (0..size).step_by(1 << 20) {
                    sender.write_all(&pattern(seed, offset, 1 << 20)).unwrap();
                }
                sender.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let (bytes, ending) = read_all(receiver);
                assert_eq!((bytes.len() as u64, ending), (size, Ending::Fin));
                assert!(bytes == pattern(seed, 0, bytes.len()));
            });
        }
    });
    let gone = node.client_gone(0);
    assert_eq!((&gone["received"], &gone["sent"], &gone["unsent"]), (&size.into(), &size.into(), &0.into()));
    assert_eq!(gone["reason"], "closed");
}

#[test]
fn a_reply_two_seconds_after_the_clients_end_arrives_whole() {
    let (upstream, target) = listener();
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", &target.to_string()]);
    let (mut client, mut server) = (connect(node.address()), accept_one(&upstream));
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&server), (b"question".to_vec(), Ending::Fin));
    // Two seconds are the promise under test, not a wait for something.
    thread::sleep(Duration::from_secs(2));
    let late = pattern(3, 0, 3 << 20);
    server.write_all(&late).unwrap();
    drop(server);
    let (bytes, ending) = read_all(&client);
    assert_eq!(ending, Ending::Fin);
    assert!(bytes == late);
}

#[test]
fn a_server_may_speak_first_and_finish_first() {
    let (upstream, target) = listener();
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", &target.to_string()]);
    let (mut client, mut server) = (connect(node.address()), accept_one(&upstream));
    server.write_all(b"220 ready\r\n").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client), (b"220 ready\r\n".to_vec(), Ending::Fin));
    client.write_all(b"thanks").unwrap();
    drop(client);
    assert_eq!(read_all(&server), (b"thanks".to_vec(), Ending::Fin));
}

#[test]
fn a_target_that_is_down_resets_the_client_and_serves_the_next_once_it_is_up() {
    let (held, target) = hold_free_port();
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", &target.to_string()]);
    for nth in 0..3 {
        assert_eq!(read_all(&connect(node.address())), (vec![], Ending::Reset));
        assert_eq!(node.client_gone(nth)["reason"], "no_target");
        let failed = node.nth_event("connect_failed", nth);
        assert_eq!(failed["target"], target.to_string());
    }
    held.listen(16).unwrap();
    let upstream: std::net::TcpListener = held.into();
    let (mut client, mut server) = (connect(node.address()), accept_one(&upstream));
    client.write_all(b"hello").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn a_name_that_does_not_resolve_resets_the_client() {
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", "no-such-name.invalid:9"]);
    assert_eq!(read_all(&connect(node.address())), (vec![], Ending::Reset));
    let error = node.event("connect_failed");
    assert!(error["error"].as_str().unwrap().contains("no-such-name.invalid"), "{error}");
}

#[test]
fn a_silent_target_resets_the_client_after_the_connect_timeout() {
    // A full backlog drops what comes, as a black hole does.
    let (silent, target) = hold_free_port();
    silent.listen(0).unwrap();
    let _fills_it = connect(target);
    let node = NodeProcess::start([
        "--listen",
        "127.0.0.1:0",
        "--connect",
        &target.to_string(),
        "--connect-timeout",
        "700ms",
    ]);
    let begun = Instant::now();
    assert_eq!(read_all(&connect(node.address())), (vec![], Ending::Reset));
    assert!(begun.elapsed() >= Duration::from_millis(700));
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(node.event("connect_failed")["error"].as_str().unwrap().contains("700ms"));
}

#[test]
fn several_targets_are_tried_in_order_and_one_that_failed_is_left_alone_for_a_while() {
    let ((down, first), (second_up, second)) = (hold_free_port(), listener());
    let node = NodeProcess::start([
        "--listen",
        "127.0.0.1:0",
        "--connect",
        &first.to_string(),
        "--connect",
        &second.to_string(),
    ]);
    let client = connect(node.address());
    let _server = accept_one(&second_up);
    assert_eq!(node.event("connect_failed")["endpoint"], "connect1");
    assert_eq!(node.event("connected")["endpoint"], "connect2");
    drop(client);
    down.listen(16).unwrap();
    let first_up: std::net::TcpListener = down.into();
    let _client = connect(node.address());
    let _server = accept_one(&second_up);
    assert_eq!(node.nth_event("connected", 1)["endpoint"], "connect2");
    first_up.set_nonblocking(true).unwrap();
    assert!(first_up.accept().is_err(), "it was tried again at once");
}

#[test]
fn several_listeners_lead_to_the_same_target() {
    let (upstream, target) = listener();
    let node = NodeProcess::start([
        "--listen",
        "127.0.0.1:0",
        "--listen",
        "[::1]:0",
        "--listen",
        "0",
        "--connect",
        &target.to_string(),
    ]);
    for nth in 0..3 {
        let mut client = connect(node.address_of(nth));
        client.write_all(b"x").unwrap();
        accept_one(&upstream).read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn unix_sockets_work_at_both_ends_and_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (front, back) = (folder.path().join("front"), folder.path().join("back"));
    let upstream = UnixListener::bind(&back).unwrap();
    let address = |path: &std::path::Path| format!("unix:{}", path.display());
    let node = NodeProcess::start(["--listen", &address(&front), "--connect", &address(&back)]);
    node.event("listening");
    let mut client = UnixStream::connect(&front).unwrap();
    let (mut server, _) = upstream.accept().unwrap();
    let sent = pattern(4, 0, 5 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            client.write_all(&sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes).unwrap();
        assert!(bytes == sent);
    });
    server.write_all(b"late").unwrap();
    drop(server);
    let mut late = String::new();
    client.read_to_string(&mut late).unwrap();
    assert_eq!(late, "late");
    assert_eq!(node.client_gone(0)["reason"], "closed");
    assert_eq!(node.stop().0, 0);
    assert!(!front.exists());
}

#[test]
fn a_name_with_an_address_that_refuses_is_reached_by_the_other() {
    // localhost without a host: 127.0.0.1 and ::1 are raced.
    let upstream = std::net::TcpListener::bind("[::1]:0").unwrap();
    let port = upstream.local_addr().unwrap().port();
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", &port.to_string()]);
    let _client = connect(node.address());
    accept_one(&upstream);
    assert_eq!(node.event("host_found")["addresses"], 2);
}

#[test]
fn a_stalled_reader_costs_the_node_little_memory() {
    let (upstream, target) = listener();
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", &target.to_string()]);
    // One of each to warm up what is shared: the scratch buffer, the runtime.
    let (mut client, server) = (connect(node.address()), accept_one(&upstream));
    let reader = thread::spawn(move || read_all(&server));
    client.write_all(&vec![0; 32 << 20]).unwrap();
    drop(client);
    reader.join().unwrap();
    let before = node.memory("VmRSS");
    let stalled: Vec<_> = (0..20)
        .map(|_| {
            let (client, server) = (connect(node.address()), accept_one(&upstream));
            client.set_nonblocking(true).unwrap();
            (client, server)
        })
        .collect();
    let bytes = vec![0; 1 << 20];
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_secs(1) {
        for (client, _) in &stalled {
            if (&mut &*client).write(&bytes).is_ok() {
                last = Instant::now();
            }
        }
    }
    // The last read of a fast destination may be 4 MiB; the promise is the budget, 256 MiB.
    let grown = node.memory("VmRSS").saturating_sub(before);
    assert!(grown < 20 * 4_400, "{grown} KiB for 20 stalled pairs");
    drop(stalled);
    wait_until("memory comes back", Duration::from_secs(10), || node.memory("VmRSS") < before + 30_000);
}

/// The end of a client was written on as nothing, which fails on a Unix socket
/// whose peer has closed, and a clean end became a reset.
#[test]
fn a_unix_server_that_answers_and_closes_first_is_a_clean_end() {
    let folder = tempfile::tempdir().unwrap();
    let back = folder.path().join("back");
    let upstream = UnixListener::bind(&back).unwrap();
    let node =
        NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", &format!("unix:{}", back.display())]);
    let client = connect(node.address());
    let (mut server, _) = upstream.accept().unwrap();
    server.write_all(b"answer").unwrap();
    drop(server);
    assert_eq!(read_all(&client), (b"answer".to_vec(), Ending::Fin));
    drop(client);
    assert_eq!(node.client_gone(0)["reason"], "closed");
}

#[test]
fn a_unix_target_with_a_full_backlog_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let back = folder.path().join("back");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&back).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let upstream = UnixListener::from(std::os::fd::OwnedFd::from(socket));
    let node =
        NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", &format!("unix:{}", back.display())]);
    let address = node.address();
    let clients: Vec<_> = (0..3).map(|_| connect(address)).collect();
    node.nth_event("new_connection", 2);
    for _ in &clients {
        let (mut server, _) = upstream.accept().unwrap();
        server.write_all(b"hi").unwrap();
    }
    for client in &clients {
        assert_eq!(read_all(client), (b"hi".to_vec(), Ending::Fin));
    }
    assert!(!node.lines().iter().any(|line| line.contains("connect_failed")));
}
