//! Who may connect, how many, and for how long; and that no descriptor, once
//! there is none, stops the node.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use signal_node::{Config, Event, EventBus, EventKind, EventMask, Node, Reason, bus::Delivery};
use tokio::io::AsyncReadExt;
use tokio_stream::StreamExt;

use crate::support::{
    Ending, NodeProcess, abort, accept_one, binary, connect, listener, needs, read_all, run, wait_until,
};

#[test]
fn deny_wins_and_the_refused_never_reach_the_target() {
    let (upstream, target) = listener();
    let node = NodeProcess::start([
        "--listen",
        "0",
        "--connect",
        &target.to_string(),
        "--allow",
        "127.0.0.0/8",
        "--deny",
        "127.0.0.2",
    ]);
    let address = node.address();
    let from = |source: [u8; 4]| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        TcpStream::from(socket)
    };
    // The listener is dual stack, so the client comes as ::ffff:127.0.0.2.
    assert_eq!(read_all(&from([127, 0, 0, 2])), (vec![], Ending::Reset));
    assert!(node.event("accept_rejected")["peer"].as_str().unwrap().starts_with("127.0.0.2:"));
    let _allowed = from([127, 0, 0, 1]);
    let server = accept_one(&upstream);
    assert_eq!(server.local_addr().unwrap(), target);
    upstream.set_nonblocking(true).unwrap();
    assert!(upstream.accept().is_err(), "somebody else reached the target");
    assert!(!node.lines().iter().any(|line| line.contains("new_connection") && line.contains("127.0.0.2")));
}

#[test]
fn outside_the_allowed_network_a_client_is_reset() {
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", "echo:", "--allow", "10.0.0.0/8"]);
    assert_eq!(read_all(&connect(node.address())), (vec![], Ending::Reset));
    node.event("accept_rejected");
}

#[test]
fn at_the_most_connections_accepting_pauses_and_clients_wait() {
    let (upstream, target) = listener();
    let node = NodeProcess::start([
        "--listen",
        "127.0.0.1:0",
        "--connect",
        &target.to_string(),
        "--max-connections",
        "2",
    ]);
    let first = connect(node.address());
    let first_server = accept_one(&upstream);
    let _second = connect(node.address());
    let _server2 = accept_one(&upstream);
    // The third is handshaken by the kernel and waits there: its bytes are taken, nobody reads them.
    let mut third = connect(node.address());
    third.write_all(b"waiting").unwrap();
    upstream.set_nonblocking(true).unwrap();
    let backlog = || queued(node.address().port());
    wait_until("one waits in the backlog", Duration::from_secs(10), || backlog() == 1);
    assert!(upstream.accept().is_err());
    assert_eq!(node.event("accept_paused")["connections"], 2);
    drop((first, first_server));
    upstream.set_nonblocking(false).unwrap();
    let mut server = accept_one(&upstream);
    let mut bytes = [0; 7];
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"waiting");
}

#[test]
fn a_client_whose_target_is_being_dialled_counts() {
    let (silent, target) = crate::support::hold_free_port();
    silent.listen(0).unwrap();
    let _fills_it = connect(target);
    let node = NodeProcess::start([
        "--listen",
        "127.0.0.1:0",
        "--connect",
        &target.to_string(),
        "--max-connections",
        "1",
        "--connect-timeout",
        "60s",
    ]);
    let _pending = connect(node.address());
    node.event("new_connection");
    let _waiting = connect(node.address());
    wait_until("one waits in the backlog", Duration::from_secs(10), || queued(node.address().port()) == 1);
    assert_eq!(node.lines().iter().filter(|line| line.contains("new_connection")).count(), 1);
}

/// Connections that the kernel holds for a listener on `port`, and nobody has accepted.
fn queued(port: u16) -> u32 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let row = table.lines().find(|row| row.contains(&format!(":{port:04X} 00000000:0000 0A"))).unwrap();
    let queues = row.split_ascii_whitespace().nth(4).unwrap();
    u32::from_str_radix(queues.split_once(':').unwrap().1, 16).unwrap()
}

