//! [`Supervisor`]: the service manager that started this process, told what
//! becomes of it. systemd's protocol: a datagram of `KEY=value` lines to the
//! socket that `NOTIFY_SOCKET` names. Without that variable nothing is said.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdUnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::net::UnixDatagram;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tracing::warn;

/// Tells the service manager, if there is one.
///
/// Nothing here fails: what could not be said is logged, and the node goes on.
pub(crate) struct Supervisor {
    socket: Option<UnixDatagram>,
    watchdog: Option<Interval>,
}

impl Supervisor {
    /// The one that `NOTIFY_SOCKET` names, and the watchdog it runs.
    pub(crate) fn from_environment() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self { socket: None, watchdog: None };
        };
        let socket = match connect(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                let name = name.to_string_lossy().escape_debug().to_string();
                warn!(%error, socket = name, "cannot reach the service manager");
                None
            }
        };
        let variable = |name| env::var(name).ok();
        let limit = watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
        let watchdog = limit.filter(|_| socket.is_some()).map(|limit| {
            let every = limit / 2;
            let mut pings = interval_at(Instant::now() + every, every);
            pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pings
        });
        Self { socket, watchdog }
    }

    /// The node serves: every listener listens.
    pub(crate) async fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\n{}", status_line(status))).await;
    }

    /// The config is being read again; [`ready`](Self::ready) says when that is over.
    pub(crate) async fn reloading(&self) {
        // systemd compares it with the time of the signal it sent.
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\n")).await;
    }

    /// The node accepts no more, and will have ended within `grace`.
    pub(crate) async fn stopping(&self, status: &str, grace: Duration) {
        // Or a manager less patient than `--shutdown-grace` would kill what is to be drained.
        let extend = grace.saturating_add(MARGIN).as_micros();
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={extend}\n{}", status_line(status))).await;
    }

    /// Waits until the watchdog is to be fed; for ever, if there is none. Cancel safe.
    pub(crate) async fn watchdog_due(&mut self) {
        match &mut self.watchdog {
            Some(pings) => {
                pings.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    /// Says that the node is alive.
    pub(crate) async fn feed_watchdog(&self) {
        self.tell("WATCHDOG=1\n").await;
    }

    async fn tell(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        let error = match timeout(PATIENCE, socket.send(state.as_bytes())).await {
            Ok(Ok(_all)) => return,
            Ok(Err(error)) => error,
            Err(_elapsed) => io::ErrorKind::TimedOut.into(),
        };
        let state = state.lines().next().unwrap_or_default();
        warn!(%error, state, "the service manager was not told");
    }
}

/// A path, or after `@` a name in the abstract namespace.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => {
            let problem = "NOTIFY_SOCKET is neither a path from / nor an @name";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
    };
    let socket = StdUnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

/// The time within which a sign of life is expected of this process.
fn watchdog(microseconds: Option<String>, pid: Option<String>) -> Option<Duration> {
    let for_us = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    let microseconds = microseconds?.parse().ok().filter(|limit| *limit > 1)?;
    for_us.then_some(Duration::from_micros(microseconds))
}

/// `STATUS=`, which is one line whatever the text.
fn status_line(text: &str) -> String {
    let mut line = String::from("STATUS=");
    for c in text.chars() {
        let _ = if c.is_control() { write!(line, "{}", c.escape_debug()) } else { write!(line, "{c}") };
    }
    line.push('\n');
    line
}

/// The manager's queue is full, or it has stopped; the node has other things to do.
const PATIENCE: Duration = Duration::from_secs(1);
/// For the last words, beyond the time to drain.
const MARGIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_only_ours_if_it_names_no_other_process() {
        let text = |text: &str| Some(text.to_owned());
        let own = std::process::id().to_string();
        assert_eq!(watchdog(text("3000000"), None), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(text("3000000"), text(&own)), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(text("3000000"), text("1")), None);
        for none in ["", "0", "x", "-5"] {
            assert_eq!(watchdog(text(none), None), None, "{none}");
        }
        assert_eq!(watchdog(None, text(&own)), None);
    }

    #[test]
    fn a_status_stays_one_line() {
        assert_eq!(status_line("a\nREADY=1"), "STATUS=a\\nREADY=1\n");
    }
}
