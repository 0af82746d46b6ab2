//! [`Wires`]: a group whose connections hear nobody by a rule. What they send
//! goes into the intake of their object, and slots write to them: the seam
//! between connections, and wires and scripts, which meet in the registry.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::sync::Notify;

use super::group::{Group, Mailbox};
use crate::event::{ConnectionId, Reason};
use crate::framing::{FrameError, Run};
use crate::net::Conn;
use crate::registry::{Arguments, Ending, Fact, Intake, Item, Party, Peers, SendError, To, Trail, Undone};

/// What a group has that is wired.
pub(super) struct Wires {
    intake: Arc<Intake>,
    undone: Undone,
    parties: Mutex<BTreeMap<ConnectionId, Present>>,
    /// Somebody who was full has room, or has gone.
    room: Notify,
}

/// A connection, and what waits for it.
struct Present {
    party: Arc<Party>,
    mailbox: Arc<Mailbox>,
}

impl Wires {
    pub(super) fn new(intake: &Arc<Intake>, undone: &Undone) -> Self {
        let intake = Arc::clone(intake);
        Self { intake, undone: undone.clone(), parties: Mutex::default(), room: Notify::new() }
    }

    /// A connection is there; its signal is the first it puts in.
    pub(super) fn entered(&self, conn: &Conn, mailbox: &Arc<Mailbox>, is_dialled: bool) {
        let (peer, local) = conn.record().ends();
        let (object, introduction) = (Arc::clone(conn.record().endpoint()), conn.record().introduction());
        let party = Arc::new(Party::new(conn.id(), object, (peer, local), introduction));
        let present = Present { party: Arc::clone(&party), mailbox: Arc::clone(mailbox) };
        self.lock().insert(conn.id(), present);
        let name = if is_dialled { "connected" } else { "new_connection" };
        self.tell(name, party, Arguments::new());
    }

    /// Takes whole frames of a connection, if anyone wants them any more.
    pub(super) fn take(&self, connection: Option<ConnectionId>, mailbox: &Mailbox, run: Run) -> bool {
        let party = connection.and_then(|id| Some(Arc::clone(&self.lock().get(&id)?.party)));
        let Some(party) = party.filter(|_| !self.intake.is_closed()) else { return false };
        self.intake.put(Item::Frames { party, framing: mailbox.framing, wire: run.wire });
        true
    }

