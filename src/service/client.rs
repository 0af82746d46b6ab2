//! One client of the control socket: a line in, a line out, or a stream of
//! signals. It is served at its own pace, and let go when it takes too long.

use std::io;
use std::ops::Not;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_stream::StreamExt;
use tracing::{info, warn};

use super::control::{Order, Phase, View};
use super::pattern::Pattern;
use super::request::{Given, Request, read};
use super::status::Status;
use crate::bus::{ConnectionSnapshot, Delivery, Subscription};
use crate::event::{Envelope, EventMask};
use crate::registry::{Arguments, CallError, Value as Argument};

/// Serves a client until it leaves, is let go, or the node has ended.
pub(super) async fn attend(stream: UnixStream, view: Arc<View>) {
    let _counted = Arc::clone(&view.clients);
    let (input, output) = stream.into_split();
    let phase = view.phase.clone();
    let client = Client { input: Lines { input, buffer: Vec::new(), begun: None }, output, view, phase };
    match client.run().await {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            warn!(
                limit = humantime::format_duration(PATIENCE).to_string(),
                "a control client was cut, since it did not read"
            );
        }
        // It has gone without reading its answer.
        Err(_gone) => {}
    }
}

struct Client {
    input: Lines,
    output: OwnedWriteHalf,
    view: Arc<View>,
    phase: watch::Receiver<Phase>,
}

/// What a line was answered with.
#[derive(Serialize)]
struct Answer<'a, T> {
    #[serde(skip_serializing_if = "Value::is_null")]
    id: &'a Value,
    #[serde(flatten)]
    item: Item<'a, T>,
    /// The request cannot be meant as it is written.
    #[serde(skip_serializing_if = "Not::not")]
    wrong: bool,
}

