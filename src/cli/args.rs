//! What was typed, and what it means: every option, its help, and the
//! translation into a [`Config`] with all faults at once.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use tracing_subscriber::EnvFilter;

use super::layers::{self, LayerArgs, Typed};
use super::remote::Ask;
use super::seeing::{Seeing, filter};
use crate::address::Address;
use crate::config::{Config, Fault, Origins, Place, size};
use crate::framing::BadFrame;
use crate::net::{BindError, DialOptions, ListenOptions, MessageOptions, Overflow, QueueOptions};
use crate::relay::{BridgeOptions, JoinOn, RelayMode, RelayOptions, Reply, Strategy};
use crate::service::CONTROL;

/// Joins two networks: each client that comes to --listen gets a connection
/// of its own to --connect. One of them alone is joined with this terminal.
#[derive(Debug, Parser)]
#[command(name = "node", version, disable_help_subcommand = true, args_conflicts_with_subcommands = true)]
#[command(after_help = EXAMPLES, max_term_width = 100)]
pub(super) struct Args {
    /// Listen here: 9000, 127.0.0.1:9000, `[::1]:9000`, tls://9000, unix:/path, stdio: (repeatable)
    #[arg(short, long, value_name = "ADDR", allow_negative_numbers = true)]
    listen: Vec<String>,
    /// Connect each client to this: host:9001, 9001, tls://host:443, unix:/path, stdio:, echo: (repeatable: the next is tried when one fails)
    #[arg(long, value_name = "ADDR", allow_negative_numbers = true)]
    connect: Vec<String>,
    /// Which of several targets a client gets, or the connection of mode collect: failover, round_robin,
    /// least_connections [default: failover]
    #[arg(long, value_name = "STRATEGY")]
    strategy: Option<Strategy>,
    /// How the two are joined [default: pair, each client with a connection of its own]
    #[arg(long, value_name = "MODE")]
    mode: Option<RelayMode>,

    /// How messages are told apart: lines, lines:crlf, delimited:02,03, length:4, fixed:16, mbap, raw
    #[arg(long, value_name = "FRAMING", help_heading = "Messages")]
    frame: Option<String>,
    /// The most one message may have [default: 1MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Messages")]
    max_frame: Option<String>,
    /// What becomes of one that is longer, or not what the framing asks for: its sender is reset, or it
    /// is left out and counted [default: close]
    #[arg(long, value_name = "POLICY", help_heading = "Messages")]
    bad_frame: Option<BadFrame>,
    /// What may wait for a connection [default: 1MiB, in mode collect 16MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Messages")]
    queue: Option<String>,
    /// What happens when more would wait [default: disconnect, in mode collect block]
    #[arg(long, value_name = "POLICY", help_heading = "Messages")]
    overflow: Option<Overflow>,
    /// Who gets what the target of mode collect says [default: broadcast, every client]
    #[arg(long, value_name = "WHO", help_heading = "Messages")]
    reply: Option<Reply>,
    /// With --reply request, how long a request waits for its answer [default: 1s]
    #[arg(long, value_name = "TIME", help_heading = "Messages")]
    request_timeout: Option<String>,
    /// With --reply request and --frame mbap, requests on the link at once [default: 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Messages")]
    overlap: Option<String>,
    /// Put this before each message for the target of mode collect, as in "{name} "
    #[arg(long, value_name = "TAG", help_heading = "Messages")]
    tag: Option<String>,
    /// Take that name from a client's first message by this pattern [default: its address]
    #[arg(long, value_name = "PATTERN", help_heading = "Messages")]
    name: Option<String>,
    /// Send again what was unconfirmed when a connection to that target ended
    #[arg(long, help_heading = "Messages")]
    resend: bool,

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
    /// In mode bridge, clients of one listener that may wait for the other's [default: 64]
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Limits")]
    max_waiting: Option<String>,
    /// In mode bridge, end a connection that has waited for so long; or off [default: 1h]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, help_heading = "Limits")]
    wait_timeout: Option<String>,
    /// In mode bridge, dial the second target when the first sends data, or on its connection [default: data]
    #[arg(long, value_name = "WHEN", help_heading = "Limits")]
    join_on: Option<JoinOn>,
    /// Time for connections to end after TERM or INT [default: 10s]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, help_heading = "Limits")]
    shutdown_grace: Option<String>,
    /// Connect from this local address
    #[arg(long, value_name = "IP", help_heading = "Limits")]
    source: Option<String>,

    /// The largest read: more for bulk, less for a neighbour's sake [default: 4MiB]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, help_heading = "Limits")]
    max_read: Option<String>,
    /// Threads that move bytes; more than one pays where there are cores to spare [default: 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Limits")]
    threads: Option<String>,

    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    seeing: Seeing,

