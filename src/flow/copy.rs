//! [`Flow`]: one direction of a relay. It reads what the source has and
//! writes it at once; only what the destination did not take is kept, and
//! while something is kept nothing more is read.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::scratch;
use super::tap::{Tap, TapDirection};
use super::turn::Turns;
use crate::budget::{Budget, PROMISE};
use crate::event::ConnectionId;
use crate::net::Conn;

/// The state of one direction. Idle it holds no memory but itself.
#[derive(Debug)]
pub(crate) struct Flow {
    kept: Option<Box<Kept>>,
    /// The size of the next read.
    reach: usize,
    source_ended: bool,
    /// The source broke: what it still yields is delivered, but it is not waited for.
    source_broke: bool,
    /// Had more to move than its last turn allowed.
    is_bulk: bool,
}

/// What was read and not taken.
#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    /// How many of them have been written since.
    written: usize,
    /// How much of the node's budget they hold.
    charge: usize,
}

/// Which end of a flow broke, and how.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) side: Side,
    pub(crate) error: io::Error,
}

/// An end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// What a flow needs from the relay it belongs to.
pub(crate) struct Surroundings<'a> {
    pub(crate) budget: &'a Budget,
    pub(crate) turns: &'a Turns,
    pub(crate) tap: Option<(&'a Tap, TapDirection)>,
    /// The name the tap gives to both directions: that of the accepted connection.
    pub(crate) tapped: ConnectionId,
}

impl Flow {
    pub(crate) const fn new() -> Self {
        Self { kept: None, reach: FIRST_READ, source_ended: false, source_broke: false, is_bulk: false }
    }

    /// One that writes this before it reads anything.
    pub(crate) fn after(first: Option<Bytes>) -> Self {
        let kept = first.map(|first| Box::new(Kept { bytes: first.into(), written: 0, charge: 0 }));
        Self { kept, ..Self::new() }
    }

