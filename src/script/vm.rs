//! [`Vm`]: one script's interpreter, sealed. It can reach what it is given and
//! nothing else, and no function of it can take more time or memory than allowed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use mlua::chunk::{ChunkMode, Compiler};
use mlua::thread::AsyncThread;
use mlua::{
    Error, Function, IntoLuaMulti, Lua, LuaOptions, LuaString, StdLib, Table, Thread, Value, VmState,
};

use super::clock::Clock;
use super::error::ScriptError;
use super::library;
use super::options::{ScriptOptions, Setting, Source};
use crate::registry::Frame;

/// The interpreter of one script. It stays on the thread it was made on.
#[derive(Debug)]
pub(super) struct Vm {
    lua: Lua,
    clock: Rc<Clock>,
    /// Where the function was that ran too long.
    stopped: Rc<RefCell<Option<Vec<String>>>>,
    /// What tells where a coroutine is.
    traceback: Function,
    /// What `reply` makes has this metatable.
    replies: Table,
    /// Coroutines whose functions have returned, for the next.
    idle: RefCell<Vec<Thread>>,
    functions: BTreeMap<Arc<str>, Function>,
    source: Arc<str>,
    max_memory: usize,
}

/// A function that runs, or waits. Dropped, it does not go on.
pub(super) struct Turn {
    vm: Rc<Vm>,
    /// Until it has returned.
    thread: Option<Thread>,
    running: AsyncThread<Value>,
    used: Duration,
}

impl Vm {
    /// An interpreter with our library, to which `add` adds what depends on the node. Nothing has been run.
    pub(super) fn new(
        options: &ScriptOptions,
        clock: &Rc<Clock>,
        write_log: impl Fn(&str, &str) + 'static,
        add: impl FnOnce(&Lua) -> mlua::Result<()>,
    ) -> Result<Self, ScriptError> {
        let make = || {
            let lua = Lua::new_with(
                LIBRARIES.into_iter().fold(StdLib::NONE, |all, one| all | one),
                LuaOptions::default(),
            )?;
            let traceback = lua.globals().get::<Table>("debug")?.get("traceback")?;
            let replies = lua.create_table()?;
            let stopped = Rc::default();
            prepare(&lua, clock, &replies, write_log)?;
            add(&lua)?;
            lua.globals().raw_set("settings", settings(&lua, options)?)?;
            lua.sandbox(true)?;
            lua.set_memory_limit(options.max_memory)?;
            watch(&lua, clock, &stopped, options.max_memory);
            lua.set_compiler(Compiler::new().set_optimization_level(1).set_debug_level(1));
            Ok::<_, Error>(Self {
                lua,
                clock: Rc::clone(clock),
                stopped,
                traceback,
                replies,
                idle: RefCell::default(),
                functions: BTreeMap::new(),
                source: "".into(),
                max_memory: options.max_memory,
            })
        };
        make().map_err(|error| ScriptError::new(format!("cannot make an interpreter: {error}")))
    }

