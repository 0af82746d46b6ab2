//! [`Incoming`]: the clients of a server as a stream.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio_stream::Stream;

use super::TcpServer;
use crate::net::socket::TcpSocket;

/// The clients of a server; made by [`TcpServer::incoming`].
pub struct Incoming {
    /// Made for one client and then for the next.
    next: Pin<Box<dyn Future<Output = (TcpServer, Option<TcpSocket>)> + Send + Sync>>,
}

impl Incoming {
    pub(super) fn new(server: TcpServer) -> Self {
        Self { next: Box::pin(next(server)) }
    }
}

async fn next(server: TcpServer) -> (TcpServer, Option<TcpSocket>) {
    let client = server.next_pending_connection().await;
    (server, client)
}

impl Stream for Incoming {
    type Item = TcpSocket;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<TcpSocket>> {
        let (server, client) = ready!(self.next.as_mut().poll(cx));
        // Also after the end: the server may listen again.
        self.next = Box::pin(next(server));
        Poll::Ready(client)
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Incoming")
    }
}
