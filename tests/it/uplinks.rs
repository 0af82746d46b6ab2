//! Several targets in mode collect: one connection, which goes to the next when
//! it ends and back to the first, with what waits kept and every line accounted for.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use signal_node::bus::Delivery;
use signal_node::registry::{Accounts, ObjectKind};
use signal_node::{Config, Event, EventBus, EventKind, EventMask, Node};
use tokio::time::timeout;
use tokio_stream::StreamExt;

use crate::support::{
    Ending, NodeProcess, PATIENCE, Running, abort, accept_one, binary, connect, hold_free_port, listener,
    needs, read_all, run, wait_until,
};

/// A node with targets `a`, `b` and so on for one connection.
struct Uplinked {
    node: NodeProcess,
    folder: tempfile::TempDir,
}

fn text(targets: &[SocketAddr], relay: &str) -> String {
    let names = &["a", "b", "c"][..targets.len()];
    let mut text = String::from("[listen.front]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\n");
    for (name, target) in names.iter().zip(targets) {
        text.push_str(&format!("[client.{name}]\nto = \"{target}\"\nconnect_timeout = \"500ms\"\n"));
    }
    text + &format!("[relay.up]\nfrom = \"front\"\nto = {names:?}\nmode = \"collect\"\n{relay}\n")
}

impl Uplinked {
    fn start(targets: &[SocketAddr], relay: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (file, control) = (folder.path().join("up.toml"), folder.path().join("control"));
        let text = text(targets, relay) + &format!("[node]\ncontrol = {control:?}\n");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(binary());
        let node = NodeProcess::spawn(command.args(["run", "--log-format", "json"]).arg(&file));
        node.address();
        Self { node, folder }
    }

    fn status(&self, more: &[&str]) -> String {
        let mut command = Command::new(binary());
        command.arg("status").args(more).env("SIGNAL_NODE_CONTROL", self.folder.path().join("control"));
        String::from_utf8(run(&mut command, &[]).stdout).unwrap()
    }

    /// The accounts of an object, which add up.
    fn accounts(&self, object: &str) -> Accounts {
        let status: Value = serde_json::from_str(&self.status(&["--json"])).unwrap();
        let objects = status["objects"].as_array().unwrap();
        let accounts = &objects.iter().find(|known| known["object"] == object).unwrap()["accounts"];
        let count = |key: &str| accounts[key].as_u64().unwrap();
        sum(Accounts {
            received: count("received"),
            sent: count("sent"),
            queued: count("queued"),
            dropped: count("dropped"),
            unconfirmed: count("unconfirmed"),
        })
    }

    fn changed(&self, nth: usize) -> (String, String) {
        let event = self.node.nth_event("target_changed", nth);
        assert_eq!(event["endpoint"], "up");
        (event["from"].as_str().unwrap().into(), event["to"].as_str().unwrap().into())
    }
}

fn sum(accounts: Accounts) -> Accounts {
    let Accounts { received, sent, queued, dropped, unconfirmed } = accounts;
    assert_eq!(received, sent + queued + dropped + unconfirmed, "{accounts:?}");
    accounts
}

/// A process that takes lines of anyone, and what it has read.
struct Server {
    running: Running,
    read: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(address: SocketAddr) -> Self {
        let code = format!(
            "import socket,sys\n\
             s=socket.create_server(('127.0.0.1',{}))\n\
             print('listens',flush=True)\n\
             while True:\n\
             \x20c=s.accept()[0]\n\
             \x20for line in c.makefile('rb'):\n\
             \x20\x20sys.stdout.buffer.write(line if line.endswith(b'\\n') else b'cut\\n')\n\
             \x20\x20sys.stdout.flush()\n\
             \x20c.close()",
            address.port()
        );
        let mut command = Command::new("python3");
        let mut running = Running::start(command.args(["-c", &code]).stdout(Stdio::piped()));
        let mut lines = BufReader::new(running.child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "listens");
        let read: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = Arc::clone(&read);
        // Ends with the process.
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| sink.lock().unwrap().push(line)));
        Self { running, read }
    }

    fn count(&self) -> usize {
        self.read.lock().unwrap().len()
    }

    fn kill(self) -> Vec<String> {
        self.running.signal(rustix::process::Signal::KILL);
        drop(self.running);
        std::mem::take(&mut *self.read.lock().unwrap())
    }
}

