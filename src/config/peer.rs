//! The keys of what peers are told first and of how long they may be silent,
//! as kinds of values and as faults.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use toml::de::DeValue;

use super::check::{LONGEST, check_limit};
use super::kinds::{Kind, Problem, Time, toml_text, unknown_key};
use super::wires::Expected;
use super::{Config, Fault, Place, RelayConfig};
use crate::framing::{FrameError, Framing};
use crate::net::{Heartbeat, MessageOptions, PeerOptions};
use crate::relay::Reply;
use crate::wiring::read_hex;

/// Bytes to be sent: a text, or hexadecimal digits.
pub(super) struct Data;
/// A [`Heartbeat`].
pub(super) struct Beats;

fn problem<T>(text: impl Into<String>) -> Result<T, Vec<Problem>> {
    Err(vec![Problem { element: None, text: text.into() }])
}

impl Kind for Data {
    type Value = Bytes;

    fn expected() -> String {
        r#"a text such as "PING", or { hex = "02 0D" }"#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<Bytes, Vec<Problem>> {
        if let Some(text) = value.as_str() {
            return Ok(Bytes::copy_from_slice(text.as_bytes()));
        }
        let only = match value {
            DeValue::Table(table) if table.len() == 1 => {
                table.get("hex").and_then(|hex| hex.get_ref().as_str())
            }
            _ => None,
        };
        match only.map(|hex| read_hex(hex.as_bytes())) {
            Some(Some(bytes)) => Ok(bytes.into()),
            Some(None) => problem("`hex` takes two digits for each byte; write for example \"02 0D\""),
            None => problem(format!("it is no text; expected {}", Self::expected())),
        }
    }

    fn write(value: &Bytes) -> String {
        match std::str::from_utf8(value) {
            // That word has another meaning here.
            Ok(text) if text != "off" => toml_text(text),
            _ => {
                let pairs: Vec<_> = value.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{{ hex = \"{}\" }}", pairs.join(" "))
            }
        }
    }

    fn schema() -> String {
        let text = r#"{"type":"string"}"#;
        format!(
            r#"{{"anyOf":[{text},{{"type":"object","additionalProperties":false,"required":["hex"],"properties":{{"hex":{text}}}}}]}}"#
        )
    }
}

impl Kind for Beats {
    type Value = Heartbeat;

    fn expected() -> String {
        r#"a table such as { send = "PING", every = "15s", expect = "PONG", within = "5s" }"#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<Heartbeat, Vec<Problem>> {
        let DeValue::Table(table) = value else {
            return problem(format!("it is no table; expected {}", Self::expected()));
        };
        let (mut send, mut every, mut within, mut expect) = (None, None, None, None);
        let mut problems = Vec::new();
        for (key, value) in table {
            let (key, value) = (key.get_ref().as_ref(), value.get_ref());
            let read = match key {
                "send" => Data::read(value).map(|data| send = Some(data)),
                "every" => Time::read(value).map(|time| every = Some(time)),
                "within" => Time::read(value).map(|time| within = Some(time)),
                "expect" => Expected::read(value).map(|expected| expect = expected),
                _ => problem(unknown_key(key, &["send", "every", "within", "expect"])),
            };
            let named = |problem: Problem| Problem {
                text: format!("`{}`: {}", key.escape_debug(), problem.text),
                ..problem
            };
            problems.extend(read.err().into_iter().flatten().map(named));
        }
        for (key, is_there, example) in
            [("send", send.is_some(), "send = \"PING\""), ("every", every.is_some(), "every = \"15s\"")]
        {
            if !is_there && !table.contains_key(key) {
                let text = format!("`{key}` is missing; write for example {example}");
                problems.push(Problem { element: None, text });
            }
        }
        match (send, every) {
            (Some(send), Some(every)) if problems.is_empty() => {
                Ok(Heartbeat { send, every, within: within.unwrap_or(every), expect })
            }
            _ => Err(problems),
        }
    }

