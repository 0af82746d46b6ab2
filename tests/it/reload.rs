//! Reload: what a changed config does to those who are connected, and to
//! those who come; and that a bad one does nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use signal_node::registry::{Arguments, ListenerState, ObjectKind};
use signal_node::{Changes, Config, Node, NodeError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream as Client;

use crate::support::{Ending, NodeProcess, binary, connect, hold_free_port, listener, read_all, wait_until};

fn config(text: &str) -> Config {
    Config::parse(vec![("x.toml".into(), text.into())]).unwrap().0
}

/// A listener `name` at `bind` that echoes, with more lines for it and for its relay.
fn echo(name: &str, bind: &str, listen: &str, relay: &str) -> Config {
    config(&format!(
        "[listen.{name}]\nbind = \"{bind}\"\n{listen}\n[relay.r]\nfrom = \"{name}\"\nmode = \"echo\"\n{relay}\n"
    ))
}

async fn visit(client: &mut Client) -> std::io::Result<()> {
    client.write_all(b"x").await?;
    client.read_exact(&mut [0]).await.map(drop)
}

fn state(node: &Node, name: &str) -> (ListenerState, usize) {
    match node.registry().find(name).unwrap().kind {
        ObjectKind::Listener { state, connections, .. } => (state, connections),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_listener_under_another_name_keeps_its_socket_its_clients_and_its_pause() {
    let mut node = Node::bind(echo("front", "127.0.0.1:0", "", "")).await.unwrap();
    let address = node.addresses()[0];
    let mut client = Client::connect(address).await.unwrap();
    visit(&mut client).await.unwrap();
    node.registry().call("front", "pause", Arguments::new()).await.unwrap();
    let changes = node.reload(echo("door", "127.0.0.1:0", "", "")).await.unwrap();
    let expected = "added listen.door; removed listen.front; changed relay.r.from";
    assert_eq!((changes.to_string().as_str(), node.addresses()), (expected, vec![address]));
    assert!(node.registry().find("front").is_none());
    assert_eq!(state(&node, "door"), (ListenerState::Paused, 1));
    visit(&mut client).await.unwrap();
    // It waits in the backlog of the same socket until it is let in.
    let mut second = Client::connect(address).await.unwrap();
    second.write_all(b"x").await.unwrap();
    node.registry().call("door", "resume", Arguments::new()).await.unwrap();
    second.read_exact(&mut [0]).await.unwrap();
    assert_eq!(node.bus().snapshot().listeners[0].endpoint.as_ref(), "door");
    drop((client, second));
    assert_eq!(node.shutdown(Duration::from_secs(10)).await.cut, 0);
}

#[tokio::test]
async fn a_listener_that_is_bound_elsewhere_lets_its_clients_finish() {
    let mut node = Node::bind(echo("a", "127.0.0.1:0", "", "")).await.unwrap();
    let before = node.addresses()[0];
    let mut client = Client::connect(before).await.unwrap();
    visit(&mut client).await.unwrap();
    node.reload(echo("a", "127.0.0.2:0", "", "")).await.unwrap();
    let after = node.addresses()[0];
    assert_eq!(after.ip().to_string(), "127.0.0.2");
    visit(&mut Client::connect(after).await.unwrap()).await.unwrap();
    visit(&mut client).await.unwrap();
    while Client::connect(before).await.is_ok() {
        tokio::task::yield_now().await;
    }
    visit(&mut client).await.unwrap();
    drop(client);
    assert_eq!(node.shutdown(Duration::from_secs(10)).await.cut, 0);
}

/// The clients of the old socket used to count nowhere, and the pause used to be lost.
#[tokio::test]
async fn a_listener_that_is_bound_elsewhere_keeps_its_clients_its_limit_and_its_pause() {
    let limit = "max_connections = 1";
    let mut node = Node::bind(echo("a", "127.0.0.1:0", limit, "")).await.unwrap();
    let mut client = Client::connect(node.addresses()[0]).await.unwrap();
    visit(&mut client).await.unwrap();
    node.registry().call("a", "pause", Arguments::new()).await.unwrap();
    node.reload(echo("a", "127.0.0.2:0", limit, "")).await.unwrap();
    assert_eq!(state(&node, "a"), (ListenerState::Paused, 1));
    let mut second = Client::connect(node.addresses()[0]).await.unwrap();
    second.write_all(b"x").await.unwrap();
    node.registry().call("a", "resume", Arguments::new()).await.unwrap();
    // There is one place, and the client of the old socket has it.
    visit(&mut client).await.unwrap();
    assert_eq!(state(&node, "a"), (ListenerState::Listening, 1));
    drop(client);
    second.read_exact(&mut [0]).await.unwrap();
    drop(second);
    assert_eq!(node.shutdown(Duration::from_secs(10)).await.cut, 0);
}

#[tokio::test]
async fn what_cannot_be_bound_changes_nothing() {
    let (_held, taken) = listener();
    let mut node = Node::bind(echo("a", "127.0.0.1:0", "", "")).await.unwrap();
    let before = (node.addresses(), node.config().to_toml());
    let mut client = Client::connect(before.0[0]).await.unwrap();
    let two = format!(
        "[listen.a]\nbind = \"127.0.0.9:0\"\n[listen.b]\nbind = \"{taken}\"\n[relay.r]\nfrom = [\"a\", \"b\"]\nmode = \"echo\"\n"
    );
    let error = node.reload(config(&two)).await.unwrap_err();
    assert!(matches!(&error, NodeError::Bind(error) if error.endpoint == "b"), "{error}");
    assert_eq!((node.addresses(), node.config().to_toml()), before);
    visit(&mut client).await.unwrap();
    visit(&mut Client::connect(before.0[0]).await.unwrap()).await.unwrap();

    // An address that one of its own holds is told apart from another's.
    let wider = format!("0.0.0.0:{}", before.0[0].port());
    let Err(NodeError::Bind(error)) = node.reload(echo("all", &wider, "", "")).await else { panic!() };
    assert!(error.hint.unwrap().contains("`a` of this node"));
    let stdio = config(
        "[listen.a]\nbind = \"127.0.0.1:0\"\n[client.c]\nto = \"stdio:\"\n[relay.r]\nfrom = \"a\"\nto = \"c\"\n",
    );
    assert!(matches!(node.reload(stdio).await, Err(NodeError::Config(_))));
    assert_eq!((node.addresses(), node.config().to_toml()), before);
    drop(client);
    assert_eq!(node.shutdown(Duration::from_secs(10)).await.cut, 0);
}

/// A relay `talk` between `from` and `to`, and an echo beside it, at 127.0.0.1.
fn talking(relay: &str, from: &str, to: &str, more: &str) -> Config {
    config(&format!(
        "[listen.echoes]\nbind = \"127.0.0.1:0\"\n{more}\n[relay.e]\nfrom = \"echoes\"\nmode = \"echo\"\n\
         [listen.in]\nbind = \"{from}\"\n[client.out]\nto = \"{to}\"\n[relay.{relay}]\nfrom = \"in\"\nto = \"out\"\n"
    ))
}

#[tokio::test]
async fn a_conversation_of_standard_input_and_output_cannot_be_moved() {
    let (_held, target) = listener();
    let (_other, elsewhere) = listener();
    let stdout = "stdio:";
    let mut node = Node::bind(talking("talk", "127.0.0.1:0", stdout, "")).await.unwrap();
    let before = (node.addresses(), node.config().to_toml());
    let target = target.to_string();
    for other in [
        talking("speak", "127.0.0.1:0", stdout, ""),
        talking("talk", "127.0.0.2:0", stdout, ""),
        talking("talk", stdout, &target, ""),
        talking("talk", "127.0.0.1:0", &elsewhere.to_string(), ""),
    ] {
        assert!(matches!(node.reload(other).await, Err(NodeError::Config(_))));
        assert_eq!((node.addresses(), node.config().to_toml()), before);
    }
    // What is beside it can.
    let changes = node.reload(talking("talk", "127.0.0.1:0", stdout, "backlog = 9")).await.unwrap();
    assert_eq!(changes.changed, ["listen.echoes.backlog"]);
    assert_eq!(node.shutdown(Duration::ZERO).await.cut, 0);
}

#[tokio::test(start_paused = true)]
async fn a_changed_idle_timeout_holds_for_those_who_are_there() {
    let mut node = Node::bind(echo("a", "127.0.0.1:0", "", "")).await.unwrap();
    let mut client = Client::connect(node.addresses()[0]).await.unwrap();
    visit(&mut client).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    let changes = node.reload(echo("a", "127.0.0.1:0", "", "idle_timeout = \"5s\"")).await.unwrap();
    assert_eq!(changes, Changes { changed: vec!["relay.r.idle_timeout".into()], ..Changes::default() });
    // It has been silent for longer than that.
    let begun = tokio::time::Instant::now();
    let error = client.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    // The clock runs ahead of sockets while it is paused, but never by another limit.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(node.shutdown(Duration::ZERO).await.cut, 0);
}

#[tokio::test]
async fn changed_limits_and_lists_hold_for_those_who_come() {
    let mut node = Node::bind(echo("a", "127.0.0.1:0", "max_connections = 1", "")).await.unwrap();
    let address = node.addresses()[0];
    let mut first = Client::connect(address).await.unwrap();
    visit(&mut first).await.unwrap();
    let mut second = Client::connect(address).await.unwrap();
    second.write_all(b"x").await.unwrap();
    assert_eq!(state(&node, "a").1, 1);
    node.reload(echo("a", "127.0.0.1:0", "max_connections = 2", "")).await.unwrap();
    second.read_exact(&mut [0]).await.unwrap();
    assert_eq!(state(&node, "a").1, 2);

    let denied = "deny = \"127.0.0.0/8\"";
    node.reload(echo("a", "127.0.0.1:0", denied, "")).await.unwrap();
    let third = async { visit(&mut Client::connect(address).await?).await };
    assert!(third.await.is_err());
    visit(&mut first).await.unwrap();
    drop((first, second));
    assert_eq!(node.shutdown(Duration::from_secs(10)).await.cut, 0);
}

#[tokio::test]
async fn what_only_a_restart_changes_is_named_and_stays_as_it_was() {
    let mut node = Node::bind(echo("a", "127.0.0.1:0", "", "")).await.unwrap();
    let mut other = echo("a", "127.0.0.1:0", "", "");
    other.program.threads = 3;
    other.node.budget = 1 << 20;
    other.node.max_read = 1 << 20;
    other.node.shutdown_grace = Duration::from_secs(3);
    let changes = node.reload(other).await.unwrap();
    assert_eq!(
        (changes.restart, changes.changed),
        (vec!["budget", "max_read", "threads"], vec!["node.shutdown_grace".to_owned()])
    );
    assert_eq!((node.config().program.threads, node.config().node.budget), (1, 256 << 20));
    assert_eq!(node.config().node.max_read, Config::default().node.max_read);
    assert_eq!(node.config().node.shutdown_grace.as_secs(), 3);
    node.stopper().now();
    let stopping = node.reload(echo("a", "127.0.0.1:0", "", "")).await;
    assert!(matches!(stopping, Err(NodeError::Stopping)));
    let _ = node.join().await;
}

#[tokio::test]
async fn a_closed_listener_is_opened_by_the_next_reload() {
    let mut node = Node::bind(echo("a", "127.0.0.1:0", "", "")).await.unwrap();
    let before = node.addresses()[0];
    node.registry().call("a", "close", Arguments::new()).await.unwrap();
    while Client::connect(before).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(state(&node, "a").0, ListenerState::Closed);
    node.reload(echo("a", "127.0.0.1:0", "", "")).await.unwrap();
    assert_eq!(state(&node, "a").0, ListenerState::Listening);
    visit(&mut Client::connect(node.addresses()[0]).await.unwrap()).await.unwrap();
    let _ = node.shutdown(Duration::from_secs(10)).await;
}

/// A server that answers each connection with its letter, then echoes and closes.
fn lettered(letter: u8) -> SocketAddr {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in server.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let _ = stream.write_all(&[letter]);
                let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
            });
        }
    });
    address
}