#[test]
fn the_next_line_after_a_kill_arrives_at_the_second_and_traffic_returns_without_losing_or_doubling_one() {
    if !needs(&["python3"]) {
        return;
    }
    thread::scope(|scope| {
        for more in ["", "check = \"50ms\"", "resend = true"] {
            scope.spawn(move || {
                let ((_a, first), (_b, second)) = (hold_free_port(), hold_free_port());
                let (a, b) = (Server::start(first), Server::start(second));
                let node = Uplinked::start(&[first, second], &format!("hold = \"1s\"\n{more}"));
                let mut client = connect(node.node.address());
                (0..100).for_each(|nth| writeln!(client, "0 {nth:06}").unwrap());
                wait_until("the first has them", PATIENCE, || {
                    a.count() == 100 && node.accounts("up").sent == 100
                });
                let mut got = a.kill();
                let killed = Instant::now();
                writeln!(client, "0 {:06}", 100).unwrap();
                wait_until("the next line is there", PATIENCE, || b.count() == 1);
                let gap = killed.elapsed();
                assert!(gap < Duration::from_secs(3), "{gap:?}");
                assert_eq!(node.changed(0), ("a".into(), "b".into()));
                // Under way in great numbers while it returns.
                let a = Server::start(first);
                let (is_over, sent) = (AtomicBool::new(false), AtomicUsize::new(101));
                thread::scope(|scope| {
                    for sender in 1..5 {
                        let (is_over, sent, address) = (&is_over, &sent, node.node.address());
                        scope.spawn(move || {
                            let mut client = connect(address);
                            for nth in 0.. {
                                if is_over.load(Relaxed) {
                                    break;
                                }
                                writeln!(client, "{sender} {nth:06}").unwrap();
                                sent.fetch_add(1, Relaxed);
                            }
                            client.shutdown(Shutdown::Write).unwrap();
                            assert_eq!(read_all(&client).1, Ending::Fin);
                        });
                    }
                    wait_until("traffic returns", PATIENCE, || a.count() > 1_000);
                    is_over.store(true, Relaxed);
                });
                assert!(killed.elapsed() >= Duration::from_secs(1));
                assert_eq!(node.changed(1), ("b".into(), "a".into()));
                let total = sent.load(Relaxed);
                wait_until("all is confirmed and read", PATIENCE, || {
                    node.accounts("up").sent == total as u64 && got.len() + a.count() + b.count() == total
                });
                let all = Accounts { received: total as u64, sent: total as u64, ..Accounts::default() };
                assert_eq!(node.accounts("up"), all);
                assert_eq!(node.accounts("b").sent, b.count() as u64);
                assert_eq!(node.accounts("a").sent, 100 + a.count() as u64);
                let page = node.status(&[]);
                let rows: Vec<Vec<_>> = page.lines().map(|row| row.split_whitespace().collect()).collect();
                let at = rows.iter().position(|row| row.first() == Some(&"COLLECTS")).unwrap();
                let (ours, theirs) = (total.to_string(), [&a, &b].map(|server| server.count()));
                let theirs = [theirs[0] + 100, theirs[1]].map(|count| count.to_string());
                assert_eq!(rows[at + 1], ["up", &ours, &ours, "0", "0", "0"], "{page}");
                assert_eq!(rows[at + 2], ["a", &theirs[0], &theirs[0], "0", "0", "0"], "{page}");
                assert_eq!(rows[at + 3], ["b", &theirs[1], &theirs[1], "0", "0", "0"], "{page}");
                let counts = (a.count(), b.count());
                for read in [&b, &a] {
                    let read = read.read.lock().unwrap();
                    for sender in 0..5 {
                        let of = |line: &&String| line.starts_with(&format!("{sender} "));
                        let numbers: Vec<_> = read.iter().filter(of).collect();
                        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "order is kept");
                    }
                    got.extend(read.iter().cloned());
                }
                assert!(!got.iter().any(|line| line == "cut"), "the last line is whole");
                assert_eq!(
                    got.iter().collect::<BTreeSet<_>>().len(),
                    total,
                    "none is missing and none twice"
                );
                eprintln!(
                    "{more:15} {gap:?} to the second; of {total} lines {counts:?} and 100; nothing lost"
                );
            });
        }
    });
}

