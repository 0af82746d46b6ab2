//! Reload of relays that join many: who stays, what is dialled anew, and what
//! becomes of what waits.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use signal_node::bus::{Delivery, Subscription};
use signal_node::config::ListenConfig;
use signal_node::event::{Event, EventKind, EventMask};
use signal_node::registry::{Accounts, ObjectKind};
use signal_node::{Config, Node, Overflow};
use tokio_stream::StreamExt;

use crate::support::{PATIENCE, accept_one, connect, hold_free_port, listener};

fn config(text: &str) -> Config {
    Config::parse(vec![("x.toml".into(), text.into())]).unwrap().0
}

/// A listener `front` that collects for `server`, with more lines for each.
fn collect(target: SocketAddr, listen: &str, client: &str, relay: &str) -> Config {
    config(&format!(
        "[listen.front]\nbind = \"127.0.0.1:0\"\n{listen}\n[client.server]\nto = \"{target}\"\n{client}\n\
         [relay.up]\nfrom = \"front\"\nto = \"server\"\nmode = \"collect\"\n{relay}\n"
    ))
}

const LINES: &str = "framing = \"lines\"";

fn accounts(node: &Node) -> Accounts {
    match node.registry().find("server").unwrap().kind {
        ObjectKind::Client { accounts: Some(accounts), .. } => accounts,
        other => panic!("{other:?}"),
    }
}

/// The blocking half of a test beside its node.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn line(stream: &TcpStream) -> String {
    // Byte by byte, so that nothing is taken away from the next reader.
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        (&*stream).read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// A config whose target takes its framing from the listener used to be refused, as if it were raw.
#[test]
fn a_target_without_a_framing_of_its_own_is_checked_with_that_of_the_listener() {
    let target = "127.0.0.1:9".parse().unwrap();
    assert_eq!(collect(target, LINES, "queue_overflow = \"drop_oldest\"", "").check(), []);
    let mut raw = collect(target, "framing = \"raw\"", "", "");
    raw.client.get_mut("server").unwrap().options.messages.queue.overflow = Some(Overflow::DropOldest);
    let faults = raw.check();
    assert_eq!(faults.len(), 1);
    assert!(faults[0].to_string().contains("would tear a raw stream"), "{}", faults[0]);
}

