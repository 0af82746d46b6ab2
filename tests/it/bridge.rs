//! Mode bridge through the running program: who meets whom, what waiting
//! costs, and two networks that can only dial out.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use signal_node::{Config, EventBus, Node, RelayMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::support::{
    Controlled, Ending, NodeProcess, PATIENCE, Running, abort, accept_one, binary, connect, hold_free_port,
    listener, needs_two_networks, pattern, read_all, run, two_networks, wait_until,
};

/// A node with two listeners whose clients meet.
fn meeting(more: &[&str]) -> NodeProcess {
    let mut arguments = vec!["--mode", "bridge", "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
    arguments.extend(more);
    NodeProcess::start(arguments)
}

/// Comes to one side, as the nth of all clients.
fn come(node: &NodeProcess, side: usize, nth: usize) -> TcpStream {
    let client = connect(node.address_of(side));
    node.nth_event("new_connection", nth);
    client
}

fn says(mut stream: &TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
}

fn hears(mut stream: &TcpStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, text.as_bytes());
}

#[test]
fn clients_of_two_listeners_meet_in_the_order_in_which_they_came() {
    let node = meeting(&[]);
    // Whichever side is there first, and what it says meanwhile is kept.
    for (round, side) in [0, 1].into_iter().enumerate() {
        let first: Vec<_> = (0..3).map(|nth| come(&node, side, round * 6 + nth)).collect();
        for (nth, client) in first.iter().enumerate() {
            says(client, &format!("first {nth}"));
        }
        for (nth, client) in first.into_iter().enumerate() {
            let other = come(&node, 1 - side, round * 6 + 3 + nth);
            hears(&other, &format!("first {nth}"));
            says(&other, "second");
            hears(&client, "second");
            // Each half ends by itself.
            other.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&client), (vec![], Ending::Fin));
            says(&client, "still here");
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&other), (b"still here".to_vec(), Ending::Fin));
        }
    }
    for nth in 0..12 {
        let gone = node.nth_event("disconnected", nth);
        assert_eq!(gone["reason"], "closed", "{gone}");
        // Who came later ends first, whichever side it was at, and names the other.
        assert_eq!(gone["partner"].is_null(), nth % 2 == 1, "{gone}");
    }
    assert_eq!(node.stop().0, 0);
}

#[test]
fn one_who_waits_is_not_read_and_nothing_of_it_is_lost() {
    let node = meeting(&[]);
    let mut first = come(&node, 0, 0);
    first.set_nonblocking(true).unwrap();
    let all = pattern(1, 0, 64 << 20);
    let mut sent = 0;
    wait_until("nothing more is taken", PATIENCE, || {
        let before = sent;
        while let Ok(count) = first.write(&all[sent..]) {
            sent += count;
        }
        thread::sleep(Duration::from_millis(100));
        sent == before
    });
    assert!(sent < all.len(), "{sent} bytes fit the kernel");
    first.set_nonblocking(false).unwrap();
    let second = come(&node, 1, 1);
    thread::scope(|scope| {
        scope.spawn(|| {
            first.write_all(&all[sent..]).unwrap();
            first.shutdown(Shutdown::Write).unwrap();
        });
        let (bytes, ending) = read_all(&second);
        assert!(bytes == all && ending == Ending::Fin, "{} bytes, {ending:?}", bytes.len());
    });
}

#[test]
fn one_who_leaves_while_it_waits_meets_nobody() {
    let node = meeting(&[]);
    let [finishes, resets, finishes_after_a_word, resets_after_a_word] =
        [0, 1, 2, 3].map(|nth| come(&node, 0, nth));
    finishes.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&finishes), (vec![], Ending::Fin));
    assert_eq!(node.nth_event("disconnected", 0)["reason"], "closed");
    abort(resets);
    assert_eq!(node.nth_event("disconnected", 1)["reason"], "reset");
    says(&resets_after_a_word, "lost");
    abort(resets_after_a_word);
    assert_eq!(node.nth_event("disconnected", 2)["reason"], "reset");
    // What this one has said can still be delivered.
    says(&finishes_after_a_word, "a letter");
    finishes_after_a_word.shutdown(Shutdown::Write).unwrap();
    let other = come(&node, 1, 4);
    says(&other, "thanks");
    other.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&other), (b"a letter".to_vec(), Ending::Fin));
    assert_eq!(read_all(&finishes_after_a_word), (b"thanks".to_vec(), Ending::Fin));
}