#[test]
fn the_backlog_holds_as_many_as_it_was_asked_to_and_drops_the_rest() {
    let node = NodeProcess::start([
        "--listen",
        "127.0.0.1:0",
        "--connect",
        "echo:",
        "--max-connections",
        "1",
        "--backlog",
        "3",
    ]);
    let _live = connect(node.address());
    node.event("connected");
    // Linux keeps one more than the backlog; further handshakes are not answered.
    let _waiting: Vec<_> = (0..4).map(|_| connect(node.address())).collect();
    wait_until("the backlog is full", Duration::from_secs(10), || queued(node.address().port()) == 4);
    let late = TcpStream::connect_timeout(&node.address(), Duration::from_millis(300));
    assert_eq!(late.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn running_out_of_descriptors_is_survived_without_spinning() {
    if !needs(&["bash"]) {
        return;
    }
    // The limit is lowered in the shell, before the node raises it as far as it may.
    let script = "ulimit -n 64; exec \"$@\"";
    let node = NodeProcess::spawn(
        Command::new("bash").args(["-c", script, "bash", binary(), "--log-format", "json"]).args([
            "--listen",
            "127.0.0.1:0",
            "--connect",
            "echo:",
        ]),
    );
    let address = node.address();
    // One pair at most fits in 64 beside what the node keeps free for itself, so others wait.
    let clients: Vec<_> = (0..50).map(|_| connect(address)).collect();
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.pid())).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    let begun = Instant::now();
    wait_until("two seconds pass", Duration::from_secs(10), || begun.elapsed() > Duration::from_secs(2));
    // A hundred ticks a second: spinning would take about two hundred.
    assert!(ticks() - before < 40, "{} ticks", ticks() - before);
    drop(clients);
    wait_until("clients are served again", Duration::from_secs(20), || {
        node.lines().iter().filter(|line| line.contains("\"new_connection\"")).count() >= 50
    });
    assert_eq!(node.stop().0, 0);
}

/// Two for each were asked for also where one is enough.
#[test]
fn a_client_needs_a_second_descriptor_only_where_a_target_is_dialled_for_it() {
    if !needs(&["bash"]) {
        return;
    }
    let limited = |options: &[&str]| {
        let mut command = Command::new("bash");
        command.args(["-c", "ulimit -n 200; exec \"$@\"", "bash", binary(), "--log-format", "json"]);
        command.args(["--listen", "127.0.0.1:0"]).args(options);
        command
    };
    for (options, needed, most) in [
        (["--connect", "echo:", "-m", "137"], 201, 136),
        (["--mode", "hub", "-m", "138"], 201, 137),
        (["--connect", "127.0.0.1:9", "-m", "69"], 202, 68),
    ] {
        let mode: &[&str] = if options[1] == "hub" { &["--frame", "lines"] } else { &[] };
        let out = run(limited(&options).args(mode), &[]);
        assert_eq!(out.status.code(), Some(2));
        let said = String::from_utf8(out.stderr).unwrap();
        let expected = format!(
            "--max-connections: {} clients take up to {needed} descriptors, and this process may open 200; \
             try {most}, or raise the limit (ulimit -Hn)",
            options[3]
        );
        assert!(said.contains(&expected) && said.lines().count() == 1, "{said}");
    }
    let node = NodeProcess::spawn(&mut limited(&["--connect", "echo:", "-m", "136"]));
    let address = node.address();
    let clients: Vec<_> = (0..136)
        .map(|_| {
            let mut client = connect(address);
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            client
        })
        .collect();
    drop(clients);
    assert_eq!(node.client_gone(135)["reason"], "closed");
    assert_eq!(node.stop().0, 0);
}

#[test]
fn with_descriptors_for_a_few_two_hundred_are_served_one_after_the_other() {
    if !needs(&["bash"]) {
        return;
    }
    let script = "ulimit -n 64; exec \"$@\"";
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash", binary(), "--log-format", "json", "--listen", "127.0.0.1:0"]);
    let node = NodeProcess::spawn(command.args(["--connect", "echo:"]));
    let address = node.address();
    thread::scope(|scope| {
        for nth in 0..200u32 {
            scope.spawn(move || {
                let mut client = connect(address);
                client.write_all(&nth.to_be_bytes()).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                assert_eq!(read_all(&client), (nth.to_be_bytes().to_vec(), Ending::Fin), "{nth}");
            });
        }
    });
    let paused = node.event("accept_paused");
    assert_eq!(paused["endpoint"], "listen1");
    eprintln!("{paused}");
    assert_eq!(node.client_gone(199)["reason"], "closed");
    assert_eq!(node.stop().0, 0);
}

