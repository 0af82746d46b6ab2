//! Heartbeats: who does not answer is given up, nobody else is, no probe is
//! ever inside another message, and its answer goes nowhere.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use signal_node::bus::Delivery;
use signal_node::registry::ObjectKind;
use signal_node::{Config, Event, EventBus, EventKind, EventMask, Node, Reason, Subscription};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

use crate::support::PATIENCE;

fn config(text: &str) -> Config {
    Config::parse(vec![("x.toml".into(), text.into())]).unwrap().0
}

/// A listener of lines with these keys, in a hub.
fn hub(keys: &str) -> Config {
    config(&format!(
        "[listen.room]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\n{keys}\n[relay.r]\nfrom = \"room\"\nmode = \"hub\"\n"
    ))
}

async fn start(config: Config, kinds: &[EventKind]) -> (Node, Subscription) {
    let bus = EventBus::new();
    let events = bus.subscribe(EventMask::of(kinds));
    (Node::bind_with(config, bus).await.unwrap(), events)
}

async fn next(events: &mut Subscription) -> Event {
    match timeout(Duration::from_secs(3_600), events.next()).await.unwrap().unwrap() {
        Delivery::Event(envelope) => envelope.event.clone(),
        Delivery::Lagged(_) => panic!("too fast"),
    }
}

/// One end of a connection, by lines.
struct Peer {
    lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
    local: SocketAddr,
}

impl Peer {
    async fn new(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).await.unwrap())
    }

    fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        let local = stream.local_addr().unwrap();
        let (read, write) = stream.into_split();
        Self { lines: BufReader::new(read).lines(), write, local }
    }

    async fn say(&mut self, line: &str) {
        self.write.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn hears(&mut self) -> Option<String> {
        timeout(Duration::from_secs(3_600), self.lines.next_line()).await.unwrap().ok().flatten()
    }

    /// Answers each probe with this, for as long as it may, and yields what else it was told.
    async fn answers(mut self, answer: &'static str) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(line) = self.hears().await {
            match line.as_str() {
                "PING" => _ = self.write.write_all(format!("{answer}\n").as_bytes()).await,
                "bye" => return told,
                _ => told.push(line),
            }
        }
        told.push("the end".into());
        told
    }
}

const WATCHED: [EventKind; 3] =
    [EventKind::NewConnection, EventKind::HeartbeatMissed, EventKind::Disconnected];