/// Writes a file in one step, so that no half of it is ever read.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

fn letter_of(address: SocketAddr) -> std::io::Result<u8> {
    let mut client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(Duration::from_secs(30)))?;
    client.write_all(b"hello")?;
    client.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    assert_eq!(&answer[1..], b"hello", "{answer:?}");
    Ok(answer[0])
}

/// Waits for the nth line with one of the two ends a reload can have.
fn nth_outcome(node: &NodeProcess, nth: usize) -> bool {
    let mut seen = None;
    wait_until("the reload is over", Duration::from_secs(30), || {
        let lines = node.lines();
        let ends = |line: &&String| line.contains("\"message\":\"reloaded") || line.contains("not reloaded");
        seen = lines.iter().filter(ends).nth(nth).map(|line| line.contains("\"message\":\"reloaded"));
        seen.is_some()
    });
    seen.unwrap()
}

/// `RELOADS=1000` for the full run.
#[test]
fn no_reload_refuses_or_resets_anyone_and_a_broken_one_changes_nothing() {
    let reloads: usize = std::env::var("RELOADS").map_or(60, |count| count.parse().unwrap());
    let (a, b) = (lettered(b'A'), lettered(b'B'));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    // The two differ in the target, the listener's name, and in a listener that only one has.
    let (free, address) = listener();
    drop(free);
    let relay = |name: &str, to: SocketAddr| {
        format!(
            "[listen.{name}]\nbind = \"{address}\"\n[client.{name}_to]\nto = \"{to}\"\n[relay.r]\nfrom = \"{name}\"\nto = \"{name}_to\"\n"
        )
    };
    let more = "[listen.more]\nbind = \"127.0.0.3:0\"\n[relay.more_r]\nfrom = \"more\"\nmode = \"echo\"\n";
    let good = [relay("front", a), relay("door", b) + more];
    let broken = [
        good[1].replace("relay.r", "rely.r"),
        good[0].replace(&address.to_string(), "192.0.2.1:9"),
        "x".into(),
    ];
    replace(&file, &good[0]);
    // Only what a reload says: the log is read from its beginning each time.
    let log = ["--log", "signal_node=warn,signal_node::cli::reload=info", "--log-format", "json"];
    let node = NodeProcess::spawn(Command::new(binary()).arg("run").args(log).arg(&file));
    wait_until("it listens", Duration::from_secs(30), || TcpStream::connect(address).is_ok());

    let mut lasting = connect(address);
    let mut letter = [0];
    lasting.read_exact(&mut letter).unwrap();
    let (over, visits) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let visitors: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    // Two hundred a second in all.
                    while !over.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        let letter = letter_of(address).expect("nobody is refused or reset");
                        assert!(matches!(letter, b'A' | b'B'));
                        visits.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(10).saturating_sub(begun.elapsed()));
                    }
                })
            })
            .collect();
        let mut current = 0;
        for nth in 0..reloads {
            let is_broken = nth % 3 == 2;
            if is_broken {
                replace(&file, &broken[nth / 3 % broken.len()]);
            } else {
                current = 1 - current;
                replace(&file, &good[current]);
            }
            node.signal(Signal::HUP);
            assert_eq!(nth_outcome(&node, nth), !is_broken, "reload {nth}: {:?}", node.lines().last());
            assert_eq!(letter_of(address).unwrap(), [b'A', b'B'][current], "after reload {nth}");
            lasting.write_all(b"x").unwrap();
            lasting.read_exact(&mut letter).unwrap();
            if visitors.iter().any(thread::ScopedJoinHandle::is_finished) {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    eprintln!("RELOADS={reloads}, beside {} visits", visits.into_inner());
    lasting.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&lasting), (Vec::new(), Ending::Fin));
    let (code, lines) = node.stop();
    assert_eq!(code, 0);
    let places = lines.iter().filter(|line| line.contains("x.toml:")).count();
    assert!(places >= reloads / 3, "each broken file is named with its line");
}

#[test]
fn a_reload_that_waits_for_a_name_does_not_hold_up_the_end() {
    let (_kept, target) = hold_free_port();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    let text = |to: &str| {
        format!(
            "[listen.a]\nbind = \"127.0.0.1:0\"\n[client.b]\nto = \"{to}\"\n[relay.r]\nfrom = \"a\"\nto = \"b\"\n"
        )
    };
    replace(&file, &text(&target.to_string()));
    let node = NodeProcess::spawn(Command::new(binary()).args(["run", "--log-format", "json"]).arg(&file));
    node.address();
    // A listener's name is looked up before anything else changes.
    let more = "[listen.c]\nbind = \"nosuchhost.invalid:1\"\n";
    let two = text(&target.to_string()).replace("from = \"a\"", "from = [\"a\", \"c\"]");
    replace(&file, &(two + more));
    node.signal(Signal::HUP);
    node.signal(Signal::TERM);
    assert_eq!(node.wait().0, 0);
}