#[test]
fn accept_errors_pause_the_listener_and_do_not_end_it() {
    if !needs(&["prlimit"]) {
        return;
    }
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", "echo:"]);
    let address = node.address();
    let limit = |soft: &str| {
        let pid = node.pid().to_string();
        let done = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={soft}:")]).status();
        assert!(done.unwrap().success());
    };
    // Fewer than it has open already: accept fails at once, each time.
    limit("3");
    let mut client = connect(address);
    client.write_all(b"hello").unwrap();
    node.nth_event("accept_error", 5);
    let error = node.event("accept_error");
    assert!(error["error"].as_str().unwrap().contains("open files"), "{error}");
    limit("1000");
    let mut bytes = [0; 5];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    let errors = node.lines().iter().filter(|line| line.contains("accept_error")).count();
    assert!(errors < 100, "{errors} attempts");
}

/// A node with a bus that was subscribed to before, in this process and on a paused clock.
async fn node_in_process(config: Config, mask: EventMask) -> (Node, signal_node::Subscription) {
    let bus = EventBus::new();
    let events = bus.subscribe(mask);
    (Node::bind_with(config, bus).await.unwrap(), events)
}

fn config(to: &str) -> Config {
    Config::relay(["127.0.0.1:0".parse().unwrap()], [to.parse().unwrap()])
}