    /// Runs the text once, and finds the global functions it has made.
    pub(super) fn load(mut self, source: &Source) -> Result<Rc<Self>, ScriptError> {
        self.source = Arc::clone(&source.name);
        if source.text.starts_with('\u{1b}') {
            return Err(ScriptError::new(format!("{}: is bytecode; write text", source.name)));
        }
        let text = "\n".repeat(source.line.saturating_sub(1)) + &source.text;
        let chunk = self.lua.load(text).set_name(format!("@{}", source.name)).set_mode(ChunkMode::Text);
        let main = chunk.into_function().map_err(|error| self.explain(error, Vec::new()))?;
        let vm = Rc::new(self);
        let mut turn = vm.call(&main, ())?;
        match Pin::new(&mut turn).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result?,
            Poll::Pending => {
                let traceback = turn.thread.as_ref().map_or_else(Vec::new, |thread| vm.where_is(thread));
                let text = "only functions that are called later can wait, not the script itself";
                return Err(vm.place(text.into(), traceback));
            }
        };
        drop(turn);
        vm.idle.take();
        let mut vm = Rc::into_inner(vm).expect("the turn was the other one that had it");
        for pair in vm.lua.globals().pairs::<Value, Value>() {
            if let Ok((Value::String(name), Value::Function(function))) = pair
                && let Ok(name) = name.to_str()
            {
                vm.functions.insert((&*name).into(), function);
            }
        }
        Ok(Rc::new(vm))
    }

    /// The names of its global functions.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.functions.keys().cloned().collect()
    }

    /// The global function of this name.
    pub(super) fn function(&self, name: &str) -> Option<&Function> {
        self.functions.get(name)
    }

    /// The interpreter, to make arguments in.
    pub(super) fn lua(&self) -> &Lua {
        &self.lua
    }

    /// Begins a call; nothing runs before it is polled.
    pub(super) fn call(
        self: &Rc<Self>,
        function: &Function,
        arguments: impl IntoLuaMulti,
    ) -> Result<Turn, ScriptError> {
        let idle = self.idle.borrow_mut().pop();
        let begin = || {
            let thread = match idle {
                Some(thread) => {
                    thread.reset(function.clone())?;
                    thread
                }
                None => self.lua.create_thread(function.clone())?,
            };
            let running = thread.clone().into_async(arguments)?;
            Ok((thread, running))
        };
        let (thread, running) = begin().map_err(|error| self.failed(error, Vec::new()))?;
        Ok(Turn { vm: Rc::clone(self), thread: Some(thread), running, used: Duration::ZERO })
    }

    /// What a filter has returned, as frames.
    pub(super) fn frames(&self, value: Value) -> Result<Vec<Frame>, ScriptError> {
        let wrong = |found: &Value| {
            let text = "returns text, a list of texts, reply(text), or nil to drop the frame";
            ScriptError::new(format!("{}: a filter {text}; found {}", self.source, found.type_name()))
        };
        let text = |value: &Value| match value {
            Value::String(text) => Some(Bytes::copy_from_slice(&text.as_bytes())),
            Value::Integer(_) | Value::Number(_) => Some(value.to_string().ok()?.into()),
            _ => None,
        };
        let frame = |value: &Value| match value {
            Value::Table(table) if table.metatable().as_ref() == Some(&self.replies) => {
                let inside = table.raw_get::<Value>(1).unwrap_or(Value::Nil);
                text(&inside).map(|data| Frame { data, to_sender: true })
            }
            value => text(value).map(|data| Frame { data, to_sender: false }),
        };
        match &value {
            Value::Nil => Ok(Vec::new()),
            Value::Table(list) if list.metatable().is_none() => list
                .sequence_values::<Value>()
                .map(|value| {
                    let value = value.map_err(|error| self.explain(error, Vec::new()))?;
                    frame(&value).ok_or_else(|| wrong(&value))
                })
                .collect(),
            value => frame(value).map(|frame| vec![frame]).ok_or_else(|| wrong(value)),
        }
    }

    /// What it holds that it can reach, in bytes.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.lua.gc_collect().unwrap();
        self.lua.used_memory()
    }

    /// Where a coroutine is, the innermost first.
    fn where_is(&self, thread: &Thread) -> Vec<String> {
        // What it has filled the memory with may still be in its reach.
        let _ = self.lua.set_memory_limit(self.max_memory + LAST_WORDS);
        let _ = self.lua.gc_collect();
        let text = self.traceback.call::<LuaString>((thread.clone(), ""));
        let _ = self.lua.set_memory_limit(self.max_memory);
        let lines = text.map(|text| text.to_string_lossy()).unwrap_or_default();
        lines.lines().map(str::trim).filter(|line| !line.is_empty()).take(DEEPEST).map(in_words).collect()
    }

    /// After an error whatever the function had taken is given back.
    fn failed(&self, error: Error, traceback: Vec<String>) -> ScriptError {
        let error = self.explain(error, traceback);
        let _ = self.lua.gc_collect();
        error
    }

    fn explain(&self, error: Error, traceback: Vec<String>) -> ScriptError {
        let text = match &error {
            Error::MemoryError(_) => self.too_much_memory(),
            Error::SyntaxError { message, .. } => message.clone(),
            error => {
                let text = match cause(error) {
                    Error::RuntimeError(text) => text.clone(),
                    error => error.to_string(),
                };
                let text = text.split("\nstack traceback:").next().unwrap_or_default().to_owned();
                if text.ends_with(NO_MEMORY) { self.too_much_memory() } else { text }
            }
        };
        self.place(text, traceback)
    }

    fn too_much_memory(&self) -> String {
        let most = self.max_memory / 1024;
        format!("its values take more than {most} KiB of memory, the `max_memory` of the script")
    }

    /// With the line in front, if it does not begin with it already.
    fn place(&self, text: String, traceback: Vec<String>) -> ScriptError {
        let own = |line: &&String| line.strip_prefix(&*self.source).is_some_and(|rest| rest.starts_with(':'));
        let text = match traceback.iter().find(own) {
            Some(line) if !own(&&text) => {
                let place = line.split(" in ").next().unwrap_or(line);
                // What our own library says of its line says nothing to the reader.
                let text = text.strip_prefix(OWN).map_or(&*text, |rest| {
                    rest.trim_start_matches(|c: char| c == ':' || c == ' ' || c.is_ascii_digit())
                });
                format!("{place}: {text}")
            }
            _ => text,
        };
        let theirs =
            |line: &String| !line.starts_with(OWN) && !line.starts_with("[C]") && !line.contains("__mlua");
        ScriptError { text, traceback: traceback.into_iter().filter(theirs).collect() }
    }
}

