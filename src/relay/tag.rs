//! [`TagOptions`]: how the clients of one target are called, and how their
//! names stand before what they send and what they are answered. Text in,
//! text out; who has which name is known to the group.

use std::fmt;
use std::str::FromStr;

use regex::bytes::{Regex, RegexBuilder};

use crate::event::{ConnectionId, Endpoint};

/// The names of clients in mode collect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagOptions {
    /// What stands before each message on its way to the target. `None`: nothing.
    pub tag: Option<Tag>,
    /// Where a client's name is taken from.
    pub name: Naming,
    /// What becomes of the message a name was taken from.
    pub name_frame: NameFrame,
    /// What happens to an answer for a client that is not there.
    pub unknown: Unknown,
}

/// A text with a name in it, written as `"{name} "` or `"[{name}]: "`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    before: String,
    after: String,
}

/// Where a client's name is taken from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// Its address and port.
    #[default]
    Address,
    /// Its first message.
    Pattern(Pattern),
}

/// A regular expression over bytes, of ASCII classes and without look-around;
/// its first group is what is meant, or all of it. It takes linear time.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

/// What becomes of the message a name was taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameFrame {
    /// It goes to the target like any other.
    #[default]
    Pass,
    /// It goes no further.
    Consume,
}

/// What happens to an answer for a client that is not there. It is counted in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Unknown {
    /// Nothing more.
    #[default]
    Drop,
    /// The connection to the target is reset, and dialled again.
    Close,
    /// The target is sent this, in which `{name}` is the name.
    Reply(String),
}

/// Why a text is no tag or no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TagError(String);

impl Tag {
    /// What stands before the messages of a client.
    pub(super) fn of(&self, name: &[u8]) -> Vec<u8> {
        [self.before.as_bytes(), name, self.after.as_bytes()].concat()
    }

    /// The name that stands before an answer, and the answer. Nothing if it has none.
    pub(super) fn split<'a>(&self, body: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let rest = body.strip_prefix(self.before.as_bytes())?;
        let end = memchr::memmem::find(rest, self.after.as_bytes())?;
        Some((&rest[..end], &rest[end + self.after.len()..]))
    }

    /// Tells whether the end of a name can be found.
    pub(crate) fn is_ended(&self) -> bool {
        !self.after.is_empty()
    }

    /// What is wrong with a name: an answer to it could not be told from others.
    fn fault(&self, name: &[u8]) -> Option<&'static str> {
        if name.is_empty() {
            Some("is empty")
        } else if name.len() > LONGEST {
            Some("is longer than 64 bytes")
        } else if name.iter().any(u8::is_ascii_control) {
            Some("contains a control character")
        } else if self.is_ended() && memchr::memmem::find(name, self.after.as_bytes()).is_some() {
            Some("contains what stands behind it in the tag")
        } else {
            None
        }
    }
}

impl TagOptions {
    /// The name of a client that has sent this first message, or why it has none.
    pub(super) fn name(&self, first: &[u8]) -> Result<Vec<u8>, String> {
        let (Naming::Pattern(pattern), Some(tag)) = (&self.name, &self.tag) else {
            unreachable!("asked for what a pattern finds")
        };
        let found = pattern.0.captures(first);
        let name = found.and_then(|found| Some(found.get(1).or_else(|| found.get(0))?.as_bytes().to_vec()));
        let Some(name) = name else { return Err("there is no name in its first message".into()) };
        match tag.fault(&name) {
            None => Ok(name),
            Some(fault) => Err(format!("its name {fault}")),
        }
    }
}

/// The name of a client by its address.
pub(super) fn by_address(peer: &Endpoint, id: ConnectionId) -> Vec<u8> {
    match peer {
        Endpoint::Tcp(address) => address.to_string(),
        // These have no address that tells one from the other.
        Endpoint::Unix(_) => format!("unix:{id}"),
        Endpoint::Stdio | Endpoint::Echo => peer.to_string(),
    }
    .into_bytes()
}

impl Unknown {
    /// What the target is sent for this name.
    pub(super) fn reply(&self, name: &[u8]) -> Option<Vec<u8>> {
        let Self::Reply(text) = self else { return None };
        let mut parts = text.split(NAME);
        let mut reply = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            reply.extend_from_slice(name);
            reply.extend_from_slice(part.as_bytes());
        }
        Some(reply)
    }
}

