//! [`Script`]: a script's thread, and the bounded queue in front of it.
//!
//! Calls about one connection run one after the other, each when the one before has returned; so do those
//! about none. Others go on meanwhile: a function that waits holds up its own connection and not the thread.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mlua::{IntoLuaMulti, MultiValue, Value};
use tokio::runtime::Builder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use super::clock::Clock;
use super::error::ScriptError;
use super::known::Endings;
use super::options::{OnError, ScriptOptions, Source};
use super::outside::{self, Called, Outside};
use super::vm::{Turn, Vm};
use crate::event::ConnectionId;
use crate::registry::{
    Call, CallError, Called as Calling, Ending, Frame, Functions, Party, Registry, Value as Argument,
};

/// A script that runs.
pub(crate) struct Script {
    /// `script.ID`.
    object: Arc<str>,
    names: Vec<Arc<str>>,
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    room: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
    endings: Arc<Endings>,
}

/// A call that waits for its turn.
struct Job {
    function: Arc<str>,
    call: Call,
    reply: oneshot::Sender<Result<Vec<Frame>, CallError>>,
    /// Until it has returned.
    _room: OwnedSemaphorePermit,
}

/// What has an order of its own: a connection, or all that is about none.
type Lane = Option<ConnectionId>;

/// What the thread has.
struct Serving {
    vm: Rc<Vm>,
    outside: Rc<Outside>,
    on_error: OnError,
    /// The lanes in which a function waits, and who comes after it there.
    lanes: HashMap<Lane, VecDeque<Job>>,
    waiting: JoinSet<Lane>,
}

impl Script {
    /// Loads a script on a thread of its own, which ends when this is [stopped](Self::stop) or dropped.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub(crate) async fn start(
        id: &str,
        source: &Source,
        options: &ScriptOptions,
        registry: &Registry,
    ) -> Result<Arc<Self>, ScriptError> {
        let object: Arc<str> = format!("script.{id}").into();
        // Each takes at least `PLACE` of the room, so there are never more.
        let (sender, queue) = mpsc::channel(ROOM / PLACE);
        let (loaded, is_loaded) = oneshot::channel();
        let (name, source, options, registry) =
            (Arc::clone(&object), source.clone(), options.clone(), registry.clone());
        let endings = Arc::<Endings>::default();
        let told = Arc::clone(&endings);
        let run = move || run(&name, &source, &options, &registry, &told, queue, loaded);
        let thread = thread::Builder::new().name(format!("script {id}")).stack_size(STACK).spawn(run);
        let thread = thread.map_err(|error| ScriptError::new(format!("cannot start a thread: {error}")))?;
        let ended = || ScriptError::new("its thread has ended");
        let names = is_loaded.await.map_err(|_| ended()).and_then(|loaded| loaded);
        let script = Self {
            object,
            names: names.as_ref().cloned().unwrap_or_default(),
            queue: Mutex::new(Some(sender)),
            room: Arc::new(Semaphore::new(ROOM)),
            thread: Mutex::new(Some(thread)),
            endings,
        };
        names.map(|_| Arc::new(script))
    }

    /// Takes no more calls, runs those it has, and ends what still waits after a moment.
    pub(crate) async fn stop(&self) {
        self.close();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // A function has its limit, and what waits is given a moment.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    /// Takes no more calls. Its thread ends when those it has are done, or after a moment.
    pub(crate) fn close(&self) {
        lock(&self.queue).take();
    }
}

impl Functions for Script {
    fn names(&self) -> Vec<Arc<str>> {
        self.names.clone()
    }

    fn call<'a>(&'a self, function: &'a str, call: Call) -> Calling<'a> {
        Box::pin(async move {
            let gone =
                || CallError::Script(format!("{}: was stopped before `{function}` returned", self.object));
            let queue = lock(&self.queue).clone().ok_or_else(gone)?;
            let size = PLACE + call.data.as_ref().map_or(0, |data| data.len());
            let size = size.min(ROOM).try_into().expect("the room is no larger");
            let room = Arc::clone(&self.room).acquire_many_owned(size).await.map_err(|_closed| gone())?;
            let (reply, answer) = oneshot::channel();
            let job = Job { function: function.into(), call, reply, _room: room };
            queue.send(job).await.map_err(|_closed| gone())?;
            drop(queue);
            answer.await.map_err(|_dropped| gone())?
        })
    }

