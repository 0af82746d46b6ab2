//! [`Outside`]: what of the node a script can reach, all of it through the
//! registry: `node`, `emit`, `auth`, and the log.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mlua::{AnyUserData, Error, Lua, LuaString, Table, Value};
use tokio::task::spawn_blocking;

use super::clock::Clock;
use super::conn::Conn;
use super::known::{Endings, Known};
use super::object::Object;
use super::passwords;
use crate::nearest::{did_you_mean, quoted};
use crate::registry::{Arguments, CallError, Party, Registry, Trail, Value as Argument};

/// The node, as one script has it.
#[derive(Debug)]
pub(super) struct Outside {
    /// `script.ID`.
    pub(super) script: Arc<str>,
    pub(super) registry: Registry,
    pub(super) clock: Rc<Clock>,
    passwords: Option<PathBuf>,
    /// What the function that runs now was called with; nothing while the script is loaded.
    current: RefCell<Option<Rc<Called>>>,
    pub(super) known: Known,
    objects: RefCell<HashMap<String, AnyUserData>>,
    log: RefCell<Log>,
}

/// What a function was called with.
#[derive(Debug)]
pub(super) struct Called {
    connection: Option<Arc<Party>>,
    trail: Trail,
    emitted: Cell<usize>,
}

/// How much was logged within this second.
#[derive(Debug)]
struct Log {
    began: Instant,
    written: usize,
    left_out: usize,
}

impl Outside {
    pub(super) fn new(
        script: &Arc<str>,
        registry: &Registry,
        clock: &Rc<Clock>,
        passwords: Option<PathBuf>,
        endings: &Arc<Endings>,
    ) -> Self {
        Self {
            script: Arc::clone(script),
            registry: registry.clone(),
            clock: Rc::clone(clock),
            passwords,
            current: RefCell::default(),
            known: Known::new(endings),
            objects: RefCell::default(),
            log: RefCell::new(Log { began: Instant::now(), written: 0, left_out: 0 }),
        }
    }

    /// A function goes on; `None`: it waits, or is over.
    pub(super) fn turn(&self, called: Option<&Rc<Called>>) {
        *self.current.borrow_mut() = called.cloned();
    }

    /// The function that runs.
    pub(super) fn called(&self) -> mlua::Result<Rc<Called>> {
        let called = self.current.borrow().clone();
        called.ok_or_else(|| {
            Error::runtime("the node is not there yet; call it in a function that is called later")
        })
    }

    /// The connection as the script has it, always the same value.
    pub(super) fn conn(self: &Rc<Self>, lua: &Lua, party: &Arc<Party>) -> mlua::Result<AnyUserData> {
        if let Some(conn) = self.known.find(party.id) {
            return Ok(conn);
        }
        let conn = lua.create_userdata(Conn::new(self, party))?;
        conn.set_user_value(lua.create_table()?)?;
        self.known.keep(party, &conn, &self.registry);
        Ok(conn)
    }

    /// The object as the script has it.
    fn object(self: &Rc<Self>, lua: &Lua, name: &str) -> mlua::Result<AnyUserData> {
        self.called()?;
        if self.registry.find(name).is_none() {
            self.objects.borrow_mut().remove(name);
            let objects = self.registry.objects();
            let names = || objects.iter().map(|object| &*object.object).filter(|name| !name.contains('.'));
            let hint =
                did_you_mean(name, names()).unwrap_or_else(|| format!("; there are {}", quoted(names())));
            let name = name.escape_debug();
            return Err(Error::runtime(format!("node.{name}: no object is called `{name}`{hint}")));
        }
        if let Some(object) = self.objects.borrow().get(name) {
            return Ok(object.clone());
        }
        let object = lua.create_userdata(Object::new(self, name))?;
        self.objects.borrow_mut().insert(name.to_owned(), object.clone());
        Ok(object)
    }

    /// `emit(name, data, arguments)`.
    async fn emit(
        self: Rc<Self>,
        name: String,
        data: Option<Bytes>,
        arguments: Arguments,
    ) -> mlua::Result<()> {
        let called = self.called()?;
        if !is_name(&name) {
            let name = name.escape_debug();
            let text =
                format!("emit: `{name}` is no name; write small letters, digits and _, a letter first");
            return Err(Error::runtime(text));
        }
        if called.emitted.replace(called.emitted.get() + 1) >= MOST_EMITTED {
            return Err(Error::runtime(format!("emit: more than {MOST_EMITTED} signals in one call")));
        }
        let party = called.connection.clone();
        let emits = self.registry.emit(&self.script, &name, data, arguments, party, &called.trail);
        self.clock.wait(emits).await.map_err(|error| Error::runtime(format!("emit: {error}")))
    }

