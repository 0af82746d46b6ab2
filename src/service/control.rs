//! The control socket: a Unix socket for this user alone, served by a thread
//! of its own, so that nobody who asks or watches takes time from the bytes.
//! What only the owner of the node can do reaches it as an [`Order`].

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{info, warn};

use super::client::attend;
use super::status::Begun;
use crate::bus::EventBus;
use crate::net::{ACCEPT_PAUSE, BindError, UnixPath, bind_private};
use crate::registry::Registry;

/// A bound control socket that does not answer yet.
pub(crate) struct Control {
    listener: StdUnixListener,
    path: UnixPath,
    begun: Begun,
}

/// The thread that answers.
pub(crate) struct ControlThread {
    phase: watch::Sender<Phase>,
    done: std_mpsc::Receiver<()>,
}

/// Where the node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// It accepts clients.
    Running,
    /// It lets them end.
    Stopping,
    /// Nothing is left but to say so.
    Over,
}

/// What a control client wants of the owner of the node, and where the answer goes.
pub(crate) enum Order {
    /// To read the config again.
    Reload(Reply),
    /// To stop, with so much time to drain if it is not the configured one.
    Stop(Option<Duration>, Reply),
}

/// The answer to an [`Order`], or why it had no effect.
pub(crate) type Reply = oneshot::Sender<Result<Value, String>>;

/// What every control client may look at and ask.
pub(super) struct View {
    pub(super) bus: EventBus,
    pub(super) registry: Registry,
    pub(super) begun: Begun,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) orders: mpsc::Sender<Order>,
    /// Its clones are the clients.
    pub(super) clients: Arc<()>,
}

impl Control {
    /// Listens at `path`, in the place of a socket that nobody listens on any more.
    ///
    /// # Errors
    /// [`BindError`], which names who listens there already.
    pub(crate) fn bind(path: &Path) -> Result<Self, BindError> {
        let (listener, guard) = bind_private(CONTROL, path)?;
        info!(path = %path.display(), "the control socket is open");
        Ok(Self { listener, path: guard, begun: Begun::now() })
    }

    /// Begins to answer. Orders reach the owner of the node by `orders`.
    ///
    /// # Errors
    /// That there can be no further thread.
    pub(crate) fn start(
        self,
        bus: EventBus,
        registry: Registry,
        orders: mpsc::Sender<Order>,
    ) -> io::Result<ControlThread> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (phase, follow) = watch::channel(Phase::Running);
        let Self { listener, path, begun } = self;
        // What clients hear, which is the end only when the path is gone.
        let (told, heard) = watch::channel(Phase::Running);
        let view = View { bus, registry, begun, phase: heard, orders, clients: Arc::default() };
        // One word at the end.
        let (say, done) = std_mpsc::sync_channel(1);
        thread::Builder::new().name("control".into()).spawn(move || {
            if let Err(error) = runtime.block_on(serve(listener, path, follow, told, Arc::new(view))) {
                warn!(%error, "the control socket is closed");
            }
            let _ = say.send(());
        })?;
        Ok(ControlThread { phase, done })
    }
}

impl ControlThread {
    /// Says where the node is in its life. [`Phase::Over`] lets the clients go.
    pub(crate) fn tell(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Lets the clients go, waiting at most for `limit`.
    pub(crate) fn finish(self, limit: Duration) {
        self.tell(Phase::Over);
        // A client that does not read its last words does not get them.
        let _ = self.done.recv_timeout(limit);
    }
}

/// Until the phase is over, or nobody is left to say so; `told` is what clients hear of it.
async fn serve(
    listener: StdUnixListener,
    path: UnixPath,
    mut phase: watch::Receiver<Phase>,
    told: watch::Sender<Phase>,
    view: Arc<View>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            changed = phase.changed() => match *phase.borrow_and_update() {
                Phase::Over => break,
                _ if changed.is_err() => break,
                now => _ = told.send_replace(now),
            },
            Some(ended) = clients.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "serving a control client panicked");
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if clients.len() < MOST_CLIENTS => {
                    clients.spawn(attend(stream, Arc::clone(&view)));
                }
                Ok((stream, _)) => {
                    let line = format!("{{\"error\":\"there are {MOST_CLIENTS} control clients already; end one\"}}\n");
                    // It fits into the empty queue of a new socket.
                    let _ = stream.try_write(line.as_bytes());
                }
                Err(error) => {
                    warn!(%error, "cannot accept a control client");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop((listener, path));
    told.send_replace(Phase::Over);
    let all = async { while clients.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_WORDS, all).await;
    Ok(())
}

/// What its errors call it, as a key of the config; no listener can have the name.
pub(crate) const CONTROL: &str = "node.control";
/// Consoles, scripts, and people; each may hold some megabytes.
pub(super) const MOST_CLIENTS: usize = 16;
/// How long clients may take to read what is left for them.
const LAST_WORDS: Duration = Duration::from_millis(500);