/// Why a request was not done.
enum Refusal {
    /// It cannot be meant as it is written.
    Wrong(String),
    /// The node cannot do it, or not now.
    Refused(String),
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Item<'a, T> {
    Ok(T),
    Error(&'a str),
    Signal(&'a Envelope),
    Lagged(u64),
    End(&'a str),
}

impl Client {
    async fn run(mut self) -> io::Result<()> {
        let greeting =
            json!({ "node": env!("CARGO_PKG_VERSION"), "pid": std::process::id(), "protocol": PROTOCOL });
        write(&mut self.output, &line(&greeting)).await?;
        loop {
            let next = tokio::select! {
                biased;
                next = self.input.next() => next?,
                _ = self.phase.wait_for(|phase| *phase == Phase::Over) => return Ok(()),
            };
            let request = match next {
                Next::Line(request) => request,
                Next::End => return Ok(()),
                Next::TooLong => {
                    let error =
                        format!("the line is longer than {LONGEST_LINE} bytes; this connection is closed");
                    return self.answer(&Value::Null, Item::<()>::Error(&error)).await;
                }
                Next::TooSlow => {
                    let error = "the rest of the line did not come in time; this connection is closed";
                    return self.answer(&Value::Null, Item::<()>::Error(error)).await;
                }
            };
            match read(&request) {
                (id, Err(error)) => self.refuse(&id, Refusal::Wrong(error)).await?,
                (id, Ok(Request::Signals { pattern })) => {
                    let objects = self.view.registry.objects();
                    let fault = pattern.as_ref().and_then(|pattern| pattern.fault(&objects));
                    if let Some(fault) = fault {
                        self.refuse(&id, Refusal::Wrong(fault)).await?;
                        continue;
                    }
                    return self.stream(&id, pattern).await;
                }
                (id, Ok(Request::Status { connections })) => {
                    let status = self.status(connections);
                    self.answer(&id, Item::Ok(status)).await?;
                }
                (id, Ok(request)) => match self.obey(request).await {
                    Ok(value) => self.answer(&id, Item::Ok(value)).await?,
                    Err(refusal) => self.refuse(&id, refusal).await?,
                },
            }
        }
    }

    fn status(&self, connections: usize) -> Status {
        let view = &self.view;
        // One is the view's own.
        let clients = Arc::strong_count(&view.clients) - 1;
        let phase = *self.phase.borrow();
        Status::of(&view.bus, &view.registry, view.begun, phase, clients, connections)
    }

    async fn obey(&self, request: Request) -> Result<Value, Refusal> {
        match request {
            Request::Call { object, slot, arguments } => self.call(&object, &slot, arguments).await,
            Request::Reload => self.order(Order::Reload).await,
            Request::Stop { grace } => self.order(|reply| Order::Stop(grace, reply)).await,
            Request::Status { .. } | Request::Signals { .. } => unreachable!("answered by their own"),
        }
    }

    async fn call(&self, object: &str, name: &str, given: Given) -> Result<Value, Refusal> {
        let named = match given {
            Given::List(arguments) if name == "disconnect" => return self.disconnect(object, &arguments),
            Given::List(arguments) if arguments.is_empty() => Map::new(),
            Given::List(_) => {
                let name = name.escape_debug();
                let text = format!("`{name}` takes its arguments by name, as in data=hello");
                return Err(Refusal::Wrong(text));
            }
            Given::Named(arguments) => arguments,
        };
        let mut arguments = Arguments::new();
        for (name, value) in &named {
            let value = argument(value).ok_or_else(|| {
                let name = name.escape_debug();
                Refusal::Wrong(format!("`{name}` is neither a text nor a number; write one of these"))
            })?;
            arguments = arguments.with(name, value);
        }
        let called = timeout(CALL_LIMIT, self.view.registry.call(object, name, arguments)).await;
        let called = called.map_err(|_elapsed| {
            let limit = humantime::format_duration(CALL_LIMIT);
            Refusal::Refused(format!(
                "not done within {limit}, since `{object}` has no room; nothing was written"
            ))
        })?;
        called.map_err(|error| match error {
            CallError::NoSlot { .. } | CallError::Argument(_) => Refusal::Wrong(error.to_string()),
            _ => Refusal::Refused(error.to_string()),
        })?;
        info!(object, slot = name, "called by a control client");
        Ok(json!({}))
    }

    /// `node` has all connections, a listener or target its own.
    fn disconnect(&self, object: &str, arguments: &[Value]) -> Result<Value, Refusal> {
        let bus = &self.view.bus;
        let [number] = arguments else {
            let text = "`disconnect` takes the id of one connection, as `node status` shows it";
            return Err(Refusal::Wrong(text.into()));
        };
        let connections = bus.snapshot().connections;
        let Some(wanted) = number.as_u64() else {
            let text = format!("{number} is not the id of a connection; `node status` shows them");
            return Err(Refusal::Wrong(text));
        };
        let Some(ConnectionSnapshot { connection: id, endpoint, .. }) =
            connections.into_iter().find(|connection| connection.connection.get() == wanted)
        else {
            let text =
                format!("there is no connection {wanted} any more; `node status` shows those there are");
            return Err(Refusal::Refused(text));
        };
        if object != "node" && object != &*endpoint {
            return Err(Refusal::Refused(format!("connection {id} belongs to `{endpoint}`")));
        }
        if !bus.disconnect(id) {
            return Err(Refusal::Refused(format!(
                "connection {id} cannot be ended: it is ending already, or its relay keeps it connected"
            )));
        }
        info!(connection = %id, %endpoint, "disconnected by a control client");
        Ok(json!({}))
    }

    async fn order(&self, order: impl FnOnce(super::control::Reply) -> Order) -> Result<Value, Refusal> {
        let (reply, answer) = oneshot::channel();
        let given = async {
            self.view.orders.send(order(reply)).await.ok()?;
            answer.await.ok()
        };
        let answer = match timeout(ORDER_LIMIT, given).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err("the node has ended".into()),
            Err(_elapsed) => Err(format!(
                "not done within {}; it may still take effect",
                humantime::format_duration(ORDER_LIMIT)
            )),
        };
        answer.map_err(Refusal::Refused)
    }

    async fn answer<T: Serialize>(&mut self, id: &Value, item: Item<'_, T>) -> io::Result<()> {
        write(&mut self.output, &line(&Answer { id, item, wrong: false })).await
    }

    async fn refuse(&mut self, id: &Value, refusal: Refusal) -> io::Result<()> {
        let (error, wrong) = match &refusal {
            Refusal::Wrong(error) => (error, true),
            Refusal::Refused(error) => (error, false),
        };
        write(&mut self.output, &line(&Answer { id, item: Item::<()>::Error(error), wrong })).await
    }

    /// Sends what happens and passes, and how much could not be sent, until the node or the client ends.
    async fn stream(mut self, id: &Value, pattern: Option<Pattern>) -> io::Result<()> {
        let mask = pattern.as_ref().map_or(EventMask::DISCRETE, Pattern::mask);
        // What comes from here on is in the stream, and what came before in a status asked for later.
        let mut events = self.view.bus.subscribe(mask);
        self.answer(id, Item::Ok(json!({}))).await?;
        loop {
            let first = tokio::select! {
                biased;
                first = events.next() => first,
                said = self.input.said_more() => {
                    if !said {
                        return Ok(());
                    }
                    let error = "this connection is a stream of signals; ask on another one";
                    return self.answer(id, Item::<()>::Error(error)).await;
                }
            };
            let Some(first) = first else {
                // Whoever is told this finds no socket any more.
                let _ = self.phase.wait_for(|phase| *phase == Phase::Over).await;
                return self.answer(id, Item::<()>::End("the node has ended")).await;
            };
            let bytes = batch(id, pattern.as_ref(), first, &mut events).await;
            write(&mut self.output, &bytes).await?;
        }
    }
}

/// A delivery and those that are there already, as lines.
async fn batch(id: &Value, pattern: Option<&Pattern>, first: Delivery, events: &mut Subscription) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut next = Some(first);
    while let Some(delivery) = next {
        match delivery {
            Delivery::Lagged(missed) => {
                bytes.extend(line(&Answer { id, item: Item::<()>::Lagged(missed), wrong: false }));
            }
            Delivery::Event(envelope) if pattern.is_none_or(|pattern| pattern.passes(&envelope.event)) => {
                bytes.extend(line(&Answer { id, item: Item::<()>::Signal(&envelope), wrong: false }));
            }
            Delivery::Event(_other) => {}
        }
        next = tokio::select! {
            biased;
            delivery = events.next(), if bytes.len() < BATCH => delivery,
            () = std::future::ready(()) => None,
        };
    }
    bytes
}

/// A value of JSON as an argument of a slot.
fn argument(value: &Value) -> Option<Argument> {
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) => {
            number.as_i64().map(Argument::Integer).or_else(|| number.as_f64().map(Argument::Number))
        }
        Value::Bool(value) => Some(Argument::Bool(*value)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("what is sent is plain data");
    line.push(b'\n');
    line
}

async fn write(output: &mut OwnedWriteHalf, mut bytes: &[u8]) -> io::Result<()> {
    // The limit is for each piece, so that a slow reader of much is not taken for one that has stopped.
    while !bytes.is_empty() {
        let piece = &bytes[..bytes.len().min(BATCH)];
        timeout(PATIENCE, output.write_all(piece)).await??;
        bytes = &bytes[piece.len()..];
    }
    Ok(())
}

/// Lines of a limited length, each within a limited time from its first byte.
struct Lines {
    input: OwnedReadHalf,
    buffer: Vec<u8>,
    /// When the line that is in the buffer was begun.
    begun: Option<Instant>,
}

enum Next {
    Line(Vec<u8>),
    End,
    TooLong,
    TooSlow,
}

impl Lines {
    /// Cancel safe.
    async fn next(&mut self) -> io::Result<Next> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<_> = self.buffer.drain(..=searched + at).collect();
                line.pop();
                self.begun = None;
                return Ok(Next::Line(line));
            }
            if self.buffer.len() > LONGEST_LINE {
                return Ok(Next::TooLong);
            }
            searched = self.buffer.len();
            let now = Instant::now();
            let until = match self.buffer.is_empty() {
                true => now + IDLE,
                false => *self.begun.get_or_insert(now) + LINE_LIMIT,
            };
            match timeout_at(until, self.input.read_buf(&mut self.buffer)).await {
                Ok(Ok(0)) => return Ok(Next::End),
                Ok(count) => _ = count?,
                Err(_elapsed) if self.buffer.is_empty() => return Ok(Next::End),
                Err(_elapsed) => return Ok(Next::TooSlow),
            }
        }
    }

    /// Waits for anything more (`true`), or until the client has gone (`false`). Cancel safe.
    async fn said_more(&mut self) -> bool {
        if !self.buffer.is_empty() || matches!(self.input.read_buf(&mut self.buffer).await, Ok(1..)) {
            return true;
        }
        // It has finished sending, as at the end of a pipe, and may go on reading.
        while !self.is_gone() {
            sleep(LOOK).await;
        }
        false
    }

    fn is_gone(&self) -> bool {
        let stream: &UnixStream = self.input.as_ref();
        let mut polled = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::empty())];
        let asked = rustix::event::poll(&mut polled, Some(&Timespec::default()));
        asked.is_err() || !polled[0].revents().is_empty()
    }
}

