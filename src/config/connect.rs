//! What cannot be among wires, timers and steps: names that lead nowhere,
//! slots without what they need, bytes that two want.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::check::LONGEST;
use super::{ClientConfig, Config, Fault, Place, RelayConfig};
use crate::address::Address;
use crate::nearest::{did_you_mean, quoted};
use crate::net::Overflow;
use crate::registry::{Of, Slot};
use crate::relay::RelayMode;
use crate::wiring::{Filter, MemberName, Name, Signal, Template, What, snake_case};

/// What a slot can be called with, or a template say.
struct Carries<'a> {
    /// Nothing, for what a script emits: it may carry anything.
    signal: Option<&'static Signal>,
    object: &'a str,
}

impl Config {
    /// The objects that wires, scripts and steps name.
    pub(crate) fn named(&self) -> BTreeSet<&str> {
        let wires = self.connect.iter().flat_map(|wire| [&wire.signal, &wire.slot]);
        let steps = self.step.iter().flat_map(|step| [step.call.as_ref(), step.wait.as_ref()]).flatten();
        wires.chain(steps).map(|member| member.object.as_str()).chain(self.script_targets()).collect()
    }

    /// The relay that has the bytes of an object.
    pub(super) fn relay_of(&self, object: &str) -> Option<&str> {
        let has = |(_, relay): &(&String, &RelayConfig)| relay.ends().any(|end| end == object);
        self.relay.iter().find(has).map(|(id, _)| id.as_str())
    }

    /// Whether wires and scripts have the bytes of a listener or client: they name it, and no relay does.
    pub(crate) fn is_wired(&self, object: &str) -> bool {
        self.relay_of(object).is_none() && self.named().contains(object)
    }

    /// What kind of object has this name.
    pub(crate) fn kind_of(&self, object: &str) -> Option<Of> {
        match object {
            "node" => Some(Of::Node),
            "log" => Some(Of::Log),
            _ if self.listen.contains_key(object) => Some(Of::Listener),
            _ if self.client.contains_key(object) => Some(Of::Client),
            _ if self.relay.contains_key(object) => Some(Of::Relay),
            _ if self.discovery.contains_key(object) => Some(Of::Discovery),
            _ if self.timer.contains_key(object) => Some(Of::Timer),
            _ if self.scripts().any(|script| script == object) => Some(Of::Script),
            _ => None,
        }
    }

    /// What is wrong with all of them.
    pub(super) fn check_wires(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        self.check_timers(&mut faults);
        let mut earlier: BTreeMap<_, usize> = BTreeMap::new();
        for (nth, wire) in self.connect.iter().enumerate() {
            let id = (nth + 1).to_string();
            let at = |key| Place::new("connect", &id, key);
            let mut add = |key, text: String| faults.push(Fault { place: at(key), text });
            let signal = self.signal(&wire.signal).map_err(|text| add("signal", text));
            let slot = self.slot(&wire.slot).map_err(|text| add("slot", text));
            if let Ok(signal) = signal {
                let carries = Carries { signal, object: &wire.signal.object };
                let has_data = signal.is_none_or(Signal::has_data);
                if !wire.via.is_empty() && !has_data {
                    let text = format!("`{}` carries no data to filter; write it in args", wire.signal);
                    add("via", text);
                }
                for (nth, filter) in wire.via.iter().enumerate() {
                    if let Err(text) = self.filter(filter, &carries) {
                        faults.push(Fault { place: at("via").element(nth), text });
                    }
                }
                let mut add = |key, text: String| faults.push(Fault { place: at(key), text });
                self.check_args(&wire.args, &carries, &mut add);
                if let Ok(Some(slot)) = slot {
                    self.check_slot(slot, &wire.slot, &wire.args, &carries, &mut add);
                }
            }
            let mut add = |key, text: String| faults.push(Fault { place: at(key), text });
            if wire.queue_overflow == Some(Overflow::Disconnect) {
                let text = "a wire has nobody to disconnect; write block, drop_oldest or drop_newest";
                add("queue_overflow", text.into());
            }
            if wire.queue_max.is_some_and(|max| !(SMALLEST_QUEUE..=LARGEST_QUEUE).contains(&max)) {
                add("queue_max", "is not from 1KiB to 1GiB; write for example 1MiB".into());
            }
            let ends = (&wire.signal, &wire.slot);
            match earlier.get(&ends) {
                Some(other) if self.connect[*other] == *wire => {
                    let other = other + 1;
                    add("", format!("is the same as connect.{other}, and each would run; remove one"));
                }
                Some(_) => {}
                None => _ = earlier.insert(ends, nth),
            }
        }
        self.check_steps(&mut faults);
        self.check_wired(&mut faults);
        faults
    }

