//! The slots of all objects, and calling them: by a wire, a script, a step, or
//! by hand.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::call::{Arguments, Call, Called, Functions, Party, Trail, Value};
use super::{CallError, Ending, Fact, Item, ListenerState, Object, Registry, To, Wanted};
use crate::event::ConnectionId;
use crate::nearest::{did_you_mean, quoted};

/// Something that can be called on objects of a kind.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) of: Of,
    pub(crate) name: &'static str,
    /// Its arguments by name, and whether each is needed.
    pub(crate) takes: &'static [(&'static str, bool)],
    /// Whether it needs a listener or client that no relay has.
    pub(crate) is_wired: bool,
}

/// The kinds of objects that have slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Listener,
    Client,
    Relay,
    Discovery,
    Timer,
    Script,
    Node,
    Log,
}

const NONE: &[(&str, bool)] = &[];
const CONN: &[(&str, bool)] = &[("conn", true)];
const DATA: &[(&str, bool)] = &[("data", true)];
const TEXT: &[(&str, bool)] = &[("text", true)];

/// Every slot, but the functions of scripts.
#[rustfmt::skip]
pub(crate) const SLOTS: &[Slot] = &[
    slot(Of::Listener, "write", &[("data", true), ("conn", true)], true),
    slot(Of::Listener, "broadcast", &[("data", true), ("except", false)], true),
    slot(Of::Listener, "close_connection", CONN, true),
    slot(Of::Listener, "abort", CONN, true),
    slot(Of::Listener, "shutdown_write", CONN, true),
    slot(Of::Listener, "pause", NONE, false),
    slot(Of::Listener, "resume", NONE, false),
    slot(Of::Listener, "close", NONE, false),
    slot(Of::Client, "write", DATA, true),
    slot(Of::Client, "open", NONE, true),
    slot(Of::Client, "close", NONE, true),
    slot(Of::Client, "abort", NONE, true),
    slot(Of::Client, "shutdown_write", NONE, true),
    slot(Of::Timer, "start", NONE, false),
    slot(Of::Timer, "stop", NONE, false),
    slot(Of::Node, "quit", &[("code", false)], false),
    slot(Of::Log, "info", TEXT, false),
    slot(Of::Log, "warn", TEXT, false),
    slot(Of::Log, "error", TEXT, false),
];

const fn slot(of: Of, name: &'static str, takes: &'static [(&'static str, bool)], is_wired: bool) -> Slot {
    Slot { of, name, takes, is_wired }
}

impl Of {
    /// Its slots by name, in the order of the list.
    pub(crate) fn slots(self) -> impl Iterator<Item = &'static Slot> {
        SLOTS.iter().filter(move |slot| slot.of == self)
    }

    /// Its slot of this name, or what may have been meant.
    pub(crate) fn slot(self, object: &str, name: &str) -> Result<&'static Slot, CallError> {
        self.slots().find(|slot| slot.name == name).ok_or_else(|| {
            let names = || self.slots().map(|slot| slot.name);
            let hint = did_you_mean(name, names()).unwrap_or_else(|| match names().next() {
                Some(_) => format!("; there are {}", quoted(names())),
                None => "; it has none".into(),
            });
            let slot = name.escape_debug().to_string();
            CallError::NoSlot { object: object.to_owned(), slot, hint }
        })
    }
}

impl Registry {
    /// Calls a slot of an object: `call("room", "broadcast", …)`. `node` and
    /// `log` are objects too.
    ///
    /// A slot that writes waits while those it writes to are full and their
    /// overflow policy is to block. Cancel safe: dropped while it waits, nothing was written.
    ///
    /// # Errors
    /// [`CallError`], and nothing has changed.
    pub async fn call(&self, object: &str, slot: &str, arguments: Arguments) -> Result<(), CallError> {
        let call = Call {
            signal: "node.call".into(),
            connection: None,
            data: None,
            arguments,
            trail: Trail::default(),
            as_filter: false,
        };
        self.invoke(object, slot, call).await
    }

    /// The same on behalf of a signal. A connection that no argument names is that of the signal.
    pub(crate) async fn invoke(&self, object: &str, slot: &str, call: Call) -> Result<(), CallError> {
        if object == "log" {
            return log(slot, &call.arguments);
        }
        if object == "node" {
            return self.quit(slot, &call.arguments);
        }
        let found = self.lock().objects.get(object).cloned();
        match found {
            None => Err(self.no_object(object)),
            Some(Object::Script(script)) => {
                self.run(object, &script, slot, call).await?;
                Ok(())
            }
            Some(Object::Timer(clock)) => {
                let slot = check(Of::Timer, object, slot, &call.arguments)?;
                match slot.name {
                    "start" => clock.start(),
                    _ => clock.stop(),
                }
                Ok(())
            }
            Some(Object::Listener(door)) => {
                let slot = check(Of::Listener, object, slot, &call.arguments)?;
                let to = match slot.name {
                    "pause" => ListenerState::Paused,
                    "resume" => ListenerState::Listening,
                    "close" => ListenerState::Closed,
                    _ => return self.write(object, slot, &call).await,
                };
                if door.turn(to) { Ok(()) } else { Err(CallError::Closed { object: object.to_owned() }) }
            }
            Some(Object::Client { .. }) => {
                let slot = check(Of::Client, object, slot, &call.arguments)?;
                self.write(object, slot, &call).await
            }
            Some(Object::Relay { .. }) => Of::Relay.slot(object, slot).map(|_| ()),
            Some(Object::Discovery { .. }) => Of::Discovery.slot(object, slot).map(|_| ()),
        }
    }