impl Turn {
    fn end(&mut self, result: mlua::Result<Value>) -> Result<Value, ScriptError> {
        let vm = &self.vm;
        if let Some(traceback) = vm.stopped.take() {
            let limit = vm.clock.limit().as_millis();
            let text = format!("ran for more than {limit} ms, the `max_time` of the script");
            let _ = vm.lua.gc_collect();
            return Err(vm.place(text, traceback));
        }
        match result {
            Ok(value) => {
                let mut idle = vm.idle.borrow_mut();
                if idle.len() < MOST_IDLE {
                    idle.extend(self.thread.take());
                }
                Ok(value)
            }
            Err(error) => {
                let traceback = self.thread.as_ref().map_or_else(Vec::new, |thread| vm.where_is(thread));
                Err(vm.failed(error, traceback))
            }
        }
    }
}

impl Future for Turn {
    type Output = Result<Value, ScriptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.vm.clock.begin(this.used);
        let polled = Pin::new(&mut this.running).poll(cx);
        match polled {
            Poll::Pending if this.vm.stopped.borrow().is_none() => {
                this.used = this.vm.clock.used();
                Poll::Pending
            }
            // It has caught the error that was to end it, and waits.
            Poll::Pending => Poll::Ready(this.end(Ok(Value::Nil))),
            Poll::Ready(result) => Poll::Ready(this.end(result)),
        }
    }
}

/// Everything of Luau's that is harmless, and ours that needs no node.
fn prepare(
    lua: &Lua,
    clock: &Rc<Clock>,
    replies: &Table,
    write_log: impl Fn(&str, &str) + 'static,
) -> mlua::Result<()> {
    replies.raw_set("__metatable", "reply")?;
    let write_log = lua.create_function(move |_, (level, text): (LuaString, LuaString)| {
        write_log(&level.to_str()?, &text.to_string_lossy());
        Ok(())
    })?;
    let plain_find = lua.create_function(plain_find)?;
    let split = lua.create_function(split)?;
    let prelude = lua.load(include_str!("prelude.luau")).set_name(OWN_CHUNK);
    prelude.call::<()>((Lua::poll_pending(), plain_find, split, write_log, replies))?;
    library::add(lua, clock)?;
    let globals = lua.globals();
    globals.raw_remove("debug")?;
    // Who looks for what is not here is told so, and not that it is nil.
    let absent = lua.create_function(|_, (_, name): (Value, Value)| {
        if let Value::String(name) = &name
            && let Ok(name) = name.to_str()
            && ABSENT.contains(&&*name)
        {
            return Err(Error::runtime(format!(
                "scripts have no `{name}`; `node help scripts` lists what they have"
            )));
        }
        Ok(Value::Nil)
    })?;
    let metatable = lua.create_table_from([("__index", absent)])?;
    metatable.set_readonly(true);
    globals.set_metatable(Some(metatable))
}

/// What the config says, for the script to read.
fn settings(lua: &Lua, options: &ScriptOptions) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    for (name, setting) in &options.settings {
        match setting {
            Setting::Text(text) => table.raw_set(name.as_str(), text.as_str())?,
            Setting::Integer(number) => table.raw_set(name.as_str(), *number)?,
            Setting::Number(text) => table.raw_set(name.as_str(), text.parse().unwrap_or(f64::NAN))?,
            Setting::Bool(value) => table.raw_set(name.as_str(), *value)?,
        }
    }
    table.set_readonly(true);
    Ok(table)
}