    /// Moves bytes until one side would block, the turn is over, or the
    /// source has ended and everything was written: then it is ready.
    ///
    /// It does not finish the destination's half; the caller knows whether to.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Conn,
        destination: &mut Conn,
        around: &Surroundings<'_>,
    ) -> Poll<Result<(), Broken>> {
        let turn = around.turns.bytes();
        let mut moved = 0;
        let polled = self.poll_turn(cx, source, destination, around, turn, &mut moved);
        self.set_bulk(moved >= turn.min(TURN), around.turns);
        if self.is_bulk {
            around.turns.bulk_turn();
        } else if moved > 0 && moved < FIRST_READ {
            around.turns.message();
        }
        polled
    }

    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Conn,
        destination: &mut Conn,
        around: &Surroundings<'_>,
        turn: usize,
        moved: &mut usize,
    ) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.poll_kept(cx, destination, around.budget)).map_err(Side::Destination.broke())?;
            if self.source_ended {
                return Poll::Ready(Ok(()));
            }
            if *moved >= turn.min(TURN) {
                // Unlike a plain wake this lets the sockets be looked at first.
                let _ = pin!(tokio::task::yield_now()).poll(cx);
                return Poll::Pending;
            }
            match self.poll_read(cx, source, destination, around, turn)? {
                Poll::Ready(count) => *moved += count,
                Poll::Pending if self.source_broke => {
                    self.source_ended = true;
                    continue;
                }
                Poll::Pending => {
                    // A terminal shows a prompt without a line end only when it is flushed.
                    ready!(destination.poll_flush(cx)).map_err(Side::Destination.broke())?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads once and writes it at once. Yields how many bytes were read.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Conn,
        destination: &mut Conn,
        around: &Surroundings<'_>,
        turn: usize,
    ) -> Poll<Result<usize, Broken>> {
        let wanted = self.reach.min(turn).min(around.turns.max_read());
        // Charged for what is kept, which nearly always is nothing: until then the thread holds the bytes.
        let size = wanted.min(around.budget.left().max(PROMISE));
        let outcome = scratch::with(size, |scratch| {
            let offset = source.received();
            let count = ready!(source.poll_read(cx, scratch)).map_err(Side::Source.broke())?;
            if count == 0 {
                // Not even written: a write of nothing can fail where there was nothing left to say.
                return Poll::Ready(Ok((0, 0)));
            }
            let bytes = &scratch[..count];
            if let Some((tap, direction)) = around.tap {
                tap.offer(around.tapped, direction, offset, bytes);
            }
            let taken = match destination.poll_write(cx, bytes) {
                Poll::Ready(taken) => taken.map_err(Side::Destination.broke()),
                Poll::Pending => Ok(0),
            };
            // Kept even when the destination broke: what it did not get is counted.
            let rest = &bytes[*taken.as_ref().unwrap_or(&0)..];
            if !rest.is_empty() {
                let charge = around.budget.take(rest.len());
                self.kept = Some(Box::new(Kept { bytes: rest.to_vec(), written: 0, charge }));
            }
            taken.map(|taken| (count, taken)).into()
        });
        let (count, taken) = ready!(outcome)?;
        if count == 0 {
            self.source_ended = true;
            if !self.source_broke {
                source.read_finished();
            }
            return Poll::Ready(Ok(0));
        }
        // Only a destination that keeps up is worth larger reads.
        if taken < count {
            self.reach = (self.reach / 2).max(FIRST_READ);
        } else if count == size {
            self.reach = (self.reach * 2).min(around.turns.max_read().max(FIRST_READ));
        }
        Poll::Ready(Ok(count))
    }

    /// Writes what was kept; ready when nothing is.
    fn poll_kept(
        &mut self,
        cx: &mut Context<'_>,
        destination: &mut Conn,
        budget: &Budget,
    ) -> Poll<io::Result<()>> {
        let Some(kept) = &mut self.kept else { return Poll::Ready(Ok(())) };
        while kept.written < kept.bytes.len() {
            kept.written += ready!(destination.poll_write(cx, &kept.bytes[kept.written..]))?;
        }
        self.discard(budget);
        Poll::Ready(Ok(()))
    }

    fn set_bulk(&mut self, is_bulk: bool, turns: &Turns) {
        if self.is_bulk != is_bulk {
            self.is_bulk = is_bulk;
            turns.count(is_bulk);
        }
    }

    /// Frees what was kept and leaves the others' counts. For the end of the pair.
    pub(crate) fn retire(&mut self, around: &Surroundings<'_>) {
        self.discard(around.budget);
        self.set_bulk(false, around.turns);
    }

    /// Frees what was kept, and gives its budget back.
    fn discard(&mut self, budget: &Budget) {
        if let Some(kept) = self.kept.take() {
            budget.give_back(kept.charge);
        }
    }

    /// Tells the tap, if there is one, that nothing more comes.
    pub(crate) fn end_tap(&self, source: &Conn, around: &Surroundings<'_>) {
        if let Some((tap, direction)) = around.tap {
            tap.offer(around.tapped, direction, source.received(), &[]);
        }
    }

    /// Bytes that were read and not written.
    pub(crate) fn unsent(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| (kept.bytes.len() - kept.written) as u64)
    }

    /// The source broke; what was read, and what can still be read from it at once, is delivered.
    pub(crate) fn break_source(&mut self, can_be_read: bool) {
        self.source_broke = true;
        self.source_ended |= !can_be_read;
    }
}

impl Side {
    fn broke(self) -> impl Fn(io::Error) -> Broken {
        move |error| Broken { side: self, error }
    }
}