fn parse(text: &str) -> Config {
    Config::parse(vec![("up.toml".into(), text.into())]).unwrap().0
}

async fn node(targets: &[SocketAddr], relay: &str) -> Node {
    Node::bind_with(parse(&text(targets, relay)), EventBus::new()).await.unwrap()
}

fn accounts(node: &Node, object: &str) -> Accounts {
    match node.registry().find(object).unwrap().kind {
        ObjectKind::Client { accounts: Some(accounts), .. }
        | ObjectKind::Relay { accounts: Some(accounts), .. } => sum(accounts),
        other => panic!("{other:?}"),
    }
}

/// Takes so many lines of each of so many connections and resets them; later ones it reads to their end.
fn dies(listener: &TcpListener, times: usize, lines: usize, is_over: &AtomicBool) -> usize {
    let mut read = 0;
    listener.set_nonblocking(true).unwrap();
    for nth in 0.. {
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) if is_over.load(Relaxed) => return read,
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut server = BufReader::new(stream);
        let most = if nth < times { lines } else { usize::MAX };
        let mut line = String::new();
        for _ in 0..most {
            line.clear();
            if server.read_line(&mut line).unwrap_or(0) == 0 {
                break;
            }
            read += usize::from(line.ends_with('\n'));
        }
        if nth < times {
            abort(server.into_inner());
        }
    }
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_accounts_add_up_while_two_targets_die_by_turns() {
    for resends in [false, true] {
        let [(first, a), (second, b)] = [(); 2].map(|()| {
            let (held, address) = hold_free_port();
            // So that one connection cannot take everything.
            held.set_recv_buffer_size(16 << 10).unwrap();
            held.listen(16).unwrap();
            (TcpListener::from(held), address)
        });
        let node = node(&[a, b], &format!("strategy = \"round_robin\"\nresend = {resends}")).await;
        let address = node.addresses()[0];
        let (senders, each) = (10, 10_000);
        let total = senders * each;
        let sending = thread::spawn(move || {
            thread::scope(|scope| {
                for sender in 0..senders {
                    scope.spawn(move || {
                        let mut client = connect(address);
                        (0..each).for_each(|nth| writeln!(client, "{sender} {nth:06}").unwrap());
                        client.shutdown(Shutdown::Write).unwrap();
                        assert_eq!(read_all(&client).1, Ending::Fin);
                    });
                }
            });
        });
        let is_over = Arc::new(AtomicBool::new(false));
        let reading = [first, second].map(|listener| {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || dies(&listener, 2, total / 50, &is_over))
        });
        while !sending.is_finished() || accounts(&node, "up").queued > 0 {
            for target in ["a", "b"] {
                accounts(&node, target);
            }
            tokio::task::yield_now().await;
        }
        // Looked at one after the other, they agree once nothing moves.
        loop {
            let [up, a, b] = ["up", "a", "b"].map(|object| accounts(&node, object));
            assert_eq!((up.received, up.dropped), (total as u64, 0));
            if (up.sent, up.unconfirmed) == (a.sent + b.sent, a.unconfirmed + b.unconfirmed) {
                // What is sent again is no longer one's own.
                assert!(resends || a.received > 0 && b.received > 0, "{a:?} {b:?}");
                break;
            }
            tokio::task::yield_now().await;
        }
        let stopped = node.shutdown(PATIENCE).await;
        assert_eq!(stopped.cut, 0);
        is_over.store(true, Relaxed);
        let read: usize = reading.map(|reading| reading.join().unwrap()).iter().sum();
        assert!(resends || read <= total, "{read} of {total}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_of_all_waits_and_no_dial_before_it_does() {
    let ((held, a), (other, b)) = (hold_free_port(), hold_free_port());
    let uplinked = tokio::task::spawn_blocking(move || Uplinked::start(&[a, b], "")).await.unwrap();
    let done = tokio::task::spawn_blocking(move || {
        let node = &uplinked.node;
        let mut client = connect(node.address());
        writeln!(client, "waits").unwrap();
        node.nth_event("reconnecting", 2);
        let kinds = ["connect_failed", "reconnecting"];
        let events: Vec<Value> =
            node.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let seen: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap_or_default()).collect();
        let seen: Vec<_> = seen.into_iter().filter(|event| kinds.contains(event)).collect();
        let round = ["connect_failed", "connect_failed", "reconnecting"];
        assert!(seen.chunks(3).take(3).all(|chunk| chunk == round), "{seen:?}");
        assert_eq!(uplinked.accounts("up").queued, 1);
        other.listen(16).unwrap();
        let second: TcpListener = other.into();
        let server = accept_one(&second);
        assert_eq!(BufReader::new(&server).lines().next().unwrap().unwrap(), "waits");
        assert_eq!(uplinked.changed(0), ("a".into(), "b".into()));
        // It ends, and though its door is closed there is no pause before the first is tried.
        held.listen(16).unwrap();
        let first: TcpListener = held.into();
        let before = uplinked.node.lines().iter().filter(|line| line.contains("\"reconnecting\"")).count();
        drop((second, server));
        let server = accept_one(&first);
        let after = uplinked.node.lines().iter().filter(|line| line.contains("\"reconnecting\"")).count();
        assert_eq!(before, after);
        writeln!(client, "next").unwrap();
        assert_eq!(BufReader::new(&server).lines().next().unwrap().unwrap(), "next");
    });
    done.await.unwrap();
}