    fn check_timers(&self, faults: &mut Vec<Fault>) {
        for (id, timer) in &self.timer {
            let mut add = |key, text: &str| {
                faults.push(Fault { place: Place::new("timer", id, key), text: text.into() });
            };
            match (timer.every, timer.after) {
                (None, None) => add("", "never fires; write every = \"30s\", or after = \"5s\""),
                (Some(_), Some(_)) => add("after", "stands beside `every`; remove one of the two"),
                _ => {}
            }
            for (key, time) in [("every", timer.every), ("after", timer.after)] {
                if time.is_some_and(|time| !(Duration::from_millis(1)..=LONGEST).contains(&time)) {
                    add(key, "is not from 1ms to a year; write for example \"30s\"");
                }
            }
        }
    }

    fn check_steps(&self, faults: &mut Vec<Fault>) {
        let mut waited = None;
        for (nth, step) in self.step.iter().enumerate() {
            let id = (nth + 1).to_string();
            let mut add =
                |key, text: String| faults.push(Fault { place: Place::new("step", &id, key), text });
            match (&step.call, &step.wait) {
                (None, None) => {
                    add("", "does nothing; write call = \"OBJECT.SLOT\" or wait = \"OBJECT.SIGNAL\"".into())
                }
                (Some(_), Some(_)) => add("wait", "stands beside `call`; write two steps".into()),
                (Some(name), None) => {
                    if step.expect.is_some() {
                        add("expect", "a slot carries nothing; write it in a step that waits".into());
                    }
                    let carries = Carries { signal: waited.flatten(), object: "" };
                    match self.slot(name) {
                        Ok(slot) => {
                            if waited.is_some() {
                                self.check_args(&step.args, &Carries { signal: None, ..carries }, &mut add);
                            } else if step
                                .args
                                .values()
                                .flat_map(Template::names)
                                .any(|name| *name == Name::Data)
                            {
                                add("args", "no step before it has waited for data".into());
                            }
                            if let Some(slot) = slot {
                                let carries = Carries { signal: None, object: &name.object };
                                self.check_slot(slot, name, &step.args, &carries, &mut add);
                                let needs = |(need, is_needed): &&(&str, bool)| {
                                    *is_needed && !step.args.contains_key(*need)
                                };
                                if let Some((need, _)) = slot.takes.iter().find(needs)
                                    && (waited.is_none() || *need == "text")
                                {
                                    add("call", needed(name, need));
                                }
                            }
                        }
                        Err(text) => add("call", text),
                    }
                }
                (None, Some(name)) => {
                    if !step.args.is_empty() {
                        add("args", "a signal takes nothing; write them in a step that calls".into());
                    }
                    match self.signal(name) {
                        Ok(signal) => waited = Some(signal),
                        Err(text) => add("wait", text),
                    }
                }
            }
            if !(Duration::from_millis(1)..=LONGEST).contains(&step.within) {
                add("within", "is not from 1ms to a year; write for example \"2s\"".into());
            }
        }
    }

