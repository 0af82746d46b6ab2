//! Relays that this program plays itself: the naive one, and the library with
//! subscribers that read, or never do.

use std::net::SocketAddr;

use signal_node::{Config, EventBus, EventMask, Node};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

/// Plays a role until it is ended from outside.
pub(crate) fn play(role: &str, listen: SocketAddr, backend: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match role {
        "naive" => runtime.block_on(naive(listen, backend)),
        "node-0" => runtime.block_on(node(listen, backend, 0, true)),
        "node-1" => runtime.block_on(node(listen, backend, 1, true)),
        "node-4" => runtime.block_on(node(listen, backend, 4, true)),
        "node-unread" => runtime.block_on(node(listen, backend, 1, false)),
        other => panic!("no role is called {other}"),
    }
}

/// What tokio's documentation suggests.
async fn naive(listen: SocketAddr, backend: SocketAddr) {
    let listener = TcpListener::bind(listen).await.expect("a free port");
    let mut tasks = JoinSet::new();
    loop {
        let (mut client, _) = listener.accept().await.expect("a client");
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let mut target = TcpStream::connect(backend).await?;
            client.set_nodelay(true)?;
            target.set_nodelay(true)?;
            copy_bidirectional(&mut client, &mut target).await
        });
    }
}

async fn node(listen: SocketAddr, backend: SocketAddr, subscribers: usize, read: bool) {
    let bus = EventBus::new();
    let mut readers = JoinSet::new();
    let mut unread = Vec::new();
    for _ in 0..subscribers {
        let mut events = bus.subscribe(EventMask::ALL);
        if read {
            readers.spawn(async move { while events.next().await.is_some() {} });
        } else {
            unread.push(events);
        }
    }
    let address = |address: SocketAddr| address.to_string().parse().expect("an address");
    let config = Config { from: vec![address(listen)], to: vec![address(backend)], ..Config::default() };
    let node = Node::bind_with(config, bus).await.expect("the node starts");
    let _ = node.join().await;
}