    fn forget(&self, connection: ConnectionId) {
        self.endings.tell(connection);
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = lock(&self.thread).take()
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script")
            .field("object", &self.object)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// Loads a script as far as its functions are known, and drops it again.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn check(source: &Source, options: &ScriptOptions) -> Result<Vec<Arc<str>>, ScriptError> {
    let load = || {
        let outside = Rc::new(quiet(options));
        let vm = load(source, options, &outside, |_, _| {})?;
        Ok(vm.names())
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || {
            let runtime = Builder::new_current_thread().enable_time().build();
            let runtime = runtime.map_err(|error| ScriptError::new(error.to_string()))?;
            let _inside = runtime.enter();
            load()
        });
        let thread = thread.map_err(|error| ScriptError::new(format!("cannot start a thread: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(ScriptError::new("its thread panicked")))
    })
}

/// A node in which there is nothing.
fn quiet(options: &ScriptOptions) -> Outside {
    let clock = Rc::new(Clock::new(options.max_time));
    Outside::new(&"script".into(), &Registry::default(), &clock, None, &Arc::default())
}

fn load(
    source: &Source,
    options: &ScriptOptions,
    outside: &Rc<Outside>,
    write_log: impl Fn(&str, &str) + 'static,
) -> Result<Rc<Vm>, ScriptError> {
    let vm = Vm::new(options, &outside.clock, write_log, |lua| outside::add(lua, outside))?;
    vm.load(source)
}

/// The thread of a script.
fn run(
    object: &Arc<str>,
    source: &Source,
    options: &ScriptOptions,
    registry: &Registry,
    endings: &Arc<Endings>,
    queue: mpsc::Receiver<Job>,
    loaded: oneshot::Sender<Result<Vec<Arc<str>>, ScriptError>>,
) {
    // It has timers, and threads on which passwords are checked; sockets belong to the node.
    let runtime = match Builder::new_current_thread().enable_time().max_blocking_threads(CHECKING).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = loaded.send(Err(ScriptError::new(format!("cannot start: {error}"))));
            return;
        }
    };
    let clock = Rc::new(Clock::new(options.max_time));
    let outside = Rc::new(Outside::new(object, registry, &clock, options.passwords.clone(), endings));
    let logs = Rc::clone(&outside);
    let inside = runtime.enter();
    let vm = load(source, options, &outside, move |level, text| logs.write_log(level, text));
    drop(inside);
    let vm = match vm {
        Ok(vm) => vm,
        Err(error) => {
            let _ = loaded.send(Err(error));
            return;
        }
    };
    if loaded.send(Ok(vm.names())).is_err() {
        return;
    }
    let serving =
        Serving { vm, outside, on_error: options.on_error, lanes: HashMap::new(), waiting: JoinSet::new() };
    LocalSet::new().block_on(&runtime, serving.serve(queue));
}

impl Serving {
    async fn serve(mut self, mut queue: mpsc::Receiver<Job>) {
        loop {
            tokio::select! {
                biased;
                Some(lane) = self.waiting.join_next() => self.go_on(lane.unwrap_or_default()),
                () = self.outside.known.drop_ended() => {}
                job = queue.recv() => match job {
                    Some(job) => self.enter(job),
                    None => break,
                },
            }
        }
        let ends = async {
            while let Some(lane) = self.waiting.join_next().await {
                self.go_on(lane.unwrap_or_default());
            }
        };
        let _ = timeout(LAST, ends).await;
        self.waiting.shutdown().await;
    }

    /// Runs a call, unless another of its lane waits.
    fn enter(&mut self, job: Job) {
        let lane = job.call.connection.as_ref().map(|party| party.id);
        match self.lanes.get_mut(&lane) {
            Some(behind) => behind.push_back(job),
            None => self.begin(lane, job),
        }
    }

    /// The function of a lane has returned.
    fn go_on(&mut self, lane: Lane) {
        let mut behind = self.lanes.remove(&lane).unwrap_or_default();
        while let Some(job) = behind.pop_front() {
            self.begin(lane, job);
            if let Some(lane) = self.lanes.get_mut(&lane) {
                *lane = behind;
                return;
            }
        }
    }

