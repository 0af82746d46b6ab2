//! The keys of messages (framing and queue), as kinds of values and as faults:
//! what only makes sense in a relay that joins many, and what that needs.

use std::marker::PhantomData;

use toml::de::DeValue;

use super::kinds::{Kind, Problem, Word, toml_text};
use super::{ClientConfig, Config, Fault, Place, RelayConfig};
use crate::address::Address;
use crate::framing::{BadFrame, Framing};
use crate::net::{MessageOptions, Overflow};
use crate::relay::RelayMode;

/// A value, or `"auto"` for what is usual where it is used.
pub(super) struct Auto<K>(PhantomData<K>);
/// A value, or `"off"` for none.
pub(super) struct Off<K>(PhantomData<K>);
/// A [`Framing`].
pub(super) struct FramingText;

impl<K: Kind> Kind for Auto<K> {
    type Value = Option<K::Value>;

    fn expected() -> String {
        format!("{}, or \"auto\"", K::expected())
    }

    fn read(value: &DeValue<'_>) -> Result<Self::Value, Vec<Problem>> {
        match value.as_str() {
            Some("auto") => Ok(None),
            _ => K::read(value).map(Some).map_err(|problems| {
                let with_auto = |text: String| text.replace(&K::expected(), &Self::expected());
                let again = |problem: Problem| Problem { text: with_auto(problem.text), ..problem };
                problems.into_iter().map(again).collect()
            }),
        }
    }

    fn write(value: &Self::Value) -> String {
        value.as_ref().map_or_else(|| toml_text("auto"), K::write)
    }

    fn schema() -> String {
        format!(r#"{{"anyOf":[{},{{"const":"auto"}}]}}"#, K::schema())
    }
}

impl<K: Kind> Kind for Off<K> {
    type Value = Option<K::Value>;

    fn expected() -> String {
        format!("{}, or \"off\"", K::expected())
    }

    fn read(value: &DeValue<'_>) -> Result<Self::Value, Vec<Problem>> {
        if value.as_str() == Some("off") { Ok(None) } else { K::read(value).map(Some) }
    }

    fn write(value: &Self::Value) -> String {
        value.as_ref().map_or_else(|| toml_text("off"), K::write)
    }

    fn schema() -> String {
        format!(r#"{{"anyOf":[{},{{"const":"off"}}]}}"#, K::schema())
    }
}

impl Kind for FramingText {
    type Value = Framing;

    fn expected() -> String {
        r#"a framing such as "lines", "length:4" or "raw""#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<Framing, Vec<Problem>> {
        let read = match value.as_str() {
            Some(text) => text.parse().map_err(|error: crate::framing::FramingError| error.to_string()),
            None => Err(format!("it is no text; expected {}", Self::expected())),
        };
        read.map_err(|text| vec![Problem { element: None, text }])
    }

    fn write(value: &Framing) -> String {
        toml_text(&value.to_string())
    }

    fn schema() -> String {
        r#"{"type":"string","examples":["lines","lines:crlf","delimited:02,03","length:4","fixed:16","mbap","raw"]}"#.into()
    }
}

impl Word for Overflow {
    const ALL: &'static [Self] = &Self::ALL;

    fn word(self) -> &'static str {
        self.name()
    }
}

impl Word for BadFrame {
    const ALL: &'static [Self] = &Self::ALL;

    fn word(self) -> &'static str {
        self.name()
    }
}

impl Config {
    /// How the messages of a client are told apart and kept in a relay: without
    /// a framing of its own it has that of the first listener with one.
    pub(crate) fn messages(&self, relay: &RelayConfig, client: &ClientConfig) -> MessageOptions {
        let own = client.options.messages;
        let inherited = || self.from(relay).find_map(|(_, listener)| listener.options.messages.framing);
        // A pair has no messages, and a fault names only what was written.
        let framing = if relay.mode.is_group() { own.framing.or_else(inherited) } else { own.framing };
        MessageOptions { framing, ..own }
    }

