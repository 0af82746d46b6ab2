//! The command line: what was typed becomes a config, a node runs it, and
//! signals stop it. Data goes to stdout, everything else to stderr.

mod args;
#[cfg(feature = "tls")]
mod cert;
#[cfg(not(feature = "tls"))]
#[path = "cert_absent.rs"]
mod cert;
mod documents;
mod dump;
mod example;
mod explain;
mod faults;
mod layers;
mod limiter;
mod live;
mod owner;
mod passwd;
mod recoveries;
mod reload;
mod remote;
mod report;
mod schema;
mod screen;
mod seeing;
mod words;
mod writer;

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::info;
use tracing_subscriber::EnvFilter;

use self::args::{Args, Command, Run, Source};
use self::dump::Dump;
use self::owner::{Owner, Signals};
use self::report::{Conversation, Reporter};
use self::writer::LogQueue;
use crate::address::Address;
use crate::bus::EventBus;
use crate::config::{Config, LogFormat, RelayConfig};
use crate::guide;
use crate::net::inherit_sockets;
use crate::node::{Node, NodeError, read_material};
use crate::relay::RelayMode;
use crate::service::{Control, Supervisor};

/// Runs the program `node`, and says how it ended: 0 done, 1 failed while
/// running, 2 wrong command line or config.
pub fn main() -> ExitCode {
    // Before any thread, since it changes the environment.
    inherit_sockets();
    raise_descriptor_limit();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if !error.use_stderr() => return print(&error.to_string()),
        Err(error) => return refuse(&[faults::line(&error)], typed_json()),
    };
    match args.meaning() {
        Err(faults) => refuse(&faults, typed_json()),
        Ok(Command::Help(topic)) => help(topic.as_deref()),
        Ok(Command::Example { name: None, .. }) => print(&example::list()),
        Ok(Command::Example { name: Some(name), into: None }) => match example::named(&name) {
            Ok(text) => print(text),
            Err(fault) => refuse(&[fault], false),
        },
        Ok(Command::Example { name: Some(name), into: Some(folder) }) => match example::write(&name, &folder)
        {
            Ok(text) => print(&text),
            Err(fault) => refuse(&[fault], false),
        },
        Ok(Command::Schema) => print(&schema::text()),
        Ok(Command::Cert { folder, names, days }) => match cert::make(&folder, &names, days) {
            Ok(text) => print(&text),
            Err(fault) => refuse(&[format!("cert: {fault}")], false),
        },
        Ok(Command::Print(text)) => print(&text),
        Ok(Command::Check { run, live }) => check(&run, live),
        Ok(Command::Ask(ask)) => remote::ask(&ask),
        Ok(Command::Completions(shell)) => print(&documents::completions(shell)),
        Ok(Command::Passwd { file, name }) => match passwd::enter(&file, &name) {
            Ok(text) => print(&text),
            Err(fault) => refuse(&[format!("passwd: {fault}")], false),
        },
        Ok(Command::Man) => print(&documents::manual_page()),
        Ok(Command::Run(run)) => start(*run),
    }
}

/// Prints what was asked for on stdout.
fn print(text: &str) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_closed) => ExitCode::from(FAILED),
    }
}

fn help(topic: Option<&str>) -> ExitCode {
    let Some(topic) = topic else {
        let list = guide::PAGES.iter().fold(String::from("Pages of the manual:\n\n"), |mut list, page| {
            let _ = writeln!(list, "  node help {:<14}{}", page.topic, page.about);
            list
        });
        return print(&list);
    };
    match guide::PAGES.iter().find(|page| page.topic == topic) {
        Some(page) => print(page.text),
        None => {
            let topics: Vec<_> = guide::PAGES.iter().map(|page| page.topic).collect();
            let what = match example::named(topic) {
                Ok(_) => {
                    format!("`{topic}` is an example: `node example {topic}`; perhaps `node help systems`")
                }
                Err(_) => format!("there is no page `{}`", topic.escape_debug()),
            };
            refuse(&[format!("help: {what}; the pages are {}", topics.join(", "))], false)
        }
    }
}

