//! The chat in frames of STX type content ETX: its protocol byte by byte with
//! raw sockets, encodings that are not touched, and three terminals in two
//! networks that find it by a broadcast and find it again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use crate::support::{
    Agent, Ending, Namespace, NodeProcess, PATIENCE, binary, connect, needs_two_networks, read_all, root,
    two_networks,
};

/// The server as it is shipped, on ports of the kernel's choice.
fn server() -> (NodeProcess, SocketAddr) {
    let mut command = Command::new(binary());
    command.args(["run", "--log-format", "json"]).arg(root().join("config/stx-chat.toml"));
    let node = NodeProcess::spawn(command.env("ROOM", "0").env("DISCOVERY", "0"));
    let address = node.address();
    (node, address)
}

/// A client that speaks frames.
struct Client {
    stream: TcpStream,
    held: Vec<u8>,
}

impl Client {
    fn of(address: SocketAddr) -> Self {
        Self { stream: connect(address), held: Vec::new() }
    }

    /// One who is online, alone or after those whose names are told.
    fn online(address: SocketAddr, name: &[u8], others: usize) -> Self {
        let mut client = Self::of(address);
        client.say(&[b"1", name].concat());
        for _ in 0..others {
            assert_eq!(client.hear()[0], b'1');
        }
        client
    }

    fn say(&mut self, frame: &[u8]) {
        self.stream.write_all(&[b"\x02", frame, b"\x03"].concat()).unwrap();
    }

    /// The next frame, without its ends.
    fn hear(&mut self) -> Vec<u8> {
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == 3) {
                let frame: Vec<_> = self.held.drain(..=end).collect();
                assert_eq!(frame[0], 2, "{frame:?}");
                return frame[1..end].to_vec();
            }
            let mut buffer = [0; 4_096];
            let count = self.stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the server has closed the connection after {:?}", self.held);
            self.held.extend_from_slice(&buffer[..count]);
        }
    }

    fn hears(&mut self, frame: &[u8]) {
        let heard = self.hear();
        let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
        assert_eq!(shown(&heard), shown(frame));
    }

    /// A `4` that is from nobody: the next frame, as text.
    fn notice(&mut self) -> String {
        let text = String::from_utf8(self.hear()).unwrap();
        assert!(text.starts_with("4* "), "{text}");
        text
    }
}