    /// What is wrong with the messages of all relays.
    pub(super) fn check_messages(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (id, relay) in &self.relay {
            let fault = |key, text: String| Fault { place: Place::new("relay", id, key), text };
            let mode = relay.mode.name();
            if (relay.mode.is_group() || relay.mode == RelayMode::Bridge) && self.is_conversation(relay) {
                let text = format!("stdio: is one conversation, and mode {mode} joins many; name addresses");
                faults.push(fault("mode", text));
            }
            faults.extend(self.check_requests(id, relay));
            self.check_tags(id, relay, &mut faults);
            if relay.mode == RelayMode::Publish {
                for (nth, name) in relay.to.iter().enumerate().filter(|(_, name)| relay.from.contains(name)) {
                    let place = Place::new("relay", id, "to").element(nth);
                    let text = format!("`{name}` would hear itself; name it in `from` or in `to`");
                    faults.push(Fault { place, text });
                }
            }
            let wired_only = |place, messages: &MessageOptions| {
                let text = "only wires and scripts need it: a relay knows what follows an end; remove it";
                messages.allow_half_open.then(|| Fault { place, text: text.into() })
            };
            for (name, listener) in self.from(relay) {
                let at = |key| Place::new("listen", name, key);
                faults.extend(wired_only(at("allow_half_open"), &listener.options.messages));
                check(relay, &listener.options.messages, true, &at, &mut faults);
            }
            if relay.mode == RelayMode::Collect {
                self.check_common(relay, &mut faults);
            }
            for (name, client) in self.to(relay) {
                let at = |key| Place::new("client", name, key);
                faults.extend(wired_only(at("allow_half_open"), &client.options.messages));
                check(relay, &self.messages(relay, client), false, &at, &mut faults);
                if relay.mode == RelayMode::Publish && client.to == Address::Echo {
                    let text = "echo: has nothing to say and hears nothing; name another target";
                    faults.push(Fault { place: at("to"), text: text.into() });
                }
            }
        }
        faults
    }

    /// Targets that take turns have what waits in common.
    fn check_common(&self, relay: &RelayConfig, faults: &mut Vec<Fault>) {
        let mut targets = self.to(relay).map(|(name, client)| (name, self.messages(relay, client)));
        let Some((first, common)) = targets.next() else { return };
        for (name, own) in targets {
            let differs = [
                ("framing", own.framing != common.framing),
                ("max_frame", own.max_frame() != common.max_frame()),
                ("bad_frame", own.bad_frame != common.bad_frame),
                ("queue_max", own.queue.of_uplink().max != common.queue.of_uplink().max),
                ("queue_overflow", own.queue.of_uplink().overflow != common.queue.of_uplink().overflow),
            ];
            for (key, _) in differs.into_iter().filter(|(_, differs)| *differs) {
                let text = format!("it shares one queue with `{first}`, which has another; write the same");
                faults.push(Fault { place: Place::new("client", name, key), text });
            }
        }
    }
}

/// What is wrong with the messages of one end of a relay.
pub(super) fn check(
    relay: &RelayConfig,
    messages: &MessageOptions,
    is_listener: bool,
    at: &dyn Fn(&'static str) -> Place,
    faults: &mut Vec<Fault>,
) {
    let mut add = |key, text: String| faults.push(Fault { place: at(key), text });
    let MessageOptions { framing, max_frame, bad_frame, queue, allow_half_open: _ } = messages;
    let mode = relay.mode.name();
    if !relay.mode.is_group() {
        let given = [
            (framing.is_some(), "framing"),
            (max_frame.is_some(), "max_frame"),
            (*bad_frame == BadFrame::Skip, "bad_frame"),
            (queue.max.is_some(), "queue_max"),
            (queue.overflow.is_some(), "queue_overflow"),
        ];
        for (_, key) in given.into_iter().filter(|(is_given, _)| *is_given) {
            add(key, format!("mode {mode} passes bytes on as they come; remove it, or choose another mode"));
        }
        return;
    }
    if matches!(relay.mode, RelayMode::Hub | RelayMode::Collect) && is_listener && framing.is_none() {
        let text = "has to know where a message ends; write lines, or raw for mixed streams";
        add("framing", format!("mode {mode} {text}"));
    }
    if relay.mode == RelayMode::Collect && !is_listener && queue.overflow == Some(Overflow::Disconnect) {
        let text = "the target of mode collect is kept connected; write block, drop_oldest or drop_newest";
        add("queue_overflow", text.into());
    }
    if *bad_frame == BadFrame::Skip && !messages.framing().finds_next() {
        let framing = messages.framing();
        let text = "does not tell where the next message begins after a bad one; write close, or the framing lines or delimited";
        add("bad_frame", format!("{framing} {text}"));
    }
    let drops = queue.overflow.filter(|overflow| overflow.drops());
    if let Some(overflow) = drops.filter(|_| messages.framing() == Framing::Raw) {
        let name = overflow.name();
        let text = format!("{name} would tear a raw stream; name a framing, or write block or disconnect");
        add("queue_overflow", text);
    }
    if let Framing::Fixed(length) = messages.framing()
        && length > messages.max_frame()
    {
        let most = messages.max_frame();
        add("framing", format!("frames of {length} bytes are longer than max_frame, {most}; raise that"));
    }
    if !(1..=LARGEST).contains(&messages.max_frame()) {
        add("max_frame", "is not from 1B to 1GiB; write for example 1MiB".into());
    }
    if queue.max.is_some_and(|max| !(SMALLEST_QUEUE..=LARGEST).contains(&max)) {
        add("queue_max", "is not from 1KiB to 1GiB; write for example 1MiB".into());
    }
}

const LARGEST: usize = 1 << 30;
/// Below it the first message after a pause would fill it.
const SMALLEST_QUEUE: usize = 1 << 10;
