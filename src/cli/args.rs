//! What was typed, and what it means: every option, its help, and the
//! translation into a [`Config`] with all faults at once.

use std::fmt::Display;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use crate::address::Address;
use crate::config::{Config, Place};
use crate::net::{DialOptions, ListenOptions};
use crate::relay::RelayOptions;

/// Joins two networks: each client that comes to --listen gets a connection
/// of its own to --connect. One of them alone is joined with this terminal.
#[derive(Debug, Parser)]
#[command(name = "node", version, disable_help_subcommand = true, args_conflicts_with_subcommands = true)]
#[command(after_help = EXAMPLES, max_term_width = 100)]
pub(super) struct Args {
    /// Listen here: 9000, 127.0.0.1:9000, `[::1]:9000`, unix:/path, stdio: (repeatable)
    #[arg(short, long, value_name = "ADDR", allow_negative_numbers = true)]
    listen: Vec<String>,
    /// Connect each client to this: host:9001, 9001, unix:/path, stdio:, echo: (repeatable: the next is tried when one fails)
    #[arg(long, value_name = "ADDR", allow_negative_numbers = true)]
    connect: Vec<String>,

    /// Accept clients only from this network (repeatable)
    #[arg(long, value_name = "CIDR", help_heading = "Limits")]
    allow: Vec<String>,
    /// Refuse clients from this network; wins over --allow (repeatable)
    #[arg(long, value_name = "CIDR", help_heading = "Limits")]
    deny: Vec<String>,
    /// Clients at once; more wait in the backlog [default: what the descriptor limit allows]
    #[arg(short, long, value_name = "N", allow_hyphen_values = true, help_heading = "Limits")]
    max_connections: Option<String>,
    /// Clients the kernel may hold that were not accepted yet [default: net.core.somaxconn]
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Limits")]
    backlog: Option<String>,
    /// Time to reach one target, all its addresses together [default: 5s]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, help_heading = "Limits")]
    connect_timeout: Option<String>,
    /// End a connection in which nothing moves for so long [default: off]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, help_heading = "Limits")]
    idle_timeout: Option<String>,
    /// The same once one side has finished [default: 1h]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, help_heading = "Limits")]
    half_closed_timeout: Option<String>,
    /// Time for connections to end after TERM or INT [default: 10s]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, help_heading = "Limits")]
    shutdown_grace: Option<String>,
    /// Connect from this local address
    #[arg(long, value_name = "IP", help_heading = "Limits")]
    source: Option<String>,

    /// Threads that move bytes; more than one pays where there are cores to spare [default: 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Limits")]
    threads: Option<String>,

    /// Show every byte on stderr: direction, time, offset, hex, text
    #[arg(short = 'x', long, help_heading = "Seeing")]
    hexdump: bool,
    /// Log more; twice for everything
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Seeing")]
    verbose: u8,
    /// Log only warnings and errors
    #[arg(short, long, help_heading = "Seeing")]
    quiet: bool,
    /// Log by this filter instead, as in signal_node=debug
    #[arg(long, value_name = "FILTER", env = "SIGNAL_NODE_LOG", help_heading = "Seeing")]
    log: Option<String>,
    /// How stderr is written; json gives one object per event
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = "Seeing")]
    log_format: LogFormat,

    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print a page of the manual
    Help {
        /// Which page; without one they are listed
        topic: Option<String>,
    },
}

/// How stderr is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

/// What the program was asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Help(Option<String>),
    Run(Box<Run>),
}

/// A node to run, and how to report on it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) config: Config,
    pub(super) threads: usize,
    pub(super) hexdump: bool,
    pub(super) log: Log,
}

/// What is logged, and how.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) filter: tracing_subscriber::EnvFilter,
    pub(super) format: LogFormat,
}

impl Args {
    /// What was meant, or everything that is wrong with it, a line each.
    pub(super) fn meaning(self) -> Result<Command, Vec<String>> {
        if let Some(Verb::Help { topic }) = self.command {
            return Ok(Command::Help(topic));
        }
        if self.listen.is_empty() && self.connect.is_empty() {
            let text = "nothing to do; try `node --listen 9000 --connect host:9001`, or `node --help`";
            return Err(vec![text.into()]);
        }
        let mut meaning = Meaning::default();
        let run = self.translate(&mut meaning);
        let unread = meaning.faults.clone();
        for fault in run.config.check() {
            let option = option(&fault.place);
            let line = format!("{option}: {}", fault.text);
            // An option that could not be read is not judged by what is left of it, and
            // one that holds for several objects is wrong once.
            let is_unread = unread.iter().any(|known| known.starts_with(&format!("{option}: ")));
            if !is_unread && !meaning.faults.contains(&line) {
                meaning.faults.push(line);
            }
        }
        if meaning.faults.is_empty() { Ok(Command::Run(Box::new(run))) } else { Err(meaning.faults) }
    }

    fn translate(&self, meaning: &mut Meaning) -> Run {
        let mut config = self.relay(meaning);
        config.node.max_connections = meaning.number("--max-connections", &self.max_connections);
        if let Some(grace) = meaning.duration("--shutdown-grace", &self.shutdown_grace) {
            config.node.shutdown_grace = grace;
        }
        let threads = meaning.number("--threads", &self.threads).unwrap_or(1);
        if !(1..=MOST_THREADS).contains(&threads) {
            meaning.faults.push(format!(
                "--threads: {threads} is not possible; write a number from 1 to {MOST_THREADS}"
            ));
        }
        Run { config, threads, hexdump: self.hexdump, log: self.log(meaning) }
    }