#[test]
fn logins_joins_talk_to_all_and_to_one_and_leaving() {
    let (node, address) = server();
    let mut alice = Client::of(address);
    alice.say(b"1alice");
    alice.say(b"3am I alone?");
    alice.hears(b"4alice: am I alone?");

    let mut bob = Client::of(address);
    bob.say(b"1alice");
    bob.hears(b"0alice");
    // The connection stays open for another try.
    bob.say(b"1bob");
    bob.hears(b"1alice");
    alice.hears(b"2bob");

    let mut carol = Client::of(address);
    carol.say(b"1carol");
    let mut there = [carol.hear(), carol.hear()];
    there.sort();
    assert_eq!(there, [b"1alice".to_vec(), b"1bob".to_vec()]);
    alice.hears(b"2carol");
    bob.hears(b"2carol");

    bob.say(b"3hello, all");
    for client in [&mut alice, &mut bob, &mut carol] {
        client.hears(b"4bob: hello, all");
    }
    carol.say(b"2alice,one, two, three");
    alice.hears(b"4carol (private): one, two, three");
    // Nobody else has heard that: the next they hear is what comes after it.
    alice.say(b"3so");
    for client in [&mut alice, &mut bob, &mut carol] {
        client.hears(b"4alice: so");
    }

    drop(bob);
    alice.hears(b"3bob");
    carol.hears(b"3bob");
    let mut again = Client::of(address);
    again.say(b"1bob");
    alice.hears(b"2bob");
    carol.hears(b"2bob");
    drop((alice, carol, again));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn what_cannot_be_is_answered_by_a_notice_and_the_connection_goes_on() {
    let (node, address) = server();
    let mut other = Client::online(address, b"other", 0);
    let mut one = Client::of(address);
    for early in [&b"3hello"[..], b"2other,hello"] {
        one.say(early);
        assert_eq!(one.notice(), "4* log in first");
    }
    for name in [&b"1"[..], b"1a,b", b"1,", b"1a\x02b", b"1\x02"] {
        one.say(name);
        assert_eq!(one.notice(), "4* a name is not empty, and has no comma, STX or ETX");
    }
    for odd in [&b""[..], b"7", b"xlogin", b"\xff"] {
        one.say(odd);
        assert_eq!(one.notice(), "4* there is no message of this type");
    }
    // With an ETX in it, a name ends there, and what follows is in no frame.
    one.say(b"1one\x03more");
    one.hears(b"1other");
    other.hears(b"2one");
    assert_eq!(one.notice(), "4* what is not between STX and ETX is no message");
    one.say(b"1two");
    assert_eq!(one.notice(), "4* you are online as one");
    for (frame, notice) in [
        (&b"2nobody,hello"[..], "4* nobody is not online"),
        (b"2,hello", "4*  is not online"),
        (b"2other", "4* to one: name, comma, text"),
        (b"3a\x02b", "4* no message has an STX inside"),
        (b"2other,\x02", "4* no message has an STX inside"),
    ] {
        one.say(frame);
        assert_eq!(one.notice(), notice);
    }
    one.say(b"3still here");
    one.hears(b"4one: still here");
    other.hears(b"4one: still here");
    // Who never ends a message is not kept waiting for.
    one.stream.write_all(&[b"\x02", &[b'x'; 5_000][..]].concat()).unwrap();
    assert_eq!(one.notice(), "4* a message has up to 4096 bytes");
    assert_ne!(read_all(&one.stream).1, Ending::Open);
    other.hears(b"3one");
    drop((one, other));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn names_and_texts_are_bytes_wherever_they_are_cut() {
    let (node, address) = server();
    // 小明 and 你好 in UTF-8 and in GBK, and bytes that are neither.
    let utf8 = ("小明".as_bytes(), "你好, мир ✓".as_bytes());
    let gbk = (&b"\xd0\xa1\xc3\xf7"[..], &b"\xc4\xe3\xba\xc3, \xca\xc0\xbd\xe7"[..]);
    let odd = (&b"\xff\xfe\x00\x80"[..], &b"\x00\x01\x04\x7f\xc0\x80\xed\xa0\x80"[..]);
    let mut clients: Vec<(Client, &[u8])> = Vec::new();
    for (name, text) in [utf8, gbk, odd] {
        let mut client = Client::of(address);
        // What has a frame before it in the same segment was read when that is answered.
        let login = [b"\x021", name, b"\x03"].concat();
        client.stream.write_all(&[b"\x023early\x03", &login[..3]].concat()).unwrap();
        assert_eq!(client.notice(), "4* log in first");
        client.stream.write_all(&login[3..]).unwrap();
        let mut there: Vec<_> = clients.iter().map(|_| client.hear()).collect();
        there.sort();
        let mut names: Vec<_> = clients.iter().map(|(_, name)| [b"1", *name].concat()).collect();
        names.sort();
        assert_eq!(there, names);
        for (other, _) in &mut clients {
            other.hears(&[b"2", name].concat());
        }
        clients.push((client, name));
        let frame = [b"\x023", text, b"\x03"].concat();
        for cut in 1..frame.len() {
            let (begins, ends) = frame.split_at(cut);
            let (client, _) = clients.last_mut().unwrap();
            client.stream.write_all(&[b"\x023before\x03", begins].concat()).unwrap();
            for (client, _) in &mut clients {
                client.hears(&[b"4", name, b": before"].concat());
            }
            clients.last_mut().unwrap().0.stream.write_all(ends).unwrap();
            for (client, _) in &mut clients {
                client.hears(&[b"4", name, b": ", text].concat());
            }
        }
    }
    let text = gbk.1;
    let (from, to) = (clients[0].1, clients[1].1);
    clients[0].0.say(&[b"2", to, b",", text].concat());
    clients[1].0.hears(&[b"4", from, b" (private): ", text].concat());
    drop(clients);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn of_many_who_talk_at_once_everyone_hears_everything_in_order() {
    const CLIENTS: usize = 30;
    const MESSAGES: usize = 50;
    let (node, address) = server();
    let mut clients: Vec<_> =
        (0..CLIENTS).map(|nth| Client::online(address, format!("user{nth}").as_bytes(), nth)).collect();
    for (nth, client) in clients.iter_mut().enumerate() {
        for _ in nth + 1..CLIENTS {
            assert_eq!(client.hear()[0], b'2');
        }
    }
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(move || {
                // All in one write, so that a read has many frames and a part of the next.
                let mut all = Vec::new();
                for message in 0..MESSAGES {
                    all.extend_from_slice(format!("\x023message {message}\x03").as_bytes());
                }
                client.stream.write_all(&all).unwrap();
                let mut next = [0; CLIENTS];
                for _ in 0..CLIENTS * MESSAGES {
                    let heard = String::from_utf8(client.hear()).unwrap();
                    let (name, text) = heard.split_once(": ").unwrap();
                    let user: usize = name.strip_prefix("4user").unwrap().parse().unwrap();
                    assert_eq!(text, format!("message {}", next[user]), "{name}");
                    next[user] += 1;
                }
            });
        }
    });
    drop(clients);
    assert_eq!(node.stop().0, 0);
}

