//! [`Owner`]: whoever runs a node has it obey the signals of the process and
//! the orders of control clients, and tells the service manager.

use std::io;
use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::args::Source;
use super::reload::{reload, say};
use super::words::clients_have;
use super::{FAILED, LAST_WORDS, plan};
use crate::event::Reason;
use crate::node::{Changes, Node, Outcome};
use crate::service::{ControlThread, Order, Phase, Reply, Supervisor};

/// A running node, and everyone it obeys.
pub(super) struct Owner {
    node: Node,
    source: Source,
    signals: Signals,
    supervisor: Supervisor,
    control: Option<ControlThread>,
    orders: mpsc::Receiver<Order>,
    quit: watch::Receiver<Option<u8>>,
    /// Whoever types has nothing to wait for.
    typed: bool,
    stopping: bool,
    /// Who waits to hear of the reload, at most one for each control client.
    waiting: Vec<Reply>,
}

/// That a reload is to be followed by another, and who waits for that.
struct Again {
    wanted: bool,
    waiting: Vec<Reply>,
}

/// What the owner is told.
enum Call {
    Signal(Caught),
    Order(Order),
    /// The slot `node.quit` was called.
    Quit,
}

impl Owner {
    pub(super) fn new(
        node: Node,
        source: Source,
        signals: Signals,
        supervisor: Supervisor,
        control: Option<ControlThread>,
        orders: mpsc::Receiver<Order>,
        typed: bool,
    ) -> Self {
        let (stopping, waiting) = (false, Vec::new());
        let quit = node.registry().watch_quit();
        Self { node, source, signals, supervisor, control, orders, quit, typed, stopping, waiting }
    }

    /// Runs the node until it is done or was told to stop, and yields the exit code.
    pub(super) async fn run(mut self) -> u8 {
        self.supervisor.ready(&plan(self.node.config())).await;
        while let Some(call) = self.next().await {
            let mut call = Some(call);
            while let Some(now) = call.take() {
                call = self.obey(now).await;
            }
        }
        let Self { node, control, orders, waiting, .. } = self;
        // Whoever still asks hears that the node has ended.
        drop((orders, waiting));
        let outcome = node.join().await;
        if let Some(control) = control {
            control.finish(LAST_WORDS);
        }
        outcome.log();
        match outcome {
            Outcome { conversation: None | Some(Reason::Closed), cut: 0, exit } => exit.unwrap_or(0),
            Outcome { exit: Some(code @ 1..), .. } => code,
            _ => FAILED,
        }
    }

    /// Waits until it is told something; `None` when the node is done.
    async fn next(&mut self) -> Option<Call> {
        let mut is_idle = false;
        loop {
            tokio::select! {
                biased;
                // Before the node itself obeys, which may be done at once.
                () = asked(&mut self.quit), if !self.stopping => return Some(Call::Quit),
                () = self.node.served(), if !is_idle => {
                    if !self.can_open_again() {
                        return None;
                    }
                    info!("no listener is open; a reload opens what was closed");
                    is_idle = true;
                }
                caught = self.signals.next() => return Some(Call::Signal(caught)),
                Some(order) = self.orders.recv() => return Some(Call::Order(order)),
                () = self.supervisor.watchdog_due() => self.supervisor.feed_watchdog().await,
            }
        }
    }

    /// Tells whether a node that serves nobody any more may yet be told to.
    fn can_open_again(&self) -> bool {
        let config = self.node.config();
        let talks = config.relay.values().any(|relay| config.is_conversation(relay));
        !self.stopping && !self.node.is_stopping() && !talks && matches!(self.source, Source::Files(_))
    }

    /// Does what it is told, and yields what it was told meanwhile and has not done.
    async fn obey(&mut self, call: Call) -> Option<Call> {
        match call {
            Call::Signal(Caught::Reload) => return self.reload().await,
            Call::Order(Order::Reload(reply)) => {
                self.waiting.push(reply);
                return self.reload().await;
            }
            Call::Signal(Caught::Stop) if self.stopping => self.node.stopper().now(),
            Call::Signal(Caught::Stop) | Call::Quit => _ = self.stop(None).await,
            // Whoever asked may have gone.
            Call::Order(Order::Stop(grace, reply)) => _ = reply.send(Ok(self.stop(grace).await)),
        }
        None
    }

