//! Starting and stopping: signals, draining, exit codes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Ending, NodeProcess, accept_one, binary, connect, listener, read_all, run, wait_until};

#[test]
fn told_to_stop_it_refuses_new_clients_and_lets_the_old_ones_finish() {
    let (upstream, target) = listener();
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", &target.to_string()]);
    let address = node.address();
    let (mut client, mut server) = (connect(address), accept_one(&upstream));
    node.signal(Signal::TERM);
    node.line("stopping");
    wait_until("new clients are refused", Duration::from_secs(10), || TcpStream::connect(address).is_err());
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&server), (b"last words".to_vec(), Ending::Fin));
    server.write_all(b"heard").unwrap();
    drop(server);
    assert_eq!(read_all(&client), (b"heard".to_vec(), Ending::Fin));
    assert_eq!(node.wait().0, 0);
}

#[test]
fn what_is_left_after_the_grace_is_reset_and_the_exit_code_is_1() {
    let arguments = ["--listen", "127.0.0.1:0", "--connect", "echo:", "--shutdown-grace", "200ms"];
    let node = NodeProcess::start(arguments);
    let client = connect(node.address());
    node.event("connected");
    node.signal(Signal::INT);
    assert_eq!(read_all(&client).1, Ending::Reset);
    assert_eq!(node.client_gone(0)["reason"], "shutdown");
    let (code, lines) = node.wait();
    assert_eq!(code, 1);
    assert!(lines.iter().any(|line| line.contains("connections were cut")), "{lines:?}");
}

#[test]
fn a_second_signal_stops_at_once() {
    let node =
        NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", "echo:", "--shutdown-grace", "1h"]);
    let client = connect(node.address());
    node.event("connected");
    node.signal(Signal::TERM);
    node.line("stopping");
    node.signal(Signal::TERM);
    assert_eq!(read_all(&client).1, Ending::Reset);
    assert_eq!(node.wait().0, 1);
}

#[test]
fn a_client_whose_target_is_being_dialled_is_cut_too_and_the_dial_says_so() {
    let (silent, target) = crate::support::hold_free_port();
    silent.listen(0).unwrap();
    let _fills_it = connect(target);
    let target = target.to_string();
    let node =
        NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", &target, "--shutdown-grace", "100ms"]);
    let client = connect(node.address());
    node.event("new_connection");
    node.signal(Signal::TERM);
    assert_eq!(read_all(&client).1, Ending::Reset);
    assert_eq!(node.client_gone(0)["reason"], "shutdown");
    node.event("connect_failed");
    assert_eq!(node.wait().0, 1);
}

#[test]
fn hangup_is_answered_and_changes_nothing() {
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", "echo:"]);
    node.address();
    node.signal(Signal::HUP);
    node.line("nothing to reload");
    let mut client = connect(node.address());
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(client);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_thousand_clients_leave_no_descriptor_behind() {
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", "echo:"]);
    let address = node.address();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count();
    let before = descriptors();
    for i in 0..1_000 {
        let mut client = connect(address);
        client.write_all(b"x").unwrap();
        if i % 3 == 0 {
            crate::support::abort(client);
        } else {
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&client).1, Ending::Fin);
        }
    }
    wait_until("descriptors are back", Duration::from_secs(10), || descriptors() == before);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn an_idle_node_with_open_pairs_uses_no_cpu() {
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", "echo:"]);
    let clients: Vec<_> = (0..200).map(|_| connect(node.address())).collect();
    node.nth_event("connected", 199);
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.pid())).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let (before, begun) = (ticks(), Instant::now());
    wait_until("three seconds pass", Duration::from_secs(10), || begun.elapsed() > Duration::from_secs(3));
    assert!(ticks() - before <= 10, "{} hundredths of a second in three", ticks() - before);
    drop(clients);
}

#[test]
fn what_was_asked_for_goes_to_stdout_and_ends_with_0() {
    for (argument, expected) in [("--help", "Usage: node"), ("--version", "node 0."), ("help", "node help")] {
        let out = run(Command::new(binary()).arg(argument), &[]);
        assert_eq!(out.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&out.stdout).contains(expected), "{argument}");
        assert!(out.stderr.is_empty());
    }
}