#[test]
fn no_more_wait_than_may_and_a_place_is_free_again_when_one_has_left() {
    let node = meeting(&["--max-waiting", "2"]);
    let (first, second) = (come(&node, 0, 0), come(&node, 0, 1));
    assert_eq!(read_all(&come(&node, 0, 2)), (vec![], Ending::Reset));
    assert_eq!(node.event("disconnected")["reason"], "no_partner");
    drop(first);
    node.nth_event("disconnected", 1);
    let third = come(&node, 0, 3);
    for (nth, client) in [second, third].iter().enumerate() {
        let other = come(&node, 1, 4 + nth);
        says(&other, "hello");
        hears(client, "hello");
    }
}

#[test]
fn a_pair_that_has_met_passes_a_reset_on_and_can_be_ended() {
    let node = Controlled::start(&["--mode", "bridge", "--listen", "127.0.0.1:0"]);
    let sides = [node.node.address_of(0), node.node.address_of(1)];
    let (first, second) = (connect(sides[0]), connect(sides[1]));
    says(&first, "x");
    hears(&second, "x");
    abort(first);
    assert_eq!(read_all(&second), (vec![], Ending::Reset));
    let reasons = [0, 1].map(|nth| node.node.nth_event("disconnected", nth)["reason"].clone());
    assert!(reasons.contains(&"reset".into()) && reasons.contains(&"partner_lost".into()), "{reasons:?}");
    // By the one that waited, by the one that came, and while one waits.
    for nth in 0..3 {
        let first = connect(sides[0]);
        let id = node.node.nth_event("new_connection", 2 + nth * 2)["connection"].clone();
        let mut victim = id.clone();
        let mut both = vec![first];
        if nth < 2 {
            both.push(connect(sides[1]));
            says(&both[0], "x");
            hears(&both[1], "x");
            let other = node.node.nth_event("new_connection", 3 + nth * 2);
            let status = node.status();
            let connections = status["connections"].as_array().unwrap();
            let met = connections.iter().find(|one| one["connection"] == other["connection"]).unwrap();
            assert_eq!(met["partner"], id);
            if nth == 1 {
                victim = other["connection"].clone();
            }
        }
        let out = node.ask(&["call", "node.disconnect", &victim.to_string()]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        for stream in &both {
            assert_eq!(read_all(stream), (vec![], Ending::Reset));
        }
        assert_eq!(node.node.nth_event("disconnected", 2 + nth * 2)["reason"], "killed");
    }
}

#[test]
fn when_the_node_stops_those_who_wait_are_let_go_and_a_pair_is_drained() {
    let node = meeting(&[]);
    let (first, second) = (come(&node, 0, 0), come(&node, 1, 1));
    says(&first, "x");
    hears(&second, "x");
    let waits = come(&node, 0, 2);
    node.signal(Signal::TERM);
    assert_eq!(read_all(&waits), (vec![], Ending::Reset));
    assert_eq!(node.event("disconnected")["reason"], "shutdown");
    says(&second, "one more");
    hears(&first, "one more");
    drop((first, second));
    assert_eq!(node.wait().0, 0);
}

#[test]
fn a_reload_leaves_those_who_wait_alone_unless_it_takes_their_bridge() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bridge.toml");
    let listeners = "[listen.a]\nbind = \"127.0.0.1:0\"\n[listen.b]\nbind = \"127.0.0.1:0\"\n";
    let bridge = |more: &str| {
        let relay = "[relay.meet]\nfrom = \"a\"\nto = \"b\"\nmode = \"bridge\"\n";
        std::fs::write(&file, format!("{listeners}{relay}{more}")).unwrap();
    };
    bridge("");
    let node = NodeProcess::spawn(Command::new(binary()).args(["run", "--log-format", "json"]).arg(&file));
    let (a, b) = (node.address_of(0), node.address_of(1));
    let first = connect(a);
    node.event("new_connection");
    bridge("max_waiting = 1\n");
    node.signal(Signal::HUP);
    node.line("changed relay.meet");
    assert_eq!(read_all(&connect(a)).1, Ending::Reset, "the new limit holds");
    let other = connect(b);
    says(&first, "x");
    hears(&other, "x");
    let waits = connect(a);
    node.nth_event("new_connection", 3);
    // Each of the two is an echo of its own now.
    let echoes = "[relay.one]\nfrom = \"a\"\nmode = \"echo\"\n[relay.two]\nfrom = \"b\"\nmode = \"echo\"\n";
    std::fs::write(&file, format!("{listeners}{echoes}")).unwrap();
    node.signal(Signal::HUP);
    assert_eq!(read_all(&waits), (vec![], Ending::Reset));
    says(&other, "the pair goes on");
    hears(&first, "the pair goes on");
    let echo = connect(a);
    says(&echo, "echo");
    hears(&echo, "echo");
}

