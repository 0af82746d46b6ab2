//! `node check`: a config in words, as somebody reads it who is about to run it.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use crate::address::Address;
use crate::config::{ClientConfig, Config, ListenConfig, RelayConfig};
use crate::framing::BadFrame;
use crate::net::{Heartbeat, MessageOptions, PeerOptions};
use crate::relay::{RelayMode, Reply, RequestOptions};

/// What listens where, what goes to what, and the limits.
pub(super) fn config(config: &Config, files: &[PathBuf]) -> String {
    let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    let mut out = format!("{} {verb} right.\n", names.join(", "));
    for (id, one) in &config.relay {
        relay(&mut out, config, id, one);
    }
    discovery(&mut out, config);
    wires(&mut out, config);
    scripts(&mut out, config);
    let most = config.most_clients();
    let _ = writeln!(
        out,
        "\nThe node: up to {most} clients at once, {} to drain when it is told to stop, {} thread{}.",
        humantime::format_duration(config.node.shutdown_grace),
        config.program.threads,
        if config.program.threads == 1 { "" } else { "s" },
    );
    out
}

/// What tells where listeners are.
fn discovery(out: &mut String, config: &Config) {
    for (id, one) in &config.discovery {
        let networks: Vec<_> = one.options.networks.allows().iter().map(ToString::to_string).collect();
        let _ = writeln!(
            out,
            "\ndiscovery.{id}: tells the TCP port of {} on UDP {}, in {}; up to {} times a second, {} to one address",
            one.listener,
            one.bind,
            networks.join(", "),
            one.options.answer_rate,
            one.options.answer_rate_per_address,
        );
    }
}

/// What is wired, and the steps of a run.
fn wires(out: &mut String, config: &Config) {
    let has = |id: &&String| config.is_wired(id);
    if config.connect.is_empty() && config.step.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nwires: {}, in this order", config.connect.len());
    for id in config.listen.keys().filter(has) {
        let _ = writeln!(out, "  of {}", listener(id, &config.listen[id]));
    }
    for id in config.client.keys().filter(has) {
        let _ = writeln!(out, "  of {}, and is kept connected", client(id, &config.client[id]));
    }
    for (id, timer) in &config.timer {
        let (word, time) = match timer.every {
            Some(time) => ("every", time),
            None => ("after", timer.after.unwrap_or_default()),
        };
        let _ = writeln!(out, "  of {id}, which fires {word} {}", humantime::format_duration(time));
    }
    for wire in &config.connect {
        let _ = writeln!(out, "  {} calls {}", wire.signal, wire.slot);
    }
    for (nth, step) in config.step.iter().enumerate() {
        let _ = writeln!(out, "  step {}: {step}", nth + 1);
    }
}

/// The scripts, and what they handle.
fn scripts(out: &mut String, config: &Config) {
    for (id, script) in &config.script {
        let handles = match script.target.as_str() {
            "" => "called by wires".into(),
            target => format!("handles signals of {target}"),
        };
        let (memory, time) =
            (script.options.max_memory >> 20, humantime::format_duration(script.options.max_time));
        let _ = writeln!(out, "\nscript.{id}: {handles}; up to {memory} MiB, and {time} a call");
        // Said among the wires already.
        if !config.connect.is_empty() || !config.step.is_empty() || !config.is_wired(&script.target) {
            continue;
        }
        if let Some(one) = config.listen.get(&script.target) {
            let _ = writeln!(out, "  of {}", listener(&script.target, one));
        }
        if let Some(one) = config.client.get(&script.target) {
            let _ = writeln!(out, "  of {}, and is kept connected", client(&script.target, one));
        }
    }
}

fn relay(out: &mut String, config: &Config, id: &str, relay: &RelayConfig) {
    let what = match relay.mode {
        RelayMode::Pair if config.is_conversation(relay) => "one conversation with this terminal",
        RelayMode::Pair => "each client gets a connection of its own",
        RelayMode::Echo => "each client gets back what it sends",
        RelayMode::Hub => "every client hears what the others send",
        RelayMode::Collect if relay.options.reply == Reply::Request => {
            "clients ask one target that is kept connected, in turn, and each gets its own answers"
        }
        RelayMode::Collect => "what all clients send goes to one target that is kept connected",
        RelayMode::Publish => "one end hears what the other sends",
        RelayMode::Bridge if config.to(relay).next().is_none() => {
            "clients of both listeners are joined as they come"
        }
        RelayMode::Bridge => "two targets are dialled and joined, again and again",
    };
    let _ = writeln!(out, "\nrelay.{id}: {what}");
    for (id, one) in config.from(relay) {
        let _ = writeln!(out, "  {} {}", end(relay, id, "from"), listener(id, one));
    }
    for (nth, (id, one)) in config.to(relay).enumerate() {
        let all_at_once = relay.mode.is_group() && relay.mode != RelayMode::Collect;
        let role = if nth == 0 || all_at_once { "to" } else { "else to" };
        let _ = writeln!(out, "  {} {}", end(relay, id, role), client(id, one));
    }
    if relay.options.reply == Reply::Request {
        let RequestOptions { timeout, overlap, pause, delay_after_connect } = relay.options.request;
        let words = |time: Option<Duration>| {
            time.map_or_else(|| "none".into(), |time| humantime::format_duration(time).to_string())
        };
        let _ = writeln!(
            out,
            "  each request has {} for its answer; {overlap} at once; pause {}; delay after connect {}",
            humantime::format_duration(timeout),
            words(pause),
            words(delay_after_connect),
        );
    }
    let idle = relay
        .options
        .idle_timeout
        .map_or_else(|| "off".into(), |limit| humantime::format_duration(limit).to_string());
    let half_closed = humantime::format_duration(relay.options.half_closed_timeout);
    let _ = writeln!(out, "  idle timeout {idle}; half-closed {half_closed}");
}

