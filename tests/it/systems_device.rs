//! The device bridges of `config/`, in networks of which only the node sees both:
//! a device that can only dial out, a desk that listens or only dials out too,
//! and each of the three started anew at any time.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};

use serde_json::Value;

use crate::support::{
    Namespace, NodeProcess, PATIENCE, Running, binary, needs_two_networks, root, two_networks, wait_until,
};

/// A program that says each line of its input over its connection, and prints each line it hears. It
/// dials, or listens, and does so again whenever the connection is over.
const PROGRAM: &str = r#"
import os, socket, sys, threading, time
role, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
peer, there = None, threading.Event()

def talk():
    global peer
    server = socket.create_server((host, port)) if role == "listens" else None
    while True:
        try:
            peer = server.accept()[0] if server else socket.create_connection((host, port), 5)
        except OSError:
            time.sleep(0.05)
            continue
        peer.settimeout(None)
        there.set()
        print("there", flush=True)
        try:
            for line in peer.makefile("r"):
                print("heard " + line, end="", flush=True)
        except OSError:
            pass
        there.clear()
        peer.close()
        print("gone", flush=True)

# Nobody waits for it for ever.
watchdog = threading.Timer(60, os._exit, [1])
watchdog.daemon = True
watchdog.start()
threading.Thread(target=talk, daemon=True).start()
for line in sys.stdin:
    there.wait()
    peer.sendall(line.encode())
"#;

struct Program {
    _running: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    fn start(namespace: &Namespace, role: &str, host: &str, port: u16) -> Self {
        let mut command = namespace.command("python3");
        command.args(["-u", "-c", PROGRAM, role, host, &port.to_string()]);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut running = Running::start(&mut command);
        let stdin = running.child.stdin.take().unwrap();
        let stdout = BufReader::new(running.child.stdout.take().unwrap());
        Self { _running: running, stdin, stdout }
    }

    fn says(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    fn tells(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the program has ended");
        line.trim_end().to_owned()
    }

    /// The next line that it hears.
    fn hears(&mut self) -> String {
        loop {
            if let Some(line) = self.tells().strip_prefix("heard ") {
                return line.to_owned();
            }
        }
    }

    fn is_there(&mut self) {
        while self.tells() != "there" {}
    }
}

/// A node in the middle with a shipped file.
fn bridge(middle: &Namespace, name: &str, device: &str, desk: &str) -> NodeProcess {
    let mut command = middle.command("env");
    command.args([format!("DEVICE={device}"), format!("DESK={desk}")]);
    command
        .arg(binary())
        .args(["run", "--log-format", "json"])
        .arg(root().join(format!("config/{name}.toml")));
    let node = NodeProcess::spawn(&mut command);
    node.event("listening");
    node
}

/// The last total of frames that an end has lost.
fn lost(log: &[String], endpoint: &str, cause: &str) -> u64 {
    let events = log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut lost = events.filter(|event| {
        event["event"] == "frames_dropped" && event["endpoint"] == endpoint && event["cause"] == cause
    });
    lost.next_back().map_or(0, |event| event["frames"].as_u64().unwrap())
}

#[test]
fn readings_wait_for_a_desk_that_listens_and_every_one_that_is_lost_is_counted() {
    if !needs_two_networks() {
        return;
    }
    let (devices, middle, desks) = two_networks();
    let node = bridge(&middle, "device-bridge", "10.81.1.1:7041", "10.81.2.2:7042");
    let mut device = Program::start(&devices, "dials", "10.81.1.1", 7041);
    let mut desk = Program::start(&desks, "listens", "10.81.2.2", 7042);
    // What is said before the desk is there waits for it.
    device.says("reading 0");
    assert_eq!(desk.hears(), "reading 0");
    desk.says("command 0");
    assert_eq!(device.hears(), "command 0");
    // The desk is killed: more readings come than may wait.
    drop(desk);
    wait_until("the desk is gone", PATIENCE, || {
        node.lines().iter().any(|line| line.contains("\"disconnected\"") && line.contains("\"desk\""))
    });
    let count = 3_000;
    for nth in 1..=count {
        device.says(&format!("reading {nth} {}", "x".repeat(100)));
    }
    node.line("lost at the end of the desk, overflow");
    let mut desk = Program::start(&desks, "listens", "10.81.2.2", 7042);
    let mut heard = Vec::new();
    while heard.last() != Some(&count) {
        heard.push(desk.hears().split(' ').nth(1).unwrap().parse::<u64>().unwrap());
    }
    assert!(heard.windows(2).all(|two| two[0] < two[1]), "in order, and none twice: {heard:?}");
    assert!(heard.len() < count as usize, "some had to be lost");
    // The device is killed. A command for nobody is counted, too.
    drop(device);
    wait_until("the device is gone", PATIENCE, || {
        node.lines().iter().any(|line| line.contains("\"disconnected\"") && line.contains("\"device\""))
    });
    desk.says("command 1");
    node.line("lost at the end of the desk, unheard: 1 lines");
    let mut device = Program::start(&devices, "dials", "10.81.1.1", 7041);
    device.is_there();
    device.says("reading again");
    assert_eq!(desk.hears(), "reading again");
    desk.says("command 2");
    assert_eq!(device.hears(), "command 2");
    let (code, log) = node.stop();
    assert_eq!(code, 0);
    assert_eq!(lost(&log, "desk", "overflow"), count - heard.len() as u64, "each is heard or counted");
    assert_eq!(lost(&log, "desk", "unheard"), 1);
    // So may the node be.
    let node = bridge(&middle, "device-bridge", "10.81.1.1:7041", "10.81.2.2:7042");
    device.is_there();
    device.says("reading at last");
    assert_eq!(desk.hears(), "reading at last");
    drop((device, desk));
    node.stop();
}

#[test]
fn a_device_and_a_desk_that_both_dial_out_meet_and_meet_again() {
    if !needs_two_networks() {
        return;
    }
    let (devices, middle, desks) = two_networks();
    let meet = || bridge(&middle, "device-meet", "10.81.1.1:7043", "10.81.2.1:7044");
    let node = meet();
    let mut device = Program::start(&devices, "dials", "10.81.1.1", 7043);
    // The desk comes later, and hears what was said before.
    device.says("reading 0");
    let mut desk = Program::start(&desks, "dials", "10.81.2.1", 7044);
    assert_eq!(desk.hears(), "reading 0");
    desk.says("command 0");
    assert_eq!(device.hears(), "command 0");
    // The desk is killed: the device is told, comes again, and waits.
    drop(desk);
    while device.tells() != "gone" {}
    device.is_there();
    device.says("reading 1");
    let mut desk = Program::start(&desks, "dials", "10.81.2.1", 7044);
    assert_eq!(desk.hears(), "reading 1");
    // So is the device.
    drop(device);
    while desk.tells() != "gone" {}
    desk.is_there();
    desk.says("command 1");
    let mut device = Program::start(&devices, "dials", "10.81.1.1", 7043);
    assert_eq!(device.hears(), "command 1");
    // And the node.
    drop(node);
    while device.tells() != "gone" {}
    while desk.tells() != "gone" {}
    let node = meet();
    device.is_there();
    device.says("reading 2");
    assert_eq!(desk.hears(), "reading 2");
    drop((device, desk));
    assert_eq!(node.stop().0, 0);
}
