//! Names: asked anew for every dial, raced, and never trusted. Each test has
//! a network and an /etc/hosts of its own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Agent, Namespace, NodeProcess, binary, needs_two_networks, run, two_networks};

/// A node between two networks that reads names from files of ours.
struct Named {
    clients: Namespace,
    middle: Namespace,
    servers: Namespace,
    files: TempDir,
}

impl Named {
    fn new(hosts: &str) -> Self {
        let (clients, middle, servers) = two_networks();
        let named = Self { clients, middle, servers, files: tempfile::tempdir().unwrap() };
        named.hosts(hosts);
        // Nobody answers there, unless a test listens.
        fs::write(named.file("resolv.conf"), "nameserver 10.81.2.2\n").unwrap();
        named
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Changes what names mean, while the node runs.
    fn hosts(&self, text: &str) {
        fs::write(self.file("hosts"), text).unwrap();
    }

    fn node(&self, arguments: &[&str]) -> NodeProcess {
        let bind = |name: &str| format!("mount --bind {} /etc/{name}", self.file(name).display());
        let script = format!("{} && {} && exec \"$@\"", bind("hosts"), bind("resolv.conf"));
        let mut command = self.middle.command("unshare");
        command.args(["--mount", "bash", "-c", &script, "bash", binary(), "--log-format", "json"]);
        let node = NodeProcess::spawn(command.args(arguments));
        node.event("listening");
        node
    }

    /// A client that sees its connection reset.
    fn is_reset(&self) {
        let mut client = Agent::new(&self.clients);
        client.ask("connect 10.81.1.1 9000");
        let answer = client.ask("end 20");
        assert!(answer.starts_with("reset 0 "), "{answer}");
    }
}

#[test]
fn a_black_holed_ipv6_address_is_overtaken_by_ipv4() {
    if !needs_two_networks() {
        return;
    }
    let named = Named::new("fd81::2 both.example\n10.81.2.2 both.example\n");
    // Packets to it leave and nobody ever answers.
    named.middle.ip(&["address", "add", "fd81::1/64", "dev", "right", "nodad"]);
    named.middle.ip(&["neighbour", "add", "fd81::2", "lladdr", "02:00:00:00:00:99", "dev", "right"]);
    let node = named.node(&["--listen", "9000", "--connect", "both.example:9001"]);
    let (mut client, mut server) = (Agent::new(&named.clients), Agent::new(&named.servers));
    server.ask("listen 9001");
    let begun = Instant::now();
    client.ask("connect 10.81.1.1 9000");
    server.ask("accept");
    assert!(begun.elapsed() < Duration::from_millis(1_500), "{:?}", begun.elapsed());
    assert_eq!(node.event("host_found")["addresses"], 2);
    assert!(node.event("connected")["peer"].as_str().unwrap().starts_with("10.81.2.2:"));
    // By the clock of the node itself: IPv6 had its quarter of a second.
    let taken = at(&node.event("connected")) - at(&node.event("new_connection"));
    assert!((0.24..0.6).contains(&taken), "{taken} s");
}

/// When an event came about, in seconds of its minute.
fn at(event: &serde_json::Value) -> f64 {
    event["timestamp"].as_str().unwrap()[17..26].parse().unwrap()
}

/// Answers with what it is told line by line: addresses, or what is wrong. Over UDP too long an answer is cut
/// short, and asked for again over TCP.
const DNS: &str = "
import socket, struct, sys, threading
says = ['servfail']
def answer(ask, most):
    end = ask.index(0, 12) + 5
    kind = struct.unpack('>H', ask[end-4:end-2])[0]
    rcode = {'servfail': 2, 'nxdomain': 3}.get(says[0], 0)
    found = says if kind == 1 and rcode == 0 else []
    body = b''.join(b'\\xc0\\x0c' + struct.pack('>HHIH', 1, 1, 0, 4) + socket.inet_aton(a) for a in found)
    cut = len(body) + end > most
    if cut: body, found = b'', []
    flags = 0x8180 | rcode | (0x200 if cut else 0)
    return ask[:2] + struct.pack('>HHHHH', flags, 1, len(found), 0, 0) + ask[12:end] + body
def tcp():
    s = socket.create_server(('', 53))
    while True:
        c = s.accept()[0].makefile('rwb')
        # Both kinds are asked over one connection.
        while head := c.read(2):
            a = answer(c.read(struct.unpack('>H', head)[0]), 65535)
            c.write(struct.pack('>H', len(a)) + a)
            c.flush()
def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(('', 53))
    threading.Thread(target=tcp, daemon=True).start()
    print('up', flush=True)
    while True:
        ask, who = s.recvfrom(2000)
        if says[0] != 'silent': s.sendto(answer(ask, 512), who)
threading.Thread(target=udp, daemon=True).start()
for line in sys.stdin:
    says = line.split()
    print('ok', flush=True)
";

/// One connection that is kept, whose name is asked of a server of ours before each dial.
#[test]
fn a_kept_connection_follows_a_name_that_changes_fails_is_silent_and_has_a_hundred_addresses() {
    if !needs_two_networks() {
        return;
    }
    let named = Named::new("");
    let mut dns = named.servers.python(DNS);
    let mut orders = dns.child.stdin.take().unwrap();
    let mut said = BufReader::new(dns.child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(said.next().as_deref(), Some("up"));
    let mut says = |text: &str| {
        writeln!(orders, "{text}").unwrap();
        assert_eq!(said.next().as_deref(), Some("ok"));
    };
    let many: Vec<_> = (3..=102).map(|nth| format!("10.81.2.{nth}")).collect();
    for address in &many {
        named.servers.ip(&["address", "add", &format!("{address}/24"), "dev", "eth"]);
    }
    let collect =
        ["--listen", "9000", "--connect", "moving.example:9001", "--mode", "collect", "--frame", "lines"];
    let node = named.node(&collect);
    let failed = |from: usize, text: &str| {
        let nth = (from..)
            .find(|nth| node.nth_event("connect_failed", *nth)["error"].as_str().unwrap().contains(text));
        nth.unwrap() + 1
    };
    let seen = failed(0, "cannot resolve `moving.example:9001`");
    says("nxdomain");
    let seen = failed(seen, "not known");
    let mut server = Agent::new(&named.servers);
    server.ask("listen 9001");
    // Before each end it is told what comes then.
    says("10.81.2.2");
    server.ask("accept");
    assert_eq!(node.nth_event("connected", 0)["peer"], "10.81.2.2:9001");
    says("10.81.2.50");
    server.ask("close");
    server.ask("accept");
    assert_eq!(node.nth_event("connected", 1)["peer"], "10.81.2.50:9001");
    says("silent");
    server.ask("close");
    failed(seen, "the resolver did not answer");
    says(&many.join(" "));
    server.ask("accept");
    let third = node.nth_event("connected", 2);
    let peer = third["peer"].as_str().unwrap();
    assert!(many.iter().any(|address| peer == format!("{address}:9001")), "{peer}");
    let found = node.lines().iter().rev().find(|line| line.contains("\"host_found\"")).cloned().unwrap();
    assert!(found.contains("\"addresses\":8"), "{found}");
}

#[test]
fn a_changed_name_is_followed_by_the_next_client() {
    if !needs_two_networks() {
        return;
    }
    let named = Named::new("10.81.2.2 moving.example\n");
    named.servers.ip(&["address", "add", "10.81.2.3/24", "dev", "eth"]);
    let node = named.node(&["--listen", "9000", "--connect", "moving.example:9001"]);
    let mut server = Agent::new(&named.servers);
    server.ask("listen 9001");
    for (nth, address) in ["10.81.2.2", "10.81.2.3"].iter().enumerate() {
        named.hosts(&format!("{address} moving.example\n"));
        let mut client = Agent::new(&named.clients);
        client.ask("connect 10.81.1.1 9000");
        server.ask("accept");
        let peer = &node.nth_event("connected", nth)["peer"];
        assert_eq!(peer, &format!("{address}:9001"));
    }
}

#[test]
fn a_name_that_comes_to_mean_the_node_itself_is_not_dialled() {
    if !needs_two_networks() {
        return;
    }
    let named = Named::new("10.81.2.2 front.example\n");
    let node = named.node(&["--listen", "9000", "--connect", "front.example:9000"]);
    named.hosts("10.81.1.1 front.example\n");
    named.is_reset();
    let failed = node.event("connect_failed");
    assert!(failed["error"].as_str().unwrap().contains("own listener"), "{failed}");
    named.hosts("0.0.0.0 front.example\n");
    named.is_reset();
    node.nth_event("connect_failed", 1);
    assert_eq!(
        node.lines().iter().filter(|line| line.contains("\"new_connection\"")).count(),
        2,
        "it met itself"
    );
}

#[test]
fn of_many_addresses_eight_are_tried() {
    if !needs_two_networks() {
        return;
    }
    let hosts: String = (1..=200).map(|i| format!("127.0.1.{i} many.example\n")).collect();
    let named = Named::new(&hosts);
    let node = named.node(&["--listen", "9000", "--connect", "many.example:9001"]);
    named.is_reset();
    assert_eq!(node.event("host_found")["addresses"], 8);
    assert_eq!(node.event("connect_failed")["error"].as_str().unwrap().matches("refused").count(), 8);
}

#[test]
fn a_silent_resolver_costs_three_seconds_and_nobody_else() {
    if !needs_two_networks() {
        return;
    }
    let named = Named::new("10.81.2.2 known.example\n");
    let node = named.node(&[
        "--listen",
        "9000",
        "--connect",
        "unknown.example:9001",
        "--connect",
        "known.example:9001",
    ]);
    // A server that takes questions and never answers.
    let silent = "import socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  s.bind(('', 53))\nprint('up', flush=True)\nsys.stdin.read()";
    let mut dns = named.servers.python(silent);
    let mut up = String::new();
    BufReader::new(dns.child.stdout.take().unwrap()).read_line(&mut up).unwrap();
    let (mut client, mut server) = (Agent::new(&named.clients), Agent::new(&named.servers));
    server.ask("listen 9001");
    let begun = Instant::now();
    client.ask("connect 10.81.1.1 9000");
    server.ask("accept");
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(2_900) && waited < Duration::from_millis(4_500), "{waited:?}");
    assert!(node.event("connect_failed")["error"].as_str().unwrap().contains("did not answer"));
}

#[test]
fn without_a_free_local_port_that_is_what_is_said() {
    if !needs_two_networks() {
        return;
    }
    let named = Named::new("");
    let range = "net.ipv4.ip_local_port_range=50000 50003";
    assert!(run(named.middle.command("sysctl").args(["-q", "-w", range]), &[]).status.success());
    let node = named.node(&["--listen", "9000", "--connect", "10.81.2.2:9001"]);
    let mut server = Agent::new(&named.servers);
    server.ask("listen 9001");
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let mut client = Agent::new(&named.clients);
            client.ask("connect 10.81.1.1 9000");
            client
        })
        .collect();
    let failed = node.event("connect_failed");
    assert!(
        failed["error"].as_str().unwrap().contains("free local port to reach 10.81.2.2:9001"),
        "{failed}"
    );
    drop(clients);
}