async fn next_end(events: &mut signal_node::Subscription) -> (Reason, Duration) {
    loop {
        if let Delivery::Event(envelope) = events.next().await.unwrap()
            && let Event::Disconnected { reason, duration, partner: None, .. } = envelope.event
        {
            return (reason, duration);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pair_in_which_nothing_moves_is_ended_after_the_idle_timeout() {
    let mut config = config("echo:");
    config.relay.get_mut("relay").unwrap().options.idle_timeout = Some(Duration::from_secs(60));
    let (node, mut events) = node_in_process(config, EventMask::of(&[EventKind::Disconnected])).await;
    let mut client = tokio::net::TcpStream::connect(node.addresses()[0]).await.unwrap();
    let (reason, duration) = next_end(&mut events).await;
    assert_eq!(reason, Reason::Idle);
    assert!((60..=62).contains(&duration.as_secs()), "{duration:?}");
    let error = client.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "a limit is not a clean end");
    assert_eq!(node.shutdown(Duration::ZERO).await.cut, 0);
}

#[tokio::test(start_paused = true)]
async fn without_an_idle_timeout_a_silent_pair_lives_on() {
    let (node, _events) = node_in_process(config("echo:"), EventMask::NONE).await;
    let _client = tokio::net::TcpStream::connect(node.addresses()[0]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(100_000)).await;
    assert_eq!(node.bus().snapshot().connections.len(), 2);
    assert_eq!(node.shutdown(Duration::from_secs(5)).await.cut, 1);
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_pair_is_ended_after_its_hour() {
    let (upstream, target) = listener();
    let (node, mut events) =
        node_in_process(config(&target.to_string()), EventMask::of(&[EventKind::Disconnected])).await;
    let client = TcpStream::connect(node.addresses()[0]).unwrap();
    upstream.set_nonblocking(true).unwrap();
    let server = tokio::net::TcpListener::from_std(upstream).unwrap().accept().await.unwrap().0;
    client.shutdown(Shutdown::Write).unwrap();
    let (reason, duration) = next_end(&mut events).await;
    assert_eq!(reason, Reason::HalfClosed);
    assert!((3_600..=3_603).contains(&duration.as_secs()), "{duration:?}");
    drop(server);
    assert_eq!(node.shutdown(Duration::ZERO).await.cut, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_connected_after_the_grace_is_cut() {
    let (node, mut events) =
        node_in_process(config("echo:"), EventMask::of(&[EventKind::NewConnection, EventKind::Disconnected]))
            .await;
    let mut client = tokio::net::TcpStream::connect(node.addresses()[0]).await.unwrap();
    let _accepted = events.next().await;
    let begun = tokio::time::Instant::now();
    let outcome = node.shutdown(Duration::from_secs(10)).await;
    assert_eq!(outcome.cut, 1);
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert_eq!(next_end(&mut events).await.0, Reason::Shutdown);
    let error = client.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn the_source_address_is_the_one_asked_for() {
    let (upstream, target) = listener();
    let node = NodeProcess::start([
        "--listen",
        "127.0.0.1:0",
        "--connect",
        &target.to_string(),
        "--source",
        "127.0.0.9",
    ]);
    let client = connect(node.address());
    let server = accept_one(&upstream);
    assert_eq!(server.peer_addr().unwrap().ip(), Ipv4Addr::new(127, 0, 0, 9));
    abort(client);
}

/// Each listener used to hold a place while it waited, so that two with one
/// place left the second one's clients hanging.
#[test]
fn an_idle_listener_holds_no_place() {
    let node = NodeProcess::start([
        "--listen",
        "127.0.0.1:0",
        "--listen",
        "127.0.0.1:0",
        "--connect",
        "echo:",
        "--max-connections",
        "1",
    ]);
    for nth in [0, 1, 1, 0] {
        let mut client = connect(node.address_of(nth));
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&client).1, Ending::Fin);
    }
    assert_eq!(node.stop().0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_grace_without_end_is_no_overflow() {
    let (node, _events) = node_in_process(config("echo:"), EventMask::NONE).await;
    assert_eq!(node.shutdown(Duration::MAX).await.cut, 0);
}

#[tokio::test]
async fn a_node_that_does_not_start_ends_its_subscriptions() {
    let (_held, address) = listener();
    let bus = EventBus::new();
    let mut events = bus.subscribe(EventMask::ALL);
    let mut config = config("echo:");
    config.listen.get_mut("listen1").unwrap().bind = address.to_string().parse().unwrap();
    assert!(Node::bind_with(config, bus).await.is_err());
    assert!(events.next().await.is_none());
}

/// The sweep finds the reset, the partner has a second to take something, and
/// the kernel another to send what it has.
#[tokio::test(start_paused = true)]
async fn a_partner_that_takes_nothing_is_given_up_within_three_seconds() {
    let (upstream, target) = listener();
    let mask = EventMask::of(&[EventKind::Connected, EventKind::StateChanged, EventKind::Disconnected]);
    let (node, mut events) = node_in_process(config(&target.to_string()), mask).await;
    upstream.set_nonblocking(true).unwrap();
    let upstream = tokio::net::TcpListener::from_std(upstream).unwrap();
    let client = tokio::net::TcpStream::connect(node.addresses()[0]).await.unwrap();
    let (_server, _) = upstream.accept().await.unwrap();
    loop {
        client.writable().await.unwrap();
        // As soon as nothing more is taken for a moment, everything between the two is full.
        match client.try_write(&[0; 1 << 16]) {
            Ok(_) => {}
            Err(_full) => {
                let moment = Duration::from_millis(1);
                if tokio::time::timeout(moment, client.writable()).await.is_err() {
                    break;
                }
            }
        }
    }
    client.set_zero_linger().unwrap();
    let reset = tokio::time::Instant::now();
    drop(client);
    let (reason, _) = next_end(&mut events).await;
    let waited = reset.elapsed();
    assert_eq!(reason, Reason::Reset);
    assert!(waited >= Duration::from_secs(2) && waited <= Duration::from_millis(3_100), "{waited:?}");
    assert_eq!(node.shutdown(Duration::ZERO).await.cut, 0);
}

#[test]
fn the_soft_descriptor_limit_is_raised_to_the_hard_one() {
    let script = "ulimit -Sn 100; exec \"$@\"";
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash", binary(), "--log-format", "json", "--listen", "127.0.0.1:0"]);
    let node = NodeProcess::spawn(command.args(["--connect", "echo:"]));
    node.event("listening");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.pid())).unwrap();
    let row = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<_> = row.split_ascii_whitespace().collect();
    assert_eq!(words[3], words[4], "{row}");
    assert_ne!(words[3], "100");
}