    /// What is wrong with the options of objects whose bytes wires have.
    fn check_wired(&self, faults: &mut Vec<Fault>) {
        for (id, listener) in self.listen.iter().filter(|(id, _)| self.is_wired(id)) {
            let at = |key| Place::new("listen", id, key);
            if listener.bind == Address::Stdio {
                let text = "stdio: is no listener for wires; write [client.ID] with to = \"stdio:\"";
                faults.push(Fault { place: at("bind"), text: text.into() });
            }
            super::messages::check(&wired(), &listener.options.messages, true, &at, faults);
        }
        for (id, client) in self.client.iter().filter(|(id, _)| self.is_wired(id)) {
            let at = |key| Place::new("client", id, key);
            if client.to == Address::Stdio
                && let Some(other) = self.other_terminal(id)
            {
                let text = format!("stdio: is {other} already, and there is only one; remove one");
                faults.push(Fault { place: at("to"), text });
            }
            super::messages::check(&wired(), &client.options.messages, false, &at, faults);
            if client.options.messages.queue.overflow == Some(Overflow::Disconnect) {
                let text = "it is kept connected; write block, drop_oldest or drop_newest";
                faults.push(Fault { place: at("queue_overflow"), text: text.into() });
            }
        }
    }

    /// Whoever else has standard input and output: a relay, or a client before this one.
    fn other_terminal(&self, client: &str) -> Option<String> {
        let relay = self.relay.iter().find(|(_, relay)| self.is_conversation(relay));
        let is_other = |(id, other): &(&String, &ClientConfig)| {
            id.as_str() < client && other.to == Address::Stdio && self.is_wired(id)
        };
        let other = || self.client.iter().find(is_other).map(|(id, _)| format!("client.{id}"));
        relay.map(|(id, _)| format!("one end of relay.{id}")).or_else(other)
    }