#[test]
fn an_ipv6_wildcard_takes_ipv4_clients_and_without_ipv6_it_still_listens() {
    if !needs_two_networks() {
        return;
    }
    let named = Named::new("");
    let node = named.node(&["--listen", "9000", "--connect", "echo:"]);
    let mut client = Agent::new(&named.clients);
    client.ask("connect 10.81.1.1 9000");
    client.ask("send 100");
    assert_eq!(client.ask("receive 100"), "True");
    assert!(node.event("new_connection")["peer"].as_str().unwrap().starts_with("10.81.1.2:"));
    drop(node);
    for interface in ["all", "default", "lo"] {
        let off = format!("net.ipv6.conf.{interface}.disable_ipv6=1");
        assert!(run(named.middle.command("sysctl").args(["-q", "-w", &off]), &[]).status.success());
    }
    let node = named.node(&["--listen", "9000", "--connect", "echo:"]);
    let mut client = Agent::new(&named.clients);
    client.ask("connect 10.81.1.1 9000");
    client.ask("send 100");
    assert_eq!(client.ask("receive 100"), "True");
    drop(node);
}

#[test]
fn a_name_with_an_address_of_a_missing_family_is_listened_on_by_the_other() {
    if !needs_two_networks() {
        return;
    }
    let named = Named::new("::1 both.example\n127.0.0.1 both.example\n127.0.0.1 both.example\n");
    for interface in ["all", "default", "lo"] {
        let off = format!("net.ipv6.conf.{interface}.disable_ipv6=1");
        assert!(run(named.middle.command("sysctl").args(["-q", "-w", &off]), &[]).status.success());
    }
    let node = named.node(&["--listen", "both.example:9000", "--connect", "echo:"]);
    assert_eq!(node.event("listening")["address"], "127.0.0.1:9000");
    assert_eq!(node.stop().0, 0);
}

/// TCP lets a socket that was given its target's port meet itself.
#[test]
fn a_dial_that_meets_itself_is_no_connection() {
    if !needs_two_networks() {
        return;
    }
    let named = Named::new("");
    let range = "net.ipv4.ip_local_port_range=50000 50003";
    assert!(run(named.middle.command("sysctl").args(["-q", "-w", range]), &[]).status.success());
    let node = named.node(&["--listen", "9000", "--connect", "127.0.0.1:50002"]);
    let begun = Instant::now();
    for nth in 0..60 {
        named.is_reset();
        node.nth_event("connect_failed", nth);
        if begun.elapsed() > Duration::from_secs(10) {
            break;
        }
    }
    assert!(!node.lines().iter().any(|line| line.contains("\"event\":\"connected\"")));
}
