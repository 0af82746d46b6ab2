//! Relays that this program plays itself: the naive one, and the library with
//! subscribers that read, or never do.

use std::net::SocketAddr;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use signal_node::{Config, EventBus, EventMask, Node};
use socket2::SockRef;
use tokio::io::{Interest, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

/// Plays a role until it is ended from outside.
pub(crate) fn play(role: &str, listen: SocketAddr, backend: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match role {
        "naive" => runtime.block_on(naive(listen, backend)),
        "splice" => runtime.block_on(splice_relay(listen, backend)),
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

/// A bare relay by splice(2), with a pipe for each direction for as long as it lives: what the technique could
/// give this program's data path, which copies.
async fn splice_relay(listen: SocketAddr, backend: SocketAddr) {
    let listener = TcpListener::bind(listen).await.expect("a free port");
    let mut tasks = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.expect("a client");
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let target = TcpStream::connect(backend).await?;
            client.set_nodelay(true)?;
            target.set_nodelay(true)?;
            tokio::try_join!(splice_half(&client, &target), splice_half(&target, &client))
        });
    }
}

async fn splice_half(from: &TcpStream, to: &TcpStream) -> std::io::Result<()> {
    let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let _ = fcntl_setpipe_size(&into, PIPE);
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    loop {
        from.readable().await?;
        let read = from.try_io(Interest::READABLE, || Ok(splice(from, None, &into, None, PIPE, flags)?));
        let mut held = match read {
            Ok(0) => return SockRef::from(to).shutdown(std::net::Shutdown::Write),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        while held > 0 {
            to.writable().await?;
            match to.try_io(Interest::WRITABLE, || Ok(splice(&out, None, to, None, held, flags)?)) {
                Ok(count) => held -= count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The largest pipe an ordinary user may have.
const PIPE: usize = 1 << 20;

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
    let config = Config::relay([address(listen)], [address(backend)]);
    let node = Node::bind_with(config, bus).await.expect("the node starts");
    let _ = node.join().await;
}
