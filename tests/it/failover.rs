//! Several targets: which one a client gets, when one fails, and when it is back.

use std::net::SocketAddr;
use std::time::Duration;

use signal_node::bus::Delivery;
use signal_node::registry::ObjectKind;
use signal_node::{Config, Event, EventBus, EventKind, EventMask, Node, Subscription};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::StreamExt;

/// A server that tells everyone its name, and then waits for their end.
struct Named {
    address: SocketAddr,
    task: JoinSet<()>,
}

impl Named {
    async fn new(name: u8, address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(64).unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, task: JoinSet::from_iter([serve(listener, name)]) }
    }

    /// Nobody can connect any more when this returns.
    async fn end(mut self) {
        self.task.shutdown().await;
    }

    async fn anywhere(name: u8) -> Self {
        Self::new(name, ([127, 0, 0, 1], 0).into()).await
    }
}

async fn serve(listener: TcpListener, name: u8) {
    let mut clients = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        clients.spawn(async move {
            // A check leaves at once.
            if client.write_all(&[name]).await.is_ok() {
                let _ = client.read(&mut [0]).await;
            }
        });
    }
}

fn config(targets: &[SocketAddr], relay: &str) -> Config {
    let mut text = String::from("[listen.front]\nbind = \"127.0.0.1:0\"\n");
    let names: Vec<_> = (0..targets.len()).map(|nth| format!("t{nth}")).collect();
    for (name, target) in names.iter().zip(targets) {
        text.push_str(&format!("[client.{name}]\nto = \"{target}\"\n"));
    }
    text.push_str(&format!("[relay.link]\nfrom = \"front\"\nto = {names:?}\n{relay}\n"));
    Config::parse(vec![("test.toml".into(), text)]).unwrap().0
}

async fn node(targets: &[SocketAddr], relay: &str, kinds: &[EventKind]) -> (Node, Subscription) {
    let bus = EventBus::new();
    let events = bus.subscribe(EventMask::of(kinds));
    (Node::bind_with(config(targets, relay), bus).await.unwrap(), events)
}

/// A new client, and the name of the target that it got.
async fn visit(node: &Node) -> (TcpStream, char) {
    let mut client = TcpStream::connect(node.addresses()[0]).await.unwrap();
    let name = timeout(Duration::from_secs(30), client.read_u8()).await.unwrap().unwrap();
    (client, name.into())
}

async fn next(events: &mut Subscription) -> Event {
    match timeout(Duration::from_secs(30), events.next()).await.unwrap().unwrap() {
        Delivery::Event(envelope) => envelope.event.clone(),
        Delivery::Lagged(_) => panic!("too fast"),
    }
}

async fn changed(events: &mut Subscription) -> (String, String) {
    loop {
        if let Event::TargetChanged { endpoint, from, to, .. } = next(events).await {
            assert_eq!(&*endpoint, "link");
            return (from.to_string(), to.to_string());
        }
    }
}

