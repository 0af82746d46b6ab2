//! Heartbeats against real programs: one that is stopped, one behind a pulled
//! cable, and the config that is shipped.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    NodeProcess, PATIENCE, Running, binary, connect, needs, needs_two_networks, root, two_networks,
    wait_until,
};

/// A program that answers probes, as a config for `node run` expects them.
const ANSWERS: &str = r#"
import socket, sys
stream = socket.create_connection((sys.argv[1], int(sys.argv[2])))
lines = stream.makefile("rwb", buffering=0)
for line in lines:
    if line == b"PING\n":
        lines.write(b"PONG\n")
        print("answered", flush=True)
"#;

fn node_with(text: &str) -> (NodeProcess, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(binary());
    (NodeProcess::spawn(command.args(["run", "--log-format", "json"]).arg(&file)), folder)
}

const PROBED: &str = r#"
[listen.room]
bind = "BIND"
framing = "lines"
heartbeat = { send = "PING", every = "1s", within = "1s", expect = "PONG" }
[relay.r]
from = "room"
mode = "hub"
"#;

#[test]
fn a_stopped_process_whose_kernel_still_acknowledges_is_given_up() {
    if !needs(&["python3"]) {
        return;
    }
    let (node, _folder) = node_with(&PROBED.replace("BIND", "127.0.0.1:0"));
    let address = node.address();
    let peer = || {
        let mut command = Command::new("python3");
        let arguments = ["-c", ANSWERS, &address.ip().to_string(), &address.port().to_string()];
        Running::start(command.args(arguments).stdout(Stdio::piped()))
    };
    let (healthy, mut stopped) = (peer(), peer());
    let mut said = BufReader::new(stopped.child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "answered\n");
    let at = Instant::now();
    stopped.signal(Signal::STOP);
    let missed = node.event("heartbeat_missed");
    assert_eq!((&missed["endpoint"], &missed["seconds"]), (&"room".into(), &1.0.into()));
    let gone = node.client_gone(0);
    assert_eq!((&gone["reason"], &gone["connection"]), (&"heartbeat".into(), &missed["connection"]));
    assert!(at.elapsed() < Duration::from_secs(10), "{:?}", at.elapsed());
    let lines = node.lines();
    assert_eq!(lines.iter().filter(|line| line.contains("\"disconnected\"")).count(), 1, "{lines:?}");
    drop(healthy);
    // Killed with a probe unread it resets.
    assert_ne!(node.client_gone(1)["reason"], "heartbeat", "the other was there to the end");
}

#[test]
fn behind_a_pulled_cable_a_peer_is_missed_within_both_times() {
    if !needs_two_networks() {
        return;
    }
    let (clients, middle, _servers) = two_networks();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    fs::write(&file, PROBED.replace("BIND", "0.0.0.0:9000")).unwrap();
    let node = NodeProcess::spawn(middle.command(binary()).args(["run", "--log-format", "json"]).arg(&file));
    node.event("listening");
    let mut peer =
        clients.python(&ANSWERS.replace("sys.argv[1]", "\"10.81.1.1\"").replace("sys.argv[2]", "9000"));
    let mut said = BufReader::new(peer.child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    middle.ip(&["link", "set", "left", "down"]);
    let pulled = Instant::now();
    let missed = node.event("heartbeat_missed");
    let noticed = pulled.elapsed();
    assert!(missed["peer"].as_str().unwrap().starts_with("10.81.1.2:"), "{missed}");
    assert!(noticed <= Duration::from_secs(4), "noticed after {noticed:?}");
    assert_eq!(node.client_gone(0)["reason"], "heartbeat");
}

/// What one hears until it is closed; it answers probes if it counts them.
fn listen(stream: &TcpStream, probes: Option<&AtomicUsize>) -> Vec<String> {
    let mut heard = Vec::new();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if let Some(probes) = probes.filter(|_| line == "PING") {
            let mut stream = stream;
            stream.write_all(b"PONG\n").unwrap();
            probes.fetch_add(1, Relaxed);
        }
        heard.push(line);
    }
    heard
}

/// The config that is shipped: an echo server that says who is gone.
#[test]
fn the_echo_server_with_a_heartbeat_names_who_is_gone_and_serves_the_others() {
    let mut command = Command::new(binary());
    command.args(["run", "--log-format", "json"]).arg(root().join("config/heartbeat.toml"));
    command.envs([("PEERS", "127.0.0.1:0"), ("EVERY", "1s"), ("WITHIN", "1s")]);
    let node = NodeProcess::spawn(&mut command);
    let (mut healthy, mut talks) = (connect(node.address()), connect(node.address()));
    let mute = connect(node.address());
    healthy.write_all(b"good morning\nPONG\n").unwrap();
    talks.write_all(b"I do not know that word\n").unwrap();
    let hello = "say PONG when you hear PING";
    let probes = AtomicUsize::new(0);
    thread::scope(|scope| {
        let served = scope.spawn(|| listen(&healthy, Some(&probes)));
        let heard = listen(&talks, None);
        assert_eq!(heard, [hello, "I do not know that word", "PING"]);
        assert_eq!(listen(&mute, None), [hello, "PING"]);
        for gone in [&talks, &mute] {
            node.line(&format!("{} is gone: no answer for 1 s", gone.local_addr().unwrap()));
        }
        for nth in 0..2 {
            assert_eq!(node.client_gone(nth)["reason"], "heartbeat");
        }
        // Asked again after the others have gone, and still there.
        (&healthy).write_all(b"still here\n").unwrap();
        let before = probes.load(Relaxed);
        wait_until("two more probes are answered", PATIENCE, || probes.load(Relaxed) >= before + 2);
        healthy.shutdown(Shutdown::Write).unwrap();
        let heard = served.join().unwrap();
        // Its first answer was to nothing, and so an echo like any other.
        assert_eq!(heard[..3], [hello, "good morning", "PONG"]);
        let words: Vec<_> = heard[3..].iter().filter(|line| *line != "PING").collect();
        assert_eq!(words, ["still here"]);
        assert!(heard.len() - 3 - words.len() >= 3, "{heard:?}");
    });
    assert_eq!(node.client_gone(2)["reason"], "closed");
    assert_eq!(node.stop().0, 0);
}