/// Reads a line byte by byte, so that nothing is taken away from the next reader.
fn line(mut stream: &TcpStream) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.last() != Some(&b'\n') {
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

#[test]
fn what_was_asked_is_answered_before_the_connection_moves_back() {
    let ((held, a), (second, b)) = (hold_free_port(), listener());
    let node = Uplinked::start(&[a, b], "hold = \"300ms\"\nreply = \"request\"\nrequest_timeout = \"10s\"");
    let mut client = connect(node.node.address());
    let device = accept_one(&second);
    writeln!(client, "one").unwrap();
    assert_eq!(line(&device), "one\n");
    held.listen(16).unwrap();
    let first: TcpListener = held.into();
    let preferred = accept_one(&first);
    // It is connected, and waits for the answer that the other still owes; so does the next request.
    writeln!(client, "two").unwrap();
    node.node.nth_event("connected", 1);
    preferred.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(read_all(&preferred), (vec![], Ending::Open));
    writeln!(&device, "answer").unwrap();
    assert_eq!(line(&client), "answer\n");
    assert_eq!(read_all(&device), (vec![], Ending::Fin), "nothing more was asked there");
    drop(device);
    preferred.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(line(&preferred), "two\n");
    writeln!(&preferred, "again").unwrap();
    assert_eq!(line(&client), "again\n");
    let accounts = node.accounts("up");
    assert_eq!((accounts.received, accounts.sent), (2, 2));
    assert!(!node.node.lines().iter().any(|line| line.contains("request_failed")));
}

#[test]
fn one_that_cannot_be_reached_is_tried_beside_the_one_that_works() {
    let ((_held, a), (second, b)) = (hold_free_port(), listener());
    let node = Uplinked::start(&[a, b], "hold = \"100ms\"");
    let mut client = connect(node.node.address());
    let server = accept_one(&second);
    for nth in 0..5 {
        node.node.nth_event("connect_failed", nth);
        writeln!(client, "{nth}").unwrap();
        assert_eq!(line(&server), format!("{nth}\n"));
    }
    second.set_nonblocking(true).unwrap();
    assert!(second.accept().is_err(), "it was left alone");
    assert_eq!((node.accounts("b").received, node.accounts("a").received), (5, 0));
}

/// Its machine accepts whoever comes, and its program ends them.
#[test]
fn one_that_hangs_up_is_left_for_the_time_of_hold_though_it_could_be_reached() {
    let ((first, a), (second, b)) = (listener(), listener());
    let node = Uplinked::start(&[a, b], "hold = \"1s\"");
    let mut client = connect(node.node.address());
    let server = accept_one(&first);
    writeln!(client, "one").unwrap();
    assert_eq!(line(&server), "one\n");
    let left = Instant::now();
    drop(server);
    let server = accept_one(&second);
    assert_eq!(node.changed(0), ("a".into(), "b".into()));
    writeln!(client, "two").unwrap();
    assert_eq!(line(&server), "two\n");
    let back = accept_one(&first);
    assert!(left.elapsed() >= Duration::from_secs(1), "{:?}", left.elapsed());
    // The one that is left hears so, and is heard to its end.
    assert_eq!(read_all(&server), (vec![], Ending::Fin));
    writeln!(&server, "farewell").unwrap();
    assert_eq!(line(&client), "farewell\n");
    assert_eq!(node.changed(1), ("b".into(), "a".into()));
    writeln!(client, "three").unwrap();
    assert_eq!(line(&back), "three\n");
}

/// Of what waits for the second a line is half written, and it reads only when the first is back.
#[test]
fn a_line_that_was_begun_is_written_to_its_end_before_the_connection_moves_back() {
    let ((held, a), (narrow, b)) = (hold_free_port(), hold_free_port());
    narrow.set_recv_buffer_size(16 << 10).unwrap();
    narrow.listen(16).unwrap();
    let node = Uplinked::start(&[a, b], "hold = \"300ms\"");
    let (narrow, mut client) = (TcpListener::from(narrow), connect(node.node.address()));
    let server = accept_one(&narrow);
    let lines = |range: std::ops::Range<usize>| -> String {
        range.map(|nth| format!("{nth:06} {}\n", "x".repeat(993))).collect()
    };
    client.write_all(lines(0..4_000).as_bytes()).unwrap();
    wait_until("some of it is out", PATIENCE, || node.accounts("b").received > 0);
    held.listen(16).unwrap();
    let back = accept_one(&TcpListener::from(held));
    let (bytes, ending) = read_all(&server);
    let got = bytes.len() / 1_001;
    assert_eq!(ending, Ending::Fin);
    assert!(got < 4_000 && bytes == lines(0..got).into_bytes(), "{} bytes", bytes.len());
    let mut rest = vec![0; (4_000 - got) * 1_001];
    (&back).read_exact(&mut rest).unwrap();
    assert!(rest == lines(got..4_000).into_bytes(), "after {got} lines");
}

/// One that waits for an answer is about to be left, when a reload leads somewhere else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_forgets_the_connection_that_was_to_be_moved_to() {
    let ((held, a), (second, b), (third, c)) = (hold_free_port(), listener(), listener());
    let relay = "hold = \"300ms\"\nreply = \"request\"\nrequest_timeout = \"10s\"";
    let mut node = node(&[a, b], relay).await;
    let address = node.addresses()[0];
    let asked = tokio::task::spawn_blocking(move || {
        let mut client = connect(address);
        let device = accept_one(&second);
        writeln!(client, "one").unwrap();
        assert_eq!(line(&device), "one\n");
        held.listen(16).unwrap();
        let first: TcpListener = held.into();
        (client, device, accept_one(&first))
    });
    let (mut client, device, preferred) = asked.await.unwrap();
    node.reload(parse(&text(&[c, b], relay).replace("127.0.0.1:0", &address.to_string()))).await.unwrap();
    let answered = tokio::task::spawn_blocking(move || {
        writeln!(&device, "answer").unwrap();
        assert_eq!(line(&client), "answer\n");
        drop(device);
        let device = accept_one(&third);
        writeln!(client, "two").unwrap();
        assert_eq!(line(&device), "two\n");
        assert!(read_all(&preferred).0.is_empty());
    });
    answered.await.unwrap();
}