    fn write(value: &Heartbeat) -> String {
        let Heartbeat { send, every, within, expect } = value;
        let mut parts = vec![
            format!("send = {}", Data::write(send)),
            format!("every = {}", Time::write(every)),
            format!("within = {}", Time::write(within)),
        ];
        if expect.is_some() {
            parts.push(format!("expect = {}", Expected::write(expect)));
        }
        format!("{{ {} }}", parts.join(", "))
    }

    fn schema() -> String {
        let (data, time, expect) = (Data::schema(), Time::schema(), Expected::schema());
        format!(
            r#"{{"type":"object","additionalProperties":false,"required":["send","every"],"properties":{{"send":{data},"every":{time},"within":{time},"expect":{expect}}}}}"#
        )
    }
}

impl Config {
    /// What is wrong with what peers of relays are told and asked.
    pub(super) fn check_peers(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for relay in self.relay.values() {
            for (id, listener) in self.from(relay) {
                let at = |key| Place::new("listen", id, key);
                check(relay, &listener.options.peer, &listener.options.messages, &at, &mut faults);
            }
            for (id, client) in self.to(relay) {
                let at = |key| Place::new("client", id, key);
                let messages = self.messages(relay, client);
                check(relay, &client.options.peer, &messages, &at, &mut faults);
            }
        }
        // A client of several relays is told once what is wrong with it in both.
        let mut known = Vec::new();
        faults.retain(|fault| !known.contains(fault) && (known.push(fault.clone()), true).1);
        faults
    }
}

/// What is wrong with what the peers of one end of a relay are told and asked.
pub(super) fn check(
    relay: &RelayConfig,
    peer: &PeerOptions,
    messages: &MessageOptions,
    at: &dyn Fn(&'static str) -> Place,
    faults: &mut Vec<Fault>,
) {
    let PeerOptions { hello, heartbeat, read_timeout, write_timeout, first_frame_timeout } = peer;
    let limits = [
        ("read_timeout", read_timeout),
        ("write_timeout", write_timeout),
        ("first_frame_timeout", first_frame_timeout),
    ];
    for (key, limit) in limits {
        check_limit(*limit, at(key), true, faults);
    }
    let mut add = |key, text: String| faults.push(Fault { place: at(key), text });
    let framing = if relay.mode.is_group() { messages.framing() } else { Framing::Raw };
    let sendable = |body: &[u8]| framing.encode(body, messages.max_frame(), &mut BytesMut::new());
    if let Some(hello) = hello {
        if hello.is_empty() && framing == Framing::Raw {
            add("hello", "has no bytes; write some, or \"off\"".into());
        } else if hello.len() > PeerOptions::MOST_HELLO {
            add("hello", "is longer than 64KiB; write less".into());
        } else if let Err(error) = sendable(hello) {
            add("hello", unsendable(&framing, &error));
        }
    }
    let Some(Heartbeat { send, every, within, expect: _ }) = heartbeat else { return };
    let mode = relay.mode.name();
    if !relay.mode.is_group() {
        let text = "passes bytes on as they come, and a probe would be one of them, at any place; \
                    remove it, or write read_timeout";
        add("heartbeat", format!("mode {mode} {text}"));
        return;
    }
    if framing == Framing::Raw {
        let text = "a probe is a whole message, and a raw stream has none; name a framing, such as lines, \
                    or write read_timeout";
        add("heartbeat", text.into());
        return;
    }
    if relay.options.reply == Reply::Request {
        let text = "a probe would be taken for a request, or its answer for that to another; \
                    remove it, or write read_timeout";
        add("heartbeat", text.into());
    }
    if let Err(error) = sendable(send) {
        add("heartbeat", format!("`send`: {}", unsendable(&framing, &error)));
    }
    for (key, time) in [("every", every), ("within", within)] {
        if !(Duration::from_millis(1)..=LONGEST).contains(time) {
            add("heartbeat", format!("`{key}` is not from 1ms to a year; write for example \"15s\""));
        }
    }
    if within > every {
        let text = "`within` is longer than `every`, and nobody could tell which probe was answered; \
                    write at most that";
        add("heartbeat", text.into());
    }
}

fn unsendable(framing: &Framing, error: &FrameError) -> String {
    format!("it cannot be sent as a message, which is {framing}: {error}; write another")
}
