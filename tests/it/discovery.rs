//! Discovery: a TCP port that is asked for by UDP, over loopback and by real
//! broadcasts between namespaces.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::support::{
    Agent, NodeProcess, PATIENCE, Plant, accept_one, binary, hold_free_port, listener, needs_two_networks,
    run, two_networks, wait_until,
};

const REQUEST: &[u8] = b"REQUEST FOR IP ADDRESS AND SERVERPORT";

/// A node from a file, and its control socket.
struct Node {
    node: NodeProcess,
    folder: tempfile::TempDir,
}

impl Node {
    /// A listener `room` that echoes, announced by `lan`, to which `keys` belong.
    fn announcing(keys: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let this = Self { node: NodeProcess::spawn(&mut Self::command(folder.path(), keys)), folder };
        this.node.line("tells by UDP where to connect");
        this
    }

    fn command(folder: &Path, keys: &str) -> Command {
        let file = Self::write(folder, keys);
        let mut command = Command::new(binary());
        command.args(["run", "--log-format", "json"]).arg(file);
        command
    }

    fn write(folder: &Path, keys: &str) -> std::path::PathBuf {
        let file = folder.join("node.toml");
        let control = folder.join("control");
        let text = format!(
            "[node]\ncontrol = {control:?}\n[listen.room]\nbind = \"0\"\n[relay.r]\nfrom = \"room\"\nmode = \"echo\"\n\
             [discovery.lan]\nfor = \"room\"\n{keys}\n"
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    /// The UDP port on which it is asked.
    fn asked(&self) -> SocketAddr {
        let line: Value = serde_json::from_str(&self.node.line("tells by UDP")).unwrap();
        let bound: SocketAddr = line["address"].as_str().unwrap().parse().unwrap();
        ([127, 0, 0, 1], bound.port()).into()
    }

    fn ask_node(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(binary());
        let out =
            run(command.args(arguments).env("SIGNAL_NODE_CONTROL", self.folder.path().join("control")), &[]);
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Why it is refused.
    fn refused(&self, arguments: &[&str]) -> String {
        let control = self.folder.path().join("control");
        let out = run(Command::new(binary()).args(arguments).env("SIGNAL_NODE_CONTROL", control), &[]);
        assert!(!out.status.success(), "{arguments:?}");
        String::from_utf8(out.stderr).unwrap()
    }

    /// What became of the requests, by name.
    fn count(&self, what: &str) -> u64 {
        let status: Value = serde_json::from_str(&self.ask_node(&["status", "--json"])).unwrap();
        let objects = status["objects"].as_array().unwrap();
        let lan = objects.iter().find(|object| object["object"] == "lan").unwrap();
        lan["requests"][what].as_u64().unwrap()
    }

    fn counts(&self, what: &str, expected: u64) {
        wait_until(&format!("{expected} are {what}"), PATIENCE, || self.count(what) == expected);
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The next datagram, as text.
fn hear(socket: &UdpSocket) -> String {
    let mut buffer = [0; 200];
    let (count, _) = socket.recv_from(&mut buffer).unwrap();
    String::from_utf8(buffer[..count].to_vec()).unwrap()
}

fn is_silent(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(true).unwrap();
    let silent = socket.recv_from(&mut [0; 200]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    socket.set_nonblocking(false).unwrap();
    silent
}

#[test]
fn the_exact_request_is_answered_with_the_port_and_nothing_else_is() {
    let node = Node::announcing("bind = \"0\"\nnetworks = [\"127.0.0.0/8\"]\nanswer_rate_per_address = 100");
    let (room, asked, begun) = (node.node.address(), node.asked(), Instant::now());
    let socket = socket();
    let long = vec![b'\0'; 2_000];
    let malformed: [&[u8]; 9] = [
        b"",
        b"REQUEST",
        b"request for ip address and serverport",
        &REQUEST[1..],
        b"REQUEST FOR IP ADDRESS AND SERVERPORT ",
        b"REQUEST FOR IP ADDRESS AND SERVERPORT\0\0\0\0",
        b"\0REQUEST FOR IP ADDRESS AND SERVERPORT",
        b"REQUEST FOR IP ADDRESS AND SERVERPORTREQUEST FOR IP ADDRESS AND SERVERPORT",
        &[REQUEST, &long].concat(),
    ];
    for request in malformed {
        socket.send_to(request, asked).unwrap();
    }
    node.counts("malformed", 9);
    for nth in 10..20 {
        socket.send_to(b"REQUEST", asked).unwrap();
        node.counts("malformed", nth);
    }
    for end in [&b""[..], b"\0", b"\n", b"\r\n", b"\r\n\0"] {
        socket.send_to(&[REQUEST, end].concat(), asked).unwrap();
        assert_eq!(hear(&socket), room.port().to_string());
    }
    assert!(is_silent(&socket));
    assert_eq!(node.count("answered"), 5);
    let page = node.ask_node(&["status"]);
    assert!(page.contains("DISCOVERY") && page.contains("MALFORMED"), "{page}");
    let (code, lines) = node.node.stop();
    assert_eq!(code, 0);
    let said: Vec<Value> = lines
        .iter()
        .filter(|line| line.contains("requests were not answered"))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let most = begun.elapsed().as_secs() as usize + 2;
    assert!((1..=most).contains(&said.len()), "{said:?}");
    assert!(said[0]["last"].as_str().unwrap().starts_with("127.0.0.1:"), "{said:?}");
}

#[test]
fn who_is_in_no_network_gets_no_word_and_a_reload_lets_him_in() {
    let node = Node::announcing("bind = \"0\"\nnetworks = [\"10.0.0.0/8\", \"fd00::/8\"]");
    let (room, asked, socket) = (node.node.address(), node.asked(), socket());
    for _ in 0..3 {
        socket.send_to(REQUEST, asked).unwrap();
    }
    node.counts("foreign", 3);
    assert!(is_silent(&socket));
    Node::write(node.folder.path(), "bind = \"0\"\nnetworks = [\"10.0.0.0/8\", \"127.0.0.1\"]");
    let told = node.ask_node(&["reload"]);
    assert!(told.contains("discovery.lan.networks"), "{told}");
    socket.send_to(REQUEST, asked).unwrap();
    assert_eq!(hear(&socket), room.port().to_string());
    assert_eq!((node.count("foreign"), node.count("answered")), (3, 1), "the same socket, with its counts");
    // And it may announce another.
    let file = node.folder.path().join("node.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("for = \"room\"", "for = \"hall\"");
    let hall = "[listen.hall]\nbind = \"0\"\n[relay.h]\nfrom = \"hall\"\nmode = \"echo\"\n";
    std::fs::write(&file, text + hall).unwrap();
    node.ask_node(&["reload"]);
    socket.send_to(REQUEST, asked).unwrap();
    assert_eq!(hear(&socket), node.node.address_of(1).port().to_string());
}

#[test]
fn one_address_is_answered_so_often_and_others_as_before() {
    let node = Node::announcing("bind = \"0\"\nnetworks = [\"127.0.0.0/8\"]\nanswer_rate_per_address = 3");
    let (asked, socket) = (node.asked(), socket());
    let begun = Instant::now();
    for _ in 0..50 {
        socket.send_to(REQUEST, asked).unwrap();
    }
    wait_until("all are counted", PATIENCE, || node.count("answered") + node.count("limited") == 50);
    // Three at once, and three for each second that this has taken.
    let most = 3 + 3 * (begun.elapsed().as_secs() + 1);
    let answered = node.count("answered");
    assert!((3..=most).contains(&answered), "{answered} in {:?}", begun.elapsed());
    let other = UdpSocket::bind("127.0.0.2:0").unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    other.send_to(REQUEST, asked).unwrap();
    assert_eq!(hear(&other), node.node.address().port().to_string());
}

#[test]
fn a_listener_that_does_not_accept_is_not_announced_and_a_port_in_use_is_named() {
    let node = Node::announcing("bind = \"0\"\nnetworks = [\"127.0.0.0/8\"]");
    let (asked, socket) = (node.asked(), socket());
    node.ask_node(&["call", "room.pause"]);
    socket.send_to(REQUEST, asked).unwrap();
    node.counts("closed", 1);
    node.ask_node(&["call", "room.resume"]);
    socket.send_to(REQUEST, asked).unwrap();
    assert_eq!(hear(&socket), node.node.address().port().to_string());
    assert!(is_silent(&socket));

    let folder = tempfile::tempdir().unwrap();
    let keys = format!("bind = \"{}\"\nnetworks = [\"127.0.0.0/8\"]", asked.port());
    let out = run(&mut Node::command(folder.path(), &keys), &[]);
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("UDP") && text.contains(&format!("pid {}", node.node.pid())), "{text}");
    Node::write(node.folder.path(), &format!("bind = \"{asked}\"\nnetworks = [\"127.0.0.0/8\"]"));
    let refused = node.refused(&["reload"]);
    assert!(refused.contains("to take it from `lan` of this node in one reload"), "{refused}");
    let moved = format!("bind = \"{}\"\nnetworks = [\"127.0.0.0/8\"]", hold_free_udp_port());
    Node::write(node.folder.path(), &moved);
    node.ask_node(&["reload"]);
    // The old port is closed, so another can have it.
    let again = Node::announcing(&keys);
    socket.send_to(REQUEST, asked).unwrap();
    assert_eq!(hear(&socket), again.node.address().port().to_string());
    assert_eq!((node.node.stop().0, again.node.stop().0), (0, 0));
}

fn hold_free_udp_port() -> u16 {
    UdpSocket::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

/// A node that dials whoever is found at this UDP socket, for one client.
fn seeking(socket: &UdpSocket, timeout: &str) -> (NodeProcess, TcpStream) {
    let to = format!("discover:{}", socket.local_addr().unwrap());
    let node =
        NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", &to, "--connect-timeout", timeout]);
    let client = crate::support::connect(node.address());
    (node, client)
}

#[test]
fn what_is_no_port_is_passed_over_and_the_first_that_is_one_is_dialled() {
    let (server, address) = listener();
    let socket = socket();
    let (node, client) = seeking(&socket, "20s");
    let mut buffer = [0; 200];
    let (count, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], REQUEST);
    for wrong in [&b"hello"[..], b"", b"0", b"65536", b"080", b"80 ", b"80\0", &[b'1'; 1_000]] {
        socket.send_to(wrong, from).unwrap();
    }
    // It goes on asking.
    let (count, again) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..count], again), (REQUEST, from));
    let away = hold_free_port().1.port();
    socket.send_to(address.port().to_string().as_bytes(), from).unwrap();
    socket.send_to(away.to_string().as_bytes(), from).unwrap();
    let accepted = accept_one(&server);
    assert_eq!(node.event("connected")["peer"], address.to_string());
    drop((client, accepted));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn when_nobody_answers_it_is_said_who_was_asked_and_what_came_instead() {
    let socket = socket();
    let (node, _client) = seeking(&socket, "1s");
    let (_, from) = socket.recv_from(&mut [0; 200]).unwrap();
    socket.send_to(b"go\x1b away", from).unwrap();
    let failed = node.event("connect_failed");
    let (error, port) = (failed["error"].as_str().unwrap(), socket.local_addr().unwrap().port());
    assert!(
        error.starts_with(&format!("nobody answered on UDP port {port} within 1s: asked 127.0.0.1")),
        "{error}"
    );
    assert!(error.contains(r"1 came that are no port, the last from 127.0.0.1:"), "{error}");
    assert!(error.ends_with(r": `go\x1b away`"), "{error}");
}

#[test]
fn a_node_does_not_find_itself() {
    let socket = socket();
    let (node, _client) = seeking(&socket, "1s");
    let (_, from) = socket.recv_from(&mut [0; 200]).unwrap();
    socket.send_to(node.address().port().to_string().as_bytes(), from).unwrap();
    let error = node.event("connect_failed")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("1 named a listener of this node"), "{error}");
}

/// A certificate is for the address that has answered, unless `server_name` says another name.
#[test]
fn who_is_found_may_speak_tls() {
    let plant = Plant::new();
    let (cert, key, ca) = (plant.path("localhost.pem"), plant.path("localhost.key"), plant.path("ca.pem"));
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, text: String| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        NodeProcess::spawn(Command::new(binary()).args(["run", "--log-format", "json"]).arg(file))
    };
    let server = run(
        "server.toml",
        format!(
            "[listen.room]\nbind = \"0\"\ntls = \"t\"\n[tls.t]\ncert = {cert:?}\nkey = {key:?}\n\
             [relay.r]\nfrom = \"room\"\nmode = \"echo\"\n\
             [discovery.lan]\nbind = \"0\"\nfor = \"room\"\nnetworks = [\"127.0.0.0/8\"]\n"
        ),
    );
    let line: Value = serde_json::from_str(&server.line("tells by UDP")).unwrap();
    let asked: SocketAddr = line["address"].as_str().unwrap().parse().unwrap();
    for (more, works) in
        [("", true), ("server_name = \"localhost\"", true), ("server_name = \"other.example\"", false)]
    {
        let client = run(
            "client.toml",
            format!(
                "[listen.door]\nbind = \"127.0.0.1:0\"\n[client.room]\nto = \"discover:127.0.0.1:{}\"\n\
                 tls = \"t\"\n[tls.t]\nca = {ca:?}\n{more}\n[relay.r]\nfrom = \"door\"\nto = \"room\"\n",
                asked.port()
            ),
        );
        let mut stream = crate::support::connect(client.address());
        stream.write_all(b"hello").unwrap();
        if works {
            let mut echo = [0; 5];
            stream.read_exact(&mut echo).unwrap();
            assert_eq!(&echo, b"hello");
        } else {
            assert!(client.event("connect_failed")["error"].as_str().unwrap().contains("certificate"));
        }
    }
}

/// A node in a namespace that announces a new port each time.
fn server(namespace: &crate::support::Namespace, folder: &Path, networks: &str) -> NodeProcess {
    let file = Node::write(folder, &format!("bind = \"4000\"\nnetworks = [{networks}]"));
    let mut command = namespace.command(binary());
    let node = NodeProcess::spawn(command.args(["run", "--log-format", "json"]).arg(file));
    node.line("tells by UDP");
    node
}

/// The node stands in both networks and answers in one; no network has a default route.
#[test]
fn a_broadcast_finds_the_server_and_finds_it_again_after_it_has_moved() {
    if !needs_two_networks() {
        return;
    }
    let (near, middle, far) = two_networks();
    let folder = tempfile::tempdir().unwrap();
    let first = server(&middle, folder.path(), "\"10.81.1.0/24\"");
    let port = first.address().port();

    let client = |timeout: &str| {
        format!(
            "[client.room]\nto = \"discover:4000\"\nconnect_timeout = \"{timeout}\"\nframing = \"lines\"\n[[connect]]\nsignal = \"room.connected\"\n\
             slot = \"room.write\"\nargs = {{ data = \"found\" }}\n[[connect]]\nsignal = \"room.message_received\"\nslot = \"log.info\"\nargs = {{ text = \"echo: {{data}}\" }}\n"
        )
    };
    let file = folder.path().join("client.toml");
    std::fs::write(&file, client("5s")).unwrap();
    let run = |namespace: &crate::support::Namespace, file: &Path| {
        NodeProcess::spawn(namespace.command(binary()).args(["run", "--log-format", "json"]).arg(file))
    };
    let found = run(&near, &file);
    assert_eq!(found.event("connected")["peer"], format!("10.81.1.1:{port}"));
    found.line("echo: found");

    // From the other network nothing is answered.
    let brief = folder.path().join("brief.toml");
    std::fs::write(&brief, client("700ms")).unwrap();
    let stranger = run(&far, &brief);
    let error = stranger.event("connect_failed")["error"].as_str().unwrap().to_owned();
    assert!(
        error.contains("within 700ms: asked 10.81.2.255, 127.0.0.1")
            || error.contains("asked 127.0.0.1, 10.81.2.255"),
        "{error}"
    );
    assert!(error.contains("could not ask 255.255.255.255 (network unreachable)"), "{error}");
    first.line("\"foreign\":");

    // The server dies, and comes again on another port.
    drop(first);
    let second = server(&middle, folder.path(), "\"10.81.0.0/16\"");
    let moved = second.address().port();
    assert_ne!(moved, port);
    assert_eq!(found.nth_event("connected", 1)["peer"], format!("10.81.1.1:{moved}"));
    // And now the other network may ask, too.
    assert_eq!(stranger.event("connected")["peer"], format!("10.81.2.1:{moved}"));
    drop((found, stranger));

    // Someone else's program asks; the kernel takes 255.255.255.255 where an address is chosen.
    let mut agent = Agent::new(&near);
    assert_eq!(agent.ask("broadcast 10.81.1.2 4000"), format!("10.81.1.1 {moved}"));
    assert_eq!(second.stop().0, 0);
}

#[test]
fn another_program_that_answers_is_found() {
    if !needs_two_networks() {
        return;
    }
    let (near, middle, _far) = two_networks();
    let mut other = Agent::new(&middle);
    other.ask("listen 9001");
    other.ask("announce 4000 9001");
    let node = near.node(&["--listen", "9000", "--connect", "discover:4000"]);
    node.event("listening");
    let mut client = Agent::new(&near);
    client.ask("connect 127.0.0.1 9000");
    other.ask("accept");
    client.ask("send 1000");
    assert_eq!(other.ask("receive 1000"), "True");
    assert_eq!(node.event("connected")["peer"], "10.81.1.1:9001");
}