/// What the greeting calls the way of talking that the guide describes.
pub(crate) const PROTOCOL: u32 = 1;
/// No request needs more than a few hundred bytes.
const LONGEST_LINE: usize = 64 * 1024;
/// A client that asks nothing may stay so long.
const IDLE: Duration = Duration::from_secs(600);
/// For the rest of a line once it has begun.
const LINE_LIMIT: Duration = Duration::from_secs(10);
/// For a client to take a piece of what is meant for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a client that has finished sending is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of a piece.
const BATCH: usize = 64 * 1024;
/// For a slot to find room for what it writes.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// For the node to do what it was told.
const ORDER_LIMIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use tokio::io::AsyncBufReadExt;
    use tokio::sync::mpsc;

    use super::super::status::Begun;
    use super::*;
    use crate::bus::EventBus;
    use crate::registry::Registry;

    /// A client that is being served, and what keeps its node alive.
    fn served() -> (UnixStream, impl Future<Output = ()>, (watch::Sender<Phase>, mpsc::Receiver<Order>)) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (phase, follow) = watch::channel(Phase::Running);
        let (orders, given) = mpsc::channel(1);
        let (bus, registry) = (EventBus::new(), Registry::default());
        let view =
            View { bus, registry, begun: Begun::now(), phase: follow, orders, clients: Arc::default() };
        (ours, attend(theirs, Arc::new(view)), (phase, given))
    }

    async fn lines(client: UnixStream) -> Vec<String> {
        let mut lines = tokio::io::BufReader::new(client).lines();
        let mut all = Vec::new();
        while let Ok(Some(line)) = lines.next_line().await {
            all.push(line);
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_asks_and_never_reads_is_cut_in_time() {
        let (client, serving, _node) = served();
        let begun = Instant::now();
        let asking = async {
            let question = b"{\"call\":\"status\"}\n".repeat(64);
            // It ends with the connection.
            while client.writable().await.is_ok() {
                match client.try_write(&question) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                    _ => {}
                }
            }
        };
        tokio::join!(serving, asking);
        let took = begun.elapsed();
        assert!(took >= PATIENCE && took < 2 * PATIENCE, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_says_nothing_or_half_a_line_is_let_go() {
        for (said, limit, answers) in [("", IDLE, 1), ("{\"call\":", LINE_LIMIT, 2)] {
            let (client, serving, _node) = served();
            client.try_write(said.as_bytes()).unwrap();
            let begun = Instant::now();
            let (all, ()) = tokio::join!(lines(client), serving);
            let took = begun.elapsed();
            assert!(took >= limit && took < limit + Duration::from_secs(5), "{said:?}: {took:?}");
            assert_eq!(all.len(), answers, "{all:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_comes_in_a_trickle_has_no_more_time_than_another() {
        let (client, serving, _node) = served();
        let begun = Instant::now();
        let trickle = async {
            // A byte well within any limit, for as long as it is listened to.
            while client.try_write(b" ").is_ok() {
                sleep(LINE_LIMIT / 4).await;
                assert!(begun.elapsed() < 3 * LINE_LIMIT, "it is still listened to");
            }
        };
        tokio::join!(serving, trickle);
        assert!(begun.elapsed() >= LINE_LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_watches_may_be_silent_for_ever() {
        let (client, serving, node) = served();
        client.try_write(b"{\"call\":\"signals\"}\n").unwrap();
        let mut serving = std::pin::pin!(serving);
        assert!(timeout(10 * IDLE, &mut serving).await.is_err(), "it was let go");
        drop((client, node));
        serving.await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_that_nobody_takes_is_answered_in_time() {
        let (client, serving, _node) = served();
        client.try_write(b"{\"id\":1,\"call\":\"reload\"}\n").unwrap();
        client.try_write(b"{\"id\":2,\"call\":\"stop\"}\n").unwrap();
        let begun = Instant::now();
        let (all, ()) = tokio::join!(lines(client), serving);
        assert!(begun.elapsed() < IDLE + 3 * ORDER_LIMIT);
        assert_eq!(all.len(), 3);
        assert!(all[1..].iter().all(|answer| answer.contains("may still take effect")), "{all:?}");
    }
}