/// Has the interpreter ask the clock, and look whether what nobody can reach any more takes up the room: it
/// does not collect that by itself before it fails.
fn watch(lua: &Lua, clock: &Rc<Clock>, stopped: &Rc<RefCell<Option<Vec<String>>>>, max_memory: usize) {
    let (clock, stopped) = (Rc::clone(clock), Rc::clone(stopped));
    let collected = Cell::new(0);
    lua.set_interrupt(move |lua| {
        let used = lua.used_memory();
        if used > max_memory / 2 && used > collected.get() + max_memory / 8 {
            lua.gc_collect()?;
            collected.set(lua.used_memory());
        }
        if !clock.is_over() {
            return Ok(VmState::Continue);
        }
        // From now on every question ends so, and to catch the error does not help.
        stopped.borrow_mut().get_or_insert_with(|| stack(lua));
        Err(Error::runtime("ran for too long"))
    });
}

/// The functions that run now, the innermost first.
fn stack(lua: &Lua) -> Vec<String> {
    let line = |level| {
        lua.inspect_stack(level, |debug| {
            let source = debug.source().short_src.unwrap_or_default().into_owned();
            let line = debug.current_line().map_or_else(String::new, |line| format!(":{line}"));
            let name = debug.names().name.map_or_else(String::new, |name| format!(" in {name}"));
            format!("{source}{line}{name}")
        })
    };
    (0..DEEPEST).map_while(line).collect()
}

/// `chat.luau:3 function parse` says `in`.
fn in_words(line: &str) -> String {
    line.replacen(" function ", " in ", 1)
}

/// What an error began as.
fn cause(error: &Error) -> &Error {
    match error {
        Error::CallbackError { cause: inner, .. } => cause(inner),
        Error::BadArgument { cause: inner, .. } => cause(inner),
        error => error,
    }
}

/// `string.find` without a pattern, in a time that does not depend on what is looked for.
fn plain_find(
    _: &Lua,
    (text, wanted, begin): (LuaString, LuaString, Option<i64>),
) -> mlua::Result<(Option<usize>, Option<usize>)> {
    let (text, wanted) = (text.as_bytes(), wanted.as_bytes());
    let begin = match begin.unwrap_or(1) {
        begin if begin < 0 => text.len().saturating_sub(begin.unsigned_abs() as usize),
        begin => (begin as usize).saturating_sub(1),
    };
    let found = text.get(begin..).and_then(|rest| memchr::memmem::find(rest, &wanted));
    Ok(match found {
        Some(at) => (Some(begin + at + 1), Some(begin + at + wanted.len())),
        None => (None, None),
    })
}

/// `string.split`, the same.
fn split(lua: &Lua, (text, separator): (LuaString, Option<LuaString>)) -> mlua::Result<Table> {
    let text = text.as_bytes();
    let separator = separator.as_ref().map(|separator| separator.as_bytes());
    let separator = separator.as_deref().unwrap_or(b",");
    let parts = lua.create_table()?;
    if separator.is_empty() {
        text.iter().try_for_each(|byte| parts.raw_push(lua.create_string([*byte])?))?;
        return Ok(parts);
    }
    let mut begin = 0;
    for at in memchr::memmem::find_iter(&text, separator) {
        parts.raw_push(lua.create_string(&text[begin..at])?)?;
        begin = at + separator.len();
    }
    parts.raw_push(lua.create_string(&text[begin..])?)?;
    Ok(parts)
}

/// `debug` is taken away again, when we have what tells where a coroutine is.
const LIBRARIES: [StdLib; 8] = [
    StdLib::STRING,
    StdLib::TABLE,
    StdLib::MATH,
    StdLib::COROUTINE,
    StdLib::BIT,
    StdLib::BUFFER,
    StdLib::UTF8,
    StdLib::DEBUG,
];
/// What other Luas have, and nobody is to miss in silence.
pub(super) const ABSENT: [&str; 14] = [
    "io",
    "os",
    "package",
    "require",
    "load",
    "loadstring",
    "loadfile",
    "dofile",
    "debug",
    "getfenv",
    "setfenv",
    "collectgarbage",
    "newproxy",
    "ffi",
];
/// Lines of ours, as tracebacks have them.
const OWN: &str = "[node]";
const OWN_CHUNK: &str = "=[node]";
const NO_MEMORY: &str = "not enough memory";
/// Of a traceback.
const DEEPEST: usize = 12;
/// More memory to say what has taken it.
const LAST_WORDS: usize = 256 << 10;
/// Coroutines that are kept; a handler that waits has its own.
const MOST_IDLE: usize = 64;
