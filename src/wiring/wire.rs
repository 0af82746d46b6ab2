//! [`Wire`]: one `[[connect]]`, from a signal through filters to a slot. It runs
//! in the task of its source, or behind a queue of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::filter::{Filter, through};
use super::template::Template;
use crate::net::Overflow;
use crate::registry::{Arguments, Call, CallError, Fact, INTAKE, Intake, Item, Registry, Undone, Value};

/// A signal or slot by its object: `room.broadcast`, `script.chat.on_timeout`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberName {
    /// The object, `script.ID` for that of a script.
    pub object: String,
    /// Its signal or slot.
    pub name: String,
}

impl MemberName {
    /// Reads a name.
    ///
    /// # Errors
    /// What to write.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.rsplit_once('.') {
            Some((object, name)) if !object.is_empty() && !name.is_empty() => {
                Ok(Self { object: object.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!(
                "`{}` is not OBJECT.NAME; write for example \"front.message_received\"",
                text.escape_debug()
            )),
        }
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.object.is_empty() { Ok(()) } else { write!(f, "{}.{}", self.object, self.name) }
    }
}

/// What a wire is to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WireOptions {
    /// Where it begins.
    pub signal: MemberName,
    /// Where it leads.
    pub slot: MemberName,
    /// What it does to the data on its way.
    pub via: Vec<Filter>,
    /// What the slot is called with. Without `data` it gets that of the signal.
    pub args: BTreeMap<String, Template>,
    /// What may wait in a queue of its own, in bytes. `None` with no overflow: it has no queue, and the
    /// source waits for the slot.
    pub queue_max: Option<usize>,
    /// What happens when more would wait there; not `disconnect`.
    pub queue_overflow: Option<Overflow>,
    /// It is removed before its first call.
    pub once: bool,
}

impl WireOptions {
    /// Whether it has a queue of its own.
    pub(crate) fn has_queue(&self) -> bool {
        self.queue_max.is_some() || self.queue_overflow.is_some()
    }
}

/// A wire that runs.
#[derive(Debug)]
pub(crate) struct Wire {
    options: WireOptions,
    /// Whether the slot gets the data of the signal as `data`.
    passes_data: bool,
    queue: Option<Intake>,
    is_used: AtomicBool,
    failures: Mutex<Failures>,
    dropped: AtomicU64,
}

/// What could not be done, and when that was said last.
#[derive(Debug, Default)]
struct Failures {
    count: u64,
    said: Option<Instant>,
}

impl Wire {
    pub(crate) fn new(options: WireOptions, undone: &Undone) -> Self {
        let queue = options.has_queue().then(|| Intake::new(options.queue_max.unwrap_or(INTAKE), undone));
        let passes_data = !options.args.contains_key("data") && options.slot.takes_data();
        Self {
            options,
            passes_data,
            queue,
            is_used: AtomicBool::new(false),
            failures: Mutex::default(),
            dropped: AtomicU64::new(0),
        }
    }

    pub(crate) fn options(&self) -> &WireOptions {
        &self.options
    }

    /// Takes a signal: calls the slot, or has it wait in the wire's queue.
    pub(super) async fn take(&self, call: &Call, registry: &Registry) {
        if self.options.once && self.is_used.swap(true, Relaxed) {
            return;
        }
        let Some(queue) = &self.queue else { return self.deliver(call.clone(), registry).await };
        let fact = Fact {
            name: Arc::clone(&call.signal),
            party: call.connection.clone(),
            data: call.data.clone(),
            arguments: call.arguments.clone(),
            trail: call.trail.clone(),
        };
        let item = Item::Fact(fact);
        let dropped = match self.options.queue_overflow.unwrap_or(Overflow::Block) {
            Overflow::DropOldest => queue.force(item),
            Overflow::DropNewest => u64::from(queue.offer(item).is_err()),
            Overflow::Block | Overflow::Disconnect => {
                queue.room().await;
                queue.put(item);
                0
            }
        };
        if dropped > 0 {
            let all = self.dropped.fetch_add(dropped, Relaxed) + dropped;
            self.say(|wire| warn!(wire, dropped = all, "a wire's queue is full"));
        }
    }