/// Says what a config does, or tries what it would open and dial.
fn check(run: &Run, live: bool) -> ExitCode {
    let config = &run.config;
    let material = match read_material(config) {
        Ok(material) => material,
        Err(faults) => return refuse(&run.source.explain(&faults), false),
    };
    if !live {
        return print(&explain::config(config, run.source.paths()));
    }
    match runtime(1).map(|runtime| runtime.block_on(live::try_all(config, material))) {
        Ok(Ok((text, true))) => print(&text),
        Ok(Ok((text, false))) => {
            print(&text);
            ExitCode::from(FAILED)
        }
        Ok(Err(faults)) => refuse(&run.source.explain(&faults), false),
        Err(error) => {
            say_errors(&[format!("cannot start: {error}")], false);
            ExitCode::from(FAILED)
        }
    }
}

/// Says what is wrong with the command line or config, a line each.
fn refuse(faults: &[String], as_json: bool) -> ExitCode {
    say_errors(faults, as_json);
    ExitCode::from(WRONG)
}

fn say_errors(errors: &[String], as_json: bool) {
    for error in errors {
        let line = if as_json {
            let now = humantime::format_rfc3339_micros(std::time::SystemTime::now()).to_string();
            serde_json::json!({ "timestamp": now, "level": "ERROR", "message": error }).to_string()
        } else {
            format!("error: {error}")
        };
        // Nobody is left to tell if stderr is closed.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Whether JSON was asked for, when the command line could not be understood otherwise.
fn typed_json() -> bool {
    let args: Vec<_> = std::env::args_os().collect();
    let pair = |pair: &[std::ffi::OsString]| pair[0] == "--log-format" && pair[1] == "json";
    args.windows(2).any(pair) || args.iter().any(|arg| arg == "--log-format=json")
}

/// Takes as many descriptors as we may: each client needs one, and in a pair two.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Without it the lower limit holds, which `--max-connections` then follows.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn start(run: Run) -> ExitCode {
    let format = run.config.program.log_format;
    let begin = || -> io::Result<_> {
        let log = LogQueue::start(format)?;
        Ok((log, runtime(run.config.program.threads)?))
    };
    let (log, runtime) = match begin() {
        Ok(parts) => parts,
        Err(error) => {
            say_errors(&[format!("cannot start: {error}")], format == LogFormat::Json);
            return ExitCode::from(FAILED);
        }
    };
    let code = runtime.block_on(operate(run, &log));
    // A read of the terminal may still be under way; it must not hold up the end.
    runtime.shutdown_background();
    log.flush(LAST_WORDS);
    ExitCode::from(code)
}

/// One thread has no one to share with and needs no scheduler for that. The bytes go the same way in both.
fn runtime(threads: usize) -> io::Result<Runtime> {
    match threads {
        1 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}

async fn operate(mut run: Run, log: &LogQueue) -> u8 {
    let format = run.config.program.log_format;
    // First of all, so that a signal that comes early is obeyed and not fatal.
    let signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            say_errors(&[format!("cannot catch signals: {error}")], format == LogFormat::Json);
            return FAILED;
        }
    };
    let filter = std::mem::take(&mut run.filter);
    subscribe(log, filter, format);
    let supervisor = Supervisor::from_environment();
    let dump = if run.config.program.hexdump {
        match Dump::start(log.clone(), format) {
            Ok((dump, tap)) => {
                run.config.tap = Some(tap);
                Some(dump)
            }
            Err(error) => {
                say_errors(&[format!("cannot start -x: {error}")], format == LogFormat::Json);
                return FAILED;
            }
        }
    } else {
        None
    };
    let bus = EventBus::new();
    let conversation = conversation(&run);
    let mut reporting = JoinSet::new();
    reporting.spawn(Reporter::new(&bus, log.clone(), format, conversation).run());
    let plan = plan(&run.config);
    let typed = conversation == Conversation::Typed;
    // First, so that two nodes that are to have one path do not get as far as their ports.
    let control =
        run.config.program.control.as_deref().map(Control::bind).transpose().map_err(NodeError::from);
    let started = match control {
        Ok(control) => Node::bind_with(run.config, bus).await.map(|node| (node, control)),
        Err(error) => Err(error),
    };
    let code = match started {
        Ok((node, control)) => {
            info!("{plan}");
            // One client at a time gives an order; others wait with it.
            let (sender, orders) = mpsc::channel(1);
            let start = |control: Control| control.start(node.bus().clone(), node.registry().clone(), sender);
            match control.map(start).transpose() {
                Ok(control) => {
                    Owner::new(node, run.source, signals, supervisor, control, orders, typed).run().await
                }
                Err(error) => {
                    say_errors(
                        &[format!("cannot serve the control socket: {error}")],
                        format == LogFormat::Json,
                    );
                    FAILED
                }
            }
        }
        Err(error) => did_not_start(&error, &run.source, format),
    };
    // The bus has ended with the node, so this only writes what is left.
    let _ = timeout(LAST_WORDS, reporting.join_next()).await;
    if let Some(dump) = dump {
        dump.finish(LAST_WORDS);
    }
    code
}