/// Two that a node dials, and the node.
fn calling(more: &[&str]) -> (TcpListener, TcpListener, NodeProcess) {
    let ((first, to_first), (second, to_second)) = (listener(), listener());
    let (to_first, to_second) = (to_first.to_string(), to_second.to_string());
    let mut arguments = vec!["--mode", "bridge", "--connect", &to_first, "--connect", &to_second];
    arguments.extend(more);
    (first, second, NodeProcess::start(arguments))
}

fn nobody_comes(listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "somebody came");
    listener.set_nonblocking(false).unwrap();
}

#[test]
fn the_second_target_is_dialled_when_the_first_has_something_to_say_and_both_again_after_a_session() {
    let (first, second, node) = calling(&[]);
    for session in 0..3 {
        let caller = accept_one(&first);
        node.nth_event("connected", session * 2);
        nobody_comes(&second);
        says(&caller, "good morning");
        let server = accept_one(&second);
        hears(&server, "good morning");
        says(&server, "hello there");
        hears(&caller, "hello there");
        if session == 1 {
            abort(server);
            assert_eq!(read_all(&caller).1, Ending::Reset);
        } else {
            caller.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&server), (vec![], Ending::Fin));
            server.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&caller), (vec![], Ending::Fin));
        }
        // A session is no failure: the pauses do not grow.
        assert_eq!(node.nth_event("reconnecting", session)["attempt"], 1);
    }
    let waits = accept_one(&first);
    node.nth_event("connected", 6);
    node.signal(Signal::TERM);
    assert_eq!(read_all(&waits), (vec![], Ending::Reset));
    assert_eq!(node.wait().0, 0);
}

#[test]
fn a_server_that_speaks_first_is_dialled_on_the_first_connection() {
    let (first, second, node) = calling(&["--join-on", "connection"]);
    let caller = accept_one(&first);
    let server = accept_one(&second);
    says(&server, "220 ready");
    hears(&caller, "220 ready");
    drop((caller, server));
    // While the server is away the caller waits, unread; when it leaves it is dialled again.
    let address = second.local_addr().unwrap();
    drop(second);
    let caller = accept_one(&first);
    let failed = node.event("connect_failed");
    assert_eq!(failed["endpoint"], "connect2");
    drop(caller);
    let caller = accept_one(&first);
    says(&caller, "anybody?");
    let second = TcpListener::bind(address).unwrap();
    hears(&accept_one(&second), "anybody?");
}

#[test]
fn who_cannot_be_taken_on_is_told_so_and_dialled_again_later_and_later() {
    let (held, away) = hold_free_port();
    let (first, to_first) = listener();
    let (to_first, away) = (to_first.to_string(), away.to_string());
    let node = NodeProcess::start(["--mode", "bridge", "--connect", &to_first, "--connect", &away]);
    for attempt in 1..4 {
        let caller = accept_one(&first);
        says(&caller, "x");
        assert_eq!(read_all(&caller), (vec![], Ending::Reset));
        assert_eq!(node.nth_event("disconnected", attempt - 1)["reason"], "no_target");
        let again = node.nth_event("reconnecting", attempt - 1);
        assert_eq!((&again["attempt"], &again["endpoint"]), (&attempt.into(), &"connect1".into()));
    }
    held.listen(16).unwrap();
    let second: TcpListener = held.into();
    // One that leaves without a word is no session either.
    drop(accept_one(&first));
    assert_eq!(node.nth_event("reconnecting", 3)["attempt"], 4);
    let caller = accept_one(&first);
    says(&caller, "x");
    hears(&accept_one(&second), "x");
}

