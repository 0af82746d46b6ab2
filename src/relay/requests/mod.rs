//! [`Requests`]: who asked what over one link that all share, which answer is
//! whose, and what becomes of a request that gets none. No sockets, no locks
//! and no clock of its own: [`Exchange`](super::exchange::Exchange) has those.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::event::{ConnectionId, ConnectionMap, RequestFault};
use crate::net::QUEUE_PLACE;

/// How requests take turns on the link to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestOptions {
    /// How long a request waits for its answer once it was sent, and how long
    /// for a target that is not connected.
    pub timeout: Duration,
    /// Requests on the link at once, from 1 to 256; more than 1 need answers
    /// that name their request (framing `mbap`).
    pub overlap: usize,
    /// The least time from an answer, and from a request, to the next request. `None`: none.
    pub pause: Option<Duration>,
    /// How long the target is left alone once it is connected. `None`: not at all.
    pub delay_after_connect: Option<Duration>,
}

impl Default for RequestOptions {
    /// One request at a time, each with a second for its answer, and no pauses.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(1), overlap: 1, pause: None, delay_after_connect: None }
    }
}

impl RequestOptions {
    /// The most requests that may be on the link at once.
    pub(crate) const MOST: usize = 256;
}

/// The requests of all clients of one target.
pub(super) struct Requests {
    options: RequestOptions,
    /// Answers carry the id of their request, which on the link is one of ours.
    has_ids: bool,
    clients: ConnectionMap<Client>,
    /// Who has requests that wait, in the order of their turns.
    turns: VecDeque<ConnectionId>,
    waiting: Held,
    /// What is on the link, in the order in which it was sent.
    sent: VecDeque<Sent>,
    /// Ids whose answers may still come, and are for nobody.
    late: HashSet<u16>,
    next_id: u16,
    /// How many were sent over this link, and up to which the target has got them.
    count: u64,
    heard: u64,
    link: Link,
    /// When the link was last used, either way.
    used: Option<Instant>,
    /// When the first of the requests was sent that timed out since anything came.
    silent_since: Option<Instant>,
}

#[derive(Default)]
struct Client {
    waiting: VecDeque<Request>,
    held: usize,
    on_link: usize,
}

struct Request {
    /// As it goes over the link, with the id that its client gave it.
    frame: Bytes,
    since: Instant,
}

struct Sent {
    /// None once it has left.
    client: Option<ConnectionId>,
    request: Request,
    id: u16,
    /// Which of this link's it is, from 1.
    nth: u64,
    at: Instant,
}

/// How many requests wait, and what they count towards the limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) requests: u64,
    pub(super) bytes: usize,
}

#[derive(Clone, Copy)]
enum Link {
    Down {
        since: Instant,
    },
    /// Connected, and left alone until then.
    Settling {
        since: Instant,
        until: Instant,
    },
    Up,
    /// It is to be closed, or will be: nothing is sent any more.
    Closing,
    /// There will be none again.
    Gone,
}

/// Whose an answer is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Of this client, as it expects it.
    For(ConnectionId, Bytes),
    /// Of one that has left.
    Left,
    /// Its request had failed before.
    Late,
    /// Nobody had asked.
    Unasked,
}

/// A request that will have no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// Whose it was, if it has not left.
    pub(super) client: Option<ConnectionId>,
    pub(super) fault: RequestFault,
    /// What its client is told, if the framing has words for it.
    pub(super) reply: Option<Bytes>,
    /// The client has asked more than this, and could take the next answer for the one to it.
    pub(super) confuses: bool,
}

/// What has become of time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expired {
    pub(super) failed: Vec<Failed>,
    /// The link has to be closed, so that no answer can be taken for another.
    pub(super) closes: bool,
}

impl Requests {
    pub(super) fn new(options: RequestOptions, now: Instant) -> Self {
        Self {
            options,
            has_ids: false,
            clients: ConnectionMap::default(),
            turns: VecDeque::new(),
            waiting: Held::default(),
            sent: VecDeque::new(),
            late: HashSet::new(),
            next_id: 0,
            count: 0,
            heard: 0,
            link: Link::Down { since: now },
            used: None,
            silent_since: None,
        }
    }

    /// Tells whether answers name their requests, as in Modbus TCP.
    pub(super) fn use_ids(&mut self, has_ids: bool) {
        self.has_ids = has_ids;
    }

    pub(super) fn set(&mut self, options: RequestOptions) {
        self.options = options;
    }

