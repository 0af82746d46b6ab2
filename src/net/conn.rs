//! [`Conn`]: a stream that counts, announces, and ends exactly once. It owns
//! no task, no buffer and no signal table, so that an idle one costs little.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::listener::Accepted;
use super::options::Keepalive;
use super::peer::PeerOptions;
use super::transport::Stream;
use super::unacknowledged::{Unacknowledged, unacknowledged};
use crate::bus::{EventBus, Record};
use crate::event::{ConnectionId, Endpoint, Introduction, Reason};

/// One connection, accepted or dialled.
///
/// Whoever owns it ends it with [`finish`](Self::finish) or
/// [`reset`](Self::reset), after which it is only good for dropping. Dropped
/// without either it resets itself: its task was stopped, or it panicked.
#[derive(Debug)]
pub(crate) struct Conn {
    stream: Option<Stream>,
    record: Arc<Record>,
    /// What is said to its peer and expected of it, if there is anything.
    terms: Option<Arc<PeerOptions>>,
    /// Small writes go out at once (TCP_NODELAY). An accepted socket inherits that.
    is_prompt: bool,
    /// Its peer was told what it is told first.
    is_greeted: bool,
}

impl Conn {
    /// Takes over an accepted stream and announces it.
    pub(crate) fn accepted(
        bus: &EventBus,
        endpoint: &Arc<str>,
        stream: Stream,
        peer: Endpoint,
        local: Endpoint,
    ) -> Self {
        Self::introduced(bus, endpoint, (stream, peer, local), Introduction::default())
    }

    /// The same for one that has told more about itself.
    pub(crate) fn introduced(
        bus: &EventBus,
        endpoint: &Arc<str>,
        (stream, peer, local): Accepted,
        introduction: Introduction,
    ) -> Self {
        let record = Record::accepted(bus, endpoint, peer, local, introduction);
        Self { stream: Some(stream), record, terms: None, is_prompt: true, is_greeted: false }
    }

    /// Standard input and output, as a client of ours.
    pub(crate) fn stdio(bus: &EventBus, endpoint: &Arc<str>) -> Self {
        Self::accepted(bus, endpoint, Stream::stdio(), Endpoint::Stdio, Endpoint::Stdio)
    }

    /// Takes over a dialled stream, whose record was announced by the dial.
    pub(super) fn dialled(stream: Stream, record: Arc<Record>) -> Self {
        Self { stream: Some(stream), record, terms: None, is_prompt: false, is_greeted: false }
    }

    /// With what its listener or client says to peers and expects of them.
    pub(crate) fn on_terms(mut self, terms: &PeerOptions) -> Self {
        self.terms = (*terms != PeerOptions::default()).then(|| Arc::new(terms.clone()));
        self
    }

    /// What is expected of its peer, if there is anything.
    pub(crate) fn terms(&self) -> Option<&Arc<PeerOptions>> {
        self.terms.as_ref()
    }

    /// What its peer is to be told first; nothing the second time.
    pub(crate) fn take_hello(&mut self) -> Option<Bytes> {
        let is_greeted = std::mem::replace(&mut self.is_greeted, true);
        self.terms.as_ref().filter(|_| !is_greeted)?.hello.clone()
    }