/// The client as it is shipped, with a keyboard and a screen.
struct Terminal {
    node: NodeProcess,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Terminal {
    fn new(namespace: &Namespace) -> Self {
        let mut command = namespace.command(binary());
        command.arg("run").arg(root().join("config/stx-chat-client.toml"));
        let mut node = NodeProcess::spawn_as_is(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut stdout = node.stdout();
        // More than any test prints.
        let (send, lines) = sync_channel(10_000);
        thread::spawn(move || {
            let (mut held, mut buffer) = (Vec::new(), [0; 4_096]);
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                held.extend_from_slice(&buffer[..count]);
                while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<_> = held.drain(..=end).collect();
                    if send.send(String::from_utf8_lossy(&line[..end]).into_owned()).is_err() {
                        return;
                    }
                }
            }
        });
        Self { node, lines, seen: Vec::new() }
    }

    fn types(&mut self, line: &str) {
        writeln!(self.node.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for a line, wherever it is among those that were not waited for yet.
    fn shows(&mut self, expected: &str) {
        loop {
            if let Some(place) = self.seen.iter().position(|line| line.contains(expected)) {
                self.seen.remove(place);
                return;
            }
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("{expected:?} is not shown, but {:?}", self.seen);
            };
            self.seen.push(line);
        }
    }

    /// What was shown until now is not looked at any more.
    fn forget(&mut self) {
        self.seen.clear();
    }
}

fn serve(namespace: &Namespace) -> (NodeProcess, u16) {
    let mut command = namespace.command(binary());
    command.args(["run", "--log-format", "json"]).arg(root().join("config/stx-chat.toml"));
    let node = NodeProcess::spawn(command.env("ROOM", "0"));
    node.line("tells by UDP");
    let port = node.address().port();
    (node, port)
}

#[test]
fn three_terminals_find_the_server_by_a_broadcast_and_again_after_a_restart() {
    if !needs_two_networks() {
        return;
    }
    let (near, middle, far) = two_networks();
    let (first, port) = serve(&middle);
    let mut alice = Terminal::new(&near);
    alice.shows(&format!("* found the server at 10.81.1.1:{port}"));
    alice.shows("* your name?");
    alice.types("alice");
    alice.shows("* you are alice; 1 online");
    let mut bob = Terminal::new(&far);
    bob.shows(&format!("* found the server at 10.81.2.1:{port}"));
    bob.types("a,b");
    bob.shows("* a name is not empty and has no comma");
    bob.types("alice");
    bob.shows("* alice is online already; another name?");
    bob.types("bob");
    bob.shows("* you are bob; 2 online, with alice");
    alice.shows("* bob joined; 2 online");
    // On the machine of the server, too; and one whose program is another.
    let mut carol = Terminal::new(&middle);
    carol.types("carol");
    carol.shows("* you are carol; 3 online, with alice, bob");
    let mut stranger = Agent::new(&near);
    let told = stranger.ask("broadcast 10.81.1.2 7011");
    assert_eq!(told, format!("10.81.1.1 {port}"));
    assert_eq!(stranger.ask(&format!("connect 10.81.1.1 {port}")), "ok");
    stranger.ask("say 02 31 64 61 76 65 03");
    alice.shows("* dave joined; 4 online");
    alice.types("hello");
    for terminal in [&mut alice, &mut bob, &mut carol] {
        terminal.shows("alice: hello");
    }
    bob.types("/msg carol 你好, only you");
    carol.shows("bob (private): 你好, only you");
    bob.types("/who");
    bob.shows("* you are bob; 4 online, with alice, carol, dave");
    // What a stranger sends does not steer the terminal.
    stranger.ask("say 02 33 1b 5b 32 4a 03");
    alice.shows("dave: ?[2J");
    stranger.ask("close");
    alice.shows("* dave left; 3 online");

    // It dies, as a machine does whose plug is pulled.
    drop(first);
    for terminal in [&mut alice, &mut bob, &mut carol] {
        terminal.shows("* the connection is lost; looking for the server");
        terminal.forget();
    }
    bob.types("is anybody there?");
    bob.shows("* kept until the server is found");
    let (second, moved) = serve(&middle);
    assert_ne!(moved, port);
    alice.shows(&format!("* found the server at 10.81.1.1:{moved}"));
    bob.shows(&format!("* found the server at 10.81.2.1:{moved}"));
    bob.shows("bob: is anybody there?");
    carol.shows("* found the server at ");
    for terminal in [&mut alice, &mut bob, &mut carol] {
        terminal.shows("3 online");
    }
    carol.types("/msg alice back again");
    alice.shows("carol (private): back again");
    // The end of what is typed is the end of the client, and the others hear of it.
    drop(bob.node.stdin.take());
    assert_eq!(bob.node.wait().0, 0);
    alice.shows("* bob left; 2 online");
    drop((alice, carol));
    assert_eq!(second.stop().0, 0);
}
