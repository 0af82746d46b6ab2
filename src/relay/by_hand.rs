//! [`Clients`]: those of one listener of a group, as slots that are called by
//! hand write to them. What is written so goes beside what the group carries,
//! a message of its own.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;

use super::group::{Group, Mailbox};
use crate::event::ConnectionId;
use crate::registry::{Ending, Party, Peers, SendError, To};

/// The clients of a listener that are members of a group.
pub(crate) struct Clients {
    group: Arc<Group>,
    endpoint: Arc<str>,
}

impl Clients {
    /// Those of the listener of this name.
    pub(crate) fn new(group: &Arc<Group>, endpoint: &str) -> Self {
        Self { group: Arc::clone(group), endpoint: endpoint.into() }
    }

    fn meant(&self, to: To) -> Vec<Arc<Mailbox>> {
        let mut all = self.group.members();
        all.retain(|mailbox| {
            let is_meant = match to {
                To::One(id) => mailbox.connection() == Some(id),
                To::All { but } => but.is_none() || mailbox.connection() != but,
            };
            is_meant && mailbox.endpoint() == self.endpoint && !mailbox.is_shut()
        });
        all
    }
}

impl Peers for Clients {
    fn send(&self, to: To, data: &[u8]) -> Result<(), SendError> {
        let meant = self.meant(to);
        if meant.is_empty() && matches!(to, To::One(_)) {
            return Err(SendError::NoConnection);
        }
        let framed = |mailbox: Arc<Mailbox>| {
            let mut wire = BytesMut::new();
            match mailbox.framing.encode(data, mailbox.max_frame, &mut wire) {
                Ok(()) => Ok((mailbox, wire.freeze())),
                Err(error) => Err(SendError::Unsendable(error.to_string())),
            }
        };
        let all: Vec<_> = meant.into_iter().map(framed).collect::<Result<_, _>>()?;
        for (mailbox, wire) in all.into_iter().filter(|(_, wire)| !wire.is_empty()) {
            self.group.give(&mailbox, self.group.charged(wire));
        }
        Ok(())
    }

    fn has_room(&self, to: To) -> bool {
        self.meant(to).iter().all(|mailbox| !mailbox.holds_up())
    }

    fn room<'a>(&'a self, to: To) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(self.group.via.room(move || self.has_room(to)))
    }

    fn end(&self, connection: Option<ConnectionId>, how: Ending) -> bool {
        let Some(id) = connection else { return false };
        match self.meant(To::One(id)).first() {
            Some(mailbox) => {
                mailbox.ask(how);
                true
            }
            None => false,
        }
    }

    /// None: whoever calls by hand has their ids from `node status`.
    fn parties(&self) -> Vec<Arc<Party>> {
        Vec::new()
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