    /// Calls the slot for what waits in the queue, until that is closed.
    pub(super) async fn run(&self, registry: &Registry) {
        let Some(queue) = &self.queue else { return };
        while let Some(item) = queue.next().await {
            if let Item::Fact(Fact { name, party, data, arguments, trail }) = item {
                let call = Call { signal: name, connection: party, data, arguments, trail, as_filter: false };
                self.deliver(call, registry).await;
            }
        }
    }

    /// Takes nothing more into the queue, whose task then ends.
    pub(crate) fn close(&self) {
        if let Some(queue) = &self.queue {
            queue.close();
        }
    }

    async fn deliver(&self, call: Call, registry: &Registry) {
        let result = async {
            if self.options.via.is_empty() {
                return self.call(call, registry).await;
            }
            for frame in through(&self.options.via, &call, registry).await? {
                let call = Call { data: Some(frame.data), ..call.clone() };
                match (frame.to_sender, &call.connection) {
                    (true, Some(party)) => {
                        let object = Arc::clone(&party.object);
                        let data = call.data.clone().unwrap_or_default();
                        let arguments = reply(registry, &object, party.id, data);
                        registry.invoke(&object, "write", Call { arguments, ..call }).await?;
                    }
                    _ => self.call(call, registry).await?,
                }
            }
            Ok(())
        };
        if let Err(error) = result.await {
            // The script's own line says more.
            if !matches!(error, CallError::Script(_)) {
                self.fail(&error);
            }
        }
    }

    async fn call(&self, call: Call, registry: &Registry) -> Result<(), CallError> {
        let WireOptions { slot, args, .. } = &self.options;
        let mut arguments = Arguments::new();
        for (name, template) in args {
            arguments = arguments.with(name, Value::Bytes(template.expand(&call, registry)));
        }
        if self.passes_data
            && let Some(data) = &call.data
        {
            arguments = arguments.with("data", Value::Bytes(data.clone()));
        }
        if slot.object == "log" && arguments.get("text").is_none() {
            arguments = arguments.with("text", describe(&call));
        }
        if slot.object.starts_with("script.") {
            // A function gets what the signal carries, too.
            for (name, value) in call.arguments.iter().filter(|(name, _)| !args.contains_key(*name)) {
                arguments = arguments.with(name, value.clone());
            }
        }
        registry.invoke(&slot.object, &slot.name, Call { arguments, ..call }).await
    }

    fn fail(&self, error: &CallError) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.count += 1;
        let count = failures.count;
        drop(failures);
        self.say(|wire| warn!(wire, %error, failures = count, "a wire could not call its slot"));
    }

    /// Says something at most once a second.
    fn say(&self, say: impl FnOnce(&str)) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.said.is_some_and(|said| said.elapsed() < OFTEN) {
            return;
        }
        failures.said = Some(Instant::now());
        drop(failures);
        say(&format!("{} → {}", self.options.signal, self.options.slot));
    }
}

impl MemberName {
    /// Whether a slot is handed the data of the signal where no argument says otherwise.
    fn takes_data(&self) -> bool {
        matches!(self.name.as_str(), "write" | "broadcast") && self.object != "log"
    }
}

/// What answers the connection a frame came from.
fn reply(registry: &Registry, object: &str, id: crate::event::ConnectionId, data: bytes::Bytes) -> Arguments {
    let arguments = Arguments::new().with("data", data);
    match registry.wired(object) {
        // A client has one connection, which is not named.
        Some(wired) if wired.line.is_some() => arguments,
        _ => arguments.with("conn", id),
    }
}

/// A signal in words, for the log.
fn describe(call: &Call) -> String {
    let mut text = call.signal.to_string();
    if let Some(party) = &call.connection {
        text.push_str(&format!(" connection={} peer={}", party.id, party.peer));
    }
    for (name, value) in call.arguments.iter() {
        text.push_str(&format!(" {name}={value}"));
    }
    if let Some(data) = &call.data {
        text.push_str(&format!(" data={}", String::from_utf8_lossy(data)));
    }
    text
}

/// How often the failures of a wire are said.
const OFTEN: Duration = Duration::from_secs(1);