    /// A slot of a listener or client that concerns its connections.
    async fn write(&self, object: &str, slot: &Slot, call: &Call) -> Result<(), CallError> {
        let Some(wired) = self.wired(object).or_else(|| self.members(object)) else {
            let why = "a relay has its bytes, or no wire names it; give it a wire, and no relay".into();
            return Err(CallError::NotWired { object: object.to_owned(), why });
        };
        let peers = &wired.peers;
        let own = || call.connection.as_ref().filter(|party| *party.object == *object).map(|party| party.id);
        let connection = |name: &str| match call.arguments.get(name) {
            Some(value) => connection(value).map(Some),
            None => Ok(own()),
        };
        let needed = || {
            connection("conn")?.ok_or_else(|| {
                let slot = slot.name;
                CallError::Argument(format!(
                    "`{object}.{slot}` needs `conn`, the id of a connection of `{object}`"
                ))
            })
        };
        let end = |connection: ConnectionId, how| match peers.end(Some(connection), how) {
            true => Ok(()),
            false => Err(CallError::NoConnection { object: object.to_owned(), connection }),
        };
        if let Some(line) = &wired.line {
            match slot.name {
                "open" => line.want(Wanted::Open),
                "close" => {
                    line.want(Wanted::Closed);
                    peers.end(None, Ending::Close);
                }
                "abort" => {
                    line.want(Wanted::Closed);
                    peers.end(None, Ending::Abort);
                }
                "shutdown_write" if peers.end(None, Ending::ShutdownWrite) => {}
                "shutdown_write" => return Err(CallError::NotConnected { object: object.to_owned() }),
                _ => return self.send(object, peers, To::All { but: None }, call).await,
            }
            return Ok(());
        }
        match slot.name {
            "close_connection" => end(needed()?, Ending::Close),
            "abort" => end(needed()?, Ending::Abort),
            "shutdown_write" => end(needed()?, Ending::ShutdownWrite),
            "broadcast" => {
                let but = match call.arguments.get("except") {
                    Some(value) => Some(self::connection(value)?),
                    None => None,
                };
                self.send(object, peers, To::All { but }, call).await
            }
            _ => self.send(object, peers, To::One(needed()?), call).await,
        }
    }

    async fn send(
        &self,
        object: &str,
        peers: &Arc<dyn super::Peers>,
        to: To,
        call: &Call,
    ) -> Result<(), CallError> {
        let data = call.arguments.get("data").map(Value::to_bytes).or_else(|| call.data.clone());
        let data =
            data.ok_or_else(|| CallError::Argument(format!("`{object}` needs `data`, what to send")))?;
        if !peers.has_room(to) {
            peers.room(to).await;
        }
        peers.send(to, &data).map_err(|error| match (error, to) {
            (super::SendError::NoConnection, To::One(connection)) => {
                CallError::NoConnection { object: object.to_owned(), connection }
            }
            (super::SendError::NoConnection, To::All { .. }) => unreachable!("all may be none"),
            (super::SendError::Unsendable(why), _) => {
                CallError::Unsendable { object: object.to_owned(), why }
            }
        })
    }

    /// Calls a function of a script by name, for the frames it yields.
    pub(crate) async fn filter(
        &self,
        object: &str,
        function: &str,
        call: Call,
    ) -> Result<Vec<super::Frame>, CallError> {
        let found = self.lock().objects.get(object).cloned();
        match found {
            Some(Object::Script(script)) => self.run(object, &script, function, call).await,
            _ => Err(self.no_object(object)),
        }
    }

    /// Has scripts drop what they keep of a connection that is over.
    pub(crate) fn forget(&self, connection: ConnectionId) {
        for object in self.lock().objects.values() {
            if let Object::Script(script) = object {
                script.forget(connection);
            }
        }
    }