    /// Ready when there is room for more of a connection.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>, connection: Option<ConnectionId>) -> Poll<()> {
        match connection {
            Some(id) => self.intake.poll_room(cx, id),
            None => Poll::Ready(()),
        }
    }

    /// Waits for room for one more connection. Cancel safe.
    pub(super) async fn room(&self) {
        self.intake.room().await;
    }

    /// The peer has finished. Yields by what [`poll_answered`](Self::poll_answered) knows whether everything
    /// it has sent was taken through.
    pub(super) fn read_finished(&self, conn: &Conn) -> u64 {
        let party = self.lock().get(&conn.id()).map(|present| Arc::clone(&present.party));
        let arguments = Arguments::new().with("received", number(conn.received()));
        party.map_or(0, |party| self.tell("read_finished", party, arguments))
    }

    pub(super) fn poll_answered(
        &self,
        cx: &mut Context<'_>,
        connection: ConnectionId,
        place: u64,
    ) -> Poll<()> {
        self.intake.poll_done(cx, connection, place)
    }

    /// Waits until nothing is under way to anybody any more, in the whole node.
    pub(super) fn undone(&self) -> Undone {
        self.undone.clone()
    }

    /// The connection is over.
    pub(super) fn left(&self, conn: &Conn, reason: Reason, unsent: u64) {
        let present = self.lock().remove(&conn.id());
        self.intake.forget(conn.id().get());
        self.room.notify_waiters();
        let Some(Present { party, mailbox }) = present else { return };
        mailbox.unask();
        let arguments = Arguments::new()
            .with("reason", reason.name())
            .with("received", number(conn.received()))
            .with("sent", number(conn.sent()))
            .with("unsent", number(unsent));
        self.tell("disconnected", party, arguments);
    }

    /// Somebody who was full may have room again.
    pub(super) fn go_on(&self) {
        self.room.notify_waiters();
    }

    fn tell(&self, name: &'static str, party: Arc<Party>, arguments: Arguments) -> u64 {
        let (name, party) = (name.into(), Some(party));
        self.intake.put(Item::Fact(Fact { name, party, data: None, arguments, trail: Trail::default() }))
    }

    fn mailbox(&self, id: ConnectionId) -> Option<Arc<Mailbox>> {
        Some(Arc::clone(&self.lock().get(&id)?.mailbox))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, Present>> {
        self.parties.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts fit, since no machine lives that long.
fn number(count: u64) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

impl Group {
    /// Those that are meant and can be written to.
    fn meant(&self, to: To) -> Vec<Arc<Mailbox>> {
        let Some(wires) = &self.wires else { return Vec::new() };
        match to {
            To::One(id) => wires.mailbox(id).into_iter().collect(),
            // A target has its one queue also while it is not connected.
            To::All { .. } if self.keeps() => self.members(),
            To::All { but } => {
                let parties = wires.lock();
                let others = parties.iter().filter(|(id, _)| Some(**id) != but);
                others.map(|(_, present)| Arc::clone(&present.mailbox)).collect()
            }
        }
    }
}

impl Peers for Group {
    fn send(&self, to: To, data: &[u8]) -> Result<(), SendError> {
        let mut meant = self.meant(to);
        // What waits for a target waits for its next connection too.
        meant.retain(|mailbox| self.keeps() || !mailbox.is_shut());
        let Some(first) = meant.first() else {
            return if let To::One(_) = to { Err(SendError::NoConnection) } else { Ok(()) };
        };
        let (framing, max_frame) = (first.framing, first.max_frame);
        let mut wire = BytesMut::new();
        framing
            .encode(data, max_frame, &mut wire)
            .map_err(|error: FrameError| SendError::Unsendable(error.to_string()))?;
        if wire.is_empty() {
            return Ok(());
        }
        let wire = self.charged(wire.freeze());
        for mailbox in meant {
            // After a reload some may be framed as they were.
            if mailbox.framing == framing {
                self.give(&mailbox, wire.clone());
            } else {
                let mut wire = BytesMut::new();
                if mailbox.framing.encode(data, mailbox.max_frame, &mut wire).is_ok() {
                    self.give(&mailbox, self.charged(wire.freeze()));
                }
            }
        }
        Ok(())
    }

    fn has_room(&self, to: To) -> bool {
        self.meant(to).iter().all(|mailbox| !mailbox.holds_up())
    }

    fn room<'a>(&'a self, to: To) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let Some(wires) = &self.wires else { return };
            loop {
                let mut room = std::pin::pin!(wires.room.notified());
                room.as_mut().enable();
                if self.has_room(to) {
                    return;
                }
                room.await;
            }
        })
    }

    fn end(&self, connection: Option<ConnectionId>, how: Ending) -> bool {
        let Some(wires) = &self.wires else { return false };
        let parties = wires.lock();
        let present = match connection {
            Some(id) => parties.get(&id),
            None => parties.values().next_back(),
        };
        let Some(present) = present else { return false };
        present.mailbox.ask(how);
        true
    }

    fn parties(&self) -> Vec<Arc<Party>> {
        let Some(wires) = &self.wires else { return Vec::new() };
        wires.lock().values().map(|present| Arc::clone(&present.party)).collect()
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("is_wired", &self.wires.is_some()).finish_non_exhaustive()
    }
}

impl Mailbox {
    /// Has its task end it, or one half of it.
    pub(super) fn ask(&self, how: Ending) {
        self.asked.fetch_or(bit(how), Relaxed);
        self.wake();
    }

    /// Whether that was asked for.
    pub(super) fn is_asked(&self, how: Ending) -> bool {
        self.asked.load(Relaxed) & bit(how) != 0
    }

    /// Whether nothing more can be written to it.
    pub(super) fn is_shut(&self) -> bool {
        self.asked.load(Relaxed) != 0
    }

    /// It is for another connection now, of which nobody has asked anything.
    pub(super) fn unask(&self) {
        self.asked.store(0, Relaxed);
    }

    /// Whether a slot that writes to it has to wait.
    pub(super) fn holds_up(&self) -> bool {
        self.is_full.load(Relaxed) && !self.overflow.drops()
    }
}

const fn bit(how: Ending) -> u8 {
    match how {
        Ending::Close => 1,
        Ending::Abort => 2,
        Ending::ShutdownWrite => 4,
    }
}