    /// Reads into `buffer`; 0 says that the peer has finished.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let count = ready!(self.stream_mut().poll_read(cx, buffer))?;
        if count > 0 {
            self.record.add_received(count);
        }
        Poll::Ready(Ok(count))
    }

    /// Reads at most so many bytes behind what `buffer` holds, where they need not be cleared before. Nothing
    /// where it is no bare socket.
    pub(crate) fn poll_read_buf(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        most: usize,
    ) -> Option<Poll<io::Result<usize>>> {
        let read = self.stream_mut().poll_read_buf(cx, buffer, most)?;
        if let Poll::Ready(Ok(count @ 1..)) = read {
            self.record.add_received(count);
        }
        Some(read)
    }

    /// Writes from `bytes` and says how many were taken.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.be_prompt(bytes.len());
        let count = ready!(self.stream_mut().poll_write(cx, bytes))?;
        self.record.add_sent(count);
        Poll::Ready(Ok(count))
    }

    /// Writes from several pieces at once, and says how many bytes were taken.
    pub(crate) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.be_prompt(pieces.iter().map(|piece| piece.len()).sum());
        let count = ready!(self.stream_mut().poll_write_vectored(cx, pieces))?;
        self.record.add_sent(count);
        Poll::Ready(Ok(count))
    }

    /// Nothing is under way before a first write, so the kernel does not hold it back if it
    /// fits a segment; and many connections have no second one.
    fn be_prompt(&mut self, bytes: usize) {
        if !self.is_prompt && (self.record.sent() > 0 || bytes > LEAST_SEGMENT) {
            self.stream().send_at_once();
            self.is_prompt = true;
        }
    }

    /// Announces that the peer has finished: a read yielded 0, and not because the connection broke.
    pub(crate) fn read_finished(&self) {
        self.record.read_finished();
    }

    /// Finishes our half.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream_mut().poll_shutdown(cx)
    }

    /// Finishes our half of a connection that is then ended.
    pub(crate) fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream_mut().poll_last(cx)
    }

    /// Bytes that count as sent and have not left the process.
    pub(crate) fn held(&self) -> u64 {
        self.stream().held() as u64
    }

    /// Waits until what was written has left the process.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream_mut().poll_flush(cx)
    }

    /// Takes the error the kernel holds for this socket, without reading it.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        self.stream().take_error()
    }

    /// Has the kernel look after a silent peer. An accepted connection has that from its listener.
    pub(crate) fn keep_alive(&self, keepalive: &Keepalive) {
        self.stream().keep_alive(keepalive);
    }

    /// Bounds what the kernel holds without having sent it, in bytes.
    pub(crate) fn limit_unsent(&self, bytes: u32) {
        self.stream().limit_unsent(bytes);
    }

    /// Has the kernel give up a peer that acknowledges nothing, or makes no room, for so long while data waits for it.
    pub(crate) fn limit_silence(&self, limit: Duration) {
        self.stream().limit_silence(limit);
    }

    /// Asks the kernel to report the socket as writable only when it has sent everything.
    pub(crate) fn report_drained(&self) {
        self.stream().report_drained();
    }

    /// Tells whether the kernel has sent everything, after [`report_drained`](Self::report_drained).
    pub(crate) fn is_drained(&self) -> bool {
        self.stream().is_drained()
    }

    /// How much of what was sent the peer's kernel has not acknowledged.
    pub(crate) fn unacknowledged(&self) -> Unacknowledged {
        match self.record.ends() {
            (Endpoint::Tcp(peer), Endpoint::Tcp(local)) => match unacknowledged(local, peer) {
                // In TLS more bytes than it stands for, so that it is never too few.
                Unacknowledged::Bytes(bytes) => Unacknowledged::Bytes(bytes + self.held()),
                other => other,
            },
            // Written there is delivered.
            _ => Unacknowledged::Bytes(0),
        }
    }

    /// The connection's id.
    pub(crate) fn id(&self) -> ConnectionId {
        self.record.id()
    }

    /// The facts about it.
    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Bytes received so far.
    pub(crate) fn received(&self) -> u64 {
        self.record.received()
    }

    /// Bytes sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.record.sent()
    }

    /// Closes the socket and announces the end.
    pub(crate) fn finish(&mut self, reason: Reason, error: Option<&io::Error>, unsent: u64) {
        self.end(false, reason, error, unsent);
    }

    /// Aborts the connection, so that the peer sees a reset, and announces the end.
    pub(crate) fn reset(&mut self, reason: Reason, error: Option<&io::Error>, unsent: u64) {
        self.end(true, reason, error, unsent);
    }

    fn end(&mut self, abort: bool, reason: Reason, error: Option<&io::Error>, unsent: u64) {
        let Some(mut stream) = self.stream.take() else { return };
        if abort {
            stream.reset_on_drop();
        } else {
            stream.say_end();
        }
        let held = stream.held() as u64;
        if held > 0 {
            self.record.take_back_sent(held);
        }
        // Closed first: whoever hears of the end may rely on it.
        drop(stream);
        self.record.disconnected(reason, error.map(io::Error::to_string).as_deref(), unsent + held);
    }

    pub(super) fn stream(&self) -> &Stream {
        self.stream.as_ref().expect("an ended Conn is not used")
    }

    pub(super) fn stream_mut(&mut self) -> &mut Stream {
        self.stream.as_mut().expect("an ended Conn is not used")
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        let reason = reason_of_drop(&self.record);
        self.end(true, reason, None, 0);
    }
}

/// Why a connection is dropped that nobody ended.
pub(crate) fn reason_of_drop(record: &Record) -> Reason {
    match record.is_killed() {
        true => Reason::Killed,
        false if std::thread::panicking() => Reason::Aborted,
        false => Reason::Shutdown,
    }
}

/// What a socket's error says about the end of its connection.
pub(crate) fn reason_of(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            Reason::Reset
        }
        // Sockets do not say so; TLS does of an end that was not announced.
        io::ErrorKind::UnexpectedEof => Reason::Truncated,
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Reason::TimedOut
        }
        _ => Reason::Failed,
    }
}

/// What fits one segment on any path: the least MSS there is (RFC 9293 §3.7.1).
const LEAST_SEGMENT: usize = 536;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn write(conn: &mut Conn, size: usize, vectored: bool) -> bool {
        let bytes = vec![0; size];
        let pieces = [io::IoSlice::new(&bytes)];
        poll_fn(|cx| match vectored {
            false => conn.poll_write(cx, &bytes),
            true => conn.poll_write_vectored(cx, &pieces),
        })
        .await
        .unwrap();
        match conn.stream() {
            Stream::Tcp(stream) => stream.nodelay().unwrap(),
            _ => unreachable!("made from a TcpStream below"),
        }
    }

    #[tokio::test]
    async fn a_dialled_connection_never_waits_with_a_small_write() {
        let bus = EventBus::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (first, is_prompt, vectored) in
            [(64, false, false), (2_000, true, false), (64, false, true), (2_000, true, true)]
        {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let record = Record::dialling(&bus, &"t".into(), None);
            record.connected(Endpoint::Echo, Endpoint::Echo);
            let mut conn = Conn::dialled(Stream::Tcp(stream), record);
            // The tail of a large one would wait for an acknowledgement.
            assert_eq!(write(&mut conn, first, vectored).await, is_prompt);
            assert!(write(&mut conn, 1, vectored).await);
            conn.finish(Reason::Closed, None, 0);
        }
    }
}