    /// Calls a function of a script. If that fails it is logged, and the script's signal `error` is emitted.
    async fn run(
        &self,
        object: &str,
        script: &Arc<dyn Functions>,
        function: &str,
        call: Call,
    ) -> Result<Vec<super::Frame>, CallError> {
        if !script.names().iter().any(|name| **name == *function) {
            let names = script.names();
            let hint = did_you_mean(function, names.iter().map(|name| &**name))
                .unwrap_or_else(|| format!("; there are {}", quoted(names.iter().map(|name| &**name))));
            let slot = function.escape_debug().to_string();
            return Err(CallError::NoSlot { object: object.to_owned(), slot, hint });
        }
        let (party, trail) = (call.connection.clone(), call.trail.clone());
        let called: Called<'_> = script.call(function, call);
        let result = called.await;
        if let Err(error @ CallError::Script(_)) = &result {
            tracing::error!(%error, script = object, function, "a script failed");
            let arguments = Arguments::new().with("error", error.to_string());
            // A handler of the error that fails itself makes a circle, which ends here.
            let _ = self.emit(object, "error", None, arguments, party, &trail).await;
        }
        result
    }

    /// Emits a custom signal of a script, by its name `script.ID`, to whoever is wired to it. Waits for room
    /// for a limited time.
    ///
    /// # Errors
    /// [`CallError::Loop`] if the signal has led here, and [`CallError::Full`].
    pub(crate) async fn emit(
        &self,
        object: &str,
        name: &str,
        data: Option<bytes::Bytes>,
        arguments: Arguments,
        party: Option<Arc<Party>>,
        trail: &Trail,
    ) -> Result<(), CallError> {
        let Some(intake) = self.intake(object) else { return Ok(()) };
        let trail = trail.with(&format!("{object}.{name}").into())?;
        let fact = Item::Fact(Fact { name: name.into(), party, data, arguments, trail });
        if let Err(fact) = intake.offer(fact) {
            timeout(EMIT_LIMIT, intake.room()).await.map_err(|_elapsed| CallError::Full {
                object: object.to_owned(),
                limit: humantime::format_duration(EMIT_LIMIT).to_string(),
            })?;
            intake.put(fact);
        }
        Ok(())
    }

    fn quit(&self, slot: &str, arguments: &Arguments) -> Result<(), CallError> {
        check(Of::Node, "node", slot, arguments)?;
        let code = match arguments.get("code") {
            None => 0,
            Some(value) => value.as_integer().and_then(|code| code.try_into().ok()).ok_or_else(|| {
                let text = format!("`code` is {value}, which is no exit code; write a number from 0 to 255");
                CallError::Argument(text)
            })?,
        };
        self.quit.send_replace(Some(code));
        Ok(())
    }

    fn no_object(&self, object: &str) -> CallError {
        let state = self.lock();
        let names = || state.objects.keys().map(|name| &**name);
        let hint =
            did_you_mean(object, names()).unwrap_or_else(|| format!("; there are {}", quoted(names())));
        CallError::NoObject { object: object.escape_debug().to_string(), hint }
    }
}

/// The slot, if it takes these arguments. Those that are needed and may come from the signal are asked for later.
fn check(of: Of, object: &str, slot: &str, arguments: &Arguments) -> Result<&'static Slot, CallError> {
    let slot = of.slot(object, slot)?;
    for (name, _) in arguments.iter() {
        if !slot.takes.iter().any(|(known, _)| *known == name) {
            let known = || slot.takes.iter().map(|(known, _)| *known);
            let hint = did_you_mean(name, known()).unwrap_or_else(|| match known().next() {
                Some(_) => format!("; it takes {}", quoted(known())),
                None => "; leave it out".into(),
            });
            let (slot, name) = (slot.name, name.escape_debug());
            return Err(CallError::Argument(format!("`{object}.{slot}` takes no `{name}`{hint}")));
        }
    }
    Ok(slot)
}

fn connection(value: &Value) -> Result<ConnectionId, CallError> {
    match value {
        Value::Connection(id) => Ok(*id),
        _ => {
            value.as_integer().and_then(|number| ConnectionId::of(number.try_into().ok()?)).ok_or_else(|| {
                CallError::Argument(format!(
                    "{value} is not the id of a connection; `node status` shows them, and {{conn.id}} is one"
                ))
            })
        }
    }
}

fn log(slot: &str, arguments: &Arguments) -> Result<(), CallError> {
    let slot = check(Of::Log, "log", slot, arguments)?;
    let text = arguments.get("text");
    let text = text.ok_or_else(|| CallError::Argument(format!("`log.{}` needs `text`", slot.name)))?;
    // What a peer has sent must neither colour a terminal nor look like a line of ours.
    let text = text.to_string();
    let text: String = match text.char_indices().nth(LONGEST_TEXT) {
        Some((end, _)) => format!("{}…", text[..end].escape_debug()),
        None => text.escape_debug().to_string(),
    };
    match slot.name {
        "info" => tracing::info!("{text}"),
        "warn" => tracing::warn!("{text}"),
        _ => tracing::error!("{text}"),
    }
    Ok(())
}

/// How long an emitted signal waits for room.
const EMIT_LIMIT: Duration = Duration::from_secs(10);
/// Characters of a line of the log.
const LONGEST_TEXT: usize = 1_000;