fn is_up(node: &Node, name: &str) -> bool {
    match node.registry().find(name).unwrap().kind {
        ObjectKind::Client { up, .. } => up,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn clients_get_the_second_target_while_the_first_is_away_and_the_first_again_after_the_hold_time() {
    let (first, second) = (Named::anywhere(b'a').await, Named::anywhere(b'b').await);
    let addresses = [first.address, second.address];
    let kinds = [EventKind::TargetChanged, EventKind::ConnectFailed];
    let (node, mut events) = node(&addresses, "hold = \"1s\"", &kinds).await;
    assert_eq!(visit(&node).await.1, 'a');
    first.end().await;
    let begun = tokio::time::Instant::now();
    assert_eq!(visit(&node).await.1, 'b');
    assert!(matches!(next(&mut events).await, Event::ConnectFailed { endpoint, .. } if &*endpoint == "t0"));
    assert_eq!(changed(&mut events).await, ("t0".into(), "t1".into()));
    assert!(!is_up(&node, "t0") && is_up(&node, "t1"));
    // While it is held back nobody tries it, and it could be back without being used.
    let _first = Named::new(b'a', addresses[0]).await;
    assert_eq!(visit(&node).await.1, 'b');
    while visit(&node).await.1 == 'b' {
        tokio::task::yield_now().await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(changed(&mut events).await, ("t1".into(), "t0".into()));
    assert!(is_up(&node, "t0"));
    let _ = node.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn when_all_have_failed_all_are_tried_and_the_client_is_reset() {
    let (first, second) = (Named::anywhere(b'a').await, Named::anywhere(b'b').await);
    let addresses = [first.address, second.address];
    let (node, mut events) = node(&addresses, "", &[EventKind::ConnectFailed]).await;
    first.end().await;
    second.end().await;
    for _ in 0..3 {
        let mut client = TcpStream::connect(node.addresses()[0]).await.unwrap();
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let mut tried = Vec::new();
        for _ in 0..2 {
            let Event::ConnectFailed { endpoint, .. } = next(&mut events).await else { panic!() };
            tried.push(endpoint.to_string());
        }
        tried.sort();
        assert_eq!(tried, ["t0", "t1"]);
    }
    let _second = Named::new(b'b', addresses[1]).await;
    assert_eq!(visit(&node).await.1, 'b');
    let _ = node.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_check_finds_out_before_any_client_does() {
    let (first, second) = (Named::anywhere(b'a').await, Named::anywhere(b'b').await);
    let addresses = [first.address, second.address];
    let kinds = [EventKind::TargetChanged, EventKind::ConnectFailed];
    let (mut node, mut events) = node(&addresses, "check = \"20ms\"\nhold = \"200ms\"", &kinds).await;
    assert_eq!(visit(&node).await.1, 'a');
    first.end().await;
    while is_up(&node, "t0") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(visit(&node).await.1, 'b');
    // No client has had to wait for it.
    assert!(matches!(next(&mut events).await, Event::TargetChanged { .. }));
    // What is known survives a reload.
    node.reload(config(&addresses, "check = \"20ms\"\nhold = \"300ms\"")).await.unwrap();
    assert!(!is_up(&node, "t0"));
    let _first = Named::new(b'a', addresses[0]).await;
    let back = tokio::time::Instant::now();
    assert_eq!(visit(&node).await.1, 'b');
    while !is_up(&node, "t0") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(back.elapsed() >= Duration::from_millis(280), "{:?}", back.elapsed());
    assert_eq!(visit(&node).await.1, 'a');
    let _ = node.shutdown(Duration::ZERO).await;
}

/// The first check is at once, and the next in an hour.
#[tokio::test]
async fn what_a_check_has_found_away_is_away_until_a_check_finds_it_back() {
    let (first, second) = (Named::anywhere(b'a').await, Named::anywhere(b'b').await);
    let addresses = [first.address, second.address];
    first.end().await;
    let relay = "check = \"1h\"\nhold = \"50ms\"";
    let (node, mut events) = node(&addresses, relay, &[EventKind::ConnectFailed]).await;
    while is_up(&node, "t0") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Without checks it would be tried again after that.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(visit(&node).await.1, 'b');
    let tried = timeout(Duration::from_millis(1), events.next()).await;
    assert!(tried.is_err(), "{tried:?}");
    // Now all are tried, and to be reached once is not to be well.
    second.end().await;
    let _first = Named::new(b'a', addresses[0]).await;
    while is_up(&node, "t1") {
        assert_eq!(visit(&node).await.1, 'a');
    }
    assert!(!is_up(&node, "t0"));
    let _ = node.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn each_in_turn_and_those_that_failed_are_left_out() {
    let servers = [Named::anywhere(b'a').await, Named::anywhere(b'b').await, Named::anywhere(b'c').await];
    let addresses = servers.each_ref().map(|server| server.address);
    let changed = [EventKind::TargetChanged];
    let (node, mut events) = node(&addresses, "strategy = \"round_robin\"", &changed).await;
    let mut got = String::new();
    for _ in 0..6 {
        got.push(visit(&node).await.1);
    }
    assert_eq!(got, "abcabc");
    let [_a, b, _c] = servers;
    b.end().await;
    got.clear();
    for _ in 0..6 {
        got.push(visit(&node).await.1);
    }
    assert!(!got.contains('b') && got.matches('a').count() >= 2 && got.matches('c').count() >= 2, "{got}");
    let changed = timeout(Duration::from_millis(1), events.next()).await;
    assert!(changed.is_err(), "each has its own: {changed:?}");
    let _ = node.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn the_one_with_the_fewest_connections_is_next() {
    let servers = [Named::anywhere(b'a').await, Named::anywhere(b'b').await, Named::anywhere(b'c').await];
    let addresses = servers.each_ref().map(|server| server.address);
    let gone = [EventKind::Disconnected];
    let (node, mut events) = node(&addresses, "strategy = \"least_connections\"", &gone).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(visit(&node).await);
    }
    let count = |clients: &[(TcpStream, char)], name| clients.iter().filter(|(_, got)| *got == name).count();
    assert!("abc".chars().all(|name| count(&clients, name) == 2));
    clients.retain(|(_, got)| *got != 'b');
    for _ in 0..4 {
        // Two clients and their targets.
        next(&mut events).await;
    }
    for _ in 0..2 {
        let client = visit(&node).await;
        assert_eq!(client.1, 'b');
        clients.push(client);
    }
    let _ = node.shutdown(Duration::ZERO).await;
}