    /// Runs a call as far as it goes without waiting.
    fn begin(&mut self, lane: Lane, job: Job) {
        // Nobody waits for it any more.
        if job.reply.is_closed() {
            return;
        }
        let Job { function, call, reply, _room } = job;
        let party = call.connection.clone();
        let called = Rc::new(Called::new(party.clone(), call.trail.clone()));
        let mut turn = match self.prepare(&function, &call) {
            Ok(turn) => turn,
            Err(error) => {
                let _ = reply.send(Err(CallError::Script(error.in_full())));
                return;
            }
        };
        let (vm, outside, on_error) = (Rc::clone(&self.vm), Rc::clone(&self.outside), self.on_error);
        let as_filter = call.as_filter;
        let finish = move |outside: &Outside, result: Result<Value, ScriptError>| {
            let result = match result {
                Ok(_) if !as_filter => Ok(Vec::new()),
                Ok(value) => vm.frames(value),
                Err(error) => Err(error),
            };
            if result.is_err() && on_error == OnError::Close {
                close(outside, party.as_ref());
            }
            // Whoever asked may have gone.
            let _ = reply.send(result.map_err(|error| CallError::Script(error.in_full())));
            drop(_room);
        };
        // Few functions wait. The waker that is none is replaced when it is polled again.
        match step(&mut turn, &outside, &called, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => finish(&outside, result),
            Poll::Pending => {
                self.lanes.insert(lane, VecDeque::new());
                self.waiting.spawn_local(async move {
                    let result = poll_fn(|cx| step(&mut turn, &outside, &called, cx)).await;
                    finish(&outside, result);
                    lane
                });
            }
        }
    }

    /// The function with what it is given: the connection, what the signal carries first, and a table of the rest.
    fn prepare(&self, function: &str, call: &Call) -> Result<Turn, ScriptError> {
        let missing = || ScriptError::new(format!("there is no function `{function}`"));
        let function = self.vm.function(function).ok_or_else(missing)?;
        let arguments = self.arguments(call);
        let arguments = arguments.map_err(|error| ScriptError::new(format!("{function:?}: {error}")))?;
        self.vm.call(function, arguments)
    }

    fn arguments(&self, call: &Call) -> mlua::Result<MultiValue> {
        let lua = self.vm.lua();
        let mut values = MultiValue::new();
        if let Some(party) = &call.connection {
            values.push_back(Value::UserData(self.outside.conn(lua, party)?));
        }
        // Data that an argument gives takes the place of that of the signal.
        let names = if call.data.is_some() { &FIRST[..1] } else { &FIRST };
        let first = names.iter().copied().find(|name| call.arguments.get(name).is_some());
        match (first, &call.data) {
            (Some(name), _) => values.push_back(self.value(call.arguments.get(name))?),
            (None, Some(data)) => values.push_back(Value::String(lua.create_string(data)?)),
            (None, None) => {}
        }
        let mut rest = call.arguments.iter().filter(|(name, _)| Some(*name) != first).peekable();
        if rest.peek().is_some() {
            let table = lua.create_table()?;
            for (name, value) in rest {
                table.raw_set(name, self.value(Some(value))?)?;
            }
            if values.len() < 1 + usize::from(call.connection.is_some()) {
                values.push_back(Value::Nil);
            }
            values.push_back(Value::Table(table));
        }
        values.into_lua_multi(lua)
    }

    fn value(&self, value: Option<&Argument>) -> mlua::Result<Value> {
        Ok(match value {
            None => Value::Nil,
            Some(Argument::Bytes(bytes)) => Value::String(self.vm.lua().create_string(bytes)?),
            Some(Argument::Integer(number)) => Value::Number(*number as f64),
            Some(Argument::Number(number)) => Value::Number(*number),
            Some(Argument::Bool(value)) => Value::Boolean(*value),
            Some(Argument::Connection(id)) => Value::Number(id.get() as f64),
        })
    }
}

/// Has a function run until it waits or returns.
fn step(
    turn: &mut Turn,
    outside: &Outside,
    called: &Rc<Called>,
    cx: &mut Context<'_>,
) -> Poll<Result<Value, ScriptError>> {
    outside.turn(Some(called));
    let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(turn).poll(cx)));
    outside.turn(None);
    polled.unwrap_or_else(|_| {
        Poll::Ready(Err(ScriptError::new("a function of the node panicked; please report it")))
    })
}

fn close(outside: &Outside, party: Option<&Arc<Party>>) {
    if let Some(party) = party
        && let Some(wired) = outside.registry.wired(&party.object)
    {
        wired.peers.end(Some(party.id), Ending::Close);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a function gets by itself, if there is any of them.
const FIRST: [&str; 4] = ["data", "reason", "error", "n"];
/// What may wait in front of a script, and in it, in bytes.
const ROOM: usize = 4 << 20;
/// What a call costs there beside its bytes.
const PLACE: usize = 1 << 10;
/// Of the thread; the interpreter nests 200 calls of its own in it.
const STACK: usize = 8 << 20;
/// Passwords that are checked at a time, with 19 MiB each.
const CHECKING: usize = 2;
/// For functions that wait when the script is stopped.
const LAST: Duration = Duration::from_secs(1);