    /// Print the config file that says the same, and do nothing
    #[arg(long, help_heading = "Seeing")]
    print_config: bool,

    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a config: one or more TOML files
    Run {
        /// The files; they are merged
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        seeing: Seeing,
    },
    /// Check a config, and say in words what it does
    Check {
        /// The files; they are merged
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Print every value it stands for, as a config
        #[arg(long)]
        show: bool,
        /// Try every address and target; nothing is sent
        #[arg(long, conflicts_with = "show")]
        live: bool,
    },
    /// Print a config to begin with
    Example {
        /// Which; without one they are listed
        name: Option<String>,
        /// Write it, and the scripts and clients it comes with, into this folder
        #[arg(long, value_name = "DIR", requires = "name")]
        into: Option<PathBuf>,
    },
    /// Print the JSON Schema of config files, for editors
    Schema,
    /// Make certificates for a test or a plant: a private authority, and what it signs
    Cert {
        /// Where they are put; an authority that is there signs
        folder: PathBuf,
        /// A certificate for each: a host name or an IP address, or several with commas between
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// For how long they are good
        #[arg(long, value_name = "N", default_value_t = 397)]
        days: u32,
    },
    /// Print a page of the manual
    Help {
        /// Which page; without one they are listed
        topic: Option<String>,
    },
    #[command(flatten)]
    Ask(Ask),
    /// Print what makes a shell complete this program's words
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Enter a password for a name in a file that scripts look in
    Passwd {
        /// The file; it is made if there is none
        file: PathBuf,
        /// The name
        name: String,
    },
    /// Print the manual page, for man(1)
    Man,
}

/// What the program was asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Help(Option<String>),
    Example {
        name: Option<String>,
        into: Option<PathBuf>,
    },
    Schema,
    Cert {
        folder: PathBuf,
        names: Vec<String>,
        days: u32,
    },
    /// Print this on stdout.
    Print(String),
    Check {
        run: Box<Run>,
        live: bool,
    },
    Ask(Ask),
    Completions(Shell),
    Passwd {
        file: PathBuf,
        name: String,
    },
    Man,
    Run(Box<Run>),
}

/// A node to run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) config: Config,
    pub(super) filter: EnvFilter,
    pub(super) source: Source,
}

/// Where a config came from.
#[derive(Debug)]
pub(super) enum Source {
    CommandLine,
    Files(Box<Files>),
}

/// Files, and what the command line says beside them.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) paths: Vec<PathBuf>,
    pub(super) origins: Origins,
    seeing: Seeing,
}

impl Source {
    /// Faults as lines that name what was typed or where it is written.
    pub(super) fn explain(&self, faults: &[Fault]) -> Vec<String> {
        match self {
            Self::CommandLine => {
                let line = |fault: &Fault| format!("{}: {}", option(&fault.place), fault.text);
                faults.iter().map(line).collect()
            }
            Self::Files(files) => files.origins.explain(faults),
        }
    }

    /// The files, if it came from some.
    pub(super) fn paths(&self) -> &[PathBuf] {
        match self {
            Self::CommandLine => &[],
            Self::Files(files) => &files.paths,
        }
    }

    /// Where the address was written that could not be bound, if in a file.
    pub(super) fn locate_bind(&self, error: &BindError) -> Option<String> {
        match self {
            Self::CommandLine => None,
            Self::Files(files) => Some(files.locate_bind(error)),
        }
    }
}

impl Files {
    /// Where the address was written that could not be bound.
    pub(super) fn locate_bind(&self, error: &BindError) -> String {
        self.origins.locate(&match &*error.endpoint {
            CONTROL => Place::new("node", "", "control"),
            listener => Place::new("listen", listener, "bind"),
        })
    }

    /// Reads the files again: what they say now, with what the command line says beside them.
    pub(super) fn read(&self) -> Result<(Config, Self), Vec<String>> {
        let run = run_files(&self.paths, &self.seeing)?;
        match run.source {
            Source::Files(files) => Ok((run.config, *files)),
            Source::CommandLine => unreachable!("made from files above"),
        }
    }
}

fn run_files(paths: &[PathBuf], seeing: &Seeing) -> Result<Run, Vec<String>> {
    let (mut config, origins) = Config::read(paths).map_err(|error| error.faults)?;
    let written = config.program.log.clone();
    seeing.apply(&mut config.program).map_err(|fault| vec![format!("--control: {fault}")])?;
    let filter = filter(&config.program.log).map_err(|text| {
        if config.program.log == written {
            let fault = Fault { place: Place::new("node", "", "log"), text };
            origins.explain(&[fault])
        } else {
            vec![format!("{}: {text}", seeing.log_source())]
        }
    })?;
    let files = Files { paths: paths.to_vec(), origins, seeing: seeing.clone() };
    Ok(Run { config, filter, source: Source::Files(Box::new(files)) })
}

