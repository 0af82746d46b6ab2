//! `node status`, `signals`, `call`, `reload`, `stop`: a client of the control
//! socket of a running node. It asks in one line and prints what it is told.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

use super::faults::said;
use super::screen::{signal, status};
use super::words::clients_have;
use super::{FAILED, print, refuse, say_errors};
use crate::service::{MOST_CONNECTIONS, PROTOCOL, grace_of};

/// What a running node is asked.
#[derive(Debug, Subcommand)]
pub(super) enum Ask {
    /// Show a running node: its objects, connections, and counts
    Status {
        #[command(flatten)]
        at: At,
        /// Print the whole answer as one JSON object
        #[arg(long)]
        json: bool,
        /// Show so many connections, the oldest first [default: 40, with --json 10000]
        #[arg(long, value_name = "N")]
        connections: Option<String>,
    },
    /// Show what happens in a running node, until one of the two ends
    Signals {
        #[command(flatten)]
        at: At,
        /// Print each as a JSON object
        #[arg(long)]
        json: bool,
        /// OBJECT.KIND or one word, with * for anything, as in 'front.*' [default: all but the coalesced kinds]
        pattern: Option<String>,
    },
    /// Call a slot, as in 'front.pause', 'room.broadcast data=hello' or 'node.disconnect 7'
    #[command(after_help = "node help wiring lists the slots of all objects.")]
    Call {
        #[command(flatten)]
        at: At,
        /// As in front.pause
        #[arg(value_name = "OBJECT.SLOT")]
        slot: String,
        /// What the slot takes, by name, as in data=hello
        args: Vec<String>,
    },
    /// Have a running node read its config again
    Reload {
        #[command(flatten)]
        at: At,
    },
    /// Have a running node stop, and wait until it has
    Stop {
        #[command(flatten)]
        at: At,
        /// Time for its connections to end [default: its --shutdown-grace]
        #[arg(long, value_name = "TIME")]
        grace: Option<String>,
    },
}

/// Which node.
#[derive(Debug, clap::Args)]
pub(super) struct At {
    /// The control socket of the node
    #[arg(long, value_name = "PATH", env = "SIGNAL_NODE_CONTROL")]
    control: Option<PathBuf>,
}

/// Why there is no answer.
enum Failure {
    /// What was typed cannot be meant.
    Wrong(String),
    /// The node cannot be asked, or has refused.
    Refused(String),
    /// Nobody reads what is printed.
    Closed,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Refused(text)
    }
}

/// Asks, prints, and says how it went: 0 done, 1 refused or not reached, 2 not understood.
pub(super) fn ask(ask: &Ask) -> ExitCode {
    match run(ask) {
        Ok(code) => code,
        Err(Failure::Wrong(text)) => refuse(&[text], false),
        Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(Failure::Refused(text)) => {
            // Each fault of a config is a line; what belongs to the one before is set in.
            say_errors(&[text.replace('\n', "\nerror: ").replace("\nerror:   ", "\n  ")], false);
            ExitCode::from(FAILED)
        }
    }
}