impl NameFrame {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Pass, Self::Consume];

    /// How it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Consume => "consume",
        }
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        match text.split(NAME).collect::<Vec<_>>()[..] {
            [before, after] if text.chars().all(|c| !c.is_control() || c == '\t') => {
                Ok(Self { before: before.into(), after: after.into() })
            }
            [_, _] => Err(TagError("a tag has no control characters; write for example \"{name} \"".into())),
            _ => Err(TagError("a tag has {name} in it once; write for example \"{name} \"".into())),
        }
    }
}

impl FromStr for Pattern {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let read = RegexBuilder::new(text).unicode(false).size_limit(MOST_MEMORY).build();
        read.map(Self).map_err(|error| {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
            TagError(format!("is no pattern ({reason}); write for example \"^id=([0-9]+)\""))
        })
    }
}

impl FromStr for Naming {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        if text == "address" { Ok(Self::Address) } else { text.parse().map(Self::Pattern) }
    }
}

impl FromStr for Unknown {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        match text.split_once(':') {
            None if text == "drop" => Ok(Self::Drop),
            None if text == "close" => Ok(Self::Close),
            Some(("reply", reply)) if !reply.is_empty() && !reply.contains(char::is_control) => {
                Ok(Self::Reply(reply.into()))
            }
            _ => Err(TagError(
                "is not possible; write \"drop\", \"close\", or \"reply:\" and a text such as \"reply:{name} is not here\""
                    .into(),
            )),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{NAME}{}", self.before, self.after)
    }
}

impl fmt::Display for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "address",
            Self::Pattern(pattern) => pattern.0.as_str(),
        })
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop => f.write_str("drop"),
            Self::Close => f.write_str("close"),
            Self::Reply(text) => write!(f, "reply:{text}"),
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// Where the name goes.
const NAME: &str = "{name}";
/// Bytes of a name.
const LONGEST: usize = 64;
/// Bytes of a compiled pattern.
const MOST_MEMORY: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_where_the_tag_says_and_is_found_there_again() {
        for (text, tagged) in [("{name} ", "a:1 x y"), ("[{name}]: ", "[a:1]: x y"), ("{name}", "a:1x y")] {
            let tag: Tag = text.parse().unwrap();
            assert_eq!(tag.to_string(), text);
            let written = [tag.of(b"a:1"), b"x y".to_vec()].concat();
            assert_eq!(written, tagged.as_bytes());
            if tag.is_ended() {
                assert_eq!(tag.split(&written), Some((&b"a:1"[..], &b"x y"[..])));
            }
        }
        let tag: Tag = "<{name}> ".parse().unwrap();
        for no_answer in ["", "<", "a> b", "<a>b"] {
            assert_eq!(tag.split(no_answer.as_bytes()), None);
        }
        for no_tag in ["", "name", "{name}{name}", "{name}\n"] {
            assert!(no_tag.parse::<Tag>().is_err(), "{no_tag:?}");
        }
    }

    #[test]
    fn a_name_is_what_the_group_of_a_pattern_finds_and_can_be_told_from_an_answer() {
        let options = |pattern: &str| TagOptions {
            tag: Some("{name} ".parse().unwrap()),
            name: pattern.parse().unwrap(),
            ..TagOptions::default()
        };
        assert_eq!(options("^id=(\\w+)").name(b"id=pump7;x"), Ok(b"pump7".to_vec()));
        assert_eq!(options("[0-9]+").name(b"\xff\0 42"), Ok(b"42".to_vec()));
        for (pattern, first) in [
            ("^id=(\\w+)", &b"pump"[..]),
            ("x*", b"y"),
            (".*", b"a b"),
            ("(?s).*", b"a\nb"),
            ("a*", &[b'a'; 65]),
        ] {
            assert!(options(pattern).name(first).is_err(), "{pattern}");
        }
        for no_pattern in ["(", "\\p{Greek}", "(?=a)", "((a{100}){100}){100}"] {
            assert!(no_pattern.parse::<Naming>().is_err(), "{no_pattern}");
        }
    }
}