fn subscribe(log: &LogQueue, filter: EnvFilter, format: LogFormat) {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let colour = io::stderr().is_terminal() && !set("NO_COLOR") && !dumb;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone()).with_target(false);
    match format {
        LogFormat::Text => builder.with_ansi(colour).init(),
        LogFormat::Json => {
            builder.json().flatten_event(true).with_current_span(false).with_span_list(false).init()
        }
    }
}

/// Whether there is one conversation, and whether a person types it.
fn conversation(run: &Run) -> Conversation {
    let config = &run.config;
    match config.relay.values().any(|relay| config.is_conversation(relay)) {
        false => Conversation::None,
        true if io::stdin().is_terminal() => Conversation::Typed,
        true => Conversation::Piped,
    }
}

/// What will happen, in words.
fn plan(config: &Config) -> String {
    let most = config.most_clients();
    let plan = |relay: &RelayConfig| {
        let to: Vec<_> = config.to(relay).map(|(_, client)| client.to.as_target()).collect();
        let to = to.join(", else to ");
        if config.from(relay).any(|(_, listener)| listener.bind == Address::Stdio) {
            format!("joining standard input and output to {to}")
        } else if config.is_conversation(relay) {
            "joining the first client to standard input and output; others wait".into()
        } else {
            match relay.mode {
                RelayMode::Echo => format!("sending back to each client, up to {most}, what it sends"),
                RelayMode::Pair => {
                    format!("relaying each client, up to {most}, over a connection of its own, to {to}")
                }
                RelayMode::Hub => format!("joining up to {most} clients, each of whom hears the others"),
                RelayMode::Collect => format!("collecting what up to {most} clients send for {to}"),
                RelayMode::Bridge if to.is_empty() => {
                    format!(
                        "joining clients of {} with those of {}, up to {most}",
                        relay.from.join(", "),
                        relay.to.join(", ")
                    )
                }
                RelayMode::Bridge => format!("joining {}", to.replace(", else to ", " with ")),
                RelayMode::Publish => {
                    let sends = if relay.from.len() == 1 { "sends" } else { "send" };
                    format!("publishing what {} {sends} to {}", relay.from.join(", "), relay.to.join(", "))
                }
            }
        }
    };
    let count = |count: usize, one: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        many => Some(format!("{many} {one}s")),
    };
    let wires = [
        count(config.connect.len(), "wire"),
        count(config.step.len(), "step"),
        count(config.script.len(), "script"),
    ];
    let wires: Vec<_> = wires.into_iter().flatten().collect();
    let wires = (!wires.is_empty()).then(|| format!("running {}", wires.join(" and ")));
    config.relay.values().map(plan).chain(wires).collect::<Vec<_>>().join("; ")
}

/// Says why a node did not start: faults of the config a line each, anything
/// else with its cause and what to try.
fn did_not_start(error: &NodeError, source: &Source, format: LogFormat) -> u8 {
    let as_json = format == LogFormat::Json;
    if let NodeError::Config(faults) = error {
        say_errors(&source.explain(faults), as_json);
        return WRONG;
    }
    let hint = match error {
        NodeError::Bind(error) => error.hint.clone(),
        NodeError::Source { .. } => Some("an address of this machine (`ip address` lists them)".into()),
        NodeError::Config(_) | NodeError::Stopping => None,
    };
    let mut what = error.to_string();
    if let NodeError::Bind(error) = error
        && let Some(position) = source.locate_bind(error)
    {
        let _ = write!(what, " ({position})");
    }
    say_errors(&[faults::said(what, error.source(), hint.as_deref())], as_json);
    FAILED
}

/// Something failed while running, or connections were cut.
const FAILED: u8 = 1;
/// The command line or config is wrong; nothing was opened.
const WRONG: u8 = 2;
/// How long a slow stderr may hold up the end.
const LAST_WORDS: Duration = Duration::from_secs(1);