    /// `auth.verify(name, password)`, away from this thread.
    async fn verify(self: Rc<Self>, name: String, password: Vec<u8>) -> mlua::Result<bool> {
        self.called()?;
        let Some(path) = self.passwords.clone() else {
            let text =
                "auth.verify: there is no file to look in; write passwords = \"FILE\" in the script's table";
            return Err(Error::runtime(text));
        };
        if name.len() > LONGEST_NAME || password.len() > LONGEST_PASSWORD {
            return Ok(false);
        }
        let checks = spawn_blocking(move || passwords::verify(&path, &name, &password));
        let checked = self.clock.wait(checks).await.map_err(Error::runtime)?;
        checked.map_err(|error| Error::runtime(format!("auth.verify: {error}")))
    }

    /// A line of the script's in the log. Of too many in a second the rest is counted.
    pub(super) fn write_log(&self, level: &str, text: &str) {
        let mut log = self.log.borrow_mut();
        let script = &*self.script;
        if log.began.elapsed() >= Duration::from_secs(1) {
            if log.left_out > 0 {
                tracing::warn!(
                    script,
                    lines = log.left_out,
                    "a script logged too much; the rest was left out"
                );
            }
            *log = Log { began: Instant::now(), written: 0, left_out: 0 };
        }
        if log.written == MOST_LINES {
            log.left_out += 1;
            return;
        }
        log.written += 1;
        // What a peer has sent must neither colour a terminal nor look like a line of ours.
        let text = match text.char_indices().nth(LONGEST_LINE) {
            Some((end, _)) => format!("{}…", text[..end].escape_debug()),
            None => text.escape_debug().to_string(),
        };
        match level {
            "trace" => tracing::trace!(script, "{text}"),
            "debug" => tracing::debug!(script, "{text}"),
            "warn" => tracing::warn!(script, "{text}"),
            "error" => tracing::error!(script, "{text}"),
            _ => tracing::info!(script, "{text}"),
        }
    }
}

impl Called {
    pub(super) fn new(connection: Option<Arc<Party>>, trail: Trail) -> Self {
        Self { connection, trail, emitted: Cell::new(0) }
    }
}

/// Adds `node`, `emit` and `auth` to the globals.
pub(super) fn add(lua: &Lua, outside: &Rc<Outside>) -> mlua::Result<()> {
    let globals = lua.globals();
    let node = lua.create_table()?;
    let own = Rc::clone(outside);
    let quit = lua.create_async_function(move |_, code: Option<i64>| {
        let own = Rc::clone(&own);
        async move {
            own.called()?;
            let arguments = code.map_or_else(Arguments::new, |code| Arguments::new().with("code", code));
            own.registry.call("node", "quit", arguments).await.map_err(failed)
        }
    })?;
    node.raw_set("quit", quit)?;
    let own = Rc::clone(outside);
    let find = lua.create_function(move |lua, (_, name): (Value, String)| own.object(lua, &name))?;
    let metatable = lua.create_table_from([("__index", find)])?;
    metatable.set_readonly(true);
    node.set_metatable(Some(metatable))?;
    globals.raw_set("node", node)?;
    let own = Rc::clone(outside);
    let emit = lua.create_async_function(
        move |_, (name, data, arguments): (String, Option<LuaString>, Option<Table>)| {
            let own = Rc::clone(&own);
            let data = data.map(|data| Bytes::copy_from_slice(&data.as_bytes()));
            let arguments = arguments.map_or_else(|| Ok(Arguments::new()), read_arguments);
            async move { own.emit(name, data, arguments?).await }
        },
    )?;
    globals.raw_set("emit", emit)?;
    let own = Rc::clone(outside);
    let verify = lua.create_async_function(move |_, (name, password): (String, LuaString)| {
        Rc::clone(&own).verify(name, password.as_bytes().to_vec())
    })?;
    globals.raw_set("auth", lua.create_table_from([("verify", verify)])?)
}

/// What a slot says, in the words of the script.
pub(super) fn failed(error: CallError) -> Error {
    Error::runtime(error.to_string())
}

fn read_arguments(table: Table) -> mlua::Result<Arguments> {
    let mut arguments = Arguments::new();
    for pair in table.pairs::<String, Value>() {
        let (name, value) = pair?;
        let value = match value {
            Value::String(text) => Argument::Bytes(Bytes::copy_from_slice(&text.as_bytes())),
            Value::Integer(number) => Argument::Integer(number),
            Value::Number(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
                Argument::Integer(number as i64)
            }
            Value::Number(number) => Argument::Number(number),
            Value::Boolean(value) => Argument::Bool(value),
            other => {
                let text = format!(
                    "emit: argument `{name}` is a {}; write text, a number or a switch",
                    other.type_name()
                );
                return Err(Error::runtime(text));
            }
        };
        arguments = arguments.with(&name, value);
    }
    Ok(arguments)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.len() <= 64
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Signals of one call; each may wait for room.
const MOST_EMITTED: usize = 1_000;
/// Lines in one second.
const MOST_LINES: usize = 100;
/// In characters.
const LONGEST_LINE: usize = 1_000;
const LONGEST_NAME: usize = 256;
const LONGEST_PASSWORD: usize = 1_024;