fn run(ask: &Ask) -> Result<ExitCode, Failure> {
    match ask {
        Ask::Status { at, json: as_json, connections } => {
            let usual = if *as_json { None } else { Some(SHOWN) };
            let connections = match connections {
                None => usual,
                Some(text) => Some(number(text)?),
            };
            let mut request = json!({ "call": "status" });
            if let Some(connections) = connections {
                request["connections"] = connections.into();
            }
            let answer = Node::reach(at)?.ask(&request)?;
            Ok(print(&if *as_json { format!("{answer}\n") } else { status(&answer) }))
        }
        Ask::Signals { at, json: as_json, pattern } => {
            let mut request = json!({ "call": "signals" });
            if let Some(pattern) = pattern {
                request["pattern"] = pattern.as_str().into();
            }
            let mut node = Node::reach(at)?;
            node.ask(&request)?;
            node.watch(*as_json)
        }
        Ask::Call { at, slot: text, args } => {
            let (object, slot) = text
                .rsplit_once('.')
                .filter(|(object, slot)| !object.is_empty() && !slot.is_empty())
                .ok_or_else(|| {
                    Failure::Wrong(format!(
                        "call: `{}` is not OBJECT.SLOT; write for example front.pause",
                        text.escape_debug()
                    ))
                })?;
            let args = arguments(args)?;
            let request = json!({ "call": "call", "object": object, "slot": slot, "args": args });
            Node::reach(at)?.ask(&request)?;
            Ok(ExitCode::SUCCESS)
        }
        Ask::Reload { at } => {
            let answer = Node::reach(at)?.ask(&json!({ "call": "reload" }))?;
            let mut text = format!("reloaded: {}\n", answer["text"].as_str().unwrap_or_default());
            let restart: Vec<_> =
                answer["restart"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            if !restart.is_empty() {
                text.push_str(&format!("only a restart changes {}\n", restart.join(", ")));
            }
            Ok(print(&text))
        }
        Ask::Stop { at, grace } => {
            let mut request = json!({ "call": "stop" });
            if let Some(grace) = grace {
                let seconds = !grace.is_empty() && grace.bytes().all(|byte| byte.is_ascii_digit());
                let text = if seconds { format!("{grace}s") } else { grace.clone() };
                grace_of(&text).map_err(|problem| {
                    Failure::Wrong(format!("--grace: `{}` {problem}", grace.escape_debug()))
                })?;
                request["grace"] = text.into();
            }
            let mut node = Node::reach(at)?;
            let answer = node.ask(&request)?;
            let (clients, grace) = (
                answer["clients"].as_u64().unwrap_or_default(),
                answer["grace"].as_str().unwrap_or_default(),
            );
            let _closed = print(&format!("stopping; {} {grace} to end\n", clients_have(clients)));
            node.gone()
        }
    }
}

/// By name, as in `data=hello`, or a list of numbers and texts.
fn arguments(args: &[String]) -> Result<Value, Failure> {
    let is_named = |text: &&String| text.split_once('=').is_some_and(|(name, _)| is_word(name));
    if args.is_empty() || !args.iter().any(|text| is_named(&text)) {
        let argument = |text: &String| text.parse::<u64>().map_or_else(|_| text.as_str().into(), Value::from);
        return Ok(args.iter().map(argument).collect::<Vec<_>>().into());
    }
    let mut named = serde_json::Map::new();
    for text in args {
        let shown = text.escape_debug();
        let (name, value) = text.split_once('=').filter(|(name, _)| is_word(name)).ok_or_else(|| {
            Failure::Wrong(format!("call: `{shown}` has no name; write for example data=hello"))
        })?;
        if named.insert(name.to_owned(), value.into()).is_some() {
            return Err(Failure::Wrong(format!("call: `{name}` is given twice; write it once")));
        }
    }
    Ok(named.into())
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn number(text: &str) -> Result<u64, Failure> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let problem = || {
        Failure::Wrong(format!(
            "--connections: `{}` is not a number from 0 to {MOST_CONNECTIONS}; write for example 100",
            text.escape_debug()
        ))
    };
    let number = digits.then(|| text.parse().ok()).flatten();
    number.filter(|number| *number <= MOST_CONNECTIONS as u64).ok_or_else(problem)
}

/// A connection to the control socket of a node.
struct Node {
    input: BufReader<UnixStream>,
    shown: String,
}

impl Node {
    fn reach(at: &At) -> Result<Self, Failure> {
        let path = at.control.as_deref().filter(|path| !path.as_os_str().is_empty()).ok_or_else(|| {
            Failure::Wrong(
                "--control: no node is named; write --control PATH, or set SIGNAL_NODE_CONTROL".into(),
            )
        })?;
        let shown = path.display().to_string().escape_debug().to_string();
        let stream = connect(path).map_err(|error| explain(&shown, path, &error))?;
        let limited =
            stream.set_read_timeout(Some(LIMIT)).and_then(|()| stream.set_write_timeout(Some(LIMIT)));
        limited.map_err(|error| format!("cannot talk to {shown}: {error}"))?;
        let mut node = Self { input: BufReader::new(stream), shown };
        let greeting =
            node.next()?.ok_or_else(|| format!("{}: the node closed the connection", node.shown))?;
        match (&greeting["protocol"], &greeting["error"]) {
            (Value::Number(version), _) if *version == PROTOCOL.into() => Ok(node),
            (_, Value::String(error)) => Err(Failure::Refused(error.clone())),
            _ => Err(format!(
                "{} is no control socket this version can talk to; it began with {greeting}",
                node.shown
            )
            .into()),
        }
    }

    /// Sends a request and yields what it was answered with.
    fn ask(&mut self, request: &Value) -> Result<Value, Failure> {
        let sent = self.input.get_mut().write_all(format!("{request}\n").as_bytes());
        sent.map_err(|error| format!("cannot ask {}: {error}", self.shown))?;
        let mut answer =
            self.next()?.ok_or_else(|| format!("{}: the node ended before it answered", self.shown))?;
        match answer["error"].as_str() {
            Some(error) if answer["wrong"] == true => Err(Failure::Wrong(error.to_owned())),
            Some(error) => Err(Failure::Refused(error.to_owned())),
            None => Ok(answer["ok"].take()),
        }
    }

    /// The next line; `None` when the node has closed.
    fn next(&mut self) -> Result<Option<Value>, Failure> {
        let mut line = Vec::new();
        match self.input.read_until(b'\n', &mut line) {
            Ok(0) => Ok(None),
            Ok(_) => match serde_json::from_slice(&line) {
                Ok(value) => Ok(Some(value)),
                Err(_) if !line.ends_with(b"\n") => Ok(None),
                Err(_) => Err(format!("{} does not speak this program's language", self.shown).into()),
            },
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(format!("{} gave no answer within {}", self.shown, humantime::format_duration(LIMIT))
                    .into())
            }
            Err(error) => Err(format!("{} broke off: {error}", self.shown).into()),
        }
    }

    /// Prints signals until the node has ended.
    fn watch(mut self, as_json: bool) -> Result<ExitCode, Failure> {
        self.wait_for_ever()?;
        let mut out = io::stdout().lock();
        while let Some(item) = self.next()? {
            let line = match (&item["signal"], &item["lagged"], &item["end"], &item["error"]) {
                (Value::Null, Value::Number(missed), ..) if as_json => {
                    json!({ "lagged": missed }).to_string()
                }
                (Value::Null, Value::Number(missed), ..) => {
                    format!("… {missed} signals came too fast and are not shown")
                }
                (Value::Null, _, Value::String(_), _) => return Ok(ExitCode::SUCCESS),
                (Value::Null, _, _, Value::String(error)) => return Err(Failure::Refused(error.clone())),
                (event, ..) if as_json => event.to_string(),
                (event, ..) => signal(event),
            };
            // Whole lines at once, and nothing held back while nothing happens.
            let written = writeln!(out, "{line}");
            let flushed = if self.input.buffer().contains(&b'\n') { Ok(()) } else { out.flush() };
            if written.and(flushed).is_err() {
                return Err(Failure::Closed);
            }
        }
        Err(format!("{}: the node is gone", self.shown).into())
    }

    /// Waits until the node has ended.
    fn gone(mut self) -> Result<ExitCode, Failure> {
        self.wait_for_ever()?;
        while self.next()?.is_some() {}
        Ok(print("stopped\n"))
    }

    fn wait_for_ever(&self) -> Result<(), Failure> {
        let unlimited = self.input.get_ref().set_read_timeout(None);
        unlimited.map_err(|error| format!("cannot wait for {}: {error}", self.shown).into())
    }
}

