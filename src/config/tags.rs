//! The keys of names and answers in mode collect, as kinds of values and as faults.

use std::fmt::Display;
use std::marker::PhantomData;
use std::str::FromStr;

use toml::de::DeValue;

use super::kinds::{Kind, Problem, Word, toml_text};
use super::{ClientConfig, Config, Fault, Place, RelayConfig};
use crate::framing::Framing;
use crate::relay::{NameFrame, Naming, RelayMode, Reply, Tag, TagOptions, Unknown};

/// A value that reads and writes itself as text.
pub(super) struct Written<T>(PhantomData<T>);

/// What such a value is in words.
pub(super) trait InWords {
    /// For the end of a sentence.
    const EXPECTED: &'static str;
    /// As JSON.
    const EXAMPLES: &'static str;
}

impl InWords for Tag {
    const EXPECTED: &'static str = r#"a text with a name in it such as "{name} ""#;
    const EXAMPLES: &'static str = r#"["{name} ","[{name}]: "]"#;
}

impl InWords for Naming {
    const EXPECTED: &'static str = r#""address", or a pattern such as "^id=([0-9]+)""#;
    const EXAMPLES: &'static str = r#"["address","^id=([0-9]+)"]"#;
}

impl InWords for Unknown {
    const EXPECTED: &'static str = r#""drop", "close", or "reply:" and a text"#;
    const EXAMPLES: &'static str = r#"["drop","close","reply:{name} is not here"]"#;
}

impl<T: InWords + FromStr<Err: Display> + Display> Kind for Written<T> {
    type Value = T;

    fn expected() -> String {
        T::EXPECTED.into()
    }

    fn read(value: &DeValue<'_>) -> Result<T, Vec<Problem>> {
        let read = match value.as_str() {
            Some(text) => text.parse().map_err(|error: T::Err| error.to_string()),
            None => Err(format!("it is no text; expected {}", T::EXPECTED)),
        };
        read.map_err(|text| vec![Problem { element: None, text }])
    }

    fn write(value: &T) -> String {
        toml_text(&value.to_string())
    }

    fn schema() -> String {
        format!(r#"{{"type":"string","examples":{}}}"#, T::EXAMPLES)
    }
}

impl Word for NameFrame {
    const ALL: &'static [Self] = &Self::ALL;

    fn word(self) -> &'static str {
        self.name()
    }
}

impl Word for Reply {
    const ALL: &'static [Self] = &Self::ALL;

    fn word(self) -> &'static str {
        self.name()
    }
}

impl Config {
    /// What is wrong with the names and the answers of a relay.
    pub(super) fn check_tags(&self, id: &str, relay: &RelayConfig, faults: &mut Vec<Fault>) {
        let mut add = |key, text: String| faults.push(Fault { place: Place::new("relay", id, key), text });
        let (mode, reply) = (relay.mode.name(), relay.options.reply);
        let usual = TagOptions::default();
        let TagOptions { tag, name, name_frame, unknown } = &relay.options.tags;
        if relay.mode != RelayMode::Collect {
            let given = [
                (reply != Reply::default(), "reply"),
                (*tag != usual.tag, "tag"),
                (*name != usual.name, "name"),
                (*name_frame != usual.name_frame, "name_frame"),
                (*unknown != usual.unknown, "unknown"),
                (relay.options.resend, "resend"),
            ];
            for (_, key) in given.into_iter().filter(|(is_given, _)| *is_given) {
                add(
                    key,
                    format!(
                        "mode {mode} has no target that many share; remove it, or write mode = \"collect\""
                    ),
                );
            }
            return;
        }
        let drops = |(_, client): (&str, &ClientConfig)| {
            client.options.messages.queue.overflow.is_some_and(|overflow| overflow.drops())
        };
        if relay.options.resend && self.to(relay).any(drops) {
            add("resend", "what is kept to be sent again cannot make room; write block as the queue_overflow of the target".into());
        }
        let written = |key| {
            format!("{key} is of no use without a tag; remove it, or write for example tag = \"{{name}} \"")
        };
        match tag {
            None if reply == Reply::Tagged => {
                add(
                    "reply",
                    "tagged needs a tag by which answers are told apart; write for example tag = \"{name} \""
                        .into(),
                );
            }
            Some(tag) if reply == Reply::Tagged && !tag.is_ended() => {
                add(
                    "tag",
                    "nothing in an answer would tell where its name ends; write for example \"{name} \""
                        .into(),
                );
            }
            _ => {}
        }
        if tag.is_none() && *name != usual.name {
            add("name", written("a name"));
        }
        if *name_frame != usual.name_frame && *name == Naming::Address {
            add(
                "name_frame",
                "no message is sent for a name that is the address; remove it, or write a pattern as name"
                    .into(),
            );
        }
        if reply != Reply::Tagged && *unknown != usual.unknown {
            add(
                "unknown",
                "only answers with names can be for somebody unknown; remove it, or write reply = \"tagged\""
                    .into(),
            );
        }
        if tag.is_some() {
            let framings = self.to(relay).map(|(_, client)| self.messages(relay, client).framing());
            for framing in
                framings.filter(|framing| matches!(framing, Framing::Raw | Framing::Mbap | Framing::Fixed(_)))
            {
                let text = format!(
                    "there is no room for it in messages that are {framing}; give the target another framing, such as lines"
                );
                add("tag", text);
            }
            let raw =
                self.from(relay).any(|(_, listener)| listener.options.messages.framing() == Framing::Raw);
            if raw {
                add("tag", "a raw stream has no messages to put it before; give the listener another framing, such as lines".into());
            }
        }
    }
}
