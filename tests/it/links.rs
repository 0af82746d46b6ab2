//! Cables pulled without a word: in every mode, idle and with data in flight,
//! on twenty connections at once, a vanished end is noticed within 25 s.

use std::io::{BufRead, BufReader, Write};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Namespace, NodeProcess, Running, binary, needs_two_networks, two_networks};

/// Holds connections and says nothing: so many to each of these, and whoever comes to these ports. Says
/// so when all that it dials are connected, and how many have come, whenever it is asked.
const HOLDER: &str = "
import socket, sys, threading
held = []
come = 0
def take(listener):
    global come
    while True:
        held.append(listener.accept()[0])
        come += 1
for port in sys.argv[2].split():
    threading.Thread(target=take, args=(socket.create_server(('', int(port)), backlog=200),), daemon=True).start()
print('listens', flush=True)
for order in sys.stdin:
    if order.startswith('dial'):
        for spec in order.split()[1:]:
            port, count = spec.split(':')
            for _ in range(int(count)):
                held.append(socket.create_connection((sys.argv[1], int(port))))
    print(come, flush=True)
";

struct Holder {
    _running: Running,
    stdin: std::process::ChildStdin,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Holder {
    fn new(namespace: &Namespace, middle: &str, ports: &str) -> Self {
        let mut command = namespace.command("python3");
        command.args(["-u", "-c", HOLDER, middle, ports]);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut running = Running::start(&mut command);
        let stdin = running.child.stdin.take().unwrap();
        let stdout = BufReader::new(running.child.stdout.take().unwrap());
        let mut holder = Self { _running: running, stdin, stdout };
        assert_eq!(holder.answer(), "listens");
        holder
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the holder has died");
        line.trim().to_owned()
    }

    fn ask(&mut self, order: &str) -> String {
        writeln!(self.stdin, "{order}").unwrap();
        self.answer()
    }
}

/// A node, and how many of its connections go through the cables.
struct Case {
    name: &'static str,
    node: NodeProcess,
    lost: usize,
}

impl Case {
    fn is_connected(&self) -> bool {
        let kinds = ["\"event\":\"new_connection\"", "\"event\":\"connected\""];
        let count = |kind: &str| self.node.lines().iter().filter(|line| line.contains(kind)).count();
        kinds.into_iter().map(count).sum::<usize>() >= self.lost
    }

    /// Waits until all that are lost are noticed.
    fn notices(&self, pulled: Instant) -> Duration {
        let mut gone = 0;
        for nth in 0.. {
            let event: Value = self.node.nth_event("disconnected", nth);
            assert!(
                ["timed_out", "partner_lost"].iter().any(|reason| event["reason"] == *reason),
                "{}: {event}",
                self.name
            );
            gone += 1;
            if gone == self.lost {
                break;
            }
        }
        pulled.elapsed()
    }
}

#[test]
fn in_every_mode_twenty_that_vanish_at_once_are_noticed_within_25_seconds_idle_or_not() {
    if !needs_two_networks() {
        return;
    }
    let (clients, middle, servers) = two_networks();
    let mut right = Holder::new(&servers, "10.81.2.1", "8001 8002 8005 8006 8008");
    let mut left = Holder::new(&clients, "10.81.1.1", "");
    let folder = tempfile::tempdir().unwrap();
    let case = |name, lost, arguments: &[&str]| Case { name, node: middle.node(arguments), lost };
    let wired = |name: &'static str, port: u16, more: &str| {
        let file = folder.path().join(format!("{port}.toml"));
        let target = if more.is_empty() { "10.81.2.2:8008" } else { "10.81.2.2:8006" };
        let text = format!(
            "[listen.front]\nbind = \"{port}\"\nframing = \"lines\"\n[client.back]\nto = \"{target}\"\n\
             framing = \"lines\"\n[[connect]]\nsignal = \"front.message_received\"\nslot = \"back.write\"\n\
             args = {{ data = \"{{data}}\" }}\n{more}"
        );
        std::fs::write(&file, text).unwrap();
        let node =
            NodeProcess::spawn(middle.command(binary()).args(["run", "--log-format", "json"]).arg(&file));
        Case { name, node, lost: 21 }
    };
    let busy = "[timer.tick]\nevery = \"100ms\"\n[[connect]]\nsignal = \"tick.timeout\"\nslot = \"front.broadcast\"\n\
                args = { data = \"tick\" }\n[[connect]]\nsignal = \"tick.timeout\"\nslot = \"back.write\"\n\
                args = { data = \"tick\" }\n";
    let lines = ["--frame", "lines"];
    let to = |port: &'static str| ["--connect", port];
    let cases = [
        // In a pair each client has a connection to the other side, and both vanish.
        case("pair", 40, &[&["--listen", "9001"], &to("10.81.2.2:8001")[..]].concat()),
        case("echo", 20, &["--listen", "9002", "--connect", "echo:"]),
        case("hub", 20, &[&["--listen", "9003", "--mode", "hub"], &lines[..]].concat()),
        case("hub, in flight", 20, &[&["--listen", "9004", "--mode", "hub"], &lines[..]].concat()),
        case(
            "publish",
            21,
            &[&["--listen", "9005", "--mode", "publish"], &to("10.81.2.2:8005")[..], &lines[..]].concat(),
        ),
        case(
            "collect",
            21,
            &[&["--listen", "9006", "--mode", "collect"], &to("10.81.2.2:8005")[..], &lines[..]].concat(),
        ),
        case(
            "collect, in flight",
            20,
            &[&["--listen", "9007", "--mode", "collect"], &to("127.0.0.1:8007")[..], &lines[..]].concat(),
        ),
        // Twenty that are joined, and one that waits.
        case("bridge", 41, &["--mode", "bridge", "--listen", "9008", "--listen", "9018"]),
        wired("wired", 9009, ""),
        wired("wired, in flight", 9010, busy),
    ];
    for case in &cases {
        case.node.event("listening");
    }
    // Beside the nodes: a target that talks, and a member of a hub that does.
    let talks = "
import socket, threading, time
def talk(stream):
    while True:
        stream.sendall(b'tick\\n')
        time.sleep(0.1)
server = socket.create_server(('127.0.0.1', 8007))
threading.Thread(target=lambda: talk(server.accept()[0]), daemon=True).start()
hub = socket.create_connection(('127.0.0.1', 9004))
print('talks', flush=True)
talk(hub)
";
    let mut talking = middle.python(talks);
    let mut said = BufReader::new(talking.child.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "talks");
    let ports = "9001:20 9002:20 9003:20 9004:20 9005:20 9006:20 9007:20 9008:21 9009:20 9010:20";
    left.ask(&format!("dial {ports}"));
    right.ask("dial 9018:20");
    crate::support::wait_until("all are connected", Duration::from_secs(30), || {
        cases.iter().all(Case::is_connected)
    });
    middle.ip(&["link", "set", "left", "down"]);
    middle.ip(&["link", "set", "right", "down"]);
    let pulled = Instant::now();
    thread::scope(|scope| {
        for case in &cases {
            scope.spawn(move || {
                let noticed = case.notices(pulled);
                eprintln!("{:18} {} vanished connections noticed within {noticed:.1?}", case.name, case.lost);
                assert!(noticed <= Duration::from_secs(25), "{}: {noticed:?}", case.name);
            });
        }
    });
    assert!(right.ask("count").parse::<usize>().unwrap() >= 22);
}