    /// What waits for its turn, all clients together.
    pub(super) fn waiting(&self) -> Held {
        self.waiting
    }

    /// How many of the first requests over this link the target has got for certain.
    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    /// Requests that were given to the link and have no answer yet.
    pub(super) fn on_link(&self) -> u64 {
        self.sent.len() as u64
    }

    pub(super) fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// Requests of everyone that have no answer yet.
    pub(super) fn open(&self) -> u64 {
        self.waiting.requests + self.sent.len() as u64
    }

    /// What waits of one client, in bytes.
    pub(super) fn held(&self, client: ConnectionId) -> usize {
        self.clients.get(&client).map_or(0, |client| client.held)
    }

    /// Requests of one client that have no answer yet.
    pub(super) fn owed(&self, client: ConnectionId) -> usize {
        self.clients.get(&client).map_or(0, Client::owed)
    }

    /// A client asks. Without a link to come it has failed at once.
    pub(super) fn asked(&mut self, client: ConnectionId, frame: Bytes, now: Instant) -> Option<Failed> {
        if matches!(self.link, Link::Gone) {
            let reply = self.refusal(&frame, RequestFault::NoLink);
            return Some(Failed {
                client: Some(client),
                fault: RequestFault::NoLink,
                reply,
                confuses: false,
            });
        }
        self.wait(client, Request { frame, since: now }, false);
        None
    }

    fn wait(&mut self, id: ConnectionId, request: Request, is_first: bool) {
        let size = request.frame.len() + QUEUE_PLACE;
        let client = self.clients.entry(id).or_default();
        let had_none = client.waiting.is_empty();
        client.held += size;
        match is_first {
            true => client.waiting.push_front(request),
            false => client.waiting.push_back(request),
        }
        self.waiting.requests += 1;
        self.waiting.bytes += size;
        match is_first {
            _ if !had_none => {}
            true => self.turns.push_front(id),
            false => self.turns.push_back(id),
        }
    }

    /// The first request of a client that waits.
    fn take(&mut self, id: ConnectionId) -> Option<Request> {
        let client = self.clients.get_mut(&id)?;
        let request = client.waiting.pop_front()?;
        let size = request.frame.len() + QUEUE_PLACE;
        client.held -= size;
        self.waiting.requests -= 1;
        self.waiting.bytes -= size;
        Some(request)
    }

    /// The next request for the link, if it is time for one: each client has its
    /// turn, but for those that `is_full` of answers.
    pub(super) fn next(&mut self, now: Instant, is_full: impl Fn(ConnectionId) -> bool) -> Option<Bytes> {
        if let Link::Settling { until, .. } = self.link
            && until <= now
        {
            self.link = Link::Up;
        }
        if !self.may_send() || self.paused_until().is_some_and(|until| until > now) {
            return None;
        }
        let nth = self.turns.iter().position(|client| !is_full(*client))?;
        let id = self.turns.remove(nth)?;
        let request = self.take(id).expect("only those have turns who have requests");
        let client = self.clients.get_mut(&id).expect("it had a request");
        client.on_link += 1;
        if !client.waiting.is_empty() {
            self.turns.push_back(id);
        }
        let (frame, own) = match self.has_ids {
            true => {
                let own = self.free_id();
                (with_id(&request.frame, own), own)
            }
            false => (request.frame.clone(), 0),
        };
        self.count += 1;
        self.sent.push_back(Sent { client: Some(id), request, id: own, nth: self.count, at: now });
        self.used = Some(now);
        Some(frame)
    }

    fn may_send(&self) -> bool {
        let most = if self.has_ids { self.options.overlap } else { 1 };
        matches!(self.link, Link::Up) && self.sent.len() < most
    }

    fn paused_until(&self) -> Option<Instant> {
        Some(self.used? + self.options.pause?)
    }