/// The first read, and the least one shrinks to: enough for messages, cheap to keep when a destination stalls.
const FIRST_READ: usize = 64 << 10;
/// Bytes a direction may move before others get their turn, even among bulk flows.
const TURN: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::bus::EventBus;
    use crate::event::Endpoint;
    use crate::net::Stream;

    /// A connection of ours and its far end.
    async fn connection(bus: &EventBus) -> (Conn, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, peer) = listener.accept().await.unwrap();
        let name: Arc<str> = "t".into();
        (Conn::accepted(bus, &name, Stream::Tcp(near), peer.into(), Endpoint::Echo), far)
    }

    /// Polls the flow until nothing more moves.
    async fn settle(flow: &mut Flow, source: &mut Conn, destination: &mut Conn, around: &Surroundings<'_>) {
        loop {
            let before = source.received() + destination.sent();
            let _ = poll_fn(|cx| Poll::Ready(flow.poll(cx, source, destination, around))).await;
            tokio::task::yield_now().await;
            if source.received() + destination.sent() == before {
                return;
            }
        }
    }

    #[tokio::test]
    async fn a_stalled_flow_holds_what_it_kept_and_gives_it_back() {
        let bus = EventBus::new();
        let (mut source, mut sender) = connection(&bus).await;
        let (mut destination, mut receiver) = connection(&bus).await;
        let budget = Budget::new(1 << 20);
        let turns = Turns::new(1 << 20);
        let around = Surroundings { budget: &budget, turns: &turns, tap: None, tapped: source.id() };
        let mut flow = Flow::new();
        let mut offered = 0;
        // Until the sender's own queue is full too, which is a while after the flow has stalled.
        while let Ok(taken) = sender.try_write(&[7; 1 << 16]) {
            offered += taken;
            settle(&mut flow, &mut source, &mut destination, &around).await;
        }
        assert!(flow.unsent() > 0, "the destination took {offered} bytes");
        let held = (1 << 20) - budget.left();
        assert!(held > 0 && held as u64 >= flow.unsent(), "{held} held for {}", flow.unsent());
        // What it kept is bounded by the credit there was, and it reads no more.
        assert!(flow.unsent() <= 1 << 20);
        let received = source.received();
        settle(&mut flow, &mut source, &mut destination, &around).await;
        assert_eq!(source.received(), received);
        sender.shutdown().await.unwrap();
        let mut taken = 0;
        let mut buffer = vec![0; 1 << 20];
        while taken < offered {
            taken += receiver.read(&mut buffer).await.unwrap();
            settle(&mut flow, &mut source, &mut destination, &around).await;
        }
        assert_eq!((flow.unsent(), budget.left()), (0, 1 << 20));
        assert!(poll_fn(|cx| flow.poll(cx, &mut source, &mut destination, &around)).await.is_ok());
    }

    #[tokio::test]
    async fn a_stalled_flow_keeps_no_more_than_its_largest_read() {
        let bus = EventBus::new();
        let (mut source, sender) = connection(&bus).await;
        let (mut destination, _receiver) = connection(&bus).await;
        let (budget, turns) = (Budget::new(1 << 20), Turns::new(4_096));
        let around = Surroundings { budget: &budget, turns: &turns, tap: None, tapped: source.id() };
        let mut flow = Flow::new();
        while sender.try_write(&[7; 1 << 16]).is_ok() {
            settle(&mut flow, &mut source, &mut destination, &around).await;
        }
        assert!((1..=4_096).contains(&flow.unsent()), "{}", flow.unsent());
    }

    #[tokio::test]
    async fn without_credit_a_flow_still_has_its_promise() {
        let bus = EventBus::new();
        let (mut source, mut sender) = connection(&bus).await;
        let (mut destination, mut receiver) = connection(&bus).await;
        let budget = Budget::new(0);
        let turns = Turns::new(1 << 20);
        let around = Surroundings { budget: &budget, turns: &turns, tap: None, tapped: source.id() };
        let mut flow = Flow::new();
        sender.write_all(&[1; 50_000]).await.unwrap();
        settle(&mut flow, &mut source, &mut destination, &around).await;
        receiver.read_exact(&mut [0; 50_000]).await.unwrap();
        assert_eq!(budget.left(), 0);
    }

    #[tokio::test]
    async fn what_a_broken_destination_did_not_take_is_counted() {
        let bus = EventBus::new();
        let (mut source, mut sender) = connection(&bus).await;
        let (mut destination, receiver) = connection(&bus).await;
        let budget = Budget::new(1 << 20);
        let turns = Turns::new(1 << 20);
        let around = Surroundings { budget: &budget, turns: &turns, tap: None, tapped: source.id() };
        let mut flow = Flow::new();
        receiver.set_zero_linger().unwrap();
        drop(receiver);
        sender.write_all(&[1; 1_000]).await.unwrap();
        let broken = poll_fn(|cx| flow.poll(cx, &mut source, &mut destination, &around)).await.unwrap_err();
        assert_eq!(broken.side, Side::Destination);
        assert_eq!((source.received(), destination.sent(), flow.unsent()), (1_000, 0, 1_000));
        flow.retire(&around);
        assert_eq!(budget.left(), 1 << 20);
    }
}
