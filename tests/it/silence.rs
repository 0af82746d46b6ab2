//! Limits of silence and of standing still, what peers are told first, and
//! that each ends nobody but the peer it is about.

use std::time::Duration;

use signal_node::bus::Delivery;
use signal_node::{Config, Event, EventBus, EventKind, EventMask, Node, Reason, Subscription};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;

fn config(text: &str) -> Config {
    Config::parse(vec![("x.toml".into(), text.into())]).unwrap().0
}

async fn start(text: &str) -> (Node, Subscription) {
    let bus = EventBus::new();
    let events = bus.subscribe(EventMask::of(&[EventKind::NewConnection, EventKind::Disconnected]));
    (Node::bind_with(config(text), bus).await.unwrap(), events)
}

fn hub(keys: &str) -> String {
    format!(
        "[listen.room]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\n{keys}\n[relay.r]\nfrom = \"room\"\nmode = \"hub\"\n"
    )
}

fn pair(listen: &str, client: &str, to: &TcpListener) -> String {
    let to = to.local_addr().unwrap();
    format!(
        "[listen.front]\nbind = \"127.0.0.1:0\"\n{listen}\n[client.back]\nto = \"{to}\"\n{client}\n\
         [relay.r]\nfrom = \"front\"\nto = \"back\"\n"
    )
}

async fn next(events: &mut Subscription) -> Event {
    match timeout(Duration::from_secs(3_600), events.next()).await.unwrap().unwrap() {
        Delivery::Event(envelope) => envelope.event.clone(),
        Delivery::Lagged(_) => panic!("too fast"),
    }
}

/// Who ends next, and why.
async fn end(events: &mut Subscription) -> (String, Reason, String) {
    loop {
        if let Event::Disconnected { endpoint, reason, peer, .. } = next(events).await {
            return (endpoint.to_string(), reason, peer.to_string());
        }
    }
}

async fn nobody_ends(events: &mut Subscription) {
    let ended = timeout(Duration::from_secs(100), end(events)).await;
    assert!(ended.is_err(), "{ended:?}");
}

async fn join(node: &Node, events: &mut Subscription) -> TcpStream {
    let client = TcpStream::connect(node.addresses()[0]).await.unwrap();
    loop {
        if let Event::NewConnection { .. } = next(events).await {
            return client;
        }
    }
}