/// The connection to the target used to go on in the old framing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_takes_its_framing_from_the_listener_follows_a_change_of_it() {
    let (upstream, target) = listener();
    let mut node = Node::bind(collect(target, LINES, "", "")).await.unwrap();
    let address = node.addresses()[0];
    let (upstream, old) = aside(move || {
        let server = accept_one(&upstream);
        let mut client = connect(address);
        client.write_all(b"as lines\n").unwrap();
        assert_eq!(line(&server), "as lines\n");
        (upstream, (client, server))
    })
    .await;
    node.reload(collect(target, "framing = \"length:1\"", "", "")).await.unwrap();
    let (mut old, servers) = aside(move || {
        let server = accept_one(&upstream);
        let mut client = connect(address);
        client.write_all(b"\x05hello").unwrap();
        let mut frame = [0; 6];
        (&server).read_exact(&mut frame).unwrap();
        assert_eq!(&frame, b"\x05hello");
        (old, (server, client))
    })
    .await;
    // Who came before speaks as it did, and is understood.
    let servers = aside(move || {
        assert_eq!((&old.1).read(&mut [0]).unwrap(), 0, "the old connection has finished");
        old.0.write_all(b"still lines\n").unwrap();
        let mut frame = [0; 12];
        (&servers.0).read_exact(&mut frame).unwrap();
        assert_eq!(&frame, b"\x0bstill lines");
        (&servers.0).write_all(b"\x03all").unwrap();
        assert_eq!(line(&old.0), "all\n");
        servers
    })
    .await;
    drop(servers);
    assert_eq!(node.shutdown(Duration::from_secs(10)).await.cut, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_does_not_concern_the_target_leaves_its_connection_and_all_members_alone() {
    let (upstream, target) = listener();
    let mut node = Node::bind(collect(target, LINES, "", "")).await.unwrap();
    let first = node.addresses()[0];
    let (server, client) = aside(move || (accept_one(&upstream), connect(first))).await;
    let mut changed = collect(target, LINES, "", "idle_timeout = \"1h\"");
    let mut second = ListenConfig::new("127.0.0.2:0".parse().unwrap());
    second.options.messages.framing = Some("lines:crlf".parse().unwrap());
    changed.listen.insert("second".into(), second);
    changed.relay.get_mut("up").unwrap().from.push("second".into());
    node.reload(changed).await.unwrap();
    let second = node.addresses()[1];
    aside(move || {
        let mut other = connect(second);
        other.write_all(b"two\r\n").unwrap();
        assert_eq!(line(&server), "two\n");
        (&client).write_all(b"one\n").unwrap();
        assert_eq!(line(&server), "one\n");
        (&server).write_all(b"both\n").unwrap();
        assert_eq!((line(&client), line(&other)), ("both\n".into(), "both\r\n".into()));
    })
    .await;
    assert_eq!(accounts(&node).received, 2);
    assert_eq!(node.shutdown(Duration::from_secs(10)).await.cut, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_target_waits_for_it_at_another_address_in_another_framing() {
    let ((_held, nowhere), (upstream, target)) = (hold_free_port(), listener());
    let mut node = Node::bind(collect(nowhere, LINES, "", "")).await.unwrap();
    let address = node.addresses()[0];
    let client = aside(move || {
        let mut client = connect(address);
        for nth in 0..100 {
            writeln!(client, "{nth:03}").unwrap();
        }
        client
    })
    .await;
    while accounts(&node).queued < 100 {
        tokio::task::yield_now().await;
    }
    node.reload(collect(nowhere, LINES, "framing = \"length:2\"", "")).await.unwrap();
    node.reload(collect(target, LINES, "framing = \"lines:crlf\"\nqueue_max = \"1MiB\"", "")).await.unwrap();
    let server = aside(move || {
        let server = accept_one(&upstream);
        for nth in 0..100 {
            assert_eq!(line(&server), format!("{nth:03}\r\n"));
        }
        server
    })
    .await;
    let end = accounts(&node);
    assert_eq!((end.received, end.queued, end.dropped), (100, 0, 0), "{end:?}");
    assert_eq!(end.sent + end.unconfirmed, 100);
    drop((client, server));
    assert_eq!(node.shutdown(Duration::from_secs(10)).await.cut, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_target_that_is_removed_is_counted_and_so_is_what_comes_then() {
    let (_held, nowhere) = hold_free_port();
    let mut node = Node::bind(collect(nowhere, LINES, "", "")).await.unwrap();
    let mut lost = node.bus().subscribe(EventMask::of(&[EventKind::FramesDropped]));
    let address = node.addresses()[0];
    let mut client = aside(move || connect(address)).await;
    client.write_all(b"1\n2\n3\n").unwrap();
    while accounts(&node).queued < 3 {
        tokio::task::yield_now().await;
    }
    // Its clients stay, since modes hold for those who come.
    let echo = "[listen.front]\nbind = \"127.0.0.1:0\"\n[relay.up]\nfrom = \"front\"\nmode = \"echo\"";
    node.reload(config(echo)).await.unwrap();
    assert_eq!(loss(&mut lost).await, ("stopped", 3));
    client.write_all(b"4\n").unwrap();
    assert_eq!(loss(&mut lost).await, ("unheard", 1));
    drop(client);
    assert_eq!(node.shutdown(Duration::from_secs(10)).await.cut, 1, "something was lost");
}

/// The cause and the number of the next frames that are dropped.
async fn loss(events: &mut Subscription) -> (&'static str, u64) {
    loop {
        let delivery = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap();
        if let Delivery::Event(envelope) = delivery
            && let Event::FramesDropped { cause, frames, .. } = &envelope.event
        {
            return (cause.name(), *frames);
        }
    }
}