    /// Reads the config again, for HUP and `node reload`. To stop comes first, and is yielded. To reload
    /// once more comes after, since the files may have been read before they were changed.
    async fn reload(&mut self) -> Option<Call> {
        if !self.stopping {
            self.supervisor.reloading().await;
        }
        loop {
            let mut again = Again { wanted: false, waiting: Vec::new() };
            match self.try_to_reload(&mut again).await {
                Ok(outcome) => {
                    say(&outcome, &self.source);
                    let answer = outcome.map(|changes| answer(&changes)).map_err(|lines| lines.join("\n"));
                    for reply in self.waiting.drain(..) {
                        let _ = reply.send(answer.clone());
                    }
                    if again.wanted {
                        self.waiting = again.waiting;
                        continue;
                    }
                    if !self.stopping {
                        self.supervisor.ready(&plan(self.node.config())).await;
                    }
                    return None;
                }
                Err(stop) => {
                    for reply in self.waiting.drain(..).chain(again.waiting) {
                        let _ = reply.send(Err("nothing was reloaded: the node is stopping".into()));
                    }
                    return Some(stop);
                }
            }
        }
    }

    /// One attempt, cut short when it is told to stop; then nothing has changed.
    async fn try_to_reload(&mut self, again: &mut Again) -> Result<Result<Changes, Vec<String>>, Call> {
        let mut reloading = pin!(reload(&mut self.node, &mut self.source));
        loop {
            tokio::select! {
                biased;
                caught = self.signals.next() => match caught {
                    Caught::Reload => again.wanted = true,
                    Caught::Stop => return Err(Call::Signal(Caught::Stop)),
                },
                Some(order) = self.orders.recv() => match order {
                    Order::Reload(reply) => {
                        again.wanted = true;
                        // Some have waited too long, and ask once more.
                        again.waiting.retain(|reply| !reply.is_closed());
                        again.waiting.push(reply);
                    }
                    stop => return Err(Call::Order(stop)),
                },
                () = self.supervisor.watchdog_due() => self.supervisor.feed_watchdog().await,
                outcome = &mut reloading => return Ok(outcome),
            }
        }
    }

    /// Accepts no more, and cuts what is left after `grace`, or the time the config gives. Told again it can
    /// only be faster.
    async fn stop(&mut self, grace: Option<Duration>) -> Value {
        let configured = if self.typed { Duration::ZERO } else { self.node.config().node.shutdown_grace };
        let grace = grace.unwrap_or(configured);
        let clients = self.node.bus().snapshot().clients();
        let holds = self.node.stopper().drain(grace);
        let grace_time =
            humantime::format_duration(Duration::from_millis(holds.as_millis() as u64)).to_string();
        if !std::mem::replace(&mut self.stopping, true) {
            let grace_time = grace_time.as_str();
            info!(connections = clients, grace = grace_time, "stopping; the next signal stops at once");
            if let Some(control) = &self.control {
                control.tell(Phase::Stopping);
            }
            let status = format!("stopping, {} {grace_time} to end", clients_have(clients as u64));
            self.supervisor.stopping(&status, grace).await;
        }
        json!({ "clients": clients, "grace": grace_time })
    }
}

/// Waits until the node is asked to quit by a slot. Cancel safe.
async fn asked(quit: &mut watch::Receiver<Option<u8>>) {
    // The node has the sender.
    let _ = quit.wait_for(Option::is_some).await;
}

/// What a control client is told of a reload.
fn answer(changes: &Changes) -> Value {
    let Changes { added, removed, changed, restart } = changes;
    let text = changes.to_string();
    json!({ "text": text, "added": added, "removed": removed, "changed": changed, "restart": restart })
}

impl Outcome {
    fn log(&self) {
        if self.cut > 0 {
            warn!(connections = self.cut, "stopped; connections were cut");
        }
    }
}

/// The signals a node obeys.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

enum Caught {
    Stop,
    Reload,
}

impl Signals {
    /// From here on they are caught.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Caught {
        tokio::select! {
            _ = self.terminate.recv() => Caught::Stop,
            _ = self.interrupt.recv() => Caught::Stop,
            _ = self.hangup.recv() => Caught::Reload,
        }
    }
}