    /// The relay, its listeners and targets, with their options.
    fn relay(&self, meaning: &mut Meaning) -> Config {
        let mut from = meaning.all("--listen", &self.listen);
        let mut to = meaning.all("--connect", &self.connect);
        // A lone --listen or --connect is joined with this terminal.
        for (end, other) in [(&self.listen, &mut from), (&self.connect, &mut to)] {
            if end.is_empty() {
                other.push(Address::Stdio);
            }
        }
        let mut config = Config::relay(from, to);

        let mut listen = ListenOptions::default();
        for text in &self.allow {
            meaning.note("--allow", listen.access.allow(text));
        }
        for text in &self.deny {
            meaning.note("--deny", listen.access.deny(text));
        }
        listen.backlog = meaning.number("--backlog", &self.backlog);
        config.listen.values_mut().for_each(|listener| listener.options = listen.clone());

        let mut dial = DialOptions::default();
        if let Some(limit) = meaning.duration("--connect-timeout", &self.connect_timeout) {
            dial.connect_timeout = limit;
        }
        if let Some(text) = &self.source {
            let problem =
                |_| format!("`{}` is not an IP address; write for example 192.0.2.1", text.escape_debug());
            dial.source = meaning.note("--source", text.parse().map_err(problem));
        }
        config.client.values_mut().for_each(|client| client.options = dial);

        let mut relay = RelayOptions::default();
        if let Some(limit) = meaning.duration("--half-closed-timeout", &self.half_closed_timeout) {
            relay.half_closed_timeout = limit;
        }
        if self.idle_timeout.as_deref() != Some("off") {
            relay.idle_timeout = meaning.duration("--idle-timeout", &self.idle_timeout);
        }
        config.relay.values_mut().for_each(|one| one.options = relay);
        config
    }

    /// Where the filter was written.
    fn log_source(&self) -> &'static str {
        let typed = std::env::args_os()
            .any(|arg| matches!(arg.to_str(), Some(arg) if arg == "--log" || arg.starts_with("--log=")));
        if typed { "--log" } else { "SIGNAL_NODE_LOG" }
    }

    fn log(&self, meaning: &mut Meaning) -> Log {
        let default = match self.verbose {
            _ if self.quiet => "signal_node=warn",
            0 => "signal_node=info",
            1 => "signal_node=debug",
            _ => "signal_node=trace",
        };
        let text = self.log.as_deref().unwrap_or(default);
        let filter = tracing_subscriber::EnvFilter::try_new(text).map_err(|error| {
            format!(
                "`{}` is not a filter ({error}); write for example signal_node=debug",
                text.escape_debug()
            )
        });
        Log { filter: meaning.note(self.log_source(), filter).unwrap_or_default(), format: self.log_format }
    }
}

/// The option that sets this part of the config.
pub(super) fn option(place: &Place) -> &'static str {
    match (place.table, place.key) {
        (_, "max_connections") => "--max-connections",
        (_, "shutdown_grace") => "--shutdown-grace",
        (_, "allow") => "--allow",
        (_, "deny") => "--deny",
        (_, "backlog") => "--backlog",
        (_, "connect_timeout") => "--connect-timeout",
        (_, "source") => "--source",
        (_, "idle_timeout") => "--idle-timeout",
        (_, "half_closed_timeout") => "--half-closed-timeout",
        ("client", _) | ("relay", "to") => "--connect",
        _ => "--listen",
    }
}

/// Collects what is wrong, so that all of it is said at once.
#[derive(Default)]
struct Meaning {
    faults: Vec<String>,
}

impl Meaning {
    fn note<T, E: Display>(&mut self, option: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.faults.push(format!("{option}: {error}"))).ok()
    }

    fn all(&mut self, option: &str, texts: &[String]) -> Vec<Address> {
        texts.iter().filter_map(|text| self.note(option, text.parse())).collect()
    }

    fn number<T: std::str::FromStr>(&mut self, option: &str, text: &Option<String>) -> Option<T> {
        let text = text.as_ref()?;
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten();
        let problem =
            || format!("`{}` is not a number from 1 up; write for example 100", text.escape_debug());
        self.note(option, number.ok_or_else(problem))
    }

    fn duration(&mut self, option: &str, text: &Option<String>) -> Option<Duration> {
        let text = text.as_ref()?;
        let seconds =
            text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok().map(Duration::from_secs));
        let duration = seconds.unwrap_or_else(|| humantime::parse_duration(text).ok());
        let problem = || format!("`{}` is not a duration; write 250ms, 30s, 5m or 1h", text.escape_debug());
        self.note(option, duration.ok_or_else(problem))
    }
}

/// More would only be in each other's way.
const MOST_THREADS: usize = 256;
const EXAMPLES: &str = "\
Examples:
  node --listen 9000 --connect host:9001   relay: one outbound connection per client
  node --listen 9000 --connect echo:       an echo server, with no other program
  node --listen 9000                       talk to the first client from this terminal
  tar c . | node --connect host:9001       send a pipe, end when both sides have finished
  node -x --listen 9000 --connect host:80  watch every byte

`node help` lists the pages of the manual.";