#[test]
fn each_in_turn_is_the_next_whenever_one_ends() {
    let servers = [listener(), listener(), listener()];
    let targets = servers.each_ref().map(|(_, address)| *address);
    let node = Uplinked::start(&targets, "strategy = \"round_robin\"\nhold = \"1ms\"");
    let mut client = connect(node.node.address());
    for nth in 0..6 {
        let server = accept_one(&servers[nth % 3].0);
        writeln!(client, "{nth}").unwrap();
        assert_eq!(line(&server), format!("{nth}\n"));
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&server).1, Ending::Fin);
    }
    assert_eq!(node.changed(3), ("a".into(), "b".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_with_several_addresses_is_one_target_and_what_waits_outlives_a_change_of_the_list() {
    let ((_held, a), (listening, b)) = (hold_free_port(), hold_free_port());
    let bus = EventBus::new();
    let mut events = bus.subscribe(EventMask::of(&[EventKind::TargetChanged]));
    let mut node = Node::bind_with(parse(&text(&[a, b], "")), bus).await.unwrap();
    let address = node.addresses()[0];
    let mut client = tokio::task::spawn_blocking(move || connect(address)).await.unwrap();
    writeln!(client, "waits").unwrap();
    while accounts(&node, "up").queued < 1 {
        tokio::task::yield_now().await;
    }
    // ::1 and 127.0.0.1, of which only the second listens.
    let name = format!("to = \"localhost:{}\"", b.port());
    let text = text(&[a, b], "")
        .replace(&format!("to = \"{b}\""), &name)
        .replace("[\"a\", \"b\"]", "[\"b\", \"a\"]");
    let text = text.replace("127.0.0.1:0", &address.to_string());
    listening.listen(16).unwrap();
    node.reload(parse(&text)).await.unwrap();
    let upstream: TcpListener = listening.into();
    let got = tokio::task::spawn_blocking(move || line(&accept_one(&upstream))).await.unwrap();
    assert_eq!(got, "waits\n");
    assert_eq!((accounts(&node, "up").received, accounts(&node, "b").received), (1, 1));
    // By their names, wherever they stand in the list.
    let changed = timeout(PATIENCE, events.next()).await.unwrap().unwrap();
    let Delivery::Event(changed) = changed else { panic!("{changed:?}") };
    let Event::TargetChanged { from, to, .. } = &changed.event else { panic!("{changed:?}") };
    assert_eq!((&**from, &**to), ("a", "b"));
}

#[test]
fn targets_that_take_turns_keep_what_waits_in_one_way() {
    let targets = ["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
    let mut config = parse(&text(&targets, ""));
    assert_eq!(config.check(), []);
    let second = config.client.get_mut("b").unwrap();
    second.options.messages.queue.max = Some(1 << 20);
    second.options.messages.max_frame = Some(1 << 10);
    let faults: Vec<_> = config.check().iter().map(ToString::to_string).collect();
    assert_eq!(
        faults,
        [
            "client.b.max_frame: it shares one queue with `a`, which has another; write the same",
            "client.b.queue_max: it shares one queue with `a`, which has another; write the same",
        ]
    );
}