    /// One that nothing on the link has, nor anything that may still come.
    fn free_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            self.next_id = id.wrapping_add(1);
            if !self.late.contains(&id) && self.sent.iter().all(|sent| sent.id != id) {
                return id;
            }
        }
    }

    /// The target has answered.
    pub(super) fn answered(&mut self, frame: &Bytes, now: Instant) -> Answer {
        self.silent_since = None;
        let sent = match self.has_ids {
            false => self.sent.pop_front(),
            true => {
                let id = id_of(frame);
                match self.sent.iter().position(|sent| sent.id == id) {
                    Some(nth) => self.sent.remove(nth),
                    None if self.late.remove(&id) => return Answer::Late,
                    None => None,
                }
            }
        };
        let Some(sent) = sent else { return Answer::Unasked };
        self.used = Some(now);
        self.heard = self.heard.max(sent.nth);
        let Some(client) = sent.client else { return Answer::Left };
        self.returned(client);
        match self.has_ids {
            true => Answer::For(client, with_id(frame, id_of(&sent.request.frame))),
            false => Answer::For(client, frame.clone()),
        }
    }

    /// One less of this client's is on the link.
    fn returned(&mut self, id: ConnectionId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.on_link -= 1;
            if client.owed() == 0 {
                self.clients.remove(&id);
            }
        }
    }

    /// A client has left: what it still had to ask is dropped, and is yielded.
    pub(super) fn left(&mut self, id: ConnectionId) -> Held {
        for sent in self.sent.iter_mut().filter(|sent| sent.client == Some(id)) {
            sent.client = None;
        }
        self.turns.retain(|client| *client != id);
        let Some(client) = self.clients.remove(&id) else { return Held::default() };
        let requests = client.waiting.len() as u64;
        self.waiting.requests -= requests;
        self.waiting.bytes -= client.held;
        Held { requests, bytes: client.waiting.iter().map(|request| request.frame.len()).sum() }
    }

    /// The target is connected.
    pub(super) fn connected(&mut self, now: Instant) {
        let since = match self.link {
            Link::Down { since } | Link::Settling { since, .. } => since,
            Link::Up | Link::Closing | Link::Gone => now,
        };
        let until = now + self.options.delay_after_connect.unwrap_or_default();
        (self.link, self.used, self.silent_since) = (Link::Settling { since, until }, None, None);
        (self.count, self.heard) = (0, 0);
    }

    /// Nothing can be sent over this connection any more.
    pub(super) fn closing(&mut self) {
        self.link = Link::Closing;
    }

    /// The connection is over. The last `unwritten` requests were never handed to
    /// it whole and wait again, as the first of their clients; the others may
    /// have been carried out, and fail. Yields these, and how many wait again.
    pub(super) fn disconnected(&mut self, unwritten: usize, now: Instant) -> (Vec<Failed>, u64) {
        self.late.clear();
        let since = match self.link {
            Link::Down { since } | Link::Settling { since, .. } => since,
            Link::Up | Link::Closing | Link::Gone => now,
        };
        self.link = Link::Down { since };
        let written = self.sent.len().saturating_sub(unwritten);
        let (mut failed, mut again) = (Vec::new(), 0);
        for sent in self.sent.split_off(written).into_iter().rev() {
            // Its time may have passed while the link was stuck.
            match sent.client {
                Some(client) if sent.at + self.options.timeout > now => {
                    self.clients.entry(client).or_default().on_link -= 1;
                    self.wait(client, sent.request, true);
                    again += 1;
                }
                _ => failed.push(self.fail(sent, RequestFault::NoLink)),
            }
        }
        for sent in std::mem::take(&mut self.sent) {
            failed.push(self.fail(sent, RequestFault::LinkLost));
        }
        (failed, again)
    }

    /// There will be no link again: everything fails, now and later.
    pub(super) fn gone(&mut self) -> Vec<Failed> {
        self.link = Link::Gone;
        self.fail_all()
    }

    /// Nothing that was asked so far can be sent or answered.
    pub(super) fn fail_all(&mut self) -> Vec<Failed> {
        let sent = std::mem::take(&mut self.sent);
        let mut failed: Vec<_> =
            sent.into_iter().map(|sent| self.fail(sent, RequestFault::LinkLost)).collect();
        while let Some(client) = self.turns.pop_front() {
            while let Some(request) = self.take(client) {
                failed.push(self.give_up(client, request));
            }
        }
        failed
    }

    fn fail(&mut self, sent: Sent, fault: RequestFault) -> Failed {
        let reply = self.refusal(&sent.request.frame, fault);
        let Some(client) = sent.client else { return Failed { client: None, fault, reply, confuses: false } };
        self.returned(client);
        let confuses = !self.has_ids && self.owed(client) > 0;
        Failed { client: Some(client), fault, reply, confuses }
    }

    /// One that was never sent.
    fn give_up(&mut self, client: ConnectionId, request: Request) -> Failed {
        let fault = RequestFault::NoLink;
        let reply = self.refusal(&request.frame, fault);
        let owed = self.owed(client);
        if owed == 0 {
            self.clients.remove(&client);
        }
        Failed { client: Some(client), fault, reply, confuses: !self.has_ids && owed > 0 }
    }

    /// What has to be done because of the time. The last `unwritten` requests
    /// have not been handed to the link whole.
    pub(super) fn expire(&mut self, now: Instant, unwritten: usize) -> Expired {
        let mut expired = Expired::default();
        match self.link {
            Link::Up => {
                while let Some(sent) = self.sent.front()
                    && sent.at + self.options.timeout <= now
                {
                    if unwritten >= self.sent.len() {
                        // The link takes nothing: it is given up, and this with it.
                        expired.closes = true;
                        break;
                    }
                    let sent = self.sent.pop_front().expect("looked at above");
                    let silent_since = *self.silent_since.get_or_insert(sent.at);
                    let is_silent = now - silent_since >= self.options.timeout * SILENT;
                    if self.has_ids {
                        self.late.insert(sent.id);
                    }
                    expired.closes |= !self.has_ids || is_silent || self.late.len() >= MOST_LATE;
                    let failed = self.fail(sent, RequestFault::TimedOut);
                    expired.failed.push(failed);
                }
                if expired.closes {
                    self.link = Link::Closing;
                }
            }
            Link::Down { since } | Link::Settling { since, .. } => {
                for client in self.turns.clone() {
                    while self
                        .first(client)
                        .is_some_and(|first| first.max(since) + self.options.timeout <= now)
                    {
                        let request = self.take(client).expect("looked at above");
                        expired.failed.push(self.give_up(client, request));
                    }
                }
                let clients = &self.clients;
                self.turns.retain(|client| clients.get(client).is_some_and(|one| !one.waiting.is_empty()));
            }
            Link::Closing | Link::Gone => {}
        }
        expired
    }

    /// Since when the first request of a client waits.
    fn first(&self, client: ConnectionId) -> Option<Instant> {
        Some(self.clients.get(&client)?.waiting.front()?.since)
    }

    /// When to look again, if nothing happens before.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let timeout = self.options.timeout;
        let waits = |since: Instant| {
            let firsts = self.turns.iter().filter_map(|client| self.first(*client));
            firsts.min().map(|first| first.max(since) + timeout)
        };
        match self.link {
            Link::Down { since } => waits(since),
            Link::Settling { since, until } => {
                [waits(since), (self.waiting.requests > 0).then_some(until)].into_iter().flatten().min()
            }
            Link::Up => {
                let answer = self.sent.front().map(|sent| sent.at + timeout);
                let is_paused = self.may_send() && self.waiting.requests > 0;
                let pause = self.paused_until().filter(|until| is_paused && *until > now);
                [answer, pause].into_iter().flatten().min()
            }
            Link::Closing | Link::Gone => None,
        }
    }

    /// What tells a client in its own words that its request has failed.
    fn refusal(&self, request: &[u8], fault: RequestFault) -> Option<Bytes> {
        if !self.has_ids {
            return None;
        }
        let code = match fault {
            RequestFault::NoLink => PATH_UNAVAILABLE,
            RequestFault::TimedOut | RequestFault::LinkLost => TARGET_SILENT,
        };
        // Transaction, protocol and length; unit; the function, marked as an exception.
        let (transaction, unit, function) = (&request[..2], request[6], request[7] | 0x80);
        Some([transaction, &[0, 0, 0, 3, unit, function, code]].concat().into())
    }
}

impl Client {
    fn owed(&self) -> usize {
        self.waiting.len() + self.on_link
    }
}

/// The transaction of a Modbus frame, which has a whole header.
fn id_of(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[0], frame[1]])
}

/// The same frame with another transaction.
fn with_id(frame: &[u8], id: u16) -> Bytes {
    let mut frame = BytesMut::from(frame);
    frame[..2].copy_from_slice(&id.to_be_bytes());
    frame.freeze()
}

/// Modbus exception 0x0A, gateway path unavailable: the request was not sent.
const PATH_UNAVAILABLE: u8 = 0x0A;
/// Modbus exception 0x0B, gateway target device failed to respond: it may have been carried out.
const TARGET_SILENT: u8 = 0x0B;
/// A link on which nothing has come for so many timeouts is no longer believed in.
const SILENT: u32 = 3;
/// Half of all ids: beyond that the link is closed, and none of them can be answered late.
const MOST_LATE: usize = 1 << 15;

#[cfg(test)]
mod tests;