/// Which end of a relay an object is at: in mode publish either kind may be at either.
fn end(relay: &RelayConfig, id: &str, usual: &'static str) -> &'static str {
    match relay.mode {
        RelayMode::Publish | RelayMode::Bridge if relay.from.iter().any(|from| from == id) => "from",
        RelayMode::Publish | RelayMode::Bridge => "to",
        _ => usual,
    }
}

/// How its messages are told apart, if it has any.
fn messages(text: &mut String, messages: &MessageOptions) {
    if let Some(framing) = messages.framing {
        let _ = write!(text, "; messages are {framing}");
    }
    if messages.bad_frame == BadFrame::Skip {
        text.push_str("; a bad one is left out");
    }
    let queue = messages.queue;
    if let Some(max) = queue.max {
        let _ = write!(text, "; up to {max} bytes wait for each");
    }
    if let Some(overflow) = queue.overflow {
        let _ = write!(text, "; when more would: {}", overflow.name());
    }
}

/// What its peers are told, and how they are watched.
fn peer(text: &mut String, peer: &PeerOptions) {
    let PeerOptions { hello, heartbeat, read_timeout, write_timeout, first_frame_timeout } = peer;
    if hello.is_some() {
        text.push_str("; is told a hello first");
    }
    if let Some(Heartbeat { every, within, .. }) = heartbeat {
        let (every, within) = (humantime::format_duration(*every), humantime::format_duration(*within));
        let _ = write!(text, "; is asked every {every}, and ended without an answer within {within}");
    }
    for (limit, what) in [
        (read_timeout, "nothing has come"),
        (write_timeout, "it has taken nothing that waits"),
        (first_frame_timeout, "no whole message has come at the beginning"),
    ] {
        if let Some(limit) = limit {
            let _ = write!(text, "; ended when {what} for {}", humantime::format_duration(*limit));
        }
    }
}

fn listener(id: &str, listener: &ListenConfig) -> String {
    let mut text = match &listener.bind {
        Address::Stdio => format!("{id}, which is standard input and output"),
        bind if bind.is_wildcard() => format!("{id}, which listens on {bind}, all interfaces"),
        bind => format!("{id}, which listens on {bind}"),
    };
    let access = &listener.options.access;
    let list =
        |networks: &[ipnet::IpNet]| networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if !access.allows().is_empty() {
        let _ = write!(text, "; only {} may connect", list(access.allows()));
    }
    if !access.denies().is_empty() {
        let _ = write!(text, "; {} may not connect", list(access.denies()));
    }
    if let Some(most) = listener.options.max_connections {
        let _ = write!(text, "; up to {most} at once");
    }
    if let Some(tls) = &listener.tls {
        let _ = write!(text, "; by TLS as tls.{tls}");
    }
    if listener.options.accept_proxy {
        let _ = write!(text, "; announced by proxies of {}", list(&listener.options.trusted));
    }
    messages(&mut text, &listener.options.messages);
    peer(&mut text, &listener.options.peer);
    text
}

fn client(id: &str, client: &ClientConfig) -> String {
    let mut text = match &client.to {
        Address::Stdio => return format!("{id}, which is standard input and output"),
        Address::Echo => return format!("{id}, which sends everything back"),
        to => format!("{id}, which is dialled at {}", to.as_target()),
    };
    if let Some(source) = client.options.source {
        let _ = write!(text, " from {source}");
    }
    if let Some(proxy) = &client.proxy {
        let _ = write!(text, " through {proxy}");
    }
    if let Some(tls) = &client.tls {
        let _ = write!(text, " by TLS as tls.{tls}");
    }
    if let Some(version) = client.options.send_proxy {
        let _ = write!(text, ", told by PROXY {} for whom", version.name());
    }
    let _ = write!(text, ", within {}", humantime::format_duration(client.options.connect_timeout));
    messages(&mut text, &client.options.messages);
    peer(&mut text, &client.options.peer);
    text
}