/// A node in this process, whose clock stands still until all wait for it.
async fn paused(from: &[&str], to: &[&str], change: impl FnOnce(&mut Config)) -> Node {
    let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
    let mut config = Config::relay(parse(from), parse(to));
    let relay = config.relay.get_mut("relay").unwrap();
    relay.mode = RelayMode::Bridge;
    let mut ends: Vec<_> = relay.from.drain(..).chain(relay.to.drain(..)).collect();
    relay.to = ends.split_off(1);
    relay.from = ends;
    change(&mut config);
    Node::bind_with(config, EventBus::new()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_who_has_waited_for_too_long_is_reset() {
    for limit in [None, Some(Duration::from_secs(60))] {
        let node = paused(&["127.0.0.1:0", "127.0.0.1:0"], &[], |config| {
            if limit.is_some() {
                config.relay.get_mut("relay").unwrap().options.bridge.wait_timeout = limit;
            }
        });
        let node = node.await;
        let begun = Instant::now();
        let mut waits = tokio::net::TcpStream::connect(node.addresses()[0]).await.unwrap();
        waits.write_all(b"hello?").await.unwrap();
        let error = waits.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let usual = Duration::from_secs(3_600);
        let waited = begun.elapsed();
        assert!(waited >= limit.unwrap_or(usual) && waited < limit.unwrap_or(usual) * 2, "{waited:?}");
        assert_eq!(node.shutdown(Duration::ZERO).await.cut, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dialled_one_waits_for_the_other_no_longer_than_it_may() {
    let first = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_held, away) = hold_free_port();
    let (to, away) = (first.local_addr().unwrap().to_string(), away.to_string());
    let begun = Instant::now();
    let targets = [to.as_str(), away.as_str()];
    let node = paused(&[], &targets, |config| {
        let bridge = &mut config.relay.get_mut("relay").unwrap().options.bridge;
        bridge.wait_timeout = Some(Duration::from_secs(60));
        bridge.join_on = signal_node::JoinOn::Connection;
    });
    let node = node.await;
    let (mut caller, _) = first.accept().await.unwrap();
    assert!(caller.read(&mut [0]).await.is_err());
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(60) && waited < Duration::from_secs(600), "{waited:?}");
    assert!(first.accept().await.is_ok());
    assert_eq!(node.shutdown(Duration::ZERO).await.cut, 0);
}

fn sum(path: &std::path::Path) -> String {
    let out = run(Command::new("sha256sum").arg(path), &[]);
    assert!(out.status.success());
    String::from_utf8(out.stdout).unwrap()[..64].to_owned()
}

#[test]
fn two_networks_that_can_only_dial_out_exchange_files_through_a_node_between_them() {
    if !needs_two_networks() {
        return;
    }
    let (one, middle, two) = two_networks();
    let node = middle.node(&["--mode", "bridge", "--listen", "10.81.1.1:9000", "--listen", "10.81.2.1:9000"]);
    node.nth_event("listening", 1);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut ends = Vec::new();
    for (namespace, gate, name, size) in
        [(&one, "10.81.1.1:9000", "one", 30_000_001), (&two, "10.81.2.1:9000", "two", 7_000_003)]
    {
        let mut random = File::open("/dev/urandom").unwrap().take(size);
        std::io::copy(&mut random, &mut File::create(path(name)).unwrap()).unwrap();
        let mut command = namespace.command(binary());
        command.args(["--connect", gate]).stdin(File::open(path(name)).unwrap());
        command.stdout(File::create(path(&format!("for {name}"))).unwrap()).stderr(Stdio::null());
        ends.push(Running::start(&mut command));
    }
    for end in ends {
        assert!(end.wait().success());
    }
    assert_eq!(sum(&path("for one")), sum(&path("two")));
    assert_eq!(sum(&path("for two")), sum(&path("one")));
    for nth in 0..2 {
        assert_eq!(node.nth_event("disconnected", nth)["reason"], "closed");
    }
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_node_that_can_only_dial_out_offers_its_local_server_at_a_public_node_again_and_again() {
    if !needs_two_networks() {
        return;
    }
    let (private, public, users) = two_networks();
    let gate = ["--mode", "bridge", "--listen", "10.81.2.1:80", "--listen", "10.81.1.1:7000"];
    let gate = public.node(&gate);
    gate.nth_event("listening", 1);
    // A server that gives nobody longer than a moment to say something.
    let mut server = private.python(
        "import http.server,sys\n\
         class Handler(http.server.BaseHTTPRequestHandler):\n\
         \x20timeout = 1\n\
         \x20def do_GET(self):\n\
         \x20 body = self.path.encode() * 100000\n\
         \x20 self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers()\n\
         \x20 self.wfile.write(body)\n\
         \x20def log_error(self, *_): print('idle', flush=True)\n\
         \x20def log_message(self, *_): print('served', flush=True)\n\
         http.server.HTTPServer(('127.0.0.1', 8080), Handler).serve_forever()",
    );
    let node =
        private.node(&["--mode", "bridge", "--connect", "10.81.1.1:7000", "--connect", "127.0.0.1:8080"]);
    for session in 0..2 {
        // Longer than the server would have waited.
        node.nth_event("connected", session * 2);
        thread::sleep(Duration::from_millis(1_500));
        let path = format!("/session-{session}");
        let fetch = format!(
            "import urllib.request\nbody = urllib.request.urlopen('http://10.81.2.1:80{path}', timeout=30).read()\n\
             print(body == b'{path}' * 100000)"
        );
        let out = run(users.command("python3").args(["-c", &fetch]), &[]);
        assert_eq!(
            String::from_utf8_lossy(&out.stdout).trim(),
            "True",
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let again = node.nth_event("reconnecting", session);
        assert_eq!(again["endpoint"], "connect1");
    }
    assert_eq!(node.stop().0, 0);
    server.child.kill().unwrap();
    let mut said = String::new();
    server.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "served\nserved\n");
}