    /// The signal of this name; nothing for one that a script may emit.
    fn signal(&self, name: &MemberName) -> Result<Option<&'static Signal>, String> {
        let of = self.object(&name.object)?;
        if of == Of::Script {
            return Ok(None);
        }
        let shown = name.name.escape_debug();
        let signal = Signal::find(of, &name.name)
            .map_err(|hint| format!("`{}` has no signal `{shown}`{hint}", name.object))?;
        if signal.has_data()
            && let Some(relay) = self.relay_of(&name.object)
        {
            let object = &name.object;
            return Err(format!(
                "relay.{relay} has the bytes of `{object}`; take it out of that relay, and wire both ways, \
                 or wire a signal without data"
            ));
        }
        Ok(Some(signal))
    }

    /// The slot of this name; nothing for a function of a script, which is looked up when it runs.
    fn slot(&self, name: &MemberName) -> Result<Option<&'static Slot>, String> {
        let of = self.object(&name.object)?;
        if of == Of::Script {
            return Ok(None);
        }
        let slot = of.slot(&name.object, &name.name).map_err(|error| {
            // Qt's name for one that there is.
            let snake = snake_case(&name.name);
            match of.slots().find(|slot| slot.name == snake) {
                Some(slot) => format!(
                    "`{}` has no slot `{}`; did you mean `{}`?",
                    name.object,
                    name.name.escape_debug(),
                    slot.name
                ),
                None => error.to_string(),
            }
        })?;
        if slot.is_wired
            && let Some(relay) = self.relay_of(&name.object)
        {
            let object = &name.object;
            return Err(format!(
                "relay.{relay} has the bytes of `{object}`; take it out of that relay, and wire what it is to get"
            ));
        }
        Ok(Some(slot))
    }

    pub(super) fn object(&self, object: &str) -> Result<Of, String> {
        self.kind_of(object).ok_or_else(|| {
            let scripts: Vec<_> = self.scripts().collect();
            let tables = [
                self.listen.keys().map(String::as_str).collect::<Vec<_>>(),
                self.client.keys().map(String::as_str).collect(),
                self.timer.keys().map(String::as_str).collect(),
                scripts.iter().map(String::as_str).collect(),
                vec!["log", "node"],
            ];
            let names = || tables.iter().flatten().copied();
            let hint =
                did_you_mean(object, names()).unwrap_or_else(|| format!("; there are {}", quoted(names())));
            format!("no object is called `{}`{hint}", object.escape_debug())
        })
    }

    /// Whether a filter of messages has what it needs.
    pub(super) fn message_filter(&self, filter: &Filter, object: &str) -> Result<(), String> {
        let signal = Signal::find(Of::Listener, "message_received").ok();
        self.filter(filter, &Carries { signal, object })
    }

    fn filter(&self, filter: &Filter, carries: &Carries<'_>) -> Result<(), String> {
        match filter {
            Filter::Template(template) => self.template(template, carries),
            Filter::Function { script, .. } if self.kind_of(script) != Some(Of::Script) => {
                Err(format!("there is no `{script}`; add [{script}], or use another filter"))
            }
            _ => Ok(()),
        }
    }

    fn check_args(
        &self,
        args: &BTreeMap<String, Template>,
        carries: &Carries<'_>,
        add: &mut dyn FnMut(&'static str, String),
    ) {
        for (name, template) in args {
            if let Err(text) = self.template(template, carries) {
                add("args", format!("{}: {text}", name.escape_debug()));
            }
        }
    }

    /// Whether its placeholders stand for something.
    fn template(&self, template: &Template, carries: &Carries<'_>) -> Result<(), String> {
        for name in template.names() {
            if let Name::Of { object, what } = name {
                match (self.kind_of(object), what) {
                    (Some(Of::Listener), _)
                    | (Some(Of::Client), What::Address)
                    | (Some(Of::Timer), What::State) => {}
                    (Some(Of::Client), _) if self.is_wired(object) => {}
                    (Some(_), _) => {
                        return Err(format!(
                            "`{object}` has no such thing; listeners have connections, address and state"
                        ));
                    }
                    (None, _) => return Err(self.object(object).err().unwrap_or_default()),
                }
            }
            // What a script emits carries what it likes.
            let Some(signal) = carries.signal else { continue };
            let is_there = match name {
                Name::Data => signal.has_data(),
                Name::ConnectionId
                | Name::ConnectionPeer
                | Name::ConnectionLocal
                | Name::ConnectionLabel
                | Name::ConnectionCertificate
                | Name::ConnectionVia => signal.has_connection,
                Name::Carried(name) => signal.carries.contains(&&**name),
                Name::Signal | Name::Time | Name::Of { .. } => true,
            };
            if is_there {
                continue;
            }
            let (object, known) = (carries.object, signal.name);
            let shown = match name {
                Name::Data => "data",
                Name::Carried(name) => name,
                _ => "conn",
            };
            let names = signal.carries.iter().copied().chain(["signal", "time"]);
            let names = names.chain(signal.has_connection.then_some("conn.id"));
            let hint = did_you_mean(shown, names.clone())
                .unwrap_or_else(|| format!("; it carries {}", quoted(names)));
            return Err(format!("`{object}.{known}` carries no `{shown}`{hint}"));
        }
        Ok(())
    }

    /// Whether a slot takes these arguments, and gets what it needs.
    fn check_slot(
        &self,
        slot: &Slot,
        name: &MemberName,
        args: &BTreeMap<String, Template>,
        carries: &Carries<'_>,
        add: &mut dyn FnMut(&'static str, String),
    ) {
        for given in args.keys().filter(|given| !slot.takes.iter().any(|(known, _)| known == given)) {
            let known = || slot.takes.iter().map(|(known, _)| *known);
            let hint = did_you_mean(given, known()).unwrap_or_else(|| match known().next() {
                Some(_) => format!("; it takes {}", quoted(known())),
                None => "; leave it out".into(),
            });
            add("args", format!("`{name}` takes no `{}`{hint}", given.escape_debug()));
        }
        let Some(signal) = carries.signal else { return };
        for (need, _) in slot.takes.iter().filter(|(need, is_needed)| *is_needed && !args.contains_key(*need))
        {
            let comes_along = match *need {
                "data" => signal.has_data(),
                "conn" => signal.has_connection && carries.object == name.object,
                // A line about the signal.
                "text" => true,
                _ => false,
            };
            if !comes_along {
                add("slot", needed(name, need));
            }
        }
    }
}

fn needed(name: &MemberName, need: &str) -> String {
    let example = match need {
        "conn" => "{conn.id}",
        _ => "hello",
    };
    format!("`{name}` needs `{need}`; write args = {{ {need} = \"{example}\" }}")
}

/// Its messages are those of a mode that asks for no framing.
fn wired() -> RelayConfig {
    RelayConfig { mode: RelayMode::Publish, ..RelayConfig::default() }
}

/// Below it the first message after a pause would fill it.
const SMALLEST_QUEUE: usize = 1 << 10;
const LARGEST_QUEUE: usize = 1 << 30;
