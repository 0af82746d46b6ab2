//! Names in a group: how a member gets its own, and how an answer that begins
//! with one finds it.

use std::sync::{Arc, PoisonError};

use bytes::{Buf, BytesMut};

use super::RelayOptions;
use super::group::{Group, Mailbox, Side};
use super::member::{Leave, Member};
use super::reply::Reply;
use super::tag::{NameFrame, Naming, TagOptions, by_address};
use crate::event::DropCause;
use crate::framing::{FrameError, Framing, Run};
use crate::net::Amount;

impl Member {
    /// Gives it a name that it need not say; yields why it has to leave, if it has.
    pub(super) fn call_by_address(&mut self) -> Option<Leave> {
        let tags = &self.options.tags;
        if !is_unnamed(&self.mailbox, tags) || tags.name != Naming::Address {
            return None;
        }
        self.group.name(&self.mailbox, tags, by_address(&self.peer(), self.id()))
    }
}

impl Group {
    /// Passes on what a member has sent, in this framing; yields why it has to leave, if it has.
    pub(super) fn pass_on(
        &self,
        from: &Arc<Mailbox>,
        options: &RelayOptions,
        framing: Framing,
        mut run: Run,
    ) -> Option<Leave> {
        let tags = &options.tags;
        if from.side == Side::To && options.reply == Reply::Tagged {
            return self.answer(from, framing, &run, tags);
        }
        if run.frames > 0 && is_unnamed(from, tags) {
            let end = framing.first_end(&run.wire);
            let name = framing.bodies(&run.wire).next().map(|first| tags.name(first));
            match name.unwrap_or_else(|| Err("it has sent nothing".into())) {
                Ok(name) => {
                    if let Some(leave) = self.name(from, tags, name) {
                        return Some(leave);
                    }
                }
                Err(text) => return Some(Leave::Unnamed(text)),
            }
            if tags.name_frame == NameFrame::Consume {
                run.wire.advance(end);
                run.frames -= 1;
            }
        }
        if run.frames > 0 {
            self.distribute(from, framing, run);
        }
        None
    }

    fn name(&self, mailbox: &Arc<Mailbox>, tags: &TagOptions, name: Vec<u8>) -> Option<Leave> {
        let tag = tags.tag.as_ref().expect("asked for by whoever has one");
        let text = name.escape_ascii().to_string();
        match self.call(mailbox, tag.of(&name), name) {
            true => None,
            false => Some(Leave::Unnamed(format!("there is a client called {text} already"))),
        }
    }

    /// Gives a member a name, unless another has it.
    fn call(&self, mailbox: &Arc<Mailbox>, tag: Vec<u8>, name: Vec<u8>) -> bool {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if names.contains_key(&name) {
            return false;
        }
        names.insert(name.clone(), Arc::clone(mailbox));
        mailbox.set_name(name, tag);
        true
    }

    /// Its name is free for another.
    pub(super) fn forget(&self, mailbox: &Arc<Mailbox>) {
        let Some(name) = mailbox.name() else { return };
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        // It may have left before, and another have the name by now.
        if names.get(name).is_some_and(|named| Arc::ptr_eq(named, mailbox)) {
            names.remove(name);
        }
    }

    /// Gives each answer to the client whose name stands before it.
    fn answer(&self, from: &Arc<Mailbox>, framing: Framing, run: &Run, tags: &TagOptions) -> Option<Leave> {
        let Some(tag) = &tags.tag else { unreachable!("checked: answers are told apart by their tag") };
        let mut waiting: Option<(Arc<Mailbox>, BytesMut, u64)> = None;
        let flush = |waiting: Option<(Arc<Mailbox>, BytesMut, u64)>| {
            if let Some((to, wire, frames)) = waiting.filter(|(.., frames)| *frames > 0) {
                self.put(&to, self.charged(wire.freeze()), frames, frames, 0);
            }
        };
        let mut leave = None;
        for body in framing.bodies(&run.wire) {
            let (name, answer) = tag.split(body).unwrap_or((b"", body));
            let found = self.names.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
            let Some(to) = found else {
                leave = leave.or_else(|| self.unknown(from, name, body, tags));
                continue;
            };
            if waiting.as_ref().is_none_or(|(other, ..)| !Arc::ptr_eq(other, &to)) {
                flush(waiting.take());
            }
            let (to, wire, frames) = waiting.get_or_insert_with(|| (to, BytesMut::new(), 0));
            match to.framing.encode(answer, to.max_frame, wire) {
                Ok(()) => *frames += 1,
                Err(_unsendable) => from.lose(&self.shared, DropCause::Unsendable, one(body)),
            }
        }
        flush(waiting);
        leave
    }

    /// An answer for somebody who is not there.
    fn unknown(&self, from: &Arc<Mailbox>, name: &[u8], body: &[u8], tags: &TagOptions) -> Option<Leave> {
        from.lose(&self.shared, DropCause::Unknown, one(body));
        if tags.unknown == super::Unknown::Close {
            let text = format!("an answer is for {:?}, and nobody is called so", shown(name));
            return Some(Leave::Frame(FrameError::Malformed(text)));
        }
        // A target that sends back what it is told is not told the same again.
        let reply = tags.unknown.reply(name).filter(|reply| reply != body)?;
        let mut wire = BytesMut::new();
        match from.framing.encode(&reply, from.max_frame, &mut wire) {
            Ok(()) => self.put(from, self.charged(wire.freeze()), 1, 1, 0),
            Err(_unsendable) => from.lose(&self.shared, DropCause::Unsendable, one(&reply)),
        }
        None
    }
}

/// It is to have a name, and has none yet.
fn is_unnamed(mailbox: &Mailbox, tags: &TagOptions) -> bool {
    tags.tag.is_some() && mailbox.side == Side::From && mailbox.name().is_none()
}

fn one(body: &[u8]) -> Amount {
    Amount { frames: 1, bytes: body.len() as u64 }
}

/// The beginning of a name, as a log can show it.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(64)]).into_owned()
}