impl Args {
    /// What was meant, or everything that is wrong with it, a line each.
    pub(super) fn meaning(self) -> Result<Command, Vec<String>> {
        match self.command {
            Some(Verb::Help { topic }) => return Ok(Command::Help(topic)),
            Some(Verb::Example { name, into }) => return Ok(Command::Example { name, into }),
            Some(Verb::Schema) => return Ok(Command::Schema),
            Some(Verb::Cert { folder, names, days }) => return Ok(Command::Cert { folder, names, days }),
            Some(Verb::Run { files, seeing }) => {
                return run_files(&files, &seeing).map(|run| Command::Run(Box::new(run)));
            }
            Some(Verb::Check { files, show, live }) => {
                let run = Box::new(run_files(&files, &Seeing::default())?);
                return Ok(match show {
                    true => Command::Print(run.config.to_toml()),
                    false => Command::Check { run, live },
                });
            }
            Some(Verb::Ask(ask)) => return Ok(Command::Ask(ask)),
            Some(Verb::Completions { shell }) => return Ok(Command::Completions(shell)),
            Some(Verb::Passwd { file, name }) => return Ok(Command::Passwd { file, name }),
            Some(Verb::Man) => return Ok(Command::Man),
            None => {}
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
        match meaning.faults {
            faults if !faults.is_empty() => Err(faults),
            _ if self.print_config => Ok(Command::Print(run.config.to_short_toml())),
            _ => Ok(Command::Run(Box::new(run))),
        }
    }

    fn translate(&self, meaning: &mut Meaning) -> Run {
        let mut config = self.relay(meaning);
        config.node.max_connections = meaning.number("--max-connections", &self.max_connections);
        if let Some(grace) = meaning.duration("--shutdown-grace", &self.shutdown_grace) {
            config.node.shutdown_grace = grace;
        }
        if let Some(size) = meaning.size("--max-read", &self.max_read) {
            config.node.max_read = size;
        }
        if let Some(threads) = meaning.number("--threads", &self.threads) {
            config.program.threads = threads;
        }
        meaning.note("--control", self.seeing.apply(&mut config.program));
        let filter = meaning.note(self.seeing.log_source(), filter(&config.program.log)).unwrap_or_default();
        Run { config, filter, source: Source::CommandLine }
    }

    /// How messages are told apart, and how many may wait.
    fn messages(&self, meaning: &mut Meaning) -> MessageOptions {
        let framing = self.frame.as_ref().and_then(|text| meaning.note("--frame", text.parse()));
        MessageOptions {
            framing,
            max_frame: meaning.size("--max-frame", &self.max_frame),
            bad_frame: self.bad_frame.unwrap_or_default(),
            queue: QueueOptions { max: meaning.size("--queue", &self.queue), overflow: self.overflow },
            allow_half_open: false,
        }
    }

    /// How connections wait for each other.
    fn bridge(&self, meaning: &mut Meaning) -> BridgeOptions {
        let mut bridge = BridgeOptions::default();
        if let Some(most) = meaning.number("--max-waiting", &self.max_waiting) {
            bridge.max_waiting = most;
        }
        if self.wait_timeout.as_deref() == Some("off") {
            bridge.wait_timeout = None;
        } else if let Some(limit) = meaning.duration("--wait-timeout", &self.wait_timeout) {
            bridge.wait_timeout = Some(limit);
        }
        bridge.join_on = self.join_on.unwrap_or_default();
        bridge
    }

    /// The relay, its listeners and targets, with their options.
    fn relay(&self, meaning: &mut Meaning) -> Config {
        let typed = (Typed::new(&self.listen), Typed::new(&self.connect));
        let mut from = meaning.all("--listen", &typed.0.addresses);
        let mut to = meaning.all("--connect", &typed.1.addresses);
        let mode = self.mode.unwrap_or_default();
        // A lone --listen or --connect is joined with this terminal.
        for (end, other) in [(&self.listen, &mut from), (&self.connect, &mut to)] {
            if end.is_empty() && mode == RelayMode::Pair {
                other.push(Address::Stdio);
            }
        }
        let mut config = Config::relay(from, to);
        for relay in config.relay.values_mut() {
            relay.mode = mode;
            if mode == RelayMode::Publish {
                // Who listens on the command line hears what the target says.
                std::mem::swap(&mut relay.from, &mut relay.to);
            }
            if mode == RelayMode::Bridge && (relay.from.is_empty() || relay.to.is_empty()) {
                // Two of a kind: the first, and the second.
                let mut ends: Vec<_> = relay.from.drain(..).chain(relay.to.drain(..)).collect();
                relay.to = ends.split_off(ends.len().min(1));
                relay.from = ends;
            }
        }
        let messages = self.messages(meaning);

        let mut listen = ListenOptions::default();
        for text in &self.allow {
            meaning.note("--allow", listen.access.allow(text));
        }
        for text in &self.deny {
            meaning.note("--deny", listen.access.deny(text));
        }
        listen.backlog = meaning.number("--backlog", &self.backlog);
        listen.messages = messages;
        if mode == RelayMode::Collect {
            // What waits for the target is meant, and not the answers that wait for a client.
            listen.messages.queue = QueueOptions::default();
        }
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
        dial.messages = messages;
        config.client.values_mut().for_each(|client| client.options.clone_from(&dial));

        let mut relay = RelayOptions::default();
        if let Some(limit) = meaning.duration("--half-closed-timeout", &self.half_closed_timeout) {
            relay.half_closed_timeout = limit;
        }
        if self.idle_timeout.as_deref() != Some("off") {
            relay.idle_timeout = meaning.duration("--idle-timeout", &self.idle_timeout);
        }
        relay.targets.strategy = self.strategy.unwrap_or_default();
        relay.bridge = self.bridge(meaning);
        relay.reply = self.reply.unwrap_or_default();
        if let Some(limit) = meaning.duration("--request-timeout", &self.request_timeout) {
            relay.request.timeout = limit;
        }
        if let Some(most) = meaning.number("--overlap", &self.overlap) {
            relay.request.overlap = most;
        }
        relay.resend = self.resend;
        if self.tag.as_deref() != Some("off") {
            relay.tags.tag = self.tag.as_ref().and_then(|text| meaning.note("--tag", text.parse()));
        }
        if let Some(name) = self.name.as_ref().and_then(|text| meaning.note("--name", text.parse())) {
            relay.tags.name = name;
        }
        config.relay.values_mut().for_each(|one| one.options = relay.clone());
        self.layers.apply(&mut config, &typed.0, &typed.1, meaning);
        config
    }
}

/// The option that sets this part of the config.
pub(super) fn option(place: &Place) -> &'static str {
    if let Some(option) = layers::option(place) {
        return option;
    }
    match (place.table, place.key) {
        (_, "max_connections") => "--max-connections",
        (_, "shutdown_grace") => "--shutdown-grace",
        (_, "allow") => "--allow",
        (_, "deny") => "--deny",
        (_, "backlog") => "--backlog",
        (_, "connect_timeout") => "--connect-timeout",
        (_, "max_read") => "--max-read",
        (_, "threads") => "--threads",
        (_, "mode") => "--mode",
        (_, "strategy") => "--strategy",
        (_, "framing") => "--frame",
        (_, "max_frame") => "--max-frame",
        (_, "bad_frame") => "--bad-frame",
        (_, "queue_max") => "--queue",
        (_, "queue_overflow") => "--overflow",
        (_, "reply") => "--reply",
        (_, "max_waiting") => "--max-waiting",
        (_, "wait_timeout") => "--wait-timeout",
        (_, "join_on") => "--join-on",
        (_, "request_timeout") => "--request-timeout",
        (_, "overlap") => "--overlap",
        (_, "tag") => "--tag",
        (_, "name") => "--name",
        (_, "resend") => "--resend",
        (_, "source") => "--source",
        (_, "idle_timeout") => "--idle-timeout",
        (_, "half_closed_timeout") => "--half-closed-timeout",
        ("client", _) | ("relay", "to") => "--connect",
        _ => "--listen",
    }
}

/// Collects what is wrong, so that all of it is said at once.
#[derive(Default)]
pub(super) struct Meaning {
    faults: Vec<String>,
}

impl Meaning {
    pub(super) fn note<T, E: Display>(&mut self, option: &str, result: Result<T, E>) -> Option<T> {
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

    fn size(&mut self, option: &str, text: &Option<String>) -> Option<usize> {
        let text = text.as_ref()?;
        let problem = || format!("`{}` is not a size; write 64KiB or 1MiB", text.escape_debug());
        self.note(option, size(text).ok_or_else(problem))
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

pub(super) const EXAMPLES: &str = "\
Examples:
  node --listen 9000 --connect host:9001   relay: one outbound connection per client
  node --listen 9000 --connect echo:       an echo server, with no other program
  node --listen 9000                       talk to the first client from this terminal
  tar c . | node --connect host:9001       send a pipe, end when both sides have finished
  node --listen 9000 --mode hub --frame lines
                                           every client hears the lines of the others
  node -x --listen 9000 --connect host:80  watch every byte
  node check relay.toml                    say what a config file does
  node run relay.toml                      do it

`node help` lists the pages of the manual.";