/// Three members, of whom one answers, one answers something else, and one is mute; yields who was given up.
async fn three(heartbeat: &str) -> (Vec<&'static str>, Vec<String>) {
    let (node, mut events) = start(hub(&format!("heartbeat = {{ {heartbeat} }}")), &WATCHED).await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(Peer::new(node.addresses()[0]).await);
        assert!(matches!(next(&mut events).await, Event::NewConnection { .. }));
    }
    let mut mute = peers.pop().unwrap();
    let (other, answers) = (peers.pop().unwrap(), peers.pop().unwrap());
    let names = [(answers.local, "answers"), (other.local, "other"), (mute.local, "mute")];
    let name = |peer: &signal_node::Endpoint| {
        let peer = peer.to_string();
        names.iter().find(|(local, _)| local.to_string() == peer).unwrap().1
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(answers.answers("PONG"));
    tasks.spawn(other.answers("I am here"));
    let begun = tokio::time::Instant::now();
    let (mut missed, mut ended) = (Vec::new(), Vec::new());
    while begun.elapsed() < Duration::from_secs(300) {
        match timeout(Duration::from_secs(60), events.next()).await {
            Err(_nothing_more) => break,
            Ok(Some(Delivery::Event(envelope))) => match &envelope.event {
                Event::HeartbeatMissed { connection, peer, within, endpoint, .. } => {
                    assert_eq!((*within, &**endpoint), (Duration::from_secs(5), "room"));
                    missed.push((*connection, name(peer)));
                }
                Event::Disconnected { connection, reason, peer, .. } => {
                    assert_eq!(*reason, Reason::Heartbeat);
                    assert!(missed.contains(&(*connection, name(peer))), "first it is missed");
                    // Within a look of the sweep.
                    let passed = begun.elapsed();
                    assert!(passed >= Duration::from_secs(15), "{passed:?}");
                    assert!(passed <= Duration::from_millis(15_100), "{passed:?}");
                    ended.push(name(peer));
                }
                other => panic!("{other:?}"),
            },
            Ok(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(missed.len(), ended.len());
    assert!(!ended.contains(&"mute") || reset(&mut mute).await);
    // Whoever is still there is served.
    let mut speaker = Peer::new(node.addresses()[0]).await;
    assert!(matches!(next(&mut events).await, Event::NewConnection { .. }));
    speaker.say("bye").await;
    let mut heard = Vec::new();
    while let Some(all) = timeout(Duration::from_secs(1), tasks.join_next()).await.ok().flatten() {
        heard.extend(all.unwrap());
    }
    heard.retain(|line| line != "the end");
    ended.sort_unstable();
    let _ = node.shutdown(Duration::ZERO).await;
    (ended, heard)
}

async fn reset(peer: &mut Peer) -> bool {
    loop {
        match peer.lines.next_line().await {
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_give_the_expected_answer_is_given_up_and_nobody_else() {
    let exact = r#"send = "PING", every = "10s", within = "5s", expect = "PONG""#;
    let (ended, heard) = three(exact).await;
    assert_eq!(ended, ["mute", "other"]);
    assert!(heard.iter().all(|line| line == "I am here"), "an answer was passed on: {heard:?}");
    for expect in [r#"{ prefix = "PO" }"#, r#"{ regex = "^P.NG$" }"#, r#"{ hex = "50 4f 4e 47" }"#] {
        let (ended, _) = three(&exact.replace("\"PONG\"", expect)).await;
        assert_eq!(ended, ["mute", "other"], "{expect}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_expected_answer_any_byte_is_one_and_all_are_passed_on() {
    let (ended, heard) = three(r#"send = "PING", every = "10s", within = "5s""#).await;
    assert_eq!(ended, ["mute"]);
    assert!(heard.iter().any(|line| line == "PONG") && heard.iter().any(|line| line == "I am here"));
}

#[tokio::test(start_paused = true)]
async fn one_answer_is_taken_for_each_probe_and_what_stands_around_it_is_passed_on() {
    let heartbeat = r#"heartbeat = { send = "PING", every = "10s", within = "5s", expect = "PONG" }"#;
    let (node, mut events) = start(hub(heartbeat), &WATCHED).await;
    let mut speaker = Peer::new(node.addresses()[0]).await;
    next(&mut events).await;
    let mut hearer = Peer::new(node.addresses()[0]).await;
    next(&mut events).await;
    // Nobody has asked: it is a message like any other.
    speaker.say("PONG").await;
    assert_eq!(hearer.hears().await.unwrap(), "PONG");
    for _ in 0..3 {
        assert_eq!(hearer.hears().await.unwrap(), "PING");
        hearer.say("PONG").await;
        assert_eq!(speaker.hears().await.unwrap(), "PING");
        speaker.write.write_all(b"before\nPONG\nafter\nPONG\nlast\n").await.unwrap();
        for expected in ["before", "after", "PONG", "last"] {
            assert_eq!(hearer.hears().await.unwrap(), expected);
        }
    }
    // What of an answer came in time is none.
    assert_eq!(hearer.hears().await.unwrap(), "PING");
    hearer.write.write_all(b"PON").await.unwrap();
    assert!(matches!(next(&mut events).await, Event::HeartbeatMissed { .. }));
    let _ = node.shutdown(Duration::ZERO).await;
}

/// The probe is larger than what the kernel takes at once, and its peer reads slowly, so that
/// messages of others come while it is half written.
#[tokio::test]
async fn a_probe_is_never_inside_another_message_nor_another_inside_it() {
    let probe = "p".repeat(200_000);
    let keys = format!(
        "kernel_send_buffer = \"8KiB\"\nqueue_overflow = \"block\"\n\
         heartbeat = {{ send = \"{probe}\", every = \"500ms\", within = \"500ms\", expect = \"alive\" }}"
    );
    let (node, mut events) = start(hub(&keys), &WATCHED).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let mut slow = socket.connect(node.addresses()[0]).await.unwrap();
    next(&mut events).await;
    let speaker = TcpStream::connect(node.addresses()[0]).await.unwrap();
    next(&mut events).await;
    let (mut read, mut write) = speaker.into_split();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // It answers too, for itself.
        let mut buffer = vec![0; 1 << 16];
        loop {
            match read.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    });
    tasks.spawn(async move {
        for nth in 0.. {
            let line = format!("{nth:06} {}\nalive\n", "m".repeat(3_000));
            if write.write_all(line.as_bytes()).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    });
    let (mut bytes, mut probes, mut expected, mut interleaved) = (Vec::new(), 0, 0, 0);
    let begun = Instant::now();
    let mut buffer = [0; 4_096];
    while probes < 4 {
        assert!(begun.elapsed() < PATIENCE, "{probes} probes and {expected} messages");
        let count = slow.read(&mut buffer).await.unwrap();
        assert_ne!(count, 0);
        bytes.extend_from_slice(&buffer[..count]);
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = bytes.drain(..=end).collect();
            let line = std::str::from_utf8(&line[..end]).unwrap();
            if line == probe {
                probes += 1;
                interleaved += usize::from(expected > 0);
                slow.write_all(b"alive\n").await.unwrap();
            } else if line != "alive" {
                assert_eq!(line, format!("{expected:06} {}", "m".repeat(3_000)));
                expected += 1;
            }
        }
        // Slower than the node would be.
        sleep(Duration::from_micros(500)).await;
    }
    assert!(expected > 10 && interleaved > 1, "{expected} {interleaved}");
    drop(tasks);
    let _ = node.shutdown(Duration::ZERO).await;
}

/// Of several messages one is half written, and the rest waits, for as long as the peer does not read.
#[tokio::test(start_paused = true)]
async fn a_probe_that_is_due_while_a_message_is_half_written_comes_after_all_that_waits() {
    let keys = r#"
        kernel_send_buffer = "8KiB"
        queue_overflow = "block"
        heartbeat = { send = "PING", every = "10s", within = "5s", expect = "PONG" }"#;
    let (node, mut events) = start(hub(keys), &WATCHED).await;
    let mut slow = narrow(node.addresses()[0]).await;
    next(&mut events).await;
    let mut speaker = Peer::new(node.addresses()[0]).await;
    next(&mut events).await;
    let line = |nth| format!("{nth:06} {}", "m".repeat(3_000));
    for nth in 0..200 {
        speaker.say(&line(nth)).await;
    }
    let mut tasks = JoinSet::new();
    tasks.spawn(speaker.answers("PONG"));
    sleep(Duration::from_secs(100)).await;
    for nth in 0..200 {
        assert_eq!(slow.hears().await.unwrap(), line(nth));
    }
    assert_eq!(slow.hears().await.unwrap(), "PING");
    assert!(timeout(Duration::from_millis(1), events.next()).await.is_err(), "nobody is missed");
    drop(tasks);
    let _ = node.shutdown(Duration::ZERO).await;
}

/// A probe that is half written has asked nobody.
#[tokio::test(start_paused = true)]
async fn the_time_for_an_answer_begins_when_the_probe_is_out() {
    let probe = "p".repeat(200_000);
    let keys = format!(
        "kernel_send_buffer = \"8KiB\"\n\
         heartbeat = {{ send = \"{probe}\", every = \"10s\", within = \"5s\", expect = \"PONG\" }}"
    );
    let (node, mut events) = start(hub(&keys), &WATCHED).await;
    let mut slow = narrow(node.addresses()[0]).await;
    next(&mut events).await;
    let ended = timeout(Duration::from_secs(100), events.next()).await;
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(slow.hears().await.unwrap(), probe);
    slow.say("PONG").await;
    assert_eq!(slow.hears().await.unwrap(), probe);
    assert!(matches!(next(&mut events).await, Event::HeartbeatMissed { .. }));
    let _ = node.shutdown(Duration::ZERO).await;
}

/// A peer for which the kernel holds little.
async fn narrow(address: SocketAddr) -> Peer {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    Peer::of(socket.connect(address).await.unwrap())
}

/// The target does not answer: it is dialled again, and nothing that was to be sent is lost, nor does
/// a probe count as a message.
#[tokio::test(start_paused = true)]
async fn a_mute_target_is_dialled_again_and_what_waits_for_it_stays() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = format!(
        r#"
        [listen.devices]
        bind = "127.0.0.1:0"
        framing = "lines"
        [client.server]
        to = "{}"
        hello = "I am the node"
        heartbeat = {{ send = "PING", every = "10s", within = "5s", expect = "PONG" }}
        [relay.up]
        from = "devices"
        to = "server"
        mode = "collect"
        resend = true
        "#,
        target.local_addr().unwrap()
    );
    let kinds = [
        EventKind::Connected,
        EventKind::HeartbeatMissed,
        EventKind::Disconnected,
        EventKind::Reconnecting,
        EventKind::FramesDropped,
    ];
    let (node, mut events) = start(config(&text), &kinds).await;
    let mut first = Peer::of(target.accept().await.unwrap().0);
    assert!(matches!(next(&mut events).await, Event::Connected { .. }));
    let mut device = Peer::new(node.addresses()[0]).await;
    device.say("one").await;
    for expected in ["I am the node", "one", "PING"] {
        assert_eq!(first.hears().await.unwrap(), expected);
    }
    first.say("PONG").await;
    assert_eq!(first.hears().await.unwrap(), "PING");
    // From here on it is mute, and its kernel is not.
    let Event::HeartbeatMissed { endpoint, .. } = next(&mut events).await else {
        panic!("it is missed first")
    };
    assert_eq!(&*endpoint, "server");
    let Event::Disconnected { reason, .. } = next(&mut events).await else { panic!("then it ends") };
    assert_eq!(reason, Reason::Heartbeat);
    device.say("two").await;
    assert!(matches!(next(&mut events).await, Event::Reconnecting { .. }));
    assert!(matches!(next(&mut events).await, Event::Connected { .. }));
    let mut second = Peer::of(target.accept().await.unwrap().0);
    for expected in ["I am the node", "two", "PING"] {
        assert_eq!(second.hears().await.unwrap(), expected);
    }
    second.write.write_all(b"PONG\nanswer\n").await.unwrap();
    assert_eq!(device.hears().await.unwrap(), "answer", "the answer to a probe is for nobody");
    assert_eq!(second.hears().await.unwrap(), "PING");
    let ObjectKind::Client { accounts: Some(accounts), .. } = node.registry().find("server").unwrap().kind
    else {
        panic!("a target has accounts")
    };
    assert_eq!((accounts.received, accounts.sent, accounts.dropped), (2, 2, 0), "{accounts:?}");
    let _ = node.shutdown(Duration::ZERO).await;
}

/// While there is no room for what a peer says it is not read, and its answer waits in our own kernel.
#[tokio::test(start_paused = true)]
async fn whoever_is_not_read_is_not_given_up() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = target.local_addr().unwrap();
    drop(target);
    let text = format!(
        r#"
        [listen.devices]
        bind = "127.0.0.1:0"
        framing = "lines"
        heartbeat = {{ send = "PING", every = "10s", within = "5s", expect = "PONG" }}
        read_timeout = "20s"
        [client.server]
        to = "{address}"
        queue_max = "1KiB"
        [relay.up]
        from = "devices"
        to = "server"
        mode = "collect"
        "#
    );
    let (node, mut events) = start(config(&text), &[EventKind::Disconnected]).await;
    let mut device = Peer::new(node.addresses()[0]).await;
    let line = "x".repeat(2_000);
    device.say(&line).await;
    let all = async {
        loop {
            if device.hears().await.unwrap() == "PING" {
                device.say("PONG").await;
            }
        }
    };
    assert!(timeout(Duration::from_secs(200), all).await.is_err());
    assert!(timeout(Duration::from_millis(1), events.next()).await.is_err(), "nobody has ended");
    let target = TcpListener::bind(address).await.unwrap();
    let mut server = Peer::of(target.accept().await.unwrap().0);
    assert_eq!(server.hears().await.unwrap(), line);
    // Now it is read, and asked again.
    assert_eq!(device.hears().await.unwrap(), "PING");
    let Event::Disconnected { reason, endpoint, .. } = next(&mut events).await else { unreachable!() };
    assert_eq!((reason, &*endpoint), (Reason::Heartbeat, "devices"));
    let _ = node.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_has_finished_and_only_listens_is_not_asked_any_more() {
    let text = r#"
        [listen.source]
        bind = "127.0.0.1:0"
        framing = "lines"
        [listen.viewers]
        bind = "127.0.0.1:0"
        framing = "lines"
        heartbeat = { send = "PING", every = "10s" }
        read_timeout = "15s"
        [relay.r]
        from = "source"
        to = "viewers"
        mode = "publish"
        "#;
    let (node, mut events) = start(config(text), &[EventKind::ReadFinished, EventKind::Disconnected]).await;
    let mut viewer = Peer::new(node.addresses()[1]).await;
    viewer.write.shutdown().await.unwrap();
    assert!(matches!(next(&mut events).await, Event::ReadFinished { .. }));
    assert!(
        timeout(Duration::from_secs(200), viewer.lines.next_line()).await.is_err(),
        "it was told nothing"
    );
    let mut source = Peer::new(node.addresses()[0]).await;
    source.say("news").await;
    assert_eq!(viewer.hears().await.unwrap(), "news");
    let _ = node.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_holds_for_those_who_come_later() {
    let (mut node, mut events) = start(hub(""), &WATCHED).await;
    let mut before = Peer::new(node.addresses()[0]).await;
    next(&mut events).await;
    let heartbeat = r#"heartbeat = { send = "PING", every = "10s", within = "5s" }"#;
    let changes = node.reload(hub(heartbeat)).await.unwrap();
    assert_eq!(changes.changed, ["listen.room.heartbeat"]);
    let mut after = Peer::new(node.addresses()[0]).await;
    next(&mut events).await;
    assert_eq!(after.hears().await.unwrap(), "PING");
    assert!(matches!(next(&mut events).await, Event::HeartbeatMissed { .. }));
    let Event::Disconnected { peer, .. } = next(&mut events).await else { panic!("one ends") };
    assert_eq!(peer.to_string(), after.local.to_string());
    assert!(timeout(Duration::from_secs(100), before.lines.next_line()).await.is_err());
    // And off again, under one that has it.
    let mut third = Peer::new(node.addresses()[0]).await;
    next(&mut events).await;
    node.reload(hub("")).await.unwrap();
    assert_eq!(third.hears().await.unwrap(), "PING", "it stays as it came");
    let _ = node.shutdown(Duration::ZERO).await;
}

/// Wires hear of a missed heartbeat before the end it leads to, of a listener and of a client that is
/// dialled again and told its hello.
#[tokio::test(start_paused = true)]
async fn wires_are_told_of_it_in_order_and_a_wired_client_is_dialled_again() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let heartbeat = r#"heartbeat = { send = "PING", every = "10s", within = "5s", expect = "PONG" }"#;
    let mut text = format!(
        "[listen.peers]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\n{heartbeat}\n\
         [client.plc]\nto = \"{}\"\nframing = \"lines\"\nhello = \"hi\"\n{heartbeat}\n\
         [listen.watch]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\n",
        target.local_addr().unwrap()
    );
    for (object, signal, said) in [
        ("peers", "heartbeat_missed", "{conn.peer} missed for {seconds} s"),
        ("peers", "disconnected", "{conn.peer} {reason}"),
        ("plc", "heartbeat_missed", "plc missed"),
        ("plc", "disconnected", "plc {reason}"),
        ("plc", "connected", "plc connected"),
        ("plc", "message_received", "plc says {data}"),
    ] {
        text.push_str(&format!(
            "[[connect]]\nsignal = \"{object}.{signal}\"\nslot = \"watch.broadcast\"\nargs = {{ data = \"{said}\" }}\n"
        ));
    }
    let (node, mut events) = start(config(&text), &[EventKind::NewConnection]).await;
    let mut first = Peer::of(target.accept().await.unwrap().0);
    let mut watch = Peer::new(node.addresses()[1]).await;
    next(&mut events).await;
    let peer = Peer::new(node.addresses()[0]).await;
    assert_eq!(first.hears().await.unwrap(), "hi");
    let mut said = Vec::new();
    for _ in 0..5 {
        said.push(watch.hears().await.unwrap());
    }
    let of = |name: &str| -> Vec<_> { said.iter().filter(|line| line.starts_with(name)).cloned().collect() };
    let local = peer.local.to_string();
    assert_eq!(of(&local), [format!("{local} missed for 5 s"), format!("{local} heartbeat")]);
    assert_eq!(of("plc"), ["plc missed", "plc heartbeat", "plc connected"]);
    let mut second = Peer::of(target.accept().await.unwrap().0);
    for expected in ["hi", "PING"] {
        assert_eq!(second.hears().await.unwrap(), expected);
    }
    second.write.write_all(b"PONG\n42\n").await.unwrap();
    assert_eq!(watch.hears().await.unwrap(), "plc says 42");
    let _ = node.shutdown(Duration::ZERO).await;
}