/// Connects within a limited time, however many wait there already.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // It is the limit of connect(2), too.
    socket.set_write_timeout(Some(REACH))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

fn explain(shown: &str, path: &Path, error: &io::Error) -> Failure {
    let (why, hint) = match error.kind() {
        io::ErrorKind::NotFound => {
            ("there is no such socket", "start the node with --control, or name its path")
        }
        io::ErrorKind::ConnectionRefused if path.is_file() => {
            ("it is no socket", "name the path of a control socket")
        }
        io::ErrorKind::ConnectionRefused => ("no node listens there any more", "start it again"),
        io::ErrorKind::WouldBlock => {
            ("the node accepts nobody", "see whether its process is stopped, and end it if it does not go on")
        }
        io::ErrorKind::PermissionDenied => ("it belongs to another user", "ask as that user, or as root"),
        _ => return Failure::Refused(format!("cannot reach {shown}: {error}")),
    };
    Failure::Refused(said(format!("cannot reach {shown}: {why}"), None, Some(hint)))
}

/// To be accepted, for which a thread of the node is there.
const REACH: Duration = Duration::from_secs(5);
/// For an answer; reading a config again may resolve names.
const LIMIT: Duration = Duration::from_secs(90);
/// Connections a person is shown: twenty clients with their targets.
const SHOWN: u64 = 40;