async fn hears(stream: &mut TcpStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    timeout(Duration::from_secs(60), stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

fn local(stream: &TcpStream) -> String {
    stream.local_addr().unwrap().to_string()
}

/// Writes until nothing more is taken.
async fn fill(stream: &mut TcpStream, bytes: &[u8]) {
    while let Ok(written) = timeout(Duration::from_millis(50), stream.write_all(bytes)).await {
        written.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_from_which_nothing_comes_is_ended_though_it_is_written_to() {
    let (node, mut events) = start(&hub("read_timeout = \"10s\"")).await;
    let mut silent = join(&node, &mut events).await;
    let mut speaker = join(&node, &mut events).await;
    let begun = Instant::now();
    let name = local(&silent);
    let speaks = async {
        for _ in 0..3 {
            speaker.write_all(b"x\n").await.unwrap();
            hears(&mut silent, "x\n").await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        speaker.write_all(b"x\n").await.unwrap();
    };
    let (_, ended) = tokio::join!(speaks, end(&mut events));
    assert_eq!(ended, ("room".into(), Reason::ReadTimeout, name));
    let passed = begun.elapsed();
    assert!(passed >= Duration::from_secs(10) && passed <= Duration::from_secs(12), "{passed:?}");
    let error = loop {
        if let Err(error) = silent.read_u8().await {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    // The other has spoken last after nine seconds.
    assert_eq!(end(&mut events).await.1, Reason::ReadTimeout);
    let passed = begun.elapsed();
    assert!(passed >= Duration::from_secs(19) && passed <= Duration::from_secs(21), "{passed:?}");
    let _ = node.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_takes_nothing_is_ended_and_one_that_has_nothing_to_take_is_not() {
    // The second is less than the sweep waits by itself.
    for limit in [Duration::from_secs(5), Duration::from_millis(400)] {
        // Above all other limits: a queue that holds all, and no policy that ends it.
        let keys = format!(
            "write_timeout = \"{}ms\"\nqueue_overflow = \"block\"\nqueue_max = \"64KiB\"\nkernel_send_buffer = \"8KiB\"",
            limit.as_millis()
        );
        let (node, mut events) = start(&hub(&keys)).await;
        let mut speaker = join(&node, &mut events).await;
        let stuck = join(&node, &mut events).await;
        nobody_ends(&mut events).await;
        fill(&mut speaker, format!("{}\n", "x".repeat(1_000)).as_bytes()).await;
        let begun = Instant::now();
        assert_eq!(end(&mut events).await, ("room".into(), Reason::WriteTimeout, local(&stuck)));
        let passed = begun.elapsed();
        assert!(passed >= limit * 3 / 4 && passed <= limit * 3 / 2, "{passed:?}");
        nobody_ends(&mut events).await;
        let _ = node.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_first_message_is_not_whole_in_time_is_ended() {
    let (node, mut events) = start(&hub("first_frame_timeout = \"5s\"")).await;
    let mut slow = join(&node, &mut events).await;
    let mut whole = join(&node, &mut events).await;
    whole.write_all(b"whole\n").await.unwrap();
    let drips = async {
        for _ in 0..20 {
            // Its own end comes before the twentieth.
            let _ = slow.write_all(b"x").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let name = local(&whole);
    let (_, (_, reason, peer)) = tokio::join!(drips, end(&mut events));
    assert_eq!(reason, Reason::FirstFrameTimeout);
    assert_ne!(peer, name);
    nobody_ends(&mut events).await;
    let _ = node.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn in_a_pair_a_byte_is_as_much_as_a_message_and_who_has_finished_is_not_silent() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limits = "first_frame_timeout = \"5s\"";
    let (node, mut events) =
        start(&pair(&format!("{limits}\nread_timeout = \"10s\""), limits, &target)).await;
    let mut client = join(&node, &mut events).await;
    let mut server = target.accept().await.unwrap().0;
    client.write_all(b"x").await.unwrap();
    server.write_all(b"y").await.unwrap();
    hears(&mut server, "x").await;
    hears(&mut client, "y").await;
    client.shutdown().await.unwrap();
    nobody_ends(&mut events).await;
    server.write_all(b"z").await.unwrap();
    hears(&mut client, "z").await;
    let _ = node.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn of_a_pair_the_one_it_is_about_is_named_and_the_other_has_lost_its_partner() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (listen, client, says, expected) in [
        // Of the client, of the target, who goes on speaking, and who is ended with what.
        (
            "read_timeout = \"5s\"",
            "",
            "target",
            [("back", Reason::PartnerLost), ("front", Reason::ReadTimeout)],
        ),
        (
            "",
            "read_timeout = \"5s\"",
            "client",
            [("back", Reason::ReadTimeout), ("front", Reason::PartnerLost)],
        ),
        (
            "first_frame_timeout = \"5s\"",
            "",
            "target",
            [("back", Reason::PartnerLost), ("front", Reason::FirstFrameTimeout)],
        ),
        (
            "",
            "first_frame_timeout = \"5s\"",
            "client",
            [("back", Reason::FirstFrameTimeout), ("front", Reason::PartnerLost)],
        ),
    ] {
        let (node, mut events) = start(&pair(listen, client, &target)).await;
        let mut client = join(&node, &mut events).await;
        let mut server = target.accept().await.unwrap().0;
        let speaker = if says == "client" { &mut client } else { &mut server };
        let speaks = async {
            for _ in 0..30 {
                let _ = speaker.write_all(b"x").await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let ends = async { [end(&mut events).await, end(&mut events).await] };
        let begun = Instant::now();
        let ends = async {
            let ends = ends.await;
            let passed = begun.elapsed();
            assert!(passed >= Duration::from_secs(5) && passed <= Duration::from_secs(7), "{passed:?}");
            ends
        };
        let (_, ends) = tokio::join!(speaks, ends);
        let ends = ends.each_ref().map(|(endpoint, reason, _)| (endpoint.as_str(), *reason));
        assert_eq!(ends, expected, "{listen}{}", says);
        let _ = node.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_stands_still_is_ended_for_the_one_that_takes_nothing() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limits = "write_timeout = \"5s\"\nread_timeout = \"30s\"";
    let (node, mut events) = start(&pair(limits, limits, &target)).await;
    let mut client = join(&node, &mut events).await;
    let mut server = target.accept().await.unwrap().0;
    fill(&mut client, &[b'x'; 1 << 16]).await;
    // It is not its fault that it is not read: only who takes nothing is named.
    assert_eq!(end(&mut events).await.1, Reason::WriteTimeout);
    let (endpoint, reason, _) = end(&mut events).await;
    assert_eq!((endpoint.as_str(), reason), ("front", Reason::PartnerLost));
    // It gets what was on its way, and then a reset.
    let mut buffer = vec![0; 1 << 16];
    while server.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    let _ = node.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_for_a_slow_partner_is_not_silent() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (node, mut events) = start(&pair("read_timeout = \"5s\"", "", &target)).await;
    let mut client = join(&node, &mut events).await;
    let mut server = target.accept().await.unwrap().0;
    fill(&mut client, &[b'x'; 1 << 16]).await;
    nobody_ends(&mut events).await;
    let mut buffer = vec![0; 1 << 20];
    let reads = async { while server.read(&mut buffer).await.is_ok_and(|count| count > 0) {} };
    let (_, (endpoint, reason, _)) = tokio::join!(reads, end(&mut events));
    assert_eq!((endpoint.as_str(), reason), ("back", Reason::PartnerLost));
    assert_eq!(end(&mut events).await.1, Reason::ReadTimeout);
    let _ = node.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_hello_comes_before_anything_else_as_a_message_or_as_bytes() {
    let (node, mut events) = start(&hub("hello = \"welcome\"")).await;
    let mut first = join(&node, &mut events).await;
    hears(&mut first, "welcome\n").await;
    let mut second = join(&node, &mut events).await;
    first.write_all(b"x\n").await.unwrap();
    hears(&mut second, "welcome\nx\n").await;
    let _ = node.shutdown(Duration::ZERO).await;

    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = pair("hello = { hex = \"ff 00\" }", "hello = \"LOGIN me\\n\"", &target);
    let (node, mut events) = start(&text).await;
    let mut client = join(&node, &mut events).await;
    client.write_all(b"question").await.unwrap();
    let mut server = target.accept().await.unwrap().0;
    hears(&mut server, "LOGIN me\nquestion").await;
    server.write_all(b"answer").await.unwrap();
    let mut bytes = [0; 8];
    client.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"\xff\x00answer");
    drop((client, server));
    let _ = node.shutdown(Duration::from_secs(10)).await;
}

/// A server that sits behind a bridge says nothing before it was told something.
#[tokio::test]
async fn a_target_that_is_dialled_first_in_a_bridge_is_told_before_it_is_waited_for() {
    let (gate, inner) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let text = format!(
        "[client.gate]\nto = \"{}\"\nhello = \"token\"\n[client.inner]\nto = \"{}\"\nhello = \"hi \"\n\
         [relay.r]\nfrom = \"gate\"\nto = \"inner\"\nmode = \"bridge\"\n",
        gate.local_addr().unwrap(),
        inner.local_addr().unwrap()
    );
    let (node, _events) = start(&text).await;
    for _ in 0..2 {
        let mut gate = gate.accept().await.unwrap().0;
        hears(&mut gate, "token").await;
        gate.write_all(b"there").await.unwrap();
        let mut inner = inner.accept().await.unwrap().0;
        hears(&mut inner, "hi there").await;
        inner.write_all(b"yes").await.unwrap();
        hears(&mut gate, "yes").await;
    }
    let _ = node.shutdown(Duration::ZERO).await;
}
